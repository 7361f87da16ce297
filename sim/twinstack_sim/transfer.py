"""Echoed random data over many connections at once, verified byte for byte at both ends."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from .streams import Stream


class Mismatch(AssertionError):
    """What arrived is not what was sent."""


@dataclass
class EchoTransfer:
    """One connection: ``initiator`` sends ``data``, ``responder`` returns what it gets, both check every byte.

    The two directions carry data at the same time, since the echo starts with the first bytes.
    """

    name: str
    initiator: Stream
    responder: Stream
    data: bytes
    verified: int = 0
    _forth: int = 0
    _back: int = 0
    _started: bool = field(default=False)

    @property
    def done(self) -> bool:
        return self._back == len(self.data)

    def step(self) -> None:
        """Move what can be moved; raises Mismatch where a byte differs."""
        if not self._started:
            self._started = True
            self.initiator.send_all(self.data)
        if received := self.responder.recv():
            self._forth = self._check("responder", received, self._forth)
            self.responder.send_all(received)
        else:
            self.responder.send_all(b"")
        if received := self.initiator.recv():
            self._back = self._check("initiator", received, self._back)

    def _check(self, end: str, received: bytes, offset: int) -> int:
        expected = self.data[offset : offset + len(received)]
        if received != expected:
            first = next((i for i, (a, b) in enumerate(zip(received, expected, strict=False)) if a != b), len(expected))
            raise Mismatch(f"{self.name}: {end} got other data from byte {offset + first} on")
        self.verified += len(received)
        return offset + len(received)


def run_transfers(
    transfers: list[EchoTransfer],
    advance: Callable[[], None],
    expired: Callable[[], bool],
) -> None:
    """Step all transfers until done.

    Raises
    ------
    TimeoutError
        Naming the transfers that are not done when ``expired()`` first is true.
    """
    while not all(transfer.done for transfer in transfers):
        if expired():
            late = [f"{t.name} ({t.verified} of {2 * len(t.data)} bytes)" for t in transfers if not t.done]
            raise TimeoutError("transfers did not finish: " + ", ".join(late))
        for transfer in transfers:
            if not transfer.done:
                transfer.step()
        advance()


def random_data(rng: random.Random, length: int) -> bytes:
    return rng.randbytes(length)
