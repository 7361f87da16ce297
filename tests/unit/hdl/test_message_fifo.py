"""Message FIFOs: random traffic and resets against queues in Python."""

import os
import random

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

from twinstack.models.message_fifo import MessageQueues

CORES = int(os.environ.get("CORES", "2"))
DEPTH = 4
HOLD_OFF = 1024


class Bench:
    def __init__(self, dut):
        self.dut = dut
        self.rng = random.Random(int(os.environ["TWINSTACK_SEED"]))
        self.model = MessageQueues(CORES, DEPTH)
        self.received = []
        self.refused = 0

    def port(self, core, member):
        return getattr(self.dut, f"port{core}__{member}")

    async def start(self):
        cocotb.start_soon(Clock(self.dut.clk, 10, "ns").start())
        self.dut.rst.value = 1
        self.dut.core_reset.value = 0
        for core in range(CORES):
            self.port(core, "send").value = 0
            self.port(core, "pop").value = 0
        await RisingEdge(self.dut.clk)
        self.dut.rst.value = 0

    async def cycle(self, sends=None, pops=(), reset=0):
        """One cycle; ``sends``: sender -> (receiver, message)."""
        sends = sends or {}
        for core in range(CORES):
            receiver, message = sends.get(core, (0, 0))
            self.port(core, "send").value = core in sends
            self.port(core, "to").value = receiver
            self.port(core, "send_words").value = message
            self.port(core, "pop").value = core in pops
        self.dut.core_reset.value = reset
        await RisingEdge(self.dut.clk)
        space = {core: int(self.port(core, "space").value) for core in range(CORES)}
        for core in range(CORES):
            for other in range(CORES):
                assert space[core] >> other & 1 == self.model.has_space(core, other, reset), (core, other)
            if int(self.port(core, "available").value):
                sender = int(self.port(core, "sender").value)
                assert self.model.oldest(sender, core) == int(self.port(core, "words").value)
        for core in pops:
            if int(self.port(core, "available").value):
                sender = int(self.port(core, "sender").value)
                self.received.append((sender, core))
                self.model.pop(sender, core)
        for core, (receiver, message) in sends.items():
            if space[core] >> receiver & 1:
                self.model.send(core, receiver, message)
            else:
                self.refused += 1
        self.model.reset(reset)

    async def drain(self):
        for _ in range(8 * DEPTH * CORES):
            await self.cycle(pops=range(CORES))
        assert not any(self.model.queues.values())


@cocotb.test(timeout_time=400, timeout_unit="us")
async def random_traffic_matches_queues(dut):
    bench = Bench(dut)
    await bench.start()
    rng = bench.rng
    for phase in range(12):
        sending, popping = rng.random(), rng.random() * rng.random()
        for _ in range(300):
            sends = {
                core: (rng.randrange(CORES), rng.getrandbits(128)) for core in range(CORES) if rng.random() < sending
            }
            await bench.cycle(sends, [core for core in range(CORES) if rng.random() < popping])
        await bench.drain()
        assert [int(getattr(dut, f"sent{core}").value) for core in range(CORES)] == bench.model.sent, phase
    assert bench.refused > 100 and sum(bench.model.sent) > 100


@cocotb.test(timeout_time=400, timeout_unit="us")
async def senders_take_turns(dut):
    bench = Bench(dut)
    await bench.start()
    for core in range(1, CORES):
        for _ in range(DEPTH):
            await bench.cycle({core: (0, bench.rng.getrandbits(128))})
    while any(bench.model.queues.values()):
        await bench.cycle(pops=[0])
    turns = [sender for sender, receiver in bench.received if receiver == 0]
    assert len(turns) == DEPTH * (CORES - 1)
    # The first comes from core 1, which began; from then on strictly in turn.
    for i in range(len(turns) - CORES + 1):
        assert len(set(turns[i : i + CORES - 1])) == CORES - 1, turns


@cocotb.test(timeout_time=400, timeout_unit="us")
async def reset_of_either_end_empties_the_pair(dut):
    bench = Bench(dut)
    await bench.start()
    rng = bench.rng
    taken_back = 0
    for _ in range(20):
        for _ in range(rng.randrange(2, 12)):
            await bench.cycle({core: (rng.randrange(CORES), rng.getrandbits(128)) for core in range(CORES)})
        dead = rng.randrange(CORES)
        shown = {core: int(bench.port(core, "words").value) for core in range(CORES)}
        was_shown = {core: int(bench.port(core, "available").value) for core in range(CORES)}
        for _ in range(rng.randrange(1, 4)):
            await bench.cycle({core: (0, 1) for core in range(CORES)}, reset=1 << dead)
        await bench.cycle()
        # Taken back: not torn, and no other message in its place for a while.
        lost = [c for c in range(CORES) if c != dead and was_shown[c] and not int(bench.port(c, "available").value)]
        for core in lost:
            assert int(bench.port(core, "words").value) == shown[core]
            await bench.cycle({dead: (core, 5)})
        taken_back += len(lost)
        for _ in range(HOLD_OFF - 50 if lost else 0):
            await bench.cycle()
            assert not any(int(bench.port(core, "available").value) for core in lost)
        for _ in range(60):
            await bench.cycle()
        assert all(int(bench.port(core, "available").value) for core in lost)
    for _ in range(HOLD_OFF + 10):
        await bench.cycle()
    await bench.drain()
    assert taken_back > 3


@pytest.mark.parametrize("cores", [2, 4])
def test_message_fifos(cores):
    from support.rtl import run_cocotb
    from twinstack.message_fifo import MessageFifos

    run_cocotb(MessageFifos(cores, DEPTH), __file__, environment={"CORES": str(cores)})


def test_parameters_are_checked():
    from twinstack.message_fifo import MessageFifos

    with pytest.raises(TypeError, match="not '2'"):
        MessageFifos("2")
    with pytest.raises(ValueError, match="cores must be 1 to 4, not 5"):
        MessageFifos(5)
    with pytest.raises(ValueError, match="not 3"):
        MessageFifos(2, 3)
