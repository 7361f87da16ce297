"""RX DMA with modelled RAMs: descriptors, buffers of both classes, header copies, both queues, drops, resets, cycles."""

import os
import random
from collections import deque

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

from twinstack.proto.descriptor import RX_DESCRIPTOR
from twinstack.proto.memory_map import RX_BUFFER_BYTES, RX_SMALL_BUFFER_BYTES, rx_buffer_offset

LARGE = 4
DATA_BYTES = 8192
RING, OTHER_RING, HEADERS = 0x200, 0x600, 0x1000
RING_LOG2, OTHER_RING_LOG2 = 4, 3
META = [f.name for f in RX_DESCRIPTOR]
UNSETTLED_CYCLES = 5
"""For so long after a buffer came back, or after a reset, it may or may not count yet."""


class Core:
    """One core's RAMs and firmware: takes descriptors, checks them, gives buffers back."""

    def __init__(self, small):
        self.buffers = {"large": LARGE, "small": small}
        self.bank = bytearray(LARGE * RX_BUFFER_BYTES + small * RX_SMALL_BUFFER_BYTES)
        self.data = bytearray(DATA_BYTES)
        self.limits = dict.fromkeys(((q, c) for q in ("flow", "other") for c in self.buffers), 255)
        self.enable = self.reset = 0
        self.epoch = 0
        self.producers = {"flow": 0, "other": 0}  # by ring
        self.expected = deque()  # verdicts for this core whose fate is not known yet
        self.held = {}  # index: queue
        self.returned = deque()  # of late: (cycle, index, queue)
        self.given, self.taken, self.lost = ({"flow": 0, "other": 0} for _ in range(3))
        self.small_taken = self.bad_free = self.resets = 0
        self.bad_free_pending = self.was_low = False
        self.reset_cycle = -UNSETTLED_CYCLES
        self.data_ready = self.free_rate = 1.0

    def size_class(self, index):
        return "large" if index < LARGE else "small"

    def room(self, queue, size, cycle):
        """Whether the queue might, and whether it certainly can, get a buffer of this class in this cycle."""

        def has_room(out):
            of_class = [q for i, q in out if self.size_class(i) == size]
            return len(of_class) < self.buffers[size] and of_class.count(queue) < self.limits[queue, size]

        held = list(self.held.items())
        undecided = [(LARGE if size == "small" else 0, e["queue"]) for e in self.expected if size in e["allowed"]]
        late = [(i, q) for _, i, q in self.returned]
        is_settled = cycle - self.reset_cycle > UNSETTLED_CYCLES
        return has_room(held), is_settled and has_room(held + undecided + late)

    def allowed(self, queue, is_short, cycle):
        """What may become of such a frame that is accepted now: a buffer of a class, or None."""
        while self.returned and self.returned[0][0] < cycle - UNSETTLED_CYCLES:
            self.returned.popleft()
        small_might, small_sure = self.room(queue, "small", cycle) if is_short else (False, False)
        large_might, large_sure = self.room(queue, "large", cycle)
        result = set()
        if small_might:
            result.add("small")
        if not small_sure:
            if large_might:
                result.add("large")
            if not large_sure:
                result.add(None)
        return result


class Bench:
    def __init__(self, dut, rng):
        self.dut, self.rng = dut, rng
        self.ports, self.count = int(os.environ["PORTS"]), int(os.environ["CORES"])
        self.small = int(os.environ["SMALL"])
        self.other_ring = int(os.environ["OTHER_RING"])
        self.cores = [Core(self.small) for _ in range(self.count)]
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
            self.signal(f"queue{number}__other_ring").value = self.other_ring
            self.signal(f"queue{number}__headers").value = HEADERS
            self.signal(f"queue{number}__ring_log2").value = RING_LOG2
            self.signal(f"queue{number}__other_ring_log2").value = OTHER_RING_LOG2
            self.signal(f"queue{number}__watermark").value = 2
            self.signal(f"queue{number}__free_valid").value = 0
            self.signal(f"queue{number}__enable").value = 1
        await RisingEdge(dut.clk)
        await RisingEdge(dut.clk)
        dut.rst.value = 0
        self.set_limits()
        for _ in range(4):
            await RisingEdge(dut.clk)

    def set_limits(self):
        for number, core in enumerate(self.cores):
            for (queue, size), limit in core.limits.items():
                self.signal(f"queue{number}__limit_{queue}_{size}").value = limit

    def send(self, cores, *, length=None, port=None, error=0, hit=None, said=None):
        """Queue a frame (``length`` bytes with the pad) and its verdict, whose meta data say it had ``said``."""
        from twinstack.interfaces import FrameMeta, FrameWord

        rng = self.rng
        length = length or rng.choice((62, 66, 127, 128, 129, 255, 256, 257, rng.randrange(62, 400), 1518))
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
        meta["frame_length"] = (length if said is None else said) - 2
        hit = rng.getrandbits(1) if hit is None else hit
        self.verdicts.append(
            {
                "meta": meta,
                "port": port,
                "cores": cores,
                "answer": rng.getrandbits(4),
                "rss_hash": rng.getrandbits(32),
                "flow_hit": hit,
                "flow_index": rng.getrandbits(16),
                "raw": raw,
                "bad": error or length > (256 if meta["frame_length"] <= 254 else RX_BUFFER_BYTES),
            }
        )

    def verdict_bits(self, verdict):
        from twinstack.interfaces import Verdict

        names = ("meta", "port", "cores", "answer", "rss_hash", "flow_hit", "flow_index")
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
            # A bad one counts a cycle later, if the core is not reset then.
            core.bad_free += core.bad_free_pending and not core.reset
            core.bad_free_pending = False
            returned = None
            if not core.reset and rng.random() < core.free_rate:
                if core.held:
                    returned = rng.choice(list(core.held))
                    core.returned.append((self.cycle, returned, core.held.pop(returned)))
                elif rng.random() < self.bad_free_rate:
                    returned = rng.choice((rng.randrange(LARGE + self.small, 1 << 16), LARGE + self.small))
                    core.bad_free_pending = True
            self.signal(f"queue{number}__free_valid").value = returned is not None
            self.signal(f"queue{number}__free_index").value = returned or 0
        for name, value in ready.items():
            self.signal(f"{name}__ready").value = int(value)
        await RisingEdge(dut.clk)
        # From here on: what was there in the cycle before the edge.
        for number, core in enumerate(self.cores):
            self._look_at_queue(number, core)
            low = int(self.signal(f"queue{number}__low").value)
            assert low == core.was_low or not self.cycle
            core.was_low = int(self.signal(f"queue{number}__buffers_large").value) < 2
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
                core.producers = {"flow": 0, "other": 0}
                while core.expected:
                    core.lost[core.expected.popleft()["queue"]] += 1
                core.held.clear()
                core.returned.clear()
                core.reset_cycle = self.cycle
        self.cycle += 1

    def _accept(self, verdict):
        self._verdict_valid = 0
        self.accepted.append(self.cycle)
        for number, core in enumerate(self.cores):
            if not verdict["cores"] >> number & 1:
                continue
            queue = "flow" if verdict["flow_hit"] else "other"
            core.given[queue] += 1
            unable = core.reset or not core.enable or verdict["bad"]
            is_short = verdict["meta"]["frame_length"] <= 254
            allowed = {None} if unable else core.allowed(queue, is_short, self.cycle)
            meta = {name: value for name, value in verdict["meta"].items() if name in META}
            core.expected.append(
                {
                    "queue": queue,
                    "allowed": allowed,
                    "raw": verdict["raw"],
                    "descriptor": meta
                    | {
                        "version": 1,
                        "port": verdict["port"],
                        "answer": verdict["answer"] >> number & 1,
                        "rss_hash": verdict["rss_hash"],
                        "flow_hit": verdict["flow_hit"],
                        "flow_index": verdict["flow_index"],
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
        for ring, prefix in (("flow", ""), ("other", "other_")):
            producer = int(self.signal(f"queue{number}__{prefix}producer").value)
            if producer != core.producers[ring]:
                assert producer == (core.producers[ring] + 1) & 0xFFFF
                self._look_at_descriptor(core, ring)

    def _look_at_descriptor(self, core, ring):
        base, log2 = (RING, RING_LOG2) if ring == "flow" else (OTHER_RING, OTHER_RING_LOG2)
        place = base + 64 * (core.producers[ring] % (1 << log2))
        core.producers[ring] += 1
        found = RX_DESCRIPTOR.unpack(bytes(core.data[place : place + 64]))
        while core.expected and core.expected[0]["descriptor"]["tcp_sequence"] != found["tcp_sequence"]:
            skipped = core.expected.popleft()
            assert None in skipped["allowed"], "dropped without need"
            core.lost[skipped["queue"]] += 1
        assert core.expected, "a descriptor for no verdict"
        frame = core.expected.popleft()
        queue = frame["queue"]
        assert ring == (queue if self.other_ring else "flow")
        index = found["buffer_index"]
        assert index < LARGE + self.small and index not in core.held
        size = core.size_class(index)
        assert size in frame["allowed"], (size, frame["allowed"])
        own = {"buffer_index": index, "buffer_class": size == "small"}
        assert bytes(core.data[place : place + 64]) == RX_DESCRIPTOR.pack(frame["descriptor"] | own)
        core.data[place : place + 64] = bytes(64)
        raw = frame["raw"]
        assert core.bank[rx_buffer_offset(index, LARGE) :][: len(raw)] == raw
        assert core.data[HEADERS + 128 * index :][: min(128, len(raw))] == raw[:128]
        core.held[index] = queue
        core.taken[queue] += 1
        core.small_taken += size == "small"
        mine = [i for i, q in core.held.items() if q == queue and core.size_class(i) == size]
        assert len(mine) <= core.limits[queue, size]

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
            while core.expected:
                frame = core.expected.popleft()
                assert None in frame["allowed"]
                core.lost[frame["queue"]] += 1
            assert not core.held
            assert self.read(number, "buffers_large") == LARGE
            assert self.read(number, "buffers_small") == self.small
            assert self.read(number, "bad_free") == core.bad_free
            for queue, counter in (("flow", "flow_dropped"), ("other", "dropped")):
                assert core.given[queue] == core.taken[queue] + core.lost[queue]
                assert self.read(number, counter) == core.lost[queue]

    def read(self, number, name):
        return int(self.signal(f"queue{number}__{name}").value)


@cocotb.test(timeout_time=3000, timeout_unit="us")
async def random_traffic(dut):
    rng = random.Random(int(os.environ["TWINSTACK_SEED"]))
    bench = Bench(dut, rng)
    for core in bench.cores:
        core.limits = {key: rng.choice((1, 2, 3, 4, 255)) for key in core.limits}
    await bench.start()
    everyone = (1 << bench.count) - 1
    for _ in range(160):
        one = 1 << rng.randrange(bench.count)
        length = rng.choice((3, 5, 60, 1536, 1537, 1600)) if rng.random() < 0.06 else None
        bench.send(
            rng.choice((one, one, one, everyone, rng.randrange(16), 0)),
            length=length,
            error=rng.random() < 0.05,
            said=rng.choice((70, 254, 300, 1500)) if rng.random() < 0.05 else None,
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
        assert sum(core.taken.values()) > 5 and sum(core.lost.values())
        assert core.small_taken or not bench.small


@cocotb.test(timeout_time=300, timeout_unit="us")
async def cycles_per_frame(dut):
    """Frames of 17 words with the pad: to changing cores, two in a row to each, all to one core, all to all cores."""
    bench = Bench(dut, random.Random(1))
    await bench.start()
    cases = (([1, 2], 19), ([1, 1, 2, 2], 19), ([1], 34), ([(1 << bench.count) - 1], 34))
    for targets, bound in cases:
        bench.accepted.clear()
        for number in range(40):
            bench.send(targets[number % len(targets)], length=66, port=number % bench.ports)
        await bench.drain()
        gaps = [b - a for a, b in zip(bench.accepted, bench.accepted[1:], strict=False)]
        # A lane that is full makes one wait longer than its share; the sum counts.
        assert sum(gaps) <= bound * len(gaps), (targets, gaps)
        assert all(sum(core.lost.values()) == 0 for core in bench.cores)


@cocotb.test(timeout_time=300, timeout_unit="us")
async def slow_core_holds_up_nobody_while_its_lane_has_room(dut):
    bench = Bench(dut, random.Random(5))
    await bench.start()
    slow, other = bench.cores[:2]
    slow.data_ready = 0.0
    bench.send(0b01, length=66, port=0)
    for _ in range(20):
        bench.send(0b10, length=66, port=0)
    for _ in range(20 * 34 + 60):
        await bench.step()
    assert sum(other.taken.values()) == 20 and not bench.is_busy
    assert sum(slow.taken.values()) == 0
    await bench.drain()
    assert sum(slow.taken.values()) == 1


@cocotb.test(timeout_time=300, timeout_unit="us")
async def descriptor_waits_for_the_last_word_in_the_bank(dut):
    """The bank stands still at any time of a frame; whoever sees the descriptor finds the whole frame."""
    bench = Bench(dut, random.Random(6))
    await bench.start()
    for delay in range(12, 26):
        bench.send(0b01, length=66, port=0)
        for _ in range(delay):
            await bench.step()
        bench.bank_stall = 1.0
        for _ in range(60):
            await bench.step()
        bench.bank_stall = 0.0
        await bench.drain()
    assert sum(bench.cores[0].taken.values()) == 14


@cocotb.test(timeout_time=300, timeout_unit="us")
async def one_core_out_of_buffers(dut):
    """Portions are allocated to each core in advance: one core's exhaustion takes nothing from the other."""
    bench = Bench(dut, random.Random(2))
    await bench.start()
    starved, other = bench.cores[:2]
    starved.free_rate = 0.0
    for _ in range(20):
        bench.send(0b11, length=66, hit=0)
    while bench.is_busy:
        await bench.step()
    for _ in range(120):
        await bench.step()
    everything = LARGE + bench.small
    assert starved.taken["other"] == everything and len(starved.held) == everything
    assert bench.read(0, "dropped") == 20 - everything
    assert bench.read(0, "buffers_large") == bench.read(0, "buffers_small") == 0
    assert bench.read(0, "low") and not bench.read(1, "low")
    assert other.taken["other"] == 20 and bench.read(1, "dropped") == 0
    # It recovers as soon as buffers come back.
    await bench.drain()
    bench.send(0b01, length=66, hit=0)
    await bench.drain()
    assert starved.taken["other"] == everything + 1


@cocotb.test(timeout_time=300, timeout_unit="us")
async def strangers_leave_the_reserve_of_connections(dut):
    """A flood without flow hits takes what its limits allow; frames of connections still find their reserve."""
    bench = Bench(dut, random.Random(3))
    for core in bench.cores:
        core.limits["other", "large"] = LARGE - 2
        core.limits["other", "small"] = max(0, bench.small - 2)
    await bench.start()
    core = bench.cores[0]
    core.free_rate = 0.0
    strangers = LARGE - 2 + max(0, bench.small - 2)
    for _ in range(20):
        bench.send(0b01, length=66, hit=0)
    reserve = 2 + min(2, bench.small)
    for _ in range(reserve + 3):
        bench.send(0b01, length=66, hit=1)
    while bench.is_busy:
        await bench.step()
    for _ in range(120):
        await bench.step()
    assert core.taken == {"flow": reserve, "other": strangers}
    assert bench.read(0, "dropped") == 20 - strangers
    assert bench.read(0, "flow_dropped") == 3
    await bench.drain()


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
        assert sum(other.taken.values()) == 3
        assert bench.read(0, "producer") == bench.read(0, "other_producer") == 0
        assert bench.read(0, "buffers_large") == LARGE
        dying.reset, dying.data_ready = 0, 1.0
        await bench.step()
        before = sum(dying.taken.values())
        bench.send(0b01, length=66)
        await bench.drain()
        assert sum(dying.taken.values()) == before + 1 and sum(dying.producers.values()) == 1


@pytest.mark.parametrize(
    ("ports", "cores", "small", "other_ring"),
    [(2, 2, 6, OTHER_RING), (2, 2, 0, 0), (3, 4, 0, OTHER_RING)],
    ids=["both_classes", "large_only_one_ring", "four_cores"],
)
@pytest.mark.claim(26)
def test_rx_dma(ports, cores, small, other_ring):
    from support.rtl import run_cocotb
    from twinstack.config import EngineConfig
    from twinstack.rx_dma import RxDma

    # The bank has room for the small buffers, but not for another large one.
    bank_bytes = LARGE * RX_BUFFER_BYTES + (RX_BUFFER_BYTES if small else 0)
    config = EngineConfig(
        ports=ports, cores=cores, data_bytes=DATA_BYTES, rx_bank_bytes=bank_bytes, rx_small_buffers=small
    )
    assert config.rx_large_buffers == LARGE
    environment = {"PORTS": ports, "CORES": cores, "SMALL": small, "OTHER_RING": other_ring}
    run_cocotb(RxDma(config), __file__, environment={name: str(value) for name, value in environment.items()})


def test_config_is_checked():
    from twinstack.rx_dma import RxDma

    with pytest.raises(TypeError, match="config must be an EngineConfig, not 2"):
        RxDma(2)
