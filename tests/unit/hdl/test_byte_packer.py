"""Byte packer against plain concatenation of the bytes, with idle gaps and back-pressure."""

import os
import random

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import ReadOnly, RisingEdge

from twinstack.byte_packer import PackInput, PackOutput


def cut(rng, length):
    """Random runs (offset, count) that add up to ``length`` bytes; often words, as a reader of memory makes them."""
    runs = []
    while length:
        offset = 0 if rng.random() < 0.6 else rng.randrange(4)
        count = min(4 - offset, length) if rng.random() < 0.7 else rng.randint(1, min(4 - offset, length))
        runs.append((offset, count))
        length -= count
    return runs


def expected_words(start, packet):
    stretched = bytes(start) + packet
    words = []
    for at in range(0, len(stretched), 4):
        piece = stretched[at : at + 4]
        mask = sum(1 << lane for lane in range(len(piece)) if at + lane >= start)
        words.append((int.from_bytes(piece, "little"), len(piece), int(at + 4 >= len(stretched)), mask))
    return words


class Bench:
    def __init__(self, dut):
        self.dut = dut
        self.rng = random.Random(int(os.environ["TWINSTACK_SEED"]))

    async def reset(self):
        cocotb.start_soon(Clock(self.dut.clk, 10, "ns").start())
        self.dut.i__valid.value = 0
        self.dut.o__ready.value = 0
        self.dut.rst.value = 1
        await RisingEdge(self.dut.clk)
        self.dut.rst.value = 0

    async def send(self, packets, idle, cut=cut):
        dut, rng = self.dut, self.rng
        cycles = 0
        for start, packet in packets:
            at = 0
            for offset, count in cut(rng, len(packet)):
                while rng.random() < idle:
                    dut.i__valid.value = 0
                    await RisingEdge(dut.clk)
                raw = bytearray(rng.randbytes(4))  # lanes outside the run must not matter
                raw[offset : offset + count] = packet[at : at + count]
                dut.i__payload.value = (
                    PackInput.const(
                        {
                            "data": int.from_bytes(raw, "little"),
                            "offset": offset,
                            "count": count,
                            "last": at + count == len(packet),
                        }
                    )
                    .as_value()
                    .value
                )
                dut.start.value = start if at == 0 else rng.randrange(4)  # sampled with the first word only
                dut.i__valid.value = 1
                at += count
                while True:
                    await ReadOnly()
                    ready = int(dut.i__ready.value)
                    await RisingEdge(dut.clk)
                    cycles += 1
                    if ready:
                        break
        dut.i__valid.value = 0
        return cycles

    async def receive(self, words, stall):
        dut, rng = self.dut, self.rng
        waiting = None
        for number, (value, count, last, mask) in enumerate(words):
            while True:
                dut.o__ready.value = ready = int(rng.random() >= stall)
                await ReadOnly()
                valid = int(dut.o__valid.value)
                payload = int(dut.o__payload.value)
                if waiting is not None:
                    assert valid and payload == waiting, "valid and payload must stay until ready"
                waiting = payload if valid and not ready else None
                await RisingEdge(dut.clk)
                if valid and ready:
                    break
            got = PackOutput.from_bits(payload)
            assert (got.data, got.count, got.last, got.mask) == (value, count, last, mask), f"word {number}"
        dut.o__ready.value = 0


async def exchange(dut, idle, stall):
    bench = Bench(dut)
    await bench.reset()
    lengths = [*range(1, 18)] * 4 + [bench.rng.randint(1, 80) for _ in range(60)]
    packets = [(bench.rng.randrange(4), bench.rng.randbytes(length)) for length in lengths]
    words = [word for start, packet in packets for word in expected_words(start, packet)]
    receiver = cocotb.start_soon(bench.receive(words, stall))
    await bench.send(packets, idle)
    await receiver
    dut.o__ready.value = 1
    for _ in range(5):
        await RisingEdge(dut.clk)
        assert not int(dut.o__valid.value), "bytes that nobody sent"


@cocotb.test(timeout_time=2000, timeout_unit="us")
async def bytes_come_out_contiguous(dut):
    await exchange(dut, idle=0, stall=0)


@cocotb.test(timeout_time=2000, timeout_unit="us")
async def bytes_survive_gaps_and_back_pressure(dut):
    await exchange(dut, idle=0.3, stall=0.4)


@cocotb.test(timeout_time=2000, timeout_unit="us")
async def one_word_per_cycle(dut):
    bench = Bench(dut)
    await bench.reset()
    packet = bench.rng.randbytes(400)
    receiver = cocotb.start_soon(bench.receive(expected_words(2, packet), 0))
    assert await bench.send([(2, packet)], 0, cut=lambda rng, length: [(0, 4)] * (length // 4)) <= 101
    await receiver


def test_byte_packer():
    from support.rtl import run_cocotb
    from twinstack.byte_packer import BytePacker

    run_cocotb(BytePacker(), __file__)
