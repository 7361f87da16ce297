"""The message FIFOs in plain Python: a queue for each direction of each pair of cores that has one."""

from __future__ import annotations

from collections import deque


class MessageQueues:
    """Queues of a star around core 0.

    Parameters
    ----------
    cores : int, 1..4
        Cores.
    depth : int
        Messages that each queue holds.

    Members
    -------
    queues : dict of (sender, receiver) to deque
        Messages that were sent and not popped.
    sent : list[int]
        Messages that each core has sent.
    """

    def __init__(self, cores: int, depth: int):
        self.depth = depth
        pairs = [(0, n) for n in range(1, cores)] + [(n, 0) for n in range(1, cores)]
        self.queues: dict[tuple[int, int], deque[int]] = {pair: deque() for pair in pairs}
        self.sent = [0] * cores

    def has_space(self, sender: int, receiver: int, reset: int = 0) -> bool:
        """Whether a message would be taken while bit n of ``reset`` holds core n in reset."""
        queue = self.queues.get((sender, receiver))
        return queue is not None and len(queue) < self.depth and not reset >> sender & 1 and not reset >> receiver & 1

    def send(self, sender: int, receiver: int, message: int) -> None:
        """Queue a message; the caller has seen that there is space."""
        self.queues[sender, receiver].append(message)
        self.sent[sender] += 1

    def oldest(self, sender: int, receiver: int) -> int:
        """What the receiver is shown when it is this sender's turn."""
        return self.queues[sender, receiver][0]

    def pop(self, sender: int, receiver: int) -> None:
        """Remove it."""
        self.queues[sender, receiver].popleft()

    def reset(self, cores: int) -> None:
        """Empty every queue to and from core n where bit n of ``cores`` is set."""
        for pair, queue in self.queues.items():
            if any(cores >> core & 1 for core in pair):
                queue.clear()
