"""The small profile, as boards with a 45F have it: TCP over IPv4 on two ports and both cores; the rest is refused by name."""

import errno
import struct

import pytest

from system.rig import ENGINES, ENGINES6, started
from twinstack.proto.queues import Operation
from twinstack_boards.profiles import small_config
from twinstack_host.sockets import Listener, Socket
from twinstack_sim.streams import HostStream

PORT = 7400


@pytest.fixture(scope="module")
def small():
    """An engine of that size with a station on each port."""
    with started(config=small_config(ports=2, sync_hz=75_000_000)) as rig:
        rig.add_peer(0)
        rig.add_peer(1)
        yield rig


def test_echo_on_two_ports_and_both_cores(small):
    with Listener(small.device, PORT, backlog=4) as listener:
        made = [small.accept_on(listener, core, PORT, port) for core in range(2) for port in range(2)]
        small.echo([(connection, HostStream(socket)) for socket, connection in made], 6000, 6_000_000)
        small.close_all(*(end for pair in made for end in pair))
    small.assert_buffers_back(2)


def test_host_connects_through_both_ports(small):
    made, ends = [], []
    for port in range(2):
        server = small.peers[port].listen(9400)
        socket, connection = small.connect(server, 9400, port)
        made.append((HostStream(socket), connection))
        ends += [connection, socket]
    small.echo(made, 3000, 6_000_000)
    small.close_all(*ends)
    small.assert_buffers_back(2)


def test_both_cores_answer_pings(small):
    for port in range(2):
        small.assert_alive(port)


def test_as_many_connections_as_the_profile_has(small):
    """16 sockets a core; one more is refused, and does not hurt the others."""
    with Listener(small.device, PORT + 1, backlog=4) as listener:
        made = [small.accept_on(listener, 0, PORT + 1) for _ in range(16)]
        one_more = small.peer.connect(ENGINES[0], PORT + 1, small.local_port_for(0, PORT + 1))
        small.run(300_000)
        assert listener.accept_step() is None
        one_more.abort()
        small.echo([(connection, HostStream(socket)) for socket, connection in made[:4]], 1500, 6_000_000)
        small.close_all(*(end for pair in made for end in pair))
    small.assert_buffers_back(20)


def refusal(small, operation, **fields):
    pending = small.device.submit(operation, **fields)
    small.wait(lambda: pending.done, f"an answer to {operation.name}")
    return -pending.result


@pytest.mark.parametrize("flags", [0, 1], ids=["one core", "all cores"])
def test_datagram_sockets_are_refused(small, flags):
    address = struct.pack("<HH7I", 2, 0, *[0] * 7)
    assert refusal(small, Operation.UDP_OPEN, operation_flags=flags, inline=address) == errno.EOPNOTSUPP


def test_names_are_refused(small):
    buffer = small.device.pool.take()
    small.device.link.write(buffer, b"example.org\0")
    got = refusal(small, Operation.RESOLVE, buffer=buffer, length=64, inline=b"example.org".ljust(32, b"\0"))
    small.device.pool.give(buffer)
    assert got == errno.EOPNOTSUPP


def test_dhcp_and_ipv6_are_refused(small):
    with pytest.raises(OSError) as dhcp:
        small.device.configure(0, dhcp=True)
    with pytest.raises(OSError) as ipv6:
        small.device.configure(0, ENGINES6[0])
    assert (dhcp.value.errno, ipv6.value.errno) == (errno.EOPNOTSUPP, errno.EOPNOTSUPP)
    pending = Socket.connect_begin(small.device, ("2001:db8:1::2", 9400))
    small.wait(lambda: pending.done, "an answer")
    assert pending.result == -errno.EAFNOSUPPORT
    small.echo_once(0, PORT + 2)
