"""Lock unit: random cores against a model of ownership, service within bounds, reservations that lapse."""

import os
import random

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

from twinstack.models.lock_unit import NOBODY, LockLedger

CORES = int(os.environ.get("CORES", "2"))
LOCKS = 32
LAPSE = 64


class Bench:
    def __init__(self, dut):
        self.dut = dut
        self.rng = random.Random(int(os.environ["TWINSTACK_SEED"]))
        self.ledger = LockLedger(CORES, LOCKS)

    async def start(self):
        cocotb.start_soon(Clock(self.dut.clk, 10, "ns").start())
        self.dut.core_reset.value = 0
        self.dut.rst.value = 1
        await RisingEdge(self.dut.clk)
        self.dut.rst.value = 0
        await self.cycle({})

    def port(self, core, member):
        return getattr(self.dut, f"port{core}__{member}")

    async def cycle(self, actions, reset=0):
        """One cycle with ``actions``: core -> ("take" or "release", lock). Returns core -> (owner, taken_now, mine)."""
        for core in range(CORES):
            action, lock = actions.get(core, (None, 0))
            self.port(core, "take").value = action == "take"
            self.port(core, "release").value = action == "release"
            self.port(core, "index").value = lock
        self.dut.core_reset.value = reset
        await RisingEdge(self.dut.clk)
        owners = int(self.dut.owners.value)
        assert [owners >> 4 * n & 15 for n in range(LOCKS)] == self.ledger.owners
        answers, takes, releases = {}, {}, {}
        for core, (action, lock) in actions.items():
            owner, taken_now, mine = (int(self.port(core, name).value) for name in ("owner", "taken_now", "mine"))
            answers[core] = (owner, taken_now, mine)
            if reset >> core & 1 or action == "release":
                assert not taken_now
            else:
                self.ledger.check_take(core, lock, owner, bool(taken_now), bool(mine))
            if not reset >> core & 1:
                if action == "release":
                    releases[core] = lock
                elif taken_now:
                    takes[core] = lock
        self.ledger.cycle(takes, releases, reset)
        return answers


@cocotb.test(timeout_time=400, timeout_unit="us")
async def random_cores_match_a_model(dut):
    bench = Bench(dut)
    await bench.start()
    rng = bench.rng
    strangers = collisions = 0
    for _ in range(6000):
        actions = {}
        for core in range(CORES):
            lock = rng.choice((3, 3, 4, 31, rng.randrange(LOCKS)))
            choice = rng.random()
            if choice < 0.4:
                actions[core] = ("take", lock)
            elif choice < 0.75:
                actions[core] = ("release", lock)
                strangers += bench.ledger.owners[lock] not in (core, NOBODY)
        takes = [lock for action, lock in actions.values() if action == "take" and bench.ledger.owners[lock] == NOBODY]
        collisions += len(takes) != len(set(takes))
        await bench.cycle(actions, reset=1 << rng.randrange(CORES) if rng.random() < 0.02 else 0)
    await bench.cycle({})
    assert [int(getattr(dut, f"taken{core}").value) for core in range(CORES)] == bench.ledger.taken
    assert CORES == 1 or (strangers > 100 and collisions > 20)


@cocotb.test(timeout_time=400, timeout_unit="us")
async def cores_that_keep_trying_are_served_in_turn(dut):
    bench = Bench(dut)
    await bench.start()
    served = []
    while len(served) < 40:
        answers = await bench.cycle({core: ("take", 7) for core in range(CORES)})
        winners = [core for core, (_, taken_now, _) in answers.items() if taken_now]
        for winner in winners:
            served.append(winner)
            await bench.cycle({winner: ("release", 7)})
    for core in range(CORES):
        turns = [i for i, winner in enumerate(served) if winner == core]
        assert max(b - a for a, b in zip(turns, turns[1:], strict=False)) <= CORES


@cocotb.test(timeout_time=400, timeout_unit="us", skip=CORES < 2)
async def a_reservation_is_kept_then_lapses(dut):
    bench = Bench(dut)
    await bench.start()
    assert (await bench.cycle({0: ("take", 9)}))[0] == (0, 1, 1)
    assert (await bench.cycle({1: ("take", 9)}))[1] == (0, 0, 0)
    await bench.cycle({0: ("release", 9)})
    # Free, but kept for core 1, which is told as the owner.
    assert (await bench.cycle({0: ("take", 9)}))[0] == (1, 0, 0)
    waited = 0
    while not (await bench.cycle({0: ("take", 9)}))[0][1]:
        waited += 1
        assert waited < 2 * LAPSE
    assert waited > LAPSE - 10
    # Core 1 keeps its place when it retries at times.
    assert (await bench.cycle({1: ("take", 9)}))[1] == (0, 0, 0)
    for _ in range(5):
        for _ in range(LAPSE - 10):
            await bench.cycle({})
        assert (await bench.cycle({1: ("take", 9)}))[1] == (0, 0, 0)
    await bench.cycle({0: ("release", 9)})
    assert (await bench.cycle({0: ("take", 9), 1: ("take", 9)})) == {0: (1, 0, 0), 1: (1, 1, 1)}


@pytest.mark.parametrize("cores", [1, 2, 4])
def test_lock_unit(cores):
    from support.rtl import run_cocotb
    from twinstack.lock_unit import LockUnit

    run_cocotb(LockUnit(cores, LOCKS, lapse_cycles=LAPSE), __file__, environment={"CORES": str(cores)})


def test_parameters_are_checked():
    from twinstack.lock_unit import LockUnit

    with pytest.raises(TypeError, match="not '2'"):
        LockUnit("2")
    with pytest.raises(ValueError, match="cores must be 1 to 4, not 5"):
        LockUnit(5)
    with pytest.raises(ValueError, match="locks must be 1 to 32, not 33"):
        LockUnit(2, 33)
    with pytest.raises(ValueError, match="power of two, not 1000"):
        LockUnit(2, lapse_cycles=1000)
