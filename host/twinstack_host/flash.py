"""Firmware in a board's flash: two slots, of which the one to fall back to stays (docs/flash.md)."""

from __future__ import annotations

import errno
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from twinstack.proto import flash_map
from twinstack.proto.flash_map import SlotResult, Source
from twinstack.proto.image import IMAGE_HEADER, IMAGE_HEADER_BYTES, IMAGE_MAGIC, check_image, pack_header

from .device import Device
from .firmware_load import handshake
from .loader import Loader, LoaderError, Progress

NAMES = "AB"


@dataclass(frozen=True)
class SlotInfo:
    """What a slot holds: ``result`` as a boot would judge it (body included)."""

    slot: int
    result: SlotResult
    version: int = 0
    sequence: int = 0
    length: int = 0
    confirmed: bool = False
    attempts_left: int = 0

    @property
    def name(self) -> str:
        return NAMES[self.slot]

    @property
    def is_whole(self) -> bool:
        """Header and body are good, whether it may boot or not."""
        return self.result in (SlotResult.GOOD, SlotResult.ATTEMPTS)


def read_slot(loader: Loader, slot: int, *, engine_abi: int) -> SlotInfo:
    """Look at a slot; its body's CRC-32 is computed by the hardware."""
    at = loader.layout.slot(slot)
    raw = loader.read_flash(at, IMAGE_HEADER_BYTES)
    header = IMAGE_HEADER.unpack(raw)
    state = loader.read_flash(at + flash_map.STATE_OFFSET, 4 * flash_map.STATE_WORDS)
    confirmed, *attempts = (int.from_bytes(state[n : n + 4], "little") for n in range(0, len(state), 4))
    is_confirmed = confirmed == flash_map.CONFIRMED
    left = attempts.count(flash_map.UNUSED)
    if header["magic"] != IMAGE_MAGIC:
        return SlotInfo(slot, SlotResult.MAGIC)
    if header["abi"] != engine_abi:
        return SlotInfo(slot, SlotResult.ABI)
    if header["header_crc32"] != zlib.crc32(raw[:-4]):
        return SlotInfo(slot, SlotResult.HEADER_CRC)
    length = header["length"]
    if (header["code_kib"] * 1024, header["data_kib"] * 1024) != (loader.code_bytes, loader.data_bytes):
        result = SlotResult.BOARD
    elif length % 4 or not 0 < length <= min(loader.code_bytes, loader.layout.body_limit):
        result = SlotResult.LENGTH
    elif loader.crc(at + flash_map.BODY_OFFSET, length) != header["crc32"]:
        result = SlotResult.BODY_CRC
    elif not is_confirmed and not left:
        result = SlotResult.ATTEMPTS
    else:
        result = SlotResult.GOOD
    return SlotInfo(slot, result, header["version"], header["sequence"], length, is_confirmed, left)


def list_slots(loader: Loader, *, engine_abi: int) -> list[SlotInfo]:
    """Both slots."""
    loader.wait()
    return [read_slot(loader, slot, engine_abi=engine_abi) for slot in range(flash_map.SLOTS)]


def choose_slot(slots: Sequence[SlotInfo]) -> int:
    """The slot to write: not the one that a boot would fall back to.

    One that could not boot anyway; else one that is not confirmed (the newer of two); else the older.
    """
    bad = [one for one in slots if one.result is not SlotResult.GOOD]
    if bad:
        return min(bad, key=lambda one: (one.is_whole, one.slot)).slot
    open_ones = [one for one in slots if not one.confirmed]
    if open_ones:
        return max(open_ones, key=lambda one: one.sequence).slot
    return min(slots, key=lambda one: one.sequence).slot


def write_slot(
    loader: Loader, image: bytes, *, engine_abi: int, slot: int | None = None, progress: Progress | None = None
) -> SlotInfo:
    """Write ``image`` into a slot; it is good when this returns, and boots next, but is not confirmed.

    Each step leaves a flash that boots: first the header's sector is erased, then the body is erased and written, its CRC-32
    is compared by the hardware, and the header comes last.

    Raises
    ------
    twinstack.proto.image.ImageError
        If the image must not be loaded: nothing was written.
    ValueError
        If ``slot`` is the one that a boot would fall back to.
    LoaderError
        If the flash did not take it; the slot is not good then, and the other one boots.
    """
    body = check_image(image, engine_abi=engine_abi, code_bytes=loader.code_bytes, data_bytes=loader.data_bytes)
    if len(body) > loader.layout.body_limit:
        raise LoaderError(errno.EFBIG, f"the image has {len(body)} bytes, a slot takes {loader.layout.body_limit}")
    slots = list_slots(loader, engine_abi=engine_abi)
    chosen = choose_slot(slots)
    if slot is None:
        slot = chosen
    elif slot != chosen and slots[slot].result is SlotResult.GOOD:
        raise ValueError(
            f"slot must be {NAMES[chosen]}, not {NAMES[slot]!r}: the board falls back to {NAMES[slot]} if the new image fails"
        )
    at = loader.layout.slot(slot)
    body_at = at + flash_map.BODY_OFFSET
    header = IMAGE_HEADER.unpack(image[:IMAGE_HEADER_BYTES])
    header["sequence"] = max(one.sequence for one in slots) + 1
    loader.erase(at, flash_map.SECTOR_BYTES)
    sectors = -(-len(body) // flash_map.SECTOR_BYTES) * flash_map.SECTOR_BYTES
    loader.erase(body_at, sectors, progress)
    for done in range(0, len(body), flash_map.PAGE_BYTES):
        page = body[done : done + flash_map.PAGE_BYTES]
        loader.program(body_at + done, page)
        if progress is not None:
            progress("writing", done + len(page), len(body))
    found = loader.crc(body_at, len(body))
    if found != header["crc32"]:
        raise LoaderError(
            errno.EIO, f"slot {NAMES[slot]} did not take the image: CRC-32 {found:#010x}, not {header['crc32']:#010x}"
        )
    raw = pack_header(header)
    loader.program(at, raw)
    if loader.read_flash(at, len(raw)) != raw:
        raise LoaderError(errno.EIO, f"slot {NAMES[slot]} did not take the image's header")
    return read_slot(loader, slot, engine_abi=engine_abi)


def confirm(device: Device, loader: Loader, *, timeout: float = 5.0) -> SlotInfo:
    """Confirm the slot that has been booted, once all cores have reported their ABI.

    Raises
    ------
    LoaderError
        If no slot has been booted, or the flash does not take the word.
    EngineError
        If the cores do not report; nothing is confirmed then.
    """
    status = loader.wait()
    if status["source"] not in (Source.SLOT_A, Source.SLOT_B) or status["held"]:
        raise LoaderError(
            errno.EINVAL, f"only what was booted from a slot can be confirmed, not {loader.describe(status)}"
        )
    slot = status["source"] - Source.SLOT_A
    handshake(device, timeout)
    at = loader.layout.slot(slot) + flash_map.STATE_OFFSET
    word = flash_map.CONFIRMED.to_bytes(4, "little")
    found = IMAGE_HEADER.unpack(loader.read_flash(loader.layout.slot(slot), IMAGE_HEADER_BYTES))
    if found["sequence"] != loader.read("sequence"):
        raise LoaderError(errno.EINVAL, f"slot {NAMES[slot]} has been written since it was booted: boot it first")
    if loader.read_flash(at, 4) != word:
        loader.program(at, word)
        if loader.read_flash(at, 4) != word:
            raise LoaderError(errno.EIO, f"slot {NAMES[slot]} did not take the confirmation")
    return read_slot(loader, slot, engine_abi=device.abi)


__all__ = ["SlotInfo", "choose_slot", "confirm", "list_slots", "read_slot", "write_slot"]
