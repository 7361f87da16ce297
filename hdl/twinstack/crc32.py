"""Ethernet's frame check sequence (IEEE 802.3 clause 3.2.9): generator for gateware and model for tests."""

from __future__ import annotations

from amaranth.lib.crc import Parameters, Processor
from amaranth.lib.crc.catalog import CRC32_ETHERNET


def _parameters() -> Parameters:
    return CRC32_ETHERNET(data_width=8)


def fcs_processor() -> Processor:
    """A CRC-32 unit that takes one byte per cycle, in the ``sync`` domain.

    ``crc`` bits 7:0 are the FCS byte that is sent first. ``match_detected`` tells that the bytes so far end with their FCS.
    """
    return _parameters().create()


def fcs(frame: bytes) -> bytes:
    """The four FCS bytes of ``frame`` (destination address to end of padding), in the order of the wire."""
    return _parameters().compute(frame).to_bytes(4, "little")


__all__ = ["fcs", "fcs_processor"]
