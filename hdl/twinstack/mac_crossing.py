"""All clock domain crossings of the MAC, and what travels through them.

Both frame FIFOs mark the first word of a frame, so that a side whose domain alone was reset finds the next frame.
A domain's reset must last at least four cycles of the slowest of the MAC's clocks (``AsyncFIFO`` resets its read side
through a synchroniser).

This file must not postpone the evaluation of annotations: ``data.Struct`` skips fields whose shapes are strings.
"""

from amaranth import *
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.fifo import AsyncFIFO
from amaranth.lib.wiring import In, Out

from .interfaces import LinkStatus

# Words. Enough for the synchronisers' round trip with `sync` at a quarter of the byte clock (about 9 words), and still
# 16-deep distributed RAM instead of a block RAM.
FIFO_WORDS = 16
STATUS_WORDS = 4
# The transmit clock shows its life by a signal that changes every 8 of its cycles: 3.2 us at 2.5 MHz.
ALIVE_BITS = 4
STOPPED_CYCLES = 4096  # of `sync`, without such a change: 16 us at 250 MHz


class RxOutcome(enum.Enum, shape=3):
    """What became of a received frame."""

    GOOD = 0
    BAD_FCS = 1  # of legal length, with a bad FCS or a PHY error
    UNDERSIZE = 2  # too short, otherwise good
    FRAGMENT = 3  # too short and bad
    OVERSIZE = 4  # too long, otherwise good
    JABBER = 5  # too long and bad
    LOST = 6  # no space


class RxWord(data.Struct):
    """A word of a received frame.

    In the first word of a frame, ``data`` bits 5:0 are the multicast hash of its destination, in the place of the pad. The
    last word of a frame that is not good has the frame's length with the FCS in ``data``, at most 65535. A word with
    outcome ``LOST`` ends the frame before it, if any; ``data`` counts the frames lost since the last such word.
    """

    data: 32  # bits 7:0 first
    count: 3  # valid bytes: 4, or 1 to 4 in the last word
    first: 1
    last: 1
    outcome: RxOutcome  # in the last word


class TxWord(data.Struct):
    """A word of a frame to send, two pad bytes first."""

    data: 32  # bits 7:0 first
    count: 3  # valid bytes: 4, or 1 to 4 in the last word
    first: 1
    last: 1
    error: 1  # in the last word: spoil the frame


class TxStatus(data.Struct):
    """The report of a frame that left."""

    length: 16  # bytes of the frame without padding and FCS
    spoiled: 1  # sent with a bad FCS
    is_pause: 1  # a pause frame of the MAC's own
    is_group: 1  # to a group address
    is_broadcast: 1


class MacCrossing(wiring.Component):
    """The MAC's asynchronous FIFOs and synchronisers.

    Parameters
    ----------
    rx_domain, tx_domain : str
        Domains of the receive and the transmit pins.

    Members
    -------
    rx_word, rx_write : ``In``, receive domain
        ``rx_word`` is stored in a cycle with ``rx_write`` and ``rx_space``, and ignored without ``rx_space``.
    rx_space : ``Out(1)``, receive domain
        There is space for a word.
    rx_o : ``Out(stream.Signature(RxWord))``, ``sync``
        Received words.
    rx_restarted : ``Out(1)``, ``sync``
        The receive domain is or was just in reset; the FIFO is empty.
    tx_i : ``In(stream.Signature(TxWord))``, ``sync``
        Words to send.
    tx_o : ``Out(stream.Signature(TxWord))``, transmit domain
        The same words.
    tx_level : ``Out``, transmit domain
        Words that ``tx_o`` can deliver now.
    status, status_write : ``In``, transmit domain
        ``status`` is stored in a cycle with ``status_write``; at most one in 84 byte times.
    status_o : ``Out(stream.Signature(TxStatus))``, ``sync``
        The same reports; to be taken within 84 byte times on average.
    enable, speed, pause_request : ``In``, ``sync``
        Levels ...
    rx_enable, rx_nibbles : ``Out(1)``, receive domain
        ... and the same, three cycles later; ``nibbles`` is high for any speed but 1000 Mb/s.
    tx_nibbles, tx_pause_request : ``Out(1)``, transmit domain
        Likewise.
    pause : ``In(1)``, ``sync``
        A pulse ...
    tx_pause : ``Out(1)``, transmit domain
        ... and the same. What belongs to it must be stable from the pulse on for four cycles of the transmit clock.
    tx_stopped : ``Out(1)``, ``sync``
        The transmit clock stands still.
    link : ``In(LinkStatus)``, receive domain
        A status ...
    link_o : ``Out(LinkStatus)``, ``sync``
        ... and the same, whole, when it has been stable for a few cycles.

    Timing
    ------
    One word per cycle on each side; a word passes in about three cycles of the reading domain.
    """

    def __init__(self, *, rx_domain: str = "rx", tx_domain: str = "tx"):
        self._rx_domain = rx_domain
        self._tx_domain = tx_domain
        super().__init__(
            {
                "rx_word": In(RxWord),
                "rx_write": In(1),
                "rx_space": Out(1),
                "rx_o": Out(stream.Signature(RxWord)),
                "rx_restarted": Out(1),
                "tx_i": In(stream.Signature(TxWord)),
                "tx_o": Out(stream.Signature(TxWord)),
                "tx_level": Out(range(FIFO_WORDS + 1)),
                "status": In(TxStatus),
                "status_write": In(1),
                "status_o": Out(stream.Signature(TxStatus)),
                "enable": In(1),
                "rx_enable": Out(1),
                "speed": In(2),
                "rx_nibbles": Out(1),
                "tx_nibbles": Out(1),
                "pause_request": In(1),
                "tx_pause_request": Out(1),
                "pause": In(1),
                "tx_pause": Out(1),
                "tx_stopped": Out(1),
                "link": In(LinkStatus),
                "link_o": Out(LinkStatus),
            }
        )

    def elaborate(self, platform):
        m = Module()
        rx, tx = self._rx_domain, self._tx_domain
        # Levels. A synchroniser's input must come from a register.
        nibbles = Signal()
        request = Signal()
        m.d.sync += [nibbles.eq(~self.speed[1]), request.eq(self.pause_request)]
        m.submodules.enable = FFSynchronizer(self.enable, self.rx_enable, o_domain=rx)
        m.submodules.rx_nibbles = FFSynchronizer(nibbles, self.rx_nibbles, o_domain=rx)
        m.submodules.tx_nibbles = FFSynchronizer(nibbles, self.tx_nibbles, o_domain=tx)
        m.submodules.pause_request = FFSynchronizer(request, self.tx_pause_request, o_domain=tx)
        # A pulse travels as a change; that the receiving side was reset is none.
        toggle = Signal()
        seen_toggle = Signal()
        was_toggle = Signal(reset_less=True)
        m.d.sync += toggle.eq(toggle ^ self.pause)
        m.submodules.pause = FFSynchronizer(toggle, seen_toggle, o_domain=tx)
        m.d[tx] += was_toggle.eq(seen_toggle)
        m.d.comb += self.tx_pause.eq(seen_toggle ^ was_toggle)

        # The status comes through one synchroniser per bit; two equal looks in succession are a whole one.
        seen = Signal(LinkStatus)
        before = Signal(LinkStatus)
        m.submodules.link = FFSynchronizer(self.link.as_value(), seen.as_value())
        m.d.sync += before.eq(seen)
        with m.If(before.as_value() == seen.as_value()):
            m.d.sync += self.link_o.eq(seen)

        alive = Signal(ALIVE_BITS)
        seen_alive = Signal()
        was_alive = Signal()
        still = Signal(range(STOPPED_CYCLES))
        m.d[tx] += alive.eq(alive + 1)
        m.submodules.alive = FFSynchronizer(alive[-1], seen_alive)
        m.d.sync += was_alive.eq(seen_alive)
        with m.If(seen_alive != was_alive):
            m.d.sync += [still.eq(0), self.tx_stopped.eq(0)]
        with m.Elif(still == STOPPED_CYCLES - 1):
            m.d.sync += self.tx_stopped.eq(1)
        with m.Else():
            m.d.sync += still.eq(still + 1)

        m.submodules.rx_fifo = rx_fifo = AsyncFIFO(
            width=RxWord.as_shape().size, depth=FIFO_WORDS, w_domain=rx, r_domain="sync"
        )
        m.d.comb += [
            rx_fifo.w_data.eq(self.rx_word),
            rx_fifo.w_en.eq(self.rx_write),
            self.rx_space.eq(rx_fifo.w_rdy),
            self.rx_o.payload.eq(rx_fifo.r_data),
            self.rx_o.valid.eq(rx_fifo.r_rdy),
            rx_fifo.r_en.eq(self.rx_o.ready),
            self.rx_restarted.eq(rx_fifo.r_rst),
        ]

        m.submodules.tx_fifo = tx_fifo = AsyncFIFO(
            width=TxWord.as_shape().size, depth=FIFO_WORDS, w_domain="sync", r_domain=tx
        )
        m.d.comb += [
            tx_fifo.w_data.eq(self.tx_i.payload),
            tx_fifo.w_en.eq(self.tx_i.valid),
            self.tx_i.ready.eq(tx_fifo.w_rdy),
            self.tx_o.payload.eq(tx_fifo.r_data),
            self.tx_o.valid.eq(tx_fifo.r_rdy),
            tx_fifo.r_en.eq(self.tx_o.ready),
            self.tx_level.eq(tx_fifo.r_level),
        ]

        m.submodules.status_fifo = status_fifo = AsyncFIFO(
            width=TxStatus.as_shape().size, depth=STATUS_WORDS, w_domain=tx, r_domain="sync"
        )
        m.d.comb += [
            status_fifo.w_data.eq(self.status),
            status_fifo.w_en.eq(self.status_write),
            self.status_o.payload.eq(status_fifo.r_data),
            self.status_o.valid.eq(status_fifo.r_rdy),
            status_fifo.r_en.eq(self.status_o.ready),
        ]
        return m


__all__ = ["FIFO_WORDS", "MacCrossing", "RxOutcome", "RxWord", "TxStatus", "TxWord"]
