"""Toeplitz hash of receive side scaling (RSS) over an IPv4 or IPv6 2-tuple or 4-tuple."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from .interfaces import ProbeRequest

KEY_BITS = 320
_ADDRESS_BITS = 128
_IPV4_BITS = 32
_HASH_BITS = 32


def _in_wire_order(value, bits: int) -> list[Value]:
    """Cut bytes (the first in bits 7:0) into pieces of ``bits``, each with its first bit on the wire as the highest."""
    pieces = []
    for start in range(0, len(value), bits):
        pieces.append(Cat(value[start + lsb : start + lsb + 8] for lsb in reversed(range(0, bits, 8))))
    return pieces


class Toeplitz(wiring.Component):
    """Toeplitz hash with a programmable key.

    Parameters
    ----------
    step_bits : int, 16 or 32
        Input bits hashed in a cycle.

    Members
    -------
    key : ``In(320)``
        The key's first byte in bits 7:0. A change while a hash is being made spoils that hash.
    i : ``In(stream.Signature(ProbeRequest))``
        Tuple. The hash covers source address, destination address and, with ``has_ports``, source and destination
        port, in network order; IPv4 uses the addresses' bits 31:0. Nothing is copied: it is accepted with the hash.
    o : ``Out(stream.Signature(32))``
        Hash. In the cycle of its transfer ``i`` is transferred too.

    Timing
    ------
    The hash is valid ``steps + 1`` cycles after the first cycle with a valid tuple. IPv4 takes 2 steps of 32 bits, IPv6 8,
    ports one more; twice as many of 16 bits. One tuple every ``steps + 2`` cycles.

    Raises
    ------
    ValueError
        If ``step_bits`` is not 16 or 32.
    """

    def __init__(self, step_bits: int = 32):
        if step_bits not in (16, 32):
            raise ValueError(f"step_bits must be 16 or 32, not {step_bits!r}")
        self._step_bits = step_bits
        super().__init__(
            {
                "key": In(KEY_BITS),
                "i": In(stream.Signature(ProbeRequest)),
                "o": Out(stream.Signature(_HASH_BITS)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        bits = self._step_bits
        tuple_ = self.i.payload

        ports = Cat(tuple_.destination_port, tuple_.source_port)
        pieces = [
            *_in_wire_order(tuple_.source, bits),
            *_in_wire_order(tuple_.destination, bits),
            *(ports[lsb : lsb + bits] for lsb in reversed(range(0, 32, bits))),
        ]
        address_steps, ipv4_steps = _ADDRESS_BITS // bits, _IPV4_BITS // bits
        select = Signal(range(len(pieces)))
        next_select = Signal.like(select)
        m.d.comb += next_select.eq(select + 1)
        with m.If(~tuple_.is_ipv6):
            for start in (0, address_steps):
                with m.If(select == start + ipv4_steps - 1):
                    m.d.comb += next_select.eq(start + address_steps)
        is_last = Mux(tuple_.has_ports, select == len(pieces) - 1, next_select == 2 * address_steps)

        # The key slides past the input: the window holds the bits that this step's input bits can select, ``incoming`` the
        # next piece of the key.
        key = _in_wire_order(self.key, bits)
        window_pieces = 1 + _HASH_BITS // bits
        window = Signal(window_pieces * bits)
        incoming = Signal(bits)
        key_index = Signal(range(len(key)))
        piece = Signal(bits)

        result = self.o.payload
        step = Const(0, _HASH_BITS)
        for position in range(bits):
            # Input bit ``position``, counted from the first on the wire, selects the key bits that start there.
            lsb = bits - position
            step = step ^ (window[lsb : lsb + _HASH_BITS] & piece[bits - 1 - position].replicate(_HASH_BITS))

        # ``piece`` is being hashed, ``select`` is the one after it.
        piece_is_last = Signal()
        load_piece = [
            piece.eq(Array(pieces)[select]),
            piece_is_last.eq(is_last),
            select.eq(next_select),
        ]
        with m.FSM():
            with m.State("Idle"):
                m.d.sync += [
                    window.eq(Cat(*reversed(key[:window_pieces]))),
                    incoming.eq(key[window_pieces]),
                    key_index.eq(window_pieces + 1),
                    result.eq(0),
                ]
                with m.If(self.i.valid):
                    m.d.sync += load_piece
                    m.next = "Hash"
            with m.State("Hash"):
                m.d.sync += [
                    result.eq(result ^ step),
                    window.eq(Cat(incoming, window[:-bits])),
                    incoming.eq(Array(key)[key_index]),
                    *load_piece,
                ]
                with m.If(key_index != len(key) - 1):
                    m.d.sync += key_index.eq(key_index + 1)
                with m.If(piece_is_last):
                    m.d.sync += select.eq(0)
                    m.next = "Done"
            with m.State("Done"):
                m.d.comb += [self.o.valid.eq(1), self.i.ready.eq(self.o.ready)]
                with m.If(self.o.ready):
                    m.next = "Idle"
        return m
