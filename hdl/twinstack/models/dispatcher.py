"""The network-side dispatcher in plain Python: which cores get a parsed frame, and which one answers it.

Same rules and same words as :class:`twinstack.dispatcher.Dispatcher`; needs no Amaranth.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..proto.descriptor import RuleAction
from .flow_table import Flow, FlowTableModel, UdpPortTableModel
from .toeplitz import rss_hash

TABLE_ENTRIES = 128
VERIFICATION_KEY = bytes.fromhex("6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa")
"""The key with which the published test vectors of the Toeplitz hash are computed."""

_IPV4, _ARP, _IPV6 = b"\x08\x00", b"\x08\x06", b"\x86\xdd"
_ICMP, _TCP, _UDP, _ICMPV6 = 1, 6, 17, 58
_ETHERTYPE_IPV4, _ETHERTYPE_ARP, _ETHERTYPE_IPV6 = 0x0800, 0x0806, 0x86DD
_ICMP_ERRORS = (3, 4, 5, 11, 12)
"""Messages that quote a packet (RFC 1122 3.2.2)."""
_ICMPV6_ERRORS = (1, 2, 3, 4)
"""RFC 4443 section 3."""
_ROUTER_ADVERTISEMENT, _NEIGHBOUR_SOLICITATION, _NEIGHBOUR_ADVERTISEMENT = 134, 135, 136  # RFC 4861 section 4


@dataclass(frozen=True)
class ParsedFrame:
    """What the dispatcher looks at; the names are those of ``FrameMeta``. Addresses are wire bytes, 4 or 16.

    Addresses and ports of an ICMP error with ``has_flow`` are those of the packet it quotes, turned round.
    """

    is_ipv4: bool = False
    is_ipv6: bool = False
    is_tcp: bool = False
    is_udp: bool = False
    is_icmp: bool = False
    is_arp: bool = False
    is_arp_request: bool = False
    is_fragment: bool = False
    is_truncated_parse: bool = False
    is_broadcast: bool = False
    is_multicast: bool = False
    icmp_type: int = 0
    is_icmp_error: bool = False
    has_flow: bool = False
    flow_is_tcp: bool = False
    ip_protocol: int = 0
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
        if frame[12:14] == _ARP:
            return cls(is_arp=True, is_arp_request=frame[20:22] == b"\x00\x01", **ends)
        return cls(**_ip_fields(frame[12:14], frame[14:]) | ends)

    @property
    def flow(self) -> Flow | None:
        """Key in the flow table."""
        if not self.has_flow or self.is_fragment:
            return None
        return self.source, self.destination, self.source_port, self.destination_port, self.flow_is_tcp


def _ip_fields(kind: bytes, packet: bytes) -> dict:
    """Fields of an IP packet; none if it is not one."""
    if kind == _IPV4 and len(packet) >= 20:
        header, protocol = 4 * (packet[0] & 15), packet[9]
        fragment = bool(packet[6] & 0x3F or packet[7])  # RFC 791 3.1: more fragments, or an offset
        found = {"is_ipv4": True, "source": packet[12:16], "destination": packet[16:20]}
    elif kind == _IPV6 and len(packet) >= 40:
        header, protocol, fragment = 40, packet[6], False
        found = {"is_ipv6": True, "source": packet[8:24], "destination": packet[24:40]}
    else:
        return {}
    found |= {"is_fragment": fragment, "ip_protocol": protocol}
    body = packet[header:]
    if protocol in (_TCP, _UDP):
        found |= {"is_tcp": protocol == _TCP, "is_udp": protocol == _UDP}
        if not fragment:
            found |= _ports(protocol, body) or {"is_truncated_parse": True}
    elif protocol == (_ICMP if kind == _IPV4 else _ICMPV6):
        found["is_icmp"] = True
        if not fragment and body:
            found["icmp_type"] = body[0]
            found["is_icmp_error"] = body[0] in (_ICMP_ERRORS if kind == _IPV4 else _ICMPV6_ERRORS)
            if found["is_icmp_error"]:
                found |= _quoted_flow(kind, body[8:])
    return found


def _ports(protocol: int, body: bytes) -> dict:
    if len(body) < 4:
        return {}
    return {
        "has_flow": True,
        "flow_is_tcp": protocol == _TCP,
        "source_port": int.from_bytes(body[:2], "big"),
        "destination_port": int.from_bytes(body[2:4], "big"),
    }


def _quoted_flow(kind: bytes, packet: bytes) -> dict:
    """Tuple of a packet of ours that an ICMP error quotes, as its answer would carry it."""
    if kind == _IPV4 and len(packet) >= 20 and packet[0] >> 4 == 4:
        if packet[6] & 0x1F or packet[7]:  # not the first fragment: no ports
            return {}
        source, destination = packet[12:16], packet[16:20]
        protocol, body = packet[9], packet[4 * (packet[0] & 15) :]
    elif kind == _IPV6 and len(packet) >= 40 and packet[0] >> 4 == 6:
        source, destination, protocol, body = packet[8:24], packet[24:40], packet[6], packet[40:]
    else:
        return {}
    ports = _ports(protocol, body) if protocol in (_TCP, _UDP) else {}
    if not ports:
        return {}
    return ports | {
        "source": destination,
        "destination": source,
        "source_port": ports["destination_port"],
        "destination_port": ports["source_port"],
    }


@dataclass(frozen=True)
class Verdict:
    """Bit n of ``cores``: core n gets the frame; of ``answer``: core n is the one to answer it."""

    cores: int
    answer: int
    rss_hash: int
    flow_hit: bool = False
    flow_index: int = 0
    decided_by: str = ""
    """``flow``, ``port``, ``rule``, ``drop`` (by a rule), or empty."""


@dataclass(frozen=True)
class Rule:
    """A dispatch rule; what is None is not compared."""

    action: RuleAction
    core: int = 0
    ethertype: int | None = None
    protocol: int | None = None
    network_port: int | None = None
    source_port: int | None = None
    destination_port: int | None = None

    def applies(self, frame: ParsedFrame, network_port: int | None) -> bool:
        """Whether all that is compared is equal; frames without ports, and ICMP errors, never match one."""
        if self.action == RuleAction.OFF:
            return False
        ethertype = (
            _ETHERTYPE_IPV4
            if frame.is_ipv4
            else _ETHERTYPE_IPV6
            if frame.is_ipv6
            else _ETHERTYPE_ARP
            if frame.is_arp
            else None
        )
        has_ports = frame.flow is not None and not frame.is_icmp_error
        return all(
            wanted is None or wanted == found
            for wanted, found in (
                (self.ethertype, ethertype),
                (self.protocol, frame.ip_protocol if frame.is_ipv4 or frame.is_ipv6 else None),
                (self.network_port, network_port),
                (self.source_port, frame.source_port if has_ports else None),
                (self.destination_port, frame.destination_port if has_ports else None),
            )
        )


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
    flows, udp_ports_open : FlowTableModel, UdpPortTableModel
        The tables of flows, and of open UDP ports.
    rules : dict
        Rule of each index that is used.

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
    flows: FlowTableModel = field(default_factory=FlowTableModel)
    udp_ports_open: UdpPortTableModel = field(default_factory=UdpPortTableModel)
    rules: dict[int, Rule] = field(default_factory=dict)
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

    def reset_core(self, core: int) -> None:
        """A core enters reset."""
        self.flows.reset_core(core)
        self.udp_ports_open.reset_core(core)

    def probe(
        self, source: bytes, destination: bytes, ports: tuple[int, int] | None = None, *, is_tcp: bool = True
    ) -> int:
        """Core that gets a unicast frame with this tuple."""
        verdict = self.decide(probed_frame(source, destination, ports, is_tcp), None)
        return verdict.answer.bit_length() - 1 if verdict.answer else self.manager

    def hash_of(self, frame: ParsedFrame) -> int:
        """Toeplitz hash of a frame; zero for what is not IP."""
        if not (frame.is_ipv4 or frame.is_ipv6):
            return 0
        is_tcp = frame.flow_is_tcp if frame.has_flow else frame.is_tcp
        has_ports = frame.has_flow or ((frame.is_tcp or frame.is_udp) and not frame.is_icmp_error)
        with_ports = has_ports and (self.tcp_ports if is_tcp else self.udp_ports)
        with_ports = with_ports and not frame.is_fragment and not frame.is_truncated_parse
        ports = (frame.source_port, frame.destination_port) if with_ports else None
        return rss_hash(self.key, frame.source, frame.destination, ports)

    def decide(self, frame: ParsedFrame, network_port: int | None = 0) -> Verdict:
        """The first step that applies, see the hardware's docstring."""
        value = self.hash_of(frame)
        if not self.alive:
            return Verdict(0, 0, value)
        manager = 1 << self.manager
        is_ip = frame.is_ipv4 or frame.is_ipv6
        hashed = self.table[value % TABLE_ENTRIES]
        hash_one = 1 << self._living(hashed) if is_ip else manager

        entry = self.flows.lookup(frame.flow) if frame.flow else None
        if entry is not None:
            index, core = entry
            one = 1 << self._living(core)
            is_hit = bool(self.alive >> core & 1)
            return Verdict(one, one, value, is_hit, index if is_hit else 0, "flow")

        if frame.flow and not frame.flow_is_tcp and not frame.is_icmp_error:
            members = self.udp_ports_open.members(frame.destination_port) & self.alive
            if members:
                one = 1 << hashed if members >> hashed & 1 else members & -members
                return Verdict(one, one, value, decided_by="port")

        for _, rule in sorted(self.rules.items()):
            if rule.applies(frame, network_port):
                cores, answer = {
                    RuleAction.CORE: (1 << self._living(rule.core),) * 2,
                    RuleAction.MANAGER: (manager, manager),
                    RuleAction.ALL: (self.alive, manager),
                    RuleAction.HASH: (hash_one, hash_one),
                    RuleAction.DROP: (0, 0),
                }[rule.action]
                return Verdict(cores, answer, value, decided_by="drop" if rule.action == RuleAction.DROP else "rule")

        icmpv6_type = frame.icmp_type if frame.is_icmp and frame.is_ipv6 and not frame.is_fragment else None
        if (frame.is_arp and frame.is_arp_request) or icmpv6_type == _NEIGHBOUR_SOLICITATION:
            return Verdict(manager, manager, value)
        is_advertisement = icmpv6_type in (_NEIGHBOUR_ADVERTISEMENT, _ROUTER_ADVERTISEMENT)
        if frame.is_arp or frame.is_broadcast or frame.is_multicast or is_advertisement:
            return Verdict(self.alive, manager, value)
        return Verdict(hash_one, hash_one, value)


def probed_frame(
    source: bytes, destination: bytes, ports: tuple[int, int] | None = None, is_tcp: bool = True
) -> ParsedFrame:
    """The frame that a probe asks for; without ports neither its protocol nor its ports are known."""
    version = {"is_ipv4": True} if len(source) == 4 else {"is_ipv6": True}
    if ports is None:
        return ParsedFrame(**version, source=source, destination=destination, ip_protocol=-1)
    return ParsedFrame(
        **version,
        source=source,
        destination=destination,
        is_tcp=is_tcp,
        is_udp=not is_tcp,
        has_flow=True,
        flow_is_tcp=is_tcp,
        ip_protocol=_TCP if is_tcp else _UDP,
        source_port=ports[0],
        destination_port=ports[1],
    )
