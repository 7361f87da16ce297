"""Parser and transmit checksums against scapy over 100,000 random and mutated frames, with the benches of
``tests/unit/hdl/test_parser.py``."""

import os
import time
from pathlib import Path

import pytest

from support import parser_cases
from support.frame_batch import ChecksumBatch, ParserBatch
from support.rtl import run_cocotb, seed

pytestmark = pytest.mark.nightly

FRAMES = 100_000
BENCH = Path(__file__).resolve().parents[1] / "unit" / "hdl" / "test_parser.py"
BENCHES = {
    ParserBatch: "verdicts_and_fields_are_those_of_scapy",
    ChecksumBatch: "written_checksums_are_those_of_scapy",
}


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    path = tmp_path_factory.mktemp("cases") / "cases"
    began = time.monotonic()
    parser_cases.write(path, seed(), FRAMES, processes=os.cpu_count() or 1)
    print(f"{FRAMES} frames in {time.monotonic() - began:.0f} s")
    return path


@pytest.mark.parametrize("component", BENCHES)
def test_100000_frames(component, cases):
    run_cocotb(component(), str(BENCH), testcase=BENCHES[component], environment={"TWINSTACK_CASES": str(cases)})
