"""What the UART bridge reaches: byte addresses, its commands, and the registers of its own page.

Commands are those of LiteX's uartbone: command byte, number of words (0 means 256), word address and words, both most
significant byte first. A read is answered with the words alone, a write not at all.
"""

from __future__ import annotations

HOST_MEMORY_BASE = 0x0000_0000
"""Host memory, at the addresses that the engine uses on the host bus."""
CSR_BASE = 0x8000_0000
"""The engine's registers for its host (32 KiB): the host's page, and the manager's from ``HOST_MANAGER_BASE`` on."""
PAGE_BASE = 0x8001_0000
"""The bridge's own page, 64 bytes."""
LOADER_BASE = 0x8002_0000
"""The loader of firmware and flash (64 KiB)."""

CSR_BYTES = 0x8000
PAGE_BYTES = 0x40
LOADER_BYTES = 0x1_0000

WRITE_INCREMENTING = 0x01
"""Write words to ascending addresses."""
READ_INCREMENTING = 0x02
"""Read words from ascending addresses."""
WRITE_FIXED = 0x03
"""Write all words to one address."""
READ_FIXED = 0x04
"""Read one address again and again."""
MAX_WORDS = 256
"""Words of one command."""

NO_DATA = 0xFFFF_FFFF
"""Read where the bus answers with an error, where there is nothing, or where nobody answers."""

IDENTITY = 0x4255_5354
"""Read at ``PAGE_IDENTITY``: the bytes ``TSUB`` in little-endian order."""
VERSION = 1
"""Of this page and of the address map."""

PAGE_IDENTITY = 0x00
PAGE_VERSION = 0x04
PAGE_MEMORY_BASE = 0x08
"""First byte address of host memory."""
PAGE_MEMORY_BYTES = 0x0C
"""Bytes of host memory."""
PAGE_SYNC_HZ = 0x10
"""Frequency of the engine's clock."""
PAGE_DIVISOR = 0x14
"""Clock cycles of a bit on the line."""
PAGE_STALL_CYCLES = 0x18
"""Clock cycles after which a command that does not go on is given up."""
PAGE_FRAMING_ERRORS = 0x1C
"""Frames without a stop bit, breaks included; like all counters 16 bits, from 0 again after 65535."""
PAGE_TIMEOUTS = 0x20
"""Commands given up because they stalled."""
PAGE_BUS_ERRORS = 0x24
"""Words that a bus refused, that no bus answered, or of addresses where there is nothing."""
PAGE_DISCARDED = 0x28
"""Bytes that were no command, came behind a framing error, or found no room."""
