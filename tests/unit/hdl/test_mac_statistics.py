"""The statistics of the MAC (RFC 2819, RFC 2863) against a recount of what was put on the wire, in Python."""

import os
import random
from collections import Counter

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, ReadOnly, Timer

from support.mac_bench import ADDRESS, BROADCAST, GROUP, MAX_FRAME_BYTES, OTHER, Bench, with_fcs
from twinstack.models.mac import PAUSE_ADDRESS, MacModel, multicast_bit
from twinstack.proto.statistics import STATISTICS, Statistic

LOST = 6  # RxOutcome
MODEL = MacModel(ADDRESS, MAX_FRAME_BYTES, multicast=1 << multicast_bit(GROUP))


async def check(bench, before, expected):
    after = await bench.statistics()
    assert {name: after[name] - before[name] for name in STATISTICS} == {name: expected[name] for name in STATISTICS}
    return after


@cocotb.test(timeout_time=4000, timeout_unit="us")
async def received_frames(dut):
    bench = Bench(dut)
    await bench.start()
    dut.all_multicast.value = 0
    dut.multicast.value = MODEL.multicast
    await bench.sync_cycles(10)
    before = await bench.statistics()
    expected = Counter()
    rng = bench.rng

    def put(data, error=False):
        bench.put(data, fcs=False, counted=(), error_at=(20,) if error else ())
        expected.update(MODEL.statistics(data, error=error))

    lengths = [60, 61, 123, 124, 251, 252, 507, 508, 1019, 1020, MAX_FRAME_BYTES]
    lengths += [MAX_FRAME_BYTES + 1, MAX_FRAME_BYTES + 5, 2000, 59, 30, 1, 0]
    for length in lengths:
        for destination in (ADDRESS, OTHER, BROADCAST, GROUP, bytes.fromhex("333300000001")):
            if length > 600 and destination == GROUP:
                continue
            frame = with_fcs(bench.frame(length, destination))
            put(frame)
            if rng.random() < 0.2:
                put(bytes(frame[:-1]) + bytes([frame[-1] ^ 0x40]))
            if rng.random() < 0.1 and length >= 60:
                put(frame, error=True)
    for extra in (3, 4, 5):
        put(with_fcs(bench.tagged_frame(MAX_FRAME_BYTES + extra, 0x8100)))
    for length in range(64):
        put(rng.randbytes(length))
    for destination in (PAUSE_ADDRESS, ADDRESS, OTHER):
        put(with_fcs((destination + OTHER + bytes.fromhex("880800010000")).ljust(60, b"\0")))
    put(with_fcs((PAUSE_ADDRESS + OTHER + bytes.fromhex("880800020000")).ljust(60, b"\0")))
    await bench.drained()
    await bench.sync_cycles(40)
    await check(bench, before, expected)
    assert await bench.statistic(len(STATISTICS)) == 0
    assert await bench.statistic(63) == 0


@cocotb.test(timeout_time=4000, timeout_unit="us")
async def sent_frames_and_losses(dut):
    bench = Bench(dut)
    await bench.start()
    before = await bench.statistics()
    expected = Counter()
    for length in (6, 14, 59, 60, 61, 1000):
        for destination, kind in ((OTHER, "Ucast"), (GROUP, "Multicast"), (BROADCAST, "Broadcast")):
            await bench.supply([bench.frame(length, destination)])
            expected.update({f"ifOut{kind}Pkts": 1, "ifOutOctets": max(60, length) + 4})
    await bench.supply([bench.frame(5, BROADCAST[:5])])
    expected.update({"ifOutMulticastPkts": 1, "ifOutOctets": 64})
    for gap in (3, 12):
        await bench.supply([bench.frame(200)], gap=(gap, 200), count=False)
    await bench.supply([bench.frame(70)], error=True, count=False)
    expected["ifOutErrors"] += 3
    await bench.drained()
    await Timer(10, "us")
    dut.enable.value = 0
    await bench.sync_cycles(4)
    await bench.supply([bench.frame(length) for length in (1, 2, 60, 100)], count=False)
    expected["ifOutDiscards"] += 4
    for cycles in (1, 3):
        await FallingEdge(dut.clk)
        dut.rx_dropped.value = 1
        for _ in range(cycles):
            await FallingEdge(dut.clk)
        dut.rx_dropped.value = 0
        expected.update(etherStatsDropEvents=cycles, ifInDiscards=cycles)
    await bench.sync_cycles(100)
    after = await check(bench, before, expected)

    # Frames that find no space: counted as lost, in nothing else.
    dut.enable.value = 1
    await bench.sync_cycles(10)
    bench.ready_probability = 0.0
    for _ in range(20):
        bench.put(bench.frame(60), counted=())
    await bench.drained()
    bench.ready_probability = 1.0
    await bench.drained()
    lost = bench.counters()["rx_overflows"]
    assert lost >= 15
    passed = len(bench.good())
    bad = 20 - passed - lost
    assert bad == 0
    expected = Counter(etherStatsDropEvents=lost, ifInDiscards=lost)
    for _ in range(passed):
        expected.update(MODEL.statistics(with_fcs(bench.frame(60))))
    await check(bench, after, expected)


@cocotb.test(timeout_time=4000, timeout_unit="us")
async def line_rate_both_directions(dut):
    """Nothing is lost with the shortest frames in both directions, and what a bus reads meanwhile only grows."""
    bench = Bench(dut, rx_ps=8000, tx_ps=8000)
    await bench.start()
    before = await bench.statistics()
    expected = Counter()
    frames = [bench.frame(60, bench.rng.choice([ADDRESS, BROADCAST])) for _ in range(120)]
    for frame in frames:
        bench.put(frame)
        expected.update(MODEL.statistics(with_fcs(frame)))
        kind = "Broadcast" if frame[:6] == BROADCAST else "Ucast"
        expected.update({f"ifOut{kind}Pkts": 1, "ifOutOctets": 64})
    supplier = cocotb.start_soon(bench.supply(frames))
    last = before["etherStatsOctets"]
    reads = 0
    while not bench.source.empty():
        value = await bench.statistic(Statistic.etherStatsOctets)
        for _ in range(bench.rng.randrange(4)):
            again = await bench.statistic_again()
            assert again >= value
            value = again
        assert value >= last and value % 64 == before["etherStatsOctets"] % 64
        last = value
        reads += 1
        await bench.sync_cycles(bench.rng.randrange(8))
    assert reads > 50
    await supplier
    await bench.drained()
    await Timer(4, "us")
    assert bench.received == [(frame, 0) for frame in frames]
    gaps = [await bench.expect_sent(frame) for frame in frames]
    assert gaps[1:] == [12] * (len(frames) - 1)
    await check(bench, before, expected)
    bench.check_counters()


@cocotb.test(timeout_time=4000, timeout_unit="us")
async def carry_into_the_high_word(dut):
    """On ``MacStatistics`` alone: 2^32 in a few hundred events; each reading lies between what was counted before and after."""
    rng = random.Random(int(os.environ["TWINSTACK_SEED"]))
    Clock(dut.clk, 10, "ns").start()
    for name in ("rx__valid", "tx__valid", "rx_dropped", "tx_discarded", "index_strobe", "low_strobe", "rst"):
        getattr(dut, name).value = 0
    given, taken = [0], [0]

    async def feed():
        while True:
            await FallingEdge(dut.clk)
            amount = rng.choice([0xFFFFFF, 0xFFFFFF, 0x800000, 1])
            dut.rx__payload.value = LOST | amount << 3
            dut.rx__valid.value = 1
            given[0] += amount
            await ReadOnly()
            while not dut.rx__ready.value:
                await FallingEdge(dut.clk)
                await ReadOnly()
            await FallingEdge(dut.clk)
            dut.rx__valid.value = 0
            taken[0] += amount
            # Time to look after each carry.
            for _ in range(100 if taken[0] >> 32 != (taken[0] - amount) >> 32 else rng.choice([0, 0, 0, 1, 5])):
                await FallingEdge(dut.clk)

    feeder = cocotb.start_soon(feed())
    await Timer(20, "ns")

    async def read(chosen):
        await FallingEdge(dut.clk)
        if chosen is not None:
            dut.index_strobe.value = 1
            dut.next_index.value = chosen
            await FallingEdge(dut.clk)
            dut.index_strobe.value = 0
            dut.index.value = chosen
        dut.low_strobe.value = 1
        await ReadOnly()
        low = int(dut.low.value)
        await FallingEdge(dut.clk)
        dut.low_strobe.value = 0
        await FallingEdge(dut.clk)
        await ReadOnly()
        return int(dut.high.value) << 32 | low

    await read(Statistic.ifInDiscards)
    while taken[0] < 5 << 32:
        for _ in range(rng.randrange(40)):
            least = taken[0]
            value = await read(None)
            assert least - 0xFFFFFF <= value <= given[0]
        await read(Statistic.ifOutOctets)
        await Timer(10 * rng.randrange(1, 8), "ns")
        least = taken[0]
        value = await read(rng.choice([Statistic.etherStatsDropEvents, Statistic.ifInDiscards]))
        if not 0 <= given[0] - value < 0x3000000:
            # A carry just then: see the docstring of the component.
            again = await read(None)
            assert 0 <= given[0] - again < 0x3000000
    feeder.cancel()


def test_carry():
    from support.rtl import run_cocotb
    from twinstack.mac_statistics import MacStatistics

    run_cocotb(MacStatistics(), __file__, testcase=["carry_into_the_high_word"])


def test_mac_statistics():
    from support.rtl import run_cocotb
    from twinstack.mac import Mac

    testcase = ["received_frames", "sent_frames_and_losses", "line_rate_both_directions"]
    run_cocotb(Mac(), __file__, testcase=testcase)


def test_mac_statistics_with_the_slowest_sync_clock():
    from support.rtl import run_cocotb
    from twinstack.mac import Mac

    run_cocotb(Mac(), __file__, testcase=["line_rate_both_directions"], environment={"SYNC_PS": "32006"})
