"""Proofs of the transmit side's parts; they also run on parts that are wrong on purpose, and must fail there.

Byte packer, by induction, so for ever, for any pieces, gaps and back-pressure: its output is the concatenation of the pieces,
packet by packet, word by word, with count, mask and last; valid and payload stay until ready.

Frame buffer, which drives the frame outputs of the TX engine. Bounded: ``FRAME_DEPTH`` cycles from reset, a ring of
``FRAME_WORDS`` words, which wraps, and ``FREE_BITS`` free bits in each half of a word:

- stream rule: valid and payload stay until ready, ``error`` is never set;
- frames: the solver picks any word of any frame when it is written. It comes out, patched, if and only if its frame is
  committed, after exactly the words committed before it, with the right count and last; nothing else comes out; no gap
  within a frame; what is committed is offered within 7 cycles.

Gather list check, by induction: an entry that is not refused has bytes, which lie within its memory.
"""

import pytest
from amaranth import *
from amaranth.hdl import Assert, Assume, Cover, Fragment

from support.formal import run_formal
from twinstack.byte_packer import BytePacker, PackOutput
from twinstack.config import EngineConfig
from twinstack.proto.descriptor import MAX_GATHER
from twinstack.tx_fetch import REGION_BASES, region_bytes
from twinstack.tx_frame_buffer import TxFrameBuffer
from twinstack.tx_gather import GatherCheck

FRAME_WORDS = 4
FRAME_DEPTH = 15
FREE_BITS = 1
TIME_LIMIT = 400  # seconds; far more than it takes on a machine with nothing else to do


def stays(m, stream, name):
    """The stream rule."""
    held = Signal(name=f"held_{name}")
    payload = Signal.like(stream.payload.as_value(), name=f"payload_{name}")
    m.d.sync += [held.eq(stream.valid & ~stream.ready), payload.eq(stream.payload)]
    with m.If(held):
        m.d.comb += [Assert(stream.valid), Assert(stream.payload.as_value() == payload)]
    return held


# --- Byte packer ---


class PackerProof(Elaboratable):
    def __init__(self, packer):
        self.packer = packer
        self.ports = [packer.i.valid, packer.i.payload.as_value(), packer.o.ready, packer.start]

    def elaborate(self, platform):
        m = Module()
        m.submodules.packer = packer = self.packer
        word, out = packer.i.payload, packer.o.payload
        held = stays(m, packer.o, "o")
        with m.If(packer.i.valid):
            m.d.comb += Assume((word.count != 0) & (word.offset + word.count <= 4))

        # The reference: bytes of the open packet from a word's start on, and up to two whole words that have not left.
        begun = Signal()
        fill, lead = Signal(2), Signal(2)
        rest = Signal(24)
        pending = [Signal(PackOutput, name=f"pending{n}") for n in range(2)]
        level = Signal(2)
        taken, left = packer.i.valid & packer.i.ready, packer.o.valid & packer.o.ready
        lanes = Mux(begun, fill, packer.start)
        unused = Mux(begun, lead, packer.start)
        bytes_in = Signal(32)
        line = Signal(64)
        total = Signal(4)
        m.d.comb += [
            bytes_in.eq((word.data >> (8 * word.offset)) & Cat((n < word.count).replicate(8) for n in range(4))),
            line.eq(Mux(begun, rest, 0) | (bytes_in << (8 * lanes))),
            total.eq(lanes + word.count),
        ]

        def whole(value, count, lead, last):
            made = Signal(PackOutput)
            m.d.comb += [
                made.data.eq(value),
                made.count.eq(count),
                made.last.eq(last),
                made.mask.eq(Cat((n >= lead) & (n < count) for n in range(4))),
            ]
            return made

        first = whole(line[:32], Mux(total > 4, 4, total), unused, word.last & (total <= 4))
        second = whole(line[32:56], total - 4, 0, 1)
        after = Signal(2)
        m.d.comb += after.eq(level - left)
        with m.If(left):
            m.d.sync += pending[0].eq(pending[1])
        m.d.sync += level.eq(after)
        with m.If(taken):
            full, two = (total >= 4) | word.last, word.last & (total > 4)
            m.d.sync += [
                begun.eq(~word.last),
                fill.eq(total),
                lead.eq(Mux(total >= 4, 0, unused)),
                rest.eq(Mux(total >= 4, line[32:], line)),
                level.eq(after + full + two),
            ]
            with m.If(full):
                m.d.sync += pending[0].eq(first)
                m.d.comb += Assert(after == 0)
            with m.If(two):
                m.d.sync += pending[1].eq(second)
        m.d.comb += [Assert(packer.o.valid == (level != 0)), Assert(level <= 2)]
        with m.If(packer.o.valid):
            m.d.comb += Assert(out.as_value() == pending[0].as_value())

        # What makes it inductive.
        inside = packer._inside
        m.d.comb += [Assert(inside.flush == (level == 2)), Assert(inside.inside == (begun | inside.flush))]
        with m.If(begun):
            m.d.comb += [Assert(inside.fill == fill), Assert(inside.start == lead), Assert(lead <= fill)]
            for lane in range(3):
                with m.If(lane < fill):
                    m.d.comb += Assert(inside.held[lane] == rest[8 * lane : 8 * lane + 8])
                with m.Else():
                    m.d.comb += Assert(rest[8 * lane : 8 * lane + 8] == 0)
        with m.If(inside.flush):
            m.d.comb += [
                Assert(~begun),
                Assert(pending[1].data == Cat(*inside.held)),
                Assert(pending[1].count == inside.fill),
                Assert(pending[1].mask == Cat(lane < inside.fill for lane in range(4))),
                Assert(pending[1].last),
            ]
        m.d.comb += [
            Cover(held & inside.flush),
            Cover(packer.o.valid & (out.mask == 0b0110) & out.last),
            Cover(left & out.last & taken & (packer.start == 3)),
        ]
        return m


class ForgetsToWait(BytePacker):
    def _can_move(self):
        return Const(1)


class LosesRest(BytePacker):
    def _rests(self, total):
        return total > 5


def check_packer(packer, mode, depth, name):
    proof = PackerProof(packer())
    return run_formal(proof, proof.ports, mode=mode, depth=depth, name=f"byte_packer_{name}")


def test_packer_concatenates_for_ever():
    assert check_packer(BytePacker, "prove", 2, "concatenates") == "PASS"


def test_packer_situations_are_reachable():
    assert check_packer(BytePacker, "cover", 10, "cover") == "PASS"


@pytest.mark.parametrize("wrong", [ForgetsToWait, LosesRest])
def test_wrong_packer_fails(wrong):
    assert check_packer(wrong, "bmc", 8, f"wrong_{wrong.__name__}") == "FAIL"


# --- Frame buffer ---


class SmallBuffer(TxFrameBuffer):
    SIZES = (FRAME_WORDS,)


class BufferProof(Elaboratable):
    def __init__(self, buffer):
        self.buffer = buffer
        self.pick = Signal()
        self.tail_bytes = Signal(2)  # bytes of the last word, less one
        # The buffer does not look at the data: a few free bits of each half tell words apart.
        self.low, self.high, self.patch_bits = (Signal(FREE_BITS, name=name) for name in ("low", "high", "patch_bits"))
        self.patch_half = Signal(3)  # 16-bit halves from the start of the frame
        self.ports = [
            buffer.write, self.low, self.high, buffer.patch, self.patch_half, self.patch_bits, buffer.commit,
            buffer.discard, buffer.o.ready, self.pick, self.tail_bytes,
        ]  # fmt: skip

    def elaborate(self, platform):
        m = Module()
        # As for a formal platform, the library's FIFO asserts that its pointers agree with its level.
        m.submodules.buffer = Fragment.get(self.buffer, "formal")
        buffer = self.buffer
        held = stays(m, buffer.o, "o")
        m.d.comb += [
            buffer.data.eq(Cat(self.low, C(0, 16 - FREE_BITS), self.high)),
            buffer.patch_value.eq(self.patch_bits),
            buffer.patch_offset.eq(self.patch_half << 1),
        ]
        m.d.comb += [
            Assert(~buffer.o.payload.error),
            Assume(buffer.write + buffer.patch + buffer.commit + buffer.discard <= 1),
            Cover(held & buffer.o.payload.last),
        ]
        self._frames(m)
        return m

    def _frames(self, m):
        buffer, out = self.buffer, self.buffer.o.payload
        size = range(2 * FRAME_WORDS)
        # The writer keeps to the contract: room, no empty frame, patches within it, and its length.
        opened = Signal(size)  # words of the open frame
        patched = Signal(size)
        settled = Signal(init=1)  # two cycles after a commit or discard
        m.d.sync += settled.eq(1)
        with m.If(buffer.write):
            m.d.sync += opened.eq(opened + 1)
        with m.If(buffer.commit | buffer.discard):
            m.d.sync += [opened.eq(0), settled.eq(0)]
        m.d.comb += [
            patched.eq(buffer.patch_offset >> 2),
            buffer.length.eq(4 * opened - 3 + self.tail_bytes),
            Assume(~buffer.write | (settled & (opened < buffer.space))),
            Assume(~buffer.commit | (opened != 0)),
            Assume(~buffer.patch | (((buffer.patch_offset >> 2) < opened) & ~buffer.patch_offset[0])),
        ]

        # The picked word.
        outstanding = Signal(6)  # words committed that have not come out
        picked, due, done = Signal(), Signal(), Signal()
        index = Signal(size)  # of the word in its frame
        ahead = Signal(6)
        value = Signal(32)
        is_last, count = Signal(), Signal(3)
        left = buffer.o.valid & buffer.o.ready
        m.d.sync += outstanding.eq(outstanding - left + Mux(buffer.commit, opened, 0))
        m.d.comb += Assert(~buffer.o.valid | (outstanding != 0))
        with m.If(buffer.write & self.pick & ~picked & ~due & ~done):
            m.d.sync += [picked.eq(1), index.eq(opened), value.eq(buffer.data)]
        with m.If(picked & buffer.patch & (patched == index)):
            with m.If(buffer.patch_offset[1]):
                m.d.sync += value[16:].eq(buffer.patch_value)
            with m.Else():
                m.d.sync += value[:16].eq(buffer.patch_value)
        with m.If(picked & buffer.discard):
            m.d.sync += picked.eq(0)
        with m.If(picked & buffer.commit):
            m.d.sync += [
                picked.eq(0),
                due.eq(1),
                ahead.eq(outstanding - left + index),
                is_last.eq(index == opened - 1),
                count.eq(Mux(index == opened - 1, self.tail_bytes + 1, 4)),
            ]
        with m.If(due & left):
            m.d.sync += ahead.eq(ahead - 1)
            with m.If(ahead == 0):
                m.d.sync += [due.eq(0), done.eq(1)]
                m.d.comb += [Assert(out.data == value), Assert(out.last == is_last), Assert(out.count == count)]

        # What is committed comes out, and without a gap within a frame.
        quiet = Signal(4)
        m.d.sync += quiet.eq(Mux(~buffer.o.valid & (outstanding != 0), quiet + 1, 0))
        m.d.comb += Assert(quiet <= 6)
        in_frame = Signal()
        with m.If(left):
            m.d.sync += in_frame.eq(~out.last)
        m.d.comb += Assert(~in_frame | buffer.o.valid)

        out_words, committed = Signal(5), Signal(3)
        with m.If(left):
            m.d.sync += out_words.eq(out_words + 1)
        with m.If(buffer.commit):
            m.d.sync += committed.eq(committed + 1)
        m.d.comb += [
            Cover(done & (committed == 2)),
            Cover(done & (index == 2) & is_last),
            Cover(left & out.last & (out_words == 2) & (committed == 3)),  # six slots used: the ring has wrapped
        ]


class Overfills(SmallBuffer):
    def _free(self, used):
        return FRAME_WORDS - used


class CountsOneWordMore(SmallBuffer):
    def _length_in_words(self, length):
        return (length >> 2) + 1


class IgnoresDiscard(SmallBuffer):
    def _tail_after_discard(self, start, tail):
        return tail


class HurriesOn(SmallBuffer):
    """Takes the next frame's length while words of this one still wait."""

    def _may_read_next(self, quiet):
        return Const(1)


def check_buffer(buffer, mode, depth, name):
    proof = BufferProof(buffer(FRAME_WORDS))
    name = f"tx_frame_buffer_{name}"
    return run_formal(proof, proof.ports, mode=mode, depth=depth, name=name, timeout=TIME_LIMIT)


def test_frames_come_out_whole_in_order_and_once():
    assert check_buffer(SmallBuffer, "bmc", FRAME_DEPTH, "frames") == "PASS"


def test_frame_buffer_situations_are_reachable():
    assert check_buffer(SmallBuffer, "cover", FRAME_DEPTH, "cover") == "PASS"


@pytest.mark.parametrize("wrong", [Overfills, CountsOneWordMore, IgnoresDiscard, HurriesOn])
def test_wrong_frame_buffer_fails(wrong):
    assert check_buffer(wrong, "bmc", FRAME_DEPTH, f"wrong_{wrong.__name__}") == "FAIL"


# --- Gather list ---


class GatherProof(Elaboratable):
    def __init__(self, gather, config):
        self.gather, self.config = gather, config
        self.ports = [gather.restart, gather.valid, gather.word, gather.add, gather.add_bytes]

    def elaborate(self, platform):
        m = Module()
        m.submodules.gather = gather = self.gather
        piece = gather.piece
        good = Signal()
        past_good, past_valid, past_restart = Signal(), Signal(), Signal()
        was_bad = Signal()
        with m.Switch(piece.region):
            for region, size in region_bytes(self.config).items():
                with m.Case(region):
                    m.d.comb += good.eq((piece.length != 0) & (piece.offset + piece.length <= size))
        m.d.sync += [
            past_good.eq(good),
            past_valid.eq(gather.piece_valid),
            past_restart.eq(gather.restart),
            was_bad.eq(gather.is_bad),
        ]
        with m.If(past_valid & ~past_restart):
            m.d.comb += Assert(gather.is_bad | past_good)
        with m.If(was_bad & ~past_restart):
            m.d.comb += Assert(gather.is_bad)
        m.d.comb += [
            Cover(gather.piece_valid & good & (gather.checked == MAX_GATHER - 1) & ~gather.is_bad),
            *(
                Cover(past_valid & past_good & ~gather.is_bad & (piece.region == region) & (piece.length > 1000))
                for region in REGION_BASES
            ),
            Cover(past_valid & ~past_good & gather.is_bad),
        ]
        return m


class LimitOffByOne(GatherCheck):
    def _ends_within(self, end, limit):
        return end <= limit + 1


class PermitsNothing(GatherCheck):
    """Lets an entry of no bytes pass."""

    def _has_bytes(self, length):
        return Const(1)


def check_gather(gather, mode, depth, name):
    config = EngineConfig()
    proof = GatherProof(gather(config), config)
    return run_formal(proof, proof.ports, mode=mode, depth=depth, name=f"tx_gather_{name}")


def test_gather_list_stays_within_the_memories_for_ever():
    assert check_gather(GatherCheck, "prove", 3, "within") == "PASS"


def test_gather_situations_are_reachable():
    assert check_gather(GatherCheck, "cover", 24, "cover") == "PASS"


@pytest.mark.parametrize("wrong", [LimitOffByOne, PermitsNothing])
def test_wrong_gather_check_fails(wrong):
    assert check_gather(wrong, "bmc", 8, f"wrong_{wrong.__name__}") == "FAIL"
