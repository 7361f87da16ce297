"""amaranth-soc, the CSR bus and Wishbone library; the only module that knows where it comes from."""

from __future__ import annotations

import luna_soc as _luna_soc  # its import makes the amaranth_soc inside it importable
from amaranth_soc import csr, wishbone


def wishbone_signature(addr_width: int = 30) -> wishbone.Signature:
    """Wishbone B4 bus of 32-bit words with byte enables, ``err`` and ``cti``.

    ``adr`` is the word address. ``cyc`` and ``stb`` stay asserted until ``ack`` or ``err``. ``cti`` is INCR_BURST while
    further words of an ascending burst follow, END_OF_BURST on the last word, CLASSIC for a single access.
    """
    return wishbone.Signature(addr_width=addr_width, data_width=32, granularity=8, features={"err", "cti"})


_ = _luna_soc

__all__ = ["csr", "wishbone", "wishbone_signature"]
