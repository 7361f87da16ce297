"""A host that stops reading completions, and one that starts its queue anew in mid-transfer: nothing of others is lost, all recovers."""

import errno

import pytest

from system.rig import ENGINES, FAST_OPTIONS, MACS, OPERATIONS, Rig, started
from twinstack.proto.queues import Operation
from twinstack.proto.registers import QUEUE
from twinstack_host.device import Device, Pending
from twinstack_host.sockets import Listener, Socket
from twinstack_sim.peer_lwip import LwipConnection
from twinstack_sim.streams import HostStream

SERVED = 8500
SMALL_RING = 8
HARDWARE_POSTS = 8
"""Completions of a core that wait in hardware."""


@pytest.fixture(scope="module")
def rig():
    with started() as one:
        one.add_peer(0, options=FAST_OPTIONS)
        yield one
        with Listener(one.device, SERVED + 8, backlog=4) as listener:
            one.assert_records_back(listener, SERVED + 8)
        one.assert_alive()


@pytest.fixture
def recovering(rig):
    """After the test: a connection on each core, and all buffers back."""
    yield rig
    with Listener(rig.device, SERVED + 9, backlog=4) as listener:
        for core in range(rig.device.cores):
            socket, connection = rig.accept_on(listener, core, SERVED + 9)
            rig.echo([(connection, HostStream(socket))], 1000)
            socket.abort()
            connection.abort()
    rig.assert_buffers_back()


@pytest.fixture
def small_ring(recovering):
    """The engine with a completion ring of eight entries."""
    rig, usual = recovering, recovering.device
    rig.device = Device(rig.link, cq_entries=SMALL_RING)
    rig.device.attach()
    yield rig
    rig.device = usual
    usual.attach()


def connections(rig: Rig, listener: Listener) -> list[tuple[Socket, LwipConnection]]:
    return [rig.accept_on(listener, core, SERVED) for core in range(rig.device.cores)]


def queue(rig: Rig, name: str) -> int:
    return rig.device.registers.read(QUEUE, name)


def waiting(rig: Rig) -> int:
    return (queue(rig, "cq_tail") - queue(rig, "cq_head")) & 0xFFFF


def stall(rig: Rig, cycles: int) -> None:
    """Time passes and the host looks at nothing."""
    rig.link.run(cycles)


def test_nothing_is_lost_while_the_ring_is_full(small_ring):
    """SENDs, RECVs and accepted connections complete when the host reads again, each once, in order, with the right bytes;
    meanwhile what was sent arrives, pings are answered, connections are established."""
    rig = small_ring
    with Listener(rig.device, SERVED, backlog=8) as listener:
        pairs = connections(rig, listener)
        order: list[tuple[int, int]] = []
        pendings: list[Pending] = []
        sent, data, buffers = [], [], []
        for number, (socket, far) in enumerate(pairs):
            rig.wait(lambda: not rig.device.poll(), "an empty ring")
            sent.append(rig.random.randbytes(2000))
            data.append(rig.random.randbytes(2000))
            buffers.append([rig.device.pool.take() for _ in range(2)])
            out, back = buffers[-1]
            rig.link.write(out, sent[-1])
            for index in range(10):
                for operation, place in ((Operation.SEND, out), (Operation.RECV, back)):
                    pendings.append(
                        rig.device.submit(
                            operation,
                            handle=socket.handle,
                            buffer=place + 200 * index,
                            length=200,
                            on_done=lambda result, at=(number, int(operation), index): order.append((*at, result)),
                        )
                    )
            far.send_all(data[-1])
        newcomers = [rig.peer.connect(ENGINES[0], SERVED, rig.local_port_for(core, SERVED)) for core in (0, 1)]
        pings = len(rig.peer.ping_replies)
        stall(rig, 300_000)
        rig.peer.ping(ENGINES[0])
        stall(rig, 300_000)
        assert waiting(rig) == SMALL_RING and rig.simulation.irq
        assert [far.recv() for _, far in pairs] == sent
        assert len(rig.peer.ping_replies) == pings + 1
        assert all(one.connected for one in newcomers)
        assert order == [] and not any(pending.done for pending in pendings)

        accepted: list[Socket] = []

        def all_there() -> bool:
            if (one := listener.accept_step()) is not None:
                accepted.append(one)
            return all(pending.done for pending in pendings) and len(accepted) == 2

        rig.wait(all_there, "every completion")
        for number in range(len(pairs)):
            for operation in (Operation.SEND, Operation.RECV):
                mine = [(index, result) for at, code, index, result in order if (at, code) == (number, operation)]
                assert mine == [(index, 200) for index in range(10)], operation
            assert rig.link.read(buffers[number][1], 2000) == data[number]
            for buffer in buffers[number]:
                rig.device.pool.give(buffer)
        assert rig.device.unexpected == [] and {one.core for one in accepted} == {0, 1}
        rig.close_all(*newcomers, *accepted, *(end for pair in pairs for end in pair))


def test_every_queue_on_the_way_fills_and_empties(small_ring):
    """Entries until the engine takes no more: completion ring, hardware, operation records, delivery ring, submission ring
    are full. Not one entry is lost."""
    rig = small_ring
    results: list[int] = []
    size = 64
    submitted = 0
    for _ in range(100):
        room = size - ((queue(rig, "sq_tail") - queue(rig, "sq_head")) & 0xFFFF)
        for _ in range(room):
            rig.device.submit(Operation.NOP, on_done=results.append)
        submitted += room
        stall(rig, 10_000)
        if room == 0:
            break
    assert submitted >= SMALL_RING + HARDWARE_POSTS + OPERATIONS + size
    assert waiting(rig) == SMALL_RING and results == []
    stall(rig, 200_000)
    assert waiting(rig) == SMALL_RING
    rig.wait(lambda: len(results) == submitted, "every completion")
    # Without a record, an entry may be told to try again.
    assert set(results) <= {0, -errno.ENOBUFS} and results.count(0) >= OPERATIONS
    assert rig.device.unexpected == []


class Bulk:
    """Data under way in both directions on each core."""

    def __init__(self, rig: Rig):
        self.rig = rig
        self.listener = Listener(rig.device, SERVED, backlog=8)
        self.pairs = connections(rig, self.listener)
        streams = [HostStream(socket) for socket, _ in self.pairs]
        for stream, (_, far) in zip(streams, self.pairs, strict=True):
            stream.send_all(rig.random.randbytes(100_000))
            far.send_all(rig.random.randbytes(100_000))
        for _ in range(rig.random.randrange(5, 15)):
            for stream, (_, far) in zip(streams, self.pairs, strict=True):
                stream.recv()
                far.recv()
            rig.device.advance(0.2)
        assert all(far.unsent for _, far in self.pairs), "in mid-transfer"

    def abort_far_ends(self) -> None:
        for _, far in self.pairs:
            far.abort()
        self.rig.run(40_000)


def test_queue_set_up_anew_in_mid_transfer(recovering):
    """The cores run on: what was open is closed by its handle, what the old operations say is for nobody; then all is as before.
    Memory is not written any more once the sockets are gone."""
    rig = recovering
    blocks = rig.device.pool.free
    times = 2
    for _ in range(times):
        bulk = Bulk(rig)
        rig.device.attach()
        stall(rig, rig.random.randrange(50_000))
        for socket, _ in bulk.pairs:
            result = rig.device.wait(rig.device.submit(Operation.ABORT, handle=socket.handle), 5.0)
            assert result == 0
        # The old accept still answers to a join slot that now belongs to the close.
        closing = rig.device.submit(Operation.CLOSE, handle=bulk.listener.handle)
        assert rig.device.wait(closing, 5.0) in (0, -errno.ECANCELED)
        rig.run(60_000)
        before = bytes(rig.simulation.host_memory[rig.device.pool.base :])
        bulk.abort_far_ends()
        rig.run(60_000)
        assert bytes(rig.simulation.host_memory[rig.device.pool.base :]) == before
    for core in range(rig.device.cores):
        assert rig.device.stats(core)["sockets"] == 0
    # The buffers of operations that never completed are gone with the program that posted them.
    assert rig.device.pool.free >= blocks - 6 * times
    rig.device.unexpected.clear()


def test_engine_started_anew_in_mid_transfer(recovering):
    """As a driver should: the cores are held first. The peers' connections are reset, everything can be had again."""
    rig = recovering
    bulk = Bulk(rig)
    epochs = [rig.device.stats(core)["epoch"] for core in range(rig.device.cores)]
    rig.device.start(seed=rig.seed)
    assert [rig.device.stats(core)["epoch"] for core in range(rig.device.cores)] == [one + 1 for one in epochs]
    assert rig.device.unexpected == []
    rig.device.configure(0, ENGINES[0], 24, mac=MACS[0])
    rig.wait(lambda: all(far.closed for _, far in bulk.pairs), "the reset of the old connections", 4_000_000)
    assert all(rig.device.stats(core)["sockets"] == 0 for core in range(rig.device.cores))
