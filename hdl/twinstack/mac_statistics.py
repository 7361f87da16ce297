"""Statistics of a port (RFC 2819, RFC 2863): one block RAM that events from both directions update, counter by counter."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import enum, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from .mac_crossing import RxOutcome, TxStatus
from .mac_filter import RxEvent
from .mac_tx import FCS_BYTES, MIN_DATA_BYTES
from .proto.statistics import Statistic

INDEX_BITS = 6
WAITING_BITS = 8  # counts of losses elsewhere that wait for their turn


class Kind(enum.Enum, shape=2):
    """What is being counted."""

    RECEIVED = 0
    SENT = 1
    DROPPED = 2
    DISCARDED = 3


class MacStatistics(wiring.Component):
    """Counts events into a memory of 64-bit counters, and shows one of them.

    No event is lost: ``rx`` and ``tx`` wait until theirs is counted. A bus never waits. (What it reads is whole, except where
    an index is written in the two cycles in which a carry, once in 2**32, is on its way from the low to the high word of
    just that counter: the first reading lacks the carry.)

    Members
    -------
    rx : ``In(stream.Signature(RxEvent))``
        Received frames.
    tx : ``In(stream.Signature(TxStatus))``
        Sent frames.
    rx_dropped : ``In(1)``
        For each cycle: a good frame was lost further up.
    tx_discarded : ``In(1)``
        For each cycle: a frame to send was discarded.
    index, index_strobe, next_index : ``In``
        The register: its content; a write of ``next_index``, which becomes ``index`` in the next cycle.
    low : ``Out(32)``
        Low word of the counter, right from the cycle after ``index_strobe``.
    low_strobe : ``In(1)``
        ``low`` is being read.
    high : ``Out(32)``
        The high word that belongs to it, from two cycles after ``low_strobe``.

    Timing
    ------
    One counter per cycle. A received frame takes 8 cycles, a lost or sent one 4, and one more for each access by the bus that
    meets it: together less than the 21 cycles in which the shortest frames follow each other with ``sync`` at a quarter
    of 125 MHz, even if the bus reads all the time.
    """

    def __init__(self):
        super().__init__(
            {
                "rx": In(stream.Signature(RxEvent)),
                "tx": In(stream.Signature(TxStatus)),
                "rx_dropped": In(1),
                "tx_discarded": In(1),
                "index": In(INDEX_BITS),
                "index_strobe": In(1),
                "next_index": In(INDEX_BITS),
                "low": Out(32),
                "low_strobe": In(1),
                "high": Out(32),
            }
        )

    def elaborate(self, platform):
        m = Module()
        kind = Signal(Kind)
        step = Signal(3)
        counter = Signal(INDEX_BITS)
        amount = Signal(24)
        used = Signal()  # this step counts something
        is_final = Signal()
        dropped = Signal(WAITING_BITS)
        discarded = Signal(WAITING_BITS)
        losses = Signal(WAITING_BITS)  # those that are being counted

        def count(statistic, by=1, when=1):
            return [counter.eq(statistic), amount.eq(by), used.eq(when)]

        with m.Switch(kind):
            with m.Case(Kind.RECEIVED):
                self._received(m, step, count, is_final)
            with m.Case(Kind.SENT):
                self._sent(m, step, count, is_final)
            with m.Case(Kind.DROPPED):
                with m.If(step == 0):
                    m.d.comb += count(Statistic.etherStatsDropEvents, losses)
                with m.Else():
                    m.d.comb += [count(Statistic.ifInDiscards, losses), is_final.eq(1)]
            with m.Case(Kind.DISCARDED):
                m.d.comb += [count(Statistic.ifOutDiscards, losses), is_final.eq(1)]

        # The memory: low words at even, high words at odd addresses. A read for the register goes before the updater's.
        m.submodules.memory = memory = Memory(shape=32, depth=2 << INDEX_BITS, init=[])
        reader = memory.read_port()
        writer = memory.write_port()
        value = Signal(32)
        steals = Signal()  # the register has the read port in this cycle
        shown = Signal(INDEX_BITS)
        refresh = Signal()
        carry = Signal()
        writing = Signal()  # what was read in the cycle before goes back
        written = Signal(INDEX_BITS)
        added = Signal(24)
        in_carry = Signal()
        m.d.comb += [
            steals.eq(self.index_strobe | self.low_strobe),
            shown.eq(Mux(self.index_strobe, self.next_index, self.index)),
            value.eq(reader.data),
            reader.en.eq(1),
        ]
        with m.If(self.low_strobe):
            m.d.comb += reader.addr.eq(Cat(1, self.index))
        with m.Elif(self.index_strobe | refresh):
            m.d.comb += reader.addr.eq(Cat(0, shown))
        with m.Elif(in_carry):
            m.d.comb += reader.addr.eq(Cat(1, written))
        with m.Else():
            m.d.comb += reader.addr.eq(Cat(0, counter))

        # The register's side. The low word follows its counter; the high word is read when the low word was.
        low = Signal(32)
        low_comes = Signal()
        high_comes = Signal()
        follows = Signal()  # the updater writes the low word that is shown
        m.d.comb += self.low.eq(Mux(low_comes, value, low))
        total = Signal(33)
        m.d.sync += [low_comes.eq((self.index_strobe | refresh) & ~follows), high_comes.eq(self.low_strobe)]
        with m.If(follows):
            m.d.sync += low.eq(total)
        with m.Elif(low_comes):
            m.d.sync += low.eq(value)
        with m.If(high_comes):
            m.d.sync += self.high.eq(value)

        # The updater: a step reads its counter, and in the next cycle, when the next step reads, it writes it.
        finishing = Signal()  # where a carry came in between
        m.d.comb += [
            total.eq(value + added),
            carry.eq(writing & total[32]),
            follows.eq(writing & ~carry & (written == shown)),
            writer.en.eq(writing),
            writer.addr.eq(Cat(in_carry, written)),
            writer.data.eq(total),
        ]
        m.d.sync += [
            writing.eq(0),
            dropped.eq(dropped + self.rx_dropped),
            discarded.eq(discarded + self.tx_discarded),
        ]

        with m.FSM():
            with m.State("Choose"):
                m.d.sync += step.eq(0)
                with m.If(self.rx.valid):
                    m.d.sync += kind.eq(Kind.RECEIVED)
                    m.next = "Run"
                with m.Elif(self.tx.valid):
                    m.d.sync += kind.eq(Kind.SENT)
                    m.next = "Run"
                with m.Elif(dropped.any()):
                    m.d.sync += [kind.eq(Kind.DROPPED), losses.eq(dropped), dropped.eq(self.rx_dropped)]
                    m.next = "Run"
                with m.Elif(discarded.any()):
                    m.d.sync += [kind.eq(Kind.DISCARDED), losses.eq(discarded), discarded.eq(self.tx_discarded)]
                    m.next = "Run"
            with m.State("Run"):
                m.d.sync += finishing.eq(0)
                with m.If(carry):
                    m.next = "Carry Read"
                with m.Elif(~(used & steals)):
                    m.d.sync += [writing.eq(used), written.eq(counter), added.eq(amount), step.eq(step + 1)]
                    with m.If(is_final):
                        m.next = "Finish"
            with m.State("Finish"):
                m.d.sync += finishing.eq(1)
                m.d.comb += [self.rx.ready.eq(kind == Kind.RECEIVED), self.tx.ready.eq(kind == Kind.SENT)]
                m.next = "Choose"
                with m.If(carry):
                    m.next = "Carry Read"
            with m.State("Carry Read"):
                m.d.comb += in_carry.eq(1)
                with m.If(~steals):
                    m.next = "Carry Write"
            with m.State("Carry Write"):
                # Until here the register shows the counter as it was.
                m.d.comb += [in_carry.eq(1), writer.data.eq(value + 1)]
                with m.If(steals):
                    m.next = "Carry Read"
                with m.Else():
                    m.d.comb += [writer.en.eq(1), refresh.eq(1)]
                    m.next = "Run"
                    with m.If(finishing):
                        m.next = "Choose"
        return m

    def _received(self, m, step, count, is_final):
        """The steps of a received frame."""
        event = self.rx.payload
        is_good = event.outcome == RxOutcome.GOOD
        with m.If(event.outcome == RxOutcome.LOST):
            with m.If(step == 0):
                m.d.comb += count(Statistic.etherStatsDropEvents, event.length)
            with m.Else():
                m.d.comb += [count(Statistic.ifInDiscards, event.length), is_final.eq(1)]
        with m.Else():
            with m.Switch(step):
                with m.Case(0):
                    m.d.comb += count(Statistic.etherStatsOctets, event.length)
                with m.Case(1):
                    m.d.comb += count(Statistic.etherStatsPkts)
                with m.Case(2):
                    with m.Switch(event.outcome):
                        with m.Case(RxOutcome.UNDERSIZE):
                            m.d.comb += count(Statistic.etherStatsUndersizePkts)
                        with m.Case(RxOutcome.FRAGMENT):
                            m.d.comb += count(Statistic.etherStatsFragments)
                        with m.Case(RxOutcome.OVERSIZE):
                            m.d.comb += count(Statistic.etherStatsOversizePkts)
                        with m.Case(RxOutcome.JABBER):
                            m.d.comb += count(Statistic.etherStatsJabbers)
                        with m.Default():
                            m.d.comb += count(self._size_class(m, event.length))
                with m.Case(3):
                    with m.If(is_good):
                        kind = Mux(
                            event.is_broadcast, Statistic.etherStatsBroadcastPkts, Statistic.etherStatsMulticastPkts
                        )
                        m.d.comb += count(kind, when=event.is_group)
                    with m.Else():
                        m.d.comb += count(Statistic.etherStatsCRCAlignErrors, when=event.outcome == RxOutcome.BAD_FCS)
                with m.Case(4):
                    with m.If(is_good):
                        m.d.comb += count(
                            self._address_class(event, Statistic.ifInUcastPkts, Statistic.ifInMulticastPkts),
                            when=event.is_accepted,
                        )
                    with m.Else():
                        m.d.comb += [count(Statistic.ifInErrors), is_final.eq(1)]
                with m.Default():
                    m.d.comb += [
                        count(Statistic.ifInOctets, event.length, event.is_accepted | event.is_control),
                        is_final.eq(1),
                    ]

    def _sent(self, m, step, count, is_final):
        """The steps of a sent frame."""
        status = self.tx.payload
        with m.If(status.spoiled):
            m.d.comb += [count(Statistic.ifOutErrors), is_final.eq(1)]
        with m.Elif(step == 0):
            length = Mux(status.length < MIN_DATA_BYTES, MIN_DATA_BYTES, status.length)
            m.d.comb += count(Statistic.ifOutOctets, length + FCS_BYTES)
        with m.Else():
            m.d.comb += [
                count(
                    self._address_class(status, Statistic.ifOutUcastPkts, Statistic.ifOutMulticastPkts),
                    when=~status.is_pause,
                ),
                is_final.eq(1),
            ]

    @staticmethod
    def _address_class(frame, unicast, multicast):
        """The counter for a frame's kind of address; that for broadcast follows the one for multicast."""
        return Mux(frame.is_broadcast, multicast + 1, Mux(frame.is_group, multicast, unicast))

    @staticmethod
    def _size_class(m, length):
        """The counter for a length of at least 64."""
        chosen = Signal(INDEX_BITS)
        with m.If(length[10:].any()):
            m.d.comb += chosen.eq(Statistic.etherStatsPkts1024to1518Octets)
        with m.Elif(length[9]):
            m.d.comb += chosen.eq(Statistic.etherStatsPkts512to1023Octets)
        with m.Elif(length[8]):
            m.d.comb += chosen.eq(Statistic.etherStatsPkts256to511Octets)
        with m.Elif(length[7]):
            m.d.comb += chosen.eq(Statistic.etherStatsPkts128to255Octets)
        with m.Elif(length[:6].any()):
            m.d.comb += chosen.eq(Statistic.etherStatsPkts65to127Octets)
        with m.Else():
            m.d.comb += chosen.eq(Statistic.etherStatsPkts64Octets)
        return chosen


__all__ = ["MacStatistics"]
