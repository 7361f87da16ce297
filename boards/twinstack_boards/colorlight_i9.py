"""Colorlight i9 v7.2 (a SODIMM module) with an LFE5U-45F, speed grade 6: two gigabit ports over RGMII.

Pins: the module's reverse-engineered pin table (github.com/wuxx/Colorlight-FPGA-Projects, colorlight_i9_v7.2.md), compared with
LiteX-Boards (litex_boards/platforms/colorlight_i5.py, board "i9"); they agree. The reset button is that of the Muse Lab
extension board. Its own serial port (J17, H18) is said to swallow bytes 0x10 and 0x12 (pa3fwm.nl/projects/ecp5-fpga), which a binary
protocol cannot do without; so the UART is at the PMOD where LiteX-Boards has its second one. Port 0 is the PHY whose address strap is 0: U30, "ETH-PHY1" in the pin table.
"""

from __future__ import annotations

from typing import ClassVar

from amaranth.build import Attrs, Clock, Connector, Pins, PinsN, Resource, Subsignal
from amaranth.vendor import LatticeECP5Platform
from amaranth_boards.resources import LEDResources, SPIFlashResources, UARTResource

from .board import Board
from .device import ECP5_45F
from .phy import B50612D, NetworkPort
from .profiles import SMALL_DISTRIBUTED, small_config

_LVCMOS33 = Attrs(IO_TYPE="LVCMOS33")


def _rgmii(
    number: int, *, tx_clk: str, tx_ctrl: str, tx_data: str, rx_clk: str, rx_ctrl: str, rx_data: str
) -> Resource:
    return Resource(
        "eth_rgmii",
        number,
        Subsignal("tx_clk", Pins(tx_clk, dir="o")),
        Subsignal("tx_ctrl", Pins(tx_ctrl, dir="o")),
        Subsignal("tx_data", Pins(tx_data, dir="o")),
        Subsignal("rx_clk", Pins(rx_clk, dir="i")),
        Subsignal("rx_ctrl", Pins(rx_ctrl, dir="i")),
        Subsignal("rx_data", Pins(rx_data, dir="i")),
        _LVCMOS33,
    )


class ColorlightI9Platform(LatticeECP5Platform):
    """The module on the extension board."""

    device = "LFE5U-45F"
    package = "BG381"
    speed = "6"
    default_clk = "clk25"
    resources: ClassVar = [
        Resource("clk25", 0, Pins("P3", dir="i"), Clock(25e6), _LVCMOS33),
        Resource("rst", 0, PinsN("K18", dir="i"), Attrs(IO_TYPE="LVCMOS33", PULLMODE="UP")),
        *LEDResources(pins="L2", invert=True, attrs=_LVCMOS33),
        UARTResource(0, rx="F4", tx="E5", attrs=Attrs(IO_TYPE="LVCMOS33", PULLMODE="UP")),
        # Winbond W25Q64JV, 8 MB; WP and HOLD are not connected to the FPGA.
        *SPIFlashResources(0, cs_n="R2", clk="U3", copi="W2", cipo="V2", attrs=_LVCMOS33),
        # Both PHYs: one reset, one management bus.
        Resource(
            "eth_management",
            0,
            Subsignal("rst", PinsN("P4", dir="o")),
            Subsignal("mdc", Pins("N5", dir="o")),
            Subsignal("mdio", Pins("P5", dir="io"), Attrs(PULLMODE="UP")),
            _LVCMOS33,
        ),
        _rgmii(0, tx_clk="G1", tx_ctrl="K1", tx_data="G2 H1 J1 J3", rx_clk="H2", rx_ctrl="P2", rx_data="K2 L1 N1 P1"),
        _rgmii(
            1,
            tx_clk="U19",
            tx_ctrl="P19",
            tx_data="U20 T19 T20 R20",
            rx_clk="L19",
            rx_ctrl="M20",
            rx_data="P20 N19 N20 M19",
        ),
    ]
    connectors: ClassVar[list[Connector]] = []


BOARD = Board(
    name="colorlight_i9",
    platform=ColorlightI9Platform,
    device=ECP5_45F,
    # Grade 6 is slower. Two ports at line rate want 62.5 MHz; 50 MHz carry 1.6 Gb/s of both together.
    config=small_config(ports=2, sync_hz=50_000_000),
    host_memory_bytes=8 * 1024,
    distributed=SMALL_DISTRIBUTED,
    reference="clk25",
    reference_hz=25_000_000,
    reset="rst",
    # The B50612D delays both clocks once its registers say so (docs/boards.md).
    ports=(
        NetworkPort(("eth_rgmii", 0), B50612D, address=0, management=("eth_management", 0)),
        NetworkPort(("eth_rgmii", 1), B50612D, address=1, management=("eth_management", 0)),
    ),
    leds=(("status", ("led", 0)),),
    program=("--board", "colorlight-i9"),
)
