"""RGMII pins by the ECP5's double-rate registers; what is on them is :class:`twinstack.rgmii.RgmiiFrontEnd`'s.

The PHY adds the clock delays of both directions (RGMII-ID), as it does by default on the boards here; nothing is
delayed in the FPGA.
"""

from __future__ import annotations

from amaranth import ClockDomain, ClockSignal, Const, Instance, Module, ResetSignal, Value
from amaranth.lib import io, wiring
from amaranth.lib.cdc import ResetSynchronizer
from amaranth.lib.wiring import In

from twinstack.interfaces import GmiiPins
from twinstack.rgmii import RgmiiFrontEnd


class RgmiiPort(wiring.Component):
    """One RGMII port, 10, 100 and 1000 Mb/s; creates the domains ``rx0`` (clock from the PHY) and ``tx0`` (the clock given).

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

        def output(pin: Value, first: Value, second: Value) -> Instance:
            return Instance("ODDRX1F", i_SCLK=ClockSignal(tx), i_RST=Const(0), i_D0=first, i_D1=second, o_Q=pin)

        def input_(pin: Value, first: Value, second: Value) -> Instance:
            return Instance("IDDRX1F", i_SCLK=ClockSignal(rx), i_RST=Const(0), i_D=pin, o_Q0=first, o_Q1=second)

        m.submodules.front_end = front_end = RgmiiFrontEnd(rx_domain=rx, tx_domain=tx)
        wiring.connect(m, wiring.flipped(self.gmii), front_end.gmii)
        pairs = front_end.pairs
        m.submodules.tx_clk = output(self._pins.tx_clk.o, pairs.tx_clk[0], pairs.tx_clk[1])
        m.submodules.tx_ctrl = output(self._pins.tx_ctrl.o, pairs.tx_ctl[0], pairs.tx_ctl[1])
        m.submodules.rx_ctrl = input_(self._pins.rx_ctrl.i, pairs.rx_ctl[0], pairs.rx_ctl[1])
        for bit in range(4):
            m.submodules[f"tx_data{bit}"] = output(self._pins.tx_data.o[bit], pairs.tx_first[bit], pairs.tx_second[bit])
            m.submodules[f"rx_data{bit}"] = input_(self._pins.rx_data.i[bit], pairs.rx_first[bit], pairs.rx_second[bit])
        return m
