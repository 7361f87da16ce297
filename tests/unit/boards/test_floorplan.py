"""The floorplan of block RAMs: every memory of the budget has sites, no site is given twice, the netlist keeps the rest."""

import json

import pytest

from twinstack_boards.build import board_by_name
from twinstack_boards.floorplan import PLANS, apply, assign
from twinstack_boards.report import Netlist, expected_block_rams

CPU = [
    "RegFilePlugin_regFile.0.0",
    "RegFilePlugin_regFile.1.0",
    "IBusCachedPlugin_cache.ways_0_tags.0.0",
    "dataCache_1.ways_0_tags.0.0",
    "IBusCachedPlugin_cache.banks_0.0.0",
    "IBusCachedPlugin_cache.banks_0.0.1",
    *(f"dataCache_1.ways_0_data_symbol{lane}.0.0" for lane in range(4)),
]


def block_rams(board, shell=""):
    """Names as synthesis gives them, of all block RAMs of a board."""
    names = []
    for memory, count in expected_block_rams(board.config, board.host_memory_bytes).items():
        if memory.endswith(".cpu"):
            assert count == len(CPU)
            names += [f"{shell}{memory}.vexriscv.{name}" for name in CPU]
        else:
            names += [f"{shell}{memory}.memory.0.{number}" for number in range(count)]
    return names


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("shell", ["", "standalone."])
def test_every_memory_of_the_budget_has_a_site_of_its_own(name, shell):
    names = block_rams(board_by_name(name), shell)
    found = assign(names, PLANS[name])
    assert sorted(found) == sorted(names)
    assert len(set(found.values())) == len(names)


@pytest.mark.parametrize("name", PLANS)
def test_rules_share_no_site(name):
    sites = [site for _, listed in PLANS[name] for site in listed]
    assert len(sites) == len(set(sites)) <= board_by_name(name).device.block_rams


def test_cores_are_mirrored():
    found = assign(block_rams(board_by_name("ecpix5_85")), PLANS["ecpix5_85"])
    left, right = (
        {site for name, site in found.items() if name.startswith((f"engine.core{core}.cpu", f"engine.tx_bank{core}"))}
        for core in range(2)
    )
    assert len(left) == len(right) == 22
    assert max(int(site[1:].split("/")[0]) for site in left) < 60 < min(int(site[1:].split("/")[0]) for site in right)


def test_numbers_are_ordered_as_numbers():
    sites = assign([f"engine.code_ram.memory.0.{number}" for number in (10, 2)], [(r"engine\.code_ram\.", ["a", "b"])])
    assert sites == {"engine.code_ram.memory.0.2": "a", "engine.code_ram.memory.0.10": "b"}


def test_what_has_no_site_is_left_to_the_placer():
    rules = [(r"engine\.a\.", ["X4/Y22/EBR0"])]
    assert assign(["engine.a.0", "engine.a.1", "engine.b.0"], rules) == {"engine.a.0": "X4/Y22/EBR0"}


def test_a_site_given_twice_is_refused():
    with pytest.raises(ValueError, match="must be given once"):
        assign(["engine.a.0", "engine.b.0"], [(r"engine\.a\.", ["X4/Y22/EBR0"]), (r"engine\.b\.", ["X4/Y22/EBR0"])])


@pytest.mark.parametrize(("board", "count"), [("ecpix5_85", 1), ("versa_ecp5_5g", 0)])
def test_netlist_gets_attributes_and_is_the_same_otherwise(tmp_path, board, count):
    cells = {
        "standalone.engine": {"type": "$scopeinfo"},
        "standalone.engine.shared_ram.memory.0.0": {"type": "DP16KD"},
        "standalone.engine.new_memory.0.0": {"type": "DP16KD", "attributes": {"keep": "1"}},
        "standalone.engine.shared_ram.a": {"type": "LUT4"},
    }
    path = tmp_path / "top.json"
    path.write_text(json.dumps({"modules": {"top": {"cells": cells}}}))
    assert apply(path, board) == count
    if count:
        cells["standalone.engine.shared_ram.memory.0.0"]["attributes"] = {"BEL": "X69/Y22/EBR0"}
    assert json.loads(path.read_text()) == {"modules": {"top": {"cells": cells}}}
    assert Netlist(path, "top").block_rams_by_memory()["engine.shared_ram"] == 1
