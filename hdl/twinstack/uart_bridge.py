"""A bus initiator behind a serial line, for a host without a faster way: registers, host memory, loader.

The protocol is LiteX's uartbone, see :mod:`.proto.bridge_map`; what this bridge adds is how it gets out of everything that
can go wrong on a line.
"""

from __future__ import annotations

from functools import reduce
from operator import or_

from amaranth import *
from amaranth.lib import fifo, wiring
from amaranth.lib.wiring import In, Out

from .proto import bridge_map as bridge
from .soc import wishbone_signature
from .uart import UartReceiver, UartTransmitter, uart_divisor

CSR_ADDRESS_BITS = (bridge.CSR_BYTES // 4 - 1).bit_length()
PAGE_ADDRESS_BITS = (bridge.PAGE_BYTES // 4 - 1).bit_length()
LOADER_ADDRESS_BITS = (bridge.LOADER_BYTES // 4 - 1).bit_length()
RX_FIFO_BYTES = 16
"""A host may send up to two further read commands while one is answered."""
STALLS_PER_SECOND = 10
"""As LiteX, which gives up after 100 ms."""
COUNTER_BITS = 16


class UartBridge(wiring.Component):
    """Wishbone initiator commanded over a UART.

    Parameters
    ----------
    sync_hz : int
        Frequency of ``sync``.
    baud : int
        Rate of the line, within 2 % of a whole divisor of ``sync_hz``, at most a quarter of it.
    memory_base, memory_bytes : int
        Host memory, as the bridge's page tells it.
    stall_cycles : int, 64..2^28
        Cycles after which a command that does not go on, or a bus that does not answer, is given up. Default: 100 ms.

    Members
    -------
    rx : ``In(1)``, tx : ``Out(1)``
        The line's pins.
    memory : ``Out(wishbone_signature())``
        Host memory, byte addresses below ``0x8000_0000``.
    csr : ``Out(wishbone_signature(13))``
        The engine's host CSR target.
    loader : ``Out(wishbone_signature(14))``
        The loader's page.

    Timing
    ------
    The first bit of a read's answer follows four cycles and the bus's latency after the stop bit of its last byte. Words
    of a read come without a gap while a bus answers within a byte; words of a write may come at line rate.

    Errors
    ------
    No word of a broken command is written: a framing error in the middle of a command, a byte that finds no room, and bytes
    behind them are discarded until the line has been quiet for ``stall_cycles``. A break ends any command at once.
    A command that stalls is forgotten after ``stall_cycles``. A byte that is no command is skipped.

    Raises
    ------
    TypeError, ValueError
        If a parameter has the wrong type or value; if the clock does not give ``baud``.
    """

    def __init__(
        self,
        sync_hz: int,
        baud: int = 1_000_000,
        *,
        memory_base: int = bridge.HOST_MEMORY_BASE,
        memory_bytes: int = 0,
        stall_cycles: int | None = None,
    ):
        self.divisor = uart_divisor(sync_hz, baud)
        if stall_cycles is None:
            stall_cycles = sync_hz // STALLS_PER_SECOND
        for name, value, low, high in (
            ("memory_base", memory_base, 0, bridge.CSR_BASE - 4),
            ("memory_bytes", memory_bytes, 0, bridge.CSR_BASE),
            ("stall_cycles", stall_cycles, 64, 1 << 28),
        ):
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} must be an integer, not {value!r}")
            if not low <= value <= high:
                raise ValueError(f"{name} must be {low} to {high}, not {value!r}")
        self.sync_hz, self.baud, self.stall_cycles = sync_hz, baud, stall_cycles
        self.memory_base, self.memory_bytes = memory_base, memory_bytes
        super().__init__(
            {
                "rx": In(1),
                "tx": Out(1, init=1),
                "memory": Out(wishbone_signature()),
                "csr": Out(wishbone_signature(CSR_ADDRESS_BITS)),
                "loader": Out(wishbone_signature(LOADER_ADDRESS_BITS)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.receiver = receiver = UartReceiver(self.divisor)
        m.submodules.transmitter = transmitter = UartTransmitter(self.divisor)
        m.d.comb += [receiver.rx.eq(self.rx), self.tx.eq(transmitter.tx)]

        # A byte with two flags: it is bad or something before it is missing; it was a break.
        m.submodules.rx_fifo = rx_fifo = fifo.SyncFIFO(width=10, depth=RX_FIFO_BYTES)
        arrived, lost = Signal(), Signal()
        byte, is_bad, is_break, taken = Signal(8), Signal(), Signal(), Signal()
        m.d.comb += [
            arrived.eq(receiver.valid | receiver.framing_error),
            rx_fifo.w_en.eq(arrived),
            rx_fifo.w_data.eq(
                Cat(receiver.data, receiver.framing_error | lost, receiver.framing_error & receiver.is_break)
            ),
            Cat(byte, is_bad, is_break).eq(rx_fifo.r_data),
            taken.eq(rx_fifo.r_rdy & rx_fifo.r_en),
        ]

        is_read, increments = Signal(), Signal()
        left = Signal(8)  # words after this one
        step = Signal(2)  # bytes of the address or of a word
        address, word = Signal(32), Signal(32)
        regions = Signal(4)
        acknowledged, refused, answer, page_word = Signal(), Signal(), Signal(32), Signal(32)
        access = Signal()
        count_timeout, count_bus_error, count_discarded = Signal(), Signal(), Signal()

        # Runs down unless the state at hand goes on.
        stall = Signal(range(self.stall_cycles))
        stalled, goes_on = Signal(), Signal()
        m.d.sync += [stall.eq(stall - 1), stalled.eq(stall == 1)]
        with m.If(goes_on):
            m.d.sync += [stall.eq(self.stall_cycles - 1), stalled.eq(0)]

        with m.If(arrived):
            m.d.sync += lost.eq(~rx_fifo.w_rdy)
        with m.Elif(stalled & ~rx_fifo.r_rdy):
            m.d.sync += lost.eq(0)  # what comes after the quiet time is a new command

        buses = {0: self.memory, 1: self.csr, 3: self.loader}
        for region, bus in buses.items():
            m.d.comb += [
                bus.cyc.eq(access & regions[region]),
                bus.stb.eq(access & regions[region]),
                bus.we.eq(~is_read),
                bus.adr.eq(address),
                bus.dat_w.eq(word),
                bus.sel.eq(0xF),
            ]
        m.d.comb += [
            acknowledged.eq(regions[2] | Cat(regions[region] & bus.ack for region, bus in buses.items()).any()),
            refused.eq(~regions.any() | Cat(regions[region] & bus.err for region, bus in buses.items()).any()),
            answer.eq(
                Mux(regions[2], page_word, 0)
                | reduce(or_, (Mux(regions[region], bus.dat_r, 0) for region, bus in buses.items()))
            ),
        ]

        def receive() -> None:
            m.d.comb += [rx_fifo.r_en.eq(1), goes_on.eq(taken)]

        def give_up() -> None:
            with m.If(taken & is_bad):
                m.d.comb += count_discarded.eq(1)
                m.next = "Discard"
                with m.If(is_break):
                    m.next = "Idle"
            with m.Elif(stalled & ~taken):
                m.d.comb += count_timeout.eq(1)
                m.next = "Idle"

        with m.FSM():
            with m.State("Idle"):
                receive()
                m.d.sync += step.eq(0)
                with m.If(taken):
                    m.d.sync += [is_read.eq(~byte[0]), increments.eq(~byte[2] & (byte[0] ^ byte[1]))]
                    with m.If(is_bad):
                        m.d.comb += count_discarded.eq(1)
                        with m.If(~is_break):
                            m.next = "Discard"
                    with m.Elif((byte >= bridge.WRITE_INCREMENTING) & (byte <= bridge.READ_FIXED)):
                        m.next = "Receive Length"
                    with m.Else():
                        m.d.comb += count_discarded.eq(1)
            with m.State("Receive Length"):
                receive()
                with m.If(taken):
                    m.d.sync += left.eq(byte - 1)
                    m.next = "Receive Address"
                give_up()
            with m.State("Receive Address"):
                receive()
                with m.If(taken):
                    m.d.sync += [address.eq(Cat(byte, address)), step.eq(step + 1)]
                    with m.If(step == 3):
                        m.next = "Receive Word"
                        with m.If(is_read):
                            m.next = "Select Bus"
                give_up()
            with m.State("Receive Word"):
                receive()
                with m.If(taken):
                    m.d.sync += [word.eq(Cat(byte, word)), step.eq(step + 1)]
                    with m.If(step == 3):
                        m.next = "Select Bus"
                give_up()
            with m.State("Select Bus"):
                m.d.comb += goes_on.eq(1)
                m.d.sync += regions.eq(self._regions(address))
                m.next = "Access Bus"
            with m.State("Access Bus"):
                m.d.comb += access.eq(1)
                with m.If(acknowledged | refused | stalled):
                    m.d.comb += [goes_on.eq(1), count_bus_error.eq(~acknowledged)]
                    m.d.sync += address.eq(address + increments)
                    with m.If(is_read):
                        m.d.sync += word.eq(Mux(acknowledged, answer, bridge.NO_DATA))
                        m.next = "Send Word"
                    with m.Else():
                        m.d.sync += left.eq(left - 1)
                        m.next = "Receive Word"
                        with m.If(left == 0):
                            m.next = "Idle"
            with m.State("Send Word"):
                m.d.comb += [transmitter.i.valid.eq(1), goes_on.eq(1)]
                with m.If(transmitter.i.ready):
                    m.d.sync += [word.eq(word << 8), step.eq(step + 1)]
                    with m.If(step == 3):
                        m.d.sync += left.eq(left - 1)
                        m.next = "Select Bus"
                        with m.If(left == 0):
                            m.next = "Idle"
            with m.State("Discard"):
                receive()
                m.d.comb += count_discarded.eq(taken)
                with m.If(Mux(taken, is_break, stalled)):
                    m.next = "Idle"
        m.d.comb += transmitter.i.payload.eq(word[24:])
        counters = (
            (bridge.PAGE_FRAMING_ERRORS, receiver.framing_error),
            (bridge.PAGE_TIMEOUTS, count_timeout),
            (bridge.PAGE_BUS_ERRORS, count_bus_error),
            (bridge.PAGE_DISCARDED, count_discarded | (arrived & ~rx_fifo.w_rdy)),
        )
        self._connect_page(m, address, page_word, counters)
        return m

    @staticmethod
    def _regions(address):
        """Bit for each area that word ``address`` may be in: host memory, CSRs, the bridge's page, loader."""
        high = address[16:] == bridge.CSR_BASE >> 18  # of 256 KiB
        part = address[14:16]  # of 64 KiB
        return Cat(
            address[29:] == 0,
            high & (part == 0) & (address[CSR_ADDRESS_BITS:14] == 0),
            high & (part == 1) & (address[PAGE_ADDRESS_BITS:14] == 0),
            high & (part == 2),
        )

    def _connect_page(self, m, address, word, counters):
        constants = {
            bridge.PAGE_IDENTITY: bridge.IDENTITY,
            bridge.PAGE_VERSION: bridge.VERSION,
            bridge.PAGE_MEMORY_BASE: self.memory_base,
            bridge.PAGE_MEMORY_BYTES: self.memory_bytes,
            bridge.PAGE_SYNC_HZ: self.sync_hz,
            bridge.PAGE_DIVISOR: self.divisor,
            bridge.PAGE_STALL_CYCLES: self.stall_cycles,
        }
        with m.Switch(address[:PAGE_ADDRESS_BITS]):
            for offset, value in constants.items():
                with m.Case(offset // 4):
                    m.d.comb += word.eq(value)
            for offset, event in counters:
                count = Signal(COUNTER_BITS, name=f"count_{offset:x}")
                m.d.sync += count.eq(count + event)
                with m.Case(offset // 4):
                    m.d.comb += word.eq(count)
