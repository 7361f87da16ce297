"""What a build used: cells by block from the synthesised netlist, clocks and totals from place and route."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from twinstack.config import EngineConfig

from .floorplan import SHELL

if TYPE_CHECKING:
    from .board import Board

KINDS = {
    "LUT4": "LUT4",
    "TRELLIS_FF": "FF",
    "CCU2C": "carry",
    "TRELLIS_DPR16X4": "DPR16X4",
    "DP16KD": "DP16KD",
    "MULT18X18D": "MULT18",
}
BOARD = "board"
"""Block of whatever is outside the engine."""
ENGINE = "engine"
"""Block of the engine's own registers and of logic that nobody else claims."""
_CPU_BLOCK_RAMS = 10  # caches 4 + 2, tags 1 + 1, register file 2
_BLOCK_BYTES = 2048
_BLOCK_BITS = 18 * 1024
# Synthesis names a cell after a net at one of its ports, with the types of the cells between appended.
_CELL_SUFFIX = re.compile(r"_(?:LUT4|PFUMX|L6MUX21|CCU2C|TRELLIS_[A-Z0-9]+|DP16KD|MULT18X18D|EHXPLLL|[IO]DDRX1F)_.*")


@dataclass(frozen=True)
class Clock:
    """A clock: asked and reached, in MHz."""

    name: str
    asked: float
    reached: float

    @property
    def met(self) -> bool:
        return self.reached >= self.asked


def _inside(named: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name.removeprefix(SHELL): value for name, value in named.items()}


class Netlist:
    """The flattened netlist of a board.

    Parameters
    ----------
    path : Path
        JSON netlist as synthesis writes it; names keep their path, separated by dots.
    top : str
        Name of its top module.

    Raises
    ------
    ValueError
        If the file has no such module.
    """

    def __init__(self, path: Path, top: str):
        modules = json.loads(path.read_text())["modules"]
        if top not in modules:
            raise ValueError(f"{path} must have a module {top!r}, not only {', '.join(modules) or 'none'}")
        self._cells: dict[str, dict[str, Any]] = _inside(modules[top]["cells"])
        self._nets: dict[str, dict[str, Any]] = _inside(modules[top].get("netnames", {}))
        self._scopes = {name for name, cell in self._cells.items() if cell["type"] == "$scopeinfo"}
        self._names_of_bit: dict[int, list[str]] = defaultdict(list)
        for name, net in self._nets.items():
            for bit in net["bits"]:
                if isinstance(bit, int):
                    self._names_of_bit[bit].append(name)

    def _scope_of(self, path: str) -> tuple[str, ...]:
        """Parts of the deepest instance that ``path`` lies in; fields of a structure have dots too."""
        parts = path.split(".")[:-1]
        while parts and ".".join(parts) not in self._scopes:
            parts.pop()
        return tuple(parts)

    def _block_of(self, name: str) -> str:
        """Block of a cell; where its name stops short of one, that of the deepest name that its net has elsewhere."""
        base = _CELL_SUFFIX.sub("", name)
        scope = self._scope_of(base)
        if len(scope) < 2 or scope[0] != "engine":
            bits = self._nets.get(base, {"bits": []})["bits"]
            names = {other for bit in bits if isinstance(bit, int) for other in self._names_of_bit[bit]}
            scope = max(sorted(map(self._scope_of, names)), key=len, default=scope)
        if not scope or scope[0] != "engine":
            return BOARD
        # A block whose name is also a signal's has a number appended.
        return re.sub(r"\$\d+$", "", scope[1]) if len(scope) > 1 else ENGINE

    def cells_by_block(self) -> dict[str, Counter[str]]:
        """Cells by block of the engine (``core0``, ``mac0``, ...), of the engine itself and of the board around it."""
        blocks: dict[str, Counter[str]] = {}
        for name, cell in self._cells.items():
            kind = KINDS.get(cell["type"])
            if kind is not None:
                blocks.setdefault(self._block_of(name), Counter())[kind] += 1
        return blocks

    def cells_below(self, path: str) -> Counter[str]:
        """Cells whose own name lies below ``path``, such as ``engine.core0.cpu.vexriscv``."""
        found: Counter[str] = Counter()
        for name, cell in self._cells.items():
            kind = KINDS.get(cell["type"])
            if kind is not None and name.startswith(path + "."):
                found[kind] += 1
        return found

    def block_rams_by_memory(self) -> Counter[str]:
        """Block RAMs by the path of the component that holds the memory; a CPU's are taken together."""
        counts: Counter[str] = Counter()
        for name, cell in self._cells.items():
            if cell["type"] == "DP16KD":
                memory = re.sub(r"\.\d+\.\d+$", "", name)  # row and column of the block
                memory = re.sub(r"\.(memory|storage)$", "", memory)
                counts[re.sub(r"\.cpu\..*", ".cpu", memory)] += 1
        return counts


def expected_block_rams(config: EngineConfig, host_memory_bytes: int) -> dict[str, int]:
    """Budget in block RAMs for every memory of a configuration, by its name in :meth:`Netlist.block_rams_by_memory`.

    A block holds 18 Kbit; 2 KiB of a 32-bit memory, whose width does not use the parity bits.
    """

    def blocks_for(size: int) -> int:
        """A true dual-port block has 18 bits at most: two side by side hold 4 KiB."""
        return 2 * -(-size // (2 * _BLOCK_BYTES))

    blocks = {
        "engine.code_ram": blocks_for(config.code_bytes),
        "engine.shared_ram": -(-config.shared_bytes // _BLOCK_BYTES),  # one port only
        "host_memory.ram": blocks_for(host_memory_bytes),
    }
    for core in range(config.cores):
        blocks[f"engine.core{core}.data_ram"] = blocks_for(config.data_bytes)
        blocks[f"engine.rx_bank{core}"] = blocks_for(config.rx_bank_bytes)
        blocks[f"engine.tx_bank{core}"] = blocks_for(config.tx_bank_bytes)
        blocks[f"engine.core{core}.cpu"] = _CPU_BLOCK_RAMS
        blocks[f"engine.core{core}.console"] = 1
    # Four rows of 108 bits for each flow: three blocks, 36 bits wide, hold 512 rows.
    blocks["engine.dispatcher.flow_table.keys"] = 3 * -(-4 * config.flows // 512)
    for port in range(config.ports):
        # A stored word has 32 data bits, 2 of count, 1 of last; two blocks of 18 bits side by side.
        blocks[f"engine.rx_front_end{port}.store"] = -(-config.frame_fifo_words * 36 // _BLOCK_BITS)
        blocks[f"engine.tx_engine.buffer{port}.ram"] = 2
        blocks[f"engine.mac{port}.statistics"] = 1
    return blocks


def board_block_rams(board: Board) -> dict[str, int]:
    """The budget of a board: without the memories that it keeps in distributed RAM."""
    blocks = expected_block_rams(board.config, board.host_memory_bytes)
    return {name: count for name, count in blocks.items() if not any(fnmatch(name, each) for each in board.distributed)}


def clocks(report: Path) -> list[Clock]:
    """Clocks of a nextpnr report."""
    fmax = json.loads(report.read_text())["fmax"]
    return [Clock(name, entry["constraint"], entry["achieved"]) for name, entry in sorted(fmax.items())]


_ESTIMATE = re.compile(r"Max frequency for clock\s+'([^']+)': ([0-9.]+) MHz \((?:PASS|FAIL) at ([0-9.]+) MHz\)")


def estimated_clocks(log: Path) -> list[Clock]:
    """Clocks in the last timing analysis of a nextpnr log: after placement alone an estimate of what routing will reach."""
    found = {
        name: Clock(name, float(asked), float(reached)) for name, reached, asked in _ESTIMATE.findall(log.read_text())
    }
    return [found[name] for name in sorted(found)]


def utilization(report: Path) -> dict[str, tuple[int, int]]:
    """Used and available cells by kind, of a nextpnr report. ``TRELLIS_COMB`` are the four-input tables, with those
    that carry chains and distributed RAM take."""
    entries = json.loads(report.read_text())["utilization"]
    return {kind: (entry["used"], entry["available"]) for kind, entry in entries.items()}


def format_table(
    blocks: dict[str, Counter[str]],
    found: list[Clock],
    used: dict[str, tuple[int, int]] | None = None,
    *,
    is_estimate: bool = False,
) -> str:
    """The table that a build prints; ``is_estimate``: the clocks are of a placement that is not routed."""
    columns = list(KINDS.values())
    lines = [f"{'block':<20}" + "".join(f"{column:>9}" for column in columns)]
    total: Counter[str] = Counter()
    for name in sorted(blocks):
        lines.append(f"{name:<20}" + "".join(f"{blocks[name][column]:>9}" for column in columns))
        total += blocks[name]
    lines.append(f"{'total':<20}" + "".join(f"{total[column]:>9}" for column in columns))
    for kind, text in (("TRELLIS_COMB", "tables, all uses"), ("TRELLIS_FF", "flip-flops"), ("DP16KD", "block RAMs")):
        if used and kind in used:
            lines.append(f"{text}: {used[kind][0]} of {used[kind][1]}")
    for clock in found:
        verb, state = ("estimated", "not routed") if is_estimate else ("reached", "met" if clock.met else "MISSED")
        lines.append(f"clock {clock.name}: asked {clock.asked:.2f} MHz, {verb} {clock.reached:.2f} MHz, {state}")
    return "\n".join(lines)
