"""Why the receive buffers are split as they are: a simulation of one core's pools, without the engine.

``python -m twinstack_sim.reserves [--seed n] [--ms n]`` prints the two tables of docs/blocks/packet_memory.md.

The pools are the reference model of the gateware. The firmware is one server that takes descriptors, flow queue first,
and keeps a data segment's buffer until the host has its bytes. Peers obey what the firmware advertises, which it counts
in buffers; whatever nobody can be held to (acknowledgements, strangers, attackers) comes unasked.
"""

from __future__ import annotations

import argparse
import heapq
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from twinstack.models.rx_pools import CLASSES, RxPoolsModel
from twinstack.proto.memory_map import RX_BUFFER_BYTES, RX_SMALL_BUFFER_BYTES

BANK_BYTES = 24 * 1024
FLOW_SERVICE_US = 3.0
"""An in-order segment or an acknowledgement at 75 MHz: 142 to 188 instructions with the parsed descriptor."""
OTHER_SERVICE_US = 15.0
"""A frame that takes lwIP's whole way: 917 to 1,366 instructions."""
ANSWER_SERVICE_US = 110.0
"""A datagram that nobody takes and that is answered with ICMP, all caches cold: measured in the engine."""
FLOW_BURST = 8
"""Frames of the flow queue in a row while the other queue waits."""
COPY_US = 20.0
"""From processing to the bytes in the host's memory, when a RECV is posted."""
ROUND_TRIP_US = 60.0
MIN_FRAME_US = 84 * 8 / 1000
"""Between minimum-size frames on a port; with two ports and two cores, also between those of one core."""
MAX_FRAME_US = 1538 * 8 / 1000
STORE_US = 5.1
"""From the end of a frame of maximum size to the buffer it takes: the word-wide copy from the frame store."""
PAUSE_US = 0.7
"""A pause frame on the wire; one of our own frames may go first."""


@dataclass(frozen=True)
class Split:
    """Buffers of a core, what each queue may hold, and how many large ones the firmware promises in windows."""

    name: str
    small: int
    flow_large: int = 255
    flow_small: int = 255
    other_large: int = 255
    other_small: int = 255
    promised: int | None = None

    @property
    def large(self) -> int:
        return (BANK_BYTES - self.small * RX_SMALL_BUFFER_BYTES) // RX_BUFFER_BYTES

    @property
    def windows(self) -> int:
        """Large buffers that windows may promise: by default all that the flow queue may hold, less one."""
        return min(self.large, self.flow_large) - 1 if self.promised is None else self.promised

    def pools(self) -> RxPoolsModel:
        limits = {(q, c): getattr(self, f"{q}_{c}") for q in ("flow", "other") for c in CLASSES}
        return RxPoolsModel(self.large, self.small, limits)


RECOMMENDED = Split("recommended", 16, flow_large=11, flow_small=14, other_large=4, other_small=8, promised=9)
"""The rule behind it: ``promised + other_large <= large``, so no stranger ever takes what a window promises, and
``other_small < small``, so acknowledgements find small buffers."""
SPLITS = (
    Split("large only, no limits", 0),
    Split("large only, limits", 0, flow_large=14, other_large=6, promised=8),
    Split("two classes, no limits", 16),
    Split("two classes, promised too much", 16, flow_large=11, flow_small=14, other_large=6, other_small=12),
    RECOMMENDED,
)
FIRMWARE = Split("firmware", 16, flow_large=11, flow_small=14, other_large=5, other_small=8, promised=8)
"""What sizes.h makes of the default bank: one more large buffer for fragments."""
WATERMARKS = (2, 3, 4, 5, 6)


@dataclass
class Frame:
    kind: str  # what it counts as
    queue: str
    is_short: bool
    connection: Connection | None = None


@dataclass
class Connection:
    """A peer that sends data as far as its window goes; ``reads``: the host keeps a RECV posted."""

    window: int  # buffers
    reads: bool = True
    is_short: bool = False
    in_flight: int = 0  # promised buffers that are used, or on their way back to the peer


@dataclass
class Simulation:
    """One core for ``end`` microseconds; ``sent`` and ``lost`` count frames by kind."""

    split: Split
    end: float
    rng: random.Random
    now: float = 0.0
    sent: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)

    copy_us: float = COPY_US
    other_us: float = OTHER_SERVICE_US
    watermark: int = 0
    pauses: int = 0

    def __post_init__(self) -> None:
        self.pools = self.split.pools()
        self.queues: dict[str, deque[tuple[Frame, int]]] = {"flow": deque(), "other": deque()}
        self.least_free = self.split.large
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = 0
        self._busy = False
        self._burst = 0
        self._wire_free = 0.0
        self._low = False
        self._senders: list[ObedientSender] = []

    def at(self, time: float, action: Callable[[], None]) -> None:
        self._serial += 1
        heapq.heappush(self._events, (time, self._serial, action))

    def run(self) -> None:
        while self._events and self._events[0][0] <= self.end:
            self.now, _, action = heapq.heappop(self._events)
            action()
            if (low := self.pools.free("large") < self.watermark) != self._low:
                self._low = low
                self.pauses += low
                for sender in self._senders:
                    sender.tell(low)

    def unasked(self, kind: str, queue: str, interval: float, *, is_short: bool = True, steady: bool = False) -> None:
        """Frames that come at this rate whatever happens, ``steady`` or as a Poisson process."""

        def arrive() -> None:
            self.arrive(Frame(kind, queue, is_short))
            self.at(self.now + (interval if steady else self.rng.expovariate(1 / interval)), arrive)

        self.at(self.rng.random() * interval, arrive)

    def obedient(self, kind: str, queue: str) -> None:
        """Frames of maximum size at line rate from one more port, whose station obeys pause frames."""
        self._senders.append(ObedientSender(self, Frame(kind, queue, is_short=False)))

    def send(self, connection: Connection) -> None:
        """The peer fills its window; its frames share a wire with those of other connections."""
        while connection.in_flight < connection.window:
            connection.in_flight += 1
            duration = MIN_FRAME_US if connection.is_short else MAX_FRAME_US
            self._wire_free = max(self._wire_free, self.now) + duration
            frame = Frame("promised", "flow", connection.is_short, connection)
            self.at(self._wire_free, partial(self.arrive, frame))

    def arrive(self, frame: Frame) -> None:
        self.sent[frame.kind] += 1
        size = self.pools.choose(frame.queue, frame.is_short)
        if size is None:
            self.lost[frame.kind] += 1
            if frame.connection is not None:  # the peer sends it again
                self.credit(frame.connection, self.now + 200_000)
            return
        first = 0 if size == "large" else self.pools.large
        free = (i for i in range(first, first + getattr(self.pools, size)) if i not in self.pools.holder)
        index = next(free)
        self.pools.take(frame.queue, index)
        self.least_free = min(self.least_free, self.pools.free("large"))
        self.queues[frame.queue].append((frame, index))
        self.serve()

    def serve(self) -> None:
        if self._busy or not any(self.queues.values()):
            return
        take_other = self.queues["other"] and (not self.queues["flow"] or self._burst >= FLOW_BURST)
        queue = "other" if take_other else "flow"
        self._burst = 0 if take_other else self._burst + 1
        self._busy = True
        frame, index = self.queues[queue].popleft()
        self.at(self.now + (self.other_us if take_other else FLOW_SERVICE_US), partial(self.served, frame, index))

    def served(self, frame: Frame, index: int) -> None:
        self._busy = False
        if frame.connection is None:
            self.pools.give_back(index)
        elif frame.connection.reads:
            self.at(self.now + self.copy_us, partial(self.copied, frame.connection, index))
        self.serve()

    def copied(self, connection: Connection, index: int) -> None:
        self.pools.give_back(index)
        self.credit(connection, self.now + ROUND_TRIP_US)

    def credit(self, connection: Connection, time: float) -> None:
        def opened() -> None:
            connection.in_flight -= 1
            self.send(connection)

        self.at(time, opened)


class ObedientSender:
    """A port whose station sends without a gap until it hears a pause frame, and again when it hears that it may.

    A frame that has begun is finished. Until a pause frame can go, a frame of our own may have to end.
    """

    def __init__(self, simulation: Simulation, frame: Frame):
        self._simulation, self._frame = simulation, frame
        self._paused = self._sends = False
        self._heard = 0.0
        # By then connections that nobody reads have filled their windows.
        simulation.at(500.0 + simulation.rng.random() * MAX_FRAME_US, self._begin)

    def tell(self, pause: bool) -> None:
        """A pause frame is to go, with a time or with zero."""
        simulation = self._simulation
        self._heard = max(self._heard, simulation.now + simulation.rng.random() * MAX_FRAME_US) + PAUSE_US
        simulation.at(self._heard, partial(self._hear, pause))

    def _hear(self, pause: bool) -> None:
        self._paused = pause
        self._begin()

    def _begin(self) -> None:
        if not self._paused and not self._sends:
            self._sends = True
            self._simulation.at(self._simulation.now + MAX_FRAME_US, self._end)

    def _end(self) -> None:
        self._simulation.at(self._simulation.now + STORE_US, partial(self._simulation.arrive, self._frame))
        self._sends = False
        self._begin()


def _connections(simulation: Simulation, readers: int, idle: int = 0, *, is_short: bool = False) -> None:
    """Connections that share what may be promised; an idle one keeps a quota of two buffers."""
    quota = 2 * idle
    share = max(1, (simulation.split.windows - quota) // max(1, readers))
    for number in range(readers + idle):
        reads = number >= idle
        connection = Connection(share if reads else 2, reads, is_short)
        simulation.at(simulation.rng.random() * 50, partial(simulation.send, connection))


def bulk(s: Simulation) -> None:
    """Four readers, and the acknowledgements of what this core sends: one per two segments at 1 Gb/s."""
    _connections(s, 4)
    s.unasked("acknowledgements", "flow", 2 * MAX_FRAME_US)


def idle_readers(s: Simulation) -> None:
    """Three connections fill their quota, and nobody reads; one other goes on."""
    _connections(s, 1, idle=3)
    s.unasked("acknowledgements", "flow", 2 * MAX_FRAME_US)


def one_byte_segments(s: Simulation) -> None:
    """Four connections send a byte at a time, as many as their windows have buffers."""
    _connections(s, 4, is_short=True)
    s.unasked("acknowledgements", "flow", 2 * MAX_FRAME_US)


def small_strangers(s: Simulation) -> None:
    """Bulk, and minimum-size frames without a flow at line rate (SYN or ping flood)."""
    bulk(s)
    s.unasked("strangers", "other", MIN_FRAME_US, steady=True)


def large_strangers(s: Simulation) -> None:
    """Bulk, and maximum-size frames without a flow at line rate (broadcast, UDP flood)."""
    bulk(s)
    s.unasked("strangers", "other", MAX_FRAME_US, is_short=False, steady=True)


def one_stranger(s: Simulation) -> None:
    """Bulk at full windows, and now and then somebody new: ARP, SYN, DNS."""
    bulk(s)
    s.unasked("strangers", "other", 200.0)


def slow_host(s: Simulation) -> None:
    """As large_strangers, but the host's bus takes 300 us a segment: all that is promised is in use at once."""
    s.copy_us = 300.0
    large_strangers(s)


def flow_attack(s: Simulation) -> None:
    """Bulk, and a peer with a connection that sends minimum-size frames at line rate."""
    bulk(s)
    s.unasked("attack", "flow", MIN_FRAME_US, steady=True)


SCENARIOS = (
    bulk,
    idle_readers,
    one_byte_segments,
    one_stranger,
    small_strangers,
    large_strangers,
    slow_host,
    flow_attack,
)


def paused_strangers(s: Simulation, ports: int) -> None:
    """The host reads nothing, so that all that is promised is in use; strangers at line rate on each port obey pauses."""
    s.other_us = ANSWER_SERVICE_US
    _connections(s, 0, idle=s.split.windows // 2)
    for _ in range(ports):
        s.obedient("strangers", "other")


def simulate(
    split: Split, scenario: Callable[[Simulation], None], *, ms: float = 10.0, seed: int = 1, watermark: int = 0
) -> Simulation:
    """Run one scenario on one split; the same seed gives the same result."""
    simulation = Simulation(split, ms * 1000, random.Random(seed), watermark=watermark)
    scenario(simulation)
    simulation.run()
    return simulation


def _share(simulation: Simulation, kind: str) -> str:
    sent, lost = simulation.sent[kind], simulation.lost[kind]
    return "-" if not sent else f"{lost} of {sent}"


def table(*, ms: float = 10.0, seed: int = 1) -> str:
    """Markdown: what is lost in each scenario with each split."""
    lines = [
        "| scenario | split (large + small) | promised segments lost | acknowledgements lost | strangers lost | least free large |",
        "|---|---|---|---|---|---|",
    ]
    for scenario in SCENARIOS:
        for split in SPLITS:
            result = simulate(split, scenario, ms=ms, seed=seed)
            kinds = (_share(result, kind) for kind in ("promised", "acknowledgements", "strangers"))
            name = f"{split.name} ({split.large} + {split.small})"
            lines.append(f"| {scenario.__name__} | {name} | {' | '.join(kinds)} | {result.least_free} |")
    return "\n".join(lines)


def watermark_table(*, ms: float = 10.0, seed: int = 1) -> str:
    """Markdown: what obedient strangers lose with each watermark, and how often connections alone would cause a pause."""
    lines = [
        "| watermark | strangers lost, 1 port | 2 ports | pauses with bulk | idle_readers | one_stranger |",
        "|---|---|---|---|---|---|",
    ]
    for watermark in WATERMARKS:

        def run(scenario: Callable[[Simulation], None], watermark: int = watermark) -> Simulation:
            return simulate(FIRMWARE, scenario, ms=ms, seed=seed, watermark=watermark)

        lost = [_share(run(partial(paused_strangers, ports=ports)), "strangers") for ports in (1, 2)]
        pauses = [str(run(scenario).pauses) for scenario in (bulk, idle_readers, one_stranger)]
        lines.append(f"| {watermark} | {' | '.join(lost + pauses)} |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--ms", type=float, default=10.0, help="simulated time of each scenario")
    arguments = parser.parse_args()
    print(table(ms=arguments.ms, seed=arguments.seed))
    print()
    print(watermark_table(ms=arguments.ms, seed=arguments.seed))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
