"""What is kept of builds, the table of it, and what a missed clock does to a build's status."""

import argparse
import json
from collections import Counter

import pytest

from twinstack_boards import build as build_module
from twinstack_boards import cli, firmware
from twinstack_boards.build import BOARDS, board_by_name
from twinstack_boards.report import Clock
from twinstack_boards.results import board_table, record, result_of

BLOCKS = {"core0": Counter(LUT4=1000, FF=500, DP16KD=20), "engine": Counter(LUT4=24, MULT18=4)}


def made(seed, sync=76.0, routed=True):
    clocks = [Clock("$glbnet$clocks.sync_clk", 75.0, sync), Clock("rx0", 125.0, 140.0)]
    return result_of(seed, BLOCKS, clocks, routed=routed)


def test_a_row_says_the_worst_of_all_seeds(tmp_path):
    path = tmp_path / "versa_ecp5.json"
    for seed, sync in ((3, 77.5), (1, 76.0), (2, 78.0), (1, 75.5)):
        record(path, made(seed, sync))
    assert [one["seed"] for one in json.loads(path.read_text())] == [1, 2, 3]
    rows = dict(
        zip(BOARDS, board_table([board_by_name(name) for name in BOARDS], tmp_path).splitlines()[2:], strict=True)
    )
    assert "| 1,024 | 500 | 20 | 4 | sync_clk 75/75.5, rx0 125/140 (seeds 1, 2, 3) |" in rows["versa_ecp5"]
    assert rows["ecpix5_85"].endswith("| - | - | - | - | not built |")
    assert "LFE5UM-45F, grade 8 | 2: Marvell 88E1512" in rows["versa_ecp5"]


def test_a_placement_counts_until_there_is_a_routed_build(tmp_path):
    path = tmp_path / "versa_ecp5.json"
    record(path, made(1, routed=False))
    assert "(not routed: estimates after placement)" in board_table([board_by_name("versa_ecp5")], tmp_path)
    record(path, made(2))
    record(path, made(3, routed=False))
    assert [one["seed"] for one in json.loads(path.read_text())] == [2]


@pytest.mark.parametrize(("reached", "allow", "status"), [(76.0, False, 0), (74.9, False, 1), (74.9, True, 0)])
def test_a_missed_clock_is_a_failure(tmp_path, monkeypatch, capsys, reached, allow, status):
    def build(board, code, folder, **_):
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(made(1, reached)))
        return "the table", [Clock("sync", 75.0, reached)]

    monkeypatch.setattr(build_module, "build", build)
    monkeypatch.setattr(firmware, "firmware_words", lambda board: [])
    monkeypatch.setattr("twinstack_sim.toolchain.BUILD", tmp_path)
    options = argparse.Namespace(
        board="versa_ecp5", seed=1, place_only=False, limit=None, allow_timing_fail=allow, record=False
    )
    assert cli.run_build(options) == status
    output = capsys.readouterr()
    assert output.out.splitlines() == ["the table", f"build: {tmp_path}/versa_ecp5/top.bit"]
    assert ("timing MISSED: sync 74.90 of 75.00 MHz" in output.err) == (reached < 75)
