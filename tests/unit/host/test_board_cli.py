"""A board with 8 KiB of host memory behind its bridge: sockets over the serial line, shared by serve, watched by console."""

import collections
import errno
import signal
import socket as std
import subprocess
import sys
import threading
import time

import pytest

from support.loopback_engine import LoopbackEngine, at
from support.offloaded import HOST
from support.pty_bridge import PtyBridge
from twinstack.proto.queues import Operation
from twinstack.proto.registers import ENGINE, HOST_CORE, QUEUE
from twinstack_host import cli
from twinstack_host.board_cli import serving_device
from twinstack_host.device import Device
from twinstack_host.link import LinkError
from twinstack_host.socket_link import SocketLink
from twinstack_host.uart_link import UartLink


class BoardEngine(LoopbackEngine):
    """With block RAM as host memory, an interrupt in its register, and something to read on the consoles."""

    def __init__(self, memory_size=8192):
        super().__init__(memory_size)
        self.consoles = [collections.deque(f"core {core}: up\n".encode()) for core in range(2)]

    def csr_read(self, offset):
        if offset == at(QUEUE, "status"):
            return int(self.interrupt.is_set())
        for core, console in enumerate(self.consoles):
            if offset == at(HOST_CORE, "console", core):
                return 1 << 31 | console.popleft() if console else 0
        return super().csr_read(offset)

    def do_netif_config(self, entry):
        return 0

    def do_dispatch_config(self, entry):
        return -errno.EOPNOTSUPP

    def say(self, core, text):
        self.consoles[core].extend(text.encode())


@pytest.fixture
def engine():
    return BoardEngine()


@pytest.fixture
def board(engine):
    with PtyBridge(engine) as bridge:
        yield bridge


@pytest.fixture
def device(board):
    with UartLink(board.path, timeout=2) as link:
        made = Device(link)
        made.start(seed=3)
        yield made
        made.close()


def echo(server, count):
    for _ in range(count):
        connection, _ = server.accept()
        with connection:
            while data := connection.recv(700):
                connection.sendall(data)


def exercise(net):
    """Streams both ways, and datagrams as long as a buffer allows."""
    with net.create_server((HOST, 0)) as server:
        thread = threading.Thread(target=echo, args=(server, 1))
        thread.start()
        with net.create_connection(server.getsockname()) as client:
            client.settimeout(20)
            data = bytes(range(256)) * 20
            client.sendall(data)
            client.shutdown(std.SHUT_WR)
            got = b""
            while piece := client.recv(4096):
                got += piece
            assert got == data
        thread.join(20)
    with net.socket(std.AF_INET, std.SOCK_DGRAM) as one:
        one.settimeout(20)
        one.bind((HOST, 0))
        one.sendto(b"x" * 400, one.getsockname())
        assert one.recvfrom(1000) == (b"x" * 400, one.getsockname())
        with pytest.raises(OSError, match="too long"):
            one.sendto(b"x" * 1000, one.getsockname())


def test_sockets_over_the_line(device):
    exercise(device.socket_module())


def test_a_lost_byte_ends_sockets_with_a_reason(device, board):
    net = device.socket_module()
    server = net.create_server((HOST, 0))
    board.mute = True
    with pytest.raises(OSError, match="timed out"):
        net.create_connection(server.getsockname())
    with pytest.raises(OSError, match="the engine failed: .*must come within 2 s"):
        net.create_server((HOST, 0))


def test_consoles_of_a_board(board, engine, capsys):
    engine.say(1, "half a line")
    assert cli.main(["console", "--uart", board.path, "--once"]) == 0
    assert capsys.readouterr().out == "[0] core 0: up\n[1] core 1: up\n[1] half a line\n"
    assert cli.main(["console", "--uart", board.path, "--once"]) == 0
    assert capsys.readouterr().out == "", "what was read is gone"


def test_dispatch_of_a_board(board, engine, capsys):
    assert cli.main(["dispatch", "--uart", board.path]) == 1
    assert "ENOTSUP" in capsys.readouterr().err
    assert engine.values[at(ENGINE, "alive")] == 3, "it was started"
    assert Operation.DISPATCH_CONFIG in [entry["operation"] for entry in engine.taken]


def test_commands_say_what_is_wrong(board, tmp_path, capsys):
    assert cli.main(["console", "--uart", "/dev/nowhere"]) == 1
    assert "/dev/nowhere" in capsys.readouterr().err
    assert cli.main(["console", "--connect", str(tmp_path / "none")]) == 1
    assert "no engine at" in capsys.readouterr().err
    for arguments in (["console"], ["console", "--uart", "a", "--connect", "b"], ["serve", "--uart", "a"]):
        with pytest.raises(SystemExit):
            cli.main(arguments)
    serve = ["serve", "--uart", board.path, "--listen", str(tmp_path / "engine")]
    assert cli.main([*serve, "--clients", "9"]) == 2
    assert "clients must be at most 2 with this memory, not 9" in capsys.readouterr().err
    (tmp_path / "bad.img").write_bytes(b"nonsense")
    assert cli.main([*serve, "--image", str(tmp_path / "bad.img")]) == 2
    assert "image" in capsys.readouterr().err


def test_memory_of_a_served_board(engine):
    device, each = serving_device(engine, 1, 1.0)
    assert (device.pool.count, each, device.shared_bytes) == (1, 6144, 6144)
    device, each = serving_device(engine, 2, 1.0)
    assert (each, device.shared_bytes) == (3072, 6144)
    with pytest.raises(ValueError, match="clients must be positive"):
        serving_device(engine, 0, 1.0)


def test_serve_with_console(board, engine, tmp_path, capsys):
    """Another process has the port; a program with sockets, and the console of both cores, at the same time."""
    path = tmp_path / "engine"
    code = "import sys; from twinstack_host.cli import main; sys.exit(main())"
    command = [
        sys.executable,
        "-c",
        code,
        "serve",
        "--uart",
        board.path,
        "--listen",
        str(path),
        "--address",
        f"{HOST}/24",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        line = process.stdout.readline()
        assert "1 programs with sockets, 6144 bytes" in line, line + process.stdout.read()
        with SocketLink(path) as link, pytest.raises(LinkError, match="all 1 places are taken"):
            SocketLink(path)
        with SocketLink(path) as link:
            device = Device(link, timeout=20)
            device.attach()
            exercising = threading.Thread(target=exercise, args=(device.socket_module(),))
            exercising.start()
            assert cli.main(["console", "--connect", str(path), "--once"]) == 0
            assert capsys.readouterr().out == "[0] core 0: up\n[1] core 1: up\n"
            with SocketLink(path, observe=True) as watched:
                assert watched.console(0) == (0, b"core 0: up\n") and watched.console(0, 5) == (5, b"0: up\n")
                engine.say(1, "more\n")
                deadline = time.monotonic() + 10
                while watched.console(1, 11) != (11, b"more\n"):
                    assert time.monotonic() < deadline
                with pytest.raises(LinkError, match="core must be below 2, not 2"):
                    watched.console(2)
            exercising.join(60)
            assert not exercising.is_alive()
            device.close()
    finally:
        process.send_signal(signal.SIGINT)
        output = process.communicate(timeout=20)[0]
    assert process.returncode == 130, output
    assert not path.exists()
