"""An engine of a few lines with sockets that echo: enough to test what lies above the queues."""

from __future__ import annotations

import errno
from collections import deque

from twinstack.proto import abi
from twinstack.proto.queues import CQE, SQE, STATS, Operation
from twinstack.proto.registers import DISPATCH, ENGINE, QUEUE, WINDOW
from twinstack_host.link import HostLink
from twinstack_host.registers import Registers

CORES = 2
BUFFERED = (Operation.SEND, Operation.RECV, Operation.STATS)


class FakeSockets(HostLink):
    """Rings are served while the host waits, and time passes only then. What a connection sends, it gets back.

    ``handles`` maps each open handle to the bytes of its echo, or to the waiting accept of a listener.
    """

    def __init__(self, memory_size: int = 1 << 20, base: int = 0x1000_0000):
        self.memory = bytearray(memory_size)
        self.base = base
        self.now = 0.0
        self.values = {
            self.at(ENGINE, "magic"): abi.MAGIC,
            self.at(ENGINE, "abi"): abi.ABI_VERSION,
            self.at(ENGINE, "identity"): CORES | 2 << 4 | 1 << 8 | 96 << 16,
            self.at(ENGINE, "sync_hz"): 75_000_000,
            self.at(DISPATCH, "key"): 1,
        }
        self.writes: list[int] = []
        self.sq_head = self.cq_tail = 0
        self.handles: dict[int, bytearray | None] = {}
        self.waiting: dict[int, dict[str, int]] = {}
        """Entries that are not completed, by the engine's user data, in order."""
        self.canceled: list[int] = []
        self.out: deque[tuple[int, int, int]] = deque()
        self._generation = 0
        self.limit = 0
        """Operations that complete in one wait; 0: all."""

    @staticmethod
    def at(block, name: str) -> int:
        return Registers.address(block, name)

    @property
    def memory_base(self) -> int:
        return self.base

    @property
    def memory_size(self) -> int:
        return len(self.memory)

    def clock(self) -> float:
        return self.now

    def read(self, address: int, length: int) -> bytes:
        assert self.base <= address and address + length <= self.base + len(self.memory)
        return bytes(self.memory[address - self.base : address - self.base + length])

    def write(self, address: int, data: bytes) -> None:
        assert self.base <= address and address + len(data) <= self.base + len(self.memory)
        self.memory[address - self.base : address - self.base + len(data)] = data

    def csr_read(self, offset: int) -> int:
        if offset == self.at(QUEUE, "sq_head"):
            return self.sq_head
        if offset == self.at(ENGINE, "alive"):
            return (1 << CORES) - 1 if self.values.get(self.at(ENGINE, "reset_cores")) == 0 else 0
        return self.values.get(offset, 0)

    def csr_write(self, offset: int, value: int) -> None:
        self.values[offset] = value
        self.writes.append(offset)
        if offset == self.at(QUEUE, "control") and not value >> 31:
            self.sq_head = self.cq_tail = 0

    def wait_interrupt(self, timeout: float) -> bool:
        self.now += timeout
        self.serve()
        return bool(self.cq_tail != self.values.get(self.at(QUEUE, "cq_head"), 0))

    def serve(self) -> None:
        entries = 1 << (self.values.get(self.at(QUEUE, "control"), 0) & 15)
        while self.sq_head != self.values.get(self.at(QUEUE, "sq_tail"), 0):
            slot = self.values[self.at(QUEUE, "sq_base")] + self.sq_head % entries * SQE.size_bytes
            entry = SQE.unpack(self.read(slot, SQE.size_bytes))
            self.sq_head = (self.sq_head + 1) & 0xFFFF
            self.waiting[entry["user_data"]] = entry
            result = self.begin(entry)
            if result is not None:
                self.complete(entry["user_data"], result)
        self.feed()
        self.flush()

    def begin(self, entry: dict[str, int]) -> int | None:
        """Result of an entry, None if it waits."""
        operation, handle = entry["operation"], entry["handle"]
        if operation in BUFFERED and not self.permitted(entry["buffer"], entry["length"]):
            return -errno.EFAULT
        if operation == Operation.STATS:
            self.write(entry["buffer"], STATS.pack({"core": entry["operation_flags"]}))
            return STATS.size_bytes
        if operation == Operation.TCP_LISTEN:
            return self.open(7, None)
        if operation == Operation.TCP_CONNECT:
            return self.open(0, bytearray())
        if operation == Operation.CANCEL:
            target = entry["inline"] & (1 << 64) - 1
            self.canceled.append(target)
            if target in self.waiting and target != entry["user_data"]:
                self.complete(target, -errno.ECANCELED)
            return 0
        if operation in (Operation.SEND, Operation.RECV, Operation.TCP_ACCEPT, Operation.CLOSE, Operation.ABORT):
            if handle not in self.handles:
                return -errno.EBADF
            if operation == Operation.SEND:
                self.handles[handle] += self.read(entry["buffer"], entry["length"])
                return entry["length"]
            if operation in (Operation.CLOSE, Operation.ABORT):
                del self.handles[handle]
                for user_data, other in list(self.waiting.items()):
                    if other["handle"] == handle and other is not entry:
                        self.complete(user_data, -errno.ECANCELED)
                return 0
            return None
        return 0 if operation == Operation.NOP else -errno.EOPNOTSUPP

    def permitted(self, address: int, length: int) -> bool:
        first, last = self.values[self.at(WINDOW, "base")], self.values[self.at(WINDOW, "limit")]
        return first <= address and address + length - 1 <= last

    def open(self, core: int, echo: bytearray | None) -> int:
        self._generation += 1
        handle = core << 28 | self._generation
        self.handles[handle] = echo
        return handle

    def arrive(self, listener: int, core: int = 1) -> int:
        """A connection comes to a listener whose accept waits; returns its handle."""
        for user_data, entry in self.waiting.items():
            if entry["operation"] == Operation.TCP_ACCEPT and entry["handle"] == listener:
                handle = self.open(core, bytearray())
                self.out.append((user_data, handle, 1))
                return handle
        raise AssertionError("nobody accepts")

    def feed(self) -> None:
        """Data for the receives that wait, in their order."""
        for user_data, entry in list(self.waiting.items()):
            echo = self.handles.get(entry["handle"]) if entry["operation"] == Operation.RECV else None
            if echo:
                piece = bytes(echo[: entry["length"]])
                del echo[: len(piece)]
                self.write(entry["buffer"], piece)
                self.complete(user_data, len(piece))

    def complete(self, user_data: int, result: int) -> None:
        del self.waiting[user_data]
        self.out.append((user_data, result, 0))

    def flush(self) -> None:
        """Post completions while there is room."""
        entries = 1 << (self.values[self.at(QUEUE, "control")] >> 4 & 15)
        posted = 0
        while self.out and (not self.limit or posted < self.limit):
            if (self.cq_tail - self.values.get(self.at(QUEUE, "cq_head"), 0)) & 0xFFFF >= entries:
                return
            user_data, result, more = self.out.popleft()
            phase = 1 ^ (self.cq_tail // entries & 1)
            fields = {"user_data": user_data, "result": result & 0xFFFF_FFFF, "phase": phase, "more": more}
            self.write(self.values[self.at(QUEUE, "cq_base")] + self.cq_tail % entries * 16, CQE.pack(fields))
            self.cq_tail = (self.cq_tail + 1) & 0xFFFF
            posted += 1
