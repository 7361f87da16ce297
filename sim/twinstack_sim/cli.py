"""``twinstack sim``: run the engine with its firmware and an echo service, against a peer on the wire."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twinstack_host.device import Device

    from .peer_lwip import LwipConnection, LwipPeer
    from .session import Session
    from .simulation import SentFrame
    from .streams import HostStream

ECHO_PORT = 7  # RFC 862
BACKLOG = 8
LOOK_S = 0.002
"""Longest time, of the engine's, between two looks at the connections."""
EXAMPLE_BYTES = 2048
CLIENTS = 8
"""Programs that may use a served engine at the same time."""

DESCRIPTION = """\
Run the engine under Verilator with its firmware. Port 0 has an address and an echo service (TCP port 7), written on
the host library: all of TCP/IP is done by the simulated engine.

With --tap the peer is the Linux kernel, in real time, in a network namespace of its own; the command to enter it from
another shell is printed. Any program can ping the engine and connect to it. Ctrl-C ends it and prints a table of what
each core has done.

Without --tap the peer is lwIP in this process, on simulated time. It pings the engine, and sends random data to the
echo service and checks what comes back, for --duration milliseconds.

With --listen other programs use the engine at the same time, each with sockets of its own, through a SocketLink
(twinstack_host.socket_link) or --connect PATH of another sub-command. The lwIP peer has an echo service at TCP port 7
for them, and sends nothing by itself.

With --uart it is a board: engine, host memory and UART bridge. The path of a pseudo-terminal is printed, to be given to
other sub-commands as --uart PATH --slow; the rate of the simulated line is a quarter of the clock. The cores have their
firmware (unless --bare) and wait to be started.
"""


def add_commands(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the sub-command ``sim`` to the program's parser; its function is the parsed ``run``."""
    parser = subparsers.add_parser(
        "sim",
        help="run the simulated engine with an echo service, to be played with",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--tap", action="store_true", help="the peer is the Linux kernel, through a TAP device")
    parser.add_argument("--engine", default="192.168.77.1", help="the engine's address (default %(default)s)")
    parser.add_argument("--address", default="192.168.77.2/24", help="the peer's address (default %(default)s)")
    parser.add_argument("--seed", type=int, help="of clocks, wait cycles and the peer (default: drawn and printed)")
    parser.add_argument("--pcap", type=Path, help="write captures: NAME-port0.pcap, ...")
    parser.add_argument(
        "--duration",
        type=float,
        help="milliseconds of simulated time (default 10, with --listen no end); seconds of wall-clock time with --tap"
        " (default: no end)",
    )
    parser.add_argument("--listen", type=Path, metavar="PATH", help="serve the engine to other programs at this socket")
    parser.add_argument("--uart", action="store_true", help="a board: serve its serial line at a pseudo-terminal")
    parser.add_argument("--bare", action="store_true", help="with --uart: load no firmware")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Do what ``twinstack sim`` was asked for; returns the exit code."""
    if arguments.duration is not None and arguments.duration <= 0:
        print(f"twinstack: --duration must be positive, not {arguments.duration!r}", file=sys.stderr)
        return 2
    try:
        _run(arguments)
    except (RuntimeError, OSError, ValueError) as error:  # all that builds, peers and the simulation raise
        print(f"twinstack: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _run(arguments: argparse.Namespace) -> None:
    peer_interface = ipaddress.IPv4Interface(arguments.address)
    engine = ipaddress.IPv4Address(arguments.engine)
    if engine not in peer_interface.network or engine == peer_interface.ip:
        raise ValueError(f"engine must be another address of {peer_interface.network}, not {arguments.engine!r}")

    if arguments.uart:
        from .uart_cli import serve_uart

        if arguments.listen is not None:
            raise ValueError("--uart must stand without --listen: twinstack serve shares a board")
        if arguments.tap:
            from .peer_tap import reexec_in_namespace

            reexec_in_namespace()
        serve_uart(arguments, peer_interface, _interruptible)
        return

    from twinstack_host.server import SLICE_BYTES, LinkServer

    from .peer import Peer
    from .peer_lwip import LwipPeer
    from .peer_tap import TapPeer, reexec_in_namespace
    from .session import engine_session
    from .simulation import SimulationOptions

    if arguments.tap:
        reexec_in_namespace()
    shared_bytes = CLIENTS * SLICE_BYTES if arguments.listen is not None else 0
    options = SimulationOptions(seed=arguments.seed, external_tick=arguments.tap, memory_bytes=(1 << 20) + shared_bytes)
    with contextlib.ExitStack() as stack:
        session = stack.enter_context(
            engine_session(options=options, pcap=arguments.pcap, verbose=True, shared_bytes=shared_bytes)
        )
        stopped = stack.enter_context(_interruptible())
        simulation = session.simulation
        counts = [0] * simulation.ports

        def count(frame: SentFrame) -> None:
            counts[frame.port] += 1

        simulation.on_frame(count)
        peer: Peer
        if arguments.tap:
            peer = TapPeer(arguments.address)
        else:
            peer = lwip = LwipPeer(str(peer_interface.ip), str(peer_interface.netmask), seed=simulation.seed)
        simulation.attach(0, peer)
        for core, text in enumerate(session.device.console_text):
            print(f"core {core} console: {text.strip()}")
        session.device.configure(0, arguments.engine, peer_interface.network.prefixlen, mac="02:54:53:00:00:01")
        service = EchoService(session.device)
        also: list[Callable[[], None]] = []
        if arguments.listen is not None:
            server = stack.enter_context(LinkServer(session.device, arguments.listen))
            also.append(server.step)
            print(f"The engine is served at {arguments.listen}, for {server.slices} programs at a time.", flush=True)
        started = time.monotonic()
        if arguments.tap:
            print_how_to_enter(arguments.engine)
            end = float("inf") if arguments.duration is None else started + arguments.duration
            serve(session, service, lambda: stopped() or time.monotonic() >= end, *also)
        elif arguments.listen is not None:
            also.append(PeerEcho(lwip).step)
            print(f"The peer is {peer_interface.ip}, with an echo service. Ctrl-C ends.", flush=True)
            end = float("inf") if arguments.duration is None else session.link.clock() + arguments.duration / 1000
            serve(session, service, lambda: stopped() or session.link.clock() >= end, *also)
        else:
            example = Example(lwip, arguments.engine, simulation.seed)
            end = session.link.clock() + (arguments.duration or 10.0) / 1000
            serve(session, service, lambda: stopped() or session.link.clock() >= end, example.step)
            print(example.result())
        taken = time.monotonic() - started
        print(f"{simulation.cycles} cycles, {simulation.time_ns / 1e6:.3f} ms simulated in {taken:.1f} s")
        print("frames sent: " + ", ".join(f"port {port}: {value}" for port, value in enumerate(counts)))
        print(core_table(session.device))


def print_how_to_enter(engine: str) -> None:
    """How another shell gets to the engine."""
    enter = f"nsenter -t {os.getpid()} -U -n --preserve-credentials"
    print(f"The engine is {engine}. From another shell:")
    print(f"  {enter} ping {engine}")
    print(f"  {enter} nc {engine} {ECHO_PORT}")
    print("Ctrl-C ends.", flush=True)


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """A function that tells whether SIGINT or SIGTERM has come; the second one acts as usual."""
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number: int, frame: Any) -> None:
        received.append(number)
        signal.signal(number, before[signal.Signals(number)])

    try:
        for number in before:
            signal.signal(number, note)
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def serve(session: Session, service: EchoService, ended: Callable[[], bool], *also: Callable[[], None]) -> None:
    """Serve until ``ended()``, asked every few thousand cycles; all of ``also`` run as often."""
    while not ended():
        service.step()
        for step in also:
            step()
        session.device.advance(LOOK_S if session.simulation.options.external_tick else LOOK_S / 40)


class EchoService:
    """Returns what comes on any connection to TCP port 7; a program of the offloaded host."""

    def __init__(self, device: Device):
        from twinstack_host.sockets import Listener

        self._listener = Listener(device, ECHO_PORT, backlog=BACKLOG)
        self._streams: list[HostStream] = []

    def step(self) -> None:
        """Serve all connections once, without waiting."""
        from .streams import HostStream

        while (accepted := self._listener.accept_step()) is not None:
            self._streams.append(HostStream(accepted))
        self._streams = [stream for stream in self._streams if self._serve(stream)]

    @staticmethod
    def _serve(stream: HostStream) -> bool:
        """Serve one; False when it is over."""
        try:
            stream.send_all(stream.recv())
            over = stream.socket.ended and stream.unsent == 0
        except OSError:  # reset by the peer
            over = True
        if over:
            with contextlib.suppress(OSError):
                stream.close()
        return not over


class PeerEcho:
    """Returns what comes to TCP port 7 of the lwIP peer."""

    def __init__(self, peer: LwipPeer):
        self._listener = peer.listen(ECHO_PORT, backlog=BACKLOG)
        self._connections: list[LwipConnection] = []

    def step(self) -> None:
        """Serve all connections once, without waiting."""
        while (accepted := self._listener.accept()) is not None:
            self._connections.append(accepted)
        for connection in list(self._connections):
            if not connection.closed:
                connection.send_all(connection.recv())
            if connection.closed or connection.peer_closed and not connection.unsent:
                connection.close()
                self._connections.remove(connection)


class Example:
    """What the lwIP peer does: pings, and data to the echo service that must come back unchanged."""

    def __init__(self, peer: LwipPeer, engine: str, seed: int):
        self._peer = peer
        self._dice = random.Random(seed)
        self._expected = bytearray()
        self.verified = 0
        peer.ping(engine)
        self._connection = peer.connect(engine, ECHO_PORT)

    def step(self) -> None:
        """Check what has come and send more.

        Raises
        ------
        ValueError
            If a byte came back changed.
        """
        got = self._connection.recv()
        if got != self._expected[: len(got)]:
            raise ValueError(f"the echo differs from what was sent, after {self.verified} bytes")
        del self._expected[: len(got)]
        self.verified += len(got)
        if self._connection.connected and not self._expected:
            data = self._dice.randbytes(EXAMPLE_BYTES)
            self._expected += data
            self._connection.send_all(data)

    def result(self) -> str:
        """What came of it."""
        return f"pings answered: {len(self._peer.ping_replies)} of 1; bytes echoed and verified: {self.verified}"


def core_table(device: Device) -> str:
    """What each core has done, a line for each."""
    columns = ("core", "frames in", "frames out", "segments in", "segments out", "bytes in", "bytes out", "busy")
    lines = ["  ".join(columns)]
    for core in range(device.cores):
        stats = device.stats(core)
        names = ("frames_in", "frames_out", "tcp_segments_in", "tcp_segments_out", "bytes_in", "bytes_out")
        busy = 100 * (stats["cycles"] - stats["idle_cycles"]) / max(stats["cycles"], 1)
        values = [str(core), *(str(stats[name]) for name in names), f"{busy:.0f}%"]
        lines.append("  ".join(value.rjust(len(column)) for column, value in zip(columns, values, strict=True)))
    return "\n".join(lines)
