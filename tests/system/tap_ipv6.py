"""Scenarios of ``test_ipv6.py``: IPv6 between the engine and the kernel, in both directions, on both cores."""

from __future__ import annotations

import random
import socket
import subprocess
import time

from system.tap_rig import ENGINE, ENGINE6, LINUX, LINUX6, PATIENCE, Tap, beside, main

DATA = random.Random(66).randbytes(12_000)
PORT = 7600
DEVICE = "twinstack0"
CONNECTIONS = 8


def receive_all(sock) -> bytes:
    got = bytearray()
    while part := sock.recv(5000):
        got += part
    return bytes(got)


def echo(accepted) -> None:
    with accepted:
        accepted.settimeout(PATIENCE)
        while data := accepted.recv(4000):
            accepted.sendall(data)


def ask(address: tuple, family: int, local: int = 0) -> bytes:
    with socket.socket(family, socket.SOCK_STREAM) as one:
        one.settimeout(PATIENCE)
        if local:
            one.bind((LINUX6, local))
        one.connect(address)
        with beside(lambda: (one.sendall(DATA), one.shutdown(socket.SHUT_WR))):
            return receive_all(one)


def configure(tap: Tap, address: str) -> None:
    """On a busy machine the other core misses 200 ms of wall-clock time."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return tap.device.configure(0, address)
        except TimeoutError:
            if time.monotonic() > end:
                raise


def scenario_address(tap: Tap) -> None:
    """The static address is ready when duplicate address detection has heard nobody; the kernel finds its neighbour."""
    configure(tap, ENGINE6)
    assert str(tap.device.wait_for_address(0, PATIENCE, ipv6=True)) == ENGINE6
    status = tap.device.network_status(0)
    assert status.link_local is not None and status.tentative6 == () and str(status.address) == ENGINE


def kernel_pings(tap: Tap, target: str, end: float) -> str | None:
    """Three pings; what ``ping`` says if none was answered: on a busy machine neighbour discovery's 3 s may be too short."""
    command = ["ping", "-6", "-n", "-c", "3", "-i", "0.2", "-W", "10", target]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as ping:
        while ping.poll() is None and time.monotonic() < end:
            tap.device.advance(0.01)  # nobody else lets the engine work
        ping.kill()
        return None if ping.wait(1) == 0 else ping.stdout.read()


def scenario_ping(tap: Tap) -> None:
    """The kernel pings the global and the link-local address."""
    link_local = tap.device.network_status(0).link_local
    for target in (ENGINE6, f"{link_local}%{DEVICE}"):
        end = time.monotonic() + PATIENCE
        while (answer := kernel_pings(tap, target, end)) is not None:
            assert time.monotonic() < end, answer
    neighbours = subprocess.run(["ip", "-6", "neighbour"], capture_output=True, text=True).stdout
    assert f"{ENGINE6} dev {DEVICE} lladdr 02:54:53:00:00:01" in neighbours


def scenario_server(tap: Tap) -> None:
    """Linux clients on both cores; every byte comes back."""
    before = [tap.device.stats(core)["connections"] for core in range(tap.device.cores)]
    cores = {local: tap.device.probe(LINUX6, ENGINE6, local, PORT).core for local in range(20000, 20060)}
    ports = [local for core in range(2) for local in [one for one in cores if cores[one] == core][: CONNECTIONS // 2]]
    with tap.sockets.create_server((ENGINE6, PORT), family=socket.AF_INET6, backlog=CONNECTIONS) as server:
        server.settimeout(PATIENCE)
        for local in ports:
            with beside(lambda local=local: ask((ENGINE6, PORT), socket.AF_INET6, local)) as results:
                accepted, address = server.accept()
                assert address[:2] == (LINUX6, local) and accepted.getsockname()[:2] == (ENGINE6, PORT)
                echo(accepted)
            assert results == [DATA]
    after = [tap.device.stats(core)["connections"] for core in range(tap.device.cores)]
    assert [now - then for now, then in zip(after, before, strict=True)] == [CONNECTIONS // 2] * 2


def scenario_client(tap: Tap) -> None:
    """The engine's connects go to both cores; a Linux server echoes."""

    def serve() -> None:
        for _ in range(4):
            echo(server.accept()[0])

    before = [tap.device.stats(core)["connections"] for core in range(tap.device.cores)]
    with socket.create_server((LINUX6, PORT), family=socket.AF_INET6) as server, beside(serve):
        for _ in range(4):
            with tap.sockets.create_connection((LINUX6, PORT), PATIENCE) as one:
                assert one.getpeername()[:2] == (LINUX6, PORT) and one.getsockname()[0] == ENGINE6
                with beside(lambda one=one: (one.sendall(DATA), one.shutdown(socket.SHUT_WR))):
                    assert receive_all(one) == DATA
    after = [tap.device.stats(core)["connections"] for core in range(tap.device.cores)]
    assert all(now > then for now, then in zip(after, before, strict=True)), "in turn among equals"


def scenario_link_local_addresses(tap: Tap) -> None:
    """A server of any address is reached at the link-local address, with the scope that names the port."""
    link_local = str(tap.device.network_status(0).link_local)
    scope = socket.if_nametoindex(DEVICE)
    with tap.sockets.create_server(("::", PORT + 1), family=socket.AF_INET6) as server:
        server.settimeout(PATIENCE)
        with beside(lambda: ask((link_local, PORT + 1, 0, scope), socket.AF_INET6)) as results:
            accepted, address = server.accept()
            assert address[0].startswith("fe80::") and address[3] == 1
            echo(accepted)
    assert results == [DATA]


def scenario_both_families(tap: Tap) -> None:
    """A dual-stack server takes clients of both families."""
    server = tap.sockets.create_server(("::", PORT + 2), family=socket.AF_INET6, dualstack_ipv6=True)
    with server:
        server.settimeout(PATIENCE)
        for target, family, seen in (
            (ENGINE, socket.AF_INET, f"::ffff:{LINUX}"),
            (ENGINE6, socket.AF_INET6, LINUX6),
        ):
            with beside(lambda target=target, family=family: ask((target, PORT + 2), family)) as results:
                accepted, address = server.accept()
                assert address[0] == seen
                echo(accepted)
            assert results == [DATA]


def scenario_refused_and_unreachable(tap: Tap) -> None:
    """Nobody listens; there is no route."""
    for target, error in (((LINUX6, PORT + 3), ConnectionRefusedError), (("2001:db8:ffff::1", 80), OSError)):
        try:
            tap.sockets.create_connection(target, PATIENCE).close()
        except error:
            continue
        raise AssertionError(f"{target} was reached")


if __name__ == "__main__":
    main(globals())
