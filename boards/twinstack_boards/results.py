"""What builds of the boards reached: a JSON file a board, kept with the documentation, and the table made of them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from .board import Board
from .phy import NetworkPort
from .report import KINDS, Clock, board_block_rams

CELLS = ("LUT4", "FF", "DP16KD", "MULT18")


def result_of(seed: int, blocks: dict[str, Counter[str]], clocks: list[Clock], *, routed: bool) -> dict[str, Any]:
    """What is kept of one build: cells by block, each clock in MHz asked and reached (estimated, if not ``routed``)."""
    return {
        "seed": seed,
        "routed": routed,
        "clocks": {clock.name: [round(clock.asked, 2), round(clock.reached, 2)] for clock in clocks},
        "blocks": {
            name: {kind: count for kind in KINDS.values() if (count := blocks[name][kind])} for name in sorted(blocks)
        },
    }


def record(path: Path, result: dict[str, Any]) -> None:
    """Put ``result`` into a board's file. A routed build replaces what is not routed, and an earlier one of its seed."""
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    if result["routed"]:
        results = [other for other in results if other["routed"] and other["seed"] != result["seed"]]
    elif any(other["routed"] for other in results):
        return
    else:
        results = []
    results = sorted([*results, result], key=lambda one: one["seed"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


def _delay(port: NetworkPort) -> str:
    sides = {"phy": "PHY", "fpga": "FPGA"}
    return f"{port.phy.name}, delays: RXC {sides[port.rx_delay]}, TXC {sides[port.tx_delay]}"


def _clock_name(name: str) -> str:
    return name.removeprefix("$glbnet$").removesuffix("$TRELLIS_IO_IN").split(".")[-1]


def board_row(board: Board, results: list[dict[str, Any]]) -> str:
    """A row of the table. Of several seeds the largest counts and the slowest clocks are shown."""
    budget = sum(board_block_rams(board).values())
    platform = board.platform()
    cells = [
        f"`{board.name}`",
        f"{platform.device}, grade {platform.speed}",
        f"{len(board.ports)}: {_delay(board.ports[0])}",
        f"{board.config.sync_hz / 1e6:g} MHz",
        f"{budget} of {board.device.block_rams}",
    ]
    if not results:
        return f"| {' | '.join([*cells, *['-'] * len(CELLS), 'not built'])} |"
    totals = [Counter[str]() for _ in results]
    for total, result in zip(totals, results, strict=True):
        for counts in result["blocks"].values():
            total.update(counts)
    cells += [f"{max(total[kind] for total in totals):,}" for kind in CELLS]
    routed = results[0]["routed"]
    worst: dict[str, tuple[float, float]] = {}
    for result in results:
        for name, (asked, reached) in result["clocks"].items():
            worst[name] = (asked, min(reached, worst.get(name, (asked, reached))[1]))
    clocks = ", ".join(f"{_clock_name(name)} {asked:g}/{reached:g}" for name, (asked, reached) in sorted(worst.items()))
    seeds = ", ".join(str(result["seed"]) for result in results)
    state = f"seeds {seeds}" if routed else "not routed: estimates after placement"
    return f"| {' | '.join([*cells, f'{clocks} ({state})'])} |"


def board_table(boards: list[Board], folder: Path) -> str:
    """The table of all boards, from their files and the results in ``folder``."""
    head = ["board", "device", "network ports", "`sync`", "block RAM budget", *CELLS, "clocks, MHz asked/reached"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for board in boards:
        path = folder / f"{board.name}.json"
        lines.append(board_row(board, json.loads(path.read_text(encoding="utf-8")) if path.exists() else []))
    return "\n".join(lines)
