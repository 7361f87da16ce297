"""The engine with a host interface of its own: what a board without a processor has between its clocks and its pins."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .config import EngineConfig
from .engine import Engine
from .host_memory import HostMemory
from .interfaces import GmiiPins, MdioPins
from .uart_bridge import UartBridge


class StandaloneEngine(wiring.Component):
    """Engine, host memory in block RAM, and a UART bridge to both for a PC.

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
        Leave reset with the cores running ``code``.
    stall_cycles : int or None
        After which the bridge gives up a command; default 100 ms.

    Members
    -------
    port0.. : ``Out(GmiiPins())``, mdio0.. : ``Out(MdioPins())``
        The engine's.
    tick : ``In(1)``
        1 kHz pulse of one ``sync`` cycle.
    uart_rx : ``In(1)``, uart_tx : ``Out(1)``
        The serial line's pins, asynchronous.
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
    ):
        self._engine = Engine(config, code=code, autostart=autostart)
        self._memory = HostMemory(host_memory_bytes)
        self._bridge = UartBridge(config.sync_hz, baud, memory_bytes=host_memory_bytes, stall_cycles=stall_cycles)
        self.config = config
        super().__init__(
            {f"port{p}": Out(GmiiPins()) for p in range(config.ports)}
            | {f"mdio{p}": Out(MdioPins()) for p in range(config.ports)}
            | {"tick": In(1), "uart_rx": In(1), "uart_tx": Out(1, init=1), "irq": Out(1)}
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
        connect(m, bridge.csr, engine.host_csr)
        m.d.comb += [
            bridge.rx.eq(self.uart_rx),
            self.uart_tx.eq(bridge.tx),
            engine.tick.eq(self.tick),
            self.irq.eq(engine.irq),
            # No loader here: whoever asks it gets an error.
            bridge.loader.err.eq(bridge.loader.stb),
        ]
        return m
