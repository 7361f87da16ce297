"""The host library's session through the loader against an SPI flash model of somebody else (cocotbext-qspi).

That model has write enable, AND-writes, sector erase and busy times; it has no page wrap, no 64 KiB erase and no torn writes.
"""

import cocotb
from cocotb.task import bridge
from cocotb.triggers import ClockCycles

from support.bench_link import BenchLink
from support.loader_bench import CONFIG, LAYOUT, LoaderBench, image
from twinstack.proto import flash_map
from twinstack.proto.abi import ABI_VERSION
from twinstack.proto.flash_map import Command, Source
from twinstack.proto.image import IMAGE_HEADER_BYTES
from twinstack_host.flash import confirm, list_slots, write_slot
from twinstack_host.loader import Loader


@cocotb.test(timeout_time=200, timeout_unit="ms")
async def session(dut):
    bench = LoaderBench(dut)
    await ClockCycles(dut.clk, 2)
    dut.rst.value = 0
    link = BenchLink(bench)
    assert (await bench.idle())["source"] == Source.DEFAULT
    rng = bench.rng
    assert await bridge(lambda: Loader(link).identify())() == bytes((0xEF, 0x40, 0x18))
    images = [image(rng, length, version) for version, length in enumerate((300, 700, 256), 1)]
    for turn, file in enumerate(images):
        written = await bridge(lambda file=file: write_slot(Loader(link), file, engine_abi=ABI_VERSION))()
        assert written.slot == turn % 2
        status = await bench.command(Command.BOOT)
        assert status["source"] == (Source.SLOT_A, Source.SLOT_B)[turn % 2] and status["attempt"] == 1
        body = file[IMAGE_HEADER_BYTES:]
        assert bench.code[: len(body)] == body and bench.reset_cores == 0
        confirmed = await bridge(lambda: confirm(link, Loader(link)))()
        assert confirmed.confirmed and confirmed.version == turn + 1
    slots = await bridge(lambda: list_slots(Loader(link), engine_abi=ABI_VERSION))()
    assert [(one.version, one.sequence, one.confirmed) for one in slots] == [(3, 3, True), (2, 2, True)]
    # A program can only clear bits.
    at = LAYOUT.slot(1) + flash_map.BODY_OFFSET + 0xF00
    first, second = rng.randbytes(16), rng.randbytes(16)
    for data in (first, second):
        await bridge(lambda data=data: Loader(link).program(at, data))()
    found = await bridge(lambda: Loader(link).read_flash(at, 16))()
    assert found == bytes(one & two for one, two in zip(first, second, strict=True))


def test_session_against_an_independent_flash():
    from pathlib import Path

    from amaranth import Instance, Module
    from amaranth.lib import wiring
    from amaranth.lib.wiring import connect, flipped
    from cocotbext.qspi import verilog_dir

    from support.rtl import run_cocotb
    from twinstack.flash_loader import FlashLoader

    class QspiBoard(wiring.Component):
        """The loader with the flash at its pins."""

        def __init__(self):
            self.loader = FlashLoader(CONFIG, LAYOUT, default_image=True, spi_hz=25_000_000, timeout_cycles=5000)
            members = self.loader.signature.members
            super().__init__({name: members[name] for name in ("host", "csr", "page")})

        def elaborate(self, platform):
            m = Module()
            m.submodules.loader = loader = self.loader
            for name in ("host", "csr", "page"):
                connect(m, getattr(loader, name), flipped(getattr(self, name)))
            pins = loader.pins
            m.submodules.flash = Instance(
                "qspi_wrapper", i_clk=pins.clk, i_cs=pins.cs, i_copi=pins.copi, o_cipo=pins.cipo
            )
            return m

    wrapper = Path(__file__).parents[2] / "support" / "qspi_wrapper.v"
    sources = [wrapper, Path(verilog_dir()) / "qspi_flash.v"]
    run_cocotb(QspiBoard(), __file__, sources=sources, build_args=["--timing", "-CFLAGS", "-std=c++20"])
