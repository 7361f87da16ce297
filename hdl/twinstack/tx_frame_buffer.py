"""Transmit frame buffer of one port: whole frames only, so that the MAC never waits inside a frame."""

from amaranth import *
from amaranth.lib import data, fifo, wiring
from amaranth.lib.wiring import In, Out

from .interfaces import FrameStream
from .memory import TrueDualPortRam
from .proto.descriptor import FRAME_PAD_BYTES
from .proto.memory_map import TX_BUFFER_BYTES

LENGTH_BITS = (TX_BUFFER_BYTES + FRAME_PAD_BYTES).bit_length()
"""Bits of a frame's length in bytes, pad included."""


class _Prefetched(data.Struct):
    data: 32
    last: 1


class TxFrameBuffer(wiring.Component):
    """Ring of whole frames in block RAM. The writer appends words, may patch what it has written, then commits.

    Each frame takes one word more than its data: a header with its length, so that any number of frames fits.

    Parameters
    ----------
    words : int, power of two, 1024..4096
        Depth; two frames of the longest kind fit into 1024.

    Members
    -------
    write : ``In(1)``
        Append ``data`` to the open frame. The writer makes sure beforehand that ``space`` is enough.
    data : ``In(32)``
        Word to append.
    patch : ``In(1)``
        Overwrite 16 bits of the open frame: ``patch_value``, its low byte at byte ``patch_offset``, which is even and counts from
        the frame's first word.
    commit : ``In(1)``
        Close the frame: it has ``length`` bytes, pad included, which must be what was appended.
    discard : ``In(1)``
        Forget the open frame.
    space : ``Out(range(words + 1))``
        Words that the next frame may have; valid two cycles after a commit or discard. Never shrinks otherwise.
    o : ``Out(FrameStream)``
        Committed frames in order; ``error`` is never set.

    Timing
    ------
    At most one of ``write``, ``patch``, ``commit``, ``discard`` in a cycle. A frame appears 5 cycles after its commit if the
    buffer was empty. Within a frame ``o`` is valid in every cycle for a reader that is always ready; between frames there are
    at most 6 cycles.

    Raises
    ------
    TypeError, ValueError
        If ``words`` is not a power of two from 1024 to 4096.
    """

    SIZES = (1024, 2048, 4096)

    def __init__(self, words: int):
        if not isinstance(words, int):
            raise TypeError(f"words must be an integer, not {words!r}")
        if words not in self.SIZES:
            raise ValueError(f"words must be 1024, 2048 or 4096, not {words!r}")
        self.words = words
        super().__init__(
            {
                "write": In(1),
                "data": In(32),
                "patch": In(1),
                "patch_offset": In(LENGTH_BITS),
                "patch_value": In(16),
                "commit": In(1),
                "length": In(LENGTH_BITS),
                "discard": In(1),
                "space": Out(range(words + 1)),
                "o": Out(FrameStream),
            }
        )

    # The decisions that the proofs are about; tests override them with wrong ones.

    def _free(self, used: Value) -> Value:
        return Mux(used == self.words, 0, self.words - 1 - used)  # one word is the header's

    def _length_in_words(self, length: Value) -> Value:
        return (length + 3) >> 2

    def _may_read_next(self, quiet: Value) -> Value:
        return quiet

    def _tail_after_discard(self, start: Value, tail: Value) -> Value:
        return start + 1

    def elaborate(self, platform):
        m = Module()
        m.submodules.ram = ram = TrueDualPortRam(4 * self.words)
        m.submodules.prefetch = prefetch = fifo.SyncFIFO(width=_Prefetched.as_shape().size, depth=4)

        # Pointers have one bit more than an address, so that full and empty differ.
        pointer = range(2 * self.words)
        start = Signal(pointer)  # header of the open frame
        tail = Signal(pointer, init=1)  # next word to append
        head = Signal(pointer)  # next word to read; all before it is free
        used = Signal(pointer)

        # --- Writer ---
        m.d.comb += [
            ram.a.valid.eq(self.write | self.patch | self.commit),
            ram.a.write.eq(1),
            ram.a.address.eq(tail),
            ram.a.data.eq(self.data),
            ram.a.mask.eq(0b1111),
        ]
        with m.If(self.commit):
            m.d.comb += [ram.a.address.eq(start), ram.a.data.eq(self.length)]
            m.d.sync += [start.eq(tail), tail.eq(tail + 1)]
        with m.Elif(self.patch):
            m.d.comb += [
                ram.a.address.eq(start + 1 + (self.patch_offset >> 2)),
                ram.a.data.eq(self.patch_value.replicate(2)),
                ram.a.mask.eq(Mux(self.patch_offset[1], 0b1100, 0b0011)),
            ]
        with m.Elif(self.discard):
            m.d.sync += tail.eq(self._tail_after_discard(start, tail))
        with m.Elif(self.write):
            m.d.sync += tail.eq(tail + 1)
        m.d.comb += used.eq(start - head)
        m.d.sync += self.space.eq(self._free(used))

        # --- Reader: a header, then the words, through a FIFO that covers the RAM's latency ---
        waiting = Signal()  # a read was accepted in the previous cycle
        remaining = Signal(LENGTH_BITS - 1)  # words of the frame still to be read
        last_count = Signal(3)
        is_last = Signal()
        m.d.comb += [
            ram.b.address.eq(head),
            prefetch.w_data.eq(Cat(ram.b.read_data, is_last)),
        ]
        m.d.sync += waiting.eq(0)
        with m.FSM():
            with m.State("Wait for Frame"):
                with m.If(head != start):
                    m.d.comb += ram.b.valid.eq(1)
                    m.d.sync += head.eq(head + 1)
                    m.next = "Read Length"
            with m.State("Read Length"):
                length = ram.b.read_data[:LENGTH_BITS]
                m.d.sync += remaining.eq(self._length_in_words(length))
                with m.If(length[:2] == 0):
                    m.d.sync += last_count.eq(4)
                with m.Else():
                    m.d.sync += last_count.eq(length[:2])
                m.next = "Read Words"
            with m.State("Read Words"):
                with m.If(prefetch.level + waiting < 4):
                    m.d.comb += ram.b.valid.eq(1)
                    m.d.sync += [
                        head.eq(head + 1),
                        remaining.eq(remaining - 1),
                        waiting.eq(1),
                        is_last.eq(remaining == 1),
                    ]
                    with m.If(remaining == 1):
                        m.next = "Drain"
            with m.State("Drain"):
                # last_count belongs to the words in the FIFO until the last of them has left.
                with m.If(self._may_read_next(~waiting & ~prefetch.r_rdy)):
                    m.next = "Wait for Frame"
        m.d.comb += prefetch.w_en.eq(waiting)

        word = _Prefetched(prefetch.r_data)
        m.d.comb += [
            self.o.valid.eq(prefetch.r_rdy),
            self.o.payload.data.eq(word.data),
            self.o.payload.last.eq(word.last),
            self.o.payload.count.eq(Mux(word.last, last_count, 4)),
            prefetch.r_en.eq(self.o.ready),
        ]
        return m
