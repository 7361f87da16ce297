"""A board of a few lines: the fake engine with the loader's model and a flash behind it."""

from __future__ import annotations

import random
from collections.abc import Callable

from support.nor_flash import NorFlash
from twinstack.models.flash_loader import LoaderModel
from twinstack.proto import abi, flash_map
from twinstack.proto.flash_map import FlashLayout
from twinstack.proto.image import build_image
from twinstack.proto.registers import ENGINE, HOST_CORE
from twinstack_host.link import HostLink, LinkError, LoaderPort
from twinstack_host.registers import Registers

CODE_BYTES, DATA_BYTES = 96 * 1024, 48 * 1024
LAYOUT = FlashLayout(base=0x4_0000, slot_bytes=0x2_0000)
FLASH_BYTES = 0x8_0000


class PowerCut(Exception):
    """The plug has been pulled."""


class CutFlash(NorFlash):
    """Pulls the plug before, within or behind write number ``cut_at``."""

    def __init__(self, size: int, contents: bytes = b""):
        super().__init__(size, contents)
        self.cut_at: int | None = None
        self.how = "torn"
        self.rng = random.Random(0)
        self.writes = 0

    def _write(self, tear: Callable[[], None], whole: Callable[[], None]) -> None:
        self.writes += 1
        if self.writes - 1 == self.cut_at:
            if self.how == "torn":
                tear()
            elif self.how == "after":
                whole()
            raise PowerCut
        whole()

    def program(self, address: int, data: bytes) -> None:
        self._write(lambda: self.tear_program(address, data, self.rng), lambda: NorFlash.program(self, address, data))

    def erase(self, address: int, size: int) -> None:
        self._write(lambda: self.tear_erase(address, size, self.rng), lambda: NorFlash.erase(self, address, size))


class FakeBoard(HostLink, LoaderPort):
    """Engine registers as a dictionary; cores come up if code memory starts with ``good``, and say their ABI."""

    def __init__(self, flash: NorFlash | None = None, *, default: bytes | None = b"good default", layout=LAYOUT):
        self.memory = bytearray(1 << 16)
        self.now = 0.0
        self.values = {
            self.at(ENGINE, "magic"): abi.MAGIC,
            self.at(ENGINE, "abi"): abi.ABI_VERSION,
            self.at(ENGINE, "identity"): 2 | 1 << 4 | 1 << 8 | CODE_BYTES // 1024 << 16,
            self.at(ENGINE, "sync_hz"): 75_000_000,
        }
        self.lost_word: int | None = None
        self.flash = CutFlash(FLASH_BYTES) if flash is None else flash
        self.running = False
        self.writes = 0
        self.model = LoaderModel(self.flash, layout, CODE_BYTES, DATA_BYTES, default, self.let_go)

    @staticmethod
    def at(block, name: str, instance: int = 0) -> int:
        return Registers.address(block, name, instance=instance)

    def let_go(self, running: bool) -> None:
        """Cores go, or are held."""
        self.running = running
        body = bytes(self.model.code) if hasattr(self, "model") else b""
        firmware_abi = {b"good": abi.ABI_VERSION, b"abi9": 9}.get(body[:4], 0) if running else 0
        for core in range(2):
            self.values[self.at(HOST_CORE, "status", core)] = firmware_abi | (firmware_abi != 0) << 31
        self.values[self.at(ENGINE, "alive")] = 3 if firmware_abi == abi.ABI_VERSION else 0

    def power_up(self) -> None:
        self.model = LoaderModel(
            self.flash, self.model.layout, CODE_BYTES, DATA_BYTES, self.model.default_image, self.let_go
        )
        self.let_go(not self.model.is_held)

    loader = property(lambda self: self)
    memory_base = 0

    @property
    def memory_size(self) -> int:
        return len(self.memory)

    def clock(self) -> float:
        return self.now

    def wait_interrupt(self, timeout: float) -> bool:
        self.now += timeout
        return False

    def csr_read(self, offset: int) -> int:
        return self.values.get(offset, 0)

    def csr_write(self, offset: int, value: int) -> None:
        if offset == self.at(ENGINE, "reset_cores"):
            if not self.model.is_locked:
                self.let_go(value == 0)
        else:
            self.values[offset] = value

    # read and write serve both interfaces: host memory with bytes, the loader's page with a number.
    def read(self, address: int, length: int | None = None):  # type: ignore[override]
        if length is None:
            return self.model.read(address)
        return bytes(self.memory[address : address + length])

    def write(self, address: int, data) -> None:  # type: ignore[override]
        if isinstance(data, int):
            self.writes += 1
            if address == flash_map.offset("stream") and self.lost_word is not None:
                self.lost_word -= 1
                if self.lost_word < 0:
                    raise LinkError(5, "the line is cut")
            self.model.write(address, data)
        else:
            self.memory[address : address + len(data)] = data


def file(text: bytes, version: int = 0x010000, size: int = 1000, **options) -> bytes:
    """An image whose firmware behaves as its first bytes say."""
    options = {"code_bytes": CODE_BYTES, "data_bytes": DATA_BYTES} | options
    return build_image((text + bytes(range(256)) * (size // 256 + 1))[:size], version, **options)
