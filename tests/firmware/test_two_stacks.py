"""Both cores' firmware behind the dispatcher's model: one host, one address, nobody outside can tell."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.l2 import ARP, Ether

from firmware.firmware_peer import OUR_IP, OUR_MAC, PEER_IP, PEER_MAC, build, flow_owner, socket_address
from firmware.two_stacks import CORES, ECHO_PORT, TwoStacks
from support.rss_vectors import RSS_KEY, RSS_VECTORS
from twinstack.config import EngineConfig
from twinstack.models.dispatcher import VERIFICATION_KEY, DispatcherModel, ParsedFrame
from twinstack.proto.queues import Operation
from twinstack_sim.peer_lwip import LwipPeer
from twinstack_sim.peer_tap import TapError, check_namespace

RACE_US = 3000
RX_BUFFERS = EngineConfig().rx_buffers
BROADCAST = "ff:ff:ff:ff:ff:ff"


@pytest.fixture(scope="module", autouse=True)
def built():
    build("host")


@pytest.fixture
def peer():
    one = LwipPeer(PEER_IP, seed=int(os.environ.get("TWINSTACK_SEED", "1")), mac=PEER_MAC)
    yield one
    one.close()


@pytest.fixture
def stacks(tmp_path, peer):
    both = TwoStacks(tmp_path, peer)
    both.configure()
    both.take_sent()
    yield both
    for core in both.cores:
        assert core.state()["rx_dropped"] == 0
        assert not core.log
    both.close()


def wire(payload, **fields) -> bytes:
    return bytes(Ether(src=PEER_MAC, dst=OUR_MAC, **fields) / payload)


def of_kind(stacks: TwoStacks, layer) -> list[tuple[int, Ether]]:
    return [(core, frame) for core, frame in stacks.take_sent() if layer in frame]


def test_model_agrees_with_published_vectors():
    assert VERIFICATION_KEY == RSS_KEY
    assert RSS_VECTORS
    model = DispatcherModel(2)
    assert model.manager == 0
    model.alive = 0b10
    assert model.manager == 1
    request = ParsedFrame.from_bytes(wire(ARP(op=1)))
    assert (model.decide(request).cores, model.decide(request).answer) == (0b10, 0b10)
    model.alive = 0
    assert model.decide(request).cores == 0


def test_model_is_that_of_the_gateware_tests():
    """Rules in words, one frame each."""
    model = DispatcherModel(2)
    reply = ParsedFrame.from_bytes(wire(ARP(op=2)))
    assert (model.decide(reply).cores, model.decide(reply).answer) == (0b11, 0b01)
    group = ParsedFrame(is_ipv4=True, is_broadcast=True, source=bytes(4), destination=b"\xff" * 4)
    assert (model.decide(group).cores, model.decide(group).answer) == (0b11, 0b01)
    udp = ParsedFrame.from_bytes(wire(IP(src=PEER_IP, dst=OUR_IP) / UDP(sport=5, dport=6)))
    expected = model.probe(udp.source, udp.destination, (5, 6))
    assert model.decide(udp).cores == 1 << expected
    parts = fragment(IP(src=PEER_IP, dst=OUR_IP) / UDP(sport=5, dport=6) / bytes(3000), fragsize=1000)
    addresses = 1 << model.probe(udp.source, udp.destination)
    assert {model.decide(ParsedFrame.from_bytes(wire(part))).cores for part in parts} == {addresses}
    with pytest.raises(ValueError, match="not 5"):
        DispatcherModel(5)


def test_arp_is_answered_exactly_once(stacks):
    request = Ether(src=PEER_MAC, dst=BROADCAST) / ARP(op=1, hwsrc=PEER_MAC, psrc=PEER_IP, pdst=OUR_IP)
    for count in range(1, 4):
        stacks.dispatch(bytes(request))
        stacks.settle()
        replies = of_kind(stacks, ARP)
        assert [(core, frame[ARP].op) for core, frame in replies] == [(0, 2)], count
        assert replies[0][1][ARP].hwsrc == OUR_MAC


def test_ping_is_answered_exactly_once(stacks, peer):
    for length in (0, 56, 1400):
        count = len(peer.ping_replies)
        peer.ping(OUR_IP, length)
        stacks.run_until(lambda count=count: len(peer.ping_replies) > count, "the answer to a ping")
        stacks.advance(20)
        assert [reply.length for reply in peer.ping_replies[count:]] == [length]
    assert len(of_kind(stacks, ICMP)) == 3
    stacks.dispatch(bytes(Ether(src=PEER_MAC, dst=BROADCAST) / IP(src=PEER_IP, dst="10.0.0.255") / ICMP()))
    stacks.settle()
    assert not of_kind(stacks, ICMP), "RFC 1122 3.2.2.6: silence to a broadcast"


def test_ping_that_needs_fragments_takes_no_buffer_for_ever(stacks, peer):
    """It cannot be answered, since lwIP does not fragment here; nothing may leak and nothing too long be sent."""
    for _ in range(10):
        peer.ping(OUR_IP, 3000)
        stacks.advance(2)
    assert all(len(frame) <= 1514 for _, frame in stacks.sent)
    assert [core.state()["rx_free"] for core in stacks.cores] == [RX_BUFFERS, RX_BUFFERS]
    assert [core.state()["tx_errors"] for core in stacks.cores] == [0, 0]


def test_connections_in_both_directions_on_both_cores(stacks, peer):
    stacks.listen()
    data = bytes(i * 7 & 0xFF for i in range(12000))
    listener = peer.listen(80)
    clients = [peer.connect(OUR_IP, ECHO_PORT) for _ in range(8)]
    for host in stacks.hosts:
        for _ in range(3):
            host.connect(PEER_IP, 80, data)
    echoed = dict.fromkeys(range(len(clients)), b"")
    servers = []
    started = set()

    def done() -> bool:
        for number, client in enumerate(clients):
            if client.connected and number not in started:
                started.add(number)
                client.send_all(data)
            echoed[number] += client.recv()
        while (one := listener.accept()) is not None:
            servers.append(one)
        for server in servers:
            server.send_all(server.recv())
        outgoing = [connection for connection in stacks.connections() if connection.data]
        back = all(len(connection.received) == len(data) for connection in outgoing)
        return len(outgoing) == 6 and back and all(len(text) == len(data) for text in echoed.values())

    stacks.run_until(done, "echo on all connections")
    assert all(text == data for text in echoed.values())
    assert all(connection.received == data for connection in stacks.connections() if connection.data)
    for host in stacks.hosts:
        assert len([one for one in host.connections.values() if not one.data]) >= 1, "both cores accept"
        assert not host.failures
    assert not any("R" in str(frame[TCP].flags) for _, frame in of_kind(stacks, TCP))
    assert peer.counters.checksum_errors == 0 and peer.counters.tcp_retransmissions == 0
    for one in clients + servers:
        one.close()
    stacks.run_until(lambda: all(connection.ended for connection in stacks.connections()), "the end of all")
    stacks.run_until(lambda: not any(core.state()["sockets"] for core in stacks.cores), "all sockets free")
    assert [core.state()["directory"] for core in stacks.cores] == [0, 0]


def ports_of_racing_cores(folder: Path, *extra: str, rounds: int = 12) -> list[int]:
    """Local ports that both cores take at the same time; they draw the same candidates."""
    stacks = TwoStacks(folder, extra=("--race-us", str(RACE_US), "--random", "77", *extra))
    stacks.configure()
    for core in stacks.cores:
        core.learn_peer()
        core.frames.clear()
    for number in range(rounds):
        for core in stacks.cores:
            # Another remote port, so that the same local port may lead to either core.
            inline = socket_address(PEER_IP, 1000 + 2 * number + stacks.cores.index(core))
            core.sqe_begin(Operation.TCP_CONNECT, number, inline=inline)
        for core in stacks.cores:
            core.finish()
    found = []
    for number, core in enumerate(stacks.cores):
        assert len(core.frames) == rounds
        for syn in core.frames:
            found.append(syn[TCP].sport)
            found_at = flow_owner(stacks.shared, syn)
            assert found_at == number, "answers must lead back"
    stacks.close()
    return found


def collisions(ports: list[int]) -> int:
    return len(ports) - len(set(ports))


def test_cores_never_take_the_same_port(tmp_path):
    assert collisions(ports_of_racing_cores(tmp_path)) == 0


def test_a_lock_that_always_grants_is_detected(tmp_path):
    """The test above must be able to fail."""
    assert collisions(ports_of_racing_cores(tmp_path, "--broken-lock", "1")) > 0


@pytest.mark.parametrize("lost", range(1, 6))
def test_a_lost_part_of_a_configuration_is_repeated(tmp_path, lost):
    """Message 0 is HELLO; then four parts, and the acknowledgement."""
    stacks = TwoStacks(tmp_path, drop=lambda number: number == lost)
    stacks.configure()
    assert stacks.messages_passed >= 10
    stacks.close()


def test_a_fifo_that_loses_messages_is_detected(tmp_path):
    """configure() is the check of all other tests here; with all messages lost it must fail."""
    stacks = TwoStacks(tmp_path, drop=lambda number: number > 0)
    with pytest.raises(AssertionError, match="configuration|no address"):
        stacks.configure()
    stacks.close()


def test_a_lost_greeting_does_no_harm(tmp_path):
    stacks = TwoStacks(tmp_path, drop=lambda number: number == 0)
    stacks.configure()
    stacks.close()


def test_fragments_meet_and_a_closed_port_is_told_once(stacks, peer):
    sender = peer.udp(5000)
    for length in (10, 1400, 3000, 6000):
        sender.send_to(bytes(length), OUR_IP, 9)
        stacks.advance(5)
        answers = of_kind(stacks, ICMP)
        assert [(frame[ICMP].type, frame[ICMP].code) for _, frame in answers] == [(3, 3)], length
    for port in range(6000, 6020):
        stacks.dispatch(wire(IP(src=PEER_IP, dst=OUR_IP) / UDP(sport=port, dport=9) / b"x"))
        stacks.settle()
        assert len(of_kind(stacks, ICMP)) == 1
    stacks.dispatch(bytes(Ether(src=PEER_MAC, dst=BROADCAST) / IP(src=PEER_IP, dst="10.0.0.255") / UDP(dport=9)))
    stacks.settle()
    assert not of_kind(stacks, ICMP), "RFC 1122 3.2.2: no error about a broadcast"
    assert [core.state()["rx_free"] for core in stacks.cores] == [RX_BUFFERS, RX_BUFFERS]


def test_fragments_in_any_order_of_several_datagrams(stacks):
    datagrams = [
        fragment(IP(src=PEER_IP, dst=OUR_IP, id=number) / UDP(sport=5000 + number, dport=9) / bytes(2000), fragsize=800)
        for number in (1, 2)
    ]
    masks = set()
    for parts in zip(*(reversed(datagram) for datagram in datagrams), strict=True):
        masks |= {stacks.dispatch(wire(part)) for part in parts}
    assert len(masks) == 1, "all fragments between two addresses meet on one core"
    stacks.advance(5)
    assert len(of_kind(stacks, ICMP)) == 2


def test_reassembled_segment_never_causes_a_reset(stacks, peer):
    """Segments of connections of both cores, fragmented: one core gets them all."""
    stacks.listen()
    clients = [peer.connect(OUR_IP, ECHO_PORT) for _ in range(8)]
    stacks.run_until(lambda: all(client.connected for client in clients), "connections")
    stacks.advance(5)
    by_port = {frame[TCP].dport: (core, frame) for core, frame in of_kind(stacks, TCP)}
    assert {core for core, _ in by_port.values()} == set(range(CORES))
    address_core = stacks.dispatcher.probe(bytes([10, 0, 0, 9]), bytes([10, 0, 0, 2]))
    own = 0
    for client in clients:
        port = client.local[1]
        core, last = by_port[port]
        own += core == address_core
        # A duplicate of old data: harmless where it is right, and a reason for RST where nobody knows the flow.
        header = TCP(sport=port, dport=ECHO_PORT, flags="A", seq=last[TCP].ack - 1, ack=last[TCP].seq + 1, window=9000)
        packet = IP(src=PEER_IP, dst=OUR_IP, id=port) / header / bytes(1)
        for part in fragment(packet, fragsize=16):
            stacks.dispatch(wire(part))
        stacks.advance(2)
    assert 0 < own < len(clients)
    assert not any("R" in str(frame[TCP].flags) for _, frame in of_kind(stacks, TCP))
    state = stacks.cores[address_core].state()
    assert state["foreign"] == len(clients) - own == state["given"]
    assert sum(core.state()["taken"] for core in stacks.cores) == len(clients) - own
    for client in clients:
        client.send_all(b"still there")
    texts = dict.fromkeys(clients, b"")

    def done() -> bool:
        for client in clients:
            texts[client] += client.recv()
        return all(text == b"still there" for text in texts.values())

    stacks.run_until(done, "echo after the fragments")


@pytest.mark.parametrize(("ours", "theirs"), [(OUR_IP, PEER_IP), ("2001:db8:1::2", "2001:db8:1::9")])
def test_linux_kernel_over_tap(tmp_path, ours, theirs):
    try:
        check_namespace()
    except TapError as error:
        pytest.skip(f"no TAP device: {error}")
    tests = Path(__file__).resolve().parents[1]
    result = subprocess.run(
        ["unshare", "-rn", sys.executable, "-m", "firmware.two_stacks", str(tmp_path), ours, theirs],
        cwd=tests,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join((str(tests), *filter(None, [os.environ.get("PYTHONPATH")])))},
    )
    assert result.returncode == 0 and "kernel: ok" in result.stdout, result.stdout + result.stderr[-3000:]
