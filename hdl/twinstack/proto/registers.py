"""The register map: every CSR of the three pages, declared once.

All registers are 32 bits wide and word aligned; unnamed bits read as zero and ignore writes. Access of a field:

``rw``  storage in the register block, readable back
``r``   driven by hardware; ``r_stb`` pulses on a read (a read may have a side effect, told in the text)
``w``   write-only; ``w_stb`` pulses with the data
``x``   driven by hardware on read *and* strobed on write (``r_data``, ``r_stb``, ``w_data``, ``w_stb``)
"""

from __future__ import annotations

from .core_page import CONSOLE, CORE, CQ, DMA_IN, DMA_OUT, EVENT, EVENTS, LOCK, MESSAGE, PROBE, RX, SQ, TIMER, TX
from .host_page import ENGINE, HOST_CORE, HOST_PROBE, QUEUE, WINDOW
from .manager_page import DISPATCH, MAC
from .register import ACCESSES, PAGES, Block, Register, RegisterField

BLOCKS = (
    CORE,
    CONSOLE,
    TIMER,
    EVENT,
    RX,
    TX,
    SQ,
    CQ,
    DMA_IN,
    DMA_OUT,
    MESSAGE,
    PROBE,
    LOCK,
    DISPATCH,
    MAC,
    ENGINE,
    HOST_CORE,
    WINDOW,
    QUEUE,
    HOST_PROBE,
)


def page_blocks(page: str) -> tuple[Block, ...]:
    """The blocks of one page, in address order."""
    return tuple(sorted((block for block in BLOCKS if block.page == page), key=lambda block: block.offset))


def register_offset(block: Block, register: str, *, instance: int = 0, index: int = 0) -> int:
    """Byte offset of a register in its page.

    Raises
    ------
    KeyError
        If the block has no such register, instance or index.
    """
    for candidate in block.registers:
        if candidate.name == register and index < candidate.count and instance < block.count:
            return block.offset + instance * block.size + candidate.offset + 4 * index
    raise KeyError(f"{block.name}[{instance}].{register}[{index}]")


__all__ = [
    "ACCESSES",
    "BLOCKS",
    "Block",
    "CONSOLE",
    "CORE",
    "CQ",
    "DISPATCH",
    "DMA_IN",
    "DMA_OUT",
    "ENGINE",
    "EVENT",
    "EVENTS",
    "HOST_CORE",
    "HOST_PROBE",
    "LOCK",
    "MAC",
    "MESSAGE",
    "PAGES",
    "PROBE",
    "QUEUE",
    "RX",
    "Register",
    "RegisterField",
    "SQ",
    "TIMER",
    "TX",
    "WINDOW",
    "page_blocks",
    "register_offset",
]
