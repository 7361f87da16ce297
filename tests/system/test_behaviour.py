"""One suite over both host libraries, on the simulated engine with its firmware: what an application sees of its sockets."""

from __future__ import annotations

import errno
import hashlib

import pytest

from support.libraries import LIBRARIES
from system.behaviour import CLOSED, ECHO, ENDS, ENGINE, ENGINE6, MAC, PEER, PEER6, driven_by, error
from system.rig import CONFIG, LIMIT_CYCLES
from twinstack.proto.descriptor import RuleAction
from twinstack.proto.queues import SocketOption
from twinstack_host.dispatch import DispatchConfig, DispatchRule

PORT = 7600


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
def listener(bench):
    made = bench.library.listen(("0.0.0.0", PORT))
    yield made
    bench.library.close_listener(made)


# ---- interfaces ----


def test_status_and_statistics(bench):
    status = bench.library.status(0)
    assert status["configured"] and status["prefix_length"] == 24
    assert status["address"] == bytes([192, 168, 77, 1]) and status["mac"] == bytes.fromhex(MAC.replace(":", ""))
    assert not bench.library.status(1)["configured"]
    for core in range(CONFIG.cores):
        assert bench.library.stats(core)["core"] == core
    assert error(bench.library.stats, CONFIG.cores) == errno.EINVAL
    assert error(bench.library.status, CONFIG.ports) == errno.EINVAL
    assert error(bench.library.configure, CONFIG.ports, ENGINE, 24, MAC) == errno.EINVAL
    assert error(bench.library.configure, 0, ENGINE, 33, MAC) == errno.EINVAL
    assert error(bench.library.configure, 0, ENGINE, 24, "01:00:00:00:00:01") == errno.EINVAL


# ---- listen, accept, connect ----


def test_accept_echo_names(bench, listener):
    handle, connection = bench.accepted(listener, PORT, 7000)
    assert bench.library.local(handle) == (ENGINE, PORT) and bench.library.remote(handle) == (PEER, 7000)
    connection.send_all(b"question")
    assert bench.received(handle, 8) == b"question"
    assert bench.library.send(handle, b"answer") == 6
    bench.wait(lambda: connection.recv() == b"answer", "the answer")
    bench.library.close(handle)
    bench.wait(lambda: connection.peer_closed, "FIN")
    connection.close()


def test_listener_lives_on(bench, listener):
    pairs = [bench.accepted(listener, PORT) for _ in range(4)]
    handles = [handle for handle, _ in pairs]
    assert len(set(handles)) == 4
    for number, (handle, connection) in enumerate(pairs):
        connection.send_all(bytes([number]))
        assert bench.library.recv(handle, 10) == bytes([number])
    for handle, connection in pairs:
        bench.library.abort(handle)
        bench.wait(lambda connection=connection: connection.closed, "RST")
        connection.close()


def test_accept_times_out_and_goes_on(bench, listener):
    before = bench.link.clock()
    assert error(bench.library.accept, listener, 0.2) == errno.ETIMEDOUT
    assert 0.2 <= bench.link.clock() - before < 1.0
    handle, connection = bench.accepted(listener, PORT)
    bench.library.abort(handle)
    connection.close()


def test_listen_errors(bench, listener):
    assert error(bench.library.listen, ("0.0.0.0", PORT)) == errno.EADDRINUSE
    assert error(bench.library.listen, (ENGINE, PORT)) == errno.EADDRINUSE
    assert error(bench.library.listen, ("0.0.0.0", 0)) == errno.EINVAL
    opened = []
    with pytest.raises(OSError) as caught:
        while len(opened) < 20:
            opened.append(bench.library.listen(("0.0.0.0", PORT + 1 + len(opened))))
    assert caught.value.errno == errno.ENFILE and len(opened) == 7, "eight listeners with that of the fixture"
    for one in opened:
        bench.library.close_listener(one)
    bench.library.close_listener(bench.library.listen(("0.0.0.0", PORT + 1)))


def test_closed_listener_refuses(bench):
    listener = bench.library.listen(("0.0.0.0", PORT + 20))
    bench.library.close_listener(listener)
    connection = bench.peer.connect(ENGINE, PORT + 20)
    bench.wait(lambda: connection.closed, "the refusal")
    connection.close()
    assert error(bench.library.accept, listener, 0.1) == errno.ECANCELED


def test_connect_echo_names(bench):
    handle = bench.library.connect((PEER, ECHO))
    address, port = bench.library.local(handle)
    assert address == ENGINE and 49152 <= port <= 65535
    assert bench.library.remote(handle) == (PEER, ECHO)
    bench.library.send(handle, b"hello")
    assert bench.received(handle, 5) == b"hello"
    bench.library.close(handle)


def test_connect_from_a_port_of_ones_choice(bench):
    handle = bench.library.connect((PEER, ECHO), local=(ENGINE, 5001))
    assert bench.library.local(handle) == (ENGINE, 5001)
    assert error(bench.library.connect, (PEER, ECHO), local=(ENGINE, 5001)) == errno.EADDRINUSE
    assert error(bench.library.connect, (PEER, ECHO), local=("10.1.1.1", 5002)) == errno.EADDRNOTAVAIL
    bench.library.abort(handle)


@pytest.mark.parametrize(
    "address, expected",
    [
        ((PEER, CLOSED), errno.ECONNREFUSED),
        (("10.9.8.7", 80), errno.ENETUNREACH),
        # Five seconds of the engine's time, and of many people's.
        pytest.param(("192.168.77.200", 80), errno.EHOSTUNREACH, marks=pytest.mark.nightly),
        ((PEER, 0), errno.EINVAL),
    ],
)
def test_connect_errors(bench, address, expected):
    assert error(bench.library.connect, address, timeout=60.0) == expected


# ---- data ----


def test_large_transfer_both_ways(bench):
    """Echoed by the peer while the host sends on: hashes agree."""
    size = 16_000
    handle = bench.library.connect((PEER, ECHO))
    data = bench.random.randbytes(size)
    sent, got = 0, b""
    while len(got) < size:
        if sent < size and sent - len(got) < 8000:
            sent += bench.library.send(handle, data[sent : sent + bench.random.randrange(1, 5000)])
        else:
            got += bench.library.recv(handle, bench.random.randrange(1, 5000))
    assert hashlib.sha256(got).digest() == hashlib.sha256(data).digest()
    bench.library.close(handle)


@pytest.mark.parametrize("length", [1, 1460, 1461, 4096, 4097])
def test_lengths(bench, length):
    handle = bench.library.connect((PEER, ECHO))
    data = bench.random.randbytes(length)
    assert bench.library.send(handle, data) == length
    assert bench.received(handle, length) == data
    bench.library.close(handle)


def test_nothing_to_send_or_receive(bench):
    handle = bench.library.connect((PEER, ECHO))
    assert bench.library.send(handle, b"") == 0
    assert bench.library.recv(handle, 0) == b""
    bench.library.close(handle)


def test_receive_times_out_and_the_connection_goes_on(bench):
    handle = bench.library.connect((PEER, ECHO))
    assert error(bench.library.recv, handle, 10, timeout=0.2) == errno.ETIMEDOUT
    bench.library.send(handle, b"late")
    assert bench.received(handle, 4) == b"late"
    bench.library.close(handle)


def test_half_close_by_the_host(bench):
    """SHUTDOWN ends our direction; what the peer still sends arrives, then its end."""
    server = bench.peer.listen(ENDS)
    handle = bench.library.connect((PEER, ENDS))
    ends = []
    bench.wait(lambda: ends or ends.extend(filter(None, [server.accept()])), "the peer's accept")
    bench.library.send(handle, b"all there is")
    bench.library.shutdown(handle)
    bench.wait(lambda: ends[0].peer_closed, "FIN")
    assert ends[0].recv() == b"all there is"
    assert error(bench.library.send, handle, b"more") == errno.EPIPE
    ends[0].send_all(b"answer")
    ends[0].shutdown()
    assert bench.received(handle, 6) == b"answer"
    assert bench.library.recv(handle, 10) == b"" and bench.library.recv(handle, 10) == b""
    bench.library.close(handle)
    ends[0].close()
    server.close()


def test_half_close_by_the_peer(bench, listener):
    handle, connection = bench.accepted(listener, PORT)
    connection.send_all(b"bye")
    connection.shutdown()
    assert bench.received(handle, 3) == b"bye" and bench.library.recv(handle, 10) == b""
    bench.library.send(handle, b"not yet")
    got = bytearray()
    bench.wait(lambda: got.extend(connection.recv()) or got == b"not yet", "the rest")
    bench.library.close(handle)
    bench.wait(lambda: connection.peer_closed or connection.closed, "FIN")
    connection.close()


def test_reset_by_the_peer(bench, listener):
    handle, connection = bench.accepted(listener, PORT)
    connection.abort()
    assert error(bench.library.recv, handle, 10) == errno.ECONNRESET
    assert error(bench.library.send, handle, b"x") in (errno.ECONNRESET, errno.EPIPE)
    bench.library.close(handle)


def test_abort_resets_the_peer(bench, listener):
    handle, connection = bench.accepted(listener, PORT)
    receive = bench.library.begin_recv(handle, 100)
    bench.library.abort(handle)
    assert bench.library.result(receive) == -errno.ECANCELED
    bench.wait(lambda: connection.closed, "RST")
    assert connection.error
    connection.close()


@pytest.mark.parametrize("end", ["close", "abort"])
def test_handle_is_dead_after_its_end(bench, end):
    library = bench.library
    handle = library.connect((PEER, ECHO))
    getattr(library, end)(handle)
    for call in (
        lambda: library.send(handle, b"x"),
        lambda: library.recv(handle, 1),
        lambda: library.shutdown(handle),
        lambda: library.close(handle),
        lambda: library.abort(handle),
        lambda: library.local(handle),
        lambda: library.remote(handle),
        lambda: library.get_option(handle, SocketOption.TTL),
        lambda: library.set_option(handle, SocketOption.TTL, 9),
    ):
        assert error(call) == errno.EBADF


# ---- options, cancel ----

TCP_OPTIONS = {
    SocketOption.NODELAY: (0, 1),
    SocketOption.KEEPALIVE: (1, 0),
    SocketOption.KEEPIDLE: (1, 32767),
    SocketOption.KEEPINTVL: (1, 32767),
    SocketOption.KEEPCNT: (1, 127),
    SocketOption.LINGER: (1, 30, 0),
    SocketOption.USER_TIMEOUT: (500, 0),
    SocketOption.TTL: (1, 255, 64),
    SocketOption.TOS: (0, 255, 0x10),
}


@pytest.mark.parametrize("option", TCP_OPTIONS, ids=lambda option: option.name)
def test_options_of_a_connection(bench, option):
    handle = bench.library.connect((PEER, ECHO))
    for value in TCP_OPTIONS[option]:
        bench.library.set_option(handle, option, value)
        assert bench.library.get_option(handle, option) == value
    bench.library.abort(handle)


def test_options_that_cannot_be(bench):
    library = bench.library
    handle = library.connect((PEER, ECHO))
    assert library.get_option(handle, SocketOption.TYPE) == 1
    assert library.get_option(handle, SocketOption.ERROR) == 0
    assert library.get_option(handle, SocketOption.NODELAY) == 1, "the default"
    for option, value in ((SocketOption.NODELAY, 2), (SocketOption.KEEPCNT, 128), (SocketOption.TTL, 0)):
        assert error(library.set_option, handle, option, value) == errno.EINVAL
    for option in (SocketOption.TYPE, SocketOption.BROADCAST, 99):
        assert error(library.set_option, handle, option, 1) == errno.ENOPROTOOPT
    for option in (SocketOption.BROADCAST, 99):
        assert error(library.get_option, handle, option) == errno.ENOPROTOOPT
    library.send(handle, b"fine")
    assert bench.received(handle, 4) == b"fine"
    library.abort(handle)


def test_options_of_a_listener_go_to_its_connections(bench, listener):
    raw = listener[0] if bench.library.name == "python" else listener[0].handle
    bench.library.set_option(raw, SocketOption.KEEPIDLE, 77)
    handle, connection = bench.accepted(listener, PORT)
    assert bench.library.get_option(handle, SocketOption.KEEPIDLE) == 77
    bench.library.abort(handle)
    connection.close()


def test_linger_of_zero_resets(bench, listener):
    handle, connection = bench.accepted(listener, PORT)
    bench.library.set_option(handle, SocketOption.LINGER, 1)
    bench.library.close(handle)
    bench.wait(lambda: connection.closed, "RST")
    assert connection.error
    connection.close()


def test_cancel_of_a_receive(bench):
    """The one that is named ends; one behind it takes the data."""
    handle = bench.library.connect((PEER, ECHO))
    first, second = bench.library.begin_recv(handle, 100), bench.library.begin_recv(handle, 100)
    bench.library.cancel(first)
    assert bench.library.result(first) == -errno.ECANCELED
    bench.library.send(handle, b"echo")
    assert bench.library.result(second) == 4
    bench.library.close(handle)


def test_cancel_of_what_is_over(bench):
    handle = bench.library.connect((PEER, ECHO))
    bench.library.send(handle, b"echo")
    receive = bench.library.begin_recv(handle, 100)
    assert bench.library.result(receive) == 4
    bench.library.cancel(receive)
    bench.library.send(handle, b"again")
    assert bench.received(handle, 5) == b"again"
    bench.library.close(handle)


def test_connect_that_is_given_up(bench):
    """Nobody has that address; the call ends at its time-out, and nothing stays."""
    before = bench.link.clock()
    assert error(bench.library.connect, ("192.168.77.201", 80), timeout=0.3) == errno.ETIMEDOUT
    assert bench.link.clock() - before < 1.0


# ---- IPv6 ----


@pytest.fixture
def ipv6(bench):
    bench.library.configure6(0, ENGINE6)
    bench.wait(lambda: all(bench.library.status(0)["ready6"][:2]), "duplicate address detection", 4 * LIMIT_CYCLES)


def test_ipv6_both_directions(bench, ipv6):
    handle = bench.library.connect((PEER6, ECHO), timeout=30.0)
    assert bench.library.remote(handle) == (PEER6, ECHO) and bench.library.local(handle)[0] == ENGINE6
    data = bench.random.randbytes(5000)
    bench.library.send(handle, data)
    assert bench.received(handle, 5000) == data
    bench.library.close(handle)
    listener = bench.library.listen(("::", PORT + 30))
    for address, source in ((ENGINE6, PEER6), (ENGINE, PEER)):
        handle, connection = bench.accepted(listener, PORT + 30, address=address)
        assert bench.library.remote(handle)[0] == source
        connection.send_all(b"six")
        assert bench.received(handle, 3) == b"six"
        bench.library.abort(handle)
        connection.close()
    bench.library.close_listener(listener)


def test_ipv6_errors(bench, ipv6):
    assert error(bench.library.connect, (PEER6, CLOSED), timeout=30.0) == errno.ECONNREFUSED
    assert error(bench.library.connect, ("::ffff:192.168.77.2", ECHO)) == errno.EINVAL


# ---- dispatcher ----


def test_dispatch_configuration(bench):
    before = bench.library.dispatch()
    table = tuple(bench.random.randrange(CONFIG.cores) for _ in range(128))
    rules = [
        DispatchRule(RuleAction.CORE, core=1, ethertype=0x0800, protocol=6, destination_port=PORT + 40),
        DispatchRule(RuleAction.DROP, source_port=7),
    ]
    key = bench.random.randbytes(40)
    bench.library.set_dispatch(DispatchConfig(key, True, False, table, rules))
    after = bench.library.dispatch()
    assert (after.key, after.tcp_ports, after.udp_ports, after.indirection) == (key, True, False, table)
    assert list(after.rules[:2]) == rules and all(rule == DispatchRule() for rule in after.rules[2:])
    listener = bench.library.listen(("0.0.0.0", PORT + 40))
    for _ in range(3):  # the rule says so, whatever the hash
        handle, connection = bench.accepted(listener, PORT + 40)
        assert handle >> 28 & 7 == 1
        bench.library.abort(handle)
        connection.close()
    bench.library.close_listener(listener)
    bench.library.set_dispatch(before)
    assert bench.library.dispatch() == before
