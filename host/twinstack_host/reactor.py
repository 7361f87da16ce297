"""The engine room of the sockets: one thread of a device that submits, completes, and lets the engine work."""

from __future__ import annotations

import collections
import contextlib
import errno
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

from twinstack.proto.queues import ALL_CORES, Operation
from twinstack.proto.registers import ENGINE, HOST_CORE, QUEUE

from .device import Device, Pending
from .memory import OutOfMemory

IDLE_S = 0.1
"""Longest sleep of the thread while the engine is quiet; interrupts end it."""
WATCH_S = 0.5
"""Time between two looks whether the cores are alive."""
RETRY_S = 0.002
"""Time after which what found no buffer is tried again, if nothing came back meanwhile."""
ENTRIES_AT_ONCE = 8
"""Entries that one socket may submit in its turn, hardly ever more: with less room in the ring it waits for the next turn."""
OPERATIONS_PER_CORE = 90
"""Operations under way on a core, at most: it refuses beyond 96, and other users of the device need some."""
SOCKETS = 176
"""As many as an engine with two cores has: connections, listeners, datagram sockets."""
RESERVE = 8
"""One of so many buffers is not for second receives: a receive keeps its buffer until data comes, and sends must go on."""
RECEIVES_PER_CORE = 32
"""Receives posted on a core from which on a socket has only one."""
PATIENCE_S = 60.0
"""Seconds for an operation that needs no peer, at least: the engine may be a simulation."""


class Member(Protocol):
    """What the reactor serves: a socket at the engine's side."""

    handle: int
    closing: bool

    def pump(self) -> None:
        """Submit what is due; called with the device's lock held, and by one thread at a time."""

    def fail(self, code: int) -> None:
        """End with errno ``code``: the engine, or the socket's core, is gone."""

    def expire(self, now: float) -> None:
        """Look at time-outs of what goes on in background."""


class Reactor:
    """Serves all sockets of one device.

    Two locks, always taken in this order: the device's lock (submitting, completing, letting a simulated engine work) and
    :attr:`lock` (the state of the sockets; held for moments, and never while calling the device). A program's threads
    change state under :attr:`lock`, name the socket in :meth:`mark`, and call :meth:`kick` after releasing it.

    With a simulated engine the thread lets it work in short turns: freely while somebody waits, otherwise no faster than
    wall-clock time passes. With an engine of its own it sleeps until an interrupt.
    """

    def __init__(self, device: Device):
        self.device = device
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.failure: OSError | None = None
        self.members: set[Member] = set()
        self._due: dict[Member, None] = {}
        self._starved: dict[Member, None] = {}
        self._calls: collections.deque[Callable[[], None]] = collections.deque()
        self._operations = [0] * device.cores
        self._receives = [0] * device.cores
        self.receivers = 0
        """Sockets with a receive posted."""
        self._waiting = 0
        self._pumping = False
        self._full_since: float | None = None
        self._retry_at = 0.0
        self._wake = threading.Event()
        self._stopping = False
        self._lives = [(True, self._epoch(core)) for core in range(device.cores)]
        self._began = (time.monotonic(), device.link.clock())
        self.patience = max(device.timeout, PATIENCE_S)
        self._reserve = max(2, device.pool.count // RESERVE)
        self._capacity = min(SOCKETS, (device.pool.count - self._reserve) * 3 // 4)
        device.follow_up = self._pump_all
        self._thread = threading.Thread(target=self._run, name="twinstack reactor", daemon=True)
        self._thread.start()

    @classmethod
    def of(cls, device: Device) -> Reactor:
        """The reactor of ``device``, started if it has none."""
        with device.lock:
            if device.reactor is None:
                device.reactor = cls(device)
            return device.reactor

    def stop(self) -> None:
        """End the thread; all sockets fail with ENODEV. The device can be used without sockets afterwards."""
        self._stopping = True
        self._wake.set()
        if self.device.link.work_slice is None and self.failure is None:
            with contextlib.suppress(OSError, RuntimeError):  # its completion ends the sleep
                self.device.submit(Operation.NOP)
        if self._thread is not threading.current_thread():
            self._thread.join()
        self._end(OSError(errno.ENODEV, "the device was closed"))
        with self.device.lock:
            if self.device.reactor is self:
                self.device.reactor, self.device.follow_up = None, None

    # --- For sockets -----------------------------------------------------------------------------------------------

    def mark(self, member: Member) -> None:
        """``member`` has something to submit; with :attr:`lock` held, :meth:`kick` after it."""
        self._due[member] = None

    def starve(self, member: Member) -> None:
        """``member`` found no buffer, or no room on its core; it is tried again later."""
        with self.lock:
            self._starved[member] = None

    def kick(self) -> None:
        """See to it that what is due is submitted soon; without :attr:`lock`."""
        if self.device.lock.owned():
            return  # a completion's callback: whoever takes completions goes on with what is due
        if self.device.link.work_slice is None:
            try:
                with self.device.lock:
                    self._pump_all()
            except (OSError, RuntimeError) as error:
                self._end(error)
        else:
            self._wake.set()

    def check(self) -> None:
        """Raise the OSError of a reactor that has ended."""
        if self.failure is not None:
            raise OSError(self.failure.errno or errno.EIO, f"the engine failed: {self.failure.strerror}")

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Somebody waits: a simulated engine may work freely meanwhile. With :attr:`lock` held."""
        self._waiting += 1
        self._wake.set()
        try:
            yield
        finally:
            self._waiting -= 1

    @property
    def full(self) -> bool:
        """A further socket might get no buffer to receive into."""
        return len(self.members) >= self._capacity

    def take_receive_buffer(self, *, further: bool) -> int:
        """A buffer to receive into (``further``: the socket has one already); raises OutOfMemory."""
        kept = self._reserve + max(0, self._capacity - self.receivers) if further else 1
        return self._take_buffer(kept)

    def take_send_buffer(self) -> int:
        """A buffer to send from. One for each socket that receives into none now is left: a peer, or another of these sockets,
        may wait for that before it takes anything; raises OutOfMemory."""
        return self._take_buffer(1 + max(0, len(self.members) - self.receivers))

    def _take_buffer(self, kept: int) -> int:
        if self.device.pool.free <= kept:
            raise OutOfMemory("the other buffers are kept for what must not wait")
        return self.device.pool.take()

    def room(self, core: int, *, receive: bool = False) -> bool:
        """Whether ``core`` takes another operation (another second receive of a socket)."""
        if core >= len(self._operations):
            return True
        if receive and self._receives[core] >= RECEIVES_PER_CORE:
            return False
        return self._operations[core] < OPERATIONS_PER_CORE

    def submit(
        self,
        operation: Operation,
        on_done: Callable[[int], None],
        *,
        handle: int = 0,
        on_more: Callable[[int], None] | None = None,
        **fields: object,
    ) -> Pending:
        """Submit for a socket, counted for its core; with the device's lock held."""
        core = handle >> 28 & 7
        counted = handle != 0 and core != ALL_CORES and core < len(self._operations)
        receive = counted and operation in (Operation.RECV, Operation.RECVFROM)

        def done(result: int) -> None:
            if counted:
                self._operations[core] -= 1
            if receive:
                self._receives[core] -= 1
            on_done(result)

        pending = self.device.submit(operation, handle=handle, on_more=on_more, on_done=done, **fields)  # type: ignore[arg-type]
        if counted:
            self._operations[core] += 1
        if receive:
            self._receives[core] += 1
        return pending

    def call(self, operation: Operation, what: str, *, timeout: float | None = None, **fields: object) -> int:
        """Submit and wait; raises the OSError of a negative result. Not from the reactor's thread.

        Raises
        ------
        TimeoutError
            After ``timeout`` seconds (default: :attr:`patience`); the operation goes on.
        """
        return self._call(partial(self.submit, operation, **fields), what, timeout)  # type: ignore[arg-type]

    def call_with_buffer(
        self,
        operation: Operation,
        what: str,
        *,
        given: bytes = b"",
        result_at: int = 0,
        result_bytes: int = 0,
        inline: Callable[[int], bytes] | None = None,
        timeout: float | None = None,
        **fields: object,
    ) -> bytes:
        """The same for an operation with a buffer that begins with ``given``; returns what is at ``result_at`` then.

        ``inline`` makes the entry's inline words from the bus address of the result.
        """
        device = self.device
        found = b""

        def begin(on_done: Callable[[int], None]) -> None:
            block = device.pool.take()

            def done(result: int) -> None:
                nonlocal found
                if result >= 0 and result_bytes:
                    found = device.link.read(block + result_at, result_bytes)
                device.pool.give(block)
                on_done(result)

            device.link.write(block, given)
            words = {} if inline is None else {"inline": inline(block + result_at)}
            self.submit(operation, done, buffer=block, **words, **fields)  # type: ignore[arg-type]

        self._call(begin, what, timeout)
        return found

    def _call(self, begin: Callable[..., object], what: str, timeout: float | None) -> int:
        results: list[int] = []

        def done(result: int) -> None:
            with self.lock:
                results.append(result)
                self.changed.notify_all()

        def submit() -> None:
            try:
                begin(on_done=done)
            except OutOfMemory:
                done(-errno.ENOBUFS)

        self.check()
        with self.lock:
            self._calls.append(submit)
        self.kick()
        with self.lock, self.waiting():
            self.changed.wait_for(lambda: results or self.failure is not None, timeout or self.patience)
            if not results:
                self.check()
                raise TimeoutError(errno.ETIMEDOUT, f"{what}: the engine did not answer")
        if results[0] < 0:
            raise OSError(-results[0], os.strerror(-results[0]))
        return results[0]

    # --- The thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        link = self.device.link
        turn = link.work_slice
        watch_at = time.monotonic() + WATCH_S
        try:
            while not self._stopping:
                self._wake.clear()
                with self.device.lock:
                    completed = self.device.poll()
                    self._feed(bool(completed))
                    self._pump_all()
                    now = time.monotonic()
                    if now >= watch_at:
                        watch_at = now + WATCH_S
                        self._watch(now)
                if turn is None:
                    link.wait_interrupt(RETRY_S if self._starved or self._due or self._calls else IDLE_S)
                else:
                    self._rest()
                    with self.device.lock:
                        link.wait_interrupt(turn)
        except Exception as error:  # whatever it is: nobody may wait for ever
            self._end(error)

    def _rest(self) -> None:
        """A simulated engine that nobody waits for runs no faster than time passes."""
        while not self._waiting and not self._due and not self._calls and not self._stopping:
            wall, engine = self._began
            ahead = (self.device.clock() - engine) - (time.monotonic() - wall)
            if ahead <= 0:
                return
            if self._wake.wait(min(ahead, IDLE_S)):
                return

    def _feed(self, completed: bool) -> None:
        """Let those who found no buffer try again."""
        now = time.monotonic()
        if self._starved and (completed or now >= self._retry_at):
            self._retry_at = now + RETRY_S
            with self.lock:
                self._due |= self._starved
                self._starved.clear()

    def _pump_all(self) -> None:
        """Submit all that is due; with the device's lock held."""
        if self._pumping:  # a full submission queue takes completions while one waits for room
            return
        self._pumping = True
        try:
            while self._calls or self._due:
                if not self._has_room():
                    return
                with self.lock:
                    member = next(iter(self._due), None)
                    if member is not None:
                        del self._due[member]
                if member is not None:
                    member.pump()
                else:  # after what was due before: a listener's close before the next listen on its port
                    self._calls.popleft()()
        finally:
            self._pumping = False

    def _has_room(self) -> bool:
        """The submission ring has room for what a member may submit at once; otherwise it is tried again later."""
        wanted = min(ENTRIES_AT_ONCE, self.device.submission_entries // 2)
        if self.device.submission_room(wanted) >= wanted:
            self._full_since = None
            return True
        now = time.monotonic()
        if self._full_since is None:
            self._full_since = now
        elif now - self._full_since > self.patience:
            raise OSError(errno.EBUSY, "the submission queue stays full: the engine takes no entries")
        return False

    def _epoch(self, core: int) -> int:
        return self.device.registers.read_fields(HOST_CORE, "status", instance=core)["epoch"]

    def _watch(self, now: float) -> None:
        """Find out whether the engine still lives, and what takes too long; with the device's lock held."""
        registers = self.device.registers
        if registers.read_fields(QUEUE, "status")["bus_error"]:
            raise OSError(errno.EIO, "the engine could not access its rings")
        alive = registers.read(ENGINE, "alive")
        if alive >> self.device.cores:
            raise OSError(errno.ENODEV, f"the engine's registers read {alive:#x}")
        for core in range(self.device.cores):
            life = (bool(alive >> core & 1), self._epoch(core))
            if life != self._lives[core]:
                self._lives[core] = life
                self._lose(core)
        with self.lock:
            members = list(self.members)
        for member in members:
            member.expire(now)

    def _lose(self, core: int) -> None:
        """A core was reset: its sockets, and all listeners, are void."""
        with self.lock:
            lost = [member for member in self.members if member.handle and member.handle >> 28 & 7 in (core, ALL_CORES)]
        for member in lost:
            handle = member.handle
            member.fail(errno.ECONNRESET)
            if handle >> 28 & 7 == ALL_CORES:  # the other cores have it still
                self.device.submit(Operation.CLOSE, handle=handle)
        self.device.abandon(core)

    def _end(self, error: BaseException) -> None:
        """Nothing goes on; everybody who waits hears of it."""
        with self.lock:
            if self.failure is not None:
                return
            code = (error.errno if isinstance(error, OSError) else None) or errno.EIO
            self.failure = OSError(code, getattr(error, "strerror", None) or str(error))
            members = list(self.members)
        for member in members:
            member.fail(code)
        with self.lock:
            self.changed.notify_all()
