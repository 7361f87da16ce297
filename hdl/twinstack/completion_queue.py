"""Completions of the cores, merged where one operation ran on all of them, written to the host's completion ring."""

from amaranth import *
from amaranth.lib import data, fifo, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from .config import EngineConfig
from .interfaces import CqPort
from .proto.layout import Layout
from .proto.queues import CQE, SQ_DELIVERY
from .soc import wishbone, wishbone_signature

CycleType = wishbone.CycleType

POST_DEPTH = 8
"""Completions that wait for each core."""
JOIN_SLOTS = 1 << SQ_DELIVERY["join_id"].width

# Linux errno values; the host library expects these whatever machine builds the gateware.
ENODEV = 19
ECONNRESET = 104


class Completion(data.Struct):
    """A completion on its way to the ring."""

    user_data: 64
    result: 32
    more: 1


class _Post(data.Struct):
    """What a core posted."""

    completion: Completion
    is_joined: 1
    join_id: SQ_DELIVERY["join_id"].width


class JoinPort(wiring.Signature):
    """Access to the join slots, from the host dispatcher's side.

    ``id`` names a free slot while ``ready``. ``open`` (one cycle, with ``ready``) takes it for ``targets``. ``drop``
    (one cycle) makes the cores of the mask count as done in slot ``drop_id``.
    """

    def __init__(self, cores: int):
        super().__init__(
            {
                "ready": In(1),
                "id": In(SQ_DELIVERY["join_id"].width),
                "open": Out(1),
                "targets": Out(cores),
                "user_data": Out(64),
                "drop": Out(cores),
                "drop_id": Out(SQ_DELIVERY["join_id"].width),
            }
        )


def layout_bits(layout: Layout, values: dict[str, Value]) -> Value:
    """``layout`` with the fields of ``values`` in place and zeros elsewhere, word 0 in the lowest bits."""
    parts: list[Value] = []
    position = 0
    for field in sorted((field for field in layout if field.name in values), key=lambda field: field.bit):
        value = Value.cast(values[field.name])
        parts += [C(0, field.bit - position), value[: field.width]]
        position = field.bit + field.width
    return Cat(parts, C(0, layout.words * 32 - position))


class CompletionQueue(wiring.Component):
    """The completion half of a host's control queue.

    Posts are taken round robin from the cores, from the host dispatcher (operations that no core can serve) and from
    the join table. A post with ``is_joined`` and without ``more`` counts once for its core in its join slot; when the
    last expected core has contributed, or was reset, the slot posts one completion: the first negative result if there
    was one, else the result of the last contributor, -ECONNRESET if every core was reset before it contributed. A
    contribution that the slot does not expect is discarded.

    While the queue is disabled or stopped by a bus error, posts are discarded and ``space`` shows room: a core never
    waits for a host that has gone.

    Parameters
    ----------
    config : EngineConfig
        Number of cores.

    Members
    -------
    enable : ``In(1)``
        Low: indices, join slots and waiting completions are gone (a bus access in flight still ends).
    run : ``In(1)``
        ``enable``, and no bus error on either ring.
    bus : ``Out(wishbone_signature())``
        Writes the ring, the word with the phase bit last.
    cq_base, cq_log2, cq_head, cq_tail, irq_enable, irq_count, irq_delay, irq
        As in block ``queue`` of the register map. ``irq`` also rises when the ring is full. The age of the oldest
        completion is counted anew when the host moves ``cq_head``, so ``irq_delay`` bounds the time since then.
    tick : ``In(1)``
        One cycle each millisecond.
    core_reset : ``In(cores)``
        The core's waiting completions are gone, and no join slot expects it any more.
    cq0.. : ``In(CqPort())``
        Posts for another host than 0 are discarded.
    i : ``In(stream.Signature(Completion))``
        From the host dispatcher.
    join : ``In(JoinPort(cores))``
    bus_error : ``Out(1)``
        One cycle: a ring access ended with ``err``.

    Timing
    ------
    About eight cycles for each completion, with a bus that acknowledges at once.
    """

    def __init__(self, config: EngineConfig):
        if not isinstance(config, EngineConfig):
            raise TypeError(f"config must be an EngineConfig, not {config!r}")
        self._config = config
        super().__init__(
            {
                "enable": In(1),
                "run": In(1),
                "bus": Out(wishbone_signature()),
                "cq_base": In(32),
                "cq_log2": In(4),
                "cq_head": In(16),
                "cq_tail": Out(16),
                "irq_enable": In(1),
                "irq_count": In(8),
                "irq_delay": In(8),
                "irq": Out(1),
                "tick": In(1),
                "core_reset": In(config.cores),
                "i": In(stream.Signature(Completion)),
                "join": In(JoinPort(config.cores)),
                "bus_error": Out(1),
            }
            | {f"cq{core}": In(CqPort()) for core in range(config.cores)}
        )

    def elaborate(self, platform):
        m = Module()
        cores = self._config.cores

        heads = []
        takes = Signal(cores)
        for core in range(cores):
            port = getattr(self, f"cq{core}")
            flush = Signal(name=f"flush{core}")
            m.d.comb += flush.eq(~self.run | self.core_reset[core])
            queue = fifo.SyncFIFO(width=Shape.cast(_Post).width, depth=POST_DEPTH)
            m.submodules[f"posts{core}"] = ResetInserter(flush)(queue)
            post = Signal(_Post, name=f"post{core}")
            m.d.comb += [
                post.completion.user_data.eq(port.user_data),
                post.completion.result.eq(port.result),
                post.completion.more.eq(port.more),
                post.is_joined.eq(port.is_joined),
                post.join_id.eq(port.join_id),
                queue.w_data.eq(post),
                queue.w_en.eq(port.post & (port.host == 0)),
                queue.r_en.eq(takes[core]),
                port.space.eq(POST_DEPTH - queue.level),
            ]
            heads.append((queue.r_rdy & ~flush, _Post(queue.r_data)))

        # --- Join table ------------------------------------------------------------------------------------------
        opened = Signal(JOIN_SLOTS)
        pending = [Signal(cores, name=f"pending{slot}") for slot in range(JOIN_SLOTS)]
        has_result = Signal(JOIN_SLOTS)
        has_failed = Signal(JOIN_SLOTS)
        m.submodules.join_user = join_user = memory.Memory(shape=64, depth=JOIN_SLOTS, init=[])
        m.submodules.join_result = join_result = memory.Memory(shape=32, depth=JOIN_SLOTS, init=[])
        user_write, user_read = join_user.write_port(), join_user.read_port(domain="comb")
        result_write, result_read = join_result.write_port(), join_result.read_port(domain="comb")

        # Slots are looked at one after the other: for a free one, and for one that every core is done with.
        free = Signal(range(JOIN_SLOTS))
        scan = Signal(range(JOIN_SLOTS))
        scan_done = Signal()
        release = Signal()
        m.d.comb += [
            self.join.id.eq(free),
            self.join.ready.eq(~opened.bit_select(free, 1)),
            scan_done.eq(opened.bit_select(scan, 1) & ~Array(pending)[scan].any()),
            user_write.addr.eq(free),
            user_write.data.eq(self.join.user_data),
            user_write.en.eq(self.join.open & self.join.ready),
            user_read.addr.eq(scan),
            result_read.addr.eq(scan),
        ]
        with m.If(~self.join.ready):
            m.d.sync += free.eq(free + 1)
        with m.If(~scan_done):
            m.d.sync += scan.eq(scan + 1)

        # --- Selection -------------------------------------------------------------------------------------------
        # Sources: the cores, the dispatcher, the join table.
        sources = cores + 2
        from_dispatcher, from_join = cores, cores + 1
        ready = Signal(sources)
        source = Signal(range(sources))
        m.d.comb += ready.eq(Cat([valid for valid, _ in heads], self.i.valid, scan_done))
        chosen = Signal(range(sources))
        with m.Switch(source):
            for previous in range(sources):
                with m.Case(previous):
                    for step in reversed(range(1, sources + 1)):
                        candidate = (previous + step) % sources
                        with m.If(ready[candidate]):
                            m.d.comb += chosen.eq(candidate)

        head = Signal(_Post)
        with m.Switch(source):
            for core, (_, post) in enumerate(heads):
                with m.Case(core):
                    m.d.comb += head.eq(post)
        still_ready = ready.bit_select(source, 1)
        merging = Signal(_Post)
        contributor = Signal(cores)
        expected = Signal()

        # --- Ring ------------------------------------------------------------------------------------------------
        entry = Signal(Completion)
        used = Signal(16)
        size = Signal(16)
        full = Signal()
        m.d.sync += [
            used.eq(self.cq_tail - self.cq_head),
            size.eq(1 << self.cq_log2),
            full.eq(used >= size),
        ]
        settle = Signal(2)
        slot_mask = Signal(16)
        m.d.sync += slot_mask.eq((1 << self.cq_log2) - 1)
        phase = ~self.cq_tail.bit_select(self.cq_log2, 1)
        word = Signal(range(CQE.words))
        values = {"user_data": entry.user_data, "result": entry.result, "phase": phase, "more": entry.more}
        word_data = Signal(32)
        m.d.comb += word_data.eq(layout_bits(CQE, values).word_select(word, 32))
        answered = self.bus.ack | self.bus.err
        closing = Signal()

        m.d.sync += self.bus_error.eq(0)
        m.d.comb += [self.bus.sel.eq(0xF), self.bus.we.eq(1)]

        with m.FSM():
            with m.State("Select"):
                m.d.sync += closing.eq(0)
                with m.If(self.run & ready.any()):
                    m.d.sync += source.eq(chosen)
                    m.next = "Load"
            with m.State("Load"):
                m.d.sync += settle.eq(3)
                m.next = "Wait for Room"
                with m.If(source == from_dispatcher):
                    m.d.comb += self.i.ready.eq(1)
                    m.d.sync += entry.eq(self.i.payload)
                with m.Elif(source == from_join):
                    m.d.comb += release.eq(1)
                    m.d.sync += [
                        entry.user_data.eq(user_read.data),
                        entry.result.eq(Mux(has_result.bit_select(scan, 1), result_read.data, C(-ECONNRESET, 32))),
                        entry.more.eq(0),
                    ]
                with m.Else():
                    m.d.comb += takes.eq(1 << source)
                    m.d.sync += [entry.eq(head.completion), merging.eq(head), contributor.eq(1 << source)]
                    with m.If(head.is_joined & ~head.completion.more):
                        m.next = "Merge"
                with m.If(~still_ready | ~self.run):
                    # A reset took it away.
                    m.d.comb += [takes.eq(0), release.eq(0), self.i.ready.eq(0)]
                    m.next = "Select"
            with m.State("Merge"):
                slot = merging.join_id
                m.d.comb += [
                    expected.eq((Array(pending)[slot] & contributor).any() & opened.bit_select(slot, 1) & self.run),
                    result_write.addr.eq(slot),
                    result_write.data.eq(merging.completion.result),
                    result_write.en.eq(expected & ~has_failed.bit_select(slot, 1)),
                ]
                m.next = "Select"
            with m.State("Wait for Room"):
                # The fullness is three registers behind the tail.
                with m.If(settle != 0):
                    m.d.sync += settle.eq(settle - 1)
                m.d.sync += [
                    word.eq(0),
                    self.bus.adr.eq((self.cq_base >> 2) + ((self.cq_tail & slot_mask) * CQE.words)),
                ]
                with m.If(~self.run):
                    m.next = "Select"
                with m.Elif((settle == 0) & ~full):
                    m.next = "Place Word"
            with m.State("Place Word"):
                with m.If(~self.run):
                    m.d.sync += closing.eq(1)
                m.d.sync += [
                    self.bus.cyc.eq(1),
                    self.bus.stb.eq(1),
                    self.bus.dat_w.eq(word_data),
                    self.bus.cti.eq(
                        Mux(word == CQE.words - 1, CycleType.END_OF_BURST.value, CycleType.INCR_BURST.value)
                    ),
                    word.eq(word + 1),
                ]
                m.next = "Write Word"
            with m.State("Write Word"):
                with m.If(answered):
                    m.d.sync += [
                        self.bus.dat_w.eq(word_data),
                        self.bus.adr.eq(self.bus.adr + 1),
                        word.eq(word + 1),
                        self.bus.cti.eq(
                            Mux(word == CQE.words - 1, CycleType.END_OF_BURST.value, CycleType.INCR_BURST.value)
                        ),
                    ]
                    last = word == 0  # wrapped: the word on the bus is the last
                    with m.If(self.bus.err | last | closing | ~self.run):
                        m.d.sync += [self.bus.cyc.eq(0), self.bus.stb.eq(0), self.bus.cti.eq(CycleType.CLASSIC.value)]
                        m.next = "Select"
                    with m.If(~closing & self.enable):
                        with m.If(self.bus.err):
                            m.d.sync += self.bus_error.eq(1)
                        with m.Elif(last):
                            m.d.sync += self.cq_tail.eq(self.cq_tail + 1)
                with m.Elif(~self.run):
                    m.d.sync += closing.eq(1)

        # --- Join table updates; later assignments win -----------------------------------------------------------
        for slot in range(JOIN_SLOTS):
            merged = expected & (merging.join_id == slot)
            contributed = Mux(merged, contributor, 0)
            dropped = Mux(self.join.drop_id == slot, self.join.drop, 0)
            m.d.sync += pending[slot].eq(pending[slot] & ~(contributed | dropped | self.core_reset))
            with m.If(merged):
                m.d.sync += [
                    has_result[slot].eq(1),
                    has_failed[slot].eq(has_failed[slot] | merging.completion.result[-1]),
                ]
            with m.If(self.join.open & self.join.ready & (free == slot)):
                m.d.sync += [
                    opened[slot].eq(1),
                    pending[slot].eq(self.join.targets & ~self.core_reset),
                    has_result[slot].eq(0),
                    has_failed[slot].eq(0),
                ]
            with m.If((release & (scan == slot)) | ~self.run):
                m.d.sync += opened[slot].eq(0)

        # --- Interrupt -------------------------------------------------------------------------------------------
        head_seen = Signal(16)
        age = Signal(8)
        waiting = used != 0
        m.d.sync += head_seen.eq(self.cq_head)
        with m.If(~waiting | (head_seen != self.cq_head)):
            m.d.sync += age.eq(0)
        with m.Elif(self.tick & (age != 255)):
            m.d.sync += age.eq(age + 1)
        m.d.sync += self.irq.eq(
            self.enable & self.irq_enable & waiting & (full | (used >= self.irq_count) | (age >= self.irq_delay))
        )

        with m.If(~self.enable):
            m.d.sync += [self.cq_tail.eq(0), age.eq(0)]
        return m


__all__ = [
    "Completion",
    "CompletionQueue",
    "ECONNRESET",
    "ENODEV",
    "JOIN_SLOTS",
    "JoinPort",
    "POST_DEPTH",
    "layout_bits",
]
