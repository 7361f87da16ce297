"""An engine and its queues: boot, submit, complete."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from twinstack.proto import abi
from twinstack.proto.image import check_image
from twinstack.proto.layout import Layout
from twinstack.proto.queues import (
    CQE,
    DISPATCH_CONFIG,
    NETIF_STATUS,
    SQE,
    STATS,
    DispatchFlag,
    Operation,
)
from twinstack.proto.registers import DISPATCH, ENGINE, HOST_CORE, QUEUE, WINDOW

from .dispatch import DispatchConfig
from .fair_lock import FairLock
from .link import HostLink, LinkError
from .loader import Loader
from .memory import BlockPool
from .netif import NetifStatus, config_block
from .probe import ProbeAnswer, ask
from .registers import Registers

if TYPE_CHECKING:
    from .reactor import Reactor
    from .socket import SocketModule

BLOCK_BYTES = 4096
"""A buffer, where host memory is large."""
SIZES = ((64 * 1024, 64, 256, BLOCK_BYTES), (16 * 1024, 16, 64, 1024), (0, 8, 32, 512))
"""From this size of host memory on: entries of both rings, bytes of a buffer."""

CONSOLE_VALID = 1 << 31
CONSOLE_AT_ONCE = 32
CONSOLE_BYTES = 1 << 16
"""Kept of what a core has printed."""
LOAD_BYTES = 4096
"""Of a firmware image between two reports of progress."""

DEFAULT_KEY = bytes.fromhex("6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa")
"""Toeplitz key of the published RSS verification suite, set where nobody has set one: a zero key hashes all to zero."""


class EngineError(OSError):
    """The engine, or an operation on it, failed."""


class AbiMismatch(EngineError):
    """Engine and host library, or engine and firmware, speak different ABI versions."""


@dataclass
class Pending:
    """An operation that was submitted.

    ``result`` is that of the final completion, once ``done``. ``on_more`` gets the result of each earlier completion
    of a multishot operation. ``user_data`` names it to CANCEL.
    """

    operation: Operation
    on_more: Callable[[int], None] | None = None
    on_done: Callable[[int], None] | None = None
    done: bool = False
    result: int = 0
    buffers: list[int] = field(default_factory=list)
    user_data: int = 0
    handle: int = 0


def error_for(code: int, what: str) -> OSError:
    """The exception for a negative Linux errno; the standard subclass where Python has one."""
    return OSError(-code, f"{what}: {errno.errorcode.get(-code, str(-code))}")


class Device:
    """One engine, its submission and completion queue and its buffers.

    Thread safe: several threads may submit and wait at the same time.

    Parameters
    ----------
    link : HostLink
        Way to the engine.
    sq_entries, cq_entries : int, powers of two
        Ring sizes; default: by the size of host memory, :data:`SIZES`, as that of buffers.
    timeout : float
        Seconds of engine time that an operation which needs no peer may take, and the start of the cores.
    shared_bytes : int, multiple of 4096, or of a buffer's size where that is smaller
        Bytes at the end of host memory that the engine may use, too, but that this Device leaves to others
        (:class:`.server.LinkServer` gives them to its clients).

    Raises
    ------
    LinkError, AbiMismatch
        If there is no engine, or one of another ABI.
    ValueError
        If the rings are no powers of two, or do not fit into host memory.
    """

    def __init__(
        self,
        link: HostLink,
        *,
        sq_entries: int | None = None,
        cq_entries: int | None = None,
        timeout: float = 5.0,
        shared_bytes: int = 0,
    ):
        chosen = next(sizes for sizes in SIZES if link.memory_size >= sizes[0])
        self.block_bytes = chosen[3]
        sq_entries = chosen[1] if sq_entries is None else sq_entries
        cq_entries = chosen[2] if cq_entries is None else cq_entries
        for name, entries in (("sq_entries", sq_entries), ("cq_entries", cq_entries)):
            if entries < 2 or entries > 1 << 15 or entries & (entries - 1):
                raise ValueError(f"{name} must be a power of two from 2 to 32768, not {entries!r}")
        if shared_bytes < 0 or shared_bytes % self.block_bytes:
            raise ValueError(f"shared_bytes must be a multiple of {self.block_bytes}, not {shared_bytes!r}")
        self.link = link
        self.timeout = timeout
        self.lock = FairLock()
        self.registers = Registers(link, self.lock)
        magic = self.registers.read(ENGINE, "magic")
        if magic != abi.MAGIC:
            raise LinkError(errno.ENODEV, f"no engine: its magic must be {abi.MAGIC:#010x}, not {magic:#010x}")
        self.abi = self.registers.read(ENGINE, "abi")
        if self.abi != abi.ABI_VERSION:
            raise AbiMismatch(errno.EPROTO, f"host library has ABI version {abi.ABI_VERSION}, the engine {self.abi}")
        identity = self.registers.read_fields(ENGINE, "identity")
        self.cores = identity["cores"]
        self.ports = identity["ports"]
        self.code_bytes = identity["code_kib"] * 1024
        self.sync_hz = self.registers.read(ENGINE, "sync_hz")
        self.reactor: Reactor | None = None
        self.follow_up: Callable[[], None] | None = None
        self._sq_entries, self._cq_entries = sq_entries, cq_entries
        ring_bytes = sq_entries * SQE.size_bytes + cq_entries * CQE.size_bytes
        first = -(-ring_bytes // self.block_bytes) * self.block_bytes
        least = first + self.block_bytes + shared_bytes
        if link.memory_size < least:
            raise ValueError(f"host memory must have at least {least} bytes, not {link.memory_size!r}")
        self._sq_base = link.memory_base
        self._cq_base = link.memory_base + sq_entries * SQE.size_bytes
        self.pool = BlockPool(link.memory_base + first, link.memory_size - first - shared_bytes, self.block_bytes)
        self.shared_base = self.pool.base + self.pool.count * self.block_bytes
        self.shared_bytes = shared_bytes
        self._sq_tail = self._sq_head = self._cq_head = 0
        self._next_user_data = 1
        self._pending: dict[int, Pending] = {}
        self._console = [bytearray() for _ in range(self.cores)]
        self.console_text = ["" for _ in range(self.cores)]
        self.console_dropped = [0] * self.cores
        """Bytes before those that are kept."""
        self.unexpected: list[tuple[int, int]] = []

    # --- Boot ------------------------------------------------------------------------------------------------------

    def load(self, image: bytes, *, progress: Callable[[int, int], None] | None = None) -> None:
        """Hold all cores, check ``image`` and put its body into code memory.

        Raises
        ------
        twinstack.proto.image.ImageError
            If the image must not be loaded; nothing was written then.
        EngineError
            If the engine is shared: the program that serves it has booted it.
        """
        if self.link.is_shared:
            raise EngineError(errno.EPERM, "the engine is shared and runs already: it cannot be loaded from here")
        body = check_image(image, engine_abi=self.abi, code_bytes=self.code_bytes)
        self._await_loader()
        with self.lock:
            self.registers.write(ENGINE, "reset_cores", (1 << self.cores) - 1)
            refused = self.registers.read(ENGINE, "code_refused")
            self.registers.write(ENGINE, "code_address", 0)
            for offset in range(0, len(body), LOAD_BYTES):
                piece = body[offset : offset + LOAD_BYTES]
                words = [int.from_bytes(piece[at : at + 4], "little") for at in range(0, len(piece), 4)]
                self.registers.write_all(ENGINE, "code_data", words)
                if progress is not None:
                    progress(offset, len(body))
            if self.registers.read(ENGINE, "code_refused") != refused:
                raise EngineError(errno.EIO, "the engine refused words of the firmware image")

    def start(self, *, seed: int) -> None:
        """Set up queues and windows, let the cores run, and wait until all have reported their stacks up.

        On an engine that is shared (:attr:`.link.HostLink.is_shared`) the same as :meth:`attach`.

        Raises
        ------
        AbiMismatch
            If a core's firmware has another ABI than the engine; both versions are named.
        EngineError
            If a core does not report within :attr:`timeout`.
        """
        self.close()
        if self.link.is_shared:
            self.attach()
            return
        self._await_loader()
        registers = self.registers
        with self.lock:
            registers.write(ENGINE, "reset_cores", (1 << self.cores) - 1)
            registers.write(ENGINE, "seed", seed & 0xFFFFFFFF or 1)
            if not any(registers.read(DISPATCH, "key", index=index) for index in range(10)):
                self.set_hash_key(DEFAULT_KEY)
            registers.write(QUEUE, "control", 0)
            self._set_up_window()
            self._set_up_queue()
            registers.write(ENGINE, "reset_cores", 0)
            deadline = self.link.clock() + self.timeout
            while registers.read(ENGINE, "alive") != (1 << self.cores) - 1:
                for core in range(self.cores):
                    status = registers.read_fields(HOST_CORE, "status", instance=core)
                    if status["firmware_abi"] not in (0, self.abi):
                        self.read_console()
                        raise AbiMismatch(
                            errno.EPROTO,
                            f"core {core}: firmware has ABI version {status['firmware_abi']}, the engine {self.abi}",
                        )
                if self.link.clock() > deadline:
                    self.read_console()
                    raise EngineError(
                        errno.ETIMEDOUT,
                        f"cores did not report their stacks up within {self.timeout} s; consoles: {self.console_text!r}",
                    )
                self.link.wait_interrupt(0.001)
            self.read_console()

    def _await_loader(self) -> None:
        """A board boots for a while after power-up; until then, code memory and the cores are its loader's."""
        if self.link.loader is not None:
            Loader(self.link).wait()

    def attach(self) -> None:
        """Set up this program's queue on a running engine, which somebody else has started.

        Raises
        ------
        EngineError
            If not all cores are alive.
        """
        with self.lock:
            alive = self.registers.read(ENGINE, "alive")
            if alive != (1 << self.cores) - 1:
                raise EngineError(errno.ENODEV, f"the engine must run with all {self.cores} cores, not {alive:#x}")
            self.registers.write(QUEUE, "control", 0)
            if not self.link.is_shared:
                self._set_up_window()
            self._set_up_queue()

    def _set_up_window(self) -> None:
        """What the engine may reach: the buffers, and what is left to others."""
        self.registers.write(WINDOW, "base", self.pool.base)
        self.registers.write(WINDOW, "limit", self.shared_base + self.shared_bytes - 1)
        self.registers.write_fields(WINDOW, "control", read=1, write=1)

    def _set_up_queue(self) -> None:
        """Empty rings, and the queue enabled; it must be disabled."""
        registers = self.registers
        self._sq_tail = self._sq_head = self._cq_head = 0
        self._end_all()  # nothing of it completes any more
        self.link.write(self._sq_base, bytes(self.pool.base - self._sq_base))
        registers.write(QUEUE, "sq_base", self._sq_base)
        registers.write(QUEUE, "cq_base", self._cq_base)
        registers.write(QUEUE, "sq_tail", 0)
        registers.write(QUEUE, "cq_head", 0)
        registers.write_fields(
            QUEUE,
            "control",
            sq_log2=self._sq_entries.bit_length() - 1,
            cq_log2=self._cq_entries.bit_length() - 1,
            irq_enable=1,
            enable=1,
        )

    def set_hash_key(self, key: bytes) -> None:
        """Set the dispatcher's 40-byte Toeplitz key; connections that are open lose their core if it changes.

        Raises
        ------
        ValueError
            If ``key`` has another length.
        """
        if len(key) != 40:
            raise ValueError(f"key must be 40 bytes, not {len(key)!r}")
        for index in range(10):
            self.registers.write(DISPATCH, "key", int.from_bytes(key[4 * index : 4 * index + 4], "little"), index=index)

    def read_console(self) -> None:
        """Move what the cores have printed into :attr:`console_text`."""
        for core in range(self.cores):
            words = self.registers.read_all(HOST_CORE, "console", 1, instance=core)
            while words[-1] & CONSOLE_VALID:
                words += self.registers.read_all(HOST_CORE, "console", CONSOLE_AT_ONCE, instance=core)
            self._console[core] += bytes(word & 0xFF for word in words if word & CONSOLE_VALID)
            beyond = max(0, len(self._console[core]) - CONSOLE_BYTES)
            self.console_dropped[core] += beyond
            del self._console[core][:beyond]
            self.console_text[core] = self._console[core].decode("utf-8", "replace")

    def console_since(self, core: int, offset: int) -> tuple[int, bytes]:
        """What ``core`` has printed from byte ``offset`` of it all on, as far as it was read and is kept, and where that begins."""
        dropped = self.console_dropped[core]
        first = max(offset, dropped)
        return first, bytes(self._console[core][first - dropped :])

    # --- Queues ----------------------------------------------------------------------------------------------------

    def submit(
        self,
        operation: Operation | int,
        *,
        handle: int = 0,
        buffer: int = 0,
        length: int = 0,
        operation_flags: int = 0,
        inline: bytes = b"",
        on_more: Callable[[int], None] | None = None,
        on_done: Callable[[int], None] | None = None,
    ) -> Pending:
        """Post one operation; its completion arrives through :meth:`poll` or :meth:`wait`."""
        values = {
            "operation": int(operation),
            "handle": handle,
            "buffer": buffer,
            "length": length,
            "operation_flags": operation_flags,
            "inline": int.from_bytes(inline, "little"),
        }
        return self.submit_raw(values, on_more=on_more, on_done=on_done)

    @property
    def room(self) -> int:
        """Entries that the submission ring takes at once."""
        return self.submission_room(self._sq_entries)

    def submit_raw(
        self,
        values: dict[str, int],
        *,
        on_more: Callable[[int], None] | None = None,
        on_done: Callable[[int], None] | None = None,
    ) -> Pending:
        """Post an SQE from its fields, whatever they are; ``user_data`` is filled in."""
        with self.lock:
            deadline = self.link.clock() + max(1.0, self.timeout)
            while not self.submission_room():
                self.poll()
                self.link.wait_interrupt(0.0001)
                if self.link.clock() > deadline:
                    raise EngineError(errno.EBUSY, "the submission queue stays full: the engine takes no entries")
            user_data = self._next_user_data
            self._next_user_data += 1
            known = values["operation"] in Operation._value2member_map_
            kind = Operation(values["operation"]) if known else Operation.NOP
            pending = Pending(kind, on_more, on_done, user_data=user_data, handle=values.get("handle", 0))
            self._pending[user_data] = pending
            entry = SQE.pack(values | {"user_data": user_data})
            slot = self._sq_tail % self._sq_entries
            self.link.write(self._sq_base + slot * SQE.size_bytes, entry)
            self._sq_tail = (self._sq_tail + 1) & 0xFFFF
            self.registers.write(QUEUE, "sq_tail", self._sq_tail)
            return pending

    @property
    def submission_entries(self) -> int:
        """Size of the submission ring."""
        return self._sq_entries

    def submission_room(self, wanted: int = 1) -> int:
        """Entries that can be submitted now without waiting; looked up only if it seemed less than ``wanted`` before."""
        with self.lock:
            room = self._sq_entries - ((self._sq_tail - self._sq_head) & 0xFFFF)
            if room < wanted:
                self._sq_head = self.registers.read(QUEUE, "sq_head")
                room = self._sq_entries - ((self._sq_tail - self._sq_head) & 0xFFFF)
            return room

    def poll(self) -> int:
        """Take in all completions that have come; returns how many."""
        with self.lock:
            count = 0
            finished: list[tuple[Callable[[int], None], int]] = []
            while True:
                slot = self._cq_head % self._cq_entries
                phase = 1 ^ (self._cq_head // self._cq_entries & 1)
                address = self._cq_base + slot * CQE.size_bytes
                if self.link.tears and self._phase_at(address) != phase:
                    break
                entry = CQE.unpack(self.link.read(address, CQE.size_bytes))
                if entry["phase"] != phase:
                    break
                self._cq_head = (self._cq_head + 1) & 0xFFFF
                count += 1
                result = entry["result"] - (1 << 32 if entry["result"] >> 31 else 0)
                pending = self._pending.get(entry["user_data"])
                if pending is None:
                    self.unexpected.append((entry["user_data"], result))
                elif entry["more"]:
                    if pending.on_more is not None:
                        finished.append((pending.on_more, result))
                else:
                    del self._pending[entry["user_data"]]
                    pending.done, pending.result = True, result
                    if pending.on_done is not None:
                        finished.append((pending.on_done, result))
            if count:
                self.registers.write(QUEUE, "cq_head", self._cq_head)
            for callback, result in finished:
                callback(result)
            if count and self.follow_up is not None:
                self.follow_up()
            return count

    def _phase_at(self, address: int) -> int:
        """Phase of the entry at ``address``, from its last word, which the engine writes last."""
        last = self.link.read(address + CQE.size_bytes - 4, 4)
        return CQE.unpack(bytes(CQE.size_bytes - 4) + last)["phase"]

    def clock(self) -> float:
        """Seconds of the engine's own time."""
        with self.lock:
            return self.link.clock()

    def advance(self, timeout: float) -> None:
        """Let the engine work until something completes, at most ``timeout`` seconds of its time."""
        if self.poll():
            return
        if self.link.work_slice is None:
            self.link.wait_interrupt(timeout)
            self.poll()
        else:
            with self.lock:
                self.link.wait_interrupt(timeout)
                self.poll()

    def abandon(self, core: int) -> None:
        """End what was submitted to ``core`` with ``-ECONNRESET``: after its reset it completes nothing any more.

        A connect that may have gone to another core ends as well.
        """
        with self.lock:
            self._end_all(
                lambda pending: (
                    pending.operation in (Operation.TCP_CONNECT, Operation.UDP_OPEN)
                    or (pending.handle != 0 and pending.handle >> 28 & 7 == core)
                )
            )
            if self.follow_up is not None:
                self.follow_up()

    def _end_all(self, which: Callable[[Pending], bool] = lambda pending: True) -> None:
        for user_data, pending in list(self._pending.items()):
            if which(pending):
                del self._pending[user_data]
                pending.done, pending.result = True, -errno.ECONNRESET
                if pending.on_done is not None:
                    pending.on_done(pending.result)

    def wait(self, pending: Pending, timeout: float | None = None) -> int:
        """Result of ``pending`` once it is done.

        Raises
        ------
        TimeoutError
            After ``timeout`` seconds of engine time; the operation stays submitted.
        """
        self.wait_until(lambda: pending.done, timeout, pending.operation.name)
        return pending.result

    def wait_until(self, condition: Callable[[], bool], timeout: float | None, what: str) -> None:
        """Let the engine work until ``condition()``; raises TimeoutError like :meth:`wait`."""
        deadline = None if timeout is None else self.clock() + timeout
        while not condition():
            if deadline is not None and self.clock() >= deadline:
                raise TimeoutError(errno.ETIMEDOUT, f"{what} did not complete within {timeout} s")
            self.advance(0.001)

    def call(self, operation: Operation, what: str, **fields: object) -> int:
        """Submit and wait, at most :attr:`timeout`; raises the OSError of a negative result."""
        result = self.wait(self.submit(operation, **fields), self.timeout)  # type: ignore[arg-type]
        if result < 0:
            raise error_for(result, what)
        return result

    def read_layout(self, operation: Operation, layout: Layout, what: str, **fields: int) -> dict[str, int]:
        """Run an operation that writes ``layout`` to a buffer, and decode it."""
        address = self.pool.take()
        try:
            self.call(operation, what, buffer=address, length=layout.size_bytes, **fields)
            with self.lock:
                return layout.unpack(self.link.read(address, layout.size_bytes))
        finally:
            self.pool.give(address)

    # --- Sockets ---------------------------------------------------------------------------------------------------

    def socket_module(self) -> SocketModule:
        """An object with the names of the standard library's :mod:`socket` whose sockets this engine serves."""
        from .socket import SocketModule  # the engine alone is of use without sockets

        return SocketModule(self)

    def close(self) -> None:
        """End the thread that serves this device's sockets, if there is one; sockets that are open fail."""
        if self.reactor is not None:
            self.reactor.stop()

    # --- Interfaces and statistics ---------------------------------------------------------------------------------

    def configure(
        self,
        port: int,
        address: str | IPv4Address | IPv6Address | None = None,
        prefix_length: int | None = None,
        *,
        gateway: str | IPv4Address | IPv6Address | None = None,
        mac: str | None = None,
        dhcp: bool = False,
        autoconfigure: bool = False,
        dns: Sequence[str | IPv4Address] = (),
    ) -> None:
        """Configure one family of network port ``port``; the other stays as it is.

        IPv6 if ``address`` is one, or with ``autoconfigure`` (addresses and routers of router advertisements, besides
        ``address``); its ``gateway`` is in fe80::/64. IPv4 otherwise: an address, or ``dhcp``, or neither, which takes IPv4
        off the port; ``dns``: up to two servers; ``mac``: ``aa:bb:cc:dd:ee:ff``. A lease, and duplicate address detection
        of IPv6, take their time after this: :meth:`wait_for_address`.

        Raises
        ------
        ValueError
            If the arguments do not go together.
        """
        block = config_block(
            address, prefix_length, gateway=gateway, mac=mac, dhcp=dhcp, autoconfigure=autoconfigure, dns=dns
        )
        self.call(Operation.NETIF_CONFIG, f"configure port {port}", operation_flags=port, inline=block)

    def status(self, port: int) -> dict[str, int]:
        """Present configuration of a network port, as NETIF_STATUS fields."""
        return self.read_layout(Operation.NETIF_STATUS, NETIF_STATUS, f"status of port {port}", operation_flags=port)

    def network_status(self, port: int) -> NetifStatus:
        """Present configuration and state of a network port."""
        return NetifStatus.from_fields(self.status(port))

    def wait_for_address(self, port: int, timeout: float, *, ipv6: bool = False) -> IPv4Address | IPv6Address:
        """The IPv4 address, or the first global IPv6 address that is ready, once there is one.

        Raises
        ------
        EngineError
            If there is none within ``timeout`` seconds.
        """
        deadline = self.clock() + timeout
        while True:
            status = self.network_status(port)
            address = (status.addresses6 or (None,))[0] if ipv6 else status.address
            if address is not None:
                return address
            if self.clock() > deadline:
                raise EngineError(errno.ETIMEDOUT, f"port {port} has no address after {timeout} s")
            self.advance(0.01)

    def probe(
        self,
        source: str | IPv4Address | IPv6Address,
        destination: str | IPv4Address | IPv6Address,
        source_port: int | None = None,
        destination_port: int | None = None,
        *,
        tcp: bool = True,
    ) -> ProbeAnswer:
        """Which core gets a packet, see :func:`twinstack_host.probe.ask`."""
        with self.lock:
            return ask(self.registers, source, destination, source_port, destination_port, tcp=tcp)

    def dispatch_config(self) -> DispatchConfig:
        """How received frames are given to the cores now."""
        address = self.pool.take()
        try:
            size = DISPATCH_CONFIG.size_bytes
            fields = {"buffer": address, "length": size, "operation_flags": DispatchFlag.READ}
            self.call(Operation.DISPATCH_CONFIG, "dispatch configuration", **fields)
            return DispatchConfig.unpack(self.link.read(address, size))
        finally:
            self.pool.give(address)

    def set_dispatch(self, config: DispatchConfig) -> None:
        """Set the parts that ``config`` has; connections that are open stay on their cores.

        Raises
        ------
        ValueError
            If it names a core that there is not, or has no part.
        """
        config.check(self.cores)
        address = self.pool.take()
        try:
            self.link.write(address, config.pack())
            pending = self.submit(Operation.DISPATCH_CONFIG, buffer=address, length=DISPATCH_CONFIG.size_bytes)
            result = self.wait(pending, self.timeout)
            if result == -errno.EINVAL:
                at = DISPATCH_CONFIG.unpack(self.link.read(address, DISPATCH_CONFIG.size_bytes))["refused_at"]
                raise ValueError(f"dispatch configuration is refused at byte {at}, {config!r}")
            if result < 0:
                raise error_for(result, "dispatch configuration")
        finally:
            self.pool.give(address)

    def stats(self, core: int) -> dict[str, int]:
        """Counters of a core, as STATS fields."""
        return self.read_layout(Operation.STATS, STATS, f"statistics of core {core}", operation_flags=core)


def ipv4_bytes(address: str) -> bytes:
    """The four wire bytes of a dotted IPv4 address.

    Raises
    ------
    ValueError
        If it is not one.
    """
    parts = address.split(".")
    if len(parts) != 4 or not all(part.isdecimal() and len(part) < 4 and int(part) < 256 for part in parts):
        raise ValueError(f"address must be a dotted IPv4 address, not {address!r}")
    return bytes(int(part) for part in parts)
