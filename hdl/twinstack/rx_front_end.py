"""From the MAC to the dispatcher: parsing, checksum verification, and a store for whole frames."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

from .frame_store import FrameStore
from .interfaces import FrameMeta, FrameStream, FrameWord
from .parser import PARSER_LATENCY, FrameParser, ParserVerdict

META_DEPTH = 16
"""Good frames whose meta data can wait."""


class _Delay(wiring.Component):
    """A frame stream, ``cycles`` later; both sides never wait. The words lie in LUT RAM."""

    def __init__(self, cycles: int):
        if not 2 <= cycles <= 16:
            raise ValueError(f"cycles must be 2 to 16, not {cycles!r}")
        self._cycles = cycles
        super().__init__({"i": In(FrameStream), "o": Out(FrameStream)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = ram = memory.Memory(shape=FrameWord, depth=16, init=[])
        writer = ram.write_port()
        reader = ram.read_port(domain="comb")
        valids = Signal(self._cycles)
        now = Signal(4)
        m.d.sync += [now.eq(now + 1), valids.eq(Cat(self.i.valid, valids)), self.o.payload.eq(reader.data)]
        m.d.comb += [
            self.i.ready.eq(1),
            writer.addr.eq(now),
            writer.data.eq(self.i.payload),
            writer.en.eq(1),
            reader.addr.eq(now - (self._cycles - 1)),
            self.o.valid.eq(valids[-1]),
        ]
        return m


class _MetaQueue(wiring.Component):
    """FIFO of :data:`META_DEPTH` meta data in LUT RAM, with an output register.

    ``i`` is ready with room in the RAM. A FIFO of the library is not used because nothing there keeps this wide and
    shallow memory out of block RAM.
    """

    def __init__(self) -> None:
        super().__init__({"i": In(stream.Signature(FrameMeta)), "o": Out(stream.Signature(FrameMeta))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = ram = memory.Memory(
            shape=FrameMeta, depth=META_DEPTH, init=[], attrs={"ram_style": "distributed"}
        )
        writer = ram.write_port()
        # The reader never meets the writer at one address, so no bypass is needed; it would cost 500 LUTs.
        reader = ram.read_port()
        write = Signal(range(2 * META_DEPTH))
        read = Signal(range(2 * META_DEPTH))
        fetch = Signal()
        m.d.comb += [
            self.i.ready.eq((write ^ read) != META_DEPTH),
            writer.addr.eq(write[:-1]),
            writer.data.eq(self.i.payload),
            writer.en.eq(self.i.valid & self.i.ready),
            fetch.eq((write != read) & (~self.o.valid | self.o.ready)),
            reader.addr.eq(read[:-1]),
            reader.en.eq(fetch),
            self.o.payload.eq(reader.data),
        ]
        with m.If(writer.en):
            m.d.sync += write.eq(write + 1)
        with m.If(fetch):
            m.d.sync += [read.eq(read + 1), self.o.valid.eq(1)]
        with m.Elif(self.o.ready):
            m.d.sync += self.o.valid.eq(0)
        return m


class RxFrontEnd(wiring.Component):
    """Passes on good frames, whole, each with its meta data; drops and counts all others.

    Parameters
    ----------
    frame_fifo_words : int, power of two, at least 512
        Depth of the store in 32-bit words.
    max_frame_bytes : int, 60..2046
        Longest frame accepted, FCS excluded.

    Members
    -------
    i : ``In(FrameStream)``
        From the MAC; always ready.
    frames : ``Out(FrameStream)``
        Good frames, as they came in.
    meta : ``Out(stream.Signature(FrameMeta))``
        One for each good frame, in the same order, when the frame is whole in the store. Both streams may be taken in
        any order, but a frame that arrives while :data:`META_DEPTH` of them wait is lost.
    good, bad_frame, checksum_errors, unknown_ethertype, overflow : ``Out(32)``
        Counters, which wrap; each frame counts in exactly one. ``bad_frame``: marked by the MAC, or too long.
        ``checksum_errors``: see :attr:`ParserVerdict.CHECKSUM_ERROR`. ``overflow``: good, but no room for it or its meta.

    Timing
    ------
    One word per cycle. The meta data are offered :data:`PARSER_LATENCY` + 3 cycles after a frame's last word, the frame
    one cycle earlier.

    Raises
    ------
    TypeError, ValueError
        If a parameter has the wrong type or value.
    """

    def __init__(self, frame_fifo_words: int = 1024, max_frame_bytes: int = 1518):
        for name, value in (("frame_fifo_words", frame_fifo_words), ("max_frame_bytes", max_frame_bytes)):
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} must be an integer, not {value!r}")
        if frame_fifo_words < 512 or frame_fifo_words & (frame_fifo_words - 1):
            raise ValueError(f"frame_fifo_words must be a power of two of at least 512, not {frame_fifo_words!r}")
        if not 60 <= max_frame_bytes <= 2046:
            raise ValueError(f"max_frame_bytes must be 60 to 2046, not {max_frame_bytes!r}")
        self._frame_fifo_words = frame_fifo_words
        self._max_frame_bytes = max_frame_bytes
        super().__init__(
            {
                "i": In(FrameStream),
                "frames": Out(FrameStream),
                "meta": Out(stream.Signature(FrameMeta)),
                "good": Out(32),
                "bad_frame": Out(32),
                "checksum_errors": Out(32),
                "unknown_ethertype": Out(32),
                "overflow": Out(32),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.parser = parser = FrameParser(self._max_frame_bytes)
        m.submodules.delay = delay = _Delay(PARSER_LATENCY)
        m.submodules.store = store = FrameStore(self._frame_fifo_words)
        m.submodules.queue = queue = _MetaQueue()

        m.d.comb += self.i.ready.eq(1)
        for sink in (parser, delay):
            m.d.comb += [sink.i.valid.eq(self.i.valid), sink.i.payload.eq(self.i.payload)]

        # The last word leaves the delay together with the verdict; the store's answer comes one cycle later, while the
        # meta data are still there. The queue's room cannot vanish in between: only this fills it.
        wiring.connect(m, delay=delay.o, store=store.i)
        wiring.connect(m, store=store.o, frames=wiring.flipped(self.frames))
        wiring.connect(m, queue=queue.o, meta=wiring.flipped(self.meta))
        m.d.comb += [
            store.drop.eq((parser.verdict != ParserVerdict.GOOD) | ~queue.i.ready),
            queue.i.valid.eq(store.committed),
            queue.i.payload.eq(parser.meta),
        ]
        ended = Signal()
        verdict = Signal(ParserVerdict)
        m.d.sync += [ended.eq(parser.done), verdict.eq(parser.verdict)]
        with m.If(ended), m.Switch(verdict):
            with m.Case(ParserVerdict.GOOD):
                with m.If(store.committed):
                    m.d.sync += self.good.eq(self.good + 1)
                with m.Else():
                    m.d.sync += self.overflow.eq(self.overflow + 1)
            with m.Case(ParserVerdict.BAD_FRAME):
                m.d.sync += self.bad_frame.eq(self.bad_frame + 1)
            with m.Case(ParserVerdict.UNKNOWN_ETHERTYPE):
                m.d.sync += self.unknown_ethertype.eq(self.unknown_ethertype + 1)
            with m.Case(ParserVerdict.CHECKSUM_ERROR):
                m.d.sync += self.checksum_errors.eq(self.checksum_errors + 1)
        return m
