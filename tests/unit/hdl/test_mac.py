"""The MAC against cocotbext-eth's GMII models: data, gaps, bad frames, address filter, counters, losses, resets."""

import logging
import os
import random
import zlib

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, ReadOnly, RisingEdge, Timer

ADDRESS = bytes.fromhex("02a1b2c3d4e5")
OTHER = bytes.fromhex("02a1b2c3d4e6")
BROADCAST = b"\xff" * 6
GROUP = bytes.fromhex("01005e000001")
COUNTERS = (
    "rx_frames rx_bytes rx_crc_errors rx_runts rx_giants rx_overflows rx_filtered tx_frames tx_bytes tx_underflows"
).split()
PREAMBLE = b"\x55" * 7 + b"\xd5"
MAX_FRAME_BYTES = 1518


def with_fcs(frame):
    return frame + zlib.crc32(frame).to_bytes(4, "little")


class Bench:
    """Clocks, GMII models, a supplier for ``tx``, a collector for ``rx``, and the counters that are expected."""

    def __init__(self, dut, rx_ps=8002, tx_ps=7998):
        self.dut = dut
        self.rng = random.Random(int(os.environ["TWINSTACK_SEED"]))
        self.sync_ps = int(os.environ.get("SYNC_PS", "13332"))
        self.rx_ps, self.tx_ps = rx_ps, tx_ps
        self.expected = dict.fromkeys(COUNTERS, 0)
        self.received = []  # (frame, error)
        self.is_open = False  # a frame has begun on ``rx`` and not ended
        self.ready_probability = 1.0
        self.pin_frames = []  # (idle bytes before it, all bytes from the first preamble byte on)

    async def start(self, *, enable=1):
        from cocotbext.eth import GmiiSink, GmiiSource

        dut = self.dut
        dut.address.value = int.from_bytes(ADDRESS, "little")
        dut.enable.value = enable
        dut.promiscuous.value = 0
        dut.all_multicast.value = 0
        dut.tx__valid.value = 0
        dut.tx__payload.value = 0
        dut.rx__ready.value = 0
        for name, period in (("", self.sync_ps), ("rx_", self.rx_ps), ("tx_", self.tx_ps)):
            getattr(dut, name + "rst").value = 1
            cocotb.start_soon(Clock(getattr(dut, name + "clk"), period, "ps").start())
        await self.sync_cycles(8)
        for name in ("rst", "rx_rst", "tx_rst"):
            getattr(dut, name).value = 0
        await self.sync_cycles(8)
        self.source = GmiiSource(dut.pins__rxd, dut.pins__rx_er, dut.pins__rx_dv, dut.rx_clk)
        self.sink = GmiiSink(dut.pins__txd, dut.pins__tx_er, dut.pins__tx_en, dut.tx_clk)
        for model in (self.source, self.sink):
            model.log.setLevel(logging.WARNING)
        cocotb.start_soon(self._collect())
        cocotb.start_soon(self._watch_pins())

    async def _watch_pins(self):
        """What is on the transmit pins, byte by byte: the sink does not keep a frame's first preamble byte."""
        dut = self.dut
        idle, data = 0, bytearray()
        while True:
            await FallingEdge(dut.tx_clk)
            if dut.pins__tx_en.value:
                data.append(int(dut.pins__txd.value))
            elif data:
                self.pin_frames.append((idle, bytes(data)))
                idle, data = 1, bytearray()
            else:
                idle += 1

    async def sync_cycles(self, count):
        for _ in range(count):
            await RisingEdge(self.dut.clk)

    async def _collect(self):
        dut = self.dut
        frame, pending = bytearray(), None
        while True:
            await FallingEdge(dut.clk)
            dut.rx__ready.value = self.rng.random() < self.ready_probability
            await ReadOnly()
            valid, payload = int(dut.rx__valid.value), int(dut.rx__payload.value)
            if dut.rst.value:
                frame, pending = bytearray(), None
                self.is_open = False
                continue
            if pending is not None:
                assert valid and payload == pending, "valid and payload must stay until ready"
            pending = payload if valid and not dut.rx__ready.value else None
            if valid and dut.rx__ready.value:
                count, last, error = payload >> 32 & 7, payload >> 35 & 1, payload >> 36 & 1
                self.is_open = not last
                assert 1 <= count <= 4 and (last or count == 4) and (last or not error)
                frame += (payload & 0xFFFFFFFF).to_bytes(4, "little")[:count]
                if last:
                    assert error or frame[:2] == b"\0\0", "pad"
                    self.received.append((bytes(frame[2:]), error))
                    frame = bytearray()

    def frame(self, length, destination=ADDRESS):
        return (destination + self.rng.randbytes(max(0, length - 6)))[:length]

    def put(self, frame, *, counted=("rx_frames",), preamble=PREAMBLE, fcs=True, error_at=()):
        """Queue a frame on the wire, and count it where it should be counted."""
        from cocotbext.eth import GmiiFrame

        data = preamble + (with_fcs(frame) if fcs else frame)
        error = [int(n in error_at) for n in range(len(data))] if error_at else None
        self.source.send_nowait(GmiiFrame(data, error))
        for name in counted:
            self.expected[name] += 1
        if "rx_frames" in counted:
            self.expected["rx_bytes"] += len(frame)

    async def drained(self):
        """All that was put has passed the MAC."""
        await self.source.wait()
        await Timer(100 * self.sync_ps, "ps")

    def counters(self):
        value = int(self.dut.counters.value)
        return {name: value >> 32 * n & 0xFFFFFFFF for n, name in enumerate(COUNTERS)}

    def check_counters(self):
        assert self.counters() == self.expected

    def good(self):
        return [frame for frame, error in self.received if not error]

    async def supply(self, frames, *, gap=None, error=False, count=True):
        """Give frames to ``tx``, without gaps; ``gap`` = (word, cycles) makes one before that word of each."""
        dut = self.dut
        await FallingEdge(dut.clk)
        for frame in frames:
            data = b"\0\0" + frame
            for start in range(0, len(data), 4):
                chunk = data[start : start + 4]
                last = start + 4 >= len(data)
                if gap and start // 4 == gap[0]:
                    dut.tx__valid.value = 0
                    await self.sync_cycles(gap[1])
                    await FallingEdge(dut.clk)
                value = int.from_bytes(chunk, "little") | len(chunk) << 32 | last << 35 | (last and error) << 36
                dut.tx__payload.value = value
                dut.tx__valid.value = 1
                while True:
                    await ReadOnly()
                    ready = int(dut.tx__ready.value)
                    await FallingEdge(dut.clk)
                    if ready:
                        break
            if count:
                self.expected["tx_frames"] += 1
                self.expected["tx_bytes"] += len(frame)
        dut.tx__valid.value = 0

    async def next_sent(self):
        """The next frame on the wire, as the sink saw it, and the idle bytes before it."""
        sent = await self.sink.recv()
        idle, data = self.pin_frames.pop(0)
        assert bytes(sent.data) == data[1:]
        assert data.startswith(PREAMBLE)
        assert idle >= 12
        return sent, idle

    async def expect_sent(self, frame):
        sent, idle = await self.next_sent()
        assert sent.error is None
        assert bytes(sent.get_payload()) == frame + bytes(max(0, 60 - len(frame)))
        assert sent.check_fcs()
        return idle


LENGTHS = [60, 61, 62, 63, 64, 65, 66, 67, 100, 127, 128, 129, 511, 1000, 1514, 1515, 1516, 1517, 1518]


@cocotb.test(timeout_time=2000, timeout_unit="us")
async def receive_every_length(dut):
    bench = Bench(dut)
    bench.ready_probability = 0.85 if bench.sync_ps < 20000 else 1.0
    await bench.start()
    lengths = LENGTHS + [bench.rng.randint(60, 1518) for _ in range(6)]
    frames = [bench.frame(length) for length in lengths]
    for frame in frames:
        bench.source.ifg = bench.rng.choice([1, 5, 12, 40])
        bench.put(frame)
    await bench.drained()
    assert bench.received == [(frame, 0) for frame in frames]
    bench.check_counters()


@cocotb.test(timeout_time=2000, timeout_unit="us")
async def receive_preambles_and_gaps(dut):
    bench = Bench(dut)
    await bench.start()
    bench.source.ifg = 1
    frames = []
    for length in [0, 1, 2, 3, 7, 15, 40]:
        for _ in range(3):
            frames.append(bench.frame(bench.rng.randint(60, 72)))
            bench.put(frames[-1], preamble=b"\x55" * length + b"\xd5")
    # No SFD: ignored, uncounted.
    bench.put(b"\x55" * 30, counted=(), preamble=b"", fcs=False)
    bench.put(bytes(80), counted=(), preamble=b"\x55" * 7, fcs=False)
    bench.put(b"\x55", counted=(), preamble=b"", fcs=False)
    frames.append(bench.frame(64))
    bench.put(frames[-1])
    await bench.drained()
    # Errors and data outside of frames (false carrier, clause 35.2.2.8) are ignored.
    for rxd in (0xD5, 0x0E, 0xD5):
        await RisingEdge(dut.rx_clk)
        dut.pins__rxd.value = rxd
        dut.pins__rx_er.value = 1
    await RisingEdge(dut.rx_clk)
    dut.pins__rx_er.value = 0
    await bench.drained()
    assert bench.received == [(frame, 0) for frame in frames]
    bench.check_counters()


@cocotb.test(timeout_time=4000, timeout_unit="us")
async def receive_line_rate(dut):
    """Shortest frames with the shortest gap, in a clock that is fast against sync."""
    bench = Bench(dut, rx_ps=7998)
    await bench.start()
    frames = [bench.frame(length) for length in [60] * 60 + [61, 62, 63, 64] * 5 + [1518] * 3]
    for frame in frames:
        bench.put(frame)
    await bench.drained()
    assert bench.received == [(frame, 0) for frame in frames]
    # Beyond the standard: a bare SFD and a gap of one byte.
    bench.source.ifg = 1
    bench.received.clear()
    for frame in frames[:40]:
        bench.put(frame, preamble=b"\xd5")
    await bench.drained()
    assert bench.received == [(frame, 0) for frame in frames[:40]]
    bench.check_counters()


@cocotb.test(timeout_time=4000, timeout_unit="us")
async def receive_bad_frames(dut):
    bench = Bench(dut)
    await bench.start()
    good = []

    def put_good():
        good.append(bench.frame(bench.rng.randint(60, 90)))
        bench.put(good[-1])

    for gap in (12, 1):
        bench.source.ifg = gap
        # Wrong FCS: one bit anywhere.
        for _ in range(6):
            data = bytearray(with_fcs(bench.frame(bench.rng.randint(60, 100))))
            data[bench.rng.randrange(len(data))] ^= 1 << bench.rng.randrange(8)
            bench.put(bytes(data), fcs=False, counted=["rx_crc_errors"])
            put_good()
        # PHY errors: in preamble, SFD, address, data, FCS.
        for position in (0, 3, 7, 8, 20, 71, 75):
            bench.put(bench.frame(64), error_at=[position], counted=["rx_crc_errors"])
            put_good()
        # Runts with a right FCS where there is one, and without.
        for length in range(64):
            fcs = length >= 4 and length % 2 == 0
            bench.put(bench.frame(length - 4 if fcs else length), fcs=fcs, counted=["rx_runts"])
            if length % 8 == 7:
                put_good()
        bench.put(bench.frame(30), error_at=[12], counted=["rx_runts"])
        # Giants: one byte too long, much too long.
        for length in (MAX_FRAME_BYTES + 1, MAX_FRAME_BYTES + 2, MAX_FRAME_BYTES + 3, MAX_FRAME_BYTES + 4, 3000):
            bench.put(bench.frame(length), counted=["rx_giants"])
            put_good()
        bench.put(bench.frame(MAX_FRAME_BYTES))
        bench.put(bench.frame(1600), error_at=[100], counted=["rx_giants"])
        await bench.drained()
        good.append(bench.good()[-1])
        assert len(good[-1]) == MAX_FRAME_BYTES
    assert bench.good() == good
    assert all(len(frame) <= MAX_FRAME_BYTES + 4 for frame, _ in bench.received)
    bench.check_counters()


@cocotb.test(timeout_time=2000, timeout_unit="us")
async def filter_addresses(dut):
    bench = Bench(dut)
    await bench.start()
    one_bit = [(int.from_bytes(ADDRESS, "little") ^ 1 << bit).to_bytes(6, "little") for bit in range(48)]
    for promiscuous, all_multicast in ((0, 0), (0, 1), (1, 0), (1, 1)):
        dut.promiscuous.value = promiscuous
        dut.all_multicast.value = all_multicast
        await bench.sync_cycles(10)
        accepted = []
        neighbours = one_bit if not promiscuous and not all_multicast else one_bit[:9]
        nearly = [b"\xff" * n + b"\xfe" + b"\xff" * (5 - n) for n in range(6)]
        for destination in [ADDRESS, OTHER, BROADCAST, GROUP, bytes(6), ADDRESS, *neighbours, *nearly, BROADCAST]:
            frame = bench.frame(60, destination)
            wanted = promiscuous or destination in (ADDRESS, BROADCAST) or (all_multicast and destination[0] & 1 == 1)
            bench.put(frame, counted=["rx_frames" if wanted else "rx_filtered"])
            if wanted:
                accepted.append((frame, 0))
        # A bad frame for someone else is bad, not filtered.
        if not promiscuous:
            bench.put(bench.frame(60, OTHER), error_at=[40], counted=["rx_crc_errors"])
        await bench.drained()
        assert bench.received == accepted
        bench.received.clear()
    bench.check_counters()


@cocotb.test(timeout_time=4000, timeout_unit="us")
async def receive_with_back_pressure(dut):
    """A short stall loses nothing; a long one loses whole frames, each counted, and no boundary."""
    bench = Bench(dut)
    await bench.start()
    frames = [bench.frame(length) for length in (400, 60, 60, 60)]
    for frame in frames:
        bench.put(frame)
    for _ in range(5):
        await Timer(800, "ns")
        bench.ready_probability = 0.0
        await Timer(192, "ns")
        bench.ready_probability = 1.0
    await bench.drained()
    assert bench.received == [(frame, 0) for frame in frames]
    bench.check_counters()

    bench.received.clear()
    sent = []
    for n in range(150):
        bench.source.ifg = 12
        sent.append(bench.frame(bench.rng.choice([60, 61, 62, 63, 90, 300])))
        if n % 5 == 4:  # bad ones among them
            bench.put(sent.pop()[: bench.rng.choice([0, 1, 5, 30])], fcs=False, counted=())
        elif n % 7 == 6:
            bench.put(sent.pop(), error_at=[30], counted=())
        else:
            bench.put(sent[-1], counted=())
    while not bench.source.empty():
        bench.ready_probability = bench.rng.choice([0.0, 0.0, 0.1, 0.3, 1.0])
        await Timer(bench.rng.choice([100, 500, 2000, 10000]), "ns")
    bench.ready_probability = 0.0
    await bench.drained()
    bench.ready_probability = 1.0
    await bench.drained()
    good, rest = bench.good(), iter(sent)
    assert all(frame in rest for frame in good), "in order, unchanged, none twice"
    counters = bench.counters()
    assert counters["rx_frames"] - bench.expected["rx_frames"] == len(good)
    assert counters["rx_bytes"] - bench.expected["rx_bytes"] == sum(map(len, good))
    kinds = ("rx_frames", "rx_crc_errors", "rx_runts", "rx_giants", "rx_overflows", "rx_filtered")
    assert sum(counters[kind] - bench.expected[kind] for kind in kinds) == 150
    assert counters["rx_overflows"] >= len(sent) - len(good) > 10 and len(good) > 10

    # All lost but what the FIFOs hold, then normal again.
    before = counters
    bench.received.clear()
    bench.ready_probability = 0.0
    for _ in range(40):
        bench.put(bench.frame(60), counted=())
    await bench.drained()
    bench.ready_probability = 1.0
    await bench.drained()
    counters = bench.counters()
    assert counters["rx_overflows"] - before["rx_overflows"] == 40 - len(bench.good())
    assert len(bench.good()) <= 1
    last = bench.frame(777)
    bench.put(last)
    await bench.drained()
    assert bench.received[-1] == (last, 0)


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


async def check_alive(bench):
    """Two frames each way arrive, whatever came before; the first proves that nothing swallows the next."""
    bench.received.clear()
    bench.sink.clear()
    bench.pin_frames.clear()
    frames = [bench.frame(88), bench.frame(61)]
    for frame in frames:
        bench.put(frame)
    await bench.supply(frames)
    await bench.drained()
    assert bench.good() == frames
    for frame in frames:
        await bench.expect_sent(frame)


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


def test_mac():
    from support.rtl import run_cocotb
    from twinstack.mac import Mac

    run_cocotb(Mac(), __file__)


def test_mac_with_the_slowest_sync_clock():
    from support.rtl import run_cocotb
    from twinstack.mac import Mac

    # 31.25 MHz, 100 ppm slow against byte clocks that are 100 ppm fast
    run_cocotb(
        Mac(),
        __file__,
        testcase=["receive_line_rate", "transmit_line_rate", "both_directions_at_once", "receive_every_length"],
        environment={"SYNC_PS": "32006"},
    )


def test_fcs_model():
    from twinstack.crc32 import fcs

    for length in (0, 1, 60, 1500):
        frame = random.Random(length).randbytes(length)
        assert fcs(frame) == zlib.crc32(frame).to_bytes(4, "little")


@pytest.mark.parametrize("size", [63, 0, -1, 9001])
def test_max_frame_bytes_out_of_range(size):
    from twinstack.mac import Mac

    with pytest.raises(ValueError, match=f"not {size}"):
        Mac(size)


@pytest.mark.parametrize("size", ["1518", 1518.0, True, None])
def test_max_frame_bytes_of_wrong_type(size):
    from twinstack.mac import Mac

    with pytest.raises(TypeError, match="max_frame_bytes"):
        Mac(size)


def test_domains():
    from twinstack.mac import Mac

    with pytest.raises(TypeError, match="rx_domain must be a string, not 3"):
        Mac(rx_domain=3)
    with pytest.raises(ValueError, match="tx_domain must name a clock domain, not 'comb'"):
        Mac(tx_domain="comb")


def test_limits_and_other_domains_elaborate():
    from amaranth.back import rtlil

    from twinstack.mac import Mac

    for size in (64, 9000):
        mac = Mac(size, rx_domain="port_rx", tx_domain="port_tx")
        assert "port_rx_clk" in (text := rtlil.convert(mac)) and "port_tx_clk" in text
        assert rtlil.convert(mac) == text, "elaboration must be pure"
