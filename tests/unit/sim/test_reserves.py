"""The simulation behind the reserves of receive buffers: deterministic, able to tell good splits from bad ones."""

import re
from functools import partial
from pathlib import Path

import pytest

from twinstack.models.rx_pools import RxPoolsModel
from twinstack_sim import reserves
from twinstack_sim.reserves import RECOMMENDED, SCENARIOS, SPLITS, simulate

PAGE = Path(__file__).resolve().parents[3] / "docs" / "blocks" / "packet_memory.md"
HONEST = [scenario for scenario in SCENARIOS if scenario is not reserves.flow_attack]


@pytest.mark.parametrize("scenario", HONEST, ids=lambda scenario: scenario.__name__)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_recommended_split_loses_nothing_of_connections(scenario, seed):
    result = simulate(RECOMMENDED, scenario, ms=5, seed=seed)
    assert result.sent["promised"] > 25
    assert result.lost["promised"] == result.lost["acknowledgements"] == 0


def test_recommended_split_fits_the_bank_and_its_own_rule():
    assert RECOMMENDED.large == 13
    assert RECOMMENDED.windows + RECOMMENDED.other_large <= RECOMMENDED.large
    assert RECOMMENDED.windows <= RECOMMENDED.flow_large < RECOMMENDED.large
    assert RECOMMENDED.other_small < RECOMMENDED.small


@pytest.mark.parametrize("scenario", [reserves.small_strangers, reserves.large_strangers])
def test_without_limits_a_flood_takes_what_windows_promise(scenario):
    for split in SPLITS:
        if "no limits" in split.name:
            assert simulate(split, scenario).lost["promised"] > 5


def test_windows_that_promise_too_much_lose_segments_to_strangers():
    tight = reserves.Split("tight", 16, flow_large=11, flow_small=14, other_large=8, other_small=8, promised=10)
    assert simulate(tight, reserves.slow_host).lost["promised"] > 0


def test_strangers_are_served_when_there_is_no_flood():
    result = simulate(RECOMMENDED, reserves.one_stranger)
    assert result.sent["strangers"] > 30 and result.lost["strangers"] == 0


@pytest.mark.parametrize("ports", [1, 2])
def test_watermark_of_two_frames_a_port_saves_strangers_who_obey(ports):
    def lost(watermark: int) -> float:
        result = simulate(reserves.FIRMWARE, partial(reserves.paused_strangers, ports=ports), watermark=watermark)
        assert result.pauses > 10
        return result.lost["strangers"] / result.sent["strangers"]

    assert lost(2) > 0.1 > 0.03 > lost(1 + 2 * ports)


def test_connections_alone_never_pause_a_port():
    for scenario in (reserves.bulk, reserves.idle_readers, reserves.one_stranger):
        assert simulate(reserves.FIRMWARE, scenario, watermark=5).pauses == 0
    assert simulate(reserves.FIRMWARE, reserves.idle_readers, watermark=6).pauses > 0


def test_every_buffer_comes_back_in_the_end():
    result = simulate(RECOMMENDED, reserves.bulk)
    # What is out is waiting, being processed, or being copied; nothing is forgotten.
    assert len(result.pools.holder) <= RECOMMENDED.windows + 2


def test_same_seed_same_table():
    assert reserves.table(ms=1, seed=3) == reserves.table(ms=1, seed=3)
    assert reserves.table(ms=1, seed=3) != reserves.table(ms=1, seed=4)


def test_page_shows_the_table_as_the_command_prints_it(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["reserves"])
    assert reserves.main() == 0
    printed = capsys.readouterr().out.strip()
    page = PAGE.read_text()
    for part in printed.split("\n\n"):
        assert part in page, "run python -m twinstack_sim.reserves and update the page"
    assert re.search(r"^\| bulk \|", printed, re.MULTILINE)


def test_model_refuses_a_buffer_that_is_out():
    pools = RxPoolsModel(2, 1)
    pools.take("flow", 0)
    with pytest.raises(ValueError, match="buffer must be free, not 0"):
        pools.take("other", 0)
    assert pools.give_back(0) and not pools.give_back(0)
