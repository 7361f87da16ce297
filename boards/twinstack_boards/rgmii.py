"""RGMII to GMII at 1 Gb/s by the ECP5's DDR registers (RGMII 2.0, section 3).

The PHY adds the clock delays of both directions (RGMII-ID), as it does by default on the boards here; nothing is
delayed in the FPGA.
"""

from __future__ import annotations

from amaranth import ClockDomain, ClockSignal, Const, Instance, Module, ResetSignal, Signal, Value
from amaranth.lib import io, wiring
from amaranth.lib.cdc import ResetSynchronizer
from amaranth.lib.wiring import In

from twinstack.interfaces import GmiiPins


class RgmiiPort(wiring.Component):
    """One RGMII port; creates the domains ``rx0`` (clock from the PHY) and ``tx0`` (the 125 MHz clock given).

    Parameters
    ----------
    pins : object
        ``tx_clk``, ``tx_ctrl``, ``tx_data``, ``rx_ctrl``, ``rx_data`` as buffered pins; ``rx_clk`` as a bare port.
    tx_clk, tx_reset : Signal
        125 MHz clock and its reset.
    index : int
        Number in the domains' names.

    Members
    -------
    gmii : ``In(GmiiPins())``
        To the MAC.
    """

    def __init__(self, pins, tx_clk, tx_reset, *, index: int = 0):  # type: ignore[no-untyped-def]
        self._pins, self._tx_clk, self._tx_reset, self._index = pins, tx_clk, tx_reset, index
        super().__init__({"gmii": In(GmiiPins())})

    def elaborate(self, platform):  # type: ignore[no-untyped-def]
        m = Module()
        rx, tx = f"rx{self._index}", f"tx{self._index}"
        m.domains += [ClockDomain(rx), ClockDomain(tx)]
        m.submodules.rx_clk = rx_clk = io.Buffer("i", self._pins.rx_clk)
        m.d.comb += [
            ClockSignal(rx).eq(rx_clk.i),
            ClockSignal(tx).eq(self._tx_clk),
            ResetSignal(tx).eq(self._tx_reset),
        ]
        m.submodules.rx_reset = ResetSynchronizer(self._tx_reset, domain=rx)

        def output(pin: Value, rising: Value, falling: Value) -> Instance:
            return Instance("ODDRX1F", i_SCLK=ClockSignal(tx), i_RST=Const(0), i_D0=rising, i_D1=falling, o_Q=pin)

        def input_(pin: Value, rising: Value, falling: Value) -> Instance:
            return Instance("IDDRX1F", i_SCLK=ClockSignal(rx), i_RST=Const(0), i_D=pin, o_Q0=rising, o_Q1=falling)

        m.submodules.tx_clk = output(self._pins.tx_clk.o, Const(1), Const(0))
        m.submodules.tx_ctrl = output(self._pins.tx_ctrl.o, self.gmii.tx_en, self.gmii.tx_en ^ self.gmii.tx_er)
        control = Signal(2)
        m.submodules.rx_ctrl = input_(self._pins.rx_ctrl.i, control[0], control[1])
        received = Signal(8)
        for bit in range(4):
            m.submodules[f"tx_data{bit}"] = output(
                self._pins.tx_data.o[bit], self.gmii.txd[bit], self.gmii.txd[bit + 4]
            )
            m.submodules[f"rx_data{bit}"] = input_(self._pins.rx_data.i[bit], received[bit], received[bit + 4])
        # One more register: the DDR cells sit at the pins, the MAC does not.
        m.d[rx] += [
            self.gmii.rxd.eq(received),
            self.gmii.rx_dv.eq(control[0]),
            self.gmii.rx_er.eq(control[0] ^ control[1]),
        ]
        return m
