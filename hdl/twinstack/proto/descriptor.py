"""Formats between the hardware and a core: RX descriptor, TX command, gather list entry.

All lie in the core's own data RAM. The word that holds the ownership bit is written last by the giver.
"""

from __future__ import annotations

from enum import IntEnum

from .layout import Field, Layout

DESCRIPTOR_VERSION = 1
HEADER_COPY_BYTES = 128
"""RX DMA copies this many bytes (two pad bytes, then the frame) next to the descriptor; parsing ends there too."""
FRAME_PAD_BYTES = 2
"""Zero bytes before each frame in memory and on the internal streams, so that L3 headers are word aligned."""
MAX_GATHER = 8

RX_DESCRIPTOR = Layout(
    "rx_descriptor",
    16,
    "One received frame. Offsets count from the first byte of the destination address; zero means: not there.",
    (
        Field("version", 0, 0, 8, "Format of this descriptor: 1."),
        Field("buffer_class", 0, 8, 4, "Size class of the buffer: 0 = 1,536 bytes, 1 = 256 bytes."),
        Field("port", 0, 12, 4, "Network port that received the frame."),
        Field(
            "buffer_index",
            0,
            16,
            16,
            "Buffer in the core's RX bank, see rx_buffer_offset; the frame starts at byte 2 of it.",
        ),
        Field("frame_length", 1, 0, 16, "Bytes of the frame from destination address to payload end, without FCS."),
        Field("l3_offset", 1, 16, 8, "Byte offset of the IPv4/IPv6/ARP header."),
        Field(
            "l4_offset",
            1,
            24,
            8,
            "Byte offset of the TCP/UDP/ICMP header; zero when unknown or not the first fragment.",
        ),
        Field("payload_offset", 2, 0, 16, "Byte offset of the TCP or UDP payload."),
        Field("payload_length", 2, 16, 16, "Bytes of TCP or UDP payload by the IP length, padding excluded."),
        Field("is_ipv4", 3, 0, 1, "Well-formed IPv4 header."),
        Field("is_ipv6", 3, 1, 1, "Well-formed IPv6 header."),
        Field("is_tcp", 3, 2, 1, "TCP header found within the parsed bytes."),
        Field("is_udp", 3, 3, 1, "UDP header found within the parsed bytes."),
        Field("is_icmp", 3, 4, 1, "ICMP or ICMPv6."),
        Field("is_arp", 3, 5, 1, "ARP."),
        Field("is_fragment", 3, 6, 1, "IP fragment (offset or more-fragments set)."),
        Field("has_ip_options", 3, 7, 1, "IPv4 options or IPv6 extension headers."),
        Field("has_vlan", 3, 8, 1, "802.1Q tag; its TCI is in vlan_tci."),
        Field("is_broadcast", 3, 9, 1, "Destination address is broadcast."),
        Field("is_multicast", 3, 10, 1, "Destination address is a group address, broadcast excluded."),
        Field("has_tcp_options", 3, 11, 1, "TCP data offset above 5."),
        Field(
            "is_truncated_parse",
            3,
            12,
            1,
            "Headers reach beyond the parsed bytes, or extension headers hide L4; L4 fields are zero.",
        ),
        Field("ip_checksum_ok", 3, 16, 1, "IPv4 header checksum verified (always set for IPv6)."),
        Field("l4_checksum_ok", 3, 17, 1, "TCP, UDP, ICMP or ICMPv6 checksum verified, or UDP over IPv4 without one."),
        Field("flow_hit", 3, 24, 1, "flow_index is valid."),
        Field("answer", 3, 25, 1, "This core, and no other that got the frame, is to answer it."),
        Field("flow_index", 4, 0, 16, "Flow table entry."),
        Field("vlan_tci", 4, 16, 16, "802.1Q tag control information."),
        Field("rss_hash", 5, 0, 32, "Toeplitz hash of the configured tuple; zero for what is not IP."),
        Field("tcp_sequence", 6, 0, 32, "TCP sequence number, in value order (not network bytes)."),
        Field("tcp_acknowledgement", 7, 0, 32, "TCP acknowledgement number, in value order."),
        Field("tcp_window", 8, 0, 16, "TCP window, unscaled."),
        Field("tcp_flags", 8, 16, 8, "CWR ECE URG ACK PSH RST SYN FIN, FIN in bit 0."),
        Field("ip_protocol", 8, 24, 8, "IP protocol of the last header reached."),
        Field("option_timestamp", 9, 0, 1, "The TCP options are exactly NOP NOP timestamp; see tcp_tsval, tcp_tsecr."),
        Field("option_other", 9, 1, 1, "There are other TCP options."),
        Field("tcp_tsval", 10, 0, 32, "Timestamp value, if option_timestamp."),
        Field("tcp_tsecr", 11, 0, 32, "Timestamp echo reply, if option_timestamp."),
        Field("segment_count", 12, 0, 8, "Segments merged into this descriptor (LRO); 1 without."),
        Field("last_segment_length", 12, 16, 16, "Payload bytes of the last merged segment."),
        Field("timestamp", 13, 0, 32, "Low word of the engine's cycle counter when the frame was dispatched."),
        Field("epoch", 15, 0, 8, "Epoch of the core for which the frame was accepted."),
        Field(
            "owner",
            15,
            31,
            1,
            "Set by hardware last: the descriptor is whole and belongs to the core, which clears it.",
        ),
    ),
)


class TxOpcode(IntEnum):
    """Operations of the TX engine. Reserved or unimplemented ones complete with :attr:`TxStatus.BAD_OPCODE`."""

    RAW = 1
    GATHER = 2
    SEND = 3
    ACK = 4


class TxStatus(IntEnum):
    """What the TX engine writes into ``status`` when it returns a command."""

    OK = 0
    BAD_OPCODE = 1
    BAD_PORT = 2
    BAD_GATHER = 3
    BAD_LENGTH = 4
    OLD_EPOCH = 5


TX_COMMAND = Layout(
    "tx_command",
    8,
    "One frame, or (SEND) one burst of segments, to transmit. Commands complete in order.",
    (
        Field(
            "opcode", 0, 0, 8, "RAW: as it stands. GATHER: checksums inserted. SEND, ACK: header template of the flow."
        ),
        Field(
            "next_hop",
            0,
            8,
            8,
            "0: the list starts with the L2 header. n: entry n - 1 of the next-hop table does (GATHER, SEND, ACK).",
        ),
        Field("port", 0, 16, 4, "Network port to transmit on."),
        Field("gather_count", 0, 20, 4, "Entries of the gather list, 1 to 8."),
        Field("segment_count", 0, 24, 8, "Segments to cut (SEND)."),
        Field("flow_index", 1, 0, 16, "Header template (SEND, ACK)."),
        Field("tag", 1, 16, 16, "Free for the driver."),
        Field("sequence", 2, 0, 32, "TCP sequence number (SEND, ACK)."),
        Field("acknowledgement", 3, 0, 32, "TCP acknowledgement number (SEND, ACK)."),
        Field("window", 4, 0, 16, "TCP window, scaled (SEND, ACK)."),
        Field("tcp_flags", 4, 16, 8, "TCP flags (SEND, ACK)."),
        Field("mss", 5, 0, 16, "Payload bytes per segment (SEND)."),
        Field("gather_address", 6, 0, 32, "CPU address of the gather list in the core's data RAM, word aligned."),
        Field("epoch", 7, 0, 8, "Epoch of the core; a command of an old epoch is refused."),
        Field("status", 7, 8, 8, "Written by hardware with done: a TxStatus."),
        Field("done", 7, 30, 1, "Written by hardware last: the command and its buffers belong to the driver again."),
        Field("owner", 7, 31, 1, "Set by the driver last; cleared by hardware with done."),
    ),
)

GATHER_ENTRY = Layout(
    "gather_entry",
    2,
    "One piece of a frame; the first starts with the destination address. Any byte alignment and length.",
    (
        Field(
            "address", 0, 0, 32, "CPU address in the core's data RAM, RX bank or TX bank (cached or uncached alias)."
        ),
        Field("length", 1, 0, 16, "Bytes, at least 1."),
    ),
)

NEXT_HOP = Layout(
    "next_hop",
    8,
    "An L2 header that the TX engine puts before a frame: destination, source, 802.1Q tag if any, EtherType.",
    (
        Field("header", 0, 0, 144, "Bytes of the header, in wire order."),
        Field("length", 7, 0, 8, "Bytes of the header: 14, or 18 with a tag. 0: the entry is not valid."),
    ),
)


class FlowOperation(IntEnum):
    """Operations on the dispatcher's tables, ``probe.flow``."""

    INSERT = 0
    """Enter the tuple for the asking core; one that is there keeps its entry (status EXISTS)."""
    DELETE = 1
    """Remove the asking core's entry ``index``; another's, or an unused one, is refused (NOT_FOUND)."""
    LOOKUP = 2
    ADD_PORT = 3
    """Enter the tuple's destination port into the UDP port table for the asking core."""
    REMOVE_PORT = 4


class FlowStatus(IntEnum):
    """How an operation on the dispatcher's tables ended."""

    OK = 0
    EXISTS = 1
    """INSERT: it was there already, maybe for another core. ADD_PORT: another core has it, and one of them does not spread."""
    FULL = 2
    NOT_FOUND = 3
    BAD_OPERATION = 4


class RuleAction(IntEnum):
    """What a dispatch rule does with a frame."""

    OFF = 0
    CORE = 1
    MANAGER = 2
    ALL = 3
    HASH = 4
    DROP = 5
