"""The receive path from behind the MACs to the cores' RAMs, with traffic and firmware in hardware, to run it at full speed.

Each port's generator sends minimum-size TCP frames at 1 Gb/s back to back: 84 byte times a frame (IEEE 802.3 clause 4.4.2:
preamble and SFD 8, frame 64, gap 12), 50.4 cycles at 75 MHz, the words of a frame at the MAC's rate of one in 2.4 cycles.
Source ports are random, so that the hash spreads the frames. Destination port and acknowledgement are the complements of
source port and sequence number: the TCP checksum, a one's complement sum, stays the same.

Each core's sink does what firmware does, without its time: it reads descriptors, checks them against header copy and
bank, and gives the buffers back.
"""

from __future__ import annotations

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect

from twinstack.config import EngineConfig
from twinstack.dispatcher import Dispatcher
from twinstack.interfaces import FrameStream, RxQueuePort, ram_port_for
from twinstack.memory import RamArbiter, TrueDualPortRam
from twinstack.proto.descriptor import RX_DESCRIPTOR
from twinstack.proto.memory_map import rx_buffer_offset
from twinstack.rx_dma import RxDma
from twinstack.rx_front_end import RxFrontEnd

from .rss_vectors import RSS_KEY

OTHER_RING, HEADERS = 0x1000, 0x2000
RING_LOG2 = 6
FRAME_WORDS = 16
SLOTS = 84 // 4
"""Word times between the starts of two frames."""
BYTE_TIMES_PER_CYCLE = (5, 3)
"""125 MHz against 75 MHz."""
SEQUENCE_WORD, PORTS_WORD = 10, 9


def template() -> list[int]:
    """Words of a frame with source port and sequence number zero, without FCS."""
    from scapy.all import IP, TCP, Ether

    packet = Ether(dst="02:00:00:00:00:01", src="02:00:00:00:00:02") / IP(src="10.0.0.2", dst="10.0.0.1")
    packet /= TCP(sport=0, dport=0xFFFF, seq=0, ack=0xFFFF_FFFF, flags="A")
    raw = (bytes(2) + bytes(packet)).ljust(62, b"\0").ljust(4 * FRAME_WORDS, b"\0")
    return [int.from_bytes(raw[at : at + 4], "little") for at in range(0, len(raw), 4)]


def in_wire_order(value: Value) -> Value:
    """A 32-bit number as it lies in a frame's word."""
    return Cat(value[8 * lane :][:8] for lane in reversed(range(4)))


class Generator(wiring.Component):
    """Sends frames while ``sent`` is below ``wanted``; the number of the frame is its sequence number."""

    def __init__(self, port: int):
        self._port = port
        super().__init__({"wanted": In(31), "sent": Out(31), "o": Out(FrameStream)})

    def elaborate(self, platform):
        m = Module()
        phase = Signal(range(64))
        slot = Signal(range(SLOTS))
        tick, busy = Signal(), Signal()
        random = Signal(32, init=0x1234_5678 + self._port)
        fast, slow = BYTE_TIMES_PER_CYCLE
        with m.If(phase >= 4 * slow - fast):  # a word is 4 byte times
            m.d.comb += tick.eq(1)
            m.d.sync += phase.eq(phase - (4 * slow - fast))
        with m.Else():
            m.d.sync += phase.eq(phase + fast)
        sequence = Cat(self.sent, Const(self._port, 1))
        words = Array(Const(word, 32) for word in template())
        word = Signal(32)
        m.d.comb += [
            word.eq(words[slot[:4]]),
            self.o.payload.data.eq(word),
            self.o.payload.count.eq(Mux(slot == FRAME_WORDS - 1, 2, 4)),
            self.o.payload.last.eq(slot == FRAME_WORDS - 1),
            self.o.valid.eq(tick & busy & (slot < FRAME_WORDS)),
        ]
        with m.Switch(slot):
            with m.Case(PORTS_WORD):
                m.d.comb += self.o.payload.data.eq(Cat(random[:16], ~random[:16]))
            with m.Case(SEQUENCE_WORD):
                m.d.comb += self.o.payload.data.eq(in_wire_order(sequence))
            with m.Case(SEQUENCE_WORD + 1):
                m.d.comb += self.o.payload.data.eq(in_wire_order(~sequence))
        with m.If(tick):
            m.d.sync += slot.eq(slot + 1)
            with m.If(slot == SLOTS - 1):
                m.d.sync += [slot.eq(0), busy.eq(self.sent + busy != self.wanted), self.sent.eq(self.sent + busy)]
                shifted = random ^ (random << 13)[:32]
                shifted = shifted ^ (shifted >> 17)
                m.d.sync += random.eq(shifted ^ (shifted << 5)[:32])
        return m


class Sink(wiring.Component):
    """Takes descriptors from the other queue, checks them, and gives the buffers back while ``give_back``."""

    def __init__(self, config: EngineConfig):
        self._config = config
        super().__init__(
            {
                "queue": Out(RxQueuePort()),
                "data": Out(ram_port_for(config.data_bytes)),
                "bank": Out(ram_port_for(config.rx_bank_bytes)),
                "give_back": In(1),
                "received": Out(32),
                "errors": Out(32),
                "sums": Out(data.ArrayLayout(48, 2)),  # of the sequence numbers from each port
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, queue = self._config, self.queue
        m.d.comb += [
            queue.other_ring.eq(OTHER_RING),
            queue.headers.eq(HEADERS),
            queue.ring_log2.eq(RING_LOG2),
            queue.other_ring_log2.eq(RING_LOG2),
            queue.ring.eq(0),
            queue.enable.eq(1),
        ]
        for name in ("flow_large", "flow_small", "other_large", "other_small"):
            m.d.comb += getattr(queue, f"limit_{name}").eq(255)

        buffers = config.rx_buffers
        held = Signal(buffers)
        with m.If(self.give_back):
            for index in reversed(range(buffers)):
                with m.If(held[index]):
                    m.d.comb += [queue.free_valid.eq(1), queue.free_index.eq(index)]
        for index in range(buffers):
            with m.If(queue.free_valid & (queue.free_index == index)):
                m.d.sync += held[index].eq(0)

        consumer = Signal(16)
        place = (OTHER_RING // 4) + (consumer[:RING_LOG2] << 4)
        index = Signal(range(max(2, buffers)))
        size_class = Signal(4)
        sequence = Signal(32)
        offsets = Array(rx_buffer_offset(i, config.rx_large_buffers) // 4 for i in range(buffers))
        last = [Signal(31, name=f"last{port}", init=(1 << 31) - 1) for port in range(2)]  # the one before the first
        read = self.data.read_data
        field = {f.name: read[f.lsb :][: f.width] for f in RX_DESCRIPTOR}
        m.d.comb += [self.data.valid.eq(1), self.data.mask.eq(0xF), self.bank.valid.eq(1)]

        def check(condition):
            with m.If(~condition):
                m.d.sync += self.errors.eq(self.errors + 1)

        with m.FSM():
            with m.State("Wait"):
                m.d.comb += self.data.address.eq(place)
                with m.If(consumer != queue.other_producer):
                    m.next = "Read Sequence"
            with m.State("Read Sequence"):
                m.d.comb += self.data.address.eq(place + RX_DESCRIPTOR["tcp_sequence"].word)
                m.d.sync += [index.eq(field["buffer_index"]), size_class.eq(field["buffer_class"])]
                m.next = "Read Owner"
            with m.State("Read Owner"):
                m.d.comb += self.data.address.eq(place + RX_DESCRIPTOR["owner"].word)
                m.d.sync += sequence.eq(read)
                check(size_class == (index >= config.rx_large_buffers))
                m.next = "Read Copies"
            with m.State("Read Copies"):
                m.d.comb += [
                    self.data.address.eq(HEADERS // 4 + (index << 5) + SEQUENCE_WORD),
                    self.bank.address.eq(offsets[index] + SEQUENCE_WORD),
                ]
                check(field["owner"])
                m.next = "Compare"
            with m.State("Compare"):
                # The next owner bit found there must be a new one.
                m.d.comb += [self.data.address.eq(place + RX_DESCRIPTOR["owner"].word), self.data.write.eq(1)]
                wire = in_wire_order(sequence)
                with m.Switch(sequence[31]):
                    for port in range(2):
                        with m.Case(port):
                            # In order, and none twice. From "none yet" on the sum wraps to the first number.
                            ahead = (sequence[:31] - last[port])[:31]
                            check((read == wire) & (self.bank.read_data == wire) & (ahead != 0) & ~ahead[30])
                            m.d.sync += [
                                last[port].eq(sequence[:31]),
                                self.sums[port].eq(self.sums[port] + sequence[:31]),
                            ]
                m.d.sync += [consumer.eq(consumer + 1), self.received.eq(self.received + 1)]
                m.d.sync += held.bit_select(index, 1).eq(1)
                m.next = "Wait"
        with m.If(queue.producer != 0):
            m.d.sync += self.errors.eq(self.errors + 1)
        return m


class LineRateTop(wiring.Component):
    """Two ports, two cores; see the module.

    Members
    -------
    wanted : ``In(31)``
        Frames that each port shall have sent.
    give_back : ``In(1)``
        The sinks give buffers back.
    steal : ``In(1)``
        Somebody else has every tenth cycle of each data RAM's port (TX engine, SQ delivery).
    sent, received, errors, sums, dropped, overflow, checksum_errors, undispatched, free_buffers : Out
        Sums over ports or cores; ``sums`` by port.
    """

    def __init__(self, config: EngineConfig):
        if config.ports != 2 or config.cores != 2:
            raise ValueError(f"config must have two ports and two cores, not {config!r}")
        self._config = config
        names = ("sent", "received", "errors", "dropped", "overflow", "checksum_errors", "undispatched", "free_buffers")
        super().__init__(
            {"wanted": In(31), "give_back": In(1), "steal": In(1), "sums": Out(data.ArrayLayout(48, 2))}
            | {name: Out(32) for name in names}
        )

    def elaborate(self, platform):
        m = Module()
        config = self._config
        m.submodules.dispatcher = dispatcher = Dispatcher(2, 2)
        m.submodules.rx_dma = rx_dma = RxDma(config)
        connect(m, dispatcher=dispatcher.verdict, rx_dma=rx_dma.verdict)
        m.d.comb += [
            dispatcher.key.eq(int.from_bytes(RSS_KEY, "little")),
            dispatcher.tcp_ports.eq(1),
            dispatcher.udp_ports.eq(1),
            dispatcher.alive.eq(0b11),
        ]
        fronts, generators, sinks = [], [], []
        for port in range(2):
            m.submodules[f"generator{port}"] = generator = Generator(port)
            m.submodules[f"front{port}"] = front = RxFrontEnd(config.frame_fifo_words, config.max_frame_bytes)
            connect(m, generator.o, front.i)
            connect(m, front.meta, getattr(dispatcher, f"meta{port}"))
            connect(m, front.frames, rx_dma.frames[port])
            m.d.comb += generator.wanted.eq(self.wanted)
            fronts.append(front)
            generators.append(generator)
        since_theft = Signal(range(10))
        m.d.sync += since_theft.eq(Mux(since_theft == 9, 0, since_theft + 1))
        for core in range(2):
            m.submodules[f"sink{core}"] = sink = Sink(config)
            m.submodules[f"bank{core}"] = bank = TrueDualPortRam(config.rx_bank_bytes)
            m.submodules[f"data{core}"] = ram = TrueDualPortRam(config.data_bytes)
            # The thief comes first and reads for one cycle.
            m.submodules[f"arbiter{core}"] = arbiter = RamArbiter(ram.a.address.shape().width, 2, priority=True)
            m.d.comb += arbiter.requesters[0].valid.eq(self.steal & (since_theft == 0))
            connect(m, rx_dma.datas[core], arbiter.requesters[1])
            connect(m, arbiter.ram, ram.a)
            connect(m, rx_dma.banks[core], bank.a)
            connect(m, sink.bank, bank.b)
            connect(m, sink.data, ram.b)
            connect(m, sink.queue, rx_dma.queues[core])
            m.d.comb += sink.give_back.eq(self.give_back)
            sinks.append(sink)

        def total(values):
            return sum(values, Const(0, 1))

        m.d.sync += [
            self.sent.eq(total(g.sent for g in generators)),
            self.received.eq(total(s.received for s in sinks)),
            self.errors.eq(total(s.errors for s in sinks)),
            self.overflow.eq(total(f.overflow for f in fronts)),
            self.checksum_errors.eq(total(f.checksum_errors + f.bad_frame + f.unknown_ethertype for f in fronts)),
            self.undispatched.eq(dispatcher.dropped + dispatcher.dropped_by_rule),
            self.dropped.eq(total(q.dropped + q.flow_dropped + q.bad_free for q in rx_dma.queues)),
            self.free_buffers.eq(total(q.buffers_large + q.buffers_small for q in rx_dma.queues)),
            *(self.sums[port].eq(total(s.sums[port] for s in sinks)) for port in range(2)),
        ]
        return m
