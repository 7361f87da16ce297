"""The kernel behind a TAP device, against the lwIP peer; skipped where namespaces are not available."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from twinstack_sim import peer_tap
from twinstack_sim.peer_tap import TapError, TapPeer, check_namespace

TIMEOUT_S = 25


def exchange_with_the_kernel() -> None:
    """Runs in its own program: echo and TCP in both directions between lwIP and the kernel."""
    import socket
    import time

    from twinstack_sim.peer_lwip import LwipPeer

    peer_tap.reexec_in_namespace()
    tap = TapPeer("192.168.77.2/24")
    lwip = LwipPeer("192.168.77.1", mac="02:00:00:00:00:01")
    listener = lwip.listen(7)
    started = time.monotonic()

    def carry_until(condition) -> None:
        while not condition():
            assert time.monotonic() - started < TIMEOUT_S - 5, "the exchange did not finish"
            now = time.monotonic_ns()
            for frame in tap.poll(now):
                lwip.frame_from_engine(frame, now)
            for frame in lwip.poll(now):
                tap.frame_from_engine(frame, now)
            time.sleep(0.0005)

    lwip.ping("192.168.77.2", 200)
    carry_until(lambda: bool(lwip.ping_replies))
    assert lwip.ping_replies[0].length == 200
    client = socket.socket()
    client.setblocking(False)
    assert client.connect_ex(("192.168.77.1", 7)) in (0, 115)
    carry_until(lambda: bool(listener.pending))
    server = listener.accept()
    data = os.urandom(50_000)
    server.send_all(data)
    server.shutdown()
    received = bytearray()
    ended = False

    def read() -> bool:
        nonlocal ended
        try:
            part = client.recv(65536)
        except BlockingIOError:
            return False
        received.extend(part)
        ended = not part
        return ended

    carry_until(read)
    assert bytes(received) == data
    client.send(b"thanks")
    carry_until(lambda: server.recv() == b"thanks")
    assert lwip.counters.checksum_errors == 0
    lwip.close()
    tap.close()
    tap.close()
    print("EXCHANGED")


def test_sources_are_fetched_before_the_network_is_gone(monkeypatch):
    steps = []
    monkeypatch.delenv(peer_tap.INSIDE, raising=False)
    monkeypatch.setattr(peer_tap, "check_namespace", lambda: steps.append("check"))
    monkeypatch.setattr(peer_tap, "lwip_dir", lambda: steps.append("fetch"))
    monkeypatch.setattr(os, "execvpe", lambda *arguments: steps.append("enter"))
    peer_tap.reexec_in_namespace()
    assert steps == ["check", "fetch", "enter"]


def test_lwip_talks_with_the_kernel():
    try:
        check_namespace()
    except TapError as error:
        pytest.skip(str(error))
    done = subprocess.run(
        [sys.executable, str(Path(__file__).resolve())],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
        env={name: value for name, value in os.environ.items() if name != peer_tap.INSIDE},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("EXCHANGED\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"address": "192.168.77.2"}, "prefix length"),
        ({"address": "x/24"}, "x"),
        ({"name": "a-name-that-is-too-long"}, "name must be"),
        ({"name": "a/b"}, "name must be"),
    ],
)
def test_arguments_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        TapPeer(**arguments)


def test_missing_device_is_told(monkeypatch, tmp_path):
    monkeypatch.setattr(peer_tap, "TUN_DEVICE", str(tmp_path / "none"))
    with pytest.raises(TapError, match="does not exist"):
        check_namespace()
    with pytest.raises(TapError, match="No such file"):
        TapPeer()


def test_missing_tool_is_told(monkeypatch, tmp_path):
    device = tmp_path / "tun"
    device.touch()
    monkeypatch.setattr(peer_tap, "TUN_DEVICE", str(device))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(TapError, match="unshare is not installed"):
        check_namespace()


def test_inside_a_namespace_nothing_happens(monkeypatch):
    monkeypatch.setenv(peer_tap.INSIDE, "1")
    peer_tap.reexec_in_namespace()


if __name__ == "__main__":
    exchange_with_the_kernel()
