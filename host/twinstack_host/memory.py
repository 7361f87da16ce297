"""Allocation of host memory: blocks of one size, aligned, no fragmentation."""

from __future__ import annotations


class OutOfMemory(MemoryError):
    """No block of host memory is free."""


class BlockPool:
    """Equal blocks from ``base`` on.

    Parameters
    ----------
    base, size : int
        Byte range on the host bus.
    block_bytes : int
        Bytes of each block.

    Raises
    ------
    ValueError
        If not one block fits.
    """

    def __init__(self, base: int, size: int, block_bytes: int):
        if block_bytes < 64 or size < block_bytes:
            raise ValueError(f"size must hold a block of at least 64 bytes, not {size!r} for blocks of {block_bytes!r}")
        self.base = base
        self.block_bytes = block_bytes
        self.count = size // block_bytes
        self._free = [base + index * block_bytes for index in reversed(range(self.count))]
        self._out: set[int] = set()

    @property
    def free(self) -> int:
        """Blocks that can be had now."""
        return len(self._free)

    def take(self) -> int:
        """Address of a block; raises :class:`OutOfMemory` if there is none."""
        if not self._free:
            raise OutOfMemory(f"all {self.count} buffers of {self.block_bytes} bytes are in use")
        address = self._free.pop()
        self._out.add(address)
        return address

    def give(self, address: int) -> None:
        """Give a block back; raises ValueError for an address that is not out."""
        if address not in self._out:
            raise ValueError(f"address must be that of a block that is out, not {address:#x}")
        self._out.remove(address)
        self._free.append(address)
