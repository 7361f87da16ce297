"""Flow table and UDP port table in plain Python; and the flow table's hash, from which the gateware is made."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..proto.descriptor import FlowStatus

SOURCE_ROTATIONS = (16, 5, 11, 23)
DESTINATION_ROTATIONS = (7, 1, 19, 29)
"""Rotation of each 32-bit word of an address (wire bytes, the first in bits 7:0) before all are added to the ports.

The first source word turns by 16, so that neither the last byte of an IPv4 address nor the low bits of the source port,
which differ most, are cut in two: the remainder below spreads each run of numbers without a collision, and both
together when they count in step.
"""
_POLYNOMIALS = {1: 0b1, 2: 0b11, 4: 0b111, 8: 0xB, 16: 0x13, 32: 0x25, 64: 0x43, 128: 0x89, 256: 0x11D}
"""Primitive polynomials over GF(2) whose remainders number the buckets."""

Flow = tuple[bytes, bytes, int, int, bool]
"""Source, destination (wire bytes, 4 or 16 each), source port, destination port, TCP."""


def bucket_remainders(buckets: int) -> list[int]:
    """What each of the 32 bits of a folded key contributes to the bucket's number, by exclusive or."""
    polynomial = _POLYNOMIALS[buckets]
    result = []
    remainder = 1
    for _ in range(32):
        result.append(remainder if buckets > 1 else 0)
        remainder <<= 1
        if remainder & buckets:
            remainder ^= polynomial
    return result


def bucket_of(flow: Flow, buckets: int) -> int:
    """Bucket of a flow."""
    source, destination, source_port, destination_port, is_tcp = flow
    fold = (source_port << 16 | destination_port) ^ is_tcp
    for address, rotations in ((source, SOURCE_ROTATIONS), (destination, DESTINATION_ROTATIONS)):
        for number in range(len(address) // 4):
            word = int.from_bytes(address[4 * number : 4 * number + 4], "little")
            turn = rotations[number]
            fold ^= (word << turn | word >> (32 - turn)) & 0xFFFF_FFFF
    result = 0
    for bit, remainder in enumerate(bucket_remainders(buckets)):
        if fold >> bit & 1:
            result ^= remainder
    return result


@dataclass
class FlowTableModel:
    """Exact match of flows. Which free entry an insertion takes is the hardware's choice; a test may prescribe it.

    Parameters
    ----------
    capacity : int
        Flows it holds.

    Members
    -------
    by_flow : dict
        (index, core) of each flow.
    """

    capacity: int = 128
    by_flow: dict[Flow, tuple[int, int]] = field(default_factory=dict)

    def lookup(self, flow: Flow) -> tuple[int, int] | None:
        """(index, core), or None."""
        return self.by_flow.get(flow)

    def insert(self, flow: Flow, core: int, index: int | None = None) -> tuple[FlowStatus, int, int]:
        """(status, index, core); ``index`` is the free entry to take, the lowest without it."""
        if flow in self.by_flow:
            return FlowStatus.EXISTS, *self.by_flow[flow]
        taken = {index for index, _ in self.by_flow.values()}
        if len(taken) == self.capacity:
            return FlowStatus.FULL, 0, 0
        if index is None:
            index = min(set(range(self.capacity)) - taken)
        if index in taken or not 0 <= index < self.capacity:
            raise ValueError(f"index must be that of a free entry, not {index!r}")
        self.by_flow[flow] = index, core
        return FlowStatus.OK, index, core

    def delete(self, index: int, core: int) -> FlowStatus:
        """Remove the core's own entry."""
        for flow, entry in self.by_flow.items():
            if entry == (index, core):
                del self.by_flow[flow]
                return FlowStatus.OK
        return FlowStatus.NOT_FOUND

    def reset_core(self, core: int) -> None:
        """A core enters reset: its entries are gone."""
        self.by_flow = {flow: entry for flow, entry in self.by_flow.items() if entry[1] != core}


@dataclass
class UdpPortTableModel:
    """Cores that have a UDP port open.

    Parameters
    ----------
    capacity : int
        Ports it holds.

    Members
    -------
    entries : dict
        [member mask, is_spread] of each port.
    """

    capacity: int = 32
    entries: dict[int, list] = field(default_factory=dict)

    def members(self, port: int) -> int:
        """Mask of the cores that have ``port``."""
        return self.entries[port][0] if port in self.entries else 0

    def add(self, port: int, core: int, is_spread: bool = False) -> FlowStatus:
        """Enter a core; a core that is there already keeps what it said first."""
        entry = self.entries.get(port)
        if entry is None:
            if len(self.entries) == self.capacity:
                return FlowStatus.FULL
            self.entries[port] = [1 << core, is_spread]
            return FlowStatus.OK
        if entry[0] >> core & 1:
            return FlowStatus.OK
        if not (is_spread and entry[1]):
            return FlowStatus.EXISTS
        entry[0] |= 1 << core
        return FlowStatus.OK

    def remove(self, port: int, core: int) -> FlowStatus:
        """Take a core out; the entry goes with its last one."""
        if not self.members(port) >> core & 1:
            return FlowStatus.NOT_FOUND
        self.entries[port][0] &= ~(1 << core)
        if not self.entries[port][0]:
            del self.entries[port]
        return FlowStatus.OK

    def reset_core(self, core: int) -> None:
        """A core enters reset: its memberships are gone."""
        for port in list(self.entries):
            self.remove(port, core)
