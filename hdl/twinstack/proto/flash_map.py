"""Firmware in the board's SPI flash, and the registers of the loader that boots it (docs/flash.md).

The bitstream lies at address 0; two slots follow it. A slot is one sector with the header and the state words, then the body.
The header is that of an image file (:mod:`.image`) with a sequence number; its page is the last that is written, so a slot
with a good header is complete, and its body's CRC-32 is checked all the same. State words lie in a page of their own and only
ever lose ones: no state needs an erase.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from .register import RegisterField as F
from .register import fields, whole

PAGE_BYTES = 256
SECTOR_BYTES = 4096
BLOCK_BYTES = 65536
FLASH_ADDRESS_BITS = 24

SLOTS = 2
BODY_OFFSET = SECTOR_BYTES
"""First byte of the body in a slot."""
STATE_OFFSET = PAGE_BYTES
"""First state word in a slot: ``confirmed``, then ``ATTEMPTS`` attempt words."""
STATE_WORDS = 4
ATTEMPTS = STATE_WORDS - 1
"""How often an image boots that has not been confirmed."""
CONFIRMED = 0x5A3C_C3A5
"""Ones and zeros in balance: neither a torn erase (towards all ones, or all zeros on the way) nor a torn write looks like it."""
UNUSED = 0xFFFF_FFFF
"""An attempt word that is anything else has been used, also if its write was torn."""


@dataclass(frozen=True)
class FlashLayout:
    """Where the slots are.

    Parameters
    ----------
    base : int, multiple of ``2 * slot_bytes``
        First byte of slot A, behind the bitstream; slot B follows slot A.
    slot_bytes : int, power of two, 8192..2^22
        Size of a slot.

    Raises
    ------
    TypeError, ValueError
        If a parameter has the wrong type or value.
    """

    base: int = 0x20_0000
    slot_bytes: int = 0x8_0000

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} must be an integer, not {value!r}")
        if not 2 * SECTOR_BYTES <= self.slot_bytes <= 1 << 22 or self.slot_bytes & (self.slot_bytes - 1):
            raise ValueError(f"slot_bytes must be a power of two from 8192 to 4194304, not {self.slot_bytes!r}")
        if not 0 < self.base <= (1 << FLASH_ADDRESS_BITS) - SLOTS * self.slot_bytes or self.base % (
            2 * self.slot_bytes
        ):
            raise ValueError(
                f"base must be a multiple of {2 * self.slot_bytes}, not 0, within 16 MiB, not {self.base!r}"
            )

    def slot(self, index: int) -> int:
        """Address of slot ``index``."""
        return self.base + index * self.slot_bytes

    @property
    def body_limit(self) -> int:
        """Bytes of the largest body."""
        return self.slot_bytes - BODY_OFFSET


class Command(IntEnum):
    """Values of ``command``. One that comes while the loader is busy is ignored."""

    NONE = 0
    BOOT = 1
    """Start the newest good slot, as at power-up."""
    LOAD_BEGIN = 2
    """Hold the cores and take words at ``stream``, which go to code memory from word 0 on."""
    LOAD_FINISH = 3
    """Compare number and CRC-32 of the words with ``length`` and ``expected_crc``; only if they agree may the cores start."""
    READ = 4
    """Read ``length`` bytes, at most 256, from ``address`` into ``buffer``."""
    PROGRAM = 5
    """Program ``length`` bytes of ``buffer``, at most 256, at ``address``; they must lie within a page and in a slot."""
    ERASE_SECTOR = 6
    """Erase the 4 KiB at ``address``, which must lie in a slot."""
    ERASE_BLOCK = 7
    """Erase the 64 KiB at ``address``, which must lie in a slot."""
    IDENTIFY = 8
    """Read the three bytes of the flash's JEDEC identification into ``buffer``."""
    CRC = 9
    """CRC-32 of ``length`` bytes from ``address``, into ``crc``."""


class Source(IntEnum):
    """What code memory holds."""

    NONE = 0
    """Nothing that may run."""
    DEFAULT = 1
    """The image of the bitstream."""
    SLOT_A = 2
    SLOT_B = 3
    HOST = 4
    """An image that the host has loaded, and whose CRC-32 was right."""
    UNCHECKED = 5
    """Words that the host has written to ``engine.code_data`` itself."""


class SlotResult(IntEnum):
    """What the last boot found in a slot."""

    UNKNOWN = 0
    GOOD = 1
    MAGIC = 2
    """No image: empty, or a write that did not end."""
    HEADER_CRC = 3
    ABI = 4
    """For another ABI version than the engine's."""
    BOARD = 5
    """For other memories than the engine's."""
    LENGTH = 6
    """Body empty, no whole words, or too long."""
    ATTEMPTS = 7
    """Not confirmed, and all its attempts are used."""
    BODY_CRC = 8
    NOT_RECORDED = 9
    """The attempt could not be written; it would boot for ever."""
    COPY = 10
    """Good in flash, but its CRC-32 differed when it was copied: code memory is spoiled."""
    FLASH = 11
    """The flash did not answer in time."""


class Error(IntEnum):
    """How the last command, or the boot at power-up, ended."""

    NONE = 0
    NO_IMAGE = 1
    """No slot is good and the bitstream's image is gone, or there was none: the cores stay in reset."""
    CRC = 2
    """LOAD_FINISH: the words have another CRC-32 than ``expected_crc``; the cores stay in reset."""
    LENGTH = 3
    """LOAD_FINISH: other number of bytes than ``length``; the cores stay in reset. Else: ``length`` out of range."""
    PROTECTED = 4
    """PROGRAM, ERASE: not within the slots; nothing was written."""
    FLASH = 5
    """The flash stayed busy for longer than any command of its data sheet takes, or there is none."""
    BUS = 6
    """The engine's registers did not answer."""
    SEQUENCE = 7
    """LOAD_FINISH without LOAD_BEGIN, or a command that there is not."""


IDENTITY = 0x4C46_5354
"""Read at ``identity``: the bytes ``TSFL`` in little-endian order."""
MAP_VERSION = 1

REGISTERS = (
    whole("identity", 0x00, "r", "IDENTITY of twinstack.proto.flash_map."),
    whole("map_version", 0x04, "r", "MAP_VERSION of twinstack.proto.flash_map."),
    fields(
        "profile",
        0x08,
        "Memories that an image must have been linked for.",
        F("code_kib", 0, 16, "r", "Code memory in KiB."),
        F("data_kib", 16, 16, "r", "Data RAM of a core in KiB."),
    ),
    whole("slots_base", 0x0C, "r", "Flash address of slot A.", width=24),
    whole("slot_bytes", 0x10, "r", "Size of a slot; slot B follows slot A.", width=24),
    fields(
        "status",
        0x14,
        "State of the loader.",
        F("busy", 0, 1, "r", "A command is under way, or the boot at power-up."),
        F("locked", 1, 1, "r", "The host can neither let a core go nor write code memory, except at stream."),
        F("held", 2, 1, "r", "The loader has left the cores in reset: code memory holds nothing that may run."),
        F("source", 4, 4, "r", "What code memory holds, see Source."),
        F("error", 8, 4, "r", "How the last command ended, see Error."),
        F("slot_a", 16, 4, "r", "What the last boot found in slot A, see SlotResult."),
        F("slot_b", 20, 4, "r", "The same of slot B."),
        F("attempt", 24, 2, "r", "Attempts of the booted slot that were used, 0 if it is confirmed."),
    ),
    whole("version", 0x18, "r", "Version of the firmware that was booted from a slot."),
    whole("sequence", 0x1C, "r", "Sequence number of the slot that was booted."),
    whole("crc", 0x20, "r", "CRC-32 of the words at stream since LOAD_BEGIN, or of the CRC command."),
    whole("streamed", 0x24, "r", "Bytes taken at stream since LOAD_BEGIN.", width=24),
    whole("command", 0x28, "w", "Begin a command, see Command.", width=8),
    whole("address", 0x2C, "rw", "Flash address of a command.", width=24),
    whole("length", 0x30, "rw", "Bytes of a command.", width=24),
    whole("expected_crc", 0x34, "rw", "CRC-32 that LOAD_FINISH compares with."),
    whole("refused", 0x38, "r", "Writes of the host to the engine that were kept from it while locked.", width=16),
    whole("stream", 0x3C, "w", "Next word of the image, after LOAD_BEGIN."),
    whole("buffer", 0x100, "rw", "Bytes of the flash, the first at bit 0 of word 0.", count=64),
)
"""The loader's page, in :class:`.register.Register` declarations; ``command`` and ``buffer`` want the loader not busy."""
PAGE_BYTES_USED = 0x200


def offset(name: str, index: int = 0) -> int:
    """Byte offset of a register in the loader's page.

    Raises
    ------
    KeyError
        If there is no such register.
    """
    for register in REGISTERS:
        if register.name == name and 0 <= index < register.count:
            return register.offset + 4 * index
    raise KeyError(f"{name}[{index}]")


def unpack(name: str, value: int) -> dict[str, int]:
    """The fields of a register from its value."""
    register = next(register for register in REGISTERS if register.name == name)
    return {field.name: value >> field.lsb & ((1 << field.width) - 1) for field in register.fields}
