"""lwIP compiled for the PC as a station on the simulated wire: deterministic, in process, no privileges.

It checks all checksums in software and so judges the engine's independently. Its TCP timers are shortened by default,
because simulated time is slow: see :class:`PeerOptions`.
"""

from __future__ import annotations

import _ctypes
import ctypes
import ipaddress
import shutil
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path

from .build import NATIVE, build_library
from .lwip_source import ORIG_SHA256, lwip_dir

ABI = 1
FRAME_BYTES = 1 << 16
READ_BYTES = 1 << 16
ADDRESS_BYTES = 48
NEVER_NS = (1 << 64) - 1
_CONNECTED, _ACCEPTED, _FIN, _CLOSED, _ERROR, _PING = range(1, 7)

# err_t of lwIP, negated.
_ERROR_NAMES = {
    1: "out of memory",
    2: "buffer error",
    3: "timeout",
    4: "no route",
    5: "in progress",
    6: "illegal value",
    7: "would block",
    8: "address in use",
    9: "already connecting",
    10: "already connected",
    11: "not connected",
    12: "interface error",
    13: "connection aborted",
    14: "connection reset",
    15: "connection closed",
    16: "illegal argument",
}


class PeerError(RuntimeError):
    """lwIP refused a call."""


def _error_name(code: int) -> str:
    return _ERROR_NAMES.get(-code, f"lwIP error {code}")


@dataclass(frozen=True)
class PeerOptions:
    """Compiled into the peer; times in milliseconds of simulated time.

    Parameters
    ----------
    tcp_timer_ms : int, 1..250
        Period of lwIP's fast TCP timer; delayed acknowledgements wait up to this long (lwIP's own default is 250).
    tcp_rto_ms : int, 1..3000
        First retransmission time-out (lwIP's own default is 3000).
    tcp_msl_ms : int, 1..60000
        Maximum segment lifetime; TIME_WAIT takes twice as long, and lwIP gives up a connection in LAST_ACK after twice
        as long even while it still retransmits data: keep it at 20 times ``tcp_rto_ms``, as lwIP's defaults are.
    tcp_mss : int, 64..1460
        Largest segment sent and announced.
    tcp_window, tcp_send_buffer : int, 2 segments..65535 bytes
        Receive window and send buffer of each connection.
    """

    tcp_timer_ms: int = 10
    tcp_rto_ms: int = 100
    tcp_msl_ms: int = 2000
    tcp_mss: int = 1460
    tcp_window: int = 40 * 1460
    tcp_send_buffer: int = 40 * 1460

    def __post_init__(self) -> None:
        for name, low, high in (
            ("tcp_timer_ms", 1, 250),
            ("tcp_rto_ms", 1, 3000),
            ("tcp_msl_ms", 1, 60_000),
            ("tcp_mss", 64, 1460),
            ("tcp_window", 2 * self.tcp_mss, 65535),
            ("tcp_send_buffer", 2 * self.tcp_mss, 65535),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} must be {low} to {high}, not {value!r}")


def build_peer(options: PeerOptions) -> Path:
    """The peer's library for ``options``, from the build cache."""
    source = lwip_dir() / "src"
    files = [NATIVE / "peer.c"]
    for folder in ("core", "core/ipv4", "core/ipv6"):
        files += sorted((source / folder).glob("*.c"))
    files.append(source / "netif" / "ethernet.c")
    flags = ["-std=gnu11", "-O2", "-Wall", f"-I{NATIVE}", "-isystem", str(source / "include")]
    flags += [f"-DPEER_{name.upper()}={value}" for name, value in vars(options).items()]
    own = [NATIVE / "lwipopts.h", NATIVE / "arch" / "cc.h"]
    return build_library("peer", files, flags, [ORIG_SHA256, *(path.read_bytes() for path in own)])


@dataclass(frozen=True)
class PeerCounters:
    """What the station has seen so far; every checksum error is the sender's fault or the wire's."""

    ip_checksum_errors: int
    icmp_checksum_errors: int
    udp_checksum_errors: int
    tcp_checksum_errors: int
    tcp_retransmissions: int
    frames_in: int
    frames_out: int

    @property
    def checksum_errors(self) -> int:
        """All of them."""
        return self.ip_checksum_errors + self.icmp_checksum_errors + self.udp_checksum_errors + self.tcp_checksum_errors


@dataclass(frozen=True)
class PingReply:
    """Answer to :meth:`LwipPeer.ping`; ``length`` is -1 when the content was not what was sent."""

    sequence: int
    length: int
    time_ns: int


@dataclass(frozen=True)
class Datagram:
    """A received UDP datagram and where it came from."""

    data: bytes
    address: str
    port: int


class _Event(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int32), ("socket", ctypes.c_int32), ("value", ctypes.c_int32)]


class _Counters(ctypes.Structure):
    _fields_ = [(one.name, ctypes.c_uint32) for one in fields(PeerCounters)]


_BYTES, _INT, _U16, _U32, _U64, _POINTER = (
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_uint16,
    ctypes.c_uint32,
    ctypes.c_uint64,
    ctypes.c_void_p,
)
_SIGNATURES = {
    "peer_abi": (_U32, []),
    "peer_start": (_INT, [_BYTES, _BYTES, _BYTES, _BYTES, _BYTES, _U64]),
    "peer_stop": (None, []),
    "peer_time": (None, [_U64]),
    "peer_next_ns": (_U64, []),
    "peer_input": (_INT, [_BYTES, _U32]),
    "peer_output": (_INT, [_POINTER, _U32]),
    "peer_event": (_INT, [ctypes.POINTER(_Event)]),
    "peer_listen": (_INT, [_U16, ctypes.c_uint8]),
    "peer_connect": (_INT, [_BYTES, _U16, _U16]),
    "peer_send": (_INT, [_INT, _BYTES, _U32]),
    "peer_recv": (_INT, [_INT, _POINTER, _U32]),
    "peer_unacknowledged": (_INT, [_INT]),
    "peer_shutdown": (_INT, [_INT]),
    "peer_close": (_INT, [_INT]),
    "peer_abort": (_INT, [_INT]),
    "peer_name": (_INT, [_INT, _INT, _POINTER]),
    "peer_udp_open": (_INT, [_U16]),
    "peer_udp_send": (_INT, [_INT, _BYTES, _U16, _BYTES, _U32]),
    "peer_udp_recv": (_INT, [_INT, _POINTER, _U32, _POINTER, ctypes.POINTER(_U16)]),
    "peer_ping": (_INT, [_BYTES, _U16, _U32]),
    "peer_counters": (None, [ctypes.POINTER(_Counters)]),
}


def _load_copy(path: Path) -> ctypes.CDLL:
    """Load a private copy of the library: lwIP's state is global, so each station needs its own."""
    with tempfile.TemporaryDirectory(prefix="twinstack-peer-") as folder:
        copy = Path(folder) / path.name
        shutil.copyfile(path, copy)
        library = ctypes.CDLL(str(copy))  # stays loaded when the file is gone
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    found = library.peer_abi()
    if found != ABI:
        raise RuntimeError(f"{path} has interface version {found}, but {ABI} is needed; remove the folder build/sim")
    return library


class LwipConnection:
    """A TCP connection of a peer. Its state changes in the peer's ``poll``.

    Members
    -------
    connected : bool
        The handshake is done.
    peer_closed : bool
        The other end has sent FIN; received data may still be there to read.
    closed : bool
        The connection is over, orderly or not.
    error : str
        Why it ended, when not orderly.
    """

    def __init__(self, peer: LwipPeer, socket: int, *, connected: bool) -> None:
        self._peer, self._socket = peer, socket
        self._unsent = bytearray()
        self._shutdown_wanted = False
        self.connected = connected
        self.peer_closed = False
        self.closed = False
        self.error = ""

    def send(self, data: bytes) -> int:
        """Hand over as much of ``data`` as fits the send buffer; returns how many bytes.

        Raises
        ------
        PeerError
            If the connection is gone or not yet there.
        """
        if not self.connected:
            raise PeerError("the connection is not established")
        return self._peer.check("send", self._peer.native.peer_send(self._socket, data, len(data)))

    def send_all(self, data: bytes) -> None:
        """Queue all of ``data``; ``poll`` hands it over as the send buffer empties."""
        self._unsent += data
        self.pump()

    @property
    def unsent(self) -> int:
        """Bytes queued by :meth:`send_all` that are not in the send buffer yet."""
        return len(self._unsent)

    @property
    def unacknowledged(self) -> int:
        """Bytes in the send buffer, sent or not; 0 when the connection is gone."""
        return max(0, int(self._peer.native.peer_unacknowledged(self._socket)))

    def recv(self, limit: int = READ_BYTES) -> bytes:
        """Take up to ``limit`` received bytes, ``b""`` if there are none; the window opens by as much."""
        if self._socket < 0:
            return b""
        length = self._peer.native.peer_recv(self._socket, self._peer.buffer_address, min(limit, READ_BYTES))
        return ctypes.string_at(self._peer.buffer_address, self._peer.check("recv", length))

    def shutdown(self) -> None:
        """Send FIN when everything queued is sent; receiving goes on."""
        self._shutdown_wanted = True
        self.pump()

    def close(self) -> None:
        """Close both directions and forget the connection; what is in the send buffer is still sent.

        As TCP demands, unread or later data from the other end is answered with RST.
        """
        if self._socket >= 0:
            self._peer.release(self._socket)
            self._peer.native.peer_close(self._socket)
        self._socket, self.closed = -1, True

    def abort(self) -> None:
        """Send RST and forget the connection."""
        if self._socket >= 0:
            self._peer.release(self._socket)
            self._peer.native.peer_abort(self._socket)
        self._socket, self.closed = -1, True

    @property
    def local(self) -> tuple[str, int]:
        """Own address and port."""
        return self._peer.name_of(self._socket, 0)

    @property
    def remote(self) -> tuple[str, int]:
        """The other end's address and port."""
        return self._peer.name_of(self._socket, 1)

    def pump(self) -> None:
        """Hand queued bytes to the send buffer, then the FIN; the peer calls it."""
        if not self.connected or self.closed or self._socket < 0:
            return
        while self._unsent:
            taken = self.send(bytes(self._unsent[:READ_BYTES]))
            if taken == 0:
                return
            del self._unsent[:taken]
        # Without memory for the FIN the wish stays, and the next call tries again.
        if self._shutdown_wanted and self._peer.native.peer_shutdown(self._socket) == 0:
            self._shutdown_wanted = False


class LwipListener:
    """A listening TCP port of a peer."""

    def __init__(self, peer: LwipPeer, socket: int) -> None:
        self._peer, self._socket = peer, socket
        self.pending: list[LwipConnection] = []

    def accept(self) -> LwipConnection | None:
        """The oldest connection not yet taken, or ``None``."""
        return self.pending.pop(0) if self.pending else None

    def close(self) -> None:
        """Stop listening; accepted connections live on."""
        if self._socket >= 0:
            self._peer.release(self._socket)
            self._peer.native.peer_close(self._socket)
            self._socket = -1


class LwipUdp:
    """A UDP port of a peer."""

    def __init__(self, peer: LwipPeer, socket: int) -> None:
        self._peer, self._socket = peer, socket

    def send_to(self, data: bytes, address: str, port: int) -> None:
        """Send a datagram, fragmented if it must be."""
        self._peer.check(
            "UDP send", self._peer.native.peer_udp_send(self._socket, address.encode(), port, data, len(data))
        )

    def recv(self) -> Datagram | None:
        """The oldest datagram, or ``None``."""
        address, port = ctypes.create_string_buffer(ADDRESS_BYTES), ctypes.c_uint16()
        length = self._peer.native.peer_udp_recv(
            self._socket, self._peer.buffer_address, READ_BYTES, ctypes.addressof(address), ctypes.byref(port)
        )
        if length < 0:
            return None
        return Datagram(ctypes.string_at(self._peer.buffer_address, length), address.value.decode(), port.value)

    def close(self) -> None:
        """Give the port back."""
        if self._socket >= 0:
            self._peer.native.peer_close(self._socket)
            self._socket = -1


class LwipPeer:
    """A station with lwIP; a :class:`~twinstack_sim.peer.Peer`.

    Parameters
    ----------
    address, netmask, gateway : str
        IPv4; ``gateway`` may be empty.
    address6 : str
        A further IPv6 address besides the link-local one; may be empty.
    mac : str
        Hardware address.
    seed : int
        Of initial sequence numbers and ephemeral ports.
    options : PeerOptions
        Timers and sizes.

    Raises
    ------
    ValueError
        If an address is none.
    twinstack_sim.lwip_source.LwipSourceError
        If the lwIP sources cannot be had.
    """

    def __init__(
        self,
        address: str = "192.168.77.2",
        netmask: str = "255.255.255.0",
        gateway: str = "",
        *,
        address6: str = "",
        mac: str = "02:54:53:00:00:02",
        seed: int = 1,
        options: PeerOptions | None = None,
    ) -> None:
        hardware = bytes.fromhex(mac.replace(":", ""))
        if len(hardware) != 6 or hardware[0] & 1:
            raise ValueError(f"mac must be a unicast address of 6 bytes, not {mac!r}")
        for text in (address, netmask, gateway):
            if text:
                ipaddress.IPv4Address(text)
        if address6:
            ipaddress.IPv6Address(address6)
        self.address, self.mac, self.seed = address, mac, seed
        self.native = _load_copy(build_peer(options or PeerOptions()))
        self._buffer = ctypes.create_string_buffer(max(FRAME_BYTES, READ_BYTES))
        self.buffer_address = ctypes.addressof(self._buffer)
        self._open = True
        self._sockets: dict[int, LwipConnection | LwipListener] = {}
        self._ping_sequence = 0
        self._now_ns = 0
        self.ping_replies: list[PingReply] = []
        texts = [text.encode() for text in (address, netmask, gateway, address6)]
        if self.native.peer_start(hardware, *texts, seed & NEVER_NS):
            raise ValueError(f"lwIP does not take the addresses {texts!r}")

    # ---- as a Peer ----

    def frame_from_engine(self, frame: bytes, now_ns: int) -> None:
        """Take a frame from the wire; one for another station is ignored."""
        self._advance(now_ns)
        self.native.peer_input(frame, len(frame))

    def poll(self, now_ns: int) -> list[bytes]:
        """Run timers, update connections, and return the frames to send."""
        self._advance(now_ns)
        self._take_events()
        for one in list(self._sockets.values()):
            if isinstance(one, LwipConnection):
                one.pump()
        frames = []
        while (length := self.native.peer_output(self.buffer_address, FRAME_BYTES)) >= 0:
            frames.append(ctypes.string_at(self.buffer_address, length))
        return frames

    def next_event_ns(self) -> int | None:
        """When a timer is due or a frame waits to be sent."""
        time_ns = int(self.native.peer_next_ns())
        return None if time_ns == NEVER_NS else time_ns

    def close(self) -> None:
        """Drop all connections and unload lwIP; closing twice is allowed, anything else afterwards is not."""
        if not self._open:
            return
        self._open = False
        for one in self._sockets.values():
            if isinstance(one, LwipConnection):
                one.closed = True
        self.native.peer_stop()
        handle = self.native._handle
        del self.native
        _ctypes.dlclose(handle)

    # ---- for tests ----

    def listen(self, port: int, backlog: int = 16) -> LwipListener:
        """Listen on TCP ``port``, IPv4 and IPv6."""
        socket = self.check("listen", self.native.peer_listen(port, backlog))
        listener = LwipListener(self, socket)
        self._sockets[socket] = listener
        return listener

    def connect(self, address: str, port: int, local_port: int = 0) -> LwipConnection:
        """Start connecting; see the connection's ``connected`` and ``error``."""
        socket = self.check("connect", self.native.peer_connect(address.encode(), port, local_port))
        connection = LwipConnection(self, socket, connected=False)
        self._sockets[socket] = connection
        return connection

    def udp(self, port: int = 0) -> LwipUdp:
        """Open UDP ``port``, or an ephemeral one."""
        return LwipUdp(self, self.check("UDP open", self.native.peer_udp_open(port)))

    def ping(self, address: str, length: int = 56) -> int:
        """Send an ICMP echo request and return its sequence number; answers come to ``ping_replies``."""
        self._ping_sequence = (self._ping_sequence + 1) & 0xFFFF
        self.check("ping", self.native.peer_ping(address.encode(), self._ping_sequence, length))
        return self._ping_sequence

    @property
    def counters(self) -> PeerCounters:
        """Checksum errors, retransmissions, frames."""
        raw = _Counters()
        self.native.peer_counters(ctypes.byref(raw))
        return PeerCounters(*(int(getattr(raw, one.name)) for one in fields(PeerCounters)))

    # ---- for the classes above ----

    def check(self, what: str, result: int) -> int:
        """Return ``result``, or raise :class:`PeerError` where it is an lwIP error."""
        if result < 0:
            raise PeerError(f"{what}: {_error_name(result)}")
        return result

    def release(self, socket: int) -> None:
        """Forget a socket that is about to be closed; what it has announced is taken first."""
        self._take_events()
        self._sockets.pop(socket, None)

    def name_of(self, socket: int, which: int) -> tuple[str, int]:
        """Address and port of one end of a connection."""
        text = ctypes.create_string_buffer(ADDRESS_BYTES)
        port = self.check("name", self.native.peer_name(socket, which, ctypes.addressof(text)))
        return text.value.decode(), port

    def _advance(self, now_ns: int) -> None:
        self._now_ns = max(self._now_ns, now_ns)
        self.native.peer_time(self._now_ns)

    def _take_events(self) -> None:
        event = _Event()
        while self.native.peer_event(ctypes.byref(event)):
            if event.type == _PING:
                self.ping_replies.append(PingReply(event.socket, event.value, self._now_ns))
                continue
            if event.type == _ACCEPTED:
                listener = self._sockets.get(event.value)
                connection = LwipConnection(self, event.socket, connected=True)
                self._sockets[event.socket] = connection
                if isinstance(listener, LwipListener):
                    listener.pending.append(connection)
                else:
                    connection.abort()
                continue
            one = self._sockets.get(event.socket)
            if not isinstance(one, LwipConnection):
                continue
            if event.type == _CONNECTED:
                one.connected = True
            elif event.type == _FIN:
                one.peer_closed = True
            elif event.type == _CLOSED:
                one.closed = True
            elif event.type == _ERROR:
                one.closed, one.error = True, _error_name(event.value)
