"""Datagrams between the engine and the Linux kernel over TAP; run as a program in a network namespace of its own."""

from __future__ import annotations

import socket as kernel
import time

from system.rig import ENGINES, MACS, PEERS, started
from system.udp_host import SHARED_BYTES, UdpSocket, address, open_on_each_core
from twinstack.proto.queues import SocketOption
from twinstack_sim.peer_tap import TapPeer

GROUP = "239.7.7.7"
LIMIT_CYCLES = 20_000_000
LIMIT_SECONDS = 20.0


def kernel_socket(port: int = 0) -> kernel.socket:
    one = kernel.socket(kernel.AF_INET, kernel.SOCK_DGRAM)
    one.setblocking(False)
    one.bind((PEERS[0], port))
    return one


def from_kernel(rig, one: kernel.socket) -> tuple[bytes, tuple[str, int]]:
    """The next datagram that the kernel gets; its clock is the wall's."""
    end = time.monotonic() + LIMIT_SECONDS
    while time.monotonic() < end:
        rig.run(2000)
        try:
            return one.recvfrom(65536)
        except BlockingIOError:
            continue
    raise AssertionError("the kernel got no datagram")


def echo(rig, linux: kernel.socket) -> None:
    sockets = open_on_each_core(rig, 5001)
    for number, socket in enumerate(sockets):
        for size in (0, 1, 100, 1472, 5000):
            payload = rig.random.randbytes(size)
            socket.receive()
            linux.sendto(payload, (ENGINES[0], 5001 + number))
            rig.wait(lambda s=socket: s.receives[0].done, "a datagram of Linux", LIMIT_CYCLES)
            _, got = socket.take()
            assert (got.payload, got.ip, got.port, got.whole) == (payload, *linux.getsockname(), size)
            if size <= 1472:
                assert socket.send(payload, linux.getsockname()) == size
                assert from_kernel(rig, linux) == (payload, (ENGINES[0], 5001 + number))
        socket.close()


def spread(rig, linux: kernel.socket) -> None:
    socket = UdpSocket.open(rig, 5005, 0, spread=True)
    seen = set()
    for core in range(rig.device.cores):
        socket.receive(core=core)
    for _ in range(12):
        other = kernel_socket()
        other.sendto(b"to the spread socket", (ENGINES[0], 5005))
        rig.wait(lambda: any(one.done for one in socket.receives.values()), "a datagram of Linux", LIMIT_CYCLES)
        core, got = socket.take()
        assert got.payload == b"to the spread socket" and got.port == other.getsockname()[1]
        seen.add(core)
        assert socket.send(b"answer", other.getsockname(), core=core) == 6
        assert from_kernel(rig, other) == (b"answer", (ENGINES[0], 5005))
        socket.receive(core=core)
        other.close()
    assert seen == set(range(rig.device.cores))
    socket.close()


def errors(rig, linux: kernel.socket) -> None:
    """Closed ports, both ways."""
    linux.connect((ENGINES[0], 5999))
    linux.send(b"anybody?")
    end = time.monotonic() + LIMIT_SECONDS
    while linux.getsockopt(kernel.SOL_SOCKET, kernel.SO_ERROR) != 111:
        assert time.monotonic() < end, "Linux got no ICMP message"
        rig.run(2000)
    for socket in open_on_each_core(rig, 5010):
        assert socket.set(SocketOption.PEER, address(PEERS[0], 6999)) == 0
        assert socket.send(b"anybody?") == 8
        rig.wait(lambda s=socket: s.get(SocketOption.ERROR) == 111, "the error", LIMIT_CYCLES)
        socket.close()


def groups(rig, linux: kernel.socket) -> None:
    linux.setsockopt(kernel.IPPROTO_IP, kernel.IP_MULTICAST_IF, kernel.inet_aton(PEERS[0]))
    listening = kernel.socket(kernel.AF_INET, kernel.SOCK_DGRAM)
    listening.setblocking(False)
    listening.bind((GROUP, 6100))
    listening.setsockopt(
        kernel.IPPROTO_IP, kernel.IP_ADD_MEMBERSHIP, kernel.inet_aton(GROUP) + kernel.inet_aton(PEERS[0])
    )
    sockets = open_on_each_core(rig, 5020)
    for number, socket in enumerate(sockets):
        assert socket.set(SocketOption.JOIN_GROUP, address(GROUP, 0, scope=1)) == 0
        socket.receive()
        linux.sendto(b"to the group", (GROUP, 5020 + number))
        rig.wait(lambda s=socket: s.receives[0].done, "a datagram of Linux", LIMIT_CYCLES)
        assert socket.take()[1].payload == b"to the group"
        assert socket.send(b"to Linux", (GROUP, 6100)) == 8
        assert from_kernel(rig, listening) == (b"to Linux", (ENGINES[0], 5020 + number))
        socket.close()
    listening.close()


def main() -> None:
    with started(shared_bytes=SHARED_BYTES) as rig:
        peer = TapPeer(f"{PEERS[0]}/24")
        rig.simulation.attach(0, peer)
        rig.device.configure(0, ENGINES[0], 24, mac=MACS[0])
        for part in (echo, spread, errors, groups):
            with kernel_socket() as linux:
                part(rig, linux)
    print("linux: ok")


if __name__ == "__main__":
    main()
