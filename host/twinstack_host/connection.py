"""Options by which a sub-command finds its engine: one on a board behind a serial port, or one that another program serves."""

from __future__ import annotations

import argparse
import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path

from twinstack.proto.registers import ENGINE

from .device import Device
from .link import HostLink
from .socket_link import SocketLink
from .uart_link import BAUD, QUIET_S, TIMEOUT_S, UartLink

SLOW_FACTOR = 60
"""A simulated board takes so much longer, more or less."""


def add_connection(parser: argparse.ArgumentParser, *, connect: bool = True) -> None:
    """Add ``--uart``, ``--baud``, ``--slow``, and with ``connect`` the alternative ``--connect``."""
    group = parser.add_mutually_exclusive_group(required=True)
    if connect:
        group.add_argument(
            "--connect", type=Path, metavar="PATH", help="socket of an engine that another program serves"
        )
    group.add_argument("--uart", metavar="PORT", help="serial port of a board")
    parser.add_argument("--baud", type=int, default=BAUD, help="rate of the serial port (default: %(default)s)")
    parser.add_argument("--slow", action="store_true", help="be patient: the board is a simulation")
    parser.set_defaults(connect=None)


@contextlib.contextmanager
def open_link(arguments: argparse.Namespace) -> Iterator[HostLink]:
    """The link that the options name; raises LinkError if there is no engine."""
    link: UartLink | SocketLink
    if arguments.uart is not None:
        factor = SLOW_FACTOR if arguments.slow else 1
        link = UartLink(arguments.uart, arguments.baud, timeout=TIMEOUT_S * factor, quiet=QUIET_S * factor)
    else:
        link = SocketLink(arguments.connect)
    with link:
        yield link


@contextlib.contextmanager
def open_device(arguments: argparse.Namespace) -> Iterator[Device]:
    """A device with its queue set up; an engine on a board whose cores do not run is started with what code memory holds."""
    with open_link(arguments) as link:
        device = Device(link, timeout=5.0 * (SLOW_FACTOR if arguments.slow else 1))
        if link.is_shared or device.registers.read(ENGINE, "alive") == (1 << device.cores) - 1:
            device.attach()
        else:
            device.start(seed=secrets.randbits(31))
        yield device
