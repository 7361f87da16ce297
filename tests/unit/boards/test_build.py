"""The build with tools that are not the real ones: what takes too long is stopped, and says what is known."""

import json
import time

import pytest
from amaranth import Elaboratable, Module

from twinstack_boards import build as module
from twinstack_boards.build import TOOLS, BuildError, board_by_name, build


class QuickTop(Elaboratable):
    """In place of the engine, whose conversion takes half a minute."""

    def __init__(self, board, code):
        pass

    def elaborate(self, platform):
        return Module()


def write_tool(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def tools(tmp_path, monkeypatch):
    """Set the tools by their environment variables; those not named do nothing."""
    monkeypatch.setattr(module, "BoardTop", QuickTop)

    def set_tools(**texts):
        for variable in TOOLS:
            monkeypatch.setenv(variable, write_tool(tmp_path / variable, texts.get(variable, "true")))

    return set_tools


NETLIST = json.dumps({"modules": {"top": {"cells": {"engine": {"type": "$scopeinfo"}, "engine.a": {"type": "LUT4"}}}}})


def test_synthesis_that_does_not_end_is_stopped(tools, tmp_path):
    tools(YOSYS="sleep 100")
    began = time.monotonic()
    with pytest.raises(BuildError, match="ecpix5_85: synthesis did not end within 2 s"):
        build(board_by_name("ecpix5_85"), [], tmp_path / "out", limit=2)
    assert time.monotonic() - began < 60


def test_routing_that_does_not_end_tells_what_is_known(tools, tmp_path):
    estimate = "Info: Max frequency for clock 'sync': 59.46 MHz (FAIL at 75.00 MHz)"
    tools(YOSYS=f"echo '{NETLIST}' > top.json", NEXTPNR_ECP5=f'echo "{estimate}"; sleep 100')
    with pytest.raises(
        BuildError, match="did not end within 8 s(?s:.*)engine +1 (?s:.*)estimated 59.46 MHz, not routed"
    ):
        build(board_by_name("ecpix5_85"), [], tmp_path / "out", limit=8)


def test_synthesis_without_a_netlist_is_a_failure(tools, tmp_path):
    tools()
    with pytest.raises(BuildError, match="synthesis left no netlist"):
        build(board_by_name("ecpix5_85"), [], tmp_path / "out")
