"""The host and four cores around a control queue: rings, completions, hash probes."""

import os
import random

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge, Timer

from twinstack.models.completion_queue import Completion, CompletionQueueModel, phase
from twinstack.models.host_dispatcher import ECONNRESET, ENODEV
from twinstack.proto.queues import CQE, SQ_DELIVERY, SQE, Handle

CORES = 4
DATA_BYTES = 8192
HOST_BASE = 0x4000_0000
SQ_BASE, CQ_BASE = HOST_BASE + 0x1000, HOST_BASE + 0x8000
OWNER = 1 << 31


class Bench:
    def __init__(self, dut, *, bus_wait=0.0, ram_wait=0.0, sq_log2=4, cq_log2=4, ring_log2=2):
        from support.host_memory import HostMemory, RequestRam

        self.dut = dut
        self.rng = rng = random.Random(int(os.environ["TWINSTACK_SEED"]))
        self.clock = cocotb.start_soon(Clock(dut.clk, 10, "ns").start())
        self.host = bytearray(0x10000)
        self.sq_bus = HostMemory(dut, "sq_bus", self.host, rng, base=HOST_BASE, wait=bus_wait)
        self.cq_bus = HostMemory(dut, "cq_bus", self.host, rng, base=HOST_BASE, wait=bus_wait)
        self.data = [bytearray(DATA_BYTES) for _ in range(CORES)]
        self.rams = [RequestRam(dut, f"data{core}", self.data[core], rng, wait=ram_wait) for core in range(CORES)]
        self.sq_log2, self.cq_log2, self.ring_log2 = sq_log2, cq_log2, ring_log2
        for name in ("enable", "irq_enable", "sq_tail", "cq_head", "irq_count", "irq_delay", "tick", "manager"):
            getattr(dut, name).value = 0
        dut.sq_base.value, dut.cq_base.value = SQ_BASE, CQ_BASE
        dut.sq_log2.value, dut.cq_log2.value = sq_log2, cq_log2
        dut.core_reset.value = 0
        dut.rst.value = 0
        self.epochs = [rng.randrange(256) for _ in range(CORES)]
        dut.epochs.value = int.from_bytes(bytes(self.epochs), "little")
        self.rings = [80 * rng.randrange(10) + 4 * rng.randrange(20) for _ in range(CORES)]
        self.consumers = [0] * CORES
        for core in range(CORES):
            for name, value in (
                ("ring", self.rings[core]),
                ("ring_log2", ring_log2),
                ("enable", 1),
                ("consumer", 0),
                ("load", 0),
            ):
                self.sq(core, name).value = value
            for name in ("post", "user_data", "result", "more", "is_joined", "host", "join_id"):
                self.cq(core, name).value = 0
        self.alive = (1 << CORES) - 1
        dut.alive.value = self.alive
        self.sq_tail = self.cq_head = self.submitted = 0
        self.completions = CompletionQueueModel(CORES)
        self.untaken = set()  # user data of entries that no core has taken
        dut.probe__request__ready.value = dut.probe__done.value = 0
        self.probed = []  # tuples that were asked for
        self.probe_delay = (0, 20)
        self.prober = None

    def answer_probes(self, core_of):
        """Answer with ``core_of(source, destination, source_port, destination_port)`` after some cycles; a request stays until then."""
        self.prober = cocotb.start_soon(self._answer_probes(core_of))

    async def _answer_probes(self, core_of):
        from twinstack.interfaces import ProbeRequest, ProbeResult

        dut = self.dut
        while True:
            await self.cycles()
            if not int(dut.probe__request__valid.value):
                continue
            payload = int(dut.probe__request__payload.value)
            for _ in range(self.rng.randint(*self.probe_delay)):
                await self.cycles()
                assert int(dut.probe__request__valid.value) and int(dut.probe__request__payload.value) == payload
            dut.probe__request__ready.value = 1
            await self.cycles()
            dut.probe__request__ready.value = 0
            assert not int(dut.probe__request__valid.value), "asked for a second one"
            request = ProbeRequest.from_bits(payload)
            assert request.has_ports and request.is_tcp and not request.is_ipv6
            assert request.source >> 32 == request.destination >> 32 == 0
            addresses = (value.to_bytes(4, "little") for value in (request.source, request.destination))
            asked = (*addresses, request.source_port, request.destination_port)
            self.probed.append(asked)
            for _ in range(self.rng.choice([0, 0, 5])):
                await self.cycles()
            dut.probe__result.value = ProbeResult.const({"core": core_of(*asked)}).as_bits()
            dut.probe__done.value = 1
            await self.cycles()
            dut.probe__done.value = 0
            dut.probe__result.value = self.rng.getrandbits(32)

    def sq(self, core, name):
        return getattr(self.dut, f"sq{core}__{name}")

    def cq(self, core, name):
        return getattr(self.dut, f"cq{core}__{name}")

    async def cycles(self, count=1):
        for _ in range(count):
            await RisingEdge(self.dut.clk)
        await Timer(2, "ns")

    async def start(self):
        # Also ends what an earlier test left behind: the access in flight when a queue is disabled still ends.
        self.dut.core_reset.value = (1 << CORES) - 1
        await self.cycles(50)
        self.host[:] = bytes(len(self.host))
        self.dut.core_reset.value = 0
        self.dut.enable.value = 1
        await self.cycles(3)

    def set_alive(self, mask):
        self.alive = mask
        self.dut.alive.value = mask

    async def reset_core(self, core, cycles=3):
        self.set_alive(self.alive & ~(1 << core))
        self.completions.reset_core(core)
        self.dut.core_reset.value = 1 << core
        self.sq(core, "consumer").value = self.consumers[core] = 0
        await self.cycles(cycles)
        self.dut.core_reset.value = 0
        self.data[core][:] = bytes(DATA_BYTES)

    async def close(self):
        """Make place for another bench in the same test."""
        self.dut.enable.value = 0
        await self.cycles(50)
        for part in (self.sq_bus, self.cq_bus, *self.rams):
            part.close()
        if self.prober is not None:
            self.prober.cancel()
        self.clock.cancel()

    # --- The host ---

    def submit(self, operation, **fields):
        """Place an entry and ring the doorbell; returns the entry's bytes, with user data of its own."""
        fields.setdefault("user_data", self.rng.getrandbits(32) << 32 | self.submitted)
        fields.setdefault("inline", self.rng.getrandbits(256))
        fields.setdefault("buffer", self.rng.getrandbits(64))
        entry = SQE.pack({"operation": operation} | fields)
        place = SQ_BASE - HOST_BASE + 64 * (self.sq_tail % (1 << self.sq_log2))
        self.host[place : place + 64] = entry
        self.sq_tail = (self.sq_tail + 1) % 65536
        self.submitted += 1
        self.untaken.add(user_data_of(entry))
        self.dut.sq_tail.value = self.sq_tail
        return entry

    def peek(self):
        """The next completion, or None: by the phase bit alone, as a host polls."""
        place = CQ_BASE - HOST_BASE + 16 * (self.cq_head % (1 << self.cq_log2))
        entry = CQE.unpack(bytes(self.host[place : place + 16]))
        if entry["phase"] != phase(self.cq_head, self.cq_log2):
            return None
        result = entry["result"] - (entry["result"] >> 31 << 32)
        return Completion(entry["user_data"], result, entry["more"])

    async def reap(self):
        while (entry := self.peek()) is None:
            await self.cycles()
        if entry.result in (-ENODEV, -ECONNRESET) and entry.user_data in self.untaken:
            self.untaken.remove(entry.user_data)
            self.completions.refuse(entry)
        self.completions.take(entry)
        self.cq_head = (self.cq_head + 1) % 65536
        self.dut.cq_head.value = self.cq_head
        return entry

    async def quiet(self, cycles=150):
        """Nothing comes, and nothing had to."""
        await self.cycles(cycles)
        assert self.peek() is None
        assert self.completions.due == 0
        self.completions.settle()

    # --- The cores ---

    def delivered(self, core):
        """The oldest entry in the core's ring, or None."""
        place = self.rings[core] + 80 * (self.consumers[core] % (1 << self.ring_log2))
        entry = bytes(self.data[core][place : place + 80])
        return entry if int.from_bytes(entry[76:], "little") & OWNER else None

    async def take(self, core):
        while (entry := self.delivered(core)) is None:
            await self.cycles()
        await self.cycles()
        place = self.rings[core] + 80 * (self.consumers[core] % (1 << self.ring_log2))
        self.data[core][place + 76 : place + 80] = bytes(4)
        self.consumers[core] = (self.consumers[core] + 1) % 65536
        self.sq(core, "consumer").value = self.consumers[core]
        delivery = SQ_DELIVERY.unpack(entry)
        user_data, slot = user_data_of(entry), delivery["join_id"]
        self.untaken.discard(user_data)
        joins = self.completions.joins
        if delivery["is_joined"] and (slot not in joins or joins[slot].user_data != user_data):
            self.completions.open(slot, {other for other in range(CORES) if self.alive >> other & 1}, user_data)
        return delivery

    async def post(self, core, user_data, result, *, more=0, is_joined=0, join_id=0, host=0):
        if int(self.cq(core, "space").value):  # otherwise it is ignored
            completion = Completion(user_data, result, more)
            self.completions.post(core, completion, join=join_id if is_joined else None, host=host)
        for name, value in (
            ("user_data", user_data),
            ("result", result & 0xFFFF_FFFF),
            ("more", more),
            ("is_joined", is_joined),
            ("join_id", join_id),
            ("host", host),
            ("post", 1),
        ):
            self.cq(core, name).value = value
        await self.cycles()
        self.cq(core, "post").value = 0

    async def finish(self, core, entry, result, **options):
        """Complete a delivery as firmware does."""
        while not int(self.cq(core, "space").value):
            await self.cycles()
        user_data = SQE.unpack(entry["sqe"].to_bytes(64, "little"))["user_data"]
        await self.post(core, user_data, result, is_joined=entry["is_joined"], join_id=entry["join_id"], **options)

    async def expect_only(self, cores, entry, index):
        """The entry comes to these cores and no other; returns the deliveries."""
        taken = {core: await self.take(core) for core in cores}
        for core, delivery in taken.items():
            assert delivery["sqe"].to_bytes(64, "little") == entry
            assert (delivery["host"], delivery["sq_index"], delivery["owner"]) == (0, index % 65536, 1)
            assert delivery["epoch"] == self.epochs[core]
        await self.cycles(40)
        assert not any(self.delivered(core) for core in range(CORES))
        return taken


def handle(core):
    return Handle(core=core, host=0, index=3, generation=77).pack()


def user_data_of(entry):
    return int.from_bytes(entry[8:16], "little")
