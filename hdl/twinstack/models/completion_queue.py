"""The completion half of a control queue in plain Python, without time: see :class:`twinstack.completion_queue.CompletionQueue`.

What waits at the same time may come in any order, as far as one core is not concerned: the model says whether a
completion may come now, and what still has to.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from typing import NamedTuple

from .host_dispatcher import ECONNRESET


class Completion(NamedTuple):
    user_data: int
    result: int
    more: int = 0


@dataclass
class Join:
    """A slot: one operation that runs on several cores."""

    user_data: int
    pending: set[int]
    results: list[tuple[int, int]] = field(default_factory=list)  # (round, result) in order of arrival

    def possible(self) -> set[int]:
        """Results that the one completion may have: the first negative one, else the last; none: -ECONNRESET.

        Of contributions in the same round the hardware may take any first.
        """
        failed = [(turn, result) for turn, result in self.results if result < 0]
        if failed:
            return {result for turn, result in failed if turn == failed[0][0]}
        if self.results:
            return {result for turn, result in self.results if turn == self.results[-1][0]}
        return {-ECONNRESET}


def phase(index: int, log2: int) -> int:
    """Phase bit of the completion number ``index`` in a ring of 2**log2 entries."""
    return 1 - (index >> log2 & 1)


class CompletionQueueModel:
    """Completions that wait, and join slots.

    Parameters
    ----------
    cores : int
        Cores that post.

    Members
    -------
    joins : dict of int to Join
        Open slots by number.
    """

    def __init__(self, cores: int):
        self.cores = cores
        self.joins: dict[int, Join] = {}
        self._waiting: list[deque[Completion]] = [deque() for _ in range(cores)]
        self._refused: Counter[Completion] = Counter()
        self._ended: list[Join] = []
        self._maybe: Counter[Completion] = Counter()
        self._round = 0

    # ---- what happens ----

    def open(self, slot: int, targets: set[int], user_data: int) -> None:
        """The host dispatcher takes a free slot."""
        if slot in self.joins:
            raise ValueError(f"slot must be free, not {slot!r}")
        self.joins[slot] = Join(user_data, set(targets))
        self._end_joins()

    def refuse(self, completion: Completion) -> None:
        """The host dispatcher answers an entry that no core can serve."""
        self._refused[completion] += 1

    def post(self, core: int, completion: Completion, *, join: int | None = None, host: int = 0) -> None:
        """A core posts; ``join``: the slot that it contributes to. What its slot does not expect is discarded."""
        if host != 0:
            return
        if join is None or completion.more:
            self._waiting[core].append(completion)
        elif join in self.joins and core in self.joins[join].pending:
            self.joins[join].pending.remove(core)
            self.joins[join].results.append((self._round, completion.result))
            self._end_joins()

    def settle(self) -> None:
        """All that was posted so far has been taken up: it comes before what is posted from now on."""
        self._round += 1

    def reset_core(self, core: int) -> None:
        """What waits of this core is gone, but for what was on its way to the ring; no slot expects it."""
        self._maybe.update(self._waiting[core])
        self._waiting[core].clear()
        for join in self.joins.values():
            join.pending.discard(core)
        self._end_joins()

    def _end_joins(self) -> None:
        for slot in [slot for slot, join in self.joins.items() if not join.pending]:
            self._ended.append(self.joins.pop(slot))

    # ---- what the host sees ----

    @property
    def due(self) -> int:
        """Completions that must still come."""
        return sum(map(len, self._waiting)) + sum(self._refused.values()) + len(self._ended)

    def take(self, completion: Completion) -> None:
        """The host finds ``completion`` in its ring.

        Raises
        ------
        ValueError
            If it cannot be there.
        """
        for waiting in self._waiting:
            if waiting and waiting[0] == completion:
                waiting.popleft()
                return
        for join in self._ended:
            if (join.user_data, 0) == (completion.user_data, completion.more) and completion.result in join.possible():
                self._ended.remove(join)
                return
        for counter in (self._refused, self._maybe):
            if counter[completion]:
                counter[completion] -= 1
                return
        raise ValueError(f"completion must be one that is due, not {completion!r}")
