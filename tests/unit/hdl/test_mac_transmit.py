"""The MAC's transmit side, both sides together, and resets, against cocotbext-eth's GMII models."""

import os

import cocotb
from cocotb.triggers import FallingEdge, RisingEdge, Timer
from cocotb.utils import get_sim_time

from support.mac_bench import ADDRESS, PREAMBLE, Bench, check_alive, with_fcs


@cocotb.test(timeout_time=4000, timeout_unit="us")
async def transmit_every_length(dut):
    bench = Bench(dut)
    await bench.start()
    lengths = [*range(1, 20), 57, 58, 59, 60, 61, 62, 63, 64, 65, 127, 512, 1513, 1514, 1515, 1516, 1518, 1600]
    lengths += [bench.rng.randint(1, 300) for _ in range(8)]
    frames = [bench.frame(length) for length in lengths]
    for frame in frames:
        await bench.supply([frame])
        if bench.rng.random() < 0.5:
            await bench.sync_cycles(bench.rng.randint(0, 60))
    for frame in frames:
        await bench.expect_sent(frame)
    await bench.drained()
    assert bench.sink.empty()
    bench.check_counters()


@cocotb.test(timeout_time=4000, timeout_unit="us")
async def transmit_line_rate(dut):
    """Waiting frames follow each other with exactly 12 idle bytes, with the fastest transmit clock."""
    bench = Bench(dut, tx_ps=7998 if int(os.environ.get("SYNC_PS", "13332")) < 20000 else 8000)
    await bench.start()
    lengths = [60] * 40 + [14, 1, 59, 61, 62, 63, 64] * 3 + [1514, 1518, 60, 1517, 1516, 1515]
    frames = [bench.frame(length) for length in lengths]
    await bench.supply(frames)
    gaps = [await bench.expect_sent(frame) for frame in frames]
    assert gaps[1:] == [12] * (len(frames) - 1)
    await bench.drained()
    bench.check_counters()


@cocotb.test(timeout_time=4000, timeout_unit="us")
async def both_directions_at_once(dut):
    bench = Bench(dut)
    bench.ready_probability = 0.9 if bench.sync_ps < 20000 else 1.0
    await bench.start()
    frames = [bench.frame(bench.rng.choice([60, 64, 200, 1514])) for _ in range(12)]
    for frame in frames:
        bench.put(frame)
    await bench.supply(frames)
    for frame in frames:
        await bench.expect_sent(frame)
    await bench.drained()
    assert bench.received == [(frame, 0) for frame in frames]
    bench.check_counters()


@cocotb.test(timeout_time=2000, timeout_unit="us")
async def latency(dut):
    """As docs/blocks/mac.md has it."""
    bench = Bench(dut)
    await bench.start()
    receive, transmit = [], []
    for length in (60, 61, 62, 63, 200):
        frame = bench.frame(length)
        bench.put(frame)
        await FallingEdge(dut.pins__rx_dv)
        begin = get_sim_time("ps")
        while not (dut.rx__valid.value and int(dut.rx__payload.value) >> 35 & 1):
            await RisingEdge(dut.clk)
        receive.append(get_sim_time("ps") - begin)
        begin = get_sim_time("ps")
        cocotb.start_soon(bench.supply([frame]))
        await RisingEdge(dut.pins__tx_en)
        transmit.append(get_sim_time("ps") - begin)
        await bench.expect_sent(frame)
        await bench.sync_cycles(bench.rng.randrange(20))
    assert max(receive) <= 8 * 8000 + 6 * bench.sync_ps, receive
    assert max(transmit) <= 12 * 8000 + 6 * bench.sync_ps, transmit


@cocotb.test(timeout_time=2000, timeout_unit="us")
async def transmit_underflow(dut):
    bench = Bench(dut)
    await bench.start()
    good = bench.frame(100)
    for word in (1, 2, 5, 12, 15, 16, 25, 49):
        await bench.supply([bench.frame(200)], gap=(word, 60 + 4 * word), count=False)
        bench.expected["tx_underflows"] += 1
        await bench.supply([good])
        cut, _ = await bench.next_sent()
        assert cut.error and sum(cut.error) == 1, "tx_er in one byte"
        assert not cut.check_fcs()
        assert len(cut.get_payload()) == 4 * word - 2 + 1
        await bench.expect_sent(good)
    # A frame that its supplier knows to be bad is spoiled on the wire.
    for length in (20, 60, 99):
        await bench.supply([bench.frame(length)], error=True, count=False)
        bench.expected["tx_underflows"] += 1
        bad, _ = await bench.next_sent()
        assert bad.error and not bad.check_fcs()
    await bench.supply([b"", good], count=False)  # nothing behind the pad: ignored
    await bench.expect_sent(good)
    bench.expected["tx_frames"] += 1
    bench.expected["tx_bytes"] += len(good)
    await bench.drained()
    assert bench.sink.empty()
    bench.check_counters()


@cocotb.test(timeout_time=2000, timeout_unit="us")
async def disable_and_enable(dut):
    bench = Bench(dut)
    await bench.start(enable=0)
    # Disabled: frames vanish in both directions.
    bench.put(bench.frame(100), counted=())
    await bench.supply([bench.frame(100), bench.frame(3000)], count=False)
    await bench.drained()
    assert not bench.received and bench.sink.empty()
    bench.check_counters()
    # Enabled in the middle of a frame, which holds something like a start: nothing until the next frame.
    bench.put(
        bench.frame(20) + with_fcs(PREAMBLE + bench.frame(100)) + PREAMBLE + with_fcs(bench.frame(100)), counted=()
    )
    supplier = cocotb.start_soon(bench.supply([bench.frame(200)], count=False))
    await bench.sync_cycles(20)
    dut.enable.value = 1
    await supplier
    await bench.drained()
    assert not bench.received and bench.sink.empty()
    bench.check_counters()
    frame = bench.frame(333)
    bench.put(frame)
    await bench.supply([frame])
    await bench.expect_sent(frame)
    await bench.drained()
    assert bench.received == [(frame, 0)]
    # Disabled in the middle: that frame is finished, the next is not.
    frames = [bench.frame(400), bench.frame(100)]
    bench.put(frames[0])
    bench.put(frames[1], counted=())
    supplier = cocotb.start_soon(bench.supply(frames, count=False))
    await bench.sync_cycles(40)
    dut.enable.value = 0
    await supplier
    await bench.expect_sent(frames[0])
    bench.expected["tx_frames"] += 1
    bench.expected["tx_bytes"] += 400
    await bench.drained()
    assert bench.received[1:] == [(frames[0], 0)]
    assert bench.sink.empty()
    bench.check_counters()


@cocotb.test(timeout_time=4000, timeout_unit="us")
async def resets_cut_only_the_frame_under_way(dut):
    for name in ("rx_rst", "tx_rst", "rst"):
        bench = Bench(dut)
        await bench.start()
        for delay in (100, 600, 1000):
            stuck = bench.rng.random() < 0.5
            bench.received.clear()
            # The rest must not be taken for a frame, even if it looks like one.
            bench.put(ADDRESS + bytes(294) + PREAMBLE + with_fcs(bench.frame(64)), fcs=False)
            dut_supply = cocotb.start_soon(bench.supply([bench.frame(400)]))
            await Timer(delay + bench.rng.randrange(100), "ns")
            if stuck:
                bench.ready_probability = 0.0
            await Timer(300, "ns")
            getattr(dut, name).value = 1
            await bench.sync_cycles(8)
            if name == "rst":
                dut_supply.cancel()
                dut.tx__valid.value = 0
                await bench.sync_cycles(2)
            getattr(dut, name).value = 0
            bench.ready_probability = 1.0
            await bench.drained()
            await Timer(6, "us")
            if not dut_supply.done():
                await dut_supply
            if name == "rx_rst":
                assert [error for _, error in bench.received] == [1] and not bench.is_open
            await check_alive(bench)


def test_mac_transmit():
    from support.rtl import run_cocotb
    from twinstack.mac import Mac

    run_cocotb(Mac(), __file__)


def test_mac_transmit_with_the_slowest_sync_clock():
    from support.rtl import run_cocotb
    from twinstack.mac import Mac

    # 31.25 MHz, 100 ppm slow against byte clocks that are 100 ppm fast
    run_cocotb(
        Mac(), __file__, testcase=["transmit_line_rate", "both_directions_at_once"], environment={"SYNC_PS": "32006"}
    )
