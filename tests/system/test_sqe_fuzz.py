"""Random entries of every operation: each completes exactly once, writes nowhere but where it may, and leaves nothing behind."""

import dataclasses
import errno
import random
from collections import Counter
from collections.abc import Callable

import pytest

from system.rig import ENGINES, FAST_OPTIONS, MACS, PEERS, Rig, started
from twinstack.proto.queues import (
    AF_INET,
    AF_INET6,
    DISPATCH_CONFIG,
    NETIF_CONFIG,
    NETIF_CONFIG6,
    SOCKET_ADDRESS,
    Handle,
    Operation,
    SocketOption,
)
from twinstack.proto.registers import WINDOW
from twinstack_host.device import BLOCK_BYTES, Pending, ipv4_bytes
from twinstack_host.sockets import Listener
from twinstack_sim.peer_lwip import LwipConnection

SERVED, LISTENING = 7800, 9800
AREA_BLOCKS = 32
"""Blocks that the entries may name; as many more in the window are the library's own, what is above is in no window."""
BATCH = 500
CALM = 0.8
"""Part of a batch before its first entry that may change a configuration: that may end all connections."""
CONNECTIONS = 2
"""On each core, when a batch begins."""
CONFIGURING = (Operation.NETIF_CONFIG, Operation.DISPATCH_CONFIG)
READING = (Operation.SEND, Operation.SENDTO, Operation.RESOLVE, Operation.PING)
"""Operations that do not write to their buffer."""
ADDRESS_OUT = (Operation.RECVFROM, Operation.RESOLVE)
"""Operations that write a socket address to where inline words 0 and 1 say."""
OPENING = (Operation.TCP_LISTEN, Operation.TCP_CONNECT, Operation.UDP_OPEN)
OFTEN_RIGHT = frozenset(Operation) - {
    Operation.SENDTO,
    Operation.RECVFROM,
    Operation.SETSOCKOPT,
    Operation.CANCEL,
    Operation.RESOLVE,
    Operation.PING,
    Operation.DISPATCH_CONFIG,
    Operation.NETIF_CONFIG,
}
"""The others need luck."""
GIVE_UP_SECONDS = 30
"""Longer than firmware tries anything by itself."""


class Fuzz:
    """Entries, and the books about them."""

    def __init__(self, rig: Rig, rng: random.Random):
        self.rig, self.rng, self.device = rig, rng, rig.device
        self.base = self.device.pool.base
        blocks = sorted(self.device.pool.take() for _ in range(AREA_BLOCKS))
        assert blocks == [self.base + number * BLOCK_BYTES for number in range(AREA_BLOCKS)]
        self.end = self.base + AREA_BLOCKS * BLOCK_BYTES
        self.limit = self.base + 2 * AREA_BLOCKS * BLOCK_BYTES - 1
        self.device.registers.write(WINDOW, "limit", self.limit)
        self.peer_listener = rig.peer.listen(LISTENING, 64)
        self.far: list[LwipConnection] = []
        self.live: set[int] = set()
        self.stale: list[int] = [Handle(0, 0, 0, 1).pack()]
        self.pendings: list[Pending] = []
        self.completed: list[int] = []
        self.results: Counter[tuple[str, int]] = Counter()
        self.may_configure = self.has_configured = False
        for port in range(self.device.ports):
            self.device.configure(port, ENGINES[port], 24, mac=MACS[port])
        # The firmware knows what was set by the operation only.
        self.dispatch = dataclasses.replace(self.device.dispatch_config(), key=rig.key)
        self.device.set_dispatch(self.dispatch)
        self.memory = rig.simulation.host_memory
        self.named: list[tuple[int, int]] = []

    # ---- one entry ----

    def buffer_and_length(self) -> tuple[int, int]:
        """Mostly in the area; at the edges of the window, outside, not aligned, too long, with upper bits."""
        rng = self.rng
        address = rng.randrange(self.base, self.end)
        length = rng.choice([0, 1, 16, 32, 79, 80, 128, 320, rng.randrange(5000)])
        kind = rng.random()
        if kind < 0.15:
            address = rng.choice([0, self.base - 4, self.limit - 31, self.limit + 1, 0xFFFF_FFC0, 0xFFFF_FFF0])
        elif kind < 0.25:
            address = rng.choice([rng.randrange(self.limit + 1, 1 << 20), rng.getrandbits(32) | 1 << 24])
        elif kind < 0.3:
            address |= 1 << rng.randrange(32, 64)
        elif kind < 0.7:
            address = address & ~3 if rng.random() < 0.5 else min(address, self.end - 400)
        if rng.random() < 0.05:
            length = rng.choice([1 << 31, 0xFFFF_FFFF, rng.getrandbits(32), rng.getrandbits(24)])
        return address, length

    def handle(self) -> int:
        rng = self.rng
        live = rng.choice(sorted(self.live)) if self.live else 0
        kind = rng.random()
        if kind < 0.6:
            return live
        if kind < 0.7:
            return live ^ 1 << rng.randrange(32)
        if kind < 0.85:
            return rng.choice(self.stale)
        return rng.choice(
            [0, rng.getrandbits(32), rng.getrandbits(32) & 0x7000_000F, 0x7000_0000 | rng.getrandbits(18)]
        )

    def address(self) -> int:
        """A socket address, often a good one."""
        rng = self.rng
        values = {
            "family": rng.choice([AF_INET, AF_INET, AF_INET, AF_INET6, 0, rng.getrandbits(16)]),
            "port": rng.choice([LISTENING, LISTENING, 9, rng.randrange(10000, 40000), 0]),
            "address": int.from_bytes(ipv4_bytes(rng.choice([PEERS[0], PEERS[0], "0.0.0.0", "10.1.2.3"])), "little"),
        }
        if rng.random() < 0.2:
            values[rng.choice(["scope", "extra"])] = rng.choice([1, 2, rng.getrandbits(32)])
        if rng.random() < 0.1:
            values["address"] |= rng.getrandbits(128)
        return int.from_bytes(SOCKET_ADDRESS.pack(values), "little")

    def interface(self) -> int:
        rng = self.rng
        if rng.random() < 0.2:
            values = {"family": AF_INET6, "prefix_length": rng.choice([0, 64]), "autoconfigure": rng.getrandbits(1)}
            return int.from_bytes(NETIF_CONFIG6.pack(values), "little")
        values = {
            "family": AF_INET,
            "prefix_length": rng.choice([24, 24, 0, 32, rng.getrandbits(8)]),
            "address": rng.choice([int.from_bytes(ipv4_bytes(ENGINES[0]), "little"), 0, rng.getrandbits(32)]),
            "mac": rng.choice([0, rng.getrandbits(48)]),
            "dhcp": int(rng.random() < 0.1),
        }
        return int.from_bytes(NETIF_CONFIG.pack(values), "little")

    def dispatch_block(self) -> bytes:
        rng = self.rng
        values = {
            "has_key": rng.getrandbits(1),
            "has_hash_types": rng.getrandbits(1),
            "has_indirection": rng.getrandbits(1),
            "has_rules": int(rng.random() < 0.3),
            "refused_at": int(rng.random() < 0.1),
        }
        if values["has_key"] or rng.random() < 0.1:
            values["key"] = rng.getrandbits(320)
        if values["has_hash_types"]:
            values |= {"tcp_ports": rng.getrandbits(1), "udp_ports": rng.getrandbits(1)}
        if values["has_indirection"]:
            most = self.device.cores - (rng.random() < 0.7)
            values["indirection"] = int.from_bytes(bytes(rng.randint(0, most) for _ in range(128)), "little")
        if values["has_rules"] and rng.random() < 0.5:
            values["rules"] = rng.getrandbits(1024)
        return DISPATCH_CONFIG.pack(values)

    def right(self, operation: int) -> dict[str, int]:
        """Fields of an entry that may well be right."""
        rng = self.rng
        buffer, length = self.buffer_and_length()
        place = rng.choice([0, rng.randrange(self.base, self.end - SOCKET_ADDRESS.size_bytes), self.limit + 1])
        to_buffer = {"buffer": buffer, "length": length}
        of_handle = {"handle": self.handle()}
        any_address = SOCKET_ADDRESS.pack({"family": AF_INET, "port": rng.randrange(10_000, 40_000)})
        match operation:
            case Operation.NETIF_CONFIG:
                return {"operation_flags": rng.randrange(3), "inline": self.interface()}
            case Operation.NETIF_STATUS | Operation.STATS:
                return to_buffer | {"operation_flags": rng.randrange(2)}
            case Operation.DISPATCH_CONFIG:
                block = rng.randrange(self.base, self.end - DISPATCH_CONFIG.size_bytes)
                self.write(block, self.dispatch_block())
                return {"buffer": block, "length": 320, "operation_flags": int(rng.random() < 0.3)}
            case Operation.TCP_LISTEN | Operation.UDP_OPEN:
                length = rng.randrange(4) if operation == Operation.TCP_LISTEN else 0
                inline = rng.choice([int.from_bytes(any_address, "little"), self.address()])
                return {"length": length, "operation_flags": rng.choice([0, 0, 1]), "inline": inline}
            case Operation.TCP_ACCEPT:
                listeners = [one for one in self.live if Handle.unpack(one).core == 7]
                return {"handle": rng.choice([*listeners, self.handle()]), "operation_flags": rng.randrange(2)}
            case Operation.TCP_CONNECT:
                return {"inline": self.address()}
            case Operation.SEND | Operation.RECV | Operation.GETSOCKNAME | Operation.GETPEERNAME:
                return of_handle | to_buffer
            case Operation.SENDTO:
                return of_handle | to_buffer | {"inline": self.address()}
            case Operation.RECVFROM:
                return of_handle | to_buffer | {"inline": place}
            case Operation.SHUTDOWN:
                return of_handle | {"operation_flags": rng.randrange(2)}
            case Operation.CLOSE | Operation.ABORT:
                return of_handle
            case Operation.SETSOCKOPT:
                value = rng.choice([0, 1, rng.randrange(256), rng.randrange(33_000), self.address()])
                return of_handle | {"operation_flags": rng.choice([*SocketOption]), "inline": value}
            case Operation.GETSOCKOPT:
                return of_handle | {"operation_flags": rng.choice([*SocketOption])}
            case Operation.CANCEL:
                mine = rng.choice(self.pendings[-100:]).user_data if self.pendings else 0
                return {"inline": rng.choice([mine, rng.getrandbits(64)])}
            case Operation.RESOLVE:
                name = rng.choice([b"192.168.77.2", b"example.org", rng.randbytes(rng.randrange(1, 200))])
                block = rng.randrange(self.base, self.end - 200)
                self.write(block, name)
                family = rng.choice([0, AF_INET, AF_INET6])
                return {"buffer": block, "length": len(name), "operation_flags": family, "inline": place}
            case Operation.PING:
                to = self.address() & ~(0xFFFF << 16)  # port zero
                return {"length": rng.randrange(1200), "operation_flags": rng.randrange(2000), "inline": to}
        return {}

    def entry(self) -> dict[str, int]:
        """An entry of a random operation, right or with some fields that are not."""
        rng = self.rng
        operation = rng.choice([*Operation, *Operation, *Operation, rng.randrange(256)])
        while operation in CONFIGURING and not self.may_configure:
            operation = rng.choice([*Operation])
        if operation == Operation.TCP_CONNECT and self.may_configure:
            operation = Operation.NOP  # without a network it would take long to fail
        if operation in (Operation.CLOSE, Operation.ABORT) and rng.random() < 0.8:
            operation = rng.choice([Operation.SEND, Operation.RECV])  # some must live on
        values = {"operation": int(operation)} | self.right(operation)
        if rng.random() < 0.4:
            junk = {
                "flags": rng.getrandbits(8),
                "reserved": rng.getrandbits(16),
                "handle": self.handle(),
                "buffer": self.buffer_and_length()[0],
                "length": rng.choice([0, 1, rng.getrandbits(8), 1 << 31, rng.getrandbits(32)]),
                "operation_flags": rng.choice([1, 2, 7, rng.getrandbits(32)]),
                "inline": rng.choice([0, self.address(), self.interface(), rng.getrandbits(256)]),
            }
            for name in rng.sample(sorted(junk), rng.choice([1, 1, 2, 3])):
                values[name] = junk[name]
        if operation == Operation.CANCEL and self.pendings:
            named = values.get("inline", 0) & (1 << 64) - 1
            if named < self.pendings[0].user_data:  # the accepts of the test itself must live on
                values["inline"] = 0
        start = values.get("buffer", 0)
        if self.base <= start < self.end and operation not in READING:
            # Behind the area are the library's own buffers.
            values["length"] = min(values.get("length", 0), self.end - start)
        return values

    def write(self, address: int, data: bytes) -> None:
        """The host's own write; may be seen again later."""
        self.memory[address : address + len(data)] = data
        self.named.append((address, address + len(data)))

    def submit(self, values: dict[str, int]) -> None:
        operation = values["operation"]
        if operation not in READING:
            start = values.get("buffer", 0)
            self.named.append((start, start + values.get("length", 0)))
        if operation in ADDRESS_OUT:
            place = values.get("inline", 0) & (1 << 64) - 1
            self.named.append((place, place + SOCKET_ADDRESS.size_bytes))
        number = len(self.pendings)

        def done(result: int) -> None:
            self.completed.append(number)
            name = Operation(operation).name if operation in Operation._value2member_map_ else "unknown"
            self.results[name, min(result, 1)] += 1
            if result > 0 and operation in OPENING:
                self.live.add(result)
            if operation in CONFIGURING and result in (0, DISPATCH_CONFIG.size_bytes, -errno.ETIMEDOUT):
                self.has_configured = True

        self.pendings.append(self.device.submit_raw(values, on_more=self.live.add, on_done=done))

    # ---- a batch ----

    def connect(self, listener: Listener) -> None:
        for core in range(self.device.cores):
            for _ in range(CONNECTIONS):
                socket, far = self.rig.accept_on(listener, core, SERVED)
                self.live.add(socket.handle)
                self.far.append(far)

    def step(self) -> None:
        """The far ends talk and listen."""
        while (one := self.peer_listener.accept()) is not None:
            self.far.append(one)
        for one in self.far:
            if not one.closed:
                if one.connected and one.unsent == 0:
                    one.send_all(self.rng.randbytes(self.rng.randrange(1, 3000)))
                one.recv()

    def batch(self, listener: Listener, count: int) -> None:
        self.connect(listener)
        pattern = self.rng.randbytes(BLOCK_BYTES)
        for address in [*range(self.base, self.end, BLOCK_BYTES), *range(self.limit + 1, 1 << 20, BLOCK_BYTES)]:
            self.memory[address : address + BLOCK_BYTES] = pattern[: min(BLOCK_BYTES, (1 << 20) - address)]
        before = bytes(self.memory)
        self.named.clear()
        self.may_configure = False
        for number in range(count):
            if number == int(CALM * count):
                self.rig.run(40_000)
                self.may_configure = True
            self.submit(self.entry())
            if number % 25 == 0:
                self.step()
                self.device.advance(0.01)
        self.rig.run(60_000)
        self.end_batch()
        self.check_memory(before)

    def end_batch(self) -> None:
        """Everything that was opened is ended, every entry completes, and what was configured is undone."""
        waiting = [pending for pending in self.pendings if not pending.done]
        if waiting and hasattr(self.device, "cancel"):
            for pending in waiting:
                self.device.cancel(pending)
        for _ in range(4):  # connections may come while others end
            handles, self.live = self.live, set()
            for handle in handles:
                listens = Handle.unpack(handle).core == 7
                self.device.wait(
                    self.device.submit(Operation.CLOSE if listens else Operation.ABORT, handle=handle), 5.0
                )
                self.stale.append(handle)
            self.rig.run(30_000)
        for one in self.far:
            one.abort()
        self.far.clear()
        self.step()
        for _ in range(GIVE_UP_SECONDS):
            if all(pending.done for pending in self.pendings):
                break
            self.rig.link.skip(1)
            self.device.poll()
        late = [number for number, pending in enumerate(self.pendings) if not pending.done]
        assert not late, f"entries without a completion: {[self.pendings[number].operation for number in late]}"
        assert sorted(self.completed) == list(range(len(self.pendings))), "each completes exactly once"
        assert self.device.unexpected == []
        # What completed meanwhile may have opened something.
        for handle in self.live:
            kind = Operation.CLOSE if Handle.unpack(handle).core == 7 else Operation.ABORT
            self.device.wait(self.device.submit(kind, handle=handle), 5.0)
        self.live.clear()
        self.pendings.clear()
        self.completed.clear()
        if self.has_configured:
            self.undo()
        self.rig.run(30_000)

    def undo(self) -> None:
        self.has_configured = False
        self.device.set_dispatch(self.dispatch)
        for port in range(self.device.ports):
            none = NETIF_CONFIG6.pack({"family": AF_INET6})
            pending = self.device.submit(Operation.NETIF_CONFIG, operation_flags=port, inline=none)
            assert self.device.wait(pending, 5.0) in (0, -errno.EAFNOSUPPORT)
            self.device.configure(port, ENGINES[port], 24, mac=MACS[port])

    def check_memory(self, before: bytes) -> None:
        """Nothing has changed in the area but what entries named, and nothing at all outside of the window."""
        allowed = bytearray(self.end - self.base)
        for start, stop in self.named:
            first, last = max(start, self.base), min(stop, self.end)
            if first < last:
                allowed[first - self.base : last - self.base] = b"\1" * (last - first)
        now = bytes(self.memory)
        assert now[self.limit + 1 :] == before[self.limit + 1 :], "outside of the window"
        changed = [
            self.base + place
            for place, (old, new, may) in enumerate(
                zip(before[self.base : self.end], now[self.base : self.end], allowed, strict=True)
            )
            if old != new and not may
        ]
        assert not changed, f"bytes that no entry named: {changed[:10]}"
        assert now[self.base : self.end] != before[self.base : self.end]


def fuzz(count: int, progress: Callable[[int], None] = lambda _: None) -> Counter[tuple[str, int]]:
    """``count`` entries in a fresh engine, and the proof that it is as it was."""
    with started() as rig:
        rig.add_peer(0, options=FAST_OPTIONS)
        fuzzer = Fuzz(rig, rig.random)
        with Listener(rig.device, SERVED, backlog=16) as listener:
            for done in range(0, count, BATCH):
                fuzzer.batch(listener, min(BATCH, count - done))
                progress(done)
            rig.wait(
                lambda: all(rig.device.stats(core)["sockets"] == 0 for core in range(rig.device.cores)), "no sockets"
            )
            rig.assert_records_back(listener, SERVED)
        rig.assert_alive()
        for core in range(rig.device.cores):
            rig.echo_once(core, SERVED + 1 + core)
        rig.assert_buffers_back()
        return fuzzer.results


def check_coverage(results: Counter[tuple[str, int]]) -> None:
    """Every operation came and was refused, and those whose entries are often right also succeeded."""
    for operation in Operation:
        by_result = {result: number for (name, result), number in results.items() if name == operation.name}
        assert by_result, f"no {operation.name}"
        assert any(result < 0 for result in by_result) or operation in (Operation.NOP, Operation.CANCEL)
        done = -errno.ECANCELED if operation == Operation.TCP_ACCEPT else 0  # an accept ends with its listener
        if operation in OFTEN_RIGHT:
            assert any(result >= 0 or result == done for result in by_result), (
                f"{operation.name} never succeeded: {by_result}"
            )
    assert results["unknown", -errno.EINVAL]
    assert {-errno.EINVAL, -errno.EBADF, -errno.EFAULT} <= {result for _, result in results}


def test_2000_entries():
    check_coverage(fuzz(2000))


@pytest.mark.nightly
def test_50000_entries():
    check_coverage(fuzz(50_000, lambda done: print(f"{done} entries", flush=True) if done % 5000 == 0 else None))
