"""The lock unit in plain Python: who owns what, and which answers are right. Who is first among those who try is left open."""

from __future__ import annotations

from dataclasses import dataclass, field

NOBODY = 15


@dataclass
class LockLedger:
    """Ownership of ``locks`` locks of ``cores`` cores.

    Members
    -------
    owners : list[int]
        Owner of each lock, or ``NOBODY``.
    taken : list[int]
        Locks that each core has taken.

    Raises
    ------
    ValueError
        If an answer contradicts what is known.
    """

    cores: int
    locks: int
    owners: list[int] = field(init=False)
    taken: list[int] = field(init=False)

    def __post_init__(self) -> None:
        self.owners = [NOBODY] * self.locks
        self.taken = [0] * self.cores

    def check_take(self, core: int, lock: int, owner: int, taken_now: bool, mine: bool) -> None:
        """The answer to a try of ``core``: the owner after it, whether it got the lock now, whether it has it."""
        before = self.owners[lock]
        right = owner != NOBODY and mine == (owner == core) and mine == (taken_now or before == core)
        if not right or (taken_now and before != NOBODY) or (before != NOBODY and owner != before):
            raise ValueError(
                f"core {core} tried lock {lock} of {before}: the answer must not be "
                f"owner {owner}, taken now {taken_now}, mine {mine}"
            )

    def cycle(self, takes: dict[int, int], releases: dict[int, int], reset: int = 0) -> None:
        """What happens in one cycle: ``takes`` and ``releases`` (core to lock), then bit n of ``reset`` for core n.

        ``takes`` holds only tries that were answered with "taken now".
        """
        after = list(self.owners)
        for core, lock in releases.items():
            if self.owners[lock] == core:
                after[lock] = NOBODY
        for core, lock in takes.items():
            if self.owners[lock] != NOBODY or after[lock] != NOBODY:
                raise ValueError(f"lock {lock} must not be given to core {core} while {after[lock]} has it")
            after[lock] = core
            self.taken[core] += 1
        self.owners = [NOBODY if owner != NOBODY and reset >> owner & 1 else owner for owner in after]
