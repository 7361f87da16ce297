"""PLL dividers against the device's limits, by the data sheet's formula."""

import pytest

from twinstack_boards.clocking import pll_settings


def test_75_and_125_mhz_from_100():
    settings = pll_settings(100_000_000, 75_000_000, 125_000_000)
    pfd = 100_000_000 / settings.reference_divider
    vco = pfd * settings.feedback_divider * settings.sync_divider
    assert 400_000_000 <= vco <= 800_000_000
    assert vco / settings.sync_divider == 75_000_000
    assert vco / settings.tx_divider == 125_000_000


def test_impossible_clocks_are_refused():
    with pytest.raises(ValueError, match="not 77777777"):
        pll_settings(100_000_000, 77_777_777, 125_000_000)
