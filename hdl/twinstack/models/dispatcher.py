"""The network-side dispatcher in plain Python: which cores get a parsed frame, and which one answers it.

Same rules and same words as :class:`twinstack.dispatcher.Dispatcher`; needs no Amaranth.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .toeplitz import rss_hash

TABLE_ENTRIES = 128
VERIFICATION_KEY = bytes.fromhex("6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa")
"""The key with which the published test vectors of the Toeplitz hash are computed."""

_IPV4, _ARP, _IPV6 = b"\x08\x00", b"\x08\x06", b"\x86\xdd"
_TCP, _UDP = 6, 17


@dataclass(frozen=True)
class ParsedFrame:
    """What the dispatcher looks at; the names are those of ``FrameMeta``. Addresses are wire bytes, 4 or 16."""

    is_ipv4: bool = False
    is_ipv6: bool = False
    is_tcp: bool = False
    is_udp: bool = False
    is_arp: bool = False
    is_arp_request: bool = False
    is_fragment: bool = False
    is_truncated_parse: bool = False
    is_broadcast: bool = False
    is_multicast: bool = False
    source: bytes = b""
    destination: bytes = b""
    source_port: int = 0
    destination_port: int = 0

    @classmethod
    def from_bytes(cls, frame: bytes) -> ParsedFrame:
        """Parse a frame without FCS; IPv6 extension headers and VLAN tags are not looked into."""
        group = bool(frame[0] & 1)
        broadcast = frame[:6] == b"\xff" * 6
        ends = {"is_broadcast": broadcast, "is_multicast": group and not broadcast}
        kind = frame[12:14]
        if kind == _ARP:
            return cls(is_arp=True, is_arp_request=frame[20:22] == b"\x00\x01", **ends)
        if kind == _IPV4 and len(frame) >= 34:
            l4 = 14 + 4 * (frame[14] & 15)
            protocol = frame[23]
            fragment = bool(frame[20] & 0x3F or frame[21])  # RFC 791 3.1: more fragments, or an offset
            return cls(
                is_ipv4=True,
                is_fragment=fragment,
                source=frame[26:30],
                destination=frame[30:34],
                **_layer4(frame, l4, protocol, fragment),
                **ends,
            )
        if kind == _IPV6 and len(frame) >= 54:
            return cls(
                is_ipv6=True,
                source=frame[22:38],
                destination=frame[38:54],
                **_layer4(frame, 54, frame[20], False),
                **ends,
            )
        return cls(**ends)


def _layer4(frame: bytes, offset: int, protocol: int, fragment: bool) -> dict[str, bool | int]:
    if protocol not in (_TCP, _UDP):
        return {}
    found: dict[str, bool | int] = {"is_tcp": protocol == _TCP, "is_udp": protocol == _UDP}
    if fragment:
        return found
    if len(frame) < offset + 4:
        return found | {"is_truncated_parse": True}
    found["source_port"] = int.from_bytes(frame[offset : offset + 2], "big")
    found["destination_port"] = int.from_bytes(frame[offset + 2 : offset + 4], "big")
    return found


@dataclass(frozen=True)
class Verdict:
    """Bit n of ``cores``: core n gets the frame; of ``answer``: core n is the one to answer it."""

    cores: int
    answer: int
    rss_hash: int


@dataclass
class DispatcherModel:
    """The decision of the hardware for each frame.

    Parameters
    ----------
    cores : int, 1..4
        Cores; all live at first.
    key : bytes, 40
        Toeplitz key.
    tcp_ports, udp_ports : bool
        Hash the ports of TCP, of UDP.

    Members
    -------
    alive : int
        Bit n: core n lives.
    table : list[int]
        Core for each value of the low 7 bits of the hash.

    Raises
    ------
    ValueError
        If ``cores`` is out of range.
    """

    cores: int
    key: bytes = VERIFICATION_KEY
    tcp_ports: bool = True
    udp_ports: bool = True
    alive: int = field(init=False)
    table: list[int] = field(init=False)

    def __post_init__(self) -> None:
        if not 1 <= self.cores <= 4:
            raise ValueError(f"cores must be 1 to 4, not {self.cores!r}")
        self.alive = (1 << self.cores) - 1
        self.table = [index % self.cores for index in range(TABLE_ENTRIES)]

    @property
    def manager(self) -> int:
        """Lowest living core; 0 if there is none."""
        return (self.alive & -self.alive).bit_length() - 1 if self.alive else 0

    def _living(self, core: int) -> int:
        return core if self.alive >> core & 1 else self.manager

    def probe(self, source: bytes, destination: bytes, ports: tuple[int, int] | None = None) -> int:
        """Core that gets such a frame; ``ports`` count only if TCP's or UDP's are hashed."""
        if not (self.tcp_ports or self.udp_ports):
            ports = None
        return self._living(self.table[rss_hash(self.key, source, destination, ports) % TABLE_ENTRIES])

    def hash_of(self, frame: ParsedFrame) -> int:
        """Toeplitz hash of a frame; zero for what is not IP."""
        if not (frame.is_ipv4 or frame.is_ipv6):
            return 0
        with_ports = (frame.is_tcp and self.tcp_ports) or (frame.is_udp and self.udp_ports)
        with_ports = with_ports and not frame.is_fragment and not frame.is_truncated_parse
        ports = (frame.source_port, frame.destination_port) if with_ports else None
        return rss_hash(self.key, frame.source, frame.destination, ports)

    def decide(self, frame: ParsedFrame) -> Verdict:
        """The first rule that applies, see the hardware's docstring."""
        value = self.hash_of(frame)
        if not self.alive:
            return Verdict(0, 0, value)
        manager = 1 << self.manager
        if frame.is_arp and frame.is_arp_request:
            return Verdict(manager, manager, value)
        if frame.is_arp or frame.is_broadcast or frame.is_multicast:
            return Verdict(self.alive, manager, value)
        if frame.is_ipv4 or frame.is_ipv6:
            one = 1 << self._living(self.table[value % TABLE_ENTRIES])
            return Verdict(one, one, value)
        return Verdict(manager, manager, value)
