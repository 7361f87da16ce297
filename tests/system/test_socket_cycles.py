"""Sockets open and close, many times and all at once: nothing is used up, and running out is an error that passes."""

import errno
from collections.abc import Iterator

import pytest

from system.rig import ENGINES, MS_CYCLES, PEERS, STEP_CYCLES, Rig, started
from twinstack.proto.queues import Operation
from twinstack_host.device import Pending
from twinstack_host.sockets import Listener, Socket
from twinstack_sim.peer_lwip import LwipConnection, PeerOptions
from twinstack_sim.streams import HostStream

SERVED, LISTENING = 8600, 9600
SOCKETS = 64
"""Of a core: SOCKETS in the firmware's sizes.h."""
LISTENERS = 50
"""Ports on which the peer listens in turn: a random local port that is used again meets no connection of the peer in TIME_WAIT,
which would reset it."""
OPTIONS = PeerOptions(tcp_timer_ms=1, tcp_rto_ms=8, tcp_msl_ms=20)
TICK = MS_CYCLES // 2
"""Firmware's clock runs twice as fast: with a hundred times, as elsewhere, timers would take most of its time."""
AT_ONCE = 20
ENDS = ("host first", "peer first", "both", "host resets", "peer resets")
CYCLE_LIMIT = 6_000_000
"""Of one socket's life: it may lose a SYN to a full backlog, which the peer sends again."""


class Meeting:
    """Brings together the two ends of connections, which come to light one by one."""

    def __init__(self, rig: Rig, listener: Listener):
        self.rig, self.listener = rig, listener
        self.far_listeners = [rig.peer.listen(LISTENING + number, 32) for number in range(LISTENERS)]
        self._hosts: dict[int, Socket] = {}
        self._fars: dict[int, LwipConnection] = {}

    def step(self) -> None:
        while (socket := self.listener.accept_step()) is not None:
            self._hosts[socket.getpeername()[1]] = socket
        for listener in self.far_listeners:
            while (far := listener.accept()) is not None:
                self._fars[far.remote[1]] = far

    def host_of(self, port: int) -> Socket | None:
        return self._hosts.pop(port, None)

    def far_of(self, port: int) -> LwipConnection | None:
        return self._fars.pop(port, None)


def life(rig: Rig, meeting: Meeting, number: int, results: list[int]) -> Iterator[None]:
    """Open, exchange, end; a step at a time."""
    rng = rig.random
    if number % 2:
        far = rig.peer.connect(ENGINES[0], SERVED)
        port = far.local[1]
        while (socket := meeting.host_of(port)) is None:
            assert not far.closed, far.error
            yield
    else:
        pending = Socket.connect_begin(rig.device, (PEERS[0], LISTENING + number // 2 % LISTENERS))
        while not pending.done:
            yield
        results.append(pending.result)
        assert pending.result > 0, errno.errorcode[-pending.result]
        socket = Socket(rig.device, pending.result)
        port = socket.getsockname()[1]
        while (far := meeting.far_of(port)) is None:
            yield
    yield from exchange(socket, far, rng.randbytes(rng.randrange(1, 800)), rng.randbytes(rng.randrange(1, 800)))
    yield from end(rig, socket, far, ENDS[number // 2 % len(ENDS)], results)


def exchange(socket: Socket, far: LwipConnection, there: bytes, back: bytes) -> Iterator[None]:
    stream = HostStream(socket)
    stream.send_all(there)
    far.send_all(back)
    got_there, got_back = bytearray(), bytearray()
    while len(got_there) < len(there) or len(got_back) < len(back) or stream.unsent:
        got_back += stream.recv()
        got_there += far.recv()
        yield
    assert got_there == there and got_back == back


def end(rig: Rig, socket: Socket, far: LwipConnection, how: str, results: list[int]) -> Iterator[None]:
    def shut_down() -> Pending:
        return rig.device.submit(Operation.SHUTDOWN, handle=socket.handle, on_done=results.append)

    def read_to_the_end() -> Iterator[None]:
        while not socket.ended:
            socket.receive_step()
            assert socket.take(1) == b""
            yield

    if how == "host resets":
        socket.abort()
        while not far.closed:
            yield
        return
    if how == "peer resets":
        far.abort()
        try:
            yield from read_to_the_end()
        except ConnectionResetError:
            socket.close()
            return
        raise AssertionError("a reset must be told")
    if how == "peer first":
        far.shutdown()
        yield from read_to_the_end()
        socket.close()
        while not far.peer_closed:
            yield
        far.close()
        return
    if how == "both":
        far.shutdown()
    pending = shut_down()
    while not (pending.done and far.peer_closed):
        yield
    assert pending.result == 0
    if how == "host first":
        far.shutdown()
    yield from read_to_the_end()
    socket.close()
    far.close()


def run_lives(rig: Rig, count: int) -> None:
    results: list[int] = []
    with Listener(rig.device, SERVED, backlog=32) as listener:
        meeting = Meeting(rig, listener)
        running: dict[int, tuple[Iterator[None], int]] = {}
        begun = 0
        while begun < count or running:
            while begun < count and len(running) < AT_ONCE:
                running[begun] = life(rig, meeting, begun, results), rig.simulation.cycles + CYCLE_LIMIT
                begun += 1
            meeting.step()
            for number, (one, limit) in list(running.items()):
                try:
                    next(one)
                except StopIteration:
                    del running[number]
                    continue
                assert rig.simulation.cycles < limit, f"socket {number} (seed {rig.seed}) is stuck"
            rig.device.advance(STEP_CYCLES / rig.second_cycles)
        for far_listener in meeting.far_listeners:
            far_listener.close()
        assert -errno.ENOBUFS not in results
        rig.wait(lambda: open_sockets(rig) == [0, 0], "the end of all sockets")
        rig.assert_records_back(listener, SERVED)
    assert rig.device.unexpected == []
    rig.assert_alive()
    rig.assert_buffers_back()


def fill(rig: Rig, listener: Listener) -> list[tuple[Socket, LwipConnection]]:
    """Connections from the peer until each core has as many as it can, some at a time."""
    ports = [rig.local_port_for(core, SERVED + 1) for _ in range(SOCKETS) for core in range(rig.device.cores)]
    under_way: dict[int, LwipConnection] = {}
    pairs: list[tuple[Socket, LwipConnection]] = []
    limit = rig.simulation.cycles + 3 * CYCLE_LIMIT
    while ports or under_way:
        assert rig.simulation.cycles < limit, f"only {len(pairs)} connections (seed {rig.seed})"
        while ports and len(under_way) < AT_ONCE:
            port = ports.pop()
            under_way[port] = rig.peer.connect(ENGINES[0], SERVED + 1, port)
        while (socket := listener.accept_step()) is not None:
            pairs.append((socket, under_way.pop(socket.getpeername()[1])))
        rig.device.advance(STEP_CYCLES / rig.second_cycles)
    assert all(far.connected for _, far in pairs)
    return pairs


def open_sockets(rig: Rig) -> list[int]:
    return [rig.device.stats(core)["sockets"] for core in range(rig.device.cores)]


@pytest.fixture(scope="module")
def rig():
    with started(tick_cycles=TICK) as one:
        one.add_peer(0, options=OPTIONS)
        yield one


def test_500_sockets_one_after_the_other(rig):
    """Twenty at a time, opened from either side, ended in every way; both cores."""
    before = [rig.device.stats(core)["connections"] for core in range(2)]
    run_lives(rig, 500)
    for core in range(2):
        assert rig.device.stats(core)["connections"] - before[core] > 100


@pytest.mark.nightly
def test_10000_sockets_one_after_the_other():
    """More than the port directory has entries, thirty times."""
    with started(tick_cycles=TICK) as rig:
        rig.add_peer(0, options=OPTIONS)
        run_lives(rig, 10_000)


def test_128_sockets_and_no_more(rig):
    """Sixty-four on each core carry data; one more is refused from either side; when they are gone, everything can be had again."""
    with Listener(rig.device, SERVED + 1, backlog=16) as listener:
        pairs = fill(rig, listener)
        assert open_sockets(rig) == [SOCKETS] * 2
        pending = Socket.connect_begin(rig.device, (PEERS[0], LISTENING))
        rig.wait(lambda: pending.done, "the refusal")
        assert pending.result == -errno.ENFILE
        refused = [rig.peer.connect(ENGINES[0], SERVED + 1, rig.local_port_for(core, SERVED + 1)) for core in (0, 1)]
        rig.wait(lambda: all(one.closed for one in refused), "the reset of two more", 4_000_000)
        assert listener.accept_step() is None and open_sockets(rig) == [SOCKETS] * 2
        # Opened first, in between, last; both cores.
        transfers = [exchange(*pair, rig.random.randbytes(200), rig.random.randbytes(200)) for pair in pairs[::9]]
        limit = rig.simulation.cycles + 20 * CYCLE_LIMIT
        while transfers:
            transfers = [one for one in transfers if next(one, transfers) is None]
            assert rig.simulation.cycles < limit, f"{len(transfers)} exchanges are stuck (seed {rig.seed})"
            rig.device.advance(STEP_CYCLES / rig.second_cycles)
        aborts = [rig.device.submit(Operation.ABORT, handle=socket.handle) for socket, _ in pairs]
        rig.wait(lambda: all(one.done and one.result == 0 for one in aborts), "the end of all sockets", CYCLE_LIMIT)
        for _, far in pairs:
            far.abort()
        assert open_sockets(rig) == [0, 0]
        rig.assert_records_back(listener, SERVED + 1)
    run_lives(rig, 20)
