"""Management interface to the PHY: MDC and MDIO (IEEE 802.3 clauses 22.2.4 and 22.3.4)."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

from .interfaces import MdioPins

MAX_MDC_HZ = 2_500_000  # clause 22.2.2.13: period at least 400 ns
PREAMBLE_BITS = 32  # clause 22.2.4.5.2
FRAME_BITS = 64  # with the preamble, clause 22.2.4.5
TURNAROUND_BIT = 47  # second bit of the turnaround, from 0: the PHY drives it low in a read (clause 22.2.4.5.9)
START = 0b01  # clause 22.2.4.5.3
READ, WRITE = 0b10, 0b01  # clause 22.2.4.5.4
WRITE_TURNAROUND = 0b10
# The PHY may take 300 ns from the rise of MDC (clause 22.3.4), and the pin's synchroniser two cycles: with at least four cycles
# in each half of MDC, what is seen at the end of a bit is younger than that at any clock.
MIN_HALF_CYCLES = 4


class MdioController(wiring.Component):
    """Sends and receives management frames.

    The pin is read back while ones of the preamble are driven: a line that stays low then (nothing connected, or stuck)
    is an error, for reads and writes. A read is an error, too, when nobody drives the turnaround low.

    Parameters
    ----------
    sync_hz : int, 1 MHz..500 MHz
        Frequency of ``sync``.

    Members
    -------
    pins : ``Out(MdioPins())``
        To the pad; ``mdio_i`` must show what the pad has, also while it is driven. ``mdc`` is low when idle.
    start : ``In(1)``
        Begin a frame with the next five; ignored while ``busy``.
    read, phy_address, register_address, write_data : ``In``
        Sampled with ``start``.
    busy : ``Out(1)``
        From the cycle after ``start``.
    read_data, error : ``Out``
        Of the last frame, valid while not ``busy``.

    Timing
    ------
    MDC runs at ``sync_hz / (2 * half)``, ``half`` the smallest number of at least 4 cycles for at most 2.5 MHz; a frame takes 64.5
    periods of it: 25.8 us at 75 MHz.

    Raises
    ------
    TypeError, ValueError
        If ``sync_hz`` is no integer, or out of range.
    """

    def __init__(self, sync_hz: int):
        if not isinstance(sync_hz, int) or isinstance(sync_hz, bool):
            raise TypeError(f"sync_hz must be an integer, not {sync_hz!r}")
        if not 1_000_000 <= sync_hz <= 500_000_000:
            raise ValueError(f"sync_hz must be 1 MHz to 500 MHz, not {sync_hz!r}")
        self.half_cycles = max(MIN_HALF_CYCLES, -(-sync_hz // (2 * MAX_MDC_HZ)))
        super().__init__(
            {
                "pins": Out(MdioPins()),
                "start": In(1),
                "read": In(1),
                "phy_address": In(5),
                "register_address": In(5),
                "write_data": In(16),
                "busy": Out(1),
                "read_data": Out(16),
                "error": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        sampled = Signal()
        m.submodules.mdio = FFSynchronizer(self.pins.mdio_i, sampled)

        shift = Signal(32)  # what follows the preamble; received bits come in at the end
        is_read = Signal()
        bit = Signal(range(FRAME_BITS + 1))
        half = Signal(range(self.half_cycles))
        half_done = Signal()
        in_preamble = Signal()
        m.d.comb += [half_done.eq(half == self.half_cycles - 1), in_preamble.eq(bit < PREAMBLE_BITS)]

        with m.If(~self.busy):
            with m.If(self.start):
                m.d.sync += [
                    self.busy.eq(1),
                    self.error.eq(0),
                    is_read.eq(self.read),
                    bit.eq(0),
                    half.eq(0),
                    self.pins.mdio_o.eq(1),
                    self.pins.mdio_oe.eq(1),
                    # The most significant bit goes first.
                    shift.eq(
                        Cat(
                            self.write_data,
                            Const(WRITE_TURNAROUND, 2),
                            self.register_address,
                            self.phy_address,
                            Mux(self.read, Const(READ, 2), Const(WRITE, 2)),
                            Const(START, 2),
                        )
                    ),
                ]
        with m.Elif(~half_done):
            m.d.sync += half.eq(half + 1)
        with m.Elif(bit == FRAME_BITS):  # the PHY has had its time to let go of the line
            m.d.sync += [self.busy.eq(0), self.read_data.eq(shift[:16])]
        with m.Elif(~self.pins.mdc):  # the middle of a bit: MDC rises, and the PHY's bit is taken
            m.d.sync += [half.eq(0), self.pins.mdc.eq(1)]
            with m.If(~in_preamble):
                m.d.sync += shift.eq(Cat(sampled, shift[:-1]))
            with m.If(Mux(in_preamble, ~sampled, is_read & (bit == TURNAROUND_BIT) & sampled)):
                m.d.sync += self.error.eq(1)
        with m.Else():  # the end of a bit: MDC falls, and the next bit comes on the line
            m.d.sync += [half.eq(0), self.pins.mdc.eq(0), bit.eq(bit + 1)]
            with m.If(bit >= PREAMBLE_BITS - 1):
                m.d.sync += self.pins.mdio_o.eq(shift[-1])
            with m.If(is_read & (bit == TURNAROUND_BIT - 2)):
                m.d.sync += self.pins.mdio_oe.eq(0)
            with m.If(bit == FRAME_BITS - 1):
                m.d.sync += self.pins.mdio_oe.eq(0)
        return m


__all__ = ["MdioController"]
