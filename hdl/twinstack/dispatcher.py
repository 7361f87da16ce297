"""Network-side dispatcher: decides which core gets a frame, and answers which core would get one."""

# No postponed annotations here: data.Struct evaluates its own.

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .dispatch_rules import DispatchRules, Rule
from .flow_table import FlowTable
from .hash_unit import HashUnit
from .interfaces import FlowPort, FlowRequest, FlowResult, FrameMeta, ProbePort, ProbeResult, Verdict
from .proto.descriptor import FlowOperation, FlowStatus, RuleAction
from .toeplitz import KEY_BITS
from .udp_port_table import UdpPortTable

PROTOCOL_TCP = 6
PROTOCOL_UDP = 17
NEIGHBOUR_SOLICITATION = 135  # RFC 4861 4.3
NEIGHBOUR_ADVERTISEMENT = 136  # 4.4
ROUTER_ADVERTISEMENT = 134  # 4.2


def _round_robin(m: Module, last: Signal, valids: list[Value]) -> Signal:
    """The valid one that comes next after ``last``; ``last`` itself only if there is no other."""
    chosen = Signal.like(last, name=f"{last.name}_chosen")
    with m.Switch(last):
        for index in range(len(valids)):
            with m.Case(index) if index < len(valids) - 1 else m.Default():
                for step in reversed(range(1, len(valids) + 1)):
                    candidate = (index + step) % len(valids)
                    with m.If(valids[candidate]):
                        m.d.comb += chosen.eq(candidate)
    return chosen


class Facts(data.Struct):
    """All that a decision is made of."""

    flow_found: 1
    flow_core: 4
    port_members: 4  # cores of the UDP port; zero: not in the table
    rule_hit: 1
    rule_action: 3
    rule_core: 2
    to_manager: 1  # a request that one core answers
    to_all: 1
    is_ip: 1
    hash_core: 4


class Decision(data.Struct):
    """What becomes of a frame."""

    cores: 4
    answer: 4
    flow_hit: 1
    by_flow: 1
    by_port: 1
    by_rule: 1
    dropped_by_rule: 1


class DispatchDecision(wiring.Component):
    """The steps of :class:`Dispatcher`, in their order; combinational.

    Parameters
    ----------
    cores : int, 1..4
        Cores.

    Members
    -------
    facts : ``In(Facts)``
    alive : ``In(cores)``
    manager : ``In(4)``
        Mask of the lowest living core; zero if there is none.
    decision : ``Out(Decision)``
    """

    def __init__(self, cores: int):
        self._cores = cores
        super().__init__({"facts": In(Facts), "alive": In(cores), "manager": In(4), "decision": Out(Decision)})

    def _mask(self, core: Value) -> Value:
        """Mask of a core's number; none for one that does not exist."""
        return Cat(core == number for number in range(self._cores))

    def _living(self, mask: Value) -> Value:
        """``mask`` of one core if it lives, otherwise the manager's."""
        return Mux((mask & self.alive).any(), mask, self.manager)

    def _of_members(self, members: Value, hash_mask: Value) -> Value:
        """Which of the living members: the hash's choice if it is one, otherwise the lowest."""
        return Mux((members & hash_mask).any(), hash_mask, members & -members)

    def elaborate(self, platform):
        m = Module()
        facts, decision = self.facts, self.decision
        flow_mask, hash_mask, rule_mask, members = (Signal(4) for _ in range(4))
        hash_one = Signal(4)
        m.d.comb += [
            flow_mask.eq(self._mask(facts.flow_core)),
            hash_mask.eq(self._mask(facts.hash_core)),
            rule_mask.eq(self._mask(facts.rule_core)),
            members.eq(facts.port_members & self.alive),
            hash_one.eq(Mux(facts.is_ip, self._living(hash_mask), self.manager)),
        ]

        def one(mask):
            return [decision.cores.eq(mask), decision.answer.eq(mask)]

        to_all = [decision.cores.eq(self.alive), decision.answer.eq(self.manager)]
        with m.If(~self.alive.any()):
            pass
        with m.Elif(facts.flow_found):
            m.d.comb += [
                *one(self._living(flow_mask)),
                decision.flow_hit.eq((flow_mask & self.alive).any()),
                decision.by_flow.eq(1),
            ]
        with m.Elif(members.any()):
            m.d.comb += [*one(self._of_members(members, hash_mask)), decision.by_port.eq(1)]
        with m.Elif(facts.rule_hit):
            m.d.comb += decision.by_rule.eq(1)
            with m.Switch(facts.rule_action):
                with m.Case(RuleAction.CORE):
                    m.d.comb += one(self._living(rule_mask))
                with m.Case(RuleAction.MANAGER):
                    m.d.comb += one(self.manager)
                with m.Case(RuleAction.ALL):
                    m.d.comb += to_all
                with m.Case(RuleAction.HASH):
                    m.d.comb += one(hash_one)
                with m.Default():
                    m.d.comb += decision.dropped_by_rule.eq(1)
        with m.Elif(facts.to_manager):
            m.d.comb += one(self.manager)
        with m.Elif(facts.to_all):
            m.d.comb += to_all
        with m.Else():
            m.d.comb += one(hash_one)
        return m


class Dispatcher(wiring.Component):
    """Gives each frame a verdict, and answers probes by the same path; the cores' requests to the tables go the same way.

    The first that applies decides:

    1. no core lives: drop;
    2. the flow table has the frame's tuple (``has_flow``, no fragment; of an ICMP error the quoted one): the entry's core
       with ``flow_hit`` and ``flow_index``; the manager without them if that core does not live;
    3. the UDP port table has the destination port of a UDP frame (no ICMP error), with living members: the core that the
       hash names if it is one of them, otherwise the lowest of them;
    4. a rule applies: what it says. A core that does not live is replaced by the manager; so is the hash of what is not
       IP. An ICMP error is compared as the ICMP message it is, without ports;
    5. ARP request, neighbour solicitation: the manager, which answers it; other ARP, neighbour and router advertisement,
       broadcast, multicast: every living core; the manager answers;
    6. IPv4, IPv6: the core that the indirection table names for the low 7 bits of the Toeplitz hash, which answers it;
       the manager in its place if that core does not live. The hash covers addresses and ports of TCP with
       ``tcp_ports``, of UDP with ``udp_ports``, unless the frame is a fragment or its parse was cut short; else the
       addresses only. That of an ICMP error with ``has_flow`` is that of the quoted flow;
    7. anything else: the manager, which answers it.

    ``rss_hash`` of a verdict is the hash of whatever is IP, and zero otherwise.

    Parameters
    ----------
    ports : int, 1..4
        Network ports.
    cores : int, 1..4
        Cores.
    flows : int, power of two, 2..256
        Entries of the flow table.
    udp_port_entries : int, 1..64
        Entries of the UDP port table.
    rules : int, 1..16
        Rules.

    Members
    -------
    meta0, ... : ``In(stream.Signature(FrameMeta))``
        Parsed frames of each port, in the order of its frame FIFO. Accepted with their verdict.
    verdict : ``Out(stream.Signature(Verdict))``
        Decisions, round robin between the ports that have a frame.
    key : ``In(320)``
        Toeplitz key, first byte in bits 7:0. A frame or probe that is being hashed while it changes gets a useless hash.
    tcp_ports, udp_ports : ``In(1)``
        Hash the ports of TCP, of UDP. A change takes effect between two jobs.
    indirection_valid, indirection_index, indirection_core : ``In(1)``, ``In(7)``, ``In(4)``
        Write one entry in this cycle. A core that does not exist is refused, and so is any write in the first 128
        cycles after reset, in which entry i becomes i modulo ``cores``.
    rule_write, rule_index, rule : ``In(1)``, ``In(4)``, ``In(Rule)``
        Set one rule in this cycle, see :class:`DispatchRules`.
    alive : ``In(cores)``
        Bit n: core n lives. Looked at when the decision is made.
    core_reset : ``In(cores)``
        Bit n: core n is in reset. Its flows and UDP ports are gone, and what it asked for before is not done.
    manager : ``Out(4)``
        Lowest living core; 0 if there is none.
    probe0, ... : ``In(ProbePort())``
        Which core would get a unicast frame with this tuple: TCP or UDP with ``has_ports``, otherwise of a protocol and
        ports that no rule compares; of no network port that a rule compares. The manager for what a rule drops or gives
        to all. ``done`` comes after the request was accepted.
    host_probe : ``In(ProbePort())``
        The same for the host side.
    flow0, ... : ``In(FlowPort())``
        Requests of each core, see :class:`FlowTable` and :class:`UdpPortTable`. ``done`` likewise.
    flows_used : ``Out(16)``
        Entries of the flow table that are taken.
    dropped : ``Out(32)``
        Frames dropped as no core lived. Wraps, as do the other counters.
    by_flow, by_port, by_rule, dropped_by_rule : ``Out(32)``
        Frames decided by step 2, 3, 4; dropped in step 4.
    bad_config : ``Out(16)``
        Writes to the indirection table and the rules that were refused.
    dispatched0, ... : ``Out(32)``
        Frames given to core n.

    Timing
    ------
    A frame takes 10 cycles with IPv4, 16 with IPv6, ``ceil(rules / 2) + 4`` without a hash, while nothing else is asked. The
    flow table is searched at the same time; it costs more only from the second entry of a chain on: an entry more a cycle,
    with IPv6 three. A verdict that nobody accepts holds up frames, nothing else. Frames, and all the requests together,
    take turns; those among themselves are served round robin. So a frame waits for one request at most, and a request is
    answered after 2 (2 cores + 1) jobs at most, its own included. A job takes 14 cycles, or the time of the flow table if
    that is longer, 3 flows + 16 at most. After reset all wait until the tables are filled, 128 cycles, or ``flows``.

    Raises
    ------
    TypeError, ValueError
        If a parameter is not an integer in its range.
    """

    def __init__(self, ports: int, cores: int, *, flows: int = 128, udp_port_entries: int = 32, rules: int = 8):
        for name, value in (("ports", ports), ("cores", cores)):
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} must be an integer, not {value!r}")
            if not 1 <= value <= 4:
                raise ValueError(f"{name} must be 1 to 4, not {value!r}")
        self._cores = cores
        self._hash_unit = self._make_hash_unit(cores)
        self._flow_table = self._make_flow_table(flows, cores)
        self._port_table = self._make_port_table(udp_port_entries, cores)
        self._rules = self._make_rules(rules, cores)
        super().__init__(
            {
                "verdict": Out(stream.Signature(Verdict)),
                "key": In(KEY_BITS),
                "tcp_ports": In(1),
                "udp_ports": In(1),
                "indirection_valid": In(1),
                "indirection_index": In(7),
                "indirection_core": In(4),
                "rule_write": In(1),
                "rule_index": In(4),
                "rule": In(Rule),
                "alive": In(cores),
                "core_reset": In(cores),
                "manager": Out(4),
                "flows_used": Out(16),
                "dropped": Out(32),
                "by_flow": Out(32),
                "by_port": Out(32),
                "by_rule": Out(32),
                "dropped_by_rule": Out(32),
                "bad_config": Out(16),
            }
            | {f"meta{port}": In(stream.Signature(FrameMeta)) for port in range(ports)}
            | {f"probe{core}": In(ProbePort()) for core in range(cores)}
            | {"host_probe": In(ProbePort())}
            | {f"flow{core}": In(FlowPort()) for core in range(cores)}
            | {f"dispatched{core}": Out(32) for core in range(cores)}
        )
        self.metas = [getattr(self, f"meta{port}") for port in range(ports)]
        self.probes = [*(getattr(self, f"probe{core}") for core in range(cores)), self.host_probe]
        self.flow_ports = [getattr(self, f"flow{core}") for core in range(cores)]
        self.dispatched = [getattr(self, f"dispatched{core}") for core in range(cores)]
        self.client = Signal(range(2 + 2 * cores))
        """Who is served while ``is_busy``: the frames, each core's probe, the host's, each core's table request."""
        self.is_busy = Signal()

    # A proof puts parts with free outputs in the place of these.
    def _make_hash_unit(self, cores):
        return HashUnit(cores)

    def _make_flow_table(self, flows, cores):
        return FlowTable(flows, cores)

    def _make_port_table(self, entries, cores):
        return UdpPortTable(entries, cores)

    def _make_rules(self, rules, cores):
        return DispatchRules(rules, cores)

    def _make_decision(self, cores):
        return DispatchDecision(cores)

    def elaborate(self, platform):
        m = Module()
        m.submodules.hash_unit = hash_unit = self._hash_unit
        m.submodules.flow_table = flow_table = self._flow_table
        m.submodules.port_table = port_table = self._port_table
        m.submodules.rules = rules = self._rules
        m.submodules.decision = decider = self._make_decision(self._cores)
        for core in reversed(range(self._cores)):
            with m.If(self.alive[core]):
                m.d.comb += self.manager.eq(core)
        m.d.comb += [
            hash_unit.key.eq(self.key),
            hash_unit.indirection_valid.eq(self.indirection_valid),
            hash_unit.indirection_index.eq(self.indirection_index),
            hash_unit.indirection_core.eq(self.indirection_core),
            rules.write.eq(self.rule_write),
            rules.index.eq(self.rule_index),
            rules.rule.eq(self.rule),
            flow_table.core_reset.eq(self.core_reset),
            port_table.core_reset.eq(self.core_reset),
            self.flows_used.eq(flow_table.used),
            decider.alive.eq(self.alive),
            decider.manager.eq(Mux(self.alive.any(), 1 << self.manager, 0)),
        ]
        m.d.sync += self.bad_config.eq(self.bad_config + hash_unit.refused + rules.refused)

        requests = [port.request for port in (*self.probes, *self.flow_ports)]
        client = self.client
        is_frame, is_table = Signal(), Signal()
        port = Signal(range(len(self.metas)))
        other = Signal(range(len(requests)))
        has_verdict = Signal()
        stale = Signal(self._cores)  # the table request is from before the core's reset
        valids = [meta.valid for meta in self.metas]
        eligible = [probe.request.valid for probe in self.probes]
        for core, flow_port in enumerate(self.flow_ports):
            request = flow_port.request
            waits = flow_table.sweeping[core] | (
                (request.payload.operation == FlowOperation.INSERT) & ~flow_table.may_insert
            )
            eligible.append(request.valid & (~waits | stale[core]))
            with m.If(self.core_reset[core] & request.valid):
                m.d.sync += stale[core].eq(1)
            with m.If(request.ready):
                m.d.sync += stale[core].eq(0)
        next_port = _round_robin(m, port, valids)
        next_other = _round_robin(m, other, eligible)
        has_frame, has_other = Signal(), Signal()
        m.d.comb += [has_frame.eq(Cat(valids).any() & ~has_verdict), has_other.eq(Cat(eligible).any())]

        # The tuple of whoever is served.
        meta = Signal(FrameMeta)
        with m.Switch(port):
            for index, frames in enumerate(self.metas):
                with m.Case(index):
                    m.d.comb += [meta.eq(frames.payload), frames.ready.eq(self.verdict.valid & self.verdict.ready)]
        job = Signal(FlowRequest)
        has_ports, port_options = Signal(), Signal()  # the tuple has ports; and they are to be hashed
        is_tcp = Signal()
        is_ip = Signal()
        tcp_ports, udp_ports = Signal(), Signal()
        asks_flow_table, asks_port_table = Signal(), Signal()
        subject = rules.subject
        facts = decider.facts
        frame_has_flow = meta.has_flow & ~meta.is_fragment
        with m.Switch(client):
            with m.Case(0):
                is_l4 = meta.is_tcp | meta.is_udp
                for name in ("source", "destination", "source_port", "destination_port", "is_ipv6"):
                    m.d.comb += job[name].eq(meta[name])
                icmpv6 = meta.is_icmp & meta.is_ipv6 & ~meta.is_fragment
                advertisement = (meta.icmp_type == NEIGHBOUR_ADVERTISEMENT) | (meta.icmp_type == ROUTER_ADVERTISEMENT)
                m.d.comb += [
                    is_frame.eq(1),
                    is_ip.eq(meta.is_ipv4 | meta.is_ipv6),
                    is_tcp.eq(Mux(meta.has_flow, meta.flow_is_tcp, meta.is_tcp)),
                    has_ports.eq(meta.has_flow | (is_l4 & ~meta.is_icmp_error)),
                    port_options.eq(~meta.is_fragment & ~meta.is_truncated_parse),
                    asks_flow_table.eq(frame_has_flow),
                    asks_port_table.eq(frame_has_flow & ~is_tcp & ~meta.is_icmp_error),
                    subject.kind.eq(Cat(meta.is_ipv4, meta.is_ipv6, meta.is_arp)),
                    subject.has_protocol.eq(is_ip),
                    subject.protocol.eq(meta.ip_protocol),
                    subject.network_port.eq(1 << port),
                    subject.has_ports.eq(frame_has_flow & ~meta.is_icmp_error),
                    facts.to_manager.eq(
                        (meta.is_arp & meta.is_arp_request) | (icmpv6 & (meta.icmp_type == NEIGHBOUR_SOLICITATION))
                    ),
                    facts.to_all.eq(meta.is_arp | meta.is_broadcast | meta.is_multicast | (icmpv6 & advertisement)),
                ]
            for index, probe in enumerate(self.probes, 1):
                with m.Case(index):
                    asked = probe.request.payload
                    for name in ("source", "destination", "source_port", "destination_port", "is_ipv6"):
                        m.d.comb += job[name].eq(asked[name])
                    m.d.comb += [
                        is_ip.eq(1),
                        is_tcp.eq(asked.is_tcp),
                        has_ports.eq(asked.has_ports),
                        port_options.eq(1),
                        asks_flow_table.eq(asked.has_ports),
                        asks_port_table.eq(asked.has_ports & ~is_tcp),
                        subject.kind.eq(Mux(asked.is_ipv6, 0b10, 0b01)),
                        subject.has_protocol.eq(asked.has_ports),
                        subject.protocol.eq(Mux(is_tcp, PROTOCOL_TCP, PROTOCOL_UDP)),
                        subject.has_ports.eq(asked.has_ports),
                    ]
            for index, flow_port in enumerate(self.flow_ports, 1 + len(self.probes)):
                with m.Case(index):
                    asked = flow_port.request.payload
                    core = index - 1 - len(self.probes)
                    is_live = ~stale[core] & ~self.core_reset[core]
                    for name in ("source", "destination", "source_port", "destination_port", "is_ipv6", "index"):
                        m.d.comb += job[name].eq(asked[name])
                    m.d.comb += [
                        is_table.eq(1),
                        is_tcp.eq(asked.is_tcp),
                        job.operation.eq(asked.operation),
                        job.is_spread.eq(asked.is_spread),
                        flow_table.request.payload.core.eq(core),
                        port_table.job.payload.core.eq(core),
                    ]
                    with m.Switch(asked.operation):
                        with m.Case(FlowOperation.INSERT, FlowOperation.DELETE, FlowOperation.LOOKUP):
                            m.d.comb += asks_flow_table.eq(is_live)
                        with m.Case(FlowOperation.ADD_PORT, FlowOperation.REMOVE_PORT):
                            m.d.comb += asks_port_table.eq(is_live)
        with m.If(~is_table):
            m.d.comb += job.operation.eq(FlowOperation.LOOKUP)
        m.d.comb += [
            job.is_tcp.eq(is_tcp),
            flow_table.request.payload.request.eq(job),
            port_table.port.eq(job.destination_port),
            port_table.job.payload.port.eq(job.destination_port),
            port_table.job.payload.is_remove.eq(job.operation == FlowOperation.REMOVE_PORT),
            port_table.job.payload.is_spread.eq(job.is_spread),
            hash_unit.tuple.source.eq(job.source),
            hash_unit.tuple.destination.eq(job.destination),
            hash_unit.tuple.source_port.eq(job.source_port),
            hash_unit.tuple.destination_port.eq(job.destination_port),
            hash_unit.tuple.is_ipv6.eq(job.is_ipv6),
            hash_unit.tuple.has_ports.eq(has_ports & port_options & Mux(is_tcp, tcp_ports, udp_ports)),
            subject.source_port.eq(job.source_port),
            subject.destination_port.eq(job.destination_port),
        ]

        # What runs for a job, and what is still to come.
        run = Signal()
        asks_flow, asks_port = Signal(), Signal()  # as of the job's first cycle
        flow_done, port_done = Signal(), Signal()
        finished = Signal()
        m.d.comb += [
            hash_unit.run.eq(run & ~is_table & is_ip),
            rules.run.eq(run & ~is_table),
            flow_table.request.valid.eq(run & asks_flow & ~flow_done),
            port_table.job.valid.eq(run & is_table & asks_port & ~port_done),
            finished.eq(
                (flow_done | ~asks_flow) & Mux(is_table, port_done | ~asks_port, rules.done & (hash_unit.done | ~is_ip))
            ),
            facts.flow_found.eq(asks_flow & (flow_table.result.status == FlowStatus.OK)),
            facts.flow_core.eq(flow_table.result.core),
            facts.port_members.eq(Mux(asks_port, port_table.members, 0)),
            facts.rule_hit.eq(rules.hit),
            facts.rule_action.eq(rules.action),
            facts.rule_core.eq(rules.core),
            facts.is_ip.eq(is_ip),
            facts.hash_core.eq(hash_unit.core),
        ]
        with m.If(flow_table.request.ready):
            m.d.sync += flow_done.eq(1)
        with m.If(port_table.job.ready):
            m.d.sync += port_done.eq(1)

        decision = decider.decision
        decided = Signal(Decision)
        verdict = self.verdict.payload
        m.d.comb += [
            verdict.meta.eq(meta),
            verdict.port.eq(port),
            verdict.cores.eq(decided.cores),
            verdict.answer.eq(decided.answer),
            verdict.flow_hit.eq(decided.flow_hit),
            self.verdict.valid.eq(has_verdict),
        ]
        probe_result, flow_result = Signal(ProbeResult), Signal(FlowResult)
        for number, probe in enumerate(self.probes):
            m.d.comb += [probe.result.eq(probe_result), probe.request.ready.eq(finished & run & (client == 1 + number))]
            m.d.sync += probe.done.eq(probe.request.ready)
        for number, flow_port in enumerate(self.flow_ports):
            request = flow_port.request
            m.d.comb += [
                flow_port.result.eq(flow_result),
                request.ready.eq(finished & run & (client == 1 + len(self.probes) + number)),
            ]
            m.d.sync += flow_port.done.eq(request.ready)

        last_was_frame = Signal()
        with m.FSM():
            with m.State("Choose"):
                m.d.sync += [tcp_ports.eq(self.tcp_ports), udp_ports.eq(self.udp_ports)]
                with m.If(hash_unit.is_filled):
                    with m.If(has_frame & ~(last_was_frame & has_other)):
                        m.d.sync += [client.eq(0), port.eq(next_port), last_was_frame.eq(1)]
                        m.next = "Start"
                    with m.Elif(has_other):
                        m.d.sync += [client.eq(1 + next_other), other.eq(next_other), last_was_frame.eq(0)]
                        m.next = "Start"
            with m.State("Start"):
                m.d.comb += self.is_busy.eq(1)
                m.d.sync += [
                    asks_flow.eq(asks_flow_table),
                    asks_port.eq(asks_port_table),
                    flow_done.eq(0),
                    port_done.eq(0),
                ]
                m.next = "Run"
            with m.State("Run"):
                m.d.comb += [run.eq(1), self.is_busy.eq(1)]
                with m.If(finished):
                    with m.If(is_frame):
                        m.d.sync += [
                            decided.eq(decision),
                            has_verdict.eq(1),
                            verdict.rss_hash.eq(Mux(is_ip, hash_unit.rss_hash, 0)),
                            verdict.flow_index.eq(Mux(decision.flow_hit, flow_table.result.index, 0)),
                        ]
                    m.d.sync += [
                        probe_result.rss_hash.eq(hash_unit.rss_hash),
                        probe_result.core.eq(self.manager),
                        probe_result.flow_hit.eq(decision.flow_hit),
                        probe_result.flow_index.eq(Mux(decision.flow_hit, flow_table.result.index, 0)),
                    ]
                    for core in range(self._cores):
                        with m.If(decision.answer[core]):
                            m.d.sync += probe_result.core.eq(core)
                    with m.If(asks_flow):
                        m.d.sync += flow_result.eq(flow_table.result)
                    with m.Else():
                        m.d.sync += [
                            flow_result.status.eq(Mux(asks_port, port_table.status, FlowStatus.BAD_OPERATION)),
                            flow_result.index.eq(0),
                            flow_result.core.eq(0),
                        ]
                    m.next = "Choose"

        with m.If(self.verdict.valid & self.verdict.ready):
            m.d.sync += has_verdict.eq(0)
            with m.If(~decided.cores.any() & ~decided.dropped_by_rule):
                m.d.sync += self.dropped.eq(self.dropped + 1)
            for name in ("by_flow", "by_port", "by_rule", "dropped_by_rule"):
                counter = getattr(self, name)
                with m.If(decided[name]):
                    m.d.sync += counter.eq(counter + 1)
            for core, dispatched in enumerate(self.dispatched):
                with m.If(decided.cores[core]):
                    m.d.sync += dispatched.eq(dispatched + 1)
        return m
