"""Wrap a flat firmware binary into an image, and report how much of each memory an ELF file takes."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from twinstack.config import EngineConfig
from twinstack.proto.image import build_image

STACK_BYTES = 3072


def firmware_version(header: Path) -> int:
    """The version in ``stack.h``, as the image header holds it."""
    parts = {}
    for line in header.read_text(encoding="utf-8").splitlines():
        words = line.split()
        if len(words) == 3 and words[1].startswith("FIRMWARE_VERSION_"):
            parts[words[1].removeprefix("FIRMWARE_VERSION_")] = int(words[2].rstrip("u"))
    return parts["MAJOR"] << 16 | parts["MINOR"] << 8 | parts["PATCH"]


def section_sizes(elf: Path, size_tool: str) -> dict[str, int]:
    output = subprocess.run([size_tool, "-A", elf], check=True, capture_output=True, text=True).stdout
    sizes = {}
    for line in output.splitlines():
        words = line.split()
        if len(words) == 3 and words[0].startswith("."):
            sizes[words[0]] = int(words[1])
    return sizes


def report(elf: Path, size_tool: str, config: EngineConfig) -> bool:
    """Print use of code memory and data RAM; False if it does not fit."""
    sizes = section_sizes(elf, size_tool)
    code = sizes[".text"] + sizes.get(".data", 0)
    data = sizes.get(".data", 0) + sizes.get(".bss", 0) + STACK_BYTES
    for name, used, limit in (
        ("code memory", code, config.code_bytes),
        ("data RAM, stack included", data, config.data_bytes),
    ):
        print(f"{elf.name}: {name}: {used} of {limit} bytes, {limit - used} free")
    return code <= config.code_bytes and data <= config.data_bytes


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--elf", type=Path, required=True)
    parser.add_argument("--binary", type=Path, required=True, help="flat binary of the ELF file")
    parser.add_argument("--out", type=Path, required=True, help="image to write")
    parser.add_argument("--size-tool", default="riscv64-unknown-elf-size")
    parser.add_argument("--code-bytes", type=int, default=EngineConfig().code_bytes)
    parser.add_argument("--data-bytes", type=int, default=EngineConfig().data_bytes)
    options = parser.parse_args(arguments)
    config = EngineConfig(code_bytes=options.code_bytes, data_bytes=options.data_bytes)
    version = firmware_version(Path(__file__).parent / "include" / "stack.h")
    image = build_image(
        options.binary.read_bytes(), version, code_bytes=config.code_bytes, data_bytes=config.data_bytes
    )
    options.out.write_bytes(image)
    return 0 if report(options.elf, options.size_tool, config) else 1


if __name__ == "__main__":
    sys.exit(main())
