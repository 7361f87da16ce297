"""Streams that are compared by SHA-256; run as a program in a network namespace: the engine against Linux over a bad wire.

``unshare -rn python -m support.integrity KIND PERCENT BYTES SEED``
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import socket
import sys
import time
from dataclasses import dataclass, field

from twinstack.proto.queues import Operation
from twinstack_host.device import Pending
from twinstack_host.sockets import Listener, Socket
from twinstack_sim.peer_tap import TapPeer
from twinstack_sim.session import ENGINE_ADDRESS, PEER_ADDRESS, PREFIX_LENGTH, engine_session
from twinstack_sim.simulation import SimulationOptions
from twinstack_sim.streams import HostStream
from twinstack_sim.wire import WireModel

PORT = 7601
REORDER_NS = 60_000
"""Some five frames of maximum size."""
TIMEOUT_S = 1200
TRIES = 40


def faults(kind: str, percent: int) -> dict[str, float]:
    """Probabilities of the wire; "all" is each of them at once."""
    names = ("loss", "reorder", "duplicate") if kind == "all" else (kind,)
    return {name: percent / 100 for name in names}


@dataclass
class Way:
    """One direction of a connection: what was sent, and the digest of what has come."""

    name: str
    data: bytes
    arrived: int = 0
    digest: hashlib._Hash = field(default_factory=hashlib.sha256)
    ended: bool = False

    def take(self, piece: bytes) -> None:
        self.arrived += len(piece)
        self.digest.update(piece)

    def check(self) -> None:
        assert self.arrived == len(self.data), f"{self.name}: {self.arrived} bytes of {len(self.data)}"
        assert self.digest.digest() == hashlib.sha256(self.data).digest(), f"{self.name}: other bytes"

    def __str__(self) -> str:
        return f"{self.name}: {self.arrived} of {len(self.data)} bytes"


class HostEnd:
    """The offloaded end: sends one way to its end, receives the other."""

    def __init__(self, sock: Socket, out: Way, back: Way):
        self.socket, self.out, self.back = sock, out, back
        self._stream = HostStream(sock)
        self._shutdown: Pending | None = None

    def start(self) -> None:
        self._stream.send_all(self.out.data)

    def step(self) -> None:
        if not self.back.ended:
            self.back.take(self._stream.recv())
            self.back.ended = self.socket.ended
        if self._shutdown is None:
            self._stream.send_all(b"")
            if self._stream.unsent == 0:
                self._shutdown = self.socket.device.submit(Operation.SHUTDOWN, handle=self.socket.handle)

    @property
    def is_done(self) -> bool:
        """All is sent and acknowledged, and all has come."""
        return self.back.ended and self._shutdown is not None and self._shutdown.done

    def check(self) -> None:
        assert self._shutdown is not None and self._shutdown.result == 0, "all is acknowledged"
        self.back.check()


class LinuxEnd:
    """The kernel's end of it."""

    def __init__(self, sock: socket.socket, out: Way, back: Way):
        self.socket, self.out, self.back = sock, out, back
        self._unsent = memoryview(out.data)
        self._has_shut = False

    def step(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._unsent:
                self._unsent = self._unsent[self.socket.send(self._unsent) :]
        if not self._unsent and not self._has_shut:
            self.socket.shutdown(socket.SHUT_WR)
            self._has_shut = True
        with contextlib.suppress(BlockingIOError):
            while not self.back.ended:
                piece = self.socket.recv(1 << 16)
                self.back.take(piece)
                self.back.ended = not piece


def linux_against_the_engine(kind: str, percent: int, size: int, seed: int) -> str:
    """Both directions at once on both cores; returns what the wire did."""
    rng = random.Random(seed)
    deadline = time.monotonic() + TIMEOUT_S
    with engine_session(options=SimulationOptions(seed=seed, external_tick=True)) as session:
        device = session.device
        wire = WireModel(seed, reorder_ns=REORDER_NS)
        session.simulation.attach(0, TapPeer(f"{PEER_ADDRESS}/{PREFIX_LENGTH}"), wire)
        device.configure(0, ENGINE_ADDRESS, PREFIX_LENGTH, mac="02:54:53:00:00:01")
        listener = Listener(device, PORT, backlog=8)
        listener.settimeout(60.0)
        pairs: dict[int, tuple[Socket, socket.socket]] = {}
        for _ in range(TRIES):
            if len(pairs) == device.cores:
                break
            far = socket.socket()
            far.setblocking(False)
            far.connect_ex((ENGINE_ADDRESS, PORT))
            sock, _ = listener.accept()
            if sock.core in pairs:
                sock.abort()
                far.close()
            else:
                pairs[sock.core] = sock, far
        assert len(pairs) == device.cores, f"{TRIES} connections must reach every core"
        for name, value in faults(kind, percent).items():
            setattr(wire, name, value)
        ends: list[tuple[HostEnd, LinuxEnd]] = []
        for core, (sock, far) in pairs.items():
            there = Way(f"core {core} to Linux", rng.randbytes(size))
            back = Way(f"Linux to core {core}", rng.randbytes(size))
            ends.append((HostEnd(sock, there, back), LinuxEnd(far, back, there)))
            ends[-1][0].start()
        while not all(host.is_done and far.back.ended for host, far in ends):
            late = ", ".join(f"{host.out}, {host.back}" for host, _ in ends)
            assert time.monotonic() < deadline, f"not done in {TIMEOUT_S} s, seed {seed}: {late}"
            for host, far in ends:
                host.step()
                far.step()
            device.advance(0.0005)
        for host, far in ends:
            host.check()
            far.back.check()
        return f"{wire.counts('to_engine')} {wire.counts('to_peer')}"


if __name__ == "__main__":
    print("ok", linux_against_the_engine(sys.argv[1], *map(int, sys.argv[2:5])))
