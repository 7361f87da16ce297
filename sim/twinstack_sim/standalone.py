"""The standalone engine as a Python object: the far end of its serial line in place of the host's buses."""

from __future__ import annotations

import contextlib
import ctypes
import os
import pty
import threading
import time
import tty
from collections.abc import Callable
from pathlib import Path

from twinstack_host.fair_lock import FairLock

from . import native_model as native
from .link import MAX_TICKS_AT_ONCE
from .simulation import Simulation, SimulationError, SimulationOptions

READ_BYTES = 1 << 16
BACKLOG_BYTES = 256
FLASH_BUSY_CYCLES = 2000
"""Of a simulated write; a real page takes a millisecond, and nobody learns anything while it passes."""


class StandaloneSimulation(Simulation):
    """One running standalone engine.

    Frames and peers as with :class:`.simulation.Simulation`; host memory and registers are behind the UART only.

    Parameters
    ----------
    library, options, pcap
        As there.
    bit_cycles : float
        Cycles of ``sync`` in a bit on the far end's side of the line.
    flash : bytearray or None
        Contents of the board's SPI flash, a multiple of 64 KiB; they outlive the simulation. Each write takes
        ``FLASH_BUSY_CYCLES``.
    """

    def __init__(
        self,
        library: Path,
        options: SimulationOptions | None = None,
        *,
        pcap: Path | None = None,
        bit_cycles: float,
        flash: bytearray | None = None,
    ) -> None:
        super().__init__(library, options, pcap=pcap)
        if flash is not None and (not flash or len(flash) % 65536):
            raise ValueError(f"flash must have a multiple of 65536 bytes, not {len(flash)!r}")
        self.bit_cycles = bit_cycles
        self._flash = None if flash is None else (ctypes.c_uint8 * len(flash)).from_buffer(flash)

    def start(self) -> None:
        super().start()
        self._library.ts_uart_rate(self._handle, self.bit_cycles)
        if self._flash is not None:
            self._library.ts_flash(self._handle, ctypes.addressof(self._flash), len(self._flash), FLASH_BUSY_CYCLES)

    def uart_send(self, data: bytes, *, bad_stop: bool = False) -> None:
        """Queue bytes for the engine; with ``bad_stop`` none has a stop bit."""
        self._library.ts_uart_push(self._handle, data, len(data), native.UART_BAD_STOP if bad_stop else 0)

    def uart_break(self) -> None:
        """Queue a break."""
        self._library.ts_uart_push(self._handle, b"\0", 1, native.UART_BREAK)

    @property
    def uart_backlog(self) -> int:
        """Bytes queued for the engine."""
        return int(self._library.ts_uart_backlog(self._handle))

    def uart_take(self, limit: int = READ_BYTES) -> bytes:
        """Bytes that the engine has sent since.

        Raises
        ------
        SimulationError
            If one had a bad start or stop bit.
        """
        buffer = ctypes.create_string_buffer(limit)
        count = self._library.ts_uart_pop(self._handle, buffer, limit)
        if bad := self._library.ts_uart_bad_frames(self._handle):
            raise SimulationError(f"the engine's UART sent {bad} bad frames")
        return buffer.raw[:count]

    def uart_read(self, count: int, timeout_cycles: int) -> bytes:
        """Run until the engine has sent ``count`` bytes, and take them.

        Raises
        ------
        SimulationError
            If they do not come within ``timeout_cycles``.
        """
        end = self.cycles + timeout_cycles
        data = b""
        while len(data) < count:
            if self.cycles >= end:
                raise SimulationError(f"{count} bytes must come within {timeout_cycles} cycles, not {len(data)}")
            self._library.ts_uart_want(self._handle, count - len(data))
            self._step(end - self.cycles, native.STOP_FRAME | native.STOP_UART)
            data += self.uart_take(count - len(data))
        self._library.ts_uart_want(self._handle, 1)
        return data

    def run_line(self, cycles: int) -> None:
        """Run for ``cycles``; once the engine has begun to send, only until it pauses."""
        end = self.cycles + cycles
        bits = int(12 * self.bit_cycles) + 1
        seen = int(self._library.ts_uart_waiting(self._handle))
        while self.cycles < end:
            self._step(end - self.cycles, native.STOP_FRAME | native.STOP_UART)
            while (now := int(self._library.ts_uart_waiting(self._handle))) != seen:
                seen = now
                self._step(bits, native.STOP_FRAME)
                if int(self._library.ts_uart_waiting(self._handle)) == seen:
                    return

    def _csr(self, offset: int, value: int | None, byte_enables: int) -> int:
        raise SimulationError("registers of a standalone engine are reached through its UART")

    @property
    def host_memory(self) -> memoryview:
        raise SimulationError("host memory of a standalone engine is reached through its UART")


class UartPty:
    """A pseudo-terminal whose other end is the engine's serial line.

    A program opens :attr:`path` as it would a serial port; the rate that it sets means nothing. Call :meth:`step` again and
    again: it carries bytes both ways and lets the engine work.
    """

    def __init__(self, simulation: StandaloneSimulation):
        self.simulation = simulation
        self._master, self._slave = pty.openpty()  # the slave stays open, so that programs may come and go
        tty.setraw(self._slave)
        os.set_blocking(self._master, False)
        self.path = os.ttyname(self._slave)
        self._out = b""

    def step(self, cycles: int = 2000) -> None:
        """Carry what there is, and run for up to ``cycles``; less if the engine sends."""
        simulation = self.simulation
        if simulation.uart_backlog < BACKLOG_BYTES:  # as a serial port, which takes no more than the line carries
            with contextlib.suppress(BlockingIOError):
                simulation.uart_send(os.read(self._master, BACKLOG_BYTES))
        simulation.run_line(cycles)
        self._out += simulation.uart_take()
        if self._out:
            try:
                self._out = self._out[os.write(self._master, self._out) :]
            except BlockingIOError:  # nobody reads; the line does not wait either, but a terminal keeps 4 KiB
                self._out = self._out[-READ_BYTES:]

    def close(self) -> None:
        """Close both ends."""
        os.close(self._master)
        os.close(self._slave)

    def __enter__(self) -> UartPty:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class WallTicks:
    """Makes the ticks that wall-clock time owes, for simulations with external ticks. Call :meth:`step` often."""

    def __init__(self, simulation: Simulation):
        self._simulation = simulation
        self._began, self._made = time.monotonic(), 0

    def step(self) -> None:
        """Make those that are due; after a pause only some of them, so that no timer fires in a burst."""
        owed = int((time.monotonic() - self._began) * 1000) - self._made
        self._made += owed
        for _ in range(min(owed, MAX_TICKS_AT_ONCE)):
            self._simulation.tick()


class PtyThread:
    """Serves a :class:`UartPty` from a thread of its own, for programs of this process that use it as a serial port.

    Whoever touches the simulation or its peers meanwhile holds :attr:`lock`.
    """

    def __init__(self, terminal: UartPty):
        self.terminal = terminal
        self.lock = FairLock()
        self.also: list[Callable[[], None]] = []
        """Called between two steps."""
        self.failure: BaseException | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="simulated line", daemon=True)

    def _run(self) -> None:
        try:
            while not self._stopping:
                with self.lock:
                    self.terminal.step()
                    for step in self.also:
                        step()
        except BaseException as error:
            self.failure = error

    def __enter__(self) -> PtyThread:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping = True
        self._thread.join()
        if self.failure is not None:
            raise SimulationError(f"the simulated line has ended: {self.failure}") from self.failure
