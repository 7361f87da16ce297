"""Bounds of the host DMA engine on the host bus: which transfers the host's windows permit."""

from types import SimpleNamespace

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from .interfaces import HostWindow

WINDOWS = 4
"""Windows of one host, as in block ``window`` of the register map."""


class WindowCheck(wiring.Component):
    """Tells whether a whole transfer lies within one window that permits its direction.

    Windows that touch each other do not add up: a transfer across their border is refused. So is one that passes
    the end of the 32-bit address space, and one of no bytes.

    Members
    -------
    start : ``In(1)``
        One cycle: begin; ``address`` (bytes), ``length`` (bytes) and ``write`` (the transfer writes host memory) are
        taken in that cycle. Starting again abandons a check that runs.
    windows : ``In(ArrayLayout(HostWindow, 4))``
        May change at any time; each window is looked at in one cycle of the check.
    done : ``Out(1)``
        One cycle: ``ok`` is valid.
    ok : ``Out(1)``
        The transfer is permitted.

    Timing
    ------
    ``done`` comes seven cycles after ``start``.
    """

    start: In(1)
    address: In(32)
    length: In(16)
    write: In(1)
    windows: In(data.ArrayLayout(HostWindow, WINDOWS))
    done: Out(1)
    ok: Out(1)

    def __init__(self):
        super().__init__()
        # Here, not in elaborate(), so that proofs can see them.
        self._inside = SimpleNamespace(
            first=Signal(32),
            length=Signal(16),
            write=Signal(),
            last=Signal(33),  # the last byte's address; bit 32 is the carry out of the address space
            window=Signal(HostWindow),
            above=Signal(),
            below=Signal(),
            permitted=Signal(),
            stage=Signal(range(7)),  # 0 sum, 1..4 fetch window, 2..5 compare, 3..6 collect
            running=Signal(),
            hit=Signal(),
        )

    # The decisions that the proofs are about; tests override them with wrong ones.

    def _ends_within(self, last: Value, limit: Value) -> Value:
        return last <= limit

    def _permits(self, window: Value, write: Value) -> Value:
        return Mux(write, window.write, window.read)

    def elaborate(self, platform):
        m = Module()
        inside = self._inside
        first, length, write, last = inside.first, inside.length, inside.write, inside.last
        window, above, below, permitted = inside.window, inside.above, inside.below, inside.permitted
        stage, running, hit = inside.stage, inside.running, inside.hit

        m.d.sync += self.done.eq(0)
        with m.Switch(stage):
            for index in range(WINDOWS):
                with m.Case(index + 1):
                    m.d.sync += window.eq(self.windows[index])
        m.d.sync += [
            above.eq(first >= window.base),
            below.eq(self._ends_within(last, window.limit)),
            permitted.eq(self._permits(window, write)),
        ]
        with m.If(running):
            m.d.sync += stage.eq(stage + 1)
            with m.If(stage == 0):
                m.d.sync += [last.eq(first + length - 1), hit.eq(0)]
            with m.If((stage >= 3) & above & below & permitted):
                m.d.sync += hit.eq(1)
            with m.If(stage == 6):
                m.d.sync += [
                    running.eq(0),
                    self.done.eq(1),
                    self.ok.eq((hit | (above & below & permitted)) & (length != 0)),
                ]
        with m.If(self.start):
            m.d.sync += [
                first.eq(self.address),
                length.eq(self.length),
                write.eq(self.write),
                stage.eq(0),
                running.eq(1),
                self.done.eq(0),
            ]
        return m


__all__ = ["WINDOWS", "WindowCheck"]
