"""The Toeplitz hash of receive side scaling, bit by bit as its definition reads.

For each bit of the input, from the first byte's most significant bit on, that is one: exclusive-or the 32 bits of the
key that start at the same bit position.
"""

from __future__ import annotations

KEY_BYTES = 40
MAX_INPUT_BYTES = 36


def toeplitz(key: bytes, message: bytes) -> int:
    """Hash of ``message``, at most 36 bytes, under the 40-byte ``key``.

    Raises
    ------
    ValueError
        If ``key`` or ``message`` has another length.
    """
    if len(key) != KEY_BYTES:
        raise ValueError(f"key must be {KEY_BYTES} bytes, not {len(key)!r}")
    if len(message) > MAX_INPUT_BYTES:
        raise ValueError(f"message must be at most {MAX_INPUT_BYTES} bytes, not {len(message)!r}")
    key_bits = int.from_bytes(key, "big")
    result = 0
    for position in range(8 * len(message)):
        if message[position // 8] >> (7 - position % 8) & 1:
            result ^= key_bits >> (8 * KEY_BYTES - 32 - position) & 0xFFFF_FFFF
    return result


def rss_input(source: bytes, destination: bytes, ports: tuple[int, int] | None = None) -> bytes:
    """The bytes that are hashed: source address, destination address, source port, destination port, in network order.

    Parameters
    ----------
    source, destination : bytes
        Wire bytes of both addresses, 4 each or 16 each.
    ports : (int, int)
        Source and destination port; without them the hash is over the addresses only.

    Raises
    ------
    ValueError
        If the addresses have the wrong length.
    """
    if len(source) not in (4, 16) or len(destination) != len(source):
        raise ValueError(f"addresses must be 4 or 16 bytes each, not {(source, destination)!r}")
    message = source + destination
    for port in ports or ():
        message += port.to_bytes(2, "big")
    return message


def rss_hash(key: bytes, source: bytes, destination: bytes, ports: tuple[int, int] | None = None) -> int:
    """RSS hash of a 2-tuple, or with ``ports`` of a 4-tuple."""
    return toeplitz(key, rss_input(source, destination, ports))
