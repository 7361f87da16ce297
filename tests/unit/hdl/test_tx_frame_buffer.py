"""Transmit frame buffer: order, patches, aborts, space, and no gap inside a frame."""

import os
import random

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import ReadOnly, RisingEdge

from twinstack.interfaces import FrameWord

WORDS = 1024
STROBES = ("write", "patch", "commit", "discard")


class Bench:
    def __init__(self, dut):
        self.dut = dut
        self.rng = random.Random(int(os.environ["TWINSTACK_SEED"]))
        self.sent = []
        self.received = []

    async def reset(self):
        cocotb.start_soon(Clock(self.dut.clk, 10, "ns").start())
        for name in STROBES:
            getattr(self.dut, name).value = 0
        self.dut.o__ready.value = 0
        self.dut.rst.value = 1
        await RisingEdge(self.dut.clk)
        self.dut.rst.value = 0

    async def strobe(self, name, **values):
        for member, value in values.items():
            getattr(self.dut, member).value = value
        getattr(self.dut, name).value = 1
        await RisingEdge(self.dut.clk)
        getattr(self.dut, name).value = 0

    async def append(self, frame):
        """Wait for space, then append all words of ``frame`` back to back."""
        words = (len(frame) + 3) // 4
        for _ in range(3):
            await RisingEdge(self.dut.clk)
        while True:
            await ReadOnly()
            enough = int(self.dut.space.value) >= words
            await RisingEdge(self.dut.clk)
            if enough:
                break
        for at in range(0, len(frame), 4):
            raw = frame[at : at + 4].ljust(4, b"\xee")  # bytes beyond the end must not matter
            await self.strobe("write", data=int.from_bytes(raw, "little"))

    async def send(self, frame, discards=True):
        rng = self.rng
        if discards and rng.random() < 0.2:
            await self.append(rng.randbytes(rng.randint(1, 200)))
            await self.strobe("discard")
        final = bytearray(frame)
        await self.append(frame)
        for _ in range(rng.randrange(3) if len(frame) > 1 else 0):
            offset = 2 * rng.randrange(len(frame) // 2)
            final[offset : offset + 2] = rng.randbytes(2)
            value = int.from_bytes(final[offset : offset + 2], "little")
            await self.strobe("patch", patch_offset=offset, patch_value=value)
        self.sent.append(bytes(final))
        await self.strobe("commit", length=len(frame))

    async def receive(self, stall, gapless):
        dut, frame, waiting, begun = self.dut, bytearray(), None, False
        while True:
            dut.o__ready.value = ready = int(self.rng.random() >= stall)
            await ReadOnly()
            valid, payload = int(dut.o__valid.value), int(dut.o__payload.value)
            if waiting is not None:
                assert valid and payload == waiting, "valid and payload must stay until ready"
            waiting = payload if valid and not ready else None
            assert valid or not (begun and gapless), "gap inside a frame"
            await RisingEdge(dut.clk)
            if valid and ready:
                word = FrameWord.from_bits(payload)
                assert not word.error
                assert word.count == 4 or word.last
                frame += word.data.to_bytes(4, "little")[: word.count]
                begun = not word.last
                if word.last:
                    self.received.append(bytes(frame))
                    frame.clear()

    async def finish(self):
        while len(self.received) < len(self.sent):
            await RisingEdge(self.dut.clk)
        for _ in range(20):
            await RisingEdge(self.dut.clk)
        assert self.received == self.sent
        assert int(self.dut.space.value) == WORDS - 1


async def exchange(dut, stall):
    bench = Bench(dut)
    await bench.reset()
    cocotb.start_soon(bench.receive(stall, gapless=True))
    for length in [1, 2, 3, 4, 5, 6, 1520, 1520, 1519, *(bench.rng.randint(1, 300) for _ in range(50))]:
        await bench.send(bench.rng.randbytes(length))
    await bench.finish()


@cocotb.test(timeout_time=3000, timeout_unit="us")
async def frames_come_out_whole_and_gapless(dut):
    await exchange(dut, stall=0)


@cocotb.test(timeout_time=3000, timeout_unit="us")
async def frames_survive_back_pressure(dut):
    await exchange(dut, stall=0.6)


@cocotb.test(timeout_time=3000, timeout_unit="us")
async def two_longest_frames_fit(dut):
    bench = Bench(dut)
    await bench.reset()
    for _ in range(2):
        await bench.send(bench.rng.randbytes(1536))
    for _ in range(60):
        await RisingEdge(dut.clk)
    assert not bench.received
    cocotb.start_soon(bench.receive(0, gapless=True))
    await bench.finish()


@cocotb.test(timeout_time=3000, timeout_unit="us")
async def a_full_buffer_says_so(dut):
    bench = Bench(dut)
    await bench.reset()
    for _ in range(WORDS // 2 - 2):  # frames of one word take two; some words are in the prefetch already
        await bench.send(bench.rng.randbytes(4), discards=False)
    for _ in range(20):
        await RisingEdge(dut.clk)
    space = int(dut.space.value)
    await bench.append(bytes(4 * space))
    await bench.strobe("discard")
    await bench.append(frame := bench.rng.randbytes(4 * space))
    bench.sent.append(frame)
    await bench.strobe("commit", length=len(frame))
    for _ in range(5):
        await RisingEdge(dut.clk)
    assert int(dut.space.value) == 0
    cocotb.start_soon(bench.receive(0.2, gapless=False))
    await bench.finish()


def test_tx_frame_buffer():
    from support.rtl import run_cocotb
    from twinstack.tx_frame_buffer import TxFrameBuffer

    run_cocotb(TxFrameBuffer(WORDS), __file__)


@pytest.mark.parametrize("words", [0, 512, 1000, 8192])
def test_words_must_be_a_power_of_two(words):
    from twinstack.tx_frame_buffer import TxFrameBuffer

    with pytest.raises(ValueError, match=f"not {words}"):
        TxFrameBuffer(words)


def test_words_must_be_an_integer():
    from twinstack.tx_frame_buffer import TxFrameBuffer

    with pytest.raises(TypeError, match=r"not 1024\.0"):
        TxFrameBuffer(1024.0)
