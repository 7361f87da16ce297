"""The simulation as a HostLink: the host library talks to the simulated engine in the same process."""

from __future__ import annotations

import errno
import time

from twinstack_host.link import HostLink, LinkError

from .simulation import Simulation, SimulationError

MAX_TICKS_AT_ONCE = 50
"""If the machine paused, time jumps by at most this many milliseconds, so that no timer fires in a burst."""
SETTLE_CYCLES = 16
SLICE_CYCLES = 1000
"""A turn of the engine between two turns of a program's threads."""


class SimulationLink(HostLink):
    """Host access to a running :class:`Simulation`.

    Time is simulated time, or wall-clock time if the simulation's ticks are external (peers that live in real time).
    """

    def __init__(self, simulation: Simulation):
        self.simulation = simulation
        self._real_time = simulation.options.external_tick
        self._began = time.monotonic()
        self._ticks = 0

    @property
    def memory_base(self) -> int:
        return 0

    @property
    def memory_size(self) -> int:
        return len(self.simulation.host_memory)

    @property
    def work_slice(self) -> float | None:
        return SLICE_CYCLES / self.simulation.options.sync_hz

    def csr_read(self, offset: int) -> int:
        try:
            return self.simulation.csr_read(offset)
        except SimulationError as error:
            raise LinkError(errno.EIO, f"register {offset:#x}: {error}") from error

    def csr_write(self, offset: int, value: int) -> None:
        try:
            self.simulation.csr_write(offset, value)
        except SimulationError as error:
            raise LinkError(errno.EIO, f"register {offset:#x}: {error}") from error

    def read(self, address: int, length: int) -> bytes:
        return bytes(self.simulation.host_memory[address : address + length])

    def write(self, address: int, data: bytes) -> None:
        self.simulation.host_memory[address : address + len(data)] = data

    def wait_interrupt(self, timeout: float) -> bool:
        simulation = self.simulation
        # The interrupt falls a few cycles after the doorbell that answers it; a look at once would see the old level.
        simulation.run(SETTLE_CYCLES)
        if self._real_time:
            deadline = time.monotonic() + timeout
            while not simulation.irq and time.monotonic() < deadline:
                self._tick()
                self._run_until_irq(min(simulation.options.step_cycles, SLICE_CYCLES))
        else:
            self._run_until_irq(max(1, int(timeout * simulation.options.sync_hz)))
        return simulation.irq

    def run(self, cycles: int) -> None:
        """Let ``cycles`` cycles pass, interrupt or not."""
        self._tick()
        self.simulation.run(cycles)

    def _tick(self) -> None:
        """With external ticks: make those that wall-clock time owes."""
        if self._real_time:
            owed = int((time.monotonic() - self._began) * 1000) - self._ticks
            self._ticks += owed
            for _ in range(min(owed, MAX_TICKS_AT_ONCE)):
                self.simulation.tick()

    def _run_until_irq(self, cycles: int) -> None:
        simulation = self.simulation
        end = simulation.cycles + cycles
        simulation.run_until(lambda: simulation.irq or simulation.cycles >= end, cycles + 1)

    def clock(self) -> float:
        if self._real_time:
            return time.monotonic()
        return self.simulation.cycles / self.simulation.options.sync_hz
