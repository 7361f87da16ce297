"""``twinstack_host.socket`` over the running engine, against the Linux kernel over TAP and against lwIP."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from system import tap_sockets
from system.rig import ENGINES, PEERS, started
from system.tap_rig import run_scenarios

SCENARIOS = [name.removeprefix("scenario_") for name in vars(tap_sockets) if name.startswith("scenario_")]


@pytest.fixture(scope="module")
def outcome():
    return run_scenarios(str(Path(tap_sockets.__file__)))


@pytest.mark.parametrize("name", SCENARIOS)
def test_linux(outcome, name):
    """Each function of ``tap_sockets.py``; those of asyncio are among them."""
    assert outcome.get(name, "it did not run") == ""


def test_lwip():
    """Both ways with lwIP on simulated time: the engine works while threads wait, and all buffers come back."""
    with started() as rig:
        rig.add_peer(0)
        device, data = rig.device, rig.random.randbytes(12_000)

        def far_end(connection, back: bytearray) -> None:
            """Step the peer's connection in turns with the engine."""
            while len(back) < len(data):
                with device.lock:
                    assert not connection.closed, connection.error
                    back.extend(connection.recv())
                    device.advance(0.0005)

        with device.socket_module() as sockets:
            with sockets.create_server((ENGINES[0], 7300)) as server:
                with device.lock:
                    connection = rig.peer.connect(ENGINES[0], 7300)
                server.settimeout(60)
                one, address = server.accept()
            assert address[0] == PEERS[0] and one.getpeername() == address
            one.settimeout(60)
            back = bytearray()
            with device.lock:
                connection.send_all(data)
            stepper = threading.Thread(target=far_end, args=(connection, back))
            stepper.start()
            assert one.recv(len(data), socket.MSG_WAITALL) == data
            one.sendall(data)
            stepper.join(60)
            assert back == data
            with device.lock:
                connection.close()
            assert one.recv(1) == b""
            one.close()
        rig.run(40_000)
