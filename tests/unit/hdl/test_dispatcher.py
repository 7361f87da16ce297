"""Dispatcher against a Python model: decisions, probes, counters, fairness, under changes of mask and table."""

import os
import random
from collections import deque

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

from support.rss_vectors import RSS_KEY, RSS_VECTORS
from twinstack.models.toeplitz import rss_hash

FILL_CYCLES = 128


def hash_of(frame, key, tcp_ports, udp_ports):
    """RSS hash of a frame given by field names; zero for what is not IP."""
    if not (frame.get("is_ipv4") or frame.get("is_ipv6")):
        return 0
    length = 16 if frame.get("is_ipv6") else 4
    with_ports = (frame.get("is_tcp") and tcp_ports) or (frame.get("is_udp") and udp_ports)
    if frame.get("is_fragment") or frame.get("is_truncated_parse"):
        with_ports = False
    ports = (frame["source_port"], frame["destination_port"]) if with_ports else None
    return rss_hash(key, frame["source"][:length], frame["destination"][:length], ports)


def decide(frame, rss, table_core, alive):
    """(cores, answer) for a frame: section "the first that applies decides" of the dispatcher."""
    living = [core for core in range(4) if alive >> core & 1]
    if not living:
        return 0, 0
    manager = 1 << living[0]
    if frame.get("is_arp"):
        return (manager, manager) if frame.get("is_arp_request") else (alive, manager)
    if frame.get("is_broadcast") or frame.get("is_multicast"):
        return alive, manager
    if frame.get("is_ipv4") or frame.get("is_ipv6"):
        one = 1 << table_core if table_core in living else manager
        return one, one
    return manager, manager


def random_frame(rng, tuples):
    kind = rng.choice(("tcp", "tcp", "udp", "icmp", "other_ip", "fragment", "truncated", "arp", "arp_request", "alien"))
    frame = {"frame_length": rng.randrange(60, 1515), "tcp_sequence": rng.getrandbits(32)}
    if rng.random() < 0.2:
        frame[rng.choice(("is_broadcast", "is_multicast"))] = 1
    if kind in ("arp", "arp_request"):
        return frame | {"is_arp": 1, "is_arp_request": int(kind == "arp_request")}
    if kind == "alien":
        return frame
    version, source, destination, source_port, destination_port = rng.choice(tuples)
    frame |= {version: 1, "source": source, "destination": destination}
    frame |= {"source_port": source_port, "destination_port": destination_port}
    protocol = kind if kind in ("tcp", "udp", "icmp") else rng.choice(("tcp", "udp"))
    if kind != "other_ip":
        frame[f"is_{protocol}"] = 1
    if kind == "fragment":
        frame["is_fragment"] = 1
    if kind == "truncated":
        frame["is_truncated_parse"] = 1
    return frame


def random_tuples(rng, count=40):
    tuples = []
    for _ in range(count):
        version, length = rng.choice((("is_ipv4", 4), ("is_ipv6", 16)))
        source, destination = (rng.randbytes(length).ljust(16, b"\0") for _ in range(2))
        tuples.append((version, source, destination, rng.randrange(1 << 16), rng.randrange(1 << 16)))
    return tuples


def little(frame):
    return {name: int.from_bytes(v, "little") if isinstance(v, bytes) else v for name, v in frame.items()}


def meta_bits(frame):
    from twinstack.interfaces import FrameMeta

    return FrameMeta.const(little(frame)).as_bits()


def probe_bits(frame, has_ports):
    from twinstack.interfaces import ProbeRequest

    names = ("source", "destination", "source_port", "destination_port")
    fields = {name: frame[name] for name in names} | {"is_ipv6": frame.get("is_ipv6", 0), "has_ports": has_ports}
    return ProbeRequest.const(little(fields)).as_bits()


class Bench:
    """Drives every port from a queue of frames and every probe from a queue of tuples; checks all that comes out.

    What the dispatcher may have seen when it decided is every (alive, table, configuration) since the transfer of the
    verdict before; mostly that is one state only, and ``certain`` counts those.
    """

    def __init__(self, dut, rng):
        self.dut = dut
        self.rng = rng
        self.ports = int(os.environ["PORTS"])
        self.cores = int(os.environ["CORES"])
        self.key = RSS_KEY
        self.table = [entry % self.cores for entry in range(128)]
        self.alive = (1 << self.cores) - 1
        self.tcp_ports = self.udp_ports = 1
        self.frames = [deque() for _ in range(self.ports)]
        self.probes = [deque() for _ in range(self.cores)]
        self.frame_gap = self.probe_gap = self.stall = 0.0
        self.write = None  # (index, core) to write in the next cycle
        self.bad_config = self.dropped = self.certain = 0
        self.dispatched = [0] * self.cores
        self.verdicts = []  # (cycle of transfer, port, frame)
        self.probe_cycles = []  # longest wait counts
        self.cycle = 0
        self._presented = [None] * self.ports
        self._probing = [None] * self.cores
        self._states = []
        self._verdict_before = None

    def signal(self, name):
        return getattr(self.dut, name)

    async def start(self, *, wait_for_table=True):
        dut = self.dut
        cocotb.start_soon(Clock(dut.clk, 10, "ns").start())
        dut.rst.value = 1
        for port in range(self.ports):
            self.signal(f"meta{port}__valid").value = 0
        for core in range(self.cores):
            self.signal(f"probe{core}__request__valid").value = 0
        dut.verdict__ready.value = 0
        dut.indirection_valid.value = 0
        dut.key.value = int.from_bytes(self.key, "little")
        self.drive_configuration()
        await RisingEdge(dut.clk)
        await RisingEdge(dut.clk)
        dut.rst.value = 0
        if wait_for_table:
            for _ in range(FILL_CYCLES + 2):
                await RisingEdge(dut.clk)

    def drive_configuration(self):
        self.dut.alive.value = self.alive
        self.dut.tcp_ports.value = self.tcp_ports
        self.dut.udp_ports.value = self.udp_ports

    async def step(self):
        """One cycle: drive, wait for the edge, look at what was there before it."""
        dut, rng = self.dut, self.rng
        for port in range(self.ports):
            if self._presented[port] is None and self.frames[port] and rng.random() >= self.frame_gap:
                self._presented[port] = self.frames[port].popleft()
                self.signal(f"meta{port}__payload").value = meta_bits(self._presented[port])
            self.signal(f"meta{port}__valid").value = self._presented[port] is not None
        for core in range(self.cores):
            if self._probing[core] is None and self.probes[core] and rng.random() >= self.probe_gap:
                frame, has_ports = self.probes[core].popleft()
                self.signal(f"probe{core}__request__payload").value = probe_bits(frame, has_ports)
                self._probing[core] = {"frame": frame, "has_ports": has_ports, "accepted": False, "since": self.cycle}
                self._probing[core]["states"] = []
            probe = self._probing[core]
            self.signal(f"probe{core}__request__valid").value = probe is not None and not probe["accepted"]
        ready = rng.random() >= self.stall
        dut.verdict__ready.value = ready
        self.drive_configuration()
        dut.indirection_valid.value = self.write is not None
        if self.write is not None:
            dut.indirection_index.value, dut.indirection_core.value = self.write
        if not any(self._presented):
            self._states = []
        state = (self.alive, tuple(self.table), self.tcp_ports, self.udp_ports)
        for states in (self._states, *(probe["states"] for probe in self._probing if probe)):
            if not states or states[-1] != state:
                states.append(state)
        await RisingEdge(dut.clk)
        self.cycle += 1
        living = [core for core in range(self.cores) if self.alive >> core & 1]
        assert int(dut.manager.value) == (living[0] if living else 0)
        for core in range(self.cores):
            self._look_at_probe(core)
        self._look_at_verdict(ready)
        if self.write is not None:
            index, core = self.write
            if core < self.cores:
                self.table[index] = core
            else:
                self.bad_config += 1
            self.write = None

    def possible(self, frame, states):
        """Every (alive, hash, table entry): the three are looked at in different cycles."""
        result = set()
        for rss in {hash_of(frame, self.key, tcp_ports, udp_ports) for _, _, tcp_ports, udp_ports in states}:
            for entry in {table[rss & 127] for _, table, _, _ in states}:
                result |= {(alive, rss, entry) for alive, _, _, _ in states}
        return result

    def _look_at_probe(self, core):
        probe = self._probing[core]
        done = int(self.signal(f"probe{core}__done").value)
        if probe is None:
            assert not done, "an answer that nobody asked for"
            return
        if done:
            from twinstack.interfaces import ProbeResult

            assert probe["accepted"], "answered before it was accepted"
            result = ProbeResult.from_bits(int(self.signal(f"probe{core}__result").value))
            # As a TCP frame where either option hashes the ports.
            frame = probe["frame"] | {
                "is_tcp": probe["has_ports"],
                "is_udp": 0,
                "is_ipv4": not probe["frame"].get("is_ipv6"),
            }
            states = [(alive, table, tcp | udp, 0) for alive, table, tcp, udp in probe["states"]]
            expected = set()
            for alive, rss, entry in self.possible(frame, states):
                manager = (alive & -alive).bit_length() - 1 if alive else 0
                expected.add((rss, entry if alive >> entry & 1 else manager))
            assert (result.rss_hash, result.core) in expected
            self.certain += len(expected) == 1
            self.probe_cycles.append(self.cycle - probe["since"])
            self._probing[core] = None
        elif int(self.signal(f"probe{core}__request__ready").value):
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
        frame = self._presented[port]
        assert frame is not None
        assert verdict.meta.as_bits() == meta_bits(frame)
        possible = self.possible(frame, self._states)
        expected = {(*decide(frame, rss, entry, alive), rss) for alive, rss, entry in possible}
        assert (verdict.cores, verdict.answer, verdict.rss_hash) in expected, (frame, expected)
        self.certain += len(expected) == 1
        self.dropped += verdict.cores == 0
        for core in range(self.cores):
            self.dispatched[core] += verdict.cores >> core & 1
        self.verdicts.append((self.cycle, port, frame))
        self._presented[port] = None
        self._states = self._states[-1:]

    @property
    def is_busy(self):
        return any(self.frames) or any(self.probes) or any(f is not None for f in [*self._presented, *self._probing])

    async def drain(self, limit=20000):
        deadline = self.cycle + limit
        while self.is_busy:
            assert self.cycle < deadline, "frames or probes are stuck"
            await self.step()
        for _ in range(3):
            await self.step()
        assert int(self.dut.dropped.value) == self.dropped
        assert int(self.dut.bad_config.value) == self.bad_config
        for core in range(self.cores):
            assert int(self.signal(f"dispatched{core}").value) == self.dispatched[core]


@cocotb.test(timeout_time=2000, timeout_unit="us")
async def random_traffic_with_changes(dut):
    rng = random.Random(int(os.environ["TWINSTACK_SEED"]))
    bench = Bench(dut, rng)
    bench.key = rng.randbytes(40)
    await bench.start()
    tuples = random_tuples(rng)
    # Table entries that the tuples use, so that rewrites matter.
    entries = []
    for version, source, destination, *ports in tuples:
        length = 4 if version == "is_ipv4" else 16
        entries.append(rss_hash(bench.key, source[:length], destination[:length], tuple(ports)) & 127)
    frames = 1000
    for _ in range(frames):
        bench.frames[rng.randrange(bench.ports)].append(random_frame(rng, tuples))
    for _ in range(200):
        version, source, destination, source_port, destination_port = rng.choice(tuples)
        frame = {version: 1, "source": source, "destination": destination}
        frame |= {"source_port": source_port, "destination_port": destination_port}
        rng.choice(bench.probes).append((frame, rng.randrange(2)))
    bench.probe_gap = 0.97
    while bench.is_busy:
        bench.frame_gap = rng.choice((bench.frame_gap,) * 20 + (0.0, 0.9))
        bench.stall = rng.choice((bench.stall,) * 20 + (0.0, 0.5, 0.9))
        if rng.random() < 0.01:
            bench.alive = rng.choice((rng.randrange(1 << bench.cores), (1 << bench.cores) - 1))
        if rng.random() < 0.01:
            bench.tcp_ports, bench.udp_ports = rng.randrange(2), rng.randrange(2)
        if rng.random() < 0.05:
            bench.write = rng.choice(entries), rng.randrange(16 if rng.random() < 0.1 else bench.cores)
        await bench.step()
        assert bench.cycle < 60000
    await bench.drain()
    assert len(bench.verdicts) == frames
    assert bench.certain > 0.6 * frames
    assert bench.dropped and bench.bad_config and all(bench.dispatched)


@cocotb.test(timeout_time=500, timeout_unit="us")
async def every_table_entry_counts(dut):
    """Default table, then one rewritten in full, by frames and probes that agree."""
    rng = random.Random(int(os.environ["TWINSTACK_SEED"]))
    bench = Bench(dut, rng)
    await bench.start()
    by_entry = {}
    while len(by_entry) < 128:
        frame = {"is_ipv4": 1, "is_tcp": 1, "source": rng.randbytes(4), "destination": bytes([10, 0, 0, 1])}
        frame |= {"source_port": rng.randrange(1 << 16), "destination_port": 80}
        by_entry[hash_of(frame, bench.key, 1, 1) & 127] = frame
    for _ in range(2):
        for entry, frame in by_entry.items():
            bench.frames[entry % bench.ports].append(frame)
            bench.probes[entry % bench.cores].append((frame, 1))
        before = bench.certain
        await bench.drain()
        assert bench.certain == before + 256
        for entry in range(128):
            bench.write = entry, rng.randrange(bench.cores)
            await bench.step()
    bench.write = 5, bench.cores  # does not exist
    await bench.drain()
    assert bench.bad_config == 1


@cocotb.test(timeout_time=100, timeout_unit="us")
async def published_vectors(dut):
    bench = Bench(dut, random.Random(1))
    await bench.start()
    for vector in RSS_VECTORS:
        frame = {"is_ipv6" if vector.is_ipv6 else "is_ipv4": 1, "source": vector.source}
        frame |= {"destination": vector.destination, "source_port": vector.source_port}
        frame |= {"destination_port": vector.destination_port}
        assert hash_of(frame | {"is_tcp": 1}, RSS_KEY, 1, 0) == vector.hash_with_ports
        assert hash_of(frame | {"is_udp": 1}, RSS_KEY, 1, 0) == vector.hash_addresses
        bench.frames[0] += [frame | {"is_tcp": 1}, frame | {"is_udp": 1}, frame | {"is_tcp": 1, "is_fragment": 1}]
        bench.probes[0] += [(frame, 1), (frame, 0)]
    bench.udp_ports = 0
    await bench.drain()
    assert len(bench.verdicts) == 24 and bench.certain == 40


@cocotb.test(timeout_time=500, timeout_unit="us")
async def saturated(dut):
    """Cycles of a frame alone, round robin of the ports, and bounded waits when everyone asks at once."""
    rng = random.Random(2)
    bench = Bench(dut, rng)
    await bench.start()
    tuples = {version: [t for t in random_tuples(rng, 60) if t[0] == version] for version in ("is_ipv4", "is_ipv6")}

    def tcp(version):
        _, source, destination, source_port, destination_port = rng.choice(tuples[version])
        frame = {version: 1, "is_tcp": 1, "source": source, "destination": destination}
        return frame | {"source_port": source_port, "destination_port": destination_port}

    for version, bound in (("is_ipv4", 10), ("is_ipv6", 16)):
        bench.verdicts.clear()
        for port in range(bench.ports):
            bench.frames[port] += [tcp(version) for _ in range(50)]
        await bench.drain()
        times = [cycle for cycle, _, _ in bench.verdicts]
        assert max(b - a for a, b in zip(times, times[1:], strict=False)) <= bound
        order = [port for _, port, _ in bench.verdicts]
        for start in range(0, len(order), bench.ports):
            assert len(set(order[start : start + bench.ports])) == bench.ports, "not round robin"

    # The longest jobs from all sides, without a pause.
    bench.verdicts.clear()
    for port in range(bench.ports):
        bench.frames[port] += [tcp("is_ipv6") for _ in range(50)]
    for core in range(bench.cores):
        bench.probes[core] += [(tcp("is_ipv6"), 1) for _ in range(200)]
    bench.probe_cycles.clear()
    while any(bench.frames):
        await bench.step()
    times = [cycle for cycle, _, _ in bench.verdicts]
    assert max(b - a for a, b in zip(times, times[1:], strict=False)) <= 12 * (bench.cores + 1) + 6
    await bench.drain()
    assert max(bench.probe_cycles) <= 12 * (bench.cores + 1) + 4

    # A verdict that nobody takes holds up no probe.
    bench.stall = 1.0
    bench.frames[0].append(tcp("is_ipv4"))
    bench.probes[0] += [(tcp("is_ipv4"), 1) for _ in range(5)]
    for _ in range(200):
        await bench.step()
    assert not bench.probes[0] and bench._presented[0] is not None
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


@pytest.mark.parametrize(("ports", "cores"), [(2, 2), (3, 4)])
def test_dispatcher(ports, cores):
    from support.rtl import run_cocotb
    from twinstack.dispatcher import Dispatcher

    run_cocotb(Dispatcher(ports, cores), __file__, environment={"PORTS": str(ports), "CORES": str(cores)})


@pytest.mark.parametrize(
    ("ports", "cores", "error", "text"),
    [
        (0, 2, ValueError, "ports must be 1 to 4, not 0"),
        (2, 5, ValueError, "cores must be 1 to 4, not 5"),
        ("2", 2, TypeError, "ports must be an integer, not '2'"),
    ],
)
def test_parameters_are_checked(ports, cores, error, text):
    from twinstack.dispatcher import Dispatcher

    with pytest.raises(error, match=text):
        Dispatcher(ports, cores)
