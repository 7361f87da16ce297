"""Hardware locks: the cores have neither atomic instructions nor a coherent cache."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from .interfaces import LockPort

NOBODY = 15
LAPSE_TICKS = 4
"""A reservation lapses at this many ticks of lapse_cycles / LAPSE_TICKS cycles after its last retry."""


class LockUnit(wiring.Component):
    """Locks that a core takes by reading and gives back by writing.

    A take of a free lock succeeds unless another core is to be served first; otherwise the core is entered as waiting for
    it. Those who wait, or try in this very cycle, are served in cyclic order after the last owner, so that everybody
    who keeps trying gets his turn after at most one turn of each other core. One who waits but does not try again
    for ``lapse_cycles`` (up to a quarter more) while it is his turn loses his place.

    Parameters
    ----------
    cores : int, 1..4
    locks : int, 1..32
    lapse_cycles : int, a power of two, at least 4

    Members
    -------
    port0, port1, ... : ``In(LockPort())``
        One for each core. A take by the owner tells ``mine`` without ``taken_now``. After a take ``owner`` is never 15:
        for a free lock that is kept for another core, it is that core. ``release`` by anybody but the owner, and an
        ``index`` of no lock, do nothing. ``take`` and ``release`` of one core never come together.
    core_reset : In(cores)
        While bit n is set, core n owns nothing, waits for nothing, and its strobes are ignored.
    owners : ``Out(ArrayLayout(4, locks))``
        Owner of each lock, 15 for nobody.
    taken0, taken1, ... : Out(32)
        Acquisitions of each core.

    Timing
    ------
    The answer is combinational; what it says holds from the next cycle. A lock released in this cycle can be taken in
    the next one. Attempts of several cores in one cycle: the first in cyclic order wins.

    Raises
    ------
    TypeError, ValueError
        If a parameter is not an integer in its range.
    """

    def __init__(self, cores: int, locks: int = 32, *, lapse_cycles: int = 1024):
        for name, value, low, high in (
            ("cores", cores, 1, 4),
            ("locks", locks, 1, 32),
            ("lapse_cycles", lapse_cycles, LAPSE_TICKS, 1 << 16),
        ):
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} must be an integer, not {value!r}")
            if not low <= value <= high:
                raise ValueError(f"{name} must be {low} to {high}, not {value!r}")
        if lapse_cycles & (lapse_cycles - 1):
            raise ValueError(f"lapse_cycles must be a power of two, not {lapse_cycles!r}")
        self.cores = cores
        self.locks = locks
        self._tick_log2 = exact_log2(lapse_cycles // LAPSE_TICKS)
        super().__init__(
            {f"port{i}": In(LockPort()) for i in range(cores)}
            | {"core_reset": In(cores), "owners": Out(data.ArrayLayout(4, locks))}
            | {f"taken{i}": Out(32) for i in range(cores)}
        )
        self.ports = [getattr(self, f"port{i}") for i in range(cores)]
        self.taken = [getattr(self, f"taken{i}") for i in range(cores)]

    def _precedes(self, one: int, other: int, last: Value) -> Value:
        """Whether core ``one`` comes before core ``other`` in cyclic order after core ``last``."""
        count = self.cores
        table = sum(((one - x - 1) % count < (other - x - 1) % count) << x for x in range(count))
        return Const(table, count).bit_select(last, 1)

    # The decisions that the proofs are about; tests override them with wrong ones.

    def _may_take(self, held: Value, must_wait: Value) -> Value:
        return ~held & ~must_wait

    def _may_release(self, mine: Value) -> Value:
        return mine

    def _lapses(self, tick: Value, age: Value) -> Value:
        return tick & (age == LAPSE_TICKS)

    def elaborate(self, platform):
        m = Module()
        cores, locks = range(self.cores), range(self.locks)
        core_bits = max(1, (self.cores - 1).bit_length())
        held = [Signal(name=f"held{n}") for n in locks]
        last = [Signal(core_bits, name=f"last{n}", init=self.cores - 1) for n in locks]  # owner, or last owner
        waiting = [Signal(self.cores, name=f"waiting{n}") for n in locks]
        take, release, exists = ([Signal(name=f"{name}{c}") for c in cores] for name in ("take", "release", "exists"))
        granted, refused, freed = (
            [Signal(name=f"{name}{c}") for c in cores] for name in ("granted", "refused", "freed")
        )

        # Answers, from the state of the lock that each core names.
        for c, port in enumerate(self.ports):
            here = port.index
            of_held, of_last, of_waiting = (
                Signal(len(x[0]), name=f"{x[0].name[:-1]}_of{c}") for x in (held, last, waiting)
            )
            m.d.comb += [
                exists[c].eq(port.index < self.locks),
                of_held.eq(Array(held)[here]),
                of_last.eq(Array(last)[here]),
                of_waiting.eq(Array(waiting)[here]),
                take[c].eq(port.take & ~self.core_reset[c] & exists[c]),
                release[c].eq(port.release & ~self.core_reset[c] & exists[c]),
            ]
            contenders = [
                (of_waiting[o] | (take[o] & (self.ports[o].index == here))) if o != c else Const(0) for o in cores
            ]
            must_wait = Signal(name=f"must_wait{c}")
            mine = Signal(name=f"mine{c}")
            m.d.comb += [
                must_wait.eq(Cat(contenders[o] & self._precedes(o, c, of_last) for o in cores).any()),
                mine.eq(of_held & (of_last == c) & exists[c]),
                granted[c].eq(take[c] & self._may_take(of_held, must_wait)),
                refused[c].eq(take[c] & ~granted[c] & ~mine),
                freed[c].eq(release[c] & self._may_release(mine)),
                port.taken_now.eq(granted[c]),
                port.mine.eq(granted[c] | (mine & ~freed[c])),
            ]
            with m.If(granted[c]):
                m.d.comb += port.owner.eq(c)
            with m.Elif(of_held & exists[c] & ~freed[c]):
                m.d.comb += port.owner.eq(of_last)
            with m.Elif(take[c]):
                # Kept for the first in cyclic order of those who go before; assignments further down win.
                for step in reversed(range(1, self.cores)):
                    for x in cores:
                        first = (x + step) % self.cores
                        if first != c:
                            with m.If((of_last == x) & contenders[first]):
                                m.d.comb += port.owner.eq(first)
            with m.Else():
                m.d.comb += port.owner.eq(NOBODY)
            with m.If(granted[c]):
                m.d.sync += self.taken[c].eq(self.taken[c] + 1)

        if self._tick_log2:
            prescaler = Signal(self._tick_log2)
            m.d.sync += prescaler.eq(prescaler + 1)
            tick = prescaler.all()
        else:
            tick = Const(1)

        for n in locks:
            first = Signal(self.cores, name=f"first{n}")  # whose turn it is, of those who wait; one-hot
            age = Signal(range(LAPSE_TICKS + 1), name=f"age{n}")
            at = [port.index == n for port in self.ports]
            for c in cores:
                before = Cat(waiting[n][o] & self._precedes(o, c, last[n]) for o in cores if o != c)
                m.d.comb += first[c].eq(waiting[n][c] & ~before.any())
            # A reservation ages from the last try of the one whose turn it is.
            tried = Cat(first[c] & take[c] & at[c] for c in cores).any()
            lapsed = self._lapses(tick, age) & ~tried
            with m.If(~first.any() | tried | lapsed):
                m.d.sync += age.eq(0)
            with m.Elif(tick & (age != LAPSE_TICKS)):
                m.d.sync += age.eq(age + 1)
            for c in cores:
                with m.If(granted[c] & at[c]):
                    m.d.sync += [held[n].eq(1), last[n].eq(c)]
                with m.If(self.core_reset[c] | (granted[c] & at[c]) | (lapsed & first[c])):
                    m.d.sync += waiting[n][c].eq(0)
                with m.Elif(refused[c] & at[c]):
                    m.d.sync += waiting[n][c].eq(1)
                with m.If((freed[c] & at[c]) | (held[n] & (last[n] == c) & self.core_reset[c])):
                    m.d.sync += held[n].eq(0)
            m.d.comb += self.owners[n].eq(Mux(held[n], last[n], NOBODY))
        return m
