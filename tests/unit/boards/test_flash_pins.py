"""Pins of the configuration flash on every board."""

import pytest
from amaranth import Module, Signal
from amaranth.back import rtlil

from twinstack.spi_flash import SpiPins
from twinstack_boards.build import BOARDS, board_by_name
from twinstack_boards.flash_pins import SYSCONFIG, attach_flash, flash_resource


@pytest.mark.parametrize("name", BOARDS)
def test_pins_are_those_of_the_package_and_the_clock_is_usrmclk(name):
    platform = board_by_name(name).platform()
    resource = flash_resource(platform)
    pins = SYSCONFIG[platform.package]
    assert {io.name: io.ios[0].names for io in resource.ios}.items() <= {n: [pin] for n, pin in pins.items()}.items()
    declared = {io.name for io in platform.lookup("spi_flash_1x", 0).ios}
    assert {io.name for io in resource.ios} == declared - {"clk"}
    m = Module()
    flash = SpiPins().create()
    attach_flash(m, platform, flash, Signal())
    text = rtlil.convert(m, platform=platform, ports=[flash.cs, flash.clk, flash.copi, flash.cipo])
    assert "USRMCLK" in text


def test_unknown_package():
    class Platform:
        package = "QFN8"

    with pytest.raises(ValueError, match="package must be one of BG381, BG554, not 'QFN8'"):
        flash_resource(Platform())
