"""An engine that one of the host libraries drives, and a station with an echo service: what the behavioural suite starts from."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import pytest

from support.libraries import LIBRARIES
from support.rtl import seed
from system.rig import CONFIG, FAST_TICK, LIMIT_CYCLES, FastLink
from twinstack_sim.engine_model import make_simulation
from twinstack_sim.firmware import build_firmware
from twinstack_sim.peer_lwip import LwipPeer
from twinstack_sim.simulation import SimulationOptions

ENGINE, PEER = "192.168.77.1", "192.168.77.2"
ENGINE6, PEER6 = "2001:db8:77::1", "2001:db8:77::2"
MAC = "02:54:53:00:00:01"
ECHO = 9600
ENDS = 9601
CLOSED = 9999


class Served(FastLink):
    """A link whose peer has programs: they run whenever the host waits."""

    def __init__(self, simulation, tick_cycles):
        super().__init__(simulation, tick_cycles)
        self.programs = []

    def wait_interrupt(self, timeout):
        up = super().wait_interrupt(timeout)
        for program in self.programs:
            program()
        return up


class Bench:
    """An engine that one of the libraries drives, and an lwIP station with an echo service."""

    def __init__(self, simulation, library, image, value):
        self.simulation, self.library = simulation, library
        self.random = random.Random(value)
        self.link = Served(simulation, FAST_TICK)
        library.start(self.link, image, value)
        self.peer = LwipPeer(PEER, address6=PEER6, seed=value)
        simulation.attach(0, self.peer)
        library.configure(0, ENGINE, 24, MAC)
        self._echo, self._served = self.peer.listen(ECHO), []
        self.link.programs.append(self._serve)

    def _serve(self):
        while (one := self._echo.accept()) is not None:
            self._served.append(one)
        for one in list(self._served):
            if not one.closed:
                one.send_all(one.recv())
            if one.closed or one.peer_closed and not one.unsent and not one.unacknowledged:
                one.close()
                self._served.remove(one)

    def wait(self, condition, what, cycles=LIMIT_CYCLES):
        """Let everything work until ``condition()``."""
        end = self.simulation.cycles + cycles
        while not condition():
            assert self.simulation.cycles < end, f"{what} did not come about"
            self.link.wait_interrupt(0.02)
            self.library.poll()

    def accepted(self, listener, port, local=0, address=ENGINE):
        """A connection that the peer opens: handle and the peer's end."""
        connection = self.peer.connect(address, port, local)
        handle = self.library.accept(listener)
        self.wait(lambda: connection.connected, "the handshake")
        return handle, connection

    def received(self, handle, length):
        data = b""
        while len(data) < length:
            piece = self.library.recv(handle, length - len(data))
            assert piece, f"the stream ended after {len(data)} of {length} bytes"
            data += piece
        return data

    def sockets(self):
        return sum(self.library.stats(core)["sockets"] for core in range(CONFIG.cores))

    def buffers(self):
        stats = [self.library.stats(core) for core in range(CONFIG.cores)]
        return [(one["rx_buffers_free"], one["tx_buffers_free"]) for one in stats]


@contextlib.contextmanager
def driven_by(name: str) -> Iterator[Bench]:
    """A running engine under the library ``name``; at the end all packet buffers must be back."""
    value = seed()
    with make_simulation(CONFIG, SimulationOptions(seed=value, external_tick=True)) as simulation:
        bench = Bench(simulation, LIBRARIES[name](), build_firmware().read_bytes(), value)
        yield bench
        whole = [(CONFIG.rx_buffers, CONFIG.tx_buffers - 1)] * CONFIG.cores
        bench.wait(lambda: bench.buffers() == whole, "the return of all buffers")


def error(function, *arguments, **named):
    """errno that a call ends with."""
    with pytest.raises(OSError) as caught:
        function(*arguments, **named)
    return caught.value.errno
