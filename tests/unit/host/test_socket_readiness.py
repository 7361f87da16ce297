"""The same for readiness, options and datagrams: one test body for the standard library's sockets and for offloaded ones."""

from __future__ import annotations

import errno
import random
import select
import selectors
import struct
import threading
import time

import pytest

from support.offloaded import HOST, readable, soon

# --- Selecting -----------------------------------------------------------------------------------------------------


def poll_with_select(sock, timeout):
    ready = select.select([sock], [sock], [], timeout)
    return bool(ready[0]), bool(ready[1])


def poll_with_poll(sock, timeout):
    poller = select.poll()
    poller.register(sock, select.POLLIN | select.POLLOUT)
    mask = dict(poller.poll(timeout * 1000)).get(sock.fileno(), 0)
    return bool(mask & select.POLLIN), bool(mask & select.POLLOUT)


def poll_with_epoll(sock, timeout):
    with select.epoll() as poller:
        poller.register(sock, select.EPOLLIN | select.EPOLLOUT)
        mask = dict(poller.poll(timeout)).get(sock.fileno(), 0)
    return bool(mask & select.EPOLLIN), bool(mask & select.EPOLLOUT)


@pytest.mark.parametrize("poll", [poll_with_select, poll_with_poll, poll_with_epoll])
def test_readiness(sockets, poll):
    with sockets.create_server((HOST, 0)) as server:
        assert poll(server, 0) == (False, False)
        with sockets.create_connection(server.getsockname()) as one:
            soon(lambda: poll(server, 0.1) == (True, False), "a connection to accept")
            with server.accept()[0] as two:
                assert poll(server, 0) == (False, False)
                assert poll(two, 0) == (False, True)
                one.send(b"xy")
                soon(lambda: poll(two, 0.1) == (True, True), "data")
                two.recv(1)
                assert poll(two, 0) == (True, True), "a byte is left"
                two.recv(1)
                assert poll(two, 0) == (False, True)
                one.shutdown(sockets.SHUT_WR)
                soon(lambda: poll(two, 0.1) == (True, True), "the end")
                assert two.recv(1) == b"" and poll(two, 0) == (True, True)


def test_one_selector_serves_many(sockets):
    """An echo server in a selectors loop."""
    selector = selectors.DefaultSelector()
    done = []

    def client(number):
        with sockets.create_connection(server.getsockname(), timeout=10) as one:
            data = random.Random(number).randbytes(3000 * number + 1)
            one.sendall(data)
            one.shutdown(sockets.SHUT_WR)
            got = b""
            while part := one.recv(10_000):
                got += part
            done.append(got == data)

    with sockets.create_server((HOST, 0)) as server:
        server.setblocking(False)
        selector.register(server, selectors.EVENT_READ, None)
        threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        end = time.monotonic() + 20
        while len(done) < len(threads):
            assert time.monotonic() < end
            for key, mask in selector.select(0.05):
                if key.data is None:
                    accepted = server.accept()[0]
                    accepted.setblocking(False)
                    selector.register(accepted, selectors.EVENT_READ | selectors.EVENT_WRITE, bytearray())
                    continue
                pending = key.data
                if mask & selectors.EVENT_READ and len(pending) < 50_000:
                    part = key.fileobj.recv(4096)
                    pending += part
                    if not part and not pending:
                        selector.unregister(key.fileobj)
                        key.fileobj.close()
                        continue
                if mask & selectors.EVENT_WRITE and pending:
                    try:
                        del pending[: key.fileobj.send(pending)]
                    except BlockingIOError:
                        pass
        for thread in threads:
            thread.join()
        selector.close()
    assert done == [True] * 8


# --- Options -------------------------------------------------------------------------------------------------------


def test_options(sockets, pair):
    one = pair[0]
    for level, name in (
        (sockets.SOL_SOCKET, sockets.SO_REUSEADDR),
        (sockets.SOL_SOCKET, sockets.SO_KEEPALIVE),
        (sockets.IPPROTO_TCP, sockets.TCP_NODELAY),
    ):
        one.setsockopt(level, name, 1)
        assert one.getsockopt(level, name) == 1
        assert struct.unpack("i", one.getsockopt(level, name, 4)) == (1,)
        one.setsockopt(level, name, struct.pack("i", 0))
        assert one.getsockopt(level, name) == 0
    one.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_KEEPIDLE, 33)
    assert one.getsockopt(sockets.IPPROTO_TCP, sockets.TCP_KEEPIDLE) == 33
    assert one.getsockopt(sockets.SOL_SOCKET, sockets.SO_TYPE) == sockets.SOCK_STREAM
    assert one.getsockopt(sockets.SOL_SOCKET, sockets.SO_ACCEPTCONN) == 0


def test_bad_options(sockets, pair):
    with pytest.raises(OSError) as caught:
        pair[0].setsockopt(sockets.IPPROTO_TCP, 12345, 1)
    assert caught.value.errno == errno.ENOPROTOOPT
    with pytest.raises(OSError) as caught:
        pair[0].getsockopt(sockets.IPPROTO_TCP, 12345)
    assert caught.value.errno == errno.ENOPROTOOPT
    with pytest.raises(OSError) as caught:
        pair[0].setsockopt(sockets.IPPROTO_IPV6, sockets.IPV6_UNICAST_HOPS, 5)
    assert caught.value.errno == errno.ENOPROTOOPT
    with pytest.raises(OSError) as caught:
        pair[0].setsockopt(sockets.IPPROTO_TCP, sockets.TCP_KEEPIDLE, 0)
    assert caught.value.errno == errno.EINVAL


# --- Datagrams -----------------------------------------------------------------------------------------------------


@pytest.fixture
def datagrams(sockets):
    with (
        sockets.socket(sockets.AF_INET, sockets.SOCK_DGRAM) as one,
        sockets.socket(sockets.AF_INET, sockets.SOCK_DGRAM) as two,
    ):
        two.bind((HOST, 0))
        for sock in (one, two):
            sock.settimeout(5)
        yield one, two


def test_datagrams_both_ways(datagrams):
    one, two = datagrams
    assert one.sendto(b"hello", two.getsockname()) == 5
    data, sender = two.recvfrom(100)
    assert data == b"hello" and sender == (HOST, one.getsockname()[1])
    assert two.sendto(b"back", 0, sender) == 4
    assert one.recvfrom(100) == (b"back", two.getsockname())
    assert one.sendto(b"", two.getsockname()) == 0
    assert two.recv(10) == b""


def test_datagrams_keep_their_borders(sockets, datagrams):
    one, two = datagrams
    address = two.getsockname()
    for data in (b"first", b"second", b"third", b"fourth"):
        one.sendto(data, address)
        assert readable(two)
    assert two.recv(3) == b"fir", "the rest is lost"
    assert two.recv(100, sockets.MSG_PEEK) == b"second" == two.recv(100)
    buffer = bytearray(2)
    assert two.recv_into(buffer, 0, sockets.MSG_TRUNC) == 5 and buffer == b"th"
    data, ancillary, flags, _ = two.recvmsg(3)
    assert (data, ancillary, flags) == (b"fou", [], sockets.MSG_TRUNC)


def test_connected_datagrams(sockets, datagrams):
    one, two = datagrams
    with pytest.raises(OSError) as caught:
        one.send(b"x")
    assert caught.value.errno == errno.EDESTADDRREQ
    one.connect(two.getsockname())
    assert one.getpeername() == two.getsockname() and one.getsockname()[0] in (HOST, "0.0.0.0")
    one.send(b"by connect")
    data, sender = two.recvfrom(100)
    assert data == b"by connect" and sender[1] == one.getsockname()[1]


def test_datagram_refusals(sockets, datagrams):
    one, two = datagrams
    two.setblocking(False)
    with pytest.raises(BlockingIOError):
        two.recvfrom(10)
    two.settimeout(0.02)
    with pytest.raises(TimeoutError):
        two.recv(10)
    with pytest.raises(OSError) as caught:
        one.sendto(bytes(70_000), two.getsockname())
    assert caught.value.errno == errno.EMSGSIZE
    with pytest.raises(PermissionError):
        one.sendto(b"x", ("255.255.255.255", 9))
    one.setblocking(False)
    for call in (one.listen, one.accept):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EOPNOTSUPP
    with sockets.socket(sockets.AF_INET, sockets.SOCK_DGRAM) as three, pytest.raises(OSError) as caught:
        three.bind(two.getsockname())
    assert caught.value.errno == errno.EADDRINUSE


def test_datagram_readiness(datagrams):
    one, two = datagrams
    assert poll_with_poll(two, 0) == (False, True)
    one.sendto(b"x", two.getsockname())
    soon(lambda: poll_with_epoll(two, 0.1) == (True, True), "a datagram")
    two.recv(1)
    assert poll_with_select(two, 0) == (False, True)
