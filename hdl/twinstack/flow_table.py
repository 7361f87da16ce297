"""Flow table: exact match of a TCP or UDP tuple, with chained buckets, so that any set of flows up to its size fits."""

# No postponed annotations here: data.Struct evaluates its own.

from functools import reduce
from operator import xor

from amaranth import *
from amaranth.lib import data, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from .interfaces import FlowRequest, FlowResult
from .models.flow_table import DESTINATION_ROTATIONS, SOURCE_ROTATIONS, bucket_remainders
from .proto.descriptor import FlowOperation, FlowStatus

BEATS = 3
"""Words of the key memory for each entry. The first is all of an IPv4 key; IPv6 has the rest of its addresses in two more."""
_PART_BITS = 8  # compared in two levels of LUT4 before a register


class FlowJob(data.Struct):
    """A request to the flow table, and for whom it is."""

    request: FlowRequest
    core: 4  # who asks: owner of what is inserted or deleted


class FlowTable(wiring.Component):
    """Exact match from {IP version, TCP or UDP, addresses, ports} to an entry's number and its core.

    A fixed hash of the key chooses a bucket, whose entries are a doubly linked chain: an entry leaves in constant time, and
    a collision costs time, never an insertion. Nothing is ever evicted. One request runs at a time, so that each is atomic:
    a lookup sees a neighbour's insertion whole or not at all.

    Entries of a core that enters reset are dead at once: no request finds them. A sweep removes them, one entry between two
    requests, and without a pause while there are none.

    Parameters
    ----------
    entries : int, power of two, 2..256
        Flows it holds.
    cores : int, 1..4
        Cores.
    buckets : int, power of two, 1..entries, or None
        Chains; None for as many as entries.

    Members
    -------
    request : ``In(stream.Signature(FlowJob))``
        INSERT enters the tuple for ``core``: OK with its index; EXISTS with index and core of what is there; FULL.
        DELETE removes the entry ``index`` of ``core``: OK, or NOT_FOUND if that is not an entry of this core.
        LOOKUP: OK with index and core, or NOT_FOUND.
        Other operations: BAD_OPERATION. Nothing is copied: a request is accepted with its result.
    result : ``Out(FlowResult)``
        Of the last request; valid from the cycle of its acceptance to that of the next.
    core_reset : ``In(cores)``
        Bit n: core n is in reset. Its rise kills the core's entries.
    sweeping : ``Out(cores)``
        Dead entries of core n may still be there; its insertions and deletions wait.
    may_insert : ``Out(1)``
        Otherwise an insertion waits: all entries are taken, and some are being swept.
    used : ``Out(16)``
        Entries taken, dead ones that are not yet swept included.

    Timing
    ------
    A lookup of the k-th entry of its chain is accepted in its cycle 5 + k with IPv4, 5 + 3 k with IPv6, counted from 1; a miss
    in a chain of k entries likewise, in an empty one in cycle 4. A sweep may delay it by 4 cycles. INSERT takes 2 cycles
    more (IPv6: 3), DELETE 6 in all. With as many flows as buckets a chain is 1 long on average, 1.5 entries are compared for a hit; in
    the worst case all entries are in one chain. Nothing is served in the first ``entries`` cycles after reset.

    Raises
    ------
    TypeError, ValueError
        If a parameter is not an integer in its range.
    """

    def __init__(self, entries: int, cores: int, buckets: int | None = None):
        if buckets is None:
            buckets = entries
        for name, value in (("entries", entries), ("cores", cores), ("buckets", buckets)):
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} must be an integer, not {value!r}")
        if entries not in (2, 4, 8, 16, 32, 64, 128, 256):
            raise ValueError(f"entries must be a power of two from 2 to 256, not {entries!r}")
        if not 1 <= cores <= 4:
            raise ValueError(f"cores must be 1 to 4, not {cores!r}")
        if buckets not in [1 << n for n in range(entries.bit_length())]:
            raise ValueError(f"buckets must be a power of two from 1 to entries, not {buckets!r}")
        self._entries = entries
        self._cores = cores
        self._buckets = buckets
        super().__init__(
            {
                "request": In(stream.Signature(FlowJob)),
                "result": Out(FlowResult),
                "core_reset": In(cores),
                "sweeping": Out(cores),
                "may_insert": Out(1),
                "used": Out(16),
            }
        )

    # A proof makes these smaller.
    def _make_memory(self, shape, depth: int):
        return memory.Memory(shape=shape, depth=depth, init=[])

    def _beats(self, request) -> list[Value]:
        """The key as it lies in memory."""
        return [
            Cat(
                request.source[:32],
                request.destination[:32],
                request.source_port,
                request.destination_port,
                request.is_ipv6,
                request.is_tcp,
            ),
            request.source[32:],
            request.destination[32:],
        ]

    def _fold(self, request) -> Value:
        """The key in 32 bits; see the model for the reason of the rotations."""
        ports = Cat(request.destination_port, request.source_port)
        words = [ports ^ request.is_tcp]
        for name, rotations in (("source", SOURCE_ROTATIONS), ("destination", DESTINATION_ROTATIONS)):
            for number, rotation in enumerate(rotations):
                word = request[name].word_select(number, 32)
                words.append(
                    Mux(request.is_ipv6, word, 0).rotate_left(rotation) if number else word.rotate_left(rotation)
                )
        return reduce(xor, words)

    def _bucket(self, fold: Value) -> Value:
        remainders = bucket_remainders(self._buckets)
        bits = (self._buckets - 1).bit_length()
        return Cat(
            Cat(fold[i] for i, remainder in enumerate(remainders) if remainder >> bit & 1).xor() for bit in range(bits)
        )

    def _may_delete(self, owner, core: Value) -> Value:
        """Whether an entry is in use, and of ``core``."""
        return owner.used & (owner.core == core)

    def _rest_of_chain(self, head):
        """What comes after an entry that is put before ``head``."""
        return head

    def _is_alive(self, core: Value) -> Value:
        """Whether an entry of ``core`` counts."""
        return ~self.sweeping.bit_select(core, 1)

    def elaborate(self, platform):
        m = Module()
        entries = self._entries
        index_bits = entries.bit_length() - 1
        core_bits = max(1, (self._cores - 1).bit_length())
        link = data.StructLayout({"index": index_bits, "valid": 1})
        back_link = data.StructLayout({"index": index_bits, "is_first": 1})  # first: index is the bucket
        owner = data.StructLayout({"core": core_bits, "used": 1})

        def table(name, shape, depth):
            m.submodules[name] = ram = self._make_memory(shape, depth)
            return ram.write_port(), ram.read_port(domain="comb")

        head_write, head_read = table("heads", link, self._buckets)
        next_write, next_read = table("nexts", link, entries)
        back_write, back_read = table("backs", back_link, entries)
        owner_write, owner_read = table("owners", owner, entries)
        job = self.request.payload
        request = job.request
        beats = self._beats(request)
        beat_bits = max(len(beat) for beat in beats)
        m.submodules.keys = keys = self._make_memory(beat_bits, 4 * entries)
        key_write, key_read = keys.write_port(), keys.read_port()

        last_beat = Mux(request.is_ipv6, BEATS - 1, 0)
        index = Signal(index_bits)  # where most states are
        has_index = Signal()
        beat = Signal(range(BEATS))
        fold = Signal(32)
        bucket = Signal(max(1, (self._buckets - 1).bit_length()))
        head = Signal(link)  # of this bucket
        free = Signal(link)
        before = Signal(back_link)
        after = Signal(link)
        fill = Signal(range(entries))
        is_insert = request.operation == FlowOperation.INSERT

        # A rise in any state starts the sweep anew: what the core entered before it, at the latest by the request that
        # runs now, lies ahead of the sweep then.
        was_reset = Signal(self._cores, init=(1 << self._cores) - 1)
        rise = self.core_reset & ~was_reset
        is_sweeping = self.sweeping.any()
        sweep_index = Signal(index_bits)
        sweep_on = Signal()  # this entry is done
        for_sweep = Signal()
        served = Signal()  # a request since the last step of the sweep
        swept = Signal()
        m.d.comb += [
            swept.eq(sweep_on & (sweep_index == entries - 1)),
            self.may_insert.eq(free.valid | ~is_sweeping),
        ]
        m.d.sync += [was_reset.eq(self.core_reset), self.sweeping.eq(Mux(swept, 0, self.sweeping) | rise)]
        with m.If(rise.any()):
            m.d.sync += sweep_index.eq(0)
        with m.Elif(sweep_on):
            m.d.sync += sweep_index.eq(sweep_index + 1)

        # The walk: an address in each cycle, compared in the next, decided in the one after.
        compare_valid, compare_last = Signal(), Signal()
        compare_index, compare_beat = Signal(index_bits), Signal(range(BEATS))
        decide_valid, decide_first, decide_last = Signal(), Signal(), Signal()
        decide_index = Signal(index_bits)
        expected = Signal(beat_bits)
        parts = Signal(-(-beat_bits // _PART_BITS))
        equal_before, equal = Signal(), Signal()
        found = Signal()
        with m.Switch(compare_beat):
            for number, value in enumerate(beats):
                with m.Case(number):
                    m.d.comb += expected.eq(value)
        m.d.comb += [
            key_read.addr.eq(Cat(beat, index)),
            key_read.en.eq(has_index),
            key_write.addr.eq(Cat(compare_beat, index)),
            key_write.data.eq(expected),  # one choice among the beats for both
            equal.eq(parts.all() & (decide_first | equal_before)),
            found.eq(decide_valid & decide_last & equal & self._is_alive(owner_read.data.core)),
        ]
        m.d.sync += [
            *(
                parts[n].eq(
                    key_read.data[n * _PART_BITS : (n + 1) * _PART_BITS]
                    == expected[n * _PART_BITS : (n + 1) * _PART_BITS]
                )
                for n in range(len(parts))
            ),
            compare_valid.eq(0),
            compare_last.eq(beat == last_beat),
            compare_index.eq(index),
            compare_beat.eq(beat),
            decide_valid.eq(0),
            decide_first.eq(compare_beat == 0),
            decide_last.eq(compare_last),
            decide_index.eq(compare_index),
            equal_before.eq(equal),
        ]

        m.d.comb += [
            next_read.addr.eq(index),
            back_read.addr.eq(index),
            owner_read.addr.eq(index),
            head_read.addr.eq(self._bucket(fold) if self._buckets > 1 else 0),
        ]
        with m.FSM(init="Fill"):
            with m.State("Fill"):
                # Memories cannot be reset. All entries are free, all buckets empty.
                m.d.comb += [
                    next_write.en.eq(1),
                    next_write.addr.eq(fill),
                    next_write.data.index.eq(fill + 1),
                    next_write.data.valid.eq(fill != entries - 1),
                    owner_write.en.eq(1),
                    owner_write.addr.eq(fill),
                    head_write.en.eq(1),
                    head_write.addr.eq(fill),
                ]
                m.d.sync += [fill.eq(fill + 1), free.index.eq(0), free.valid.eq(1)]
                with m.If(fill == entries - 1):
                    m.next = "Idle"
            with m.State("Idle"):
                waits = self._waits(is_insert, request, job.core)
                can_start = self.request.valid & ~waits
                m.d.comb += owner_read.addr.eq(sweep_index)
                m.d.sync += [fold.eq(self._fold(request)), beat.eq(0), for_sweep.eq(0)]
                with m.If(is_sweeping & (served | ~can_start)):
                    m.d.sync += [served.eq(0), index.eq(sweep_index)]
                    with m.If(owner_read.data.used & ~self._is_alive(owner_read.data.core)):
                        m.d.sync += for_sweep.eq(1)
                        m.next = "Unlink"
                    with m.Else():
                        m.d.comb += sweep_on.eq(1)
                with m.Elif(can_start):
                    m.d.sync += [index.eq(request.index), self.result.index.eq(0), self.result.core.eq(0)]
                    with m.Switch(request.operation):
                        with m.Case(FlowOperation.INSERT, FlowOperation.LOOKUP):
                            m.next = "Find Bucket"
                        with m.Case(FlowOperation.DELETE):
                            m.next = "Check Owner"
                        with m.Default():
                            m.d.sync += self.result.status.eq(FlowStatus.BAD_OPERATION)
                            m.next = "Respond"
            with m.State("Find Bucket"):
                m.d.sync += [
                    bucket.eq(head_read.addr),
                    head.eq(head_read.data),
                    index.eq(head_read.data.index),
                    has_index.eq(head_read.data.valid),
                ]
                m.next = "Walk"
            with m.State("Walk"):
                m.d.comb += owner_read.addr.eq(decide_index)
                m.d.sync += [compare_valid.eq(has_index), decide_valid.eq(compare_valid)]
                with m.If(beat != last_beat):
                    m.d.sync += beat.eq(beat + 1)
                with m.Else():
                    m.d.sync += [beat.eq(0), index.eq(next_read.data.index)]
                    m.d.sync += has_index.eq(has_index & next_read.data.valid)
                with m.If(found):
                    m.d.sync += [
                        self.result.status.eq(Mux(is_insert, FlowStatus.EXISTS, FlowStatus.OK)),
                        self.result.index.eq(decide_index),
                        self.result.core.eq(owner_read.data.core),
                        has_index.eq(0),
                        compare_valid.eq(0),
                        decide_valid.eq(0),
                    ]
                    m.next = "Respond"
                with m.Elif(~has_index & ~compare_valid):
                    m.d.sync += [decide_valid.eq(0), index.eq(free.index)]
                    m.next = "Respond"
                    with m.If(~is_insert):
                        m.d.sync += self.result.status.eq(FlowStatus.NOT_FOUND)
                    with m.Elif(free.valid):
                        m.d.sync += compare_beat.eq(0)
                        m.next = "Insert"
                    with m.Else():
                        m.d.sync += self.result.status.eq(FlowStatus.FULL)
                        with m.If(is_sweeping):  # since the request began; there will be room
                            m.next = "Idle"
            with m.State("Insert"):
                m.d.comb += [
                    key_write.en.eq(1),
                    owner_write.en.eq(1),
                    owner_write.addr.eq(index),
                    owner_write.data.core.eq(job.core),
                    owner_write.data.used.eq(1),
                    head_write.en.eq(1),
                    head_write.addr.eq(bucket),
                    head_write.data.index.eq(index),
                    head_write.data.valid.eq(1),
                    next_write.en.eq(1),
                    next_write.addr.eq(index),
                    next_write.data.eq(self._rest_of_chain(head)),
                    back_write.en.eq(1),
                    back_write.addr.eq(index),
                    back_write.data.index.eq(bucket),
                    back_write.data.is_first.eq(1),
                ]
                m.d.sync += [
                    compare_beat.eq(1),
                    free.eq(next_read.data),
                    self.used.eq(self.used + 1),
                    self.result.status.eq(FlowStatus.OK),
                    self.result.index.eq(index),
                    self.result.core.eq(job.core),
                ]
                m.next = "Insert Before Head"
            with m.State("Insert Before Head"):
                m.d.comb += [
                    key_write.en.eq(1),
                    back_write.en.eq(head.valid),
                    back_write.addr.eq(head.index),
                    back_write.data.index.eq(index),
                ]
                m.d.sync += compare_beat.eq(2)
                m.next = "Respond"
                with m.If(request.is_ipv6):
                    m.next = "Insert Rest"
            with m.State("Insert Rest"):
                m.d.comb += key_write.en.eq(1)
                m.next = "Respond"
            with m.State("Check Owner"):
                is_own = self._may_delete(owner_read.data, job.core) & (request.index < entries)
                m.d.sync += self.result.status.eq(Mux(is_own, FlowStatus.OK, FlowStatus.NOT_FOUND))
                m.next = "Respond"
                with m.If(is_own):
                    m.next = "Unlink"
            with m.State("Unlink"):
                m.d.comb += [owner_write.en.eq(1), owner_write.addr.eq(index)]
                m.d.sync += [before.eq(back_read.data), after.eq(next_read.data)]
                m.next = "Unlink Before"
            with m.State("Unlink Before"):
                m.d.comb += [
                    head_write.en.eq(before.is_first),
                    head_write.addr.eq(before.index),
                    head_write.data.eq(after),
                    next_write.en.eq(~before.is_first),
                    next_write.addr.eq(before.index),
                    next_write.data.eq(after),
                ]
                m.next = "Unlink After"
            with m.State("Unlink After"):
                m.d.comb += [
                    back_write.en.eq(after.valid),
                    back_write.addr.eq(after.index),
                    back_write.data.eq(before),
                    next_write.en.eq(1),
                    next_write.addr.eq(index),
                    next_write.data.eq(free),
                ]
                m.d.sync += [free.index.eq(index), free.valid.eq(1), self.used.eq(self.used - 1)]
                m.next = "Respond"
                with m.If(for_sweep):  # the sweep finds the entry unused, and goes on
                    m.next = "Idle"
            with m.State("Respond"):
                m.d.comb += self.request.ready.eq(1)
                m.d.sync += served.eq(1)
                m.next = "Idle"
        return m

    def _waits(self, is_insert: Value, request, core: Value) -> Value:
        """Whether a request must wait for the sweep; the core's old entries would look like its new ones."""
        is_own = is_insert | (request.operation == FlowOperation.DELETE)
        return (is_own & ~self._is_alive(core)) | (is_insert & ~self.may_insert)
