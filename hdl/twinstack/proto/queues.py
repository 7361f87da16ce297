"""The host interface: submission and completion queue entries, operations, handles, socket addresses.

Modelled on io_uring and NVMe. Rings lie in host memory; all integers are little-endian; IP addresses are the bytes of
the wire in ascending address order.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag

from .layout import Field, Layout


class Operation(IntEnum):
    """Operation codes of an SQE."""

    NOP = 0
    NETIF_CONFIG = 1
    NETIF_STATUS = 2
    DISPATCH_CONFIG = 3
    TCP_LISTEN = 4
    TCP_ACCEPT = 5
    TCP_CONNECT = 6
    UDP_OPEN = 7
    SEND = 8
    RECV = 9
    SENDTO = 10
    RECVFROM = 11
    SHUTDOWN = 12
    CLOSE = 13
    ABORT = 14
    SETSOCKOPT = 15
    GETSOCKOPT = 16
    GETSOCKNAME = 17
    GETPEERNAME = 18
    CANCEL = 19
    RESOLVE = 20
    PING = 21
    STATS = 22


class OperationFlag(IntFlag):
    """``operation_flags`` of TCP_ACCEPT."""

    ACCEPT_MULTISHOT = 1


class ListenFlag(IntFlag):
    """``operation_flags`` of TCP_LISTEN."""

    V6ONLY = 1  # on the IPv6 address "any": no IPv4


class UdpFlag(IntFlag):
    """``operation_flags`` of UDP_OPEN."""

    SPREAD = 1  # a socket on all cores
    V6ONLY = 2  # on the IPv6 address "any": no IPv4


class DispatchFlag(IntFlag):
    """``operation_flags`` of DISPATCH_CONFIG."""

    READ = 1  # write the present configuration to the buffer


class SocketOption(IntEnum):
    """``operation_flags`` of SETSOCKOPT (value in ``inline``) and GETSOCKOPT (value is the result)."""

    TYPE = 0
    """Get: 1 stream, 2 datagram (as SOCK_STREAM, SOCK_DGRAM)."""
    ERROR = 1
    """Get: pending error as a positive errno, zero if there is none; reading clears a datagram socket's."""
    NODELAY = 2
    """TCP: 1 = no Nagle algorithm (RFC 896); the default."""
    KEEPALIVE = 3
    """TCP: 1 = probe an idle peer."""
    KEEPIDLE = 4
    """TCP: seconds of silence before the first probe, 1 to 32767."""
    KEEPINTVL = 5
    """TCP: seconds between probes, 1 to 32767."""
    KEEPCNT = 6
    """TCP: unanswered probes after which the connection ends with -ETIMEDOUT, 1 to 127."""
    LINGER = 7
    """TCP: 0 = CLOSE returns at once and the rest is sent in background; n + 1 = CLOSE completes when all is acknowledged,
    or after n seconds with a reset (n = 0: reset at once)."""
    RCVBUF = 8
    """Bytes that the engine buffers for the socket without a posted receive at most; set: rounded to whole segments."""
    SNDBUF = 9
    """Bytes of SENDs that the engine holds for the socket at most; set: rounded to whole segments."""
    USER_TIMEOUT = 10
    """TCP: milliseconds that data may stay unacknowledged before -ETIMEDOUT (RFC 5482); 0 = by retransmissions alone."""
    TTL = 11
    """Time to live or hop limit of what is sent, 1 to 255."""
    TOS = 12
    """Type of service or traffic class of what is sent, 0 to 255."""
    BROADCAST = 13
    """Datagrams: 1 = may send to a broadcast address (otherwise -EACCES)."""
    MULTICAST_TTL = 14
    """Datagrams: time to live or hop limit of what is sent to groups, 0 to 255."""
    MULTICAST_INTERFACE = 15
    """Datagrams: network port plus one that groups are sent to; 0 = by route."""
    JOIN_GROUP = 16
    """Datagrams, set: socket address of a group; its scope is the network port plus one, 0 = by route or the first."""
    LEAVE_GROUP = 17
    """Datagrams, set: likewise."""
    PEER = 18
    """Datagrams, set: socket address of the only peer; family 0 = none again."""


SQE = Layout(
    "sqe",
    16,
    "Submission queue entry, 64 bytes. What no field names, and what the operation does not use, must be zero.",
    (
        Field("operation", 0, 0, 8, "An Operation."),
        Field("flags", 0, 8, 8, "Reserved, zero."),
        Field("reserved", 0, 16, 16, "Reserved, zero."),
        Field("handle", 1, 0, 32, "Socket or listener, for operations on one."),
        Field("user_data", 2, 0, 64, "Returned unchanged in the completion."),
        Field("buffer", 4, 0, 64, "Host bus byte address of the buffer."),
        Field("length", 6, 0, 32, "Bytes of the buffer; backlog (TCP_LISTEN); payload bytes (PING)."),
        Field("operation_flags", 7, 0, 32, "By operation, see the operation."),
        Field("inline", 8, 0, 256, "By operation: a socket address, a configuration block, an option's value."),
    ),
)

AF_INET = 2
AF_INET6 = 10

SOCKET_ADDRESS = Layout(
    "socket_address",
    8,
    "Socket address, 32 bytes: inline in an SQE, or in a buffer (GETPEERNAME, GETSOCKNAME).",
    (
        Field("family", 0, 0, 16, "AF_INET 2 or AF_INET6 10."),
        Field("port", 0, 16, 16, "Port number as an integer (not network bytes)."),
        Field("scope", 1, 0, 32, "IPv6 scope: network port number plus one; zero otherwise."),
        Field("address", 2, 0, 128, "IPv4 address in the first 4 bytes, or IPv6 address, as on the wire."),
        Field(
            "extra",
            6,
            0,
            32,
            "TCP_CONNECT with a local port: local IPv4 address, or zero. Written by RECVFROM: bytes of the whole datagram.",
        ),
    ),
)

NETIF_CONFIG = Layout(
    "netif_config",
    8,
    "Inline block of NETIF_CONFIG with family AF_INET.",
    (
        Field("family", 0, 0, 16, "AF_INET."),
        Field("prefix_length", 0, 16, 8, "Bits of the network mask, 0 to 32."),
        Field(
            "dhcp", 0, 24, 1, "Ask DHCP (RFC 2131) instead: address, gateway, prefix_length and DNS servers are zero."
        ),
        Field("address", 1, 0, 32, "IPv4 address, bytes as on the wire; zero takes IPv4 off the interface."),
        Field("gateway", 2, 0, 32, "IPv4 address of the default gateway, or zero."),
        Field("mac", 3, 0, 64, "MAC address in the first 6 bytes as on the wire; zero keeps the present one."),
        Field("dns0", 5, 0, 32, "IPv4 address of the first DNS server, or zero."),
        Field("dns1", 6, 0, 32, "IPv4 address of the second DNS server, or zero."),
    ),
)

NETIF_CONFIG6 = Layout(
    "netif_config6",
    8,
    "Inline block of NETIF_CONFIG with family AF_INET6. The link-local address (modified EUI-64, RFC 4291) always exists.",
    (
        Field("family", 0, 0, 16, "AF_INET6."),
        Field("prefix_length", 0, 16, 8, "64 with an address, otherwise 0."),
        Field("autoconfigure", 0, 24, 1, "Take addresses from router advertisements (RFC 4862)."),
        Field("address", 1, 0, 128, "Static IPv6 address as on the wire, or zero: none."),
        Field(
            "gateway",
            5,
            0,
            64,
            "Interface identifier of a static default router fe80::/64, as on the wire; zero: none.",
        ),
    ),
)

NETIF_STATUS = Layout(
    "netif_status",
    32,
    "What NETIF_STATUS writes to its buffer for the network port named in operation_flags. IP addresses as on the wire.",
    (
        Field("configured", 0, 0, 1, "NETIF_CONFIG has set the interface up."),
        Field("link_up", 0, 1, 1, "The PHY has a link (always with a PHY that cannot be asked)."),
        Field("full_duplex", 0, 2, 1, "The link is full duplex."),
        Field("dhcp", 0, 3, 1, "DHCP is in use."),
        Field("dhcp_bound", 0, 4, 1, "There is a lease."),
        Field("autoconfigure", 0, 5, 1, "IPv6 addresses are taken from router advertisements."),
        Field("speed", 0, 8, 2, "0: 10, 1: 100, 2: 1000 Mb/s."),
        Field("prefix_length", 0, 16, 8, "Bits of the IPv4 network mask."),
        Field("mac", 1, 0, 64, "MAC address in the first 6 bytes as on the wire."),
        Field("address", 3, 0, 32, "IPv4 address, or zero."),
        Field("gateway", 4, 0, 32, "IPv4 default gateway, or zero."),
        Field("dns0", 5, 0, 32, "IPv4 address of the first DNS server, or zero."),
        Field("dns1", 6, 0, 32, "IPv4 address of the second DNS server, or zero."),
        Field("lease_seconds", 7, 0, 32, "Seconds until the lease ends; zero without DHCP."),
        Field("address6_link_local", 8, 0, 128, "Link-local IPv6 address, or zero."),
        Field("address6_0", 12, 0, 128, "First further IPv6 address, or zero."),
        Field("address6_1", 16, 0, 128, "Second further IPv6 address, or zero."),
        Field("address6_ready", 20, 0, 3, "Bit n: link-local, first, second IPv6 address passed duplicate detection."),
        Field("router6", 21, 0, 128, "IPv6 default router, or zero."),
        Field("dns6", 25, 0, 128, "IPv6 DNS server, or zero."),
    ),
)

DISPATCH_RULES = 8
"""Rules in a DISPATCH_CONFIG block; as many as the dispatcher has."""

RULE_ENTRY = Layout(
    "rule_entry",
    4,
    "One rule: applies to a frame that equals it in all it compares; the lowest that applies decides.",
    (
        Field("ethertype", 0, 0, 16, "EtherType, with match_ethertype."),
        Field("protocol", 0, 16, 8, "IP protocol of the last header reached, with match_protocol."),
        Field("network_port", 0, 24, 4, "Network port, with match_network_port."),
        Field("source_port", 1, 0, 16, "TCP or UDP source port, with match_source_port."),
        Field("destination_port", 1, 16, 16, "TCP or UDP destination port, with match_destination_port."),
        Field("match_ethertype", 2, 0, 1, "Compare the EtherType."),
        Field("match_protocol", 2, 1, 1, "Compare the IP protocol."),
        Field("match_network_port", 2, 2, 1, "Compare the network port."),
        Field("match_source_port", 2, 3, 1, "Compare the source port."),
        Field("match_destination_port", 2, 4, 1, "Compare the destination port."),
        Field("action", 2, 8, 3, "A RuleAction."),
        Field("core", 2, 16, 4, "Core, for RuleAction.CORE; otherwise zero."),
    ),
)

DISPATCH_CONFIG = Layout(
    "dispatch_config",
    80,
    "Buffer of DISPATCH_CONFIG. Parts that are not named are zero and stay as they are; all is checked before anything is set.",
    (
        Field("has_key", 0, 0, 1, "key is valid."),
        Field("has_hash_types", 0, 1, 1, "tcp_ports and udp_ports are valid."),
        Field("has_indirection", 0, 2, 1, "indirection is valid."),
        Field("has_rules", 0, 3, 1, "rules is valid."),
        Field(
            "refused_at",
            1,
            0,
            32,
            "Zero; written when the result is -EINVAL: byte offset in this block of what is wrong.",
        ),
        Field("key", 2, 0, 320, "Toeplitz key, 40 bytes in order; not all zero."),
        Field("tcp_ports", 12, 0, 1, "Hash addresses and ports for TCP (otherwise addresses only)."),
        Field("udp_ports", 12, 1, 1, "Hash addresses and ports for UDP."),
        Field("indirection", 16, 0, 1024, "128 bytes: core of each entry."),
        Field("rules", 48, 0, 1024, "Rules, 16 bytes each (rule_entry), in order; action OFF: none."),
    ),
)

STATS = Layout(
    "stats",
    20,
    "What STATS writes to its buffer for the core named in operation_flags.",
    (
        Field("core", 0, 0, 8, "Core number."),
        Field("epoch", 0, 8, 8, "Its epoch."),
        Field("sockets", 0, 16, 16, "Sockets open now, listeners excluded."),
        Field("cycles", 1, 0, 64, "Cycles since reset."),
        Field("instructions", 3, 0, 64, "Instructions retired since reset."),
        Field("idle_cycles", 5, 0, 64, "Cycles spent waiting for work."),
        Field("frames_in", 7, 0, 32, "RX descriptors handled."),
        Field("frames_out", 8, 0, 32, "TX commands issued."),
        Field("tcp_segments_in", 9, 0, 32, "TCP segments received."),
        Field("tcp_segments_out", 10, 0, 32, "TCP segments sent."),
        Field("bytes_in", 11, 0, 64, "Payload bytes delivered to host memory."),
        Field("bytes_out", 13, 0, 64, "Payload bytes taken from host memory."),
        Field("connections", 15, 0, 32, "Connections established since reset."),
        Field("locks", 16, 0, 32, "Times a hardware lock was taken."),
        Field("messages", 17, 0, 32, "Messages sent to other cores."),
        Field("dropped", 18, 0, 32, "Frames the firmware dropped: bad, foreign or over quota."),
        Field("rx_buffers_free", 19, 0, 16, "Buffers in the RX free list now."),
        Field("tx_buffers_free", 19, 16, 16, "TX buffers free now."),
    ),
)

CQE = Layout(
    "cqe",
    4,
    "Completion queue entry, 16 bytes. The phase bit toggles with each pass over the ring, starting at 1.",
    (
        Field("user_data", 0, 0, 64, "From the SQE."),
        Field("result", 2, 0, 32, "Signed: bytes, handle, zero, or a negative Linux errno."),
        Field("phase", 3, 0, 1, "Tells a new entry from an old one."),
        Field("more", 3, 1, 1, "Further completions of the same SQE will come (multishot)."),
    ),
)

SQ_DELIVERY = Layout(
    "sq_delivery",
    20,
    "An SQE as the host dispatcher writes it into a core's data RAM.",
    (
        Field("sqe", 0, 0, 512, "The entry as fetched."),
        Field("host", 16, 0, 2, "Host that posted it."),
        Field("is_joined", 16, 2, 1, "It went to all cores; complete it with join_id, once on each core."),
        Field("join_id", 16, 4, 4, "Slot in the join table."),
        Field("sq_index", 17, 0, 16, "Position in the submission queue."),
        Field("epoch", 19, 0, 8, "Epoch of the core it was meant for."),
        Field("owner", 19, 31, 1, "Set by hardware last; cleared by the core."),
    ),
)

ALL_CORES = 7
"""Core number in the handle of what lives on every core."""


@dataclass(frozen=True)
class Handle:
    """A socket or listener: u32 with bit 31 clear, so that it fits a positive completion result.

    ``core`` 3 bits (7 = all), ``host`` 2 bits, ``index`` 10 bits, ``generation`` 16 bits, never zero.
    """

    core: int
    host: int
    index: int
    generation: int

    @classmethod
    def unpack(cls, value: int) -> Handle:
        return cls(**HANDLE.unpack(value.to_bytes(4, "little")))

    def pack(self) -> int:
        return int.from_bytes(HANDLE.pack(vars(self)), "little")


HANDLE = Layout(
    "handle",
    1,
    "Handle of a socket or listener.",
    (
        Field("generation", 0, 0, 16, "Grows with each use of the index; never zero; a stale handle is refused."),
        Field("index", 0, 16, 10, "Entry of the socket table (of the listener table if core is 7)."),
        Field("host", 0, 26, 2, "Owning host."),
        Field("core", 0, 28, 3, "Core that holds the socket; 7 = all cores."),
    ),
)

HANDLE_OPERATIONS = frozenset(
    {
        Operation.TCP_ACCEPT,
        Operation.SEND,
        Operation.RECV,
        Operation.SENDTO,
        Operation.RECVFROM,
        Operation.SHUTDOWN,
        Operation.CLOSE,
        Operation.ABORT,
        Operation.SETSOCKOPT,
        Operation.GETSOCKOPT,
        Operation.GETSOCKNAME,
        Operation.GETPEERNAME,
    }
)
"""Routed by the core in the handle: to that core, to all (7), or, if there is no such core, to the manager, which refuses."""

DATAGRAM_OPERATIONS = frozenset({Operation.SEND, Operation.RECV, Operation.SENDTO, Operation.RECVFROM})
"""With core 7 in the handle (a spread UDP socket) not joined, but for the one core in bits 9:8 of operation_flags."""

ALL_CORE_OPERATIONS = frozenset({Operation.TCP_LISTEN, Operation.CANCEL})
"""Delivered to every core, with one joined completion; so is UDP_OPEN with UDP_SPREAD. NETIF_CONFIG goes to the manager,
which tells the others by message."""

BALANCED_OPERATIONS = frozenset({Operation.TCP_CONNECT, Operation.UDP_OPEN})
"""Delivered to the living core with the lowest load figure, round robin among equals; a TCP_CONNECT with a local port and
local IPv4 address to the core that the hash probe names. STATS goes to the core named in operation_flags (the manager if
there is none); everything else, unknown operations included, goes to the manager."""
