"""The way from a program to an engine: registers, host memory, interrupt."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence


class LinkError(OSError):
    """The engine cannot be reached, or does not answer in time."""


class LoaderPort(ABC):
    """Registers of the loader of firmware (:mod:`twinstack.proto.flash_map`); addresses are byte offsets in its page."""

    @abstractmethod
    def read(self, offset: int) -> int:
        """Read a 32-bit register; raises :class:`LinkError` if it does not answer."""

    @abstractmethod
    def write(self, offset: int, value: int) -> None:
        """Write a 32-bit register; raises :class:`LinkError` like :meth:`read`."""

    def read_words(self, offset: int, count: int) -> list[int]:
        """Read ``count`` registers from ``offset`` on; a link may have a faster way."""
        return [self.read(offset + 4 * index) for index in range(count)]

    def write_words(self, offset: int, words: Sequence[int], *, incrementing: bool) -> None:
        """Write words to ascending registers, or all to one; a link may have a faster way."""
        for index, word in enumerate(words):
            self.write(offset + 4 * index * incrementing, word)


class HostLink(ABC):
    """One engine as its host sees it. A backend exists for each kind of connection; the first is the simulation.

    Addresses of registers are byte offsets into the host's CSR target (:mod:`twinstack.proto.memory_map`); addresses
    of host memory are byte addresses on the host bus, as the engine uses them.
    """

    @property
    def is_shared(self) -> bool:
        """Several programs use the engine, each with a queue of its own; it runs already, and stays as it is."""
        return False

    @property
    def loader(self) -> LoaderPort | None:
        """The loader of firmware and flash, on boards that have one."""
        return None

    @property
    @abstractmethod
    def memory_base(self) -> int:
        """First byte address of host memory on the host bus."""

    @property
    @abstractmethod
    def memory_size(self) -> int:
        """Bytes of host memory."""

    @property
    def work_slice(self) -> float | None:
        """How the engine and the threads of a program share this object.

        ``None``: the engine works by itself; :meth:`wait_interrupt` sleeps, and meanwhile other threads may call
        everything else. Otherwise the engine works only within calls of this object (a simulation in this process),
        calls must not overlap, and this is a good length of one :meth:`wait_interrupt`, in seconds of engine time: short
        enough that others need not wait long for their turn.
        """
        return None

    @property
    def tears(self) -> bool:
        """A :meth:`read` of several words may see the first ones before, and the last ones after the engine wrote them all."""
        return False

    @abstractmethod
    def csr_read(self, offset: int) -> int:
        """Read the 32-bit register at byte ``offset``.

        Raises
        ------
        LinkError
            If the engine does not answer.
        """

    @abstractmethod
    def csr_write(self, offset: int, value: int) -> None:
        """Write the 32-bit register at byte ``offset``; raises :class:`LinkError` like :meth:`csr_read`."""

    def csr_read_all(self, offset: int, count: int) -> list[int]:
        """Read one register ``count`` times; a slow connection has a faster way than that."""
        return [self.csr_read(offset) for _ in range(count)]

    def csr_write_all(self, offset: int, values: Sequence[int]) -> None:
        """Write ``values`` to one register, one after another."""
        for value in values:
            self.csr_write(offset, value)

    @abstractmethod
    def read(self, address: int, length: int) -> bytes:
        """Read host memory."""

    @abstractmethod
    def write(self, address: int, data: bytes) -> None:
        """Write host memory; ordered before a later :meth:`csr_write`."""

    @abstractmethod
    def wait_interrupt(self, timeout: float) -> bool:
        """Let the engine work until it raises the host interrupt, at most ``timeout`` seconds of its own time.

        Returns whether the interrupt is up; it may be already, then the call returns at once.
        """

    @abstractmethod
    def clock(self) -> float:
        """Seconds of the engine's own time; time-outs count in it."""
