"""The standalone engine's serial line as a HostLink without threads: the engine works while the host waits."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from twinstack.proto import bridge_map as bridge
from twinstack.proto.registers import QUEUE
from twinstack_host.link import HostLink, LoaderPort
from twinstack_host.registers import Registers
from twinstack_sim.standalone import StandaloneSimulation

ANSWER_CYCLES = 20_000


class LineLink(HostLink):
    """Commands of the UART bridge at the pins of a started simulation; deterministic."""

    memory_base = bridge.HOST_MEMORY_BASE

    def __init__(self, simulation: StandaloneSimulation):
        self.simulation = simulation
        assert self.read_words(bridge.PAGE_BASE, 1) == [bridge.IDENTITY]
        self.memory_bytes = self.read_words(bridge.PAGE_BASE + bridge.PAGE_MEMORY_BYTES, 1)[0]

    @property
    def memory_size(self) -> int:
        return self.memory_bytes

    @property
    def loader(self) -> LoaderPort:
        return _Page(self)

    def read_words(self, address: int, count: int) -> list[int]:
        self.simulation.uart_send(bytes((bridge.READ_INCREMENTING, count % 256)) + (address // 4).to_bytes(4, "big"))
        self._drain()
        data = self.simulation.uart_read(4 * count, ANSWER_CYCLES + 4 * count * 100)
        return list(struct.unpack(f">{count}I", data))

    def write_words(self, address: int, words: Sequence[int], *, fixed: bool = False) -> None:
        code = bridge.WRITE_FIXED if fixed else bridge.WRITE_INCREMENTING
        for first in range(0, len(words), 64):
            piece = words[first : first + 64]
            at = address + (0 if fixed else 4 * first)
            self.simulation.uart_send(bytes((code, len(piece))) + (at // 4).to_bytes(4, "big"))
            self.simulation.uart_send(struct.pack(f">{len(piece)}I", *piece))
            self._drain()

    def _drain(self) -> None:
        while backlog := self.simulation.uart_backlog:
            self.simulation.run(max(1, int(10 * self.simulation.bit_cycles * backlog)))
        self.simulation.run(int(12 * self.simulation.bit_cycles))

    def csr_read(self, offset: int) -> int:
        return self.read_words(bridge.CSR_BASE + offset, 1)[0]

    def csr_write(self, offset: int, value: int) -> None:
        self.write_words(bridge.CSR_BASE + offset, [value])

    def read(self, address: int, length: int) -> bytes:
        first, count = address // 4 * 4, -(-(length + address % 4) // 4)
        data = b"".join(
            struct.pack(f"<{n}I", *self.read_words(first + 4 * at, n))
            for at in range(0, count, 64)
            for n in (min(64, count - at),)
        )
        return data[address - first : address - first + length]

    def write(self, address: int, data: bytes) -> None:
        assert address % 4 == 0 and len(data) % 4 == 0
        self.write_words(address, struct.unpack(f"<{len(data) // 4}I", data))

    def wait_interrupt(self, timeout: float) -> bool:
        end = self.clock() + timeout
        status = bridge.CSR_BASE + Registers.address(QUEUE, "status")
        while not (up := self.read_words(status, 1)[0] & 1) and self.clock() < end:
            self.simulation.run(2000)
        return bool(up)

    def clock(self) -> float:
        return self.simulation.cycles / self.simulation.options.sync_hz


class _Page(LoaderPort):
    def __init__(self, link: LineLink):
        self._link = link

    def read(self, offset: int) -> int:
        return self.read_words(offset, 1)[0]

    def write(self, offset: int, value: int) -> None:
        self.write_words(offset, [value], incrementing=True)

    def read_words(self, offset: int, count: int) -> list[int]:
        return self._link.read_words(bridge.LOADER_BASE + offset, count)

    def write_words(self, offset: int, words: Sequence[int], *, incrementing: bool) -> None:
        self._link.write_words(bridge.LOADER_BASE + offset, words, fixed=not incrementing)
