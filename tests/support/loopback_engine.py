"""An engine in a few lines of Python whose sockets talk to each other: for tests of the host library without a simulation.

It follows ``docs/host-interface.md`` as hardware does: it works while the host does other things, interrupts, and answers from
any thread. It knows one host with the addresses 127.0.0.1, 192.168.77.1 and ::1.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import ipaddress
import itertools
import threading
import time

from twinstack.proto import abi
from twinstack.proto.queues import AF_INET, CQE, SQE, Operation, SocketOption
from twinstack.proto.registers import ENGINE, HOST_CORE, QUEUE
from twinstack_host.address import pack_socket_address, unpack_socket_address
from twinstack_host.link import HostLink, LinkError
from twinstack_host.registers import Registers

BASE = 0x4000_0000
LOCAL = ("127.0.0.1", "192.168.77.1", "::1")
SILENT = "192.168.77.99"
SEND_BUFFER, WINDOW = 8 * 1460, 2 * 1460
KEPT_DATAGRAMS = 4
DEFAULTS = {
    SocketOption.NODELAY: 1,
    SocketOption.RCVBUF: WINDOW,
    SocketOption.SNDBUF: SEND_BUFFER,
    SocketOption.TTL: 255,
}


def at(block, name: str, instance: int = 0) -> int:
    return Registers.address(block, name, instance=instance)


class Connection:
    def __init__(self, handle, local, remote):
        self.handle, self.local, self.remote = handle, local, remote
        self.other: Connection | None = None
        self.out, self.inbox = bytearray(), bytearray()
        self.sends: collections.deque = collections.deque()
        self.receives: collections.deque = collections.deque()
        self.shutdown: int | None = None
        self.fin_wanted = self.fin_sent = self.fin_seen = self.closed = False
        self.reset = 0
        self.options: dict[int, int] = {}


class Datagram:
    def __init__(self, handle, local):
        self.handle, self.local, self.peer = handle, local, None
        self.kept: collections.deque = collections.deque()
        self.receives: collections.deque = collections.deque()
        self.options: dict[int, int] = {}


class Listening:
    def __init__(self, handle, address, backlog):
        self.handle, self.address, self.backlog = handle, address, backlog
        self.accept: int | None = None
        self.waiting: collections.deque = collections.deque()
        self.options: dict[int, int] = {}


class LoopbackEngine(HostLink):
    """The engine; ``silent`` names operations that get no answer, ``answers`` results instead of the usual ones."""

    def __init__(self, memory_size: int = 1 << 18):
        self.memory = bytearray(memory_size)
        self.mutex = threading.RLock()
        self.interrupt = threading.Event()
        self.values = {
            at(ENGINE, "magic"): abi.MAGIC,
            at(ENGINE, "abi"): abi.ABI_VERSION,
            at(ENGINE, "identity"): 2 | 2 << 4 | 1 << 8 | 96 << 16,
            at(ENGINE, "sync_hz"): 75_000_000,
        }
        self.sq_head = self.cq_tail = 0
        self.backlog: collections.deque = collections.deque()
        self.objects: dict[int, object] = {}
        self.generation = itertools.count(1)
        self.ports = itertools.cycle(range(50000, 60000))
        self.silent: set[int] = set()
        self.answers: dict[int, int] = {}
        self.names: dict[str, str] = {}
        self.taken: list[dict[str, int]] = []
        self.waits = 0
        self.broken = False
        self.most_at_once = 1 << 16
        """Entries that are fetched in one go; the next come in the next turn."""
        self.epochs = [0, 0]

    # --- HostLink --------------------------------------------------------------------------------------------------

    @property
    def memory_base(self) -> int:
        return BASE

    @property
    def memory_size(self) -> int:
        return len(self.memory)

    def clock(self) -> float:
        return time.monotonic()

    def read(self, address: int, length: int) -> bytes:
        assert BASE <= address and address + length <= BASE + len(self.memory)
        return bytes(self.memory[address - BASE : address - BASE + length])

    def write(self, address: int, data: bytes) -> None:
        assert BASE <= address and address + len(data) <= BASE + len(self.memory)
        self.memory[address - BASE : address - BASE + len(data)] = data

    def wait_interrupt(self, timeout: float) -> bool:
        self.waits += 1
        self.interrupt.wait(timeout)
        self._check()
        return self.interrupt.is_set()

    def _check(self) -> None:
        if self.broken:
            raise LinkError(errno.EIO, "the cable is out")

    def csr_read(self, offset: int) -> int:
        self._check()
        with self.mutex:
            for core in range(2):
                if offset == at(HOST_CORE, "console", core):
                    return 0
                if offset == at(HOST_CORE, "status", core):
                    return abi.ABI_VERSION | self.epochs[core] << 16 | 1 << 31
            if offset == at(QUEUE, "sq_head"):
                return self.sq_head
            return self.values.get(offset, 0)

    def csr_write(self, offset: int, value: int) -> None:
        self._check()
        with self.mutex:
            self.values[offset] = value
            if offset == at(ENGINE, "reset_cores"):
                self.values[at(ENGINE, "alive")] = 0 if value else 3
            elif offset == at(QUEUE, "control") and not value >> 31:
                self.sq_head = self.cq_tail = 0
            elif offset == at(QUEUE, "sq_tail"):
                self._serve()
            elif offset == at(QUEUE, "cq_head"):
                self._flush()

    def reset_core(self, core: int) -> None:
        """A core is reset and lives again: nothing that it had completes."""
        with self.mutex:
            self.epochs[core] += 1
            for handle, one in list(self.objects.items()):
                if handle >> 28 == core:
                    del self.objects[handle]
                    one.receives.clear()
                    if isinstance(one, Connection):
                        one.sends.clear()
                        one.shutdown = None

    # --- Rings -----------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        entries = 1 << (self.values.get(at(QUEUE, "control"), 0) & 15)
        most = self.most_at_once
        while most and self.sq_head != self.values.get(at(QUEUE, "sq_tail"), 0):
            most -= 1
            base = self.values[at(QUEUE, "sq_base")] + self.sq_head % entries * 64
            entry = SQE.unpack(self.read(base, 64))
            self.sq_head = (self.sq_head + 1) & 0xFFFF
            self.taken.append(entry)
            kind = Operation(entry["operation"])
            if kind in self.silent:
                continue
            answer = self.answers.get(kind)
            if answer is None:
                answer = getattr(self, f"do_{kind.name.lower()}")(entry)
            if answer is not None:
                self.complete(entry["user_data"], answer)

    def complete(self, user_data: int, result: int, more: int = 0) -> None:
        with self.mutex:
            self.backlog.append({"user_data": user_data, "result": result & 0xFFFF_FFFF, "more": more})
            self._flush()

    def _flush(self) -> None:
        entries = 1 << (self.values.get(at(QUEUE, "control"), 0) >> 4 & 15)
        head = self.values.get(at(QUEUE, "cq_head"), 0)
        while self.backlog and (self.cq_tail - head) & 0xFFFF < entries:
            fields = self.backlog.popleft() | {"phase": 1 ^ (self.cq_tail // entries & 1)}
            self.write(self.values[at(QUEUE, "cq_base")] + self.cq_tail % entries * 16, CQE.pack(fields))
            self.cq_tail = (self.cq_tail + 1) & 0xFFFF
        (self.interrupt.set if self.cq_tail != head else self.interrupt.clear)()

    def _new(self, core: int, index: int) -> int:
        return core << 28 | index << 16 | next(self.generation)

    def _address(self, entry) -> tuple:
        return unpack_socket_address(entry["inline"].to_bytes(32, "little"))[:2]

    def _write_address(self, where: int, address, extra: int = 0) -> None:
        self.write(where, pack_socket_address(address[0], address[1], extra=extra))

    # --- Operations ------------------------------------------------------------------------------------------------

    def do_nop(self, entry):
        return 0

    def do_tcp_listen(self, entry):
        host, port = self._address(entry)
        anywhere = ("0.0.0.0", "::")
        for one in self.objects.values():
            if isinstance(one, Listening) and one.address[1] == port:
                if one.address[0] == host or host in anywhere or one.address[0] in anywhere:
                    return -errno.EADDRINUSE
        if host not in (*LOCAL, *anywhere):
            return -errno.EADDRNOTAVAIL
        listener = Listening(self._new(7, 1), (host, port), entry["length"])
        self.objects[listener.handle] = listener
        return listener.handle

    def do_tcp_accept(self, entry):
        listener = self.objects.get(entry["handle"])
        if not isinstance(listener, Listening):
            return -errno.EBADF
        listener.accept = entry["user_data"]
        while listener.waiting:
            self.complete(listener.accept, listener.waiting.popleft().handle, more=1)
        return None

    def do_tcp_connect(self, entry):
        host, port = self._address(entry)
        if host == SILENT:
            return None
        if host not in LOCAL:
            return -errno.ENETUNREACH
        for listener in self.objects.values():
            if isinstance(listener, Listening) and listener.address[1] == port:
                if listener.address[0] in (host, "0.0.0.0", "::"):
                    break
        else:
            return -errno.ECONNREFUSED
        local = (host, entry["operation_flags"] or next(self.ports))
        one = Connection(self._new(0, 2), local, (host, port))
        two = Connection(self._new(1, 3), (host, port), local)
        one.other, two.other = two, one
        self.objects[one.handle], self.objects[two.handle] = one, two
        if listener.accept is None:
            listener.waiting.append(two)
        else:
            self.complete(listener.accept, two.handle, more=1)
        return one.handle

    def do_send(self, entry):
        one = self.objects.get(entry["handle"])
        if isinstance(one, Datagram):
            if one.peer is None:
                return -errno.EDESTADDRREQ
            return self._send_datagram(one, one.peer, entry)
        if not isinstance(one, Connection):
            return -errno.EBADF
        if one.reset:
            return -one.reset
        if one.fin_wanted:
            return -errno.EPIPE
        one.sends.append([entry["user_data"], entry["length"], self.read(entry["buffer"], entry["length"])])
        self._move(one)
        return None

    def do_recv(self, entry):
        one = self.objects.get(entry["handle"])
        if isinstance(one, Datagram):
            return self.do_recvfrom(entry)
        if not isinstance(one, Connection):
            return -errno.EBADF
        one.receives.append((entry["user_data"], entry["buffer"], entry["length"]))
        self._fill(one)
        return None

    def _move(self, one: Connection) -> None:
        """Let what can go on go on, from the program at ``one`` to the other end."""
        other = one.other
        while True:
            moved = False
            while one.sends and len(one.out) < SEND_BUFFER:
                user_data, length, data = one.sends[0]
                space = SEND_BUFFER - len(one.out)
                one.out += data[:space]
                one.sends[0][2] = data[space:]
                moved = True
                if len(data) <= space:
                    one.sends.popleft()
                    self.complete(user_data, length)
            room = WINDOW - len(other.inbox)
            if one.out and room > 0 and not other.reset:
                other.inbox += one.out[:room]
                del one.out[:room]
                moved = True
                self._fill(other, again=False)
            if not moved:
                break
        if one.fin_wanted and not one.out and not one.sends and not one.fin_sent:
            one.fin_sent = other.fin_seen = True
            self._fill(other, again=False)
            if one.shutdown is not None:
                self.complete(one.shutdown, 0)

    def _fill(self, one: Connection, again: bool = True) -> None:
        if one.closed:
            if one.inbox:
                one.inbox.clear()
                self._reset(one.other)
            return
        while one.receives and (one.inbox or one.fin_seen or one.reset):
            user_data, buffer, length = one.receives.popleft()
            piece = bytes(one.inbox[:length])
            del one.inbox[: len(piece)]
            self.write(buffer, piece)
            self.complete(user_data, len(piece) or -one.reset)
        if again and one.other is not None:
            self._move(one.other)

    def _reset(self, one: Connection) -> None:
        one.reset = errno.ECONNRESET
        one.out.clear()
        while one.sends:
            self.complete(one.sends.popleft()[0], -one.reset)
        if one.shutdown is not None and not one.fin_sent:
            self.complete(one.shutdown, -one.reset)
        self._fill(one, again=False)

    def do_shutdown(self, entry):
        one = self.objects.get(entry["handle"])
        if not isinstance(one, Connection):
            return -errno.EBADF
        if one.reset:
            return -one.reset
        one.fin_wanted, one.shutdown = True, entry["user_data"]
        self._move(one)
        return None

    def do_close(self, entry, abort: bool = False):
        one = self.objects.pop(entry["handle"], None)
        if one is None:
            return -errno.EBADF
        if isinstance(one, Listening):
            if one.accept is not None:
                self.complete(one.accept, -errno.ECANCELED)
            for left in one.waiting:
                self._reset(left.other)
            return 0
        for receive in one.receives:
            self.complete(receive[0], -errno.ECANCELED)
        one.receives.clear()
        if isinstance(one, Datagram):
            return 0
        while one.sends:
            self.complete(one.sends.popleft()[0], -errno.ECANCELED)
        one.closed = one.fin_wanted = True
        if abort or one.inbox:
            self._reset(one.other)
        elif not one.reset:
            self._move(one)
        return 0

    def do_abort(self, entry):
        return self.do_close(entry, abort=True)

    def do_cancel(self, entry):
        wanted = entry["inline"] & (1 << 64) - 1
        for one in self.taken:
            if one["user_data"] == wanted and one["operation"] == Operation.TCP_CONNECT:
                self.complete(wanted, -errno.ECANCELED)
        return 0

    def do_getsockname(self, entry):
        one = self.objects.get(entry["handle"])
        if one is None:
            return -errno.EBADF
        self._write_address(entry["buffer"], one.local)
        return 32

    def do_getpeername(self, entry):
        one = self.objects.get(entry["handle"])
        if one is None:
            return -errno.EBADF
        self._write_address(entry["buffer"], one.remote)
        return 32

    def do_setsockopt(self, entry):
        one = self.objects.get(entry["handle"])
        if one is None:
            return -errno.EBADF
        option = entry["operation_flags"]
        if option == SocketOption.PEER:
            one.peer = self._address(entry)
        else:
            one.options[option] = entry["inline"]
        return 0

    def do_getsockopt(self, entry):
        one = self.objects.get(entry["handle"])
        return (
            -errno.EBADF
            if one is None
            else one.options.get(entry["operation_flags"], DEFAULTS.get(entry["operation_flags"], 0))
        )

    def do_udp_open(self, entry):
        host, port = self._address(entry)
        if port == 0:
            port = next(self.ports)
        if any(isinstance(one, Datagram) and one.local[1] == port for one in self.objects.values()):
            return -errno.EADDRINUSE
        one = Datagram(self._new(1, 9), (host, port))
        self.objects[one.handle] = one
        return one.handle

    def do_sendto(self, entry):
        return self._send_datagram(self.objects[entry["handle"]], self._address(entry), entry)

    def _send_datagram(self, one, to, entry):
        data = self.read(entry["buffer"], entry["length"])
        host = one.local[0]
        if host in ("0.0.0.0", "::"):
            host = to[0]
        if to[0] == "255.255.255.255":
            return len(data) if one.options.get(SocketOption.BROADCAST) else -errno.EACCES
        for other in self.objects.values():
            if isinstance(other, Datagram) and other.local[1] == to[1]:
                if other.peer in (None, (host, one.local[1])) and len(other.kept) < KEPT_DATAGRAMS:
                    other.kept.append((data, (host, one.local[1])))
                    self._fill_datagrams(other)
        return len(data)

    def do_recvfrom(self, entry):
        one = self.objects.get(entry["handle"])
        if one is None:
            return -errno.EBADF
        one.receives.append((entry["user_data"], entry["buffer"], entry["length"], entry["inline"] & (1 << 64) - 1))
        self._fill_datagrams(one)
        return None

    def _fill_datagrams(self, one: Datagram) -> None:
        while one.kept and one.receives:
            data, sender = one.kept.popleft()
            user_data, buffer, length, where = one.receives.popleft()
            self.write(buffer, data[:length])
            self._write_address(where, sender, extra=len(data))
            self.complete(user_data, min(len(data), length))

    def do_resolve(self, entry):
        name = self.read(entry["buffer"], entry["length"]).decode()
        found = self.names.get(name)
        if found is None:
            return -errno.ENOENT
        version = 4 if entry["operation_flags"] == AF_INET else 6
        if entry["operation_flags"] and ipaddress.ip_address(found).version != version:
            return -errno.ENOENT
        self._write_address(entry["inline"] & (1 << 64) - 1, (found, 0))
        return 32


class TurnEngine(LoopbackEngine):
    """The same as a simulation in the process: it works only while a call waits, on its own time, and calls must not overlap."""

    SLICE = 0.001

    def __init__(self, memory_size: int = 1 << 18):
        super().__init__(memory_size)
        self.now = 0.0
        self._call = threading.Lock()
        self._inside = 0

    @property
    def work_slice(self) -> float | None:
        return self.SLICE

    @contextlib.contextmanager
    def _alone(self):
        me = threading.get_ident()
        if self._inside == me:  # its own calls
            yield
            return
        assert self._call.acquire(blocking=False), "calls of a link that works in turns must not overlap"
        self._inside = me
        try:
            yield
        finally:
            self._inside = 0
            self._call.release()

    def clock(self) -> float:
        with self._alone():
            return self.now

    def read(self, address: int, length: int) -> bytes:
        with self._alone():
            return super().read(address, length)

    def write(self, address: int, data: bytes) -> None:
        with self._alone():
            super().write(address, data)

    def csr_read(self, offset: int) -> int:
        with self._alone():
            return super().csr_read(offset)

    def csr_write(self, offset: int, value: int) -> None:
        with self._alone():
            if offset == at(QUEUE, "sq_tail"):
                self.values[offset] = value  # taken in the next turn
            else:
                super().csr_write(offset, value)

    def wait_interrupt(self, timeout: float) -> bool:
        with self._alone():
            self._check()
            self.waits += 1
            self.now += timeout
            time.sleep(0.00002)
            self._serve()
            return self.interrupt.is_set()
