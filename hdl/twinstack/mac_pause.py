"""Pause frames (IEEE 802.3 clause 31 and annex 31B): the timers of both directions."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

PAUSE_ADDRESS = bytes.fromhex("0180c2000001")  # annex 31B.1
MAC_CONTROL_TYPE = 0x8808  # clause 31.4.1.3
PAUSE_OPCODE = 0x0001  # annex 31A
QUANTUM_BYTES = 64  # 512 bit times, annex 31B.2


def pause_frame_header(address, quanta):
    """Bytes of a pause frame in front of its padding, as one value, first byte in bits 7:0."""
    return Cat(
        Const(int.from_bytes(PAUSE_ADDRESS, "little"), 48),
        address,
        Const(int.from_bytes(MAC_CONTROL_TYPE.to_bytes(2, "big"), "little"), 16),
        Const(int.from_bytes(PAUSE_OPCODE.to_bytes(2, "big"), "little"), 16),
        quanta[8:],
        quanta[:8],
    )


PAUSE_HEADER_BYTES = 18


class PauseTimers(wiring.Component):
    """How long to be silent, and when to ask the other side for silence.

    The component is in the transmit domain, ``sync`` here.

    Members
    -------
    step : ``In(1)``
        A byte time has passed.
    pause : ``In(1)``
        A pause frame came that is to be obeyed; it replaces what an earlier one asked for.
    quanta : ``In(16)``
        Its time, with ``pause``.
    paused : ``Out(1)``
        No frame but pause frames may begin.
    request : ``In(1)``
        The other side should be silent.
    pause_time : ``In(16)``
        For how long each time; quasi-static.
    send : ``Out(1)``
        A pause frame should go.
    send_quanta : ``Out(16)``
        The time of the one that has begun, until the next begins.
    sent : ``In(1)``
        It begins now.

    Timing
    ------
    ``paused`` is high for ``quanta`` times 64 steps, from two cycles after ``pause``. While ``request`` lasts, ``send`` comes
    again when half of ``pause_time`` has passed since the last pause frame began; and once more, with time zero, after it.
    """

    def __init__(self):
        super().__init__(
            {
                "step": In(1),
                "pause": In(1),
                "quanta": In(16),
                "paused": Out(1),
                "request": In(1),
                "pause_time": In(16),
                "send": Out(1),
                "send_quanta": Out(16),
                "sent": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        bytes_bits = QUANTUM_BYTES.bit_length() - 1
        silence = Signal(16 + bytes_bits)  # here, in bytes
        with m.If(self.pause):
            m.d.sync += silence.eq(self.quanta << bytes_bits)
        with m.Elif(self.step & silence.any()):
            m.d.sync += silence.eq(silence - 1)
        m.d.sync += self.paused.eq(silence.any())

        # There: half of what was asked for, so that a frame of ours may delay the next request.
        remaining = Signal(15 + bytes_bits)
        asked = Signal()  # the last pause frame had a time
        is_stop = Signal()  # the next one has
        half = self.pause_time[1:]
        m.d.comb += self.send_quanta.eq(Mux(asked, self.pause_time, 0))
        m.d.sync += [
            self.send.eq(~self.sent & Mux(self.request, ~(asked & remaining.any()), asked)),
            is_stop.eq(self.request),
        ]
        with m.If(self.sent):
            m.d.sync += [asked.eq(is_stop), remaining.eq((half | ~half.any()) << bytes_bits)]
        with m.Elif(self.step & remaining.any()):
            m.d.sync += remaining.eq(remaining - 1)
        return m


__all__ = [
    "MAC_CONTROL_TYPE",
    "PAUSE_ADDRESS",
    "PAUSE_HEADER_BYTES",
    "PAUSE_OPCODE",
    "PauseTimers",
    "pause_frame_header",
]
