"""Buffer pool against a set model: random takes, good and bad returns, resets."""

import os
import random

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge


@cocotb.test(timeout_time=1000, timeout_unit="us")
async def never_twice_and_never_lost(dut):
    rng = random.Random(int(os.environ["TWINSTACK_SEED"]))
    count = int(os.environ["POOL_COUNT"])
    cocotb.start_soon(Clock(dut.clk, 10, "ns").start())
    dut.rst.value = 1
    dut.alloc__ready.value = 0
    dut.free_valid.value = 0
    dut.free_index.value = 0
    dut.reset_pool.value = 0
    await RisingEdge(dut.clk)
    dut.rst.value = 0
    await RisingEdge(dut.clk)
    out, offer = set(), None
    bad = taken = dry = 0
    idle_cycles = 0
    for cycle in range(6000):
        appetite = 0.9 if cycle // 500 % 2 else 0.3
        ready = rng.random() < appetite
        reset = rng.random() < 0.003
        returned = None
        if rng.random() < 0.5:
            kind = rng.random()
            if kind < 0.8 and out:
                returned = rng.choice(sorted(out))
            elif kind < 0.9:
                returned = rng.randrange(count)
            else:
                returned = rng.randrange(1 << (count - 1).bit_length())
        dut.alloc__ready.value = ready
        dut.reset_pool.value = reset
        dut.free_valid.value = returned is not None
        dut.free_index.value = 0 if returned is None else returned
        before = set(out)
        await RisingEdge(dut.clk)
        # Values just before the edge: those of the cycle that ends here.
        assert int(dut.available.value) == count - len(before)
        assert int(dut.freed.value) == (returned in before and not reset)
        valid, index = int(dut.alloc__valid.value), int(dut.alloc__payload.value)
        if reset:
            assert not valid, "offers a buffer while it takes all back"
            out, offer = set(), None
            idle_cycles = 0
            continue
        if offer is not None:
            assert valid and index == offer, "withdrew an offer"
        if valid:
            assert 0 <= index < count
            assert index not in before, f"gave buffer {index} twice"
        # A buffer comes back to the offer within two cycles.
        idle_cycles = 0 if valid or len(before) == count else idle_cycles + 1
        assert idle_cycles <= 2, "buffers are free but none is offered"
        dry += not valid
        if valid and ready:
            out.add(index)
            taken += 1
            offer = None
        elif valid:
            offer = index
        if returned is not None:
            if returned in before:
                out.discard(returned)
            else:
                bad += 1
    assert taken > 1000 and (bad > 100 or count == 1)
    assert dry or count > 16, "never ran dry"
    # Drain: every buffer that is not out must come, once.
    dut.free_valid.value = 0
    dut.reset_pool.value = 0
    dut.alloc__ready.value = 1
    for _ in range(count + 4):
        await RisingEdge(dut.clk)
        if int(dut.alloc__valid.value):
            index = int(dut.alloc__payload.value)
            assert index not in out
            out.add(index)
    assert out == set(range(count))
    assert int(dut.available.value) == 0


@pytest.mark.parametrize("count", [1, 5, 64])
def test_buffer_pool(count):
    from support.rtl import run_cocotb
    from twinstack.buffer_pool import BufferPool

    run_cocotb(BufferPool(count), __file__, environment={"POOL_COUNT": str(count)})


@pytest.mark.parametrize(
    ("count", "error"), [(0, ValueError), (65, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError)]
)
def test_count_must_be_possible(count, error):
    from twinstack.buffer_pool import BufferPool

    with pytest.raises(error, match=f"not {count}"):
        BufferPool(count)
