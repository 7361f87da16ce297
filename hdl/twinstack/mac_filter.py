"""The MAC's address filter, the receive counters, and what becomes of MAC control frames (IEEE 802.3 clause 31, annex 31B).

Multicast hash filter: the upper six bits of the CRC-32 of the destination address, as in the FCS before its inversion, choose one
of 64 bits; in Python ``(zlib.crc32(address) ^ 0xFFFFFFFF) >> 26``.

This file must not postpone the evaluation of annotations: ``data.Struct`` skips fields whose shapes are strings.
"""

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .interfaces import FrameStream
from .mac_crossing import RxOutcome, RxWord
from .mac_pause import MAC_CONTROL_TYPE, PAUSE_ADDRESS, PAUSE_OPCODE
from .mac_rx import FCS_BYTES, HASH_BITS, LOST_BITS

# Words of a frame on internal streams: two pad bytes, 12 of addresses, then type, opcode and time.
TYPE_WORD = 3
OPCODE_WORD = 4


class RxEvent(data.Struct):
    """A received frame, for the statistics."""

    outcome: RxOutcome
    length: 24  # octets with the FCS; with outcome ``LOST``: lost frames
    is_group: 1  # to a group address, with outcome ``GOOD``, as the next three
    is_broadcast: 1
    is_accepted: 1  # passed up
    is_control: 1  # MAC control frame for this station


def _wire_value(value: int) -> int:
    """A 16-bit field, most significant byte first on the wire, as half a stream word has it."""
    return int.from_bytes(value.to_bytes(2, "big"), "little")


class MacFilter(wiring.Component):
    """Address filter and receive counters.

    A frame of less than seven bytes is dropped here; other bad frames whose address is accepted end with ``error``. MAC control
    frames (type 0x8808) end with ``error``, too: nobody above may see one, whatever it says (clause 31.4).

    Each frame counts in exactly one counter: lost ones in ``overflows``, then by length in ``runts`` and ``giants``,
    then in ``crc_errors``, whatever their address; good pause frames for this station in ``pauses``, other good ones in
    ``filtered`` or ``frames``.

    Members
    -------
    i : ``In(stream.Signature(RxWord))``
        Words from the receiver.
    restarted : ``In(1)``
        The receiver is or was in reset: no more words of a frame begun before will come.
    o : ``Out(FrameStream)``
        Accepted frames.
    address, promiscuous, all_multicast, multicast : ``In``
        What to accept, broadcast aside (clause 3.2.3); ``address`` bits 7:0 are the first byte.
    frames, bytes, crc_errors, runts, giants, overflows, filtered, pauses : ``Out(32)``
        Counters, which wrap.
    event : ``Out(stream.Signature(RxEvent))``
        Each counted frame, for the statistics. A last word waits until the event of the frame before was taken.
    pause : ``Out(1)``
        A pause frame came, for one cycle.
    quanta : ``Out(16)``
        Its time, from then on until 18 bytes of another MAC control frame have come.

    Timing
    ------
    One word per cycle, latency two cycles, and for a frame's first word until the second has come.
    """

    def __init__(self):
        super().__init__(
            {
                "i": In(stream.Signature(RxWord)),
                "restarted": In(1),
                "o": Out(FrameStream),
                "address": In(48),
                "promiscuous": In(1),
                "all_multicast": In(1),
                "multicast": In(64),
                "frames": Out(32),
                "bytes": Out(32),
                "crc_errors": Out(32),
                "runts": Out(32),
                "giants": Out(32),
                "overflows": Out(32),
                "filtered": Out(32),
                "pauses": Out(32),
                "event": Out(stream.Signature(RxEvent)),
                "pause": Out(1),
                "quanta": Out(16),
            }
        )

    def elaborate(self, platform):
        m = Module()
        following = self.i.payload
        word = Signal(RxWord)
        word_valid = Signal()
        is_open = Signal()  # of this frame something was sent, and it has not ended
        is_foreign = Signal()  # this frame is for someone else
        is_cut = Signal()  # the rest of the open frame will not come

        free = Signal()  # the output register can be loaded
        end_open = Signal()  # the open frame must be ended before ``word`` is looked at
        move = Signal()  # ``word`` is dealt with in this cycle
        accepted = Signal()
        send = Signal()
        m.d.comb += free.eq(~self.o.valid | self.o.ready)
        m.d.comb += end_open.eq(is_open & Mux(word_valid, word.first, is_cut))
        with m.If(word_valid & ~end_open & ~(word.last & self.event.valid)):
            with m.If(word.first):
                m.d.comb += move.eq(free & (word.last | self.i.valid))
            with m.Else():
                m.d.comb += move.eq(free | ~is_open)
        m.d.comb += self.i.ready.eq(~word_valid | move)
        with m.If(self.i.ready):
            m.d.sync += [word.eq(following), word_valid.eq(self.i.valid)]

        destination = Cat(word.data[16:], following.data)
        hash_value = word.data[:HASH_BITS]
        is_own = Signal()
        is_broadcast = Signal()
        in_hash = Signal()
        m.d.comb += [
            is_own.eq(destination == self.address),
            is_broadcast.eq(destination.all()),
            in_hash.eq(self.multicast.bit_select(hash_value, 1)),
            # A frame of two words is a runt; after a reset, the next word may be of another frame.
            accepted.eq(
                (is_own | is_broadcast | self.promiscuous | (destination[0] & (self.all_multicast | in_hash)))
                & ~(word.last | following.last | following.first)
            ),
            send.eq(Mux(word.first, accepted, is_open)),
        ]

        # What the statistics and the pause frames want to know of the frame under way.
        is_group = Signal()
        to_broadcast = Signal()
        to_pause = Signal()  # for this station's MAC control
        index = Signal(range(OPCODE_WORD + 2))  # of ``word`` in its frame, up to here
        is_control = Signal()
        is_pause = Signal()
        with m.If(move):
            with m.If(word.first):
                m.d.sync += [
                    index.eq(1),
                    is_group.eq(destination[0]),
                    to_broadcast.eq(is_broadcast),
                    to_pause.eq(is_own | (destination == int.from_bytes(PAUSE_ADDRESS, "little"))),
                    is_control.eq(0),
                    is_pause.eq(0),
                ]
            with m.Elif(index != OPCODE_WORD + 1):
                m.d.sync += index.eq(index + 1)
            with m.If(~word.first & (index == TYPE_WORD)):
                m.d.sync += is_control.eq(word.data[16:] == _wire_value(MAC_CONTROL_TYPE))
            with m.If(~word.first & (index == OPCODE_WORD) & is_control):
                m.d.sync += [
                    is_pause.eq(to_pause & (word.data[:16] == _wire_value(PAUSE_OPCODE))),
                    self.quanta.eq(Cat(word.data[24:], word.data[16:24])),
                ]

        with m.If(free):
            m.d.sync += self.o.valid.eq(0)
        with m.If(free & end_open):
            m.d.sync += [
                self.o.valid.eq(1),
                self.o.payload.count.eq(4),
                self.o.payload.last.eq(1),
                self.o.payload.error.eq(1),
                is_open.eq(0),
            ]
        with m.If(move):
            m.d.sync += [is_open.eq(send & ~word.last), is_foreign.eq(~word.last & Mux(word.first, ~send, is_foreign))]
            with m.If(send):
                m.d.sync += [
                    self.o.valid.eq(1),
                    self.o.payload.data.eq(Cat(Mux(word.first, 0, word.data[:16]), word.data[16:])),
                    self.o.payload.count.eq(word.count),
                    self.o.payload.last.eq(word.last),
                    self.o.payload.error.eq(word.last & ((word.outcome != RxOutcome.GOOD) | is_control)),
                ]
        m.d.sync += is_cut.eq(is_open & (is_cut | self.restarted))

        # Counters and event, a cycle later.
        length = Signal(16)  # up to this word, without the FCS
        ended = Signal()
        event = self.event.payload
        ended_pause = Signal()
        ended_length = Signal(16)
        m.d.sync += ended.eq(0)
        with m.If(self.event.ready):
            m.d.sync += self.event.valid.eq(0)
        with m.If(move):
            m.d.sync += length.eq(Mux(word.first, 2, length + 4))
        is_good = word.outcome == RxOutcome.GOOD
        with m.If(move & word.last):
            m.d.sync += [
                ended.eq(1),
                # The rest of a frame whose beginning a reset took is nothing.
                self.event.valid.eq(~is_good | is_open | is_foreign),
                ended_pause.eq(is_pause),
                ended_length.eq(length + word.count),
                event.outcome.eq(word.outcome),
                event.length.eq(Mux(is_good, length + word.count + FCS_BYTES, word.data[:LOST_BITS])),
                event.is_group.eq(is_group),
                event.is_broadcast.eq(to_broadcast),
                event.is_accepted.eq(is_open & ~is_control),
                event.is_control.eq(is_control & to_pause),
            ]
        m.d.comb += self.pause.eq(ended & (event.outcome == RxOutcome.GOOD) & ended_pause)
        with m.If(ended):
            with m.Switch(event.outcome):
                with m.Case(RxOutcome.GOOD):
                    with m.If(ended_pause):
                        m.d.sync += self.pauses.eq(self.pauses + 1)
                    with m.Elif(event.is_accepted):
                        m.d.sync += [self.frames.eq(self.frames + 1), self.bytes.eq(self.bytes + ended_length)]
                    with m.Elif(self.event.valid):
                        m.d.sync += self.filtered.eq(self.filtered + 1)
                with m.Case(RxOutcome.BAD_FCS):
                    m.d.sync += self.crc_errors.eq(self.crc_errors + 1)
                with m.Case(RxOutcome.UNDERSIZE, RxOutcome.FRAGMENT):
                    m.d.sync += self.runts.eq(self.runts + 1)
                with m.Case(RxOutcome.OVERSIZE, RxOutcome.JABBER):
                    m.d.sync += self.giants.eq(self.giants + 1)
                with m.Case(RxOutcome.LOST):
                    m.d.sync += self.overflows.eq(self.overflows + event.length)
        return m


__all__ = ["MacFilter", "RxEvent"]
