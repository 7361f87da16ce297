"""``twinstack build``, ``twinstack boards``, ``twinstack program``."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def add_commands(commands: Any) -> None:
    """Add the boards' sub-commands."""
    import amaranth_boards  # noqa: F401  the extra is there, or this module is of no use

    parser = commands.add_parser("build", help="build the bitstream of a board")
    parser.add_argument("board", help="board name")
    parser.add_argument("--seed", type=int, default=1, help="seed of the placer")
    parser.add_argument("--allow-timing-fail", action="store_true", help="a missed clock is no failure")
    parser.add_argument("--record", action="store_true", help="keep the result for docs/boards.md (docs/builds)")
    parser.add_argument(
        "--place-only", action="store_true", help="stop after placement: estimated clocks, no bitstream"
    )
    parser.add_argument("--limit", type=int, help="seconds after which the tools are stopped (default: an hour)")
    parser.set_defaults(run=run_build)

    parser = commands.add_parser("boards", help="what boards there are, and what their builds reached")
    parser.set_defaults(run=run_boards)

    parser = commands.add_parser("program", help="load the bitstream into a board (openFPGALoader)")
    parser.add_argument("board", help="board name")
    parser.add_argument("--flash", action="store_true", help="into its flash, from which it starts at power-up")
    parser.add_argument("--bitstream", type=Path, help="file (default: build/BOARD/top.bit)")
    parser.set_defaults(run=run_program)


def run_build(options: argparse.Namespace) -> int:
    """Build and print the table. A missed clock is a failure, said last; with ``--allow-timing-fail`` it is said only."""
    from twinstack_sim.toolchain import BUILD, REPOSITORY

    from .build import ROUTE_SECONDS, TOP, BuildError, board_by_name, build
    from .firmware import firmware_words
    from .results import record

    folder = BUILD / options.board
    try:
        board = board_by_name(options.board)
        table, clocks = build(
            board,
            firmware_words(board),
            folder,
            seed=options.seed,
            route=not options.place_only,
            limit=options.limit or ROUTE_SECONDS,
        )
    except (BuildError, ValueError) as error:
        print(f"build: FAILED {error}", file=sys.stderr)
        return 1
    print(table)
    if options.record:
        record(REPOSITORY / "docs" / "builds" / f"{board.name}.json", json.loads((folder / "result.json").read_text()))
    if options.place_only:
        return 0
    (folder / "clocks.json").write_text(json.dumps({clock.name: [clock.asked, clock.reached] for clock in clocks}))
    print(f"build: {folder / TOP}.bit")
    missed = [f"{clock.name} {clock.reached:.2f} of {clock.asked:.2f} MHz" for clock in clocks if not clock.met]
    if not missed:
        return 0
    print(f"build: timing MISSED: {', '.join(missed)}", file=sys.stderr)
    return 0 if options.allow_timing_fail else 1


def run_boards(options: argparse.Namespace) -> int:
    """Print the table of all boards."""
    from twinstack_sim.toolchain import REPOSITORY

    from .build import BOARDS, board_by_name
    from .results import board_table

    print(board_table([board_by_name(name) for name in BOARDS], REPOSITORY / "docs" / "builds"))
    return 0


def run_program(options: argparse.Namespace) -> int:
    """Load a bitstream."""
    from twinstack_sim.toolchain import BUILD

    from .build import TOP, board_by_name
    from .program import ProgramError, program

    try:
        board = board_by_name(options.board)
        program(board, options.bitstream or BUILD / board.name / f"{TOP}.bit", to_flash=options.flash)
    except (ProgramError, ValueError) as error:
        print(f"program: {error}", file=sys.stderr)
        return 1
    print(f"program: {board.name} has its bitstream")
    return 0
