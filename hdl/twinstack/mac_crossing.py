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

# Words. Enough for the synchronisers' round trip with `sync` at a quarter of the byte clock (about 9 words), and still
# 16-deep distributed RAM instead of a block RAM.
FIFO_WORDS = 16
STATUS_WORDS = 4


class RxOutcome(enum.Enum, shape=3):
    """What became of a received frame."""

    GOOD = 0
    BAD_FCS = 1  # of legal length, with a bad FCS or a PHY error
    RUNT = 2
    GIANT = 3
    LOST = 4  # no space: ``data`` bits 23:0 count the frames lost since the last such word


class RxWord(data.Struct):
    """A word of a received frame, two pad bytes first; a word with outcome ``LOST`` ends the frame before it, if any."""

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
        ``status`` is stored in a cycle with ``status_write``; at most one in 24 transmit cycles.
    status_o : ``Out(stream.Signature(TxStatus))``, ``sync``
        The same reports; ``ready`` must stay high.
    enable : ``In(1)``, ``sync``
        A level ...
    rx_enable : ``Out(1)``, receive domain
        ... and the same, two or three receive cycles later.

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
            }
        )

    def elaborate(self, platform):
        m = Module()
        rx, tx = self._rx_domain, self._tx_domain
        m.submodules.enable = FFSynchronizer(self.enable, self.rx_enable, o_domain=rx)

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
