"""A queue pair as the hardware's, for one of several programs that share an engine."""

from __future__ import annotations

import collections

from twinstack.proto.queues import CQE, SQE
from twinstack.proto.registers import QUEUE

from .link import HostLink
from .registers import Registers

INDEX_MASK = 0xFFFF
_REGISTERS = {Registers.address(QUEUE, register.name): register.name for register in QUEUE.registers}
_FIELDS = {register.name: {field.name: field for field in register.fields} for register in QUEUE.registers}


class VirtualQueue:
    """Registers of block ``queue`` and the two rings behind them, as ``docs/host-interface.md`` describes them.

    Completions that the ring has no room for wait here; :attr:`backlog` tells how many.

    Parameters
    ----------
    link : HostLink
        Host memory and the engine's clock.
    base, size : int
        The program's part of host memory. A ring outside of it is a bus error.
    """

    def __init__(self, link: HostLink, base: int, size: int):
        self._link = link
        self._base, self._size = base, size
        self._sq_base = self._cq_base = self._control = self._irq = 0
        self._sq_tail = self._sq_head = self._cq_tail = self._cq_head = 0
        self._bus_error = False
        self._since = 0.0
        self._waiting: collections.deque[tuple[int, int, bool]] = collections.deque()

    @staticmethod
    def register_at(offset: int) -> str | None:
        """Name of the register of the queue block at a byte offset of the host's page, or None."""
        return _REGISTERS.get(offset)

    def _control_field(self, name: str) -> int:
        field = _FIELDS["control"][name]
        return self._control >> field.lsb & ((1 << field.width) - 1)

    @property
    def enabled(self) -> bool:
        return bool(self._control_field("enable"))

    @property
    def backlog(self) -> int:
        """Completions that the ring has no room for."""
        return len(self._waiting)

    def inside(self, address: int, length: int) -> bool:
        """Whether the bytes lie within the program's memory."""
        return self._base <= address and address + length <= self._base + self._size

    # --- Registers -------------------------------------------------------------------------------------------------

    def read(self, name: str) -> int:
        """Value of a register."""
        if name == "status":
            return int(self.irq) | int(self._bus_error) << 1
        return int(getattr(self, f"_{name}"))

    def write(self, name: str, value: int) -> None:
        """Write a register; what may change only while the queue is disabled stays as it is otherwise."""
        if name == "control":
            self._write_control(value)
        elif name in ("sq_base", "cq_base"):
            if not self.enabled:
                setattr(self, f"_{name}", value & ~(SQE.size_bytes - 1 if name == "sq_base" else CQE.size_bytes - 1))
        elif name == "sq_tail":
            self._sq_tail = value & INDEX_MASK
        elif name == "cq_head":
            self._cq_head = value & INDEX_MASK
            self._since = self._link.clock()
            self.flush()
        elif name == "irq":
            self._irq = value & 0xFFFF

    def _write_control(self, value: int) -> None:
        named = sum(((1 << field.width) - 1) << field.lsb for field in _FIELDS["control"].values())
        enable = 1 << _FIELDS["control"]["enable"].lsb
        interrupt = 1 << _FIELDS["control"]["irq_enable"].lsb
        if self._control & enable and value & enable:
            self._control = self._control & ~interrupt | value & interrupt
            return
        self._control = value & named
        if not value & enable:
            self._sq_head = self._cq_tail = 0
            self._bus_error = False
            self._waiting.clear()

    # --- Rings -----------------------------------------------------------------------------------------------------

    def fetch(self) -> dict[str, int] | None:
        """The next entry that the program has submitted, or None. :meth:`fetched` takes it."""
        if not self.enabled or self._bus_error or self._sq_head == self._sq_tail:
            return None
        slot = self._sq_head % (1 << self._control_field("sq_log2"))
        address = self._sq_base + slot * SQE.size_bytes
        if not self.inside(address, SQE.size_bytes):
            self._bus_error = True
            return None
        return SQE.unpack(self._link.read(address, SQE.size_bytes))

    def fetched(self) -> None:
        """The entry of :meth:`fetch` is taken; its slot is free."""
        self._sq_head = (self._sq_head + 1) & INDEX_MASK

    def post(self, user_data: int, result: int, more: bool) -> None:
        """Complete; the completion waits while the ring is full, and is dropped while the queue is disabled."""
        if self.enabled:
            self._waiting.append((user_data, result, more))
            self.flush()

    def flush(self) -> None:
        """Move waiting completions into the ring as far as it has room."""
        entries = 1 << self._control_field("cq_log2")
        while self._waiting and self.enabled and not self._bus_error and self.unread < entries:
            slot = self._cq_tail % entries
            address = self._cq_base + slot * CQE.size_bytes
            if not self.inside(address, CQE.size_bytes):
                self._bus_error = True
                return
            user_data, result, more = self._waiting.popleft()
            fields = {
                "user_data": user_data,
                "result": result & 0xFFFF_FFFF,
                "phase": 1 ^ (self._cq_tail // entries & 1),
                "more": int(more),
            }
            if not self.unread:
                self._since = self._link.clock()
            self._link.write(address, CQE.pack(fields))
            self._cq_tail = (self._cq_tail + 1) & INDEX_MASK

    @property
    def unread(self) -> int:
        """Completions in the ring that the program has not taken."""
        return (self._cq_tail - self._cq_head) & INDEX_MASK

    @property
    def irq(self) -> bool:
        """Level of the program's interrupt, by the rule of ``queue.irq``."""
        unread = self.unread
        if not self.enabled or not self._control_field("irq_enable") or not unread:
            return False
        count, delay = self._irq & 0xFF, self._irq >> 8
        full = unread >= 1 << self._control_field("cq_log2")
        return full or unread >= count or (self._link.clock() - self._since) * 1000 >= delay
