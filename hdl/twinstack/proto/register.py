"""Words for declaring registers: fields, registers, blocks.

All registers are 32 bits wide and word aligned; unnamed bits read as zero and ignore writes. Access of a field:

``rw``  storage in the register block, readable back
``r``   driven by hardware; ``r_stb`` pulses on a read (a read may have a side effect, told in the text)
``w``   write-only; ``w_stb`` pulses with the data
``x``   driven by hardware on read *and* strobed on write (``r_data``, ``r_stb``, ``w_data``, ``w_stb``)
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RegisterField:
    name: str
    lsb: int
    width: int
    access: str
    doc: str
    reset: int = 0


@dataclass(frozen=True)
class Register:
    """``count`` registers of the same kind, at ``offset``, ``offset + 4``, ... bytes from the block's base."""

    name: str
    offset: int
    fields: tuple[RegisterField, ...]
    doc: str
    count: int = 1


@dataclass(frozen=True)
class Block:
    """A register block of ``size`` bytes at byte ``offset`` of its page, repeated ``count`` times."""

    name: str
    page: str
    offset: int
    size: int
    registers: tuple[Register, ...]
    doc: str
    count: int = 1

    def __post_init__(self) -> None:
        check_block(self)


ACCESSES = ("rw", "r", "w", "x")
PAGES = ("core", "manager", "host")


def check_block(block: Block) -> None:
    """Raise ValueError where a block contradicts itself: overlaps, bad accesses, missing texts."""
    if block.page not in PAGES:
        raise ValueError(f"{block.name}: page must be one of {PAGES}, not {block.page!r}")
    taken: dict[int, str] = {}
    for register in block.registers:
        if not register.doc or not block.doc:
            raise ValueError(
                f"{block.name}.{register.name}: a register and its block need a text, not {register.doc!r}"
            )
        for index in range(register.count):
            offset = register.offset + 4 * index
            if offset % 4 or offset + 4 > block.size or offset in taken:
                raise ValueError(f"{block.name}.{register.name} must have its own aligned place, not {offset:#x}")
            taken[offset] = register.name
        bits = 0
        for field in register.fields:
            mask = ((1 << field.width) - 1) << field.lsb
            if bits & mask or mask >> 32 or field.access not in ACCESSES or not field.doc:
                raise ValueError(f"{block.name}.{register.name}.{field.name} must be well formed, not {field!r}")
            bits |= mask


def whole(
    name: str, offset: int, access: str, doc: str, *, width: int = 32, reset: int = 0, count: int = 1
) -> Register:
    """A register with one field, called ``value``."""
    return Register(name, offset, (RegisterField("value", 0, width, access, doc, reset),), doc, count)


def fields(name: str, offset: int, doc: str, *fields: RegisterField, count: int = 1) -> Register:
    return Register(name, offset, fields, doc, count)
