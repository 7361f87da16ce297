"""Limits: sockets, backlog, operation records, a host that does not read. Each is an error or a wait, never a leak."""

import errno

import pytest

from system.rig import CONFIG
from twinstack.proto.queues import Operation
from twinstack_host.device import BLOCK_BYTES
from twinstack_host.sockets import Listener
from twinstack_sim.streams import HostStream

PORT = 7400
OPERATIONS = 96
"""Operation records of a core: OPERATIONS in the firmware's sizes.h."""
LISTENERS = 8
"""Listeners: LISTENERS there."""


def test_host_that_does_not_read_stops_its_peer_and_nobody_else(rig):
    """Without a RECV, the window closes; another connection on the same core is served at the same time."""
    with Listener(rig.device, PORT, backlog=4) as listener:
        lazy, lazy_end = rig.accept_on(listener, 0, PORT)
        busy, busy_end = rig.accept_on(listener, 0, PORT)
        data = rig.random.randbytes(20_000)
        lazy_end.send_all(data)
        rig.run(150_000)
        free = rig.host_core("rx_buffers")[0]
        assert free >= CONFIG.rx_buffers // 2, "one silent socket must not hold most of the buffers"
        assert lazy_end.unacknowledged > 0
        rig.echo([(busy_end, HostStream(busy))], 4000)
        assert rig.host_core("rx_dropped") == [0, 0]
        # Once the host reads, everything comes, in order.
        got = bytearray()

        def all_there():
            lazy.receive_step()
            got.extend(lazy.take(1 << 16))
            return len(got) >= len(data)

        rig.wait(all_there, "the withheld bytes", 4_000_000)
        assert got == data
        rig.close_all(lazy_end, busy_end, lazy, busy)
    rig.assert_buffers_back()


def test_closing_with_unread_data_gives_the_buffers_back(rig):
    with Listener(rig.device, PORT + 1, backlog=4) as listener:
        made = [rig.accept_on(listener, core, PORT + 1) for core in (0, 1, 0, 1)]
        for _, connection in made:
            connection.send_all(rig.random.randbytes(6000))
        rig.run(200_000)
        assert max(rig.host_core("rx_buffers")) < CONFIG.rx_buffers
        for number, (socket, _) in enumerate(made):
            socket.abort() if number < 2 else socket.close()
        rig.run(50_000)
        for _, connection in made:
            connection.abort()
        rig.run(50_000)
    rig.assert_buffers_back()
    rig.assert_alive()


def test_out_of_operation_records(rig):
    """More RECVs than a core has records: the surplus is refused at once, the others stay, other cores do not care."""
    with Listener(rig.device, PORT + 2, backlog=4) as listener:
        socket, connection = rig.accept_on(listener, 0, PORT + 2)
        other, other_end = rig.accept_on(listener, 1, PORT + 2)
        buffer = rig.device.pool.take()
        pendings = [
            rig.device.submit(Operation.RECV, handle=socket.handle, buffer=buffer + number * 16, length=16)
            for number in range(OPERATIONS + 20)
        ]
        rig.wait(lambda: sum(pending.done for pending in pendings) >= 20, "the refusals", 400_000)
        rig.run(20_000)
        refused = [pending for pending in pendings if pending.done]
        # The ACCEPT of the listener holds a record, too.
        assert [pending.result for pending in refused] == [-errno.ENOBUFS] * 21
        rig.echo([(other_end, HostStream(other))], 500)
        data = rig.random.randbytes(16)
        connection.send_all(data)
        rig.wait(lambda: pendings[0].done, "the first RECV", 200_000)
        assert pendings[0].result == 16 and rig.link.read(buffer, 16) == data
        socket.abort()
        rig.wait(lambda: all(pending.done for pending in pendings), "the end of all", 400_000)
        rest = {pending.result for pending in pendings[1:] if pending not in refused}
        assert rest == {-errno.ECANCELED}
        rig.device.pool.give(buffer)
        rig.close_all(other_end, other, connection)
    rig.assert_buffers_back()


def test_out_of_listeners(rig):
    listeners = [Listener(rig.device, PORT + 20 + number) for number in range(LISTENERS)]
    with pytest.raises(OSError, match="ENFILE") as caught:
        Listener(rig.device, PORT + 50)
    assert caught.value.errno == errno.ENFILE
    listeners.pop().close()
    listeners.append(Listener(rig.device, PORT + 50))
    for listener in listeners:
        listener.close()
    rig.assert_alive()


def test_backlog_holds_connections_until_they_are_accepted(rig):
    """Without an ACCEPT, connections wait; beyond the backlog they are not established."""
    handle = rig.device.call(
        Operation.TCP_LISTEN,
        "listen",
        length=2,
        inline=(2 | (PORT + 3) << 16).to_bytes(4, "little") + bytes(28),
    )
    ends = [rig.peer.connect("192.168.77.1", PORT + 3, rig.local_port_for(0, PORT + 3)) for _ in range(4)]
    rig.run(250_000)
    established = [end for end in ends if end.connected]
    assert len(established) == 2
    got: list[int] = []
    pending = rig.device.submit(Operation.TCP_ACCEPT, handle=handle, operation_flags=1, on_more=got.append)
    rig.wait(lambda: len(got) >= 2, "the waiting connections", 400_000)
    assert not pending.done
    for end in ends:
        end.abort()
    rig.run(50_000)
    for one in got:
        rig.device.call(Operation.ABORT, "abort", handle=one)
    rig.device.call(Operation.CLOSE, "close", handle=handle)
    rig.wait(lambda: pending.done, "the end of ACCEPT", 100_000)
    assert pending.result == -errno.ECANCELED
    rig.assert_buffers_back()


def test_more_sends_than_buffers_wait_for_acknowledgements(rig):
    """Twelve 4 KiB SENDs on one core at once: more than its TX bank; all are taken in order."""
    with Listener(rig.device, PORT + 4, backlog=2) as listener:
        socket, connection = rig.accept_on(listener, 1, PORT + 4)
        pieces = [rig.random.randbytes(BLOCK_BYTES) for _ in range(12)]
        pendings = [socket.send_begin(piece) for piece in pieces]
        got = bytearray()

        def all_there():
            got.extend(connection.recv())
            return len(got) >= BLOCK_BYTES * len(pieces)

        rig.wait(all_there, "all that was sent", 4_000_000)
        assert bytes(got) == b"".join(pieces)
        assert [pending.result for pending in pendings] == [BLOCK_BYTES] * len(pieces)
        rig.close_all(connection, socket)
    rig.assert_buffers_back()
