"""The report's parser on small netlists and reports written here by hand."""

import json
from collections import Counter

import pytest

from twinstack.config import EngineConfig
from twinstack_boards.report import (
    Clock,
    Netlist,
    clocks,
    estimated_clocks,
    expected_block_rams,
    format_table,
    utilization,
)


def write_netlist(tmp_path, cells, nets=None, scopes=("engine", "engine.core0", "engine.core0.cpu", "engine.mac0")):
    """A netlist with cells by (name, type) and nets by name to bits."""
    module = {
        "cells": {name: {"type": "$scopeinfo"} for name in scopes} | {name: {"type": kind} for name, kind in cells},
        "netnames": {name: {"bits": bits} for name, bits in (nets or {}).items()},
    }
    path = tmp_path / "top.json"
    path.write_text(json.dumps({"modules": {"top": module, "LUT4": {"cells": {}}}}))
    return path


def test_cells_go_to_the_block_of_their_name(tmp_path):
    cells = [
        ("engine.core0.cpu.pc_TRELLIS_FF_Q_1", "TRELLIS_FF"),
        ("engine.core0.cpu.pc_TRELLIS_FF_Q_1_DI_LUT4_Z", "LUT4"),
        ("engine.mac0.word_LUT4_A", "LUT4"),
        ("engine.mac0.word_PFUMX_Z", "PFUMX"),
        ("serial.busy_TRELLIS_FF_Q", "TRELLIS_FF"),
        ("engine.written_TRELLIS_FF_Q", "TRELLIS_FF"),
    ]
    netlist = Netlist(write_netlist(tmp_path, cells), "top")
    assert netlist.cells_by_block() == {
        "core0": {"FF": 1, "LUT4": 1},
        "mac0": {"LUT4": 1},
        "board": {"FF": 1},
        "engine": {"FF": 1},
    }


def test_cell_named_after_a_wire_between_blocks_goes_to_the_deepest_owner(tmp_path):
    nets = {
        "engine.ring": [7, 8],
        "engine.mac0.ring": [7, 8],
        "engine.core0.cpu.ring": [7, "0"],
        "engine.core0.ring.field.low": [8],
    }
    cells = [("engine.ring_TRELLIS_FF_Q_3", "TRELLIS_FF"), ("engine.ring_LUT4_B_Z_LUT4_D", "LUT4")]
    assert Netlist(write_netlist(tmp_path, cells, nets), "top").cells_by_block() == {"core0": {"FF": 1, "LUT4": 1}}


def test_field_of_a_structure_is_no_block(tmp_path):
    cells = [("engine.payload.data_LUT4_Z", "LUT4")]
    assert Netlist(write_netlist(tmp_path, cells), "top").cells_by_block() == {"engine": {"LUT4": 1}}


def test_number_behind_a_block_name_is_dropped(tmp_path):
    path = write_netlist(tmp_path, [("engine.locks$12.owner_LUT4_Z", "LUT4")], scopes=("engine", "engine.locks$12"))
    assert Netlist(path, "top").cells_by_block() == {"locks": {"LUT4": 1}}


def test_cells_below_takes_whole_names_only(tmp_path):
    cells = [("engine.core0.cpu.pc_LUT4_Z", "LUT4"), ("engine.core0.cpux.pc_LUT4_Z", "LUT4")]
    netlist = Netlist(write_netlist(tmp_path, cells), "top")
    assert netlist.cells_below("engine.core0.cpu") == {"LUT4": 1}
    assert not netlist.cells_below("engine.core1.cpu")


def test_block_rams_by_memory(tmp_path):
    cells = [
        ("engine.code_ram.memory.0.0", "DP16KD"),
        ("engine.code_ram.memory.0.13", "DP16KD"),
        ("engine.core0.console.storage.0.0", "DP16KD"),
        ("engine.core0.cpu.vexriscv.banks_0.0.0", "DP16KD"),
        ("engine.core0.cpu.vexriscv.tags.1.0", "DP16KD"),
        ("engine.code_ram.memory.0.0_WEA_LUT4_Z", "LUT4"),
    ]
    counts = Netlist(write_netlist(tmp_path, cells), "top").block_rams_by_memory()
    assert counts == {"engine.code_ram": 2, "engine.core0.console": 1, "engine.core0.cpu": 2}


def test_missing_module_is_named(tmp_path):
    with pytest.raises(ValueError, match="must have a module 'engine', not only top, LUT4"):
        Netlist(write_netlist(tmp_path, []), "engine")


def test_budget_follows_the_configuration():
    small = expected_block_rams(EngineConfig(ports=1), 8 * 1024)
    assert small["engine.code_ram"] == 60 and small["engine.core1.data_ram"] == 32 and small["host_memory.ram"] == 4
    assert sum(small.values()) == 207
    large = expected_block_rams(EngineConfig(ports=2, cores=4, rx_bank_bytes=1536 * 3, rx_small_buffers=0), 16 * 1024)
    # 4608 bytes are two rows of 4 KiB, two blocks side by side each: a block has 18 bits with two ports.
    assert large["engine.rx_bank3"] == 4
    assert "engine.rx_front_end1.store" in large and "engine.core3.cpu" in large


def test_clocks_utilization_and_table(tmp_path):
    path = tmp_path / "report.json"
    path.write_text(
        json.dumps(
            {
                "fmax": {
                    "tx": {"constraint": 125.0, "achieved": 130.5},
                    "sync": {"constraint": 75.0, "achieved": 74.9},
                },
                "utilization": {"TRELLIS_COMB": {"used": 34776, "available": 83640}},
            }
        )
    )
    found = clocks(path)
    assert found == [Clock("sync", 75.0, 74.9), Clock("tx", 125.0, 130.5)]
    assert [clock.met for clock in found] == [False, True]
    table = format_table({"mac0": Counter(LUT4=5, FF=6), "locks": Counter(LUT4=7)}, found, utilization(path))
    rows = [line.split() for line in table.splitlines()]
    assert ["total", "12", "6", "0", "0", "0", "0"] in rows
    assert "tables, all uses: 34776 of 83640" in table
    assert "clock sync: asked 75.00 MHz, reached 74.90 MHz, MISSED" in table
    assert "clock tx: asked 125.00 MHz, reached 130.50 MHz, met" in table


def test_clock_estimates_are_those_of_the_last_analysis(tmp_path):
    log = tmp_path / "build.log"
    log.write_text(
        "Info: Max frequency for clock '$glbnet$clk': 51.00 MHz (FAIL at 75.00 MHz)\n"
        "Info: routed nothing\n"
        "Info: Max frequency for clock       '$glbnet$clk': 59.46 MHz (FAIL at 75.00 MHz)\n"
        "Info: Max frequency for clock '$glbnet$rx0': 227.12 MHz (PASS at 125.00 MHz)\n"
    )
    found = estimated_clocks(log)
    assert [(c.name, c.asked, c.reached) for c in found] == [("$glbnet$clk", 75, 59.46), ("$glbnet$rx0", 125, 227.12)]
    table = format_table({}, found, is_estimate=True)
    assert "estimated 59.46 MHz, not routed" in table and "MISSED" not in table
