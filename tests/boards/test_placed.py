"""One integrated circuit holds all of it: the netlist and the report of the build that ``make bitstream`` just made.

Not part of ``make test``: without a build there is nothing to look at, and that is a failure here.
"""

import os

import pytest

from twinstack_boards.build import TOP, board_by_name
from twinstack_boards.report import Netlist, board_block_rams, clocks, utilization
from twinstack_sim.toolchain import BUILD

BOARD = board_by_name(os.environ.get("BOARD", "ecpix5_85"))
FOLDER = BUILD / BOARD.name
BLOCKS = [
    "dispatcher",
    "rx_dma",
    "tx_engine",
    "control_queue",
    "dma_in",
    "dma_out",
    "locks",
    "messages",
    *(f"{name}{port}" for port in range(BOARD.config.ports) for name in ("mac", "rx_front_end")),
    *(f"core{core}" for core in range(BOARD.config.cores)),
    *(f"core{core}.cpu.vexriscv" for core in range(BOARD.config.cores)),
]


@pytest.fixture(scope="module")
def netlist():
    return Netlist(FOLDER / f"{TOP}.json", TOP)


@pytest.mark.parametrize("block", BLOCKS)
def test_block_is_in_the_netlist(netlist, block):
    cells = netlist.cells_below(f"engine.{block}")
    assert cells["LUT4"] and cells["FF"], f"{block} has {dict(cells) or 'no cells'}"


def test_memories_take_the_block_rams_of_the_budget(netlist):
    expected = board_block_rams(BOARD)
    assert netlist.block_rams_by_memory() == expected
    assert sum(expected.values()) <= BOARD.device.block_rams


def test_one_device_holds_it():
    used = utilization(FOLDER / f"{TOP}.rpt.json")
    for kind, limit in (("TRELLIS_COMB", BOARD.device.luts), ("DP16KD", BOARD.device.block_rams)):
        assert 0 < used[kind][0] <= limit, kind


@pytest.mark.routed
def test_bitstream_is_of_this_netlist():
    bitstream = FOLDER / f"{TOP}.bit"
    assert bitstream.stat().st_size > 100_000
    assert bitstream.stat().st_mtime >= (FOLDER / f"{TOP}.json").stat().st_mtime


@pytest.mark.routed
def test_every_clock_was_analysed():
    """Whether it is met, the build says; a clock that has no constraint or no path would hide that."""
    asked = sorted(round(clock.asked) for clock in clocks(FOLDER / f"{TOP}.rpt.json"))
    assert asked == sorted([round(BOARD.config.sync_hz / 1e6), 125, *[125] * BOARD.config.ports])
