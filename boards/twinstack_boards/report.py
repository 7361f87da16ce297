"""What a build used: cells by block from the synthesised netlist, clocks from place and route."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from twinstack.config import EngineConfig

KINDS = {"LUT4": "LUT4", "TRELLIS_FF": "FF", "DP16KD": "DP16KD", "MULT18X18D": "MULT18", "TRELLIS_DPR16X4": "DPR16X4"}


@dataclass(frozen=True)
class Clock:
    """A clock: asked and reached, in MHz."""

    name: str
    asked: float
    reached: float

    @property
    def met(self) -> bool:
        return self.reached >= self.asked


def cells_by_block(netlist: Path, top: str) -> dict[str, Counter[str]]:
    """Cells of the flattened netlist by block of the engine (``core0``, ``mac0``, ...; ``board`` for what is outside).

    Parameters
    ----------
    netlist : Path
        JSON netlist as synthesis writes it; cell names keep their path, separated by dots.
    top : str
        Name of its top module.
    """
    module = json.loads(netlist.read_text())["modules"][top]
    blocks: dict[str, Counter[str]] = {}
    for name, cell in module["cells"].items():
        kind = KINDS.get(cell["type"])
        if kind is None:
            continue
        parts = name.split(".")
        block = parts[1] if parts[0] == "engine" and len(parts) > 2 else "board"
        blocks.setdefault(block, Counter())[kind] += 1
    return blocks


def block_rams_by_memory(netlist: Path, top: str) -> Counter[str]:
    """Block RAMs by the path of the memory they belong to."""
    module = json.loads(netlist.read_text())["modules"][top]
    counts: Counter[str] = Counter()
    for name, cell in module["cells"].items():
        if cell["type"] == "DP16KD":
            counts[".".join(name.split(".")[:-2]) if ".memory." in name else name.rsplit(".", 1)[0]] += 1
    return counts


def expected_block_rams(config: EngineConfig, host_memory_bytes: int) -> dict[str, int]:
    """Budget in blocks of 2 KiB for each large memory of a configuration, by its name in :func:`block_rams_by_memory`."""
    blocks = {"engine.code_ram": config.code_bytes // 2048, "host_memory.ram": host_memory_bytes // 2048}
    for core in range(config.cores):
        blocks[f"engine.core{core}.data_ram"] = config.data_bytes // 2048
        blocks[f"engine.rx_bank{core}"] = config.rx_bank_bytes // 2048
        blocks[f"engine.tx_bank{core}"] = config.tx_bank_bytes // 2048
    return blocks


def clocks(report: Path) -> list[Clock]:
    """Clocks of a nextpnr report."""
    fmax = json.loads(report.read_text())["fmax"]
    return [Clock(name, entry["constraint"], entry["achieved"]) for name, entry in sorted(fmax.items())]


def format_table(blocks: dict[str, Counter[str]], found: list[Clock]) -> str:
    """The table that a build prints."""
    columns = list(KINDS.values())
    lines = [f"{'block':<18}" + "".join(f"{column:>9}" for column in columns)]
    total: Counter[str] = Counter()
    for name in sorted(blocks):
        lines.append(f"{name:<18}" + "".join(f"{blocks[name][column]:>9}" for column in columns))
        total += blocks[name]
    lines.append(f"{'total':<18}" + "".join(f"{total[column]:>9}" for column in columns))
    for clock in found:
        state = "met" if clock.met else "MISSED"
        lines.append(f"clock {clock.name}: asked {clock.asked:.2f} MHz, reached {clock.reached:.2f} MHz, {state}")
    return "\n".join(lines)
