"""Host DMA engine in both directions against byte arrays: alignments, bounds, bus errors, fairness, core reset."""

import os
import random

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge, Timer

from twinstack.models.host_dma import Transfer, Window, carry_out, verdict

CORES = 2
BANK_BYTES = 24 * 1024
HOST_BASE = 0x4000_0000
HOST_BYTES = 128 * 1024
RX_BANK, TX_BANK, UNCACHED = 0x2000_0000, 0x2100_0000, 0x8000_0000
DONE, OUTSIDE_BANKS, OUTSIDE_WINDOWS, BUS_ERROR = range(4)
LIMIT = {"timeout_time": 2000, "timeout_unit": "us"}


class Bench:
    def __init__(self, dut, *, bus_wait=0.0, ram_wait=0.0):
        from support.host_memory import RequestRam

        self.dut = dut
        self.rng = rng = random.Random(int(os.environ["TWINSTACK_SEED"]))
        self.is_out = os.environ["DIRECTION"] == "out"
        cocotb.start_soon(Clock(dut.clk, 10, "ns").start())
        self.host = bytearray(rng.randbytes(HOST_BYTES))
        self.bus_wait = bus_wait
        self.resume_host()
        self.banks = {}
        self.rams = {}
        for core in range(CORES):
            for name, base in (("tx", TX_BANK), ("rx", RX_BANK)):
                if name == "tx" or self.is_out:
                    self.banks[core, base] = bytearray(rng.randbytes(BANK_BYTES))
                    self.rams[core, base] = RequestRam(
                        dut, f"{name}_bank{core}", self.banks[core, base], rng, wait=ram_wait
                    )
            for name in ("go", "completion_pop", "local", "host_address", "length", "tag", "host"):
                self.port(core, name).value = 0
        dut.core_reset.value = 0
        dut.rst.value = 0
        self.windows([(HOST_BASE, HOST_BASE + HOST_BYTES - 1, 1, 1)])

    def resume_host(self):
        """A fresh host on the bus."""
        from support.host_memory import HostMemory

        self.bus = HostMemory(self.dut, "bus", self.host, self.rng, base=HOST_BASE, wait=self.bus_wait)

    def port(self, core, name):
        return getattr(self.dut, f"queue{core}__{name}")

    def windows(self, windows):
        value = 0
        for index, (base, limit, read, write) in enumerate(windows):
            value |= (base | limit << 32 | read << 64 | write << 65) << 66 * index
        self.dut.windows.value = value

    async def cycles(self, count=1):
        for _ in range(count):
            await RisingEdge(self.dut.clk)
        await Timer(2, "ns")

    async def queue(self, core, local, host_address, length, tag, *, host=0):
        """Put a transfer into the queue; the command is taken at the edge this waits for."""
        for name, value in (
            ("local", local),
            ("host_address", host_address),
            ("length", length),
            ("tag", tag),
            ("host", host),
            ("go", 1),
        ):
            self.port(core, name).value = value
        await self.cycles()
        self.port(core, "go").value = 0

    async def completion(self, core):
        await Timer(1, "ns")
        while not int(self.port(core, "completion_valid").value):
            await self.cycles()
        result = int(self.port(core, "completion_tag").value), int(self.port(core, "completion_status").value)
        self.port(core, "completion_pop").value = 1
        await self.cycles()
        self.port(core, "completion_pop").value = 0
        await Timer(1, "ns")
        return result

    def copy(self, core, local, host_address, length, host, banks):
        """The reference: what the transfer does to copies of the memories."""
        carry_out(
            Transfer(local, host_address, length),
            is_out=self.is_out,
            banks={base: bank for (owner, base), bank in banks.items() if owner == core},
            host=host,
            host_base=HOST_BASE,
        )

    def images(self):
        return bytearray(self.host), {key: bytearray(bank) for key, bank in self.banks.items()}

    def base(self):
        return self.rng.choice([RX_BANK, TX_BANK]) if self.is_out else TX_BANK


@cocotb.test(**LIMIT)
async def every_alignment_and_short_length(dut):
    bench = Bench(dut, bus_wait=0.3, ram_wait=0.3)
    await bench.cycles(3)
    tag = 0
    for source in range(4):
        for destination in range(4):
            for length in range(1, 14):
                host, banks = bench.images()
                core = bench.rng.randrange(CORES)
                local = bench.base() + 4 * bench.rng.randrange(1000) + source | bench.rng.choice([0, UNCACHED])
                address = HOST_BASE + 4 * bench.rng.randrange(1000) + destination
                await bench.queue(core, local, address, length, tag)
                assert await bench.completion(core) == (tag, DONE)
                bench.copy(core, local, address, length, host, banks)
                assert (host, banks) == bench.images(), (source, destination, length)
                tag += 1
    assert not int(dut.busy.value)


@cocotb.test(**LIMIT)
async def random_transfers_of_both_cores(dut):
    bench = Bench(dut, bus_wait=0.2, ram_wait=0.2)
    await bench.cycles(3)
    host, banks = bench.images()

    async def work(core):
        # Each core has its own half of host memory, so that the order between cores does not matter.
        half = HOST_BASE + core * HOST_BYTES // 2
        waiting = []
        for number in range(40):
            length = bench.rng.choice([bench.rng.randrange(1, 12), bench.rng.randrange(1, 400)])
            local = bench.base() + bench.rng.randrange(BANK_BYTES - length + 1)
            address = half + bench.rng.randrange(HOST_BYTES // 2 - length + 1)
            while not int(bench.port(core, "space").value):
                assert waiting
                expected = waiting.pop(0)
                assert await bench.completion(core) == expected
            await bench.queue(core, local, address, length, number)
            bench.copy(core, local, address, length, host, banks)
            waiting.append((number, DONE))
            await bench.cycles(bench.rng.choice([1, 1, 200]))
        for expected in waiting:
            assert await bench.completion(core) == expected

    tasks = [cocotb.start_soon(work(core)) for core in range(CORES)]
    for task in tasks:
        await task
    assert (host, banks) == bench.images()


@cocotb.test(**LIMIT)
async def long_transfers_are_fast_at_every_alignment(dut):
    bench = Bench(dut)
    await bench.cycles(3)
    slowest = 1.0
    for skew in range(16):
        host, banks = bench.images()
        length = 6000
        local, address = TX_BANK + 512 + skew % 4, HOST_BASE + 0x300 + skew // 4
        begun = cocotb.utils.get_sim_time("ns")
        await bench.queue(1, local, address, length, skew)
        while not int(bench.port(1, "completion_valid").value):
            await bench.cycles()
        cycles = (cocotb.utils.get_sim_time("ns") - begun) / 10
        slowest = min(slowest, length / 4 / cycles)
        assert length / 4 / cycles >= 0.9, (skew, cycles)
        assert await bench.completion(1) == (skew, DONE)
        bench.copy(1, local, address, length, host, banks)
        assert (host, banks) == bench.images()
    dut._log.info(f"{slowest:.3f} words per cycle at the slowest alignment")


@cocotb.test(**LIMIT)
async def transfer_of_whole_bank(dut):
    bench = Bench(dut)
    await bench.cycles(3)
    host, banks = bench.images()
    await bench.queue(0, TX_BANK, HOST_BASE + 1, BANK_BYTES, 9)
    assert await bench.completion(0) == (9, DONE)
    bench.copy(0, TX_BANK, HOST_BASE + 1, BANK_BYTES, host, banks)
    assert (host, banks) == bench.images()


@cocotb.test(**LIMIT)
async def refused_transfer_touches_nothing(dut):
    bench = Bench(dut)
    await bench.cycles(3)
    low, high = HOST_BASE + 0x1000, HOST_BASE + 0x1FFF
    right = (0, 1) if bench.is_out else (1, 0)
    wrong = right[::-1]
    bench.windows(
        [
            (low, high, *right),
            (high + 1, high + 0x1000, *right),  # touches the first
            (HOST_BASE + 0x4000, HOST_BASE + 0x4FFF, *wrong),
            (0xFFFF_FF00, 0xFFFF_FFFF, *right),
        ]
    )
    bad = [(local, low, 16, 0, OUTSIDE_BANKS) for local in (0, 0x1000_0000, 0x2200_0000, 0x1FFF_FFFF, 0xF000_0000)]
    bad += [
        (TX_BANK, low, 0, 0, OUTSIDE_BANKS),
        (TX_BANK + BANK_BYTES - 15, low, 16, 0, OUTSIDE_BANKS),
        (TX_BANK + BANK_BYTES, low, 1, 0, OUTSIDE_BANKS),
        (TX_BANK + 0xFF_FFFF, low, 16, 0, OUTSIDE_BANKS),
        (TX_BANK, low, 65535, 0, OUTSIDE_BANKS),
        (0, 0, 0, 0, OUTSIDE_BANKS),
        (TX_BANK, low - 1, 16, 0, OUTSIDE_WINDOWS),
        (TX_BANK, high - 14, 16, 0, OUTSIDE_WINDOWS),  # across two windows
        (TX_BANK, HOST_BASE + 0x4000, 16, 0, OUTSIDE_WINDOWS),  # wrong direction
        (TX_BANK, 0, 16, 0, OUTSIDE_WINDOWS),
        (TX_BANK, 0xFFFF_FFF8, 9, 0, OUTSIDE_WINDOWS),  # past the end of the address space
        (TX_BANK, 0xFFFF_FFFF, 2, 0, OUTSIDE_WINDOWS),
        (TX_BANK, low, 16, 1, OUTSIDE_WINDOWS),  # no such host
        (TX_BANK, low, 16, 3, OUTSIDE_WINDOWS),
    ]
    bad += (
        [(RX_BANK + BANK_BYTES - 3, low, 4, 0, OUTSIDE_BANKS)]
        if bench.is_out
        else [(RX_BANK, low, 4, 0, OUTSIDE_BANKS)]
    )
    before = bench.images()
    for number, (local, address, length, host, status) in enumerate(bad):
        await bench.queue(number % CORES, local, address, length, number, host=host)
        assert await bench.completion(number % CORES) == (number, status), bad[number]
    await bench.cycles(5)
    assert before == bench.images()
    assert not bench.bus.log and not any(ram.log for ram in bench.rams.values())
    # The edges of a window, and of a bank, belong to it.
    host, banks = before
    for local, address, length in (
        (TX_BANK, low, high - low + 1),
        (TX_BANK + BANK_BYTES - 4, high - 3, 4),
        (TX_BANK, high + 1, 1),
    ):
        await bench.queue(0, local, address, length, 1)
        assert await bench.completion(0) == (1, DONE)
        bench.copy(0, local, address, length, host, banks)
    assert (host, banks) == bench.images()


@cocotb.test(**LIMIT)
async def random_windows_match_a_model(dut):
    bench = Bench(dut)
    await bench.cycles(3)
    for number in range(80):
        windows = []
        for _ in range(4):
            base = HOST_BASE + bench.rng.randrange(200)
            windows.append((base, base + bench.rng.randrange(-3, 80), bench.rng.randrange(2), bench.rng.randrange(2)))
        bench.windows(windows)
        address, length = HOST_BASE + bench.rng.randrange(200), bench.rng.randrange(1, 60)
        status = verdict(
            Transfer(TX_BANK, address, length),
            is_out=bench.is_out,
            banks={TX_BANK: BANK_BYTES},
            windows=[Window(*window) for window in windows],
        )
        host, banks = bench.images()
        await bench.queue(0, TX_BANK, address, length, number)
        assert await bench.completion(0) == (number, status)
        if status == DONE:
            bench.copy(0, TX_BANK, address, length, host, banks)
        assert (host, banks) == bench.images()


@cocotb.test(**LIMIT)
async def bus_error_stops_at_once(dut):
    bench = Bench(dut, bus_wait=0.3, ram_wait=0.3)
    await bench.cycles(3)
    for number in range(30):
        length = bench.rng.randrange(1, 200)
        address = HOST_BASE + 0x100 + bench.rng.randrange(4)
        broken = (address + bench.rng.randrange(length)) & ~3
        bench.bus.errors = {broken}
        bench.bus.log.clear()
        await bench.queue(0, TX_BANK + bench.rng.randrange(4), address, length, number)
        assert await bench.completion(0) == (number, BUS_ERROR)
        await bench.cycles(8)
        assert bench.bus.log[-1][1] == broken and not int(dut.bus__cyc.value) and not int(dut.busy.value)
        # The next transfer is not disturbed by what was left.
        bench.bus.errors = set()
        host, banks = bench.images()
        await bench.queue(1, TX_BANK + 1, HOST_BASE + 7, 33, 77)
        assert await bench.completion(1) == (77, DONE)
        bench.copy(1, TX_BANK + 1, HOST_BASE + 7, 33, host, banks)
        assert (host, banks) == bench.images()


@cocotb.test(**LIMIT)
async def queue_and_completions_never_overflow(dut):
    bench = Bench(dut)
    await bench.cycles(3)
    bench.bus.paused = True
    accepted = []
    for number in range(60):
        if number == 30:
            bench.bus.paused = False
            await bench.cycles(600)
        if int(bench.port(0, "space").value):
            accepted.append(number)
        await bench.queue(0, TX_BANK, HOST_BASE, 4, number)
    await bench.cycles(600)
    assert int(bench.port(0, "space").value) == 0
    assert len(accepted) == 16
    for number in accepted:
        assert await bench.completion(0) == (number, DONE)
    await bench.cycles(5)
    assert not int(bench.port(0, "completion_valid").value)
    assert int(bench.port(0, "space").value) == 8
    bench.port(0, "completion_pop").value = 1  # nothing to remove
    await bench.cycles(2)
    bench.port(0, "completion_pop").value = 0
    await bench.cycles(2)
    assert int(bench.port(0, "space").value) == 8


@cocotb.test(**LIMIT)
async def cores_take_turns(dut):
    bench = Bench(dut)
    await bench.cycles(3)
    bench.bus.paused = True
    for core in range(CORES):
        for number in range(6):
            await bench.queue(core, TX_BANK, HOST_BASE + 0x1000 * (core + 1), 4, number)
    bench.bus.paused = False
    for core in range(CORES):
        for number in range(6):
            assert await bench.completion(core) == (number, DONE)
    order = [address >> 12 & 0xF for _, address, _ in bench.bus.log]
    # The first may have begun before the other core had queued anything.
    assert all(left != right for left, right in zip(order[1:], order[2:], strict=False)), order


@cocotb.test(**LIMIT)
async def long_transfer_delays_the_other_core_by_one_turn(dut):
    bench = Bench(dut)
    await bench.cycles(3)
    host, banks = bench.images()
    await bench.queue(0, TX_BANK + 1, HOST_BASE + 2, 20_000, 9)
    bench.copy(0, TX_BANK + 1, HOST_BASE + 2, 20_000, host, banks)
    slowest = 0
    for number in range(8):
        await bench.cycles(bench.rng.randrange(300))
        begun = cocotb.utils.get_sim_time("ns")
        local, address = TX_BANK + number, HOST_BASE + 0x10000 + 64 * number
        await bench.queue(1, local, address, 40, number)
        assert await bench.completion(1) == (number, DONE)
        bench.copy(1, local, address, 40, host, banks)
        slowest = max(slowest, (cocotb.utils.get_sim_time("ns") - begun) / 10)
    assert not int(bench.port(0, "completion_valid").value), "the long transfer must still run"
    dut._log.info(f"at most {slowest} cycles for 10 words")
    assert slowest <= 280 + 40
    assert await bench.completion(0) == (9, DONE)
    assert (host, banks) == bench.images()


@cocotb.test(**LIMIT)
async def long_transfers_share_evenly(dut):
    bench = Bench(dut)
    await bench.cycles(3)
    bench.bus.paused = True
    for core in range(CORES):
        await bench.queue(core, TX_BANK, HOST_BASE + 0x8000 * core, 16 * 1024, core)
    bench.bus.paused = False
    shares = [0, 0]
    served = 0
    while not any(int(bench.port(core, "completion_valid").value) for core in range(CORES)):
        await bench.cycles(100)
        for _, address, _ in bench.bus.log[served:]:
            shares[(address - HOST_BASE) // 0x8000] += 1
        served = len(bench.bus.log)
        assert abs(shares[0] - shares[1]) <= 256, shares
    for core in range(CORES):
        assert await bench.completion(core) == (core, DONE)


@cocotb.test(**LIMIT)
async def bus_without_an_answer_is_given_up(dut):
    from twinstack.host_dma import TIMEOUT_CYCLES

    bench = Bench(dut)
    await bench.cycles(3)
    for words_before in (0, 1, 70):
        bench.bus.log.clear()
        begun = cocotb.utils.get_sim_time("ns")
        await bench.queue(0, TX_BANK + 2, HOST_BASE + 0x81, 3000, 3)
        await bench.queue(1, TX_BANK + 3, HOST_BASE + 0x5001, 50, 4)
        while len(bench.bus.log) < words_before:
            await bench.cycles()
        bench.bus.close()  # the host is gone
        for name in ("ack", "err"):
            getattr(dut, f"bus__{name}").value = 0
        assert await bench.completion(0) == (3, BUS_ERROR)
        cycles = (cocotb.utils.get_sim_time("ns") - begun) / 10
        assert TIMEOUT_CYCLES <= cycles <= TIMEOUT_CYCLES + 300, cycles
        # Each transfer is bounded by itself; then the bus is free.
        assert await bench.completion(1) == (4, BUS_ERROR)
        await bench.cycles(3)
        assert not int(dut.bus__cyc.value) and not int(dut.bus__stb.value) and not int(dut.busy.value)
        # The host is back.
        bench.resume_host()
        host, banks = bench.images()
        await bench.queue(1, TX_BANK + 1, HOST_BASE + 7, 333, 77)
        assert await bench.completion(1) == (77, DONE)
        bench.copy(1, TX_BANK + 1, HOST_BASE + 7, 333, host, banks)
        assert (host, banks) == bench.images()


@cocotb.test(**LIMIT)
async def answer_in_the_last_moment_counts(dut):
    from twinstack.host_dma import TIMEOUT_CYCLES

    bench = Bench(dut)
    await bench.cycles(3)
    for early, status in ((2, DONE), (1, DONE), (1, BUS_ERROR)):
        bench.bus.paused = True
        await bench.queue(0, TX_BANK, HOST_BASE + 0x100, 64, 1)
        while not int(dut.bus__stb.value):
            await bench.cycles()
        await bench.cycles(TIMEOUT_CYCLES - 1 - early)
        assert int(dut.bus__stb.value)
        if status == DONE:
            bench.bus.paused = False
        else:
            bench.bus.close()
        assert await bench.completion(0) == (1, status), early
    assert not int(dut.bus__stb.value)


@cocotb.test(**LIMIT)
async def core_reset_ends_although_the_bus_does_not_answer(dut):
    from twinstack.host_dma import TIMEOUT_CYCLES

    bench = Bench(dut)
    await bench.cycles(3)
    await bench.queue(0, TX_BANK, HOST_BASE, 4000, 1)
    await bench.cycles(300)
    bench.bus.close()
    for name in ("ack", "err"):
        getattr(dut, f"bus__{name}").value = 0
    await bench.cycles(20)
    dut.core_reset.value = 1
    await bench.cycles(10)
    assert int(dut.core_busy.value) == 1, "the access in flight belongs to core 0"
    before = bench.images()
    await bench.cycles(TIMEOUT_CYCLES)
    assert int(dut.core_busy.value) == 0 and not int(dut.bus__cyc.value)
    bench.resume_host()
    dut.core_reset.value = 0
    await bench.cycles(300)
    assert before == bench.images(), "a write after the reset"
    assert not int(bench.port(0, "completion_valid").value)


@cocotb.test(**LIMIT)
async def core_reset_drops_its_work_only(dut):
    bench = Bench(dut, bus_wait=0.2, ram_wait=0.2)
    await bench.cycles(3)
    for round_ in range(25):
        host, banks = bench.images()
        for number in range(3):
            await bench.queue(0, TX_BANK + 1, HOST_BASE + 0x10000, 300, number)
        for number in range(3):
            local = bench.base() + bench.rng.randrange(64)
            await bench.queue(1, local, HOST_BASE + 64 * number, 50, number)
            bench.copy(1, local, HOST_BASE + 64 * number, 50, host, banks)
        await bench.cycles(bench.rng.randrange(200))
        dut.core_reset.value = 1
        await bench.cycles(bench.rng.choice([1, 20]))
        assert not int(bench.port(0, "completion_valid").value)
        dut.core_reset.value = 0
        await bench.cycles(1)
        assert int(bench.port(0, "space").value) == 8
        waits = 0
        while int(dut.busy.value) and waits < 1000:
            await bench.cycles()
            waits += 1
        for number in range(3):
            assert await bench.completion(1) == (number, DONE), round_
        assert not int(bench.port(0, "completion_valid").value)
        # Core 0 may have moved some of its bytes, within its own part only.
        now, now_banks = bench.images()
        assert now[:0x10000] == host[:0x10000] and now[0x10000 + 300 :] == host[0x10000 + 300 :]
        assert all(now_banks[key] == banks[key] for key in banks if key[0] == 1)
        # And it can work again.
        await bench.queue(0, TX_BANK + 3, HOST_BASE + 1, 21, 9)
        host, banks = bench.images()
        bench.copy(0, TX_BANK + 3, HOST_BASE + 1, 21, host, banks)
        assert await bench.completion(0) == (9, DONE)
        assert (host, banks) == bench.images()


@cocotb.test(**LIMIT)
async def core_reset_stops_at_the_word_on_the_bus(dut):
    bench = Bench(dut)
    await bench.cycles(3)
    await bench.queue(0, TX_BANK, HOST_BASE, 4000, 1)
    await bench.cycles(100)
    bench.bus.paused = True
    await bench.cycles(20)
    accesses = len(bench.bus.log)
    assert accesses > 20
    dut.core_reset.value = 1
    await bench.cycles(30)
    assert int(dut.bus__stb.value), "an access in flight must end"
    bench.bus.paused = False
    await bench.cycles(30)
    assert len(bench.bus.log) == accesses + 1
    assert not int(dut.bus__cyc.value) and not int(dut.busy.value)


@pytest.mark.parametrize("direction", ["in", "out"])
def test_host_dma(direction):
    from support.rtl import run_cocotb
    from twinstack.config import EngineConfig
    from twinstack.host_dma import HostDma

    config = EngineConfig(cores=CORES, rx_bank_bytes=BANK_BYTES, tx_bank_bytes=BANK_BYTES, rx_small_buffers=0)
    name = f"hostdma_{direction}"
    run_cocotb(HostDma(config, direction), __file__, name=name, environment={"DIRECTION": direction})


def test_parameters_are_checked():
    from twinstack.config import EngineConfig
    from twinstack.host_dma import HostDma

    with pytest.raises(ValueError, match="not 'up'"):
        HostDma(EngineConfig(), "up")
    with pytest.raises(TypeError, match="not None"):
        HostDma(None, "in")
