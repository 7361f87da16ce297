"""The SPI flash that the ECP5 configures itself from, after configuration (Lattice FPGA-TN-02039, sysCONFIG)."""

from __future__ import annotations

from typing import Any

from amaranth import Instance, Module, Value
from amaranth.build import Attrs, Pins, PinsN, Resource, Subsignal

SYSCONFIG = {
    "BG381": {"cs": "R2", "copi": "W2", "cipo": "V2", "wp": "Y2", "hold": "W1"},
    "BG554": {"cs": "AA2", "copi": "AE2", "cipo": "AD2", "wp": "AF2", "hold": "AE1"},
}
"""Pins of master SPI by package. They are the device's, not the board's: amaranth-boards has the data pins of the Versa boards and
of the ECPIX-5 the other way round; LiteX-Boards has both as here."""


def flash_resource(platform: Any) -> Resource:
    """The flash's pins as a resource without its clock: that pin can only be reached from within, see :func:`attach_flash`.

    Raises
    ------
    ValueError
        If the package is not known.
    """
    if platform.package not in SYSCONFIG:
        raise ValueError(f"package must be one of {', '.join(SYSCONFIG)}, not {platform.package!r}")
    pins = SYSCONFIG[platform.package]
    connected = {io.name for io in platform.lookup("spi_flash_1x", 0).ios}
    # Write protection and hold are pulled up in the flash or on the board; where they reach the FPGA, they are driven high.
    extra = [Subsignal(name, PinsN(pins[name], dir="o")) for name in ("wp", "hold") if name in connected]
    return Resource(
        "boot_flash",
        0,
        Subsignal("cs", PinsN(pins["cs"], dir="o")),
        Subsignal("copi", Pins(pins["copi"], dir="o")),
        Subsignal("cipo", Pins(pins["cipo"], dir="i"), Attrs(PULLMODE="UP")),
        *extra,
        Attrs(IO_TYPE="LVCMOS33"),
    )


def attach_flash(m: Module, platform: Any, flash: Any, held: Value) -> None:
    """Connect ``flash`` (:class:`twinstack.spi_flash.SpiPins`) to the board's; the clock goes through USRMCLK.

    The clock's pin is not driven while ``held`` is high.
    """
    platform.add_resources([flash_resource(platform)])
    pins = platform.request("boot_flash", 0)
    # The tri-state input wants a signal, not a constant.
    m.submodules.flash_clock = Instance("USRMCLK", i_USRMCLKI=flash.clk, i_USRMCLKTS=held)
    m.d.comb += [pins.cs.o.eq(flash.cs), pins.copi.o.eq(flash.copi), flash.cipo.eq(pins.cipo.i)]


__all__ = ["SYSCONFIG", "attach_flash", "flash_resource"]
