"""The MAC at MII, 10 and 100 Mb/s, against cocotbext-eth's MiiPhy models; changes of speed and clocks that stop."""

import cocotb
from cocotb.triggers import FallingEdge, RisingEdge, Timer
from cocotb.utils import get_sim_time

from support.mac_bench import PREAMBLE, Bench, with_fcs
from support.mac_pin_benches import MII_PS, MiiBench

LENGTHS = [1, 14, 59, 60, 61, 62, 63, 64, 65, 100, 301, 1513, 1514]


def nibbles_of(data):
    return [nibble for byte in data for nibble in (byte & 15, byte >> 4)]


@cocotb.test(timeout_time=8000, timeout_unit="us")
async def both_directions_at_100(dut):
    bench = MiiBench(dut)
    bench.ready_probability = 0.7
    await bench.start()
    lengths = LENGTHS + [bench.rng.randint(60, 600) for _ in range(4)]
    frames = [bench.frame(length) for length in lengths]
    good = [frame for frame in frames if len(frame) >= 60]
    for frame in frames:
        bench.source.ifg = bench.rng.choice([1, 12, 16, 24, 60])  # nibbles; 47 bit times are 12
        bench.put(frame, counted=["rx_frames" if len(frame) >= 60 else "rx_runts"])
    await bench.supply(frames)
    gaps = [await bench.expect_sent(frame) for frame in frames]
    assert gaps[1:] == [12] * (len(frames) - 1)
    await bench.drained()
    assert bench.good() == good
    bench.check_counters()


@cocotb.test(timeout_time=20000, timeout_unit="us")
async def both_directions_at_10(dut):
    bench = MiiBench(dut, 0)
    await bench.start()
    frames = [bench.frame(length) for length in (60, 61, 200)]
    for frame in frames:
        bench.put(frame)
    await bench.supply(frames)
    for frame in frames:
        await bench.expect_sent(frame)
    await bench.drained()
    await Timer(10, "us")
    assert bench.received == [(frame, 0) for frame in frames]
    bench.check_counters()


@cocotb.test(timeout_time=4000, timeout_unit="us")
async def bad_frames_at_100(dut):
    bench = MiiBench(dut)
    await bench.start()
    good = []
    for position in (3, 7, 8, 30, 70):
        bench.put(bench.frame(64), error_at=[position], counted=["rx_crc_errors"])
        good.append(bench.frame(62))
        bench.put(good[-1])
    for length in (0, 1, 5, 40):
        bench.put(bench.frame(length), fcs=False, counted=["rx_runts"])
    bench.put(bench.frame(1600), counted=["rx_giants"])
    await bench.source.wait()
    await Timer(1, "us")
    # A preamble may be of any number of nibbles; one more behind the frame is dropped (clause 4.2.4.2.1).
    for cut in range(16):
        good.append(bench.frame(60 + cut))
        nibbles = nibbles_of(PREAMBLE)[min(cut, 14) :] + nibbles_of(with_fcs(good[-1]))
        await bench.nibbles(nibbles + [9] * (cut & 1))
        bench.expected["rx_frames"] += 1
        bench.expected["rx_bytes"] += len(good[-1])
    # Half a byte too little is bad; no SFD is nothing.
    await bench.nibbles(nibbles_of(PREAMBLE + with_fcs(bench.frame(60)))[:-1])
    bench.expected["rx_runts"] += 1
    await bench.nibbles(nibbles_of(PREAMBLE + with_fcs(bench.frame(61)))[:-1])
    bench.expected["rx_crc_errors"] += 1
    await bench.nibbles([5] * 40)
    await bench.nibbles([0xD] + [0] * 40)
    await Timer(2, "us")
    assert bench.good() == good
    bench.check_counters()


@cocotb.test(timeout_time=4000, timeout_unit="us")
async def pause_at_100(dut):
    """A quantum is 512 bit times, whatever the speed."""
    bench = MiiBench(dut)
    await bench.start()
    dut.pause_receive.value = 1
    for quanta in (10, 40):
        header = bytes.fromhex("0180c2000001") + bench.frame(6) + bytes.fromhex("88080001") + quanta.to_bytes(2, "big")
        bench.put(header.ljust(60, b"\0"), counted=["rx_pauses"])
        await FallingEdge(dut.mii_rx_dv)
        came = get_sim_time("ns")
        await Timer(5120, "ns")
        frame = bench.frame(60)
        await bench.supply([frame])
        await RisingEdge(dut.mii_tx_en)
        assert quanta * 5120 <= get_sim_time("ns") - came <= (quanta + 1) * 5120
        await bench.expect_sent(frame)
    await bench.drained()
    bench.check_counters()


async def exchange(bench, count=2):
    """Frames in both directions, nothing lost."""
    bench.received.clear()
    frames = [bench.frame(bench.rng.randint(60, 120)) for _ in range(count)]
    for frame in frames:
        bench.put(frame)
    await bench.supply(frames)
    for frame in frames:
        await bench.expect_sent(frame)
    await bench.drained()
    await Timer(12 * bench.rx_ps // 1000, "ns")
    assert bench.received == [(frame, 0) for frame in frames]


@cocotb.test(timeout_time=20000, timeout_unit="us")
async def clocks_stop(dut):
    """A link that goes and comes back: what was under way is lost and counted, nothing hangs, the next frame passes."""
    bench = MiiBench(dut)
    await bench.start()
    await exchange(bench)
    for sides in (("rx_",), ("tx_",), ("rx_", "tx_")):
        before = bench.counters()
        bench.put(bench.frame(300), counted=())
        supplier = cocotb.start_soon(bench.supply([bench.frame(300) for _ in range(30)], count=False))
        await Timer(15, "us")
        for side in sides:
            bench.start_clock(side, None)
        if "tx_" in sides:
            # Frames to send are discarded, after some 55 us, until the clock is back.
            await supplier
        await Timer(20, "us")
        # The cable may be pulled in a frame: the PHY shows none when it is back.
        if "rx_" in sides:
            bench.source.clear()
        for side in sides:
            bench.start_clock(side, MII_PS[1])
        await supplier
        await Timer(1000 if "tx_" not in sides else 100, "us")
        await bench.source.wait()
        after = bench.counters()
        received = after["rx_frames"] + after["rx_crc_errors"] - before["rx_frames"] - before["rx_crc_errors"]
        assert received == 1
        assert after["tx_underflows"] - before["tx_underflows"] <= 1
        sent = after["tx_frames"] - before["tx_frames"]
        assert sent == 30 if "tx_" not in sides else sent < 3
        bench.sink.clear()
        bench.pin_frames.clear()
        bench.expected |= bench.counters()
        await exchange(bench)
        bench.check_counters()


def test_mac_mii():
    from support.mac_tops import MiiMac
    from support.rtl import run_cocotb

    run_cocotb(MiiMac(), __file__, testcase=[t for t in ALL if t != "speed_changes"])


@cocotb.test(timeout_time=20000, timeout_unit="us")
async def speed_changes(dut):
    """One port, its pin clocks following the speed, at GMII and MII; cocotbext-eth's GMII models do both."""
    bench = Bench(dut)
    await bench.start()
    await exchange(bench)
    for speed in (1, 2, 0, 1, 0, 2):
        period = {2: 8000, **MII_PS}[speed]
        # The clocks change before, with or after the register; frames between are lost.
        dut.speed.value = speed
        bench.rx_ps = bench.tx_ps = period
        for side in ("rx_", "tx_"):
            bench.start_clock(side, period)
        bench.source.mii_mode = bench.sink.mii_mode = speed != 2
        bench.source.ifg = 12 if speed == 2 else 24
        await Timer(20 * period // 1000, "ns")
        bench.pin_frames.clear()
        bench.received.clear()
        frames = [bench.frame(bench.rng.randint(60, 100)) for _ in range(2)]
        for frame in frames:
            bench.put(frame)
        await bench.supply(frames)
        for frame in frames:
            sent = await bench.sink.recv()
            assert bytes(sent.get_payload()) == frame and sent.check_fcs() and not sent.error
        await bench.drained()
        await Timer(16 * period // 1000, "ns")
        assert bench.received == [(frame, 0) for frame in frames]
    bench.check_counters()
    # In the middle of frames: they are lost, the next ones pass.
    for speed in (1, 2):
        bench.put(bench.frame(400), counted=())
        supplier = cocotb.start_soon(bench.supply([bench.frame(400)], count=False))
        await Timer(1, "us")
        dut.speed.value = speed
        bench.source.mii_mode = bench.sink.mii_mode = speed != 2
        await supplier
        await bench.source.wait()
        await Timer(30, "us")
        bench.sink.clear()
        bench.pin_frames.clear()
        bench.received.clear()
        frames = [bench.frame(80), bench.frame(90)]
        for frame in frames:
            bench.put(frame)
        await bench.supply(frames)
        for frame in frames:
            sent = await bench.sink.recv()
            assert bytes(sent.get_payload()) == frame and sent.check_fcs() and not sent.error
        await bench.drained()
        await Timer(1, "us")
        assert bench.good() == frames


ALL = [
    "both_directions_at_100",
    "both_directions_at_10",
    "bad_frames_at_100",
    "pause_at_100",
    "clocks_stop",
    "speed_changes",
]


def test_speed_changes():
    from support.rtl import run_cocotb
    from twinstack.mac import Mac

    run_cocotb(Mac(), __file__, testcase=["speed_changes"])
