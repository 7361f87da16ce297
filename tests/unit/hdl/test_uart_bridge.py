"""The bridge by its pins: random commands against a plain model, and everything that can go wrong on a line."""

import os
import random

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge
from cocotb.utils import get_sim_time

from support.uart_line import Line
from twinstack.proto import bridge_map as bridge

CLOCK_PS = 10_000
SYNC_HZ = 100_000_000
STALL_CYCLES = 4000
MEMORY_BYTES = 4096
WIDTHS = {"memory": 30, "csr": 13, "loader": 14}


class Target:
    """A Wishbone target with words, random waits, errors and silence; checks the initiator's side of the protocol."""

    def __init__(self, dut, name, rng, bases):
        self.words = {}
        self.log = []
        self.silent = False
        self.rng = rng
        self.wait = 6
        self.pin = {
            pin: getattr(dut, f"{name}__{pin}")
            for pin in ("cyc", "stb", "we", "adr", "dat_w", "sel", "ack", "err", "dat_r")
        }
        self.limit = bases
        cocotb.start_soon(self._run(dut))

    async def _run(self, dut):
        pin = self.pin
        pin["ack"].value = pin["err"].value = 0
        while True:
            await RisingEdge(dut.clk)
            if not (pin["cyc"].value and pin["stb"].value) or self.silent:
                continue
            request = [int(pin[name].value) for name in ("adr", "we", "sel")]
            data = int(pin["dat_w"].value)
            for _ in range(self.rng.randrange(self.wait)):
                await RisingEdge(dut.clk)
                assert pin["stb"].value, "withdrawn"
            address, write, sel = request
            assert sel == 0xF
            good = address < self.limit
            if good and write:
                self.words[address] = data
            self.log.append((address, write))
            pin["err" if not good else "ack"].value = 1
            pin["dat_r"].value = self.words.get(address, address ^ 0x5A5A5A5A) if good else 0x11111111
            await RisingEdge(dut.clk)
            assert [int(pin[name].value) for name in ("adr", "we", "sel")] == request
            pin["ack"].value = pin["err"].value = 0
            pin["dat_r"].value = self.rng.getrandbits(32)
            await RisingEdge(dut.clk)


class Bench:
    def __init__(self, dut):
        self.dut = dut
        self.rng = random.Random(int(os.environ["TWINSTACK_SEED"]))
        self.bit = int(os.environ["DIVISOR"]) * CLOCK_PS
        self.line = Line(dut.rx, self.bit, self.rng)
        self.targets = {
            name: Target(dut, name, self.rng, limit)
            for name, limit in (("memory", MEMORY_BYTES // 4), ("csr", 1 << 13), ("loader", 1 << 14))
        }
        self.received = []

    async def start(self):
        dut = self.dut
        dut.rx.value = 1
        dut.rst.value = 1
        cocotb.start_soon(Clock(dut.clk, CLOCK_PS, "ps").start())
        await self.cycles(4)
        dut.rst.value = 0
        await self.cycles(2)
        cocotb.start_soon(self._listen())
        return self

    async def _listen(self):
        while True:
            value, _ = await self.line_in.receive(self.dut.tx)
            self.received.append(value)

    @property
    def line_in(self):
        return Line(None, self.bit, self.rng)

    async def cycles(self, count):
        for _ in range(count):
            await RisingEdge(self.dut.clk)

    async def quiet(self):
        """As long as it takes to be idle again, whatever was before."""
        await self.line.idle(1)
        await self.cycles(STALL_CYCLES + 30)

    async def send(self, data, gaps=False):
        for value in data:
            await self.line.send(value)
            if gaps and self.rng.random() < 0.1:
                await self.line.idle(self.rng.uniform(0, 10))
        await self.line.idle(0)

    async def take(self, count):
        """The next ``count`` bytes of the answer."""
        for _ in range(count * 12 * self.bit // CLOCK_PS + 5000):
            if len(self.received) >= count:
                break
            await RisingEdge(self.dut.clk)
        assert len(self.received) >= count, f"{count} bytes must come, not {self.received}"
        data, self.received = bytes(self.received[:count]), self.received[count:]
        return data

    async def read(self, address, count=1, fixed=False):
        await self.send(command(bridge.READ_FIXED if fixed else bridge.READ_INCREMENTING, address, count))
        data = await self.take(4 * count)
        return [int.from_bytes(data[n : n + 4], "big") for n in range(0, len(data), 4)]

    async def write(self, address, words, fixed=False):
        code = bridge.WRITE_FIXED if fixed else bridge.WRITE_INCREMENTING
        await self.send(command(code, address, len(words)) + words_be(words))
        await self.cycles(40)

    async def page(self, offset):
        return (await self.read(bridge.PAGE_BASE + offset))[0]

    async def is_idle(self):
        """It answers at once, with nothing left over from before."""
        assert not self.received, self.received
        assert await self.page(bridge.PAGE_IDENTITY) == bridge.IDENTITY
        value = self.rng.getrandbits(32)
        address = 4 * self.rng.randrange(MEMORY_BYTES // 4)
        await self.write(address, [value])
        assert await self.read(address) == [value]


def command(code, address, count):
    return bytes([code, count & 0xFF]) + (address >> 2).to_bytes(4, "big")


def words_be(words):
    return b"".join(word.to_bytes(4, "big") for word in words)


@cocotb.test(timeout_time=60, timeout_unit="ms")
async def commands_do_what_the_model_says(dut):
    """All commands, all areas, good and bad addresses, with gaps; the model is a dict for each area."""
    bench = await Bench(dut).start()
    rng = bench.rng
    model, errors = {}, 0

    def area_of(address):
        """Area and word; None where there is nothing."""
        if address < bridge.CSR_BASE:
            return ("memory", address // 4) if address < MEMORY_BYTES else None
        for name, base, size in (
            ("csr", bridge.CSR_BASE, bridge.CSR_BYTES),
            ("loader", bridge.LOADER_BASE, bridge.LOADER_BYTES),
        ):
            if base <= address < base + size:
                return name, (address - base) // 4
        return None

    starts = (0, MEMORY_BYTES - 16, bridge.CSR_BASE, bridge.CSR_BASE + bridge.CSR_BYTES - 16, bridge.LOADER_BASE)
    starts += (bridge.LOADER_BASE + bridge.LOADER_BYTES - 8, 0x7FFF_FFF0, 0x8003_0000, 0x9000_0000, 0xFFFF_FFF0, 0x40)
    starts += (bridge.PAGE_BASE + bridge.PAGE_BYTES,)
    for _ in range(60):
        code = rng.choice([1, 2, 3, 4])
        address = rng.choice(starts)
        count = rng.choice([1, 1, 2, 8, 20])
        where = [address + 4 * n * (code in (1, 2)) & 0x3_FFFF_FFFF for n in range(count)]
        places = [area_of(one) for one in where]
        errors += places.count(None)
        if code in (1, 3):
            words = [rng.getrandbits(32) for _ in range(count)]
            await bench.send(command(code, address, count) + words_be(words), gaps=True)
            model |= {place: word for place, word in zip(places, words, strict=True) if place}
            await bench.cycles(40)
        else:
            await bench.send(command(code, address, count), gaps=True)
            data = await bench.take(4 * count)
            expected = [
                bridge.NO_DATA if place is None else model.get(place, place[1] ^ 0x5A5A5A5A) for place in places
            ]
            assert data == words_be(expected), (hex(address), code, count)
    for name, target in bench.targets.items():
        assert target.words == {word: value for (area, word), value in model.items() if area == name}
    assert await bench.page(bridge.PAGE_BUS_ERRORS) == errors
    for offset in (bridge.PAGE_FRAMING_ERRORS, bridge.PAGE_TIMEOUTS, bridge.PAGE_DISCARDED):
        assert await bench.page(offset) == 0
    await bench.is_idle()


@cocotb.test(timeout_time=60, timeout_unit="ms")
async def longest_bursts_and_the_page(dut):
    """A length byte of 0 means 256 words, as in LiteX's hardware; the page tells what was built."""
    bench = await Bench(dut).start()
    words = [bench.rng.getrandbits(32) for _ in range(256)]
    await bench.write(0x400, words)
    assert await bench.read(0x400, 256) == words
    assert len(bench.targets["memory"].log) == 512
    page = await bench.read(bridge.PAGE_BASE, 16)
    divisor = bench.bit // CLOCK_PS
    assert page == [bridge.IDENTITY, bridge.VERSION, 0, MEMORY_BYTES, SYNC_HZ, divisor, STALL_CYCLES, *[0] * 9]
    await bench.write(bridge.PAGE_BASE, [0])  # read-only, and no error
    await bench.is_idle()
    assert await bench.page(bridge.PAGE_BUS_ERRORS) == 0


@cocotb.test(timeout_time=60, timeout_unit="ms")
async def pipelined_commands(dut):
    """Two more read commands may come while one is answered; one too many is dropped whole, not taken for another."""
    bench = await Bench(dut).start()
    commands = [command(2, 4 * n, 20) for n in range(3)]
    await bench.send(b"".join(commands))
    data = await bench.take(240)
    assert data == words_be([n + at ^ 0x5A5A5A5A for n in range(3) for at in range(20)])
    await bench.send(command(2, 0, 50) + b"".join(command(1, 4 * n, 1) + b"four" for n in range(30)))
    assert len(await bench.take(200)) == 200  # and the rest still comes
    await bench.quiet()
    bench.received.clear()
    assert not set(bench.targets["memory"].words) - {0}, "only the first write found room"
    assert await bench.page(bridge.PAGE_DISCARDED) >= 280
    await bench.is_idle()


@cocotb.test(timeout_time=60, timeout_unit="ms")
async def stalls_end(dut):
    """Cut anywhere, a command is forgotten after the time-out, and no broken word is written."""
    bench = await Bench(dut).start()
    rng = bench.rng
    full = command(1, 0x100, 3) + words_be([0x11111111] * 3)
    for number, cut in enumerate(range(1, len(full)), 1):
        bench.targets["memory"].words.clear()
        await bench.send(full[:cut])
        await bench.quiet()
        assert len(bench.targets["memory"].words) == max(0, (cut - 6) // 4)
        assert await bench.page(bridge.PAGE_TIMEOUTS) == number
    await bench.is_idle()
    # A pause that is just short of it does no harm.
    value = rng.getrandbits(32)
    data = command(1, 0x200, 1) + words_be([value])
    for byte in data:
        await bench.send([byte])
        await bench.cycles(STALL_CYCLES - 12 * bench.bit // CLOCK_PS)
    await bench.cycles(40)
    assert await bench.read(0x200) == [value]
    assert await bench.page(bridge.PAGE_TIMEOUTS) == len(full) - 1


@cocotb.test(timeout_time=60, timeout_unit="ms")
async def silent_bus(dut):
    """A bus that never answers costs a time-out for each word."""
    bench = await Bench(dut).start()
    bench.targets["csr"].silent = True
    await bench.send(command(2, bridge.CSR_BASE, 2))
    await bench.cycles(2 * STALL_CYCLES)
    assert await bench.take(8) == b"\xff" * 8
    await bench.send(command(1, bridge.CSR_BASE, 1) + b"word")
    await bench.cycles(STALL_CYCLES + 100)
    assert await bench.page(bridge.PAGE_BUS_ERRORS) == 3
    await bench.is_idle()
    bench.targets["csr"].silent = False
    await bench.write(bridge.CSR_BASE + 8, [7])
    assert await bench.read(bridge.CSR_BASE + 8) == [7]


@cocotb.test(timeout_time=60, timeout_unit="ms")
async def framing_errors(dut):
    """A bad byte in a command: nothing of it from there on is done, it is idle after the quiet time."""
    bench = await Bench(dut).start()
    rng = bench.rng
    bad = 0
    for _ in range(12):
        bench.targets["memory"].words.clear()
        full = command(1, 0x100, 4) + bytes([1, 4, 0, 0]) * 4  # what would be a command if taken for one
        at = rng.randrange(len(full))
        await bench.send(full[:at])
        await bench.line.send(full[at] | 1, stop=0)
        await bench.line.idle(1)
        await bench.send(full[at + 1 :])
        bad += 1
        await bench.quiet()
        assert set(bench.targets["memory"].words) == set(range(0x40, 0x40 + max(0, (at - 6) // 4)))
    assert await bench.page(bridge.PAGE_FRAMING_ERRORS) == bad
    await bench.is_idle()


@cocotb.test(timeout_time=60, timeout_unit="ms")
async def break_ends_a_command_at_once(dut):
    bench = await Bench(dut).start()
    full = command(1, 0x100, 2) + bytes(8)
    for cut in range(len(full)):
        await bench.send(full[:cut])
        await bench.line.hold(0, 15)
        await bench.line.idle(2)
        await bench.is_idle()
    # Also after a framing error, without the quiet time.
    await bench.send(full[:4])
    await bench.line.send(3, stop=0)
    await bench.line.idle(1)
    await bench.send(b"\1\1\1")
    await bench.line.hold(0, 15)
    await bench.line.idle(2)
    await bench.is_idle()


@cocotb.test(timeout_time=60, timeout_unit="ms")
async def bytes_that_are_no_command(dut):
    bench = await Bench(dut).start()
    others = bytes([0, *range(5, 256)])
    await bench.send(others)
    await bench.is_idle()
    assert await bench.page(bridge.PAGE_DISCARDED) == len(others)


@cocotb.test(timeout_time=200, timeout_unit="ms")
async def garbage_never_wedges(dut):
    """Random bytes, errors, breaks, spikes and wrong rates; after a quiet time it always answers."""
    bench = await Bench(dut).start()
    rng = bench.rng
    for _ in range(12):
        line = Line(dut.rx, bench.bit * rng.choice([0.3, 0.7, 1, 1, 1, 1.5, 3]), rng)
        for _ in range(rng.randrange(1, 60)):
            kind = rng.random()
            if kind < 0.7:
                await line.send(rng.choice([1, 2, 3, 4, rng.randrange(256)]), stop=rng.random() < 0.95)
            elif kind < 0.85:
                await line.hold(rng.randrange(2), rng.uniform(0.05, 15))
            else:
                await line.idle(rng.uniform(0.1, 3))
        dut.rx.value = 1
        # It may be in the middle of the longest answer.
        for _ in range(300):
            before = len(bench.received)
            await bench.cycles(STALL_CYCLES + 60 * bench.bit // CLOCK_PS)
            if len(bench.received) == before:
                break
        bench.received.clear()
        await bench.is_idle()


@cocotb.test(timeout_time=60, timeout_unit="ms")
async def clocks_differ(dut):
    bench = await Bench(dut).start()
    for factor in (0.98, 1.02):
        bench.line = Line(dut.rx, bench.bit * factor, bench.rng)
        words = [bench.rng.getrandbits(32) for _ in range(64)]
        await bench.write(0x80, words)
        assert await bench.read(0x80, 64) == words
    assert await bench.page(bridge.PAGE_FRAMING_ERRORS) == 0


@cocotb.test(timeout_time=60, timeout_unit="ms")
async def no_time_is_lost(dut):
    """A read takes its bytes and a few cycles; words of a burst follow each other without a gap, both ways."""
    bench = await Bench(dut).start()
    for target in bench.targets.values():
        target.wait = 1
    divisor = bench.bit // CLOCK_PS
    starts = []

    async def watch(count):
        line = Line(None, bench.bit, bench.rng)
        starts.extend(start for _, start in await line.watch(dut.tx, count))

    for words in (1, 64):
        starts.clear()
        watching = cocotb.start_soon(watch(4 * words))
        began = get_sim_time("ps")
        await bench.send(command(2, bridge.CSR_BASE, words))
        await watching
        cycles = (starts[-1] - began) // CLOCK_PS + 10 * divisor
        extra = cycles - (6 + 4 * words) * 10 * divisor
        dut._log.info(
            "read of %d words at divisor %d: %d cycles, %d more than its bytes", words, divisor, cycles, extra
        )
        assert -divisor <= extra <= 10
        assert starts == [starts[0] + 10 * bench.bit * n for n in range(4 * words)]
        await bench.take(4 * words)
    data = [bench.rng.getrandbits(32) for _ in range(64)]
    await bench.send(command(1, 0, 64) + words_be(data))
    await bench.cycles(10)
    assert len(bench.targets["memory"].words) == 64, "done ten cycles after the last stop bit"


@pytest.mark.parametrize("divisor", [4, 10])
def test_uart_bridge(divisor):
    from support.rtl import run_cocotb
    from twinstack.uart_bridge import UartBridge

    dut = UartBridge(SYNC_HZ, SYNC_HZ // divisor, memory_bytes=MEMORY_BYTES, stall_cycles=STALL_CYCLES)
    # A slower line shows nothing more of what is behind the receiver.
    some = (
        ["commands_do_what_the_model_says", "framing_errors", "clocks_differ", "no_time_is_lost"]
        if divisor > 4
        else None
    )
    run_cocotb(dut, __file__, testcase=some, name=f"uart_bridge{divisor}", environment={"DIVISOR": str(divisor)})


def test_parameters_are_checked():
    from twinstack.uart_bridge import UartBridge

    assert UartBridge(75_000_000).stall_cycles == 7_500_000
    for name, value in (("memory_bytes", 1 << 32), ("memory_base", -4), ("stall_cycles", 10)):
        with pytest.raises(ValueError, match=f"{name} must be.*not {value}"):
            UartBridge(75_000_000, **{name: value})
    with pytest.raises(TypeError, match="stall_cycles must be an integer"):
        UartBridge(75_000_000, stall_cycles=1.5)
    with pytest.raises(ValueError, match="baud must be"):
        UartBridge(75_000_000, 12_000_000)
