"""Reference model of :mod:`..flash_loader`: what a boot does with the contents of a flash, and the loader's page."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from ..proto import flash_map
from ..proto.abi import ABI_VERSION
from ..proto.flash_map import Command, Error, FlashLayout, SlotResult, Source
from ..proto.image import IMAGE_HEADER, IMAGE_HEADER_BYTES, IMAGE_MAGIC


class Flash(Protocol):
    """Contents of a flash; programming only clears bits."""

    def read(self, address: int, length: int) -> bytes: ...
    def program(self, address: int, data: bytes) -> None: ...
    def erase(self, address: int, size: int) -> None: ...


@dataclass
class Boot:
    """What a boot has done. ``body`` is what code memory holds then; ``None``: what it held before."""

    source: Source | None
    error: Error
    results: list[SlotResult]
    body: bytes | None = None
    version: int = 0
    sequence: int = 0
    attempt: int = 0


def judge(flash: Flash, layout: FlashLayout, slot: int, *, code_bytes: int, data_bytes: int) -> tuple[SlotResult, dict]:
    """What header and state of a slot say; the body is not looked at."""
    at = layout.slot(slot)
    raw = flash.read(at, IMAGE_HEADER_BYTES)
    header = IMAGE_HEADER.unpack(raw)
    state = flash.read(at + flash_map.STATE_OFFSET, 4 * flash_map.STATE_WORDS)
    confirmed, *attempts = (int.from_bytes(state[n : n + 4], "little") for n in range(0, len(state), 4))
    header["confirmed"] = int(confirmed == flash_map.CONFIRMED)
    header["attempt"] = next((n + 1 for n, word in enumerate(attempts) if word == flash_map.UNUSED), 0)
    limit = min(code_bytes, layout.body_limit)
    if header["magic"] != IMAGE_MAGIC:
        result = SlotResult.MAGIC
    elif header["abi"] != ABI_VERSION:
        result = SlotResult.ABI
    elif header["header_crc32"] != zlib.crc32(raw[:-4]):
        result = SlotResult.HEADER_CRC
    elif (header["code_kib"], header["data_kib"]) != (code_bytes // 1024, data_bytes // 1024):
        result = SlotResult.BOARD
    elif header["length"] % 4 or not 0 < header["length"] <= limit:
        result = SlotResult.LENGTH
    elif not header["confirmed"] and not header["attempt"]:
        result = SlotResult.ATTEMPTS
    else:
        result = SlotResult.GOOD
    return result, header


def boot(
    flash: Flash, layout: FlashLayout, *, code_bytes: int, data_bytes: int, source: Source = Source.DEFAULT
) -> Boot:
    """Boot; the attempt is recorded in ``flash``. ``source`` is what code memory holds before."""
    judged = [judge(flash, layout, slot, code_bytes=code_bytes, data_bytes=data_bytes) for slot in range(2)]
    results = [result for result, _ in judged]
    candidates = [slot for slot in range(2) if results[slot] == SlotResult.GOOD]
    for slot in sorted(candidates, key=lambda slot: (-judged[slot][1]["sequence"], slot)):
        header = judged[slot][1]
        body = flash.read(layout.slot(slot) + flash_map.BODY_OFFSET, header["length"])
        if zlib.crc32(body) != header["crc32"]:
            results[slot] = SlotResult.BODY_CRC
            continue
        if not header["confirmed"]:
            at = layout.slot(slot) + flash_map.STATE_OFFSET + 4 * header["attempt"]
            flash.program(at, bytes(4))
            if flash.read(at, 4) == b"\xff\xff\xff\xff":
                results[slot] = SlotResult.NOT_RECORDED
                continue
        attempt = 0 if header["confirmed"] else header["attempt"]
        return Boot(
            (Source.SLOT_A, Source.SLOT_B)[slot],
            Error.NONE,
            results,
            body,
            header["version"],
            header["sequence"],
            attempt,
        )
    if source != Source.DEFAULT:
        return Boot(source, Error.NO_IMAGE, results)
    return Boot(source, Error.NONE, results)


@dataclass
class LoaderModel:
    """The loader's page, each command at once.

    ``code`` is code memory as bytes; ``let_go(running)`` hears when the loader holds the cores or lets them go.
    """

    flash: Flash
    layout: FlashLayout
    code_bytes: int
    data_bytes: int
    default_image: bytes | None = None
    let_go: Callable[[bool], None] = lambda running: None
    code: bytearray = field(default_factory=bytearray)
    registers: dict[str, int] = field(default_factory=dict)
    page: bytearray = field(default_factory=lambda: bytearray(flash_map.PAGE_BYTES))
    stream: bytearray = field(default_factory=bytearray)
    is_loading: bool = False
    is_spoiled: bool = False
    is_locked: bool = True
    is_held: bool = True
    source: Source = Source.NONE
    error: Error = Error.NONE
    results: list[SlotResult] = field(default_factory=lambda: [SlotResult.UNKNOWN] * 2)
    attempt: int = 0

    def __post_init__(self) -> None:
        for name in ("address", "length", "expected_crc", "version", "sequence", "crc", "refused"):
            self.registers.setdefault(name, 0)
        self.power_up()

    def power_up(self) -> None:
        """Configure from the bitstream and boot."""
        self.code[:] = self.default_image or b""
        self.source = Source.DEFAULT if self.default_image else Source.NONE
        self.is_spoiled = False
        self._boot()

    def _boot(self) -> None:
        self.let_go(False)
        done = boot(self.flash, self.layout, code_bytes=self.code_bytes, data_bytes=self.data_bytes, source=self.source)
        self.is_loading = False
        self.results, self.error, self.attempt = done.results, done.error, done.attempt
        self.registers |= {"version": done.version, "sequence": done.sequence}
        if done.body is not None:
            self.source, self.code[:], self.is_spoiled = done.source, done.body, False
        self.is_held = done.error == Error.NO_IMAGE
        self.is_locked = self.is_held and self.is_spoiled
        if not self.is_held:
            self.let_go(True)

    def read(self, offset: int) -> int:
        """Read a register by its byte offset."""
        first = flash_map.offset("buffer")
        if first <= offset < first + flash_map.PAGE_BYTES:
            return int.from_bytes(self.page[offset - first : offset - first + 4], "little")
        name = next((register.name for register in flash_map.REGISTERS if register.offset == offset), "")
        constants = {
            "identity": flash_map.IDENTITY,
            "map_version": flash_map.MAP_VERSION,
            "profile": self.data_bytes // 1024 << 16 | self.code_bytes // 1024,
            "slots_base": self.layout.base,
            "slot_bytes": self.layout.slot_bytes,
            "streamed": len(self.stream),
            "status": self.is_locked << 1
            | self.is_held << 2
            | self.source << 4
            | self.error << 8
            | self.results[0] << 16
            | self.results[1] << 20
            | self.attempt << 24,
        }
        return constants.get(name, self.registers.get(name, 0))

    def write(self, offset: int, value: int) -> None:
        """Write a register by its byte offset."""
        first = flash_map.offset("buffer")
        if first <= offset < first + flash_map.PAGE_BYTES:
            self.page[offset - first : offset - first + 4] = value.to_bytes(4, "little")
            return
        name = next((register.name for register in flash_map.REGISTERS if register.offset == offset), "")
        if name in ("address", "length"):
            self.registers[name] = value & 0xFF_FFFF
        elif name == "expected_crc":
            self.registers[name] = value
        elif name == "stream" and self.is_loading:
            self.stream += value.to_bytes(4, "little")
            self.code[:] = self.stream[: self.code_bytes]
            self.is_spoiled, self.source = True, Source.NONE
            self.registers["crc"] = zlib.crc32(self.stream)
        elif name == "command" and value & 0xFF:
            self._command(value & 0xFF)

    def _command(self, value: int) -> None:
        address, length = self.registers["address"], self.registers["length"]
        self.error = Error.NONE
        pair = 2 * self.layout.slot_bytes
        inside = address // pair == self.layout.base // pair
        match value:
            case Command.BOOT:
                self._boot()
            case Command.LOAD_BEGIN:
                self.is_loading = self.is_locked = self.is_held = True
                self.let_go(False)
                self.stream.clear()
                self.registers["crc"] = 0
            case Command.LOAD_FINISH:
                self._finish(length)
            case Command.PROGRAM | Command.ERASE_SECTOR | Command.ERASE_BLOCK if not inside:
                self.error = Error.PROTECTED
            case Command.ERASE_BLOCK if self.layout.slot_bytes < flash_map.BLOCK_BYTES:
                self.error = Error.PROTECTED
            case Command.READ | Command.PROGRAM if not 0 < length <= flash_map.PAGE_BYTES:
                self.error = Error.LENGTH
            case Command.PROGRAM if address % flash_map.PAGE_BYTES + length > flash_map.PAGE_BYTES:
                self.error = Error.LENGTH
            case Command.READ:
                self.page[:length] = self.flash.read(address, length)
            case Command.PROGRAM:
                self.flash.program(address, bytes(self.page[:length]))
            case Command.ERASE_SECTOR:
                self.flash.erase(address, flash_map.SECTOR_BYTES)
            case Command.ERASE_BLOCK:
                self.flash.erase(address, flash_map.BLOCK_BYTES)
            case Command.IDENTIFY:
                self.page[:3] = b"\xef\x40\x18"
            case Command.CRC:
                self.is_loading = False
                self.registers["crc"] = zlib.crc32(self.flash.read(address, length))
            case _:
                self.error = Error.SEQUENCE

    def _finish(self, length: int) -> None:
        if not self.is_loading:
            self.error = Error.SEQUENCE
        elif not self.stream or len(self.stream) != length or len(self.stream) > self.code_bytes:
            self.error = Error.LENGTH
        elif self.registers["crc"] != self.registers["expected_crc"]:
            self.error = Error.CRC
        else:
            self.source, self.attempt = Source.HOST, 0
            self.is_spoiled = self.is_locked = self.is_held = False
        self.is_loading = False


__all__ = ["Boot", "LoaderModel", "boot", "judge"]
