"""What wedges other stacks: odd datagrams, fragments, floods, noise. After each, both cores serve and no buffer is gone."""

import itertools
import random

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_Router_Alert, fragment
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw

from system.rig import CONFIG, ENGINES, FAST_OPTIONS, LIMIT_CYCLES, MACS, PEER_MACS, PEERS, Rig, started
from twinstack_host.sockets import Listener
from twinstack_sim.streams import HostStream

PORT = 0
SERVED = 8200
FORGOTTEN_SECONDS = 10
"""Longer than lwIP keeps an unfinished datagram (IP_REASS_MAXAGE) or a packet for a station that does not answer ARP."""
HALF_OPEN_SECONDS = 21
"""Longer than lwIP keeps a half-open connection (TCP_SYN_RCVD_TIMEOUT)."""
ETHER = Ether(src=PEER_MACS[PORT], dst=MACS[PORT])
STATION = IP(src=PEERS[PORT], dst=ENGINES[PORT])
MINIMUM_FRAME_CYCLES = 50.4 * CONFIG.sync_hz / 75e6
"""Back to back at 1 Gb/s: 84 byte times."""


@pytest.fixture(scope="module")
def rig():
    """As elsewhere, with a peer whose retransmission suits the firmware's fast clock."""
    with started() as one:
        one.add_peer(PORT, options=FAST_OPTIONS)
        yield one


@pytest.fixture
def serving(rig):
    """The engine, and after the test the proof that it still serves: pings, a connection on each core, all buffers."""
    yield rig
    drain(rig)
    rig.assert_alive()
    for core in range(rig.device.cores):
        rig.echo_once(core, SERVED + core)
    rig.assert_buffers_back(FORGOTTEN_SECONDS)


def drain(rig: Rig) -> None:
    """Until nothing waits at the pins or in a receive queue."""
    rig.wait(lambda: rig.simulation.rx_backlog_bytes(PORT) == 0, "the end of reception", 4 * LIMIT_CYCLES)
    rig.run(100_000)


def send(rig: Rig, *packets) -> None:
    for packet in packets:
        rig.simulation.send_frame(PORT, bytes(packet))


def answers(rig: Rig, frames, matches, cycles: int = 60_000) -> list:
    """Packets that the engine sends within ``cycles`` after ``frames`` and that ``matches``."""
    start = len(rig.sent)
    rig.keep_frames = True
    send(rig, *frames)
    rig.run(cycles)
    rig.keep_frames = False
    found = [packet for packet in (Ether(one.data) for one in rig.sent[start:]) if matches(packet)]
    rig.sent.clear()
    return found


def test_empty_udp_datagram(serving):
    """Length 8, no payload, with and without a checksum: told that nobody listens, once each (RFC 1122 4.1.3.1)."""
    for checksum in ({}, {"chksum": 0}):
        datagram = ETHER / STATION / UDP(sport=4000, dport=4001, **checksum)
        told = answers(serving, [datagram], lambda p: ICMP in p and p[ICMP].type == 3 and p[ICMP].code == 3)
        assert len(told) == 1


def test_empty_udp_flood(serving):
    for number in range(300):
        send(serving, ETHER / STATION / UDP(sport=1024 + number, dport=number + 1))


def is_echo_reply(payload: bytes):
    return lambda p: ICMP in p and p[ICMP].type == 0 and bytes(p[ICMP].payload)[: len(payload)] == payload


def test_fragments_in_every_order(serving):
    """A ping of three fragments is reassembled whatever comes first (RFC 791 3.2, RFC 815)."""
    for number, order in enumerate(itertools.permutations(range(3))):
        payload = serving.random.randbytes(1000)
        parts = fragment(STATION / ICMP(id=3, seq=number) / Raw(payload), fragsize=400)
        for index, part in enumerate(parts):
            part.id = 100 + number
            part.chksum = None
            assert index < 3
        found = answers(serving, [ETHER / parts[index] for index in order], is_echo_reply(payload), 120_000)
        assert len(found) == 1, f"order {order}"


def overlapping(rng: random.Random, identification: int) -> list:
    """Fragments that overlap, repeat, contradict each other, or leave holes."""
    pieces = []
    for _ in range(rng.randrange(2, 7)):
        offset = rng.randrange(0, 120)
        size = rng.choice((8, 16, 64, 200, 7))
        more = rng.random() < 0.8
        packet = IP(
            src=PEERS[PORT], dst=ENGINES[PORT], id=identification, frag=offset, flags="MF" if more else 0, proto=17
        )
        pieces.append(ETHER / packet / Raw(rng.randbytes(size)))
    return pieces


def test_overlapping_fragments(serving):
    """Teardrop and its relatives: never an answer, never a buffer lost once reassembly has timed out."""
    for number in range(60):
        send(serving, *overlapping(serving.random, number))
        serving.run(2000)


def test_ping_of_death(serving):
    """Fragments that end beyond 65,535 bytes."""
    for offset in (8189, 8190, 8191):
        packet = IP(src=PEERS[PORT], dst=ENGINES[PORT], id=7, frag=offset, proto=1)
        send(serving, ETHER / packet / Raw(bytes(1400)))


def test_small_frames_back_to_back(serving):
    """Minimum frames at line rate: ten times as many as there are buffers. What finds none is counted, nothing else."""
    count = 20 * CONFIG.rx_buffers
    before, dropped = sum(serving.dispatched()), drops(serving)
    for number in range(count):
        send(serving, ETHER / STATION / UDP(sport=2000 + number, dport=9))
    drain(serving)
    assert sum(serving.dispatched()) - before == count
    assert drops(serving) - dropped <= count


def drops(rig: Rig) -> int:
    return sum(rig.host_core("rx_dropped")) + sum(rig.host_core("rx_flow_dropped"))


def test_multicast_flood(serving):
    """Group and broadcast frames go to all cores, and starve none."""
    for number in range(200):
        group = Ether(src=PEER_MACS[PORT], dst="01:00:5e:00:00:fb")
        broadcast = Ether(src=PEER_MACS[PORT], dst="ff:ff:ff:ff:ff:ff")
        send(serving, group / IP(src=PEERS[PORT], dst="224.0.0.251") / UDP(sport=5353, dport=5353) / Raw(b"x" * 40))
        send(
            serving, broadcast / IP(src=PEERS[PORT], dst="255.255.255.255") / UDP(sport=68, dport=67) / Raw(bytes(200))
        )
        if number % 8 == 0:
            send(serving, broadcast / ARP(op=1, psrc=PEERS[PORT], pdst="192.168.77.99", hwsrc=PEER_MACS[PORT]))


def test_syn_flood(serving):
    """SYNs from strangers to a listener at line rate: established connections go on; when the half-open ones have given up,
    new ones come in."""
    with Listener(serving.device, SERVED + 10, backlog=4) as listener:
        socket, connection = serving.accept_on(listener, 0, SERVED + 10)
        for number in range(200):
            source = f"192.168.77.{10 + number % 200}"
            syn = TCP(sport=1024 + serving.random.randrange(60000), dport=SERVED + 10, flags="S", seq=number)
            send(serving, ETHER / IP(src=source, dst=ENGINES[PORT]) / syn)
        serving.echo([(connection, HostStream(socket))], 3000, 4 * LIMIT_CYCLES)
        drain(serving)
        serving.link.skip(HALF_OPEN_SECONDS)
        another, other_end = serving.accept_on(listener, 1, SERVED + 10)
        serving.echo([(other_end, HostStream(another))], 3000)
        serving.close_all(connection, socket, other_end, another)


def test_ping_flood_during_a_transfer(serving):
    """Pings at line rate in bursts, while both cores carry data that must arrive whole."""
    with Listener(serving.device, SERVED + 11, backlog=4) as listener:
        pairs = []
        for core in range(serving.device.cores):
            socket, connection = serving.accept_on(listener, core, SERVED + 11)
            pairs.append((connection, HostStream(socket)))
        for number in range(150):
            source = f"192.168.77.{10 + number % 200}"
            send(serving, ETHER / IP(src=source, dst=ENGINES[PORT]) / ICMP(id=1, seq=number) / Raw(bytes(18)))
        serving.echo(pairs, 12_000, 6 * LIMIT_CYCLES)
        serving.close_all(*(connection for connection, _ in pairs), *(stream.socket for _, stream in pairs))


def template_frames(rng: random.Random) -> list[bytes]:
    """Good frames of every kind, to be spoiled."""
    data = Raw(rng.randbytes(rng.choice((0, 1, 7, 60, 300))))
    six = IPv6(src="fe80::2", dst="fe80::1")
    ports = {"sport": rng.randrange(1, 65536), "dport": rng.choice((SERVED, 9, 53, 68, rng.randrange(1, 65536)))}
    packets = [
        ETHER
        / STATION
        / TCP(**ports, flags=rng.choice(("S", "A", "SA", "R", "FPU", "")), seq=rng.getrandbits(32))
        / data,
        ETHER / STATION / TCP(**ports, options=[("MSS", 1460), ("SAckOK", b""), ("Timestamp", (1, 2))]) / data,
        ETHER / STATION / UDP(**ports) / data,
        ETHER
        / STATION
        / ICMP(type=rng.choice((0, 3, 5, 8, 11, 12, 13, 17)), code=rng.randrange(4))
        / STATION
        / UDP(**ports),
        ETHER / IP(src=PEERS[PORT], dst=ENGINES[PORT], options=[IPOption_Router_Alert()]) / UDP(**ports) / data,
        ETHER / IP(src=PEERS[PORT], dst=ENGINES[PORT], frag=rng.randrange(8192), flags=rng.choice(("MF", 0))) / data,
        ETHER / ARP(op=rng.choice((1, 2, 3)), psrc=PEERS[PORT], pdst=ENGINES[PORT], hwsrc=PEER_MACS[PORT]),
        ETHER / Dot1Q(vlan=rng.randrange(4096)) / STATION / UDP(**ports) / data,
        ETHER / six / UDP(**ports) / data,
        ETHER / six / ICMPv6EchoRequest() / data,
        ETHER / six / IPv6ExtHdrDestOpt() / IPv6ExtHdrFragment(offset=rng.randrange(100), m=1) / data,
    ]
    return [bytes(packet) for packet in packets]


def mutated(rng: random.Random, frame: bytes) -> bytes:
    """A frame for us with some header bytes wrong, or cut, or with checksums made right again after it."""
    octets = bytearray(frame)
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        octets[rng.randrange(12, min(len(octets), 80))] = rng.choice((0, 0xFF, rng.randrange(256)))
    if rng.random() < 0.2:
        del octets[rng.randrange(14, len(octets)) :]
    if rng.random() < 0.7 and len(octets) > 34 and octets[12:14] == b"\x08\x00":
        packet = Ether(bytes(octets))
        for layer in (IP, UDP, TCP, ICMP):
            if layer in packet and hasattr(packet[layer], "chksum"):
                packet[layer].chksum = None  # wrong contents with a right checksum reach further in
        try:
            return bytes(packet)
        except Exception:  # scapy cannot rebuild every such packet: as it stands, then
            return bytes(octets)
    return bytes(octets)


def flood_with_mutated_frames(rig: Rig, count: int) -> None:
    rng = rig.random
    sent = 0
    while sent < count:
        for frame in template_frames(rng):
            rig.simulation.send_frame(PORT, mutated(rng, frame)[: CONFIG.max_frame_bytes])
            sent += 1
        rig.run(int(rng.choice((200, 2000, 20_000))))
    drain(rig)
    # A spoiled ARP frame may have taken the peer's address, as anybody may (RFC 826): it says again who has it.
    here = {"psrc": PEERS[PORT], "hwsrc": PEER_MACS[PORT]}
    send(rig, ETHER / ARP(op=2, pdst=ENGINES[PORT], hwdst=MACS[PORT], **here))
    drain(rig)


def test_mutated_frames(serving):
    flood_with_mutated_frames(serving, 600)
    drain(serving)


@pytest.mark.nightly
def test_many_mutated_frames():
    """At least 20,000, in a fresh engine, with a working connection on each core after every 2,000."""
    with started() as rig:
        rig.add_peer(PORT, options=FAST_OPTIONS)
        print(f"seed {rig.seed}")
        for _ in range(10):
            flood_with_mutated_frames(rig, 2000)
            for core in range(rig.device.cores):
                rig.echo_once(core, SERVED + core)
            rig.assert_buffers_back(FORGOTTEN_SECONDS)
