"""Asynchronous serial lines, 8N1: one start bit, eight data bits with the lowest first, one stop bit."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

MIN_DIVISOR = 4
"""Fewest ``sync`` cycles of a bit: with less, the receiver's uncertainty of one cycle leaves no room for the clocks' error."""
MAX_DIVISOR = 1 << 16
MAX_BAUD_ERROR = 0.02
"""A frame is right while both clocks together are off by less than half a bit in ten: this side takes 2 %."""
VOTE_DIVISOR = 8
"""From here on a bit is the majority of three samples."""


def uart_divisor(sync_hz: int, baud: int) -> int:
    """Cycles of ``sync_hz`` in a bit of ``baud``, rounded.

    Raises
    ------
    TypeError
        If a value is no integer.
    ValueError
        If the clock does not divide to within 2 % of ``baud``, or by less than 4; the nearest rates are named.
    """
    for name, value in (("sync_hz", sync_hz), ("baud", baud)):
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name} must be an integer, not {value!r}")
    if sync_hz < 1:
        raise ValueError(f"sync_hz must be positive, not {sync_hz!r}")
    if not 1 <= baud <= sync_hz // MIN_DIVISOR:
        raise ValueError(f"baud must be 1 to {sync_hz // MIN_DIVISOR} with a clock of {sync_hz} Hz, not {baud!r}")
    divisor = (2 * sync_hz + baud) // (2 * baud)
    error = abs(sync_hz / divisor / baud - 1)
    if error >= MAX_BAUD_ERROR:
        below, above = sync_hz // (divisor + 1), sync_hz // max(divisor - 1, MIN_DIVISOR)
        raise ValueError(
            f"baud must be within 2 % of a whole divisor of {sync_hz} Hz ({below}, {sync_hz // divisor}, {above}),"
            f" not {baud!r}: dividing by {divisor} is off by {100 * error:.1f} %"
        )
    if divisor > MAX_DIVISOR:
        raise ValueError(
            f"baud must be at least {-(-sync_hz // MAX_DIVISOR)} with a clock of {sync_hz} Hz, not {baud!r}"
        )
    return divisor


def _check_divisor(divisor: int) -> None:
    if not isinstance(divisor, int) or isinstance(divisor, bool):
        raise TypeError(f"divisor must be an integer, not {divisor!r}")
    if not MIN_DIVISOR <= divisor <= MAX_DIVISOR:
        raise ValueError(f"divisor must be {MIN_DIVISOR} to {MAX_DIVISOR}, not {divisor!r}")


class UartReceiver(wiring.Component):
    """Takes bytes off a line.

    A start bit counts if the line is still low at its middle. From a divisor of 8 on, each bit is the majority of three
    samples around its middle, an eighth of a bit apart; below, it is one sample. After a frame without a stop bit the line
    must be high once before the next start bit counts.

    Parameters
    ----------
    divisor : int, 4..65536
        ``sync`` cycles of a bit.

    Members
    -------
    rx : ``In(1)``
        Pin, asynchronous; high when idle.
    data : ``Out(8)``
        The last byte.
    valid : ``Out(1)``
        One cycle: ``data`` was received with a stop bit.
    framing_error : ``Out(1)``
        One cycle: a frame had no stop bit. ``data`` has its bits.
    is_break : ``Out(1)``
        With ``framing_error``: all bits were low.

    Timing
    ------
    ``valid`` rises 9.5 bits and about five cycles after the start bit began. A byte can follow at once.

    Raises
    ------
    TypeError, ValueError
        If ``divisor`` is no integer, or out of range.
    """

    def __init__(self, divisor: int):
        _check_divisor(divisor)
        self.divisor = divisor
        super().__init__({"rx": In(1), "data": Out(8), "valid": Out(1), "framing_error": Out(1), "is_break": Out(1)})

    def elaborate(self, platform):
        m = Module()
        divisor = self.divisor
        line = Signal(init=1)
        m.submodules.synchronizer = FFSynchronizer(self.rx, line, init=1)
        left = Signal(range(divisor))  # cycles until the bit's decision
        bits = Signal(range(10))  # to come, stop bit included; 9: this is the start bit
        low = Signal()  # all since the start bit was low
        level = Signal()
        spread = divisor // 8 if divisor >= VOTE_DIVISOR else 0
        decide = Signal()
        m.d.comb += decide.eq(left == 0)
        if spread:
            samples = Signal(2)
            with m.If((left == spread) | (left == 2 * spread)):
                m.d.sync += samples.eq(Cat(line, samples))
            # Two of three, without an adder.
            m.d.comb += level.eq((samples[0] & samples[1]) | (line & (samples[0] | samples[1])))
        else:
            m.d.comb += level.eq(line)
        m.d.comb += self.is_break.eq(low)
        m.d.sync += [self.valid.eq(0), self.framing_error.eq(0), left.eq(left - 1)]
        with m.FSM():
            with m.State("Idle"):
                # The edge was seen half a cycle late on average; the decision comes `spread` after the middle.
                m.d.sync += [left.eq((divisor - 1) // 2 - 1 + spread), bits.eq(9), low.eq(1)]
                with m.If(~line):
                    m.next = "Receive Bits"
            with m.State("Receive Bits"):
                with m.If(decide):
                    m.d.sync += [left.eq(divisor - 1), bits.eq(bits - 1), low.eq(low & ~level)]
                    with m.If((bits == 9) & level):
                        m.next = "Idle"  # a spike
                    with m.Elif(bits == 0):
                        m.d.sync += [self.valid.eq(level), self.framing_error.eq(~level)]
                        m.next = "Wait For High"
                    with m.Elif(bits != 9):
                        m.d.sync += self.data.eq(Cat(self.data[1:], level))
            with m.State("Wait For High"):
                with m.If(line):
                    m.next = "Idle"
        return m


class UartTransmitter(wiring.Component):
    """Puts bytes on a line.

    Parameters
    ----------
    divisor : int, 4..65536
        ``sync`` cycles of a bit.

    Members
    -------
    i : ``In(stream.Signature(8))``
        Bytes; accepted between frames.
    tx : ``Out(1)``
        Pin, a register; high when idle.

    Timing
    ------
    A byte takes ten bits; without a gap if the next one waits.

    Raises
    ------
    TypeError, ValueError
        If ``divisor`` is no integer, or out of range.
    """

    def __init__(self, divisor: int):
        _check_divisor(divisor)
        self.divisor = divisor
        super().__init__({"i": In(stream.Signature(8)), "tx": Out(1, init=1)})

    def elaborate(self, platform):
        m = Module()
        left = Signal(range(self.divisor))
        # A one above the bits that are to come: the frame is over when it alone is left.
        shift = Signal(10, init=1)
        step, last = Signal(), Signal()
        m.d.comb += [step.eq(left == 0), last.eq(shift == 1), self.i.ready.eq(step & last)]
        with m.If(~step):
            m.d.sync += left.eq(left - 1)
        with m.Elif(~last):
            m.d.sync += [left.eq(self.divisor - 1), self.tx.eq(shift[0]), shift.eq(shift >> 1)]
        with m.Elif(self.i.valid):
            m.d.sync += [left.eq(self.divisor - 1), self.tx.eq(0), shift.eq(Cat(self.i.payload, Const(0b11, 2)))]
        return m
