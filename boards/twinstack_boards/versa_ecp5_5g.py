"""Lattice ECP5-5G Versa with an LFE5UM5G-45F, speed grade 8: two gigabit ports over RGMII."""

from __future__ import annotations

from amaranth_boards.versa_ecp5_5g import VersaECP55GPlatform

from .board import Board
from .device import ECP5_45F
from .phy import MARVELL_88E1512, NetworkPort
from .profiles import SMALL_DISTRIBUTED, small_config

BOARD = Board(
    name="versa_ecp5_5g",
    platform=VersaECP55GPlatform,
    device=ECP5_45F,
    config=small_config(ports=2, sync_hz=75_000_000),
    host_memory_bytes=8 * 1024,
    distributed=SMALL_DISTRIBUTED,
    reference="clk100",
    reference_hz=100_000_000,
    reset="rst",
    # The 88E1512 delays both clocks by itself (docs/boards.md). Each PHY has its own management bus, address 0.
    ports=(
        NetworkPort(("eth_rgmii", 0), MARVELL_88E1512, address=0),
        NetworkPort(("eth_rgmii", 1), MARVELL_88E1512, address=0),
    ),
    leds=(
        ("link0", ("led", 0)),
        ("activity0", ("led", 1)),
        ("link1", ("led", 2)),
        ("activity1", ("led", 3)),
        ("fault", ("led", 7)),
    ),
    program=("--cable", "ft2232"),
)
