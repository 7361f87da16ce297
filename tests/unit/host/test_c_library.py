"""The C host library against an engine that is a few lines of Python: boot, rings, time-outs, sockets."""

from __future__ import annotations

import ctypes
import errno
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from support import c_library as c
from support.fake_sockets import FakeSockets
from support.rtl import seed
from twinstack.proto.image import build_image
from twinstack.proto.queues import DISPATCH_CONFIG, NETIF_CONFIG, NETIF_STATUS, SOCKET_ADDRESS, STATS, Operation
from twinstack.proto.registers import DISPATCH, ENGINE, HOST_CORE, QUEUE, WINDOW
from twinstack_host.dispatch import DispatchConfig, DispatchRule
from twinstack_host.registers import Registers

ANY = c.Address(2, 80)
FIRST = 0x1000_0000


@pytest.fixture(scope="module")
def library():
    return c.load()


@pytest.fixture
def engine():
    return FakeSockets()


@pytest.fixture
def device(library, engine):
    made = c.CDevice(library, engine)
    assert made.open() == 0 and made.call("start", 7) == 0
    return made


def connect(device) -> int:
    handle = device.call("connect", ANY, None, 1000)
    assert handle > 0
    return handle


@pytest.mark.parametrize("compiler", ["gcc", "riscv64-unknown-elf-gcc"])
@pytest.mark.parametrize("source", [path.name for path in c.SOURCES])
def test_compiles_without_a_warning(tmp_path, compiler, source):
    path = next(one for one in c.SOURCES if one.name == source)
    flags = [*c.WARNINGS, "-O2", f"-I{c.ROOT / 'host' / 'c'}", f"-I{c.header_folder()}"]
    if compiler != "gcc":  # it comes without a string.h; any will do
        flags += ["-ffreestanding", "-march=rv32im", "-mabi=ilp32", f"-I{c.ROOT / 'firmware' / 'include' / 'libc'}"]
    subprocess.run([compiler, *flags, "-c", str(path), "-o", str(tmp_path / "x.o")], check=True, timeout=60)


def test_no_globals_and_little_libc(tmp_path):
    """What can be written outside of a record: nothing. What is called: functions of string.h."""
    objects = []
    for path in c.SOURCES:
        objects.append(str(tmp_path / f"{path.stem}.o"))
        include = [f"-I{c.ROOT / 'host' / 'c'}", f"-I{c.header_folder()}"]
        subprocess.run(["gcc", "-std=c99", "-O1", *include, "-c", str(path), "-o", objects[-1]], check=True, timeout=60)
    symbols = [line.split() for line in subprocess.check_output(["nm", "-A", *objects], text=True).splitlines()]
    assert not [line for line in symbols if line[-2] in "bBdDcC"]
    defined = {line[-1] for line in symbols if line[-2] == "T"}
    needed = {line[-1] for line in symbols if line[-2] == "U"} - defined
    assert needed <= {"memcpy", "memset", "strlen", "__stack_chk_fail", "_GLOBAL_OFFSET_TABLE_"}


def test_under_the_address_sanitizer():
    """This file again, in a process with the sanitizer's run-time."""
    if os.environ.get(c.ADDRESS_SANITIZER):
        return
    runtime = subprocess.check_output(["gcc", "-print-file-name=libasan.so"], text=True).strip()
    environment = os.environ | {c.ADDRESS_SANITIZER: "1", "LD_PRELOAD": runtime, "ASAN_OPTIONS": "detect_leaks=0"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(Path(__file__))]
    command += ["-k", "not compiles and not globals"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240, cwd=c.ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["read32", "write32", "read_memory", "write_memory", "milliseconds"])
def test_open_needs_a_whole_hal(library, engine, name):
    device = c.CDevice(library, engine)
    setattr(device.hal, name, type(getattr(device.hal, name))())
    assert device.open() == -errno.EINVAL


@pytest.mark.parametrize(
    "change",
    [{"base": FIRST + 32}, {"bytes": 2000}, {"bytes": 0xFFFF_FFFF}, {"sq_log2": 16}, {"cq_log2": 0}, {"cq_log2": 16}],
)
def test_open_checks_memory(library, engine, change):
    device = c.CDevice(library, engine)
    for name, value in change.items():
        setattr(device.memory, name, value)
    assert device.open() == -errno.EINVAL


def test_open_finds_no_engine_or_another(library, engine):
    engine.values[engine.at(ENGINE, "abi")] = 9
    assert c.CDevice(library, engine).open() == -errno.EPROTO
    engine.values[engine.at(ENGINE, "magic")] = 0
    assert c.CDevice(library, engine).open() == -errno.ENODEV
    assert engine.writes == []


def test_nothing_works_before_the_start(library, engine):
    device = c.CDevice(library, engine)
    assert device.open() == 0
    assert (device.device.cores, device.device.ports, device.device.code_bytes) == (2, 2, 96 * 1024)
    assert device.call("connect", ANY, None, 10) == -errno.EIO
    assert device.call("attach") == -errno.ENODEV, "no core is alive"


@pytest.mark.parametrize("words", [1, 64])
def test_load(library, engine, words):
    body = random.Random(seed()).randbytes(4 * words)
    code: list[int] = []
    plain = engine.csr_write

    def record(offset, value):
        if offset == engine.at(ENGINE, "code_data"):
            code.append(value)
        plain(offset, value)

    engine.csr_write = record
    device = c.CDevice(library, engine)
    device.open()
    image = build_image(body, 1)
    assert device.call("load", image, len(image)) == 0
    assert b"".join(word.to_bytes(4, "little") for word in code) == body
    assert engine.values[engine.at(ENGINE, "reset_cores")] == 3
    code.clear()
    for spoiled in (image[:31], image[:-4], image + bytes(4), b"x" + image[1:], image[:-1] + bytes([image[-1] ^ 1])):
        assert device.call("load", spoiled, len(spoiled)) == -errno.EINVAL
    long = build_image(bytes(96 * 1024 + 4), 1)
    assert device.call("load", long, len(long)) == -errno.EINVAL
    other = build_image(body, 1, abi=9)
    assert device.call("load", other, len(other)) == -errno.EPROTO
    assert code == []
    engine.values[engine.at(ENGINE, "code_refused")] = 1
    refusals = iter([0, 1])
    engine.csr_read = lambda offset, plain=engine.csr_read: (
        next(refusals) if offset == engine.at(ENGINE, "code_refused") else plain(offset)
    )
    assert device.call("load", image, len(image)) == -errno.EIO


def test_start_sets_up_queue_and_window(library, engine):
    del engine.values[engine.at(DISPATCH, "key")]
    device = c.CDevice(library, engine)
    device.open()
    assert device.call("start", 0) == 0
    values = engine.values
    assert values[engine.at(QUEUE, "control")] == 1 << 31 | 1 << 30 | 4 << 4 | 4
    assert values[engine.at(WINDOW, "base")] == FIRST + 16 * 64 + 16 * 16
    assert values[engine.at(WINDOW, "limit")] == FIRST + (1 << 15) - 1 and values[engine.at(WINDOW, "control")] == 3
    assert values[engine.at(ENGINE, "seed")] == 1
    assert values[engine.at(DISPATCH, "key")] == 0xDA565A6D, "the published key where there was none"
    assert engine.writes[0] == engine.writes[-1] == engine.at(ENGINE, "reset_cores")
    assert device.call("set_window", 1, 0x2000, 0x100, True, False) == 0
    assert values[Registers.address(WINDOW, "limit", instance=1)] == 0x20FF
    assert values[Registers.address(WINDOW, "control", instance=1)] == 1
    assert device.call("set_window", 1, 0, 0, True, True) == 0
    assert values[Registers.address(WINDOW, "control", instance=1)] == 0
    for number, base, size in ((0, 0, 1), (4, 0, 1), (1, 0xFFFF_FFFF, 2)):
        assert device.call("set_window", number, base, size, True, True) == -errno.EINVAL


def test_start_is_bounded(library, engine):
    device = c.CDevice(library, engine)
    device.open()
    device.device.timeout_ms = 50
    plain = engine.csr_read
    engine.csr_read = lambda offset: 0 if offset == engine.at(ENGINE, "alive") else plain(offset)
    assert device.call("start", 1) == -errno.ETIMEDOUT
    assert engine.now < 0.2
    engine.csr_read = lambda offset: 7 if offset == Registers.address(HOST_CORE, "status") else engine_read(offset)

    def engine_read(offset):
        return 0 if offset == engine.at(ENGINE, "alive") else plain(offset)

    assert device.call("start", 1) == -errno.EPROTO


def test_echo_over_many_passes_of_the_rings(device, engine):
    rng = random.Random(seed())
    handle = connect(device)
    for _ in range(60):
        data = rng.randbytes(rng.choice([1, 2, 3, 1460, 5000, 40_000]))
        assert device.call("send", handle, data, len(data), 1000) == len(data)
        got = b""
        while len(got) < len(data):
            room = ctypes.create_string_buffer(7000)
            length = device.call("recv", handle, room, 7000, 1000)
            assert length > 0
            got += room.raw[:length]
        assert got == data
    assert device.call("close", handle, 1000) == 0
    assert device.device.unexpected == 0 and not engine.handles


def test_indices_wrap_at_65536(library, engine):
    device = c.CDevice(library, engine, sq_log2=0, cq_log2=1)
    device.open()
    device.call("start", 1)
    entry = c.Entry(Operation.NOP)
    device.device.sq_tail = device.device.cq_head = engine.sq_head = engine.cq_tail = 0xFFFE
    engine.values[engine.at(QUEUE, "sq_tail")] = engine.values[engine.at(QUEUE, "cq_head")] = 0xFFFE
    engine.write(device.device.cq_base, bytes([0] * 12 + [1, 0, 0, 0]) * 2)  # left by the pass before
    for _ in range(7):
        assert device.call("call", entry, 1000) == 0
    assert device.device.sq_tail == 5 and device.device.unexpected == 0


def test_many_operations_at_once(device, engine):
    """More than the rings hold; each record gets its own result, once."""
    handle = connect(device)
    operations = [c.Operation() for _ in range(40)]
    for operation in operations:
        assert device.call("submit", c.Entry(Operation.NOP), operation) == 0
    foreign = c.Operation()
    assert device.call("submit", c.Entry(Operation.SEND, handle + 1, device.device.bounce, 4), foreign) == 0
    for operation in (*operations, foreign):
        assert device.call("wait", operation, 1000) == 0 and operation.done
    assert {operation.result for operation in operations} == {0} and foreign.result == -errno.EBADF


def test_ring_that_stays_full_is_an_error(device, engine):
    device.device.timeout_ms = 30
    engine.serve = lambda: None
    operations = [c.Operation() for _ in range(16)]
    for operation in operations:
        assert device.call("submit", c.Entry(Operation.NOP), operation) == 0
    assert device.call("submit", c.Entry(Operation.NOP), c.Operation()) == -errno.EBUSY
    device.call("stop")
    assert all(operation.done and operation.result == -errno.ECANCELED for operation in operations)


def test_time_out_takes_the_operation_back(device, engine):
    handle = connect(device)
    room = ctypes.create_string_buffer(100)
    began = engine.now
    assert device.call("recv", handle, room, 100, 20) == -errno.ETIMEDOUT
    assert 0.02 <= engine.now - began < 0.1
    assert not engine.waiting and len(engine.canceled) == 1
    assert device.call("send", handle, b"later", 5, 1000) == 5
    assert device.call("recv", handle, room, 100, 1000) == 5 and room.raw[:5] == b"later"


def test_data_that_comes_with_the_cancel_is_not_lost(device, engine):
    handle = connect(device)
    begin = engine.begin

    def feed_first(entry):
        if entry["operation"] == Operation.CANCEL:
            engine.handles[handle] += b"just in time"
            engine.feed()
        return begin(entry)

    engine.begin = feed_first
    room = ctypes.create_string_buffer(100)
    assert device.call("recv", handle, room, 100, 20) == 12 and room.raw[:12] == b"just in time"


@pytest.mark.parametrize("name", ["recv", "send"])
def test_operation_that_the_engine_keeps(device, engine, name):
    """A RECV that neither completes nor cancels: the device is of no use. A SEND: its connection is aborted."""
    device.device.timeout_ms = 30
    handle = connect(device)
    begin = engine.begin
    keep = {Operation.CANCEL: 0, Operation.SEND: None}
    engine.begin = lambda entry: keep[entry["operation"]] if entry["operation"] in keep else begin(entry)
    room = ctypes.create_string_buffer(100)
    began = engine.now
    if name == "recv":
        assert device.call("recv", handle, room, 100, 20) == -errno.EIO
        assert device.call("connect", ANY, None, 10) == -errno.EIO and device.call("poll") == 0
        assert device.call("attach") == 0
        assert connect(device) > 0
    else:
        assert device.call("send", handle, b"x", 1, 20) == -errno.ETIMEDOUT
        assert handle not in engine.handles
        assert connect(device) > 0
    assert engine.now - began < 0.5


def test_listener(device, engine):
    listener, queue = c.Listener(), (ctypes.c_uint32 * 3)()
    assert device.call("listen", listener, ANY, 4, 0, queue, 0) == -errno.EINVAL
    assert device.call("listen", listener, ANY, 4, 0, queue, 3) == 0
    assert device.call("accept", listener, 10) == -errno.ETIMEDOUT
    handles = [engine.arrive(listener.handle) for _ in range(5)]
    taken = [device.call("accept", listener, 1000) for _ in range(3)]
    assert taken == handles[:3]
    assert device.call("accept", listener, 10) == -errno.ETIMEDOUT
    assert listener.refused == 2 and set(engine.handles) == {listener.handle, *taken}
    again = engine.arrive(listener.handle)
    left = engine.arrive(listener.handle)
    assert device.call("accept", listener, 1000) == again
    assert device.call("listener_close", listener) == 0
    assert listener.accept.done and left not in engine.handles and set(engine.handles) == {*taken, again}
    assert device.call("accept", listener, 1000) == -errno.ECANCELED
    assert device.device.unexpected == 0


def test_example_echo(device, library, engine):
    answered = b""
    begin = engine.begin

    def peer(entry):
        nonlocal answered
        if entry["operation"] == Operation.SEND:
            answered += engine.read(entry["buffer"], entry["length"])
            return entry["length"]
        if entry["operation"] == Operation.RECV and answered:
            return 0  # the end of the stream
        return begin(entry)

    plain = engine.wait_interrupt
    calls = []

    def script(timeout):
        calls.append(timeout)
        assert len(calls) < 1000
        if len(calls) == 5:
            handle = engine.arrive(next(handle for handle in engine.handles if handle >> 28 == 7))
            engine.handles[handle] += b"data of a peer"
            engine.flush()
        return plain(timeout)

    engine.begin, engine.wait_interrupt = peer, script
    assert library.echo_serve(ctypes.byref(device.device), 7, 1) == 0
    assert device.error is None and not engine.handles and answered == b"data of a peer"


def test_two_devices_at_once(library):
    engines = [FakeSockets(), FakeSockets()]
    devices = [c.CDevice(library, engine) for engine in engines]
    for device in devices:
        assert device.open() == 0 and device.call("start", 1) == 0
    handles = [connect(device) for device in devices]
    room = ctypes.create_string_buffer(10)
    for number, device in enumerate(devices):
        assert device.call("send", handles[number], b"%d" % number, 1, 100) == 1
    for number, device in enumerate(devices):
        assert device.call("recv", handles[number], room, 10, 100) == 1 and room.raw[:1] == b"%d" % number


class Scripted:
    """Answers operations as told and notes the entries."""

    def __init__(self, engine, answers):
        self.taken: list[dict[str, int]] = []
        begin = engine.begin

        def answer(entry):
            self.taken.append(entry)
            if entry["operation"] in answers:
                return answers[entry["operation"]](entry)
            return begin(entry)

        engine.begin = answer

    def inline(self) -> bytes:
        return self.taken[-1]["inline"].to_bytes(32, "little")


def write_address(engine, where, family=2, port=4242, address=b"\x0a\x00\x00\x07", extra=0, scope=0):
    values = {"family": family, "port": port, "scope": scope, "extra": extra}
    engine.write(where, SOCKET_ADDRESS.pack(values | {"address": int.from_bytes(address, "little")}))
    return 32


def test_addresses_and_names(device, engine):
    six = bytes(range(0xF0, 0x100))
    script = Scripted(
        engine,
        {
            Operation.GETPEERNAME: lambda e: write_address(engine, e["buffer"]),
            Operation.GETSOCKNAME: lambda e: write_address(engine, e["buffer"], 10, 7, six, scope=2),
            Operation.RESOLVE: lambda e: write_address(engine, e["inline"] & 0xFFFF_FFFF, port=0),
            Operation.PING: lambda e: 1234,
        },
    )
    address = c.Address()
    assert device.call("remote_address", 5, address) == 0
    assert (address.family, address.port, bytes(address.address[:4])) == (2, 4242, b"\x0a\x00\x00\x07")
    assert device.call("local_address", 5, address) == 0
    assert (address.family, address.port, address.scope, bytes(address.address)) == (10, 7, 2, six)
    assert device.call("resolve", b"a.example", 10, address, 1000) == 0
    entry = script.taken[-1]
    assert engine.read(entry["buffer"], entry["length"]) == b"a.example" and entry["operation_flags"] == 10
    assert bytes(address.address[:4]) == b"\x0a\x00\x00\x07"
    assert device.call("resolve", b"x" * 128, 0, address, 1000) == -errno.EINVAL
    assert device.call("ping", address, 56, 700) == 1234
    assert (script.taken[-1]["length"], script.taken[-1]["operation_flags"]) == (56, 700)
    local = c.Address(2, 99, 0, (1, 2, 3, 4))
    assert device.call("connect", address, local, 100) > 0
    block = SOCKET_ADDRESS.unpack(script.inline())
    assert block["extra"].to_bytes(4, "little") == b"\1\2\3\4" and script.taken[-1]["operation_flags"] == 99


def test_datagrams_and_options(device, engine):
    def datagram(entry):
        engine.write(entry["buffer"], b"dgram")
        write_address(engine, entry["inline"] & 0xFFFF_FFFF, extra=5000)
        return 5

    script = Scripted(
        engine,
        {
            Operation.UDP_OPEN: lambda e: 0x77,
            Operation.SENDTO: lambda e: e["length"],
            Operation.RECVFROM: datagram,
            Operation.SETSOCKOPT: lambda e: 0,
            Operation.GETSOCKOPT: lambda e: 300,
            Operation.SHUTDOWN: lambda e: -errno.ETIMEDOUT,
        },
    )
    assert device.call("udp_open", c.Address(2, 53), 1) == 0x77 and script.taken[-1]["operation_flags"] == 1
    assert device.call("sendto", 0x77, b"", 0, ANY, 1, 100) == 0
    assert script.taken[-1]["operation_flags"] == 1 << 8
    assert SOCKET_ADDRESS.unpack(script.inline())["port"] == 80
    assert device.call("sendto", 0x77, bytes(1 << 16), 1 << 16, ANY, 0, 100) == -errno.EMSGSIZE
    room, whole, sender = ctypes.create_string_buffer(5), ctypes.c_uint32(), c.Address()
    assert device.call("recvfrom", 0x77, room, 5, sender, whole, 0, 100) == 5
    assert (room.raw, whole.value, sender.port) == (b"dgram", 5000, 4242)
    assert device.call("recvfrom", 0x77, room, 5, None, None, 0, 100) == 5
    assert device.call("set_option", 0x77, 11, 64) == 0
    assert (script.taken[-1]["operation_flags"], script.taken[-1]["inline"]) == (11, 64)
    assert device.call("set_address_option", 0x77, 16, ANY) == 0
    assert device.call("get_option", 0x77, 11) == 300
    assert device.call("shutdown", 0x77, 100) == -errno.ETIMEDOUT


def test_configuration_and_statistics(device, engine):
    def write(layout, **values):
        def answer(entry):
            assert entry["length"] == layout.size_bytes
            engine.write(entry["buffer"], layout.pack(values))
            return layout.size_bytes

        return answer

    script = Scripted(
        engine,
        {
            Operation.NETIF_CONFIG: lambda e: 0,
            Operation.NETIF_STATUS: write(
                NETIF_STATUS, configured=1, speed=2, lease_seconds=9, address6_ready=5, dns6=3 << 120
            ),
            Operation.STATS: write(STATS, core=1, bytes_in=1 << 40, tx_buffers_free=77),
        },
    )
    config = c.Ipv4Config(False, 24, (10, 1, 2, 3), (10, 1, 2, 1), ((8, 8, 8, 8), (9, 9, 9, 9)), (2, 0, 0, 0, 0, 9))
    assert device.call("configure", 1, config) == 0
    block = NETIF_CONFIG.unpack(script.inline())
    assert (block["family"], block["prefix_length"], script.taken[-1]["operation_flags"]) == (2, 24, 1)
    assert block["address"].to_bytes(4, "little") == bytes([10, 1, 2, 3])
    assert block["dns1"].to_bytes(4, "little") == bytes([9] * 4)
    assert block["mac"].to_bytes(8, "little") == bytes([2, 0, 0, 0, 0, 9, 0, 0])
    assert device.call("configure6", 0, c.Ipv6Config(True)) == 0
    assert script.inline() == bytes([10, 0, 0, 1]) + bytes(28)
    status = c.NetifStatus()
    assert device.call("status", 0, status) == 0
    assert (status.configured, status.link_up, status.speed, status.lease_seconds) == (True, False, 1000, 9)
    assert list(status.address6_ready) == [True, False, True] and status.dns6[15] == 3
    stats = c.Stats()
    assert device.call("read_stats", 1, stats) == 0
    assert (stats.core, stats.bytes_in, stats.tx_buffers_free) == (1, 1 << 40, 77)


def test_dispatch(device, engine):
    """The block is the one of the Python library, both ways."""
    blocks: list[bytes] = []

    def answer(entry):
        if entry["operation_flags"]:
            engine.write(entry["buffer"], blocks[-1])
            return 320
        blocks.append(engine.read(entry["buffer"], 320))
        if blocks[-1][64] == 9:
            engine.write(entry["buffer"], blocks[-1][:4] + (64).to_bytes(4, "little") + blocks[-1][8:])
            return -errno.EINVAL
        return 320

    Scripted(engine, {Operation.DISPATCH_CONFIG: answer})
    key, table = bytes(range(1, 41)), [n % 2 for n in range(128)]
    rules = [DispatchRule(1, core=1, ethertype=0x0800, protocol=6, destination_port=80), DispatchRule(5, source_port=9)]
    expected = DispatchConfig(key=key, tcp_ports=True, udp_ports=False, indirection=table, rules=rules)
    config = c.Dispatch(True, True, True, True, 0, tuple(key), True, False, tuple(table))
    first, second = config.rules[0], config.rules[1]
    first.action, first.core, first.match_ethertype, first.ethertype = 1, 1, True, 0x0800
    first.match_protocol, first.protocol, first.match_destination_port, first.destination_port = True, 6, True, 80
    second.action, second.match_source_port, second.source_port = 5, True, 9
    assert device.call("set_dispatch", config) == 0
    assert blocks[-1] == expected.pack()
    back = c.Dispatch()
    assert device.call("get_dispatch", back) == 0
    assert bytes(back) == bytes(config)
    part = c.Dispatch(False, True, False, False)
    part.tcp_ports = True
    assert device.call("set_dispatch", part) == 0
    assert blocks[-1] == DispatchConfig(tcp_ports=True, udp_ports=False).pack()
    config.indirection[0] = 9
    assert device.call("set_dispatch", config) == -errno.EINVAL and config.refused_at == 64
    assert DISPATCH_CONFIG.size_bytes == 320


def test_console(device, engine):
    text = list(b"hello")
    plain = engine.csr_read
    where = Registers.address(HOST_CORE, "console", instance=1)
    engine.csr_read = lambda offset: (1 << 31 | text.pop(0) if text else 0) if offset == where else plain(offset)
    room = ctypes.create_string_buffer(3)
    assert device.call("console", 1, room, 3) == 3 and room.raw == b"hel"
    assert device.call("console", 1, room, 3) == 2 and room.raw[:2] == b"lo"
    assert device.call("console", 2, room, 3) == -errno.EINVAL
