"""Two of the host side share one hash probe."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .interfaces import ProbePort


class ProbeArbiter(wiring.Component):
    """Gives one request at a time to the target, and its answer to who asked; in turn when both want.

    Members
    -------
    requester0, requester1 : ``In(ProbePort())``
    target : ``Out(ProbePort())``

    Timing
    ------
    A request is offered one cycle after it came; with the answer the next may be chosen. So a requester waits for one
    request of the other at most.
    """

    def __init__(self):
        super().__init__({"requester0": In(ProbePort()), "requester1": In(ProbePort()), "target": Out(ProbePort())})
        self.owner = Signal()
        """Who was chosen last."""
        self.is_offered = Signal()
        self.is_accepted = Signal()
        """Its request waits for the target; it waits for the answer."""

    def elaborate(self, platform):
        m = Module()
        requesters = (self.requester0, self.requester1)
        first, second = (requester.request.valid for requester in requesters)
        owner, is_offered, is_accepted = self.owner, self.is_offered, self.is_accepted
        request = self.target.request
        m.d.comb += [
            request.valid.eq(is_offered),
            request.payload.eq(Mux(owner, self.requester1.request.payload, self.requester0.request.payload)),
        ]
        with m.If(is_offered):
            m.d.sync += [is_offered.eq(~request.ready), is_accepted.eq(request.ready)]
        with m.Elif(is_accepted):
            m.d.sync += is_accepted.eq(~self.target.done)
        with m.Elif(first | second):
            m.d.sync += [is_offered.eq(1), owner.eq(Mux(first & second, ~owner, second))]
        for number, requester in enumerate(requesters):
            m.d.comb += [
                requester.request.ready.eq(is_offered & request.ready & (owner == number)),
                requester.result.eq(self.target.result),
                requester.done.eq(is_accepted & self.target.done & (owner == number)),
            ]
        return m


__all__ = ["ProbeArbiter"]
