"""Signatures and payloads that several blocks share.

Streams are :mod:`amaranth.lib.stream`; a payload with more than one field is a ``data.Struct`` here. Everything is in
the ``sync`` domain. This file must not postpone the evaluation of annotations: ``data.Struct`` skips a field whose shape
is a string, and ends up empty without an error.
"""

from amaranth import *
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out


class FrameWord(data.Struct):
    """One word of a frame on an internal stream.

    The first word of a frame holds two zero pad bytes and the first two bytes of the destination address, so that
    L3 headers are word aligned. ``data`` bits 7:0 are the earliest byte. The FCS is not part of the stream.
    """

    data: 32
    count: 3  # valid bytes, from bit 0 up: 4, or 1 to 4 in the last word
    last: 1
    error: 1  # in the last word only: the frame is bad and must be dropped


FrameStream = stream.Signature(FrameWord)


class FrameMeta(data.Struct):
    """What the parser knows of a frame. Offsets and lengths in bytes, from the destination address on, as in
    ``RX_DESCRIPTOR``; addresses are wire bytes, the first in bits 7:0; ports and TCP fields are in value order.

    Addresses and ports are the frame's own; those of an ICMP error with ``has_flow`` are of the packet it quotes, turned
    round: as a frame of that flow *to us* carries them."""

    frame_length: 16
    l3_offset: 8
    l4_offset: 8
    payload_offset: 16
    payload_length: 16
    is_ipv4: 1
    is_ipv6: 1
    is_tcp: 1
    is_udp: 1
    is_icmp: 1
    is_arp: 1
    is_fragment: 1
    has_ip_options: 1
    has_vlan: 1
    is_broadcast: 1
    is_multicast: 1
    has_tcp_options: 1
    is_truncated_parse: 1
    ip_checksum_ok: 1
    l4_checksum_ok: 1
    is_arp_request: 1  # ARP operation is 1
    icmp_type: 8  # of an ICMP or ICMPv6 message that is no fragment
    is_icmp_error: 1  # the message quotes a packet; has_flow: its tuple could be read
    has_flow: 1  # addresses and ports below are a whole TCP or UDP tuple
    flow_is_tcp: 1  # with has_flow: TCP, otherwise UDP
    vlan_tci: 16
    source: 128
    destination: 128
    source_port: 16
    destination_port: 16
    ip_protocol: 8
    tcp_sequence: 32
    tcp_acknowledgement: 32
    tcp_window: 16
    tcp_flags: 8
    option_timestamp: 1
    option_other: 1
    tcp_tsval: 32
    tcp_tsecr: 32


class Verdict(data.Struct):
    """A frame's meta data with the dispatcher's decision."""

    meta: FrameMeta
    port: 2  # network port whose frame FIFO holds the frame
    cores: 4  # bit n: core n gets it; zero: drop it
    answer: 4  # bit n: core n is the one to answer it
    rss_hash: 32
    flow_hit: 1  # decided by the flow table: for the core's flow queue
    flow_index: 16


class RamPort(wiring.Signature):
    """A request port to 32-bit RAM, from the requester's side.

    A request (``valid``, with ``write``, ``address`` in words, ``data``, ``mask``) is accepted in a cycle with ``valid``
    and ``ready``; it must stay unchanged until then. For a read, ``read_data`` is valid exactly one cycle after
    acceptance, in that cycle only. One request can be accepted in each cycle. ``mask`` holds byte enables.

    Parameters
    ----------
    address_width : int
        Bits of the word address.
    """

    def __init__(self, address_width: int):
        self.address_width = address_width
        super().__init__(
            {
                "valid": Out(1),
                "write": Out(1),
                "address": Out(address_width),
                "data": Out(32),
                "mask": Out(4),
                "ready": In(1),
                "read_data": In(32),
            }
        )


def ram_port_for(size_bytes: int) -> RamPort:
    """The port of a RAM with ``size_bytes`` bytes."""
    return RamPort(max(1, (size_bytes // 4 - 1).bit_length()))


class LinkStatus(data.Struct):
    """What a PHY says of its link between frames (RGMII 2.0 section 3.4.1); zero where it says nothing."""

    in_band: 1  # the rest was said
    link_up: 1
    speed: 2  # as mac.control.speed
    full_duplex: 1


class GmiiPins(wiring.Signature):
    """GMII or MII as the MAC sees it (IEEE 802.3 clauses 35 and 22); receive pins in the port's ``rx`` domain, transmit
    pins in ``tx``. The last three are for a front end between the MAC and the PHY; without one they stay zero and open."""

    def __init__(self) -> None:
        super().__init__(
            {
                "rxd": In(8),
                "rx_dv": In(1),
                "rx_er": In(1),
                "txd": Out(8),
                "tx_en": Out(1),
                "tx_er": Out(1),
                "tx_hold": In(1),  # in ``tx``: the transmit pins must stay for another cycle
                "link": In(LinkStatus),  # in ``rx``
                "speed": Out(2),  # mac.control.speed, in ``sync``
            }
        )


class MdioPins(wiring.Signature):
    """Management interface of a PHY (IEEE 802.3 clause 22.2.4), in ``sync``; the pad is outside."""

    def __init__(self) -> None:
        super().__init__(
            {
                "mdc": Out(1),
                "mdio_o": Out(1),
                "mdio_oe": Out(1),
                "mdio_i": In(1),  # what the pad has, also while it is driven; pulled up
            }
        )


class ProbeRequest(data.Struct):
    """A tuple whose core is asked for, as a frame *to us* would carry it (wire bytes, ports as integers)."""

    source: 128
    destination: 128
    source_port: 16
    destination_port: 16
    is_ipv6: 1
    has_ports: 1
    is_tcp: 1  # with has_ports


class ProbeResult(data.Struct):
    rss_hash: 32
    core: 4
    flow_hit: 1
    flow_index: 16


class ProbePort(wiring.Signature):
    """Hash probe, from the asking side: one request in flight; ``result`` is valid with ``done`` for one cycle."""

    def __init__(self) -> None:
        super().__init__(
            {
                "request": Out(stream.Signature(ProbeRequest)),
                "result": In(ProbeResult),
                "done": In(1),
            }
        )


class FlowRequest(data.Struct):
    """An operation on the flow table or the UDP port table; the tuple as a frame *to us* carries it."""

    operation: 3  # FlowOperation
    source: 128
    destination: 128
    source_port: 16
    destination_port: 16
    is_ipv6: 1
    is_tcp: 1
    is_spread: 1
    index: 16


class FlowResult(data.Struct):
    status: 3  # FlowStatus
    index: 16
    core: 4


class FlowPort(wiring.Signature):
    """Flow table operations, from the asking side: one in flight; ``result`` is valid with ``done`` for one cycle."""

    def __init__(self) -> None:
        super().__init__(
            {
                "request": Out(stream.Signature(FlowRequest)),
                "result": In(FlowResult),
                "done": In(1),
            }
        )


class RxQueuePort(wiring.Signature):
    """A core's receive queues, from the core's side (block ``rx`` of the register map)."""

    def __init__(self) -> None:
        super().__init__(
            {
                "ring": Out(20),  # byte offset in data RAM
                "other_ring": Out(20),
                "headers": Out(20),  # byte offset in data RAM
                "ring_log2": Out(4),
                "other_ring_log2": Out(4),
                "enable": Out(1),
                "limit_flow_large": Out(8),
                "limit_flow_small": Out(8),
                "limit_other_large": Out(8),
                "limit_other_small": Out(8),
                "watermark": Out(8),
                "free_valid": Out(1),  # one cycle: give back free_index
                "free_index": Out(16),
                "producer": In(16),
                "other_producer": In(16),
                "buffers_large": In(16),
                "buffers_small": In(16),
                "low": In(1),
                "dropped": In(32),
                "flow_dropped": In(32),
                "bad_free": In(32),
            }
        )


class TxQueuePort(wiring.Signature):
    """A core's transmit queue, from the core's side (block ``tx``)."""

    def __init__(self) -> None:
        super().__init__(
            {
                "ring": Out(20),  # byte offset in data RAM
                "ring_log2": Out(4),
                "enable": Out(1),
                "next_hops": Out(20),  # byte offset in data RAM
                "producer": Out(16),
                "consumer": In(16),
            }
        )


class SqPort(wiring.Signature):
    """A core's SQ delivery ring, from the core's side (block ``sq``)."""

    def __init__(self) -> None:
        super().__init__(
            {
                "ring": Out(20),  # byte offset in data RAM
                "ring_log2": Out(4),
                "enable": Out(1),
                "consumer": Out(16),
                "load": Out(16),  # core.load
                "producer": In(16),
            }
        )


class CqPort(wiring.Signature):
    """A core's completions, from the core's side (block ``cq``)."""

    def __init__(self) -> None:
        super().__init__(
            {
                "post": Out(1),  # one cycle: take the rest
                "user_data": Out(64),
                "result": Out(32),
                "more": Out(1),
                "is_joined": Out(1),
                "host": Out(2),
                "join_id": Out(4),
                "space": In(8),
            }
        )


class DmaPort(wiring.Signature):
    """A core's queue of host DMA transfers in one direction, from the core's side (blocks ``dma_in``, ``dma_out``)."""

    def __init__(self) -> None:
        super().__init__(
            {
                "go": Out(1),  # one cycle: queue the transfer
                "local": Out(32),  # CPU address
                "host_address": Out(32),
                "length": Out(16),
                "tag": Out(14),
                "host": Out(2),
                "space": In(8),
                "completion_valid": In(1),
                "completion_tag": In(16),
                "completion_status": In(8),
                "completion_pop": Out(1),  # one cycle: remove it
            }
        )


class MessagePort(wiring.Signature):
    """A core's message FIFOs, from the core's side (block ``message``)."""

    def __init__(self) -> None:
        super().__init__(
            {
                "send": Out(1),  # one cycle: send the four words to core ``to``
                "to": Out(4),
                "send_words": Out(128),
                "space": In(8),  # bit n: a message to core n can be sent
                "available": In(1),
                "sender": In(4),
                "words": In(128),
                "pop": Out(1),  # one cycle: remove the oldest
            }
        )


class LockPort(wiring.Signature):
    """A core's access to the lock unit (block ``lock``); the answer is combinational, in the cycle of ``take``."""

    def __init__(self) -> None:
        super().__init__(
            {
                "take": Out(1),  # one cycle: try to take lock ``index``
                "release": Out(1),  # one cycle: release lock ``index``
                "index": Out(5),
                "owner": In(4),  # who holds it after this cycle; 15 = nobody (only without ``take``)
                "taken_now": In(1),
                "mine": In(1),
            }
        )


class HostWindow(data.Struct):
    """A DMA window: first and last byte address on the host bus, and directions."""

    base: 32
    limit: 32
    read: 1
    write: 1


class MacCounters(data.Struct):
    """Counters of the MAC, in the ``sync`` domain; see block ``mac`` of the register map. They wrap."""

    rx_frames: 32
    rx_bytes: 32
    rx_crc_errors: 32
    rx_runts: 32
    rx_giants: 32
    rx_overflows: 32
    rx_filtered: 32
    tx_frames: 32
    tx_bytes: 32
    tx_underflows: 32
    tx_pauses: 32
    rx_pauses: 32


__all__ = [
    "CqPort",
    "DmaPort",
    "FlowPort",
    "FlowRequest",
    "FlowResult",
    "FrameMeta",
    "FrameStream",
    "FrameWord",
    "GmiiPins",
    "HostWindow",
    "LinkStatus",
    "LockPort",
    "MacCounters",
    "MdioPins",
    "MessagePort",
    "ProbePort",
    "ProbeRequest",
    "ProbeResult",
    "RamPort",
    "RxQueuePort",
    "SqPort",
    "TxQueuePort",
    "Verdict",
    "ram_port_for",
]
