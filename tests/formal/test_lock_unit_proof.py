"""Proofs of the lock unit; every one also runs on a unit that is wrong on purpose, and must fail there.

For any one lock (the solver chooses which), any behaviour of two cores and their resets:

- safety (by induction, for ever): the owner map always equals a ledger kept from the answers: so no two cores own the
  lock, nobody but the owner releases it, and a release or a reset of the owner is never lost: one cycle after the reset of a
  core has begun it owns nothing, and while it lasts it gets nothing;
- service (bounded to ``SERVICE_DEPTH`` cycles, small parameters): while the other core gives the lock back within HOLD cycles each time, a core that
  tries again at least every RETRY cycles gets it within BOUND cycles.
"""

import pytest
from amaranth import *
from amaranth.hdl import Assert, Assume, Cover

from support.formal import run_formal
from twinstack.lock_unit import NOBODY, LockUnit

CORES = 2
LOCKS = 2
LAPSE = 4
HOLD = 4
RETRY = 3
BOUND = 5 * LAPSE // 4 + RETRY + HOLD + RETRY
"""The other core's place may have to lapse first; then it may win a tie at the next try and hold the lock; then comes
the try that succeeds."""
SERVICE_DEPTH = 2 * BOUND


class AlwaysGrants(LockUnit):
    def _may_take(self, held, must_wait):
        return Const(1)


class GrantsBoth(LockUnit):
    """Forgets that another core may try in the same cycle, and who waits."""

    def _may_take(self, held, must_wait):
        return ~held


class ObeysStrangers(LockUnit):
    def _may_release(self, mine):
        return Const(1)


class LosesReleases(LockUnit):
    def _may_release(self, mine):
        return Const(0)


class Proof(Elaboratable):
    def __init__(self, unit, *, service):
        self.unit = unit
        self.service = service
        self.lock = Signal(range(LOCKS))
        self.ports = [unit.core_reset, self.lock]
        for port in unit.ports:
            self.ports += [port.take, port.release, port.index]

    def elaborate(self, platform):
        m = Module()
        m.submodules.unit = unit = self.unit
        lock = Signal.like(self.lock)
        started = Signal()
        m.d.sync += [lock.eq(self.lock), started.eq(1)]
        m.d.comb += Assume(~started | (lock == self.lock))  # any, but always the same
        takes, releases, got = [], [], []
        for core, port in enumerate(unit.ports):
            here = port.index == self.lock
            alive = ~unit.core_reset[core]
            m.d.comb += Assume(~(port.take & port.release))
            takes.append(port.take & here & alive)
            releases.append(port.release & here & alive)
            got.append(port.take & here & port.taken_now)

        ledger = Signal(4, init=NOBODY)
        owner = Signal(4)
        m.d.comb += [owner.eq(Mux(self.lock == 1, unit.owners[1], unit.owners[0])), Assert(owner == ledger)]
        m.d.comb += Assert(~(got[0] & got[1]))
        for core, port in enumerate(unit.ports):
            with m.If(got[core]):
                m.d.comb += [
                    Assert(ledger == NOBODY),
                    Assert(takes[core]),
                    Assert(port.mine),
                    Assert(port.owner == core),
                ]
            with m.If(takes[core] & ~got[core]):
                m.d.comb += Assert(port.mine == (ledger == core))
                with m.If(ledger != NOBODY):
                    m.d.comb += Assert(port.owner == ledger)
            with m.If(got[core] | (releases[core] & (ledger == core))):
                m.d.sync += ledger.eq(Mux(got[core], core, NOBODY))
            with m.If((ledger == core) & unit.core_reset[core]):
                m.d.sync += ledger.eq(NOBODY)

        for core in range(CORES):
            was_reset = Signal(name=f"was_reset{core}")
            m.d.sync += was_reset.eq(unit.core_reset[core])
            with m.If(was_reset):
                m.d.comb += Assert(owner != core)
            with m.If(unit.core_reset[core]):
                m.d.comb += Assert(~got[core])

        held_before = Signal()
        with m.If(ledger == 0):
            m.d.sync += held_before.eq(1)
        m.d.comb += [
            Cover(held_before & (ledger == 1)),
            Cover((ledger == 0) & takes[1] & releases[0]),
            Cover((ledger == NOBODY) & takes[0] & takes[1] & got[1]),
            Cover((ledger == NOBODY) & takes[0] & ~got[0] & ~takes[1]),
        ]
        if not self.service:
            lost = Signal()  # core 1 owned it and was reset
            with m.If((ledger == 1) & unit.core_reset[1]):
                m.d.sync += lost.eq(1)
            m.d.comb += [Cover((ledger == 1) & unit.core_reset[1]), Cover(lost & (ledger == 0)), Cover(lost & got[1])]
        else:
            self._bounded_service(m, ledger, takes, releases, got)
        return m

    def _bounded_service(self, m, ledger, takes, releases, got):
        """Core 1 keeps trying; core 0 does as it likes, but holds the lock for at most HOLD cycles."""
        unit = self.unit
        held = Signal(range(HOLD + 2))
        since = Signal(range(RETRY + 2))  # cycles since the last try of core 1
        waited = Signal(range(BOUND + 2))
        wants = Signal()
        m.d.comb += Assume(unit.core_reset == 0)
        m.d.sync += held.eq(Mux((ledger == 0) & ~releases[0], held + 1, 0))
        m.d.comb += Assume(held <= HOLD - 1)
        with m.If(got[1]):
            m.d.sync += [wants.eq(0), since.eq(0), waited.eq(0)]
        with m.Elif(takes[1] & (ledger != 1)):
            m.d.sync += [wants.eq(1), since.eq(0), waited.eq(waited + 1)]
        with m.Elif(wants):
            m.d.sync += [since.eq(since + 1), waited.eq(waited + 1)]
        m.d.comb += Assume(since <= RETRY - 1)
        m.d.comb += Assert(waited <= BOUND)
        m.d.comb += Cover(waited == BOUND - 2)


def check(unit, mode, depth, name, *, service=False):
    proof = Proof(unit(CORES, LOCKS, lapse_cycles=LAPSE), service=service)
    return run_formal(proof, proof.ports, mode=mode, depth=depth, name=f"lock_unit_{name}")


def test_mutual_exclusion_and_release_hold_for_ever():
    assert check(LockUnit, "prove", 3, "safety") == "PASS"


def test_core_that_keeps_trying_is_served_within_a_bound():
    assert check(LockUnit, "bmc", SERVICE_DEPTH, "service", service=True) == "PASS"


def test_interesting_situations_are_reachable():
    assert check(LockUnit, "cover", 12, "cover") == "PASS"
    assert check(LockUnit, "cover", SERVICE_DEPTH, "cover_service", service=True) == "PASS"


class KeepsLocksOverReset(LockUnit):
    """Does not see that a core is reset."""

    def elaborate(self, platform):
        resets, self.core_reset = self.core_reset, Const(0, CORES)
        try:
            return super().elaborate(platform)
        finally:
            self.core_reset = resets


@pytest.mark.parametrize("wrong", [AlwaysGrants, GrantsBoth, ObeysStrangers, LosesReleases, KeepsLocksOverReset])
def test_wrong_unit_fails_the_safety_proof(wrong):
    assert check(wrong, "bmc", 6, f"wrong_{wrong.__name__}") == "FAIL"


class Unfair(LockUnit):
    """Keeps no place for those who wait: the lowest number always wins."""

    def _precedes(self, one, other, last):
        return Const(one < other)


class NeverLapses(LockUnit):
    """A place is kept for ever for one who gave up."""

    def _lapses(self, tick, age):
        return Const(0)


@pytest.mark.parametrize("wrong", [Unfair, NeverLapses])
def test_unfair_unit_fails_the_service_proof(wrong):
    assert check(wrong, "bmc", SERVICE_DEPTH, f"wrong_{wrong.__name__}", service=True) == "FAIL"
