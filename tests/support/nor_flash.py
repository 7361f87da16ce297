"""An SPI NOR flash after its data sheets: contents with torn writes, and a device at the pins.

Facts common to the makers' data sheets: programming only clears bits, and wraps at the end of a page of 256 bytes; of more
than 256 bytes the last ones count; 0x20 erases the 4 KiB around its address, 0xD8 the 64 KiB; both and 0x02 need the
write enable latch (0x06), which they clear; status (0x05) shows busy in bit 0 and the latch in bit 1, again and again while
clocked; while busy, only the status can be read. A command takes effect when the chip is deselected after a whole byte.
"""

from __future__ import annotations

import random

PAGE, SECTOR, BLOCK = 256, 4096, 65536


class NorFlash:
    """Contents; without the power for it to end, a write leaves bits anywhere between before and after."""

    def __init__(self, size: int, contents: bytes = b""):
        self.data = bytearray(contents) + bytearray(b"\xff" * (size - len(contents)))
        self.operations: list[tuple[str, int, int]] = []

    def read(self, address: int, length: int) -> bytes:
        size = len(self.data)
        return bytes(self.data[(address + index) % size] for index in range(length))

    def after_program(self, address: int, data: bytes) -> dict[int, int]:
        """Bytes that a program changes, by address."""
        page = address & -PAGE
        buffer = {}
        for index, byte in enumerate(data):
            buffer[page + (address + index) % PAGE] = byte
        return {at: self.data[at] & byte for at, byte in buffer.items()}

    def program(self, address: int, data: bytes) -> None:
        self.operations.append(("program", address, len(data)))
        for at, byte in self.after_program(address, data).items():
            self.data[at] = byte

    def erase(self, address: int, size: int) -> None:
        self.operations.append(("erase", address, size))
        first = address & -size
        self.data[first : first + size] = b"\xff" * size

    def tear_program(self, address: int, data: bytes, rng: random.Random) -> None:
        """A program without power: of the bits to be cleared some are, in any of the bytes."""
        share = rng.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        after = self.after_program(address, data)
        in_order = rng.random() < 0.5  # or all bytes at once
        done = rng.randrange(len(after) + 1)
        for index, (at, byte) in enumerate(after.items()):
            change = self.data[at] & ~byte
            if in_order:
                self.data[at] &= ~change | (0 if index < done else 0xFF)
            else:
                self.data[at] &= ~sum(
                    bit for bit in (1 << n for n in range(8)) if change & bit and rng.random() < share
                )

    def tear_erase(self, address: int, size: int, rng: random.Random) -> None:
        """An erase without power: parts clear all bits before they set them; any part of the sector may be anywhere."""
        first = address & -size
        how = rng.choice(("untouched", "zeros", "mixed", "partly", "done"))
        for at in range(first, first + size):
            if how == "zeros":
                self.data[at] = 0
            elif how == "mixed":
                self.data[at] = rng.choice((self.data[at], self.data[at] | rng.getrandbits(8), 0xFF))
            elif how == "partly":
                self.data[at] = 0xFF if rng.random() < 0.5 else 0
            elif how == "done":
                self.data[at] = 0xFF


class SpiDevice:
    """The flash at the pins ``pins__cs``, ``pins__clk``, ``pins__copi``, ``pins__cipo`` of a bench.

    ``busy_ns(kind)`` gives the time of a write. ``frames`` holds (code, bytes, time of the deselection in ns) of each command.
    ``cut(rng)`` ends its life: what was being written is torn.
    """

    ID = (0xEF, 0x40, 0x18)

    def __init__(self, dut, flash: NorFlash, *, busy_ns=lambda kind: 2000, prefix="pins", is_absent=False):
        import cocotb

        self.flash, self.busy_ns, self.is_absent = flash, busy_ns, is_absent
        self.cs, self.clk, self.copi, self.cipo = (
            getattr(dut, f"{prefix}__{name}") for name in ("cs", "clk", "copi", "cipo")
        )
        self.frames: list[tuple[int, bytes, float]] = []
        self.on_frame = None
        self.latch = False
        self.busy_until = 0.0
        self.writing: tuple[str, int, bytes | int] | None = None
        self.pending: tuple[int, bytes] | None = None
        self.corrupt = None
        self.cipo.value = 1
        self.task = cocotb.start_soon(self._run())

    def cut(self, rng: random.Random) -> None:
        self.task.cancel()
        if self.writing is not None and self._now() < self.busy_until:
            kind, address, what = self.writing
            # The contents already are as after the write: go back, and tear.
            self.flash.data[:] = self.before
            if kind == "program":
                self.flash.tear_program(address, what, rng)
            else:
                self.flash.tear_erase(address, what, rng)

    @staticmethod
    def _now() -> float:
        from cocotb.utils import get_sim_time

        return get_sim_time("ns")

    async def _run(self):
        from cocotb.triggers import FallingEdge, First, RisingEdge

        while True:
            await RisingEdge(self.cs)
            out: list[int] = []
            received: list[int] = []
            bits = value = 0
            selected = FallingEdge(self.cs)
            rise, fall = RisingEdge(self.clk), FallingEdge(self.clk)
            answer = None
            while True:
                if await First(selected, rise) is selected:
                    break
                value = value << 1 | int(self.copi.value)
                bits += 1
                if bits % 8 == 0:
                    received.append(value & 0xFF)
                    answer = self._answer(received)
                if await First(selected, fall) is selected:
                    break
                # New data follows the falling edge.
                if answer is not None and not self.is_absent:
                    self.cipo.value = answer >> 7 - bits % 8 & 1
            self.cipo.value = 1
            del out
            if bits % 8 == 0 and received:
                self._execute(received)
                self.frames.append((received[0], bytes(received[1:]), self._now()))
                if self.on_frame is not None:
                    self.on_frame()

    def _answer(self, received: list[int]) -> int | None:
        """The byte that goes out while the next one comes in."""
        code, count = received[0], len(received)
        is_busy = self._now() < self.busy_until
        if code == 0x05:
            return is_busy | self.latch << 1
        if is_busy:
            return None
        if code == 0x9F:
            return self.ID[count - 1] if count <= 3 else 0
        if code in (0x03, 0x0B):
            first = 4 if code == 0x03 else 5
            if count >= first:
                address = int.from_bytes(bytes(received[1:4]), "big")
                byte = self.flash.read(address + count - first, 1)[0]
                return byte if self.corrupt is None else self.corrupt(address + count - first, byte)
        return None

    def _execute(self, received: list[int]) -> None:
        code = received[0]
        if self._now() < self.busy_until:
            return
        if code == 0x06 and len(received) == 1:
            self.latch = True
        elif code == 0x04:
            self.latch = False
        elif code in (0x02, 0x20, 0xD8) and self.latch:
            address = int.from_bytes(bytes(received[1:4]), "big")
            self.before = bytes(self.flash.data)
            if code == 0x02 and len(received) > 4:
                self.flash.program(address, bytes(received[4:]))
                self.writing = ("program", address, bytes(received[4:]))
            elif code != 0x02 and len(received) == 4:
                size = SECTOR if code == 0x20 else BLOCK
                self.flash.erase(address, size)
                self.writing = ("erase", address, size)
            else:
                return
            self.latch = False
            self.busy_until = self._now() + self.busy_ns(self.writing[0])
