"""The published RSS verification vectors (Windows driver documentation, "Verifying the RSS Hash Calculation")."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

RSS_KEY = bytes.fromhex("6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa")


@dataclass(frozen=True)
class RssVector:
    """One row: a packet's tuple and its hash over addresses and ports, and over addresses only."""

    source_text: str
    source_port: int
    destination_text: str
    destination_port: int
    hash_with_ports: int
    hash_addresses: int

    @property
    def source(self) -> bytes:
        return ip_address(self.source_text).packed

    @property
    def destination(self) -> bytes:
        return ip_address(self.destination_text).packed

    @property
    def is_ipv6(self) -> bool:
        return len(self.source) == 16


RSS_VECTORS = (
    RssVector("66.9.149.187", 2794, "161.142.100.80", 1766, 0x51CCC178, 0x323E8FC2),
    RssVector("199.92.111.2", 14230, "65.69.140.83", 4739, 0xC626B0EA, 0xD718262A),
    RssVector("24.19.198.95", 12898, "12.22.207.184", 38024, 0x5C2B394A, 0xD2D0A5DE),
    RssVector("38.27.205.30", 48228, "209.142.163.6", 2217, 0xAFC7327F, 0x82989176),
    RssVector("153.39.163.191", 44251, "202.188.127.2", 1303, 0x10E828A2, 0x5D1809C5),
    RssVector("3ffe:2501:200:1fff::7", 2794, "3ffe:2501:200:3::1", 1766, 0x40207D3D, 0x2CC18CD5),
    RssVector("3ffe:501:8::260:97ff:fe40:efab", 14230, "ff02::1", 4739, 0xDDE51BBF, 0x0F0C461C),
    RssVector("3ffe:1900:4545:3:200:f8ff:fe21:67cf", 44251, "fe80::200:f8ff:fe21:67cf", 38024, 0x02D1FEEF, 0x4B61E985),
)
