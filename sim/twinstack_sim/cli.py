"""``twinstack sim``: run the engine against a peer on the wire."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .peer import Peer
    from .simulation import Simulation

TICK_S = 0.001
MAX_TICKS_BEHIND = 100
TAP_STEP_CYCLES = 500


def add_commands(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the sub-command ``sim`` to the program's parser; its function is the parsed ``run``."""
    parser = subparsers.add_parser(
        "sim",
        help="run the simulated engine against a peer",
        description="Run the engine under Verilator. Port 0 goes to a peer: lwIP in this process on simulated time, "
        "or with --tap the Linux kernel on wall-clock time.",
    )
    parser.add_argument("--tap", action="store_true", help="the peer is the Linux kernel, through a TAP device")
    parser.add_argument("--address", default="192.168.77.2/24", help="the peer's address (default %(default)s)")
    parser.add_argument("--seed", type=int, help="of clocks, wait cycles and the peer (default: drawn and printed)")
    parser.add_argument("--pcap", type=Path, help="write captures: NAME-port0.pcap, ...")
    parser.add_argument(
        "--duration",
        type=float,
        default=10.0,
        help="milliseconds of simulated time; seconds of wall-clock time with --tap (default %(default)s)",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do what ``twinstack sim`` was asked for; returns the exit code."""
    from .build import BuildError
    from .lwip_source import LwipSourceError
    from .peer_tap import TapError
    from .simulation import SimulationError

    if arguments.duration <= 0:
        print(f"twinstack: --duration must be positive, not {arguments.duration!r}", file=sys.stderr)
        return 2
    try:
        _run(arguments)
    except (BuildError, LwipSourceError, TapError, SimulationError, ValueError) as error:
        print(f"twinstack: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _run(arguments: argparse.Namespace) -> None:
    from twinstack.config import EngineConfig

    from .engine_model import make_simulation
    from .peer_tap import reexec_in_namespace
    from .simulation import SimulationOptions

    if arguments.tap:
        reexec_in_namespace()
    options = SimulationOptions(seed=arguments.seed, external_tick=arguments.tap)
    simulation = make_simulation(EngineConfig(), options, pcap=arguments.pcap)
    counts = [0] * simulation.ports

    def count(frame: Any) -> None:
        counts[frame.port] += 1

    simulation.on_frame(count)
    with simulation:
        simulation.attach(0, _make_peer(arguments, simulation.seed))
        started = time.monotonic()
        if arguments.tap:
            run_in_real_time(simulation, arguments.duration)
        else:
            simulation.run(round(arguments.duration * simulation.options.sync_hz / 1000))
        taken = time.monotonic() - started
        print(f"{simulation.cycles} cycles, {simulation.time_ns / 1e6:.3f} ms simulated in {taken:.1f} s")
        print("frames sent: " + ", ".join(f"port {port}: {value}" for port, value in enumerate(counts)))


def _make_peer(arguments: argparse.Namespace, seed: int) -> Peer:
    if arguments.tap:
        from .peer_tap import TapPeer

        return TapPeer(arguments.address)
    import ipaddress

    from .peer_lwip import LwipPeer

    interface = ipaddress.IPv4Interface(arguments.address)
    return LwipPeer(str(interface.ip), str(interface.netmask), seed=seed)


def run_in_real_time(simulation: Simulation, duration_s: float) -> None:
    """Run for ``duration_s`` of wall-clock time; the engine's ticks follow the wall clock.

    After a pause (a stopped process), at most ``MAX_TICKS_BEHIND`` ticks are made up for.
    """
    started = time.monotonic()
    next_tick = started + TICK_S
    while (now := time.monotonic()) < started + duration_s:
        next_tick = max(next_tick, now - MAX_TICKS_BEHIND * TICK_S)
        while next_tick <= now:
            simulation.tick()
            next_tick += TICK_S
        simulation.run(TAP_STEP_CYCLES)
