"""What only offloaded sockets have: an engine that can refuse, be silent, run out of things, or die."""

from __future__ import annotations

import errno
import select
import socket
import struct
import subprocess
import sys
import types

import pytest

import twinstack_host.socket as offloaded_socket
from support.loopback_engine import SILENT
from support.offloaded import HOST, blocked, connected, offloaded, operations, soon
from twinstack.proto.queues import SOCKET_ADDRESS, Operation, SocketOption

# --- The module ----------------------------------------------------------------------------------------------------


def test_no_device():
    with pytest.raises(OSError, match="attach") as caught:
        offloaded_socket.socket()
    assert caught.value.errno == errno.ENODEV


def test_import_without_hardware_tools():
    """The library needs the standard library only."""
    names = "amaranth", "luna_soc", "amaranth_soc", "scapy", "aiohttp", "twinstack_sim"
    code = f"import sys; sys.modules.update(dict.fromkeys({names!r})); import twinstack_host.socket, twinstack_host.aio"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_starting_again_ends_the_sockets_of_before(parts):
    engine, device, sockets = parts
    one, two = connected(sockets)
    one.settimeout(None)
    threads, errors = blocked(lambda: one.recv(1))
    engine.objects.clear()
    device.start(seed=2)
    threads[0].join(5)
    assert isinstance(errors[0], OSError)
    one.close()
    two.close()
    with (
        sockets.create_server((HOST, 0)) as server,
        sockets.create_connection(server.getsockname(), timeout=5) as again,
    ):
        server.accept()[0].close()
        assert again.recv(1) == b""


def test_attached_device_is_the_default(parts):
    engine, device, _ = parts
    offloaded_socket.attach(device)
    try:
        with offloaded_socket.create_server((HOST, 0)) as server:
            assert isinstance(server, offloaded_socket.socket) and type(server) is offloaded_socket.socket
            with offloaded_socket.create_connection(server.getsockname()) as one, server.accept()[0] as two:
                one.sendall(b"x")
                assert two.recv(1) == b"x"
    finally:
        offloaded_socket.attach(None)
    assert operations(engine, Operation.TCP_LISTEN)


def test_names_of_the_standard_module():
    assert offloaded_socket.AF_INET is socket.AF_INET and offloaded_socket.SO_REUSEADDR == socket.SO_REUSEADDR
    assert offloaded_socket.timeout is TimeoutError and offloaded_socket.error is OSError
    assert offloaded_socket.inet_aton("1.2.3.4") == bytes([1, 2, 3, 4])
    assert not hasattr(offloaded_socket, "fromfd") and not hasattr(offloaded_socket, "AF_NOTHING")


def test_replacing_the_module_in_another(parts):
    _, _, sockets = parts
    other = types.ModuleType("other")
    other.socket = socket
    with sockets.replace_in(other):
        assert other.socket is sockets and other.socket.AF_INET == socket.AF_INET
    assert other.socket is socket
    with pytest.raises(ValueError, match="modules must have a name 'socket', not 'types'"), sockets.replace_in(types):
        pass


def test_two_devices_at_once():
    with offloaded() as (first, _, one), offloaded() as (second, _, two):
        with one.create_server((HOST, 0)) as server:
            with pytest.raises(ConnectionRefusedError):
                two.create_connection(server.getsockname(), timeout=5)
        assert operations(first, Operation.TCP_LISTEN) and not operations(second, Operation.TCP_LISTEN)


def test_names_are_asked_of_the_engine(parts):
    engine, _, sockets = parts
    engine.names = {"four.example": "192.168.77.1", "six.example": "::1"}
    assert sockets.gethostbyname("four.example") == "192.168.77.1"
    assert sockets.getaddrinfo("six.example", 80, type=socket.SOCK_STREAM) == [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 80, 0, 0))
    ]
    with pytest.raises(socket.gaierror) as caught:
        sockets.getaddrinfo("nobody.example", 80)
    assert caught.value.errno == socket.EAI_NONAME
    engine.answers[Operation.RESOLVE] = -errno.ETIMEDOUT
    with pytest.raises(socket.gaierror) as caught:
        sockets.create_connection(("four.example", 80))
    assert caught.value.errno == socket.EAI_AGAIN
    with pytest.raises(socket.gaierror):
        sockets.gethostbyname(".".join(["x" * 60] * 3))


def test_connection_by_name(parts):
    engine, _, sockets = parts
    engine.names = {"here.example": HOST}
    with sockets.create_server((HOST, 0)) as server:
        with sockets.create_connection(("here.example", server.getsockname()[1]), timeout=5) as one:
            assert one.getpeername() == server.getsockname()
            server.accept()[0].close()


# --- IPv6 ----------------------------------------------------------------------------------------------------------


def test_ipv6(parts):
    _, _, sockets = parts
    with sockets.create_server(("::1", 0), family=socket.AF_INET6) as server:
        assert server.getsockname()[0] == "::1" and len(server.getsockname()) == 4
        with sockets.create_connection(server.getsockname()[:2], timeout=5) as one:
            two, address = server.accept()
            assert one.family == socket.AF_INET6 and address == one.getsockname() and len(address) == 4
            two.close()


def test_dual_stack_listener_shows_mapped_addresses(parts):
    engine, _, sockets = parts
    with sockets.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        assert operations(engine, Operation.TCP_LISTEN)[0]["operation_flags"] == 0
        with sockets.create_connection((HOST, server.getsockname()[1]), timeout=5) as one:
            two, address = server.accept()
            assert address == (f"::ffff:{HOST}", one.getsockname()[1], 0, 0)
            two.close()
    with sockets.create_server(("::", 0), family=socket.AF_INET6):
        assert operations(engine, Operation.TCP_LISTEN)[1]["operation_flags"] == 1, "V6ONLY"


def test_mapped_address_connects_by_ipv4(parts):
    engine, _, sockets = parts
    with sockets.socket(socket.AF_INET6) as one:
        assert one.connect_ex((f"::ffff:{HOST}", 9)) == errno.ECONNREFUSED
    entry = operations(engine, Operation.TCP_CONNECT)[0]
    assert SOCKET_ADDRESS.unpack(entry["inline"].to_bytes(32, "little"))["family"] == socket.AF_INET


def test_scope_of_a_link_local_address(parts):
    engine, _, sockets = parts
    with sockets.socket(socket.AF_INET6) as one:
        assert one.connect_ex(("fe80::7", 80, 0, 2)) == errno.ENETUNREACH
    entry = operations(engine, Operation.TCP_CONNECT)[0]
    assert SOCKET_ADDRESS.unpack(entry["inline"].to_bytes(32, "little"))["scope"] == 2


# --- Connecting ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (errno.ETIMEDOUT, TimeoutError),
        (errno.EHOSTUNREACH, OSError),
        (errno.ENETUNREACH, OSError),
        (errno.ENFILE, OSError),
        (errno.ECONNRESET, ConnectionResetError),
    ],
)
def test_results_of_connect(parts, code, error):
    engine, _, sockets = parts
    engine.answers[Operation.TCP_CONNECT] = -code
    with sockets.socket() as one, pytest.raises(error) as caught:
        one.connect((HOST, 80))
    assert caught.value.errno == code


def test_connect_times_out_and_close_cancels(parts):
    engine, device, sockets = parts
    one = sockets.socket()
    one.settimeout(0.05)
    with pytest.raises(TimeoutError, match="timed out"):
        one.connect((SILENT, 80))
    assert one.connect_ex((SILENT, 80)) == errno.EAGAIN
    one.setblocking(False)
    assert one.connect_ex((SILENT, 80)) == errno.EALREADY
    assert not select.select([one], [one], [], 0)[1]
    one.close()
    soon(lambda: not device.reactor.members, "the end of the attempt")
    assert len(operations(engine, Operation.CANCEL)) == 1


def test_a_bound_socket_connects_from_there(parts):
    engine, _, sockets = parts
    with sockets.create_server((HOST, 0)) as server:
        with sockets.create_connection(server.getsockname(), source_address=(HOST, 51234)) as one:
            two, address = server.accept()
            assert address == one.getsockname() == (HOST, 51234)
            two.close()
    entry = operations(engine, Operation.TCP_CONNECT)[0]
    assert entry["operation_flags"] == 51234
    extra = SOCKET_ADDRESS.unpack(entry["inline"].to_bytes(32, "little"))["extra"]
    assert extra.to_bytes(4, "little") == socket.inet_aton(HOST)


def test_a_chosen_port_that_is_taken_is_chosen_again(parts, monkeypatch):
    _, _, sockets = parts
    with sockets.create_server((HOST, 0)) as server:
        numbers = iter([server.getsockname()[1], server.getsockname()[1], 50123])
        monkeypatch.setattr("random.randint", lambda low, high: next(numbers))
        with sockets.create_server((HOST, 0)) as other:
            assert other.getsockname()[1] == 50123


def test_connections_that_nobody_accepts_are_reset(parts):
    _, _, sockets = parts
    with sockets.create_server((HOST, 0)) as server:
        one = sockets.create_connection(server.getsockname(), timeout=5)
        select.select([server], [], [], 5)
    with pytest.raises(ConnectionResetError):
        one.recv(1)
    one.close()


# --- Options -------------------------------------------------------------------------------------------------------


def test_options_reach_the_engine(parts):
    engine, _, sockets = parts
    with sockets.create_server((HOST, 0)) as server, sockets.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        one.connect(server.getsockname())
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 9)
        one.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 9)
        server.accept()[0].close()
    seen = [(entry["operation_flags"], entry["inline"]) for entry in operations(engine, Operation.SETSOCKOPT)]
    assert seen == [(SocketOption.KEEPALIVE, 1), (SocketOption.KEEPINTVL, 9)], "defaults and repetitions cost nothing"


def test_an_option_that_the_engine_refuses(parts):
    engine, _, sockets = parts
    engine.answers[Operation.SETSOCKOPT] = -errno.EINVAL
    one, two = connected(sockets)
    with pytest.raises(OSError) as caught:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    assert caught.value.errno == errno.EINVAL
    assert one.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0
    one.close()
    two.close()


def test_groups(parts):
    engine, _, sockets = parts
    with sockets.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.setsockopt(
            socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton("239.1.2.3") + socket.inet_aton("0.0.0.0")
        )
        with pytest.raises(OSError):
            one.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, b"x")
    with sockets.socket(socket.AF_INET6, socket.SOCK_DGRAM) as one:
        group = socket.inet_pton(socket.AF_INET6, "ff02::7")
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, struct.pack("=16sI", group, 2))
    four, six = operations(engine, Operation.SETSOCKOPT)
    assert four["operation_flags"] == six["operation_flags"] == SocketOption.JOIN_GROUP
    values = SOCKET_ADDRESS.unpack(six["inline"].to_bytes(32, "little"))
    assert values["scope"] == 2 and values["address"].to_bytes(16, "little") == group


def test_error_of_a_datagram_comes_with_the_next_call(parts):
    engine, _, sockets = parts
    with sockets.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        engine.answers[Operation.SENDTO] = -errno.ENETUNREACH
        with pytest.raises(OSError) as caught:
            one.sendto(b"x", (HOST, 9))
        assert caught.value.errno == errno.ENETUNREACH
        one.setblocking(False)
        assert one.sendto(b"x", (HOST, 9)) == 1
        soon(lambda: select.select([one], [], [], 0)[0], "the error")
        assert one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ENETUNREACH
        with pytest.raises(BlockingIOError):
            one.recv(1)
