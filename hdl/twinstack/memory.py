"""RAM for everything: one true dual-port component and an arbiter for its ports.

Synthesis finds the ECP5's true dual-port mode (DP16KD) only for a memory written exactly as here: each of the two ports
reads and writes at one address, and each read port is transparent for the *other* port's write port. What a read returns
that meets a write of the other port at the same address in the same cycle is therefore the new data; a port that
writes reads nothing useful in that cycle.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import or_

from amaranth import *
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In

from .interfaces import RamPort, ram_port_for


class TrueDualPortRam(wiring.Component):
    """32-bit RAM with two independent request ports, both always ready.

    Parameters
    ----------
    size_bytes : int
        Size, a positive multiple of 4.
    init : sequence of int
        Initial words; the rest is zero.

    Members
    -------
    a, b : ``In(RamPort)``
        Request ports; read latency one cycle, one request per port and cycle.

    Timing
    ------
    Two ports that write one word in the same cycle: undefined for the bytes that both enable.

    Raises
    ------
    TypeError, ValueError
        If ``size_bytes`` is not a positive multiple of 4, or ``init`` is longer.
    """

    def __init__(self, size_bytes: int, *, init: Sequence[int] = ()):
        if not isinstance(size_bytes, int):
            raise TypeError(f"size_bytes must be an integer, not {size_bytes!r}")
        if size_bytes < 8 or size_bytes % 4:
            raise ValueError(f"size_bytes must be a multiple of 4, at least 8, not {size_bytes!r}")
        if len(init) * 4 > size_bytes:
            raise ValueError(f"init must have at most {size_bytes // 4} words, not {len(init)!r}")
        self.size_bytes = size_bytes
        self._init = list(init)
        port = ram_port_for(size_bytes)
        super().__init__({"a": In(port), "b": In(port)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = ram = memory.Memory(shape=32, depth=self.size_bytes // 4, init=self._init)
        writers = [ram.write_port(granularity=8) for _ in range(2)]
        for port, own, other in ((self.a, writers[0], writers[1]), (self.b, writers[1], writers[0])):
            reader = ram.read_port(transparent_for=(other,))
            m.d.comb += [
                port.ready.eq(1),
                own.addr.eq(port.address),
                own.data.eq(port.data),
                own.en.eq(Mux(port.valid & port.write, port.mask, 0)),
                reader.addr.eq(port.address),
                reader.en.eq(port.valid & ~port.write),
                port.read_data.eq(reader.data),
            ]
        return m


class RamArbiter(wiring.Component):
    """Shares one RAM port between several requesters, round robin, without a bubble.

    Parameters
    ----------
    address_width : int
        Of all ports.
    requesters : int
        At least 1.
    priority : bool
        If true, requester 0 always wins; the others share what it leaves. The caller must know that it pauses.

    Members
    -------
    requesters : list of ``In(RamPort)``
        Named ``requester0``, ``requester1``, ...
    ram : ``Out(RamPort)``
        To the memory.
    """

    def __init__(self, address_width: int, requesters: int, *, priority: bool = False):
        if requesters < 1:
            raise ValueError(f"requesters must be at least 1, not {requesters!r}")
        self._priority = priority
        port = RamPort(address_width)
        super().__init__({f"requester{i}": In(port) for i in range(requesters)} | {"ram": wiring.Out(port)})
        self.requesters = [getattr(self, f"requester{i}") for i in range(requesters)]

    def elaborate(self, platform):
        m = Module()
        count = len(self.requesters)
        valid = [requester.valid for requester in self.requesters]
        # One bit for each requester in place of a number: valid is on the longest paths, which end at the RAM.
        previous = Signal(count, init=1)  # who was served last
        grant = Signal(count)
        for index in range(count):
            # Those who go before it: all between the one served last, who comes last, and it.
            before = [
                previous[last] & valid[(last + step) % count]
                for last in range(count)
                for step in range(1, (index - last - 1) % count + 1)
            ]
            if self._priority:
                before = [valid[0], *before] if index else []
            m.d.comb += grant[index].eq(valid[index] & ~Cat(before).any())
        with m.If(self.ram.valid & self.ram.ready):
            m.d.sync += previous.eq(grant)
        m.d.comb += self.ram.valid.eq(Cat(valid).any())
        for name in ("write", "address", "data", "mask"):
            chosen = (Mux(bit, getattr(r, name), 0) for bit, r in zip(grant, self.requesters, strict=True))
            m.d.comb += getattr(self.ram, name).eq(reduce(or_, chosen))
        for bit, requester in zip(grant, self.requesters, strict=True):
            m.d.comb += [requester.ready.eq(bit & self.ram.ready), requester.read_data.eq(self.ram.read_data)]
        return m
