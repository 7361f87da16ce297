"""A core: CPU, private data RAM, its page of registers, and the ports through which it uses the rest of the engine."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import fifo, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .config import EngineConfig
from .core_bus import PAGE_ADDRESS_WIDTH, CoreBus
from .cpu import VexRiscv
from .csr import CsrPage
from .interfaces import (
    CqPort,
    DmaPort,
    FlowPort,
    LockPort,
    MessagePort,
    ProbePort,
    RxQueuePort,
    SqPort,
    TxQueuePort,
    ram_port_for,
)
from .memory import TrueDualPortRam
from .probe_registers import connect_probe, connect_requests, connect_tuple
from .proto.abi import ABI_VERSION, MAGIC
from .proto.memory_map import CODE_BASE
from .proto.registers import EVENTS, LOCK
from .soc import wishbone_signature

CONSOLE_BYTES = 512
SEED_INSTEAD_OF_ZERO = 0x9E37_79B9
"""Xorshift stays at zero for ever, so a zero seed is replaced."""
assert LOCK.offset % LOCK.size == 0, "the number of a lock is the low part of its register's address"


def next_random(value: int) -> int:
    """Reference model of one step of ``core.random``: xorshift32 (Marsaglia 2003, triple 13, 17, 5)."""
    value ^= value << 13 & 0xFFFF_FFFF
    value ^= value >> 17
    return value ^ (value << 5 & 0xFFFF_FFFF)


class CoreTile(wiring.Component):
    """One network processing core.

    Parameters
    ----------
    config : EngineConfig
    core : int, 0..config.cores - 1
        Number of this core.

    Members
    -------
    reset_core : In(1)
        Holds CPU, registers, counters and port strobes in reset. The data RAM, the console FIFO (so that the host
        can read last words) and a hash probe in flight are kept.
    epoch : In(8)
        Epoch of this core.
    manager : In(4)
        The manager core.
    tick : In(1)
        One cycle for each millisecond.
    seed : In(32)
        Seed of ``core.random``, taken while ``reset_core``.
    code, rx_bank, tx_bank, shared : ``Out(RamPort)``
        Accesses of the CPU; ``code`` is only read.
    data : ``In(RamPort)``
        Hardware's port of the data RAM, always ready.
    manager_bus : ``Out(wishbone_signature(12))``
        The manager's register page, addressed by word. An access in flight is dropped when the core is reset.
    rx, tx, sq, cq, dma_in, dma_out, message, probe, flow, lock : ``Out(...Port())``
        The engine's services, driven by the blocks of the same names. The other side treats a strobe in the cycle of
        the core's reset as not given. Requests of ``probe`` and ``flow`` outlive a reset, with a payload that changes in
        it; the other side must not execute such a one of ``flow``.
    console : ``Out(stream.Signature(8))``
        Bytes for the host; ``console_lost`` counts those for which the FIFO was full.
    firmware_abi, ready : Out
        What the firmware reports in ``core.ready``.
    cpu_accesses : Out(32)
        Accesses of the CPU to ``rx_bank`` and ``tx_bank`` since reset.

    Timing
    ------
    Loads: data RAM and own registers 1 cycle from strobe to acknowledgement. Interrupts rise one cycle after their
    event.

    Raises
    ------
    TypeError, ValueError
        If ``config`` is no EngineConfig, or ``core`` is not one of its cores.
    """

    def __init__(self, config: EngineConfig, core: int):
        if not isinstance(config, EngineConfig):
            raise TypeError(f"config must be an EngineConfig, not {config!r}")
        if not isinstance(core, int) or isinstance(core, bool):
            raise TypeError(f"core must be an integer, not {core!r}")
        if not 0 <= core < config.cores:
            raise ValueError(f"core must be 0 to {config.cores - 1}, not {core!r}")
        self.config = config
        self.core = core
        super().__init__(
            {
                "reset_core": In(1),
                "epoch": In(8),
                "manager": In(4),
                "tick": In(1),
                "seed": In(32),
                "code": Out(ram_port_for(config.code_bytes)),
                "data": In(ram_port_for(config.data_bytes)),
                "rx_bank": Out(ram_port_for(config.rx_bank_bytes)),
                "tx_bank": Out(ram_port_for(config.tx_bank_bytes)),
                "shared": Out(ram_port_for(config.shared_bytes)),
                "manager_bus": Out(wishbone_signature(PAGE_ADDRESS_WIDTH)),
                "rx": Out(RxQueuePort()),
                "tx": Out(TxQueuePort()),
                "sq": Out(SqPort()),
                "cq": Out(CqPort()),
                "dma_in": Out(DmaPort()),
                "dma_out": Out(DmaPort()),
                "message": Out(MessagePort()),
                "probe": Out(ProbePort()),
                "flow": Out(FlowPort()),
                "lock": Out(LockPort()),
                "console": Out(stream.Signature(8)),
                "console_lost": Out(32),
                "firmware_abi": Out(16),
                "ready": Out(1),
                "cpu_accesses": Out(32),
            }
        )

    def elaborate(self, platform):
        m = Module()  # keeps its state over a reset of the core
        inner = Module()
        m.submodules.inner = ResetInserter({"sync": self.reset_core})(inner)
        m.submodules.data_ram = data_ram = TrueDualPortRam(self.config.data_bytes)
        m.submodules.cpu = cpu = VexRiscv()
        inner.submodules.bus = bus = CoreBus(self.config)
        inner.submodules.page = page = CsrPage("core", addr_width=PAGE_ADDRESS_WIDTH)

        m.d.comb += [cpu.reset.eq(self.reset_core), cpu.reset_vector.eq(CODE_BASE)]
        connect(inner, ibus=cpu.ibus, bus=bus.ibus)
        connect(inner, dbus=cpu.dbus, bus=bus.dbus)
        connect(inner, bus=bus.csr, page=page.bus)
        connect(inner, bus=bus.data, ram=data_ram.a)
        connect(m, data=flipped(self.data), ram=data_ram.b)
        for name in ("code", "rx_bank", "tx_bank", "shared"):
            connect(inner, outside=flipped(getattr(self, name)), bus=getattr(bus, name))
        connect(inner, outside=flipped(self.manager_bus), bus=bus.manager)

        with inner.If(bus.bank_access):
            inner.d.sync += self.cpu_accesses.eq(self.cpu_accesses + 1)

        self._identity(m, inner, page)
        self._console(m, page)
        tick_pending = self._timer(inner, page)
        self._queues(inner, page)
        self._messages_and_locks(inner, page)
        self._probe(m, inner, page)
        self._events(inner, page, tick_pending, cpu)
        inner.d.comb += cpu.timer_interrupt.eq(tick_pending)
        return m

    def _identity(self, m: Module, inner: Module, page: CsrPage) -> None:
        config = self.config
        random = Signal(32, init=SEED_INSTEAD_OF_ZERO)
        seed = self.seed ^ self.core
        shifted = [random]
        for step in (lambda v: v << 13, lambda v: v >> 17, lambda v: v << 5):
            stage = Signal(32, name=f"random_stage{len(shifted)}")
            m.d.comb += stage.eq(shifted[-1] ^ step(shifted[-1]))
            shifted.append(stage)
        m.d.sync += random.eq(Mux(self.reset_core, Mux(seed == 0, SEED_INSTEAD_OF_ZERO, seed), shifted[-1]))
        for register, name, value in (
            ("magic", "value", MAGIC),
            ("abi", "value", ABI_VERSION),
            ("identity", "core", self.core),
            ("identity", "cores", config.cores),
            ("identity", "ports", config.ports),
            ("identity", "manager", self.manager),
            ("identity", "epoch", self.epoch),
            ("sync_hz", "value", config.sync_hz),
            ("memory", "data_kib", min(config.data_bytes // 1024, 255)),
            ("memory", "rx_kib", config.rx_bank_bytes // 1024),
            ("memory", "tx_kib", config.tx_bank_bytes // 1024),
            ("random", "value", random),
            ("rx_buffers", "large", config.rx_large_buffers),
            ("rx_buffers", "small", config.rx_small_buffers),
        ):
            inner.d.comb += page.field("core", register, name).r_data.eq(value)
        inner.d.comb += [
            self.firmware_abi.eq(page.field("core", "ready", "firmware_abi").data),
            self.ready.eq(page.field("core", "ready", "ready").data),
        ]

    def _console(self, m: Module, page: CsrPage) -> None:
        m.submodules.console = console = fifo.SyncFIFOBuffered(width=8, depth=CONSOLE_BYTES)
        data = page.field("console", "data")
        m.d.comb += [
            console.w_data.eq(data.w_data),
            console.w_en.eq(data.w_stb),
            self.console.payload.eq(console.r_data),
            self.console.valid.eq(console.r_rdy),
            console.r_en.eq(self.console.ready),
            page.field("console", "space").r_data.eq(CONSOLE_BYTES - console.level),
        ]
        with m.If(data.w_stb & ~console.w_rdy):
            m.d.sync += self.console_lost.eq(self.console_lost + 1)

    @staticmethod
    def _counter(inner: Module, page: CsrPage, name: str, enable: Value | int) -> None:
        """A 64-bit counter behind ``<name>_low`` and ``<name>_high``, in two halves with short carry chains."""
        low, high, latched = (Signal(32, name=f"{name}_{part}") for part in ("low", "high", "latched"))
        read_low = page.field("timer", f"{name}_low")
        with inner.If(enable):
            inner.d.sync += low.eq(low + 1)
            with inner.If(low.all()):
                inner.d.sync += high.eq(high + 1)
        with inner.If(read_low.r_stb):
            inner.d.sync += latched.eq(high)
        inner.d.comb += [
            read_low.r_data.eq(low),
            page.field("timer", f"{name}_high").r_data.eq(latched),
        ]

    def _timer(self, inner: Module, page: CsrPage) -> Signal:
        self._counter(inner, page, "cycles", 1)
        self._counter(inner, page, "idle", page.field("timer", "idle").data)
        milliseconds = Signal(32)
        pending = Signal()
        tick = page.field("timer", "tick")
        inner.d.comb += [
            page.field("timer", "milliseconds").r_data.eq(milliseconds),
            tick.r_data.eq(pending),
        ]
        with inner.If(self.tick):
            inner.d.sync += [milliseconds.eq(milliseconds + 1), pending.eq(1)]
        with inner.Elif(tick.w_stb):
            inner.d.sync += pending.eq(0)
        return pending

    def _queues(self, inner: Module, page: CsrPage) -> None:
        field = page.field
        for block, port in (("rx", self.rx), ("tx", self.tx), ("sq", self.sq)):
            inner.d.comb += [
                port.ring.eq(field(block, "ring").data),
                port.ring_log2.eq(field(block, "control", "ring_log2").data),
                port.enable.eq(field(block, "control", "enable").data),
            ]
        inner.d.comb += [
            self.rx.headers.eq(field("rx", "headers").data),
            self.rx.free_valid.eq(field("rx", "free").w_stb),
            self.rx.free_index.eq(field("rx", "free").w_data),
            field("rx", "producer").r_data.eq(self.rx.producer),
            field("rx", "buffers", "large").r_data.eq(self.rx.buffers_large),
            field("rx", "buffers", "small").r_data.eq(self.rx.buffers_small),
            self.rx.other_ring.eq(field("rx", "other_ring").data),
            self.rx.other_ring_log2.eq(field("rx", "control", "other_ring_log2").data),
            *(
                getattr(self.rx, f"limit_{name}").eq(field("rx", "limits", name).data)
                for name in ("flow_large", "flow_small", "other_large", "other_small")
            ),
            self.rx.watermark.eq(field("rx", "watermark").data),
            field("rx", "other_producer").r_data.eq(self.rx.other_producer),
            field("rx", "flow_dropped").r_data.eq(self.rx.flow_dropped),
            field("rx", "dropped").r_data.eq(self.rx.dropped),
            field("rx", "bad_free").r_data.eq(self.rx.bad_free),
            field("rx", "cpu_accesses").r_data.eq(self.cpu_accesses),
        ]
        inner.d.comb += [
            self.tx.producer.eq(field("tx", "producer").data),
            self.tx.next_hops.eq(field("tx", "next_hops").data),
            field("tx", "consumer").r_data.eq(self.tx.consumer),
        ]
        inner.d.comb += [
            field("sq", "producer").r_data.eq(self.sq.producer),
            self.sq.consumer.eq(field("sq", "consumer").data),
            self.sq.load.eq(field("core", "load").data),
        ]
        inner.d.comb += [
            self.cq.post.eq(field("cq", "post", "more").w_stb),
            self.cq.user_data.eq(Cat(field("cq", "user_low").data, field("cq", "user_high").data)),
            self.cq.result.eq(field("cq", "result").data),
            *(
                getattr(self.cq, name).eq(field("cq", "post", name).w_data)
                for name in ("more", "is_joined", "host", "join_id")
            ),
            field("cq", "space").r_data.eq(self.cq.space),
        ]
        for block, port in (("dma_in", self.dma_in), ("dma_out", self.dma_out)):
            inner.d.comb += [
                port.go.eq(field(block, "go", "length").w_stb),
                port.local.eq(field(block, "local").data),
                port.host_address.eq(field(block, "host_address").data),
                *(getattr(port, name).eq(field(block, "go", name).w_data) for name in ("length", "tag", "host")),
                field(block, "space").r_data.eq(port.space),
                field(block, "completion", "tag").r_data.eq(Mux(port.completion_valid, port.completion_tag, 0)),
                field(block, "completion", "status").r_data.eq(Mux(port.completion_valid, port.completion_status, 0)),
                field(block, "completion", "valid").r_data.eq(port.completion_valid),
                port.completion_pop.eq(field(block, "completion", "valid").r_stb & port.completion_valid),
            ]

    def _messages_and_locks(self, inner: Module, page: CsrPage) -> None:
        port = self.message
        inner.d.comb += [
            port.send.eq(page.field("message", "send", "to").w_stb),
            port.to.eq(page.field("message", "send", "to").w_data),
            port.send_words.eq(Cat(page.field("message", "send_word", index=i).data for i in range(4))),
            page.field("message", "status", "space").r_data.eq(port.space),
            page.field("message", "status", "available").r_data.eq(port.available),
            page.field("message", "status", "sender").r_data.eq(port.sender),
            port.pop.eq(page.field("message", "pop").w_stb),
        ]
        for i in range(4):
            inner.d.comb += page.field("message", "word", index=i).r_data.eq(port.words.word_select(i, 32))

        port = self.lock
        owners = [page.field("lock", "lock", "owner", index=i) for i in range(self.config.lock_count)]
        inner.d.comb += [
            port.take.eq(Cat(field.r_stb for field in owners).any()),
            port.release.eq(Cat(field.w_stb for field in owners).any()),
            # The address stays until the acknowledgement, which is when a write strobes; this keeps the encoding of 32
            # strobes out of the way from the CPU through the lock unit and back.
            port.index.eq(page.bus.adr[: len(port.index)]),
        ]
        for i, owner in enumerate(owners):
            inner.d.comb += [
                owner.r_data.eq(port.owner),
                page.field("lock", "lock", "taken_now", index=i).r_data.eq(port.taken_now),
                page.field("lock", "lock", "mine", index=i).r_data.eq(port.mine),
            ]

    def _probe(self, m: Module, inner: Module, page: CsrPage) -> None:
        block = page.block("probe")
        connect_probe(m, inner, block, self.probe, self.reset_core)
        connect_tuple(inner, block, self.flow)
        names = ("operation", "is_ipv6", "is_tcp", "is_spread", "index")
        result, busy = connect_requests(m, inner, block, self.flow, "flow", names, self.reset_core)
        inner.d.comb += [
            *(block.field("flow_result", name).r_data.eq(result[name]) for name in ("status", "index", "core")),
            block.field("flow_result", "busy").r_data.eq(busy),
        ]

    def _events(self, inner: Module, page: CsrPage, tick_pending: Value, cpu: VexRiscv) -> None:
        consumer = Signal.like(self.tx.consumer)
        returned = Signal()
        inner.d.sync += consumer.eq(self.tx.consumer)
        with inner.If(consumer != self.tx.consumer):
            inner.d.sync += returned.eq(1)
        with inner.Elif(page.field("tx", "consumer").w_stb):
            inner.d.sync += returned.eq(0)
        events = {
            "rx": self.rx.producer != page.field("rx", "consumer").data,
            "sq": self.sq.producer != page.field("sq", "consumer").data,
            "tx": returned,
            "dma_in": self.dma_in.completion_valid,
            "dma_out": self.dma_out.completion_valid,
            "message": self.message.available,
            "tick": tick_pending,
            "rx_other": self.rx.other_producer != page.field("rx", "other_consumer").data,
            "rx_low": self.rx.low,
        }
        enabled = Signal(len(EVENTS))
        for bit, (name, _) in enumerate(EVENTS):
            inner.d.comb += [
                page.field("event", "pending", name).r_data.eq(events[name]),
                enabled[bit].eq(events[name] & page.field("event", "enable", name).data),
            ]
        interrupt = Signal()
        inner.d.sync += interrupt.eq(enabled.any())
        inner.d.comb += cpu.external_interrupt.eq(interrupt)
