"""Receive half of the MAC: from GMII bytes to words.

IEEE 802.3: frame format clause 3.1.1, start of frame 3.2.2 and 4.2.9 (``PhysicalSignalDecap``), invalid frames 3.4,
tags 3.2.7, GMII receive signals 35.2.2.
"""

from __future__ import annotations

from functools import reduce
from operator import or_

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .crc32 import fcs_processor
from .mac_crossing import RxOutcome, RxWord

SFD = 0xD5  # clause 3.2.2, as a byte of GMII
MIN_FRAME_BYTES = 64  # minFrameSize with the FCS, clause 4.4.2
FCS_BYTES = 4
TAG_TYPES = (0x8100, 0x88A8)  # IEEE 802.1Q clause 9.5
TAG_BYTES = 4
TYPE_END = 14  # bytes up to the end of the first type field
MAX_LENGTH = 0xFFFF  # a carrier that never ends is cut here
LOST_BITS = 24  # more lost frames than 11 s at line rate can bring
HASH_BITS = 6


class MacReceiver(wiring.Component):
    """Packs received bytes into words, checks each frame, and drops what finds no space.

    The whole component is in one domain, ``sync`` here, the receive clock in the MAC.

    As in the standard, everything before the first SFD after ``rx_dv`` rose is preamble. A frame that begins while
    ``enable`` is low, or before reset ended, is ignored to its end; one that began before ``enable`` fell is
    received. ``rx_er`` anywhere in a frame makes it bad (clause 35.2.1.5). Nothing after the SFD is a fragment, too.

    No gap between frames is too short but none at all. (Clause 4.4.2, notes of table 4-2: behind repeaters and after clock
    tolerances a gap may have shrunk to 64 bit times at 1000 Mb/s and to 47 at 10.)

    Parameters
    ----------
    max_frame_bytes : int
        Longest good frame without a tag, FCS excluded; a tagged frame may be four bytes longer.

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
        self._max_bytes = max_frame_bytes
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
        length = Signal(range(MAX_LENGTH + 1))
        is_short = Signal()
        is_long = Signal()
        is_tagged = Signal()
        is_bad = Signal()

        untagged_bytes = Const(self._max_bytes + FCS_BYTES, 16)
        tagged_bytes = Const(self._max_bytes + FCS_BYTES + TAG_BYTES, 16)
        # The last but one byte of the type is in the lane before that of the last: two pad bytes and 12 of addresses.
        type_is_tag = Signal()
        first_lane = (TYPE_END - 2 + 2) % 4
        m.d.comb += type_is_tag.eq(
            reduce(or_, (Cat(byte, word.word_select(first_lane, 8)) == tag for tag in TAG_TYPES)),
        )
        # When the first word leaves, six bytes have gone through the CRC: the hash of the address comes for nothing.
        hash_value = Signal(32)
        m.d.comb += hash_value.eq(Cat((~crc.crc)[-HASH_BITS:], Const(0, 16 - HASH_BITS), held[16:]))

        push = Signal()
        pushed = Signal(RxWord)
        m.d.sync += push.eq(0)

        outcome = Signal(RxOutcome)
        spoiled = Signal()
        m.d.comb += spoiled.eq(is_bad | ~crc.match_detected)
        with m.If(is_short):
            m.d.comb += outcome.eq(Mux(spoiled, RxOutcome.FRAGMENT, RxOutcome.UNDERSIZE))
        with m.Elif(is_long):
            m.d.comb += outcome.eq(Mux(spoiled, RxOutcome.JABBER, RxOutcome.OVERSIZE))
        with m.Elif(spoiled):
            m.d.comb += outcome.eq(RxOutcome.BAD_FCS)

        def push_last():
            return [
                push.eq(1),
                pushed.data.eq(held),
                pushed.count.eq(Mux(word_full, 4, lane)),
                pushed.first.eq(held_first | ~held_valid),
                pushed.last.eq(1),
                pushed.outcome.eq(outcome),
            ]

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
                        m.d.sync += length.eq(0)
                        m.next = "Receive"
                    with m.Else():
                        m.next = "Preamble"
            with m.State("Preamble"):
                m.d.sync += is_bad.eq(is_bad | error)
                with m.If(~carrier):
                    m.next = "Idle"
                with m.Elif(byte == SFD):
                    m.d.sync += length.eq(0)
                    m.next = "Receive"
            with m.State("Receive"):
                m.d.comb += crc.valid.eq(carrier)
                with m.If(~carrier):
                    m.d.sync += push_last()
                    m.next = "Idle"
                with m.Elif(length == MAX_LENGTH):
                    m.d.sync += push_last()
                    m.next = "Skip"
                with m.Else():
                    m.d.sync += [
                        is_bad.eq(is_bad | error),
                        length.eq(length + 1),
                    ]
                    # Only what may still be a good frame is stored.
                    with m.If(length == Mux(is_tagged, tagged_bytes, untagged_bytes)):
                        m.d.sync += is_long.eq(1)
                    with m.If(~is_long):
                        m.d.sync += [
                            word.word_select(lane, 8).eq(byte),
                            lane.eq(lane + 1),
                            word_full.eq(lane == 3),
                        ]
                    with m.If(length == MIN_FRAME_BYTES - 1):
                        m.d.sync += is_short.eq(0)
                    with m.If(length == TYPE_END - 1):
                        m.d.sync += is_tagged.eq(type_is_tag)
                    with m.If(word_full & ~is_long):
                        m.d.sync += [
                            push.eq(held_valid),
                            pushed.data.eq(Mux(held_first, hash_value, held)),
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
                is_short.eq(1),
                is_long.eq(0),
                is_tagged.eq(0),
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
            with m.If(pushed.last & (pushed.outcome != RxOutcome.GOOD)):
                m.d.comb += self.word.data.eq(length)
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


__all__ = ["MacReceiver"]
