"""Host memory on a board without a processor of its own: block RAM on the host bus, which the PC reaches through the bridge."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .interfaces import RamPort
from .memory import RamArbiter, TrueDualPortRam
from .soc import wishbone_signature


class RamTarget(wiring.Component):
    """Wishbone target in front of a RAM port; addresses beyond the RAM end with ``err``.

    Parameters
    ----------
    size_bytes : int
        Of the RAM, a power of two; it lies at address 0.
    """

    def __init__(self, size_bytes: int):
        self._words = size_bytes // 4
        width = (self._words - 1).bit_length()
        super().__init__({"bus": In(wishbone_signature()), "ram": Out(RamPort(width))})

    def elaborate(self, platform):  # type: ignore[no-untyped-def]
        m = Module()
        inside = Signal()
        request = Signal()
        m.d.comb += [
            inside.eq(self.bus.adr < self._words),
            request.eq(self.bus.cyc & self.bus.stb & ~self.bus.ack & ~self.bus.err),
            self.ram.valid.eq(request & inside),
            self.ram.write.eq(self.bus.we),
            self.ram.address.eq(self.bus.adr),
            self.ram.data.eq(self.bus.dat_w),
            self.ram.mask.eq(self.bus.sel),
            self.bus.dat_r.eq(self.ram.read_data),
        ]
        m.d.sync += [
            self.bus.ack.eq(self.ram.valid & self.ram.ready),
            self.bus.err.eq(request & ~inside),
        ]
        return m


class HostMemory(wiring.Component):
    """The second memory: block RAM that the engine's two initiators and the bridge share.

    Parameters
    ----------
    size_bytes : int
        A power of two, at least 1024; the memory lies at address 0.

    Members
    -------
    read, write : ``In(wishbone_signature())``
        From the engine.
    port : ``In(wishbone_signature())``
        From the bridge.

    Timing
    ------
    A word takes two cycles. ``write`` and ``port`` share a port of the RAM, turn by turn.

    Raises
    ------
    TypeError, ValueError
        If ``size_bytes`` is no power of two, or too small.
    """

    def __init__(self, size_bytes: int):
        if not isinstance(size_bytes, int) or isinstance(size_bytes, bool):
            raise TypeError(f"size_bytes must be an integer, not {size_bytes!r}")
        if size_bytes < 1024 or size_bytes & (size_bytes - 1):
            raise ValueError(f"size_bytes must be a power of two, at least 1024, not {size_bytes!r}")
        self._size_bytes = size_bytes
        super().__init__({name: In(wishbone_signature()) for name in ("read", "write", "port")})

    def elaborate(self, platform):  # type: ignore[no-untyped-def]
        m = Module()
        m.submodules.ram = ram = TrueDualPortRam(self._size_bytes)
        width = ram.a.address.shape().width
        targets = {}
        for name in ("read", "write", "port"):
            m.submodules[name] = targets[name] = target = RamTarget(self._size_bytes)
            wiring.connect(m, wiring.flipped(getattr(self, name)), target.bus)
        wiring.connect(m, targets["read"].ram, ram.a)
        m.submodules.arbiter = arbiter = RamArbiter(width, 2)
        for slot, name in zip(arbiter.requesters, ("write", "port"), strict=True):
            wiring.connect(m, targets[name].ram, slot)
        wiring.connect(m, arbiter.ram, ram.b)
        return m
