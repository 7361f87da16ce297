"""Where the host dispatcher delivers an entry, in plain Python; needs no Amaranth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..proto.queues import (
    AF_INET,
    ALL_CORE_OPERATIONS,
    ALL_CORES,
    BALANCED_OPERATIONS,
    DATAGRAM_OPERATIONS,
    HANDLE_OPERATIONS,
    SOCKET_ADDRESS,
    SQE,
    Handle,
    Operation,
    UdpFlag,
)

ENODEV, ECONNRESET = 19, 104
Probe = Callable[[bytes, bytes, int, int], int]
"""Core of a TCP frame with this source address, destination address, source port, destination port."""


@dataclass(frozen=True)
class Route:
    """Bit n of ``cores``: core n gets the entry. ``error``: the result with which the entry ends here instead."""

    cores: int = 0
    is_joined: bool = False
    error: int = 0


@dataclass
class HostDispatcherModel:
    """The decision for each entry.

    Parameters
    ----------
    cores : int, 1..4
        Cores.

    Members
    -------
    last : int
        Core that was last given an entry of a balanced operation; among equals it comes last.

    Raises
    ------
    ValueError
        If ``cores`` is out of range.
    """

    cores: int
    last: int = -1

    def __post_init__(self) -> None:
        if not 1 <= self.cores <= 4:
            raise ValueError(f"cores must be 1 to 4, not {self.cores!r}")

    def route(self, entry: bytes, alive: int, manager: int, loads: Sequence[int], probe: Probe) -> Route:
        """Where ``entry`` goes while the cores in ``alive`` live, one of them the manager."""
        if not alive:
            return Route(error=-ENODEV)
        fields = SQE.unpack(entry)
        operation, flags = fields["operation"], fields["operation_flags"]
        if operation in HANDLE_OPERATIONS:
            core = Handle.unpack(fields["handle"]).core
            if core == ALL_CORES:
                if operation not in DATAGRAM_OPERATIONS:
                    return Route(alive, True)
                core = flags >> 8 & 3
            if core >= self.cores:
                return Route(1 << manager)
            return Route(1 << core) if alive >> core & 1 else Route(error=-ECONNRESET)
        if operation in ALL_CORE_OPERATIONS or (operation == Operation.UDP_OPEN and flags & UdpFlag.SPREAD):
            return Route(alive, True)
        if operation in BALANCED_OPERATIONS:
            core = self._probed(fields, probe) if operation == Operation.TCP_CONNECT else None
            if core is None or not alive >> core & 1:
                core = self._least_loaded(alive, loads)
            self.last = core
            return Route(1 << core)
        if operation == Operation.STATS and flags < self.cores and alive >> flags & 1:
            return Route(1 << flags)
        return Route(1 << manager)

    def _probed(self, fields: dict[str, int], probe: Probe) -> int | None:
        """Core to which the frames of the connection go, if the entry says which connection it will be."""
        remote = SOCKET_ADDRESS.unpack(fields["inline"].to_bytes(SOCKET_ADDRESS.size_bytes, "little"))
        local_port = fields["operation_flags"] & 0xFFFF
        if remote["family"] != AF_INET or not local_port or not remote["extra"]:
            return None
        source, destination = (
            (value & 0xFFFF_FFFF).to_bytes(4, "little") for value in (remote["address"], remote["extra"])
        )
        return probe(source, destination, remote["port"], local_port)

    def _least_loaded(self, alive: int, loads: Sequence[int]) -> int:
        """The first after the last one with the lowest load."""
        turn = [(self.last + step) % self.cores for step in range(1, self.cores + 1)]
        return min((core for core in turn if alive >> core & 1), key=lambda core: loads[core])
