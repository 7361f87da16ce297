"""What a cable does to frames: loss, duplication, reordering, corruption, delay; repeatable from a seed."""

from __future__ import annotations

import heapq
import random
import sys
from dataclasses import dataclass, field

ETHERNET_HEADER_BYTES = 14
_ETHERTYPES_WITH_CHECKSUM = (b"\x08\x00", b"\x86\xdd")  # IPv4, IPv6: a flipped bit behind the MAC header is caught


@dataclass(frozen=True)
class WireFrame:
    """A frame on its way; ``bad_fcs`` tells that its FCS does not match any more."""

    data: bytes
    bad_fcs: bool = False


@dataclass
class WireCounts:
    """What happened to the frames of one direction."""

    frames: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    corrupted: int = 0
    damaged: int = 0


@dataclass
class _Direction:
    random: random.Random
    queue: list[tuple[int, int, WireFrame]] = field(default_factory=list)
    sequence: int = 0
    counts: WireCounts = field(default_factory=WireCounts)


class WireModel:
    """Both directions of a cable. Directions are named ``"to_engine"`` and ``"to_peer"`` and share no random state.

    Parameters
    ----------
    seed : int or None
        Of all decisions; ``None`` draws one. It is printed to standard error.
    loss : float, 0..1
        Probability that a frame vanishes.
    reorder : float, 0..1
        Probability that a frame is held back by ``reorder_ns``, so that later ones overtake it.
    duplicate : float, 0..1
        Probability that a frame arrives twice.
    corrupt : float, 0..1
        Probability that a bit flips and the FCS tells.
    damage : float, 0..1
        Probability that a bit behind the MAC header of an IP frame flips and the FCS matches nevertheless, as a faulty
        switch would do: only the checksums of IP, TCP, UDP and ICMP can tell.
    delay_ns : int, >= 0
        Time on the wire.
    reorder_ns : int, >= 0
        Extra time of a reordered frame.

    Raises
    ------
    ValueError
        If a probability or time is out of range.
    """

    DIRECTIONS = ("to_engine", "to_peer")

    def __init__(
        self,
        seed: int | None = None,
        *,
        loss: float = 0.0,
        reorder: float = 0.0,
        duplicate: float = 0.0,
        corrupt: float = 0.0,
        damage: float = 0.0,
        delay_ns: int = 0,
        reorder_ns: int = 100_000,
    ) -> None:
        chances = {"loss": loss, "reorder": reorder, "duplicate": duplicate, "corrupt": corrupt, "damage": damage}
        for name, value in chances.items():
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} must be 0 to 1, not {value!r}")
        for name, time_ns in {"delay_ns": delay_ns, "reorder_ns": reorder_ns}.items():
            if time_ns < 0:
                raise ValueError(f"{name} must not be negative, not {time_ns!r}")
        self.seed = random.SystemRandom().randrange(1 << 31) if seed is None else seed
        self.loss, self.reorder, self.duplicate, self.corrupt, self.damage = chances.values()
        self.delay_ns, self.reorder_ns = delay_ns, reorder_ns
        self._directions = {name: _Direction(random.Random(f"{self.seed} {name}")) for name in self.DIRECTIONS}
        print(f"twinstack: wire model seed {self.seed}", file=sys.stderr)

    def push(self, direction: str, frame: bytes, now_ns: int) -> None:
        """Put ``frame`` on the wire at ``now_ns``."""
        side = self._directions[direction]
        dice, counts = side.random, side.counts
        counts.frames += 1
        if dice.random() < self.loss:
            counts.lost += 1
            return
        carried = WireFrame(frame)
        if dice.random() < self.corrupt:
            counts.corrupted += 1
            carried = WireFrame(_flip(frame, dice, 0), bad_fcs=True)
        elif dice.random() < self.damage and frame[12:14] in _ETHERTYPES_WITH_CHECKSUM:
            counts.damaged += 1
            carried = WireFrame(_flip(frame, dice, ETHERNET_HEADER_BYTES))
        due = now_ns + self.delay_ns
        if dice.random() < self.reorder:
            counts.reordered += 1
            due += self.reorder_ns
        copies = 1
        if dice.random() < self.duplicate:
            counts.duplicated += 1
            copies = 2
        for _ in range(copies):
            heapq.heappush(side.queue, (due, side.sequence, carried))
            side.sequence += 1

    def pop(self, direction: str, now_ns: int) -> list[WireFrame]:
        """Frames that have arrived by ``now_ns``, in order of arrival."""
        queue = self._directions[direction].queue
        arrived = []
        while queue and queue[0][0] <= now_ns:
            arrived.append(heapq.heappop(queue)[2])
        return arrived

    def next_arrival_ns(self) -> int | None:
        """When the next frame arrives at either end; ``None`` if none is under way."""
        heads = [side.queue[0][0] for side in self._directions.values() if side.queue]
        return min(heads, default=None)

    def counts(self, direction: str) -> WireCounts:
        """What happened in ``direction`` so far."""
        return self._directions[direction].counts


def _flip(frame: bytes, dice: random.Random, start: int) -> bytes:
    if len(frame) <= start:
        return frame
    changed = bytearray(frame)
    changed[dice.randrange(start, len(frame))] ^= 1 << dice.randrange(8)
    return bytes(changed)
