"""From the two buses of a CPU to the memories and register pages of its core."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .config import EngineConfig
from .interfaces import RamPort, ram_port_for
from .memory import RamArbiter
from .proto import memory_map
from .soc import wishbone, wishbone_signature

LINE_WORDS = 8
"""Words of a cache line; a burst stays within one."""
PAGE_ADDRESS_WIDTH = 12
"""Bits of the word address of a register page's bus."""
UNCACHED_BIT = 29
"""Of the word address: bit 31 of the byte address."""


class RamTarget(wiring.Component):
    """Wishbone target in front of a RAM port.

    Members
    -------
    bus : ``In(wishbone_signature())``
        Bursts ascend within a line of 8 words and do not pause (VexRiscv's never do).
    early : In(1)
        A write may be acknowledged in the cycle in which the RAM accepts it. That path is combinational from
        ``ram.ready`` to ``bus.ack``, so only for a RAM that is always ready.
    ram : ``Out(RamPort(30))``

    Timing
    ------
    With a RAM that is always ready: read, ``ack`` one cycle after ``stb``; burst, one further word in each cycle;
    write, the same cycle with ``early``, otherwise one cycle later.
    """

    bus: In(wishbone_signature())
    early: In(1)
    ram: Out(RamPort(30))

    def elaborate(self, platform):
        m = Module()
        active = Signal()
        following = Signal()  # the next word of the burst can be asked for while this one is acknowledged
        reading = Signal()  # read data comes in this cycle
        written = Signal()
        m.d.comb += [
            active.eq(self.bus.cyc & self.bus.stb),
            following.eq(self.bus.cti == wishbone.CycleType.INCR_BURST),
            self.ram.write.eq(self.bus.we),
            self.ram.data.eq(self.bus.dat_w),
            self.ram.mask.eq(self.bus.sel),
            self.ram.valid.eq(active & Mux(self.bus.we, ~written, ~reading | following)),
            self.ram.address.eq(self.bus.adr),
            self.ram.address[:3].eq(self.bus.adr[:3] + reading),
            self.bus.dat_r.eq(self.ram.read_data),
            self.bus.ack.eq(reading | written | (active & self.bus.we & self.early & self.ram.ready)),
        ]
        accepted = self.ram.valid & self.ram.ready
        m.d.sync += [
            reading.eq(accepted & ~self.bus.we),
            written.eq(accepted & self.bus.we & ~self.early),
        ]
        return m


class CoreBus(wiring.Component):
    """Address decoder of a core.

    Bit 31 is ignored for memories; the register pages exist only with bit 31 set, so that a cached load cannot read
    eight registers. What is outside of everything ends with ``err`` and reads as zero; writes to code memory are
    acknowledged and ignored; an access to the manager's page that nobody answers ends with ``err`` after
    ``MANAGER_TIMEOUT_CYCLES``. So no address can hang a CPU.

    Parameters
    ----------
    config : EngineConfig
        ``shared_bytes`` must be whole cache lines, 32 bytes.

    Members
    -------
    ibus, dbus : ``In(wishbone_signature())``
    code, data, rx_bank, tx_bank, shared : ``Out(RamPort)``
        ``data`` must be always ready. ``code`` is never written.
    csr, manager : ``Out(wishbone_signature(12))``
        The core's own page and the manager's, addressed by word.
    bank_access : Out(1)
        One cycle for each access to ``rx_bank`` or ``tx_bank``, one cycle after its acceptance.

    Timing
    ------
    See :class:`RamTarget`; stores to ``data`` take one cycle, the first access of a burst to the other memories one more.
    Registers answer two cycles after their page does. ``code`` is shared word by word between the buses.

    Raises
    ------
    ValueError
        If ``shared_bytes`` is not whole cache lines.
    """

    MANAGER_TIMEOUT_CYCLES = 1023

    def __init__(self, config: EngineConfig):
        if config.shared_bytes % (4 * LINE_WORDS):
            raise ValueError(f"shared_bytes must be a multiple of {4 * LINE_WORDS}, not {config.shared_bytes!r}")
        # Name: first byte address, size, and how many bits of the address below bit 31 choose the region.
        self._regions = {
            "code": (memory_map.CODE_BASE, config.code_bytes, 3),
            "data": (memory_map.DATA_BASE, config.data_bytes, 3),
            "rx_bank": (memory_map.RX_BANK_BASE, config.rx_bank_bytes, 7),
            "tx_bank": (memory_map.TX_BANK_BASE, config.tx_bank_bytes, 7),
            "shared": (memory_map.SHARED_BASE, config.shared_bytes, 7),
        }
        super().__init__(
            {"ibus": In(wishbone_signature()), "dbus": In(wishbone_signature())}
            | {name: Out(ram_port_for(size)) for name, (_, size, _) in self._regions.items()}
            | {
                "csr": Out(wishbone_signature(PAGE_ADDRESS_WIDTH)),
                "manager": Out(wishbone_signature(PAGE_ADDRESS_WIDTH)),
                "bank_access": Out(1),
            }
        )

    def _is_in(self, name: str, address: Value) -> Value:
        """Whether the word address lies in a memory."""
        base, size, bits = self._regions[name]
        offset = address[: UNCACHED_BIT - bits]
        return (address[UNCACHED_BIT - bits : UNCACHED_BIT] == base >> 31 - bits) & (offset < size // 4)

    def elaborate(self, platform):
        m = Module()
        m.submodules.ibus_target = itarget = RamTarget()
        m.submodules.dbus_target = dtarget = RamTarget()
        m.submodules.code_arbiter = arbiter = RamArbiter(self.code.signature.address_width, 2)
        connect(m, code=flipped(self.code), arbiter=arbiter.ram)

        select = {name: Signal(name=f"select_{name}") for name in self._regions}
        for name, signal in select.items():
            m.d.comb += signal.eq(self._is_in(name, self.dbus.adr))
        page = self.dbus.adr[PAGE_ADDRESS_WIDTH - 1 :]
        select_csr = page == memory_map.CSR_CORE_BASE >> PAGE_ADDRESS_WIDTH + 1
        select_manager = page == memory_map.CSR_MANAGER_BASE >> PAGE_ADDRESS_WIDTH + 1
        active = self.dbus.cyc & self.dbus.stb
        write_to_code = select["code"] & self.dbus.we
        is_memory = Cat(select.values()).any() & ~write_to_code

        # Memories.
        bus = dtarget.bus
        m.d.comb += [
            bus.adr.eq(self.dbus.adr),
            bus.dat_w.eq(self.dbus.dat_w),
            bus.sel.eq(self.dbus.sel),
            bus.we.eq(self.dbus.we),
            bus.cti.eq(self.dbus.cti),
            bus.cyc.eq(self.dbus.cyc & is_memory),
            bus.stb.eq(self.dbus.stb),
            dtarget.early.eq(select["data"]),
        ]
        # Decoding and arbitration take a cycle each, except for data RAM, which nobody else shares.
        chosen = {name: Signal(name=f"chosen_{name}") for name in select if name != "data"}
        for name, signal in chosen.items():
            ends = bus.ack & (bus.cti != wishbone.CycleType.INCR_BURST)
            m.d.sync += signal.eq(active & select[name] & ~ends)
        for name, signal in ({"data": select["data"]} | chosen).items():
            port = arbiter.requester0 if name == "code" else getattr(self, name)
            m.d.comb += [
                port.valid.eq(dtarget.ram.valid & signal),
                # A constant for code: synthesis then sees that this side of code memory never writes.
                port.write.eq(0 if name == "code" else dtarget.ram.write),
                port.address.eq(dtarget.ram.address),
                port.data.eq(dtarget.ram.data),
                port.mask.eq(dtarget.ram.mask),
            ]
            with m.If(signal):
                m.d.comb += [
                    dtarget.ram.ready.eq(port.ready),
                    dtarget.ram.read_data.eq(port.read_data),
                ]
        bank_chosen = chosen["rx_bank"] | chosen["tx_bank"]
        m.d.sync += self.bank_access.eq(dtarget.ram.valid & dtarget.ram.ready & bank_chosen)

        # Register pages: request and answer go through registers; an access that has begun is finished even where the
        # CPU, being reset, withdraws it.
        page_we = Signal()
        page_address = Signal(PAGE_ADDRESS_WIDTH - 1)
        page_data = Signal(32)
        page_sel = Signal(4)
        to_csr, to_manager = Signal(), Signal()
        withdrawn = Signal()
        answered, failed = Signal(), Signal()
        answer = Signal(32)
        waited = Signal(range(self.MANAGER_TIMEOUT_CYCLES + 1))
        expired = Signal()
        for target, busy in ((self.csr, to_csr), (self.manager, to_manager)):
            m.d.comb += [
                target.adr.eq(page_address),
                target.dat_w.eq(page_data),
                target.sel.eq(page_sel),
                target.we.eq(page_we),
                target.cyc.eq(busy),
                target.stb.eq(busy),
            ]
        m.d.comb += expired.eq(waited == self.MANAGER_TIMEOUT_CYCLES)
        m.d.sync += [answered.eq(0), failed.eq(0), waited.eq(0)]
        with m.If(to_csr | to_manager):
            m.d.sync += [
                withdrawn.eq(withdrawn | ~active),
                waited.eq(Mux(to_manager, waited + 1, 0)),
            ]
            source = Mux(to_csr, self.csr.dat_r, self.manager.dat_r)
            ack = (to_csr & self.csr.ack) | (to_manager & self.manager.ack)
            err = (to_csr & self.csr.err) | (to_manager & (self.manager.err | expired))
            with m.If(ack | err):
                wanted = active & ~withdrawn
                m.d.sync += [
                    to_csr.eq(0),
                    to_manager.eq(0),
                    waited.eq(0),
                    answered.eq(ack & wanted),
                    failed.eq(err & ~ack & wanted),
                    answer.eq(Mux(ack, source, 0)),
                ]
        with m.Elif(active & ~answered & ~failed):
            m.d.sync += [
                to_csr.eq(select_csr),
                to_manager.eq(select_manager),
                withdrawn.eq(0),
                page_address.eq(self.dbus.adr),
                page_data.eq(self.dbus.dat_w),
                page_sel.eq(self.dbus.sel),
                page_we.eq(self.dbus.we),
            ]

        # What nobody answers.
        nobody = Signal()
        ignored = Signal()
        m.d.sync += [
            nobody.eq(active & ~Cat(select.values(), select_csr, select_manager).any() & ~nobody),
            ignored.eq(active & write_to_code & ~ignored),
        ]
        m.d.comb += [
            self.dbus.ack.eq(bus.ack | ignored | answered),
            self.dbus.err.eq(nobody | failed),
            self.dbus.dat_r.eq(Mux(answered | failed, answer, bus.dat_r)),
        ]

        # Instructions: from code memory only; elsewhere zero, which is no instruction and traps.
        fetch = self._is_in("code", self.ibus.adr)
        missed = Signal()
        m.d.sync += missed.eq(self.ibus.cyc & self.ibus.stb & ~fetch & ~missed)
        m.d.comb += [
            itarget.bus.adr.eq(self.ibus.adr),
            itarget.bus.sel.eq(self.ibus.sel),
            itarget.bus.cti.eq(self.ibus.cti),
            itarget.bus.cyc.eq(self.ibus.cyc & fetch),
            itarget.bus.stb.eq(self.ibus.stb),
            self.ibus.ack.eq(itarget.bus.ack),
            self.ibus.err.eq(missed),
            self.ibus.dat_r.eq(Mux(fetch, itarget.bus.dat_r, 0)),
        ]
        fetcher = arbiter.requester1
        m.d.comb += [
            fetcher.valid.eq(itarget.ram.valid),
            fetcher.address.eq(itarget.ram.address),
            itarget.ram.ready.eq(fetcher.ready),
            itarget.ram.read_data.eq(fetcher.read_data),
        ]
        return m
