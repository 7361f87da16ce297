"""Toeplitz hash against the published RSS vectors and, for random keys and tuples, against the Python model."""

import os
import random

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

from support.rss_vectors import RSS_KEY, RSS_VECTORS
from twinstack.models.toeplitz import rss_hash, rss_input, toeplitz


def request_bits(source, destination, source_port, destination_port, *, has_ports):
    from twinstack.interfaces import ProbeRequest

    return ProbeRequest.const(
        {
            "source": int.from_bytes(source, "little"),
            "destination": int.from_bytes(destination, "little"),
            "source_port": source_port,
            "destination_port": destination_port,
            "is_ipv6": len(source) == 16,
            "has_ports": has_ports,
        }
    ).as_bits()


async def start(dut):
    cocotb.start_soon(Clock(dut.clk, 10, "ns").start())
    dut.i__valid.value = 0
    dut.o__ready.value = 0
    dut.key.value = 0
    dut.rst.value = 1
    await RisingEdge(dut.clk)
    dut.rst.value = 0
    await RisingEdge(dut.clk)


async def hash_of(dut, key, request, *, stall=0):
    """Hash by the hardware, and the cycles from the first with a valid tuple to the first with a hash."""
    dut.key.value = int.from_bytes(key, "little")
    dut.i__payload.value = request
    dut.i__valid.value = 1
    cycles = -1
    while True:
        await RisingEdge(dut.clk)
        cycles += 1
        if int(dut.o__valid.value):
            break
        assert not int(dut.i__ready.value), "accepted a tuple before its hash"
    result = int(dut.o__payload.value)
    for _ in range(stall):
        await RisingEdge(dut.clk)
        assert int(dut.o__valid.value) and int(dut.o__payload.value) == result, "hash changed while it waited"
    dut.o__ready.value = 1
    await RisingEdge(dut.clk)
    assert int(dut.i__ready.value)
    dut.o__ready.value = 0
    dut.i__valid.value = 0
    return result, cycles


@cocotb.test(timeout_time=100, timeout_unit="us")
async def published_vectors(dut):
    await start(dut)
    for vector in RSS_VECTORS:
        for has_ports, expected in ((True, vector.hash_with_ports), (False, vector.hash_addresses)):
            request = request_bits(
                vector.source, vector.destination, vector.source_port, vector.destination_port, has_ports=has_ports
            )
            result, _ = await hash_of(dut, RSS_KEY, request)
            assert result == expected, f"{vector} ports={has_ports}: {result:08x}"


@cocotb.test(timeout_time=1000, timeout_unit="us")
async def random_tuples_match_the_model(dut):
    rng = random.Random(int(os.environ["TWINSTACK_SEED"]))
    step_bytes = int(os.environ["STEP_BITS"]) // 8
    await start(dut)
    for _ in range(400):
        key = rng.randbytes(40)
        length = rng.choice((4, 16))
        source, destination = rng.randbytes(length), rng.randbytes(length)
        ports = rng.randrange(1 << 16), rng.randrange(1 << 16)
        has_ports = rng.random() < 0.6
        request = request_bits(source, destination, *ports, has_ports=has_ports)
        if length == 4:
            # What lies beside an IPv4 address must not matter.
            request |= rng.getrandbits(96) << 32 | rng.getrandbits(96) << 160
        result, cycles = await hash_of(dut, key, request, stall=rng.choice((0, 0, 0, 3)))
        assert result == rss_hash(key, source, destination, ports if has_ports else None)
        steps = len(rss_input(source, destination, ports if has_ports else None)) // step_bytes
        assert cycles == steps + 1
        for _ in range(rng.choice((0, 0, 1, 4))):
            await RisingEdge(dut.clk)


@pytest.mark.parametrize("step_bits", [16, 32])
def test_toeplitz(step_bits):
    from support.rtl import run_cocotb
    from twinstack.toeplitz import Toeplitz

    run_cocotb(Toeplitz(step_bits), __file__, environment={"STEP_BITS": str(step_bits)})


@pytest.mark.parametrize("vector", RSS_VECTORS, ids=lambda vector: vector.source_text)
def test_model_agrees_with_the_published_vectors(vector):
    ports = vector.source_port, vector.destination_port
    assert rss_hash(RSS_KEY, vector.source, vector.destination, ports) == vector.hash_with_ports
    assert rss_hash(RSS_KEY, vector.source, vector.destination) == vector.hash_addresses


def test_repeated_key_hashes_both_directions_alike():
    key = bytes.fromhex("6d5a") * 20
    one = rss_hash(key, bytes([10, 0, 0, 1]), bytes([10, 0, 0, 2]), (1234, 80))
    assert one == rss_hash(key, bytes([10, 0, 0, 2]), bytes([10, 0, 0, 1]), (80, 1234))
    assert one != rss_hash(key, bytes([10, 0, 0, 2]), bytes([10, 0, 0, 1]), (81, 1234))


def test_model_checks_its_arguments():
    with pytest.raises(ValueError, match="not 39"):
        toeplitz(bytes(39), b"")
    with pytest.raises(ValueError, match="not 37"):
        toeplitz(bytes(40), bytes(37))
    with pytest.raises(ValueError, match="4 or 16 bytes each, not"):
        rss_input(bytes(4), bytes(16))


@pytest.mark.parametrize("step_bits", [8, 0, 64])
def test_step_must_be_possible(step_bits):
    from twinstack.toeplitz import Toeplitz

    with pytest.raises(ValueError, match=f"not {step_bits}"):
        Toeplitz(step_bits)
