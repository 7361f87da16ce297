"""SPI NOR flash: the commands that every maker's parts have in common, in SPI mode 0 with 24-bit addresses."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out

READ_HZ = 25_000_000
"""Command 0x03 has no dummy byte; all parts do at least 33 MHz with it."""
DESELECT_SECONDS_INVERSE = 10_000_000
"""100 ns between two commands; parts ask for up to 100 ns."""
TIMEOUT_SECONDS = 4
"""The erase of 64 KiB takes at most 3 s in the slowest parts' data sheets."""
NO_FLASH = 0xFF
"""Status of a line that nobody drives: busy, and everything protected."""


class SpiPins(wiring.Signature):
    """Pins of an SPI flash; ``cs`` is high while it is selected."""

    def __init__(self) -> None:
        super().__init__({"cs": Out(1), "clk": Out(1), "copi": Out(1), "cipo": In(1)})


class FlashCommand(enum.Enum, shape=3):
    """What :class:`SpiFlash` can do."""

    WAIT = 0
    """Poll the status until the flash is not busy."""
    READ = 1
    PROGRAM = 2
    ERASE_SECTOR = 3
    ERASE_BLOCK = 4
    IDENTIFY = 5


class SpiFlash(wiring.Component):
    """Executes one flash command at a time; PROGRAM and ERASE with write enable before and polling after them.

    Parameters
    ----------
    sync_hz : int, 1 MHz..500 MHz
        Frequency of ``sync``.
    spi_hz : int, at least ``sync_hz / 512``
        Highest clock of the flash.
    timeout_cycles : int, 1..2^31
        Longest time for which the flash may be busy; default: four seconds.

    Members
    -------
    pins : ``Out(SpiPins())``
    start : ``In(1)``
        Begin ``command``; ignored while ``busy``.
    command, address, length : ``In``
        Sampled with ``start``. ``length`` counts bytes of READ, PROGRAM and IDENTIFY.
    busy : ``Out(1)``
        From the cycle after ``start``.
    error : ``Out(1)``
        Of the last command, valid while not ``busy``: the flash stayed busy for too long, or there is none.
    rx_valid, rx_data : ``Out``
        A byte that was read; there is no way to stop the next one.
    tx_index : ``Out(8)``, tx_data : ``In(8)``
        The byte of a PROGRAM with this index is wanted, without delay.

    Timing
    ------
    A byte takes ``16 * half_cycles + 1`` cycles, ``half_cycles`` the smallest number for at most ``spi_hz``. The input is
    sampled at the falling edge of the clock, a whole period after the flash was told to change it.

    Raises
    ------
    TypeError, ValueError
        If a parameter has the wrong type or value.
    """

    def __init__(self, sync_hz: int, *, spi_hz: int = READ_HZ, timeout_cycles: int | None = None):
        if timeout_cycles is None and isinstance(sync_hz, int):
            timeout_cycles = sync_hz * TIMEOUT_SECONDS
        for name, value in (("sync_hz", sync_hz), ("spi_hz", spi_hz), ("timeout_cycles", timeout_cycles)):
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} must be an integer, not {value!r}")
        if not 1_000_000 <= sync_hz <= 500_000_000:
            raise ValueError(f"sync_hz must be 1 MHz to 500 MHz, not {sync_hz!r}")
        if spi_hz * 512 < sync_hz:
            raise ValueError(f"spi_hz must be at least {-(-sync_hz // 512)}, not {spi_hz!r}")
        if not 1 <= timeout_cycles <= 1 << 31:
            raise ValueError(f"timeout_cycles must be 1 to 2147483648, not {timeout_cycles!r}")
        self.half_cycles = max(1, -(-sync_hz // (2 * spi_hz)))
        self.gap_cycles = -(-sync_hz // DESELECT_SECONDS_INVERSE)
        self.timeout_cycles = timeout_cycles
        super().__init__(
            {
                "pins": Out(SpiPins()),
                "start": In(1),
                "command": In(FlashCommand),
                "address": In(24),
                "length": In(24),
                "busy": Out(1),
                "error": Out(1),
                "rx_valid": Out(1),
                "rx_data": Out(8),
                "tx_index": Out(8),
                "tx_data": In(8),
            }
        )

    def elaborate(self, platform):
        m = Module()
        pins = self.pins
        command = Signal(FlashCommand)
        address = Signal(24)
        left = Signal(24)  # data bytes that are still to come
        head = Signal(32)  # goes out from its top: operation code, address, then the byte to be programmed
        head_left = Signal(3)  # bytes of operation code and address, the present one included
        bit = Signal(3)
        half = Signal(range(max(2, self.half_cycles)))
        gap = Signal(range(self.gap_cycles + 1))
        waited = Signal(range(self.timeout_cycles + 1))
        received = Signal(8)
        enabling, polling = Signal(), Signal()  # the frame is WREN before, or RDSR after the command itself
        writes = Signal()
        m.d.comb += [
            writes.eq(
                (command == FlashCommand.PROGRAM)
                | (command == FlashCommand.ERASE_SECTOR)
                | (command == FlashCommand.ERASE_BLOCK)
            ),
            self.rx_data.eq(received),
            pins.copi.eq(head[-1]),
        ]
        with m.If(polling & (waited != self.timeout_cycles)):
            m.d.sync += waited.eq(waited + 1)

        with m.FSM() as fsm:
            m.d.comb += self.busy.eq(~fsm.ongoing("Idle"))
            with m.State("Idle"):
                m.d.sync += [
                    command.eq(self.command),
                    address.eq(self.address),
                    left.eq(self.length),
                    waited.eq(0),
                    self.tx_index.eq(0),
                    polling.eq(self.command == FlashCommand.WAIT),
                    enabling.eq(
                        (self.command == FlashCommand.PROGRAM)
                        | (self.command == FlashCommand.ERASE_SECTOR)
                        | (self.command == FlashCommand.ERASE_BLOCK)
                    ),
                ]
                with m.If(self.start):
                    m.d.sync += self.error.eq(0)
                    m.next = "Select"
            with m.State("Select"):
                m.d.sync += [pins.cs.eq(1), head.eq(Cat(address, Const(0, 8))), head_left.eq(1)]
                with m.If(enabling):
                    m.d.sync += head[24:].eq(0x06)
                with m.Elif(polling):
                    m.d.sync += head[24:].eq(0x05)
                with m.Else():
                    with m.If(command != FlashCommand.IDENTIFY):
                        m.d.sync += head_left.eq(4)
                    with m.Switch(command):
                        for one, code in (
                            (FlashCommand.READ, 0x03),
                            (FlashCommand.PROGRAM, 0x02),
                            (FlashCommand.ERASE_SECTOR, 0x20),
                            (FlashCommand.ERASE_BLOCK, 0xD8),
                            (FlashCommand.IDENTIFY, 0x9F),
                        ):
                            with m.Case(one):
                                m.d.sync += head[24:].eq(code)
                m.next = "Clock Low"
            with m.State("Clock Low"):
                with m.If(half != self.half_cycles - 1):
                    m.d.sync += half.eq(half + 1)
                with m.Else():
                    m.d.sync += [half.eq(0), pins.clk.eq(1)]
                    m.next = "Clock High"
            with m.State("Clock High"):
                with m.If(half != self.half_cycles - 1):
                    m.d.sync += half.eq(half + 1)
                with m.Else():
                    m.d.sync += [
                        half.eq(0),
                        pins.clk.eq(0),
                        received.eq(Cat(pins.cipo, received[:-1])),
                        head.eq(Cat(C(0, 1), head[:-1])),
                        bit.eq(bit + 1),
                    ]
                    m.next = "Clock Low"
                    with m.If(bit == 7):
                        m.next = "Byte Done"
            with m.State("Byte Done"):
                m.next = "Clock Low"
                with m.If(head_left != 0):
                    m.d.sync += head_left.eq(head_left - 1)
                with m.Elif(~polling):
                    m.d.comb += self.rx_valid.eq(~writes)
                    m.d.sync += left.eq(left - 1)
                with m.If(head_left <= 1):  # next comes data, if there is any
                    with m.If(command == FlashCommand.PROGRAM):
                        m.d.sync += [head[24:].eq(self.tx_data), self.tx_index.eq(self.tx_index + 1)]
                    with m.If(
                        enabling | (command == FlashCommand.ERASE_SECTOR) | (command == FlashCommand.ERASE_BLOCK)
                    ):
                        with m.If(~polling):
                            m.next = "Deselect"
                    with m.Elif(~polling & (left == (head_left == 0))):
                        m.next = "Deselect"
                    with m.If(enabling):
                        m.d.sync += self.tx_index.eq(0)
                    with m.If(polling & (head_left == 0)):
                        with m.If((received == NO_FLASH) | (waited == self.timeout_cycles)):
                            m.d.sync += self.error.eq(1)
                            m.next = "Deselect"
                        with m.If(~received[0]):
                            m.d.sync += self.error.eq(0)
                            m.next = "Deselect"
            with m.State("Deselect"):
                m.d.sync += [pins.cs.eq(0), gap.eq(gap + 1)]
                with m.If(gap == self.gap_cycles):
                    m.d.sync += [gap.eq(0), enabling.eq(0), polling.eq(0)]
                    m.next = "Idle"
                    with m.If(enabling):
                        m.next = "Select"
                    with m.Elif(writes & ~polling):
                        m.d.sync += polling.eq(1)
                        m.next = "Select"
        return m


__all__ = ["FlashCommand", "SpiFlash", "SpiPins"]
