"""Generate what other languages need of the ABI: C header, configuration header, linker memory map, register page.

The output is a function of the tables and the configuration only (no times, no host names), so that it can be compared.
Run ``python -m twinstack.proto.export --out build/generated``.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import fields
from enum import IntEnum, IntFlag
from pathlib import Path

from ..config import EngineConfig
from . import descriptor, image, memory_map, queues, statistics
from .abi import ABI_VERSION, MAGIC
from .layout import WORD_BITS, Field, Layout
from .registers import BLOCKS, EVENTS, PAGES, Block, Register

LAYOUTS = (
    descriptor.RX_DESCRIPTOR,
    descriptor.TX_COMMAND,
    descriptor.GATHER_ENTRY,
    descriptor.NEXT_HOP,
    queues.SQE,
    queues.SOCKET_ADDRESS,
    queues.NETIF_CONFIG,
    queues.NETIF_CONFIG6,
    queues.NETIF_STATUS,
    queues.RULE_ENTRY,
    queues.DISPATCH_CONFIG,
    queues.STATS,
    queues.CQE,
    queues.SQ_DELIVERY,
    queues.HANDLE,
    image.IMAGE_HEADER,
)

ENUMS: tuple[tuple[str, type[IntEnum] | type[IntFlag]], ...] = (
    ("OP", queues.Operation),
    ("OPERATION_FLAG", queues.OperationFlag),
    ("LISTEN_FLAG", queues.ListenFlag),
    ("UDP_FLAG", queues.UdpFlag),
    ("DISPATCH_FLAG", queues.DispatchFlag),
    ("SOCKET_OPTION", queues.SocketOption),
    ("TX_OPCODE", descriptor.TxOpcode),
    ("TX_STATUS", descriptor.TxStatus),
    ("FLOW_OPERATION", descriptor.FlowOperation),
    ("FLOW_STATUS", descriptor.FlowStatus),
    ("RULE_ACTION", descriptor.RuleAction),
    ("STATISTIC", statistics.Statistic),
)

CONSTANTS = (
    ("MAGIC", MAGIC, "Read from core.magic and engine.magic."),
    ("ABI_VERSION", ABI_VERSION, "Version of everything in this file."),
    ("UNCACHED", memory_map.UNCACHED, "Bit that selects the uncached alias of an address."),
    ("CODE_BASE", memory_map.CODE_BASE, "Code memory and constants."),
    ("DATA_BASE", memory_map.DATA_BASE, "Private data RAM."),
    ("RX_BANK_BASE", memory_map.RX_BANK_BASE, "The core's own RX bank."),
    ("TX_BANK_BASE", memory_map.TX_BANK_BASE, "The core's own TX bank."),
    ("SHARED_BASE", memory_map.SHARED_BASE, "Shared region of packet memory."),
    ("CSR_CORE_BASE", memory_map.CSR_CORE_BASE, "The core's own CSR page."),
    ("CSR_MANAGER_BASE", memory_map.CSR_MANAGER_BASE, "The manager's CSR page, from a core."),
    ("HOST_PAGE_BASE", memory_map.HOST_PAGE_BASE, "The host's CSR page, from the host."),
    ("HOST_MANAGER_BASE", memory_map.HOST_MANAGER_BASE, "The manager's CSR page, from the host."),
    ("RX_BUFFER_BYTES", memory_map.RX_BUFFER_BYTES, "Size of a large RX buffer."),
    ("RX_SMALL_BUFFER_BYTES", memory_map.RX_SMALL_BUFFER_BYTES, "Size of a small RX buffer."),
    ("TX_BUFFER_BYTES", memory_map.TX_BUFFER_BYTES, "Size of a TX buffer."),
    ("DIRECTORY_WORDS", memory_map.DIRECTORY_WORDS, "Words of the port directory."),
    ("DESCRIPTOR_VERSION", descriptor.DESCRIPTOR_VERSION, "Version of the RX descriptor."),
    ("HEADER_COPY_BYTES", descriptor.HEADER_COPY_BYTES, "Bytes of a header copy, pad included."),
    ("FRAME_PAD_BYTES", descriptor.FRAME_PAD_BYTES, "Zero bytes before each frame."),
    ("MAX_GATHER", descriptor.MAX_GATHER, "Entries of a gather list."),
    ("AF_INET", queues.AF_INET, "Address family IPv4."),
    ("AF_INET6", queues.AF_INET6, "Address family IPv6."),
    ("DISPATCH_RULES", queues.DISPATCH_RULES, "Rules in a dispatch_config block."),
    ("ALL_CORES", queues.ALL_CORES, "Core number in the handle of what lives on every core."),
    ("IMAGE_MAGIC", image.IMAGE_MAGIC, "Magic of a firmware image."),
)

PAGE_BASES = {
    "core": memory_map.CSR_CORE_BASE,
    "manager": memory_map.CSR_MANAGER_BASE,
    "host": memory_map.HOST_PAGE_BASE,
}

PAGE_TEXTS = {
    "core": "A core's own page, at the address a core uses.",
    "manager": "The manager's page, at the address a core uses; the host finds it at HOST_MANAGER_BASE.",
    "host": "The host's page, at the address on the host's CSR target.",
}


class ExportError(ValueError):
    """The tables cannot be exported: a name twice, or a text missing."""


def _hex(value: int) -> str:
    return f"0x{value:08X}u"


def _comment(text: str) -> str:
    if not text.strip():
        raise ExportError(f"everything exported needs a text, not {text!r}")
    return "/* " + text.replace("*/", "* /") + " */"


def _names(*parts: str) -> str:
    return "_".join(("TS", *(part.upper() for part in parts)))


def _field_lines(prefix: str, lsb: int, width: int, doc: str) -> Iterator[str]:
    yield f"#define {prefix}_SHIFT {lsb}u {_comment(doc)}"
    yield f"#define {prefix}_MASK {_hex(((1 << width) - 1) << lsb)}"


def _layout_lines(layout: Layout) -> Iterator[str]:
    prefix = _names(layout.name)
    yield f"\n{_comment(layout.doc)}"
    yield f"#define {prefix}_WORDS {layout.words}u"
    yield f"#define {prefix}_BYTES {layout.size_bytes}u"
    for field in layout:
        yield from _layout_field_lines(f"{prefix}_{field.name.upper()}", field)


def _layout_field_lines(name: str, field: Field) -> Iterator[str]:
    yield f"#define {name}_WORD {field.word}u"
    if field.width > WORD_BITS:
        yield f"#define {name}_BITS {field.width}u {_comment(field.doc)}"
    else:
        yield from _field_lines(name, field.lsb, field.width, field.doc)


def _register_lines(block: Block, register: Register) -> Iterator[str]:
    name = _names(block.name, register.name)
    base = PAGE_BASES[block.page] + block.offset + register.offset
    doc = _comment(register.doc)
    arguments = [*(["n"] if block.count > 1 else []), *(["i"] if register.count > 1 else [])]
    steps = [*([f"{block.size}u * (n)"] if block.count > 1 else []), *(["4u * (i)"] if register.count > 1 else [])]
    if arguments:
        yield f"#define {name}({', '.join(arguments)}) ({_hex(base)} + {' + '.join(steps)}) {doc}"
    else:
        yield f"#define {name} {_hex(base)} {doc}"
    for field in register.fields:
        # A register of one field is that field: no name of its own, but its mask.
        prefix = name if field.name == "value" else f"{name}_{field.name.upper()}"
        yield from _field_lines(prefix, field.lsb, field.width, field.doc)


def c_header() -> str:
    """The ABI as a C header. Field macros end in ``_SHIFT`` and ``_MASK`` (in place), layouts add ``_WORD``.

    Raises
    ------
    ExportError
        If two macros get the same name or a text is missing.
    """
    lines = [
        "/* Generated from twinstack.proto; do not edit. */",
        "#ifndef TWINSTACK_ABI_H",
        "#define TWINSTACK_ABI_H",
        "",
        "#define TS_GET(word, field) (((word) & field##_MASK) >> field##_SHIFT)",
        "#define TS_PUT(field, value) (((uint32_t)(value) << field##_SHIFT) & field##_MASK)",
        "#define TS_WORD_GET(words, field) TS_GET((words)[field##_WORD], field)",
        "",
    ]
    lines += [f"#define TS_{name} {_hex(value)} {_comment(doc)}" for name, value, doc in CONSTANTS]
    for prefix, enum in ENUMS:
        lines.append(f"\n{_comment((enum.__doc__ or '').splitlines()[0] if enum.__doc__ else '')}")
        lines += [f"#define {_names(prefix, member.name or '')} {member.value}u" for member in enum]
    for layout in LAYOUTS:
        lines += _layout_lines(layout)
    lines.append("\n/* Events of event.pending and event.enable. */")
    lines += [
        f"#define {_names('EVENT', name)} {_hex(1 << bit)} {_comment(doc)}" for bit, (name, doc) in enumerate(EVENTS)
    ]
    for page in PAGES:
        lines.append(f"\n{_comment(PAGE_TEXTS[page])}")
        for block in sorted((block for block in BLOCKS if block.page == page), key=lambda block: block.offset):
            lines.append(f"\n{_comment(block.doc)}")
            for register in block.registers:
                lines += _register_lines(block, register)
    lines += ["", "#endif", ""]
    text = "\n".join(lines)
    names = re.findall(r"^#define (\w+)", text, re.MULTILINE)
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ExportError(f"macro names must be unique, not {sorted(twice)!r} twice")
    return text


def config_header(config: EngineConfig) -> str:
    """The engine's parameters as C macros, for the sizes that firmware fixes at compile time."""
    lines = [
        "/* Generated from twinstack.config; do not edit. */",
        "#ifndef TWINSTACK_CONFIG_H",
        "#define TWINSTACK_CONFIG_H",
        "",
    ]
    lines += [f"#define TS_CONFIG_{field.name.upper()} {getattr(config, field.name)}u" for field in fields(config)]
    lines += [
        f"#define TS_CONFIG_RX_BUFFERS {config.rx_buffers}u",
        f"#define TS_CONFIG_RX_LARGE_BUFFERS {config.rx_large_buffers}u",
        f"#define TS_CONFIG_TX_BUFFERS {config.tx_buffers}u",
    ]
    return "\n".join([*lines, "", "#endif", ""])


def linker_memory(config: EngineConfig) -> str:
    """The ``MEMORY`` command of the firmware's linker script."""
    return (
        "/* Generated from twinstack.config and twinstack.proto.memory_map; do not edit. */\n"
        "MEMORY\n{\n"
        f"  CODE (rx) : ORIGIN = {memory_map.CODE_BASE:#010x}, LENGTH = {config.code_bytes}\n"
        f"  DATA (rw) : ORIGIN = {memory_map.DATA_BASE:#010x}, LENGTH = {config.data_bytes}\n"
        "}\n"
    )


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def register_page() -> str:
    """The register map as a Markdown page."""
    lines = ["# Register map", "", "Generated from `twinstack.proto.registers`. All registers are 32 bits wide.", ""]
    for page in PAGES:
        lines += [f"## Page `{page}`", "", PAGE_TEXTS[page], ""]
        for block in sorted((block for block in BLOCKS if block.page == page), key=lambda block: block.offset):
            base = PAGE_BASES[page] + block.offset
            times = f", {block.count} times, {block.size:#x} bytes apart" if block.count > 1 else ""
            lines += [f"### `{block.name}` at `{base:#010x}`{times}", "", block.doc, ""]
            lines += ["| offset | register | bits | field | access | reset | text |", "|---|---|---|---|---|---|---|"]
            for register in block.registers:
                count = f"[{register.count}]" if register.count > 1 else ""
                lines.append(f"| {register.offset:#04x} | `{register.name}{count}` | | | | | {_cell(register.doc)} |")
                for field in register.fields:
                    if not field.doc.strip():
                        raise ExportError(f"{block.name}.{register.name}.{field.name} needs a text, not {field.doc!r}")
                    bits = f"{field.lsb + field.width - 1}:{field.lsb}" if field.width > 1 else f"{field.lsb}"
                    name = "" if field.name == "value" else f"`{field.name}`"
                    doc = "" if field.doc == register.doc else _cell(field.doc)
                    lines.append(f"| | | {bits} | {name} | {field.access} | {field.reset:#x} | {doc} |")
            lines.append("")
    return "\n".join(lines)


def write_all(folder: Path, config: EngineConfig) -> None:
    """Write every generated file into ``folder``; a file whose text is unchanged keeps its time."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in (
        ("twinstack_abi.h", c_header()),
        ("twinstack_config.h", config_header(config)),
        ("memory.ld", linker_memory(config)),
        ("registers.md", register_page()),
    ):
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Command line: ``--out FOLDER`` and ``--set NAME=VALUE`` for each parameter of EngineConfig that differs."""
    parser = argparse.ArgumentParser(description="Generate the C header, linker memory map and register page.")
    parser.add_argument("--out", type=Path, required=True, help="folder for the generated files")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="parameter of the engine")
    options = parser.parse_args(arguments)
    known = {field.name for field in fields(EngineConfig)}
    values: dict[str, int] = {}
    for setting in options.set:
        name, _, value = setting.partition("=")
        if name not in known or not value:
            parser.error(f"--set must be NAME=VALUE of one of {sorted(known)}, not {setting!r}")
        values[name] = int(value, 0)
    write_all(options.out, EngineConfig(**values))


if __name__ == "__main__":
    main()
