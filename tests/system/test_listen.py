"""Two programs on one simulated engine, each with its own connections; one is killed in mid-transfer."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from support.c_library import build_program
from support.rtl import seed
from system.rig import LIMIT_CYCLES, STEP_CYCLES, started
from twinstack_host import cli
from twinstack_host.device import Device
from twinstack_host.server import LinkServer
from twinstack_host.socket_link import SocketLink
from twinstack_host.sockets import Socket

SLICE = 1 << 17
PEER_PORT = 9400
FIRST_PORT = 7400
WALL_SECONDS = 60.0

PROGRAM = textwrap.dedent(
    """
    import hashlib, random, sys
    from twinstack_host.device import Device
    from twinstack_host.socket_link import SocketLink
    from twinstack_host.sockets import Listener, Socket

    path, kind, seed, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    with SocketLink(path, timeout=50) as link:
        device = Device(link, sq_entries=16, cq_entries=16)
        device.start(seed=1)
        if kind == "connect":
            connection = Socket.connect(device, ("192.168.77.2", int(sys.argv[5])))
        else:
            listener = Listener(device, int(sys.argv[5]))
            print("listening", flush=True)
            connection, _ = listener.accept()
        print("connected", connection.getsockname()[1], flush=True)
        data = random.Random(seed).randbytes(size)
        sent = got = 0
        while got < size:
            if sent < size and sent - got < 6000:
                sent += connection.send(data[sent : sent + 3000])
            else:
                piece = connection.recv(1 << 16)
                assert piece and piece == data[got : got + len(piece)], (got, len(piece))
                got += len(piece)
                print("got", got, flush=True)
        connection.close()
        assert device.unexpected == []
        print("done", hashlib.sha256(data).hexdigest(), flush=True)
    """
)


class Program:
    """A client process, whose output is looked at without waiting."""

    def __init__(self, path, *arguments):
        command = [sys.executable, "-c", PROGRAM, str(path), *(str(argument) for argument in arguments)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, bufsize=0)
        os.set_blocking(self.process.stdout.fileno(), False)
        self.output = b""

    def lines(self) -> list[str]:
        self.output += self.process.stdout.read() or b""
        return self.output.decode().splitlines()

    def says(self, word: str) -> bool:
        lines = self.lines()
        assert "Traceback" not in self.output.decode(), self.output.decode()
        return any(line.startswith(word) for line in lines)

    def stop(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def rig():
    """An engine whose host memory has room for clients."""
    with started(memory_bytes=(1 << 20) + 3 * SLICE, shared_bytes=3 * SLICE) as one:
        one.add_peer(0)
        yield one


@pytest.fixture
def server(rig, tmp_path):
    with LinkServer(rig.device, tmp_path / "engine", slice_bytes=SLICE) as made:
        yield made
        until(rig, made, lambda: not made.clients and not made.draining, "all clients are gone")
    rig.run(20_000)
    rig.assert_alive()


def until(rig, server, condition, what, cycles=20 * LIMIT_CYCLES):
    """Serve the clients and let the engine work until ``condition()``."""
    end, wall = rig.simulation.cycles + cycles, time.monotonic() + WALL_SECONDS
    while not condition():
        assert rig.simulation.cycles < end and time.monotonic() < wall, f"{what} did not come about (seed {rig.seed})"
        server.step()
        rig.device.advance(STEP_CYCLES / rig.second_cycles / 4)


class PeerEcho:
    """The lwIP station returns what it gets, on any connection."""

    def __init__(self, listener):
        self.listener, self.connections = listener, []

    def step(self):
        while (one := self.listener.accept()) is not None:
            self.connections.append(one)
        for one in self.connections:
            if not one.closed and one.connected:
                one.send_all(one.recv())
        return False


def test_two_processes_and_one_is_killed(rig, server):
    listener = rig.peer.listen(PEER_PORT)
    echo = PeerEcho(listener)
    size = 24_000
    one = Program(server.path, "connect", 1, size, PEER_PORT)
    victim = Program(server.path, "listen", 2, 10_000_000, FIRST_PORT)
    try:
        until(rig, server, lambda: echo.step() or victim.says("listening"), "a listener")
        caller = rig.peer.connect("192.168.77.1", FIRST_PORT)
        echo.connections.append(caller)
        until(rig, server, lambda: echo.step() or (one.says("got") and victim.says("got")), "both transfers")
        assert server.clients == 2
        victim.process.kill()
        until(
            rig, server, lambda: echo.step() or (server.clients <= 1 and not server.draining), "the end of the victim"
        )
        until(rig, server, lambda: echo.step() or caller.closed, "the reset of the victim's connection")
        refused = rig.peer.connect("192.168.77.1", FIRST_PORT)
        until(rig, server, lambda: echo.step() or refused.closed, "its listener's end")
        # Its place and its port are free for another.
        heir = Program(server.path, "listen", 3, 6000, FIRST_PORT)
        try:
            until(rig, server, lambda: echo.step() or heir.says("listening"), "another listener of the port")
            echo.connections.append(rig.peer.connect("192.168.77.1", FIRST_PORT))
            until(rig, server, lambda: echo.step() or (one.says("done") and heir.says("done")), "the others' transfers")
        finally:
            heir.stop()
        for connection in echo.connections:
            connection.close()
    finally:
        one.stop()
        victim.stop()
        listener.close()


def test_local_sockets_and_clients_mix(rig, server):
    """The serving program uses the engine itself, at the same time."""
    rig.echo_once(0, FIRST_PORT + 1)
    listener = rig.peer.listen(PEER_PORT + 1)
    echo = PeerEcho(listener)
    clients = [Program(server.path, "connect", number, 5000, PEER_PORT + 1) for number in range(3)]
    try:
        until(rig, server, lambda: echo.step() or any(client.says("connected") for client in clients), "a client")
        for core in range(2):
            assert rig.device.stats(core)["core"] == core
        until(rig, server, lambda: echo.step() or all(client.says("done") for client in clients), "all transfers")
        ports = {line for client in clients for line in client.lines() if line.startswith("connected")}
        assert len(ports) == 3, "each has a connection of its own"
        for connection in echo.connections:
            connection.close()
    finally:
        for client in clients:
            client.stop()
        listener.close()


def test_sim_listen(tmp_path):
    """``twinstack sim --listen``: a program connects to the peer's echo service, another shows the dispatcher; an orderly end."""
    path = tmp_path / "engine"
    command = [sys.executable, "-c", "from twinstack_host.cli import main; raise SystemExit(main())", "sim"]
    engine = subprocess.Popen(
        [*command, "--listen", str(path), "--seed", str(seed())], stdout=subprocess.PIPE, text=True
    )
    guard = threading.Timer(10 * WALL_SECONDS, engine.kill)  # the model may have to be built
    guard.start()
    try:
        assert any(line.startswith("The engine is served at") for line in engine.stdout)
        with SocketLink(path) as link:
            device = Device(link)
            device.attach()
            with Socket.connect(device, ("192.168.77.2", 7), timeout=1.0) as connection:
                connection.sendall(b"from another process")
                got = b""
                while len(got) < 20:
                    got += connection.recv(100)
                assert got == b"from another process"
        assert cli.main(["dispatch", "--connect", str(path), "--rule", "tcp dport=7 -> core 1"]) == 0
        engine.send_signal(signal.SIGINT)
        rest, _ = engine.communicate(timeout=WALL_SECONDS)
        assert engine.returncode == 0 and "cycles" in rest and not path.exists()
    finally:
        guard.cancel()
        engine.kill()
        engine.wait()


def test_program_in_c(rig, server):
    """The echo service of the C library's examples, as a process with sanitizers: every byte comes back."""
    data = rig.random.randbytes(12_000)
    program = subprocess.Popen(
        [build_program(), server.path, str(FIRST_PORT + 2), "1"], stderr=subprocess.PIPE, text=True
    )
    try:
        connections = []

        def connected() -> bool:
            """Until it listens, connections are refused."""
            if not connections or connections[-1].closed:
                connections.append(rig.peer.connect("192.168.77.1", FIRST_PORT + 2))
            return connections[-1].connected

        until(rig, server, connected, "its listener")
        connection, got = connections[-1], bytearray()
        connection.send_all(data)
        until(rig, server, lambda: got.extend(connection.recv()) or len(got) == len(data), "the echo")
        assert got == data
        connection.close()
        until(rig, server, lambda: program.poll() is not None, "its end")
        assert (program.returncode, program.stderr.read()) == (0, "")
    finally:
        program.kill()
        program.wait()
        program.stderr.close()
