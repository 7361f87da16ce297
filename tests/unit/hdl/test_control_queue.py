"""Control queue with a model of the host and of four cores: balance, join slots, both rings, interrupt, failures."""

import cocotb
import pytest

from support.control_queue_bench import CORES, CQ_BASE, DATA_BYTES, HOST_BASE, SQ_BASE, Bench, handle, user_data_of
from twinstack.models.host_dispatcher import ECONNRESET, ENODEV
from twinstack.proto.queues import Operation

LIMIT = {"timeout_time": 2000, "timeout_unit": "us"}


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
        entry = bench.submit(Operation.UDP_OPEN, operation_flags=1)
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
