"""Parser and transmit checksums against scapy, over random and mutated frames; 100,000 of them in
``tests/nightly/test_parser_scapy.py``, which uses the benches of this file."""

import os
import random
from collections import Counter

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import Timer

FRAMES = 1500
CLOCK_NS = 10
ENOUGH = 3
"""So many frames with each field are expected even of the smallest run."""


class Batches:
    """Slots of several frames are collected and sent in one go."""

    def __init__(self, dut, slots, results, settle, result_width):
        self.dut, self.slots, self.most, self.settle, self.result_width = dut, slots, results, settle, result_width
        self.pending, self.frames, self.go = [], 0, 0

    async def start(self):
        dut = self.dut
        dut.go.value = 0
        dut.slots.value = 0
        dut.rst.value = 1
        cocotb.start_soon(Clock(dut.clk, CLOCK_NS, "ns").start())
        await Timer(3 * CLOCK_NS + CLOCK_NS // 4, "ns")  # between two edges, and so ever after
        dut.rst.value = 0

    def fits(self, slots):
        return len(self.pending) + len(slots) <= self.slots and self.frames < self.most

    def add(self, slots):
        self.pending += slots
        self.frames += 1

    async def run(self, width):
        """Send what was collected; one integer for each frame."""
        value = sum(slot << index * width for index, slot in enumerate(self.pending))
        self.go ^= 1
        self.dut.slots.value = value
        self.dut.go.value = self.go
        await Timer((len(self.pending) + self.settle) * CLOCK_NS, "ns")
        assert int(self.dut.count.value) == self.frames, "each frame has one result"
        # Whatever lies in the slots beyond the frames is zero, so nothing more can come.
        results = int(self.dut.results.value)
        mask = (1 << self.result_width) - 1
        got = [results >> index * self.result_width & mask for index in range(self.frames)]
        self.pending, self.frames = [], 0
        return got


def words_of(frame):
    raw = bytes(2) + frame
    return [(int.from_bytes(raw[at : at + 4], "little"), min(4, len(raw) - at)) for at in range(0, len(raw), 4)]


def parser_slots(rng, case, idle):
    """``ParserSlot`` values: data 31:0, count 34:32, last 35, error 36, valid 37; with gaps in some frames."""
    slots = []
    words = words_of(case.frame)
    for index, (word, count) in enumerate(words):
        while rng.random() < idle:
            slots.append(0)
        last = index == len(words) - 1
        slots.append(word | count << 32 | last << 35 | (last and case.error) << 36 | 1 << 37)
    return slots


def checksum_slots(rng, frame, idle, settle):
    """``ChecksumSlot`` values: word 31:0, last 32, valid 33, start 34."""
    slots = [len(frame) | 1 << 34]
    words = words_of(frame)
    for index, (word, _) in enumerate(words):
        while rng.random() < idle:
            slots.append(0)
        slots.append(word | (index == len(words) - 1) << 32 | 1 << 33)
    return slots + [0] * settle


@cocotb.test(timeout_time=2000, timeout_unit="ms")
async def verdicts_and_fields_are_those_of_scapy(dut):
    from support import parser_cases
    from support.frame_batch import RESULTS, SETTLE, SLOTS, ParserResult, ParserSlot
    from twinstack.interfaces import FrameMeta
    from twinstack.parser import ParserVerdict

    names = {
        "good": ParserVerdict.GOOD,
        "bad_frame": ParserVerdict.BAD_FRAME,
        "unknown_ethertype": ParserVerdict.UNKNOWN_ETHERTYPE,
        "checksum_errors": ParserVerdict.CHECKSUM_ERROR,
    }
    rng = random.Random(int(os.environ["TWINSTACK_SEED"]))
    cases = parser_cases.read(os.environ["TWINSTACK_CASES"])
    fields = {name: (item.offset, item.width) for name, item in FrameMeta.as_shape()}
    batches = Batches(dut, SLOTS, RESULTS, SETTLE, ParserResult.as_shape().size)
    await batches.start()
    seen, verdicts, waiting = Counter(), Counter(), []

    async def check():
        for case, result in zip(waiting, await batches.run(ParserSlot.as_shape().size), strict=True):
            assert result & 3 == names[case.verdict].value, f"{case}: verdict {ParserVerdict(result & 3)}"
            verdicts[case.verdict] += 1
            if case.verdict == "good":
                expected = sum(value << fields[name][0] for name, value in case.meta.items())
                if result >> 2 != expected:
                    got = {name: result >> 2 + offset & (1 << width) - 1 for name, (offset, width) in fields.items()}
                    raise AssertionError(f"{case}: got { {name: value for name, value in got.items() if value} }")
                seen.update(case.meta)
        waiting.clear()

    for case in cases:
        slots = parser_slots(rng, case, rng.choice([0, 0, 0, 0.1]))
        if not batches.fits(slots):
            await check()
        batches.add(slots)
        waiting.append(case)
    await check()
    rare = {name for name in fields if seen[name] < ENOUGH}
    assert not rare and len(verdicts) == 4, f"{rare} never or hardly seen, {verdicts}"
    dut._log.info(f"{len(cases)} frames: {dict(verdicts)}")


@cocotb.test(timeout_time=2000, timeout_unit="ms")
async def written_checksums_are_those_of_scapy(dut):
    from support import parser_cases
    from support.frame_batch import RESULTS, SETTLE, SLOTS, ChecksumResult, ChecksumSlot
    from twinstack.tx_checksum import DONE_LATENCY, ChecksumPatch

    rng = random.Random(int(os.environ["TWINSTACK_SEED"]))
    cases = [case for case in parser_cases.read(os.environ["TWINSTACK_CASES"]) if len(case.frame) >= 14]
    patch_width = ChecksumPatch.as_shape().size
    fields = {name: (item.offset, item.width) for name, item in ChecksumPatch.as_shape()}
    batches = Batches(dut, SLOTS, RESULTS, SETTLE, ChecksumResult.as_shape().size)
    await batches.start()
    waiting, written = [], Counter()

    async def check():
        for case, result in zip(waiting, await batches.run(ChecksumSlot.as_shape().size), strict=True):
            out = bytearray(2) + case.frame
            for name, at in (("ipv4", 0), ("l4", patch_width)):
                patch = {part: result >> at + offset & (1 << width) - 1 for part, (offset, width) in fields.items()}
                if patch["valid"]:
                    written[name] += 1
                    assert patch["offset"] % 2 == 0 and patch["offset"] + 2 <= len(out), f"{case}: outside the frame"
                    out[patch["offset"] : patch["offset"] + 2] = patch["value"].to_bytes(2, "little")
            assert out[2:] == case.sent, f"{case}: sent {out[2:].hex()}, not {case.sent.hex()}"
        waiting.clear()

    for case in cases:
        slots = checksum_slots(rng, case.frame, rng.choice([0, 0, 0.1]), DONE_LATENCY)
        if not batches.fits(slots):
            await check()
        batches.add(slots)
        waiting.append(case)
    await check()
    assert min(written["ipv4"], written["l4"]) > len(cases) // 5, written
    dut._log.info(f"{len(cases)} frames: {dict(written)}")


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    from support import parser_cases
    from support.rtl import seed

    path = tmp_path_factory.mktemp("cases") / "cases"
    parser_cases.write(path, seed(), FRAMES)
    return path


def test_parser(cases):
    from support.frame_batch import ParserBatch
    from support.rtl import run_cocotb

    run_cocotb(
        ParserBatch(),
        __file__,
        testcase="verdicts_and_fields_are_those_of_scapy",
        environment={"TWINSTACK_CASES": str(cases)},
    )


def test_tx_checksum(cases):
    from support.frame_batch import ChecksumBatch
    from support.rtl import run_cocotb

    run_cocotb(
        ChecksumBatch(),
        __file__,
        testcase="written_checksums_are_those_of_scapy",
        environment={"TWINSTACK_CASES": str(cases)},
    )
