"""Addresses a core's CPU sees. Bit 31 selects the uncached alias of the same memory; the data cache never snoops,
so memory that hardware writes is used through the uncached alias only."""

from __future__ import annotations

UNCACHED = 0x8000_0000

CODE_BASE = 0x0000_0000
"""Shared code memory and ``.rodata``; read-only for the CPUs."""
DATA_BASE = 0x1000_0000
"""Private data RAM, at the same address on every core."""
RX_BANK_BASE = 0x2000_0000
"""The core's own RX bank."""
TX_BANK_BASE = 0x2100_0000
"""The core's own TX bank."""
SHARED_BASE = 0x2200_0000
"""Shared region of packet memory: the same words for every core; use it uncached, under a hardware lock."""

CSR_CORE_BASE = 0xF000_0000
"""The core's own CSR page (uncached by its address)."""
CSR_MANAGER_BASE = 0xF001_0000
"""The manager's CSR page, shared by the cores and the host."""
CSR_PAGE_BYTES = 0x2000

HOST_PAGE_BASE = 0x0000
"""Byte address of the host's CSR page on the host's CSR target."""
HOST_MANAGER_BASE = 0x4000
"""Byte address of the manager's CSR page on the host's CSR target."""
HOST_CSR_BYTES = 0x8000

RX_BUFFER_BYTES = 1536
RX_SMALL_BUFFER_BYTES = 256
TX_BUFFER_BYTES = 1536
RX_RING_ENTRIES_MAX = 64
DIRECTORY_WORDS = 256
"""Words of the port directory at the start of the shared region."""


def rx_buffer_offset(index: int, large: int) -> int:
    """Byte offset in the RX bank of buffer ``index``, where the first ``large`` are of the large class."""
    return (
        index * RX_BUFFER_BYTES if index < large else large * RX_BUFFER_BYTES + (index - large) * RX_SMALL_BUFFER_BYTES
    )
