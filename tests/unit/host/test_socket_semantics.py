"""The same test bodies over the standard library's sockets and over offloaded ones: they must not tell the difference."""

from __future__ import annotations

import errno
import hashlib
import io
import random
import select
import struct
import threading
import time

import pytest

from support.offloaded import HOST, readable, soon

NOBODY = 9  # discard: nobody listens there


# --- Construction --------------------------------------------------------------------------------------------------


def test_attributes_and_context_manager(sockets):
    with sockets.socket() as one:
        assert (one.family, one.type, one.proto) == (sockets.AF_INET, sockets.SOCK_STREAM, 0)
        assert one.fileno() >= 0 and one.gettimeout() is None and one.timeout is None and one.getblocking()
        assert one.getsockname() == ("0.0.0.0", 0)
        assert "family=" in repr(one) and "closed" not in repr(one)
    assert one.fileno() == -1 and "[closed]" in repr(one)
    one.close()
    for call in (one.getsockname, one.accept, lambda: one.recv(1), lambda: one.send(b"x"), lambda: one.listen()):
        with pytest.raises(OSError) as caught:
            call()
        assert caught.value.errno == errno.EBADF


def test_non_blocking_type_flag(sockets):
    with sockets.socket(sockets.AF_INET, sockets.SOCK_STREAM | sockets.SOCK_NONBLOCK) as one:
        assert one.type == sockets.SOCK_STREAM and one.gettimeout() == 0


def test_protocol_of_another_type_is_refused(sockets):
    with pytest.raises(OSError) as caught:
        sockets.socket(sockets.AF_INET, sockets.SOCK_STREAM, sockets.IPPROTO_UDP)
    assert caught.value.errno == errno.EPROTONOSUPPORT


def test_time_outs(sockets):
    with sockets.socket() as one:
        one.settimeout(2)
        assert one.gettimeout() == 2.0 and one.getblocking()
        one.setblocking(False)
        assert one.gettimeout() == 0.0 and not one.getblocking()
        one.setblocking(True)
        assert one.gettimeout() is None
        with pytest.raises(ValueError, match="Timeout value out of range"):
            one.settimeout(-1)
    before = sockets.getdefaulttimeout()
    try:
        sockets.setdefaulttimeout(7)
        with sockets.socket() as one:
            assert one.gettimeout() == 7.0
    finally:
        sockets.setdefaulttimeout(before)


# --- Addresses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("127.0.0.1", TypeError),
        ((HOST,), TypeError),
        ((HOST, "80"), TypeError),
        ((HOST, 65536), OverflowError),
        ((HOST, -1), OverflowError),
    ],
)
def test_bad_addresses(sockets, address, error):
    with sockets.socket() as one, pytest.raises(error):
        one.connect(address)
    with sockets.socket() as one, pytest.raises(error):
        one.bind(address)


def test_port_zero_becomes_a_port(sockets):
    with sockets.socket() as one:
        one.bind((HOST, 0))
        host, port = one.getsockname()
        assert host == HOST and port > 1023
        one.listen()
        assert one.getsockname()[0] == HOST
        with pytest.raises(OSError) as caught:
            one.bind((HOST, 0))
        assert caught.value.errno == errno.EINVAL


def test_address_in_use(sockets):
    with sockets.create_server((HOST, 0)) as server:
        with pytest.raises(OSError) as caught:
            sockets.create_server(server.getsockname())
        assert caught.value.errno == errno.EADDRINUSE


def test_port_is_free_again_after_close(sockets):
    with sockets.create_server((HOST, 0)) as server:
        address = server.getsockname()
    with sockets.create_server(address) as server:
        assert server.getsockname() == address


def test_getaddrinfo_of_numbers(sockets):
    stream = sockets.getaddrinfo(HOST, 80, type=sockets.SOCK_STREAM)
    assert stream == [(sockets.AF_INET, sockets.SOCK_STREAM, 6, "", (HOST, 80))]
    assert sockets.getaddrinfo("::1", "http", 0, sockets.SOCK_STREAM)[0][4] == ("::1", 80, 0, 0)
    assert ("0.0.0.0", 5) in [one[4] for one in sockets.getaddrinfo(None, 5, 2, 1, 0, sockets.AI_PASSIVE)]
    with pytest.raises(sockets.gaierror):
        sockets.getaddrinfo("nonsense", 80, flags=sockets.AI_NUMERICHOST)
    with pytest.raises(sockets.gaierror):
        sockets.getaddrinfo("127.0.0.1", 80, sockets.AF_INET6, flags=sockets.AI_NUMERICHOST)
    assert sockets.gethostbyname("10.1.2.3") == "10.1.2.3"


# --- Connecting ----------------------------------------------------------------------------------------------------


def test_refused(sockets):
    with sockets.socket() as one:
        with pytest.raises(ConnectionRefusedError):
            one.connect((HOST, NOBODY))
        assert one.connect_ex((HOST, NOBODY)) == errno.ECONNREFUSED
    with pytest.raises(ConnectionRefusedError):
        sockets.create_connection((HOST, NOBODY), timeout=5)
    with pytest.raises(ExceptionGroup) as caught:
        sockets.create_connection((HOST, NOBODY), timeout=5, all_errors=True)
    assert isinstance(caught.value.exceptions[0], ConnectionRefusedError)


def test_connecting_twice(sockets, pair):
    with pytest.raises(OSError) as caught:
        pair[0].connect(pair[0].getpeername())
    assert caught.value.errno == errno.EISCONN


def test_non_blocking_connect(sockets):
    with sockets.create_server((HOST, 0)) as server, sockets.socket() as one:
        one.setblocking(False)
        with pytest.raises(BlockingIOError) as caught:
            one.connect(server.getsockname())
        assert caught.value.errno == errno.EINPROGRESS
        assert select.select([], [one], [], 5)[1] == [one]
        assert one.getsockopt(sockets.SOL_SOCKET, sockets.SO_ERROR) == 0
        assert one.getpeername() == server.getsockname()
        server.accept()[0].close()


def test_non_blocking_connect_refused(sockets):
    with sockets.socket() as one:
        one.setblocking(False)
        code = one.connect_ex((HOST, NOBODY))
        assert code in (errno.EINPROGRESS, errno.ECONNREFUSED)
        if code == errno.EINPROGRESS:
            assert select.select([], [one], [], 5)[1] == [one]
            assert one.getsockopt(sockets.SOL_SOCKET, sockets.SO_ERROR) == errno.ECONNREFUSED
            assert one.getsockopt(sockets.SOL_SOCKET, sockets.SO_ERROR) == 0


def test_not_connected(sockets):
    with sockets.socket() as one:
        for call in (one.getpeername, lambda: one.recv(1), lambda: one.shutdown(sockets.SHUT_RDWR)):
            with pytest.raises(OSError) as caught:
                call()
            assert caught.value.errno == errno.ENOTCONN
        with pytest.raises(BrokenPipeError):
            one.send(b"x")
        with pytest.raises(OSError) as caught:
            one.accept()
        assert caught.value.errno == errno.EINVAL


def test_accept_without_a_connection(sockets):
    with sockets.create_server((HOST, 0)) as server:
        server.setblocking(False)
        with pytest.raises(BlockingIOError):
            server.accept()
        server.settimeout(0.05)
        with pytest.raises(TimeoutError, match="timed out"):
            server.accept()
        assert server.getsockopt(sockets.SOL_SOCKET, sockets.SO_ACCEPTCONN) == 1


def test_accepted_sockets_are_blocking(sockets):
    with sockets.create_server((HOST, 0)) as server:
        server.settimeout(5)
        with sockets.create_connection(server.getsockname()), server.accept()[0] as accepted:
            assert accepted.gettimeout() is None and accepted.type == sockets.SOCK_STREAM


# --- Streams -------------------------------------------------------------------------------------------------------


def test_bytes_both_ways(pair):
    one, two = pair
    assert one.send(b"hello") == 5 and two.recv(100) == b"hello"
    assert two.sendall(bytearray(b"back")) is None and one.recv(100) == b"back"
    assert one.send(b"") == 0
    assert one.sendmsg([b"a", memoryview(b"bc"), b""]) == 3
    buffer = bytearray(5)
    soon(lambda: two.recv(10, 0x2) == b"abc", "data")  # MSG_PEEK
    assert two.recv_into(buffer) == 3 and buffer == b"abc\0\0"


@pytest.mark.parametrize("size", [1, 1460, 4096, 100_001, 1_000_000])
def test_bulk(pair, size):
    one, two = pair
    data = random.Random(size).randbytes(size)
    sender = threading.Thread(target=lambda: (one.sendall(data), one.shutdown(1)))
    sender.start()
    digest, count = hashlib.sha256(), 0
    while part := two.recv(70_000):
        digest.update(part)
        count += len(part)
    sender.join()
    assert count == size and digest.digest() == hashlib.sha256(data).digest()


def test_partial_reads(pair):
    one, two = pair
    one.sendall(b"0123456789")
    soon(lambda: len(two.recv(10, 0x2)) == 10, "data")
    assert two.recv(3) == b"012" and two.recv(3) == b"345" and two.recv(0) == b""
    with pytest.raises(ValueError, match="negative buffersize"):
        two.recv(-1)
    with pytest.raises(ValueError, match="buffer too small"):
        two.recv_into(bytearray(2), 3)
    buffers = [bytearray(1), bytearray(10)]
    assert two.recvmsg_into(buffers)[0] == 4 and buffers[0] == b"6" and buffers[1][:3] == b"789"


def test_waitall(sockets, pair):
    one, two = pair

    def trickle():
        for part in (b"aa", b"bb", b"cc"):
            one.sendall(part)
            time.sleep(0.02)
        one.shutdown(sockets.SHUT_WR)

    two.settimeout(None)  # with a time-out the standard library's descriptor does not block, and WAITALL means nothing
    thread = threading.Thread(target=trickle)
    thread.start()
    assert two.recv(5, sockets.MSG_WAITALL) == b"aabbc"
    assert two.recv(5, sockets.MSG_WAITALL) == b"c", "what there is at the end"
    thread.join()


def test_dontwait(sockets, pair):
    pair[0].settimeout(None)
    with pytest.raises(BlockingIOError):
        pair[0].recv(1, sockets.MSG_DONTWAIT)


def test_receive_times_out_and_goes_on(pair):
    one, two = pair
    two.settimeout(0.05)
    began = time.monotonic()
    with pytest.raises(TimeoutError, match="timed out"):
        two.recv(1)
    assert 0.04 < time.monotonic() - began < 2
    one.send(b"late")
    two.settimeout(5)
    assert two.recv(10) == b"late"


def test_non_blocking_receive(pair):
    one, two = pair
    two.setblocking(False)
    with pytest.raises(BlockingIOError) as caught:
        two.recv(1)
    assert caught.value.errno == errno.EAGAIN
    one.send(b"x")
    assert readable(two) and two.recv(10) == b"x"


def test_a_full_connection_stops_the_sender(sockets, pair):
    one, two = pair
    one.setblocking(False)
    sent = 0
    with pytest.raises(BlockingIOError):
        while True:
            sent += one.send(bytes(100_000))
            select.select([], [one], [], 0.2)
    assert not select.select([], [one], [], 0)[1]
    one.settimeout(0.05)
    with pytest.raises(TimeoutError):
        one.sendall(bytes(10_000_000))
    one.setblocking(False)
    got = 0
    end = time.monotonic() + 10
    while not select.select([], [one], [], 0)[1]:
        assert time.monotonic() < end
        got += len(two.recv(100_000))
    assert one.send(b"again") > 0
    two.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 0))


# --- Ends ----------------------------------------------------------------------------------------------------------


def test_half_close(sockets, pair):
    one, two = pair
    one.sendall(b"question")
    one.shutdown(sockets.SHUT_WR)
    assert two.recv(100, sockets.MSG_WAITALL) == b"question" and two.recv(1) == b"" and two.recv(1) == b""
    two.sendall(b"answer")
    assert one.recv(6, sockets.MSG_WAITALL) == b"answer"
    with pytest.raises(BrokenPipeError):
        one.send(b"x")
    two.close()
    assert one.recv(1) == b""


def test_shut_for_reading(sockets, pair):
    one, two = pair
    two.shutdown(sockets.SHUT_RD)
    assert two.recv(1) == b""
    two.sendall(b"still")
    assert one.recv(10) == b"still"


def test_close_delivers_what_was_sent(pair):
    one, two = pair
    data = random.Random(1).randbytes(200_000)
    sender = threading.Thread(target=lambda: (one.sendall(data), one.close()))
    sender.start()
    got = b""
    while part := two.recv(50_000):
        got += part
    sender.join()
    assert got == data


def test_reset_by_linger_zero(sockets, pair):
    one, two = pair
    one.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 0))
    assert struct.unpack("ii", one.getsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, 8)) == (1, 0)
    one.close()
    with pytest.raises(ConnectionResetError):
        two.recv(1)
    assert two.recv(1) == b"", "an error is reported once"
    with pytest.raises(BrokenPipeError):
        two.send(b"x")


def test_close_with_unread_data_resets(pair):
    one, two = pair
    one.sendall(b"nobody reads this")
    assert readable(two)
    two.close()
    with pytest.raises(ConnectionResetError):
        one.recv(1)


@pytest.mark.parametrize("blocking", [True, False])
def test_orderly_linger(sockets, pair, blocking):
    one, two = pair
    one.setblocking(blocking)
    one.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, struct.pack("ii", 1, 5))
    one.sendall(b"the last words")
    one.close()
    assert two.recv(100, sockets.MSG_WAITALL) == b"the last words"


def test_detach(sockets, pair):
    one, two = pair
    number = one.detach()
    assert one.fileno() == -1 and number >= 0
    with pytest.raises(OSError):
        one.send(b"x")
    again = sockets.socket(fileno=number)
    again.sendall(b"still there")
    assert two.recv(100) == b"still there"
    again.close()
    assert two.recv(1) == b""


# --- Files ---------------------------------------------------------------------------------------------------------


def test_makefile(pair):
    one, two = pair
    with one.makefile("w", encoding="utf-8", newline="\n") as writer, two.makefile("rb") as reader:
        writer.write("first\nsecönd\n")
        writer.flush()
        assert reader.readline() == b"first\n" and reader.readline() == "secönd\n".encode()
        assert one.fileno() >= 0


def test_file_keeps_the_connection(pair):
    one, two = pair
    file = one.makefile("rwb", buffering=0)
    one.close()
    file.write(b"still open")
    assert two.recv(100) == b"still open"
    file.close()
    assert two.recv(1) == b""


def test_makefile_with_time_out(pair):
    one, two = pair
    two.settimeout(0.05)
    with two.makefile("rb") as file:
        with pytest.raises(TimeoutError):
            file.read(1)
        with pytest.raises(OSError, match="cannot read from timed out object"):
            file.read(1)


def test_sendfile(pair):
    one, two = pair
    data = random.Random(2).randbytes(50_000)
    got = bytearray()
    reader = threading.Thread(
        target=lambda: [got.extend(two.recv(50_000)) for _ in iter(lambda: len(got) < 49_900, False)]
    )
    reader.start()
    assert one.sendfile(io.BytesIO(data), 100) == 49_900
    reader.join()
    assert got == data[100:]
    with pytest.raises(ValueError, match="count must be a positive integer"):
        one.sendfile(io.BytesIO(data), 0, 0)
