"""TCP through the whole engine, both directions, both cores: every byte right, on a clean wire and on a bad one."""

import pytest

from twinstack.proto.queues import Handle
from twinstack_host.sockets import Listener, Socket
from twinstack_sim.streams import HostStream

LISTEN_PORT = 7100
PEER_PORT = 9100


@pytest.mark.claim(4)
@pytest.mark.claim(5)
@pytest.mark.claim(14)
@pytest.mark.claim(15)
@pytest.mark.claim(34)
@pytest.mark.claim(35)
def test_both_directions_on_both_cores(rig):
    """Connections that the peer opened and that the host opened, on each core, all at the same time."""
    before = [rig.device.stats(core) for core in range(2)]
    size = 3000
    with Listener(rig.device, LISTEN_PORT, backlog=4) as listener:
        pairs, ends = [], []
        for core in range(2):
            socket, connection = rig.accept_on(listener, core, LISTEN_PORT)
            pairs.append((connection, HostStream(socket)))
            ends += [connection, socket]
        server = rig.peer.listen(PEER_PORT)
        used = set()
        while used != {0, 1}:  # connects go to the least loaded core
            assert len(pairs) < 6, "the host's connections must reach both cores"
            socket, connection = rig.connect(server, PEER_PORT)
            used.add(socket.core)
            pairs.append((HostStream(socket), connection))
            ends += [connection, socket]
        cpu = rig.host_core("cpu_accesses")  # results of GETPEERNAME are written by the CPU; payload is not touched
        rig.echo(pairs, size)
        assert rig.host_core("cpu_accesses") == cpu
        rig.close_all(*ends)
        server.close()
    for core in range(2):
        after = rig.device.stats(core)
        for name in ("bytes_in", "bytes_out"):
            assert after[name] - before[core][name] >= 2 * size
        assert after["connections"] - before[core]["connections"] >= 2
    assert rig.peer.counters.checksum_errors == 0
    rig.assert_buffers_back()


@pytest.mark.parametrize("core", [0, 1])
def test_bulk_moves_by_dma_without_the_cpu(rig, core):
    """16 KiB each way on one core: host memory sees every byte once, the CPU none."""
    size = 16 * 1024
    port = LISTEN_PORT + 1 + core
    with Listener(rig.device, port, backlog=2) as listener:
        socket, connection = rig.accept_on(listener, core, port)
        cpu = rig.host_core("cpu_accesses")
        reads, writes = rig.simulation.bus_counts("host_read").reads, rig.simulation.bus_counts("host_write").writes
        rig.echo([(connection, HostStream(socket))], size)
        assert rig.host_core("cpu_accesses") == cpu
        # Each word crosses the host bus at least once in each direction, and rings add little.
        for moved in (
            rig.simulation.bus_counts("host_read").reads - reads,
            rig.simulation.bus_counts("host_write").writes - writes,
        ):
            assert size // 4 <= moved < size // 2
        rig.close_all(connection, socket)
    rig.assert_buffers_back()


@pytest.mark.parametrize("length", [1, 2, 3, 1459, 1460, 1461, 2920, 4096])
def test_lengths_around_the_segment_size(rig, length):
    with Listener(rig.device, LISTEN_PORT + 3, backlog=2) as listener:
        socket, connection = rig.accept_on(listener, length % 2, LISTEN_PORT + 3)
        rig.echo([(connection, HostStream(socket))], length)
        rig.close_all(connection, socket)


def test_half_close_delivers_the_rest(rig):
    """The peer ends its direction; what the host still sends arrives; then the host ends, too."""
    with Listener(rig.device, LISTEN_PORT + 4, backlog=2) as listener:
        socket, connection = rig.accept_on(listener, 0, LISTEN_PORT + 4)
        question, answer = rig.random.randbytes(2000), rig.random.randbytes(5000)
        connection.send_all(question)
        connection.shutdown()
        got = bytearray()

        def ended():
            socket.receive_step()
            got.extend(socket.take(1 << 16))
            return socket.ended

        rig.wait(ended, "the end of the peer's stream")
        assert got == question
        stream = HostStream(socket)
        stream.send_all(answer)
        back = bytearray()

        def answered():
            stream.recv()
            back.extend(connection.recv())
            return len(back) == len(answer)

        rig.wait(answered, "the answer")
        assert back == answer
        socket.close()
        rig.wait(lambda: connection.peer_closed, "the host's FIN")
        rig.close_all(connection)
    rig.assert_buffers_back()


def test_reset_by_the_peer_is_reported(rig):
    with Listener(rig.device, LISTEN_PORT + 5, backlog=2) as listener:
        socket, connection = rig.accept_on(listener, 1, LISTEN_PORT + 5)
        connection.abort()
        socket.settimeout(1.0)
        with pytest.raises(ConnectionResetError):
            socket.recv(1)
        socket.close()
    rig.assert_buffers_back()


def test_refused_connection_is_reported(rig):
    with pytest.raises(ConnectionRefusedError):
        Socket.connect(rig.device, ("192.168.77.2", 9999), timeout=2.0)


def test_handles_name_core_and_change_with_each_use(rig):
    seen = set()
    with Listener(rig.device, LISTEN_PORT + 6, backlog=2) as listener:
        assert Handle.unpack(listener.handle).core == 7
        for _ in range(3):
            socket, connection = rig.accept_on(listener, 1, LISTEN_PORT + 6)
            handle = Handle.unpack(socket.handle)
            assert handle.core == 1 and handle.host == 0 and handle.generation > 0
            seen.add(socket.handle)
            socket.abort()
            rig.run(10_000)
            connection.close()
    assert len(seen) == 3
