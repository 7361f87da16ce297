"""Both cores' firmware over IPv6 behind the dispatcher's model: one host, the same addresses, nobody outside can tell."""

from __future__ import annotations

import os

import pytest
from scapy.layers.inet import TCP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6NDOptSrcLLAddr, IPv6

from firmware.firmware_peer import PEER_IP, PEER_MAC, build
from firmware.ipv6_peer import (
    advertise,
    good_checksums,
    packed_ip6,
    router_advertisement,
    socket_address6,
    solicited_node,
)
from firmware.two_stacks import CORES, ECHO_PORT, TwoStacks
from twinstack.proto.queues import NETIF_STATUS, Operation
from twinstack_sim.peer_lwip import LwipPeer

OURS = "2001:db8:1::2"
THEIRS = "2001:db8:1::9"


@pytest.fixture(scope="module", autouse=True)
def built():
    build("host")


@pytest.fixture
def peer():
    seed = int(os.environ.get("TWINSTACK_SEED", "1"))
    one = LwipPeer(PEER_IP, address6=THEIRS, seed=seed, mac=PEER_MAC)
    yield one
    one.close()


@pytest.fixture
def stacks(tmp_path, peer):
    both = TwoStacks(tmp_path, peer)
    both.configure()
    both.configure6(OURS)
    both.take_sent()
    yield both
    for core in both.cores:
        assert core.state()["rx_dropped"] == 0
        assert not core.log
    both.close()


def statuses(stacks: TwoStacks) -> list[dict[str, int]]:
    result = []
    for core in stacks.cores:
        assert core.call(Operation.NETIF_STATUS, 77, buffer=0, length=128) == 128
        result.append(NETIF_STATUS.unpack(core.read(0, 128)))
    return result


def test_both_cores_have_the_same_addresses(stacks):
    first, second = statuses(stacks)
    for name in ("address6_link_local", "address6_0", "address6_1", "address6_ready"):
        assert first[name] == second[name], name
    assert first["address6_0"] == packed_ip6(OURS) and first["address6_ready"] == 0b011


def test_router_advertisements_reach_both_cores(tmp_path):
    both = TwoStacks(tmp_path)
    both.configure()
    both.configure6(autoconfigure=1)
    both.take_sent()
    both.dispatch(bytes(router_advertisement(rdnss="2001:db8:1::53")))
    both.advance(2500)
    for core, status in enumerate(statuses(both)):
        assert status["address6_ready"] == 0b011 and status["router6"] != 0, core
        assert status["dns6"] == packed_ip6("2001:db8:1::53"), core
    probes = [core for core, frame in both.take_sent() if ICMPv6ND_NS in frame and frame[IPv6].src == "::"]
    assert sorted(probes) == list(range(CORES)), "each core does its own duplicate address detection"
    both.close()


def test_solicitations_are_answered_exactly_once(stacks):
    for count in range(3):
        query = IPv6(src=THEIRS, dst=solicited_node(OURS), hlim=255) / ICMPv6ND_NS(tgt=OURS)
        stacks.dispatch(bytes(advertise(query / ICMPv6NDOptSrcLLAddr(lladdr=PEER_MAC))))
        stacks.settle()
        answers = [(core, frame) for core, frame in stacks.take_sent() if ICMPv6ND_NA in frame]
        assert [core for core, _ in answers] == [0], count


def test_ping_is_answered_exactly_once(stacks, peer):
    for length in (0, 56, 1400):
        count = len(peer.ping_replies)
        peer.ping(OURS, length)
        stacks.run_until(lambda count=count: len(peer.ping_replies) > count, "the answer to a ping")
        stacks.advance(20)
        assert [reply.length for reply in peer.ping_replies[count:]] == [length]
    assert len([1 for _, frame in stacks.take_sent() if ICMPv6EchoReply in frame]) == 3


def test_connections_in_both_directions_on_both_cores(stacks, peer):
    stacks.listen(address=socket_address6("::", ECHO_PORT))
    server = peer.listen(80)
    data = bytes(i * 13 & 0xFF for i in range(20000))
    clients = [peer.connect(OURS, ECHO_PORT) for _ in range(8)]
    for host in stacks.hosts:
        for _ in range(3):
            host.connect(THEIRS, 80, data)
    echoed = dict.fromkeys(range(len(clients)), b"")
    unsent = dict.fromkeys(range(len(clients)), data)
    servers: dict[object, bytes] = {}

    def done() -> bool:
        for number, client in enumerate(clients):
            if client.connected and unsent[number]:
                unsent[number] = unsent[number][client.send(unsent[number]) :]
            echoed[number] += client.recv()
        if (one := server.accept()) is not None:
            servers[one] = b""
        for one in servers:
            servers[one] += one.recv()
            servers[one] = servers[one][one.send(servers[one]) :] if servers[one] else b""
        outgoing = [connection for connection in stacks.connections() if connection.data]
        back = all(connection.received == data for connection in outgoing)
        return len(outgoing) == 6 and back and all(len(text) == len(data) for text in echoed.values())

    stacks.run_until(done, "echo on all connections", 6000)
    assert all(text == data for text in echoed.values())
    segments = [frame for _, frame in stacks.take_sent() if TCP in frame]
    assert all(IPv6 in frame and good_checksums(frame) for frame in segments)
    assert not any("R" in str(frame[TCP].flags) for frame in segments)
    incoming = [[one for one in host.connections.values() if not one.data] for host in stacks.hosts]
    assert min(map(len, incoming)) >= 1, "the hash spreads them"
