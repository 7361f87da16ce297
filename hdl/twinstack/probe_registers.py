"""From the registers of a hash probe to its port; the same for a core and for the host."""

from __future__ import annotations

from amaranth import *

from .csr import RegisterBlock

ADDRESS_WORDS = 4


def connect_tuple(m: Module, block: RegisterBlock, port) -> None:
    """The tuple in the registers, to the requests of ``port``."""
    payload = port.request.payload
    for name in ("source", "destination"):
        m.d.comb += [
            payload[name].eq(Cat(block.field(name, index=i).data for i in range(ADDRESS_WORDS))),
            payload[f"{name}_port"].eq(block.field("ports", name).data),
        ]


def connect_requests(
    m: Module, inner: Module, block: RegisterBlock, port, register: str, names: tuple[str, ...], reset: Value
):
    """A write to ``register`` starts a request with its fields; ignored while one is busy.

    Parameters
    ----------
    m, inner : Module
        ``inner`` is reset by ``reset``, ``m`` is not; one and the same for who is never reset.
    names : tuple of str
        Fields of ``register`` that the request has.

    Returns
    -------
    result : Signal
        That of the last request.
    busy : Signal
    """
    start = block.field(register, names[0]).w_stb
    # Survives a reset, as valid may not fall before ready. One from before a reset is answered before the next.
    requested = Signal(name=f"{register}_requested")
    wanted = Signal(name=f"{register}_wanted")
    busy = Signal(name=f"{register}_busy")
    result = Signal.like(port.result, name=f"{register}_result")
    m.d.comb += port.request.valid.eq(requested)
    with m.If(port.request.ready):
        m.d.sync += requested.eq(0)
    with m.Elif(wanted & ~reset):
        m.d.sync += requested.eq(1)
    with inner.If(start & ~busy):
        inner.d.sync += [busy.eq(1), wanted.eq(1)]
        for name in names:
            inner.d.sync += port.request.payload[name].eq(block.field(register, name).w_data)
    with inner.Elif(wanted):
        inner.d.sync += wanted.eq(requested)
    with inner.Elif(busy & port.done & ~requested):
        inner.d.sync += [busy.eq(0), result.eq(port.result)]
    return result, busy


def connect_probe(m: Module, inner: Module, block: RegisterBlock, port, reset: Value) -> None:
    """All of a block with ``PROBE_REGISTERS``, see :func:`connect_requests`."""
    connect_tuple(inner, block, port)
    result, busy = connect_requests(m, inner, block, port, "go", ("is_ipv6", "has_ports", "is_tcp"), reset)
    inner.d.comb += [
        *(block.field("result", name).r_data.eq(result[name]) for name in ("core", "flow_hit", "flow_index")),
        block.field("result", "busy").r_data.eq(busy),
        block.field("hash").r_data.eq(result.rss_hash),
    ]
