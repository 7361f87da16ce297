"""The host's side of a board: the second memory on the host bus, and a serial port that reaches it and the registers."""

from __future__ import annotations

from amaranth import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.cdc import FFSynchronizer
from amaranth.lib.wiring import In, Out

from twinstack.interfaces import RamPort
from twinstack.memory import RamArbiter, TrueDualPortRam
from twinstack.soc import wishbone_signature


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
    """The second memory: block RAM that the engine's two initiators and the serial port share.

    Members
    -------
    read, write : ``In(wishbone_signature())``
        From the engine.
    port : ``In(wishbone_signature())``
        From the serial port.
    """

    def __init__(self, size_bytes: int):
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


class HostShiftPort(wiring.Component):
    """Serial access to host memory and registers over three wires, until the UART bridge takes its place.

    A frame has 64 bits, most significant first, sampled at rising edges of ``clock`` while ``select`` is high: write flag,
    register flag (otherwise host memory), 30 bits of word address, 32 bits of data. The access starts when ``select``
    falls. While the next frame is shifted in, ``data_out`` gives the 32 bits that the access read, most significant
    first, behind 32 bits of the last access's address. ``clock`` may run up to a quarter of ``sync``.

    Members
    -------
    clock, select, data_in : In(1)
        Asynchronous pins.
    data_out : Out(1)
    csr : ``Out(wishbone_signature(13))``
    memory : ``Out(wishbone_signature())``
    """

    def __init__(self) -> None:
        super().__init__(
            {
                "clock": In(1),
                "select": In(1),
                "data_in": In(1),
                "data_out": Out(1),
                "csr": Out(wishbone_signature(13)),
                "memory": Out(wishbone_signature()),
            }
        )

    def elaborate(self, platform):  # type: ignore[no-untyped-def]
        m = Module()
        pins = Signal(3)
        previous = Signal(3)
        m.submodules.synchronizer = FFSynchronizer(Cat(self.clock, self.select, self.data_in), pins)
        m.d.sync += previous.eq(pins)
        shift = Signal(64)
        busy = Signal()
        to_csr = shift[62]
        m.d.comb += self.data_out.eq(shift[63])
        with m.If(busy):
            for bus, selected in ((self.csr, to_csr), (self.memory, ~to_csr)):
                m.d.comb += [bus.cyc.eq(selected), bus.stb.eq(selected)]
                with m.If(selected & (bus.ack | bus.err)):
                    m.d.sync += [busy.eq(0), shift[:32].eq(bus.dat_r)]
        with m.Elif(pins[1] & pins[0] & ~previous[0]):
            m.d.sync += shift.eq(Cat(pins[2], shift))
        with m.Elif(previous[1] & ~pins[1]):
            m.d.sync += busy.eq(1)
        for bus in (self.csr, self.memory):
            m.d.comb += [
                bus.we.eq(shift[63]),
                bus.adr.eq(shift[32:62]),
                bus.dat_w.eq(shift[:32]),
                bus.sel.eq(0xF),
            ]
        return m
