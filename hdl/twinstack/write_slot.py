"""A register between one that writes to a RAM and the RAM's arbiter."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .interfaces import RamPort


class WriteSlot(wiring.Component):
    """Holds one write request until the RAM takes it, so that its requester need not wait.

    Parameters
    ----------
    port : RamPort
        Signature of the RAM's port.

    Members
    -------
    load, address, data, mask : ``In``
        Take this request; only in a cycle with ``free``.
    free : ``Out(1)``
        The slot is empty, or empties in this cycle.
    ram : ``Out(RamPort)``

    Timing
    ------
    The request is at ``ram`` in the cycle after ``load``; one request per cycle.
    """

    def __init__(self, port: RamPort):
        super().__init__(
            {
                "load": In(1),
                "address": In(port.address_width),
                "data": In(32),
                "mask": In(4),
                "free": Out(1),
                "ram": Out(port),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.d.comb += [self.free.eq(~self.ram.valid | self.ram.ready), self.ram.write.eq(1)]
        with m.If(self.free):
            m.d.sync += self.ram.valid.eq(self.load)
        with m.If(self.load):
            m.d.sync += [
                self.ram.address.eq(self.address),
                self.ram.data.eq(self.data),
                self.ram.mask.eq(self.mask),
            ]
        return m
