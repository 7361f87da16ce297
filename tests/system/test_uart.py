"""A board in simulation: real firmware loaded, and sockets used, through the UART's pins by way of a pseudo-terminal.

The line runs at a quarter of the clock. Loading the firmware takes 5 million cycles, a minute of CPU time.
"""

import contextlib
import threading
import time

import pytest

from support.rtl import seed
from twinstack.config import EngineConfig
from twinstack.proto import bridge_map as bridge
from twinstack.proto.abi import ABI_VERSION, MAGIC
from twinstack_host import cli
from twinstack_host.device import Device
from twinstack_host.link import LinkError
from twinstack_host.server import LinkServer
from twinstack_host.socket_link import SocketLink
from twinstack_host.uart_link import UartLink
from twinstack_sim.cli import PeerEcho
from twinstack_sim.engine_model import StandaloneConfig, make_standalone_simulation
from twinstack_sim.firmware import build_firmware
from twinstack_sim.peer_lwip import LwipPeer
from twinstack_sim.simulation import SimulationOptions
from twinstack_sim.standalone import PtyThread, UartPty

ENGINE, PEER, ECHO_PORT = "192.168.77.1", "192.168.77.2", 7
PATIENCE = 900.0
"""Seconds of wall-clock time: the machine may be busy."""
QUIET = 5.0


class UartRig:
    """The board, its line, its peer, and the host library on the other side."""

    def __init__(self, simulation, line, link, peer):
        self.simulation, self.line, self.link, self.peer = simulation, line, link, peer
        self.device = Device(link, timeout=PATIENCE)

    def wait(self, condition):
        """Until ``condition()``, asked with the simulation at rest."""
        deadline = time.monotonic() + PATIENCE
        while True:
            with self.line.lock:
                if condition():
                    return
            assert time.monotonic() < deadline
            time.sleep(0.05)


@pytest.fixture(scope="module")
def board():
    image = build_firmware().read_bytes()
    value = seed()
    simulation = make_standalone_simulation(StandaloneConfig(EngineConfig()), SimulationOptions(seed=value))
    with contextlib.ExitStack() as stack:
        stack.enter_context(simulation)
        peer = LwipPeer(PEER, "255.255.255.0", seed=value)
        simulation.attach(0, peer)
        echo = PeerEcho(peer)
        terminal = stack.enter_context(UartPty(simulation))
        line = stack.enter_context(PtyThread(terminal))
        line.also.append(echo.step)
        link = stack.enter_context(UartLink(terminal.path, timeout=PATIENCE, quiet=QUIET))
        made = UartRig(simulation, line, link, peer)
        made.device.load(image)
        made.device.start(seed=value)
        stack.callback(made.device.close)
        made.device.configure(0, ENGINE, 24, mac="02:54:53:00:00:01")
        yield made


def test_registers_memory_and_console(board):
    device, link = board.device, board.link
    page = link.page
    assert page["memory_bytes"] == link.memory_size == 8192 and page["sync_hz"] == 75_000_000
    assert link.csr_read(0) == MAGIC
    address = device.pool.take()
    data = bytes(range(256)) * 2
    link.write(address, data)
    link.write(address + 3, b"odd")
    assert link.read(address, len(data)) == data[:3] + b"odd" + data[6:]
    device.pool.give(address)
    for core in range(2):
        assert device.console_text[core] == f"core {core}: twinstack firmware 0.1, ABI {ABI_VERSION}, stack up\n"
    assert link.read_words(0x4000, 1) == [bridge.NO_DATA]
    assert link.page["bus_errors"] == page["bus_errors"] + 1


def talk(net, data):
    with net.create_connection((PEER, ECHO_PORT)) as connection:
        connection.settimeout(PATIENCE)
        connection.sendall(data)
        got = b""
        while len(got) < len(data):
            piece = connection.recv(4096)
            assert piece
            got += piece
        assert got == data


def test_two_connections_to_the_peer(board):
    """twinstack_host.socket, two threads, more than a buffer holds: everything comes back unchanged."""
    net = board.device.socket_module()
    data = [bytes([n]) + bytes(range(200)) * 10 for n in range(2)]
    threads = [threading.Thread(target=talk, args=(net, one)) for one in data]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    board.link.check_line()


def test_a_connection_from_the_peer(board):
    net = board.device.socket_module()
    with net.create_server((ENGINE, 4000)) as server:
        with board.line.lock:
            far = board.peer.connect(ENGINE, 4000)
            far.send_all(b"from the other side" * 50)
        server.settimeout(PATIENCE)
        connection, _ = server.accept()
        with connection:
            connection.settimeout(PATIENCE)
            got = b""
            while len(got) < 950:
                got += connection.recv(4096)
            assert got == b"from the other side" * 50
            connection.sendall(b"thanks")
            board.wait(lambda: far.recv() == b"thanks")
        with board.line.lock:
            far.close()


def test_it_recovers_from_garbage(board):
    """Half a command, bytes without stop bits and noise come in between; after the quiet time all is as before."""
    board.device.close()  # its sockets' thread would lose commands of its own
    with board.line.lock:
        board.simulation.uart_send(b"\x01\x40\x00\x00")
        board.simulation.uart_send(b"\x77\x01\x02", bad_stop=True)
        board.simulation.uart_send(bytes(range(5, 200)))
    board.wait(lambda: not board.simulation.uart_backlog)
    with board.line.lock:
        board.simulation.run(2 * 75_000)
    assert board.link.csr_read(0) == MAGIC
    with pytest.raises(LinkError, match=r"bytes to the engine were lost: \d+ framing errors"):
        board.link.check_line()
    board.device.call(0, "NOP")
    talk(board.device.socket_module(), b"still there")


def test_shared_by_programs_with_the_console(board, tmp_path, capsys):
    """A server has the line: a program with sockets and the console at the same time, each at the server's socket."""
    board.device.close()
    device = Device(board.link, timeout=PATIENCE, sq_entries=16, cq_entries=32, shared_bytes=12 * 512)
    device.start(seed=5)
    device.configure(0, ENGINE, 24, mac="02:54:53:00:00:01")
    path = tmp_path / "engine"
    done = threading.Event()

    def program():
        try:
            with SocketLink(path, timeout=PATIENCE) as link:
                client = Device(link, timeout=PATIENCE)
                client.attach()
                talk(client.socket_module(), b"over two links" * 60)
                results.append("echoed")
                client.close()
        finally:
            done.set()

    results = []
    with LinkServer(device, path, slice_bytes=12 * 512) as server:
        threading.Thread(target=program).start()
        watching = threading.Thread(
            target=lambda: results.append(cli.main(["console", "--connect", str(path), "--once"]))
        )
        watching.start()
        deadline = time.monotonic() + PATIENCE
        while not done.is_set() or watching.is_alive():
            server.step(0.005)
            assert time.monotonic() < deadline
    assert sorted(results, key=str) == [0, "echoed"]
    shown = capsys.readouterr().out
    assert all(f"[{core}] core {core}: twinstack firmware" in shown for core in range(2))
