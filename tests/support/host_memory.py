"""Memories for cocotb benches: host memory on a Wishbone bus, and RAM behind a request port.

Independent of the gateware: they know the buses only from Wishbone B4 and from the port's description. Each model looks
at the design one nanosecond after the clock edge and answers before the next one, so that an answer can come in the cycle
of its request.
"""

from __future__ import annotations

import random

import cocotb
from cocotb.triggers import RisingEdge, Timer

CLASSIC, INCREMENTING, END_OF_BURST = 0, 2, 7  # Wishbone B4, table 4-2 (CTI_IO)


class HostMemory:
    """Byte memory that answers one Wishbone bus, and checks the master's manners.

    Parameters
    ----------
    dut, prefix
        ``<prefix>__cyc`` and so on are the bus of ``dut``.
    memory : bytearray
        May be shared with other buses. Starts at bus address ``base``.
    rng : random.Random
        Source of waits.
    wait : float
        Probability that an access waits one more cycle.

    Attributes
    ----------
    errors : set of int
        Byte addresses of words that answer with ``err``; all outside the memory do so too.
    log : list of (bool, int, int)
        Each answered access: write, byte address of the word, byte enables.
    """

    def __init__(self, dut, prefix: str, memory: bytearray, rng: random.Random, *, base: int = 0, wait: float = 0.0):
        self.memory, self.base, self.wait = memory, base, wait
        self.errors: set[int] = set()
        self.log: list[tuple[bool, int, int]] = []
        self.paused = False
        self._rng = rng
        self._dut = dut
        self._bus = {
            name: getattr(dut, f"{prefix}__{name}")
            for name in ("adr", "dat_w", "dat_r", "sel", "cyc", "stb", "we", "ack", "err", "cti")
        }
        for name in ("dat_r", "ack", "err"):
            self._bus[name].value = 0
        self._task = cocotb.start_soon(self._serve())

    def close(self) -> None:
        """Stop answering."""
        self._task.cancel()

    def _sample(self) -> tuple[int, ...]:
        return tuple(int(self._bus[name].value) for name in ("adr", "sel", "we", "cti", "dat_w"))

    async def _serve(self) -> None:
        bus = self._bus
        held = None  # an access that still waits; must not change
        following = None  # address that an announced burst must go on with
        while True:
            await RisingEdge(self._dut.clk)
            await Timer(1, "ns")
            bus["ack"].value = 0
            bus["err"].value = 0
            bus["dat_r"].value = self._rng.getrandbits(32)
            cyc, stb = int(bus["cyc"].value), int(bus["stb"].value)
            if not cyc:
                assert not stb and held is None, "an access was withdrawn"
                following = None
            if not stb:
                assert held is None, "an access was withdrawn"
                continue
            access = self._sample()
            address, enables, write, cti, value = access
            if not write:
                access = access[:4]
            assert held in (None, access), f"an access changed while it waited: {held} {access}"
            assert enables, "an access to no byte"
            assert cti in (CLASSIC, INCREMENTING, END_OF_BURST), f"cti {cti}"
            if following is not None:
                assert following == address and cti != CLASSIC, f"burst went on at {address:#x}, not {following}"
            if self.paused or self._rng.random() < self.wait:
                held = access
                continue
            held = None
            byte = address * 4
            self.log.append((bool(write), byte, enables))
            place = byte - self.base
            if byte in self.errors or not 0 <= place <= len(self.memory) - 4:
                bus["err"].value = 1
                following = None
                continue
            following = {INCREMENTING: address + 1, END_OF_BURST: -1, CLASSIC: None}[cti]
            bus["ack"].value = 1
            if write:
                for lane in range(4):
                    if enables >> lane & 1:
                        self.memory[place + lane] = value >> 8 * lane & 0xFF
            else:
                keep = int.from_bytes(bytes(0xFF * (enables >> lane & 1) for lane in range(4)), "little")
                word = int.from_bytes(self.memory[place : place + 4], "little")
                bus["dat_r"].value = word & keep | self._rng.getrandbits(32) & ~keep


class RequestRam:
    """Byte memory behind a request port (``valid``, ``write``, ``address``, ``data``, ``mask``, ``ready``, ``read_data``).

    ``log`` has each accepted request: write, byte address, mask.
    """

    def __init__(self, dut, prefix: str, memory: bytearray, rng: random.Random, *, wait: float = 0.0):
        self.memory, self.wait = memory, wait
        self.log: list[tuple[bool, int, int]] = []
        self.paused = False
        self._rng = rng
        self._dut = dut
        self._port = {
            name: getattr(dut, f"{prefix}__{name}")
            for name in ("valid", "write", "address", "data", "mask", "ready", "read_data")
        }
        self._port["ready"].value = 0
        self._task = cocotb.start_soon(self._serve())

    def close(self) -> None:
        """Stop answering."""
        self._task.cancel()

    async def _serve(self) -> None:
        port = self._port
        held = None
        answer = None
        while True:
            await RisingEdge(self._dut.clk)
            await Timer(1, "ns")
            port["read_data"].value = self._rng.getrandbits(32) if answer is None else answer
            answer = None
            ready = not self.paused and self._rng.random() >= self.wait
            port["ready"].value = ready
            if not int(port["valid"].value):
                assert held is None, "a request was withdrawn"
                continue
            request = tuple(int(port[name].value) for name in ("write", "address", "data", "mask"))
            write, address, value, mask = request
            if not write:
                request = request[:2]
            assert held in (None, request), f"a request changed while it waited: {held} {request}"
            held = None if ready else request
            if not ready:
                continue
            place = address * 4
            assert place < len(self.memory), f"request at {place:#x}"
            self.log.append((bool(write), place, mask))
            if write:
                for lane in range(4):
                    if mask >> lane & 1:
                        self.memory[place + lane] = value >> 8 * lane & 0xFF
            else:
                answer = int.from_bytes(self.memory[place : place + 4], "little")
