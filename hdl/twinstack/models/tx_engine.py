"""Reference model of the TX engine: what becomes of one command, without time and without checksums."""

from __future__ import annotations

from collections.abc import Mapping

from ..proto.descriptor import GATHER_ENTRY, MAX_GATHER, NEXT_HOP, TxOpcode, TxStatus

UNCACHED = 0x8000_0000
DATA, RX_BANK, TX_BANK = 0x1000_0000, 0x2000_0000, 0x2100_0000
HEADER_LENGTHS = (14, 18)


def piece(memories: Mapping[int, bytes], address: int, length: int) -> bytes | None:
    """The bytes of a gather entry, or None if it is a bad one; ``memories`` are by their base address."""
    address &= ~UNCACHED
    memory = memories.get(address & 0xFF00_0000)
    start = address & 0xFF_FFFF
    if memory is None or not length or start + length > len(memory):
        return None
    return bytes(memory[start : start + length])


def execute(
    command: Mapping[str, int], memories: Mapping[int, bytes], *, next_hops: int, epoch: int, ports: int, longest: int
) -> tuple[TxStatus, bytes]:
    """Status of a command, and the frame without checksums inserted if that is OK."""
    data = memories[DATA]
    if command["opcode"] not in (TxOpcode.RAW, TxOpcode.GATHER):
        return TxStatus.BAD_OPCODE, b""
    if command["port"] >= ports:
        return TxStatus.BAD_PORT, b""
    count, hop = command["gather_count"], command["next_hop"]
    entries = piece(memories, command["gather_address"], count * GATHER_ENTRY.size_bytes)
    base = command["gather_address"] & ~UNCACHED & 0xFF00_0000
    if not 1 <= count <= MAX_GATHER or command["gather_address"] % 4 or base != DATA or entries is None:
        return TxStatus.BAD_GATHER, b""
    frame, good, total = b"", True, 0
    if hop:
        at = next_hops + NEXT_HOP.size_bytes * (hop - 1)
        if command["opcode"] == TxOpcode.RAW or at % 4 or at + NEXT_HOP.size_bytes > len(data):
            return TxStatus.BAD_GATHER, b""
        total = data[at + 4 * NEXT_HOP["length"].word]
        good = total in HEADER_LENGTHS
        frame = bytes(data[at : at + total])
    for index in range(count):
        entry = GATHER_ENTRY.unpack(entries[index * GATHER_ENTRY.size_bytes : (index + 1) * GATHER_ENTRY.size_bytes])
        part = piece(memories, entry["address"], entry["length"])
        good = good and part is not None
        frame += part or b""
        total += entry["length"]
    if not good:
        return TxStatus.BAD_GATHER, b""
    if not 14 <= total <= longest:
        return TxStatus.BAD_LENGTH, b""
    if command["epoch"] != epoch:
        return TxStatus.OLD_EPOCH, b""
    return TxStatus.OK, frame
