"""The UART bridge in plain Python behind a pseudo-terminal, with a HostLink in place of the engine."""

import contextlib
import os
import pty
import select
import threading
import time
import tty

from twinstack.proto import bridge_map as bridge


class PtyBridge:
    """Serves ``link`` at :attr:`path` until it is closed; counts as the bridge does.

    ``stall`` is its time-out in seconds. ``drop`` is how many of the bytes to come are lost; ``garbage`` goes out before the
    next answer; ``mute``: it does not answer any more.
    """

    def __init__(self, link, *, memory_bytes=8192, stall=0.1, identity=bridge.IDENTITY, version=bridge.VERSION):
        self.link, self.stall = link, stall
        self.drop, self.garbage, self.mute = 0, b"", False
        self.commands = []
        self._page = {
            bridge.PAGE_IDENTITY: identity,
            bridge.PAGE_VERSION: version,
            bridge.PAGE_MEMORY_BASE: link.memory_base,
            bridge.PAGE_MEMORY_BYTES: memory_bytes,
            bridge.PAGE_SYNC_HZ: 75_000_000,
            bridge.PAGE_DIVISOR: 75,
            bridge.PAGE_STALL_CYCLES: int(75e6 * stall),
        }
        self.counts = dict.fromkeys((bridge.PAGE_TIMEOUTS, bridge.PAGE_BUS_ERRORS, bridge.PAGE_DISCARDED), 0)
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        self.path = os.ttyname(self._slave)
        self._closing = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self):
        self._closing = True
        self._thread.join()
        os.close(self._master)
        os.close(self._slave)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _byte(self, deadline=None):
        while not self._closing:
            wait = 0.02 if deadline is None else min(0.02, max(0.0, deadline - time.monotonic()))
            if select.select([self._master], [], [], wait)[0]:
                value = os.read(self._master, 1)[0]
                if self.drop:
                    self.drop -= 1
                    continue
                return value
            if deadline is not None and time.monotonic() >= deadline:
                self.counts[bridge.PAGE_TIMEOUTS] += 1
                raise TimeoutError
        raise EOFError

    def _bytes(self, count):
        return bytes(self._byte(time.monotonic() + self.stall) for _ in range(count))

    def _run(self):
        with contextlib.suppress(EOFError):
            while True:
                code = self._byte()
                if code not in (1, 2, 3, 4):
                    self.counts[bridge.PAGE_DISCARDED] += 1
                    continue
                with contextlib.suppress(TimeoutError):
                    self._command(code)

    def _command(self, code):
        count = self._bytes(1)[0] or 256
        address = int.from_bytes(self._bytes(4), "big") * 4
        self.commands.append((code, count, address))
        for index in range(count):
            place = address + 4 * index * (code in (1, 2))
            if code in (1, 3):
                self._write(place, int.from_bytes(self._bytes(4), "big"))
            else:
                answer, self.garbage = self.garbage + self._read(place).to_bytes(4, "big"), b""
                if not self.mute:
                    os.write(self._master, answer)

    def _read(self, address):
        if bridge.PAGE_BASE <= address < bridge.PAGE_BASE + bridge.PAGE_BYTES:
            return (self._page | self.counts).get(address - bridge.PAGE_BASE, 0)
        if bridge.CSR_BASE <= address < bridge.CSR_BASE + bridge.CSR_BYTES:
            return self.link.csr_read(address - bridge.CSR_BASE)
        if self._is_memory(address):
            return int.from_bytes(self.link.read(address, 4), "little")
        self.counts[bridge.PAGE_BUS_ERRORS] += 1
        return bridge.NO_DATA

    def _write(self, address, value):
        if bridge.CSR_BASE <= address < bridge.CSR_BASE + bridge.CSR_BYTES:
            self.link.csr_write(address - bridge.CSR_BASE, value)
        elif self._is_memory(address):
            self.link.write(address, value.to_bytes(4, "little"))
        else:
            self.counts[bridge.PAGE_BUS_ERRORS] += 1

    def _is_memory(self, address):
        return 0 <= address - self.link.memory_base < self._page[bridge.PAGE_MEMORY_BYTES]
