"""What stands at the other end of a network cable."""

from __future__ import annotations

from typing import Protocol


class Peer(Protocol):
    """A station on the wire. Frames run from the destination address to the end of the payload, without FCS."""

    def frame_from_engine(self, frame: bytes, now_ns: int) -> None:
        """Take a frame that the engine sent; ``now_ns`` is simulated time."""

    def poll(self, now_ns: int) -> list[bytes]:
        """Do what is due at ``now_ns`` and return the frames to send to the engine, in order."""

    def next_event_ns(self) -> int | None:
        """Simulated time at which ``poll`` has work although no frame arrived; ``None`` if there is no such time."""

    def close(self) -> None:
        """Give everything back; closing twice is allowed."""
