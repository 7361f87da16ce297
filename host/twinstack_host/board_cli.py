"""``twinstack console`` and ``twinstack serve``: what the firmware prints, and a board for several programs."""

from __future__ import annotations

import argparse
import errno
import ipaddress
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twinstack.proto.image import ImageError
from twinstack.proto.registers import ENGINE, HOST_CORE

from .connection import SLOW_FACTOR, add_connection, open_link
from .device import CONSOLE_AT_ONCE, CONSOLE_VALID, Device
from .link import HostLink, LinkError
from .registers import Registers
from .server import LinkServer
from .socket_link import SocketLink

CONSOLE_S = 0.1
"""Time between two looks at the consoles."""
STEP_S = 0.002
SERVER_SQ_ENTRIES, SERVER_CQ_ENTRIES = 16, 32
"""Rings of a server on a board with little host memory."""
LEAST_BLOCKS = 5
"""A client's rings, and buffers for one connection."""

CONSOLE_DESCRIPTION = """\
Print what the firmware of the cores prints, a line at a time, each with the number of its core, until Ctrl-C.

A serial port belongs to one program: to see the console while others use the engine, let twinstack serve have the port
and give its socket here (--connect).
"""
SERVE_DESCRIPTION = """\
Start the engine on a board and serve it at a socket, so that several programs use it at the same time: those with
sockets through a SocketLink (twinstack_host.socket_link), twinstack console, and other sub-commands with --connect.

Host memory on the board is shared by those with sockets: by default one gets all of it, which is enough for a few
connections in 8 KiB; with --clients there is less for each.
"""


def add_commands(commands: Any) -> None:
    """Add both sub-commands."""
    console = commands.add_parser(
        "console",
        help="print what the firmware prints",
        description=CONSOLE_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_connection(console)
    console.add_argument("--once", action="store_true", help="print what there is, and end")
    console.set_defaults(run=run_console)
    serve = commands.add_parser(
        "serve",
        help="serve the engine on a board to several programs",
        description=SERVE_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_connection(serve, connect=False)
    serve.add_argument("--listen", type=Path, required=True, metavar="PATH", help="socket to serve at")
    serve.add_argument("--clients", type=int, default=1, help="programs with sockets at a time (default: %(default)s)")
    serve.add_argument("--image", type=Path, help="load this firmware first, without check in hardware")
    serve.add_argument("--address", metavar="ADDRESS/PREFIX", help="address of network port 0, or dhcp")
    serve.set_defaults(run=run_serve)


def _guarded(work: Callable[[argparse.Namespace], None], arguments: argparse.Namespace) -> int:
    try:
        work(arguments)
    except KeyboardInterrupt:
        return 130
    except (ImageError, ValueError) as error:
        print(f"twinstack {arguments.command}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"twinstack {arguments.command}: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


# --- console -----------------------------------------------------------------------------------------------------------


def run_console(arguments: argparse.Namespace) -> int:
    """Print until Ctrl-C."""
    return _guarded(_console, arguments)


def _console(arguments: argparse.Namespace) -> None:
    if arguments.connect is not None:
        with SocketLink(arguments.connect, observe=True) as link:
            follow(_ServedConsole(link), once=arguments.once)
    else:
        with open_link(arguments) as link:
            follow(_BoardConsole(link), once=arguments.once)


class _ServedConsole:
    """The consoles of a served engine, from the beginning of what the server keeps."""

    def __init__(self, link: SocketLink):
        self._link = link
        self._offsets: list[int] = []
        # Registers need a place at the server: how many cores there are is found by asking.
        while True:
            try:
                first, _ = link.console(len(self._offsets))
            except OSError:
                break
            self._offsets.append(first)
        if not self._offsets:
            raise LinkError(errno.EIO, f"the server at {link.path} shows no console")

    @property
    def cores(self) -> int:
        return len(self._offsets)

    def read(self, core: int) -> bytes:
        first, data = self._link.console(core, self._offsets[core])
        self._offsets[core] = first + len(data)
        return data


class _BoardConsole:
    """The consoles behind a link that is ours alone."""

    def __init__(self, link: HostLink):
        self._registers = Registers(link)
        self.cores = self._registers.read_fields(ENGINE, "identity")["cores"]

    def read(self, core: int) -> bytes:
        words = self._registers.read_all(HOST_CORE, "console", CONSOLE_AT_ONCE, instance=core)
        return bytes(word & 0xFF for word in words if word & CONSOLE_VALID)


def follow(source: _ServedConsole | _BoardConsole, *, once: bool) -> None:
    """Print whole lines of all cores; with ``once`` what there is now."""
    parts = [b""] * source.cores
    while True:
        quiet = True
        for core in range(source.cores):
            data = source.read(core)
            quiet &= not data
            *lines, parts[core] = (parts[core] + data).split(b"\n")
            for line in lines:
                print(f"[{core}] {line.decode('utf-8', 'replace')}", flush=True)
        if not quiet:
            continue
        if once:
            for core, part in enumerate(parts):
                if part:
                    print(f"[{core}] {part.decode('utf-8', 'replace')}", flush=True)
            return
        time.sleep(CONSOLE_S)


# --- serve -------------------------------------------------------------------------------------------------------------


def run_serve(arguments: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    return _guarded(_serve, arguments)


def serving_device(link: HostLink, clients: int, timeout: float) -> tuple[Device, int]:
    """A device that leaves nearly all host memory to ``clients`` programs, and what each of them gets.

    Raises
    ------
    ValueError
        If there is not enough for so many.
    """
    if clients < 1:
        raise ValueError(f"clients must be positive, not {clients!r}")
    rings = {"sq_entries": SERVER_SQ_ENTRIES, "cq_entries": SERVER_CQ_ENTRIES}
    whole = Device(link, **rings)
    # A buffer for operations of the server itself, its address and names of interfaces.
    left = (whole.pool.count - 1) * whole.block_bytes
    each = left // clients // whole.block_bytes * whole.block_bytes
    if each < LEAST_BLOCKS * whole.block_bytes:
        raise ValueError(
            f"clients must be at most {left // (LEAST_BLOCKS * whole.block_bytes)} with this memory, not {clients!r}"
        )
    return Device(link, **rings, timeout=timeout, shared_bytes=each * clients), each


def _serve(arguments: argparse.Namespace) -> None:
    with open_link(arguments) as link:
        device, each = serving_device(link, arguments.clients, 5.0 * (SLOW_FACTOR if arguments.slow else 1))
        if arguments.image is not None:
            device.load(arguments.image.read_bytes())
        device.start(seed=secrets.randbits(31))
        if arguments.address == "dhcp":
            device.configure(0, dhcp=True)
        elif arguments.address is not None:
            interface = ipaddress.ip_interface(arguments.address)
            device.configure(0, interface.ip, interface.network.prefixlen)
        with LinkServer(device, arguments.listen, slice_bytes=each) as server:
            print(
                f"serve: {arguments.uart} at {arguments.listen}, {server.slices} programs with sockets,"
                f" {each} bytes of host memory each; Ctrl-C ends",
                flush=True,
            )
            while True:
                server.step(STEP_S)


__all__ = ["add_commands", "follow", "run_console", "run_serve", "serving_device"]
