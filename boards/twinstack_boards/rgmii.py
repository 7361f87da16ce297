"""RGMII pins by the ECP5's double-rate registers; what is on them is :class:`twinstack.rgmii.RgmiiFrontEnd`'s.

Which side delays the clocks is the board's choice (``phy.NetworkPort``), by the delay cells (DELAYG) of the pins:

- Received data always pass one. Where the PHY delays RXC, it makes up for the way of the clock into the device, and the clock meets
  the middle of the data as it does at the pins. Where the PHY does not, data come 2 ns later still: then a falling edge
  meets the first half of a cycle's data, the rising edge after it the second.
- TXC passes one of 2 ns where the PHY does not delay it.
"""

from __future__ import annotations

from amaranth import Cat, ClockDomain, ClockSignal, Const, Instance, Module, ResetSignal, Signal, Value
from amaranth.lib import io, wiring
from amaranth.lib.cdc import ResetSynchronizer
from amaranth.lib.wiring import In

from twinstack.interfaces import GmiiPins
from twinstack.rgmii import RgmiiFrontEnd

from .phy import CENTERED_TAPS, FPGA_DELAY_TAPS, SIDES


class RgmiiPort(wiring.Component):
    """One RGMII port, 10, 100 and 1000 Mb/s; creates the domains ``rx0`` (clock from the PHY) and ``tx0`` (the clock given).

    Parameters
    ----------
    pins : object
        ``tx_clk``, ``tx_ctrl`` (or ``tx_ctl``), ``tx_data``, ``rx_ctrl`` (or ``rx_ctl``), ``rx_data`` as buffered pins;
        ``rx_clk`` as a bare port.
    tx_clk, tx_reset : Signal
        125 MHz clock and its reset.
    index : int
        Number in the domains' names.
    rx_delay, tx_delay : "phy" or "fpga"
        Which side delays the clock of each direction.

    Members
    -------
    gmii : ``In(GmiiPins())``
        To the MAC.

    Raises
    ------
    ValueError
        If a side is none.
    """

    def __init__(self, pins, tx_clk, tx_reset, *, index: int = 0, rx_delay: str = "phy", tx_delay: str = "phy"):  # type: ignore[no-untyped-def]
        for name, side in (("rx_delay", rx_delay), ("tx_delay", tx_delay)):
            if side not in SIDES:
                raise ValueError(f"{name} must be one of {', '.join(SIDES)}, not {side!r}")
        self._pins, self._tx_clk, self._tx_reset, self._index = pins, tx_clk, tx_reset, index
        self._rx_delay, self._tx_delay = rx_delay, tx_delay
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

        def delayed(name: str, taps: int) -> tuple[Signal, Signal]:
            before, after = Signal(name=f"{name}_undelayed"), Signal(name=f"{name}_delayed")
            m.submodules[f"{name}_delay"] = Instance(
                "DELAYG", p_DEL_MODE="USER_DEFINED", p_DEL_VALUE=taps, i_A=before, o_Z=after
            )
            return before, after

        def output(pin: Value, pair: Value) -> Instance:
            return Instance("ODDRX1F", i_SCLK=ClockSignal(tx), i_RST=Const(0), i_D0=pair[0], i_D1=pair[1], o_Q=pin)

        in_fpga = self._rx_delay == "fpga"
        rx_taps = CENTERED_TAPS + (FPGA_DELAY_TAPS if in_fpga else 0)

        def input_(name: str, pin: Value, pair: Value) -> None:
            before, after = delayed(name, rx_taps)
            rise, fall = Signal(name=f"{name}_rise"), Signal(name=f"{name}_fall")
            m.d.comb += before.eq(pin)
            m.submodules[name] = Instance(
                "IDDRX1F", i_SCLK=ClockSignal(rx), i_RST=Const(0), i_D=after, o_Q0=rise, o_Q1=fall
            )
            if in_fpga:
                first = Signal(name=f"{name}_first")
                m.d[rx] += first.eq(fall)
                m.d.comb += pair.eq(Cat(first, rise))
            else:
                m.d.comb += pair.eq(Cat(rise, fall))

        m.submodules.front_end = front_end = RgmiiFrontEnd(rx_domain=rx, tx_domain=tx)
        wiring.connect(m, wiring.flipped(self.gmii), front_end.gmii)
        pairs = front_end.pairs
        tx_clk = self._pins.tx_clk.o
        if self._tx_delay == "fpga":
            before, after = delayed("tx_clk", FPGA_DELAY_TAPS)
            m.d.comb += tx_clk.eq(after)
            tx_clk = before
        m.submodules.tx_clk = output(tx_clk, pairs.tx_clk)
        m.submodules.tx_ctrl = output(_control(self._pins, "tx").o, pairs.tx_ctl)
        rx_ctl, rx_data = Signal(2), [Signal(2, name=f"rx_pair{bit}") for bit in range(4)]
        input_("rx_ctrl", _control(self._pins, "rx").i, rx_ctl)
        m.d.comb += pairs.rx_ctl.eq(rx_ctl)
        for bit in range(4):
            pair = Cat(pairs.tx_first[bit], pairs.tx_second[bit])
            m.submodules[f"tx_data{bit}"] = output(self._pins.tx_data.o[bit], pair)
            input_(f"rx_data{bit}", self._pins.rx_data.i[bit], rx_data[bit])
            m.d.comb += [pairs.rx_first[bit].eq(rx_data[bit][0]), pairs.rx_second[bit].eq(rx_data[bit][1])]
        return m


def _control(pins, direction: str):  # type: ignore[no-untyped-def]
    """The control pin; board files of amaranth-boards call it by either name."""
    names = [f"{direction}_ctrl", f"{direction}_ctl"]
    return next(getattr(pins, name) for name in names if hasattr(pins, name))
