"""Transmit half of the MAC: the gate that discards frames while disabled, and the sender of GMII bytes.

IEEE 802.3: frame format clause 3.1.1, padding 3.2.8, FCS 3.2.9, inter-frame gap and minimum frame 4.4.2, GMII transmit
signals 35.2.2.
"""

from __future__ import annotations

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .crc32 import fcs_processor
from .interfaces import FrameStream
from .mac_crossing import FIFO_WORDS, TxStatus, TxWord
from .mac_pause import PAUSE_HEADER_BYTES, pause_frame_header

PREAMBLE = 0x55  # clause 3.2.1, as a byte of GMII; seven of them
SFD = 0xD5  # clause 3.2.2
PREAMBLE_BYTES = 8  # with the SFD
MIN_DATA_BYTES = 60  # minFrameSize without the FCS, clause 4.4.2
GAP_BYTES = 12  # interFrameSpacing, clause 4.4.2
FCS_BYTES = 4
ADDRESS_BYTES = 6
PAD_BYTES = 2  # before each frame on internal streams

# A supplier at a quarter of the byte clock is just as fast as the wire, so a few words in advance cover all phases
# and deviations. A frame may be shorter than that; such a supplier has delivered four words after 16 byte times.
START_WORDS = 4
QUEUE_WORDS = 2  # of them, in front of the sender
START_CYCLES = 16


class TxGate(wiring.Component):
    """Marks the first word of each frame, and discards the frames that begin while ``enable`` is low.

    Members
    -------
    enable : ``In(1)``
        Send frames; looked at in a frame's first word.
    stopped : ``In(1)``
        Nothing leaves the FIFO: discard the frame under way and those that begin.
    discarded : ``Out(1)``
        For one cycle for each discarded frame.
    i : ``In(FrameStream)``
        Frames.
    o : ``Out(stream.Signature(TxWord))``
        Frames to send.

    Timing
    ------
    One word per cycle, no latency.
    """

    def __init__(self):
        super().__init__(
            {
                "enable": In(1),
                "stopped": In(1),
                "discarded": Out(1),
                "i": In(FrameStream),
                "o": Out(stream.Signature(TxWord)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        is_first = Signal(init=1)
        discarding = Signal()  # the rest of this frame
        blocked = Signal()  # a first word was offered: ``o`` must not change its mind before it is taken
        discard = Signal()
        m.d.comb += [
            discard.eq(Mux(is_first & ~blocked, ~self.enable, discarding) | self.stopped),
            self.o.payload.data.eq(self.i.payload.data),
            self.o.payload.count.eq(self.i.payload.count),
            self.o.payload.first.eq(is_first),
            self.o.payload.last.eq(self.i.payload.last),
            self.o.payload.error.eq(self.i.payload.error),
            self.o.valid.eq(self.i.valid & ~discard),
            self.i.ready.eq(self.o.ready | discard),
        ]
        with m.If(self.i.valid):
            m.d.sync += [discarding.eq(discard), blocked.eq(~self.i.ready)]
            with m.If(self.i.ready):
                m.d.sync += is_first.eq(self.i.payload.last)
        m.d.sync += self.discarded.eq(self.i.valid & self.i.payload.last & discard)
        return m


class MacTransmitter(wiring.Component):
    """Sends frames: preamble, SFD, the bytes after the pad, padding, FCS, gap.

    The whole component is in one domain, ``sync`` here, the transmit clock in the MAC.

    When a word does not come in time, or the last has ``error``, the frame is cut with ``tx_er`` in one byte and a wrong FCS,
    and its remaining words are discarded. A frame with nothing behind the pad bytes is ignored.

    A pause frame goes in front of a frame that has not begun; then a waiting frame has its turn.

    Members
    -------
    i : ``In(stream.Signature(TxWord))``
        Words.
    level : ``In``
        Words that ``i`` can deliver now.
    paused : ``In(1)``
        Only pause frames may begin.
    send_pause, quanta, pause_sent : ``In(1)``, ``In(16)``, ``Out(1)``
        A pause frame should go, and one begins; ``quanta`` is its time, from then on. As in ``PauseTimers``.
    address : ``In(48)``
        Its source, first byte in bits 7:0; quasi-static.
    txd, tx_en, tx_er : ``Out``
        GMII, from registers.
    status, status_write : ``Out``
        A report after each frame, for one cycle.

    Timing
    ------
    One byte per cycle; frames that wait follow each other with a gap of exactly 12 bytes. Sending begins when four words wait,
    or 16 cycles after the first.
    """

    def __init__(self):
        super().__init__(
            {
                "i": In(stream.Signature(TxWord)),
                "level": In(range(FIFO_WORDS + 1)),
                "paused": In(1),
                "send_pause": In(1),
                "quanta": In(16),
                "pause_sent": Out(1),
                "address": In(48),
                "txd": Out(8),
                "tx_en": Out(1),
                "tx_er": Out(1),
                "status": Out(TxStatus),
                "status_write": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        # Two words in registers, so that the way from the FSM to the FIFO's read address begins at a register.
        word = Signal(TxWord)
        word_valid = Signal()
        spare = Signal(TxWord)
        spare_valid = Signal()
        take = Signal()  # the FSM is done with ``word``
        m.d.comb += self.i.ready.eq(~spare_valid)
        with m.If(take | ~word_valid):
            m.d.sync += [
                word.eq(Mux(spare_valid, spare, self.i.payload)),
                word_valid.eq(spare_valid | self.i.valid),
                spare_valid.eq(0),
            ]
        with m.Elif(self.i.valid & ~spare_valid):
            m.d.sync += [spare.eq(self.i.payload), spare_valid.eq(1)]
        enough = Signal()
        m.d.sync += enough.eq(self.level >= START_WORDS - QUEUE_WORDS)

        # The FSM chooses each byte one cycle before it goes through the CRC to the pins.
        byte = Signal(8)
        byte_valid = Signal()
        byte_error = Signal()
        byte_counts = Signal()  # it is part of what the FCS protects
        byte_is_fcs = Signal()
        fcs_index = Signal(range(FCS_BYTES))
        is_spoiled = Signal()
        m.submodules.crc = crc = fcs_processor()
        m.d.comb += [crc.data.eq(byte), crc.valid.eq(byte_counts)]
        m.d.sync += [
            self.tx_en.eq(byte_valid),
            self.tx_er.eq(byte_error),
            self.txd.eq(Mux(byte_is_fcs, crc.crc.word_select(fcs_index, 8) ^ is_spoiled.replicate(8), byte)),
        ]
        m.d.sync += [
            byte.eq(0),
            byte_valid.eq(0),
            byte_error.eq(0),
            byte_counts.eq(0),
            byte_is_fcs.eq(0),
            self.status_write.eq(0),
        ]

        counter = Signal(range(START_CYCLES))
        gap = Signal(range(GAP_BYTES))  # idle byte times since the last frame, saturating
        gap_done = Signal()
        m.d.comb += gap_done.eq(gap == GAP_BYTES - 1)
        lane = Signal(2)
        missing = Signal(range(MIN_DATA_BYTES + 1))  # bytes below the minimum
        length = Signal(16)
        is_begun = Signal()  # a word of this frame has been taken
        is_cut = Signal()  # words of this frame are left over
        is_pause = Signal()
        after_pause = Signal()  # the last frame was a pause frame
        is_group = Signal()
        is_broadcast = Signal()
        header = Signal(8 * PAUSE_HEADER_BYTES)
        m.d.comb += header.eq(pause_frame_header(self.address, self.quanta))
        data_byte = Signal(8)
        m.d.comb += data_byte.eq(word.data.word_select(lane, 8))

        def send(value):
            return [byte.eq(value), byte_valid.eq(1), gap.eq(0)]

        def protect(value):
            return [*send(value), byte_counts.eq(1), missing.eq(Mux(missing == 0, 0, missing - 1))]

        with m.If(~gap_done):
            m.d.sync += gap.eq(gap + 1)

        with m.FSM():
            with m.State("Idle"):
                m.d.sync += counter.eq(0)
                with m.If(word_valid & ~(word.first & ~(word.last & (word.count <= PAD_BYTES)))):
                    m.d.comb += take.eq(1)  # empty, or begun before a reset of this side
                with m.Elif(self.send_pause & gap_done & ~(after_pause & word_valid & ~self.paused)):
                    m.d.comb += self.pause_sent.eq(1)
                    m.d.sync += [is_pause.eq(1), after_pause.eq(1)]
                    m.next = "Preamble"
                with m.Elif(word_valid & ~self.paused):
                    m.next = "Gather"
            with m.State("Gather"):
                with m.If(counter != START_CYCLES - 1):
                    m.d.sync += counter.eq(counter + 1)
                with m.If(self.paused | (self.send_pause & ~after_pause)):
                    m.next = "Idle"
                with m.Elif(gap_done & (enough | (counter == START_CYCLES - 1))):
                    m.d.sync += [counter.eq(0), is_pause.eq(0), after_pause.eq(0)]
                    m.next = "Preamble"
            with m.State("Preamble"):
                m.d.comb += crc.start.eq(1)
                m.d.sync += [
                    send(PREAMBLE),
                    counter.eq(counter + 1),
                    lane.eq(PAD_BYTES),
                    missing.eq(MIN_DATA_BYTES),
                    length.eq(0),
                    is_begun.eq(0),
                    is_cut.eq(0),
                    is_spoiled.eq(0),
                ]
                with m.If(counter == PREAMBLE_BYTES - 1):
                    m.d.sync += byte.eq(SFD)
                    with m.If(is_pause):
                        m.next = "Pause"
                    with m.Else():
                        m.next = "Data"
            with m.State("Data"):
                m.d.sync += counter.eq(0)
                with m.If(word_valid & ~(word.first & is_begun)):
                    m.d.sync += [
                        protect(data_byte),
                        lane.eq(lane + 1),
                        length.eq(length + 1),
                    ]
                    with m.If(length == 0):
                        m.d.sync += [is_group.eq(data_byte[0]), is_broadcast.eq(data_byte.all())]
                    with m.Elif(length < ADDRESS_BYTES):
                        m.d.sync += is_broadcast.eq(is_broadcast & data_byte.all())
                    with m.If((lane == 3) | (word.last & (lane + 1 == word.count))):
                        m.d.comb += take.eq(1)
                        m.d.sync += [lane.eq(0), is_begun.eq(1)]
                        with m.If(word.last):
                            m.d.sync += [is_spoiled.eq(word.error), byte_error.eq(word.error)]
                            with m.If(missing > 1):
                                m.next = "Pad"
                            with m.Else():
                                m.next = "FCS"
                with m.Else():
                    m.d.sync += [protect(0), byte_error.eq(1), is_spoiled.eq(1), is_cut.eq(1)]
                    m.next = "FCS"
            with m.State("Pause"):
                m.d.sync += [
                    protect(header.word_select(length[: PAUSE_HEADER_BYTES.bit_length()], 8)),
                    length.eq(length + 1),
                    is_group.eq(1),
                    is_broadcast.eq(0),
                    counter.eq(0),
                ]
                with m.If(length == PAUSE_HEADER_BYTES - 1):
                    m.next = "Pad"
            with m.State("Pad"):
                m.d.sync += protect(0)
                with m.If(missing == 1):
                    m.next = "FCS"
            with m.State("FCS"):
                m.d.sync += [send(0), byte_is_fcs.eq(1), fcs_index.eq(counter), counter.eq(counter + 1)]
                with m.If(counter == FCS_BYTES - 1):
                    m.d.sync += [
                        self.status_write.eq(1),
                        self.status.length.eq(length),
                        self.status.spoiled.eq(is_spoiled),
                        self.status.is_pause.eq(is_pause),
                        self.status.is_group.eq(is_group),
                        self.status.is_broadcast.eq(is_broadcast & (length >= ADDRESS_BYTES)),
                    ]
                    with m.If(is_cut):
                        m.next = "Discard"
                    with m.Else():
                        m.next = "Idle"
            with m.State("Discard"):
                with m.If(word_valid):
                    with m.If(word.first):  # the supplier was reset and the rest will not come
                        m.next = "Idle"
                    with m.Else():
                        m.d.comb += take.eq(1)
                        with m.If(word.last):
                            m.next = "Idle"
        return m


__all__ = ["MacTransmitter", "TxGate"]
