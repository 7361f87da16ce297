"""Proofs of the receive buffers' free lists and of the account of who holds them, all by induction, for ever; every one
also runs on a unit that is wrong on purpose, and must fail there (within 8 cycles from reset).

- Free list (5 buffers): any takes, returns (good or bad) and resets: a buffer that is handed out was not out; each index is
  listed, offered or out, and in one of these places only; ``available`` is right; an offer stands until it is taken; free
  buffers are offered within two cycles.
- Account (3 large buffers, 2 small ones): any frames, limits that change at any time, returns and resets: the counts of
  both queues are those of a ledger kept from the strobes; no queue gets a buffer beyond its limit of that moment, nor one
  that is out; the buffer taken is the one that was chosen; returns of what is not out are counted, and nothing else.
"""

import pytest
from amaranth import *
from amaranth.hdl import Assert, Assume, Cover

from support.formal import run_formal
from twinstack.buffer_pool import BufferPool
from twinstack.rx_pools import HELD, RxPools

COUNT = 5
LARGE, SMALL = 3, 2
DEPTH = 3
WRONG_DEPTH = 8
COVER_DEPTH = 20


class ListsTwice(BufferPool):
    """Believes every return."""

    def _may_return(self, is_out):
        return Const(1)


class KeepsListed(BufferPool):
    """Offers an index without taking it off the list."""

    def _leaves_list(self, is_chosen):
        return Const(0)


class LosesReturns(BufferPool):
    def _may_return(self, is_out):
        return Const(0)


class OffersInReset(BufferPool):
    """Hands out in the very cycle in which everything is taken back."""

    def _shows_offer(self, offered):
        return offered


class ForgetsCount(BufferPool):
    def _taken_back(self):
        return super()._taken_back()[:-1]


class ForgetsOffer(BufferPool):
    """Lists in a reset what it goes on offering."""

    def _taken_back(self):
        return [statement for number, statement in enumerate(super()._taken_back()) if number != 2]


def places_are_exclusive(m, pool):
    """Each index of the pool in exactly one place."""
    for index in range(pool.count):
        offered = pool._offered & (pool.alloc.payload == index)
        places = [pool._listed[index], offered, pool._out[index]]
        m.d.comb += Assert(sum(places) == 1)
    m.d.comb += Assert(~pool._offered | (pool.alloc.payload < pool.count))


class PoolProof(Elaboratable):
    def __init__(self, pool):
        self.pool = pool
        self.ports = [pool.alloc.ready, pool.free_valid, pool.free_index, pool.reset_pool]

    def elaborate(self, platform):
        m = Module()
        m.submodules.pool = pool = self.pool
        taken = pool.alloc.valid & pool.alloc.ready
        index = pool.alloc.payload
        ledger = Signal(COUNT)  # from the handshakes alone: who is out
        for buffer in range(COUNT):
            with m.If(pool.free_valid & (pool.free_index == buffer)):
                m.d.sync += ledger[buffer].eq(0)
            with m.If(taken & (index == buffer)):
                m.d.comb += Assert(~ledger[buffer])
                m.d.sync += ledger[buffer].eq(1)
        returns = Signal()
        for buffer in range(COUNT):
            with m.If(pool.free_valid & (pool.free_index == buffer)):
                m.d.comb += returns.eq(ledger[buffer] & ~pool.reset_pool)
        with m.If(pool.reset_pool):
            m.d.comb += Assert(~taken)
            m.d.sync += ledger.eq(0)
        m.d.comb += [
            Assert(pool.freed == returns),
            Assert(pool._out == ledger),
            Assert(pool.available == COUNT - sum(ledger)),
            Assert(~pool.alloc.valid | (index < COUNT)),
        ]
        places_are_exclusive(m, pool)

        stood, stood_index = Signal(), Signal.like(index)
        idle = Signal(2)  # cycles without an offer though a buffer is free
        m.d.sync += [stood.eq(pool.alloc.valid & ~pool.alloc.ready), stood_index.eq(index)]
        with m.If(stood & ~pool.reset_pool):
            m.d.comb += Assert(pool.alloc.valid & (index == stood_index))
        # A buffer counts as free in the cycle after its return; it is offered in the one after that.
        with m.If(~pool.alloc.valid & ~ledger.all() & ~pool.reset_pool):
            m.d.sync += idle.eq(idle + 1)
        with m.Else():
            m.d.sync += idle.eq(0)
        m.d.comb += Assert(idle <= 1)
        # For the induction: what stood is still the offer, and an idle cycle leaves one behind.
        m.d.comb += [Assert(~stood | pool._offered), Assert((idle == 0) | pool._offered)]

        was_dry = Signal()
        with m.If(ledger.all()):
            m.d.sync += was_dry.eq(1)
        m.d.comb += [
            Cover(was_dry & (ledger == 0) & ~pool.reset_pool),
            Cover(taken & pool.freed),
            Cover(pool.free_valid & ~pool.freed & ~pool.reset_pool & ledger.any()),
            Cover(pool.reset_pool & ledger.any() & pool._offered),
        ]
        return m


def check_pool(pool, mode, depth, name):
    proof = PoolProof(pool(COUNT))
    return run_formal(proof, proof.ports, mode=mode, depth=depth, name=f"buffer_pool_{name}")


def test_free_list_gives_none_twice_and_loses_none():
    assert check_pool(BufferPool, "prove", DEPTH, "free_list") == "PASS"


def test_interesting_states_of_the_free_list_are_reachable():
    assert check_pool(BufferPool, "cover", COVER_DEPTH, "cover") == "PASS"


@pytest.mark.parametrize("wrong", [ListsTwice, KeepsListed, LosesReturns, OffersInReset, ForgetsCount, ForgetsOffer])
def test_wrong_free_list_fails(wrong):
    assert check_pool(wrong, "bmc", WRONG_DEPTH, f"wrong_{wrong.__name__}") == "FAIL"


class IgnoresLimits(RxPools):
    def _has_room(self, held, limit):
        return Const(1)


class AllowsOneMore(RxPools):
    def _has_room(self, held, limit):
        return held <= limit


class KeepsAccountOfReturns(RxPools):
    """A queue that gave a buffer back still seems to hold it."""

    def _next_held(self, held, takes, returns):
        return held + takes


class MixesQueues(RxPools):
    """Takes every buffer that comes back for one of the flow queue."""

    def _belongs_to_flow(self, of_flow):
        return Const(1)


class KeepsAccountOverReset(RxPools):
    def _cleared(self):
        return []


class AccountProof(Elaboratable):
    def __init__(self, pools):
        self.pools = pools
        self.ports = [
            getattr(pools, name)
            for name in ("is_short", "is_flow", "choose", "take", "free_valid", "free_index", "core_reset")
        ] + [Value.cast(pools.limits), pools.watermark]

    def elaborate(self, platform):
        m = Module()
        m.submodules.pools = pools = self.pools
        buffers = LARGE + SMALL
        # What the user of the component has to keep.
        chosen = Signal()  # a buffer was chosen and not taken yet
        m.d.comb += [
            Assume(~pools.choose | pools.can_take),
            Assume(~pools.take | chosen),
            Assume(~(pools.choose & pools.take)),
        ]
        with m.If(pools.core_reset | pools.take):
            m.d.sync += chosen.eq(0)
        with m.Elif(pools.choose):
            m.d.sync += chosen.eq(1)

        # The ledger.
        out, of_flow = Signal(buffers), Signal(buffers)
        index = Signal.like(pools.index)
        is_flow, is_small = Signal(), Signal()
        limit = Signal(8)  # granted with the choice
        limits = dict(zip(HELD.members, pools.limits, strict=True))
        with m.If(pools.choose):
            m.d.sync += [index.eq(pools.index), is_flow.eq(pools.is_flow), is_small.eq(pools.index >= LARGE)]
            flow_limit = Mux(pools.index >= LARGE, limits["flow_small"], limits["flow_large"])
            other_limit = Mux(pools.index >= LARGE, limits["other_small"], limits["other_large"])
            m.d.sync += limit.eq(Mux(pools.is_flow, flow_limit, other_limit))
            m.d.comb += [
                Assert(pools.index < buffers),
                Assert(pools.is_small == (pools.index >= LARGE)),
                Assert(~pools.is_small | pools.is_short),
            ]
        returned, returned_index = Signal(), Signal(16)
        m.d.sync += [returned.eq(pools.free_valid & ~pools.core_reset), returned_index.eq(pools.free_index)]
        was_out = Signal()
        bad = Signal(32)
        for buffer in range(buffers):
            with m.If(pools.take & (index == buffer)):
                m.d.comb += Assert(~out[buffer])
                m.d.sync += [out[buffer].eq(1), of_flow[buffer].eq(is_flow)]
            with m.If(returned & (returned_index == buffer) & out[buffer]):
                m.d.comb += was_out.eq(1)
                m.d.sync += out[buffer].eq(0)
        with m.If(returned & ~was_out & ~pools.core_reset):
            m.d.sync += bad.eq(bad + 1)
        with m.If(pools.core_reset):
            m.d.comb += Assert(~pools.can_take)
            m.d.sync += out.eq(0)

        held = {
            "flow_large": sum(out[i] & of_flow[i] for i in range(LARGE)),
            "flow_small": sum(out[i] & of_flow[i] for i in range(LARGE, buffers)),
            "other_large": sum(out[i] & ~of_flow[i] for i in range(LARGE)),
            "other_small": sum(out[i] & ~of_flow[i] for i in range(LARGE, buffers)),
        }
        for name, value in held.items():
            m.d.comb += Assert(pools.held[name] == value)
            mine = (is_flow == name.startswith("flow")) & (is_small == name.endswith("small"))
            # Returns only make room, so the limit still holds when the buffer is taken.
            with m.If(chosen & mine):
                m.d.comb += Assert(value < limit)
        m.d.comb += [
            Assert(pools.buffers_large == LARGE - sum(out[:LARGE])),
            Assert(pools.buffers_small == SMALL - sum(out[LARGE:])),
            Assert(pools.bad_free == bad),
        ]

        # For the induction: the unit's registers are those of the ledger.
        m.d.comb += [
            Assert(pools._returned == returned),
            Assert(~returned | (pools._returned_exists == (returned_index < buffers))),
            Assert(~returned | ~pools._returned_exists | (pools._returned_index == returned_index)),
            Assert(Cat(pool._out for pool in pools._pools) == out),
            Assert((pools._of_flow & out) == (of_flow & out)),
        ]
        with m.If(chosen):
            m.d.comb += [Assert(pools._chose_flow == is_flow), Assert(pools._chose_small == is_small)]
            m.d.comb += Assert(index < buffers)
            m.d.comb += Assert(is_small == (index >= LARGE))
            for pool, first, mine in zip(pools._pools, (0, LARGE), (~is_small, is_small), strict=True):
                with m.If(mine):
                    m.d.comb += Assert(pool._offered & (pool.alloc.payload == (index - first)[: len(index)]))
        for pool in pools._pools:
            places_are_exclusive(m, pool)

        m.d.comb += [
            # The strangers are at their limit, with buffers left; a connection's frame still gets one.
            Cover((held["other_large"] == 2) & (limits["other_large"] == 2) & pools.choose & pools.is_flow),
            Cover(~pools.can_take & (pools.buffers_large != 0) & ~pools.is_short & pools._pools[0]._offered),
            # No small buffer for a short frame: a large one.
            Cover(pools.choose & pools.is_short & ~pools.is_small),
            Cover(pools.take & was_out & ~pools.core_reset),
            Cover((bad == 1) & out.any()),
            Cover(pools.core_reset & chosen & (sum(out) == buffers - 1)),
        ]
        return m


def check_account(pools, mode, depth, name):
    proof = AccountProof(pools(LARGE, SMALL))
    return run_formal(proof, proof.ports, mode=mode, depth=depth, name=f"rx_pools_{name}")


def test_account_is_right_and_within_limits():
    assert check_account(RxPools, "prove", DEPTH, "account") == "PASS"


def test_interesting_states_of_the_account_are_reachable():
    assert check_account(RxPools, "cover", COVER_DEPTH, "cover") == "PASS"


@pytest.mark.parametrize(
    "wrong", [IgnoresLimits, AllowsOneMore, KeepsAccountOfReturns, MixesQueues, KeepsAccountOverReset]
)
def test_wrong_account_fails(wrong):
    assert check_account(wrong, "bmc", WRONG_DEPTH, f"wrong_{wrong.__name__}") == "FAIL"
