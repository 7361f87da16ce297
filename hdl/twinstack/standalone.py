"""The engine with a host interface and firmware of its own: what a board without a processor has between clocks and pins."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .config import EngineConfig
from .engine import Engine
from .flash_loader import FlashLoader
from .host_memory import HostMemory
from .interfaces import GmiiPins, MdioPins
from .proto.flash_map import FlashLayout
from .spi_flash import SpiPins
from .uart_bridge import UartBridge


class StandaloneEngine(wiring.Component):
    """Engine, host memory in block RAM, a UART bridge to both for a PC, and a loader of firmware from flash.

    Parameters
    ----------
    config : EngineConfig
        The engine's.
    host_memory_bytes : int
        A power of two.
    baud : int
        Of the UART, see :class:`.uart_bridge.UartBridge`.
    code : sequence of int
        Initial words of code memory.
    autostart : bool
        The cores may run ``code``, where no slot of the flash has firmware.
    stall_cycles : int or None
        After which the bridge gives up a command; default 100 ms.
    slots : FlashLayout or None
        Where firmware lies in the flash; default: from 2 MiB on.

    Members
    -------
    port0.. : ``Out(GmiiPins())``, mdio0.. : ``Out(MdioPins())``
        The engine's.
    tick : ``In(1)``
        1 kHz pulse of one ``sync`` cycle.
    uart_rx : ``In(1)``, uart_tx : ``Out(1)``
        The serial line's pins, asynchronous.
    flash : ``Out(SpiPins())``
        The board's SPI flash. With ``cipo`` constant there is none.
    irq : ``Out(1)``
        The engine's host interrupt, for a LED; the PC sees it in a register.

    Raises
    ------
    TypeError, ValueError
        If a parameter has the wrong type or value.
    """

    def __init__(
        self,
        config: EngineConfig,
        host_memory_bytes: int = 8 * 1024,
        baud: int = 1_000_000,
        *,
        code: Sequence[int] = (),
        autostart: bool = False,
        stall_cycles: int | None = None,
        slots: FlashLayout | None = None,
    ):
        self._engine = Engine(config, code=code)
        self._loader = FlashLoader(config, slots, default_image=autostart and len(code) > 0)
        self._memory = HostMemory(host_memory_bytes)
        self._bridge = UartBridge(config.sync_hz, baud, memory_bytes=host_memory_bytes, stall_cycles=stall_cycles)
        self.config = config
        super().__init__(
            {f"port{p}": Out(GmiiPins()) for p in range(config.ports)}
            | {f"mdio{p}": Out(MdioPins()) for p in range(config.ports)}
            | {"tick": In(1), "uart_rx": In(1), "uart_tx": Out(1, init=1), "irq": Out(1), "flash": Out(SpiPins())}
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.engine = engine = self._engine
        m.submodules.host_memory = memory = self._memory
        m.submodules.bridge = bridge = self._bridge
        for p in range(self.config.ports):
            for name in (f"port{p}", f"mdio{p}"):
                connect(m, getattr(engine, name), flipped(getattr(self, name)))
        connect(m, engine.host_read, memory.read)
        connect(m, engine.host_write, memory.write)
        connect(m, bridge.memory, memory.port)
        m.submodules.loader = loader = self._loader
        connect(m, bridge.csr, loader.host)
        connect(m, bridge.loader, loader.page)
        connect(m, loader.csr, engine.host_csr)
        connect(m, loader.pins, flipped(self.flash))
        m.d.comb += [
            bridge.rx.eq(self.uart_rx),
            self.uart_tx.eq(bridge.tx),
            engine.tick.eq(self.tick),
            self.irq.eq(engine.irq),
        ]
        return m
