"""Message FIFOs between the cores: small whole messages, for what the stacks have to tell each other."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out

from .interfaces import MessagePort

MESSAGE_BITS = 128


def message_pairs(cores: int) -> list[tuple[int, int]]:
    """(sender, receiver) of each FIFO: both ways between two cores; with four, to and from core 0."""
    return [pair for other in range(1, cores) for pair in ((0, other), (other, 0))]


class _Pair:
    """State of the FIFO of one pair; the proofs look at it."""

    def __init__(self, sender: int, receiver: int, depth: int):
        name = f"from{sender}to{receiver}"
        self.sender = sender
        self.receiver = receiver
        self.write = Signal(range(depth), name=f"{name}_write")
        self.read = Signal(range(depth), name=f"{name}_read")
        self.unread = Signal(range(depth + 1), name=f"{name}_unread")  # in memory, not yet presented
        self.level = Signal(range(depth + 1), name=f"{name}_level")  # sent and not yet popped
        self.push = Signal(name=f"{name}_push")
        self.fetch = Signal(name=f"{name}_fetch")  # the oldest leaves the memory and is presented
        self.pop = Signal(name=f"{name}_pop")
        self.clear = Signal(name=f"{name}_clear")
        self.head = Signal(MESSAGE_BITS, name=f"{name}_head")


class _Reader:
    """What is presented to one core."""

    def __init__(self, core: int, senders: int, hold_off: int):
        self.current = Signal(range(max(2, senders)), name=f"current{core}")
        self.fetching = Signal(name=f"fetching{core}")
        self.available = Signal(name=f"available{core}")
        self.words = Signal(MESSAGE_BITS, name=f"words{core}")
        self.hold_off = Signal(range(hold_off + 1), name=f"hold_off{core}")


class MessageFifos(wiring.Component):
    """FIFOs of four-word messages.

    Parameters
    ----------
    cores : int, 1..4
    depth : int, a power of two, 2..64
        Messages in each FIFO, counted until they are popped.

    Members
    -------
    port0, port1, ... : ``In(MessagePort())``
        One for each core. ``send`` without space is ignored. ``words`` and ``sender`` are stable while ``available``.
        With several senders, the reader gets their messages in turn.
    core_reset : In(cores)
        While bit n is set, all FIFOs to and from core n are empty and have no space. If that takes back a message
        that another core was being shown, its ``available`` stays low for ``HOLD_OFF_CYCLES`` (and ``words``
        unchanged), so that a ``pop`` already on its way does not remove the next message instead.
    sent0, sent1, ... : Out(32)
        Messages that each core has sent.

    Timing
    ------
    A message is shown three cycles after ``send``, the next one three cycles after ``pop``.

    Raises
    ------
    TypeError, ValueError
        If a parameter is not an integer in its range.
    """

    HOLD_OFF_CYCLES = 1024

    def __init__(self, cores: int, depth: int = 16):
        for name, value in (("cores", cores), ("depth", depth)):
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} must be an integer, not {value!r}")
        if not 1 <= cores <= 4:
            raise ValueError(f"cores must be 1 to 4, not {cores!r}")
        if depth not in (2, 4, 8, 16, 32, 64):
            raise ValueError(f"depth must be 2, 4, 8, 16, 32 or 64, not {depth!r}")
        self.cores = cores
        self.depth = depth
        super().__init__(
            {f"port{i}": In(MessagePort()) for i in range(cores)}
            | {"core_reset": In(cores)}
            | {f"sent{i}": Out(32) for i in range(cores)}
        )
        self.ports = [getattr(self, f"port{i}") for i in range(cores)]
        self.sent = [getattr(self, f"sent{i}") for i in range(cores)]
        self._pairs = [_Pair(sender, receiver, depth) for sender, receiver in message_pairs(cores)]
        self._readers = [
            _Reader(i, sum(pair.receiver == i for pair in self._pairs), self.HOLD_OFF_CYCLES) for i in range(cores)
        ]

    def _has_space(self, pair: _Pair) -> Value:
        """Whether a message can be sent; the proofs override it with a wrong answer."""
        return (pair.level != self.depth) & ~pair.clear

    def _store(self, m: Module, pair: _Pair) -> memory.Memory:
        """The memory of one FIFO. Its output ``head`` is the word at ``read`` one cycle ago."""
        ram = memory.Memory(shape=MESSAGE_BITS, depth=self.depth, init=[], attrs={"ram_style": "distributed"})
        m.submodules[f"from{pair.sender}to{pair.receiver}"] = ram
        writer, reader = ram.write_port(), ram.read_port()
        m.d.comb += [
            writer.addr.eq(pair.write),
            writer.data.eq(self.ports[pair.sender].send_words),
            writer.en.eq(pair.push),
            reader.addr.eq(pair.read),
            reader.en.eq(1),
            pair.head.eq(reader.data),
        ]
        return ram

    def elaborate(self, platform):
        m = Module()
        for pair in self._pairs:
            self._store(m, pair)
            sender = self.ports[pair.sender]
            space = self._has_space(pair)
            m.d.comb += [
                pair.clear.eq(self.core_reset[pair.sender] | self.core_reset[pair.receiver]),
                sender.space[pair.receiver].eq(space),
                pair.push.eq(sender.send & (sender.to == pair.receiver) & space),
            ]
            with m.If(pair.push):
                m.d.sync += [pair.write.eq(pair.write + 1), self.sent[pair.sender].eq(self.sent[pair.sender] + 1)]
            with m.If(pair.fetch):
                m.d.sync += pair.read.eq(pair.read + 1)
            m.d.sync += [
                pair.unread.eq(pair.unread + pair.push - pair.fetch),
                pair.level.eq(pair.level + pair.push - pair.pop),
            ]
            with m.If(pair.clear):
                m.d.sync += [pair.write.eq(0), pair.read.eq(0), pair.unread.eq(0), pair.level.eq(0)]
        for core in range(self.cores):
            self._present(m, core)
        return m

    def _present(self, m: Module, core: int) -> None:
        """Take the senders' messages in turn and show one to ``core`` until it is popped."""
        pairs = [pair for pair in self._pairs if pair.receiver == core]
        reader, port = self._readers[core], self.ports[core]
        hold_off = reader.hold_off
        choice = Signal.like(reader.current, name=f"choice{core}")
        m.d.comb += [port.available.eq(reader.available), port.words.eq(reader.words)]
        for number, pair in enumerate(pairs):
            chosen = Signal(name=f"chosen{number}of{core}")
            m.d.comb += [
                chosen.eq(reader.current == number),
                pair.fetch.eq(chosen & reader.fetching),
                pair.pop.eq(chosen & reader.available & port.pop),
            ]
            with m.If(chosen):
                m.d.comb += port.sender.eq(pair.sender)
            with m.If(pair.fetch):
                m.d.sync += reader.words.eq(pair.head)
            with m.If(chosen):
                # The one served last comes last; assignments further down win.
                for step in reversed(range(1, len(pairs) + 1)):
                    candidate = (number + step) % len(pairs)
                    with m.If(pairs[candidate].unread.any()):
                        m.d.comb += choice.eq(candidate)
        waiting = Cat(pair.unread.any() & ~pair.clear for pair in pairs).any()
        with m.If(reader.available):
            with m.If(port.pop):
                m.d.sync += reader.available.eq(0)
        with m.Elif(reader.fetching):
            m.d.sync += [reader.fetching.eq(0), reader.available.eq(1)]
        with m.Elif(waiting & (hold_off == 0)):
            m.d.sync += [reader.current.eq(choice), reader.fetching.eq(1)]
        with m.If(hold_off != 0):
            m.d.sync += hold_off.eq(hold_off - 1)
        for number, pair in enumerate(pairs):
            with m.If(pair.clear & (reader.current == number) & (reader.available | reader.fetching)):
                m.d.sync += [reader.fetching.eq(0), reader.available.eq(0), hold_off.eq(self.HOLD_OFF_CYCLES)]
            # Chosen in the cycle in which it was emptied.
            with m.If(pair.clear & ~reader.available & ~reader.fetching & (choice == number)):
                m.d.sync += reader.fetching.eq(0)
        with m.If(self.core_reset[core]):
            m.d.sync += [reader.fetching.eq(0), reader.available.eq(0), hold_off.eq(0), reader.words.eq(0)]
