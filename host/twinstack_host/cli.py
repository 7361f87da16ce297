"""The command line program ``twinstack``; further packages add their sub-commands by entry point."""

from __future__ import annotations

import argparse
import importlib.metadata
import sys

from . import board_cli, dispatch_cli, firmware_cli

GROUP = "twinstack.commands"

EXTRAS = {"sim": "sim", "demo": "sim", "bench": "sim", "build": "boards"}
"""Sub-commands that an extra brings, for a helpful message where it is missing."""


def build_parser() -> tuple[argparse.ArgumentParser, dict[str, str]]:
    """The parser with all sub-commands that can be had, and why others cannot."""
    parser = argparse.ArgumentParser(prog="twinstack", description="FPGA TCP/IP socket co-processor")
    parser.add_argument("--version", action="version", version=importlib.metadata.version("twinstack"))
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    missing: dict[str, str] = {}
    dispatch_cli.add_commands(commands)
    firmware_cli.add_commands(commands)
    board_cli.add_commands(commands)
    for entry in sorted(importlib.metadata.entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            entry.load()(commands)
        except ModuleNotFoundError as error:
            missing[entry.name] = f"{error.name} is not installed"
    for name, extra in EXTRAS.items():
        if name not in commands.choices:
            hint = f"pip install 'twinstack[{extra}]'"
            stub = commands.add_parser(name, help=f"needs: {hint}")
            stub.set_defaults(run=None, hint=hint)
    return parser, missing


def main(arguments: list[str] | None = None) -> int:
    """Run one sub-command; returns the exit status."""
    parser, missing = build_parser()
    options, rest = parser.parse_known_args(arguments)  # a stub takes any arguments
    if options.run is None:
        reason = "; ".join(missing.values())
        print(f"twinstack {options.command} needs more packages ({reason}): {options.hint}", file=sys.stderr)
        return 2
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    status = options.run(options)
    return int(status or 0)
