"""The plug pulled while the host library writes, boots and confirms an image: what boots next is the old image or the new one.

The session runs once, by the real host library through the loader's registers; the flash keeps what it held at each time. A cut
leaves nothing else behind, so each cut is a power-up with the contents of that moment; what was being written then is torn.
"""

import os

import cocotb
from cocotb.task import bridge
from cocotb.utils import get_sim_time

from support.bench_link import BenchLink
from support.loader_bench import CONFIG, DEFAULT, FLASH_BYTES, LAYOUT, LoaderBench, image, put, slot_contents
from support.nor_flash import NorFlash, SpiDevice
from twinstack.models import flash_loader as model
from twinstack.proto import flash_map
from twinstack.proto.abi import ABI_VERSION
from twinstack.proto.flash_map import Source
from twinstack.proto.image import IMAGE_HEADER_BYTES
from twinstack_host.flash import confirm, write_slot
from twinstack_host.loader import Loader

RANDOM_CUTS = 200
BODY = 300  # two pages


class RecordingDevice(SpiDevice):
    """Remembers every write: contents before it, when it began and when it ended."""

    def __init__(self, *arguments, history, **options):
        super().__init__(*arguments, **options)
        self.history = history

    def _execute(self, received):
        before = bytes(self.flash.data)
        super()._execute(received)
        if bytes(self.flash.data) != before or received[0] in (0x02, 0x20, 0xD8):
            self.history.append((self._now(), self.busy_until, before, self.writing))


async def recorded_session(bench, flash, new):
    """Write, power-cycle, confirm. Returns the flash's history, and the times of all commands' ends."""
    history, ends = [], []
    link = BenchLink(bench)

    async def power():
        device = await bench.power(flash)
        device.task.cancel()
        bench.device = device = RecordingDevice(bench.dut, flash, history=history)
        device.on_frame = lambda: ends.append(get_sim_time("ns"))
        await bench.idle()

    await power()
    await bridge(lambda: write_slot(Loader(link), new, engine_abi=ABI_VERSION))()
    await power()
    assert (await bench.status())["source"] in (Source.SLOT_A, Source.SLOT_B)
    await bridge(lambda: confirm(link, Loader(link)))()
    await bench.idle()
    return history, ends, get_sim_time("ns")


def contents_at(history, final, when, rng):
    """What the flash holds if the power goes at ``when``."""
    for began, ended, before, writing in reversed(history):
        if when >= ended:
            break
        if when >= began:
            flash = NorFlash(FLASH_BYTES, before)
            kind, address, what = writing
            (flash.tear_program if kind == "program" else flash.tear_erase)(address, what, rng)
            return bytes(flash.data)
        final = before
    return final


@cocotb.test(timeout_time=2000, timeout_unit="ms")
async def old_or_new_image_boots_after_a_cut(dut):
    bench = LoaderBench(dut)
    rng = bench.rng
    kind = os.environ["KIND"]
    mid, old, new = (image(rng, BODY, version) for version in (2, 1, 3))
    flash = NorFlash(FLASH_BYTES, rng.randbytes(LAYOUT.base))
    if kind != "empty":
        put(flash, 0, slot_contents(old, 1, confirmed=True))
    if kind == "full":
        put(flash, 1, slot_contents(mid, 2, confirmed=False, used=1))
    bitstream = bytes(flash.data[: LAYOUT.base])
    began = get_sim_time("ns")
    history, ends, end = await recorded_session(bench, flash, new)
    writes = [writing[0] for _, _, _, writing in history]
    # Two pages of the body, header, attempt, confirmation; the image on trial boots first, and uses an attempt.
    assert writes.count("erase") == 2 and writes.count("program") == 5 + (kind == "full")
    final = bytes(flash.data)
    times = [*ends, *(time + 1 for time in ends), *(rng.uniform(began, end) for _ in range(RANDOM_CUTS))]
    # Writes are a small part of the time: some more in the middle of them.
    times += [rng.uniform(*one[:2]) for one in history for _ in range(8)]
    allowed = {"empty": {DEFAULT}, "old": {old}, "full": {old, mid}}[kind] | {new}
    texts = {one if one is DEFAULT else one[IMAGE_HEADER_BYTES:] for one in allowed}
    seen, done = set(), set()
    for when in times:
        contents = contents_at(history, final, when, rng)
        assert contents[: LAYOUT.base] == bitstream
        if contents in done:  # the same flash boots the same
            continue
        done.add(contents)
        after = NorFlash(FLASH_BYTES, contents)
        expected = model.boot(
            NorFlash(FLASH_BYTES, contents), LAYOUT, code_bytes=CONFIG.code_bytes, data_bytes=CONFIG.data_bytes
        )
        await bench.power(after)
        status = await bench.idle()
        found = next((text for text in texts if bench.code[: len(text)] == text), None)
        assert found is not None, f"garbage after a cut at {when} ns"
        assert bench.reset_cores == 0 and bench.started == 1 and not status["held"]
        headers = [contents[LAYOUT.slot(n) : LAYOUT.slot(n) + 36].hex() for n in range(2)]
        assert status["source"] == expected.source, (when, status, expected, headers)
        seen.add(found)
    print(f"{len(times)} cuts, {len(ends)} commands, {len(done)} different contents")
    assert len(seen) >= 2 and new[IMAGE_HEADER_BYTES:] in seen
    state = LAYOUT.slot(0 if kind == "empty" else 1) + flash_map.STATE_OFFSET
    assert final[state : state + 4] == flash_map.CONFIRMED.to_bytes(4, "little")


def power_test(kind: str) -> None:
    from support.rtl import run_cocotb
    from twinstack.flash_loader import FlashLoader

    loader = FlashLoader(CONFIG, LAYOUT, default_image=True, spi_hz=50_000_000, timeout_cycles=5000)
    run_cocotb(loader, __file__, environment={"KIND": kind})


def test_plug_pulled_with_no_image():
    power_test("empty")


def test_plug_pulled_with_an_old_image():
    power_test("old")


def test_plug_pulled_with_an_image_on_trial():
    power_test("full")
