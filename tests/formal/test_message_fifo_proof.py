"""Proofs of the message FIFOs; they also run on FIFOs that are wrong on purpose, and must fail there.

The solver picks any one message of one direction when it is accepted. It must come out whole after exactly those that were
accepted before it: for every message at once that is order, no loss and no duplication. By induction, so for ever; any
behaviour of both cores and any resets. No half message: all 128 bits are compared, and what is shown stays, with its sender,
until it is popped or taken back by a reset; a message that the reset of either core takes back does not come out. Besides, a waiting message is shown within ``SHOWN_WITHIN`` cycles.
"""

import pytest
from amaranth import *
from amaranth.hdl import Assert, Cover
from amaranth.lib import memory

from support.formal import run_formal
from twinstack.message_fifo import MESSAGE_BITS, MessageFifos

DEPTH = 4
HOLD_OFF = 2
SHOWN_WITHIN = 2 + HOLD_OFF


class Observed(MessageFifos):
    """The real thing with a window: ``seen`` is the word of the memory of pair ``watched`` at ``slot``."""

    HOLD_OFF_CYCLES = HOLD_OFF

    def __init__(self, watched):
        super().__init__(2, DEPTH)
        self.watched = watched
        self.slot = Signal(range(DEPTH))
        self.seen = Signal(MESSAGE_BITS)

    def _store(self, m, pair):
        ram = super()._store(m, pair)
        if pair is self._pairs[self.watched]:
            window = ram.read_port(domain="comb")
            m.d.comb += [window.addr.eq(self.slot), self.seen.eq(window.data)]
        return ram


class NeverFull(Observed):
    def _has_space(self, pair):
        return ~pair.clear


class SaysFullTooEarly(Observed):
    def _has_space(self, pair):
        return (pair.level != self.depth - 1) & ~pair.clear


class WrongStore(Observed):
    """A memory that reads or writes wrongly, by ``fault``."""

    fault = ""

    def _store(self, m, pair):
        ram = memory.Memory(shape=MESSAGE_BITS, depth=self.depth, init=[])
        m.submodules[f"from{pair.sender}to{pair.receiver}"] = ram
        writer, reader = ram.write_port(), ram.read_port()
        m.d.comb += [
            writer.addr.eq(pair.write),
            writer.data.eq(self.ports[pair.sender].send_words),
            writer.en.eq(pair.push & (pair.unread != 2) if self.fault == "drops" else pair.push),
            reader.addr.eq(pair.read + 1 if self.fault == "overtakes" else pair.read),
            reader.en.eq(pair.read != 3 if self.fault == "repeats" else 1),
            pair.head.eq(reader.data),
        ]


class Tears(Observed):
    """Lets a new message's first word through to what is shown."""

    def _present(self, m, core):
        super()._present(m, core)
        pair = self._pairs[self.watched]
        if core == pair.receiver:
            with m.If(pair.push):
                m.d.sync += self._readers[core].words[:32].eq(self.ports[pair.sender].send_words)


class Drops(WrongStore):
    fault = "drops"


class Overtakes(WrongStore):
    fault = "overtakes"


class Repeats(WrongStore):
    fault = "repeats"


class Proof(Elaboratable):
    def __init__(self, fifos, *, inside):
        self.fifos = fifos
        self.inside = inside
        self.pick = Signal()
        self.ports = [fifos.core_reset, self.pick]
        for port in fifos.ports:
            self.ports += [port.send, port.to, port.send_words, port.pop]

    def elaborate(self, platform):
        m = Module()
        m.submodules.fifos = fifos = self.fifos
        pair = fifos._pairs[fifos.watched]
        sender, receiver = fifos.ports[pair.sender], fifos.ports[pair.receiver]
        reader = fifos._readers[pair.receiver]

        # What a bystander sees at the ports.
        sent, popped, cleared = Signal(), Signal(), Signal()
        outstanding = Signal(range(DEPTH + 1))
        m.d.comb += [
            cleared.eq(fifos.core_reset.any()),
            sent.eq(sender.send & (sender.to == pair.receiver) & sender.space[pair.receiver]),
            popped.eq(receiver.available & receiver.pop),
            Assert(sender.space[pair.receiver] == ((outstanding != DEPTH) & ~cleared)),
            Assert(~receiver.available | (outstanding != 0)),
            Assert(~receiver.available | (receiver.sender == pair.sender)),
        ]
        m.d.sync += outstanding.eq(Mux(cleared, 0, outstanding + sent - popped))

        # The picked message.
        picked, done = Signal(), Signal()
        message = Signal(MESSAGE_BITS)
        ahead = Signal(range(DEPTH + 1))
        slot = Signal(range(DEPTH))
        with m.If(cleared):
            m.d.sync += [picked.eq(0), done.eq(0)]
        with m.Elif(sent & self.pick & ~picked & ~done):
            m.d.sync += [
                picked.eq(1),
                message.eq(sender.send_words),
                ahead.eq(outstanding - popped),
                slot.eq(pair.write),
            ]
        with m.Elif(picked & popped):
            m.d.sync += ahead.eq(ahead - 1)
            with m.If(ahead == 0):
                m.d.sync += [picked.eq(0), done.eq(1)]
        with m.If(picked & (ahead == 0) & receiver.available):
            m.d.comb += Assert(receiver.words == message)

        # What is shown stays as it is until it is popped; the FIFOs' stream rule.
        held = Signal()
        held_words = Signal(MESSAGE_BITS)
        m.d.sync += [held.eq(receiver.available & ~popped & ~cleared), held_words.eq(receiver.words)]
        with m.If(held):
            m.d.comb += [Assert(receiver.available), Assert(receiver.words == held_words)]
        # Both directions are cleared together: nothing of a core in reset is shown once the reset is seen.
        was_cleared = Signal()
        m.d.sync += was_cleared.eq(cleared)
        with m.If(was_cleared):
            m.d.comb += [Assert(~receiver.available), Assert(outstanding == 0), Assert(~picked)]

        # A waiting message is shown.
        waited = Signal(range(SHOWN_WITHIN + 3))
        m.d.sync += waited.eq(Mux((outstanding != 0) & ~receiver.available & ~cleared, waited + 1, 0))
        m.d.comb += Assert(waited <= SHOWN_WITHIN)

        if self.inside:
            self._invariants(m, picked, message, ahead, slot, outstanding, waited)

        was_full = Signal()
        with m.If(outstanding == DEPTH):
            m.d.sync += was_full.eq(1)
        m.d.comb += [
            Cover(picked & (ahead == DEPTH - 1)),
            Cover(done & was_full & (outstanding == 0)),
            Cover(cleared & picked & receiver.available),
            Cover((reader.hold_off != 0) & sent),
            Cover(held & picked & (receiver.words[:32] != receiver.words[96:])),
            Cover(was_cleared & was_full),
        ]
        return m

    def _invariants(self, m, picked, message, ahead, slot, outstanding, waited):
        """What makes it inductive: where the message is inside. No part of the claim."""
        fifos = self.fifos
        pair = fifos._pairs[fifos.watched]
        reader = fifos._readers[pair.receiver]
        hold_off = reader.hold_off
        presented = reader.available
        m.d.comb += [
            Assert(pair.level == outstanding),
            Assert(outstanding <= DEPTH),
            Assert(pair.level == pair.unread + presented),
            Assert(pair.write == (pair.read + pair.unread)[: len(pair.write)]),
            Assert(~(reader.fetching & presented)),
            Assert(~reader.fetching | (pair.unread != 0)),
            Assert(reader.current == 0),
            Assert(hold_off <= HOLD_OFF),
            Assert((hold_off == 0) | ~(reader.fetching | presented)),
            Assert(~((outstanding != 0) & ~presented) | (waited + hold_off <= HOLD_OFF + reader.fetching)),
            fifos.slot.eq(slot),
        ]
        with m.If(picked & ~(presented & (ahead == 0))):
            m.d.comb += [
                Assert(fifos.seen == message),
                Assert(slot == (pair.read + ahead - presented)[: len(slot)]),
                Assert(ahead < outstanding),
            ]


def check(fifos, mode, depth, name, *, watched=0):
    # What holds at the ports is enough to find a fault; a proof for ever needs the invariants.
    proof = Proof(fifos(watched), inside=mode == "prove")
    return run_formal(proof, proof.ports, mode=mode, depth=depth, name=f"message_fifo_{name}{watched}")


@pytest.mark.parametrize("watched", [0, 1])
def test_order_no_loss_and_no_duplication_hold_for_ever(watched):
    assert check(Observed, "prove", 4, "order", watched=watched) == "PASS"


def test_interesting_situations_are_reachable():
    assert check(Observed, "cover", 24, "cover") == "PASS"


@pytest.mark.parametrize("wrong", [NeverFull, SaysFullTooEarly, Tears, Drops, Overtakes, Repeats])
def test_wrong_fifo_fails(wrong):
    assert check(wrong, "bmc", 20, f"wrong_{wrong.__name__}") == "FAIL"
