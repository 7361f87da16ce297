"""Offloaded sockets when things run out, fail, or are shared."""

from __future__ import annotations

import errno
import gc
import select
import socket
import threading
import time

import pytest

from support.loopback_engine import LoopbackEngine, TurnEngine
from support.offloaded import HOST, blocked, connected, offloaded, operations, soon
from twinstack.proto.queues import Operation
from twinstack.proto.registers import ENGINE
from twinstack_host.device import Device
from twinstack_host.fair_lock import FairLock
from twinstack_host.reactor import Reactor
from twinstack_host.server import LinkServer
from twinstack_host.socket_link import SocketLink

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
    soon(lambda: not device.reactor.members, "the end")


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
            soon(lambda: len(lock._queue) == len(threads), "the queue")
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
