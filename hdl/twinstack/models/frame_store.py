"""The frame store in plain Python, clock edge by clock edge: see :class:`twinstack.frame_store.FrameStore`."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple


class Word(NamedTuple):
    """A word of a frame; ``error`` counts in the last one only."""

    data: int
    count: int
    last: bool
    error: bool = False


class FrameStoreModel:
    """What lies in the store, what it offers, and what it just did.

    Parameters
    ----------
    words : int
        Capacity; the word offered at the output does not count.

    Members
    -------
    offered : Word or None
        At the output in this cycle.
    pulse : str
        "committed", "dropped" or "overflow" if that output is high in this cycle, else "".
    """

    def __init__(self, words: int):
        self.words = words
        self.offered: Word | None = None
        self.pulse = ""
        self._stored: deque[Word] = deque()  # of whole frames
        self._frame: list[Word] = []  # the frame that is being written
        self._overflowed = False

    @property
    def used(self) -> int:
        """Words of the RAM that are taken."""
        return len(self._stored) + len(self._frame)

    def clock(self, word: Word | None, drop: bool, ready: bool) -> None:
        """One clock edge: ``word`` comes, or none; the reader takes what is offered if it is ``ready``."""
        has_room = not self._overflowed and self.used < self.words
        fetched = self._stored.popleft() if self._stored and (ready or self.offered is None) else None
        if fetched is not None or ready:
            self.offered = fetched
        self.pulse = ""
        if word is None:
            return
        if has_room:
            self._frame.append(word)
        self._overflowed = not has_room
        if word.last:
            self._end(is_bad=word.error or drop)

    def _end(self, *, is_bad: bool) -> None:
        self.pulse = "dropped" if is_bad else "overflow" if self._overflowed else "committed"
        if self.pulse == "committed":
            self._stored += self._frame
        self._frame, self._overflowed = [], False
