"""What arrives is what was sent, by SHA-256: both directions at once on both cores, over a wire that loses, reorders, duplicates."""

import itertools
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from support import integrity
from support.integrity import REORDER_NS, HostEnd, Way, faults
from support.rtl import seed
from system.rig import ENGINES, ENGINES6, FAST_OPTIONS, MS_CYCLES, Rig, started
from twinstack_host.sockets import Listener, Socket
from twinstack_sim.peer_lwip import LwipConnection
from twinstack_sim.peer_tap import TapError, check_namespace
from twinstack_sim.wire import WireModel

PORT = 7600


class Family(NamedTuple):
    engine: str
    any_address: str


FAMILIES = {"ipv4": Family(ENGINES[0], "0.0.0.0"), "ipv6": Family(ENGINES6[0], "::")}


class Exchange:
    """A connection that carries data of its own in each direction, to the end of both streams."""

    def __init__(self, name: str, socket: Socket, far: LwipConnection, there: bytes, back: bytes):
        self.far = far
        self.host = HostEnd(socket, Way(f"{name}, to the peer", there), Way(f"{name}, to the host", back))

    def start(self) -> None:
        self.far.send_all(self.host.back.data)
        self.far.shutdown()
        self.host.start()

    def step(self) -> None:
        self.host.step()
        self.host.out.take(self.far.recv())
        assert not self.far.error, self.far.error
        self.host.out.ended = self.far.peer_closed

    @property
    def is_done(self) -> bool:
        return self.host.is_done and self.host.out.ended

    def check(self) -> None:
        self.host.check()
        self.host.out.check()

    def __str__(self) -> str:
        return f"{self.host.out}; {self.host.back}"


def one_connection_for_each_core(rig: Rig, family: Family, listener: Listener) -> list[tuple[Socket, LwipConnection]]:
    """From the peer; those that go to a core which has one are ended again."""
    found: dict[int, tuple[Socket, LwipConnection]] = {}
    for _ in range(40):
        far = rig.peer.connect(family.engine, PORT)
        accepted: list[Socket] = []

        def is_there(far: LwipConnection = far, accepted: list[Socket] = accepted) -> bool:
            if (one := listener.accept_step()) is not None:
                accepted.append(one)
            return bool(accepted) and far.connected

        rig.wait(is_there, "a connection")
        if accepted[0].core in found:
            accepted[0].abort()
            far.abort()
        else:
            found[accepted[0].core] = accepted[0], far
        if len(found) == rig.device.cores:
            return [found[core] for core in range(rig.device.cores)]
    raise AssertionError("40 connections must reach every core")


def exchange_over(family: Family, bad: dict[str, float], size: int, limit_cycles: int) -> None:
    """``size`` bytes each way on each core, within ``limit_cycles``."""
    with started() as rig:
        wire = WireModel(seed(), delay_ns=1000, reorder_ns=REORDER_NS)
        rig.add_peer(0, wire=wire, options=FAST_OPTIONS, ipv6=True)
        with Listener(rig.device, PORT, backlog=4, address=family.any_address) as listener:
            ends = one_connection_for_each_core(rig, family, listener)
            exchanges = [
                Exchange(f"core {socket.core}", socket, far, rig.random.randbytes(size), rig.random.randbytes(size))
                for socket, far in ends
            ]
            for name, value in bad.items():
                setattr(wire, name, value)
            for one in exchanges:
                one.start()
            end = rig.simulation.cycles + limit_cycles
            began = rig.simulation.cycles
            while not all(one.is_done for one in exchanges):
                late = "\n".join(map(str, exchanges))
                assert rig.simulation.cycles < end, f"not done in {limit_cycles} cycles, seed {rig.seed}:\n{late}"
                for one in exchanges:
                    one.step()
                rig.device.advance(MS_CYCLES / 5 / rig.second_cycles)
            print(f"{rig.simulation.cycles - began} cycles, {wire.counts('to_engine')}, {wire.counts('to_peer')}")
            for name in bad:
                setattr(wire, name, 0)
            for one in exchanges:
                one.check()
            for direction in wire.DIRECTIONS:
                counts = wire.counts(direction)
                assert counts.frames > 2 * size // 1460
            total = [wire.counts(direction) for direction in wire.DIRECTIONS]
            assert any(one.lost + one.reordered + one.duplicated for one in total), "the wire must have been bad"
            rig.close_all(*(end for pair in ends for end in pair))
        rig.run(20_000)
        assert rig.peer.counters.checksum_errors == 0
        rig.assert_buffers_back(20)


@pytest.mark.parametrize(("family", "kind", "percent"), [("ipv4", "all", 5), ("ipv6", "loss", 10)])
def test_data_arrives_whole(family, kind, percent):
    exchange_over(FAMILIES[family], faults(kind, percent), 30_000, 30_000_000)


GRID = list(itertools.product(FAMILIES, ("loss", "reorder", "duplicate", "all"), (1, 5, 10)))


@pytest.mark.nightly
@pytest.mark.parametrize(("family", "kind", "percent"), GRID)
def test_grid(family, kind, percent):
    exchange_over(FAMILIES[family], faults(kind, percent), 100_000, 150_000_000)


@pytest.mark.nightly
@pytest.mark.parametrize(
    ("kind", "percent"), [("loss", 1), ("loss", 5), ("loss", 10), ("all", 1), ("all", 5), ("all", 10)]
)
def test_linux_over_a_bad_wire(kind, percent):
    """The kernel's TCP at the far end, in a network namespace of its own."""
    try:
        check_namespace()
    except TapError as error:
        pytest.skip(f"no TAP device: {error}")
    command = ["unshare", "-rn", sys.executable, "-m", "support.integrity", kind, str(percent), "40000", str(seed())]
    tests = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, cwd=tests, capture_output=True, text=True, timeout=integrity.TIMEOUT_S + 300)
    assert done.returncode == 0 and done.stdout.startswith("ok "), f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    print(done.stdout)
