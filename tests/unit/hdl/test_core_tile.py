"""A core boots from a model of code memory and works its way through every kind of access and interrupt."""

import os
import random
import subprocess
from pathlib import Path

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import ClockCycles, RisingEdge

CORE = 1
EPOCH = 0x5A
MANAGER_WORD = 0xCAFE_0001
RX_WORD = 0x0BAD_CAB1
PROBE_RESULT = {"rss_hash": 0x51CCC178, "core": 1, "flow_hit": 1, "flow_index": 9}
FLOW_RESULT = {"status": 1, "index": 0x1234, "core": 1}
MESSAGE = [0x11111111, 0x22222222, 0x33333333, 0x44444444]

# Results go to shared memory, one word each, in the order of RESULTS.
PROGRAM = """
.macro result reg
    sw   \\reg, 0(s1)
    addi s1, s1, 4
.endm
.section .text
.globl _start
_start:
    li   s0, 0xF0000000
    li   s1, 0xA2000000
    lw   t0, 0x008(s0)          # core.identity
    result t0
    andi t0, t0, 15
    addi t0, t0, '0'
    sw   t0, 0x040(s0)          # console.data
    lw   t0, 0x000(s0)          # core.magic
    result t0
    li   s2, 0x10000000         # data RAM: stores and cached loads of 64 words
    mv   t1, s2
    li   t2, 64
    li   t0, 0x01010101
    mv   t3, t0
1:  sw   t3, 0(t1)
    add  t3, t3, t0
    addi t1, t1, 4
    addi t2, t2, -1
    bnez t2, 1b
    mv   t1, s2
    li   t2, 64
    li   t3, 0
2:  lw   t4, 0(t1)
    add  t3, t3, t4
    addi t1, t1, 4
    addi t2, t2, -1
    bnez t2, 2b
    result t3
    li   s3, 0x90000000         # the same, not cached; byte and half stores
    li   t0, 0x12345678
    sw   t0, 0x400(s3)
    li   t0, 0xAB
    sb   t0, 0x401(s3)
    li   t0, 0xCDEF
    sh   t0, 0x402(s3)
    lw   t0, 0x400(s3)
    result t0
    la   t0, constant           # read-only data in code memory, cached and not
    lw   t1, 0(t0)
    result t1
    li   t2, 0x80000000
    or   t0, t0, t2
    sw   zero, 0(t0)            # ignored
    lw   t1, 0(t0)
    result t1
    li   t0, 0xA0000000         # RX bank
    lw   t1, 8(t0)
    result t1
    li   t0, 0xA1000000         # TX bank
    sw   t1, 12(t0)
    lw   t1, 12(t0)
    result t1
    lw   t1, 0x124(s0)          # rx.cpu_accesses
    result t1
    lw   t1, 0x294(s0)          # lock 5: taken
    result t1
    lw   t1, 0x294(s0)          # again: mine
    result t1
    sw   zero, 0x294(s0)        # released
    li   t0, 0xF0010000         # manager page
    lw   t1, 0x10(t0)
    result t1
    sw   t1, 0x14(t0)
    lw   t1, 0x7F0(t0)          # where nobody answers
    result t1
    li   t0, 0x50000000         # nothing there
    lw   t1, 0(t0)
    result t1
    li   t0, 0x90040000         # beyond the data RAM
    sw   s0, 0(t0)
    lw   t1, 0(t0)
    result t1
    li   t0, 0x70000000         # register pages have no cached alias
    lw   t1, 0(t0)
    result t1
    lw   t1, 0x01C(s0)          # core.random twice
    result t1
    lw   t1, 0x01C(s0)
    result t1
    sb   s0, 0x18(s0)           # core.load: a byte store changes nothing
    li   t1, 0x1234
    sh   t1, 0x18(s0)
    lw   t1, 0x18(s0)
    result t1
    li   t1, 7
    sw   t1, 0x18(s0)
    lw   t1, 0x18(s0)
    result t1
    lw   t1, 0x080(s0)          # timer.cycles_low twice
    lw   t2, 0x080(s0)
    sub  t1, t2, t1
    result t1
    lw   t1, 0x084(s0)          # timer.cycles_high
    result t1

    la   t0, handler            # timer interrupt
    csrw mtvec, t0
    li   t0, 0x880              # timer and external
    csrw mie, t0
    li   t0, 1
    csrw 0xBC0, t0              # VexRiscv's mask: line 0
    li   s10, 0
    li   s11, 0
    csrsi mstatus, 8
3:  beqz s11, 3b
    result s11                  # mcause of the timer
    lw   t1, 0x088(s0)          # timer.milliseconds
    result t1
    li   t0, 0x20               # message event
    sw   t0, 0x0C4(s0)
4:  beqz s10, 4b
    result s10                  # mcause of the external interrupt
    lw   t1, 0x21C(s0)          # unused address of the page
    result t1
    lw   t1, 0x220(s0)          # first and last word of the message
    result t1
    lw   t1, 0x22C(s0)
    result t1
    sw   s0, 0x230(s0)          # pop
    li   t1, 0xA0
    sw   t1, 0x1C0(s0)          # dma_in.local, host_address, go
    li   t1, 0xB0
    sw   t1, 0x1C4(s0)
    li   t1, 0x80050040
    sw   t1, 0x1C8(s0)
    lw   t1, 0x1D0(s0)          # completion
    result t1
    li   t1, 0x0900000A         # probe.source, destination, ports
    sw   t1, 0x240(s0)
    li   t1, 0x0100000A
    sw   t1, 0x250(s0)
    li   t1, 0x0050C001
    sw   t1, 0x260(s0)
    li   t1, 0x00070032         # flow: LOOKUP, TCP, spread, index 7
    sw   t1, 0x270(s0)
7:  lw   t1, 0x274(s0)          # flow_result
    bltz t1, 7b
    result t1
    li   t1, 7                  # go: IPv6, ports, TCP
    sw   t1, 0x264(s0)
8:  lw   t1, 0x268(s0)          # result, hash
    bltz t1, 8b
    result t1
    lw   t1, 0x26C(s0)
    result t1
    la   t0, illegal
    jr   t0
illegal:
    .word 0
handler:
    csrr t5, mcause
    bgez t5, trap
    andi t6, t5, 15
    li   t4, 7
    beq  t6, t4, 5f
    sw   zero, 0x0C4(s0)        # no more external interrupts
    mv   s10, t5
    mret
5:  mv   s11, t5
    sw   s0, 0x08C(s0)          # clears the tick
    mret
trap:
    result t5                   # mcause 2: illegal instruction
    li   t1, 0x80000001
    sw   t1, 0x00C(s0)          # core.ready
    li   t1, '!'
    sw   t1, 0x040(s0)
    li   t1, 1
    sw   t1, 0x090(s0)          # timer.idle
6:  j    6b
    .align 5
constant:
    .word 0xC0DE0042
"""

RESULTS = (
    "identity", "magic", "sum", "bytes", "rodata", "rodata_uncached", "rx", "tx", "cpu_accesses", "lock_taken",
    "lock_mine", "manager", "manager_silent", "nothing", "beyond", "alias", "random0", "random1", "load_partial", "load",
    "cycles", "cycles_high", "timer_cause", "milliseconds", "external_cause", "unused", "message0", "message3", "completion",
    "flow_result", "probe_result", "probe_hash", "trap_cause",
)  # fmt: skip


class RamModel:
    """The other end of a RamPort, with random stalls."""

    def __init__(self, dut, name, words, rng):
        self.dut, self.name, self.words, self.rng = dut, name, words, rng
        self.stall = 0.0
        self.reads = self.writes = 0
        self.signal("ready").value = 1
        self.signal("read_data").value = 0

    def signal(self, member):
        return getattr(self.dut, f"{self.name}__{member}")

    async def run(self):
        ready = 1
        while True:
            await RisingEdge(self.dut.clk)
            read_data = self.rng.getrandbits(32)  # valid in one cycle only
            if ready and int(self.signal("valid").value):
                address = int(self.signal("address").value)
                if int(self.signal("write").value):
                    self.writes += 1
                    mask = sum(0xFF << 8 * i for i in range(4) if int(self.signal("mask").value) >> i & 1)
                    self.words[address] = self.words[address] & ~mask | int(self.signal("data").value) & mask
                else:
                    self.reads += 1
                    read_data = self.words[address]
            self.signal("read_data").value = read_data
            ready = int(self.rng.random() >= self.stall)
            self.signal("ready").value = ready


class Tile:
    def __init__(self, dut):
        self.dut = dut
        self.rng = random.Random(int(os.environ["TWINSTACK_SEED"]))
        image = Path(os.environ["PROGRAM"]).read_bytes()
        image += bytes(-len(image) % 4)
        code = [int.from_bytes(image[i : i + 4], "little") for i in range(0, len(image), 4)]
        self.code = RamModel(dut, "code", code + [0] * (24 * 1024 - len(code)), self.rng)
        self.rx = RamModel(dut, "rx_bank", [0, 0, RX_WORD] + [0] * 6141, self.rng)
        self.tx = RamModel(dut, "tx_bank", [0] * 6144, self.rng)
        self.shared = RamModel(dut, "shared", [0] * 512, self.rng)
        self.rams = (self.code, self.rx, self.tx, self.shared)
        self.takes, self.releases, self.pops, self.sent_dma, self.manager_writes = [], [], 0, [], []
        self.requests = {"probe": [], "flow": []}
        self.console = bytearray()

    async def start(self):
        dut = self.dut
        for name in ("tick", "data__valid", "manager_bus__ack", "manager_bus__err", "message__available",
                     "console__ready", "rx__producer", "sq__producer", "tx__consumer", "dma_in__completion_valid",
                     "dma_out__completion_valid", "probe__done", "probe__request__ready", "flow__done",
                     "flow__request__ready", "rst"):  # fmt: skip
            getattr(dut, name).value = 0
        dut.seed.value = 0x1234567
        dut.epoch.value = EPOCH
        dut.manager.value = 0
        dut.lock__owner.value = CORE
        dut.lock__taken_now.value = 1
        dut.lock__mine.value = 1
        dut.message__words.value = sum(word << 32 * i for i, word in enumerate(MESSAGE))
        dut.dma_in__completion_tag.value = 0x1234
        dut.dma_in__completion_status.value = 2
        dut.reset_core.value = 1
        cocotb.start_soon(Clock(dut.clk, 10, "ns").start())
        for ram in self.rams:
            cocotb.start_soon(ram.run())
        cocotb.start_soon(self.services())
        cocotb.start_soon(self.answer("probe", PROBE_RESULT))
        cocotb.start_soon(self.answer("flow", FLOW_RESULT))
        await ClockCycles(dut.clk, 8)
        dut.reset_core.value = 0

    async def answer(self, name, result):
        """Accept a request after a while, then answer it; one is presented until then, and not longer."""
        from twinstack.interfaces import FlowRequest, FlowResult, ProbeRequest, ProbeResult

        request, answer = (ProbeRequest, ProbeResult) if name == "probe" else (FlowRequest, FlowResult)
        dut = self.dut
        port = {end: getattr(dut, f"{name}__{end}") for end in ("request__valid", "request__ready", "done", "result")}
        while True:
            await RisingEdge(dut.clk)
            if int(port["request__valid"].value):
                payload = int(getattr(dut, f"{name}__request__payload").value)
                for _ in range(self.rng.randrange(9)):
                    await RisingEdge(dut.clk)
                    assert int(port["request__valid"].value)
                port["request__ready"].value = 1
                await RisingEdge(dut.clk)
                assert int(port["request__valid"].value)
                assert int(getattr(dut, f"{name}__request__payload").value) == payload
                self.requests[name].append(request.from_bits(payload))
                port["request__ready"].value = 0
                port["done"].value = 1
                port["result"].value = answer.const(result).as_bits()
                await RisingEdge(dut.clk)
                assert not int(port["request__valid"].value), "asks twice"
                port["done"].value = 0

    async def services(self):
        """Manager page, lock unit, message FIFO, DMA and console, as simple as can be."""
        dut = self.dut
        acknowledged = 0
        delay = 0
        while True:
            await RisingEdge(dut.clk)
            stb = int(dut.manager_bus__cyc.value) and int(dut.manager_bus__stb.value)
            address = int(dut.manager_bus__adr.value)
            if stb and not acknowledged and address != 0x7F0 // 4:
                if delay == 0 and int(dut.manager_bus__we.value):
                    self.manager_writes.append((address, int(dut.manager_bus__dat_w.value)))
                acknowledged = int(delay == 0)
                delay = delay - 1 if delay else self.rng.randrange(6)
            else:
                acknowledged = 0
            dut.manager_bus__ack.value = acknowledged
            dut.manager_bus__dat_r.value = MANAGER_WORD
            if int(dut.lock__take.value):
                self.takes.append(int(dut.lock__index.value))
                dut.lock__taken_now.value = 0
            if int(dut.lock__release.value):
                self.releases.append(int(dut.lock__index.value))
            if int(dut.message__pop.value):
                self.pops += 1
                dut.message__available.value = 0
            if int(dut.dma_in__go.value):
                names = ("local", "host_address", "length", "tag", "host")
                self.sent_dma.append(tuple(int(getattr(dut, f"dma_in__{name}").value) for name in names))
                dut.dma_in__completion_valid.value = 1
            if int(dut.dma_in__completion_pop.value):
                dut.dma_in__completion_valid.value = 0
            if int(dut.console__valid.value) and int(dut.console__ready.value):
                self.console.append(int(dut.console__payload.value))
            dut.console__ready.value = self.rng.randrange(2)

    async def wait(self, condition, cycles=20_000):
        for _ in range(cycles):
            await RisingEdge(self.dut.clk)
            if condition():
                return
        raise AssertionError(f"not reached: {self.shared.words[: len(RESULTS)]}")

    def results(self):
        return dict(zip(RESULTS, self.shared.words, strict=False))


async def run_program(tile):
    dut = tile.dut
    index = {name: i for i, name in enumerate(RESULTS)}
    await tile.wait(lambda: tile.shared.words[index["cycles"]])
    await ClockCycles(dut.clk, 50)
    assert not tile.shared.words[index["timer_cause"]]
    dut.tick.value = 1
    await RisingEdge(dut.clk)
    dut.tick.value = 0
    await tile.wait(lambda: tile.shared.words[index["milliseconds"]])
    await ClockCycles(dut.clk, 50)
    assert not tile.shared.words[index["external_cause"]]
    dut.message__available.value = 1
    await tile.wait(lambda: int(dut.ready.value))
    await tile.wait(lambda: len(tile.console) == 2)


def check(tile):
    from twinstack.proto.abi import MAGIC

    results = tile.results()
    total = sum(0x01010101 * i for i in range(1, 65)) & 0xFFFFFFFF
    random0, random1 = results.pop("random0"), results.pop("random1")
    assert random0 and random1 and random0 != random1
    cycles = results.pop("cycles")
    cocotb.log.info("cycles between two loads from the core's page: %d", cycles)
    assert 2 <= cycles <= 12
    assert results == {
        "identity": CORE | 2 << 4 | 2 << 8 | EPOCH << 16,
        "magic": MAGIC,
        "sum": total,
        "bytes": 0xCDEFAB78,
        "rodata": 0xC0DE0042,
        "rodata_uncached": 0xC0DE0042,
        "rx": RX_WORD,
        "tx": RX_WORD,
        "cpu_accesses": 3,
        "lock_taken": CORE | 3 << 30,
        "lock_mine": CORE | 1 << 31,
        "manager": MANAGER_WORD,
        "manager_silent": 0,
        "nothing": 0,
        "beyond": 0,
        "alias": 0,
        "load_partial": 0,
        "load": 7,
        "cycles_high": 0,
        "timer_cause": 0x80000007,
        "milliseconds": 1,
        "external_cause": 0x8000000B,
        "unused": 0,
        "message0": MESSAGE[0],
        "message3": MESSAGE[3],
        "completion": 0x80021234,
        "flow_result": 1 | 0x1234 << 8 | 1 << 24,
        "probe_result": 1 | 1 << 4 | 9 << 8,
        "probe_hash": 0x51CCC178,
        "trap_cause": 2,
    }
    assert tile.console == b"1!"
    assert tile.takes == [5, 5] and tile.releases == [5]
    assert tile.pops == 1
    assert tile.sent_dma == [(0xA0, 0xB0, 0x40, 5, 2)]
    assert tile.manager_writes == [(0x14 // 4, MANAGER_WORD)]
    for request in (*tile.requests["probe"], *tile.requests["flow"]):
        assert (request.source, request.destination) == (0x0900000A, 0x0100000A)
        assert (request.source_port, request.destination_port) == (0xC001, 0x50)
        assert request.is_tcp
    (probe,), (flow,) = tile.requests["probe"], tile.requests["flow"]
    assert probe.is_ipv6 and probe.has_ports
    assert (flow.operation, flow.is_ipv6, flow.is_spread, flow.index) == (2, 0, 1, 7)
    assert int(tile.dut.cpu_accesses.value) == 3
    assert int(tile.dut.firmware_abi.value) == 1
    assert tile.code.writes == 0


@cocotb.test(timeout_time=400, timeout_unit="us")
async def boots_and_uses_everything(dut):
    tile = Tile(dut)
    await tile.start()
    await run_program(tile)
    check(tile)


@cocotb.test(timeout_time=800, timeout_unit="us")
async def stalled_memories_change_nothing_and_a_reset_starts_over(dut):
    tile = Tile(dut)
    for ram in tile.rams:
        ram.stall = 0.4
    await tile.start()
    await ClockCycles(dut.clk, tile.rng.randrange(300, 1200))
    dut.reset_core.value = 1
    await ClockCycles(dut.clk, 3)
    for name in ("lock__take", "message__send", "dma_in__go", "cq__post", "rx__free_valid", "probe__request__valid",
                 "code__valid", "shared__valid", "manager_bus__cyc", "ready", "cpu_accesses"):  # fmt: skip
        assert int(getattr(dut, name).value) == 0, name
    tile.shared.words[:] = [0] * 512
    tile.takes, tile.releases, tile.manager_writes = [], [], []
    tile.requests = {"probe": [], "flow": []}
    dut.lock__taken_now.value = 1
    await ClockCycles(dut.clk, 4)
    while int(dut.console__valid.value):
        await RisingEdge(dut.clk)
    tile.console.clear()
    dut.reset_core.value = 0
    await run_program(tile)
    check(tile)
    # What the CPU stored is seen by hardware, and what hardware stores is kept over a reset of the core.
    for write, value in ((0, None), (1, 0x600DF00D)):
        dut.data__valid.value = 1
        dut.data__write.value = write
        dut.data__address.value = 0x400 // 4
        dut.data__mask.value = 15
        dut.data__data.value = value or 0
        await RisingEdge(dut.clk)
        dut.data__valid.value = 0
        await RisingEdge(dut.clk)
        if not write:
            assert int(dut.data__read_data.value) == 0xCDEFAB78
    dut.reset_core.value = 1
    await ClockCycles(dut.clk, 3)
    dut.data__write.value = 0
    dut.data__valid.value = 1
    await ClockCycles(dut.clk, 2)
    assert int(dut.data__read_data.value) == 0x600DF00D


def build_program(folder: Path) -> Path:
    source, elf, binary = folder / "program.S", folder / "program.elf", folder / "program.bin"
    source.write_text(PROGRAM)
    tool = "riscv64-unknown-elf-"
    flags = ["-march=rv32im_zicsr", "-mabi=ilp32", "-nostdlib", "-Wl,-Ttext=0", "-Wl,--build-id=none"]
    subprocess.run([f"{tool}gcc", *flags, "-o", elf, source], check=True)
    subprocess.run([f"{tool}objcopy", "-O", "binary", elf, binary], check=True)
    return binary


def test_core_tile(tmp_path):
    from support.rtl import run_cocotb
    from twinstack.config import EngineConfig
    from twinstack.core_tile import CoreTile
    from twinstack.cpu import verilog_path

    tile = CoreTile(EngineConfig(), CORE)
    environment = {"PROGRAM": str(build_program(tmp_path))}
    run_cocotb(tile, __file__, environment=environment, sources=[verilog_path()])


def test_random_model_never_reaches_zero():
    from twinstack.core_tile import next_random

    value = 1
    seen = set()
    for _ in range(5000):
        value = next_random(value)
        assert value and value not in seen
        seen.add(value)


def test_parameters_are_checked():
    from twinstack.config import EngineConfig
    from twinstack.core_bus import CoreBus
    from twinstack.core_tile import CoreTile

    with pytest.raises(TypeError, match="not None"):
        CoreTile(None, 0)
    with pytest.raises(TypeError, match="not 'a'"):
        CoreTile(EngineConfig(), "a")
    with pytest.raises(ValueError, match="core must be 0 to 1, not 2"):
        CoreTile(EngineConfig(), 2)
    with pytest.raises(ValueError, match="not 2052"):
        CoreBus(EngineConfig(shared_bytes=2052))
