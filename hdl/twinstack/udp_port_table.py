"""UDP port table: which cores have a socket at a local UDP port."""

# No postponed annotations here: data.Struct evaluates its own.

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from .proto.descriptor import FlowStatus


class PortJob(data.Struct):
    """A change to the UDP port table."""

    port: 16
    is_remove: 1  # otherwise add
    is_spread: 1  # add: may share the port with other cores that say so
    core: 4  # who asks


class UdpPortTable(wiring.Component):
    """Members of each open UDP port.

    Parameters
    ----------
    entries : int, 1..64
        Ports it holds.
    cores : int, 1..4
        Cores.

    Members
    -------
    job : ``In(stream.Signature(PortJob))``
        Add: OK, also if the core is a member already (which changes nothing) or if both the entry and the core spread;
        EXISTS if another core has the port otherwise; FULL. Remove: OK, or NOT_FOUND if the core is no member.
        Nothing is copied: a job is accepted with its ``status``.
    status : ``Out(3)``
        FlowStatus; valid with the acceptance.
    port : ``In(16)``
        Port that is looked up; that of the job while there is one.
    members : ``Out(cores)``
        Cores that have ``port``, two cycles after it began to be stable.
    core_reset : ``In(cores)``
        Bit n: core n is in reset, and no member of any port.

    Timing
    ------
    A job is accepted in its third cycle.

    Raises
    ------
    TypeError, ValueError
        If a parameter is not an integer in its range.
    """

    def __init__(self, entries: int, cores: int):
        for name, value, limit in (("entries", entries, 64), ("cores", cores, 4)):
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} must be an integer, not {value!r}")
            if not 1 <= value <= limit:
                raise ValueError(f"{name} must be 1 to {limit}, not {value!r}")
        self._cores = cores
        entry = data.StructLayout({"port": 16, "is_spread": 1, "members": cores})
        self.entries = Signal(data.ArrayLayout(entry, entries))
        super().__init__(
            {
                "job": In(stream.Signature(PortJob)),
                "status": Out(3),
                "port": In(16),
                "members": Out(cores),
                "core_reset": In(cores),
            }
        )

    def _may_share(self, job, is_spread: Value) -> Value:
        """Whether another core's entry takes this one."""
        return job.is_spread & is_spread

    def _is_member(self, members: Value, own: Value) -> Value:
        """Whether the core that asks has the port."""
        return (members & own).any()

    def elaborate(self, platform):
        m = Module()
        job = self.job.payload
        entries = [self.entries[n] for n in range(self.entries.shape().length)]
        used = Cat(entry.members.any() for entry in entries)
        own = Signal(self._cores)
        is_same = Signal(len(entries))  # the port matches, as of the cycle before
        here = Signal(len(entries))
        first_free = Signal(len(entries))
        members = Signal(self._cores)
        is_spread = Signal()
        m.d.comb += [
            own.eq(1 << job.core),
            here.eq(is_same & used),
            first_free.eq(~used & (used + 1)),
            members.eq(_any(Mux(here[n], entry.members, 0) for n, entry in enumerate(entries))),
            is_spread.eq(_any(here[n] & entry.is_spread for n, entry in enumerate(entries))),
        ]
        m.d.sync += [
            is_same.eq(Cat(entry.port == self.port for entry in entries)),
            self.members.eq(members & ~self.core_reset),
        ]
        add, remove = Signal(), Signal()
        for n, entry in enumerate(entries):
            change = Signal(self._cores, name=f"change{n}")
            m.d.comb += change.eq(entry.members)
            with m.If(add & here[n]):
                m.d.comb += change.eq(entry.members | own)
            with m.If(add & ~here.any() & first_free[n]):
                m.d.comb += change.eq(own)
                m.d.sync += [entry.port.eq(job.port), entry.is_spread.eq(job.is_spread)]
            with m.If(remove & here[n]):
                m.d.comb += change.eq(entry.members & ~own)
            m.d.sync += entry.members.eq(change & ~self.core_reset)

        is_member = self._is_member(members, own)
        with m.FSM():
            with m.State("Compare"):
                with m.If(self.job.valid):
                    m.next = "Change"
            with m.State("Change"):
                m.next = "Respond"
                m.d.sync += self.status.eq(FlowStatus.OK)
                with m.If(job.is_remove):
                    m.d.comb += remove.eq(is_member)
                    with m.If(~is_member):
                        m.d.sync += self.status.eq(FlowStatus.NOT_FOUND)
                with m.Elif(here.any()):
                    m.d.comb += add.eq(~is_member & self._may_share(job, is_spread))
                    with m.If(~is_member & ~self._may_share(job, is_spread)):
                        m.d.sync += self.status.eq(FlowStatus.EXISTS)
                with m.Else():
                    m.d.comb += add.eq(1)
                    with m.If(used.all()):
                        m.d.sync += self.status.eq(FlowStatus.FULL)
            with m.State("Respond"):
                m.d.comb += self.job.ready.eq(1)
                m.next = "Compare"
        return m


def _any(values) -> Value:
    result = None
    for value in values:
        result = value if result is None else result | value
    return result
