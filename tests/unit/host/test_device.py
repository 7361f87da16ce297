"""The host library against an engine that is a few lines of Python: rings, phases, errors, sockets."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from twinstack.proto import abi
from twinstack.proto.image import ImageError, build_image
from twinstack.proto.queues import CQE, NETIF_CONFIG, SOCKET_ADDRESS, SQE, STATS, Operation
from twinstack.proto.registers import ENGINE, HOST_CORE, QUEUE, WINDOW
from twinstack_host.device import BLOCK_BYTES, AbiMismatch, Device, EngineError, error_for, ipv4_bytes
from twinstack_host.link import HostLink, LinkError
from twinstack_host.memory import OutOfMemory
from twinstack_host.registers import Registers
from twinstack_host.sockets import Listener, Socket, pack_address

BASE = 0x4000_0000
Answer = Callable[[dict[str, int]], int | None]


class FakeEngine(HostLink):
    """Registers as a dictionary, rings served while the host waits. Time passes in waits only."""

    def __init__(self, memory_size: int = 1 << 18, *, engine_abi: int = abi.ABI_VERSION, firmware_abi: int = 1):
        self.memory = bytearray(memory_size)
        self.now = 0.0
        self.firmware_abi = firmware_abi
        self.consoles = [bytearray(b"core 0 up\n"), bytearray(b"core 1 up\n")]
        self.boots, self.refuse_code = True, 0
        self.values = {
            self.at(ENGINE, "magic"): abi.MAGIC,
            self.at(ENGINE, "abi"): engine_abi,
            self.at(ENGINE, "identity"): 2 | 2 << 4 | 1 << 8 | 96 << 16,
            self.at(ENGINE, "sync_hz"): 75_000_000,
        }
        self.code: list[int] = []
        self.writes: list[tuple[int, int]] = []
        self.taken: list[dict[str, int]] = []
        self.answers: dict[int, Answer] = {}
        self.sq_head = self.cq_tail = 0
        self.stalled = False

    @staticmethod
    def at(block, name: str, instance: int = 0) -> int:
        return Registers.address(block, name, instance=instance)

    @property
    def memory_base(self) -> int:
        return BASE

    @property
    def memory_size(self) -> int:
        return len(self.memory)

    def clock(self) -> float:
        return self.now

    def read(self, address: int, length: int) -> bytes:
        assert BASE <= address and address + length <= BASE + len(self.memory)
        return bytes(self.memory[address - BASE : address - BASE + length])

    def write(self, address: int, data: bytes) -> None:
        assert BASE <= address and address + len(data) <= BASE + len(self.memory)
        self.memory[address - BASE : address - BASE + len(data)] = data

    def csr_read(self, offset: int) -> int:
        for core, console in enumerate(self.consoles):
            if offset == self.at(HOST_CORE, "console", core):
                return 1 << 31 | console.pop(0) if console else 0
        if offset == self.at(QUEUE, "sq_head"):
            return self.sq_head
        return self.values.get(offset, 0)

    def csr_write(self, offset: int, value: int) -> None:
        self.writes.append((offset, value))
        self.values[offset] = value
        if offset == self.at(ENGINE, "code_data"):
            self.code.append(value)
            self.values[self.at(ENGINE, "code_refused")] = self.refuse_code
        if offset == self.at(QUEUE, "control") and not value >> 31:
            self.sq_head = self.cq_tail = 0
        if offset == self.at(ENGINE, "reset_cores"):
            up = value == 0 and self.boots
            for core in range(2):
                self.values[self.at(HOST_CORE, "status", core)] = self.firmware_abi | 1 << 31 if up else 0
            self.values[self.at(ENGINE, "alive")] = 3 if up and self.firmware_abi == 1 else 0

    def wait_interrupt(self, timeout: float) -> bool:
        before = self.cq_tail
        self.now += timeout
        self.serve()
        return self.cq_tail != before

    def serve(self) -> None:
        """Take what is submitted and post the answers."""
        control = self.values.get(self.at(QUEUE, "control"), 0)
        entries = 1 << (control & 15)
        while not self.stalled and self.sq_head != self.values.get(self.at(QUEUE, "sq_tail"), 0):
            base = self.values[self.at(QUEUE, "sq_base")] + self.sq_head % entries * 64
            entry = SQE.unpack(self.read(base, 64))
            self.sq_head = (self.sq_head + 1) & 0xFFFF
            self.taken.append(entry)
            answer = self.answers.get(entry["operation"], lambda entry: 0)
            result = answer(entry)
            if result is not None:
                self.complete(entry["user_data"], result)

    def complete(self, user_data: int, result: int, more: int = 0) -> None:
        entries = 1 << (self.values[self.at(QUEUE, "control")] >> 4 & 15)
        head = self.values.get(self.at(QUEUE, "cq_head"), 0)
        assert (self.cq_tail - head) & 0xFFFF < entries, "the host has not made room"
        phase = 1 ^ (self.cq_tail // entries & 1)
        fields = {"user_data": user_data, "result": result & 0xFFFF_FFFF, "phase": phase, "more": more}
        self.write(self.values[self.at(QUEUE, "cq_base")] + self.cq_tail % entries * 16, CQE.pack(fields))
        self.cq_tail = (self.cq_tail + 1) & 0xFFFF


@pytest.fixture
def engine():
    return FakeEngine()


@pytest.fixture
def device(engine):
    made = Device(engine, sq_entries=4, cq_entries=8)
    made.start(seed=5)
    return made


def test_no_engine_and_other_abi():
    absent = FakeEngine()
    absent.values[absent.at(ENGINE, "magic")] = 0xFFFF_FFFF
    with pytest.raises(LinkError, match="magic must be 0x4b545354, not 0xffffffff"):
        Device(absent)
    with pytest.raises(AbiMismatch, match=f"host library has ABI version {abi.ABI_VERSION}, the engine 9"):
        Device(FakeEngine(engine_abi=9))


@pytest.mark.parametrize("name", ["sq_entries", "cq_entries"])
@pytest.mark.parametrize("entries", [0, 1, 3, 1 << 16, -4])
def test_ring_sizes(engine, name, entries):
    with pytest.raises(ValueError, match=f"{name} must be a power of two from 2 to 32768, not {entries}"):
        Device(engine, **{name: entries})


def test_memory_must_hold_rings_and_a_buffer():
    with pytest.raises(ValueError, match="host memory must have at least 1536 bytes, not 1024"):
        Device(FakeEngine(1024))
    with pytest.raises(ValueError, match="host memory must have at least 9216 bytes, not 8192"):
        Device(FakeEngine(8192), sq_entries=128)


def test_small_memory_has_small_rings_and_buffers():
    """Block RAM of a board: 8 KiB are two rings in 1 KiB, and buffers of 512 bytes."""
    for size, buffers, block in ((1 << 18, 62, 4096), (1 << 15, 30, 1024), (1 << 13, 14, 512), (3072, 4, 512)):
        device = Device(FakeEngine(size))
        assert (device.pool.count, device.pool.block_bytes) == (buffers, block)
        device.start(seed=1)
        for _ in range(100):  # many passes of the rings
            assert device.wait(device.submit(Operation.NOP), 1.0) == 0


def test_torn_completions_wait_until_they_are_whole(engine):
    """Over a slow line, a read of an entry may begin before the engine writes it, and end after that."""
    engine.__class__ = type("TornEngine", (FakeEngine,), {"tears": True, "read": torn_read})
    device = Device(engine, sq_entries=4, cq_entries=8)
    device.start(seed=5)
    engine.before = {}
    for _ in range(20):
        assert device.wait(device.submit(Operation.NOP), 1.0) == 0
    assert device.unexpected == []


def torn_read(engine, address, length):
    """All but the last word as they were at the last read of the same place."""
    now = FakeEngine.read(engine, address, length)
    before = getattr(engine, "before", {}).get(address // 16, bytes(16))
    if length == 4:
        engine.before[address // 16] = FakeEngine.read(engine, address & ~15, 16)
    return (before[: length - 4] + now[-4:]) if length == 16 else now


def test_load_writes_the_body_while_cores_are_held(engine):
    device = Device(engine)
    seen = []
    device.load(build_image(bytes(range(8)), 1), progress=lambda done, total: seen.append((done, total)))
    assert engine.code == [0x03020100, 0x07060504] and seen == [(0, 8)]
    assert engine.writes[0] == (engine.at(ENGINE, "reset_cores"), 3)


def test_load_refuses_before_it_writes(engine):
    device = Device(engine)
    with pytest.raises(ImageError, match="ABI version 9, the engine has ABI version 3"):
        device.load(build_image(bytes(8), 1, abi=9))
    assert engine.writes == []


def test_load_notices_refused_words(engine):
    device = Device(engine)
    engine.refuse_code = 2
    with pytest.raises(EngineError, match="refused words"):
        device.load(build_image(bytes(8), 1))


def test_start_sets_up_queue_and_window(engine, device):
    assert device.console_text == ["core 0 up\n", "core 1 up\n"]
    values = engine.values
    assert values[engine.at(QUEUE, "control")] == 1 << 31 | 1 << 30 | 3 << 4 | 2
    assert values[engine.at(QUEUE, "sq_base")] == BASE and values[engine.at(QUEUE, "cq_base")] == BASE + 4 * 64
    assert values[engine.at(WINDOW, "base")] == BASE + BLOCK_BYTES
    assert values[engine.at(WINDOW, "limit")] == BASE + (1 << 18) - 1 and values[engine.at(WINDOW, "control")] == 3
    order = [offset for offset, _ in engine.writes]
    assert order[0] == order[-1] == engine.at(ENGINE, "reset_cores"), "cores run last"


def test_start_names_both_abi_versions():
    engine = FakeEngine(firmware_abi=7)
    with pytest.raises(AbiMismatch, match=f"core 0: firmware has ABI version 7, the engine {abi.ABI_VERSION}"):
        Device(engine).start(seed=1)


def test_start_is_bounded():
    engine = FakeEngine()
    engine.boots = False
    device = Device(engine)
    device.timeout = 0.25
    with pytest.raises(EngineError, match=r"s; consoles: \['core 0 up"):
        device.start(seed=1)
    assert engine.now < 0.6


def test_completions_over_many_passes_of_the_rings(engine, device):
    results = iter(range(-3, 500))
    engine.answers[Operation.NOP] = lambda entry: next(results)
    for expected in range(-3, 97):
        pending = device.submit(Operation.NOP)
        assert device.wait(pending, 1.0) == expected == pending.result
    assert len({entry["user_data"] for entry in engine.taken}) == 100
    assert not device.unexpected


def test_indices_wrap_at_65536(engine, device):
    device._sq_tail = engine.sq_head = 0xFFFE
    device._cq_head = engine.cq_tail = 0xFFFE
    engine.values[engine.at(QUEUE, "sq_tail")] = 0xFFFE
    engine.values[engine.at(QUEUE, "cq_head")] = 0xFFFE
    engine.write(device._cq_base + 6 * 16, CQE.pack({"phase": 1}) * 2)  # left by the pass before
    for _ in range(6):
        assert device.wait(device.submit(Operation.NOP), 1.0) == 0
    assert engine.values[engine.at(QUEUE, "sq_tail")] == engine.values[engine.at(QUEUE, "cq_head")] == 4


def test_full_ring_waits_and_then_fails(engine, device):
    pendings = [device.submit(Operation.NOP) for _ in range(9)]  # more than the ring has
    for pending in pendings:
        device.wait(pending, 1.0)
    engine.stalled = True
    for _ in range(4):
        device.submit(Operation.NOP)
    with pytest.raises(EngineError, match="stays full") as caught:
        device.submit(Operation.NOP)
    assert caught.value.errno == errno.EBUSY


def test_multishot_and_unknown_completions(engine, device):
    engine.answers[Operation.TCP_ACCEPT] = lambda entry: None
    got: list[int] = []
    ended: list[int] = []
    pending = device.submit(Operation.TCP_ACCEPT, on_more=got.append, on_done=ended.append)
    device.advance(0.1)
    user_data = engine.taken[-1]["user_data"]
    engine.complete(user_data, 11, more=1)
    engine.complete(999, -5)
    engine.complete(user_data, 12, more=1)
    assert device.poll() == 3 and got == [11, 12] and not pending.done
    engine.complete(user_data, -errno.ECANCELED)
    assert device.poll() == 1 and pending.done and ended == [-errno.ECANCELED]
    engine.complete(user_data, 13)
    device.poll()
    assert device.unexpected == [(999, -5), (user_data, 13)]


def test_wait_is_bounded_in_engine_time(engine, device):
    engine.answers[Operation.NOP] = lambda entry: None
    pending = device.submit(Operation.NOP)
    with pytest.raises(TimeoutError, match="NOP did not complete within 0.05 s"):
        device.wait(pending, 0.05)
    engine.complete(engine.taken[-1]["user_data"], 4)
    assert device.wait(pending, 0.05) == 4


def test_errors_have_their_own_exceptions(engine, device):
    engine.answers[Operation.STATS] = lambda entry: -errno.ECONNREFUSED
    free = device.pool.free
    with pytest.raises(ConnectionRefusedError, match="ECONNREFUSED"):
        device.stats(1)
    assert device.pool.free == free, "the buffer must come back"
    assert isinstance(error_for(-errno.ECONNRESET, "x"), ConnectionResetError)
    assert isinstance(error_for(-errno.EPIPE, "x"), BrokenPipeError)
    assert "4095" in str(error_for(-4095, "x"))


def test_stats_and_configuration(engine, device):
    def write_stats(entry):
        assert entry["operation_flags"] == 1 and entry["length"] == STATS.size_bytes
        engine.write(entry["buffer"], STATS.pack({"core": 1, "bytes_in": 1 << 40}))
        return STATS.size_bytes

    engine.answers[Operation.STATS] = write_stats
    assert device.stats(1)["bytes_in"] == 1 << 40
    device.configure(1, "10.1.2.3", 20, gateway="10.1.0.1", mac="02:00:00:00:00:09")
    entry = engine.taken[-1]
    block = NETIF_CONFIG.unpack(entry["inline"].to_bytes(32, "little"))
    assert entry["operation_flags"] == 1 and block["prefix_length"] == 20 and block["family"] == 2
    assert block["address"].to_bytes(4, "little") == bytes([10, 1, 2, 3])
    assert block["mac"].to_bytes(8, "little") == bytes([2, 0, 0, 0, 0, 9, 0, 0])


@pytest.mark.parametrize("text", ["", "1.2.3", "1.2.3.256", "1.2.3.4.5", "a.b.c.d", "1.2.3.-4", "1.2.3.0004"])
def test_bad_addresses(text):
    with pytest.raises(ValueError, match="address must be a dotted IPv4 address"):
        ipv4_bytes(text)


def test_bad_port():
    with pytest.raises(ValueError, match="port must be 0 to 65535, not 65536"):
        pack_address(("1.2.3.4", 65536))


def test_registers_check_names():
    registers = Registers(FakeEngine())
    with pytest.raises(ValueError, match="must have fields"):
        registers.write_fields(QUEUE, "control", nonsense=1)
    with pytest.raises(ValueError, match="must have fields"):
        registers.write_fields(QUEUE, "control", sq_log2=16)
    with pytest.raises(KeyError):
        registers.read(QUEUE, "nothing")


class EchoSocket:
    """Answers SEND and RECV of one connection: what was sent comes back, up to ``most`` bytes at a time."""

    def __init__(self, engine: FakeEngine, most: int):
        self.engine, self.most, self.data = engine, most, bytearray()
        engine.answers |= {Operation.SEND: self.send, Operation.RECV: self.receive, Operation.TCP_CONNECT: self.connect}

    def connect(self, entry):
        address = SOCKET_ADDRESS.unpack(entry["inline"].to_bytes(32, "little"))
        assert (address["family"], address["port"]) == (2, 80)
        return 0x1004_0001

    def send(self, entry):
        taken = min(entry["length"], self.most)
        self.data += self.engine.read(entry["buffer"], taken)
        return taken

    def receive(self, entry):
        piece = self.data[: min(entry["length"], self.most)]
        del self.data[: len(piece)]
        self.engine.write(entry["buffer"], bytes(piece))
        return len(piece)


@pytest.mark.parametrize("most", [1, 700, 4096])
def test_socket_sends_and_receives_all(engine, device, most):
    EchoSocket(engine, most)
    free = device.pool.free
    data = bytes(i * 7 & 0xFF for i in range(9000 if most > 1 else 50))
    with Socket.connect(device, ("10.0.0.1", 80)) as socket:
        assert socket.core == 1
        socket.sendall(data)
        got = b""
        while len(got) < len(data):
            got += socket.recv(1000)
        assert got == data
        assert socket.recv(10) == b"" and socket.ended
    assert device.pool.free == free
    with pytest.raises(OSError, match="the socket is closed"):
        socket.recv(1)
    socket.close()
    assert sum(entry["operation"] == Operation.CLOSE for entry in engine.taken) == 1


def test_socket_errors(engine, device):
    engine.answers[Operation.TCP_CONNECT] = lambda entry: -errno.EHOSTUNREACH
    with pytest.raises(OSError, match="connect to 10.0.0.1:80: EHOSTUNREACH"):
        Socket.connect(device, ("10.0.0.1", 80))
    engine.answers |= {operation: lambda entry: -errno.ECONNRESET for operation in (Operation.SEND, Operation.RECV)}
    socket = Socket(device, 5)
    free = device.pool.free
    with pytest.raises(ConnectionResetError):
        socket.sendall(b"x")
    with pytest.raises(ConnectionResetError):
        socket.recv(1)
    assert device.pool.free == free
    with pytest.raises(ValueError, match="length must be at least 1"):
        socket.recv(0)
    with pytest.raises(ValueError, match="timeout must be None or not negative"):
        socket.settimeout(-1)


def test_receive_times_out_and_goes_on(engine, device):
    engine.answers[Operation.RECV] = lambda entry: None
    socket = Socket(device, 5)
    socket.settimeout(0.02)
    with pytest.raises(TimeoutError):
        socket.recv(10)
    entry = engine.taken[-1]
    engine.write(entry["buffer"], b"late")
    engine.complete(entry["user_data"], 4)
    assert socket.recv(10) == b"late"


def test_close_waits_for_the_posted_receive(engine, device):
    waiting: list[int] = []
    engine.answers[Operation.RECV] = lambda entry: waiting.append(entry["user_data"])

    def close(entry):
        engine.complete(waiting.pop(), -errno.ECANCELED)
        return 0

    engine.answers[Operation.CLOSE] = close
    free = device.pool.free
    socket = Socket(device, 5)
    assert not socket.receive_step()
    device.advance(0.01)
    assert device.pool.free == free - 1
    socket.close()
    assert device.pool.free == free


def test_out_of_buffers(engine, device):
    taken = [device.pool.take() for _ in range(device.pool.free)]
    with pytest.raises(OutOfMemory):
        Socket(device, 5).send(b"x")
    for address in taken:
        device.pool.give(address)
    assert Socket(device, 5).send(b"") == 0


def test_listener(engine, device):
    posted: list[int] = []
    engine.answers |= {
        Operation.TCP_LISTEN: lambda entry: 0x7000_0001,
        Operation.TCP_ACCEPT: lambda entry: posted.append(entry["user_data"]),
    }

    def name(entry):
        values = {"family": 2, "port": 4242, "address": int.from_bytes(bytes([10, 0, 0, 7]), "little")}
        engine.write(entry["buffer"], SOCKET_ADDRESS.pack(values))
        return SOCKET_ADDRESS.size_bytes

    engine.answers[Operation.GETPEERNAME] = name
    listener = Listener(device, 80, backlog=3)
    assert engine.taken[0]["length"] == 3
    device.advance(0.01)
    assert listener.accept_step() is None
    engine.complete(posted[0], 0x1000_0001, more=1)
    engine.complete(posted[0], 0x0000_0001, more=1)
    first, address = listener.accept()
    second, _ = listener.accept()
    assert address == ("10.0.0.7", 4242) and (first.core, second.core) == (1, 0)
    engine.complete(posted[0], -errno.ECANCELED)
    with pytest.raises(OSError, match="ECANCELED"):
        listener.accept()
