"""Programmable hash: Toeplitz over a tuple, and the indirection table that makes a core of it."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from .interfaces import ProbeRequest
from .toeplitz import KEY_BITS, Toeplitz

TABLE_ENTRIES = 128


class HashUnit(wiring.Component):
    """Toeplitz hash and indirection table for one tuple at a time.

    Parameters
    ----------
    cores : int, 1..4
        Cores.

    Members
    -------
    run : ``In(1)``
        A tuple is to be hashed. Stays until ``done`` and falls after it, for at least one cycle.
    tuple : ``In(ProbeRequest)``
        Must not change while ``run``. Ports count with ``has_ports``; ``is_tcp`` does not matter.
    done : ``Out(1)``
        ``rss_hash`` and ``core`` are valid, until ``run`` falls.
    rss_hash : ``Out(32)``, core : ``Out(4)``
        The hash, and the table's core for its low 7 bits, alive or not.
    key, indirection_valid, indirection_index, indirection_core
        As in :class:`~twinstack.dispatcher.Dispatcher`.
    refused : ``Out(1)``
        One cycle for each write to the table that was refused.
    is_filled : ``Out(1)``
        The table has its initial content; ``run`` must wait for it.

    Timing
    ------
    ``done`` rises ``steps + 3`` cycles after ``run``, at most 12, see :class:`Toeplitz`. The table is filled in the first 128
    cycles after reset.
    """

    def __init__(self, cores: int):
        self._cores = cores
        super().__init__(
            {
                "run": In(1),
                "tuple": In(ProbeRequest),
                "done": Out(1),
                "rss_hash": Out(32),
                "core": Out(4),
                "key": In(KEY_BITS),
                "indirection_valid": In(1),
                "indirection_index": In(7),
                "indirection_core": In(4),
                "refused": Out(1),
                "is_filled": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        core_bits = max(1, (self._cores - 1).bit_length())
        m.submodules.table = table = memory.Memory(shape=core_bits, depth=TABLE_ENTRIES, init=[])
        table_write, table_read = table.write_port(), table.read_port()

        # The memory itself cannot be reset.
        fill = Signal(range(TABLE_ENTRIES + 1))
        fill_core = Signal(core_bits)
        accept = self.is_filled & (self.indirection_core < self._cores)
        m.d.comb += [self.is_filled.eq(fill[-1]), self.refused.eq(self.indirection_valid & ~accept)]
        with m.If(~self.is_filled):
            m.d.comb += [table_write.en.eq(1), table_write.addr.eq(fill), table_write.data.eq(fill_core)]
            m.d.sync += [fill.eq(fill + 1), fill_core.eq(Mux(fill_core == self._cores - 1, 0, fill_core + 1))]
        with m.Else():
            m.d.comb += [
                table_write.en.eq(self.indirection_valid & accept),
                table_write.addr.eq(self.indirection_index),
                table_write.data.eq(self.indirection_core),
            ]

        m.submodules.toeplitz = toeplitz = Toeplitz()
        m.d.comb += [
            toeplitz.key.eq(self.key),
            toeplitz.i.payload.eq(self.tuple),
            toeplitz.o.ready.eq(1),
            table_read.addr.eq(toeplitz.o.payload),
        ]
        with m.FSM():
            with m.State("Hash"):
                m.d.comb += toeplitz.i.valid.eq(self.run)
                with m.If(toeplitz.o.valid):
                    m.d.sync += self.rss_hash.eq(toeplitz.o.payload)
                    m.next = "Look Up"
            with m.State("Look Up"):
                m.d.sync += [self.core.eq(table_read.data), self.done.eq(1)]
                m.next = "Done"
            with m.State("Done"):
                with m.If(~self.run):
                    m.d.sync += self.done.eq(0)
                    m.next = "Hash"
        return m
