"""``twinstack sim``: arguments, and the program as a whole on the running engine."""

import argparse
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from twinstack_sim import cli
from twinstack_sim.engine_model import build_engine
from twinstack_sim.peer_tap import TapError, check_namespace

TIMEOUT_S = 120
PROGRAM = [sys.executable, "-c", "import sys; from twinstack_host.cli import main; sys.exit(main())", "sim"]
ECHO = """
import socket
with socket.create_connection(("192.168.77.1", 7), timeout=60) as connection:
    connection.sendall(b"abc" * 1000)
    connection.shutdown(socket.SHUT_WR)
    got = b""
    while piece := connection.recv(65536):
        got += piece
assert got == b"abc" * 1000, got
"""


@pytest.fixture(scope="module")
def engine():
    """The engine is compiled already when a test's own time runs."""
    from twinstack.config import EngineConfig

    return build_engine(EngineConfig())


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    cli.add_commands(parser.add_subparsers(required=True))
    parsed = parser.parse_args(["sim", *arguments])
    return parsed.run(parsed)


def test_wrong_arguments_are_told(capsys):
    assert run("--duration", "0") == 2
    assert "--duration must be positive, not 0.0" in capsys.readouterr().err
    assert run("--address", "nonsense", "--seed", "1") == 1
    assert "nonsense" in capsys.readouterr().err
    for engine in ("192.168.78.1", "192.168.77.2"):
        assert run("--engine", engine) == 1
        assert f"engine must be another address of 192.168.77.0/24, not '{engine}'" in capsys.readouterr().err


def test_help_tells_what_it_does(capsys):
    with pytest.raises(SystemExit) as ended:
        run("--help")
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "echo service (TCP port 7)" in text and "Ctrl-C ends it" in text


def test_first_interrupt_is_noted_and_the_second_acts():
    # A run in the background inherits SIGINT ignored.
    inherited = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with cli._interruptible() as stopped:
            assert not stopped()
            os.kill(os.getpid(), signal.SIGINT)
            assert stopped()
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(1)
    finally:
        signal.signal(signal.SIGINT, inherited)


def test_lwip_gets_its_data_back(engine, tmp_path):
    command = [*PROGRAM, "--seed", "5", "--duration", "1.5", "--pcap", str(tmp_path / "x.pcap")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    assert "simulation seed 5" in done.stderr
    verified = re.search(r"pings answered: 1 of 1; bytes echoed and verified: (\d+)", done.stdout)
    assert verified and int(verified[1]) >= cli.EXAMPLE_BYTES
    assert (tmp_path / "x-port0.pcap").stat().st_size > 2 * cli.EXAMPLE_BYTES
    assert done.stdout.splitlines()[-3].startswith("core  frames in")


def test_any_program_reaches_the_engine_over_tap(engine):
    try:
        check_namespace()
    except TapError as error:
        pytest.skip(str(error))
    with subprocess.Popen(
        [*PROGRAM, "--tap", "--seed", "5"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None
        try:
            lines = []
            for line in process.stdout:  # bounded by the engine's own start time-out
                lines.append(line)
                if "Ctrl-C ends" in line:
                    break
            enter = next(line for line in lines if "nsenter" in line).split(" ping ")[0].split()
            client = subprocess.run(
                [*enter, sys.executable, "-c", ECHO], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
            )
            assert client.returncode == 0, client.stderr
            process.send_signal(signal.SIGINT)
            rest = process.communicate(timeout=TIMEOUT_S)[0]
        finally:
            process.kill()
    assert process.returncode == 0
    bytes_in = [int(line.split()[5]) for line in rest.splitlines()[-2:]]
    assert sum(bytes_in) == 3000
