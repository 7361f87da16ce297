"""``twinstack sim --uart``: a simulated board behind a pseudo-terminal, for programs that talk to a serial port."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from ipaddress import IPv4Interface

from twinstack_host.device import Device
from twinstack_host.uart_link import UartLink

PATIENCE_S = 3600.0
"""For the simulation to take a piece of the firmware: the machine may be busy with other things."""
QUIET_S = 10.0
STEP_CYCLES = 20_000


def serve_uart(
    arguments: argparse.Namespace,
    peer_interface: IPv4Interface,
    interruptible: Callable[[], AbstractContextManager[Callable[[], bool]]],
) -> None:
    """Simulate a standalone engine until SIGINT, SIGTERM, or the end of ``--duration``."""
    from twinstack.config import EngineConfig

    from .cli import PeerEcho
    from .engine_model import StandaloneConfig, make_standalone_simulation
    from .firmware import build_firmware
    from .peer_lwip import LwipPeer
    from .peer_tap import TapPeer
    from .simulation import SimulationOptions
    from .standalone import PtyThread, UartPty, WallTicks

    options = SimulationOptions(seed=arguments.seed, external_tick=arguments.tap)
    print("building the simulated board (some minutes the first time)", file=sys.stderr, flush=True)
    simulation = make_standalone_simulation(StandaloneConfig(EngineConfig()), options, pcap=arguments.pcap)
    with contextlib.ExitStack() as stack:
        stack.enter_context(simulation)
        terminal = stack.enter_context(UartPty(simulation))
        also: list[Callable[[], None]] = []
        if not arguments.bare:
            image = build_firmware().read_bytes()

            def progress(done: int, total: int) -> None:
                print(f"\rloading the firmware over the serial line: {100 * done // total} %", end="", file=sys.stderr)

            with PtyThread(terminal), UartLink(terminal.path, timeout=PATIENCE_S, quiet=QUIET_S) as link:
                Device(link).load(image, progress=progress)
            print(file=sys.stderr)
        stopped = stack.enter_context(interruptible())
        if arguments.tap:
            simulation.attach(0, TapPeer(arguments.address))
            also.append(WallTicks(simulation).step)
        else:
            peer = LwipPeer(str(peer_interface.ip), str(peer_interface.netmask), seed=simulation.seed)
            simulation.attach(0, peer)
            also.append(PeerEcho(peer).step)
        print(f"The serial line of the simulated board is {terminal.path}. From another shell:")
        address = f"{arguments.engine}/{peer_interface.network.prefixlen}"
        print(f"  twinstack serve --slow --uart {terminal.path} --listen /tmp/engine --address {address}")
        print("  twinstack console --connect /tmp/engine")
        print("Ctrl-C ends.", flush=True)
        end = float("inf") if arguments.duration is None else time.monotonic() + arguments.duration
        while not stopped() and time.monotonic() < end:
            for step in also:
                step()
            terminal.step(STEP_CYCLES)
