"""The loader of a board: its registers by name, its commands, its flash."""

from __future__ import annotations

import errno
from collections.abc import Callable

from twinstack.proto import flash_map
from twinstack.proto.flash_map import Command, Error, FlashLayout, SlotResult, Source
from twinstack.proto.image import version_text

from .link import HostLink, LinkError

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many bytes of it are done, and how many there are."""
COMMAND_SECONDS = 15.0
"""A boot that waits for a flash that stays busy twice, and copies: the longest command."""
BURST_WORDS = 64
REASONS = {
    SlotResult.UNKNOWN: "not looked at",
    SlotResult.GOOD: "good",
    SlotResult.MAGIC: "empty",
    SlotResult.HEADER_CRC: "bad header",
    SlotResult.ABI: "other ABI version",
    SlotResult.BOARD: "for another board",
    SlotResult.LENGTH: "bad length",
    SlotResult.ATTEMPTS: "not confirmed, and its attempts are used up",
    SlotResult.BODY_CRC: "damaged",
    SlotResult.NOT_RECORDED: "the attempt could not be recorded",
    SlotResult.COPY: "damaged while it was copied",
    SlotResult.FLASH: "the flash did not answer",
}
SOURCES = {
    Source.NONE: "nothing that may run",
    Source.DEFAULT: "the bitstream's image",
    Source.SLOT_A: "slot A",
    Source.SLOT_B: "slot B",
    Source.HOST: "an image loaded by a host",
    Source.UNCHECKED: "words written by a host, unchecked",
}


class LoaderError(OSError):
    """A command of the loader failed; ``error`` is its reason where the hardware gave one."""

    def __init__(self, code: int, text: str, error: Error = Error.NONE):
        super().__init__(code, text)
        self.error = error


class Loader:
    """Commands of the loader behind a link.

    Raises
    ------
    LoaderError
        If the link has no loader, or one that speaks otherwise.
    """

    def __init__(self, link: HostLink):
        port = link.loader
        if port is None:
            raise LoaderError(
                errno.ENODEV, "this engine has no loader of firmware and flash: no board behind this link"
            )
        self.link, self.port = link, port
        identity = self.read("identity")
        if identity != flash_map.IDENTITY:
            raise LoaderError(
                errno.ENODEV, f"no loader: its identity must be {flash_map.IDENTITY:#x}, not {identity:#x}"
            )
        version = self.read("map_version")
        if version != flash_map.MAP_VERSION:
            raise LoaderError(
                errno.EPROTO,
                f"host library knows version {flash_map.MAP_VERSION} of the loader, the board has {version}",
            )
        profile = flash_map.unpack("profile", self.read("profile"))
        self.code_bytes, self.data_bytes = profile["code_kib"] * 1024, profile["data_kib"] * 1024
        self.layout = FlashLayout(self.read("slots_base"), self.read("slot_bytes"))

    def read(self, name: str) -> int:
        return self.port.read(flash_map.offset(name))

    def write(self, name: str, value: int) -> None:
        self.port.write(flash_map.offset(name), value)

    def status(self) -> dict[str, int]:
        """Fields of the status register."""
        return flash_map.unpack("status", self.read("status"))

    def wait(self, seconds: float = COMMAND_SECONDS) -> dict[str, int]:
        """The status once the loader is not busy: after power-up it boots for a while.

        Raises
        ------
        LoaderError
            If it stays busy for ``seconds``.
        """
        deadline = self.link.clock() + seconds
        while (status := self.status())["busy"]:
            if self.link.clock() > deadline:
                raise LoaderError(errno.ETIMEDOUT, f"the loader stays busy for more than {seconds} s")
            self.link.wait_interrupt(0.0001)
        return status

    def command(self, command: Command, **registers: int) -> dict[str, int]:
        """Write ``registers``, run ``command``, and return the status.

        Raises
        ------
        LoaderError
            If it failed, with the reason.
        """
        self.wait()
        for name, value in registers.items():
            self.write(name, value)
        self.write("command", command)
        status = self.wait()
        if status["error"]:
            error = Error(status["error"])
            raise LoaderError(errno.EIO, f"{command.name} failed: {error.name}", error)
        return status

    def boot(self) -> dict[str, int]:
        """Boot as at power-up; the status tells what runs. The cores may stay in reset: see ``held``."""
        self.wait()
        self.write("command", Command.BOOT)
        return self.wait()

    def describe(self, status: dict[str, int] | None = None) -> str:
        """What code memory holds and whether cores are held, in words."""
        status = self.wait() if status is None else status
        source = Source(status["source"])
        text = SOURCES[source]
        if source in (Source.SLOT_A, Source.SLOT_B):
            text += f", version {version_text(self.read('version'))}"
            if status["attempt"]:
                text += f", not confirmed, attempt {status['attempt']} of {flash_map.ATTEMPTS}"
        return f"the cores stay in reset: {text}" if status["held"] else text

    # --- Flash -----------------------------------------------------------------------------------------------------

    def identify(self) -> bytes:
        """The flash's JEDEC identification."""
        self.command(Command.IDENTIFY)
        return self.port.read(flash_map.offset("buffer")).to_bytes(4, "little")[:3]

    def read_flash(self, address: int, length: int) -> bytes:
        """Read ``length`` bytes."""
        data = bytearray()
        while len(data) < length:
            count = min(flash_map.PAGE_BYTES, length - len(data))
            self.command(Command.READ, address=address + len(data), length=count)
            words = self.port.read_words(flash_map.offset("buffer"), -(-count // 4))
            data += b"".join(word.to_bytes(4, "little") for word in words)[:count]
        return bytes(data)

    def program(self, address: int, data: bytes) -> None:
        """Program up to a page."""
        padded = data + bytes(-len(data) % 4)
        words = [int.from_bytes(padded[at : at + 4], "little") for at in range(0, len(padded), 4)]
        self.port.write_words(flash_map.offset("buffer"), words, incrementing=True)
        self.command(Command.PROGRAM, address=address, length=len(data))

    def erase(self, address: int, length: int, progress: Progress | None = None) -> None:
        """Erase all sectors of the range."""
        at, end = address, address + length
        while at < end:
            block = flash_map.BLOCK_BYTES
            if at % block == 0 and end - at >= block and self.layout.slot_bytes >= block:
                self.command(Command.ERASE_BLOCK, address=at)
                at += block
            else:
                self.command(Command.ERASE_SECTOR, address=at)
                at += flash_map.SECTOR_BYTES
            if progress is not None:
                progress("erasing", min(at, end) - address, length)

    def crc(self, address: int, length: int) -> int:
        """CRC-32 of a range, computed by the hardware."""
        self.command(Command.CRC, address=address, length=length)
        return self.read("crc")


__all__ = ["Loader", "LoaderError", "Progress", "REASONS", "SOURCES", "LinkError"]
