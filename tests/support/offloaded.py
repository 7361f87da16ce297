"""Fixtures' helpers: an object with the names of ``socket`` over the loop-back engine, or the standard module itself."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

from support.loopback_engine import LoopbackEngine, TurnEngine
from twinstack_host.device import Device
from twinstack_host.socket import SocketModule

KINDS = ("standard", "offloaded", "in turns")


@contextlib.contextmanager
def offloaded(
    kind: type[LoopbackEngine] = LoopbackEngine, *, sq_entries: int = 64, **options: Any
) -> Iterator[tuple[LoopbackEngine, Device, SocketModule]]:
    """Sockets over a loop-back engine; at the end all its buffers must be back and all its sockets closed."""
    engine = kind(**options)
    device = Device(engine, sq_entries=sq_entries)
    device.start(seed=1)
    free = device.pool.free
    with device.socket_module() as sockets:
        yield engine, device, sockets
    if not engine.broken and not engine.silent:
        assert not device.unexpected
        assert not engine.objects, f"still open in the engine: {engine.objects}"
        assert device.pool.free == free, "buffers are missing"


@contextlib.contextmanager
def module(kind: str) -> Iterator[Any]:
    """The standard module, or one like it."""
    if kind == "standard":
        yield socket
    else:
        with offloaded(LoopbackEngine if kind == "offloaded" else TurnEngine) as (_, _, sockets):
            yield sockets
