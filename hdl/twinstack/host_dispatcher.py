"""Fetches submission queue entries and delivers each to the core, or all the cores, that it concerns."""

from amaranth import *
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from .completion_queue import ECONNRESET, ENODEV, Completion, JoinPort, layout_bits
from .config import EngineConfig
from .interfaces import ProbePort, SqPort, ram_port_for
from .proto.queues import (
    AF_INET,
    ALL_CORE_OPERATIONS,
    ALL_CORES,
    BALANCED_OPERATIONS,
    DATAGRAM_OPERATIONS,
    HANDLE,
    HANDLE_OPERATIONS,
    SOCKET_ADDRESS,
    SQ_DELIVERY,
    SQE,
    Operation,
    UdpFlag,
)
from .soc import wishbone, wishbone_signature

CycleType = wishbone.CycleType

LOCAL_PORT_BITS = 16
"""Of ``operation_flags`` of a TCP_CONNECT."""
DATAGRAM_CORE = slice(8, 10)
"""Core in ``operation_flags`` of an operation on a spread UDP socket."""
SPREAD_BIT = UdpFlag.SPREAD.bit_length() - 1

# Name: first word of the entry, lowest bit, bits.
_KEPT_FIELDS = {
    name: (SQE[name].word, SQE[name].lsb, SQE[name].width)
    for name in ("operation", "handle", "user_data", "operation_flags")
} | {
    f"inline_{name}": (SQE["inline"].word + SOCKET_ADDRESS[name].word, SOCKET_ADDRESS[name].lsb, width)
    for name, width in (("family", 16), ("port", 16), ("address", 32), ("extra", 32))
}
"""Parts of the SQE that decide where it goes, kept in registers beside the buffer."""


class HostDispatcher(wiring.Component):
    """The submission half of a host's control queue.

    Entries are fetched and delivered in order, one at a time. Where an entry goes is said in ``twinstack.proto.queues``;
    the decision is taken again whenever the chosen core dies before the entry is in its ring. An entry waits while a
    ring it goes to has no room, and, if it concerns all cores, while no join slot is free. Entries that no core can
    serve are completed here: -ENODEV if no core lives, -ECONNRESET if the core that it names does not.

    A TCP_CONNECT with a local port and a local IPv4 address goes to the core that ``probe`` names for the frames of the
    connection, by hash or flow table; as any other, to the least loaded, if that core does not live.

    Parameters
    ----------
    config : EngineConfig
        Number of cores, size of their data RAM.

    Members
    -------
    enable : ``In(1)``
        Low: ``sq_head`` is zero; an entry being fetched or delivered is abandoned (accesses in flight still end).
    run : ``In(1)``
        ``enable``, and no bus error on either ring.
    bus : ``Out(wishbone_signature())``
        Reads the ring, in bursts of one entry.
    sq_base, sq_log2, sq_tail, sq_head
        As in block ``queue`` of the register map.
    alive : ``In(cores)``
        Cores that take part.
    manager : ``In(4)``
        Number of the manager core.
    core_reset : ``In(cores)``
        The core's ring is empty again.
    epochs : ``In(ArrayLayout(8, cores))``
    sq0.. : ``In(SqPort())``
        Delivery rings.
    data0.. : ``Out(ram_port_for(data_bytes))``
        Data RAM of the cores. The owner word of an entry is written last.
    delivered0.. : ``Out(32)``
        Entries delivered to the core since power-up; wraps.
    o : ``Out(stream.Signature(Completion))``
        Completions of entries that no core can serve. Withdrawn when ``run`` falls.
    join : ``Out(JoinPort(cores))``
    probe : ``Out(ProbePort())``
        To the network side's dispatcher. What was asked is waited for, also when ``run`` falls.
    bus_error : ``Out(1)``
        One cycle: a ring access ended with ``err``.

    Timing
    ------
    About 50 cycles for each entry and core, with memories that answer at once; and the time of a probe.
    """

    def __init__(self, config: EngineConfig):
        if not isinstance(config, EngineConfig):
            raise TypeError(f"config must be an EngineConfig, not {config!r}")
        self._config = config
        members = {
            "enable": In(1),
            "run": In(1),
            "bus": Out(wishbone_signature()),
            "sq_base": In(32),
            "sq_log2": In(4),
            "sq_tail": In(16),
            "sq_head": Out(16),
            "alive": In(config.cores),
            "manager": In(4),
            "core_reset": In(config.cores),
            "epochs": In(data.ArrayLayout(8, config.cores)),
            "o": Out(stream.Signature(Completion)),
            "join": Out(JoinPort(config.cores)),
            "probe": Out(ProbePort()),
            "bus_error": Out(1),
        }
        for core in range(config.cores):
            members |= {
                f"sq{core}": In(SqPort()),
                f"data{core}": Out(ram_port_for(config.data_bytes)),
                f"delivered{core}": Out(32),
            }
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        cores = self._config.cores
        queues = [getattr(self, f"sq{core}") for core in range(cores)]
        rams = [getattr(self, f"data{core}") for core in range(cores)]
        delivered = Array(getattr(self, f"delivered{core}") for core in range(cores))
        producers = [Signal(16, name=f"producer{core}") for core in range(cores)]
        for queue, producer in zip(queues, producers, strict=True):
            m.d.comb += queue.producer.eq(producer)

        usable = Signal(cores)
        m.d.comb += usable.eq(self.alive & ~self.core_reset)

        # --- The entry being handled -----------------------------------------------------------------------------
        m.submodules.buffer = buffer = memory.Memory(shape=32, depth=SQE.words, init=[])
        store, load = buffer.write_port(), buffer.read_port(domain="comb")
        kept = {name: Signal(width, name=name) for name, (_, _, width) in _KEPT_FIELDS.items()}
        index = Signal(16)
        word = Signal(range(SQ_DELIVERY.words + 1))
        m.d.comb += [store.addr.eq(word), store.data.eq(self.bus.dat_r), load.addr.eq(word)]

        # Answers to an access end it; "closing" remembers that the entry is not wanted any more.
        answered = self.bus.ack | self.bus.err
        closing = Signal()
        wanted = self.run & ~closing

        # --- Where it goes ---------------------------------------------------------------------------------------
        operation, flags = kept["operation"], kept["operation_flags"]
        handle_core = kept["handle"][HANDLE["core"].bit :][: HANDLE["core"].width]
        to_named, to_all, to_balanced, to_stats, to_probed = (
            Signal(name=name) for name in ("named", "all_", "balanced", "stats", "probed")
        )
        named_core = Signal.like(handle_core)
        manager_mask = Signal(cores)
        named_mask = Signal(cores)
        stats_mask = Signal(cores)
        m.d.comb += [
            manager_mask.eq(1 << self.manager),
            named_mask.eq(1 << named_core),
            stats_mask.eq(Mux(flags < cores, 1 << flags[:2], 0)),
        ]

        def is_one_of(operations):
            return Cat(operation == int(code) for code in sorted(operations)).any()

        targets = Signal(cores)
        is_joined = Signal()
        join_id = Signal.like(self.join.id)
        candidate = Signal(range(cores))
        compared = Signal(range(cores + 1))
        found = Signal()
        best = Signal(range(cores))
        best_load = Signal(16)
        balanced_last = Signal(range(cores), init=cores - 1)
        loads = Array(queue.load for queue in queues)
        candidate_load = Signal(16)
        m.d.comb += candidate_load.eq(loads[candidate])

        # --- Ring of the target ----------------------------------------------------------------------------------
        core = Signal(range(cores))
        core_mask = Signal(cores)
        lost = Signal()
        m.d.comb += core_mask.eq(1 << core)
        is_usable = (usable & core_mask).any()
        ring_word = Signal(18)
        ring_used = Signal(16)
        ring_size = Signal(16)
        ring_slot = Signal(16)
        ring_enabled = Signal()
        producer = Array(producers)[core]

        ram_valid = Signal()
        ram_word = Signal(18)
        ram_data = Signal(32)
        ram_ready = Signal()
        for number, ram in enumerate(rams):
            m.d.comb += [
                ram.valid.eq(ram_valid & (core == number)),
                ram.write.eq(1),
                ram.address.eq(ram_word),
                ram.data.eq(ram_data),
                ram.mask.eq(0xF),
            ]
            with m.If(core == number):
                m.d.comb += ram_ready.eq(ram.ready)
        values = {
            "is_joined": is_joined,
            "join_id": join_id,
            "sq_index": index,
            "epoch": self.epochs[core],
            "owner": C(1),
        }
        tail_words = layout_bits(SQ_DELIVERY, values)[SQE.words * 32 :]
        word_data = Signal(32)
        m.d.comb += word_data.eq(
            Mux(word < SQE.words, load.data, tail_words.word_select(word[:2], 32))  # SQE.words is a multiple of 4
        )

        probed_mask = Signal(cores)
        asked = self.probe.request.payload
        m.d.comb += [
            asked.source.eq(kept["inline_address"]),
            asked.source_port.eq(kept["inline_port"]),
            asked.destination.eq(kept["inline_extra"]),
            asked.destination_port.eq(flags[:LOCAL_PORT_BITS]),
            asked.has_ports.eq(1),
            asked.is_tcp.eq(1),
            probed_mask.eq(1 << self.probe.result.core),
        ]

        fail = Signal(32)
        m.d.comb += [
            self.bus.sel.eq(0xF),
            self.o.payload.user_data.eq(kept["user_data"]),
            self.o.payload.result.eq(fail),
            self.join.targets.eq(targets),
            self.join.user_data.eq(kept["user_data"]),
            self.join.drop_id.eq(join_id),
        ]
        m.d.sync += self.bus_error.eq(0)
        slot_mask = Signal(16)
        m.d.sync += slot_mask.eq((1 << self.sq_log2) - 1)

        with m.If(~self.run):
            m.d.sync += closing.eq(1)

        with m.FSM():
            with m.State("Idle"):
                m.d.sync += [
                    closing.eq(0),
                    index.eq(self.sq_head),
                    word.eq(0),
                    self.bus.adr.eq((self.sq_base >> 2) + ((self.sq_head & slot_mask) * SQE.words)),
                ]
                with m.If(self.run & (self.sq_head != self.sq_tail)):
                    m.d.sync += [
                        self.bus.cyc.eq(1),
                        self.bus.stb.eq(1),
                        self.bus.cti.eq(CycleType.INCR_BURST.value),
                    ]
                    m.next = "Fetch"
            with m.State("Fetch"):
                with m.If(answered):
                    m.d.comb += store.en.eq(1)
                    for name, (first_word, lsb, width) in _KEPT_FIELDS.items():
                        for step in range((width + 31) // 32):
                            with m.If(word == first_word + step):
                                part = kept[name][32 * step : 32 * (step + 1)]
                                m.d.sync += part.eq(self.bus.dat_r[lsb:])
                    m.d.sync += [word.eq(word + 1), self.bus.adr.eq(self.bus.adr + 1)]
                    with m.If(word == SQE.words - 2):
                        m.d.sync += self.bus.cti.eq(CycleType.END_OF_BURST.value)
                    with m.If(self.bus.err | ~wanted | (word == SQE.words - 1)):
                        m.d.sync += [
                            self.bus.cyc.eq(0),
                            self.bus.stb.eq(0),
                            self.bus.cti.eq(CycleType.CLASSIC.value),
                        ]
                        m.next = "Idle"
                        with m.If(wanted & ~self.bus.err):
                            m.d.sync += self.sq_head.eq(self.sq_head + 1)
                            m.next = "Classify"
                    m.d.sync += self.bus_error.eq(self.bus.err & wanted)
            with m.State("Classify"):
                has_handle, on_all = is_one_of(HANDLE_OPERATIONS), handle_core == ALL_CORES
                is_datagram = is_one_of(DATAGRAM_OPERATIONS) & on_all
                is_spread = (operation == Operation.UDP_OPEN) & flags[SPREAD_BIT]
                m.d.sync += [
                    to_all.eq(is_one_of(ALL_CORE_OPERATIONS) | is_spread | (has_handle & on_all & ~is_datagram)),
                    to_named.eq(has_handle),
                    named_core.eq(Mux(is_datagram, flags[DATAGRAM_CORE], handle_core)),
                    to_balanced.eq(is_one_of(BALANCED_OPERATIONS) & ~is_spread),
                    to_stats.eq(operation == Operation.STATS),
                    to_probed.eq(
                        (operation == Operation.TCP_CONNECT)
                        & (kept["inline_family"] == AF_INET)
                        & flags[:LOCAL_PORT_BITS].any()
                        & kept["inline_extra"].any()
                    ),
                ]
                m.next = "Decide"
            with m.State("Decide"):
                m.d.sync += [
                    is_joined.eq(0),
                    targets.eq(manager_mask),
                    lost.eq(0),
                    candidate.eq(Mux(balanced_last == cores - 1, 0, balanced_last + 1)),
                    compared.eq(0),
                    found.eq(0),
                ]
                m.next = "Next Target"
                with m.If(~usable.any()):
                    m.d.sync += fail.eq(C(-ENODEV, 32))
                    m.next = "Refuse"
                with m.Elif(to_all):
                    m.d.sync += [is_joined.eq(1), targets.eq(usable)]
                    m.next = "Open Join"
                with m.Elif(to_named & (named_core < cores)):
                    m.d.sync += targets.eq(named_mask)
                    with m.If(~(usable & named_mask).any()):
                        m.d.sync += fail.eq(C(-ECONNRESET, 32))
                        m.next = "Refuse"
                with m.Elif(to_probed):
                    m.next = "Ask"
                with m.Elif(to_balanced):
                    m.next = "Balance"
                with m.Elif(to_stats & (usable & stats_mask).any()):
                    m.d.sync += targets.eq(stats_mask)
                with m.Elif(~(usable & manager_mask).any()):
                    # The next manager is being elected.
                    m.next = "Decide"
                with m.If(~wanted):
                    m.next = "Idle"
            with m.State("Ask"):
                # Not withdrawn, whatever becomes of the entry.
                m.d.comb += self.probe.request.valid.eq(1)
                with m.If(self.probe.request.ready):
                    m.next = "Await Answer"
            with m.State("Await Answer"):
                m.d.sync += targets.eq(probed_mask)
                with m.If(self.probe.done):
                    m.next = "Balance"
                    with m.If((usable & probed_mask).any()):
                        m.next = "Next Target"
                    with m.If(~wanted):
                        m.next = "Idle"
            with m.State("Balance"):
                # One core in each cycle, from the one after the last chosen on: the first of equals wins.
                with m.If((usable >> candidate)[0] & (~found | (candidate_load < best_load))):
                    m.d.sync += [found.eq(1), best.eq(candidate), best_load.eq(candidate_load)]
                m.d.sync += [
                    candidate.eq(Mux(candidate == cores - 1, 0, candidate + 1)),
                    compared.eq(compared + 1),
                ]
                with m.If(compared == cores):
                    m.d.sync += [found.eq(found), best.eq(best), best_load.eq(best_load), targets.eq(1 << best)]
                    m.next = "Next Target"
                    with m.If(~found):
                        m.next = "Decide"
                with m.If(~wanted):
                    m.next = "Idle"
            with m.State("Open Join"):
                m.d.sync += join_id.eq(self.join.id)
                m.next = "Decide"
                with m.If(~wanted):
                    m.next = "Idle"
                with m.Elif(self.join.ready):
                    m.d.comb += self.join.open.eq(1)
                    m.next = "Next Target"
            with m.State("Next Target"):
                for number in reversed(range(cores)):
                    with m.If(targets[number]):
                        m.d.sync += core.eq(number)
                m.d.sync += lost.eq(0)
                m.next = "Read Ring"
                with m.If(~wanted | ~targets.any()):
                    m.next = "Idle"
            with m.State("Read Ring"):
                queue = {
                    name: Array(getattr(queue, name) for queue in queues)[core]
                    for name in ("ring", "ring_log2", "enable", "consumer")
                }
                m.d.sync += [
                    ring_word.eq(queue["ring"] >> 2),
                    ring_enabled.eq(queue["enable"]),
                    ring_size.eq(1 << queue["ring_log2"]),
                    ring_used.eq(producer - queue["consumer"]),
                    lost.eq((self.core_reset & core_mask).any()),
                    word.eq(0),
                ]
                m.next = "Check Room"
            with m.State("Check Room"):
                m.d.sync += [ring_slot.eq(producer & (ring_size - 1)), lost.eq(lost | ~is_usable)]
                m.next = "Read Ring"
                with m.If(~wanted):
                    m.next = "Idle"
                with m.Elif(lost | ~is_usable):
                    m.next = "Lose Target"
                with m.Elif(ring_enabled & (ring_used < ring_size)):
                    m.next = "Place Entry"
            with m.State("Place Entry"):
                # SQ_DELIVERY.words is 20: 16 + 4.
                m.d.sync += [
                    ram_word.eq(ring_word + (ring_slot << 4) + (ring_slot << 2)),
                    lost.eq((self.core_reset & core_mask).any()),
                ]
                m.next = "First Word"
            with m.State("First Word"):
                m.d.sync += [ram_valid.eq(1), ram_data.eq(word_data), word.eq(word + 1)]
                with m.If((self.core_reset & core_mask).any()):
                    m.d.sync += lost.eq(1)
                m.next = "Write Entry"
                with m.If(~wanted):
                    m.d.sync += ram_valid.eq(0)
                    m.next = "Idle"
                with m.Elif(lost):
                    m.d.sync += ram_valid.eq(0)
                    m.next = "Lose Target"
            with m.State("Write Entry"):
                resets = (self.core_reset & core_mask).any()
                with m.If(resets):
                    m.d.sync += lost.eq(1)
                with m.If(ram_ready):
                    m.d.sync += [ram_word.eq(ram_word + 1), ram_data.eq(word_data), word.eq(word + 1)]
                    with m.If(lost | resets):
                        m.d.sync += ram_valid.eq(0)
                        m.next = "Lose Target"
                    with m.Elif(word == SQ_DELIVERY.words):
                        m.d.sync += [
                            ram_valid.eq(0),
                            producer.eq(producer + 1),
                            delivered[core].eq(delivered[core] + 1),
                            targets.eq(targets & ~core_mask),
                        ]
                        with m.If(to_balanced):
                            m.d.sync += balanced_last.eq(core)
                        m.next = "Next Target"
                    with m.If(~wanted):
                        m.d.sync += ram_valid.eq(0)
                        m.next = "Idle"
            with m.State("Lose Target"):
                with m.If(is_joined):
                    m.d.comb += self.join.drop.eq(core_mask)
                m.d.sync += targets.eq(targets & ~core_mask)
                m.next = "Next Target"
                with m.If(~is_joined):
                    m.next = "Decide"
                with m.If(~wanted):
                    m.next = "Idle"
            with m.State("Refuse"):
                m.d.comb += self.o.valid.eq(wanted)
                with m.If(self.o.ready | ~wanted):
                    m.next = "Idle"

        for number in range(cores):
            with m.If(self.core_reset[number]):
                m.d.sync += producers[number].eq(0)
        with m.If(~self.enable):
            m.d.sync += self.sq_head.eq(0)
        return m


__all__ = ["HostDispatcher"]
