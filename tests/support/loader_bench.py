"""The loader with a flash at its pins and code memory behind its registers."""

from __future__ import annotations

import os
import random

from support.nor_flash import NorFlash, SpiDevice
from twinstack.config import EngineConfig
from twinstack.proto import flash_map
from twinstack.proto.flash_map import Command, FlashLayout
from twinstack.proto.image import IMAGE_HEADER, IMAGE_HEADER_BYTES, build_image, pack_header
from twinstack.proto.registers import ENGINE, register_offset

CONFIG = EngineConfig(sync_hz=100_000_000, code_bytes=4096, data_bytes=8192)
LAYOUT = FlashLayout(base=0x4000, slot_bytes=0x2000)
FLASH_BYTES = 0x8000
DEFAULT = b"default!" * 8


def image(rng: random.Random, length: int, version: int = 1, **fields) -> bytes:
    fields = {"code_bytes": CONFIG.code_bytes, "data_bytes": CONFIG.data_bytes} | fields
    return build_image(rng.randbytes(length), version, **fields)


def slot_contents(file: bytes, sequence: int, *, confirmed: bool, used: int = 0, **header: int) -> bytes:
    """A slot as it should be in flash; fields of the header can be changed, its CRC is right."""
    values = IMAGE_HEADER.unpack(file[:IMAGE_HEADER_BYTES]) | {"sequence": sequence} | header
    sector = bytearray(b"\xff" * flash_map.SECTOR_BYTES)
    sector[:IMAGE_HEADER_BYTES] = pack_header(values)
    state = flash_map.STATE_OFFSET
    if confirmed:
        sector[state : state + 4] = flash_map.CONFIRMED.to_bytes(4, "little")
    sector[state + 4 : state + 4 + 4 * used] = bytes(4 * used)
    return bytes(sector) + file[IMAGE_HEADER_BYTES:]


def put(flash: NorFlash, slot: int, contents: bytes) -> None:
    at = LAYOUT.slot(slot)
    flash.data[at : at + len(contents)] = contents


class LoaderBench:
    """Drives a FlashLoader; ``power(flash)`` may be called again and again: each is a power-up."""

    def __init__(self, dut):
        import cocotb
        from cocotb.clock import Clock

        self.dut = dut
        self.rng = random.Random(int(os.environ["TWINSTACK_SEED"]))
        for name in (
            "host__cyc",
            "host__stb",
            "host__we",
            "page__cyc",
            "page__stb",
            "page__we",
            "csr__ack",
            "csr__err",
        ):
            getattr(dut, name).value = 0
        for bus in ("host", "page"):
            for name in ("adr", "dat_w", "sel", "cti"):
                getattr(dut, f"{bus}__{name}").value = 0
        dut.csr__dat_r.value = 0
        dut.rst.value = 1
        cocotb.start_soon(Clock(dut.clk, 10, "ns").start())
        self.device = None
        self.engine_task = cocotb.start_soon(self._engine())
        self.is_deaf = False
        self.forget()

    def forget(self) -> None:
        """Code memory of a freshly configured FPGA."""
        self.code = bytearray(DEFAULT + bytes(CONFIG.code_bytes - len(DEFAULT)))
        self.address, self.reset_cores = 0, 0xFF
        self.started = 0  # how often cores were let go
        self.refused = 0

    async def _engine(self):
        """The engine's registers that matter, with their timing."""
        from cocotb.triggers import RisingEdge

        dut = self.dut
        names = {register_offset(ENGINE, name) // 4: name for name in ("reset_cores", "code_address", "code_data")}
        ack = 0
        while True:
            await RisingEdge(dut.clk)
            if ack:
                ack = dut.csr__ack.value = 0
                continue
            if int(dut.csr__cyc.value) & int(dut.csr__stb.value) and not self.is_deaf:
                ack = dut.csr__ack.value = 1
                name, value = names.get(int(dut.csr__adr.value)), int(dut.csr__dat_w.value)
                if not int(dut.csr__we.value):
                    dut.csr__dat_r.value = 0x5A000000 | int(dut.csr__adr.value)
                elif name == "reset_cores":
                    self.reset_cores = value & 0xFF
                    self.started += value & 3 != 3
                elif name == "code_address":
                    self.address = value
                elif name == "code_data":
                    if self.reset_cores & 3 == 3 and self.address < len(self.code) // 4:
                        self.code[4 * self.address : 4 * self.address + 4] = value.to_bytes(4, "little")
                    else:
                        self.refused += 1
                    self.address += 1

    async def power(self, flash: NorFlash, **options) -> SpiDevice:
        from cocotb.triggers import ClockCycles

        if self.device is not None:
            self.device.task.cancel()
        self.dut.rst.value = 1
        for bus in ("host", "page"):
            getattr(self.dut, f"{bus}__cyc").value = getattr(self.dut, f"{bus}__stb").value = 0
        self.forget()
        await ClockCycles(self.dut.clk, 2)
        self.device = SpiDevice(self.dut, flash, **options)
        self.dut.rst.value = 0
        await ClockCycles(self.dut.clk, 2)
        return self.device

    def cut(self) -> None:
        """Pull the plug: what the flash was writing is torn."""
        self.device.cut(self.rng)
        self.device = None
        self.dut.rst.value = 1

    async def access(self, bus: str, word: int, data: int | None = None) -> int:
        from cocotb.triggers import RisingEdge

        dut = self.dut
        signal = {name: getattr(dut, f"{bus}__{name}") for name in ("cyc", "stb", "we", "adr", "dat_w", "sel")}
        signal["we"].value = data is not None
        signal["adr"].value, signal["dat_w"].value, signal["sel"].value = word, data or 0, 15
        signal["cyc"].value = signal["stb"].value = 1
        ack, err = getattr(dut, f"{bus}__ack"), getattr(dut, f"{bus}__err")
        for _ in range(300):
            await RisingEdge(dut.clk)
            if int(ack.value) or int(err.value):
                break
        else:
            raise AssertionError(f"no answer on {bus} at {word * 4:#x}")
        signal["cyc"].value = signal["stb"].value = 0
        return int(getattr(dut, f"{bus}__dat_r").value)

    async def read(self, name: str, index: int = 0) -> int:
        return await self.access("page", flash_map.offset(name, index) // 4)

    async def write(self, name: str, value: int, index: int = 0) -> None:
        await self.access("page", flash_map.offset(name, index) // 4, value)

    async def status(self) -> dict[str, int]:
        return flash_map.unpack("status", await self.read("status"))

    async def idle(self) -> dict[str, int]:
        """The status once the loader is not busy."""
        from cocotb.triggers import ClockCycles

        for _ in range(5_000):
            await ClockCycles(self.dut.clk, 200)
            if not (status := await self.status())["busy"]:
                return status
        raise AssertionError("the loader stays busy")

    async def command(self, command: Command, **registers: int) -> dict[str, int]:
        for name, value in registers.items():
            await self.write(name, value)
        await self.write("command", command)
        return await self.idle()
