"""Flow table against a dictionary: full tables, chains of one bucket, core resets in the middle of everything."""

import os
import random

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

from twinstack.models.flow_table import FlowTableModel, bucket_of
from twinstack.proto.descriptor import FlowOperation, FlowStatus


def random_flow(rng):
    length = rng.choice((4, 16))
    return (
        rng.randbytes(length),
        rng.randbytes(length),
        rng.randrange(1 << 16),
        rng.randrange(1 << 16),
        rng.random() < 0.5,
    )


def near(rng, flow):
    """A flow that differs in one bit, or in its version or protocol only."""
    source, destination, source_port, destination_port, is_tcp = flow
    kind = rng.randrange(6)
    if kind == 0:
        return source, destination, source_port, destination_port, not is_tcp
    if kind == 1:
        return source, destination, source_port ^ 1 << rng.randrange(16), destination_port, is_tcp
    if kind == 2:
        return source, destination, source_port, destination_port ^ 1 << rng.randrange(16), is_tcp
    if kind == 3:  # what IPv4 looks like in the first words
        length = 4 if len(source) == 16 else 16
        return source[:length].ljust(length, b"\0"), destination[:length].ljust(length, b"\0"), *flow[2:]
    changed = [bytearray(source), bytearray(destination)]
    address = rng.choice(changed)
    address[rng.randrange(len(address))] ^= 1 << rng.randrange(8)
    return bytes(changed[0]), bytes(changed[1]), source_port, destination_port, is_tcp


def colliding_flows(rng, buckets, count, length):
    """Distinct flows of one bucket; with IPv6 alike in all that the first beat holds."""
    base = (rng.randbytes(length), rng.randbytes(length), 1234, 80, True)
    result = [base]
    while len(result) < count:
        source = rng.randbytes(4) if length == 4 else base[0][:4] + rng.randbytes(12)
        flow = (source, *base[1:])
        if bucket_of(flow, buckets) == bucket_of(base, buckets) and flow not in result:
            result.append(flow)
    return result


def job_bits(operation, core, flow, index=0, rng=None):
    from twinstack.flow_table import FlowJob

    source, destination, source_port, destination_port, is_tcp = flow
    # What IPv4 does not use is anything: the registers keep the words of an earlier IPv6 tuple.
    rest = rng.randbytes(12) if rng else bytes(12)
    request = {
        "operation": int(operation),
        "source": int.from_bytes(source if len(source) == 16 else source + rest, "little"),
        "destination": int.from_bytes(destination if len(destination) == 16 else destination + rest, "little"),
        "source_port": source_port,
        "destination_port": destination_port,
        "is_ipv6": len(source) == 16,
        "is_tcp": is_tcp,
        "index": index,
    }
    return FlowJob.const({"request": request, "core": core}).as_bits()


class Bench:
    def __init__(self, dut):
        self.dut = dut
        self.rng = random.Random(int(os.environ["TWINSTACK_SEED"]))
        self.entries, self.cores, self.buckets = (int(os.environ[name]) for name in ("ENTRIES", "CORES", "BUCKETS"))
        self.model = FlowTableModel(self.entries)
        self.reset_rate = 0.0
        self.in_reset = 0  # mask
        self.keep_reset = False
        self.cycle = 0
        self.killed = set()  # cores whose reset began since the request was made

    async def start(self):
        dut = self.dut
        cocotb.start_soon(Clock(dut.clk, 10, "ns").start())
        dut.rst.value = 1
        dut.request__valid.value = 0
        dut.core_reset.value = 0
        await RisingEdge(dut.clk)
        await RisingEdge(dut.clk)
        dut.rst.value = 0

    async def step(self):
        rng = self.rng
        for core in range(self.cores):
            if self.in_reset >> core & 1:
                if not self.keep_reset and rng.random() < 0.1:
                    self.in_reset &= ~(1 << core)
            elif rng.random() < self.reset_rate:
                self.in_reset |= 1 << core
                self.killed.add(core)
                self.model.reset_core(core)
        self.dut.core_reset.value = self.in_reset
        await RisingEdge(self.dut.clk)
        self.cycle += 1

    async def do(self, operation, core, flow, index=0, limit=5000):
        """One request; its (FlowResult, cycles)."""
        from twinstack.interfaces import FlowResult

        dut = self.dut
        dut.request__payload.value = job_bits(operation, core, flow, index, self.rng)
        dut.request__valid.value = 1
        began = self.cycle
        while True:
            await self.step()
            if int(dut.request__ready.value):
                break
            assert self.cycle - began < limit, "a request hangs"
        dut.request__valid.value = 0
        return FlowResult.from_bits(int(dut.result.value)), self.cycle - began

    async def checked(self, operation, core, flow, index=0):
        """One request, its result and the model's brought together."""
        self.killed.clear()
        before = dict(self.model.by_flow)
        result, cycles = await self.do(operation, core, flow, index)
        got = (result.status, result.index, result.core)
        old, new = before.get(flow), self.model.lookup(flow)
        if operation == FlowOperation.LOOKUP:
            expected = {(FlowStatus.OK, *entry) if entry else (FlowStatus.NOT_FOUND, 0, 0) for entry in (old, new)}
            assert got in expected, (flow, got, expected)
        elif operation == FlowOperation.INSERT:
            if core in self.killed:
                # Executed before the reset, and dead; or after the sweep, as nobody withdrew it.
                assert old is None or result.status in (FlowStatus.EXISTS, FlowStatus.OK)
                found, _ = await self.do(FlowOperation.LOOKUP, 0, flow)
                if found.status == FlowStatus.OK and found.core == core:
                    self.model.insert(flow, core, found.index)
            elif new is not None:
                assert got == (FlowStatus.EXISTS, *new)
            elif old is not None and result.status == FlowStatus.EXISTS:
                assert got[1:] == old  # whose core is killed just now
            elif len(self.model.by_flow) == self.entries:
                assert result.status == FlowStatus.FULL
            elif self.killed and len(before) == self.entries and result.status == FlowStatus.FULL:
                pass  # it was decided in the cycle of the reset
            else:
                assert result.status == FlowStatus.OK and result.core == core, "a free entry is left"
                self.model.insert(flow, core, result.index)
        elif operation == FlowOperation.DELETE:
            if core not in self.killed:
                assert result.status == self.model.delete(index, core)
        return result, cycles

    async def settle(self):
        """Let the sweep end; nothing may be lost."""
        self.reset_rate, self.in_reset = 0.0, 0
        for _ in range(10 * self.entries + 10):
            await self.step()
        assert int(self.dut.used.value) == len(self.model.by_flow)
        assert int(self.dut.sweeping.value) == 0

    async def verify_all(self):
        for flow, (index, core) in self.model.by_flow.items():
            result, _ = await self.do(FlowOperation.LOOKUP, 0, flow)
            assert (result.status, result.index, result.core) == (FlowStatus.OK, index, core)


def cycles_bound(flow, position):
    """The cycle, counted from 1, in which a lookup is accepted that ends at entry ``position`` of its chain."""
    return 5 + max(1, position) * (1 if len(flow[0]) == 4 else 3)


@cocotb.test(timeout_time=4000, timeout_unit="us")
async def random_operations_with_resets(dut):
    bench = Bench(dut)
    rng = bench.rng
    await bench.start()
    pool = [random_flow(rng) for _ in range(bench.entries)]
    pool += [near(rng, rng.choice(pool)) for _ in range(bench.entries)]
    seen = set()
    for round_ in range(8):
        # Fill, empty, and stay around the middle, in turns.
        weights = ((30, 1, 4), (1, 6, 6), (3, 3, 6))[round_ % 3]
        bench.reset_rate = 0.002 if round_ % 4 == 3 else 0.0
        for _ in range(300):
            operation = rng.choices((FlowOperation.INSERT, FlowOperation.DELETE, FlowOperation.LOOKUP), weights)[0]
            core = rng.randrange(bench.cores)
            if operation != FlowOperation.LOOKUP and bench.in_reset >> core & 1:
                continue
            entry = rng.choice(list(bench.model.by_flow.values()) or [(0, 0)])
            index, owner = entry if rng.random() < 0.8 else (rng.randrange(1 << 16), core)
            core = owner if operation == FlowOperation.DELETE and rng.random() < 0.8 else core
            if operation != FlowOperation.LOOKUP and bench.in_reset >> core & 1:
                continue
            result, _ = await bench.checked(operation, core, rng.choice(pool), index)
            seen.add((operation, FlowStatus(result.status)))
            for _ in range(rng.choice((0, 0, 0, 1, 7))):
                await bench.step()
        await bench.settle()
        await bench.verify_all()
    assert seen >= {
        (FlowOperation.INSERT, FlowStatus.OK),
        (FlowOperation.INSERT, FlowStatus.EXISTS),
        (FlowOperation.INSERT, FlowStatus.FULL),
        (FlowOperation.DELETE, FlowStatus.OK),
        (FlowOperation.DELETE, FlowStatus.NOT_FOUND),
        (FlowOperation.LOOKUP, FlowStatus.OK),
        (FlowOperation.LOOKUP, FlowStatus.NOT_FOUND),
    }
    assert (await bench.do(FlowOperation.ADD_PORT, 0, pool[0]))[0].status == FlowStatus.BAD_OPERATION


@cocotb.test(timeout_time=4000, timeout_unit="us")
async def fills_with_one_bucket_in_bounded_time(dut):
    """As many flows of one bucket as there are entries fit; each costs what the docstring says."""
    bench = Bench(dut)
    rng = bench.rng
    await bench.start()
    for length in (4, 16):
        flows = colliding_flows(rng, bench.buckets, bench.entries + 1, length)
        stranger = flows.pop()
        for flow in flows:
            await bench.checked(FlowOperation.INSERT, rng.randrange(bench.cores), flow)
        assert len(bench.model.by_flow) == int(dut.used.value) == bench.entries
        result, _ = await bench.checked(FlowOperation.INSERT, 0, stranger)
        assert result.status == FlowStatus.FULL
        for _ in range(2):  # the sweep's flag may still cost a step
            result, cycles = await bench.checked(FlowOperation.LOOKUP, 0, stranger)
            assert result.status == FlowStatus.NOT_FOUND
        assert cycles == cycles_bound(stranger, bench.entries)
        for position, flow in enumerate(reversed(flows), 1):  # the newest is the first of its chain
            if position < 4 or position > bench.entries - 4 or rng.random() < 0.2:
                _, cycles = await bench.checked(FlowOperation.LOOKUP, 0, flow)
                assert cycles == cycles_bound(flow, position)
        # Out of the middle, the front and the end; the others stay.
        for flow in rng.sample(flows, len(flows)):
            index, core = bench.model.lookup(flow)
            result, cycles = await bench.checked(FlowOperation.DELETE, (core + 1) % bench.cores, flow, index)
            assert (result.status == FlowStatus.NOT_FOUND) == (bench.cores > 1)
            result, cycles = await bench.checked(FlowOperation.DELETE, core, flow, index)
            assert cycles <= 7
            await bench.checked(FlowOperation.LOOKUP, 0, rng.choice(flows))
            if rng.random() < 1 / bench.entries:
                await bench.verify_all()
        assert int(dut.used.value) == 0


@cocotb.test(timeout_time=2000, timeout_unit="us")
async def reset_kills_at_once_and_room_comes_back(dut):
    bench = Bench(dut)
    rng = bench.rng
    await bench.start()
    dead, other = bench.cores - 1, 0
    for _ in range(3):
        flows = [random_flow(rng) for _ in range(2 * bench.entries)]
        for n, flow in enumerate(flows[: bench.entries]):
            await bench.checked(FlowOperation.INSERT, dead if n % 2 else other, flow)
        bench.keep_reset = True
        bench.in_reset = 1 << dead
        bench.model.reset_core(dead)
        await bench.step()
        # While the sweep runs: dead entries are not found, and a full table makes room rather than say FULL.
        for flow in flows[: bench.entries]:
            result, _ = await bench.do(FlowOperation.LOOKUP, 0, flow)
            assert (result.status == FlowStatus.OK) == (flow in bench.model.by_flow)
            if rng.random() < 0.3:
                await bench.checked(FlowOperation.INSERT, other, rng.choice(flows))
        bench.in_reset = 0
        # The restarted core enters what it had before, without delay.
        for flow in flows[: bench.entries]:
            await bench.checked(FlowOperation.INSERT, dead, flow)
        await bench.settle()
        await bench.verify_all()
        for core in range(bench.cores):
            bench.model.reset_core(core)
        bench.in_reset = (1 << bench.cores) - 1
        await bench.step()
        await bench.settle()
        assert int(dut.used.value) == 0


@pytest.mark.parametrize(("entries", "cores", "buckets"), [(128, 2, 128), (8, 4, 2), (16, 1, 1)])
def test_flow_table(entries, cores, buckets):
    from support.rtl import run_cocotb
    from twinstack.flow_table import FlowTable

    environment = {"ENTRIES": str(entries), "CORES": str(cores), "BUCKETS": str(buckets)}
    run_cocotb(FlowTable(entries, cores, buckets), __file__, environment=environment)


@pytest.mark.parametrize("buckets", [8, 32, 128, 256])
def test_hash_spreads_flows_that_count_up(buckets):
    """Flows as real peers have them: no bucket holds more than a few."""
    server = bytes([10, 0, 0, 1])
    v6 = bytes.fromhex("20010db8000000000000000000000000")
    patterns = {
        "ports": [(bytes([10, 0, 0, 9]), server, 40000 + n, 80, True) for n in range(buckets)],
        "hosts": [(bytes([10, 0, n >> 8, n & 255]), server, 40000, 80, True) for n in range(buckets)],
        "both": [(bytes([10, 0, 0, n & 255]), server, 40000 + n, 80, True) for n in range(buckets)],
        "local ports": [(bytes([10, 0, 0, 9]), server, 80, 49152 + n, True) for n in range(buckets)],
        "ipv6 hosts": [(v6[:15] + bytes([n & 255]), v6, 40000, 80, True) for n in range(buckets)],
        "ipv6 networks": [(v6[:7] + bytes([n & 255]) + v6[8:], v6, 40000, 80, True) for n in range(buckets)],
    }
    for name, flows in patterns.items():
        buckets_of = [bucket_of(flow, buckets) for flow in flows]
        assert max(buckets_of.count(bucket) for bucket in set(buckets_of)) <= 4, name
    rng = random.Random(1)
    worst = 0
    for _ in range(20):
        buckets_of = [bucket_of(random_flow(rng), buckets) for _ in range(buckets)]
        worst = max(worst, *(buckets_of.count(bucket) for bucket in set(buckets_of)))
    assert worst <= 9


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ((3, 2), ValueError, "entries must be a power of two from 2 to 256, not 3"),
        ((512, 2), ValueError, "not 512"),
        ((8, 5), ValueError, "cores must be 1 to 4, not 5"),
        ((8, 2, 16), ValueError, "buckets must be a power of two from 1 to entries, not 16"),
        (("8", 2), TypeError, "entries must be an integer, not '8'"),
    ],
)
def test_parameters_are_checked(arguments, error, text):
    from twinstack.flow_table import FlowTable

    with pytest.raises(error, match=text):
        FlowTable(*arguments)


def test_model_chooses_free_entries():
    model = FlowTableModel(2)
    a, b, c = (random_flow(random.Random(n)) for n in range(3))
    assert model.insert(a, 0) == (FlowStatus.OK, 0, 0)
    with pytest.raises(ValueError, match="free entry, not 0"):
        model.insert(b, 0, 0)
    assert model.insert(b, 1) == (FlowStatus.OK, 1, 1)
    assert model.insert(c, 1)[0] == FlowStatus.FULL
    assert model.insert(a, 1) == (FlowStatus.EXISTS, 0, 0)
    assert model.delete(0, 1) == FlowStatus.NOT_FOUND
    model.reset_core(0)
    assert model.by_flow == {b: (1, 1)}
