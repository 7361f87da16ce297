"""Identity of the ABI, exchanged at start by firmware and hardware, and by host and engine."""

MAGIC = 0x4B545354
"""Read by firmware and host from the hardware; the bytes ``TSTK`` in little-endian order."""

ABI_VERSION = 3
"""Grows with each incompatible change to anything in :mod:`twinstack.proto`."""
