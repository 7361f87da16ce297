"""An engine on a board, through its UART bridge: registers and host memory over a serial port."""

from __future__ import annotations

import contextlib
import errno
import struct
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from twinstack.proto import bridge_map as bridge
from twinstack.proto import flash_map
from twinstack.proto.registers import QUEUE

from .link import HostLink, LinkError, LoaderPort
from .registers import Registers

BAUD = 1_000_000
TIMEOUT_S = 1.0
"""For an answer to begin; the bridge itself gives up on a bus after 100 ms."""
QUIET_S = 0.15
"""Silence after which the bridge has forgotten what it was in the middle of; its time-out is 100 ms."""
READS_AHEAD = 2
"""Read commands that wait in the bridge while one is answered."""
POLL_S = 0.001
"""Time between two looks at the interrupt."""
LOOK_S = 0.5
"""Time between two looks at the bridge's error counters while one waits."""
BITS_OF_BYTE = 10

PAGE_WORDS = bridge.PAGE_DISCARDED // 4 + 1
COUNTERS = {
    "framing errors": bridge.PAGE_FRAMING_ERRORS // 4,
    "stalled commands": bridge.PAGE_TIMEOUTS // 4,
    "bytes discarded": bridge.PAGE_DISCARDED // 4,
}
_STATUS = bridge.CSR_BASE + Registers.address(QUEUE, "status")
_IRQ = 1


class UartLink(HostLink):
    """Host access through a serial port, real or a pseudo-terminal.

    Thread safe. The engine works by itself; the interrupt is looked for by reading its register.

    Parameters
    ----------
    port : str
        Path of the serial port, or anything that pyserial opens.
    baud : int
        As the bitstream has it.
    timeout : float
        Seconds for the beginning of an answer, and for the port to take what is written.
    quiet : float
        Seconds of silence before a new beginning, longer than the bridge's time-out. The bridge tells its own, in the engine's
        time; a simulation may need more.

    Raises
    ------
    LinkError
        If pyserial is missing, the port cannot be opened, or no bridge answers.
    """

    def __init__(self, port: str, baud: int = BAUD, *, timeout: float = TIMEOUT_S, quiet: float = QUIET_S):
        try:
            import serial
        except ModuleNotFoundError:
            raise LinkError(errno.ENOPKG, "pyserial is not installed: pip install 'twinstack[uart]'") from None
        self.port, self.baud = port, baud
        self._timeout, self._quiet = timeout, quiet
        self._lock = threading.RLock()
        self._counts: list[int] = []
        self._recovering = True  # until it is known that there is a bridge
        self._sent_by = 0.0  # when the line has carried what was written
        self._failures: tuple[type[Exception], ...] = (serial.SerialException, OSError, ValueError)
        try:
            self._serial: Any = serial.serial_for_url(
                port, baud, timeout=timeout, write_timeout=timeout, exclusive=True
            )
        except self._failures as error:
            raise LinkError(getattr(error, "errno", None) or errno.EIO, f"{port}: {error}") from error
        with contextlib.suppress(Exception):  # FTDI chips otherwise keep short answers back for 16 ms
            self._serial.set_low_latency_mode(True)
        try:
            self._page = self._identify()
            loader = _LoaderPage(self)
            self._loader = None if loader.read(flash_map.offset("identity")) == bridge.NO_DATA else loader
        except BaseException:
            self._serial.close()
            raise
        self._counts = self._page
        self._recovering = False

    def _identify(self) -> list[int]:
        for attempt in range(2):
            try:
                self._serial.reset_input_buffer()
                words = self.read_words(bridge.PAGE_BASE, PAGE_WORDS)
                if words[bridge.PAGE_IDENTITY // 4] == bridge.IDENTITY:
                    break
                text = f"reads {words[0]:#010x} where a Twinstack bridge has {bridge.IDENTITY:#010x}"
            except LinkError as error:
                text = error.strerror or str(error)
            except self._failures as error:
                text = str(error)
            if attempt:
                raise LinkError(errno.ENODEV, f"no bridge at {self.port} with {self.baud} baud: {text}")
            self._resynchronise()
        version = words[bridge.PAGE_VERSION // 4]
        if version != bridge.VERSION:
            raise LinkError(errno.EPROTO, f"the bridge has version {version}, this library {bridge.VERSION}")
        return words

    # --- HostLink ----------------------------------------------------------------------------------------------------

    @property
    def memory_base(self) -> int:
        return self._page[bridge.PAGE_MEMORY_BASE // 4]

    @property
    def memory_size(self) -> int:
        return self._page[bridge.PAGE_MEMORY_BYTES // 4]

    @property
    def loader(self) -> LoaderPort | None:
        return self._loader

    @property
    def tears(self) -> bool:
        return True

    def csr_read(self, offset: int) -> int:
        return self.read_words(bridge.CSR_BASE + offset, 1)[0]

    def csr_write(self, offset: int, value: int) -> None:
        self.write_words(bridge.CSR_BASE + offset, [value])

    def csr_read_all(self, offset: int, count: int) -> list[int]:
        return self.read_words(bridge.CSR_BASE + offset, count, fixed=True)

    def csr_write_all(self, offset: int, values: Sequence[int]) -> None:
        self.write_words(bridge.CSR_BASE + offset, values, fixed=True)

    def read(self, address: int, length: int) -> bytes:
        if not length:
            return b""
        first = address & ~3
        count = (address + length - first + 3) // 4
        data = struct.pack(f"<{count}I", *self.read_words(first, count))
        return data[address - first : address - first + length]

    def write(self, address: int, data: bytes) -> None:
        """Write host memory. The bus has whole words: what shares one with ``data`` is read and written back."""
        if not data:
            return
        with self._lock:
            before, after = address % 4, -(address + len(data)) % 4
            if before:
                data = self.read(address - before, before) + data
            if after:
                end = address - before + len(data)
                data = bytes(data) + self.read(end, after)
            self.write_words(address - before, struct.unpack(f"<{len(data) // 4}I", data))

    def wait_interrupt(self, timeout: float) -> bool:
        began = time.monotonic()
        look_at = began + LOOK_S
        while not self.read_words(_STATUS, 1)[0] & _IRQ:
            now = time.monotonic()
            if now - began >= timeout:
                return False
            if now >= look_at:
                look_at = now + LOOK_S
                self.check_line()
            time.sleep(min(POLL_S, began + timeout - now))
        return True

    def clock(self) -> float:
        return time.monotonic()

    # --- The line ------------------------------------------------------------------------------------------------------

    @property
    def page(self) -> dict[str, int]:
        """What the bridge says of itself now, by the names in :mod:`twinstack.proto.bridge_map`, in lower case."""
        words = self.read_words(bridge.PAGE_BASE, PAGE_WORDS)
        names = [name for name in vars(bridge) if name.startswith("PAGE_") and name not in ("PAGE_BASE", "PAGE_BYTES")]
        return {name.removeprefix("PAGE_").lower(): words[getattr(bridge, name) // 4] for name in names}

    def check_line(self) -> None:
        """Raise LinkError if the bridge has lost anything on the line since the last look: writes have no answer."""
        words = self.read_words(bridge.PAGE_BASE, PAGE_WORDS)
        before, self._counts = self._counts, words
        lost = [f"{words[at]} {name}" for name, at in COUNTERS.items() if before and words[at] != before[at]]
        if words[0] != bridge.IDENTITY:
            lost.append(f"identity {words[0]:#010x}")
        if lost:
            raise LinkError(errno.EIO, f"{self.port}: bytes to the engine were lost: {', '.join(lost)}")

    def close(self) -> None:
        """Give the port back."""
        with self._lock, contextlib.suppress(Exception):
            self._serial.close()

    def __enter__(self) -> UartLink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _resynchronise(self) -> None:
        """Wait until the bridge has forgotten what it was in the middle of, and throw away what came."""
        self._counts = []  # what happens now is known
        with contextlib.suppress(*self._failures):
            self._serial.send_break(0.001)  # ends it at once, on ports that can
        deadline = time.monotonic() + 10 * self._quiet
        with contextlib.suppress(*self._failures):
            while time.monotonic() < deadline:  # garbage may have asked for a kilobyte
                time.sleep(self._quiet)
                if not self._serial.in_waiting:
                    break
                self._serial.reset_input_buffer()

    def _recover(self) -> None:
        """After an answer that did not come: resynchronise, and take note of what the bridge has counted."""
        if self._recovering:
            return
        self._recovering = True
        try:
            self._resynchronise()
            with contextlib.suppress(LinkError):
                self._counts = self.read_words(bridge.PAGE_BASE, PAGE_WORDS)
        finally:
            self._recovering = False

    def read_words(self, address: int, count: int, *, fixed: bool = False) -> list[int]:
        """Read words at a byte address of the bridge: ascending, or one again and again."""
        code = bridge.READ_FIXED if fixed else bridge.READ_INCREMENTING
        commands, lengths = [], []
        for first in range(0, count, bridge.MAX_WORDS):
            length = min(bridge.MAX_WORDS, count - first)
            commands.append(_command(code, address + (0 if fixed else 4 * first), length))
            lengths.append(4 * length)
        data = b""
        with self._lock:
            self._send(b"".join(commands[: 1 + READS_AHEAD]))
            for index, length in enumerate(lengths):
                data += self._receive(length)
                ahead = index + 1 + READS_AHEAD
                if ahead < len(commands):
                    self._send(commands[ahead])
        return list(struct.unpack(f">{count}I", data))

    def write_words(self, address: int, values: Sequence[int], *, fixed: bool = False) -> None:
        """Write words from a byte address of the bridge on, or all to it."""
        code = bridge.WRITE_FIXED if fixed else bridge.WRITE_INCREMENTING
        data = b""
        for first in range(0, len(values), bridge.MAX_WORDS):
            words = values[first : first + bridge.MAX_WORDS]
            data += _command(code, address + (0 if fixed else 4 * first), len(words))
            data += struct.pack(f">{len(words)}I", *words)
        with self._lock:
            self._send(data)

    def _send(self, data: bytes) -> None:
        try:
            for first in range(0, len(data), 1024):  # each piece may take its time
                piece = data[first : first + 1024]
                self._sent_by = max(self._sent_by, time.monotonic()) + len(piece) * BITS_OF_BYTE / self.baud
                self._serial.write(piece)
        except self._failures as error:
            raise LinkError(errno.EIO, f"{self.port}: {error}") from error

    def _receive(self, length: int) -> bytes:
        began = max(time.monotonic(), self._sent_by)
        deadline = began + self._timeout + length * BITS_OF_BYTE / self.baud
        data = b""
        try:
            while len(data) < length and time.monotonic() < deadline:
                data += self._serial.read(length - len(data))
        except self._failures as error:
            raise LinkError(errno.EIO, f"{self.port}: {error}") from error
        if len(data) < length:
            self._recover()
            raise LinkError(
                errno.ETIMEDOUT, f"{self.port}: {length} bytes must come within {self._timeout:g} s, not {len(data)}"
            )
        return data


class _LoaderPage(LoaderPort):
    """The loader's page behind the bridge; without a loader all reads are ``NO_DATA``."""

    def __init__(self, link: UartLink):
        self._link = link

    def read(self, offset: int) -> int:
        return self.read_words(offset, 1)[0]

    def write(self, offset: int, value: int) -> None:
        self.write_words(offset, [value], incrementing=True)

    def read_words(self, offset: int, count: int) -> list[int]:
        return self._link.read_words(bridge.LOADER_BASE + offset, count)

    def write_words(self, offset: int, words: Sequence[int], *, incrementing: bool) -> None:
        self._link.write_words(bridge.LOADER_BASE + offset, words, fixed=not incrementing)


def _command(code: int, address: int, words: int) -> bytes:
    return bytes([code, words % bridge.MAX_WORDS]) + (address // 4).to_bytes(4, "big")
