"""One running engine for several programs: each client of a local socket gets a queue pair of its own.

The engine has one queue pair for its host, which the server's :class:`Device` owns. The server takes the entries of its
clients from their rings to the real one and their completions back. What a client gets, and when it is refused, is in
``docs/link-protocol.md``.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import os
import selectors
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from twinstack.proto import abi, memory_map
from twinstack.proto.queues import HANDLE_OPERATIONS, Operation
from twinstack.proto.registers import HOST_CORE, MAC

from . import link_protocol as protocol
from .device import Device
from .link import LinkError
from .link_protocol import LinkOperation, Message, ProtocolError, Status
from .registers import Registers
from .virtual_queue import VirtualQueue

SLICE_BYTES = 1 << 18
"""Host memory of a client."""
MOST_OPERATIONS = 256
"""Operations of a client under way, completions that it has not taken included; further entries wait in its ring."""
MOST_ACCEPTED = 64
"""Connections of a client's accepts that wait for room in its completion ring; further ones are reset."""
RESERVED_ENTRIES = 4
"""Entries of the real submission ring that clients do not fill: they are for the server's own operations."""
HELLO_SECONDS = 5.0
"""A connection that says nothing is closed after this."""
WAIT_SECONDS = 1.0
"""A WAIT is answered after this, in wall-clock time, however much of the engine's time is left."""
GRACE_SECONDS = 0.0005
"""Whoever was just answered may ask again within this before the engine goes on."""
TURN_SECONDS = 0.005
MESSAGES_A_TURN = 64
CONSOLE_SECONDS = 0.05
"""Time between two looks at the engine's console for those who ask."""

BEYOND = 1 << 63
"""Set in a host address that the client may not use: the engine ends the operation with -EFAULT in its place."""
BUFFER_OPERATIONS = frozenset(
    {
        Operation.NETIF_STATUS,
        Operation.DISPATCH_CONFIG,
        Operation.SEND,
        Operation.RECV,
        Operation.SENDTO,
        Operation.RECVFROM,
        Operation.GETSOCKNAME,
        Operation.GETPEERNAME,
        Operation.RESOLVE,
        Operation.STATS,
    }
)
ADDRESS_OPERATIONS = frozenset({Operation.RECVFROM, Operation.RESOLVE})
"""Inline words 0 and 1 are the host address of a socket address."""
ADDRESS_BYTES = 32
GRANTS = frozenset({Operation.TCP_LISTEN, Operation.TCP_CONNECT, Operation.UDP_OPEN})
"""Their positive result is a handle."""
ENDS = frozenset({Operation.CLOSE, Operation.ABORT})
KEEP_HANDLE = frozenset({-errno.EINVAL, -errno.ENOBUFS, -errno.EOPNOTSUPP})
"""Results of CLOSE and ABORT after which the handle lives on."""
WORD_PAIR = (1 << 64) - 1

CONSOLES = frozenset(Registers.address(HOST_CORE, "console", instance=core) for core in range(HOST_CORE.count))
WRITABLE = frozenset(Registers.address(MAC, "statistic_index", instance=port) for port in range(MAC.count))
"""Registers of the engine that a client may write: reading a statistic needs it."""


@dataclass(eq=False)
class _Entry:
    """An operation of a client that is under way."""

    client: _Client
    operation: int
    handle: int
    named: int
    """The client's user data."""
    life: int
    user_data: int = 0
    """The engine's, zero before it is known."""
    left: int = 1
    """Completions to come: a CANCEL may be several."""
    result: int = 0


@dataclass(eq=False)
class _Client:
    """One connection. ``life`` grows when its queue is disabled: what was submitted before is nobody's then."""

    connection: socket.socket
    opened: float
    reader: protocol.MessageReader = field(default_factory=protocol.MessageReader)
    out: bytearray = field(default_factory=bytearray)
    base: int = 0
    queue: VirtualQueue | None = None
    entries: set[_Entry] = field(default_factory=set)
    handles: set[int] = field(default_factory=set)
    wait: tuple[int, float, float] | None = None
    """Number of a WAIT, and when it ends by the engine's clock and by the wall's."""
    life: int = 0
    drained: bool = True
    """Nothing whole is left in the reader."""
    observes: bool = False
    """It has asked for the console, which needs no place."""
    closing: bool = False
    gone: bool = False


class LinkServer:
    """Serves ``device``'s engine at a UNIX-domain socket. It works in :meth:`step` only, and never blocks there.

    Parameters
    ----------
    device : Device
        Started, with ``shared_bytes`` for the clients' memory. The caller may go on using it.
    path : Path
        Of the socket; only the user may connect. A socket that nobody listens on any more is replaced.
    slice_bytes : int, multiple of the device's buffers' size
        Host memory of each client. There are as many clients as ``device.shared_bytes`` holds.

    Raises
    ------
    ValueError
        If the memory does not hold one client.
    OSError
        EADDRINUSE if somebody serves at ``path``, and what else the system says.
    """

    def __init__(self, device: Device, path: Path | str, *, slice_bytes: int = SLICE_BYTES):
        unit = device.block_bytes
        if slice_bytes < unit or slice_bytes % unit or slice_bytes > device.shared_bytes:
            raise ValueError(
                f"slice_bytes must be a multiple of {unit} up to the {device.shared_bytes} bytes of shared_bytes,"
                f" not {slice_bytes!r}"
            )
        self.device = device
        self.path = Path(path)
        self._slice_bytes = slice_bytes
        self.slices = device.shared_bytes // slice_bytes
        self._free = [device.shared_base + index * slice_bytes for index in reversed(range(self.slices))]
        self._clients: list[_Client] = []
        self._events: collections.deque[tuple[_Entry, int, bool]] = collections.deque()
        self._tasks: collections.deque[tuple[dict[str, int], _Entry | None]] = collections.deque()
        """What the server itself submits: cancels and aborts."""
        self._listener = _listen(self.path)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._closed = False
        self._console_read = 0.0

    @property
    def clients(self) -> int:
        """Programs that are connected."""
        return sum(client.queue is not None and not client.gone for client in self._clients)

    @property
    def draining(self) -> int:
        """Programs that are gone, but whose operations the engine has not ended yet."""
        return sum(client.gone for client in self._clients)

    def step(self, wait: float = 0.0) -> None:
        """Serve everybody once; ``wait`` is for how many seconds of wall-clock time it may wait for a message first.

        Call it again and again, and let the engine work in between (:meth:`Device.advance`).
        """
        began = time.monotonic()
        timeout = wait
        while True:
            ready = self._selector.select(timeout)
            asked = False
            for key, mask in ready:
                if key.fileobj is self._listener:
                    self._accept()
                else:
                    asked |= self._serve(key.data, mask)
            asked |= self._move()
            if not asked or time.monotonic() - began > wait + TURN_SECONDS:
                break
            timeout = GRACE_SECONDS
        now = time.monotonic()
        for client in list(self._clients):
            waits = client.queue is None and not client.observes
            if waits and not client.closing and now - client.opened > HELLO_SECONDS:
                self._fail(client, 0, 0, errno.ETIMEDOUT, f"HELLO must come within {HELLO_SECONDS:g} s")

    def close(self) -> None:
        """Close all connections and the socket. What the clients left open in the engine is aborted, without waiting."""
        if self._closed:
            return
        self._closed = True
        for client in list(self._clients):
            self._drop(client)
        with contextlib.suppress(OSError):
            self._move()
        self._selector.close()
        self._listener.close()
        with contextlib.suppress(OSError):
            self.path.unlink()

    def __enter__(self) -> LinkServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- Connections -----------------------------------------------------------------------------------------------

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it went away again, or there are too many files
            return
        connection.setblocking(False)
        client = _Client(connection, time.monotonic())
        self._clients.append(client)
        self._selector.register(connection, selectors.EVENT_READ, client)

    def _serve(self, client: _Client, mask: int) -> bool:
        """Send and take what the connection is ready for; whether there was a request."""
        if client.gone:
            return False
        if mask & selectors.EVENT_WRITE:
            self._flush(client)
        if client.gone or client.out or client.closing or not mask & selectors.EVENT_READ:
            return False
        if not client.drained:
            return self._take(client)
        try:
            data = client.connection.recv(protocol.MAX_DATA_BYTES)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._drop(client)
            return False
        client.reader.feed(data)
        return self._take(client)

    def _take(self, client: _Client) -> bool:
        """Answer requests that have come whole, until a reply cannot be sent at once; whether there were any."""
        taken = False
        for _ in range(MESSAGES_A_TURN):
            if client.gone or client.closing or client.out:
                break
            try:
                message = client.reader.next()
                client.drained = message is None
                if message is None:
                    break
                taken = True
                self._answer(client, message, protocol.check_request(message))
            except ProtocolError as error:
                self._fail(client, 0, 0, errno.EPROTO, str(error))
        return taken

    def _answer(self, client: _Client, message: Message, operation: LinkOperation) -> None:
        if operation is LinkOperation.HELLO:
            self._welcome(client, message)
            return
        if operation is LinkOperation.CONSOLE:
            self._show_console(client, message)
            return
        if client.queue is None:
            raise ProtocolError(f"the first request must be HELLO, not {operation.name}")
        try:
            body = self._result(client, client.queue, message, operation)
        except ProtocolError:
            raise
        except OSError as error:
            text = protocol.encode_error(error.errno or errno.EIO, error.strerror or str(error))
            self._reply(client, message.number, operation, Status.REFUSED, text)
            return
        if body is not None:
            self._reply(client, message.number, operation, Status.OK, body)

    def _welcome(self, client: _Client, message: Message) -> None:
        magic, version, zero, wanted = protocol.HELLO.unpack(message.body)
        if magic != protocol.MAGIC or zero:
            raise ProtocolError(f"HELLO must begin with {protocol.MAGIC:#x}, not {magic:#x}")
        if client.queue is not None:
            raise ProtocolError("HELLO must come once, not twice")
        refusal = ""
        if version != protocol.PROTOCOL_VERSION:
            refusal = f"the server has protocol version {protocol.PROTOCOL_VERSION}, the client {version}"
        elif wanted != abi.ABI_VERSION:
            refusal = f"the engine has ABI version {abi.ABI_VERSION}, the client {wanted}"
        if refusal:
            self._fail(client, message.number, LinkOperation.HELLO, errno.EPROTO, refusal)
            return
        if not self._free:
            text = f"all {self.slices} places are taken"
            self._fail(client, message.number, LinkOperation.HELLO, errno.EBUSY, text)
            return
        client.base = self._free.pop()
        client.queue = VirtualQueue(self.device.link, client.base, self._slice_bytes)
        body = protocol.WELCOME.pack(
            protocol.MAGIC, protocol.PROTOCOL_VERSION, 0, abi.ABI_VERSION, client.base, self._slice_bytes
        )
        self._reply(client, message.number, LinkOperation.HELLO, Status.OK, body)

    def _show_console(self, client: _Client, message: Message) -> None:
        core, offset = protocol.CONSOLE.unpack(message.body)
        client.observes = True
        if core >= self.device.cores:
            text = protocol.encode_error(errno.EINVAL, f"core must be below {self.device.cores}, not {core}")
            self._reply(client, message.number, LinkOperation.CONSOLE, Status.REFUSED, text)
            return
        now = time.monotonic()
        try:
            if now - self._console_read > CONSOLE_SECONDS:
                self._console_read = now
                with self.device.lock:
                    self.device.read_console()
        except OSError as error:
            text = protocol.encode_error(error.errno or errno.EIO, error.strerror or str(error))
            self._reply(client, message.number, LinkOperation.CONSOLE, Status.REFUSED, text)
            return
        first, data = self.device.console_since(core, offset)
        body = protocol.ADDRESS.pack(first) + data[: protocol.MAX_DATA_BYTES]
        self._reply(client, message.number, LinkOperation.CONSOLE, Status.OK, body)

    def _result(self, client: _Client, queue: VirtualQueue, message: Message, operation: LinkOperation) -> bytes | None:
        """Body of the reply; None if it comes later. Raises the OSError that is the answer."""
        link = self.device.link
        if operation is LinkOperation.CSR_READ:
            (offset,) = protocol.CSR_READ.unpack(message.body)
            return protocol.WORD.pack(self._csr_read(queue, offset))
        if operation is LinkOperation.CSR_WRITE:
            self._csr_write(client, queue, *protocol.CSR_WRITE.unpack(message.body))
            return b""
        if operation is LinkOperation.READ:
            address, length = protocol.READ.unpack(message.body)
            if length > protocol.MAX_DATA_BYTES:
                raise OSError(errno.EINVAL, f"length must be at most {protocol.MAX_DATA_BYTES}, not {length}")
            _require_inside(queue, address, length)
            return link.read(address, length)
        if operation is LinkOperation.WRITE:
            (address,) = protocol.ADDRESS.unpack_from(message.body)
            data = message.body[protocol.ADDRESS.size :]
            _require_inside(queue, address, len(data))
            link.write(address, data)
            return b""
        if operation is LinkOperation.WAIT:
            (nanoseconds,) = protocol.NANOSECONDS.unpack(message.body)
            if nanoseconds > protocol.MAX_WAIT_NS:
                raise OSError(errno.EINVAL, f"a wait must be at most {protocol.MAX_WAIT_NS} ns, not {nanoseconds}")
            if client.wait is not None:
                raise OSError(errno.EBUSY, "a wait is under way already")
            client.wait = (message.number, link.clock() + nanoseconds / 1e9, time.monotonic() + WAIT_SECONDS)
            return None
        return protocol.NANOSECONDS.pack(int(link.clock() * 1e9))

    def _reply(self, client: _Client, number: int, operation: int, status: int, body: bytes) -> None:
        client.out += Message(number, operation, status, body).encode()
        self._flush(client)

    def _fail(self, client: _Client, number: int, operation: int, code: int, text: str) -> None:
        """Tell why, and close the connection when that is sent."""
        client.closing = True
        self._reply(client, number, operation, Status.CLOSED, protocol.encode_error(code, text))

    def _flush(self, client: _Client) -> None:
        if client.out and not client.gone:
            try:
                sent = client.connection.send(client.out)
                del client.out[:sent]
            except BlockingIOError:
                pass
            except OSError:
                self._drop(client)
                return
        if client.gone:
            return
        if client.closing and not client.out:
            self._drop(client)
        else:
            # Whoever does not read his replies is not asked for requests: nothing piles up here.
            events = selectors.EVENT_WRITE if client.out else selectors.EVENT_READ
            if self._selector.get_key(client.connection).events != events:
                self._selector.modify(client.connection, events, client)

    def _drop(self, client: _Client) -> None:
        """The client is gone: end all that it has under way. Its memory is free when the engine is done with it."""
        if client.gone:
            return
        client.gone = True
        client.wait = None
        self._selector.unregister(client.connection)
        client.connection.close()
        self._abandon(client)
        self._bury(client)

    def _bury(self, client: _Client) -> None:
        """Forget a client that is gone once nothing of it is under way."""
        if client.gone and not client.entries and not client.handles and client in self._clients:
            self._clients.remove(client)
            if client.queue is not None:
                self._free.append(client.base)

    # --- Registers -------------------------------------------------------------------------------------------------

    def _csr_read(self, queue: VirtualQueue, offset: int) -> int:
        _require_register(offset)
        name = queue.register_at(offset)
        if name is not None:
            return queue.read(name)
        if offset in CONSOLES:
            return 0  # the server's: a read would take a byte from it
        return self.device.link.csr_read(offset)

    def _csr_write(self, client: _Client, queue: VirtualQueue, offset: int, value: int) -> None:
        _require_register(offset)
        name = queue.register_at(offset)
        if name is not None:
            was = queue.enabled
            queue.write(name, value)
            if was and not queue.enabled:
                client.life += 1
                self._abandon(client)
        elif offset in WRITABLE:
            self.device.link.csr_write(offset, value)
        else:
            raise LinkError(errno.EPERM, f"register {offset:#x} of a shared engine must not be written")

    # --- Queues ----------------------------------------------------------------------------------------------------

    def _move(self) -> bool:
        """Completions to the clients, entries of the clients to the engine, answers to those who wait; whether any got one."""
        self.device.poll()
        self._deliver()
        self._submit_tasks()
        self._submit_entries()
        now, wall = self.device.link.clock(), time.monotonic()
        answered = False
        for client in list(self._clients):
            if not client.gone and client.queue is not None and client.wait is not None:
                number, until, bound = client.wait
                up = client.queue.irq
                if up or now >= until or wall >= bound:
                    client.wait = None
                    answered = True
                    left = max(0, round((until - now) * 1e9))
                    self._reply(client, number, LinkOperation.WAIT, Status.OK, protocol.WAITED.pack(up, left))
            # Requests may wait behind a reply that had to be sent first.
            answered |= self._take(client)
            self._bury(client)
        return answered

    def _submit(self, values: dict[str, int], entry: _Entry | None) -> None:
        if entry is None:
            self.device.submit_raw(values)
            return
        # Callbacks may run in any thread that uses the device.
        pending = self.device.submit_raw(
            values,
            on_more=lambda result: self._events.append((entry, result, True)),
            on_done=lambda result: self._events.append((entry, result, False)),
        )
        entry.user_data = entry.user_data or pending.user_data

    def _submit_tasks(self) -> None:
        while self._tasks and self.device.room > 0:
            self._submit(*self._tasks.popleft())

    def _submit_entries(self) -> None:
        """One entry of each client in turn, while there is room."""
        if not self._clients:
            return
        self._clients.append(self._clients.pop(0))  # another one is first each time
        going = True
        while going:
            going = False
            for client in self._clients:
                queue = client.queue
                if client.gone or queue is None or any(entry.life != client.life for entry in client.entries):
                    continue  # the engine may still write where the entries of its former life said
                if len(client.entries) + queue.backlog >= MOST_OPERATIONS:
                    continue
                values = queue.fetch()
                if values is None:
                    continue
                if self._tasks or self.device.room <= RESERVED_ENTRIES:
                    return
                queue.fetched()
                going = True
                self._submit_entry(client, queue, values)

    def _submit_entry(self, client: _Client, queue: VirtualQueue, values: dict[str, int]) -> None:
        entry = _Entry(client, values["operation"], values["handle"], values["user_data"], client.life)
        operation = entry.operation
        if operation in HANDLE_OPERATIONS and entry.handle not in client.handles:
            values["handle"] = 0  # nobody's: -EBADF
        if operation in BUFFER_OPERATIONS and values["length"] and not queue.inside(values["buffer"], values["length"]):
            values["buffer"] |= BEYOND
        if operation in ADDRESS_OPERATIONS:
            address = values["inline"] & WORD_PAIR
            if address and not queue.inside(address, ADDRESS_BYTES):
                values["inline"] |= BEYOND
        client.entries.add(entry)
        if operation == Operation.CANCEL:
            named = values["inline"] & WORD_PAIR
            rest = values["inline"] & ~WORD_PAIR
            targets = [other.user_data for other in client.entries if other.named == named and other.user_data]
            # Without a target the engine still looks at the entry, and finds nothing to cancel.
            targets = targets or [0]
            entry.left = len(targets)
            for target in targets:
                self._tasks.append((values | {"inline": rest | target}, entry))
            self._submit_tasks()
        else:
            self._submit(values, entry)

    def _deliver(self) -> None:
        while self._events:
            entry, result, more = self._events.popleft()
            client = entry.client
            alive = not client.gone and entry.life == client.life and client.queue is not None
            if more:
                waiting = client.queue.backlog if client.queue is not None else 0
                if alive and waiting < MOST_ACCEPTED:
                    self._grant(client, entry, result)
                    self._post(client, entry.named, result, True)
                elif result > 0:
                    self._abort(result)
                continue
            entry.left -= 1
            if entry.result >= 0:
                entry.result = result
            if entry.left:
                continue
            client.entries.discard(entry)
            if entry.operation in GRANTS and result > 0:
                if alive:
                    self._grant(client, entry, result)
                else:
                    self._abort(result)
            elif entry.operation in ENDS and result not in KEEP_HANDLE:
                client.handles.discard(entry.handle)
            if alive:
                self._post(client, entry.named, entry.result, False)

    @staticmethod
    def _grant(client: _Client, entry: _Entry, result: int) -> None:
        if result > 0 and (entry.operation in GRANTS or entry.operation == Operation.TCP_ACCEPT):
            client.handles.add(result)

    @staticmethod
    def _post(client: _Client, user_data: int, result: int, more: bool) -> None:
        if client.queue is not None:
            client.queue.post(user_data, result, more)

    def _abandon(self, client: _Client) -> None:
        """Abort what the client has open and cancel what it has under way."""
        for handle in client.handles:
            self._abort(handle)
        client.handles.clear()
        for entry in client.entries:
            if entry.operation != Operation.CANCEL:
                self._tasks.append(({"operation": Operation.CANCEL, "inline": entry.user_data}, None))

    def _abort(self, handle: int) -> None:
        self._tasks.append(({"operation": Operation.ABORT, "handle": handle}, None))


def _require_register(offset: int) -> None:
    if offset % 4 or offset >= memory_map.HOST_CSR_BYTES:
        raise OSError(errno.EINVAL, f"offset must be a multiple of 4 below the end of the page, not {offset:#x}")


def _require_inside(queue: VirtualQueue, address: int, length: int) -> None:
    if not queue.inside(address, length):
        raise OSError(errno.EFAULT, f"address must lie within the client's memory, not {address:#x} + {length}")


def _listen(path: Path) -> socket.socket:
    """A listening socket at ``path``, for this user only."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                try:
                    probe.connect(str(path))
                except ConnectionRefusedError:
                    path.unlink()
                else:
                    raise OSError(errno.EADDRINUSE, f"somebody serves at {path} already")
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen()
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
