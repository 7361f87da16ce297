"""Reference model of the host DMA engine: what a transfer does to memories, without time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

UNCACHED = 0x8000_0000
RX_BANK, TX_BANK = 0x2000_0000, 0x2100_0000
DONE, OUTSIDE_BANKS, OUTSIDE_WINDOWS = range(3)


class Window(NamedTuple):
    """A DMA window of the host: first and last byte, directions as seen from the engine."""

    base: int
    limit: int
    read: bool
    write: bool


class Transfer(NamedTuple):
    local: int
    host_address: int
    length: int
    host: int = 0


def verdict(
    transfer: Transfer, *, is_out: bool, banks: Mapping[int, int], windows: Sequence[Window], hosts: int = 1
) -> int:
    """The status of a transfer; ``banks`` has the size of the bank at each base address."""
    local = transfer.local & ~UNCACHED
    base = local & 0xFF00_0000
    size = banks.get(base, 0) if is_out or base == TX_BANK else 0
    if not transfer.length or (local - base) + transfer.length > size:
        return OUTSIDE_BANKS
    last = transfer.host_address + transfer.length - 1
    for window in windows:
        if (
            transfer.host < hosts
            and window.base <= transfer.host_address
            and last <= window.limit
            and (window.write if is_out else window.read)
        ):
            return DONE
    return OUTSIDE_WINDOWS


def turns(transfer: Transfer, turn_bytes: int = 1024) -> list[int]:
    """Bytes of each of its turns."""
    address, left, lengths = transfer.host_address, transfer.length, []
    while left:
        lengths.append(min(left, turn_bytes - address % turn_bytes))
        address += lengths[-1]
        left -= lengths[-1]
    return lengths


def carry_out(
    transfer: Transfer, *, is_out: bool, banks: Mapping[int, bytearray], host: bytearray, host_base: int
) -> None:
    """Move the bytes of a permitted transfer."""
    local = transfer.local & ~UNCACHED
    bank, offset = banks[local & 0xFF00_0000], local & 0xFF_FFFF
    place = transfer.host_address - host_base
    if is_out:
        host[place : place + transfer.length] = bank[offset : offset + transfer.length]
    else:
        bank[offset : offset + transfer.length] = host[place : place + transfer.length]
