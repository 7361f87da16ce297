"""Reference model of the receive buffers of one core, without time: see :class:`twinstack.rx_pools.RxPools`."""

from __future__ import annotations

from dataclasses import dataclass, field

QUEUES = ("flow", "other")
CLASSES = ("large", "small")


@dataclass
class RxPoolsModel:
    """Buffers of two classes with what each queue holds of them.

    Parameters
    ----------
    large, small : int
        Buffers of each class; indices of the large ones come first.
    limits : dict
        By (queue, class); what is not named has no limit.
    """

    large: int
    small: int
    limits: dict[tuple[str, str], int] = field(default_factory=dict)
    holder: dict[int, str] = field(default_factory=dict)  # buffers that are out, with the queue that holds them

    def size_class(self, index: int) -> str:
        return "large" if index < self.large else "small"

    def held(self, queue: str, size: str) -> int:
        return sum(q == queue and self.size_class(i) == size for i, q in self.holder.items())

    def free(self, size: str) -> int:
        return getattr(self, size) - sum(self.size_class(i) == size for i in self.holder)

    def has_room(self, queue: str, size: str) -> bool:
        return self.free(size) > 0 and self.held(queue, size) < self.limits.get((queue, size), 255)

    def choose(self, queue: str, is_short: bool) -> str | None:
        """Class of the buffer that such a frame gets, or None if it is dropped."""
        if is_short and self.has_room(queue, "small"):
            return "small"
        return "large" if self.has_room(queue, "large") else None

    def take(self, queue: str, index: int) -> None:
        if index in self.holder or not 0 <= index < self.large + self.small:
            raise ValueError(f"buffer must be free, not {index!r}")
        self.holder[index] = queue

    def give_back(self, index: int) -> bool:
        """Whether the buffer was out."""
        return self.holder.pop(index, None) is not None

    def reset(self) -> None:
        self.holder.clear()
