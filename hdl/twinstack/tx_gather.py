"""Gather lists of the TX engine: checks the entries as they arrive, and adds up the frame's length."""

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .config import EngineConfig
from .proto.descriptor import GATHER_ENTRY, MAX_GATHER
from .proto.layout import WORD_BITS
from .tx_fetch import LOCAL_BITS, REGION_BASES, REGION_LSB, Region, region_bytes

ADDRESS_BITS = 31  # bit 31 only selects the uncached alias


def layout_field(words, layout, name: str):
    """The bits of a field, from a mapping of word number to signal."""
    field = layout[name]
    return words[field.word][field.lsb : field.lsb + field.width]


class TxPiece(data.Struct):
    """A checked entry of the gather list."""

    region: Region
    offset: LOCAL_BITS
    length: 16


class GatherCheck(wiring.Component):
    """Checks the entries of one gather list after another.

    Parameters
    ----------
    config : EngineConfig
        Sizes of the memories.

    Members
    -------
    restart : ``In(1)``
        A new list; not within three cycles after ``valid``.
    valid : ``In(1)``, word : ``In(32)``
        The next word of the list.
    piece_valid : ``Out(1)``, piece : ``Out(TxPiece)``
        The entry with number ``checked``; only meaningful if it is good.
    checked : ``Out(range(MAX_GATHER + 1))``
        Entries checked.
    is_bad : ``Out(1)``
        One of them has no bytes, or lies in none of the memories, or leaves its memory.
    add : ``In(1)``, add_bytes : ``In(8)``
        One cycle, after the last entry: the frame has so many bytes besides.
    total : ``Out(20)``
        Bytes of the frame so far.

    Timing
    ------
    ``checked``, ``is_bad`` and ``total`` follow three cycles after an entry's last word.
    """

    def __init__(self, config: EngineConfig):
        self._config = config
        super().__init__(
            {
                "restart": In(1),
                "valid": In(1),
                "word": In(WORD_BITS),
                "piece_valid": Out(1),
                "piece": Out(TxPiece),
                "checked": Out(range(MAX_GATHER + 1)),
                "is_bad": Out(1),
                "add": In(1),
                "add_bytes": In(8),
                "total": Out(16 + MAX_GATHER.bit_length()),
            }
        )

    # The decisions that the proofs are about; tests override them with wrong ones.

    def _has_bytes(self, length: Value) -> Value:
        return length != 0

    def _ends_within(self, end: Value, limit: Value) -> Value:
        return end <= limit

    def elaborate(self, platform):
        m = Module()
        entry = {word: Signal(WORD_BITS, name=f"entry{word}") for word in range(GATHER_ENTRY.words)}
        entry_word = Signal(range(GATHER_ENTRY.words))
        entry_whole = Signal()
        piece, piece_ok, piece_end = self.piece, Signal(), Signal(REGION_LSB + 1)
        m.d.sync += [entry_whole.eq(0), self.piece_valid.eq(0)]
        with m.If(self.valid):
            with m.Switch(entry_word):
                for word, value in entry.items():
                    with m.Case(word):
                        m.d.sync += value.eq(self.word)
            with m.If(entry_word == GATHER_ENTRY.words - 1):
                m.d.sync += [entry_word.eq(0), entry_whole.eq(1)]
            with m.Else():
                m.d.sync += entry_word.eq(entry_word + 1)
        address = layout_field(entry, GATHER_ENTRY, "address")
        length = layout_field(entry, GATHER_ENTRY, "length")
        with m.If(entry_whole):
            m.d.sync += [
                self.piece_valid.eq(1),
                piece.offset.eq(address),
                piece.length.eq(length),
                piece_end.eq(address[:REGION_LSB] + length),
                piece_ok.eq(0),
            ]
            for region, base in REGION_BASES.items():
                with m.If(address[REGION_LSB:ADDRESS_BITS] == base >> REGION_LSB):
                    m.d.sync += [piece.region.eq(region), piece_ok.eq(self._has_bytes(length))]
        limit = Signal(REGION_LSB + 1)
        with m.Switch(piece.region):
            for region, size in region_bytes(self._config).items():
                with m.Case(region):
                    m.d.comb += limit.eq(size)
        with m.If(self.piece_valid):
            m.d.sync += [self.checked.eq(self.checked + 1), self.total.eq(self.total + piece.length)]
            with m.If(~piece_ok | ~self._ends_within(piece_end, limit)):
                m.d.sync += self.is_bad.eq(1)
        with m.If(self.add):
            m.d.sync += self.total.eq(self.total + self.add_bytes)
        with m.If(self.restart):
            m.d.sync += [self.checked.eq(0), entry_word.eq(0), self.is_bad.eq(0), self.total.eq(0)]
        return m
