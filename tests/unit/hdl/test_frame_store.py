"""Frame store against a list: gaps, back-pressure, dropped and bad frames, frames that do not fit."""

import os
import random

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

WORDS = 64


async def start(dut):
    cocotb.start_soon(Clock(dut.clk, 10, "ns").start())
    for name in ("i__valid", "i__payload", "drop", "o__ready"):
        getattr(dut, name).value = 0
    dut.rst.value = 1
    await RisingEdge(dut.clk)
    dut.rst.value = 0
    await RisingEdge(dut.clk)


def pack(data, count, last, error=0):
    return data | count << 32 | last << 35 | error << 36


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def only_whole_good_frames_come_out(dut):
    rng = random.Random(int(os.environ["TWINSTACK_SEED"]))
    await start(dut)
    edge = RisingEdge(dut.clk)
    pending = []  # the rest of the frame that is being sent
    drop = 0
    sent = []
    received, piece, expected = [], [], []
    strobe_due = None
    taken_words = 0
    seen = {"committed": 0, "dropped": 0, "overflow": 0}
    phases = [(1.0, 1.0), (0.5, 1.0), (1.0, 0.4), (0.7, 0.1), (1.0, 0.0)]
    stored = 0  # words of committed frames not yet taken
    most_stored = 0  # since the frame that is being sent started
    excuse = 0  # most_stored when its last word was sent
    held = None
    for cycle in range(20000):
        send_rate, take_rate = phases[cycle // 400 % len(phases)]
        if cycle > 19500:
            send_rate, take_rate = (1.0 if pending else 0.0), 1.0
        send = rng.random() < send_rate
        if send:
            if not pending:
                length = rng.choice([1, 2, 3, rng.randrange(1, 20), WORDS, WORDS + 1, rng.randrange(1, WORDS)])
                error = rng.random() < 0.2
                sent = [pack(rng.getrandbits(32), 4, 0) for _ in range(length - 1)]
                sent.append(pack(rng.getrandbits(32), rng.randrange(1, 5), 1, error))
                pending = list(sent)
                most_stored = stored
            word = pending.pop(0)
            dut.i__payload.value = word
        # Before the last word, drop means nothing.
        drop = int(rng.random() < 0.2)
        ready = int(rng.random() < take_rate)
        dut.i__valid.value = int(send)
        dut.drop.value = drop
        dut.o__ready.value = ready
        await edge
        assert int(dut.i__ready.value) == 1
        strobes = {name for name in seen if int(getattr(dut, name).value)}
        if strobe_due is None:
            assert not strobes
        else:
            frame, rejected = strobe_due
            assert len(strobes) == 1
            (name,) = strobes
            seen[name] += 1
            assert (name == "dropped") == rejected
            if len(frame) > WORDS:
                assert name != "committed"
            if name == "overflow":
                assert excuse + len(frame) > WORDS, "overflow with room left"
            if name == "committed":
                expected.append(frame)
                stored += len(frame)
        most_stored = max(most_stored, stored)
        excuse = most_stored
        strobe_due = (sent, bool(sent[-1] >> 36 | drop)) if send and word >> 35 & 1 else None
        if int(dut.o__valid.value):
            out = int(dut.o__payload.value)
            assert held in {None, out}
            held = out
            if ready:
                held = None
                piece.append(out)
                stored -= 1
                taken_words += 1
                if out >> 35 & 1:
                    received.append(piece)
                    piece = []
                    assert received[-1] == expected[len(received) - 1]
        else:
            assert held is None
    assert received == expected and not piece
    assert taken_words > 2000 and min(seen.values()) > 100, seen


@cocotb.test(timeout_time=1, timeout_unit="ms")
async def no_bubbles(dut):
    await start(dut)
    frames = [[pack(16 * f + w, 4, w == 15) for w in range(16)] for f in range(12)]
    words = [word for frame in frames for word in frame]
    got, gaps = [], 0
    dut.o__ready.value = 1
    for word in [*words, *[None] * 40]:
        dut.i__valid.value = int(word is not None)
        if word is not None:
            dut.i__payload.value = word
        await RisingEdge(dut.clk)
        if int(dut.o__valid.value):
            got.append(int(dut.o__payload.value))
        elif got and len(got) < len(words):
            gaps += 1
    assert got == words
    assert gaps == 0, "frames that came without a gap must leave without one"


def test_frame_store():
    from support.rtl import run_cocotb
    from twinstack.frame_store import FrameStore

    run_cocotb(FrameStore(WORDS), __file__)


@pytest.mark.parametrize(("words", "error"), [(2, ValueError), (48, ValueError), (-4, ValueError), ("64", TypeError)])
def test_words_must_be_a_power_of_two(words, error):
    from twinstack.frame_store import FrameStore

    with pytest.raises(error, match=f"not {words!r}"):
        FrameStore(words)
