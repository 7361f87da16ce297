"""``twinstack build``."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any


def add_commands(commands: Any) -> None:
    """Add the boards' sub-commands."""
    import amaranth_boards  # noqa: F401  the extra is there, or this module is of no use

    parser = commands.add_parser("build", help="build the bitstream of a board")
    parser.add_argument("board", help="board name")
    parser.add_argument("--seed", type=int, default=1, help="seed of the placer")
    parser.add_argument("--strict", action="store_true", help="fail where a clock is missed")
    parser.add_argument(
        "--place-only", action="store_true", help="stop after placement: estimated clocks, no bitstream"
    )
    parser.add_argument("--limit", type=int, help="seconds after which the tools are stopped (default: an hour)")
    parser.set_defaults(run=run_build)


def run_build(options: argparse.Namespace) -> int:
    """Build and print the table; a missed clock is said last, and fails with ``--strict``."""
    from twinstack_sim.toolchain import BUILD

    from .build import ROUTE_SECONDS, BuildError, board_by_name, build
    from .firmware import firmware_words

    try:
        board = board_by_name(options.board)
        table, clocks = build(
            board,
            firmware_words(board),
            BUILD / options.board,
            seed=options.seed,
            route=not options.place_only,
            limit=options.limit or ROUTE_SECONDS,
        )
    except (BuildError, ValueError) as error:
        print(f"build: FAILED {error}", file=sys.stderr)
        return 1
    print(table)
    if options.place_only:
        return 0
    folder = BUILD / options.board
    (folder / "clocks.json").write_text(json.dumps({clock.name: [clock.asked, clock.reached] for clock in clocks}))
    print(f"build: {folder / 'top.bit'}")
    missed = [f"{clock.name} {clock.reached:.2f} of {clock.asked:.2f} MHz" for clock in clocks if not clock.met]
    if missed:
        print(f"build: timing MISSED: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed and options.strict else 0
