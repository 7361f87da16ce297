"""RX DMA with modelled RAMs: descriptors, buffers, header copies, drops, resets, cycles."""

import os
import random
from collections import deque

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

from twinstack.proto.descriptor import RX_DESCRIPTOR
from twinstack.proto.memory_map import RX_BUFFER_BYTES

BUFFERS = 4
DATA_BYTES = 8192
RING, HEADERS, RING_LOG2 = 0x200, 0x1000, 2
META = [f.name for f in RX_DESCRIPTOR]


class Core:
    """One core's RAMs and firmware: takes descriptors, checks them, gives buffers back."""

    def __init__(self):
        self.bank = bytearray(BUFFERS * RX_BUFFER_BYTES)
        self.data = bytearray(DATA_BYTES)
        self.enable = self.reset = 0
        self.epoch = 0
        self.producer = 0
        self.expected = deque()  # verdicts for this core whose fate is not known yet
        self.held = []
        self.given = self.taken = self.lost = self.bad_free = self.resets = 0
        self.cycles_since_dry = self.cycles_since_unsettled = 0
        self.returned = None
        self.data_ready = self.free_rate = 1.0


class Bench:
    def __init__(self, dut, rng):
        self.dut, self.rng = dut, rng
        self.ports, self.count = int(os.environ["PORTS"]), int(os.environ["CORES"])
        self.cores = [Core() for _ in range(self.count)]
        self.verdicts = deque()
        self.words = [deque() for _ in range(self.ports)]
        self.gap = self.verdict_gap = self.bank_stall = 0.0
        self.bad_free_rate = 0.01
        self.cycle = 0
        self.accepted = []  # cycles
        self._before = {}
        self._word_valid = [0] * self.ports
        self._verdict_valid = 0
        self._serial = 0

    def signal(self, name):
        return getattr(self.dut, name)

    async def start(self, *, clock=True):
        dut = self.dut
        if clock:
            cocotb.start_soon(Clock(dut.clk, 10, "ns").start())
        dut.rst.value = 1
        dut.verdict__valid.value = 0
        dut.core_reset.value = 0
        for port in range(self.ports):
            self.signal(f"frames{port}__valid").value = 0
        for number, core in enumerate(self.cores):
            core.enable = 1
            self.signal(f"queue{number}__ring").value = RING
            self.signal(f"queue{number}__headers").value = HEADERS
            self.signal(f"queue{number}__ring_log2").value = RING_LOG2
            self.signal(f"queue{number}__free_valid").value = 0
            self.signal(f"queue{number}__enable").value = 1
        await RisingEdge(dut.clk)
        await RisingEdge(dut.clk)
        dut.rst.value = 0
        for _ in range(4):
            await RisingEdge(dut.clk)

    def send(self, cores, *, length=None, port=None, error=0):
        """Queue a frame (``length`` bytes with the pad) and its verdict."""
        from twinstack.interfaces import FrameMeta, FrameWord

        rng = self.rng
        length = length or rng.choice((62, 66, 127, 128, 129, 130, rng.randrange(62, 400), 1518))
        port = rng.randrange(self.ports) if port is None else port
        raw = bytes(2) + rng.randbytes(length - 2)
        for start in range(0, length, 4):
            piece = raw[start : start + 4]
            last = start + 4 >= length
            word = {"data": int.from_bytes(piece, "little"), "count": len(piece), "last": last, "error": last and error}
            self.words[port].append(FrameWord.const(word).as_bits())
        self._serial += 1
        layout = FrameMeta.as_shape().members
        meta = {n: rng.getrandbits(w if isinstance(w, int) else 1) for n, w in layout.items()}
        meta["tcp_sequence"] = self._serial
        self.verdicts.append(
            {
                "meta": meta,
                "port": port,
                "cores": cores,
                "answer": rng.getrandbits(4),
                "rss_hash": rng.getrandbits(32),
                "raw": raw,
                "bad": error or length > RX_BUFFER_BYTES,
            }
        )

    def verdict_bits(self, verdict):
        from twinstack.interfaces import Verdict

        names = ("meta", "port", "cores", "answer", "rss_hash")
        return Verdict.const({name: verdict[name] for name in names}).as_bits()

    async def step(self):
        dut, rng = self.dut, self.rng
        if not self._verdict_valid and self.verdicts and rng.random() >= self.verdict_gap:
            self._verdict_valid = 1
            dut.verdict__payload.value = self.verdict_bits(self.verdicts[0])
        dut.verdict__valid.value = self._verdict_valid
        for port, words in enumerate(self.words):
            if not self._word_valid[port] and words and rng.random() >= self.gap:
                self._word_valid[port] = 1
                self.signal(f"frames{port}__payload").value = words[0]
            self.signal(f"frames{port}__valid").value = self._word_valid[port]
        dut.timestamp.value = self.cycle
        dut.core_reset.value = sum(core.reset << n for n, core in enumerate(self.cores))
        dut.epochs.value = sum(core.epoch << 8 * n for n, core in enumerate(self.cores))
        ready = {}
        for number, core in enumerate(self.cores):
            ready[f"bank{number}"] = rng.random() >= self.bank_stall
            ready[f"data{number}"] = rng.random() < core.data_ready
            self.signal(f"queue{number}__enable").value = core.enable
            core.returned = returned = None
            if not core.reset and rng.random() < core.free_rate:
                if core.held:
                    core.returned = returned = core.held.pop(rng.randrange(len(core.held)))
                elif rng.random() < self.bad_free_rate:
                    returned = rng.randrange(BUFFERS, 1 << 16)
                    core.bad_free += 1
            self.signal(f"queue{number}__free_valid").value = returned is not None
            self.signal(f"queue{number}__free_index").value = returned or 0
        for name, value in ready.items():
            self.signal(f"{name}__ready").value = int(value)
        await RisingEdge(dut.clk)
        # From here on: what was there in the cycle before the edge.
        for number, core in enumerate(self.cores):
            self._look_at_queue(number, core)
            buffers = int(self.signal(f"queue{number}__buffers").value)
            core.cycles_since_dry = 0 if buffers == 0 else core.cycles_since_dry + 1
            # The pool offers a buffer two cycles after it came back, or after a reset, even if it counts at once.
            unsettled = buffers == 0 or core.reset or (buffers == 1 and core.returned is not None)
            core.cycles_since_unsettled = 0 if unsettled else core.cycles_since_unsettled + 1
        for name, is_ready in ready.items():
            self._look_at_ram(name, is_ready)
        for port, words in enumerate(self.words):
            if self._word_valid[port] and int(self.signal(f"frames{port}__ready").value):
                words.popleft()
                self._word_valid[port] = 0
        if self._verdict_valid and int(dut.verdict__ready.value):
            self._accept(self.verdicts.popleft())
        for core in self.cores:
            if core.reset:
                core.producer = 0
                core.lost += len(core.expected)
                core.expected.clear()
                core.held.clear()
        self.cycle += 1

    def _accept(self, verdict):
        self._verdict_valid = 0
        self.accepted.append(self.cycle)
        for number, core in enumerate(self.cores):
            if not verdict["cores"] >> number & 1:
                continue
            core.given += 1
            unable = core.reset or not core.enable
            must_drop = unable or verdict["bad"] or core.cycles_since_dry == 0
            may_drop = must_drop or core.cycles_since_unsettled < 3
            meta = {name: value for name, value in verdict["meta"].items() if name in META}
            core.expected.append(
                {
                    "must_drop": must_drop,
                    "may_drop": may_drop,
                    "raw": verdict["raw"],
                    "descriptor": meta
                    | {
                        "version": 1,
                        "port": verdict["port"],
                        "answer": verdict["answer"] >> number & 1,
                        "rss_hash": verdict["rss_hash"],
                        "segment_count": 1,
                        "last_segment_length": meta["payload_length"],
                        "timestamp": self.cycle,
                        "epoch": core.epoch,
                        "owner": 1,
                    },
                }
            )

    def _look_at_ram(self, name, is_ready):
        valid = int(self.signal(f"{name}__valid").value)
        fields = ("write", "address", "data", "mask")
        request = tuple(int(self.signal(f"{name}__{field}").value) for field in fields) if valid else None
        before = self._before.get(name)
        assert before is None or request == before, f"{name}: a request changed before it was accepted"
        self._before[name] = None if is_ready else request
        if request is None or not is_ready:
            return
        write, address, data, mask = request
        assert write
        core = self.cores[int(name[4:])]
        ram = core.bank if name.startswith("bank") else core.data
        for lane in range(4):
            if mask >> lane & 1:
                ram[4 * address + lane] = data >> 8 * lane & 0xFF  # an address outside is an error

    def _look_at_queue(self, number, core):
        producer = int(self.signal(f"queue{number}__producer").value)
        if producer == core.producer:
            return
        assert producer == (core.producer + 1) & 0xFFFF
        place = RING + 64 * (core.producer % (1 << RING_LOG2))
        core.producer = producer
        found = RX_DESCRIPTOR.unpack(bytes(core.data[place : place + 64]))
        while core.expected and core.expected[0]["descriptor"]["tcp_sequence"] != found["tcp_sequence"]:
            skipped = core.expected.popleft()
            assert skipped["may_drop"], "dropped without need"
            core.lost += 1
        assert core.expected, "a descriptor for no verdict"
        frame = core.expected.popleft()
        assert not frame["must_drop"], "should have been dropped"
        index = found["buffer_index"]
        assert index < BUFFERS and index not in core.held
        assert bytes(core.data[place : place + 64]) == RX_DESCRIPTOR.pack(frame["descriptor"] | {"buffer_index": index})
        core.data[place : place + 64] = bytes(64)
        raw = frame["raw"]
        assert core.bank[index * RX_BUFFER_BYTES :][: len(raw)] == raw
        assert core.data[HEADERS + 128 * index :][: min(128, len(raw))] == raw[:128]
        core.held.append(index)
        core.taken += 1

    @property
    def is_busy(self):
        return bool(self.verdicts or any(self.words))

    async def drain(self, limit=60000):
        deadline = self.cycle + limit
        while self.is_busy:
            assert self.cycle < deadline, "stuck"
            await self.step()
        for core in self.cores:
            core.data_ready = core.free_rate = 1.0
        # A counter read after the last step does not yet know what that step gave back.
        self.bad_free_rate = 0.0
        for _ in range(100):
            await self.step()
        self.bad_free_rate = 0.01
        for number, core in enumerate(self.cores):
            assert all(frame["may_drop"] for frame in core.expected)
            core.lost += len(core.expected)
            core.expected.clear()
            assert not core.held
            assert int(self.signal(f"queue{number}__buffers").value) == BUFFERS
            assert int(self.signal(f"queue{number}__bad_free").value) == core.bad_free
            dropped = int(self.signal(f"queue{number}__dropped").value)
            # A reset can meet a descriptor on its last step: neither dropped nor counted as produced.
            assert core.given == core.taken + core.lost
            assert core.lost - core.resets <= dropped <= core.lost


@cocotb.test(timeout_time=3000, timeout_unit="us")
async def random_traffic(dut):
    rng = random.Random(int(os.environ["TWINSTACK_SEED"]))
    bench = Bench(dut, rng)
    await bench.start()
    everyone = (1 << bench.count) - 1
    for _ in range(160):
        one = 1 << rng.randrange(bench.count)
        length = rng.choice((1536, 1537, 1600)) if rng.random() < 0.03 else None
        bench.send(
            rng.choice((one, one, one, everyone, rng.randrange(16), 0)), length=length, error=rng.random() < 0.05
        )
    while bench.is_busy:
        if rng.random() < 0.02:
            bench.gap, bench.verdict_gap = rng.choice((0, 0.3, 0.7)), rng.choice((0, 0.5, 0.9))
            bench.bank_stall = rng.choice((0, 0, 0.3))
        for core in bench.cores:
            if rng.random() < 0.01:
                core.data_ready = rng.choice((1, 1, 0.6, 0.3))
                core.free_rate = rng.choice((1, 0.1, 0.01, 0.003))
            if rng.random() < 0.002:
                core.enable = 0
            elif rng.random() < 0.01:
                core.enable = 1
            if core.reset:
                core.reset = rng.random() < 0.9
            elif rng.random() < 0.001:
                core.reset = 1
                core.resets += 1
                core.epoch = (core.epoch + 1) & 0xFF
        await bench.step()
    for core in bench.cores:
        core.reset, core.enable = 0, 1
    bench.gap = bench.verdict_gap = bench.bank_stall = 0
    await bench.drain()
    for core in bench.cores:
        assert core.taken > 5 and core.lost


@cocotb.test(timeout_time=300, timeout_unit="us")
async def cycles_per_frame(dut):
    """Minimum frames (17 words with the pad), alternating between cores, then all to one core, then to all."""
    bench = Bench(dut, random.Random(1))
    await bench.start()
    cases = (([1, 2], 19), ([1], 34), ([(1 << bench.count) - 1], 34))
    for targets, bound in cases:
        bench.accepted.clear()
        for number in range(40):
            bench.send(targets[number % len(targets)], length=66, port=number % bench.ports)
        await bench.drain()
        gaps = [b - a for a, b in zip(bench.accepted, bench.accepted[1:], strict=False)]
        assert max(gaps) <= bound, (targets, max(gaps))
        assert all(core.lost == 0 for core in bench.cores)


@cocotb.test(timeout_time=300, timeout_unit="us")
async def one_core_out_of_buffers(dut):
    bench = Bench(dut, random.Random(2))
    await bench.start()
    starved, other = bench.cores[:2]
    starved.free_rate = 0.0
    for _ in range(20):
        bench.send(0b11, length=66)
    while bench.is_busy:
        await bench.step()
    for _ in range(60):
        await bench.step()
    assert starved.taken == BUFFERS and len(starved.held) == BUFFERS
    assert int(dut.queue0__dropped.value) == 20 - BUFFERS
    assert int(dut.queue0__buffers.value) == 0
    assert other.taken == 20 and int(dut.queue1__dropped.value) == 0
    # It recovers as soon as buffers come back.
    await bench.drain()
    before = starved.taken
    bench.send(0b01, length=66)
    await bench.drain()
    assert starved.taken == before + 1


@cocotb.test(timeout_time=300, timeout_unit="us")
async def reset_in_mid_frame_holds_up_nobody(dut):
    """The dying core's data RAM port stands still; its frames in every phase are given up, the other core's arrive."""
    for delay in range(0, 60, 4):
        bench = Bench(dut, random.Random(delay))
        await bench.start(clock=delay == 0)
        dying, other = bench.cores[:2]
        for _ in range(3):
            bench.send(0b11, length=130)
        for _ in range(delay):
            await bench.step()
        dying.data_ready = 0.0
        for _ in range(8):
            await bench.step()
        dying.reset, dying.resets, dying.epoch = 1, 1, 9
        for _ in range(250):
            await bench.step()
        assert not bench.is_busy
        assert other.taken == 3
        assert int(dut.queue0__producer.value) == 0
        assert int(dut.queue0__buffers.value) == BUFFERS
        dying.reset, dying.data_ready = 0, 1.0
        await bench.step()
        before = dying.taken
        bench.send(0b01, length=66)
        await bench.drain()
        assert dying.taken == before + 1 and dying.producer == 1


@pytest.mark.parametrize(("ports", "cores"), [(2, 2), (3, 4)])
def test_rx_dma(ports, cores):
    from support.rtl import run_cocotb
    from twinstack.config import EngineConfig
    from twinstack.rx_dma import RxDma

    config = EngineConfig(ports=ports, cores=cores, data_bytes=DATA_BYTES, rx_bank_bytes=BUFFERS * RX_BUFFER_BYTES)
    run_cocotb(RxDma(config), __file__, environment={"PORTS": str(ports), "CORES": str(cores)})


def test_config_is_checked():
    from twinstack.rx_dma import RxDma

    with pytest.raises(TypeError, match="config must be an EngineConfig, not 2"):
        RxDma(2)
