"""RX DMA: frames from the ports' frame FIFOs to the buffers and receive queues of the chosen cores."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .buffer_pool import BufferPool
from .config import EngineConfig
from .interfaces import FrameStream, FrameWord, RxQueuePort, Verdict, ram_port_for
from .proto.descriptor import DESCRIPTOR_VERSION, HEADER_COPY_BYTES, RX_DESCRIPTOR
from .proto.memory_map import RX_BUFFER_BYTES

BUFFER_WORDS = RX_BUFFER_BYTES // 4
HEADER_WORDS = HEADER_COPY_BYTES // 4

# Where the fields of the descriptor come from: a constant, the core's own state, or else the frame.
_CONSTANTS = {
    "version": DESCRIPTOR_VERSION,
    "buffer_class": 0,
    "flow_hit": 0,
    "flow_index": 0,
    "segment_count": 1,
    "owner": 1,
}
_OF_CORE = ("buffer_index", "answer", "epoch")
_NOT_OF_META = ("port", "rss_hash", "timestamp", "last_segment_length")
_FrameFields = data.StructLayout(
    {f.name: f.width for f in RX_DESCRIPTOR if f.name not in _CONSTANTS and f.name not in _OF_CORE}
)
_CoreFields = data.StructLayout({name: RX_DESCRIPTOR[name].width for name in _OF_CORE})


def _words(values: dict[str, Value | int]) -> list[Value]:
    """The words of a descriptor with these fields, the others zero."""
    words = []
    for number in range(RX_DESCRIPTOR.words):
        word = Const(0, 32)
        for field in RX_DESCRIPTOR:
            if field.word == number and field.name in values:
                word = word | (Value.cast(values[field.name])[: field.width] << field.lsb)[:32]
        words.append(word)
    return words


class _WriteSlot(wiring.Component):
    """Holds one write request until the RAM takes it, so that its requester need not wait.

    Members
    -------
    load, address, data, mask : ``In``
        Take this request; only in a cycle with ``free``.
    free : ``Out(1)``
    ram : ``Out(RamPort)``
    """

    def __init__(self, port):
        super().__init__(
            {
                "load": In(1),
                "address": In(port.address_width),
                "data": In(32),
                "mask": In(4),
                "free": Out(1),
                "ram": Out(port),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.d.comb += [self.free.eq(~self.ram.valid | self.ram.ready), self.ram.write.eq(1)]
        with m.If(self.free):
            m.d.sync += self.ram.valid.eq(self.load)
        with m.If(self.load):
            m.d.sync += [
                self.ram.address.eq(self.address),
                self.ram.data.eq(self.data),
                self.ram.mask.eq(self.mask),
            ]
        return m


class RxDma(wiring.Component):
    """Writes each frame to all of its cores at once, and then a descriptor to each of them.

    For each core of a verdict: the frame goes to a buffer in its RX bank, the first 128 bytes also next to the
    descriptors (pad bytes included, both); then comes the descriptor, ``owner`` last; then ``producer`` counts. A core
    drops the frame, and counts it in ``dropped``, if its queue is disabled, it is in reset, or it has no free buffer; so
    do all cores of a frame that is bad (``error``) or longer than a buffer. The other cores are not affected. A frame for
    nobody is read and forgotten.

    A core in reset loses its part of what is under way, holds up nobody, and gets all its buffers back.

    Parameters
    ----------
    config : EngineConfig
        Ports, cores and sizes.

    Members
    -------
    verdict : ``In(stream.Signature(Verdict))``
        Accepted before the frame is read.
    frames0, ... : ``In(FrameStream)``
        Frame FIFO of each port; for each verdict exactly one frame is read, up to its last word.
    queue0, ... : ``In(RxQueuePort())``
        Receive queue of each core. Bits 1:0 of ``ring`` and ``headers`` are ignored. An access outside the core's data RAM
        is the firmware's error; it stays in that RAM.
    bank0, ... : ``Out(ram_port_for(rx_bank_bytes))``
        RX bank of each core.
    data0, ... : ``Out(ram_port_for(data_bytes))``
        Data RAM of each core.
    core_reset : ``In(cores)``
    epochs : ``In(data.ArrayLayout(8, cores))``
    timestamp : ``In(32)``
        For the descriptor; taken with the verdict, as is the epoch.

    Timing
    ------
    Streaming a frame and writing the descriptor of the one before overlap. A frame of n words takes max(n + 2, 17)
    cycles if no port pauses and the frame before was for other cores; n + 17 if it was for one of the same, since a data
    RAM takes one write per cycle.

    Raises
    ------
    TypeError
        If ``config`` is not an ``EngineConfig``.
    """

    def __init__(self, config: EngineConfig):
        if not isinstance(config, EngineConfig):
            raise TypeError(f"config must be an EngineConfig, not {config!r}")
        self._config = config
        cores = range(config.cores)
        super().__init__(
            {
                "verdict": In(stream.Signature(Verdict)),
                "core_reset": In(config.cores),
                "epochs": In(data.ArrayLayout(8, config.cores)),
                "timestamp": In(32),
            }
            | {f"frames{port}": In(FrameStream) for port in range(config.ports)}
            | {f"queue{core}": In(RxQueuePort()) for core in cores}
            | {f"bank{core}": Out(ram_port_for(config.rx_bank_bytes)) for core in cores}
            | {f"data{core}": Out(ram_port_for(config.data_bytes)) for core in cores}
        )
        self.frames = [getattr(self, f"frames{port}") for port in range(config.ports)]
        self.queues = [getattr(self, f"queue{core}") for core in cores]
        self.banks = [getattr(self, f"bank{core}") for core in cores]
        self.datas = [getattr(self, f"data{core}") for core in cores]

    @staticmethod
    def _all_free(slots: list[_WriteSlot], chosen: Value) -> Value:
        return ~(chosen & ~Cat(slot.free for slot in slots)).any()

    def elaborate(self, platform):
        m = Module()
        cores = self._config.cores
        verdict = self.verdict.payload

        bank_slots, data_slots, pools = [], [], []
        for core, queue in enumerate(self.queues):
            pool = BufferPool(self._config.rx_buffers)
            bank_slot, data_slot = (_WriteSlot(ram.signature) for ram in (self.banks[core], self.datas[core]))
            m.submodules[f"pool{core}"] = pool
            m.submodules[f"bank_slot{core}"] = bank_slot
            m.submodules[f"data_slot{core}"] = data_slot
            wiring.connect(m, wiring.flipped(self.banks[core]), bank_slot.ram)
            wiring.connect(m, wiring.flipped(self.datas[core]), data_slot.ram)
            m.d.comb += [
                pool.reset_pool.eq(self.core_reset[core]),
                pool.free_valid.eq(queue.free_valid),
                pool.free_index.eq(queue.free_index),
                queue.buffers_large.eq(pool.available),
                queue.bad_free.eq(pool.bad_free),
            ]
            bank_slots.append(bank_slot)
            data_slots.append(data_slot)
            pools.append(pool)

        # The frame being streamed, and the one whose descriptors are being written. The set of cores of each shrinks
        # when a core enters reset.
        frame, described = Signal(_FrameFields), Signal(_FrameFields)
        frame_of = Signal(data.ArrayLayout(_CoreFields, cores))
        described_of = Signal(data.ArrayLayout(_CoreFields, cores))
        frame_cores, described_cores = Signal(cores), Signal(cores)
        frame_lost, described_lost = Signal(cores), Signal(cores)  # one more for ``dropped``
        m.d.comb += described_lost.eq(described_cores & self.core_reset)
        m.d.sync += [
            frame_cores.eq(frame_cores & ~self.core_reset),
            described_cores.eq(described_cores & ~self.core_reset),
        ]

        # --- Descriptor ------------------------------------------------------------------------------------------
        # This side has the data RAM first, as it has a fixed length; header words wait for it.
        word_number = Signal(range(RX_DESCRIPTOR.words))
        written = [Signal(16, name=f"written{core}") for core in range(cores)]
        addresses = [Signal.like(port.address, name=f"descriptor_address{i}") for i, port in enumerate(self.datas)]
        is_describing = described_cores.any()
        owner_words = [Signal(name=f"owner_word{core}") for core in range(cores)]  # the data slot holds word 15
        write_word = is_describing & self._all_free(data_slots, described_cores)
        frame_words = _words(_CONSTANTS | {name: described[name] for name in _FrameFields.members})
        for core, (slot, queue) in enumerate(zip(data_slots, self.queues, strict=True)):
            own_words = _words({name: described_of[core][name] for name in _OF_CORE})
            words = Array(common | own for common, own in zip(frame_words, own_words, strict=True))
            m.d.comb += [
                slot.address.eq(addresses[core] + word_number),
                slot.data.eq(words[word_number]),
                slot.mask.eq(0b1111),
            ]
            with m.If(write_word & described_cores[core]):
                m.d.comb += slot.load.eq(1)
            with m.If(slot.free):
                is_last_word = word_number == RX_DESCRIPTOR.words - 1
                m.d.sync += owner_words[core].eq(write_word & described_cores[core] & is_last_word)
            # The core must not see the count before the word is in its RAM.
            with m.If(owner_words[core] & slot.ram.valid & slot.ram.ready):
                m.d.sync += queue.producer.eq(queue.producer + 1)
        with m.If(write_word):
            m.d.sync += word_number.eq(word_number + 1)
            with m.If(word_number == RX_DESCRIPTOR.words - 1):
                m.d.sync += described_cores.eq(0)
        with m.If(~is_describing):
            m.d.sync += word_number.eq(0)

        # --- Frame -----------------------------------------------------------------------------------------------
        port = Signal.like(verdict.port)
        word = Signal(FrameWord)
        word_valid, take_word = Signal(), Signal()
        with m.Switch(port):
            for index, frames in enumerate(self.frames):
                with m.Case(index):
                    m.d.comb += [word.eq(frames.payload), word_valid.eq(frames.valid), frames.ready.eq(take_word)]
            with m.Default():
                # No such port: as good as a bad frame.
                m.d.comb += [word_valid.eq(1), word.last.eq(1), word.error.eq(1)]
        mask = Signal(4)
        m.d.comb += mask.eq((1 << word.count) - 1)

        frame_words_taken = Signal(range(BUFFER_WORDS + 1))
        fits = frame_words_taken != BUFFER_WORDS
        is_header = frame_words_taken < HEADER_WORDS
        is_bad = Signal()
        bank_addresses = [Signal.like(ram.address, name=f"bank_address{i}") for i, ram in enumerate(self.banks)]
        header_addresses = [Signal.like(ram.address, name=f"header_address{i}") for i, ram in enumerate(self.datas)]
        # Header words wait while one of their cores has a descriptor to be written.
        may_write = self._all_free(bank_slots, frame_cores) & (
            ~is_header | (self._all_free(data_slots, frame_cores) & ~(frame_cores & described_cores).any())
        )
        can_take = Signal(cores)
        m.d.comb += can_take.eq(
            Cat(queue.enable & pool.alloc.valid for queue, pool in zip(self.queues, pools, strict=True))
            & ~self.core_reset
        )
        for core, (bank_slot, data_slot) in enumerate(zip(bank_slots, data_slots, strict=True)):
            chosen = take_word & fits & frame_cores[core]
            m.d.comb += [
                bank_slot.load.eq(chosen),
                bank_slot.address.eq(bank_addresses[core]),
                bank_slot.data.eq(word.data),
                bank_slot.mask.eq(mask),
            ]
            with m.If(chosen):
                m.d.sync += bank_addresses[core].eq(bank_addresses[core] + 1)
            with m.If(chosen & is_header):
                m.d.comb += [
                    data_slot.load.eq(1),
                    data_slot.address.eq(header_addresses[core]),
                    data_slot.data.eq(word.data),
                    data_slot.mask.eq(mask),
                ]
                m.d.sync += header_addresses[core].eq(header_addresses[core] + 1)

        with m.FSM():
            with m.State("Accept Verdict"):
                m.d.comb += self.verdict.ready.eq(1)
                m.d.sync += [port.eq(verdict.port), frame_words_taken.eq(0), is_bad.eq(0)]
                m.d.sync += [
                    frame[name].eq(verdict.meta[name]) for name in _FrameFields.members if name not in _NOT_OF_META
                ]
                m.d.sync += [
                    frame.port.eq(verdict.port),
                    frame.rss_hash.eq(verdict.rss_hash),
                    frame.timestamp.eq(self.timestamp),
                    frame.last_segment_length.eq(verdict.meta.payload_length),
                ]
                for core, (queue, pool) in enumerate(zip(self.queues, pools, strict=True)):
                    index = pool.alloc.payload
                    m.d.sync += [
                        frame_of[core].buffer_index.eq(index),
                        frame_of[core].answer.eq(verdict.answer[core]),
                        frame_of[core].epoch.eq(self.epochs[core]),
                        bank_addresses[core].eq(index * BUFFER_WORDS),
                        header_addresses[core].eq(queue.headers[2:] + index * HEADER_WORDS),
                    ]
                with m.If(self.verdict.valid):
                    m.d.comb += frame_lost.eq(verdict.cores & ~can_take)
                    m.d.sync += frame_cores.eq(verdict.cores & can_take)
                    m.next = "Stream Frame"
            with m.State("Stream Frame"):
                m.d.comb += [frame_lost.eq(frame_cores & self.core_reset), take_word.eq(word_valid & may_write)]
                with m.If(take_word):
                    with m.If(fits):
                        m.d.sync += frame_words_taken.eq(frame_words_taken + 1)
                    m.d.sync += is_bad.eq(is_bad | ~fits | (word.last & word.error))
                    with m.If(word.last):
                        m.next = "Hand Over"
            with m.State("Hand Over"):
                # The buffer counts as taken only now, so a bad frame has nothing to give back.
                good = Mux(is_bad, 0, frame_cores & ~self.core_reset)
                m.d.comb += frame_lost.eq(frame_cores & ~good)
                with m.If(good.any()):
                    m.d.comb += frame_lost.eq(frame_cores & self.core_reset)
                with m.If(~good.any()):
                    m.d.sync += frame_cores.eq(0)
                    m.next = "Accept Verdict"
                with m.Elif(~is_describing & self._all_free(bank_slots, good)):
                    m.d.sync += [
                        frame_cores.eq(0),
                        described_cores.eq(good),
                        described.eq(frame),
                        described_of.eq(frame_of),
                        word_number.eq(0),
                    ]
                    for core, (queue, pool) in enumerate(zip(self.queues, pools, strict=True)):
                        ring_index = written[core] & ((1 << queue.ring_log2) - 1)
                        m.d.sync += addresses[core].eq(queue.ring[2:] + (ring_index << 4))
                        with m.If(good[core]):
                            m.d.comb += pool.alloc.ready.eq(1)
                            m.d.sync += written[core].eq(written[core] + 1)
                    m.next = "Accept Verdict"

        for core, queue in enumerate(self.queues):
            m.d.sync += queue.dropped.eq(queue.dropped + frame_lost[core] + described_lost[core])
            with m.If(self.core_reset[core]):
                m.d.sync += [written[core].eq(0), queue.producer.eq(0), owner_words[core].eq(0)]
        return m
