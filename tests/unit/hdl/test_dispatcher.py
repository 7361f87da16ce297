"""Dispatcher against a Python model: decisions, probes, table requests, counters, fairness; all tables, the mask and the
options change while frames flow, and cores are reset."""

import dataclasses
import itertools
import os
import random
from collections import deque
from dataclasses import replace

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

from support.rss_vectors import RSS_KEY, RSS_VECTORS
from twinstack.models import dispatcher as model_module
from twinstack.models.dispatcher import DispatcherModel, ParsedFrame, Rule, probed_frame
from twinstack.models.flow_table import FlowTableModel, UdpPortTableModel
from twinstack.models.toeplitz import rss_hash
from twinstack.proto.descriptor import FlowOperation, FlowStatus, RuleAction

FILL_CYCLES = 128
IPV4_CYCLES, IPV6_CYCLES = 10, 16
"""Of a frame alone."""
DECIDED_CYCLES = 6
"""From a table's decision to its answer, at most."""

_hashes = {}


def cached_hash(key, source, destination, ports=None):
    """The model's hash, each only once: it is slow."""
    call = key, source, destination, ports
    if call not in _hashes:
        _hashes[call] = rss_hash(*call)
    return _hashes[call]


model_module.rss_hash = cached_hash


def random_tuples(rng, count=40):
    """Addresses and ports, few of each, so that rules and tables meet them."""
    ports = [rng.randrange(1 << 16) for _ in range(6)]
    tuples = []
    for _ in range(count):
        length = rng.choice((4, 16))
        tuples.append((rng.randbytes(length), rng.randbytes(length), rng.choice(ports), rng.choice(ports)))
    return tuples


def tcp_frame(flow, **fields):
    source, destination, source_port, destination_port = flow[:4]
    return replace(probed_frame(source, destination, (source_port, destination_port), True), **fields)


def udp_frame(flow, **fields):
    source, destination, source_port, destination_port = flow[:4]
    return replace(probed_frame(source, destination, (source_port, destination_port), False), **fields)


def random_frame(rng, tuples):
    kinds = (
        "tcp",
        "udp",
        "tcp",
        "udp",
        "icmp",
        "error",
        "quotes",
        "fragment",
        "truncated",
        "arp",
        "arp_request",
        "alien",
    )
    kind = rng.choice((*kinds, "neighbour"))
    ends = {rng.choice(("is_broadcast", "is_multicast")): True} if rng.random() < 0.15 else {}
    if kind in ("arp", "arp_request"):
        return ParsedFrame(is_arp=True, is_arp_request=kind == "arp_request", **ends)
    if kind == "alien":
        return ParsedFrame(**ends)
    flow = rng.choice(tuples)
    is_tcp = rng.random() < 0.5
    base = tcp_frame(flow, **ends) if is_tcp else udp_frame(flow, **ends)
    if kind in ("tcp", "udp"):
        return tcp_frame(flow, **ends) if kind == "tcp" else udp_frame(flow, **ends)
    if kind == "fragment":
        return replace(base, is_fragment=True, has_flow=rng.random() < 0.3)
    if kind == "truncated":
        return replace(base, is_truncated_parse=True, has_flow=False)
    icmp = replace(
        base,
        is_tcp=False,
        is_udp=False,
        is_icmp=True,
        has_flow=False,
        flow_is_tcp=False,
        ip_protocol=1 if base.is_ipv4 else 58,
    )
    if kind == "quotes":
        return replace(icmp, is_icmp_error=True, icmp_type=3, has_flow=True, flow_is_tcp=is_tcp)
    icmp = replace(icmp, source_port=0, destination_port=0)
    if kind == "error":
        return replace(icmp, is_icmp_error=True, icmp_type=3)
    types = (0, 8, 133, 134, 135, 136) if kind == "neighbour" else (8, 128)
    return replace(icmp, icmp_type=rng.choice(types), is_fragment=rng.random() < 0.1)


def random_rule(rng, tuples, cores, ports):
    def maybe(*values):
        return rng.choice(values) if rng.random() < 0.4 else None

    _, _, source_port, destination_port = rng.choice(tuples)
    return Rule(
        rng.choice(list(RuleAction)),
        rng.randrange(cores),
        maybe(0x0800, 0x86DD, 0x0806, 0x1234),
        maybe(1, 6, 17, 58),
        maybe(*range(ports), 9),
        maybe(source_port),
        maybe(destination_port),
    )


def little(fields):
    return {name: int.from_bytes(v, "little") if isinstance(v, bytes) else v for name, v in fields.items()}


def meta_bits(frame, sequence=0):
    from twinstack.interfaces import FrameMeta

    return FrameMeta.const(little(dataclasses.asdict(frame)) | {"tcp_sequence": sequence}).as_bits()


def tuple_fields(frame):
    names = ("source", "destination", "source_port", "destination_port", "is_ipv6")
    return {name: getattr(frame, name) for name in names}


def probe_bits(frame):
    from twinstack.interfaces import ProbeRequest

    fields = tuple_fields(frame) | {"has_ports": frame.has_flow, "is_tcp": frame.flow_is_tcp}
    return ProbeRequest.const(little(fields)).as_bits()


def rule_bits(rule):
    from twinstack.dispatch_rules import Rule as RuleLayout

    names = ("ethertype", "protocol", "network_port", "source_port", "destination_port")
    fields = {name: getattr(rule, name) or 0 for name in names}
    fields |= {f"match_{name}": getattr(rule, name) is not None for name in names}
    return RuleLayout.const(fields | {"action": rule.action, "core": rule.core}).as_bits()


@dataclasses.dataclass(frozen=True)
class Command:
    """A table request; DELETE names the entry of ``frame``'s flow, or a wrong one."""

    operation: int
    frame: ParsedFrame
    is_spread: bool = False
    wrong_index: int | None = None


@dataclasses.dataclass(frozen=True)
class State:
    """All that a decision depends on."""

    alive: int
    table: tuple
    options: tuple
    flows: tuple
    ports: tuple
    rules: tuple


class Bench:
    """Drives every port from a queue of frames, every probe and table port from a queue too; checks all that comes out.

    What the dispatcher may have seen when it decided is every state since the transfer of the verdict before; mostly
    that is one only, and ``certain`` counts those.
    """

    def __init__(self, dut, rng):
        self.dut = dut
        self.rng = rng
        names = ("PORTS", "CORES", "FLOWS", "UDP_PORTS", "RULES")
        self.ports, self.cores, flows, udp_ports, self.rule_count = (int(os.environ[name]) for name in names)
        self.model = DispatcherModel(self.cores, RSS_KEY, flows=FlowTableModel(flows))
        self.model.udp_ports_open = UdpPortTableModel(udp_ports)
        self.core_reset = 0
        self.last_reset = -1
        self.frames = [deque() for _ in range(self.ports)]
        self.probes = [deque() for _ in range(self.cores + 1)]  # the last is the host's
        self.commands = [deque() for _ in range(self.cores)]
        self.frame_gap = self.probe_gap = self.command_gap = self.stall = 0.0
        self.write = None  # (index, core) to write in the next cycle
        self.rule_write = None  # (index, Rule)
        self.counters = dict.fromkeys(("dropped", "bad_config", "by_flow", "by_port", "by_rule", "dropped_by_rule"), 0)
        self.certain = 0
        self.dispatched = [0] * self.cores
        self.verdicts = []  # (cycle of transfer, port, frame)
        self.statuses = set()  # (operation, status)
        self.kinds = set()  # how frames were decided
        self.probe_cycles = []  # longest wait counts
        self.command_cycles = []
        self.answers = []  # cycles in which a probe or a table request was done
        self.cycle = 0
        self._presented = [None] * self.ports
        self._probing = [None] * len(self.probes)
        self._commanding = [None] * self.cores
        self._states = []
        self._state = None
        self._verdict_before = None

    def signal(self, name):
        return getattr(self.dut, name)

    def probe_signal(self, number, name):
        """Of a core's probe, or of the host's."""
        return self.signal(f"probe{number}__{name}" if number < self.cores else f"host_probe__{name}")

    async def start(self, *, wait_for_table=True):
        dut = self.dut
        cocotb.start_soon(Clock(dut.clk, 10, "ns").start())
        dut.rst.value = 1
        for port in range(self.ports):
            self.signal(f"meta{port}__valid").value = 0
        for number in range(len(self.probes)):
            self.probe_signal(number, "request__valid").value = 0
        for core in range(self.cores):
            self.signal(f"flow{core}__request__valid").value = 0
        for name in ("verdict__ready", "indirection_valid", "rule_write", "core_reset"):
            self.signal(name).value = 0
        dut.key.value = int.from_bytes(self.model.key, "little")
        self.drive_configuration()
        await RisingEdge(dut.clk)
        await RisingEdge(dut.clk)
        dut.rst.value = 0
        if wait_for_table:
            for _ in range(FILL_CYCLES + 2):
                await RisingEdge(dut.clk)

    def drive_configuration(self):
        self.dut.alive.value = self.model.alive
        self.dut.tcp_ports.value = int(self.model.tcp_ports)
        self.dut.udp_ports.value = int(self.model.udp_ports)
        self.dut.core_reset.value = self.core_reset

    def reset_core(self, core):
        """A core enters reset now: what it asked for is of no effect."""
        self.core_reset |= 1 << core
        self.last_reset = self.cycle
        self.model.alive &= ~(1 << core)
        self.model.reset_core(core)
        if self._commanding[core]:
            self._commanding[core]["killed"] = True

    def state_now(self):
        model = self.model
        state = State(
            model.alive,
            tuple(model.table),
            (model.tcp_ports, model.udp_ports),
            tuple(model.flows.by_flow.items()),
            tuple((port, mask) for port, (mask, _) in model.udp_ports_open.entries.items()),
            tuple(sorted(model.rules.items())),
        )
        if state != self._state:
            self._state = state
        return self._state

    async def step(self):
        """One cycle: drive, wait for the edge, look at what was there before it."""
        dut, rng = self.dut, self.rng
        if not any(self._presented):
            self._states = []
        for port in range(self.ports):
            if self._presented[port] is None and self.frames[port] and rng.random() >= self.frame_gap:
                frame = self.frames[port].popleft()
                self._presented[port] = frame, meta_bits(frame, rng.getrandbits(32))
                self.signal(f"meta{port}__payload").value = self._presented[port][1]
            self.signal(f"meta{port}__valid").value = self._presented[port] is not None
        for number in range(len(self.probes)):
            self._drive_probe(number)
        for core in range(self.cores):
            self._drive_command(core)
        ready = rng.random() >= self.stall
        dut.verdict__ready.value = ready
        self.drive_configuration()
        dut.indirection_valid.value = self.write is not None
        if self.write is not None:
            dut.indirection_index.value, dut.indirection_core.value = self.write
        dut.rule_write.value = self.rule_write is not None
        if self.rule_write is not None:
            dut.rule_index.value = self.rule_write[0]
            dut.rule.value = rule_bits(self.rule_write[1])
        self._note_state()
        await RisingEdge(dut.clk)
        self.cycle += 1
        assert int(dut.manager.value) == self.model.manager
        for core in range(self.cores):
            self._look_at_command(core)
        self._note_state()
        for number in range(len(self.probes)):
            self._look_at_probe(number)
        self._look_at_verdict(ready)
        self._apply_writes()

    def _note_state(self):
        state = self.state_now()
        for states in (self._states, *(probe["states"] for probe in self._probing if probe)):
            if not states or states[-1] is not state:
                states.append(state)

    def _apply_writes(self):
        if self.write is not None:
            index, core = self.write
            if core < self.cores:
                self.model.table[index] = core
            else:
                self.counters["bad_config"] += 1
            self.write = None
        if self.rule_write is not None:
            index, rule = self.rule_write
            bad_core = rule.action == RuleAction.CORE and rule.core >= self.cores
            if index >= self.rule_count or rule.action > max(RuleAction) or bad_core:
                self.counters["bad_config"] += 1
            else:
                self.model.rules = self.model.rules | {index: rule}
            self.rule_write = None

    def _drive_probe(self, number):
        if self._probing[number] is None and self.probes[number] and self.rng.random() >= self.probe_gap:
            frame = self.probes[number].popleft()
            self.probe_signal(number, "request__payload").value = probe_bits(frame)
            self._probing[number] = {"frame": frame, "accepted": False, "since": self.cycle, "states": []}
        probe = self._probing[number]
        self.probe_signal(number, "request__valid").value = probe is not None and not probe["accepted"]

    def _drive_command(self, core):
        may_start = self._commanding[core] is None and not self.core_reset >> core & 1
        if may_start and self.commands[core] and self.rng.random() >= self.command_gap:
            from twinstack.interfaces import FlowRequest

            command = self.commands[core].popleft()
            index = command.wrong_index
            if index is None:
                # The named flow's entry if it is the core's own, otherwise any own: others' may go while this waits.
                by_flow = self.model.flows.by_flow
                own = [entry for entry, owner in by_flow.values() if owner == core]
                index, owner = by_flow.get(command.frame.flow, (0, None))
                index = index if owner == core else self.rng.choice(own or [0xFFFF])
            fields = tuple_fields(command.frame) | {
                "operation": int(command.operation),
                "is_tcp": command.frame.flow_is_tcp,
                "is_spread": command.is_spread,
                "index": index,
            }
            self.signal(f"flow{core}__request__payload").value = FlowRequest.const(little(fields)).as_bits()
            self._commanding[core] = {"command": command, "index": index, "accepted": False, "killed": False}
            self._commanding[core]["since"] = self.cycle
        one = self._commanding[core]
        self.signal(f"flow{core}__request__valid").value = one is not None and not one["accepted"]

    def _look_at_command(self, core):
        one = self._commanding[core]
        if not int(self.signal(f"flow{core}__done").value):
            if one and int(self.signal(f"flow{core}__request__ready").value):
                assert not one["accepted"], "accepted twice"
                one["accepted"] = True
            return
        from twinstack.interfaces import FlowResult

        assert one and one["accepted"], "an answer that nobody asked for"
        self._commanding[core] = None
        self.command_cycles.append(self.cycle - one["since"])
        self.answers.append(self.cycle)
        if one["killed"]:
            return
        result = FlowResult.from_bits(int(self.signal(f"flow{core}__result").value))
        command, flows, ports = one["command"], self.model.flows, self.model.udp_ports_open
        port = command.frame.destination_port
        got = FlowStatus(result.status)
        # What was decided in the last cycles before a reset of another core saw what that core had.
        seen_before_reset = {
            FlowOperation.INSERT: (FlowStatus.EXISTS, FlowStatus.FULL),
            FlowOperation.LOOKUP: (FlowStatus.OK,),
            FlowOperation.ADD_PORT: (FlowStatus.EXISTS, FlowStatus.FULL),
        }
        if self.last_reset >= self.cycle - DECIDED_CYCLES and got in seen_before_reset.get(command.operation, ()):
            return
        match command.operation:
            case FlowOperation.INSERT:
                index = result.index if got == FlowStatus.OK else None
                assert (result.status, result.index, result.core) == flows.insert(command.frame.flow, core, index)
            case FlowOperation.DELETE:
                assert got == flows.delete(one["index"], core)
            case FlowOperation.LOOKUP:
                entry = flows.lookup(command.frame.flow)
                expected = (FlowStatus.OK, *entry) if entry else (FlowStatus.NOT_FOUND, 0, 0)
                assert (result.status, result.index, result.core) == expected
            case FlowOperation.ADD_PORT:
                assert got == ports.add(port, core, command.is_spread)
            case FlowOperation.REMOVE_PORT:
                assert got == ports.remove(port, core)
            case _:
                assert got == FlowStatus.BAD_OPERATION
        self.statuses.add((command.operation, got))

    def possible(self, frame, network_port, states):
        """Every verdict: what it depends on is looked at in different cycles."""
        model = DispatcherModel(self.cores, self.model.key)

        def entry(flows):
            return dict(flows).get(frame.flow)

        def members(ports):
            return dict(ports).get(frame.destination_port, 0)

        verdicts = set()
        choices = [
            {state.alive for state in states},
            {state.table for state in states},
            {state.options for state in states},
            {entry(flows) for flows in {state.flows for state in states}},
            {members(ports) for ports in {state.ports for state in states}},
            {state.rules for state in states},
        ]
        for alive, table, options, found, mask, rules in itertools.product(*choices):
            model.alive, model.table, model.rules = alive, table, dict(rules)
            model.tcp_ports, model.udp_ports = options
            model.flows.by_flow = {frame.flow: found} if found else {}
            model.udp_ports_open.entries = {frame.destination_port: [mask, True]} if mask else {}
            verdict = model.decide(frame, network_port)
            verdicts.add((verdict, model.manager))
        return verdicts

    def _look_at_probe(self, number):
        probe = self._probing[number]
        done = int(self.probe_signal(number, "done").value)
        if probe is None:
            assert not done, "an answer that nobody asked for"
            return
        if done:
            from twinstack.interfaces import ProbeResult

            assert probe["accepted"], "answered before it was accepted"
            result = ProbeResult.from_bits(int(self.probe_signal(number, "result").value))
            expected = {
                (v.rss_hash, v.answer.bit_length() - 1 if v.answer else manager, v.flow_hit, v.flow_index)
                for v, manager in self.possible(probe["frame"], None, probe["states"])
            }
            got = (result.rss_hash, result.core, bool(result.flow_hit), result.flow_index)
            assert got in expected, (probe["frame"], got, expected)
            self.certain += len(expected) == 1
            self.probe_cycles.append(self.cycle - probe["since"])
            self.answers.append(self.cycle)
            self._probing[number] = None
        elif int(self.probe_signal(number, "request__ready").value):
            probe["accepted"] = True

    def _look_at_verdict(self, ready):
        from twinstack.interfaces import Verdict

        dut = self.dut
        accepted = [int(self.signal(f"meta{port}__ready").value) for port in range(self.ports)]
        if not int(dut.verdict__valid.value):
            assert not any(accepted)
            assert self._verdict_before is None, "withdrew a verdict"
            return
        bits = int(dut.verdict__payload.value)
        assert self._verdict_before in (None, bits), "verdict changed while it waited"
        self._verdict_before = bits
        if not ready:
            assert not any(accepted)
            return
        self._verdict_before = None
        verdict = Verdict.from_bits(bits)
        port = verdict.port
        assert accepted == [index == port for index in range(self.ports)]
        assert self._presented[port] is not None
        frame, frame_bits = self._presented[port]
        assert verdict.meta.as_bits() == frame_bits
        got = (verdict.cores, verdict.answer, verdict.rss_hash, bool(verdict.flow_hit), verdict.flow_index)
        possible = {v for v, _ in self.possible(frame, port, self._states)}
        matching = [v for v in possible if (v.cores, v.answer, v.rss_hash, v.flow_hit, v.flow_index) == got]
        assert matching, f"{frame}\n{got}\n{possible}\n{self._states}"
        self.certain += len(possible) == 1
        if len({v.decided_by for v in matching}) == 1:
            self._count(matching[0], verdict.cores)
        else:  # two states give one verdict in different ways: the counters tell which
            self._ambiguous = True
            self._count(None, verdict.cores)
        for core in range(self.cores):
            self.dispatched[core] += verdict.cores >> core & 1
        self.verdicts.append((self.cycle, port, frame))
        self._presented[port] = None
        self._states = self._states[-1:]

    _ambiguous = 0

    def _count(self, verdict, cores):
        if verdict is None:
            return
        self.kinds.add(verdict.decided_by)
        names = {"flow": ["by_flow"], "port": ["by_port"], "rule": ["by_rule"], "drop": ["by_rule", "dropped_by_rule"]}
        for name in names.get(verdict.decided_by, []):
            self.counters[name] += 1
        if not cores and verdict.decided_by != "drop":
            self.counters["dropped"] += 1

    @property
    def is_busy(self):
        queues = (*self.frames, *self.probes, *self.commands)
        return any(queues) or any(f is not None for f in (*self._presented, *self._probing, *self._commanding))

    async def drain(self, limit=20000):
        deadline = self.cycle + limit
        while self.is_busy:
            assert self.cycle < deadline, "frames, probes or table requests are stuck"
            await self.step()
        for _ in range(3):
            await self.step()
        for name, count in self.counters.items():
            value = int(self.signal(name).value)
            if name == "bad_config" or not self._ambiguous:
                assert value == count, name
            else:
                assert value >= count, name
        for core in range(self.cores):
            assert int(self.signal(f"dispatched{core}").value) == self.dispatched[core]

    async def fill_flow_table(self, flows):
        """INSERT all, from the cores in turn."""
        for number, frame in enumerate(flows):
            self.commands[number % self.cores].append(Command(FlowOperation.INSERT, frame))
        await self.drain()
        assert int(self.dut.flows_used.value) == len(self.model.flows.by_flow)


def random_command(rng, tuples, bench):
    operation = rng.choice([*FlowOperation, FlowOperation.INSERT, 5 + rng.randrange(3)])
    frame = (tcp_frame if rng.random() < 0.5 else udp_frame)(rng.choice(tuples))
    wrong = rng.randrange(1 << 16) if rng.random() < 0.1 else None
    return Command(operation, frame, rng.random() < 0.7, wrong)


@cocotb.test(timeout_time=4000, timeout_unit="us")
async def random_traffic_with_changes(dut):
    rng = random.Random(int(os.environ["TWINSTACK_SEED"]))
    bench = Bench(dut, rng)
    bench.model.key = rng.randbytes(40)
    await bench.start()
    tuples = random_tuples(rng)
    # Table entries that the tuples use, so that rewrites matter.
    entries = [rss_hash(bench.model.key, t[0], t[1], t[2:]) & 127 for t in tuples]
    frames = 900
    for _ in range(frames):
        bench.frames[rng.randrange(bench.ports)].append(random_frame(rng, tuples))
    for _ in range(150):
        source, destination, *ports = rng.choice(tuples)
        frame = probed_frame(source, destination, tuple(ports) if rng.random() < 0.8 else None, rng.random() < 0.5)
        rng.choice(bench.probes).append(frame)
    for _ in range(400):
        rng.choice(bench.commands).append(random_command(rng, tuples, bench))
    bench.probe_gap = bench.command_gap = 0.95
    while bench.is_busy:
        bench.frame_gap = rng.choice((bench.frame_gap,) * 20 + (0.0, 0.9))
        bench.stall = rng.choice((bench.stall,) * 20 + (0.0, 0.5, 0.9))
        if rng.random() < 0.01:
            bench.model.alive = (
                rng.choice((rng.randrange(1 << bench.cores), (1 << bench.cores) - 1)) & ~bench.core_reset
            )
        if rng.random() < 0.005:
            bench.model.tcp_ports, bench.model.udp_ports = rng.random() < 0.5, rng.random() < 0.5
        if rng.random() < 0.03:
            bench.write = rng.choice(entries), rng.randrange(16 if rng.random() < 0.1 else bench.cores)
        if rng.random() < 0.01:
            index = rng.randrange(16 if rng.random() < 0.1 else bench.rule_count)
            bench.rule_write = index, random_rule(rng, tuples, 16 if rng.random() < 0.1 else bench.cores, bench.ports)
            if rng.random() < 0.3:
                bench.rule_write = index, Rule(RuleAction.OFF)
        if bench.core_reset and rng.random() < 0.02:
            bench.core_reset = 0
        if rng.random() < 0.0005:
            bench.reset_core(rng.randrange(bench.cores))
        await bench.step()
        assert bench.cycle < 120000
    bench.core_reset = 0
    await bench.drain()
    for _ in range(6 * bench.model.flows.capacity):
        await bench.step()
    assert int(dut.flows_used.value) == len(bench.model.flows.by_flow)
    assert len(bench.verdicts) == frames
    assert bench.certain > 0.5 * frames
    assert bench.kinds == {"", "flow", "port", "rule", "drop"}
    assert bench.counters["bad_config"] and bench.counters["dropped"] and all(bench.dispatched)
    assert bench.statuses >= {
        (FlowOperation.INSERT, FlowStatus.OK),
        (FlowOperation.INSERT, FlowStatus.EXISTS),
        (FlowOperation.DELETE, FlowStatus.OK),
        (FlowOperation.LOOKUP, FlowStatus.OK),
        (FlowOperation.ADD_PORT, FlowStatus.OK),
        (FlowOperation.REMOVE_PORT, FlowStatus.OK),
        (FlowOperation.REMOVE_PORT, FlowStatus.NOT_FOUND),
    }
    assert ((FlowOperation.ADD_PORT, FlowStatus.EXISTS) in bench.statuses) == (bench.cores > 1)


@cocotb.test(timeout_time=500, timeout_unit="us")
async def each_step_precedes_the_next(dut):
    """One UDP flow that every step wants elsewhere; the steps are taken away one by one."""
    bench = Bench(dut, random.Random(4))
    await bench.start()
    flow = (bytes([10, 0, 0, 9]), bytes([10, 0, 0, 1]), 5000, 6000)
    frame, last = udp_frame(flow), bench.cores - 1
    error = replace(frame, is_udp=False, is_icmp=True, is_icmp_error=True, icmp_type=3, ip_protocol=1)
    entry = rss_hash(RSS_KEY, *flow[:2], flow[2:]) & 127
    bench.write = entry, last
    bench.rule_write = 1, Rule(RuleAction.MANAGER, ethertype=0x0800)
    await bench.step()
    bench.rule_write = 0, Rule(RuleAction.DROP, protocol=17, destination_port=6000)
    await bench.step()
    bench.commands[0].append(Command(FlowOperation.ADD_PORT, frame))
    bench.commands[last].append(Command(FlowOperation.INSERT, frame))
    await bench.drain()

    async def verdict_of(one):
        before = list(bench.dispatched)
        bench.frames[0].append(one)
        await bench.drain()
        return sum((now - then) << core for core, (now, then) in enumerate(zip(bench.dispatched, before, strict=True)))

    fan_out = replace(frame, is_multicast=True)
    assert await verdict_of(frame) == await verdict_of(error) == 1 << last  # flow
    bench.model.alive = 1
    assert await verdict_of(frame) == 1  # its core does not live
    bench.model.alive = (1 << bench.cores) - 1
    bench.commands[last].append(Command(FlowOperation.DELETE, frame))
    await bench.drain()
    assert await verdict_of(frame) == await verdict_of(fan_out) == 1  # port
    assert await verdict_of(error) == 1  # the second rule: no UDP, no ports
    bench.commands[0].append(Command(FlowOperation.REMOVE_PORT, frame))
    await bench.drain()
    assert await verdict_of(frame) == 0  # the first rule
    bench.rule_write = 0, Rule(RuleAction.OFF)
    await bench.step()
    assert await verdict_of(frame) == await verdict_of(fan_out) == 1  # the second rule
    bench.rule_write = 1, Rule(RuleAction.OFF)
    await bench.step()
    assert await verdict_of(fan_out) == bench.model.alive
    assert await verdict_of(frame) == await verdict_of(error) == 1 << last  # hash, also over the quoted tuple
    # Spread over all: the hash chooses; one that does not live is no member.
    for core in range(bench.cores):
        bench.commands[core].append(Command(FlowOperation.ADD_PORT, frame, is_spread=True))
    bench.rule_write = 0, Rule(RuleAction.DROP)
    await bench.drain()
    assert await verdict_of(frame) == 1 << last
    bench.model.alive = 1
    assert await verdict_of(frame) == 1
    if last:
        bench.reset_core(last)
        await bench.step()
        bench.core_reset = 0
        bench.model.alive = (1 << bench.cores) - 1
        assert await verdict_of(frame) == 1  # it left
    assert bench.certain == len(bench.verdicts)


@cocotb.test(timeout_time=500, timeout_unit="us")
async def every_table_entry_counts(dut):
    """Default table, then one rewritten in full, by frames and probes that agree."""
    rng = random.Random(int(os.environ["TWINSTACK_SEED"]))
    bench = Bench(dut, rng)
    await bench.start()
    by_entry = {}
    while len(by_entry) < 128:
        frame = tcp_frame((rng.randbytes(4), bytes([10, 0, 0, 1]), rng.randrange(1 << 16), 80))
        by_entry[bench.model.hash_of(frame) & 127] = frame
    for _ in range(2):
        for entry, frame in by_entry.items():
            bench.frames[entry % bench.ports].append(frame)
            bench.probes[entry % len(bench.probes)].append(frame)
        before = bench.certain
        await bench.drain()
        assert bench.certain == before + 256
        for entry in range(128):
            bench.write = entry, rng.randrange(bench.cores)
            await bench.step()
    bench.write = 5, bench.cores  # does not exist
    await bench.drain()
    assert bench.counters["bad_config"] == 1


@cocotb.test(timeout_time=100, timeout_unit="us")
async def published_vectors(dut):
    bench = Bench(dut, random.Random(1))
    await bench.start()
    bench.model.udp_ports = False
    for vector in RSS_VECTORS:
        flow = (vector.source, vector.destination, vector.source_port, vector.destination_port)
        tcp, udp = tcp_frame(flow), udp_frame(flow)
        assert bench.model.hash_of(tcp) == vector.hash_with_ports
        assert bench.model.hash_of(udp) == vector.hash_addresses
        quotes = replace(tcp, is_tcp=False, is_icmp=True, is_icmp_error=True)
        bench.frames[0] += [tcp, udp, replace(tcp, is_fragment=True), quotes]
        for probes in (bench.probes[0], bench.probes[-1]):
            probes += [tcp, udp, probed_frame(vector.source, vector.destination)]
    await bench.drain()
    assert len(bench.verdicts) == 4 * len(RSS_VECTORS) and bench.certain == 10 * len(RSS_VECTORS)


@cocotb.test(timeout_time=500, timeout_unit="us")
async def host_probe_gives_the_verdict_of_the_frame(dut):
    """While frames, probes and table requests of the cores flow, and cores are in reset: the answer to the host is the verdict that
    a frame with the tuple gets, a hit of the flow table with its entry included."""
    from twinstack.interfaces import ProbeResult, Verdict

    rng = random.Random(int(os.environ["TWINSTACK_SEED"]))
    bench = Bench(dut, rng)
    await bench.start()
    tuples = random_tuples(rng, 12)
    for number, one in enumerate(tuples[::2]):
        bench.commands[number % bench.cores].append(Command(FlowOperation.INSERT, tcp_frame(one)))
    await bench.drain()
    hits = 0
    for number in range(60):
        if number == 30:
            bench.reset_core(bench.cores - 1)
            await bench.drain()
        frame = tcp_frame(rng.choice(tuples))
        for core in range(bench.cores):
            bench.probes[core] += [tcp_frame(rng.choice(tuples)) for _ in range(rng.randrange(3))]
            if not bench.core_reset >> core & 1:
                bench.commands[core].append(Command(FlowOperation.LOOKUP, tcp_frame(rng.choice(tuples))))
        bench.frames[number % bench.ports].append(frame)
        bench.probes[-1].append(frame)
        answer = verdict = None
        while bench.is_busy:
            if int(dut.verdict__valid.value):
                verdict = Verdict.from_bits(int(dut.verdict__payload.value))
            await bench.step()
            if int(dut.host_probe__done.value):
                answer = ProbeResult.from_bits(int(dut.host_probe__result.value))
        # Without a living core a frame goes nowhere.
        assert verdict.cores == (1 << answer.core if bench.model.alive else 0)
        assert (answer.rss_hash, answer.flow_hit) == (verdict.rss_hash, verdict.flow_hit)
        assert answer.flow_index == verdict.flow_index
        hits += answer.flow_hit
    assert 0 < hits < 60


def tuples_of(rng, length, count):
    return [(rng.randbytes(length), rng.randbytes(length), rng.randrange(1 << 16), 80) for _ in range(count)]


@cocotb.test(timeout_time=1000, timeout_unit="us")
async def line_rate_with_a_full_flow_table(dut):
    """Minimum-size frames on two ports come every 25 cycles together at 75 MHz; hits and misses take turns."""
    rng = random.Random(int(os.environ["TWINSTACK_SEED"]))
    bench = Bench(dut, rng)
    await bench.start()
    for length, bound, cycles in ((4, 16, IPV4_CYCLES), (16, 25, IPV6_CYCLES)):
        for core in range(bench.cores):
            bench.reset_core(core)
        await bench.step()
        bench.core_reset = 0
        bench.model.alive = (1 << bench.cores) - 1
        flows = [tcp_frame(t) for t in tuples_of(rng, length, bench.model.flows.capacity)]
        await bench.fill_flow_table(flows)
        assert len(bench.model.flows.by_flow) == bench.model.flows.capacity
        for kind, frames in (
            ("hits", flows),
            ("misses", [tcp_frame(t) for t in tuples_of(rng, length, 128)]),
        ):
            bench.verdicts.clear()
            for number, frame in enumerate(frames):
                bench.frames[number % bench.ports].append(frame)
            await bench.drain()
            times = [cycle for cycle, _, _ in bench.verdicts]
            average = (times[-1] - times[0]) / (len(times) - 1)
            dut._log.info(f"{kind}, {length} byte addresses: {average:.2f} cycles a frame")
            assert cycles <= average <= bound, kind
    assert bench.counters["by_flow"] == 2 * bench.model.flows.capacity


@cocotb.test(timeout_time=500, timeout_unit="us")
async def saturated(dut):
    """Cycles of a frame alone, round robin of the ports, and bounded waits when everyone asks at once."""
    rng = random.Random(2)
    bench = Bench(dut, rng)
    await bench.start()
    for length, bound in ((4, IPV4_CYCLES), (16, IPV6_CYCLES)):
        bench.verdicts.clear()
        for port in range(bench.ports):
            bench.frames[port] += [tcp_frame(t) for t in tuples_of(rng, length, 50)]
        await bench.drain()
        times = [cycle for cycle, _, _ in bench.verdicts]
        assert max(b - a for a, b in zip(times, times[1:], strict=False)) <= bound
        order = [port for _, port, _ in bench.verdicts]
        for start in range(0, len(order), bench.ports):
            assert len(set(order[start : start + bench.ports])) == bench.ports, "not round robin"

    # The longest jobs from all sides, without a pause.
    bench.verdicts.clear()
    for port in range(bench.ports):
        bench.frames[port] += [tcp_frame(t) for t in tuples_of(rng, 16, 50)]
    for probes in bench.probes:
        probes += [tcp_frame(t) for t in tuples_of(rng, 16, 60)]
    for core in range(bench.cores):
        bench.commands[core] += [Command(FlowOperation.LOOKUP, tcp_frame(t)) for t in tuples_of(rng, 16, 60)]
    bench.probe_cycles.clear()
    bench.command_cycles.clear()
    bench.answers.clear()
    while any(bench.frames):
        await bench.step()
    times = [cycle for cycle, _, _ in bench.verdicts]
    assert max(b - a for a, b in zip(times, times[1:], strict=False)) <= 2 * IPV6_CYCLES, "at most one other's turn"
    for number, time in enumerate(times):
        assert sum(answer <= time for answer in bench.answers) >= number - 1, "frames and others do not take turns"
    await bench.drain()
    assert max(bench.probe_cycles + bench.command_cycles) <= (4 * bench.cores + 2) * IPV6_CYCLES + 4

    # A verdict that nobody takes holds up nobody else.
    bench.stall = 1.0
    bench.frames[0].append(tcp_frame(tuples_of(rng, 4, 1)[0]))
    bench.probes[0] += [tcp_frame(t) for t in tuples_of(rng, 4, 5)]
    bench.commands[0] += [Command(FlowOperation.ADD_PORT, udp_frame(tuples_of(rng, 4, 1)[0]))]
    for _ in range(200):
        await bench.step()
    assert not bench.probes[0] and not bench.commands[0] and bench._presented[0] is not None
    bench.stall = 0.0
    await bench.drain()


@cocotb.test(timeout_time=100, timeout_unit="us")
async def early_writes_are_refused(dut):
    bench = Bench(dut, random.Random(3))
    await bench.start(wait_for_table=False)
    dut.indirection_valid.value = 1
    dut.indirection_index.value = 100
    dut.indirection_core.value = bench.cores - 1
    for _ in range(4):
        await RisingEdge(dut.clk)
    dut.indirection_valid.value = 0
    for _ in range(FILL_CYCLES):
        await RisingEdge(dut.clk)
    assert int(dut.bad_config.value) == 4


@pytest.mark.parametrize(
    ("ports", "cores", "flows", "udp_ports", "rules"), [(2, 2, 128, 32, 8), (3, 4, 8, 3, 5), (1, 1, 16, 1, 1)]
)
def test_dispatcher(ports, cores, flows, udp_ports, rules):
    from support.rtl import run_cocotb
    from twinstack.dispatcher import Dispatcher

    environment = {"PORTS": ports, "CORES": cores, "FLOWS": flows, "UDP_PORTS": udp_ports, "RULES": rules}
    dispatcher = Dispatcher(ports, cores, flows=flows, udp_port_entries=udp_ports, rules=rules)
    run_cocotb(dispatcher, __file__, environment={name: str(value) for name, value in environment.items()})


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"ports": 0}, ValueError, "ports must be 1 to 4, not 0"),
        ({"cores": 5}, ValueError, "cores must be 1 to 4, not 5"),
        ({"ports": "2"}, TypeError, "ports must be an integer, not '2'"),
        ({"rules": 17}, ValueError, "rules must be 1 to 16, not 17"),
        ({"udp_port_entries": 0}, ValueError, "entries must be 1 to 64, not 0"),
        ({"flows": 100}, ValueError, "entries must be a power of two from 2 to 256, not 100"),
    ],
)
def test_parameters_are_checked(arguments, error, text):
    from twinstack.dispatcher import Dispatcher

    with pytest.raises(error, match=text):
        Dispatcher(**({"ports": 2, "cores": 2} | arguments))
