"""What a board file declares, and the top that every board shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from amaranth import Elaboratable, Module, ResetSignal
from amaranth.lib import wiring

from twinstack.config import EngineConfig
from twinstack.standalone import StandaloneEngine

from .clocking import Ecp5Clocks, TickGenerator
from .device import Device
from .flash_pins import attach_flash
from .phy import NetworkPort
from .port_pins import Management, StatusLeds
from .rgmii import RgmiiPort

TX_HZ = 125_000_000


@dataclass(frozen=True)
class Board:
    """One board.

    Parameters
    ----------
    platform : callable
        Makes the amaranth-boards platform.
    device : Device
        What it has.
    config : EngineConfig
        Memory profile, ports, clock.
    host_memory_bytes : int
        Block RAM on the host bus, a power of two.
    reference, reset : str
        Resource names of the oscillator and the reset button.
    reference_hz : int
        Frequency of the oscillator.
    ports : tuple of NetworkPort
        Pins, PHY and delays of each network port.
    leds : tuple of (str, (str, int) or (str, int, str))
        What each LED shows (``port_pins.StatusLeds``) and its resource, with the part of a coloured one.
    program : tuple of str
        Arguments of openFPGALoader that name board or cable.
    distributed : tuple of str
        Small memories, by patterns of their paths, that are kept out of block RAM where there is too little of it.
    uart : (str, int)
        Resource of the host's serial line, with ``rx`` and ``tx``.
    baud : int
        Of the serial line.
    """

    name: str
    platform: Callable[[], Any]
    device: Device
    config: EngineConfig
    host_memory_bytes: int
    reference: str
    reference_hz: int
    reset: str
    ports: tuple[NetworkPort, ...]
    leds: tuple[tuple[str, tuple[Any, ...]], ...]
    program: tuple[str, ...]
    distributed: tuple[str, ...] = ()
    uart: tuple[str, int] = ("uart", 0)
    baud: int = 1_000_000

    def __post_init__(self) -> None:
        if len(self.ports) != self.config.ports:
            raise ValueError(f"ports must be {self.config.ports}, not {len(self.ports)!r}")


class BoardTop(Elaboratable):
    """Clocks and pins around a standalone engine.

    Parameters
    ----------
    board : Board
    code : sequence of int
        Words of the firmware in the bitstream.
    """

    def __init__(self, board: Board, code: Sequence[int]):
        self._board, self._code = board, code

    def elaborate(self, platform):  # type: ignore[no-untyped-def]
        m = Module()
        board = self._board
        reference = platform.request(board.reference, 0, dir="i").i
        reset = platform.request(board.reset, 0, dir="i").i
        m.submodules.clocks = clocks = Ecp5Clocks(reference, board.reference_hz, board.config.sync_hz, TX_HZ, reset)
        platform.add_clock_constraint(clocks.sync_clk, board.config.sync_hz)
        platform.add_clock_constraint(clocks.tx_clk, TX_HZ)
        m.submodules.tick = tick = TickGenerator(board.config.sync_hz)
        m.submodules.standalone = engine = StandaloneEngine(
            board.config, board.host_memory_bytes, board.baud, code=self._code, autostart=bool(self._code)
        )
        m.d.comb += engine.tick.eq(tick.tick)
        m.submodules.management = management = Management(board.config.sync_hz, board.ports, clocks.reset)
        m.submodules.leds = leds = StatusLeds(board.config.ports, clocks.reset, tick.tick)
        for index, network in enumerate(board.ports):
            name, number = network.resource
            # The clock is asked for as a bare port. Management pins of a resource of its own are not in this one.
            pins = platform.request(name, number, dir={"rx_clk": "-"})
            m.submodules[f"rgmii{index}"] = port = RgmiiPort(
                pins,
                clocks.tx_clk,
                ResetSignal("tx"),
                index=index,
                rx_delay=network.rx_delay,
                tx_delay=network.tx_delay,
            )
            # At the pin: the net behind its buffer loses its name in synthesis, and with it the constraint.
            platform.add_clock_constraint(pins.rx_clk.io, TX_HZ)
            wiring.connect(m, getattr(engine, f"port{index}"), port.gmii)
            management.attach(m, platform, index, pins, getattr(engine, f"mdio{index}"))
            leds.watch(m, index, port.gmii)
        leds.attach(m, platform, board.leds)
        uart = platform.request(*board.uart)
        m.d.comb += [engine.uart_rx.eq(uart.rx.i), uart.tx.o.eq(engine.uart_tx)]
        attach_flash(m, platform, engine.flash, clocks.reset)
        return m
