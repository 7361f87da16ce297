"""Between bytes and the nibbles of MII (IEEE 802.3 clause 22.2): the low nibble goes first, on bits 3:0 of the pins.

Both components stand between the pins and the MAC, in the pins' domain (``sync`` here). They say in each cycle whether
the MAC takes a step; at 1000 Mb/s it does in each.
"""

from __future__ import annotations

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

SFD = 0xD5  # clause 22.2.3.2: nibbles 5, D


class NibblesToBytes(wiring.Component):
    """Receive pins to bytes.

    Until the SFD, each nibble makes a step with the last two nibbles as the byte: a preamble may have lost any number of
    nibbles (table 22-4). The SFD fixes where bytes begin. A single nibble behind the last byte is dropped, as clause
    4.2.4.2.1 has it; whether the frame was good, its FCS says.

    Members
    -------
    nibbles : ``In(1)``
        10 or 100 Mb/s. When it changes in a frame, that frame is lost.
    rxd, rx_dv, rx_er : ``In``
        Pins.
    data, valid, error : ``Out``
        GMII, as the receiver wants it, from registers ...
    step : ``Out(1)``
        ... in the cycles with ``step``.

    Timing
    ------
    One cycle of latency; a byte per cycle, or per two.
    """

    def __init__(self):
        super().__init__(
            {
                "nibbles": In(1),
                "rxd": In(8),
                "rx_dv": In(1),
                "rx_er": In(1),
                "data": Out(8),
                "valid": Out(1, init=1),  # a frame under way at the end of reset is skipped
                "error": Out(1),
                "step": Out(1, init=1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        previous = Signal(4)
        previous_error = Signal()
        aligned = Signal()
        second = Signal()  # of a byte, with ``aligned``
        pair = Signal(8)
        m.d.comb += pair.eq(Cat(previous, self.rxd[:4]))
        m.d.sync += [
            self.valid.eq(self.rx_dv),
            previous.eq(Mux(self.rx_dv, self.rxd, 0)),
            previous_error.eq(self.rx_er),
        ]
        with m.If(~self.nibbles):
            m.d.sync += [self.data.eq(self.rxd), self.error.eq(self.rx_er), self.step.eq(1), aligned.eq(0)]
        with m.Else():
            m.d.sync += [
                self.data.eq(pair),
                self.error.eq(self.rx_er | (previous_error & aligned)),
                self.step.eq(~(self.rx_dv & aligned) | second),
                second.eq(aligned & ~second),
                aligned.eq(self.rx_dv & (aligned | (pair == SFD))),
            ]
        return m


class BytesToNibbles(wiring.Component):
    """Bytes to transmit pins.

    Members
    -------
    nibbles : ``In(1)``
        10 or 100 Mb/s. When it changes in a frame, that frame is spoiled.
    hold : ``In(1)``
        The pins keep what they have for one more cycle.
    data, enable, error : ``In``
        GMII from the transmitter, stable until ``step``.
    step : ``Out(1)``
        The transmitter goes on after this cycle.
    txd, tx_en, tx_er : ``Out``
        Pins, from registers; ``txd`` bits 7:4 are zero at 10 and 100 Mb/s.

    Timing
    ------
    One cycle of latency.
    """

    def __init__(self):
        super().__init__(
            {
                "nibbles": In(1),
                "hold": In(1),
                "data": In(8),
                "enable": In(1),
                "error": In(1),
                "step": Out(1),
                "txd": Out(8),
                "tx_en": Out(1),
                "tx_er": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        second = Signal()
        m.d.comb += self.step.eq(~self.hold & (~self.nibbles | second))
        with m.If(~self.hold):
            m.d.sync += [second.eq(self.nibbles & ~second), self.tx_en.eq(self.enable), self.tx_er.eq(self.error)]
            with m.If(~self.nibbles):
                m.d.sync += self.txd.eq(self.data)
            with m.Else():
                m.d.sync += self.txd.eq(self.data.word_select(second, 4))
        return m


__all__ = ["BytesToNibbles", "NibblesToBytes"]
