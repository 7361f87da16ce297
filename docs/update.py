"""Rewrite the generated parts of the documentation: ``python docs/update.py``; ``--check`` only compares.

A generated part stands between ``<!-- generated: NAME -->`` and ``<!-- end -->``. Its source is the code: the tables of
``twinstack.proto``, the default configuration, the operations that the firmware refuses, the claim marks of the tests.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Callable, Sequence
from enum import IntEnum
from pathlib import Path

from twinstack.config import EngineConfig
from twinstack.proto import flash_map, memory_map
from twinstack.proto.image import IMAGE_HEADER
from twinstack.proto.layout import Field, Layout
from twinstack.proto.queues import (
    ALL_CORE_OPERATIONS,
    BALANCED_OPERATIONS,
    CQE,
    DATAGRAM_OPERATIONS,
    DISPATCH_CONFIG,
    HANDLE,
    HANDLE_OPERATIONS,
    NETIF_CONFIG,
    NETIF_CONFIG6,
    NETIF_STATUS,
    RULE_ENTRY,
    SOCKET_ADDRESS,
    SQE,
    STATS,
    Operation,
)
from twinstack.proto.register import Register
from twinstack_boards.build import BOARDS, board_by_name
from twinstack_boards.report import board_block_rams, expected_block_rams
from twinstack_boards.results import board_table

ROOT = Path(__file__).resolve().parents[1]
PARTS = re.compile(r"(<!-- generated: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)

CLAIMS = (
    (
        (1,),
        "two stacks on pre-allocated memory, synchronised; messages; two receive and two transmit sockets, both cores",
    ),
    ((11,), "the same as a system: every named unit takes part in one frame and one SEND"),
    ((31,), "as 1, with both transmissions from the first core"),
    ((2, 12, 32), "the stacks are separate threads: one halted, the other serves"),
    ((3, 13, 33), "an executive for each core: timers and pools do not depend on the other core"),
    ((4, 5, 14, 15, 34, 35), "both stacks run IPv4 and TCP"),
    ((41, 42, 43), "the stacks run different protocols"),
    ((6, 16, 36), "two remote systems, one on each core"),
    ((9, 19, 39), "Ethernet at GMII pins, against an independent MAC"),
    ((10, 20, 40, 27, 28), "programmable hash at the network interface; reprogramming moves new flows only"),
    ((29,), "host commands reach the core that handle or flow names"),
    ((21,), "frames of both groups reach each core's region through one memory controller"),
    ((22,), "a second bus with a second memory and the host's processor"),
    ((23,), "cores, first bus and memory controller on one circuit: report of a fresh bitstream"),
    ((24,), "a first DMA stores the frame before the stack handles it"),
    ((25,), "a second DMA moves payload to the second memory after the stack handled it"),
    ((26,), "memory portions are pre-allocated: one core's exhaustion leaves the other's"),
    ((30,), "the cores are programmable: a second program loads and runs"),
    ((44, 45), "a second port; one core handles groups from both"),
    ((46,), "a second host, isolated from the first"),
)
"""Live claims in our own words; 7, 8, 17, 18, 37 and 38 were withdrawn."""


def layout_table(layout: Layout) -> str:
    """Fields of a layout as a table."""
    lines = ["| word | bits | field | meaning |", "|---|---|---|---|"]
    return "\n".join(lines + [_layout_row(field) for field in layout])


def _layout_row(field: Field) -> str:
    last = (field.bit + field.width - 1) // 32
    word = str(field.word) if last == field.word else f"{field.word} to {last}"
    bits = f"{field.lsb + field.width - 1}:{field.lsb}" if field.width > 1 else str(field.lsb)
    doc = field.doc.replace("|", "\\|")
    return f"| {word} | {bits} | `{field.name}` | {doc} |"


def refused_operations() -> set[str]:
    """Names of the operations that the firmware's table marks as not implemented."""
    text = (ROOT / "firmware/service/service.c").read_text(encoding="utf-8")
    return set(re.findall(r"\[TS_OP_(\w+)\] = UNIMPLEMENTED", text))


def operation_table() -> str:
    """Operation codes, where they go, whether they exist."""
    refused = refused_operations()
    lines = ["| code | operation | delivered to | state |", "|---|---|---|---|"]
    for operation in Operation:
        if operation in DATAGRAM_OPERATIONS:
            target = "core in the handle; of a spread UDP socket, core in `operation_flags`"
        elif operation in HANDLE_OPERATIONS:
            target = "core in the handle"
        elif operation is Operation.UDP_OPEN:
            target = "least loaded core; with SPREAD all cores, joined"
        elif operation in ALL_CORE_OPERATIONS:
            target = "all cores, joined"
        elif operation is Operation.TCP_CONNECT:
            target = "least loaded core; with local port and IPv4 address the core of the hash probe"
        elif operation in BALANCED_OPERATIONS:
            target = "least loaded core"
        elif operation is Operation.STATS:
            target = "core in `operation_flags`"
        else:
            target = "manager"
        state = "not yet: `-EOPNOTSUPP`" if operation.name in refused else "implemented"
        lines.append(f"| {operation.value} | `{operation.name}` | {target} | {state} |")
    return "\n".join(lines)


def socket_option_table() -> str:
    """Codes of the socket options and the texts that stand below their names in the source."""
    import twinstack.proto.queues as queues

    tree = ast.parse(Path(queues.__file__).read_text(encoding="utf-8"))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "SocketOption")
    lines = ["| code | option | meaning |", "|---|---|---|"]
    for entry, text in zip(body[1::2], body[2::2], strict=True):
        name, code = entry.targets[0].id, entry.value.value
        lines.append(f"| {code} | `{name}` | {' '.join(text.value.value.split())} |")
    return "\n".join(lines)


def memory_map_table() -> str:
    """What a core's CPU sees, for the default configuration."""
    config = EngineConfig()
    rows = (
        ("CODE_BASE", config.code_bytes, "code memory and constants, shared; read-only for the CPUs"),
        ("DATA_BASE", config.data_bytes, "private data RAM"),
        ("RX_BANK_BASE", config.rx_bank_bytes, "the core's own RX bank"),
        ("TX_BANK_BASE", config.tx_bank_bytes, "the core's own TX bank"),
        ("SHARED_BASE", config.shared_bytes, "shared region: port directory"),
        ("CSR_CORE_BASE", memory_map.CSR_PAGE_BYTES, "the core's own register page; only at this address"),
        ("CSR_MANAGER_BASE", memory_map.CSR_PAGE_BYTES, "the manager's register page; only at this address"),
    )
    lines = ["| address | bytes | name | what |", "|---|---|---|---|"]
    lines += [f"| `{getattr(memory_map, name):#010x}` | {size:,} | `{name}` | {what} |" for name, size, what in rows]
    return "\n".join(lines)


def host_map_table() -> str:
    """What the host's CSR target shows."""
    lines = ["| byte offset | page |", "|---|---|"]
    lines.append(f"| `{memory_map.HOST_PAGE_BASE:#06x}` | `host`: identity, boot, windows, queues |")
    lines.append(f"| `{memory_map.HOST_MANAGER_BASE:#06x}` | `manager`: dispatcher, MACs; shared with the cores |")
    return "\n".join(lines)


def block_ram_table() -> str:
    """Budget of block RAMs, for the default configuration and for each board."""
    columns = {"default": expected_block_rams(EngineConfig(), 0)}
    for name in BOARDS:
        board = board_by_name(name)
        columns[f"`{name}`"] = board_block_rams(board)
    totals: dict[str, dict[str, int]] = {}
    for column, blocks in columns.items():
        for path, count in blocks.items():
            kind = re.sub(r"(?<=[a-z])\d+", "*", path.removeprefix("engine."))
            row = totals.setdefault(kind, dict.fromkeys(columns, 0))
            row[column] += count
    lines = [f"| memory | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for kind, row in totals.items():
        if any(row.values()):
            lines.append(f"| `{kind}` | {' | '.join(map(str, row.values()))} |")
    sums = [sum(blocks.values()) for blocks in columns.values()]
    return "\n".join([*lines, f"| sum | {' | '.join(map(str, sums))} |"])


def _claim_numbers(node: ast.expr) -> list[int]:
    """Arguments of ``pytest.mark.claim(...)``, if that is what ``node`` is; of each, if it is a list."""
    if isinstance(node, ast.List | ast.Tuple):
        return [number for element in node.elts for number in _claim_numbers(element)]
    if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.claim":
        return [ast.literal_eval(argument) for argument in node.args]
    return []


def claim_marks(folder: Path) -> dict[int, list[str]]:
    """Test functions by the claims they are marked with; marks stand on functions, classes or modules."""
    found: dict[int, list[str]] = {}
    for path in sorted(folder.rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        name = path.relative_to(folder.parent).as_posix()
        _collect(tree, name, [], found)
    return found


def _collect(tree: ast.Module | ast.ClassDef, name: str, inherited: list[int], found: dict[int, list[str]]) -> None:
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(ast.unparse(target) == "pytestmark" for target in node.targets):
            inherited = inherited + _claim_numbers(node.value)
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            numbers = inherited + [number for mark in node.decorator_list for number in _claim_numbers(mark)]
            if isinstance(node, ast.ClassDef):
                _collect(node, f"{name}::{node.name}", numbers, found)
            elif node.name.startswith("test_"):
                for number in dict.fromkeys(numbers):
                    found.setdefault(number, []).append(f"{name}::{node.name}")


def claims_table(marks: dict[int, list[str]] | None = None) -> str:
    """Claims, what has to be shown, and the tests that are marked with them.

    Raises
    ------
    ValueError
        If a test is marked with a number that is no live claim.
    """
    marks = claim_marks(ROOT / "tests") if marks is None else marks
    live = {number for numbers, _ in CLAIMS for number in numbers}
    if unknown := set(marks) - live:
        raise ValueError(f"claim marks must name live claims, not {sorted(unknown)!r}")
    lines = ["| claims | what a test has to show | tests |", "|---|---|---|"]
    for numbers, text in CLAIMS:
        tests: dict[str, list[int]] = {}
        for number in numbers:
            for test in marks.get(number, []):
                tests.setdefault(test, []).append(number)
        cells = []
        for test, of in tests.items():
            some = f" ({', '.join(map(str, of))})" if len(of) < len(numbers) else ""
            cells.append(f"`{test}`{some}")
        missing = [str(number) for number in numbers if not marks.get(number)]
        if missing:
            cells.append("not yet" if not tests else f"not yet: {', '.join(missing)}")
        lines.append(f"| {', '.join(map(str, numbers))} | {text} | {'<br>'.join(cells)} |")
    return "\n".join(lines)


def register_table(registers: Sequence[Register]) -> str:
    """Registers with their fields; a register with one field is one line."""
    lines = ["| offset | register | bits | access | meaning |", "|---|---|---|---|---|"]
    for register in registers:
        offset = f"{register.offset:#05x}"
        if register.count > 1:
            offset += f" to {register.offset + 4 * (register.count - 1):#05x}"
        if [field.name for field in register.fields] != ["value"]:
            lines.append(f"| {offset} | `{register.name}` | | | {register.doc} |")
        for field in register.fields:
            whole = field.name == "value"
            bits = f"{field.lsb + field.width - 1}:{field.lsb}" if field.width > 1 else str(field.lsb)
            name, text = (register.name, register.doc) if whole else (f".{field.name}", field.doc)
            lines.append(f"| {offset if whole else ''} | `{name}` | {bits} | {field.access} | {text} |")
    return "\n".join(lines)


def enum_table(kind: type[IntEnum]) -> str:
    """Members of an enumeration of :mod:`twinstack.proto.flash_map`, with the texts under them."""
    source = inspect.getsource(kind)
    lines = ["| value | name | meaning |", "|---|---|---|"]
    for member in kind:
        found = re.search(rf'^    {member.name} = \d+\n    """(.*?)"""', source, re.MULTILINE | re.DOTALL)
        lines.append(
            f"| {member.value} | {member.name} | {' '.join(found[1].replace('``', '`').split()) if found else ''} |"
        )
    return "\n".join(lines)


GENERATORS: dict[str, Callable[[], str]] = {
    "sqe": lambda: layout_table(SQE),
    "cqe": lambda: layout_table(CQE),
    "handle": lambda: layout_table(HANDLE),
    "socket-address": lambda: layout_table(SOCKET_ADDRESS),
    "netif-config": lambda: layout_table(NETIF_CONFIG),
    "netif-config6": lambda: layout_table(NETIF_CONFIG6),
    "netif-status": lambda: layout_table(NETIF_STATUS),
    "dispatch-config": lambda: layout_table(DISPATCH_CONFIG),
    "rule-entry": lambda: layout_table(RULE_ENTRY),
    "socket-options": socket_option_table,
    "stats": lambda: layout_table(STATS),
    "image-header": lambda: layout_table(IMAGE_HEADER),
    "loader-registers": lambda: register_table(flash_map.REGISTERS),
    "loader-commands": lambda: enum_table(flash_map.Command),
    "loader-errors": lambda: enum_table(flash_map.Error),
    "slot-results": lambda: enum_table(flash_map.SlotResult),
    "operations": operation_table,
    "memory-map": memory_map_table,
    "host-map": host_map_table,
    "block-ram": block_ram_table,
    "claims": claims_table,
    "boards": lambda: board_table([board_by_name(name) for name in BOARDS], ROOT / "docs" / "builds"),
}


def updated(text: str) -> str:
    """``text`` with every generated part made anew.

    Raises
    ------
    KeyError
        If there is no generator of a part's name.
    """
    return PARTS.sub(lambda part: f"{part[1]}{GENERATORS[part[2]]()}\n{part[3]}", text)


def documents() -> list[Path]:
    """All pages of the documentation."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def main(arguments: list[str]) -> int:
    stale = [
        path for path in documents() if updated(path.read_text(encoding="utf-8")) != path.read_text(encoding="utf-8")
    ]
    for path in stale:
        print(path.relative_to(ROOT))
        if "--check" not in arguments:
            path.write_text(updated(path.read_text(encoding="utf-8")), encoding="utf-8")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
