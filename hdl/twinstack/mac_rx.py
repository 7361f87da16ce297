"""Receive half of the MAC: from GMII bytes to words, and the address filter with the receive counters.

IEEE 802.3: frame format clause 3.1.1, start of frame 3.2.2 and 4.2.9 (``PhysicalSignalDecap``), invalid frames 3.4,
GMII receive signals 35.2.2.
"""

from __future__ import annotations

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .crc32 import fcs_processor
from .interfaces import FrameStream
from .mac_crossing import RxOutcome, RxWord

SFD = 0xD5  # clause 3.2.2, as a byte of GMII
MIN_FRAME_BYTES = 64  # minFrameSize with the FCS, clause 4.4.2
FCS_BYTES = 4
LOST_BITS = 24  # more lost frames than 11 s at line rate can bring


class MacReceiver(wiring.Component):
    """Packs received bytes into words, checks each frame, and drops what finds no space.

    The whole component is in one domain, ``sync`` here, the receive clock in the MAC.

    As in the standard, everything before the first SFD after ``rx_dv`` rose is preamble. A frame that begins while
    ``enable`` is low, or before reset ended, is ignored to its end; one that began before ``enable`` fell is
    received. ``rx_er`` anywhere in a frame makes it bad (clause 35.2.1.5). Nothing after the SFD is a runt, too.

    Parameters
    ----------
    max_frame_bytes : int
        Longest good frame, FCS excluded.

    Members
    -------
    rxd, rx_dv, rx_er : ``In``
        GMII.
    enable : ``In(1)``
        Receive frames.
    word, write : ``Out``
        Words for the FIFO, as in ``MacCrossing``.
    space : ``In(1)``
        The FIFO takes a word.

    Timing
    ------
    One byte per cycle. A word leaves six to nine cycles after its last byte came, since the four bytes after it may be the FCS.
    """

    def __init__(self, max_frame_bytes: int):
        self._max_bytes = max_frame_bytes + FCS_BYTES
        super().__init__(
            {
                "rxd": In(8),
                "rx_dv": In(1),
                "rx_er": In(1),
                "enable": In(1),
                "word": Out(RxWord),
                "write": Out(1),
                "space": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        byte = Signal(8)
        carrier = Signal(init=1)  # so that a frame under way at the end of reset is skipped
        error = Signal()
        m.d.sync += [byte.eq(self.rxd), carrier.eq(self.rx_dv), error.eq(self.rx_er)]

        m.submodules.crc = crc = fcs_processor()
        m.d.comb += crc.data.eq(byte)

        # The FCS is as long as a word: when the last byte received is number r of its word, the frame's own last byte
        # is number r of the word before. So a word is held until a byte of the second next one has come.
        word = Signal(32)
        lane = Signal(2)
        held = Signal(32)
        held_valid = Signal()
        held_first = Signal()
        word_full = Signal()  # all lanes of ``word`` are filled
        length = Signal(range(self._max_bytes + 1))
        is_runt = Signal()
        is_bad = Signal()

        push = Signal()
        pushed = Signal(RxWord)
        m.d.sync += push.eq(0)

        def push_last(outcome):
            return [
                push.eq(1),
                pushed.data.eq(held),
                pushed.count.eq(Mux(word_full, 4, lane)),
                pushed.first.eq(held_first | ~held_valid),
                pushed.last.eq(1),
                pushed.outcome.eq(outcome),
            ]

        outcome = Signal(RxOutcome)
        with m.If(is_runt):
            m.d.comb += outcome.eq(RxOutcome.RUNT)
        with m.Elif(is_bad | ~crc.match_detected):
            m.d.comb += outcome.eq(RxOutcome.BAD_FCS)

        with m.FSM(init="Skip"):
            with m.State("Skip"):
                with m.If(~carrier):
                    m.next = "Idle"
            with m.State("Idle"):
                m.d.sync += is_bad.eq(error)
                with m.If(carrier):
                    with m.If(~self.enable):
                        m.next = "Skip"
                    with m.Elif(byte == SFD):
                        m.next = "Receive"
                    with m.Else():
                        m.next = "Preamble"
            with m.State("Preamble"):
                m.d.sync += is_bad.eq(is_bad | error)
                with m.If(~carrier):
                    m.next = "Idle"
                with m.Elif(byte == SFD):
                    m.next = "Receive"
            with m.State("Receive"):
                m.d.comb += crc.valid.eq(carrier)
                with m.If(~carrier):
                    m.d.sync += push_last(outcome)
                    m.next = "Idle"
                with m.Elif(length == self._max_bytes):
                    m.d.sync += push_last(RxOutcome.GIANT)
                    m.next = "Skip"
                with m.Else():
                    m.d.sync += [
                        is_bad.eq(is_bad | error),
                        length.eq(length + 1),
                        word.word_select(lane, 8).eq(byte),
                        lane.eq(lane + 1),
                        word_full.eq(lane == 3),
                    ]
                    with m.If(length == MIN_FRAME_BYTES - 1):
                        m.d.sync += is_runt.eq(0)
                    with m.If(word_full):
                        m.d.sync += [
                            push.eq(held_valid),
                            pushed.data.eq(held),
                            pushed.count.eq(4),
                            pushed.first.eq(held_first),
                            pushed.last.eq(0),
                            pushed.outcome.eq(RxOutcome.GOOD),
                            held.eq(word),
                            held_valid.eq(1),
                            held_first.eq(~held_valid),
                        ]

        # Outside of a frame everything waits for its first byte, which belongs behind the two pad bytes.
        receiving = Signal()
        m.d.comb += receiving.eq(crc.valid)
        with m.If(~receiving):
            m.d.comb += crc.start.eq(~carrier | (byte == SFD))
            m.d.sync += [
                word.eq(0),
                lane.eq(2),
                held_valid.eq(0),
                held_first.eq(0),
                word_full.eq(0),
                length.eq(0),
                is_runt.eq(1),
            ]

        # Once a word finds no space the rest of its frame is dropped. The next free place gets a word that ends the
        # frame and says how many were lost; frames that begin before that word is written are lost, too.
        dropping = Signal()
        lost = Signal(LOST_BITS)
        any_lost = Signal()  # lost != 0
        drop = Signal()
        m.d.comb += drop.eq(Mux(pushed.first, any_lost, dropping) | ~self.space)
        with m.If(push):
            m.d.comb += [self.word.eq(pushed), self.write.eq(~drop)]
            m.d.sync += dropping.eq(drop)
            with m.If(drop & (pushed.first | ~dropping)):
                m.d.sync += [lost.eq(lost + 1), any_lost.eq(1)]
        with m.Else():
            m.d.comb += [
                self.word.data.eq(lost),
                self.word.count.eq(4),
                self.word.last.eq(1),
                self.word.outcome.eq(RxOutcome.LOST),
                self.write.eq(any_lost & self.space),
            ]
            with m.If(any_lost & self.space):
                m.d.sync += [lost.eq(0), any_lost.eq(0)]
        return m


class MacFilter(wiring.Component):
    """Address filter and receive counters.

    A frame of less than seven bytes is dropped here; other bad frames whose address is accepted end with ``error``.
    Each frame counts in exactly one counter: lost ones in ``overflows``, then by length in ``runts`` and ``giants``,
    then in ``crc_errors``, whatever their address; good ones in ``filtered`` or ``frames``.

    Members
    -------
    i : ``In(stream.Signature(RxWord))``
        Words from the receiver.
    restarted : ``In(1)``
        The receiver is or was in reset: no more words of a frame begun before will come.
    o : ``Out(FrameStream)``
        Accepted frames.
    address, promiscuous, all_multicast : ``In``
        What to accept, broadcast aside (clause 3.2.3); ``address`` bits 7:0 are the first byte.
    frames, bytes, crc_errors, runts, giants, overflows, filtered : ``Out(32)``
        Counters, which wrap.

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
                "frames": Out(32),
                "bytes": Out(32),
                "crc_errors": Out(32),
                "runts": Out(32),
                "giants": Out(32),
                "overflows": Out(32),
                "filtered": Out(32),
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
        with m.If(word_valid & ~end_open):
            with m.If(word.first):
                m.d.comb += move.eq(free & (word.last | self.i.valid))
            with m.Else():
                m.d.comb += move.eq(free | ~is_open)
        m.d.comb += self.i.ready.eq(~word_valid | move)
        with m.If(self.i.ready):
            m.d.sync += [word.eq(following), word_valid.eq(self.i.valid)]

        destination = Cat(word.data[16:], following.data)
        is_own = Signal()
        is_broadcast = Signal()
        m.d.comb += [
            is_own.eq(destination == self.address),
            is_broadcast.eq(destination.all()),
            # A frame of two words is a runt; after a reset, the next word may be of another frame.
            accepted.eq(
                (is_own | is_broadcast | self.promiscuous | (destination[0] & self.all_multicast))
                & ~(word.last | following.last | following.first)
            ),
            send.eq(Mux(word.first, accepted, is_open)),
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
                    self.o.payload.data.eq(word.data),
                    self.o.payload.count.eq(word.count),
                    self.o.payload.last.eq(word.last),
                    self.o.payload.error.eq(word.last & (word.outcome != RxOutcome.GOOD)),
                ]
        m.d.sync += is_cut.eq(is_open & (is_cut | self.restarted))

        # Counters, a cycle later.
        length = Signal(16)
        ended = Signal()
        outcome = Signal(RxOutcome)
        ended_open = Signal()
        ended_foreign = Signal()
        ended_length = Signal(16)
        ended_lost = Signal(LOST_BITS)
        m.d.sync += [
            ended.eq(move & word.last),
            outcome.eq(word.outcome),
            ended_open.eq(is_open),
            ended_foreign.eq(is_foreign),
            ended_length.eq(length + word.count),
            ended_lost.eq(word.data[:LOST_BITS]),
        ]
        with m.If(move):
            m.d.sync += length.eq(Mux(word.first, 2, length + 4))
        with m.If(ended):
            with m.Switch(outcome):
                with m.Case(RxOutcome.GOOD):
                    with m.If(ended_open):
                        m.d.sync += [self.frames.eq(self.frames + 1), self.bytes.eq(self.bytes + ended_length)]
                    with m.Elif(ended_foreign):
                        m.d.sync += self.filtered.eq(self.filtered + 1)
                with m.Case(RxOutcome.BAD_FCS):
                    m.d.sync += self.crc_errors.eq(self.crc_errors + 1)
                with m.Case(RxOutcome.RUNT):
                    m.d.sync += self.runts.eq(self.runts + 1)
                with m.Case(RxOutcome.GIANT):
                    m.d.sync += self.giants.eq(self.giants + 1)
                with m.Case(RxOutcome.LOST):
                    m.d.sync += self.overflows.eq(self.overflows + ended_lost)
        return m


__all__ = ["MacFilter", "MacReceiver"]
