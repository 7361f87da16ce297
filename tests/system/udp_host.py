"""Datagram sockets of a running engine at the level of submission queue entries, for the system tests."""

from __future__ import annotations

from dataclasses import dataclass, field

from system.rig import Rig
from twinstack.proto.queues import SOCKET_ADDRESS, Handle, Operation, SocketOption
from twinstack_host.device import Pending, ipv4_bytes

SLOT_BYTES = 8192
NAME_BYTES = 32
SLOTS = 8
SHARED_BYTES = SLOTS * SLOT_BYTES + 4096
"""Host memory that a Device has to leave to the sockets here."""
TIMEOUT = 2.0
"""Seconds of the firmware's fast clock within which an operation that waits for nobody completes."""


def address(ip: str, port: int, scope: int = 0) -> bytes:
    packed = int.from_bytes(ipv4_bytes(ip), "little")
    return SOCKET_ADDRESS.pack({"family": 2, "port": port, "scope": scope, "address": packed})


@dataclass
class Received:
    payload: bytes
    ip: str
    port: int
    whole: int


@dataclass
class UdpSocket:
    """One datagram socket; each receive has a slot of host memory."""

    rig: Rig
    handle: int
    slot: int
    receives: dict[int, Pending] = field(default_factory=dict)

    @classmethod
    def open(cls, rig: Rig, port: int, slot: int, *, ip: str = "0.0.0.0", spread: bool = False) -> UdpSocket:
        result = cls.try_open(rig, port, ip=ip, spread=spread)
        assert result > 0, result
        return cls(rig, result, slot)

    @staticmethod
    def try_open(rig: Rig, port: int, *, ip: str = "0.0.0.0", spread: bool = False) -> int:
        pending = rig.device.submit(Operation.UDP_OPEN, operation_flags=int(spread), inline=address(ip, port))
        return rig.device.wait(pending, TIMEOUT)

    @property
    def core(self) -> int:
        return Handle.unpack(self.handle).core

    def _buffer(self, core: int = 0) -> int:
        return self.rig.device.shared_base + (self.slot + core) * SLOT_BYTES

    def _name(self, core: int = 0) -> int:
        return self.rig.device.shared_base + SLOTS * SLOT_BYTES + (self.slot + core) * NAME_BYTES

    def receive(self, length: int = SLOT_BYTES - 2048, core: int = 0) -> None:
        """Post a RECVFROM; a spread socket's to ``core``."""
        self.receives[core] = self.rig.device.submit(
            Operation.RECVFROM,
            handle=self.handle,
            buffer=self._buffer(core),
            length=length,
            operation_flags=core << 8,
            inline=self._name(core).to_bytes(8, "little"),
        )

    def take(self, core: int | None = None) -> tuple[int, Received]:
        """Wait for a receive (of ``core``, or of any) and decode it; the core as well."""
        wanted = list(self.receives) if core is None else [core]
        self.rig.wait(lambda: any(self.receives[one].done for one in wanted), "a datagram")
        (one,) = [one for one in wanted if self.receives[one].done]
        length = self.receives.pop(one).result
        assert length >= 0, length
        name = SOCKET_ADDRESS.unpack(self.rig.link.read(self._name(one), NAME_BYTES))
        ip = ".".join(map(str, name["address"].to_bytes(16, "little")[:4]))
        payload = self.rig.link.read(self._buffer(one), length) if length else b""
        return one, Received(payload, ip, name["port"], name["extra"])

    def submit_send(self, payload: bytes, to: tuple[str, int] | None, core: int = 0) -> Pending:
        where = self._buffer(core) + SLOT_BYTES - 2048
        if payload:
            self.rig.link.write(where, payload)
        return self.rig.device.submit(
            Operation.SENDTO if to else Operation.SEND,
            handle=self.handle,
            buffer=where,
            length=len(payload),
            operation_flags=core << 8,
            inline=address(*to) if to else b"",
        )

    def send(self, payload: bytes, to: tuple[str, int] | None = None, core: int = 0) -> int:
        return self.rig.device.wait(self.submit_send(payload, to, core), 20.0)

    def set(self, option: SocketOption, value: int | bytes) -> int:
        inline = value if isinstance(value, bytes) else value.to_bytes(4, "little")
        pending = self.rig.device.submit(
            Operation.SETSOCKOPT, handle=self.handle, operation_flags=int(option), inline=inline
        )
        return self.rig.device.wait(pending, TIMEOUT)

    def get(self, option: SocketOption) -> int:
        pending = self.rig.device.submit(Operation.GETSOCKOPT, handle=self.handle, operation_flags=int(option))
        return self.rig.device.wait(pending, TIMEOUT)

    def close(self) -> None:
        """Close; receives that wait end."""
        pending = self.rig.device.submit(Operation.CLOSE, handle=self.handle)
        assert self.rig.device.wait(pending, TIMEOUT) == 0
        for one in self.receives.values():
            assert self.rig.device.wait(one, TIMEOUT) == -125
        self.receives.clear()


def open_on_each_core(rig: Rig, first_port: int) -> list[UdpSocket]:
    """A socket on each core, by core; their ports are ``first_port`` and up."""
    made = [UdpSocket.open(rig, first_port + n, 2 * n) for n in range(rig.device.cores)]
    assert sorted(one.core for one in made) == list(range(rig.device.cores)), "the least loaded core"
    return made
