"""UDP by the whole engine: against a station with lwIP and against frames of scapy."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from scapy.layers.igmp import IGMP
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from system.rig import CONFIG, ENGINES, MACS, PEER_MACS, PEERS, started
from system.udp_host import SHARED_BYTES, UdpSocket, address, open_on_each_core
from twinstack.models.mac import multicast_bit
from twinstack.proto.queues import SocketOption
from twinstack.proto.registers import MAC
from twinstack_sim.peer_tap import TapError, check_namespace

GROUP = "239.7.7.7"
GROUP_MAC = "01:00:5e:07:07:07"
BROADCAST_MAC = "ff:ff:ff:ff:ff:ff"
SIZES = (0, 1, 17, 18, 700, 1471, 1472)


@pytest.fixture(scope="module")
def rig():
    with started(shared_bytes=SHARED_BYTES) as one:
        one.add_peer(0)
        yield one


@pytest.fixture(scope="module")
def station(rig):
    """A UDP port of the peer; both sides know each other's MAC address."""
    rig.ping_core(0)
    one = rig.peer.udp(6000)
    yield one
    one.close()


def from_peer(rig, udp):
    """The next datagram that the station gets."""
    got = []

    def arrived() -> bool:
        one = udp.recv()
        if one is not None:
            got.append(one)
        return bool(got)

    rig.wait(arrived, "a datagram at the station")
    return got[0]


def datagram(payload: bytes, port: int, *, mac: str = MACS[0], dst: str = ENGINES[0], sport: int = 6001) -> bytes:
    ip = IP(src=PEERS[0], dst=dst) / UDP(sport=sport, dport=port) / Raw(payload)
    return bytes(Ether(src=PEER_MACS[0], dst=mac) / ip)


def frames_of(rig, run) -> list[Ether]:
    """What the engine sends while ``run()``, every checksum as scapy has it."""
    rig.keep_frames, start = True, len(rig.sent)
    run()
    rig.run(30_000)
    rig.keep_frames = False
    frames = [Ether(one.data) for one in rig.sent[start:]]
    rig.sent.clear()
    for frame in frames:
        if IP in frame:
            fresh = Ether(bytes(frame))
            del fresh[IP].chksum
            if UDP in fresh:
                del fresh[UDP].chksum
            assert Ether(bytes(fresh))[IP].chksum == frame[IP].chksum
            assert UDP not in frame or Ether(bytes(fresh))[UDP].chksum == frame[UDP].chksum
    return frames


@pytest.mark.parametrize("size", SIZES)
def test_echo_on_both_cores(rig, station, size):
    sockets = open_on_each_core(rig, 5001)
    for number, socket in enumerate(sockets):
        payload = rig.random.randbytes(size)
        for early in (True, False):
            if early:
                socket.receive()
            station.send_to(payload, ENGINES[0], 5001 + number)
            if not early:
                rig.run(20_000)
                socket.receive()
            _, got = socket.take()
            assert (got.payload, got.ip, got.port, got.whole) == (payload, PEERS[0], 6000, size)
        assert socket.send(payload, (PEERS[0], 6000)) == size
        echo = from_peer(rig, station)
        assert (echo.data, echo.address, echo.port) == (payload, ENGINES[0], 5001 + number)
        socket.close()


@pytest.mark.parametrize("size", [1473, 3000, 5000, 1480 * 5 - 8])
def test_fragments_reach_the_core_of_the_socket(rig, station, size):
    """All fragments meet on one core; the other one's socket gets them all the same."""
    sockets = open_on_each_core(rig, 5003)
    for number, socket in enumerate(sockets):
        payload = rig.random.randbytes(size)
        socket.receive()
        station.send_to(payload, ENGINES[0], 5003 + number)
        _, got = socket.take()
        assert got.payload == payload[: len(got.payload)] and got.whole == size
        assert len(got.payload) == min(size, 6144)
        socket.close()


def test_spread_socket(rig, station):
    socket = UdpSocket.open(rig, 5005, 0, spread=True)
    assert UdpSocket.try_open(rig, 5005) == -98 and UdpSocket.try_open(rig, 5005, spread=True) == -98
    cores = range(rig.device.cores)
    for core in cores:
        socket.receive(core=core)
    arrived = []
    for number in range(12):
        payload = rig.random.randbytes(30 + number)
        sport = rig.local_port_for(number % len(cores), 5005)
        rig.simulation.send_frame(0, datagram(payload, 5005, sport=sport))
        core, got = socket.take()
        assert got.payload == payload and got.port == sport and core == number % len(cores)
        arrived.append(core)
        socket.receive(core=core)
        assert socket.send(payload, (PEERS[0], 6000), core=core) == len(payload)
        assert from_peer(rig, station).data == payload
    assert set(arrived) == set(cores)
    socket.close()
    assert UdpSocket.try_open(rig, 5005, ip="192.168.99.1", spread=True) == -99


def test_broadcast(rig, station):
    sockets = open_on_each_core(rig, 5006)
    for number, socket in enumerate(sockets):
        for target in ("255.255.255.255", "192.168.77.255"):
            socket.receive()
            rig.simulation.send_frame(0, datagram(b"to all", 5006 + number, mac=BROADCAST_MAC, dst=target))
            assert socket.take()[1].payload == b"to all"
            assert socket.set(SocketOption.BROADCAST, 0) == 0
            assert socket.send(b"no", (target, 9)) == -13
            assert socket.set(SocketOption.BROADCAST, 1) == 0
            frames = frames_of(rig, lambda s=socket, t=target: s.send(b"yes", (t, 9)))
            (frame,) = [one for one in frames if UDP in one and one[UDP].dport == 9]
            assert frame.dst == BROADCAST_MAC and frame[IP].dst == target
        socket.close()


def group_frames(rig) -> int:
    """Frames for the group that the MAC lets in, out of one."""
    before = rig.device.registers.read(MAC, "rx_frames", instance=0)
    rig.simulation.send_frame(0, datagram(b"to the group", 5008, mac=GROUP_MAC, dst=GROUP))
    rig.run(10_000)
    return rig.device.registers.read(MAC, "rx_frames", instance=0) - before


def test_join_and_leave(rig, station):
    sockets = open_on_each_core(rig, 5008)
    group = address(GROUP, 0, scope=1)
    assert multicast_bit(bytes.fromhex(GROUP_MAC.replace(":", ""))) != multicast_bit(bytes.fromhex("01005e000001"))
    assert group_frames(rig) == 0
    reports = frames_of(rig, lambda: [one.set(SocketOption.JOIN_GROUP, group) for one in sockets])
    found = [IGMP(bytes(one[IP].payload)[:8]) for one in reports if IP in one and one[IP].proto == 2]
    assert {(one.type, one.gaddr) for one in found} == {(0x16, GROUP)} and len(found) >= 2
    for number, socket in enumerate(sockets):
        socket.receive()
        rig.simulation.send_frame(0, datagram(b"%d" % number, 5008 + number, mac=GROUP_MAC, dst=GROUP))
        assert socket.take()[1].payload == b"%d" % number
        frames = frames_of(rig, lambda s=socket: s.send(b"from us", (GROUP, 9)))
        (frame,) = [one for one in frames if UDP in one]
        assert frame.dst == GROUP_MAC and frame[IP].ttl == 1
    for socket in sockets:
        assert group_frames(rig) == 1
        frames = frames_of(rig, lambda s=socket: s.set(SocketOption.LEAVE_GROUP, group))
        found = [IGMP(bytes(one[IP].payload)[:8]) for one in frames if IP in one and one[IP].proto == 2]
        assert [one.gaddr for one in found if one.type == 0x17] == [GROUP]
    assert group_frames(rig) == 0
    for socket in sockets:
        socket.close()


def test_closed_port_is_told_once(rig, station):
    for sport in range(7100, 7106):
        frames = frames_of(rig, lambda s=sport: rig.simulation.send_frame(0, datagram(b"nobody", 5999, sport=s)))
        (answer,) = [one[ICMP] for one in frames if ICMP in one]
        assert (answer.type, answer.code) == (3, 3)


def test_refused_by_the_peer(rig, station):
    """Whichever core gets the ICMP message, the socket learns of it."""
    for first in range(5010, 5018, 2):
        sockets = open_on_each_core(rig, first)
        for socket in sockets:
            assert socket.set(SocketOption.PEER, address(PEERS[0], 6999)) == 0
            assert socket.send(b"anybody?") == 8
            rig.wait(lambda s=socket: s.get(SocketOption.ERROR) == 111, "the error")
            assert socket.send(b"anybody?") == 8
            socket.receive()
            rig.wait(lambda s=socket: s.receives[0].done, "the error of the receive")
            assert socket.receives.pop(0).result == -111
            socket.close()


def test_flood_of_a_socket_that_nobody_reads(rig, station):
    sockets = open_on_each_core(rig, 5020)
    dropped = [rig.device.stats(core)["dropped"] for core in range(rig.device.cores)]
    for number in range(60):
        for port in (5020, 5021):
            rig.simulation.send_frame(0, datagram(bytes(1472 if number % 2 else 20), port))
    rig.run(400_000)
    for core in range(rig.device.cores):
        rig.echo_once(core, 7300 + core)
        assert rig.device.stats(core)["dropped"] > dropped[core]
    rig.assert_alive()
    for socket in sockets:
        kept = 0
        while kept < 5:
            socket.receive()
            rig.run(60_000)
            if not socket.receives[0].done:
                break
            assert len(socket.take()[1].payload) in (20, 1472)
            kept += 1
        assert 1 <= kept <= 4
        number = 5020 + sockets.index(socket)
        station.send_to(b"works again", ENGINES[0], number)
        assert socket.take()[1].payload == b"works again"
        socket.close()
    assert CONFIG.cores == rig.device.cores


@pytest.mark.claim(4)
def test_linux_sends_and_receives_datagrams():
    """The Linux kernel as the far end, in a network namespace of its own."""
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    try:
        check_namespace()
    except TapError as error:
        pytest.skip(f"no TAP device: {error}")
    tests = Path(__file__).resolve().parents[1]
    command = ["unshare", "-rn", sys.executable, "-m", "system.udp_linux"]
    done = subprocess.run(command, cwd=tests, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.strip().endswith("linux: ok"), (
        f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    )
