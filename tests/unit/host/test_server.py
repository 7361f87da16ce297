"""Several programs on one engine: the server of a local socket, against an engine that is a few lines of Python."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import socket
import subprocess
import threading
import time

import pytest

from support.c_library import build_program
from support.fake_sockets import FakeSockets
from support.rtl import seed
from twinstack.proto import abi
from twinstack.proto.queues import CQE, SQE, Operation
from twinstack.proto.registers import DISPATCH, ENGINE, HOST_CORE, MAC, QUEUE, WINDOW
from twinstack_host import link_protocol as protocol
from twinstack_host import server as server_module
from twinstack_host.device import Device, EngineError
from twinstack_host.link import LinkError
from twinstack_host.link_protocol import LinkOperation, Message, MessageReader, Status
from twinstack_host.registers import Registers
from twinstack_host.server import MOST_ACCEPTED, MOST_OPERATIONS, LinkServer
from twinstack_host.socket_link import SocketLink
from twinstack_host.sockets import Listener, Socket

SLICE = 1 << 17
PLACES = 3
HANG_SECONDS = 20.0


class Bench:
    """A server in a thread of its own, over a fake engine."""

    def __init__(self, path):
        self.engine = FakeSockets()
        self.device = Device(self.engine, sq_entries=32, cq_entries=32, shared_bytes=PLACES * SLICE)
        self.device.start(seed=1)
        self.server = LinkServer(self.device, path, slice_bytes=SLICE)
        self.path = path
        self.lock = threading.Lock()
        """Held while the server works: take it to look at its state."""
        self._stopped = threading.Event()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                with self.lock:
                    self.server.step()
                    self.device.advance(0.0001)
                time.sleep(0.0002)
        except BaseException as error:
            self.error = error

    def link(self) -> SocketLink:
        return SocketLink(self.path, timeout=HANG_SECONDS)

    def until(self, condition, what: str) -> None:
        end = time.monotonic() + HANG_SECONDS
        while True:
            with self.lock:
                if condition():
                    return
            assert time.monotonic() < end, what
            assert self.error is None, self.error
            time.sleep(0.001)

    def close(self) -> None:
        self._stopped.set()
        self._thread.join(HANG_SECONDS)
        self.server.close()
        if self.error is not None:
            raise self.error


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path / "engine")
    yield made
    made.close()


def attached(link: SocketLink, **options: int) -> Device:
    device = Device(link, timeout=HANG_SECONDS, **options)
    device.start(seed=9)
    return device


def test_start_attaches(bench):
    before = list(bench.engine.writes)
    with bench.link() as link:
        device = attached(link)
        assert link.is_shared and link.memory_size == SLICE
        assert bench.device.shared_base <= link.memory_base < bench.device.shared_base + PLACES * SLICE
        assert device.stats(1)["core"] == 1
        for block, name in ((ENGINE, "reset_cores"), (ENGINE, "seed"), (WINDOW, "base"), (DISPATCH, "key")):
            written = [Registers.address(block, name) in log for log in (bench.engine.writes[len(before) :],)]
            assert written == [False], "attaching changes nothing of the engine"
        with pytest.raises(EngineError, match="shared"):
            device.load(b"")


def test_attach_needs_a_running_engine():
    engine = FakeSockets()
    with pytest.raises(EngineError, match="must run with all 2 cores, not 0x0"):
        Device(engine).attach()


@pytest.mark.parametrize("value", [-4096, 1, 4095, 1 << 30])
def test_shared_bytes_are_checked(value):
    with pytest.raises(ValueError, match="shared_bytes must be a multiple|host memory must have"):
        Device(FakeSockets(), shared_bytes=value)


@pytest.mark.parametrize("slice_bytes", [0, 100, 4097, 1 << 24])
def test_slices_are_checked(tmp_path, slice_bytes):
    device = Device(FakeSockets(), shared_bytes=1 << 16)
    with pytest.raises(ValueError, match="slice_bytes must be a multiple of 4096 up to the 65536"):
        LinkServer(device, tmp_path / "x", slice_bytes=slice_bytes)


def test_registers_of_the_engine(bench):
    with bench.link() as link:
        registers = Registers(link)
        assert registers.read(ENGINE, "magic") == abi.MAGIC
        assert registers.read(HOST_CORE, "console") == 0
        for block, name in (
            (ENGINE, "reset_cores"),
            (ENGINE, "code_address"),
            (ENGINE, "code_data"),
            (ENGINE, "seed"),
            (WINDOW, "base"),
            (WINDOW, "control"),
            (DISPATCH, "key"),
            (DISPATCH, "rule"),
            (MAC, "control"),
        ):
            before = registers.read(block, name)
            with pytest.raises(LinkError, match="must not be written") as caught:
                registers.write(block, name, 0x5A)
            assert caught.value.errno == errno.EPERM
            assert registers.read(block, name) == before
        with pytest.raises(LinkError, match="must not be written"):
            registers.write(QUEUE, "control", 1, instance=1)
        registers.write(MAC, "statistic_index", 3, instance=1)
        assert registers.read(MAC, "statistic_index", instance=1) == 3
        for offset in (2, 0x8000, 0xFFFF_FFFC):
            with pytest.raises(LinkError, match="offset must be a multiple of 4") as caught:
                link.csr_read(offset)
            assert caught.value.errno == errno.EINVAL
        assert registers.read(ENGINE, "magic") == abi.MAGIC


def test_memory_is_ones_own(bench):
    with bench.link() as one, bench.link() as other:
        assert {one.memory_base, other.memory_base} <= {bench.device.shared_base + n * SLICE for n in range(PLACES)}
        assert one.memory_base != other.memory_base
        data = random.Random(seed()).randbytes(SLICE)
        one.write(one.memory_base, data)
        other.write(other.memory_base, bytes(SLICE))
        assert one.read(one.memory_base, SLICE) == data
        for address, length in (
            (one.memory_base - 1, 1),
            (one.memory_base + SLICE - 1, 2),
            (other.memory_base, 4),
            (0, 4),
            (1 << 63, 4),
        ):
            with pytest.raises(LinkError, match="within the client's memory") as caught:
                one.read(address, length)
            assert caught.value.errno == errno.EFAULT
            with pytest.raises(LinkError, match="within the client's memory"):
                one.write(address, bytes(length))
        assert one.read(one.memory_base, SLICE) == data


def test_two_clients_over_many_passes_of_their_rings(bench):
    """Both echo at the same time, each over a connection of its own; neither sees a completion of the other."""
    rng = random.Random(seed())
    failures: list[BaseException] = []

    def work(name: str) -> None:
        try:
            with bench.link() as link:
                device = attached(link, sq_entries=4, cq_entries=4)
                with Socket.connect(device, ("10.0.0.1", 80)) as connection:
                    for _ in range(15):
                        data = rng.randbytes(rng.randrange(1, 9000))
                        connection.sendall(data)
                        got = b""
                        while len(got) < len(data):
                            got += connection.recv(len(data) - len(got))
                        assert got == data, name
                assert device.unexpected == [] and device.pool.free == device.pool.count
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(2 * HANG_SECONDS)
    assert not failures, failures
    bench.until(lambda: not bench.server.draining and not bench.server.clients, "both are gone")
    assert not bench.engine.handles and not bench.engine.waiting


def test_handles_of_others_are_refused(bench):
    with bench.link() as one, bench.link() as other:
        owner, thief = attached(one), attached(other)
        mine = Socket.connect(owner, ("10.0.0.1", 80))
        local = Socket.connect(bench.device, ("10.0.0.1", 80))
        for handle in (mine.handle, local.handle, mine.handle + 77, 0):
            for operation in (Operation.CLOSE, Operation.ABORT, Operation.SEND, Operation.RECV, Operation.TCP_ACCEPT):
                buffer = thief.pool.take()
                pending = thief.submit(operation, handle=handle, buffer=buffer, length=16)
                assert thief.wait(pending, HANG_SECONDS) == -errno.EBADF
                thief.pool.give(buffer)
        mine.sendall(b"still here")
        assert mine.recv(100) == b"still here"
        assert local.handle in bench.engine.handles
        mine.close()
        assert owner.wait(owner.submit(Operation.CLOSE, handle=mine.handle), HANG_SECONDS) == -errno.EBADF


@pytest.mark.parametrize("field", ["buffer", "inline"])
def test_buffers_of_others_are_refused(bench, field):
    """The windows of the engine permit all clients' memory; the server must not."""
    with bench.link() as one, bench.link() as other:
        device = attached(one)
        if field == "inline":
            seen: list[dict[str, int]] = []
            begin = bench.engine.begin
            bench.engine.begin = lambda entry: seen.append(entry) or begin(entry)
            for operation in (Operation.RESOLVE, Operation.RECVFROM):
                buffer = device.pool.take()
                for address in (other.memory_base, one.memory_base + SLICE - 31, bench.engine.base):
                    inline = address.to_bytes(8, "little")
                    device.wait(device.submit(operation, buffer=buffer, length=8, inline=inline), HANG_SECONDS)
                    assert seen[-1]["inline"] == address | 1 << 63
                device.wait(device.submit(operation, buffer=buffer, length=8), HANG_SECONDS)
                assert seen[-1]["inline"] == 0
            return
        for address, length in (
            (other.memory_base, 80),
            (one.memory_base - 80, 80),
            (one.memory_base + SLICE - 79, 80),
            (bench.device.pool.base, 80),
            (one.memory_base, SLICE + 1),
        ):
            pending = device.submit(Operation.STATS, buffer=address, length=length)
            assert device.wait(pending, HANG_SECONDS) == -errno.EFAULT
        assert device.wait(device.submit(Operation.STATS, buffer=one.memory_base + SLICE - 80, length=80), 9) == 80


def test_slow_client_stalls_nobody(bench):
    """It fills its ring and never reads a completion; its operations are bounded, those of others go on."""
    with bench.link() as slow, bench.link() as quick:
        idle, device = attached(slow, sq_entries=512, cq_entries=4), attached(quick)
        for _ in range(400):
            slot = idle._sq_base + idle._sq_tail % 512 * SQE.size_bytes
            slow.write(slot, SQE.pack({"operation": Operation.NOP, "user_data": idle._sq_tail}))
            idle._sq_tail += 1
        idle.registers.write(QUEUE, "sq_tail", idle._sq_tail)
        for core in range(30):
            assert device.stats(core % 2)["core"] == core % 2
        end = time.monotonic() + HANG_SECONDS
        while (taken := idle.registers.read(QUEUE, "sq_head")) != MOST_OPERATIONS + 4:
            assert taken < MOST_OPERATIONS + 4 and time.monotonic() < end
        # The ring is full: the interrupt is up; completions come in order as soon as there is room.
        assert slow.wait_interrupt(0)
        seen = []
        while len(seen) < 400:
            slot = idle._cq_base + len(seen) % 4 * CQE.size_bytes
            entry = CQE.unpack(slow.read(slot, CQE.size_bytes))
            if entry["phase"] != 1 ^ (len(seen) // 4 & 1):
                continue
            seen.append(entry["user_data"])
            idle.registers.write(QUEUE, "cq_head", len(seen))
        assert sorted(seen) == list(range(400))
        assert bench.error is None


def test_connections_that_nobody_takes(bench):
    """Accepted connections wait for room in the client's ring; beyond the bound they are reset."""
    with bench.link() as link:
        device = attached(link, cq_entries=4)
        listener = Listener(device, 80)
        device.stats(0)  # whatever came before it has been taken
        bench.until(lambda: bench.engine.waiting, "the accept")
        with bench.lock:
            handles = [bench.engine.arrive(listener.handle) for _ in range(MOST_ACCEPTED + 20)]
            bench.engine.flush()
        bench.until(lambda: len(bench.engine.handles) == 1 + MOST_ACCEPTED + 4, "some are reset")
        assert list(bench.engine.handles)[1:] == handles[: MOST_ACCEPTED + 4]
        taken = [listener.accept_step() for _ in range(1)]
        deadline = time.monotonic() + HANG_SECONDS
        while len(taken) < MOST_ACCEPTED + 5 and time.monotonic() < deadline:
            device.poll()
            taken.append(listener.accept_step())
            taken = [one for one in taken if one is not None]
            if len(taken) == MOST_ACCEPTED + 4:
                break
        assert [one.handle for one in taken] == handles[: MOST_ACCEPTED + 4]
        with bench.lock:
            another = bench.engine.arrive(listener.handle)
        end = time.monotonic() + HANG_SECONDS
        while (one := listener.accept_step()) is None and time.monotonic() < end:
            device.advance(0.001)
        assert one is not None and one.handle == another


def test_cancel_finds_the_clients_own_operation(bench):
    with bench.link() as one, bench.link() as other:
        first, second = attached(one), attached(other)
        pairs = []
        for device in (first, second):
            connection = Socket.connect(device, ("10.0.0.1", 80))
            buffer = device.pool.take()
            pairs.append((connection, device.submit(Operation.RECV, handle=connection.handle, buffer=buffer, length=9)))
        (_, mine), (theirs_socket, theirs) = pairs
        assert mine.user_data == theirs.user_data, "the same number in both, on purpose"
        cancel = first.submit(Operation.CANCEL, inline=mine.user_data.to_bytes(8, "little"))
        assert first.wait(cancel, HANG_SECONDS) == 0
        assert first.wait(mine, HANG_SECONDS) == -errno.ECANCELED
        # Nothing of that number: the engine looks at the entry, and no operation ends.
        assert first.wait(first.submit(Operation.CANCEL, inline=bytes([1]) * 8), HANG_SECONDS) == 0
        assert bench.engine.canceled[-1] == 0
        theirs_socket.sendall(b"ninebytes")
        assert second.wait(theirs, HANG_SECONDS) == 9


def test_cancel_of_several_operations_completes_once(bench):
    with bench.link() as link:
        device = attached(link)
        connection = Socket.connect(device, ("10.0.0.1", 80))
        number = 4242
        for _ in range(5):
            device._next_user_data = number
            device.submit(Operation.RECV, handle=connection.handle, buffer=device.pool.take(), length=9)
        device._next_user_data = number + 1
        done: list[int] = []
        cancel = device.submit(Operation.CANCEL, inline=number.to_bytes(8, "little"), on_done=done.append)
        assert device.wait(cancel, HANG_SECONDS) == 0
        end = time.monotonic() + HANG_SECONDS
        while len(device.unexpected) < 4 and time.monotonic() < end:
            device.advance(0.001)
        assert device.unexpected == [(number, -errno.ECANCELED)] * 4 and done == [0]


@pytest.mark.parametrize("how", ["close", "disable"])
def test_client_that_dies(bench, how):
    """Its operations end, its sockets are aborted, its place is free; the other's transfer goes on."""
    with bench.link() as other:
        survivor = attached(other)
        stays = Socket.connect(survivor, ("10.0.0.1", 80))
        stays_receive = survivor.submit(Operation.RECV, handle=stays.handle, buffer=survivor.pool.take(), length=100)
        link = bench.link()
        device = attached(link)
        device_handles = [Socket.connect(device, ("10.0.0.1", 80)).handle for _ in range(5)]
        listener = Listener(device, 80)
        for handle in device_handles:
            device.submit(Operation.RECV, handle=handle, buffer=device.pool.take(), length=100)
        bench.until(lambda: len(bench.engine.waiting) == 7, "all is under way")
        connecting = bench.engine.begin
        bench.engine.begin = lambda entry: None if entry["operation"] == Operation.TCP_CONNECT else connecting(entry)
        pending = device.submit(Operation.TCP_CONNECT)
        bench.until(lambda: len(bench.engine.waiting) == 8, "a connect that nobody answers")
        if how == "close":
            link.close()
        else:
            device.registers.write(QUEUE, "control", 0)
        bench.until(lambda: set(bench.engine.handles) == {stays.handle}, "its sockets are aborted")
        bench.until(lambda: len(bench.engine.waiting) == 1, "its operations have ended")
        bench.engine.begin = connecting
        if how == "close":
            bench.until(lambda: not bench.server.draining and bench.server.clients == 1, "its place is free")
        else:
            assert listener.handle not in bench.engine.handles and not pending.done
            device.attach()
            assert device.stats(1)["core"] == 1 and device.unexpected == []
            link.close()
        stays.sendall(b"untouched")
        assert survivor.wait(stays_receive, HANG_SECONDS) == 9


def test_queue_waits_for_the_operations_of_its_former_life(bench):
    """While the engine may still write where the old entries said, a queue that is enabled again takes none."""
    with bench.link() as link:
        device = attached(link)
        begin = bench.engine.begin
        kept: list[int] = []

        def keep(entry):
            if entry["operation"] == Operation.TCP_CONNECT:
                kept.append(entry["user_data"])
                return None
            return 0 if entry["operation"] == Operation.CANCEL else begin(entry)

        bench.engine.begin = keep
        device.submit(Operation.TCP_CONNECT)
        bench.until(lambda: kept, "the connect")
        device.attach()
        pending = device.submit(Operation.NOP)
        for _ in range(50):
            device.advance(0.001)
        assert device.registers.read(QUEUE, "sq_head") == 0 and not pending.done
        with bench.lock:
            bench.engine.complete(kept[0], -errno.ETIMEDOUT)
            bench.engine.flush()
        assert device.wait(pending, HANG_SECONDS) == 0 and device.unexpected == []


def test_connect_that_succeeds_for_nobody_is_aborted(bench):
    link = bench.link()
    device = attached(link)
    begin = bench.engine.begin
    held: list[int] = []

    def late(entry):
        if entry["operation"] == Operation.TCP_CONNECT:
            held.append(entry["user_data"])
            return None
        return 0 if entry["operation"] == Operation.CANCEL else begin(entry)  # came too late

    bench.engine.begin = late
    device.submit(Operation.TCP_CONNECT)
    bench.until(lambda: held, "the connect")
    link.close()
    bench.until(lambda: bench.server.draining == 1, "its end")
    with bench.lock:
        handle = bench.engine.open(0, bytearray())
        bench.engine.complete(held[0], handle)
        bench.engine.flush()
    bench.until(lambda: not bench.engine.handles and not bench.server.draining, "the abort")


def test_places_run_out_and_come_back(bench):
    links = [bench.link() for _ in range(PLACES)]
    with pytest.raises(LinkError, match=f"all {PLACES} places are taken") as caught:
        bench.link()
    assert caught.value.errno == errno.EBUSY
    links.pop().close()
    bench.until(lambda: bench.server.clients == PLACES - 1, "a place is free")
    links.append(bench.link())
    for link in links:
        attached(link)
        link.close()


def test_wait_is_bounded_and_one_at_a_time(bench):
    with bench.link() as link:
        attached(link)
        before = bench.engine.now
        assert not link.wait_interrupt(0.05)
        assert 0.05 <= bench.engine.now - before < 1.0
        raw = Raw(bench.path)
        raw.hello()
        raw.send(LinkOperation.WAIT, protocol.NANOSECONDS.pack(10**12), number=5)
        raw.send(LinkOperation.WAIT, protocol.NANOSECONDS.pack(0), number=6)
        refused = raw.receive()
        assert (refused.number, refused.status) == (6, Status.REFUSED)
        assert protocol.decode_error(refused.body)[0] == errno.EBUSY
        late = raw.receive()  # bounded in wall-clock time
        assert (late.number, late.status) == (5, Status.OK)
        up, left = protocol.WAITED.unpack(late.body)
        assert not up and 0 < left < 10**12
        raw.send(LinkOperation.WAIT, protocol.NANOSECONDS.pack(protocol.MAX_WAIT_NS + 1))
        assert raw.receive().status == Status.REFUSED
        raw.close()


def test_interrupt_moderation(bench):
    with bench.link() as link:
        device = attached(link)
        registers = device.registers
        registers.write_fields(QUEUE, "irq", count=3, delay=200)
        began = bench.engine.now
        for number in range(3):
            assert not registers.read_fields(QUEUE, "status")["irq"] or bench.engine.now - began > 0.2
            device.submit(Operation.NOP)
            end = time.monotonic() + HANG_SECONDS
            while registers.read(QUEUE, "cq_tail") != number + 1 and time.monotonic() < end:
                pass
        assert registers.read_fields(QUEUE, "status")["irq"] and link.wait_interrupt(0)
        assert device.poll() == 3
        assert not registers.read_fields(QUEUE, "status")["irq"]
        device.submit(Operation.NOP)
        began = bench.engine.now
        assert link.wait_interrupt(10.0)
        assert bench.engine.now - began >= 0.2


@pytest.mark.parametrize("ring", ["sq_base", "cq_base"])
def test_ring_outside_of_the_clients_memory(bench, ring):
    with bench.link() as link:
        device = attached(link)
        registers = device.registers
        registers.write(QUEUE, ring, bench.engine.base)
        assert device.stats(0)["core"] == 0, "bases change only while the queue is disabled"
        control = registers.read(QUEUE, "control")
        registers.write(QUEUE, "control", 0)
        registers.write(QUEUE, ring, bench.engine.base)
        registers.write(QUEUE, "sq_tail", 0)
        registers.write(QUEUE, "cq_head", 0)
        registers.write(QUEUE, "control", control)
        registers.write(QUEUE, "sq_tail", 1)
        end = time.monotonic() + HANG_SECONDS
        while not registers.read_fields(QUEUE, "status")["bus_error"]:
            assert time.monotonic() < end
        device.attach()
        assert not registers.read_fields(QUEUE, "status")["bus_error"]
        assert device.stats(1)["core"] == 1


def test_socket_of_a_server_that_died_is_replaced(tmp_path):
    path = tmp_path / "engine"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    device = Device(FakeSockets(), shared_bytes=SLICE)
    with LinkServer(device, path, slice_bytes=SLICE):
        assert os.stat(path).st_mode & 0o777 == 0o600
        with pytest.raises(OSError, match="somebody serves") as caught:
            LinkServer(device, path, slice_bytes=SLICE)
        assert caught.value.errno == errno.EADDRINUSE
    assert not path.exists()
    path.write_text("a file of somebody")
    with pytest.raises(OSError):
        LinkServer(device, path, slice_bytes=SLICE)
    assert path.read_text() == "a file of somebody"


def test_nobody_serves(tmp_path):
    with pytest.raises(LinkError, match="no engine at"):
        SocketLink(tmp_path / "nothing")
    with pytest.raises(ValueError, match="timeout must be positive, not 0"):
        SocketLink(tmp_path / "nothing", timeout=0)


@pytest.mark.parametrize("answer", [b"", b"\0" * 8, b"\xff" * 64, Message(1, 1, 0, bytes(27)).encode(), b"\0" * 3])
def test_server_that_talks_nonsense(tmp_path, answer):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "s"))
        server.listen()

        def serve() -> None:
            connection, _ = server.accept()
            connection.recv(100)
            connection.sendall(answer)
            if len(answer) != 3:  # otherwise it just never goes on
                connection.close()
            else:
                time.sleep(0.5)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(LinkError):
            SocketLink(tmp_path / "s", timeout=0.2)
        thread.join()


def test_several_threads_share_a_link(bench):
    failures: list[BaseException] = []
    with bench.link() as link:
        attached(link)

        def work(number: int) -> None:
            try:
                for _ in range(50):
                    address = link.memory_base + 0x8000 + number * 256
                    link.write(address, bytes([number] * 256))
                    assert link.read(address, 256) == bytes([number] * 256)
                    if number == 0:
                        link.wait_interrupt(0.001)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(HANG_SECONDS)
    assert not failures, failures


@pytest.mark.parametrize("end", ["well", "death"])
def test_program_in_c(bench, end):
    """The echo service as a process: it serves a connection; if the server dies it ends with an error and does not hang."""
    answered = bytearray()
    begin = bench.engine.begin

    def peer(entry):
        if entry["operation"] == Operation.SEND:
            answered.extend(bench.engine.read(entry["buffer"], entry["length"]))
            return entry["length"]
        if entry["operation"] == Operation.RECV and answered:
            return 0 if end == "well" else None
        return begin(entry)

    bench.engine.begin = peer
    program = subprocess.Popen([build_program(), bench.path, "7", "1"], stderr=subprocess.PIPE, text=True)
    try:
        bench.until(lambda: bench.engine.waiting, "its accept")
        with bench.lock:
            handle = bench.engine.arrive(next(handle for handle in bench.engine.handles if handle >> 28 == 7))
            bench.engine.handles[handle] += b"data of a peer"
            bench.engine.flush()
        bench.until(lambda: bytes(answered) == b"data of a peer", "the echo")
        if end == "death":
            bench.until(lambda: bench.engine.waiting, "its next receive")
            with bench.lock:
                bench.server.close()
        _, text = program.communicate(timeout=HANG_SECONDS)
    finally:
        program.kill()
        program.wait()
        bench.engine.begin = begin
    assert (program.returncode, text) == ((0, "") if end == "well" else (1, "echo: error 5\n"))
    if end == "well":
        bench.until(lambda: not bench.engine.handles and bench.server.clients == 0, "it leaves nothing")
    else:
        bench.error = None


def test_program_in_c_that_is_refused(bench, tmp_path):
    program = build_program()
    for arguments, code, text in (
        ([], 2, "usage"),
        ([tmp_path / "nothing", "7", "1"], 1, "error 19"),
        (["x" * 200, "7", "1"], 1, "error 22"),
    ):
        done = subprocess.run([program, *arguments], stderr=subprocess.PIPE, text=True, timeout=HANG_SECONDS)
        assert done.returncode == code and text in done.stderr
    links = [bench.link() for _ in range(PLACES)]
    done = subprocess.run([program, bench.path, "7", "1"], stderr=subprocess.PIPE, text=True, timeout=HANG_SECONDS)
    assert done.returncode == 1 and "error 16" in done.stderr
    for link in links:
        link.close()


class Raw:
    """A client that may break the protocol."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(HANG_SECONDS)
        self.socket.connect(str(path))
        self.reader = MessageReader()

    def send(self, operation: int, body: bytes, *, number: int = 1, status: int = 0) -> None:
        self.socket.sendall(Message(number, operation, status, body).encode())

    def receive(self) -> Message | None:
        """The next reply; None at the end of the stream."""
        while (message := self.reader.next()) is None:
            try:
                data = self.socket.recv(4096)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self.reader.feed(data)
        return message

    def hello(self, magic=protocol.MAGIC, version=protocol.PROTOCOL_VERSION, zero=0, wanted=abi.ABI_VERSION) -> Message:
        self.send(LinkOperation.HELLO, protocol.HELLO.pack(magic, version, zero, wanted))
        reply = self.receive()
        assert reply is not None
        return reply

    def assert_closed(self, text: str, code: int = errno.EPROTO) -> None:
        """The last reply says why, then the stream ends."""
        reply = self.receive()
        assert reply is not None and reply.status == Status.CLOSED
        assert protocol.decode_error(reply.body)[0] == code and text in protocol.decode_error(reply.body)[1]
        assert self.receive() is None
        self.close()

    def close(self) -> None:
        self.socket.close()


@pytest.mark.parametrize(
    "change, text",
    [
        ({"magic": 1}, "HELLO must begin with 0x4b4c5354, not 0x1"),
        ({"zero": 1}, "HELLO must begin"),
        ({"version": 2}, "the server has protocol version 1, the client 2"),
        ({"wanted": 9}, f"the engine has ABI version {abi.ABI_VERSION}, the client 9"),
    ],
)
def test_handshake(bench, change, text):
    raw = Raw(bench.path)
    reply = raw.hello(**change)
    assert reply.status == Status.CLOSED and text in protocol.decode_error(reply.body)[1]
    assert raw.receive() is None
    raw.close()
    with bench.link() as link:
        attached(link)


MALFORMED = {
    "unknown operation": (Message(1, 0, 0, b""), "operation must be 1 to 8, not 0"),
    "another unknown operation": (Message(1, 9, 0, b""), "operation must be 1 to 8, not 9"),
    "status": (Message(1, LinkOperation.CLOCK, 1, b""), "status must be zero"),
    "short": (Message(1, LinkOperation.CSR_READ, 0, b"123"), "CSR_READ must have 4 to 4 bytes, not 3"),
    "long": (Message(1, LinkOperation.CLOCK, 0, b"1"), "CLOCK must have 0 to 0 bytes, not 1"),
    "short write": (Message(1, LinkOperation.WRITE, 0, b"1234567"), "WRITE must have 8 to"),
    "second hello": (
        Message(1, LinkOperation.HELLO, 0, protocol.HELLO.pack(protocol.MAGIC, 1, 0, abi.ABI_VERSION)),
        "HELLO must come once",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_request_closes_the_connection(bench, name):
    message, text = MALFORMED[name]
    raw = Raw(bench.path)
    raw.hello()
    raw.socket.sendall(message.encode())
    raw.assert_closed(text)
    bench.until(lambda: bench.server.clients == 0, "its place is free")


def test_body_over_the_limit_is_refused_before_it_comes(bench):
    raw = Raw(bench.path)
    raw.hello()
    raw.socket.sendall(protocol.HEADER.pack(protocol.MAX_BODY_BYTES + 1, 1, LinkOperation.WRITE, 0))
    raw.assert_closed(f"at most {protocol.MAX_BODY_BYTES} bytes")


def test_first_request_must_be_hello(bench):
    raw = Raw(bench.path)
    raw.send(LinkOperation.CLOCK, b"")
    raw.assert_closed("the first request must be HELLO, not CLOCK")


def test_silence_is_closed(bench, monkeypatch):
    monkeypatch.setattr(server_module, "HELLO_SECONDS", 0.1)
    raw = Raw(bench.path)
    raw.socket.sendall(b"\x0c")
    raw.assert_closed("HELLO must come within", errno.ETIMEDOUT)


def test_long_read_is_refused(bench):
    raw = Raw(bench.path)
    raw.hello()
    raw.send(LinkOperation.READ, protocol.READ.pack(bench.device.shared_base, protocol.MAX_DATA_BYTES + 1))
    assert raw.receive().status == Status.REFUSED
    raw.close()


def test_client_that_does_not_read_its_replies(bench):
    """The server stops taking its requests; memory stays bounded, others are served."""
    raw = Raw(bench.path)
    base = protocol.WELCOME.unpack(raw.hello().body)[4]
    raw.socket.setblocking(False)
    request = Message(1, LinkOperation.READ, 0, protocol.READ.pack(base, protocol.MAX_DATA_BYTES)).encode()
    sent = 0
    end = time.monotonic() + HANG_SECONDS
    quiet = 0
    while quiet < 20:  # until the server has taken none for a while
        assert time.monotonic() < end and sent < 1 << 24
        try:
            sent += raw.socket.send(request * 1000)
            quiet = 0
        except BlockingIOError:
            quiet += 1
            time.sleep(0.01)
    with bench.link() as link:
        assert attached(link).stats(1)["core"] == 1
        with bench.lock:
            client = bench.server._clients[0] if bench.server._clients[0].out else bench.server._clients[1]
            assert len(client.out) <= protocol.MAX_BODY_BYTES + protocol.HEADER.size
            assert len(client.reader._data) <= 2 * protocol.MAX_DATA_BYTES
    raw.close()
    bench.until(lambda: bench.server.clients == 0, "both are gone")


def test_300_random_streams(bench):
    """Noise, cut and spoiled messages: each connection is answered or closed, and the server serves on."""
    rng = random.Random(seed())
    for _ in range(300):
        raw = Raw(bench.path)
        good = [Message(1, 1, 0, protocol.HELLO.pack(protocol.MAGIC, 1, 0, abi.ABI_VERSION))] * (rng.random() < 0.8)
        for _ in range(rng.randrange(6)):
            operation = rng.randrange(9)
            size = protocol.REQUEST_BYTES.get(operation, (rng.randrange(40),))[0] + rng.choice([0, 0, 0, 1, 17])
            good.append(Message(rng.getrandbits(16), operation, rng.choice([0, 0, 0, 1]), rng.randbytes(size)))
        octets = bytearray(b"".join(message.encode() for message in good))
        for _ in range(rng.choice([0, 0, 1, 3])):
            if octets:
                octets[rng.randrange(len(octets))] = rng.getrandbits(8)
        del octets[len(octets) - rng.choice([0, 0, 1, len(octets) // 2]) :]
        with contextlib.suppress(OSError):
            raw.socket.sendall(octets)
            if rng.random() < 0.5:
                raw.socket.shutdown(socket.SHUT_WR)
                while raw.receive() is not None:
                    pass
        raw.close()
    bench.until(lambda: bench.server.clients == 0 and not bench.server._clients, "all places are free")
    with bench.link() as link:
        assert attached(link).stats(1)["core"] == 1
