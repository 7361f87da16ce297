"""Where each block RAM of a board goes.

A device that is full to the last block RAM leaves the placer no choice of sites but in exchange, and it starts from a random
choice: the memories of both cores come to lie mixed, each over the whole device. With every block RAM at a fixed site the
placer has anchors from its first step. Measured for ecpix5_85: wires a third shorter.

Names are those of :class:`~twinstack_boards.report.Netlist`, as seen from inside the shell of the boards. What no rule names, and what a rule has no
more sites for, is left to the placer.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

SHELL = "standalone."
"""What boards have around the engine, host memory and bridge; names are told from inside it."""
# Sites of an ECP5-85F: four rows of 13 groups of four.
_COLUMNS = (4, 13, 22, 31, 40, 49, 58, 69, 78, 87, 96, 105, 114)
_ROWS = (22, 46, 70, 82)
Rule = tuple[str, Sequence[str]]


def _sites(row: int, first: int, last: int, start: int = 0, end: int = 4) -> list[str]:
    """Groups ``first`` to ``last`` of a row, from each its blocks ``start`` to ``end - 1``."""
    return [
        f"X{_COLUMNS[group] + 2 * block}/Y{_ROWS[row]}/EBR{block}"
        for group in range(first, last + 1)
        for block in range(start, end)
    ]


def _core(core: int, left: bool) -> list[Rule]:
    """The memories of a core in one half of the device, mirrored for the other."""

    def sites(row: int, first: int, last: int, start: int = 0, end: int = 4) -> list[str]:
        return _sites(row, first, last, start, end) if left else _sites(row, 12 - last, 12 - first, 4 - end, 4 - start)

    cpu = rf"engine\.core{core}\.cpu\."
    return [
        (rf"engine\.core{core}\.data_ram\.", [site for row in range(4) for site in sites(row, 0, 1)]),
        (rf"engine\.rx_bank{core}\.", sites(0, 2, 4)),
        (rf"engine\.tx_bank{core}\.", sites(1, 2, 4)),
        (cpu + r".*(RegFile|tags)", sites(2, 2, 2)),
        (cpu + r".*(banks|symbol[01])", sites(2, 3, 3)),
        (cpu + r".*symbol[23]", sites(3, 2, 2, 2, 4)),
    ]


# Packet memory lies next to the network's pins, which are at the upper edge; between the CPUs is the code they share.
TWO_CORES_85F: tuple[Rule, ...] = (
    *_core(0, left=True),
    *_core(1, left=False),
    (r"engine\.rx_front_end\d\.store\.", _sites(0, 5, 5, 0, 2)),
    (r"engine\.tx_engine\.buffer\d\.", _sites(0, 5, 5, 2, 4)),
    (r"engine\.dispatcher\.flow_table\.", _sites(0, 6, 6, 0, 3)),
    (r"engine\.mac\d\.statistics\.", _sites(0, 6, 6, 3, 4)),
    (r"engine\.shared_ram\.", _sites(0, 7, 7, 0, 1)),
    (r"engine\.core0\.console\.", _sites(0, 7, 7, 1, 2)),
    (r"engine\.core1\.console\.", _sites(0, 7, 7, 2, 3)),
    (r"host_memory\.", _sites(1, 6, 6)),
    (
        r"engine\.code_ram\.",
        [
            *_sites(1, 5, 5),
            *_sites(1, 7, 7),
            *_sites(2, 4, 8),
            *_sites(3, 3, 9),
            *_sites(3, 2, 2, 0, 2),
            *_sites(3, 10, 10, 2, 4),
        ],
    ),
)
PLANS: dict[str, tuple[Rule, ...]] = {"ecpix5_85": TWO_CORES_85F}
"""By name of the board; a board that is not here has no plan."""


def assign(names: Iterable[str], plan: Sequence[Rule]) -> dict[str, str]:
    """Site of each named block RAM, in the order of the numbers in their names.

    Raises
    ------
    ValueError
        If two block RAMs would get one site.
    """
    names = sorted(names, key=lambda name: [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)])
    found: dict[str, str] = {}
    for pattern, sites in plan:
        matching = [name for name in names if re.match(pattern, name.removeprefix(SHELL)) and name not in found]
        found |= dict(zip(matching, sites, strict=False))
    if len(set(found.values())) != len(found):
        raise ValueError(f"sites must be given once, not {sorted(found.values())!r}")
    return found


def apply(netlist: Path, board: str, top: str = "top") -> int:
    """Write the board's plan into a netlist, as attributes that the placer obeys; returns the number of fixed block RAMs."""
    plan = PLANS.get(board)
    if plan is None:
        return 0
    design = json.loads(netlist.read_text())
    cells = design["modules"][top]["cells"]
    found = assign((name for name, cell in cells.items() if cell["type"] == "DP16KD"), plan)
    for name, site in found.items():
        cells[name].setdefault("attributes", {})["BEL"] = site
    if found:
        netlist.write_text(json.dumps(design))
    return len(found)


if __name__ == "__main__":
    print(f"block RAMs with a fixed site: {apply(Path(sys.argv[1]), sys.argv[2])}")
