"""A host's control queue: submission ring to cores, cores to completion ring."""

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .completion_queue import CompletionQueue
from .config import EngineConfig
from .host_dispatcher import HostDispatcher
from .interfaces import CqPort, ProbePort, SqPort, ram_port_for
from .soc import wishbone_signature


class ControlQueue(wiring.Component):
    """The submission and the completion queue of one host, which is host 0.

    Parameters
    ----------
    config : EngineConfig
        Number of cores, size of their data RAM.

    Members
    -------
    sq_bus, cq_bus : ``Out(wishbone_signature())``
        Read the submission ring, write the completion ring.
    enable, irq_enable, sq_base, cq_base, sq_log2, cq_log2, sq_tail, cq_head, irq_count, irq_delay : ``In``
        From block ``queue`` of the register map. Both doorbells must be zero again before ``enable`` rises.
    sq_head, cq_tail, irq, bus_error : ``Out``
        To the same block. After a bus error the queues stop until ``enable`` falls.
    tick : ``In(1)``
        One cycle each millisecond.
    alive, manager, core_reset, epochs : ``In``
        State of the cores.
    sq0.., cq0.., data0.. :
        For each core: its delivery ring, its completions, the data RAM in which the ring lies.
    probe : ``Out(ProbePort())``
        Asks the network side's dispatcher which core a connection belongs to.
    delivered0.. : ``Out(32)``
        Entries delivered to the core since power-up; wraps.

    Timing
    ------
    About 50 cycles for an entry, about ten for a completion; the two halves work at once.
    """

    def __init__(self, config: EngineConfig):
        if not isinstance(config, EngineConfig):
            raise TypeError(f"config must be an EngineConfig, not {config!r}")
        self._config = config
        members = {
            "sq_bus": Out(wishbone_signature()),
            "cq_bus": Out(wishbone_signature()),
            "enable": In(1),
            "irq_enable": In(1),
            "sq_base": In(32),
            "cq_base": In(32),
            "sq_log2": In(4),
            "cq_log2": In(4),
            "sq_tail": In(16),
            "cq_head": In(16),
            "irq_count": In(8),
            "irq_delay": In(8),
            "sq_head": Out(16),
            "cq_tail": Out(16),
            "irq": Out(1),
            "bus_error": Out(1),
            "tick": In(1),
            "alive": In(config.cores),
            "manager": In(4),
            "core_reset": In(config.cores),
            "epochs": In(data.ArrayLayout(8, config.cores)),
            "probe": Out(ProbePort()),
        }
        for core in range(config.cores):
            members |= {
                f"sq{core}": In(SqPort()),
                f"cq{core}": In(CqPort()),
                f"data{core}": Out(ram_port_for(config.data_bytes)),
                f"delivered{core}": Out(32),
            }
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        m.submodules.dispatcher = dispatcher = HostDispatcher(self._config)
        m.submodules.completions = completions = CompletionQueue(self._config)

        run = Signal()
        m.d.comb += run.eq(self.enable & ~self.bus_error)
        with m.If(dispatcher.bus_error | completions.bus_error):
            m.d.sync += self.bus_error.eq(1)
        with m.If(~self.enable):
            m.d.sync += self.bus_error.eq(0)

        connect(m, dispatcher=dispatcher.o, completions=completions.i)
        connect(m, dispatcher=dispatcher.join, completions=completions.join)
        connect(m, inner=dispatcher.probe, outer=flipped(self.probe))
        connect(m, inner=dispatcher.bus, outer=flipped(self.sq_bus))
        connect(m, inner=completions.bus, outer=flipped(self.cq_bus))
        for half in (dispatcher, completions):
            m.d.comb += [half.enable.eq(self.enable), half.run.eq(run), half.core_reset.eq(self.core_reset)]
        for name in ("sq_base", "sq_log2", "sq_tail", "alive", "manager", "epochs"):
            m.d.comb += getattr(dispatcher, name).eq(getattr(self, name))
        for name in ("cq_base", "cq_log2", "cq_head", "irq_enable", "irq_count", "irq_delay", "tick"):
            m.d.comb += getattr(completions, name).eq(getattr(self, name))
        m.d.comb += [
            self.sq_head.eq(dispatcher.sq_head),
            self.cq_tail.eq(completions.cq_tail),
            self.irq.eq(completions.irq),
        ]
        for core in range(self._config.cores):
            connect(m, outer=flipped(getattr(self, f"sq{core}")), inner=getattr(dispatcher, f"sq{core}"))
            connect(m, outer=flipped(getattr(self, f"cq{core}")), inner=getattr(completions, f"cq{core}"))
            connect(m, inner=getattr(dispatcher, f"data{core}"), outer=flipped(getattr(self, f"data{core}")))
            m.d.comb += getattr(self, f"delivered{core}").eq(getattr(dispatcher, f"delivered{core}"))
        return m


__all__ = ["ControlQueue"]
