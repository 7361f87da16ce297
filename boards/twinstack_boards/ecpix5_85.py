"""LambdaConcept ECPIX-5 with an LFE5UM5G-85F, speed grade 8: one gigabit port over RGMII."""

from __future__ import annotations

from amaranth_boards.ecpix5 import ECPIX585Platform

from twinstack.config import EngineConfig

from .board import Board

BOARD = Board(
    name="ecpix5_85",
    platform=ECPIX585Platform,
    config=EngineConfig(ports=1),
    host_memory_bytes=8 * 1024,
    reference="clk100",
    reference_hz=100_000_000,
    reset="rst",
    rgmii=(("eth_rgmii", 0),),
    serial_connector=("pmod", 0),
    serial_pins="1 2 3 4",
    block_ram_limit=208,
    lut_limit=83_640,
)
