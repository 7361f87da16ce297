"""Options of connections, LINGER, CANCEL, and why connects fail, by the whole engine against a station with lwIP."""

from __future__ import annotations

import errno
from itertools import count

import pytest
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from system.rig import ENGINES, MACS, PEER_MACS, PEERS
from system.udp_host import address
from twinstack.proto.queues import SOCKET_ADDRESS, Handle, Operation, SocketOption
from twinstack_host.device import ipv4_bytes
from twinstack_host.sockets import Listener, Socket
from twinstack_sim.streams import HostStream

PORT = 7300
TIMEOUT = 2.0
"""Seconds of the firmware's fast clock."""


@pytest.fixture(scope="module")
def listener(rig):
    with Listener(rig.device, PORT, backlog=4) as one:
        yield one


def call(rig, operation: Operation, **fields) -> int:
    return rig.device.wait(rig.device.submit(operation, **fields), TIMEOUT)


def set_option(rig, handle: int, option: SocketOption, value: int) -> int:
    inline = value.to_bytes(4, "little")
    return call(rig, Operation.SETSOCKOPT, handle=handle, operation_flags=option, inline=inline)


def get_option(rig, handle: int, option: SocketOption) -> int:
    return call(rig, Operation.GETSOCKOPT, handle=handle, operation_flags=option)


def cancel(rig, pending) -> int:
    """Result of an operation that is cancelled."""
    assert call(rig, Operation.CANCEL, inline=pending.user_data.to_bytes(8, "little")) == 0
    return rig.device.wait(pending, TIMEOUT)


def test_a_listeners_options_on_both_cores(rig, listener):
    values = {SocketOption.KEEPIDLE: 77, SocketOption.TOS: 0x28, SocketOption.NODELAY: 0, SocketOption.RCVBUF: 2920}
    for option, value in values.items():
        assert set_option(rig, listener.handle, option, value) == 0
    for core in range(2):
        socket, connection = rig.accept_on(listener, core, PORT)
        assert {option: get_option(rig, socket.handle, option) for option in values} == values
        assert get_option(rig, socket.handle, SocketOption.TYPE) == 1
        rig.echo([(connection, HostStream(socket))], 3000)
        rig.close_all(connection, socket)
    assert set_option(rig, listener.handle, SocketOption.NODELAY, 1) == 0
    assert get_option(rig, listener.handle, SocketOption.PEER) == -errno.ENOPROTOOPT


def test_linger_waits_for_the_acknowledgement(rig, listener):
    for core in range(2):
        socket, connection = rig.accept_on(listener, core, PORT)
        assert set_option(rig, socket.handle, SocketOption.LINGER, 31) == 0
        socket.sendall(b"last words")
        assert call(rig, Operation.CLOSE, handle=socket.handle) == 0
        received = b""

        def ended(connection=connection) -> bool:
            nonlocal received
            received += connection.recv()
            return received == b"last words"

        rig.wait(ended, "the last words")
        rig.close_all(connection)
        socket.handle = 0


def test_keepalive_of_a_peer_that_vanished(rig, listener):
    socket, connection = rig.accept_on(listener, 1, PORT)
    options = {SocketOption.KEEPIDLE: 1, SocketOption.KEEPINTVL: 1, SocketOption.KEEPCNT: 1, SocketOption.KEEPALIVE: 1}
    for option, value in options.items():
        assert set_option(rig, socket.handle, option, value) == 0
    rig.link.skip(1.5)
    assert get_option(rig, socket.handle, SocketOption.ERROR) == 0, "it answers the probes"
    rig.simulation._attachments[0].peer, station = _Nobody(), rig.simulation._attachments[0].peer
    rig.link.skip(2.6)
    rig.simulation._attachments[0].peer = station
    assert get_option(rig, socket.handle, SocketOption.ERROR) == errno.ETIMEDOUT
    socket.close()
    connection.abort()
    rig.run(40_000)


class _Nobody:
    """A station whose cable is out."""

    def frame_from_engine(self, frame: bytes, now_ns: int) -> None:
        pass

    def poll(self, now_ns: int) -> list[bytes]:
        return []

    def next_event_ns(self) -> int | None:
        return None

    def close(self) -> None:
        pass


def test_cancel_on_both_cores(rig, listener):
    for core in range(2):
        socket, connection = rig.accept_on(listener, core, PORT)
        buffer = rig.device.pool.take()
        pending = rig.device.submit(Operation.RECV, handle=socket.handle, buffer=buffer, length=16)
        rig.run(20_000)
        assert not pending.done
        assert cancel(rig, pending) == -errno.ECANCELED
        rig.device.pool.give(buffer)
        rig.echo([(connection, HostStream(socket))], 500)
        rig.close_all(connection, socket)


def test_close_with_unread_data_resets(rig, listener):
    socket, connection = rig.accept_on(listener, 0, PORT)
    connection.send_all(b"nobody reads this")
    rig.run(60_000)
    socket.close()
    rig.wait(lambda: connection.closed, "the reset")
    assert connection.error


def connect_address(port: int, local: str = "0.0.0.0") -> bytes:
    values = {"family": 2, "port": port, "address": int.from_bytes(ipv4_bytes(PEERS[0]), "little")}
    return SOCKET_ADDRESS.pack(values | {"extra": int.from_bytes(ipv4_bytes(local), "little")})


def test_connect_from_a_chosen_port_and_address(rig):
    """The hardware brings the entry to the core that the hash names, and the connection lives there."""
    listener = rig.peer.listen(81)
    for core in range(2):
        local = next(port for port in count(23000) if rig.core_of(0, PEERS[0], (81, port)) == core)
        inline = connect_address(81, ENGINES[0])
        result = call(rig, Operation.TCP_CONNECT, operation_flags=local, inline=inline)
        assert result > 0
        assert Handle.unpack(result).core == core
        again = call(rig, Operation.TCP_CONNECT, operation_flags=local, inline=inline)
        assert again == -errno.EADDRINUSE
        socket = Socket(rig.device, result)
        assert socket.getsockname() == (ENGINES[0], local)
        arrived = []
        rig.wait(lambda arrived=arrived: arrived.append(listener.accept()) or arrived[-1] is not None, "the peer")
        rig.echo([(HostStream(socket), arrived[-1])], 400)
        socket.abort()
        rig.run(20_000)
        arrived[-1].close()
    assert call(rig, Operation.TCP_CONNECT, operation_flags=PORT, inline=connect_address(81)) == -errno.EADDRINUSE
    wrong = connect_address(81, "192.168.77.99")
    assert call(rig, Operation.TCP_CONNECT, operation_flags=23010, inline=wrong) == -errno.EADDRNOTAVAIL
    listener.close()
    rig.run(40_000)


def test_connect_that_is_refused(rig):
    assert call(rig, Operation.TCP_CONNECT, inline=address(PEERS[0], 82)) == -errno.ECONNREFUSED


def test_connect_without_a_route(rig):
    assert call(rig, Operation.TCP_CONNECT, inline=address("203.0.113.1", 82)) == -errno.ENETUNREACH


@pytest.mark.parametrize("attempt", range(4))
def test_connect_that_a_router_refuses(rig, attempt):
    """The ICMP error reaches the core that connects, whatever the hash of the router's address says."""
    rig.simulation._attachments[0].peer, station = _Nobody(), rig.simulation._attachments[0].peer
    try:
        rig.keep_frames, start = True, len(rig.sent)
        pending = rig.device.submit(Operation.TCP_CONNECT, inline=address(PEERS[0], 83))

        def syn():
            frames = [Ether(one.data) for one in rig.sent[start:]]
            return [frame for frame in frames if TCP in frame and frame[TCP].dport == 83]

        rig.wait(syn, "the SYN")
        quoted = bytes(syn()[0][IP])[:28]
        error = IP(src=f"192.168.77.{200 + attempt}", dst=ENGINES[0]) / ICMP(type=3, code=3) / Raw(quoted)
        rig.simulation.send_frame(0, bytes(Ether(src=PEER_MACS[0], dst=MACS[0]) / error))
        assert rig.device.wait(pending, TIMEOUT) == -errno.ECONNREFUSED
    finally:
        rig.keep_frames = False
        rig.sent.clear()
        rig.simulation._attachments[0].peer = station


def test_a_connect_is_cancelled(rig):
    pending = rig.device.submit(Operation.TCP_CONNECT, inline=address("192.168.77.99", 84))
    rig.run(30_000)
    assert not pending.done
    assert cancel(rig, pending) == -errno.ECANCELED
    assert all(rig.device.stats(core)["sockets"] == 0 for core in range(2))
