"""Fixtures' helpers: an object with the names of ``socket`` over the loop-back engine, or the standard module itself."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from support.loopback_engine import LoopbackEngine, TurnEngine
from twinstack_host.device import Device
from twinstack_host.socket import SocketModule

HOST = "127.0.0.1"
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


def soon(condition, what: str) -> None:
    end = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < end, f"{what} did not come about"
        time.sleep(0.002)


def readable(sock, timeout: float = 5.0) -> bool:
    return bool(select.select([sock], [], [], timeout)[0])


def connected(sockets):
    with sockets.create_server((HOST, 0)) as server:
        one = sockets.create_connection(server.getsockname(), timeout=10)
        two = server.accept()[0]
    two.settimeout(10)
    return one, two


def operations(engine, kind) -> list[dict[str, int]]:
    return [entry for entry in engine.taken if entry["operation"] == kind]


def blocked(*calls) -> tuple[list[threading.Thread], list[BaseException]]:
    errors: list[BaseException] = []

    def run(call):
        try:
            call()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    return threads, errors
