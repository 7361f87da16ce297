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
        Field("length", 6, 0, 32, "Bytes of the buffer; backlog for TCP_LISTEN."),
        Field("operation_flags", 7, 0, 32, "By operation: OperationFlag, port number (NETIF_*), core number (STATS)."),
        Field("inline", 8, 0, 256, "By operation: a socket address or a NETIF_CONFIG block."),
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
    ),
)

NETIF_CONFIG = Layout(
    "netif_config",
    8,
    "Inline block of NETIF_CONFIG, and what NETIF_STATUS writes to its buffer; operation_flags holds the network port.",
    (
        Field("family", 0, 0, 16, "AF_INET."),
        Field("prefix_length", 0, 16, 8, "Bits of the network mask, 0 to 32."),
        Field("dhcp", 0, 24, 1, "Ask DHCP instead; not implemented yet, must be zero."),
        Field("link_up", 0, 25, 1, "NETIF_STATUS only: the interface is configured and up."),
        Field("address", 1, 0, 32, "IPv4 address, bytes as on the wire."),
        Field("gateway", 2, 0, 32, "IPv4 address of the default gateway, or zero."),
        Field("mac", 3, 0, 64, "MAC address in the first 6 bytes as on the wire; zero keeps the present one."),
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

ALL_CORE_OPERATIONS = frozenset({Operation.TCP_LISTEN, Operation.UDP_OPEN})
"""Delivered to every core, with one joined completion. NETIF_CONFIG goes to the manager, which tells the others by message."""

BALANCED_OPERATIONS = frozenset({Operation.TCP_CONNECT})
"""Delivered to the living core with the lowest load figure, round robin among equals. STATS goes to the core named in
operation_flags (the manager if there is none); everything else, unknown operations included, goes to the manager."""
