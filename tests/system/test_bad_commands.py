"""Malformed operations: one error completion each, with its user data, and nobody else notices."""

import errno

import pytest

from system.rig import CONFIG
from twinstack.proto.queues import AF_INET, SOCKET_ADDRESS, Handle, Operation
from twinstack.proto.registers import WINDOW
from twinstack_host.device import BLOCK_BYTES
from twinstack_host.sockets import Listener, pack_address
from twinstack_sim.streams import HostStream

PORT = 7200
MAPPED = bytes(10) + bytes([0xFF, 0xFF, 192, 168, 77, 2])
"""An IPv4 address in IPv6 notation, which is for AF_INET."""
TIMEOUT = 1.0
"""Seconds of the firmware's fast clock within which an operation that needs no peer completes."""


@pytest.fixture(scope="module")
def connections(rig):
    """One connection on each core; the tests must leave them working."""
    with Listener(rig.device, PORT, backlog=4) as listener:
        made = [rig.accept_on(listener, core, PORT) for core in range(2)]
        yield made
        rig.close_all(*(end for pair in made for end in pair))


@pytest.fixture(autouse=True)
def others_work(rig, connections):
    """After each test, both connections carry data and no completion came that nobody waits for."""
    yield
    rig.echo([(connection, HostStream(socket)) for socket, connection in connections], 40)
    assert rig.device.unexpected == []


def result_of(rig, values: dict[str, int]) -> int:
    """Submit an entry and return the result of its one completion."""
    more: list[int] = []
    done: list[int] = []
    pending = rig.device.submit_raw(values, on_more=more.append, on_done=done.append)
    rig.device.wait(pending, TIMEOUT)
    rig.run(2000)
    assert more == [] and done == [pending.result]
    return pending.result


@pytest.mark.parametrize("operation", [max(Operation) + 1, 64, 127, 128, 255])
def test_unknown_operation(rig, operation):
    assert result_of(rig, {"operation": operation}) == -errno.EINVAL


@pytest.mark.parametrize("field", ["flags", "reserved", "handle", "buffer", "length", "operation_flags", "inline"])
def test_what_an_operation_does_not_use_must_be_zero(rig, field):
    assert result_of(rig, {"operation": Operation.NOP}) == 0
    assert result_of(rig, {"operation": Operation.NOP, field: 1}) == -errno.EINVAL


@pytest.mark.parametrize("operation", ["SEND", "RECV", "SHUTDOWN", "CLOSE", "ABORT", "GETSOCKNAME", "GETPEERNAME"])
def test_handles_of_nothing(rig, connections, operation):
    """A closed socket, wrong generation, index, core, host; a listener's handle with an operation it has not."""
    socket, _ = connections[1]
    right = vars(Handle.unpack(socket.handle))
    buffer = rig.device.pool.take()
    uses_buffer = operation in ("SEND", "RECV", "GETSOCKNAME", "GETPEERNAME")
    rest = {"buffer": buffer, "length": 64} if uses_buffer else {}
    wrong = [
        {"generation": right["generation"] ^ 1},
        {"generation": 0},
        {"index": right["index"] + 1},
        {"index": 1023},
        {"core": 0, "index": 60},
        {"core": 5},
        {"host": 1},
    ]
    for change in wrong:
        handle = Handle(**(right | change)).pack()
        assert result_of(rig, {"operation": Operation[operation], "handle": handle} | rest) == -errno.EBADF, change
    bit31 = socket.handle | 1 << 31
    assert result_of(rig, {"operation": Operation[operation], "handle": bit31} | rest) == -errno.EBADF
    assert result_of(rig, {"operation": Operation[operation], "handle": 0} | rest) == -errno.EBADF
    rig.device.pool.give(buffer)


def test_handle_of_a_closed_socket_is_stale(rig):
    with Listener(rig.device, PORT + 1, backlog=2) as listener:
        socket, connection = rig.accept_on(listener, 0, PORT + 1)
        handle = socket.handle
        socket.abort()
        for operation in (Operation.CLOSE, Operation.ABORT, Operation.SHUTDOWN):
            assert result_of(rig, {"operation": operation, "handle": handle}) == -errno.EBADF
        again, second = rig.accept_on(listener, 0, PORT + 1)  # the same entry, another generation
        assert Handle.unpack(again.handle).index == Handle.unpack(handle).index
        assert result_of(rig, {"operation": Operation.CLOSE, "handle": handle}) == -errno.EBADF
        rig.echo([(second, HostStream(again))], 100)
        rig.close_all(connection, again, second)
    assert result_of(rig, {"operation": Operation.CLOSE, "handle": listener.handle}) == -errno.EBADF


def outside_windows(rig) -> dict[str, tuple[int, int]]:
    """(address, length) that the window does not cover in full."""
    base = rig.device.registers.read(WINDOW, "base")
    limit = rig.device.registers.read(WINDOW, "limit")
    return {
        "ring": (0, 64),
        "just before": (base - 4, 4),
        "into it": (base - 4, 64),
        "out of it": (limit - 31, 64),
        "just behind": (limit + 1, 64),
        "far": (0xFFFF_FFC0, 64),
        "wraps": (0xFFFF_FFF0, 64),
    }


@pytest.mark.parametrize("place", ["ring", "just before", "into it", "out of it", "just behind", "far", "wraps"])
def test_send_from_outside_the_windows(rig, place):
    """Nothing leaves, neither of this SEND nor, as bytes are missing now, of a later one; other connections go on."""
    address, length = outside_windows(rig)[place]
    with Listener(rig.device, PORT + 1, backlog=4) as listener:
        socket, connection = rig.accept_on(listener, 0, PORT + 1)
        values = {"operation": Operation.SEND, "handle": socket.handle, "buffer": address, "length": length}
        assert result_of(rig, values) == -errno.EFAULT
        assert result_of(rig, values | {"buffer": rig.device.pool.base}) == -errno.EPIPE
        rig.run(20_000)
        assert connection.recv() == b""
        rig.close_all(socket, connection)


@pytest.mark.parametrize("place", ["ring", "just before", "into it", "out of it", "just behind", "far", "wraps"])
@pytest.mark.parametrize("operation", ["STATS", "GETPEERNAME"])
def test_results_to_outside_the_windows(rig, connections, place, operation):
    address, _ = outside_windows(rig)[place]
    socket, _ = connections[0]
    values = {"operation": Operation[operation], "buffer": address, "length": 80}
    if operation == "GETPEERNAME":
        values["handle"] = socket.handle
    result = result_of(rig, values)
    if operation == "GETPEERNAME" and place in ("just before", "out of it"):
        # 32 bytes are written, whatever the length says.
        assert result in (-errno.EFAULT, 32)
    else:
        assert result == -errno.EFAULT


@pytest.mark.parametrize("place", ["just before", "into it", "just behind", "far", "wraps"])
def test_receive_to_outside_the_windows(rig, place):
    """The data has come; there is no place for it; the connection is not silently short of bytes."""
    address, length = outside_windows(rig)[place]
    with Listener(rig.device, PORT + 2, backlog=2) as listener:
        socket, connection = rig.accept_on(listener, 1, PORT + 2)
        before = bytes(rig.simulation.host_memory[rig.device.pool.base - 64 : rig.device.pool.base])
        connection.send_all(bytes(range(64)))
        values = {"operation": Operation.RECV, "handle": socket.handle, "buffer": address, "length": length}
        assert result_of(rig, values) == -errno.EFAULT
        if place in ("just before", "into it"):
            after = bytes(rig.simulation.host_memory[rig.device.pool.base - 64 : rig.device.pool.base])
            assert after[:48] == before[:48]
        socket.abort()
        connection.abort()
        rig.run(20_000)


@pytest.mark.parametrize("operation", ["SEND", "RECV", "STATS"])
def test_upper_address_bits(rig, connections, operation):
    """The host bus has 32 address bits; an address beyond is no alias of one below. Refused before it is a SEND."""
    socket, _ = connections[0]
    buffer = rig.device.pool.take()
    for bit in (32, 47, 63):
        values = {"operation": Operation[operation], "buffer": buffer | 1 << bit, "length": 80}
        if operation != "STATS":
            values["handle"] = socket.handle
        assert result_of(rig, values) == -errno.EFAULT
    rig.device.pool.give(buffer)


def test_lengths(rig, connections):
    socket, _ = connections[0]
    buffer = rig.device.pool.take()
    handle = {"handle": socket.handle, "buffer": buffer}
    assert result_of(rig, {"operation": Operation.SEND, "length": 1 << 31} | handle) == -errno.EINVAL
    assert result_of(rig, {"operation": Operation.RECV, "length": 1 << 31} | handle) == -errno.EINVAL
    assert result_of(rig, {"operation": Operation.GETPEERNAME, "length": 31} | handle) == -errno.EINVAL
    assert result_of(rig, {"operation": Operation.STATS, "length": 79, "buffer": buffer}) == -errno.EINVAL
    rig.device.pool.give(buffer)


def test_addresses(rig):
    def address(**changes: int) -> int:
        values = {
            "family": AF_INET,
            "port": 80,
            "address": int.from_bytes(bytes([192, 168, 77, 2]), "little"),
        } | changes
        return int.from_bytes(SOCKET_ADDRESS.pack(values), "little")

    for operation in (Operation.TCP_CONNECT, Operation.TCP_LISTEN):
        for changes, error in (
            ({"family": 10, "address": int.from_bytes(MAPPED, "little")}, errno.EINVAL),
            ({"family": 3}, errno.EAFNOSUPPORT),
            ({"family": 0}, errno.EAFNOSUPPORT),
            ({"port": 0}, errno.EINVAL),
            ({"scope": 1}, errno.EINVAL),
            ({"address": 1 << 40}, errno.EINVAL),
        ):
            assert result_of(rig, {"operation": operation, "inline": address(**changes)}) == -error, changes
    far = int.from_bytes(pack_address(("10.9.8.7", 80)), "little")
    assert result_of(rig, {"operation": Operation.TCP_CONNECT, "inline": far}) == -errno.ENETUNREACH
    used = int.from_bytes(pack_address(("0.0.0.0", PORT)), "little")
    assert result_of(rig, {"operation": Operation.TCP_LISTEN, "inline": used}) == -errno.EADDRINUSE


def test_ports_and_cores_that_do_not_exist(rig):
    buffer = rig.device.pool.take()
    room = {"buffer": buffer, "length": 80}
    for number in (2, 3, 255, 0xFFFF_FFFF):
        assert result_of(rig, {"operation": Operation.STATS, "operation_flags": number} | room) == -errno.EINVAL
        assert result_of(rig, {"operation": Operation.NETIF_STATUS, "operation_flags": number} | room) == -errno.EINVAL
        config = {"operation": Operation.NETIF_CONFIG, "operation_flags": number, "inline": AF_INET}
        assert result_of(rig, config) == -errno.EINVAL
    rig.device.pool.give(buffer)


def random_entry(rng, rig, handles: list[int]) -> dict[str, int]:
    """An entry that is mostly wrong. It never configures, accepts, or closes what the tests still need."""
    operation = rng.choice([*range(24), *range(24), rng.randrange(256)])
    while operation in (Operation.NETIF_CONFIG, Operation.TCP_LISTEN, Operation.TCP_CONNECT, Operation.UDP_OPEN):
        operation = rng.randrange(256)
    # Live handles only where a right answer does no harm.
    harmless = operation in (Operation.GETSOCKNAME, Operation.GETPEERNAME, Operation.TCP_ACCEPT)
    handle = rng.choice([rng.getrandbits(32), rng.getrandbits(32) & 0x7000_000F, 0, *(handles if harmless else [])])
    if handle in handles and not harmless:
        handle ^= 1
    fields = {
        "flags": rng.getrandbits(8),
        "reserved": rng.getrandbits(16),
        "handle": handle,
        "buffer": rng.choice([0, rng.getrandbits(20), rng.getrandbits(32), rng.getrandbits(64)]),
        "length": rng.choice([0, 1, rng.getrandbits(8), rng.getrandbits(16), rng.getrandbits(32)]),
        "operation_flags": rng.choice([0, 1, rng.getrandbits(32)]),
        "inline": rng.choice([0, rng.getrandbits(256)]),
    }
    kept = {name: value for name, value in fields.items() if rng.random() < (0.9 if name == "handle" else 0.4)}
    if operation in (Operation.STATS, Operation.NETIF_STATUS, Operation.GETSOCKNAME, Operation.GETPEERNAME):
        # A right entry writes its result: into a buffer of our own, or out of all windows.
        kept["buffer"] = rng.choice([rig.fuzz_buffer, 0xF000_0000 | rng.getrandbits(16)])
    return {"operation": operation} | kept


def test_300_random_entries(rig, connections):
    """Every one completes, exactly once; nothing hangs, nothing leaks."""
    rng = rig.random
    handles = [socket.handle for socket, _ in connections]
    rig.fuzz_buffer = rig.device.pool.take()
    done: list[int] = []
    pendings = []
    for number in range(300):
        entry = random_entry(rng, rig, handles)
        pendings.append(
            rig.device.submit_raw(entry, on_more=lambda _: done.append(-1), on_done=lambda _, n=number: done.append(n))
        )
    rig.wait(lambda: all(pending.done for pending in pendings), "the completion of every entry", 1_500_000)
    rig.run(30_000)
    assert sorted(done) == list(range(300))
    assert rig.device.unexpected == []
    errors = {-pending.result for pending in pendings if pending.result < 0}
    assert {errno.EINVAL, errno.EBADF} <= errors
    assert rig.device.pool.block_bytes == BLOCK_BYTES
    rig.device.pool.give(rig.fuzz_buffer)
    rig.assert_alive()
    rig.assert_buffers_back()
    assert rig.host_core("rx_buffers") == [CONFIG.rx_buffers] * 2
