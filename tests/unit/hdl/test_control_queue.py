"""Control queue with a model of the host and of four cores: routing, join slots, both rings, interrupt, failures."""

import os
import random

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge, Timer

from twinstack.proto.queues import CQE, SQ_DELIVERY, SQE, Handle, Operation

CORES = 4
DATA_BYTES = 8192
HOST_BASE = 0x4000_0000
SQ_BASE, CQ_BASE = HOST_BASE + 0x1000, HOST_BASE + 0x8000
ENODEV, ECONNRESET = 19, 104
LIMIT = {"timeout_time": 2000, "timeout_unit": "us"}
OWNER = 1 << 31


class Bench:
    def __init__(self, dut, *, bus_wait=0.0, ram_wait=0.0, sq_log2=4, cq_log2=4, ring_log2=2):
        from support.host_memory import HostMemory, RequestRam

        self.dut = dut
        self.rng = rng = random.Random(int(os.environ["TWINSTACK_SEED"]))
        self.clock = cocotb.start_soon(Clock(dut.clk, 10, "ns").start())
        self.host = bytearray(0x10000)
        self.sq_bus = HostMemory(dut, "sq_bus", self.host, rng, base=HOST_BASE, wait=bus_wait)
        self.cq_bus = HostMemory(dut, "cq_bus", self.host, rng, base=HOST_BASE, wait=bus_wait)
        self.data = [bytearray(DATA_BYTES) for _ in range(CORES)]
        self.rams = [RequestRam(dut, f"data{core}", self.data[core], rng, wait=ram_wait) for core in range(CORES)]
        self.sq_log2, self.cq_log2, self.ring_log2 = sq_log2, cq_log2, ring_log2
        for name in ("enable", "irq_enable", "sq_tail", "cq_head", "irq_count", "irq_delay", "tick", "manager"):
            getattr(dut, name).value = 0
        dut.sq_base.value, dut.cq_base.value = SQ_BASE, CQ_BASE
        dut.sq_log2.value, dut.cq_log2.value = sq_log2, cq_log2
        dut.core_reset.value = 0
        dut.rst.value = 0
        self.epochs = [rng.randrange(256) for _ in range(CORES)]
        dut.epochs.value = int.from_bytes(bytes(self.epochs), "little")
        self.rings = [80 * rng.randrange(10) + 4 * rng.randrange(20) for _ in range(CORES)]
        self.consumers = [0] * CORES
        for core in range(CORES):
            for name, value in (
                ("ring", self.rings[core]),
                ("ring_log2", ring_log2),
                ("enable", 1),
                ("consumer", 0),
                ("load", 0),
            ):
                self.sq(core, name).value = value
            for name in ("post", "user_data", "result", "more", "is_joined", "host", "join_id"):
                self.cq(core, name).value = 0
        self.alive = (1 << CORES) - 1
        dut.alive.value = self.alive
        self.sq_tail = self.cq_head = self.submitted = 0

    def sq(self, core, name):
        return getattr(self.dut, f"sq{core}__{name}")

    def cq(self, core, name):
        return getattr(self.dut, f"cq{core}__{name}")

    async def cycles(self, count=1):
        for _ in range(count):
            await RisingEdge(self.dut.clk)
        await Timer(2, "ns")

    async def start(self):
        # Also ends what an earlier test left behind: the access in flight when a queue is disabled still ends.
        self.dut.core_reset.value = (1 << CORES) - 1
        await self.cycles(50)
        self.host[:] = bytes(len(self.host))
        self.dut.core_reset.value = 0
        self.dut.enable.value = 1
        await self.cycles(3)

    def set_alive(self, mask):
        self.alive = mask
        self.dut.alive.value = mask

    async def reset_core(self, core, cycles=3):
        self.set_alive(self.alive & ~(1 << core))
        self.dut.core_reset.value = 1 << core
        self.sq(core, "consumer").value = self.consumers[core] = 0
        await self.cycles(cycles)
        self.dut.core_reset.value = 0
        self.data[core][:] = bytes(DATA_BYTES)

    async def close(self):
        """Make place for another bench in the same test."""
        self.dut.enable.value = 0
        await self.cycles(50)
        for part in (self.sq_bus, self.cq_bus, *self.rams):
            part.close()
        self.clock.cancel()

    # --- The host ---

    def submit(self, operation, **fields):
        """Place an entry and ring the doorbell; returns the entry's bytes, with user data of its own."""
        fields.setdefault("user_data", self.rng.getrandbits(32) << 32 | self.submitted)
        fields.setdefault("inline", self.rng.getrandbits(256))
        fields.setdefault("buffer", self.rng.getrandbits(64))
        entry = SQE.pack({"operation": operation} | fields)
        place = SQ_BASE - HOST_BASE + 64 * (self.sq_tail % (1 << self.sq_log2))
        self.host[place : place + 64] = entry
        self.sq_tail = (self.sq_tail + 1) % 65536
        self.submitted += 1
        self.dut.sq_tail.value = self.sq_tail
        return entry

    def peek(self):
        """The next completion, or None: by the phase bit alone, as a host polls."""
        place = CQ_BASE - HOST_BASE + 16 * (self.cq_head % (1 << self.cq_log2))
        entry = CQE.unpack(bytes(self.host[place : place + 16]))
        if entry["phase"] != 1 - (self.cq_head >> self.cq_log2 & 1):
            return None
        result = entry["result"] - (entry["result"] >> 31 << 32)
        return entry["user_data"], result, entry["more"]

    async def reap(self):
        while (entry := self.peek()) is None:
            await self.cycles()
        self.cq_head = (self.cq_head + 1) % 65536
        self.dut.cq_head.value = self.cq_head
        return entry

    async def quiet(self, cycles=150):
        await self.cycles(cycles)
        assert self.peek() is None

    # --- The cores ---

    def delivered(self, core):
        """The oldest entry in the core's ring, or None."""
        place = self.rings[core] + 80 * (self.consumers[core] % (1 << self.ring_log2))
        entry = bytes(self.data[core][place : place + 80])
        return entry if int.from_bytes(entry[76:], "little") & OWNER else None

    async def take(self, core):
        while (entry := self.delivered(core)) is None:
            await self.cycles()
        await self.cycles()
        place = self.rings[core] + 80 * (self.consumers[core] % (1 << self.ring_log2))
        self.data[core][place + 76 : place + 80] = bytes(4)
        self.consumers[core] = (self.consumers[core] + 1) % 65536
        self.sq(core, "consumer").value = self.consumers[core]
        return SQ_DELIVERY.unpack(entry)

    async def post(self, core, user_data, result, *, more=0, is_joined=0, join_id=0, host=0):
        for name, value in (
            ("user_data", user_data),
            ("result", result & 0xFFFF_FFFF),
            ("more", more),
            ("is_joined", is_joined),
            ("join_id", join_id),
            ("host", host),
            ("post", 1),
        ):
            self.cq(core, name).value = value
        await self.cycles()
        self.cq(core, "post").value = 0

    async def finish(self, core, entry, result, **options):
        """Complete a delivery as firmware does."""
        while not int(self.cq(core, "space").value):
            await self.cycles()
        user_data = SQE.unpack(entry["sqe"].to_bytes(64, "little"))["user_data"]
        await self.post(core, user_data, result, is_joined=entry["is_joined"], join_id=entry["join_id"], **options)

    async def expect_only(self, cores, entry, index):
        """The entry comes to these cores and no other; returns the deliveries."""
        taken = {core: await self.take(core) for core in cores}
        for core, delivery in taken.items():
            assert delivery["sqe"].to_bytes(64, "little") == entry
            assert (delivery["host"], delivery["sq_index"], delivery["owner"]) == (0, index % 65536, 1)
            assert delivery["epoch"] == self.epochs[core]
        await self.cycles(40)
        assert not any(self.delivered(core) for core in range(CORES))
        return taken


def handle(core):
    return Handle(core=core, host=0, index=3, generation=77).pack()


def user_data_of(entry):
    return int.from_bytes(entry[8:16], "little")


HANDLED = [9, 8, 10, 11, 5, 12, 13, 14, 15, 16, 17, 18]
MANAGED = [0, 1, 2, 3, 7 + 12, 20, 21, 23, 100, 255]


@cocotb.test(**LIMIT)
async def every_routing_rule(dut):
    bench = Bench(dut, bus_wait=0.1, ram_wait=0.1)
    await bench.start()
    index = 0
    cases = [(operation, 0, {}) for operation in MANAGED]
    cases += [(operation, 0, {"handle": handle(core)}) for operation in HANDLED for core in (0, 1, 3, 5, 7)]
    cases += [(Operation.STATS, number, {}) for number in (0, 2, 3, 4, 1 << 16, 1 << 31)]
    cases += [(Operation.TCP_LISTEN, 0, {}), (Operation.UDP_OPEN, 0, {"handle": handle(1)})]
    bench.rng.shuffle(cases)
    for operation, flags, fields in cases:
        alive = bench.rng.choice([0b1111, 0b1111, bench.rng.randrange(1, 16)])
        living = [core for core in range(CORES) if alive >> core & 1]
        manager = bench.rng.choice(living)
        bench.set_alive(alive)
        dut.manager.value = manager
        await bench.cycles(2)
        entry = bench.submit(operation, operation_flags=flags, **fields)
        failure, joined = None, False
        if operation in HANDLED:
            core = fields["handle"] >> 28
            if core == 7:
                expected, joined = living, True
            elif core >= CORES:
                expected = [manager]
            elif core in living:
                expected = [core]
            else:
                expected, failure = [], -ECONNRESET
        elif operation in (Operation.TCP_LISTEN, Operation.UDP_OPEN):
            expected, joined = living, True
        elif operation == Operation.STATS and flags in living:
            expected = [flags]
        else:
            expected = [manager]
        taken = await bench.expect_only(expected, entry, index)
        index += 1
        if failure is not None:
            assert await bench.reap() == (user_data_of(entry), failure, 0)
        for core, delivery in taken.items():
            assert delivery["is_joined"] == joined
            await bench.finish(core, delivery, 5)
        if taken:
            assert await bench.reap() == (user_data_of(entry), 5, 0)
        await bench.quiet(30)
        assert int(dut.sq_head.value) == index
    for core in range(CORES):
        assert int(bench.sq(core, "producer").value) == bench.consumers[core]


@cocotb.test(**LIMIT)
async def connects_go_to_the_least_loaded(dut):
    bench = Bench(dut)
    await bench.start()
    chosen = []
    for index in range(40):
        alive = bench.rng.randrange(1, 16)
        loads = [bench.rng.randrange(3) for _ in range(CORES)]
        bench.set_alive(alive)
        for core in range(CORES):
            bench.sq(core, "load").value = loads[core]
        await bench.cycles(2)
        entry = bench.submit(Operation.TCP_CONNECT)
        lowest = min(loads[core] for core in range(CORES) if alive >> core & 1)
        equals = [core for core in range(CORES) if alive >> core & 1 and loads[core] == lowest]
        last = chosen[-1] if chosen else None
        if last is None:
            while not any(bench.delivered(core) for core in equals):
                await bench.cycles()
            expected = next(core for core in equals if bench.delivered(core))
        else:
            expected = min(equals, key=lambda core: (core - last - 1) % CORES)
        chosen.append(expected)
        await bench.expect_only([expected], entry, index)
    assert set(chosen) == set(range(CORES))


@cocotb.test(**LIMIT)
async def no_living_core(dut):
    bench = Bench(dut)
    await bench.start()
    bench.set_alive(0)
    await bench.cycles(2)
    for operation in (0, 4, 6, 8, 22, 200):
        entry = bench.submit(operation, handle=handle(7))
        assert await bench.reap() == (user_data_of(entry), -ENODEV, 0)
    assert not any(bench.delivered(core) for core in range(CORES))


@cocotb.test(**LIMIT)
async def join_gives_one_completion(dut):
    bench = Bench(dut)
    await bench.start()
    for index in range(30):
        entry = bench.submit(Operation.TCP_LISTEN)
        taken = await bench.expect_only(range(CORES), entry, index)
        order = bench.rng.sample(range(CORES), CORES)
        results = [bench.rng.choice([7, 8, 9, -1, -2, -3]) if index % 3 else bench.rng.randrange(99) for _ in order]
        for position, core in enumerate(order):
            if bench.rng.random() < 0.3:
                await bench.finish(core, taken[core], 1000 + core, more=1)
                assert await bench.reap() == (user_data_of(entry), 1000 + core, 1)
            if position:
                # What a core says twice counts once.
                await bench.finish(order[0], taken[order[0]], -55)
            await bench.quiet(60)
            await bench.finish(core, taken[core], results[position])
            await bench.cycles(20)
        expected = next((result for result in results if result < 0), results[-1])
        assert await bench.reap() == (user_data_of(entry), expected, 0)
        await bench.quiet(60)


@cocotb.test(**LIMIT)
async def join_does_not_wait_for_a_reset_core(dut):
    bench = Bench(dut)
    await bench.start()
    for index in range(12):
        bench.set_alive(15)
        await bench.cycles(2)
        entry = bench.submit(Operation.UDP_OPEN)
        taken = await bench.expect_only(range(CORES), entry, index)
        order = bench.rng.sample(range(CORES), CORES)
        dying = order[: index % 5]
        expected = -ECONNRESET
        for core in order:
            await bench.quiet(30)
            if core in dying:
                await bench.reset_core(core)
            else:
                expected = 100 + core
                await bench.finish(core, taken[core], expected)
        assert await bench.reap() == (user_data_of(entry), expected, 0)
        await bench.quiet(60)


@cocotb.test(**LIMIT)
async def seventeenth_join_waits(dut):
    bench = Bench(dut, sq_log2=5, cq_log2=5, ring_log2=5)
    await bench.start()
    entries = [bench.submit(Operation.TCP_LISTEN) for _ in range(20)]
    taken = [{core: await bench.take(core) for core in range(CORES)} for _ in range(16)]
    await bench.cycles(400)
    assert int(dut.sq_head.value) == 17 and not any(bench.delivered(core) for core in range(CORES))
    assert {delivery["join_id"] for row in taken for delivery in row.values()} == set(range(16))
    for row in bench.rng.sample(taken, 16):
        for core in row:
            await bench.finish(core, row[core], 0)
    for _ in range(4):
        for core in range(CORES):
            await bench.finish(core, await bench.take(core), 0)
    seen = [await bench.reap() for _ in range(20)]
    assert sorted(seen) == sorted((user_data_of(entry), 0, 0) for entry in entries)


@cocotb.test(**LIMIT)
async def target_resets_while_entry_waits(dut):
    bench = Bench(dut, ring_log2=0)
    await bench.start()
    dut.manager.value = 2
    for name, operation in (("send", 8), ("connect", 6), ("listen", 4), ("nop", 0)):
        bench.set_alive(0b1111)
        dut.manager.value = 2
        for core in range(CORES):
            bench.sq(core, "load").value = core != 2
        await bench.cycles(2)
        first = bench.submit(8, handle=handle(2))  # fills the ring of core 2
        entry = bench.submit(operation, handle=handle(2))
        await bench.cycles(300)
        assert bench.delivered(2)[:64] == first
        assert int(dut.sq_head.value) == int(dut.sq_tail.value)
        if name == "listen":
            early = {core: await bench.take(core) for core in (0, 1)}  # in order of the cores; 3 comes after 2
        assert not any(bench.delivered(core) for core in (0, 1, 3))
        dut.manager.value = 1
        await bench.reset_core(2, cycles=1 if name == "connect" else 5)
        if name == "send":
            assert await bench.reap() == (user_data_of(entry), -ECONNRESET, 0)
        elif name == "connect":
            while not any(bench.delivered(core) for core in (0, 1, 3)):
                await bench.cycles()
            core = next(core for core in (0, 1, 3) if bench.delivered(core))
            await bench.expect_only([core], entry, int(dut.sq_head.value) - 1)
        elif name == "nop":
            await bench.expect_only([1], entry, int(dut.sq_head.value) - 1)
        else:
            early[3] = await bench.take(3)
            for core, delivery in early.items():
                await bench.finish(core, delivery, core)
            assert await bench.reap() == (user_data_of(entry), 3, 0)
        assert bench.delivered(2) is None
        await bench.quiet(50)


@cocotb.test(**LIMIT)
async def reset_at_any_moment_loses_no_completion(dut):
    bench = Bench(dut, bus_wait=0.1, ram_wait=0.3)
    await bench.start()
    for round_ in range(60):
        bench.set_alive(0b1111)
        await bench.cycles(2)
        operation = bench.rng.choice([4, 6, 8])
        entry = bench.submit(operation, handle=handle(1))
        await bench.cycles(bench.rng.randrange(20, 160))
        await bench.reset_core(1, cycles=bench.rng.choice([1, 2, 10]))
        await bench.cycles(300)
        # The reset core forgets; whatever the others hold, they answer.
        answers = 0
        for core in (0, 2, 3):
            if bench.delivered(core):
                await bench.finish(core, await bench.take(core), core)
                answers += 1
        await bench.cycles(100)
        completion = bench.peek()
        if operation == 4:
            assert answers == 3 and completion is not None, round_
        if completion is None:
            assert operation in (6, 8) and not answers  # it was in the ring of core 1
        else:
            assert completion[0] == user_data_of(entry)
            await bench.reap()
        await bench.quiet(20)
        assert int(bench.sq(1, "producer").value) == 0


@cocotb.test(**LIMIT)
async def full_completion_ring_loses_nothing(dut):
    bench = Bench(dut, cq_log2=2, bus_wait=0.2)
    await bench.start()
    posted = {core: [] for core in range(CORES)}
    for number in range(12):
        for core in range(CORES):
            if int(bench.cq(core, "space").value):
                posted[core].append((core << 32 | number, -number, number & 1))
            # Without space it is ignored.
            await bench.post(core, core << 32 | number, -number, more=number & 1)
    await bench.cycles(300)
    assert int(dut.cq_tail.value) == 4
    assert all(int(bench.cq(core, "space").value) <= 1 for core in range(CORES))
    writes = len(bench.cq_bus.log)
    await bench.cycles(100)
    assert len(bench.cq_bus.log) == writes == 16
    # Delivery goes on meanwhile.
    entry = bench.submit(0)
    await bench.expect_only([0], entry, 0)
    seen = {core: [] for core in range(CORES)}
    for _ in range(sum(map(len, posted.values()))):
        user_data, result, more = await bench.reap()
        seen[user_data >> 32].append((user_data, result, more))
        await bench.cycles(bench.rng.choice([0, 0, 50]))
    assert seen == posted
    await bench.quiet()
    assert all(int(bench.cq(core, "space").value) == 8 for core in range(CORES))


@cocotb.test(**LIMIT)
async def rings_wrap_many_times(dut):
    for sq_log2, cq_log2 in ((0, 1), (1, 3), (3, 2)):
        bench = Bench(dut, sq_log2=sq_log2, cq_log2=cq_log2, ring_log2=1, bus_wait=0.1, ram_wait=0.1)
        await bench.start()

        async def work(core, bench=bench):
            while True:
                await bench.finish(core, await bench.take(core), core)

        tasks = [cocotb.start_soon(work(core)) for core in range(CORES)]
        waiting = {}
        sent = done = 0
        while done < 60:
            if sent < 60 and (bench.sq_tail - int(dut.sq_head.value)) % 65536 < 1 << sq_log2:
                operation = bench.rng.choice([0, 4, 6, 8])
                target = bench.rng.randrange(CORES)
                entry = bench.submit(operation, handle=handle(target))
                waiting[user_data_of(entry)] = {0: {0}, 8: {target}}.get(operation, set(range(CORES)))
                sent += 1
            elif bench.peek() is not None and bench.rng.random() < 0.5:
                user_data, result, more = await bench.reap()
                assert result in waiting.pop(user_data) and not more
                done += 1
            await bench.cycles()
        for task in tasks:
            task.cancel()
        assert not waiting and int(dut.cq_tail.value) == 60 == int(dut.sq_head.value)
        await bench.quiet(50)
        await bench.close()


@cocotb.test(**LIMIT)
async def phase_word_is_written_last(dut):
    bench = Bench(dut)
    await bench.start()
    await bench.post(3, 0x1122_3344_5566_7788, -5)
    await bench.reap()
    place = CQ_BASE
    assert [(address, enables) for _, address, enables in bench.cq_bus.log] == [
        (place + 4 * word, 15) for word in range(4)
    ]
    entry = bench.submit(0)
    await bench.expect_only([0], entry, 0)
    addresses = [address for write, address, _ in bench.rams[0].log]
    assert addresses == [bench.rings[0] + 4 * word for word in range(20)]
    # Posts for a host that does not exist go nowhere.
    await bench.post(1, 1, 1, host=1)
    await bench.quiet()


@cocotb.test(**LIMIT)
async def bus_error_stops_until_disabled(dut):
    for broken in ("sq", "cq"):
        bench = Bench(dut, bus_wait=0.2)
        await bench.start()
        if broken == "sq":
            bench.sq_bus.errors = {SQ_BASE + 4 * 7}
            bench.submit(0)
        else:
            bench.cq_bus.errors = {CQ_BASE + 4 * bench.rng.randrange(4)}
            await bench.post(0, 1, 2)
        await bench.cycles(200)
        assert int(dut.bus_error.value)
        assert int(dut.sq_head.value) == int(dut.cq_tail.value) == 0
        accesses = len(bench.sq_bus.log), len(bench.cq_bus.log)
        bench.submit(0)
        await bench.post(1, 1, 2)
        await bench.cycles(200)
        assert accesses == (len(bench.sq_bus.log), len(bench.cq_bus.log))
        assert all(int(bench.cq(core, "space").value) for core in range(CORES))
        dut.enable.value = 0
        await bench.cycles(2)
        assert not int(dut.bus_error.value)
        await bench.close()
        bench = Bench(dut)
        await bench.start()
        entry = bench.submit(0)
        taken = await bench.expect_only([0], entry, 0)
        await bench.finish(0, taken[0], 0)
        assert await bench.reap() == (user_data_of(entry), 0, 0)
        await bench.close()


@cocotb.test(**LIMIT)
async def disabling_at_any_moment_starts_afresh(dut):
    for round_ in range(25):
        bench = Bench(dut, bus_wait=0.3, ram_wait=0.3)
        bench.rng.seed(bench.rng.getrandbits(32) + round_)
        await bench.start()
        for _ in range(6):
            bench.submit(bench.rng.choice([0, 4, 6]))
        for core in range(CORES):
            await bench.post(core, 1, 2)
        await bench.cycles(bench.rng.randrange(250))
        # One cycle is enough, even with accesses in flight.
        dut.enable.value = 0
        bench.sq_tail = bench.cq_head = 0
        dut.sq_tail.value = dut.cq_head.value = 0
        await bench.cycles(1)
        assert int(dut.sq_head.value) == int(dut.cq_tail.value) == 0
        dut.enable.value = 1
        await bench.cycles(30)
        bench.host[CQ_BASE - HOST_BASE :] = bytes(len(bench.host) - (CQ_BASE - HOST_BASE))
        for core in range(CORES):
            await bench.reset_core(core)
        bench.set_alive(15)
        await bench.quiet(60)
        assert int(dut.sq_head.value) == int(dut.cq_tail.value) == 0
        entry = bench.submit(4)
        taken = await bench.expect_only(range(CORES), entry, 0)
        for core in taken:
            await bench.finish(core, taken[core], 3)
        assert await bench.reap() == (user_data_of(entry), 3, 0)
        await bench.close()


@cocotb.test(**LIMIT)
async def interrupt_moderation(dut):
    bench = Bench(dut, cq_log2=3)
    await bench.start()

    async def post(count):
        for _ in range(count):
            await bench.post(0, 1, 2)
            await bench.cycles(40)

    async def ticks(count):
        for _ in range(count):
            dut.tick.value = 1
            await bench.cycles()
            dut.tick.value = 0
            await bench.cycles(5)

    async def drain():
        while bench.peek() is not None:
            await bench.reap()
        await bench.cycles(5)
        assert not int(dut.irq.value)

    await post(1)
    assert not int(dut.irq.value), "not enabled"
    dut.irq_enable.value = 1
    await bench.cycles(4)
    assert int(dut.irq.value), "0 and 0: at once"
    await drain()
    for count, delay in ((1, 9), (3, 0)):
        dut.irq_count.value, dut.irq_delay.value = count, delay
        await bench.cycles(3)
        assert not int(dut.irq.value)
        await post(1)
        assert int(dut.irq.value), (count, delay)
        await drain()
    dut.irq_count.value, dut.irq_delay.value = 3, 4
    await ticks(10)
    await post(2)
    assert not int(dut.irq.value)
    await post(1)
    assert int(dut.irq.value), "third completion"
    await drain()
    await post(1)
    await ticks(3)
    assert not int(dut.irq.value)
    await ticks(1)
    assert int(dut.irq.value), "four ticks old"
    await drain()
    # A full ring cannot reach the count.
    dut.irq_count.value, dut.irq_delay.value = 200, 255
    await post(7)
    assert not int(dut.irq.value)
    await post(1)
    assert int(dut.irq.value)
    dut.enable.value = 0
    await bench.cycles(3)
    assert not int(dut.irq.value)


@cocotb.test(**LIMIT)
async def core_reset_drops_its_completions(dut):
    bench = Bench(dut, cq_log2=1)
    await bench.start()
    for number in range(6):
        await bench.post(0, number, 0)
        await bench.post(1, 100 + number, 0)
    await bench.cycles(100)
    await bench.reset_core(0)
    await bench.cycles(2)
    assert int(bench.cq(0, "space").value) == 8
    seen = []
    for _ in range(12):
        await bench.cycles(60)
        if bench.peek() is None:
            break
        seen.append((await bench.reap())[0])
    assert [number for number in seen if number >= 100] == [100 + number for number in range(6)]
    assert len([number for number in seen if number < 100]) < 6


@pytest.mark.parametrize("name", ["ControlQueue", "HostDispatcher", "CompletionQueue"])
def test_config_is_checked(name):
    from twinstack import completion_queue, control_queue, host_dispatcher

    modules = (control_queue, host_dispatcher, completion_queue)
    component = next(getattr(module, name) for module in modules if name in module.__all__)
    with pytest.raises(TypeError, match="not None"):
        component(None)


@pytest.mark.parametrize("cores", [1, 2])
def test_fewer_cores_elaborate(cores):
    from amaranth.back import verilog

    from twinstack.config import EngineConfig
    from twinstack.control_queue import ControlQueue

    assert "module" in verilog.convert(ControlQueue(EngineConfig(cores=cores)))


def test_control_queue():
    from support.rtl import run_cocotb
    from twinstack.config import EngineConfig
    from twinstack.control_queue import ControlQueue

    run_cocotb(ControlQueue(EngineConfig(cores=CORES, data_bytes=DATA_BYTES)), __file__)
