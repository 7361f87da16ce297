"""What only offloaded sockets have: an engine that can refuse, be silent, run out of things, or die."""

from __future__ import annotations

import errno
import gc
import select
import socket
import struct
import subprocess
import sys
import threading
import time
import types

import pytest

import twinstack_host.socket as offloaded_socket
from support.loopback_engine import SILENT, LoopbackEngine, TurnEngine
from support.offloaded import offloaded
from twinstack.proto.queues import SOCKET_ADDRESS, Operation, SocketOption
from twinstack.proto.registers import ENGINE
from twinstack_host.device import Device
from twinstack_host.fair_lock import FairLock
from twinstack_host.reactor import Reactor
from twinstack_host.server import LinkServer
from twinstack_host.socket_link import SocketLink

HOST = "127.0.0.1"


@pytest.fixture
def parts():
    with offloaded() as found:
        yield found


def connected(sockets):
    with sockets.create_server((HOST, 0)) as server:
        one = sockets.create_connection(server.getsockname(), timeout=10)
        two = server.accept()[0]
    two.settimeout(10)
    return one, two


def operations(engine, kind) -> list[dict[str, int]]:
    return [entry for entry in engine.taken if entry["operation"] == kind]


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
    until(lambda: not device.reactor.members, "the end of the attempt")
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
        until(lambda: select.select([one], [], [], 0)[0], "the error")
        assert one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ENETUNREACH
        with pytest.raises(BlockingIOError):
            one.recv(1)


# --- Running out ---------------------------------------------------------------------------------------------------


def test_few_buffers_are_shared_by_many():
    """Little more buffers than sockets: all make progress, and further sockets are refused."""
    with offloaded(memory_size=33 * 4096) as (_, device, sockets):
        assert device.pool.free < 33
        pairs = [connected(sockets) for _ in range(9)]
        got = [b""] * len(pairs)

        def talk(number):
            one, two = pairs[number]
            sender = threading.Thread(target=one.sendall, args=(bytes([number]) * 30_000,))
            sender.start()
            while len(got[number]) < 30_000:
                got[number] += two.recv(4000)
            sender.join()

        threads = [threading.Thread(target=talk, args=(number,)) for number in range(len(pairs))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert got == [bytes([number]) * 30_000 for number in range(len(pairs))]
        with sockets.create_server((HOST, 0)) as server, sockets.socket() as one, sockets.socket() as two:
            assert one.connect_ex(server.getsockname()) == 0
            assert two.connect_ex(server.getsockname()) == errno.ENOBUFS
        for pair in pairs:
            for one in pair:
                one.close()


def test_an_engine_that_is_full_is_asked_again(parts):
    engine, _, sockets = parts
    one, two = connected(sockets)
    engine.answers[Operation.SEND] = -errno.ENOBUFS
    one.sendall(b"patience")
    time.sleep(0.05)
    del engine.answers[Operation.SEND]
    assert two.recv(100) == b"patience"
    engine.answers[Operation.CLOSE] = -errno.ENOBUFS
    one.close()
    time.sleep(0.02)
    del engine.answers[Operation.CLOSE]
    assert two.recv(1) == b""
    two.close()


def test_an_engine_that_takes_entries_slowly():
    """The submission ring is full most of the time: what is due waits for its turn, and nobody is told that the engine is dead."""
    with offloaded(TurnEngine, sq_entries=16) as (engine, device, sockets):
        pairs = [connected(sockets) for _ in range(8)]
        engine.most_at_once = 1
        done = []

        def talk(one, two):
            sender = threading.Thread(target=one.sendall, args=(bytes(40_000),))
            sender.start()
            done.append(len(two.recv(40_000, socket.MSG_WAITALL)))
            sender.join()

        threads = [threading.Thread(target=talk, args=pair) for pair in pairs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
        assert done == [40_000] * len(pairs)
        for pair in pairs:
            for one in pair:
                one.close()


def test_an_engine_that_takes_no_entries_is_dead():
    with offloaded(TurnEngine, sq_entries=16) as (engine, device, sockets):
        pairs = [connected(sockets) for _ in range(8)]
        waiting = pairs[0][0]
        waiting.settimeout(None)
        threads, errors = blocked(lambda: waiting.recv(1))
        device.reactor.patience = 0.2
        engine.most_at_once = 0
        for one, _ in pairs[1:]:
            one.sendall(bytes(20_000))
        threads[0].join(5)
        assert isinstance(errors[0], OSError) and errors[0].errno == errno.EBUSY
        engine.broken = True
        for pair in pairs:
            for one in pair:
                one.close()


def test_read_ahead_is_bounded(parts):
    _, device, sockets = parts
    one, two = connected(sockets)
    one.setblocking(False)
    sent, end = 0, time.monotonic() + 0.3
    while time.monotonic() < end:
        try:
            sent += one.send(bytes(50_000))
        except BlockingIOError:
            time.sleep(0.01)
    assert 32_000 < sent < 150_000
    assert two._end.received_bytes <= 40_000
    got = 0
    while got < sent:
        got += len(two.recv(1 << 20))
    one.close()
    two.close()


def test_forgotten_sockets_are_closed(parts):
    engine, _, sockets = parts
    one, two = connected(sockets)
    with pytest.warns(ResourceWarning, match="unclosed <twinstack_host.socket.socket"):
        del one
        gc.collect()
    assert two.recv(1) == b""
    two.close()


# --- Failing -------------------------------------------------------------------------------------------------------


def until(condition, what: str) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end, f"{what} did not come about"
        time.sleep(0.002)


def blocked(*calls) -> tuple[list[threading.Thread], list[BaseException]]:
    errors: list[BaseException] = []

    def run(call):
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    return threads, errors


def test_a_dead_link_wakes_everybody(parts):
    engine, _, sockets = parts
    one, other = connected(sockets)
    two, silent = connected(sockets)
    server = sockets.create_server((HOST, 0))
    datagrams = sockets.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind((HOST, 0))
    for sock in (one, two, server, datagrams):
        sock.settimeout(None)
    threads, errors = blocked(
        lambda: one.recv(1), lambda: two.sendall(bytes(10_000_000)), server.accept, lambda: datagrams.recv(1)
    )
    readiness = select.poll()
    readiness.register(one, select.POLLIN)
    assert not readiness.poll(0)
    engine.broken = True
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
    assert len(errors) == 4 and all(isinstance(error, OSError) for error in errors)
    assert readiness.poll(0), "a selector must notice"
    for call in (
        lambda: sockets.create_connection((HOST, 80)),
        lambda: sockets.create_server((HOST, 0)),
        lambda: sockets.gethostbyname("a.example"),
        lambda: one.send(b"x"),
    ):
        with pytest.raises(OSError):
            call()
    for sock in (one, two, server, datagrams, other, silent):
        sock.close()


def test_an_engine_that_never_answers(parts):
    engine, device, sockets = parts
    Reactor.of(device).patience = 0.1
    engine.silent.add(Operation.TCP_LISTEN)
    with pytest.raises(TimeoutError, match="the engine did not answer"):
        sockets.create_server((HOST, 0))


def test_reset_of_a_core_ends_its_sockets_only(parts):
    engine, _, sockets = parts
    one, two = connected(sockets)  # on core 0, and on core 1
    server = sockets.create_server((HOST, 0))
    engine.reset_core(1)
    with pytest.raises(ConnectionResetError):
        two.recv(1)
    with pytest.raises(OSError):
        server.accept()
    one.settimeout(0.05)
    with pytest.raises(TimeoutError):
        one.recv(1)
    for sock in (one, two, server):
        sock.close()


def test_close_wakes_who_waits(parts):
    _, _, sockets = parts
    one, two = connected(sockets)
    one.settimeout(None)
    threads, errors = blocked(lambda: one.recv(1))
    one.close()
    threads[0].join(5)
    assert [error.errno for error in errors] == [errno.EBADF]
    two.close()


def test_what_cannot_be_sent_is_given_up(parts, monkeypatch):
    engine, device, sockets = parts
    monkeypatch.setattr("twinstack_host.endpoints.CLOSE_S", 0.1)
    one, two = connected(sockets)
    one.setblocking(False)
    with pytest.raises(BlockingIOError):
        while True:
            one.send(bytes(100_000))
            select.select([], [one], [], 0.1)
    one.close()
    with pytest.raises(ConnectionResetError):
        while True:
            time.sleep(0.01)
            if select.select([two], [], [], 0)[0] and operations(engine, Operation.ABORT):
                while two.recv(1 << 20):
                    pass
    two.close()
    until(lambda: not device.reactor.members, "the end")


# --- Sharing -------------------------------------------------------------------------------------------------------


def test_an_idle_reactor_sleeps(parts):
    engine, _, sockets = parts
    with sockets.create_server((HOST, 0)):
        time.sleep(0.1)
        before = engine.waits
        time.sleep(0.5)
        assert engine.waits - before < 20


def test_a_simulation_that_nobody_waits_for_runs_no_faster_than_time():
    with offloaded(TurnEngine) as (engine, device, sockets):
        with sockets.create_server((HOST, 0)):
            time.sleep(0.1)
            began, before = time.monotonic(), device.clock()
            time.sleep(0.4)
            ran, passed = device.clock() - before, time.monotonic() - began
            assert 0.2 * passed < ran < 1.5 * passed + 0.05
            waiting = sockets.socket(socket.AF_INET, socket.SOCK_DGRAM)
            waiting.settimeout(0.4)
            began, before = time.monotonic(), device.clock()
            with pytest.raises(TimeoutError):
                waiting.recv(1)
            assert device.clock() - before > 2 * (time.monotonic() - began), "freely, while somebody waits"
            waiting.close()


def test_a_datagram_longer_than_a_buffer(parts):
    engine, _, sockets = parts
    with sockets.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind((HOST, 0))
        with engine.mutex:
            (there,) = engine.objects.values()
            there.kept.append((bytes(5000), (HOST, 9)))
            engine._fill_datagrams(there)
        one.settimeout(5)
        data, _, flags, sender = one.recvmsg(8192)
        assert (len(data), flags, sender) == (4032, socket.MSG_TRUNC, (HOST, 9))


@pytest.mark.parametrize("kind", [LoopbackEngine, TurnEngine])
def test_low_level_calls_beside_sockets(kind):
    """Device.call() of other threads goes on under traffic."""
    with offloaded(kind) as (_, device, sockets):
        low_level_calls(device, sockets)


def low_level_calls(device, sockets):
    one, two = connected(sockets)
    stop = threading.Event()

    def talk():
        while not stop.is_set():
            one.sendall(b"x" * 2000)
            two.recv(2000, socket.MSG_WAITALL)

    thread = threading.Thread(target=talk)
    thread.start()
    try:
        for _ in range(50):
            assert device.call(Operation.NOP, "nothing") == 0
            assert device.registers.read(ENGINE, "alive") == 3
    finally:
        stop.set()
        thread.join(10)
    one.close()
    two.close()


def test_fair_lock_is_handed_over_in_order():
    lock, order = FairLock(), []

    def ask(number):
        with lock, lock:
            order.append(number)

    with lock:
        threads = []
        for number in range(6):
            threads.append(threading.Thread(target=ask, args=(number,)))
            threads[-1].start()
            until(lambda: len(lock._queue) == len(threads), "the queue")
        assert lock.owned()
    for thread in threads:
        thread.join(5)
    assert order == list(range(6)) and not lock.owned()


def test_fair_lock_is_not_taken_back():
    """Who releases and asks again comes after those who wait."""
    lock, stop, turns = FairLock(), threading.Event(), []

    def greedy():
        while not stop.is_set():
            with lock:
                time.sleep(0.001)

    thread = threading.Thread(target=greedy)
    thread.start()
    for _ in range(20):
        began = time.monotonic()
        with lock:
            turns.append(time.monotonic() - began)
    stop.set()
    thread.join()
    assert max(turns) < 0.5


def test_sockets_over_a_shared_engine(tmp_path):
    """Two programs' sockets, each through a link of its own, talk to each other over one engine."""
    engine = LoopbackEngine(memory_size=1 << 21)
    device = Device(engine, shared_bytes=1 << 20)
    device.start(seed=1)
    stop = threading.Event()
    with LinkServer(device, tmp_path / "engine") as server:

        def serve():
            while not stop.is_set():
                server.step(0.005)
                device.advance(0.001)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with SocketLink(server.path) as first, SocketLink(server.path) as second:
                devices = [Device(first), Device(second)]
                for one in devices:
                    one.start(seed=1)
                with devices[0].socket_module() as here, devices[1].socket_module() as there:
                    with here.create_server((HOST, 0)) as listener:
                        one = there.create_connection(listener.getsockname(), timeout=10)
                        two = listener.accept()[0]
                    two.settimeout(10)
                    sender = threading.Thread(target=lambda: (one.sendall(bytes(50_000)), one.close()))
                    sender.start()
                    got = 0
                    while part := two.recv(10_000):
                        got += len(part)
                    sender.join(10)
                    assert got == 50_000
                    two.close()
        finally:
            stop.set()
            thread.join(10)
    assert not engine.objects
