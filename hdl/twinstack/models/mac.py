"""The receiving half of the MAC in plain Python: what becomes of a frame, and what it adds to the statistics.

Frames are the bytes behind the start frame delimiter, FCS included.
"""

from __future__ import annotations

import zlib
from collections import Counter
from dataclasses import dataclass

BROADCAST = b"\xff" * 6
PAUSE_ADDRESS = bytes.fromhex("0180c2000001")
MAC_CONTROL = b"\x88\x08"
PAUSE = b"\x00\x01"
TAGS = (b"\x81\x00", b"\x88\xa8")
SIZES = (
    (64, "etherStatsPkts64Octets"),
    (127, "etherStatsPkts65to127Octets"),
    (255, "etherStatsPkts128to255Octets"),
    (511, "etherStatsPkts256to511Octets"),
    (1023, "etherStatsPkts512to1023Octets"),
)
LARGEST = "etherStatsPkts1024to1518Octets"


def multicast_bit(address: bytes) -> int:
    """Which bit of the multicast hash filter admits ``address``."""
    return (zlib.crc32(address) ^ 0xFFFF_FFFF) >> 26


@dataclass
class MacModel:
    """A station.

    Parameters
    ----------
    address : bytes, 6
        Own address.
    max_frame_bytes : int
        Longest frame without tag and FCS.
    promiscuous, all_multicast : bool
        As the registers of the same names.
    multicast : int, 64 bits
        Hash filter.
    """

    address: bytes
    max_frame_bytes: int = 1514
    promiscuous: bool = False
    all_multicast: bool = False
    multicast: int = 0

    def accepts(self, destination: bytes) -> bool:
        """Whether the address filter passes it (IEEE 802.3 clause 3.2.3)."""
        in_hash = self.multicast >> multicast_bit(destination) & 1
        group = destination[0] & 1 and (self.all_multicast or in_hash)
        return bool(destination in (self.address, BROADCAST) or self.promiscuous or group)

    def _is_for_control(self, data: bytes) -> bool:
        return data[12:14] == MAC_CONTROL and data[:6] in (self.address, PAUSE_ADDRESS)

    def outcome(self, data: bytes, *, error: bool = False) -> str:
        """The counter in which a frame that was not lost counts; ``error``: the PHY marked it."""
        longest = self.max_frame_bytes + 4 + 4 * (data[12:14] in TAGS)
        if len(data) < 64:
            return "rx_runts"
        if len(data) > longest:
            return "rx_giants"
        if error or zlib.crc32(data[:-4]).to_bytes(4, "little") != data[-4:]:
            return "rx_crc_errors"
        if self._is_for_control(data) and data[14:16] == PAUSE:
            return "rx_pauses"
        return "rx_frames" if self.accepts(data[:6]) and data[12:14] != MAC_CONTROL else "rx_filtered"

    def statistics(self, data: bytes, *, error: bool = False) -> Counter[str]:
        """What the frame adds, by the names of RFC 2819 section 4 and RFC 2863 section 3.1.5."""
        adds = Counter(etherStatsPkts=1, etherStatsOctets=len(data))
        outcome = self.outcome(data, error=error)
        whole = not error and len(data) >= 4 and zlib.crc32(data[:-4]).to_bytes(4, "little") == data[-4:]
        if outcome == "rx_runts":
            adds["etherStatsUndersizePkts" if whole else "etherStatsFragments"] += 1
        elif outcome == "rx_giants":
            adds["etherStatsOversizePkts" if whole else "etherStatsJabbers"] += 1
        else:
            adds[next((name for size, name in SIZES if len(data) <= size), LARGEST)] += 1
        if outcome in ("rx_runts", "rx_giants", "rx_crc_errors"):
            adds["etherStatsCRCAlignErrors"] += outcome == "rx_crc_errors"
            adds["ifInErrors"] += 1
            return adds
        destination = data[:6]
        kind = "Broadcast" if destination == BROADCAST else "Multicast" if destination[0] & 1 else ""
        if kind:
            adds[f"etherStats{kind}Pkts"] += 1
        if outcome == "rx_frames" or self._is_for_control(data):
            adds["ifInOctets"] += len(data)
        if outcome == "rx_frames":
            adds[f"ifIn{kind or 'Ucast'}Pkts"] += 1
        return adds
