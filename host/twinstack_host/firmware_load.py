"""Firmware into a running board: everything is checked before the first write, and what fails is undone."""

from __future__ import annotations

import errno
import zlib
from dataclasses import dataclass

from twinstack.proto import flash_map
from twinstack.proto.flash_map import Command, Error
from twinstack.proto.image import IMAGE_HEADER, IMAGE_HEADER_BYTES, check_image, version_text
from twinstack.proto.registers import ENGINE, HOST_CORE

from .device import AbiMismatch, Device, EngineError
from .loader import BURST_WORDS, Loader, LoaderError, Progress


class LoadError(EngineError):
    """The image did not get into the engine, or did not run; the text says what runs now."""


@dataclass(frozen=True)
class Loaded:
    """What was loaded: version of the image, ABI that every core has reported, CRC-32 that the hardware computed."""

    version: str
    abi: int
    crc32: int


def image_version(image: bytes) -> str:
    """The version in an image's header."""
    return version_text(IMAGE_HEADER.unpack(image[:IMAGE_HEADER_BYTES])["version"])


def handshake(device: Device, timeout: float) -> int:
    """Wait until all cores have reported a matching ABI, without starting anything; returns it.

    Raises
    ------
    AbiMismatch, EngineError
        If a core reports another, or none within ``timeout`` seconds of the engine's time.
    """
    registers = device.registers
    deadline = device.clock() + timeout
    while registers.read(ENGINE, "alive") != (1 << device.cores) - 1:
        for core in range(device.cores):
            found = registers.read_fields(HOST_CORE, "status", instance=core)["firmware_abi"]
            if found not in (0, device.abi):
                raise AbiMismatch(
                    errno.EPROTO, f"core {core}: firmware has ABI version {found}, the engine {device.abi}"
                )
        if device.clock() > deadline:
            raise EngineError(errno.ETIMEDOUT, f"cores did not report their stacks up within {timeout} s")
        with device.lock:
            device.link.wait_interrupt(0.001)
    return device.abi


def load_firmware(device: Device, image: bytes, *, seed: int, progress: Progress | None = None) -> Loaded:
    """Put ``image`` into code memory, compare its CRC-32 in hardware, start the cores and wait for their ABI.

    Raises
    ------
    twinstack.proto.image.ImageError
        If the image must not be loaded: nothing was written then, the engine runs on.
    LoaderError
        If the board has no loader.
    LoadError
        If anything failed later. The loader has booted again: the text says what runs now, or that the cores stay in reset.
    """
    loader = Loader(device.link)
    body = check_image(image, engine_abi=device.abi, code_bytes=loader.code_bytes, data_bytes=loader.data_bytes)
    if device.link.is_shared:
        raise EngineError(errno.EPERM, "the engine is shared and runs already: it cannot be loaded from here")
    loader.wait()
    crc32 = zlib.crc32(body)
    try:
        _stream(device, loader, body, crc32, progress)
        device.start(seed=seed)
    except OSError as error:
        raise LoadError(error.errno or errno.EIO, f"{error.strerror or error}; {recover(loader)}") from error
    except KeyboardInterrupt:
        recover(loader)
        raise
    return Loaded(image_version(image), device.abi, crc32)


def _stream(device: Device, loader: Loader, body: bytes, crc32: int, progress: Progress | None) -> None:
    with device.lock:
        loader.command(Command.LOAD_BEGIN)
        step = 4 * BURST_WORDS
        for at in range(0, len(body), step):
            piece = body[at : at + step]
            words = [int.from_bytes(piece[n : n + 4], "little") for n in range(0, len(piece), 4)]
            loader.port.write_words(flash_map.offset("stream"), words, incrementing=False)
            if progress is not None:
                progress("loading", at + len(piece), len(body))
        try:
            loader.command(Command.LOAD_FINISH, length=len(body), expected_crc=crc32)
        except LoaderError as error:
            found = {
                Error.CRC: f"CRC-32 in the engine is {loader.read('crc'):#010x}, not {crc32:#010x}",
                Error.LENGTH: f"the engine got {loader.read('streamed')} bytes, not {len(body)}",
            }
            text = found.get(error.error, error.strerror)
            raise LoaderError(errno.EIO, f"the image did not arrive whole: {text}", error.error) from error


def recover(loader: Loader) -> str:
    """Boot the good slot, or the bitstream's image; says in words what came of it."""
    try:
        status = loader.boot()
        text = loader.describe(status)
    except OSError as error:
        return f"the loader does not answer any more ({error.strerror or error}): switch the board off and on"
    return text if status["held"] else f"booted again: {text}"


__all__ = ["LoadError", "Loaded", "handshake", "image_version", "load_firmware", "recover"]
