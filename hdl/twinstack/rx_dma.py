"""RX DMA: frames from the ports' frame FIFOs to the buffers and receive queues of the chosen cores."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .config import EngineConfig
from .interfaces import FrameStream, FrameWord, RxQueuePort, Verdict, ram_port_for
from .proto.descriptor import DESCRIPTOR_VERSION, FRAME_PAD_BYTES, HEADER_COPY_BYTES, RX_DESCRIPTOR
from .proto.memory_map import RX_SMALL_BUFFER_BYTES
from .rx_lane import EntryKind, FrameStart, RxLane
from .rx_pools import HELD, LARGE_WORDS, SMALL_WORDS, RxPools
from .write_slot import WriteSlot

HEADER_WORDS = HEADER_COPY_BYTES // 4

# Where the fields of the descriptor come from: a constant, the core's own state, or else the frame.
_CONSTANTS = {"version": DESCRIPTOR_VERSION, "segment_count": 1, "owner": 1}
_OF_CORE = ("buffer_class", "buffer_index", "answer", "epoch")
_NOT_OF_META = ("port", "rss_hash", "timestamp", "last_segment_length", "flow_hit", "flow_index")
_FrameFields = data.StructLayout(
    {f.name: f.width for f in RX_DESCRIPTOR if f.name not in _CONSTANTS and f.name not in _OF_CORE}
)


def _word(number: int, values: dict[str, Value | int]) -> Value:
    """Word ``number`` of a descriptor with these fields, the others zero."""
    word = Const(0, 32)
    for field in RX_DESCRIPTOR:
        if field.word == number and field.name in values:
            word = word | (Value.cast(values[field.name])[: field.width] << field.lsb)[:32]
    return word


class RxDma(wiring.Component):
    """Writes each frame to all of its cores at once, and then a descriptor to each of them.

    For each core of a verdict: :class:`RxPools` chooses a buffer, the frame goes to it in the core's RX bank, the first
    128 bytes also next to the descriptors (pad bytes included, both); then comes the descriptor in the ring of the queue,
    ``owner`` last; then ``producer`` counts. A core drops the frame, and counts it in ``flow_dropped`` or ``dropped``, if
    its queues are disabled, it is in reset, or there is no buffer for it within the queue's limit; so do all cores of a
    frame that is bad (``error``) or longer than the smallest class of buffer that its ``frame_length`` fits. The other
    cores are not affected. A frame for nobody is read and forgotten.

    A frame with ``flow_hit`` is for the flow queue, any other for the other queue. If ``other_ring`` is zero the
    descriptors of both go to the flow queue's ring; limits and counters keep the two apart still.

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
        Receive queues of each core. Bits 1:0 of the offsets are ignored. An access outside the core's data RAM is the
        firmware's error; it stays in that RAM.
    bank0, ... : ``Out(ram_port_for(rx_bank_bytes))``
        RX bank of each core. Whole words; what lies behind a frame's last byte is undefined.
    data0, ... : ``Out(ram_port_for(data_bytes))``
        Data RAM of each core; likewise.
    core_reset : ``In(cores)``
    epochs : ``In(data.ArrayLayout(8, cores))``
    timestamp : ``In(32)``
        For the descriptor; taken with the verdict, as is the epoch.

    Timing
    ------
    A frame of n words (at least 16) takes n + 2 cycles, for whatever cores, unless the port pauses or the lane of one of
    its cores is full. A lane holds two minimum-size frames, and writes one of n header words in n + 17 cycles.

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

    def elaborate(self, platform):
        m = Module()
        config = self._config
        slots = []
        for core, bank in enumerate(self.banks):
            m.submodules[f"bank_slot{core}"] = slot = WriteSlot(bank.signature)
            wiring.connect(m, wiring.flipped(bank), slot.ram)
            slots.append(slot)
        pools = [self._pools(m, core, queue) for core, queue in enumerate(self.queues)]
        lanes = [self._lane(m, core, queue) for core, queue in enumerate(self.queues)]

        frame = Signal(_FrameFields)
        frame_cores = Signal(config.cores)  # those that get it; shrinks when one enters reset
        lost = Signal(config.cores)  # drop the frame that is at hand (``is_flow``)
        is_flow = Signal()
        m.d.sync += frame_cores.eq(frame_cores & ~self.core_reset)

        def ready(frees: list[Value]) -> Value:
            """Nobody who gets the frame lacks room."""
            return ~(frame_cores & ~Cat(frees)).any()

        word, word_valid, take_word = self._selected_port(m, frame.port)
        words_taken = Signal(range(LARGE_WORDS + 1))
        is_header = words_taken < HEADER_WORDS
        is_short = Signal()
        is_bad = Signal()
        fits = words_taken != Mux(is_short, SMALL_WORDS, LARGE_WORDS)
        bank_addresses = [Signal.like(bank.address, name=f"bank_address{i}") for i, bank in enumerate(self.banks)]

        described, describes = self._descriptor(m, frame, frame_cores, pools, lanes)
        verdict = self.verdict.payload
        verdict_is_short = verdict.meta.frame_length <= RX_SMALL_BUFFER_BYTES - FRAME_PAD_BYTES
        can_take = (
            Cat(queue.enable & pool.can_take for queue, pool in zip(self.queues, pools, strict=True)) & ~self.core_reset
        )
        lanes_free = ready([lane.free for lane in lanes])
        slots_free = ready([slot.free for slot in slots])
        for pool in pools:
            m.d.comb += [pool.is_short.eq(verdict_is_short), pool.is_flow.eq(verdict.flow_hit)]
        for core, slot in enumerate(slots):
            writes = take_word & fits & frame_cores[core]
            m.d.comb += [
                slot.load.eq(writes),
                slot.address.eq(bank_addresses[core]),
                slot.data.eq(word.data),
                slot.mask.eq(0b1111),
            ]
            with m.If(writes):
                m.d.sync += bank_addresses[core].eq(bank_addresses[core] + 1)

        for lane in lanes:
            m.d.comb += lane.entry.data.eq(word.data)

        with m.FSM():
            with m.State("Accept Verdict"):
                m.d.comb += is_flow.eq(verdict.flow_hit)
                m.d.sync += [words_taken.eq(0), is_bad.eq(0), is_short.eq(verdict_is_short), described.eq(0)]
                m.d.sync += [
                    frame[name].eq(verdict.meta[name]) for name in _FrameFields.members if name not in _NOT_OF_META
                ]
                m.d.sync += [
                    frame.port.eq(verdict.port),
                    frame.rss_hash.eq(verdict.rss_hash),
                    frame.flow_hit.eq(verdict.flow_hit),
                    frame.flow_index.eq(verdict.flow_index),
                    frame.timestamp.eq(self.timestamp),
                    frame.last_segment_length.eq(verdict.meta.payload_length),
                ]
                m.d.sync += [address.eq(pool.address) for address, pool in zip(bank_addresses, pools, strict=True)]
                has_room = ~(verdict.cores[: config.cores] & ~Cat(lane.free for lane in lanes)).any()
                m.d.comb += self.verdict.ready.eq(has_room)
                with m.If(self.verdict.valid & has_room):
                    m.d.comb += lost.eq(verdict.cores & ~can_take)
                    m.d.sync += frame_cores.eq(verdict.cores & can_take)
                    for core, (pool, lane) in enumerate(zip(pools, lanes, strict=True)):
                        start = FrameStart(lane.entry.data[: FrameStart.as_shape().size])
                        m.d.comb += [
                            lane.entry.kind.eq(EntryKind.START),
                            start.index.eq(pool.index),
                            start.is_flow.eq(verdict.flow_hit),
                        ]
                        with m.If(verdict.cores[core] & can_take[core]):
                            m.d.comb += [pool.choose.eq(1), lane.load.eq(1)]
                    m.next = "Stream Frame"
            with m.State("Stream Frame"):
                m.d.comb += [
                    is_flow.eq(frame.flow_hit),
                    lost.eq(frame_cores & self.core_reset),
                    take_word.eq(word_valid & slots_free & (~is_header | lanes_free)),
                ]
                for core, lane in enumerate(lanes):
                    m.d.comb += lane.entry.kind.eq(EntryKind.WORD)
                    with m.If(take_word & is_header & frame_cores[core]):
                        m.d.comb += lane.load.eq(1)
                with m.If(take_word):
                    with m.If(fits):
                        m.d.sync += words_taken.eq(words_taken + 1)
                    m.d.sync += is_bad.eq(is_bad | ~fits | (word.last & word.error))
                    with m.If(word.last):
                        m.next = "Hand Over"
            with m.State("Hand Over"):
                # The buffer counts as taken only now, so a bad frame has nothing to give back.
                m.d.comb += [is_flow.eq(frame.flow_hit), lost.eq(frame_cores & self.core_reset)]
                done = ~frame_cores.any() | (~describes & lanes_free & slots_free)
                for core, (pool, lane) in enumerate(zip(pools, lanes, strict=True)):
                    m.d.comb += lane.entry.kind.eq(Mux(is_bad, EntryKind.ABANDON, EntryKind.DELIVER))
                    with m.If(done & frame_cores[core]):
                        m.d.comb += [lane.load.eq(1), pool.take.eq(~is_bad)]
                with m.If(done):
                    with m.If(is_bad):
                        m.d.comb += lost.eq(frame_cores)
                    m.d.sync += frame_cores.eq(0)
                    m.next = "Accept Verdict"

        for core, (queue, lane) in enumerate(zip(self.queues, lanes, strict=True)):
            m.d.sync += [
                queue.dropped.eq(queue.dropped + ((lost[core] & ~is_flow) + lane.lost_other)),
                queue.flow_dropped.eq(queue.flow_dropped + ((lost[core] & is_flow) + lane.lost_flow)),
            ]
        return m

    def _pools(self, m: Module, core: int, queue) -> RxPools:
        config = self._config
        m.submodules[f"pools{core}"] = pools = RxPools(config.rx_large_buffers, config.rx_small_buffers)
        m.d.comb += [
            pools.core_reset.eq(self.core_reset[core]),
            pools.limits.eq(Cat(getattr(queue, f"limit_{name}") for name in HELD.members)),
        ]
        for name in ("free_valid", "free_index", "watermark"):
            m.d.comb += getattr(pools, name).eq(getattr(queue, name))
        for name in ("buffers_large", "buffers_small", "low", "bad_free"):
            m.d.comb += getattr(queue, name).eq(getattr(pools, name))
        return pools

    def _lane(self, m: Module, core: int, queue) -> RxLane:
        m.submodules[f"lane{core}"] = lane = RxLane(self._config.data_bytes)
        wiring.connect(m, wiring.flipped(self.datas[core]), lane.ram)
        m.d.comb += lane.core_reset.eq(self.core_reset[core])
        for name in ("ring", "other_ring", "headers", "ring_log2", "other_ring_log2"):
            m.d.comb += getattr(lane, name).eq(getattr(queue, name))
        for name in ("producer", "other_producer"):
            m.d.comb += getattr(queue, name).eq(getattr(lane, name))
        return lane

    def _selected_port(self, m: Module, port: Value) -> tuple[Signal, Signal, Signal]:
        """Word at the head of the port's frame FIFO, whether there is one, and the signal that takes it."""
        word, valid, take = Signal(FrameWord), Signal(), Signal()
        with m.Switch(port):
            for index, frames in enumerate(self.frames):
                with m.Case(index):
                    m.d.comb += [word.eq(frames.payload), valid.eq(frames.valid), frames.ready.eq(take)]
            with m.Default():
                # No such port: as good as a bad frame.
                m.d.comb += [valid.eq(1), word.last.eq(1), word.error.eq(1)]
        return word, valid, take

    def _descriptor(self, m: Module, frame, frame_cores, pools, lanes) -> tuple[Signal, Signal]:
        """Loads the lanes with the descriptor, a word per cycle, while the frame is read.

        Returns the number of words loaded, which a new frame must set to zero, and whether more are to come."""
        loaded = Signal(range(RX_DESCRIPTOR.words + 1))
        describes = Signal()
        number = loaded[:-1]
        verdict = self.verdict.payload
        values = _CONSTANTS | {name: frame[name] for name in _FrameFields.members}
        common = Signal(32)
        with m.Switch(number):
            for index in range(RX_DESCRIPTOR.words):
                with m.Case(index):
                    m.d.comb += common.eq(_word(index, values))
        m.d.comb += describes.eq(frame_cores.any() & ~loaded[-1])
        load = describes & ~(frame_cores & ~Cat(lane.descriptor_free for lane in lanes)).any()
        with m.If(load):
            m.d.sync += loaded.eq(loaded + 1)
        for core, (pool, lane) in enumerate(zip(pools, lanes, strict=True)):
            own = {name: Signal(RX_DESCRIPTOR[name].width, name=f"{name}{core}") for name in _OF_CORE}
            with m.If(pool.choose):
                m.d.sync += [
                    own["buffer_class"].eq(pool.is_small),
                    own["buffer_index"].eq(pool.index),
                    own["answer"].eq(verdict.answer[core]),
                    own["epoch"].eq(self.epochs[core]),
                ]
            m.d.comb += [lane.load_descriptor.eq(load & frame_cores[core]), lane.descriptor.eq(common)]
            with m.Switch(number):
                for index in sorted({RX_DESCRIPTOR[name].word for name in _OF_CORE}):
                    with m.Case(index):
                        m.d.comb += lane.descriptor.eq(common | _word(index, own))
        return loaded, describes
