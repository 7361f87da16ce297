"""A lock that is handed over in the order of asking."""

from __future__ import annotations

import collections
import threading
from types import TracebackType


class FairLock:
    """Reentrant lock; who has waited longest gets it next.

    A thread that lets a simulation work takes its device's lock again at once: with :class:`threading.RLock` others
    would starve.
    """

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._owner: int | None = None
        self._depth = 0
        self._queue: collections.deque[tuple[int, threading.Lock]] = collections.deque()

    def __enter__(self) -> FairLock:
        me = threading.get_ident()
        with self._mutex:
            if self._owner in (None, me):
                self._owner = me
                self._depth += 1
                return self
            turn = threading.Lock()
            turn.acquire()
            self._queue.append((me, turn))
        try:
            turn.acquire()
        except BaseException:  # KeyboardInterrupt while it waits: leave the queue, or pass on what was just handed over
            with self._mutex:
                if (me, turn) in self._queue:
                    self._queue.remove((me, turn))
                else:
                    self._hand_over()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._mutex:
            self._depth -= 1
            if not self._depth:
                self._hand_over()

    def owned(self) -> bool:
        """This thread holds it."""
        return self._owner == threading.get_ident()

    def _hand_over(self) -> None:
        if self._queue:
            self._owner, turn = self._queue.popleft()
            self._depth = 1
            turn.release()
        else:
            self._owner, self._depth = None, 0
