"""Store-and-forward FIFO for whole frames."""

# No postponed annotations here: data.Struct evaluates its own.

from amaranth import *
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from .interfaces import FrameStream


class StoredWord(data.Struct):
    """A word as it lies in the RAM; 35 bits fit the 36-bit wide mode of an ECP5 block RAM."""

    data: 32
    count: 2  # valid bytes less one
    last: 1


class FrameStore(wiring.Component):
    """Keeps frames until they are whole, and passes on only good ones.

    Parameters
    ----------
    words : int, power of two, at least 4
        Capacity in 32-bit words; a longer frame is always discarded.

    Members
    -------
    i : ``In(FrameStream)``
        Always ready: there is no way to stop a network.
    drop : ``In(1)``
        Sampled with the last word's acceptance: discard this frame.
    o : ``Out(FrameStream)``
        Whole frames, ``error`` always zero.
    committed, dropped, overflow : ``Out(1)``
        One of them pulses in the cycle after each last word: the frame is stored; or discarded because of ``error`` or
        ``drop``; or, though good, discarded because it did not fit.

    Timing
    ------
    One word per cycle on both sides, without bubbles. A frame's first word is offered two cycles after its last was
    accepted, when nothing is before it. Space is free again in the cycle after a word left the RAM.

    Raises
    ------
    TypeError, ValueError
        If ``words`` is not a power of two of at least 4.
    """

    def __init__(self, words: int):
        if not isinstance(words, int) or isinstance(words, bool):
            raise TypeError(f"words must be an integer, not {words!r}")
        if words < 4 or words & (words - 1):
            raise ValueError(f"words must be a power of two of at least 4, not {words!r}")
        self.words = words
        super().__init__(
            {
                "i": In(FrameStream),
                "drop": In(1),
                "o": Out(FrameStream),
                "committed": Out(1),
                "dropped": Out(1),
                "overflow": Out(1),
            }
        )

    # Each is one decision of the store; the proofs replace them one at a time and must then fail.

    def _has_room(self, write, read, overflowed):
        """For a word of the frame that is being written, all of whose words found room unless ``overflowed``."""
        return ~overflowed & ((write ^ read) != self.words)

    def _rewound(self, start, write):
        """Where the next frame starts after a discarded one."""
        return start

    def _limit(self, start, write):
        """How far the reader may go: to the end of the last whole frame."""
        return start

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = ram = memory.Memory(shape=StoredWord, depth=self.words, init=[])
        writer = ram.write_port()
        # The reader never meets the writer at one address, so the collision rule is free; this one costs nothing.
        reader = ram.read_port(transparent_for=(writer,))

        pointer_bits = self.words.bit_length()  # one more than the address
        write = Signal(pointer_bits)
        start = Signal(pointer_bits)  # where the frame being written starts: the reader's limit
        read = Signal(pointer_bits)
        overflowed = Signal()  # the frame being written did not fit

        word = self.i.payload
        room = Signal()
        next_write = Signal(pointer_bits)
        m.d.comb += [
            self.i.ready.eq(1),
            room.eq(self._has_room(write, read, overflowed)),
            next_write.eq(write + 1),
            writer.addr.eq(write[:-1]),
            writer.data.data.eq(word.data),
            writer.data.count.eq(word.count - 1),
            writer.data.last.eq(word.last),
            writer.en.eq(self.i.valid & room),
        ]
        m.d.sync += [self.committed.eq(0), self.dropped.eq(0), self.overflow.eq(0)]
        with m.If(self.i.valid):
            with m.If(word.last):
                m.d.sync += overflowed.eq(0)
                with m.If(word.error | self.drop):
                    m.d.sync += [write.eq(self._rewound(start, write)), self.dropped.eq(1)]
                with m.Elif(~room):
                    m.d.sync += [write.eq(self._rewound(start, write)), self.overflow.eq(1)]
                with m.Else():
                    m.d.sync += [write.eq(next_write), start.eq(next_write), self.committed.eq(1)]
            with m.Elif(~room):
                m.d.sync += overflowed.eq(1)
            with m.Else():
                m.d.sync += write.eq(next_write)

        loaded = Signal()  # the RAM's output register holds a word
        fetch = Signal()
        m.d.comb += [
            fetch.eq((read != self._limit(start, write)) & (~loaded | self.o.ready)),
            reader.addr.eq(read[:-1]),
            reader.en.eq(fetch),
            self.o.valid.eq(loaded),
            self.o.payload.data.eq(reader.data.data),
            self.o.payload.count.eq(reader.data.count + 1),
            self.o.payload.last.eq(reader.data.last),
        ]
        with m.If(fetch):
            m.d.sync += [read.eq(read + 1), loaded.eq(1)]
        with m.Elif(self.o.ready):
            m.d.sync += loaded.eq(0)
        return m
