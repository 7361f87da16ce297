"""True dual-port RAM against a Python model, both ports at once, random byte enables."""

import os
import random

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

WORDS = 64


@cocotb.test()
async def both_ports_match_a_model(dut):
    rng = random.Random(int(os.environ["TWINSTACK_SEED"]))
    cocotb.start_soon(Clock(dut.clk, 10, "ns").start())
    model = [0] * WORDS
    for port in "ab":
        getattr(dut, f"{port}__valid").value = 0
    dut.rst.value = 0
    await RisingEdge(dut.clk)
    expected = {"a": None, "b": None}
    reads = 0
    for _ in range(3000):
        requests = {}
        for port in "ab":
            request = (
                rng.random() < 0.7,
                rng.random() < 0.5,
                rng.randrange(WORDS),
                rng.getrandbits(32),
                rng.getrandbits(4),
            )
            requests[port] = request
        if requests["a"][2] == requests["b"][2] and requests["a"][1] and requests["b"][1]:
            requests["b"] = (False, *requests["b"][1:])
        for port, (valid, write, address, data, mask) in requests.items():
            getattr(dut, f"{port}__valid").value = valid
            getattr(dut, f"{port}__write").value = write
            getattr(dut, f"{port}__address").value = address
            getattr(dut, f"{port}__data").value = data
            getattr(dut, f"{port}__mask").value = mask
        await RisingEdge(dut.clk)
        for port in "ab":
            # What the previous request asked for was stable until this edge.
            if expected[port] is not None:
                assert int(getattr(dut, f"{port}__read_data").value) == expected[port]
                reads += 1
        for valid, write, address, data, mask in requests.values():
            if valid and write:
                for lane in range(4):
                    if mask >> lane & 1:
                        keep = ~(0xFF << 8 * lane)
                        model[address] = model[address] & keep | data & 0xFF << 8 * lane
        for port, (valid, write, address, _, _) in requests.items():
            expected[port] = model[address] if valid and not write else None
    assert reads > 500


def test_true_dual_port_ram():
    from support.rtl import run_cocotb
    from twinstack.memory import TrueDualPortRam

    run_cocotb(TrueDualPortRam(4 * WORDS), __file__)


@pytest.mark.parametrize("size", [0, 6, -4])
def test_size_must_be_words(size):
    from twinstack.memory import TrueDualPortRam

    with pytest.raises(ValueError, match=f"not {size}"):
        TrueDualPortRam(size)


def test_init_must_fit():
    from twinstack.memory import TrueDualPortRam

    with pytest.raises(ValueError, match="not 3"):
        TrueDualPortRam(8, init=[1, 2, 3])
