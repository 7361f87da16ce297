"""``twinstack demo``: the simulated engine serves TCP connections on both cores, and every byte is checked."""

from __future__ import annotations

import argparse
import random
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from twinstack.models.toeplitz import rss_hash
from twinstack.proto.registers import HOST_CORE
from twinstack_host.device import Device, error_for, ipv4_bytes
from twinstack_host.sockets import Listener, Socket

from .link import SimulationLink
from .peer import Peer
from .peer_lwip import LwipConnection, LwipPeer
from .peer_tap import TapError, TapPeer, check_namespace, reexec_in_namespace
from .session import ENGINE_ADDRESS, PEER_ADDRESS, PREFIX_LENGTH, Session, engine_session
from .simulation import SimulationOptions
from .streams import HostStream, LinuxStream, Stream
from .toolchain import BUILD, require_extra
from .transfer import EchoTransfer, run_transfers

ENGINE_PORT = 7007
PEER_PORT = 9009
CONNECTIONS = 16
BYTES = 16 * 1024


class DemoError(Exception):
    """The demonstration failed; the text says why."""


class Side(Protocol):
    """The peer's station: what it can be asked to do."""

    name: str

    def connect(self) -> Stream:
        """Begin to connect to the engine."""

    def is_connected(self, stream: Any) -> bool:
        """The handshake is done."""

    def listen(self) -> None:
        """Listen on PEER_PORT."""

    def accept(self) -> Stream | None:
        """A connection that the engine has opened."""

    def local_port(self, stream: Any) -> int:
        """Port at this end."""

    def remote_port(self, stream: Any) -> int:
        """Port at the engine's end."""

    def ping(self, advance: Callable[[], None], expired: Callable[[], bool]) -> str:
        """Ping the engine; returns what to print, raises DemoError without an answer."""


class LwipSide:
    """lwIP in this process, on simulated time."""

    def __init__(self, peer: LwipPeer):
        self.peer = peer
        self.name = "lwIP compiled for the PC"

    def connect(self) -> LwipConnection:
        return self.peer.connect(ENGINE_ADDRESS, ENGINE_PORT)

    def is_connected(self, stream: LwipConnection) -> bool:
        if stream.closed:
            raise DemoError(f"connection refused: {stream.error}")
        return stream.connected

    def listen(self) -> None:
        self._listener = self.peer.listen(PEER_PORT, backlog=CONNECTIONS)

    def accept(self) -> LwipConnection | None:
        return self._listener.accept()

    def local_port(self, stream: LwipConnection) -> int:
        return stream.local[1]

    def remote_port(self, stream: LwipConnection) -> int:
        return stream.remote[1]

    def ping(self, advance: Callable[[], None], expired: Callable[[], bool]) -> str:
        for count in range(3):
            self.peer.ping(ENGINE_ADDRESS)
            while len(self.peer.ping_replies) <= count:
                if expired():
                    raise DemoError(f"only {count} of 3 pings were answered")
                advance()
        return "3 of 3 answered"


class LinuxSide:
    """The Linux kernel over TAP, on wall-clock time."""

    def __init__(self) -> None:
        self.name = "the Linux kernel over TAP"
        self._server: socket.socket | None = None

    def connect(self) -> LinuxStream:
        sock = socket.socket()
        sock.setblocking(False)
        sock.connect_ex((ENGINE_ADDRESS, ENGINE_PORT))
        return LinuxStream(sock)

    def is_connected(self, stream: LinuxStream) -> bool:
        stream.step()
        return stream.connected

    def listen(self) -> None:
        self._server = socket.create_server((PEER_ADDRESS, PEER_PORT), backlog=CONNECTIONS)
        self._server.setblocking(False)

    def accept(self) -> LinuxStream | None:
        assert self._server is not None
        try:
            return LinuxStream(self._server.accept()[0])
        except BlockingIOError:
            return None

    def local_port(self, stream: LinuxStream) -> int:
        return stream.local[1]

    def remote_port(self, stream: LinuxStream) -> int:
        return int(stream.socket.getpeername()[1])

    def ping(self, advance: Callable[[], None], expired: Callable[[], bool]) -> str:
        command = ["ping", "-c", "3", "-i", "0.3", "-W", "5", ENGINE_ADDRESS]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        while process.poll() is None:
            if expired():
                process.kill()
                raise DemoError("ping did not end")
            advance()
        output = process.communicate()[0]
        if process.returncode:
            raise DemoError(f"ping failed: {output.strip()}")
        return next(line for line in output.splitlines() if "received" in line)


def add_commands(commands: Any) -> None:
    """Add ``twinstack demo``; raises ModuleNotFoundError without the extra ``sim``."""
    require_extra()
    parser = commands.add_parser(
        "demo",
        help="TCP connections through the simulated engine, verified",
        description="Run the engine in simulation with its firmware, open TCP connections in both directions between "
        "the offloaded host and a peer, echo random data over all of them, and verify every byte.",
    )
    parser.add_argument("--connections", type=int, default=CONNECTIONS, help="connections, half each way (%(default)s)")
    parser.add_argument("--bytes", type=int, default=BYTES, help="bytes echoed on each connection (%(default)s)")
    parser.add_argument("--peer", choices=("auto", "tap", "lwip"), default="auto", help="who is at the other end")
    parser.add_argument("--seed", type=int, help="of the simulation, the data and the hash key (default: drawn)")
    parser.add_argument("--pcap", type=Path, default=BUILD / "demo.pcap", help="where captures go (%(default)s)")
    parser.set_defaults(run=run)


def choose_peer(wanted: str) -> tuple[str, str]:
    """(``tap`` or ``lwip``, why); raises TapError if TAP is demanded and not to be had."""
    if wanted == "lwip":
        return "lwip", "asked for"
    try:
        if shutil.which("ping") is None:
            raise TapError("ping is not installed")
        check_namespace()
    except TapError as error:
        if wanted == "tap":
            raise
        return "lwip", f"no TAP device: {error}"
    return "tap", "asked for" if wanted == "tap" else "a TAP device can be had"


def run(options: argparse.Namespace) -> int:
    """The whole demonstration; exit status 0 only if everything was verified."""
    try:
        if options.connections < 2 or options.bytes < 1:
            raise DemoError(f"needs at least 2 connections and 1 byte, not {options.connections}, {options.bytes}")
        kind, why = choose_peer(options.peer)
        if kind == "tap":
            reexec_in_namespace()
        print(f"peer: {kind} ({why})", flush=True)
        line = demonstrate(kind, options)
    except Exception as error:  # whatever goes wrong, the last line says so
        print(f"demo: FAILED {type(error).__name__}: {error}", flush=True)
        return 1
    print(line, flush=True)
    return 0


def demonstrate(kind: str, options: argparse.Namespace) -> str:
    """Run it all and return the last line."""
    began = time.monotonic()
    seed = secrets.randbits(31) if options.seed is None else options.seed
    rng = random.Random(seed)
    simulation_options = SimulationOptions(seed=seed, external_tick=kind == "tap")
    options.pcap.parent.mkdir(parents=True, exist_ok=True)
    with engine_session(options=simulation_options, pcap=options.pcap, verbose=True) as session:
        device = session.device
        for core, text in enumerate(device.console_text):
            print(f"core {core} console: {text.strip()}", flush=True)
        peer: Peer
        side: Side
        if kind == "tap":
            peer, side = TapPeer(f"{PEER_ADDRESS}/{PREFIX_LENGTH}"), LinuxSide()
        else:
            peer = lwip = LwipPeer(PEER_ADDRESS, seed=seed)
            side = LwipSide(lwip)
        session.simulation.attach(0, peer)
        key = rng.randbytes(40)
        device.set_hash_key(key)
        print(f"hash key: {key.hex()}")
        device.configure(0, ENGINE_ADDRESS, PREFIX_LENGTH, mac="02:54:53:00:00:01")
        print(f"ping: {side.ping(lambda: device.advance(0.001), deadline(session.link, 20))}", flush=True)
        transfers, closers, cores = connect_all(session, side, options, rng, key)
        print(f"{len(transfers)} connections open, echoing {options.bytes} bytes on each", flush=True)
        accesses = payload_accesses(device)
        run_transfers(
            transfers,
            lambda: device.advance(0.0005),
            deadline(session.link, 120 + len(transfers) * options.bytes / 5000),
        )
        accesses = [after - before for before, after in zip(accesses, payload_accesses(device), strict=True)]
        return finish(session, transfers, closers, cores, accesses, time.monotonic() - began, options.pcap)


def payload_accesses(device: Device) -> list[int]:
    """Accesses of each core's CPU to packet memory so far."""
    return [device.registers.read(HOST_CORE, "cpu_accesses", instance=core) for core in range(device.cores)]


def deadline(link: SimulationLink, seconds: float) -> Callable[[], bool]:
    """Whether ``seconds`` have passed since now: of wall-clock time, or a 500th of it where time is simulated."""
    scale = 1.0 if link.simulation.options.external_tick else 0.002
    end = link.clock() + seconds * scale
    return lambda: link.clock() > end


def connect_all(
    session: Session, side: Side, options: argparse.Namespace, rng: random.Random, key: bytes
) -> tuple[list[EchoTransfer], list[Callable[[], None]], list[int]]:
    """Open all connections; returns transfers, what closes them, and the core of each connection."""
    device = session.device
    expired = deadline(session.link, 30)

    def wait(condition: Callable[[], bool], what: str) -> None:
        while not condition():
            if expired():
                raise DemoError(f"{what} did not come about")
            device.advance(0.0005)

    transfers: list[EchoTransfer] = []
    closers: list[Callable[[], None]] = []
    cores: list[int] = []
    incoming = options.connections // 2
    listener = Listener(device, ENGINE_PORT, backlog=incoming)
    clients = [side.connect() for _ in range(incoming)]
    wait(lambda: all([side.is_connected(client) for client in clients]), "the peer's connections")
    by_port = {side.local_port(client): client for client in clients}
    for _ in range(incoming):
        accepted, (_, port) = listener.accept()
        client = by_port.pop(port)
        hashed = rss_hash(key, ipv4_bytes(PEER_ADDRESS), ipv4_bytes(ENGINE_ADDRESS), (port, ENGINE_PORT))
        expected = (hashed & 127) % device.cores
        if accepted.core != expected:
            raise DemoError(f"the connection from port {port} is on core {accepted.core}, its hash says {expected}")
        cores.append(accepted.core)
        host = HostStream(accepted)
        transfers.append(EchoTransfer(f"peer:{port} to host", client, host, rng.randbytes(options.bytes)))
        closers += [client.close, host.close]
    side.listen()
    outgoing = options.connections - incoming
    pendings = [Socket.connect_begin(device, (PEER_ADDRESS, PEER_PORT)) for _ in range(outgoing)]
    wait(lambda: all(pending.done for pending in pendings), "the host's connections")
    sockets = {}
    for pending in pendings:
        if pending.result < 0:
            raise error_for(pending.result, "connect")
        sock = Socket(device, pending.result)
        sockets[sock.getsockname()[1]] = sock
    for _ in range(outgoing):
        servers: list[Stream] = []

        def accepted_one(servers: list[Stream] = servers) -> bool:
            one = side.accept()
            if one is not None:
                servers.append(one)
            return bool(servers)

        wait(accepted_one, "the peer's accept")
        port = side.remote_port(servers[0])
        sock = sockets.pop(port)
        cores.append(sock.core)
        host = HostStream(sock)
        transfers.append(EchoTransfer(f"host:{port} to peer", host, servers[0], rng.randbytes(options.bytes)))
        closers += [host.close, servers[0].close]
    closers.append(listener.close)
    return transfers, closers, cores


def finish(
    session: Session,
    transfers: list[EchoTransfer],
    closers: list[Callable[[], None]],
    cores: list[int],
    accesses: list[int],
    seconds: float,
    pcap: Path,
) -> str:
    """Statistics, orderly end, and the last line."""
    device = session.device
    stats = [device.stats(core) for core in range(device.cores)]
    columns = ["core", "connections", "segments in", "segments out", "bytes in", "bytes out", "cycles/segment"]
    columns += ["locks", "messages", "CPU payload accesses"]
    rows = []
    for core, values in enumerate(stats):
        segments = values["tcp_segments_in"] + values["tcp_segments_out"]
        busy = values["cycles"] - values["idle_cycles"]
        rows.append(
            (
                core,
                cores.count(core),
                values["tcp_segments_in"],
                values["tcp_segments_out"],
                values["bytes_in"],
                values["bytes_out"],
                busy // max(segments, 1),
                values["locks"],
                values["messages"],
                accesses[core],
            )
        )
    print("  ".join(columns))
    for row in rows:
        print("  ".join(str(value).rjust(len(column)) for column, value in zip(columns, row, strict=True)))
    for close in closers:
        close()
    session.run_until_quiet()
    verified = sum(transfer.verified for transfer in transfers)
    counts = [cores.count(core) for core in range(device.cores)]
    capture = pcap.with_stem(f"{pcap.stem}-port0")
    print(f"{session.simulation.cycles} cycles simulated, {seconds:.0f} s; capture: {capture}")
    if any(accesses):
        raise DemoError(f"the CPUs must not touch payload during the transfers, not {accesses} times")
    if min(counts) == 0:
        raise DemoError(f"every core must serve connections, not {counts}")
    served = ", ".join(f"core{core} {count}" for core, count in enumerate(counts))
    return f"demo: ok {len(transfers)} connections, {served}, {verified} bytes verified"


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers(required=True))
    chosen = parser.parse_args()
    sys.exit(chosen.run(chosen))
