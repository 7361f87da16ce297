"""The behavioural suite over both host libraries: datagrams."""

from __future__ import annotations

import errno

import pytest

from support.libraries import LIBRARIES
from system.behaviour import CLOSED, ENGINE, ENGINE6, PEER, PEER6, driven_by, error
from system.rig import CONFIG, LIMIT_CYCLES
from twinstack.proto.queues import ALL_CORES, SocketOption, UdpFlag

PORT = 7700
STATION = 9700


@pytest.fixture(scope="module", params=sorted(LIBRARIES))
def bench(request):
    with driven_by(request.param) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_stays(bench):
    """After each test no socket is open and no completion came that nobody waits for."""
    yield
    bench.wait(lambda: bench.sockets() == 0, "the end of all sockets")
    assert bench.library.unexpected() == 0


@pytest.fixture
def station(bench):
    """A UDP socket of the peer."""
    made = bench.peer.udp(STATION)
    yield made
    made.close()


@pytest.fixture
def handle(bench):
    made = bench.library.udp_open(("0.0.0.0", PORT))
    yield made
    bench.library.close(made)


def arrived(bench, station):
    got = []
    bench.wait(lambda: got or got.extend(filter(None, [station.recv()])), "a datagram")
    return got[0]


@pytest.mark.parametrize("length", [0, 1, 512, 1472])
def test_both_directions(bench, station, handle, length):
    data = bench.random.randbytes(length)
    assert bench.library.sendto(handle, data, (PEER, STATION)) == length
    got = arrived(bench, station)
    assert (got.data, got.address, got.port) == (data, ENGINE, PORT)
    station.send_to(data, ENGINE, PORT)
    assert bench.library.recvfrom(handle, 2000) == (data, (PEER, STATION), length)


def test_truncation_is_told(bench, station, handle):
    data = bench.random.randbytes(1000)
    for text in (data, b"next"):
        station.send_to(text, ENGINE, PORT)
    assert bench.library.recvfrom(handle, 10) == (data[:10], (PEER, STATION), 1000)
    assert bench.library.recvfrom(handle, 10) == (b"next", (PEER, STATION), 4)


def test_too_long(bench, station, handle):
    assert error(bench.library.sendto, handle, bytes(1473), (PEER, STATION)) == errno.EMSGSIZE


def test_receive_times_out_and_goes_on(bench, station, handle):
    assert error(bench.library.recvfrom, handle, 10, timeout=0.2) == errno.ETIMEDOUT
    station.send_to(b"late", ENGINE, PORT)
    assert bench.library.recvfrom(handle, 10)[0] == b"late"


def test_only_peer(bench, station, handle):
    """With a peer, datagrams of others do not come, and SEND needs no address."""
    stranger = bench.peer.udp(STATION + 1)
    assert error(bench.library.sendto, handle, b"x", None) == errno.EDESTADDRREQ
    bench.library.set_address_option(handle, SocketOption.PEER, (PEER, STATION))
    assert bench.library.remote(handle) == (PEER, STATION)
    stranger.send_to(b"no", ENGINE, PORT)
    station.send_to(b"yes", ENGINE, PORT)
    assert bench.library.recvfrom(handle, 10)[0] == b"yes"
    assert bench.library.sendto(handle, b"to my peer", None) == 10
    assert arrived(bench, station).data == b"to my peer"
    assert error(bench.library.sendto, handle, b"x", (PEER, STATION + 1)) == errno.EISCONN
    bench.library.set_address_option(handle, SocketOption.PEER, None)
    assert error(bench.library.sendto, handle, b"x", None) == errno.EDESTADDRREQ
    stranger.send_to(b"now", ENGINE, PORT)
    assert bench.library.recvfrom(handle, 10)[:2] == (b"now", (PEER, STATION + 1))
    stranger.close()


def test_port_that_nobody_has_is_reported_to_a_socket_with_a_peer(bench, handle):
    bench.library.set_address_option(handle, SocketOption.PEER, (PEER, CLOSED))
    bench.library.sendto(handle, b"anybody", None)
    assert error(bench.library.recvfrom, handle, 10) == errno.ECONNREFUSED


def test_ports(bench, handle):
    assert bench.library.local(handle) == ("0.0.0.0", PORT)
    assert error(bench.library.udp_open, ("0.0.0.0", PORT)) == errno.EADDRINUSE
    other = bench.library.udp_open(("0.0.0.0", 0))
    assert 49152 <= bench.library.local(other)[1] <= 65535
    bench.library.close(other)
    assert error(bench.library.udp_open, ("10.1.1.1", PORT + 1)) == errno.EADDRNOTAVAIL


def test_operations_of_connections_are_refused(bench, handle):
    assert bench.library.get_option(handle, SocketOption.TYPE) == 2
    assert error(bench.library.set_option, handle, SocketOption.NODELAY, 1) == errno.ENOPROTOOPT


def test_broadcast_needs_the_option(bench, station, handle):
    everybody = ("192.168.77.255", STATION)
    assert error(bench.library.sendto, handle, b"all", everybody) == errno.EACCES
    bench.library.set_option(handle, SocketOption.BROADCAST, 1)
    assert bench.library.sendto(handle, b"all", everybody) == 3
    assert arrived(bench, station).data == b"all"


def test_groups(bench, station, handle):
    group = "239.1.2.3"
    bench.library.set_address_option(handle, SocketOption.JOIN_GROUP, (group, 0))
    station.send_to(b"group", group, PORT)
    assert bench.library.recvfrom(handle, 10)[0] == b"group"
    bench.library.set_address_option(handle, SocketOption.LEAVE_GROUP, (group, 0))
    assert error(bench.library.set_address_option, handle, SocketOption.LEAVE_GROUP, (group, 0)) == errno.EADDRNOTAVAIL
    assert error(bench.library.set_address_option, handle, SocketOption.JOIN_GROUP, (PEER, 0)) == errno.EADDRNOTAVAIL


def test_spread_socket_lives_on_all_cores(bench, station):
    """Each datagram comes to the core that its hash names; the host asks and sends on either."""
    handle = bench.library.udp_open(("0.0.0.0", PORT + 4), UdpFlag.SPREAD)
    assert handle >> 28 & 7 == ALL_CORES
    others = [bench.peer.udp(STATION + 10 + number) for number in range(8)]
    for number, one in enumerate(others):
        one.send_to(bytes([number]), ENGINE, PORT + 4)
    came = {}
    for core in range(CONFIG.cores):
        try:
            while True:
                data, (_, port), _ = bench.library.recvfrom(handle, 10, timeout=0.3, core=core)
                came[data[0]] = (core, port)
        except OSError as over:
            assert over.errno == errno.ETIMEDOUT
    assert sorted(came) == list(range(8)) and len({core for core, _ in came.values()}) == CONFIG.cores
    assert all(port == STATION + 10 + number for number, (_, port) in came.items())
    for core in range(CONFIG.cores):
        assert bench.library.sendto(handle, b"core %d" % core, (PEER, STATION), core=core) == 6
        assert arrived(bench, station).data == b"core %d" % core
    assert error(bench.library.recvfrom, handle, 10, core=CONFIG.cores) == errno.EINVAL
    for one in others:
        one.close()
    bench.library.close(handle)


def test_unreachable_network(bench, handle):
    assert error(bench.library.sendto, handle, b"x", ("10.9.8.7", 9)) == errno.ENETUNREACH


def test_close_ends_a_receive(bench):
    handle = bench.library.udp_open(("0.0.0.0", PORT + 2))
    receive = bench.library.begin_recv(handle, 100)
    bench.library.close(handle)
    assert bench.library.result(receive) == -errno.ECANCELED
    assert error(bench.library.sendto, handle, b"x", (PEER, STATION)) == errno.EBADF


def test_ipv6(bench, station):
    bench.library.configure6(0, ENGINE6)
    bench.wait(lambda: all(bench.library.status(0)["ready6"][:2]), "duplicate address detection", 4 * LIMIT_CYCLES)
    handle = bench.library.udp_open(("::", PORT + 3))
    assert bench.library.sendto(handle, b"six", (PEER6, STATION)) == 3
    got = arrived(bench, station)
    assert (got.data, got.address.lower(), got.port) == (b"six", ENGINE6, PORT + 3)
    station.send_to(b"back", ENGINE6, PORT + 3)
    assert bench.library.recvfrom(handle, 10) == (b"back", (PEER6, STATION), 4)
    station.send_to(b"four", ENGINE, PORT + 3)
    assert bench.library.recvfrom(handle, 10) == (b"four", (PEER, STATION), 4)
    bench.library.close(handle)
