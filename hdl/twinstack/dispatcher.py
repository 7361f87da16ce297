"""Network-side dispatcher: decides which core gets a frame, and answers which core would get one."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .interfaces import FrameMeta, ProbePort, Verdict
from .toeplitz import KEY_BITS, Toeplitz

TABLE_ENTRIES = 128


def _round_robin(m: Module, last: Signal, valids: list[Value]) -> Signal:
    """The valid one that comes next after ``last``; ``last`` itself only if there is no other."""
    chosen = Signal.like(last, name=f"{last.name}_chosen")
    with m.Switch(last):
        for index in range(len(valids)):
            with m.Case(index):
                for step in reversed(range(1, len(valids) + 1)):
                    candidate = (index + step) % len(valids)
                    with m.If(valids[candidate]):
                        m.d.comb += chosen.eq(candidate)
    return chosen


class HashUnit(wiring.Component):
    """Toeplitz hash and indirection table for several clients, round robin.

    Parameters
    ----------
    clients : int
        At least 1.
    cores : int, 1..4
        Cores.

    Members
    -------
    client0, ... : ``In(ProbePort())``
        ``done`` comes two cycles after a request was accepted. ``core`` is the table's, alive or not.
    key, indirection_valid, indirection_index, indirection_core, bad_config
        As in :class:`Dispatcher`.
    is_hashing : ``Out(1)``
        A client's request is being hashed and must not change.

    Timing
    ------
    A job takes ``steps + 3`` cycles, at most 12, see :class:`Toeplitz`; the next one is chosen in its last cycle. Nothing is
    served in the first 128 cycles after reset.
    """

    def __init__(self, clients: int, cores: int):
        self._cores = cores
        super().__init__(
            {
                "key": In(KEY_BITS),
                "indirection_valid": In(1),
                "indirection_index": In(7),
                "indirection_core": In(4),
                "bad_config": Out(16),
                "is_hashing": Out(1),
            }
            | {f"client{index}": In(ProbePort()) for index in range(clients)}
        )
        self.clients = [getattr(self, f"client{index}") for index in range(clients)]

    def elaborate(self, platform):
        m = Module()
        core_bits = max(1, (self._cores - 1).bit_length())
        m.submodules.table = table = memory.Memory(shape=core_bits, depth=TABLE_ENTRIES, init=[])
        table_write, table_read = table.write_port(), table.read_port()

        # The memory itself cannot be reset.
        fill = Signal(range(TABLE_ENTRIES + 1))
        fill_core = Signal(core_bits)
        is_filled = fill[-1]
        accept = is_filled & (self.indirection_core < self._cores)
        with m.If(~is_filled):
            m.d.comb += [table_write.en.eq(1), table_write.addr.eq(fill), table_write.data.eq(fill_core)]
            m.d.sync += [fill.eq(fill + 1), fill_core.eq(Mux(fill_core == self._cores - 1, 0, fill_core + 1))]
        with m.Else():
            m.d.comb += [
                table_write.en.eq(self.indirection_valid & accept),
                table_write.addr.eq(self.indirection_index),
                table_write.data.eq(self.indirection_core),
            ]
        with m.If(self.indirection_valid & ~accept):
            m.d.sync += self.bad_config.eq(self.bad_config + 1)

        m.submodules.toeplitz = toeplitz = Toeplitz()
        client = Signal(range(len(self.clients)))
        valids = [port.request.valid for port in self.clients]
        chosen = _round_robin(m, client, valids)
        somebody = is_filled & Cat(valids).any()
        m.d.comb += [toeplitz.key.eq(self.key), table_read.addr.eq(toeplitz.o.payload)]
        with m.Switch(client):
            for index, port in enumerate(self.clients):
                with m.Case(index):
                    m.d.comb += [
                        toeplitz.i.payload.eq(port.request.payload),
                        port.request.ready.eq(toeplitz.i.valid & toeplitz.i.ready),
                    ]

        rss_hash = Signal(32)
        core = Signal(4)
        for port in self.clients:
            m.d.comb += [port.result.rss_hash.eq(rss_hash), port.result.core.eq(core)]
            m.d.sync += port.done.eq(0)
        with m.FSM():
            with m.State("Choose"):
                m.d.sync += client.eq(chosen)
                with m.If(somebody):
                    m.next = "Hash"
            with m.State("Hash"):
                m.d.comb += [self.is_hashing.eq(1), toeplitz.i.valid.eq(1), toeplitz.o.ready.eq(1)]
                with m.If(toeplitz.o.valid):
                    m.next = "Look Up"
            with m.State("Look Up"):
                m.d.sync += [rss_hash.eq(toeplitz.o.payload), core.eq(table_read.data), client.eq(chosen)]
                with m.Switch(client):
                    for index, port in enumerate(self.clients):
                        with m.Case(index):
                            m.d.sync += port.done.eq(1)
                m.next = "Choose"
                with m.If(somebody):
                    m.next = "Hash"
        return m


class Dispatcher(wiring.Component):
    """Gives each frame a verdict; frames of all ports and the cores' probes share one hash unit.

    The first that applies decides:

    1. no core lives: drop;
    2. ARP request: the manager, which answers it;
    3. any other ARP, broadcast, multicast: every living core; the manager answers;
    4. IPv4, IPv6: the core that the indirection table names for the low 7 bits of the Toeplitz hash, which answers it;
       the manager in its place if that core does not live. The hash covers addresses and ports of TCP with
       ``tcp_ports``, of UDP with ``udp_ports``, unless the frame is a fragment or its parse was cut short; else the
       addresses only;
    5. anything else: the manager, which answers it.

    ``rss_hash`` of a verdict is the hash of whatever is IP, and zero otherwise.

    Parameters
    ----------
    ports : int, 1..4
        Network ports.
    cores : int, 1..4
        Cores.

    Members
    -------
    meta0, ... : ``In(stream.Signature(FrameMeta))``
        Parsed frames of each port, in the order of its frame FIFO. Accepted with their verdict.
    verdict : ``Out(stream.Signature(Verdict))``
        Decisions, round robin between the ports that have a frame.
    key : ``In(320)``
        Toeplitz key, first byte in bits 7:0. A frame or probe that is being hashed while it changes gets a useless hash.
    tcp_ports, udp_ports : ``In(1)``
        Hash the ports of TCP, of UDP.
    indirection_valid, indirection_index, indirection_core : ``In(1)``, ``In(7)``, ``In(4)``
        Write one entry in this cycle. A core that does not exist is refused, and so is any write in the first 128
        cycles after reset, in which entry i becomes i modulo ``cores``.
    alive : ``In(cores)``
        Bit n: core n lives. Looked at when the decision is made.
    manager : ``Out(4)``
        Lowest living core; 0 if there is none.
    probe0, ... : ``In(ProbePort())``
        Which core would get such a frame. ``has_ports`` counts only if ``tcp_ports`` or ``udp_ports`` is set; when only
        one of them is, the asker clears it for the other protocol. ``done`` comes after the request was accepted.
    dropped : ``Out(32)``
        Frames dropped by verdict. Wraps, as do the other counters.
    bad_config : ``Out(16)``
        Writes to the indirection table that were refused.
    dispatched0, ... : ``Out(32)``
        Frames given to core n.

    Timing
    ------
    A frame takes 10 cycles with IPv4, 16 with IPv6, 4 without a hash, when no probe is under way; a verdict that
    nobody accepts holds up frames, not probes. A job of the hash unit takes at most 12 cycles, and it serves frames and each
    core's probe round robin: a probe is done within 12 * (cores + 1) + 4 cycles, and a frame waits for at most one probe
    of each core. After reset all wait until the table is filled.

    Raises
    ------
    TypeError, ValueError
        If ``ports`` or ``cores`` is not an integer from 1 to 4.
    """

    def __init__(self, ports: int, cores: int):
        for name, value in (("ports", ports), ("cores", cores)):
            if not isinstance(value, int):
                raise TypeError(f"{name} must be an integer, not {value!r}")
            if not 1 <= value <= 4:
                raise ValueError(f"{name} must be 1 to 4, not {value!r}")
        self._cores = cores
        super().__init__(
            {
                "verdict": Out(stream.Signature(Verdict)),
                "key": In(KEY_BITS),
                "tcp_ports": In(1),
                "udp_ports": In(1),
                "indirection_valid": In(1),
                "indirection_index": In(7),
                "indirection_core": In(4),
                "alive": In(cores),
                "manager": Out(4),
                "dropped": Out(32),
                "bad_config": Out(16),
            }
            | {f"meta{port}": In(stream.Signature(FrameMeta)) for port in range(ports)}
            | {f"probe{core}": In(ProbePort()) for core in range(cores)}
            | {f"dispatched{core}": Out(32) for core in range(cores)}
        )
        self.metas = [getattr(self, f"meta{port}") for port in range(ports)]
        self.probes = [getattr(self, f"probe{core}") for core in range(cores)]
        self.dispatched = [getattr(self, f"dispatched{core}") for core in range(cores)]

    def _living(self, m: Module, core: Value) -> Signal:
        """``core`` if it lives, otherwise the manager."""
        living = Signal(4)
        m.d.comb += living.eq(self.manager)
        for number in range(self._cores):
            with m.If((core == number) & self.alive[number]):
                m.d.comb += living.eq(number)
        return living

    def elaborate(self, platform):
        m = Module()
        for core in reversed(range(self._cores)):
            with m.If(self.alive[core]):
                m.d.comb += self.manager.eq(core)

        m.submodules.hash_unit = hash_unit = HashUnit(1 + self._cores, self._cores)
        m.d.comb += [
            hash_unit.key.eq(self.key),
            hash_unit.indirection_valid.eq(self.indirection_valid),
            hash_unit.indirection_index.eq(self.indirection_index),
            hash_unit.indirection_core.eq(self.indirection_core),
            self.bad_config.eq(hash_unit.bad_config),
        ]
        # A change takes effect between two hashes.
        tcp_ports, udp_ports = Signal(), Signal()
        with m.If(~hash_unit.is_hashing):
            m.d.sync += [tcp_ports.eq(self.tcp_ports), udp_ports.eq(self.udp_ports)]
        frame_hash, *probe_hashes = hash_unit.clients
        for probe, client in zip(self.probes, probe_hashes, strict=True):
            connect(m, flipped(probe), client)
            has_ports = probe.request.payload.has_ports & (tcp_ports | udp_ports)
            m.d.comb += [
                client.request.payload.has_ports.eq(has_ports),
                probe.result.core.eq(self._living(m, client.result.core)),
            ]

        port = Signal(range(len(self.metas)))
        valids = [meta.valid for meta in self.metas]
        next_port = _round_robin(m, port, valids)
        meta = Signal(FrameMeta)
        with m.Switch(port):
            for index, frames in enumerate(self.metas):
                with m.Case(index):
                    m.d.comb += [
                        meta.eq(frames.payload),
                        frames.ready.eq(self.verdict.valid & self.verdict.ready),
                    ]
        request = frame_hash.request.payload
        verdict = self.verdict.payload
        hashes_ports = (meta.is_tcp & tcp_ports) | (meta.is_udp & udp_ports)
        m.d.comb += [
            request.source.eq(meta.source),
            request.destination.eq(meta.destination),
            request.source_port.eq(meta.source_port),
            request.destination_port.eq(meta.destination_port),
            request.is_ipv6.eq(meta.is_ipv6),
            request.has_ports.eq(hashes_ports & ~meta.is_fragment & ~meta.is_truncated_parse),
            verdict.meta.eq(meta),
            verdict.port.eq(port),
        ]

        is_ip = meta.is_ipv4 | meta.is_ipv6
        manager_mask, hash_mask = Signal(4), Signal(4)
        m.d.comb += [
            manager_mask.eq(Mux(self.alive.any(), 1 << self.manager, 0)),
            hash_mask.eq(Mux(self.alive.any(), 1 << self._living(m, frame_hash.result.core), 0)),
        ]
        to_one = [verdict.cores.eq(manager_mask), verdict.answer.eq(manager_mask)]
        to_all = [verdict.cores.eq(self.alive), verdict.answer.eq(manager_mask)]
        to_hash = [verdict.cores.eq(hash_mask), verdict.answer.eq(hash_mask)]
        decide = Signal()
        with m.If(decide):
            m.d.sync += verdict.rss_hash.eq(Mux(is_ip, frame_hash.result.rss_hash, 0))
            with m.If(meta.is_arp & meta.is_arp_request):
                m.d.sync += to_one
            with m.Elif(meta.is_arp | meta.is_broadcast | meta.is_multicast):
                m.d.sync += to_all
            with m.Elif(is_ip):
                m.d.sync += to_hash
            with m.Else():
                m.d.sync += to_one

        with m.FSM():
            with m.State("Select Port"):
                m.d.sync += port.eq(next_port)
                with m.If(Cat(valids).any()):
                    m.next = "Classify"
            with m.State("Classify"):
                m.d.comb += [frame_hash.request.valid.eq(is_ip), decide.eq(~is_ip)]
                with m.If(~is_ip):
                    m.next = "Give Verdict"
                with m.Elif(frame_hash.request.ready):
                    m.next = "Await Hash"
            with m.State("Await Hash"):
                m.d.comb += decide.eq(frame_hash.done)
                with m.If(frame_hash.done):
                    m.next = "Give Verdict"
            with m.State("Give Verdict"):
                m.d.comb += self.verdict.valid.eq(1)
                with m.If(self.verdict.ready):
                    with m.If(~verdict.cores.any()):
                        m.d.sync += self.dropped.eq(self.dropped + 1)
                    for core, dispatched in enumerate(self.dispatched):
                        with m.If(verdict.cores[core]):
                            m.d.sync += dispatched.eq(dispatched + 1)
                    m.next = "Select Port"
        return m
