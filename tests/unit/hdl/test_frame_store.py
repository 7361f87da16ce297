"""Frame store against its model: gaps, back-pressure, dropped and bad frames, frames that do not fit."""

import os
import random

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

from twinstack.models.frame_store import FrameStoreModel, Word

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


def packed(word):
    return pack(word.data, word.count, word.last, word.error)


@cocotb.test(timeout_time=2, timeout_unit="ms")
async def every_cycle_as_the_model_says(dut):
    rng = random.Random(int(os.environ["TWINSTACK_SEED"]))
    await start(dut)
    edge = RisingEdge(dut.clk)
    model = FrameStoreModel(WORDS)
    pending = []  # the rest of the frame that is being sent
    seen = {"committed": 0, "dropped": 0, "overflow": 0}
    taken_words = filled = 0
    phases = [(1.0, 1.0), (0.5, 1.0), (1.0, 0.4), (0.7, 0.1), (1.0, 0.0)]
    for cycle in range(20000):
        send_rate, take_rate = phases[cycle // 400 % len(phases)]
        if cycle > 19500:
            send_rate, take_rate = (1.0 if pending else 0.0), 1.0
        word = None
        if rng.random() < send_rate:
            if not pending:
                length = rng.choice([1, 2, 3, rng.randrange(1, 20), WORDS, WORDS + 1, rng.randrange(1, WORDS)])
                pending = [Word(rng.getrandbits(32), 4, False) for _ in range(length - 1)]
                pending.append(Word(rng.getrandbits(32), rng.randrange(1, 5), True, rng.random() < 0.2))
            word = pending.pop(0)
            dut.i__payload.value = packed(word)
        # Before the last word, drop means nothing.
        drop = rng.random() < 0.2
        ready = rng.random() < take_rate
        dut.i__valid.value = int(word is not None)
        dut.drop.value = int(drop)
        dut.o__ready.value = int(ready)
        await edge
        assert int(dut.i__ready.value) == 1
        for name in seen:
            assert int(getattr(dut, name).value) == (name == model.pulse), (cycle, name, model.pulse)
            seen[name] += name == model.pulse
        assert int(dut.o__valid.value) == (model.offered is not None), cycle
        if model.offered is not None:
            assert int(dut.o__payload.value) == packed(model.offered._replace(error=False)), cycle
            taken_words += ready
        filled += model.used == WORDS
        model.clock(word, drop, ready)
    assert model.offered is None and model.used == 0
    assert taken_words > 2000 and min(seen.values()) > 100 and filled > 10, (seen, filled)


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
