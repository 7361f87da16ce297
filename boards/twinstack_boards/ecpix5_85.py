"""LambdaConcept ECPIX-5 with an LFE5UM5G-85F, speed grade 8: one gigabit port over RGMII."""

from __future__ import annotations

from amaranth_boards.ecpix5 import ECPIX585Platform

from twinstack.config import EngineConfig

from .board import Board
from .device import ECP5_85F
from .phy import KSZ9031RNX, NetworkPort

BOARD = Board(
    name="ecpix5_85",
    platform=ECPIX585Platform,
    device=ECP5_85F,
    config=EngineConfig(ports=1),
    host_memory_bytes=8 * 1024,
    reference="clk100",
    reference_hz=100_000_000,
    reset="rst",
    # The PHY delays RXC but not TXC (docs/boards.md), so the FPGA does.
    ports=(NetworkPort(("eth_rgmii", 0), KSZ9031RNX, address=0, tx_delay="fpga"),),
    leds=(("link0", ("rgb_led", 0, "g")), ("activity0", ("rgb_led", 1, "b")), ("fault", ("rgb_led", 2, "r"))),
    program=("--board", "ecpix5"),
)
