"""Two initiators at the engine's registers: the host, and the loader of firmware, which can lock the host out of booting."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .proto.registers import ENGINE, register_offset
from .soc import wishbone_signature

CSR_ADDRESS_BITS = 13


class HostGate(wiring.Component):
    """Arbiter in front of the engine's registers, an access at a time.

    Parameters
    ----------
    cores : int, 1..8
        Cores of the engine.

    Members
    -------
    host : ``In(wishbone_signature(13))``, csr : ``Out(wishbone_signature(13))``
        The host's way through.
    locked : ``In(1)``
        Writes of the host to ``reset_cores``, ``code_address`` and ``code_data`` are acknowledged, counted in ``refused``, and
        do nothing.
    refused : ``Out(16)``
    wrote_code, let_go : ``Out(1)``
        The host has just written a word of code memory; has let a core go.
    request, address, data : ``In``; done : ``Out(1)``
        A write of the loader: ``request`` stays up until ``done``.

    Timing
    ------
    The host's accesses pass without delay, or wait for one access of the loader; they take turns.

    Raises
    ------
    ValueError
        If there are not 1 to 8 cores.
    """

    def __init__(self, cores: int):
        if cores not in range(1, 9):
            raise ValueError(f"cores must be 1 to 8, not {cores!r}")
        self._cores = cores
        super().__init__(
            {
                "host": In(wishbone_signature(CSR_ADDRESS_BITS)),
                "csr": Out(wishbone_signature(CSR_ADDRESS_BITS)),
                "locked": In(1),
                "refused": Out(16),
                "wrote_code": Out(1),
                "let_go": Out(1),
                "request": In(1),
                "address": In(CSR_ADDRESS_BITS),
                "data": In(32),
                "done": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        host, csr = self.host, self.csr
        is_loader = Signal()  # whose turn it is
        ended = Signal()
        blocked, local_ack = Signal(), Signal()
        writes = {name: Signal(name=f"writes_{name}") for name in ("reset_cores", "code_address", "code_data")}
        for name, signal in writes.items():
            m.d.comb += signal.eq(host.we & (host.adr == register_offset(ENGINE, name) // 4))
        m.d.comb += [
            ended.eq(csr.ack | csr.err),
            blocked.eq(self.locked & Cat(writes.values()).any()),
            host.ack.eq((csr.ack & ~is_loader) | local_ack),
            host.err.eq(csr.err & ~is_loader),
            host.dat_r.eq(csr.dat_r),
            self.done.eq(is_loader & ended),
            self.wrote_code.eq(host.ack & ~local_ack & writes["code_data"]),
            self.let_go.eq(host.ack & ~local_ack & writes["reset_cores"] & ~host.dat_w[: self._cores].all()),
        ]
        with m.If(is_loader):
            m.d.comb += [
                csr.cyc.eq(self.request),
                csr.stb.eq(self.request),
                csr.we.eq(1),
                csr.adr.eq(self.address),
                csr.dat_w.eq(self.data),
                csr.sel.eq(0xF),
            ]
            with m.If(ended | ~self.request):
                m.d.sync += is_loader.eq(0)
        with m.Else():
            m.d.comb += [
                csr.cyc.eq(host.cyc & ~blocked),
                csr.stb.eq(host.stb & ~blocked),
                csr.we.eq(host.we),
                csr.adr.eq(host.adr),
                csr.dat_w.eq(host.dat_w),
                csr.sel.eq(host.sel),
                csr.cti.eq(host.cti),
            ]
            with m.If(self.request & (ended | ~(csr.cyc & csr.stb))):
                m.d.sync += is_loader.eq(1)
        # An access that had begun when the lock closed is answered by the engine, and not here as well.
        m.d.sync += local_ack.eq(host.cyc & host.stb & blocked & ~host.ack & ~host.err)
        with m.If(local_ack & host.cyc & host.stb):
            m.d.sync += self.refused.eq(self.refused + 1)
        return m


__all__ = ["HostGate"]
