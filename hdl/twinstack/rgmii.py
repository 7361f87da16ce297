"""RGMII front end (RGMII 1.3 and 2.0): between the MAC's GMII or MII and pairs of bits at double-rate pins.

At 1000 Mb/s each clock edge carries half a byte, low half at the rise (RGMII 2.0, section 3.1). At 100 and 10 Mb/s a nibble stays for
a clock period, the same at both edges (section 5.0). Control: ``dv`` at the rise, ``dv ^ er`` at the fall (section 3.4).
Between frames the PHY puts its status on the data pins (section 3.4.1).
"""

from __future__ import annotations

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

from .interfaces import GmiiPins, LinkStatus

# Transmit clock periods in cycles of 125 MHz.
CYCLES_AT_100 = 5
CYCLES_AT_10 = 50


class RgmiiPairs(wiring.Signature):
    """RGMII's pins as pairs of bits: what is on the pin in the first half of a clock cycle, and in the second.

    Outputs: the pair of a cycle appears on the pin in the following one. Inputs: the pair holds what the pin had at a rise
    of the clock and at the fall after it.
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "tx_clk": Out(2),  # bit 0 first
                "tx_ctl": Out(2),
                "tx_first": Out(4),
                "tx_second": Out(4),
                "rx_ctl": In(2),
                "rx_first": In(4),
                "rx_second": In(4),
            }
        )


class RgmiiFrontEnd(wiring.Component):
    """Between the MAC and double-rate cells.

    The transmit domain runs at 125 MHz at every speed. At 100 and 10 Mb/s the transmit clock on the pin is made from the double-rate
    cell, high for 5 halves and low for 5 halves of a cycle (50 and 50 at 10 Mb/s): an even duty cycle without another clock in
    the FPGA; ``gmii.tx_hold`` lets the MAC go on once in 5 (50) cycles. Data change with the rise of that clock; the delay
    that lets the PHY sample them is the PHY's or the board's (RGMII-ID), as at 1000 Mb/s. The receive domain runs with the clock from
    the PHY: 125, 25 or 2.5 MHz.

    Parameters
    ----------
    rx_domain, tx_domain : str
        Domains of the receive and the transmit pins.

    Members
    -------
    gmii : ``In(GmiiPins())``
        To the MAC. ``link`` keeps the last status that came whole; ``in_band`` is set by the first status that is not zero:
        a PHY without in-band status keeps its pins low between frames.
    pairs : ``Out(RgmiiPairs())``
        To the cells.

    Timing
    ------
    One cycle of latency in each direction, the cells aside. When ``gmii.speed`` changes, one period of the transmit clock
    may be of any length from half a cycle on.

    Raises
    ------
    TypeError
        If a domain is not a string.
    """

    def __init__(self, *, rx_domain: str = "rx", tx_domain: str = "tx"):
        for name, domain in (("rx_domain", rx_domain), ("tx_domain", tx_domain)):
            if not isinstance(domain, str):
                raise TypeError(f"{name} must be a string, not {domain!r}")
        self._rx_domain = rx_domain
        self._tx_domain = tx_domain
        super().__init__({"gmii": In(GmiiPins()), "pairs": Out(RgmiiPairs())})

    def elaborate(self, platform):
        m = Module()
        self._receive(m, self.gmii, self.pairs)
        self._transmit(m, self.gmii, self.pairs)
        return m

    def _receive(self, m, gmii, pairs):
        sync = m.d[self._rx_domain]
        sync += [
            gmii.rxd.eq(Cat(pairs.rx_first, pairs.rx_second)),
            gmii.rx_dv.eq(pairs.rx_ctl[0]),
            gmii.rx_er.eq(pairs.rx_ctl[0] ^ pairs.rx_ctl[1]),
        ]
        # A status is the same at both edges, and in two cycles.
        status = Signal(4)
        is_status = Signal()
        was_status = Signal()
        m.d.comb += is_status.eq((pairs.rx_ctl == 0) & (pairs.rx_first == pairs.rx_second))
        sync += [was_status.eq(is_status), status.eq(pairs.rx_first)]
        link = Signal(LinkStatus)
        m.d.comb += gmii.link.eq(link)
        with m.If(is_status & was_status & (status == pairs.rx_first) & (link.in_band | status.any())):
            sync += [
                link.in_band.eq(1),
                link.link_up.eq(status[0]),
                link.speed.eq(status[1:3]),
                link.full_duplex.eq(status[3]),
            ]

    def _transmit(self, m, gmii, pairs):
        sync = m.d[self._tx_domain]
        speed = Signal(2)
        m.submodules.speed = FFSynchronizer(gmii.speed, speed, o_domain=self._tx_domain, init=2)
        is_fast = speed[1]
        error = gmii.tx_en ^ gmii.tx_er

        # The cycle of the clock period that goes to the cells next; the pins of the MAC change with the first one.
        phase = Signal(range(CYCLES_AT_10))
        is_last = Signal()
        in_first = Signal(2)  # half by half: in the first half of the period
        m.d.comb += is_last.eq(phase == Mux(speed[0], CYCLES_AT_100 - 1, CYCLES_AT_10 - 1))
        with m.If(speed[0]):
            m.d.comb += [in_first[0].eq(2 * phase < CYCLES_AT_100), in_first[1].eq(2 * phase + 1 < CYCLES_AT_100)]
        with m.Else():
            m.d.comb += in_first.eq((phase < CYCLES_AT_10 // 2).replicate(2))
        with m.If(is_fast):
            sync += [
                phase.eq(0),
                gmii.tx_hold.eq(0),
                pairs.tx_clk.eq(0b01),
                pairs.tx_ctl.eq(Cat(gmii.tx_en, error)),
                pairs.tx_first.eq(gmii.txd[:4]),
                pairs.tx_second.eq(gmii.txd[4:]),
            ]
        with m.Else():
            sync += [
                phase.eq(phase + 1),
                # A register here and one in the MAC: the pins of the MAC change with phase zero.
                gmii.tx_hold.eq(phase != Mux(speed[0], CYCLES_AT_100 - 2, CYCLES_AT_10 - 2)),
                pairs.tx_clk.eq(in_first),
                pairs.tx_ctl.eq(Cat(Mux(half, gmii.tx_en, error) for half in in_first)),
                pairs.tx_first.eq(gmii.txd[:4]),
                pairs.tx_second.eq(gmii.txd[:4]),
            ]
            with m.If(is_last):
                sync += phase.eq(0)


class DoubleRateOutput(wiring.Component):
    """A double-rate output cell without a vendor's primitive, for simulation: the clock chooses between two registers.

    Members
    -------
    pair : ``In(2)``
        The two halves of a cycle.
    pin : ``Out(1)``
        The pin, one cycle later.
    """

    def __init__(self, domain: str = "sync"):
        self._domain = domain
        super().__init__({"pair": In(2), "pin": Out(1)})

    def elaborate(self, platform):
        m = Module()
        held = Signal(2)
        m.d[self._domain] += held.eq(self.pair)
        m.d.comb += self.pin.eq(Mux(ClockSignal(self._domain), held[0], held[1]))
        return m


class DoubleRateInput(wiring.Component):
    """A double-rate input cell without a vendor's primitive: a register at each edge, then one for both.

    Members
    -------
    pin : ``In(1)``
        The pin.
    pair : ``Out(2)``
        What it had at a rise and at the fall after it.
    """

    def __init__(self, domain: str = "sync"):
        self._domain = domain
        super().__init__({"pin": In(1), "pair": Out(2)})

    def elaborate(self, platform):
        m = Module()
        m.domains.falling = falling = ClockDomain(clk_edge="neg", reset_less=True, local=True)
        m.d.comb += falling.clk.eq(ClockSignal(self._domain))
        rise = Signal()
        fall = Signal()
        m.d[self._domain] += [rise.eq(self.pin), self.pair.eq(Cat(rise, fall))]
        m.d.falling += fall.eq(self.pin)
        return m


__all__ = ["DoubleRateInput", "DoubleRateOutput", "RgmiiFrontEnd", "RgmiiPairs"]
