"""The loader against its model: any contents of the flash, every command, a host that interferes."""

import zlib

import cocotb
import pytest
from cocotb.triggers import ClockCycles

from support.loader_bench import CONFIG, DEFAULT, FLASH_BYTES, LAYOUT, LoaderBench, image, put, slot_contents
from support.nor_flash import NorFlash
from twinstack.models import flash_loader as model
from twinstack.proto import flash_map
from twinstack.proto.flash_map import Command, Error, SlotResult, Source
from twinstack.proto.image import IMAGE_HEADER_BYTES
from twinstack.proto.registers import ENGINE, register_offset

MEMORIES = {"code_bytes": CONFIG.code_bytes, "data_bytes": CONFIG.data_bytes}


def engine(name):
    return register_offset(ENGINE, name) // 4


async def compare(bench, flash, source=Source.DEFAULT, **options):
    """Power up with ``flash`` and compare everything with the model; returns what the model did."""
    copy = NorFlash(len(flash.data), bytes(flash.data))
    expected = model.boot(copy, LAYOUT, **MEMORIES, source=source)
    device = await bench.power(flash, **options)
    status = await bench.idle()
    assert [status["slot_a"], status["slot_b"]] == expected.results
    assert (status["source"], status["error"]) == (expected.source, expected.error)
    assert (status["attempt"], await bench.read("version"), await bench.read("sequence")) == (
        expected.attempt,
        expected.version,
        expected.sequence,
    )
    body = DEFAULT if expected.body is None else expected.body
    assert bench.code[: len(body)] == body and bench.refused == 0
    assert bench.reset_cores == 0 and bench.started == 1 and not status["held"] and not status["locked"]
    assert flash.data == copy.data
    return expected, device


@cocotb.test(timeout_time=100, timeout_unit="ms")
async def boots_what_the_model_boots(dut):
    bench = LoaderBench(dut)
    rng = bench.rng
    seen = set()
    spoils = {
        SlotResult.MAGIC: {"magic": 0xFFFF_FFFF},
        SlotResult.ABI: {"abi": 99},
        SlotResult.BOARD: {"code_kib": 8},
        SlotResult.LENGTH: {"length": 6},
    }
    for turn in range(40):
        flash = NorFlash(FLASH_BYTES)
        for slot in range(2):
            file = image(rng, 4 * rng.randrange(1, 20), rng.getrandbits(24))
            header = rng.choice((*([{}] * 8), *spoils.values(), {"length": 0}, {"length": 4100}, {"length": 1 << 30}))
            contents = bytearray(
                slot_contents(file, rng.randrange(4), confirmed=rng.random() < 0.4, used=rng.randrange(4), **header)
            )
            if turn % 3 == 0:  # a flipped bit: in the header, or in the body
                at = rng.choice((rng.randrange(IMAGE_HEADER_BYTES), rng.randrange(4096, len(contents))))
                contents[at] ^= 1 << rng.randrange(8)
            if rng.random() < 0.9:
                put(flash, slot, contents)
        expected, _ = await compare(bench, flash)
        seen |= {*expected.results, expected.source}
        if turn < 3:  # images that are never confirmed come to their end, one after the other
            for _ in range(2 * flash_map.ATTEMPTS):
                expected, _ = await compare(bench, flash)
            assert expected.attempt == 0
    assert seen >= {Source.DEFAULT, Source.SLOT_A, Source.SLOT_B, SlotResult.GOOD}


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def each_spoiled_header_is_named(dut):
    bench = LoaderBench(dut)
    file = image(bench.rng, 16)
    for expected, header in (
        (SlotResult.ABI, {"abi": 99, "length": 3}),
        (SlotResult.BOARD, {"data_kib": 9, "length": 3}),
        (SlotResult.LENGTH, {"length": 3}),
        (SlotResult.LENGTH, {"length": CONFIG.code_bytes + 4}),
        (SlotResult.MAGIC, {"magic": 0, "abi": 99}),
    ):
        flash = NorFlash(FLASH_BYTES)
        put(flash, 1, slot_contents(file, 1, confirmed=True, **header))
        done, _ = await compare(bench, flash)
        assert done.results == [SlotResult.MAGIC, expected]
    flash = NorFlash(FLASH_BYTES)
    contents = bytearray(slot_contents(file, 1, confirmed=True))
    contents[13] ^= 1
    put(flash, 0, contents)
    assert (await compare(bench, flash))[0].results[0] == SlotResult.HEADER_CRC
    contents[13] ^= 1
    contents[flash_map.BODY_OFFSET] ^= 1
    put(flash, 0, contents)
    assert (await compare(bench, flash))[0].results[0] == SlotResult.BODY_CRC


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def copy_that_fails_leaves_the_other_slot_or_holds_the_cores(dut):
    """The flash reads well in the first pass, and badly in the second."""
    bench = LoaderBench(dut)
    rng = bench.rng
    old, new = image(rng, 32, 1), image(rng, 32, 2)
    for has_old in (True, False):
        flash = NorFlash(FLASH_BYTES)
        if has_old:
            put(flash, 0, slot_contents(old, 1, confirmed=True))
        put(flash, 1, slot_contents(new, 2, confirmed=True))
        reads = [0]

        def corrupt(address, byte, reads=reads):
            if address == LAYOUT.slot(1) + flash_map.BODY_OFFSET + 8:
                reads[0] += 1
                return byte ^ (reads[0] == 2)
            return byte

        device = await bench.power(flash)
        device.corrupt = corrupt
        status = await bench.idle()
        assert status["slot_b"] == SlotResult.COPY
        if has_old:
            assert status["source"] == Source.SLOT_A and bench.code[:32] == old[IMAGE_HEADER_BYTES:]
            assert bench.reset_cores == 0 and not status["held"]
        else:
            assert (status["source"], status["error"]) == (Source.NONE, Error.NO_IMAGE)
            assert status["held"] and status["locked"] and bench.started == 0
            await bench.access("host", engine("reset_cores"), 0)
            assert bench.started == 0 and await bench.read("refused") == 1
            # The next attempt finds it good.
            status = await bench.command(Command.BOOT)
            assert status["source"] == Source.SLOT_B and not status["held"] and bench.reset_cores == 0


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def attempt_that_cannot_be_written_does_not_boot(dut):
    bench = LoaderBench(dut)
    flash = NorFlash(FLASH_BYTES)
    put(flash, 0, slot_contents(image(bench.rng, 8, 1), 1, confirmed=True))
    put(flash, 1, slot_contents(image(bench.rng, 8, 2), 2, confirmed=False))
    flash.program = lambda address, data: None  # write protected
    await bench.power(flash)
    status = await bench.idle()
    assert (status["source"], status["slot_b"]) == (Source.SLOT_A, SlotResult.NOT_RECORDED)
    del flash.program
    await bench.power(flash, busy_ns=lambda kind: 1e9)
    status = await bench.idle()
    # The flash answers nothing but its status any more: slot A cannot be read either.
    assert (status["source"], status["slot_b"]) == (Source.DEFAULT, SlotResult.FLASH) and bench.reset_cores == 0


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def absent_flash_leaves_the_default_image(dut):
    bench = LoaderBench(dut)
    await bench.power(NorFlash(FLASH_BYTES), is_absent=True)
    status = await bench.idle()
    assert (status["source"], status["error"], status["slot_a"]) == (Source.DEFAULT, Error.FLASH, SlotResult.FLASH)
    assert bench.reset_cores == 0 and bench.code[: len(DEFAULT)] == DEFAULT


@cocotb.test(timeout_time=20, timeout_unit="ms")
async def engine_that_does_not_answer(dut):
    bench = LoaderBench(dut)
    flash = NorFlash(FLASH_BYTES)
    put(flash, 0, slot_contents(image(bench.rng, 8), 1, confirmed=True))
    bench.is_deaf = True
    await bench.power(flash)
    status = await bench.idle()
    assert (status["error"], status["held"]) == (Error.BUS, 1)
    bench.is_deaf = False
    status = await bench.command(Command.BOOT)
    assert (status["error"], status["held"], status["source"]) == (Error.NONE, 0, Source.SLOT_A)


@cocotb.test(timeout_time=50, timeout_unit="ms")
async def host_loads(dut):
    bench = LoaderBench(dut)
    rng = bench.rng
    flash = NorFlash(FLASH_BYTES)
    put(flash, 0, slot_contents(image(rng, 16, 7), 1, confirmed=True))
    await bench.power(flash)
    await bench.idle()
    for fault in (None, "crc", "length", "none", None, "order"):
        body = rng.randbytes(4 * rng.randrange(1, 40))
        before = bench.started
        if fault != "order":
            status = await bench.command(Command.LOAD_BEGIN)
            assert status["locked"] and status["held"] and bench.reset_cores == 0xFF
            # Until the end, the host cannot let the cores run, nor touch code memory.
            refused = await bench.read("refused")
            for name in ("reset_cores", "code_address", "code_data"):
                await bench.access("host", engine(name), 0)
            assert await bench.read("refused") == (refused + 3) & 0xFFFF
            for at in range(0, 0 if fault == "none" else len(body), 4):
                await bench.write("stream", int.from_bytes(body[at : at + 4], "little"))
                if rng.random() < 0.2:
                    assert await bench.access("host", 0x123) == 0x5A000123
            if fault != "none":
                assert (await bench.status())["source"] == Source.NONE
        length = len(body) + 4 * (fault == "length") if fault != "none" else 0
        status = await bench.command(
            Command.LOAD_FINISH, length=length, expected_crc=zlib.crc32(body) ^ (fault == "crc")
        )
        assert bench.started == before
        if fault is None:
            assert status["error"] == Error.NONE and status["source"] == Source.HOST and not status["locked"]
            assert bench.code[: len(body)] == body and await bench.read("crc") == zlib.crc32(body)
            assert await bench.read("streamed") == len(body)
            await bench.access("host", engine("reset_cores"), 0)
            assert bench.reset_cores == 0
        else:
            errors = {"crc": Error.CRC, "length": Error.LENGTH, "none": Error.LENGTH, "order": Error.SEQUENCE}
            assert status["error"] == errors[fault]
            assert status["locked"] == (fault != "order")
            status = await bench.command(Command.BOOT)
            assert (status["source"], status["locked"], status["held"]) == (Source.SLOT_A, 0, 0)
            assert bench.reset_cores == 0 and await bench.read("version") == 7
    # Words past the loader are taken, but never started by it.
    await bench.access("host", engine("reset_cores"), 3)
    await bench.access("host", engine("code_data"), 1)
    await ClockCycles(dut.clk, 4)
    assert (await bench.status())["source"] == Source.UNCHECKED
    flash.erase(LAYOUT.slot(0), 4096)
    status = await bench.command(Command.BOOT)
    assert (status["source"], status["error"], status["held"]) == (Source.UNCHECKED, Error.NO_IMAGE, 1)
    assert status["locked"] == 0 and bench.reset_cores == 0xFF


@cocotb.test(timeout_time=50, timeout_unit="ms")
async def host_cannot_disturb_a_boot(dut):
    bench = LoaderBench(dut)
    rng = bench.rng
    file = image(rng, 400)
    flash = NorFlash(FLASH_BYTES)
    put(flash, 1, slot_contents(file, 1, confirmed=True))
    await bench.power(flash)
    while (await bench.status())["busy"]:
        name = rng.choice(("reset_cores", "code_address", "code_data", "seed"))
        await bench.access("host", engine(name), 0)
        assert await bench.access("host", 0x1234) == 0x5A001234
        await bench.write("stream", rng.getrandbits(32))
        await bench.write("command", rng.randrange(1, 10))
        await ClockCycles(dut.clk, rng.randrange(20))
    assert bench.code[:400] == file[IMAGE_HEADER_BYTES:] and bench.started == 1


@cocotb.test(timeout_time=50, timeout_unit="ms")
async def flash_commands(dut):
    bench = LoaderBench(dut)
    rng = bench.rng
    flash = NorFlash(FLASH_BYTES, rng.randbytes(FLASH_BYTES))
    await bench.power(flash)
    await bench.idle()
    copy = NorFlash(FLASH_BYTES, bytes(flash.data))
    page = model.LoaderModel(copy, LAYOUT, CONFIG.code_bytes, CONFIG.data_bytes, DEFAULT)
    assert await bench.read("identity") == flash_map.IDENTITY
    for name in ("identity", "map_version", "profile", "slots_base", "slot_bytes"):
        assert await bench.read(name) == page.read(flash_map.offset(name)), name
    kinds = (
        Command.READ,
        Command.PROGRAM,
        Command.ERASE_SECTOR,
        Command.ERASE_BLOCK,
        Command.IDENTIFY,
        Command.CRC,
        15,
        200,
    )
    for _ in range(40):
        command = rng.choice(kinds)
        address = rng.choice((rng.randrange(FLASH_BYTES), LAYOUT.base + rng.randrange(2 * LAYOUT.slot_bytes)))
        length = rng.choice((0, 1, 5, 256, 257, rng.randrange(1, 257)))
        if command == Command.PROGRAM:
            for index in range(64):
                value = rng.getrandbits(32)
                await bench.write("buffer", value, index)
                page.write(flash_map.offset("buffer", index), value)
            if rng.random() < 0.6:
                address, length = address & -256, rng.randrange(1, 257)
        if command == Command.CRC:
            length = rng.randrange(1, 600)
        for name, value in (("address", address), ("length", length), ("command", command)):
            page.write(flash_map.offset(name), value)
        status = await bench.command(command, address=address, length=length)
        assert status["error"] == page.error, (command, hex(address), length)
        assert flash.data == copy.data
        if command in (Command.READ, Command.IDENTIFY) and not page.error:
            count = 3 if command == Command.IDENTIFY else length
            got = b"".join([(await bench.read("buffer", n)).to_bytes(4, "little") for n in range(-(-count // 4))])
            assert got[:count] == page.page[:count]
        if command == Command.CRC:
            assert await bench.read("crc") == page.registers["crc"]
    assert flash.data[: LAYOUT.base] == copy.data[: LAYOUT.base]


def loader(**options):
    from twinstack.flash_loader import FlashLoader

    return FlashLoader(CONFIG, LAYOUT, default_image=True, spi_hz=50_000_000, timeout_cycles=5000, **options)


def test_flash_loader():
    from support.rtl import run_cocotb

    run_cocotb(loader(), __file__)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (("x",), TypeError, "config must be an EngineConfig, not 'x'"),
        ((CONFIG, "x"), TypeError, "layout must be a FlashLayout, not 'x'"),
    ],
)
def test_parameters(arguments, error, text):
    from twinstack.flash_loader import FlashLoader

    with pytest.raises(error, match=text):
        FlashLoader(*arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"base": "x"}, TypeError, "base must be an integer, not 'x'"),
        ({"base": 4096}, ValueError, "base must be a multiple of 1048576, not 0, within 16 MiB, not 4096"),
        ({"slot_bytes": 12288}, ValueError, "slot_bytes must be a power of two from 8192 to 4194304, not 12288"),
    ],
)
def test_layout_parameters(arguments, error, text):
    with pytest.raises(error, match=text):
        flash_map.FlashLayout(**arguments)


def test_gate_parameters():
    from twinstack.host_gate import HostGate

    with pytest.raises(ValueError, match="cores must be 1 to 8, not 0"):
        HostGate(0)
