"""``twinstack bench``: goodput and cost of TCP, in cycles of the simulated engine.

Everything but the table's Mb/s is counted in cycles, on simulated time and from one seed: the same sources give the same
numbers on any machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import random
import struct
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from twinstack.config import EngineConfig
from twinstack.models.toeplitz import rss_hash
from twinstack_host.device import Device, ipv4_bytes
from twinstack_host.sockets import Listener

from .peer_lwip import LwipConnection, LwipPeer, PeerOptions
from .session import ENGINE_ADDRESS, PEER_ADDRESS, PREFIX_LENGTH, Session, engine_session
from .simulation import SentFrame, SimulationOptions
from .streams import HostStream
from .toolchain import BUILD

SEED = 1
CONNECTIONS_PER_CORE = 4
SEGMENT_BYTES = 1460
BYTES_PER_CONNECTION = 24 * SEGMENT_BYTES
"""Whole segments: Nagle holds back a last short one until a delayed acknowledgement, and that would be measured."""
PORT = 5001
FIRST_PEER_PORT = 20_000
LOOK_S = 0.00002
"""Longest time between two looks at the connections: 1,500 cycles."""
BUCKETS = 128
"""Entries of the dispatcher's table; an entry's core is its number modulo the number of cores after the start."""
CYCLES_PER_BYTE_LIMIT = 60
SETUP_CYCLES_LIMIT = 4_000_000
PEER_TIMER_MS = 1
"""Longest delay of the peer's acknowledgements: a wait for them is the peer's time, not the engine's."""
QUIET_CYCLES = 100_000
BOARD_CLOCKS = BUILD / "ecpix5_85" / "clocks.json"


class BenchError(RuntimeError):
    """The measurement is not to be had, or not valid; the text says why."""


@dataclass(frozen=True)
class CoreCost:
    """What one core did during a run; ``instructions`` leaves out an estimate of those of the idle loop."""

    core: int
    segments_in: int
    segments_out: int
    busy_cycles: int
    instructions: int

    @property
    def segments(self) -> int:
        return self.segments_in + self.segments_out


@dataclass(frozen=True)
class Run:
    """One measurement: ``direction`` is ``receive`` (peer to offloaded host) or ``transmit``.

    ``bits_per_cycle`` is payload after the first bytes arrived until the last ones did.
    """

    direction: str
    cores: int
    connections: int
    total_bytes: int
    cycles: int
    bits_per_cycle: float
    retransmissions: int
    cost: tuple[CoreCost, ...]

    def mbit_s(self, clock_hz: float) -> float:
        """Goodput if cycles are of this clock."""
        return self.bits_per_cycle * clock_hz / 1e6


class Retransmissions:
    """Counts TCP segments of the engine whose data has been on the wire before."""

    def __init__(self) -> None:
        self.count = 0
        self._sent_up_to: dict[bytes, int] = {}

    def frame(self, frame: SentFrame) -> None:
        """Look at one frame of the engine."""
        data = frame.data
        if len(data) < 54 or data[12:14] != b"\x08\x00" or data[23] != 6:  # IPv4 (RFC 791), TCP (RFC 9293)
            return
        header = 4 * (data[14] & 15)
        tcp = 14 + header
        flow = data[26:34] + data[tcp : tcp + 4]
        (sequence,) = struct.unpack_from(">I", data, tcp + 4)
        length = int.from_bytes(data[16:18], "big") - header - 4 * (data[tcp + 12] >> 4)
        if length <= 0:
            return
        end = (sequence + length) & 0xFFFFFFFF
        before = self._sent_up_to.get(flow)
        if before is not None and (sequence - before) & 0x80000000:
            self.count += 1
        if before is None or not (end - before) & 0x80000000:
            self._sent_up_to[flow] = end


def add_commands(commands: Any) -> None:
    """Add ``twinstack bench``."""
    parser = commands.add_parser(
        "bench",
        help="TCP goodput and cycles per segment, in simulation",
        description="Measure bulk TCP through the simulated engine against lwIP on a perfect wire, in both directions, "
        "with all connections on one core and then on all cores. The results are in cycles and repeatable.",
    )
    parser.add_argument("--seed", type=int, default=SEED, help="of everything that is random (%(default)s)")
    parser.add_argument("--connections", type=int, default=CONNECTIONS_PER_CORE, help="on each core (%(default)s)")
    parser.add_argument("--bytes", type=int, default=BYTES_PER_CONNECTION, help="on each connection (%(default)s)")
    parser.add_argument("--json", type=Path, default=BUILD / "bench.json", help="results (%(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Measure, print and write; exit status 0 only if all runs ended with every byte right."""
    began = time.monotonic()
    try:
        if options.connections < 1 or options.bytes < 2 * SEGMENT_BYTES:
            raise BenchError(
                f"needs a connection and {2 * SEGMENT_BYTES} bytes, not {options.connections}, {options.bytes}"
            )
        config = EngineConfig()
        runs = measure(config, options.seed, options.connections, options.bytes)
    except (RuntimeError, OSError) as error:  # all that builds, peers and the simulation raise
        print(f"bench: FAILED {type(error).__name__}: {error}", flush=True)
        return 1
    clock_hz, clock_text = clock(config)
    print(table(runs, clock_hz, clock_text))
    result = as_json(config, options.seed, options.connections, options.bytes, runs, clock_hz, clock_text)
    options.json.parent.mkdir(parents=True, exist_ok=True)
    options.json.write_text(json.dumps(result, indent=1) + "\n")
    retransmitted = sum(one.retransmissions for one in runs)
    if retransmitted:
        print(f"bench: {retransmitted} segments were retransmitted: the numbers tell of time-outs, not of speed")
    print(f"bench: ok {len(runs)} runs in {time.monotonic() - began:.0f} s, {options.json}")
    return 0


def clock(config: EngineConfig, board_clocks: Path = BOARD_CLOCKS) -> tuple[float, str]:
    """The ``sync`` clock that Mb/s are told for, and where it is from."""
    try:
        asked, reached = json.loads(board_clocks.read_text())["sync"]
    except (OSError, ValueError, KeyError):
        return float(config.sync_hz), "the configuration's clock; there is no place and route of ecpix5_85 yet"
    return reached * 1e6, f"clock of the last place and route of ecpix5_85, asked for {asked:.2f} MHz"


def measure(config: EngineConfig, seed: int, connections: int, length: int) -> list[Run]:
    """All runs, in one session: receive and transmit, on one core and on all."""
    dice = random.Random(seed)
    with engine_session(config, SimulationOptions(seed=seed), verbose=True) as session:
        peer = LwipPeer(PEER_ADDRESS, seed=seed, options=PeerOptions(tcp_timer_ms=PEER_TIMER_MS))
        session.simulation.attach(0, peer)
        key = dice.randbytes(40)
        session.device.set_hash_key(key)
        session.device.configure(0, ENGINE_ADDRESS, PREFIX_LENGTH, mac="02:54:53:00:00:01")
        bench = Bench(session, peer, key, dice)
        runs = []
        for cores in sorted({1, config.cores}):
            for direction in ("receive", "transmit"):
                print(f"{direction}, {cores * connections} connections on {cores} of {config.cores} cores", flush=True)
                runs.append(bench.run(direction, cores, connections, length))
        return runs


class Bench:
    """Runs measurements on one session.

    Parameters
    ----------
    session : Session
        Configured, with ``peer`` on port 0.
    key : bytes
        Of the dispatcher's hash.
    dice : random.Random
        For the data.
    """

    def __init__(self, session: Session, peer: LwipPeer, key: bytes, dice: random.Random):
        self.session, self.peer, self.key, self.dice = session, peer, key, dice
        self.device: Device = session.device
        self._listener = Listener(self.device, PORT, backlog=16)
        self._next_port = FIRST_PEER_PORT
        self._seen = Retransmissions()
        session.simulation.on_frame(self._seen.frame)
        self._idle_rates = self._measure_idle()

    def _measure_idle(self) -> list[float]:
        """Instructions per cycle of each core that waits for work."""
        cores = range(self.device.cores)
        before = [self.device.stats(core) for core in cores]
        self.session.run_until_quiet(QUIET_CYCLES)
        after = [self.device.stats(core) for core in cores]
        return [
            (new["instructions"] - old["instructions"]) / (new["cycles"] - old["cycles"])
            for old, new in zip(before, after, strict=True)
        ]

    def run(self, direction: str, cores: int, per_core: int, length: int) -> Run:
        """Open connections, move ``length`` bytes on each, close them."""
        pairs = self._open(cores, per_core)
        payloads = [self.dice.randbytes(length) for _ in pairs]
        before = [self.device.stats(core) for core in range(self.device.cores)]
        retransmitted = self._seen.count + self.peer.counters.tcp_retransmissions
        cycles, counted = self._move(direction, pairs, payloads)
        after = [self.device.stats(core) for core in range(self.device.cores)]
        retransmitted = self._seen.count + self.peer.counters.tcp_retransmissions - retransmitted
        self._close(pairs)
        cost = []
        for core, (old, new) in enumerate(zip(before, after, strict=True)):
            grown = {name: new[name] - old[name] for name in new}
            busy = grown["cycles"] - grown["idle_cycles"]
            segments = grown["tcp_segments_in"], grown["tcp_segments_out"]
            instructions = grown["instructions"] - round(self._idle_rates[core] * grown["idle_cycles"])
            cost.append(CoreCost(core, *segments, busy, instructions))
        total = length * len(pairs)
        return Run(direction, cores, len(pairs), total, cycles, 8 * counted / cycles, retransmitted, tuple(cost))

    def _wait(self, condition: Callable[[], bool], what: str, cycles: int) -> None:
        simulation = self.session.simulation
        end = simulation.cycles + cycles
        while not condition():
            if simulation.cycles > end:
                raise BenchError(f"{what} not done in {cycles} cycles")
            self.device.advance(LOOK_S)

    def _port_for(self, core: int) -> int:
        """The next port of the peer whose connections go to ``core``."""
        addresses = ipv4_bytes(PEER_ADDRESS), ipv4_bytes(ENGINE_ADDRESS)
        while True:
            port = self._next_port
            self._next_port += 1
            if rss_hash(self.key, *addresses, (port, PORT)) % BUCKETS % self.device.cores == core:
                return port

    def _open(self, cores: int, per_core: int) -> list[tuple[LwipConnection, HostStream]]:
        cores_of = {self._port_for(n % cores): n % cores for n in range(cores * per_core)}
        clients = {port: self.peer.connect(ENGINE_ADDRESS, PORT, port) for port in cores_of}
        self._wait(
            lambda: all(client.connected for client in clients.values()), "opening connections", SETUP_CYCLES_LIMIT
        )
        pairs = []
        for _ in clients:
            accepted, (_, port) = self._listener.accept()
            if accepted.core != cores_of[port]:
                raise BenchError(f"the connection from port {port} is on core {accepted.core}, not {cores_of[port]}")
            pairs.append((clients[port], HostStream(accepted)))
        return pairs

    def _move(
        self, direction: str, pairs: list[tuple[LwipConnection, HostStream]], payloads: list[bytes]
    ) -> tuple[int, int]:
        """Send and check all payloads; returns cycles from the first bytes' arrival to the last, and bytes after it."""
        simulation = self.session.simulation
        ends = [(client, host) if direction == "receive" else (host, client) for client, host in pairs]
        position = [0] * len(pairs)
        arrivals: list[tuple[int, int]] = []  # cycle, bytes so far

        def step() -> bool:
            for index, (sender, receiver) in enumerate(ends):
                sender.send_all(b"")
                got = receiver.recv()
                start = position[index]
                if got != payloads[index][start : start + len(got)]:
                    raise BenchError(f"connection {index}: other data than sent, after {start} bytes")
                position[index] += len(got)
            if not arrivals or sum(position) > arrivals[-1][1]:
                arrivals.append((simulation.cycles, sum(position)))
            return sum(position) == total

        total = sum(len(payload) for payload in payloads)
        for (sender, _), payload in zip(ends, payloads, strict=True):
            sender.send_all(payload)
        self._wait(step, f"{direction} of {total} bytes", total * CYCLES_PER_BYTE_LIMIT + SETUP_CYCLES_LIMIT)
        first_cycle, first_bytes = next(arrival for arrival in arrivals if arrival[1])
        return arrivals[-1][0] - first_cycle, total - first_bytes

    def _close(self, pairs: list[tuple[LwipConnection, HostStream]]) -> None:
        """The peer closes first, so that the waiting after the end is the peer's."""
        for client, _ in pairs:
            client.close()

        def ended() -> bool:
            for _, host in pairs:
                host.recv()
            return all(host.socket.ended for _, host in pairs)

        self._wait(ended, "closing", SETUP_CYCLES_LIMIT)
        for _, host in pairs:
            host.close()
        self.session.run_until_quiet()


def ratios(runs: list[Run]) -> dict[str, float]:
    """Goodput of all cores over that of one, by direction."""
    result = {}
    for direction in ("receive", "transmit"):
        speeds = {one.cores: one.bits_per_cycle for one in runs if one.direction == direction}
        if len(speeds) > 1:
            result[direction] = round(speeds[max(speeds)] / speeds[1], 3)
    return result


def table(runs: list[Run], clock_hz: float, clock_text: str) -> str:
    """The results as text."""
    head = ("direction", "cores", "connections", "bytes", "cycles", "bits/cycle", "Mb/s", "retransmitted")
    rows = [
        (
            one.direction,
            str(one.cores),
            str(one.connections),
            str(one.total_bytes),
            str(one.cycles),
            f"{one.bits_per_cycle:.3f}",
            f"{one.mbit_s(clock_hz):.1f}",
            str(one.retransmissions),
        )
        for one in runs
    ]
    cost_head = ("direction", "cores", "core", "segments in", "out", "cycles/segment", "instructions/segment")
    cost_rows = [
        (
            one.direction,
            str(one.cores),
            str(cost.core),
            str(cost.segments_in),
            str(cost.segments_out),
            str(cost.busy_cycles // cost.segments),
            str(cost.instructions // cost.segments),
        )
        for one in runs
        for cost in one.cost
        if cost.segments
    ]
    lines = [*_columns(head, rows), f"Mb/s at {clock_hz / 1e6:.2f} MHz: {clock_text}", ""]
    lines += [*_columns(cost_head, cost_rows), ""]
    lines += [f"{direction}: all cores over one core: {ratio:.2f}" for direction, ratio in ratios(runs).items()]
    return "\n".join(lines)


def _columns(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    widths = [max(len(row[n]) for row in [head, *rows]) for n in range(len(head))]
    return ["  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) for row in [head, *rows]]


def as_json(
    config: EngineConfig,
    seed: int,
    connections: int,
    length: int,
    runs: list[Run],
    clock_hz: float,
    clock_text: str,
) -> dict[str, Any]:
    """The results for build/bench.json; ``setup`` names what they depend on besides the sources."""
    return {
        "setup": {
            "config": dataclasses.asdict(config),
            "seed": seed,
            "connections_per_core": connections,
            "bytes_per_connection": length,
            "peer_acknowledgement_delay_ms": PEER_TIMER_MS,
        },
        "clock_hz": clock_hz,
        "clock": clock_text,
        "runs": [dataclasses.asdict(one) | {"mbit_s": round(one.mbit_s(clock_hz), 2)} for one in runs],
        "all_cores_over_one": ratios(runs),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers(required=True))
    chosen = parser.parse_args()
    sys.exit(chosen.run(chosen))
