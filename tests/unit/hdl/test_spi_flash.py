"""The flash controller against a flash after its data sheets."""

import os
import random

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

from support.nor_flash import NorFlash, SpiDevice

SIZE = 1 << 18


class Bench:
    def __init__(self, dut, **options):
        self.dut = dut
        self.rng = random.Random(int(os.environ["TWINSTACK_SEED"]))
        self.flash = NorFlash(SIZE, self.rng.randbytes(SIZE))
        self.device = SpiDevice(dut, self.flash, **options)

    async def start(self):
        dut = self.dut
        cocotb.start_soon(Clock(dut.clk, 10, "ns").start())
        for name in ("start", "command", "address", "length", "tx_data"):
            getattr(dut, name).value = 0
        dut.rst.value = 1
        await RisingEdge(dut.clk)
        dut.rst.value = 0
        await RisingEdge(dut.clk)

    async def run(self, command, address=0, length=0, data=b""):
        """Bytes read by ``command``, or None on an error."""
        from twinstack.spi_flash import FlashCommand

        dut = self.dut
        dut.command.value = FlashCommand[command].value
        dut.address.value, dut.length.value = address, length
        dut.start.value = 1
        await RisingEdge(dut.clk)
        dut.start.value = 0
        for name in ("command", "address", "length"):
            getattr(dut, name).value = self.rng.getrandbits(3)
        got = bytearray()
        for _ in range(100_000):
            await RisingEdge(dut.clk)
            index = int(dut.tx_index.value)
            dut.tx_data.value = data[index] if index < len(data) else 0
            if int(dut.rx_valid.value):
                got.append(int(dut.rx_data.value))
            if not int(dut.busy.value):
                return None if int(dut.error.value) else bytes(got)
        raise AssertionError("still busy")


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def commands(dut):
    bench = Bench(dut)
    await bench.start()
    rng, flash = bench.rng, bench.flash
    assert await bench.run("WAIT") == b""
    assert await bench.run("IDENTIFY", length=3) == bytes(SpiDevice.ID)
    for _ in range(40):
        expected = bytearray(flash.data)
        kind = rng.choice(("READ", "PROGRAM", "PROGRAM", "ERASE_SECTOR", "ERASE_BLOCK"))
        address = rng.randrange(SIZE - 256)
        if kind == "READ":
            length = rng.choice((1, 2, 7, 64))
            assert await bench.run(kind, address, length) == expected[address : address + length]
        elif kind == "PROGRAM":
            length = rng.choice((1, 4, 100, 256))
            data = rng.randbytes(length)
            assert await bench.run(kind, address, length, data) == b""
            for index, byte in enumerate(data):
                expected[(address & -256) + (address + index) % 256] &= byte
        else:
            assert await bench.run(kind, address) == b""
            size = 4096 if kind == "ERASE_SECTOR" else 65536
            expected[address & -size : (address & -size) + size] = b"\xff" * size
        assert flash.data == expected, (kind, hex(address))
        assert not bench.device.latch
    codes = {code for code, _, _ in bench.device.frames}
    assert codes >= {0x05, 0x9F, 0x03, 0x06, 0x02}


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def busy_flash_is_waited_for_and_not_for_ever(dut):
    bench = Bench(dut, busy_ns=lambda kind: 30_000)
    await bench.start()
    assert await bench.run("PROGRAM", 0, 1, b"\0") == b""
    bench.device.busy_ns = lambda kind: 1e6  # longer than timeout_cycles
    assert await bench.run("ERASE_SECTOR", 0) is None
    assert await bench.run("WAIT") is None
    bench.device.busy_until = 0
    assert await bench.run("WAIT") == b""
    assert await bench.run("READ", 0, 1) == b"\xff"


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def absent_flash_is_an_error_at_once(dut):
    bench = Bench(dut, is_absent=True)
    await bench.start()
    assert await bench.run("WAIT") is None
    assert await bench.run("IDENTIFY", length=3) == b"\xff\xff\xff"


@pytest.mark.parametrize("half", [1, 2, 3])
def test_spi_flash(half):
    from support.rtl import run_cocotb
    from twinstack.spi_flash import SpiFlash

    controller = SpiFlash(100_000_000, spi_hz=-(-50_000_000 // half), timeout_cycles=20_000)
    assert controller.half_cycles == half
    run_cocotb(controller, __file__)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"sync_hz": "x"}, TypeError, "sync_hz must be an integer, not 'x'"),
        ({"sync_hz": 10}, ValueError, "sync_hz must be 1 MHz to 500 MHz, not 10"),
        ({"sync_hz": 75_000_000, "spi_hz": 1000}, ValueError, "spi_hz must be at least 146485, not 1000"),
        ({"sync_hz": 75_000_000, "timeout_cycles": 0}, ValueError, "timeout_cycles must be 1 to 2147483648, not 0"),
    ],
)
def test_parameters(arguments, error, text):
    from twinstack.spi_flash import SpiFlash

    with pytest.raises(error, match=text):
        SpiFlash(**arguments)
