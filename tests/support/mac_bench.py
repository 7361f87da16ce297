"""A bench for the MAC at GMII: clocks, cocotbext-eth's models, a supplier, a collector, and the counters that are expected."""

import logging
import os
import random
import zlib

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, ReadOnly, RisingEdge, Timer

from twinstack.proto.statistics import Statistic

ADDRESS = bytes.fromhex("02a1b2c3d4e5")
OTHER = bytes.fromhex("02a1b2c3d4e6")
BROADCAST = b"\xff" * 6
GROUP = bytes.fromhex("01005e000001")
COUNTERS = (
    "rx_frames rx_bytes rx_crc_errors rx_runts rx_giants rx_overflows rx_filtered tx_frames tx_bytes tx_underflows "
    "tx_pauses rx_pauses"
).split()
PREAMBLE = b"\x55" * 7 + b"\xd5"
MAX_FRAME_BYTES = 1514


def with_fcs(frame):
    return frame + zlib.crc32(frame).to_bytes(4, "little")


class Bench:
    """Clocks, GMII models, a supplier for ``tx``, a collector for ``rx``, and the counters that are expected."""

    def __init__(self, dut, rx_ps=8002, tx_ps=7998, *, speed=2):
        self.dut = dut
        self.rng = random.Random(int(os.environ["TWINSTACK_SEED"]))
        self.sync_ps = int(os.environ.get("SYNC_PS", "13332"))
        self.rx_ps, self.tx_ps, self.speed = rx_ps, tx_ps, speed
        self.expected = dict.fromkeys(COUNTERS, 0)
        self.clocks = {}
        self.received = []  # (frame, error)
        self.is_open = False  # a frame has begun on ``rx`` and not ended
        self.ready_probability = 1.0
        self.pin_frames = []  # (idle bytes before it, all bytes from the first preamble byte on)

    def make_models(self):
        """The source and sink on the pins, and whatever else looks at them."""
        from cocotbext.eth import GmiiSink, GmiiSource

        dut = self.dut
        self.source = GmiiSource(dut.pins__rxd, dut.pins__rx_er, dut.pins__rx_dv, dut.rx_clk)
        self.sink = GmiiSink(dut.pins__txd, dut.pins__tx_er, dut.pins__tx_en, dut.tx_clk)
        dut.pins__tx_hold.value = 0
        dut.pins__link.value = 0
        cocotb.start_soon(self._watch_pins())

    async def start(self, *, enable=1):
        dut = self.dut
        dut.address.value = int.from_bytes(ADDRESS, "little")
        dut.enable.value = enable
        dut.promiscuous.value = 0
        dut.all_multicast.value = 0
        dut.multicast.value = 0
        dut.speed.value = self.speed
        for name in ("pause_receive", "pause_request", "rx_dropped", "statistic_strobe", "statistic_low_strobe"):
            getattr(dut, name).value = 0
        dut.pause_time.value = 0xFFFF
        dut.statistic_index.value = 0
        dut.tx__valid.value = 0
        dut.tx__payload.value = 0
        dut.rx__ready.value = 0
        for name, period in (("", self.sync_ps), ("rx_", self.rx_ps), ("tx_", self.tx_ps)):
            getattr(dut, name + "rst").value = 1
            self.start_clock(name, period)
        # At least four cycles of the slowest clock, as the MAC asks.
        await Timer(8 * max(self.sync_ps, self.rx_ps, self.tx_ps), "ps")
        for name in ("rst", "rx_rst", "tx_rst"):
            getattr(dut, name).value = 0
        await self.sync_cycles(8)
        self.make_models()
        for model in (self.source, self.sink):
            model.log.setLevel(logging.WARNING)
        cocotb.start_soon(self._collect())

    def start_clock(self, name, period):
        """Start the clock ``name``, or go on with another period; None stops it."""
        if name in self.clocks:
            self.clocks.pop(name).stop()
        if period:
            self.clocks[name] = clock = Clock(getattr(self.dut, name + "clk"), period, "ps")
            clock.start()

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

    def tagged_frame(self, length, tag):
        return self.frame(12) + tag.to_bytes(2, "big") + self.rng.randbytes(length - 14)

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

    async def statistic(self, index):
        """Read a statistic, as fast as a bus can: the low word two cycles after the write of the index."""
        dut = self.dut
        await FallingEdge(dut.clk)
        dut.statistic_strobe.value = 1
        dut.statistic_next.value = index
        await FallingEdge(dut.clk)
        dut.statistic_strobe.value = 0
        dut.statistic_index.value = index
        return await self.statistic_again()

    async def statistic_again(self):
        """Read the statistic chosen before."""
        dut = self.dut
        dut.statistic_low_strobe.value = 1
        await ReadOnly()
        low = int(dut.statistic_low.value)
        await FallingEdge(dut.clk)
        dut.statistic_low_strobe.value = 0
        await FallingEdge(dut.clk)
        await ReadOnly()
        value = int(dut.statistic_high.value) << 32 | low
        await FallingEdge(dut.clk)
        return value

    async def statistics(self):
        return {statistic.name: await self.statistic(statistic) for statistic in Statistic}

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
