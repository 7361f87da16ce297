"""Receive front end against an independent reading of the RFCs, with frames from scapy, damaged ones, and no mercy on
either side of the streams."""

import os
import random
import struct
from collections import Counter, deque

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

from support import packets

CLOCK_NS = 10
COUNTERS = ("good", "bad_frame", "checksum_errors", "unknown_ethertype", "overflow")


def words_of(frame, *, error=False):
    """Packed ``FrameWord`` values of a frame: data 31:0, count 34:32, last 35, error 36."""
    raw = bytes(2) + frame
    words = []
    for start in range(0, len(raw), 4):
        piece = raw[start : start + 4]
        last = start + 4 >= len(raw)
        word = int.from_bytes(piece, "little") | len(piece) << 32 | last << 35 | (last and error) << 36
        words.append(word)
    return words


class Bench:
    """Drives ``i`` from a list of words, takes ``frames`` and ``meta``, and keeps what came out."""

    def __init__(self, dut, rng):
        from twinstack.interfaces import FrameMeta

        self.dut, self.rng = dut, rng
        self.frames = []
        self.metas = deque()
        self.input = deque()
        self.idle = 0.0  # chance of a gap before a word
        self.frames_ready = self.meta_ready = 1.0  # chance in each cycle
        self.fields = [(name, item.offset, item.width) for name, item in FrameMeta.as_shape()]
        self._piece = b""

    async def start(self):
        dut = self.dut
        cocotb.start_soon(Clock(dut.clk, CLOCK_NS, "ns").start())
        dut.i__valid.value = 0
        dut.i__payload.value = 0
        dut.frames__ready.value = 0
        dut.meta__ready.value = 0
        dut.rst.value = 1
        await RisingEdge(dut.clk)
        dut.rst.value = 0
        await RisingEdge(dut.clk)

    def send(self, frame, *, error=False):
        self.input.extend(words_of(frame, error=error))

    def unpack(self, meta):
        values = {name: meta >> offset & (1 << width) - 1 for name, offset, width in self.fields}
        return {name: value for name, value in values.items() if value}

    async def run(self, cycles=None, settle=60):
        """Run for so many cycles, or until the input was sent and nothing came out for ``settle`` cycles."""
        dut, rng = self.dut, self.rng
        edge = RisingEdge(dut.clk)
        quiet = 0
        valid, frames_ready, meta_ready = 0, 0, 0
        held = None  # an offer that was not taken must stay
        held_meta = None
        while cycles is None or cycles > 0:
            send = bool(self.input) and (not self.idle or rng.random() >= self.idle)
            if send:
                quiet = 0
                dut.i__payload.value = self.input.popleft()
            if send != valid:
                dut.i__valid.value = valid = int(send)
            ready = int(self.frames_ready >= 1 or rng.random() < self.frames_ready)
            if ready != frames_ready:
                dut.frames__ready.value = frames_ready = ready
            ready = int(self.meta_ready >= 1 or rng.random() < self.meta_ready)
            if ready != meta_ready:
                dut.meta__ready.value = meta_ready = ready
            await edge
            quiet += 1
            if int(dut.frames__valid.value):
                word = int(dut.frames__payload.value)
                assert held in {None, word}, "an offered word changed"
                held = word
                if frames_ready:
                    held = None
                    self._take(word)
                quiet = 0
            else:
                assert held is None, "an offered word vanished"
            if int(dut.meta__valid.value):
                meta = int(dut.meta__payload.value)
                assert held_meta in {None, meta}, "offered meta data changed"
                held_meta = meta
                if meta_ready:
                    held_meta = None
                    self.metas.append(self.unpack(meta))
                quiet = 0
            else:
                assert held_meta is None, "offered meta data vanished"
            if cycles is not None:
                cycles -= 1
            elif not self.input and quiet > settle:
                break
        dut.i__valid.value = 0
        dut.frames__ready.value = 0
        dut.meta__ready.value = 0

    def _take(self, word):
        count, last, error = word >> 32 & 7, word >> 35 & 1, word >> 36 & 1
        assert not error and 1 <= count <= 4 and (last or count == 4)
        self._piece += (word & 0xFFFFFFFF).to_bytes(4, "little")[:count]
        if last:
            assert self._piece[:2] == b"\0\0"
            self.frames.append(self._piece[2:])
            self._piece = b""

    def counters(self):
        return {name: int(getattr(self.dut, name).value) for name in COUNTERS}


def check(bench, sent, before):
    """Everything sent came out as the reference says; counters rose by exactly that much since ``before``."""
    expected, counts = [], Counter()
    for frame, error in sent:
        inspection = packets.inspect(frame, error=error)
        counts[inspection.verdict] += 1
        if inspection.verdict == packets.GOOD:
            expected.append((frame, {name: value for name, value in inspection.meta.items() if value}))
    after = bench.counters()
    rise = {name: after[name] - before[name] for name in COUNTERS}
    for index, (frame, meta) in enumerate(expected):
        assert bench.frames[index : index + 1] == [frame], f"frame {index}: {frame.hex()}, {rise}, {counts}"
        assert index < len(bench.metas) and bench.metas[index] == meta, (
            f"frame {index}: {frame.hex()}\nexpected {meta}\ngot {bench.metas[index]}"
        )
    assert len(bench.frames) == len(bench.metas) == len(expected)
    assert rise == {name: counts[name] for name in COUNTERS}
    bench.frames.clear()
    bench.metas.clear()
    return counts


def mixed_traffic(rng, number):
    """Frames with their error marks: half of them good, the rest with every kind of fault."""
    sent = []
    for _ in range(number):
        frame = packets.random_frame(rng)
        if rng.random() < 0.4:
            frame = packets.damage(rng, frame)
        if rng.random() < 0.03:
            frame = rng.randbytes(rng.randrange(0, 63))
        if rng.random() < 0.02:
            frame = packets.udp_shorter_than_ip(rng)
        sent.append((frame, rng.random() < 0.04))
    return sent


def fresh_bench(dut):
    return Bench(dut, random.Random(int(os.environ["TWINSTACK_SEED"])))


@cocotb.test(timeout_time=5, timeout_unit="ms")
async def random_frames_match_the_reference(dut):
    bench = fresh_bench(dut)
    rng = bench.rng
    await bench.start()
    totals = Counter()
    features = Counter()
    for batch in range(24):
        # Two words in three leave no room for a lasting back-pressure, so the store must be drained within a batch.
        sent = mixed_traffic(rng, 150)
        bench.idle = (0.0, 0.3, 0.05)[batch % 3]
        bench.frames_ready = 1.0 if bench.idle == 0 else 0.9
        bench.meta_ready = 1.0 if bench.idle == 0 else 0.5
        before = bench.counters()
        for frame, error in sent:
            bench.send(frame, error=error)
        await bench.run()
        for meta in bench.metas:
            features.update(meta.keys())
        totals += check(bench, sent, before)
    for verdict in (packets.GOOD, packets.BAD_FRAME, packets.CHECKSUM_ERRORS, packets.UNKNOWN_ETHERTYPE):
        assert totals[verdict] > 50, totals
    rare = {name for name, _, _ in bench.fields if features[name] < 10}
    assert not rare, f"never or hardly seen: {rare}"


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def tiny_frames_back_to_back(dut):
    bench = fresh_bench(dut)
    rng = bench.rng
    await bench.start()
    templates = [packets.random_frame(rng) for _ in range(20)]
    sent = []
    for _ in range(1500):
        frame = rng.choice(templates)
        if rng.random() < 0.85:
            frame = frame[: rng.choice([0, 1, 2, 3, 4, 12, 13, 14, 15, 16, 17, 18, 19, rng.randrange(1, 62)])]
        sent.append((frame, rng.random() < 0.1))
    before = bench.counters()
    for frame, error in sent:
        bench.send(frame, error=error)
    await bench.run()
    check(bench, sent, before)


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def headers_up_to_the_parsing_limit(dut):
    """Every size of IPv4 and TCP header, with and without a tag, around the 128 bytes that are parsed."""
    bench = fresh_bench(dut)
    rng = bench.rng
    await bench.start()
    sent = []
    for tagged in (False, True):
        for ip_words in range(5, 16):
            for tcp_words in range(5, 16):
                addresses = rng.randbytes(8)
                body = struct.pack(">HHIIBBHHH", 1, 2, 3, 4, tcp_words << 4, 0x18, 5, 0, 0)
                body += rng.randbytes(4 * tcp_words - 20) + rng.randbytes(rng.randrange(6))
                pseudo = addresses + struct.pack(">II", len(body), 6)
                checksum = 0xFFFF ^ packets.ones_complement_sum(pseudo + body)
                body = body[:16] + struct.pack(">H", checksum) + body[18:]
                total = 4 * ip_words + len(body)
                ip = struct.pack(">BBHHHBBH", 0x40 + ip_words, 0, total, 0, 0, 64, 6, 0) + addresses
                ip += rng.randbytes(4 * ip_words - 20)
                frame = bytearray(rng.randbytes(12) + (b"\x81\0\0\5" if tagged else b"") + b"\x08\0" + ip + body)
                packets.refresh_checksums(frame)
                sent.append((bytes(frame) + bytes(max(0, 60 - len(frame))), False))
    before = bench.counters()
    for frame, error in sent:
        bench.send(frame, error=error)
    await bench.run()
    truncated = sum(meta.get("is_truncated_parse", 0) for meta in bench.metas)
    assert check(bench, sent, before)[packets.GOOD] == 242 and truncated == 9


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def lengths_around_the_limit(dut):
    bench = fresh_bench(dut)
    await bench.start()
    before = bench.counters()
    arp = bench.rng.randbytes(12) + b"\x08\x06" + bench.rng.randbytes(28)
    sent = [(arp + bytes(length - len(arp)), False) for length in (1514, 1517, 1518, 1519, 1520, 1523, 2200, 1518)]
    for frame, error in sent:
        bench.send(frame, error=error)
        await bench.run()
    check(bench, sent, before)


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def line_rate_of_minimum_frames(dut):
    """Minimum-size frames without a single idle cycle, both consumers a little faster than the line: nothing is lost."""
    bench = fresh_bench(dut)
    rng = bench.rng
    await bench.start()
    frames = []
    while len(frames) < 300:
        frame = packets.random_frame(rng)[:60]
        if packets.inspect(frame).verdict == packets.GOOD:
            frames.append(frame)
    before = bench.counters()
    for frame in frames:
        bench.send(frame)
    bench.meta_ready = 0.3
    await bench.run()
    check(bench, [(frame, False) for frame in frames], before)


@cocotb.test(timeout_time=3, timeout_unit="ms")
async def overflow_loses_whole_frames(dut):
    """Consumers that stall: what is counted as good comes out whole, in order and with its meta data."""
    bench = fresh_bench(dut)
    rng = bench.rng
    await bench.start()
    for stall in range(8):
        bench.frames_ready, bench.meta_ready = ((0.0, 1.0), (1.0, 0.0), (0.0, 0.0), (0.1, 1.0))[stall % 4]
        sent = []
        while len(sent) < 90:
            frame = packets.random_frame(rng)
            if stall >= 4:
                frame += rng.randbytes(rng.randrange(600))
            sent.append(frame if rng.random() < 0.8 else packets.damage(rng, frame))
        before = bench.counters()
        for frame in sent:
            bench.send(frame)
        await bench.run(cycles=len(bench.input) + 60)
        bench.frames_ready = bench.meta_ready = 1.0
        await bench.run()
        after = bench.counters()
        rise = {name: after[name] - before[name] for name in COUNTERS}
        inspections = [packets.inspect(frame) for frame in sent]
        verdicts = Counter(inspection.verdict for inspection in inspections)
        assert rise["overflow"] > 0
        assert rise["good"] + rise["overflow"] == verdicts[packets.GOOD]
        for name in ("bad_frame", "checksum_errors", "unknown_ethertype"):
            assert rise[name] == verdicts[name]
        assert len(bench.frames) == len(bench.metas) == rise["good"]
        if stall % 4 == 1:
            assert rise["good"] >= 16, "the meta data of 16 frames must find room"
        good = iter((f, i.meta) for f, i in zip(sent, inspections, strict=True) if i.verdict == packets.GOOD)
        for frame, meta in zip(bench.frames, bench.metas, strict=True):
            for candidate, fields in good:
                if candidate == frame:
                    assert meta == {name: value for name, value in fields.items() if value}
                    break
            else:
                raise AssertionError("a frame came out that was not sent, or out of order")
        bench.frames.clear()
        bench.metas.clear()


def test_rx_front_end():
    from support.rtl import run_cocotb
    from twinstack.rx_front_end import RxFrontEnd

    run_cocotb(RxFrontEnd(), __file__)


@pytest.mark.parametrize("value", [256, 513, 0])
def test_frame_fifo_words_must_fit(value):
    from twinstack.rx_front_end import RxFrontEnd

    with pytest.raises(ValueError, match=f"not {value}"):
        RxFrontEnd(frame_fifo_words=value)


@pytest.mark.parametrize(("value", "error"), [(59, ValueError), (2047, ValueError), ("1518", TypeError)])
def test_max_frame_bytes_must_fit(value, error):
    from twinstack.rx_front_end import RxFrontEnd

    with pytest.raises(error, match=f"not {value!r}"):
        RxFrontEnd(max_frame_bytes=value)


def test_reference_checksum_matches_the_example_of_rfc_1071():
    assert packets.ones_complement_sum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2


def test_ones_complement_sum_matches_the_reference():
    from amaranth.sim import Simulator

    from support.rtl import seed
    from twinstack.checksum import CHECKSUM_LATENCY, OnesComplementSum

    dut = OnesComplementSum()
    rng = random.Random(seed())

    async def bench(ctx):
        for _ in range(60):
            extremes = rng.random() < 0.5  # so that carries meet
            words = [
                rng.choice([0, 0xFFFFFFFF, 0xFFFF0000, 0xFFFEFFFF]) if extremes else rng.getrandbits(32)
                for _ in range(rng.randrange(1, 20))
            ]
            for index, word in enumerate(words):
                ctx.set(dut.valid, 1)
                ctx.set(dut.start, index == 0)
                ctx.set(dut.word, word)
                await ctx.tick()
                ctx.set(dut.valid, 0)
                await ctx.tick().repeat(rng.randrange(3) + 1)
            await ctx.tick().repeat(CHECKSUM_LATENCY)
            expected = packets.ones_complement_sum(b"".join(word.to_bytes(4, "little") for word in words))
            assert ctx.get(dut.sum) == int.from_bytes(expected.to_bytes(2, "big"), "little")
            assert ctx.get(dut.is_ones) == (expected == 0xFFFF)

    simulator = Simulator(dut)
    simulator.add_clock(1e-8)
    simulator.add_testbench(bench)
    simulator.run()
