"""Receive buffers of a core against the reference model: choice of class, limits, returns, watermark, resets."""

import os
import random

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

from twinstack.models.rx_pools import CLASSES, QUEUES, RxPoolsModel
from twinstack.proto.memory_map import rx_buffer_offset

SETTLED_CYCLES = 4
"""Between a return, or a reset, and a choice that must know of it."""


class Bench:
    def __init__(self, dut):
        self.dut = dut
        self.rng = random.Random(int(os.environ["TWINSTACK_SEED"]))
        self.model = RxPoolsModel(int(os.environ["LARGE"]), int(os.environ["SMALL"]))
        self.watermark = self.bad_free = 0
        self.unsettled = SETTLED_CYCLES

    def get(self, name):
        return int(getattr(self.dut, name).value)

    async def start(self):
        dut = self.dut
        cocotb.start_soon(Clock(dut.clk, 10, "ns").start())
        for name in ("rst", "choose", "take", "free_valid", "core_reset", "limits", "is_short", "is_flow", "watermark"):
            getattr(dut, name).value = name == "rst"
        await RisingEdge(dut.clk)
        dut.rst.value = 0
        await self.step()

    async def step(self, **values):
        """One cycle with these inputs, all strobes otherwise low; afterwards the outputs are those of that cycle."""
        for name in ("choose", "take", "free_valid", "core_reset"):
            getattr(self.dut, name).value = int(values.pop(name, 0))
        for name, value in values.items():
            getattr(self.dut, name).value = int(value)
        await RisingEdge(self.dut.clk)

    def program(self):
        rng = self.rng
        self.model.limits = {(q, c): rng.choice((0, 1, 2, 3, 8, 255)) for q in QUEUES for c in CLASSES}
        bits = 0
        for place, queue in enumerate(QUEUES):
            for number, size in enumerate(CLASSES):
                bits |= self.model.limits[queue, size] << 8 * (2 * place + number)
        self.dut.limits.value = bits
        self.watermark = rng.randrange(self.model.large + 2)
        self.dut.watermark.value = self.watermark

    def check_account(self):
        model = self.model
        held = self.get("held")
        for place, (queue, size) in enumerate((q, c) for q in QUEUES for c in CLASSES):
            assert held >> 7 * place & 127 == model.held(queue, size)
        assert self.get("buffers_large") == model.free("large")
        assert self.get("buffers_small") == model.free("small")
        assert self.get("low") == (model.free("large") < self.watermark)
        assert self.get("bad_free") == self.bad_free

    async def frame(self, *, taken=True):
        """A frame comes; its buffer is taken some cycles later, or not at all."""
        rng, model = self.rng, self.model
        queue, is_short = rng.choice(QUEUES), rng.getrandbits(1)
        expected = model.choose(queue, is_short)
        await self.step(is_flow=queue == "flow", is_short=is_short)
        assert self.get("can_take") == (expected is not None)
        if expected is None:
            return None
        index = self.get("index")
        assert model.size_class(index) == expected and index not in model.holder
        assert self.get("is_small") == (expected == "small")
        assert 4 * self.get("address") == rx_buffer_offset(index, model.large)
        await self.step(choose=1)
        for _ in range(rng.randrange(3)):
            # The next frame's data stand at the inputs already.
            await self.step(is_flow=rng.getrandbits(1), is_short=rng.getrandbits(1))
        if taken:
            await self.step(take=1)
            model.take(queue, index)
        return queue, index


@cocotb.test(timeout_time=1000, timeout_unit="us")
async def as_the_model_says(dut):
    bench = Bench(dut)
    await bench.start()
    rng, model = bench.rng, bench.model
    bench.program()
    buffers = model.large + model.small
    frames = dropped = 0
    for _ in range(1500):
        action = rng.random()
        if action < 0.02:
            bench.program()
        elif action < 0.025:
            await bench.step(core_reset=1)
            model.reset()
        elif action < 0.6:
            frames += 1
            dropped += await bench.frame(taken=rng.random() < 0.9) is None
        else:
            known = sorted(model.holder)
            index = rng.choice(known) if known and rng.random() < 0.8 else rng.choice((buffers, 0xFFFF, 128, 0))
            bench.bad_free += not model.give_back(index)
            await bench.step(free_valid=1, free_index=index)
        for _ in range(SETTLED_CYCLES):
            await bench.step()
        bench.check_account()
    assert frames > 500 and 50 < dropped < frames - 50


@cocotb.test(timeout_time=1000, timeout_unit="us")
async def return_meets_take(dut):
    """In the same cycle a buffer is taken and another one's return counts; then a reset meets both."""
    bench = Bench(dut)
    await bench.start()
    model = bench.model
    dut.limits.value = (1 << 32) - 1
    for _ in range(60):
        chosen = await bench.frame(taken=False)
        if chosen is None:
            await bench.step(core_reset=1)
            model.reset()
        else:
            known = sorted(model.holder)
            returned = bench.rng.choice(known) if known and bench.rng.random() < 0.7 else 0xFFFF
            bench.bad_free += not model.give_back(returned)
            await bench.step(free_valid=1, free_index=returned)
            await bench.step(take=1)  # the return counts in this cycle
            model.take(*chosen)
        for _ in range(SETTLED_CYCLES):
            await bench.step()
        bench.check_account()
    # A return in the cycle before a reset is forgotten, good or bad.
    await bench.step(free_valid=1, free_index=0xFFFF)
    await bench.step(core_reset=1)
    model.reset()
    for _ in range(SETTLED_CYCLES):
        await bench.step()
    bench.check_account()


@pytest.mark.parametrize(("large", "small"), [(4, 6), (16, 0), (5, 1), (1, 0)])
def test_rx_pools(large, small):
    from support.rtl import run_cocotb
    from twinstack.rx_pools import RxPools

    run_cocotb(RxPools(large, small), __file__, environment={"LARGE": str(large), "SMALL": str(small)})


@pytest.mark.parametrize(
    ("large", "small", "error", "text"),
    [
        (0, 0, ValueError, "large must be 1 to 64, not 0"),
        (65, 0, ValueError, "large must be 1 to 64, not 65"),
        (4, -1, ValueError, "small must be 0 to 64, not -1"),
        (4, 65, ValueError, "small must be 0 to 64, not 65"),
        (4.0, 0, TypeError, "large must be an integer, not 4.0"),
        (4, True, TypeError, "small must be an integer, not True"),
    ],
)
def test_parameters_are_checked(large, small, error, text):
    from twinstack.rx_pools import RxPools

    with pytest.raises(error, match=text):
        RxPools(large, small)
