"""Receive lane of one core: what RX DMA still has to write into the core's data RAM."""

# No postponed annotations here: data.Struct evaluates its own.

from amaranth import *
from amaranth.lib import data, enum, memory, wiring
from amaranth.lib.wiring import In, Out

from .interfaces import ram_port_for
from .proto.descriptor import HEADER_COPY_BYTES, RX_DESCRIPTOR
from .write_slot import WriteSlot

LANE_DEPTH = 32
"""Entries, and descriptor words, that wait. Two minimum-size frames: with fewer, a run of frames for one core holds up the
other core's; see docs/blocks/rx_dma.md."""
INDEX_BITS = 7
DESCRIPTOR_ADDRESS_BITS = (RX_DESCRIPTOR.words - 1).bit_length()
HEADER_ADDRESS_BITS = (HEADER_COPY_BYTES // 4 - 1).bit_length()


class EntryKind(enum.Enum, shape=2):
    """What an entry of a lane means."""

    START = 0
    """A frame begins; the data are a :class:`FrameStart`."""
    WORD = 1
    """The next word of its header copy."""
    DELIVER = 2
    """It is whole and good: write its descriptor, and count it."""
    ABANDON = 3
    """It is bad: forget its descriptor."""


class FrameStart(data.Struct):
    index: INDEX_BITS  # of its buffer
    is_flow: 1  # for the flow queue


class LaneEntry(data.Struct):
    kind: EntryKind
    data: 32


class _LaneFifo(wiring.Component):
    """FIFO of :data:`LANE_DEPTH` entries in LUT RAM; ``load`` only with ``free``, ``pop`` only with ``valid``."""

    def __init__(self, shape):
        self._shape = shape
        super().__init__(
            {
                "load": In(1),
                "i": In(shape),
                "free": Out(1),
                "valid": Out(1),
                "o": Out(shape),
                "pop": In(1),
                "flush": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = ram = memory.Memory(
            shape=self._shape, depth=LANE_DEPTH, init=[], attrs={"ram_style": "distributed"}
        )
        writer = ram.write_port()
        reader = ram.read_port(domain="comb")
        write = Signal(range(2 * LANE_DEPTH))
        read = Signal(range(2 * LANE_DEPTH))
        m.d.comb += [
            self.free.eq((write ^ read) != LANE_DEPTH),
            self.valid.eq(write != read),
            writer.addr.eq(write[:-1]),
            writer.data.eq(self.i),
            writer.en.eq(self.load),
            reader.addr.eq(read[:-1]),
            self.o.eq(reader.data),
        ]
        m.d.sync += [write.eq(write + self.load), read.eq(read + self.pop)]
        with m.If(self.flush):
            m.d.sync += [write.eq(0), read.eq(0)]
        return m


class RxLane(wiring.Component):
    """Writes header copies and descriptors in the order of the frames, each frame's header first, ``owner`` last.

    A frame is the entries START, WORD (once or more), and DELIVER or ABANDON; its 16 descriptor words come by a way of
    their own meanwhile, all of them before its last entry. What is loaded with ``core_reset`` is lost.

    Parameters
    ----------
    data_bytes : int
        Size of the core's data RAM.

    Members
    -------
    load, entry, free : ``In(1)``, ``In(LaneEntry)``, ``Out(1)``
        Take an entry in this cycle; only with ``free``.
    load_descriptor, descriptor, descriptor_free : ``In(1)``, ``In(32)``, ``Out(1)``
        Likewise a word of the descriptor.
    ring, other_ring, headers : ``In(20)``
        Byte offsets in the data RAM, bits 1:0 ignored. ``other_ring`` zero: all frames go to ``ring``.
    ring_log2, other_ring_log2 : ``In(4)``
    producer, other_producer : ``Out(16)``
        Descriptors that are in the RAM, their last word too.
    lost_flow, lost_other : ``Out(range(...))``
        Delivered frames of each queue that are given up in this cycle because of ``core_reset``.
    ram : ``Out(RamPort)``
        Write port; a request in flight is finished in spite of a reset.
    core_reset : ``In(1)``
        Forgets everything.

    Timing
    ------
    A frame with n header words takes n + 17 cycles while the RAM accepts a word per cycle.
    """

    def __init__(self, data_bytes: int):
        port = ram_port_for(data_bytes)
        self._port = port
        # Each frame has at least three entries; one more can be in the write slot.
        waiting = range(LANE_DEPTH // RX_DESCRIPTOR.words + 2)
        super().__init__(
            {
                "load": In(1),
                "entry": In(LaneEntry),
                "free": Out(1),
                "load_descriptor": In(1),
                "descriptor": In(32),
                "descriptor_free": Out(1),
                "ring": In(20),
                "other_ring": In(20),
                "headers": In(20),
                "ring_log2": In(4),
                "other_ring_log2": In(4),
                "producer": Out(16),
                "other_producer": Out(16),
                "lost_flow": Out(waiting),
                "lost_other": Out(waiting),
                "ram": Out(port),
                "core_reset": In(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.entries = entries = _LaneFifo(LaneEntry)
        m.submodules.descriptors = descriptors = _LaneFifo(unsigned(32))
        m.submodules.slot = slot = WriteSlot(self._port)
        wiring.connect(m, wiring.flipped(self.ram), slot.ram)
        m.d.comb += [
            entries.load.eq(self.load),
            entries.i.eq(self.entry),
            self.free.eq(entries.free),
            descriptors.load.eq(self.load_descriptor),
            descriptors.i.eq(self.descriptor),
            self.descriptor_free.eq(descriptors.free),
            entries.flush.eq(self.core_reset),
            descriptors.flush.eq(self.core_reset),
        ]

        is_flow = Signal()  # of the frame being written
        to_flow_ring = Signal()
        header_address = Signal(self._port.address_width)
        # From the count of what is in the RAM: START waits until the descriptor before it is, and this is ready one
        # cycle after START, when the frame's first word is written at the earliest.
        descriptor_address = Signal(self._port.address_width)
        ring = Mux(to_flow_ring, self.ring, self.other_ring)
        ring_log2 = Signal(4)
        m.d.comb += ring_log2.eq(Mux(to_flow_ring, self.ring_log2, self.other_ring_log2))
        producer = Signal(16)
        m.d.comb += producer.eq(Mux(to_flow_ring, self.producer, self.other_producer))
        ring_index = Cat(bit & (ring_log2 > place) for place, bit in enumerate(producer))
        m.d.sync += descriptor_address.eq(ring[2:] + (ring_index << DESCRIPTOR_ADDRESS_BITS))

        start = FrameStart(entries.o.data[: FrameStart.as_shape().size])
        word_number = Signal(range(RX_DESCRIPTOR.words))
        is_last_word = word_number == RX_DESCRIPTOR.words - 1
        owner_in_slot = Signal()  # the slot holds a descriptor's last word
        loads_owner = Signal()
        m.d.comb += [slot.data.eq(entries.o.data), slot.address.eq(header_address), slot.mask.eq(0b1111)]
        with m.If(entries.valid), m.Switch(entries.o.kind):
            with m.Case(EntryKind.START):
                m.d.comb += entries.pop.eq(slot.free)
                m.d.sync += header_address.eq(self.headers[2:] + (start.index << HEADER_ADDRESS_BITS))
                with m.If(slot.free):
                    m.d.sync += [
                        is_flow.eq(start.is_flow),
                        to_flow_ring.eq(start.is_flow | (self.other_ring[2:] == 0)),
                    ]
            with m.Case(EntryKind.WORD):
                m.d.comb += [slot.load.eq(slot.free), entries.pop.eq(slot.free)]
                with m.If(slot.free):
                    m.d.sync += header_address.eq(header_address + 1)
            with m.Case(EntryKind.DELIVER):
                m.d.comb += [
                    slot.load.eq(slot.free),
                    slot.address.eq(descriptor_address + word_number),
                    slot.data.eq(descriptors.o),
                    descriptors.pop.eq(slot.free),
                    loads_owner.eq(is_last_word),
                    entries.pop.eq(slot.free & is_last_word),
                ]
            with m.Case(EntryKind.ABANDON):
                m.d.comb += [descriptors.pop.eq(1), entries.pop.eq(is_last_word)]
        with m.If(descriptors.pop):
            m.d.sync += word_number.eq(word_number + 1)

        with m.If(slot.free):
            m.d.sync += owner_in_slot.eq(loads_owner)
        # The core must not see the count before the word is in its RAM.
        finished = Signal()
        m.d.comb += finished.eq(owner_in_slot & slot.ram.valid & slot.ram.ready)
        with m.If(finished):
            with m.If(to_flow_ring):
                m.d.sync += self.producer.eq(self.producer + 1)
            with m.Else():
                m.d.sync += self.other_producer.eq(self.other_producer + 1)

        # Frames delivered to the lane whose descriptor is not whole in the RAM.
        delivers = self.load & (self.entry.kind == EntryKind.DELIVER)
        loaded_is_flow = Signal()  # of the frame being loaded
        with m.If(self.load & (self.entry.kind == EntryKind.START)):
            m.d.sync += loaded_is_flow.eq(FrameStart(self.entry.data[: FrameStart.as_shape().size]).is_flow)
        for lost, mine, written in (
            (self.lost_flow, loaded_is_flow, is_flow),
            (self.lost_other, ~loaded_is_flow, ~is_flow),
        ):
            waiting = Signal.like(lost)
            m.d.sync += waiting.eq(waiting + (delivers & mine) - (finished & written))
            with m.If(self.core_reset):
                m.d.comb += lost.eq(waiting)
                m.d.sync += waiting.eq(0)
        with m.If(self.core_reset):
            m.d.sync += [word_number.eq(0), owner_in_slot.eq(0), self.producer.eq(0), self.other_producer.eq(0)]
        return m
