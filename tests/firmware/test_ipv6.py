"""IPv6 of one core on the PC, against packets of scapy: neighbours, routers, addresses, TCP."""

from __future__ import annotations

from ipaddress import IPv6Address

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6MLReport,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptRDNSS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    PadN,
)
from scapy.layers.l2 import Ether

from firmware.firmware_peer import OUR_IP, OUR_MAC, PEER_IP, PEER_MAC, Firmware, build, packed_ip, socket_address
from firmware.ipv6_peer import (
    ALL_NODES,
    OUR_LINK_LOCAL,
    PEER_LINK_LOCAL,
    TcpPeer6,
    advertise,
    configure6,
    good_checksums,
    neighbour_advertisement,
    packed_ip6,
    router_advertisement,
    socket_address6,
    solicited_node,
    status_of,
)
from firmware.network_bench import TIME_WAIT_MS
from twinstack.models.mac import multicast_bit
from twinstack.proto.queues import NETIF_CONFIG6, SOCKET_ADDRESS, Operation

OUR_IP6 = "2001:db8:1::2"
PEER_IP6 = "2001:db8:1::9"
FAR_IP6 = "2001:db8:ffff::1"


@pytest.fixture(scope="module", autouse=True)
def built():
    build("host")


@pytest.fixture
def firmware():
    """A core with a static address of each family, ready."""
    process = Firmware()
    first = process.state()
    process.configure()
    configure6(process, OUR_IP6)
    process.command("time 2500")
    process.frames.clear()
    yield process
    process.command(f"time {TIME_WAIT_MS}")
    last = process.state()
    process.close()
    assert not process.log
    for name in ("rx_large", "rx_small", "bad_free", "tx_free", "flows", "flow_errors", "pcbs", "time_wait"):
        assert last[name] == first[name], name


def sent(firmware: Firmware, layer) -> list[Ether]:
    frames, firmware.frames = firmware.frames, []
    for frame in frames:
        assert IPv6 not in frame or good_checksums(frame), frame.show(dump=True)
    return [frame for frame in frames if layer in frame]


def know_peer(firmware: Firmware, ip: str = PEER_IP6, ours: str = OUR_IP6) -> None:
    """The peer asks for our address, so that both know each other."""
    query = ICMPv6ND_NS(tgt=ours) / ICMPv6NDOptSrcLLAddr(lladdr=PEER_MAC)
    firmware.frame(Ether(src=PEER_MAC, dst=OUR_MAC) / IPv6(src=ip, dst=solicited_node(ours), hlim=255) / query)
    (answer,) = sent(firmware, ICMPv6ND_NA)
    assert answer[ICMPv6ND_NA].tgt == ours and answer[ICMPv6NDOptDstLLAddr].lladdr == OUR_MAC
    assert answer[IPv6].dst == ip and answer.dst == PEER_MAC and answer[ICMPv6ND_NA].S == 1


def test_link_local_address_after_duplicate_detection():
    firmware = Firmware()
    firmware.configure()
    status = status_of(firmware)
    assert status["address6_link_local"] == packed_ip6(OUR_LINK_LOCAL) and status["address6_ready"] == 0
    firmware.command("time 1100")
    (probe,) = [frame for frame in sent(firmware, ICMPv6ND_NS)]
    assert probe[IPv6].src == "::" and probe[IPv6].dst == solicited_node(OUR_LINK_LOCAL)
    assert probe[ICMPv6ND_NS].tgt == OUR_LINK_LOCAL and probe[IPv6].hlim == 255
    firmware.command("time 1100")
    assert status_of(firmware)["address6_ready"] == 1
    assert not sent(firmware, ICMPv6ND_RS)  # nobody asked for advertisements
    assert status_of(firmware)["address6_0"] == 0
    firmware.close()


def test_a_duplicate_address_is_not_used():
    firmware = Firmware()
    configure6(firmware, OUR_IP6)
    firmware.command("time 1100")
    targets = {frame[ICMPv6ND_NS].tgt for frame in sent(firmware, ICMPv6ND_NS)}
    assert targets == {OUR_LINK_LOCAL, OUR_IP6}
    firmware.frame(neighbour_advertisement(OUR_IP6, dst=ALL_NODES, solicited=0))
    firmware.command("time 3000")
    assert status_of(firmware)["address6_ready"] == 0b001
    query = ICMPv6ND_NS(tgt=OUR_IP6) / ICMPv6NDOptSrcLLAddr(lladdr=PEER_MAC)
    sent(firmware, ICMPv6ND_NA)
    firmware.frame(Ether(src=PEER_MAC) / IPv6(src=PEER_IP6, dst=solicited_node(OUR_IP6), hlim=255) / query)
    assert not sent(firmware, ICMPv6ND_NA)
    firmware.close()


def test_solicitations_are_answered_and_echo_requests(firmware):
    know_peer(firmware)
    for length in (0, 1, 56, 1400):
        data = bytes(i & 0xFF for i in range(length))
        firmware.frame(
            Ether(src=PEER_MAC, dst=OUR_MAC)
            / IPv6(src=PEER_IP6, dst=OUR_IP6)
            / ICMPv6EchoRequest(id=3, seq=length, data=data)
        )
        (reply,) = sent(firmware, ICMPv6EchoReply)
        assert reply[ICMPv6EchoReply].data == data and reply[ICMPv6EchoReply].seq == length
        assert reply[IPv6].src == OUR_IP6 and reply.dst == PEER_MAC


def test_groups_of_our_addresses_pass_the_filter_of_the_mac(firmware):
    mask = firmware.state()["multicast0"]
    for group in (ALL_NODES, solicited_node(OUR_LINK_LOCAL), solicited_node(OUR_IP6)):
        mac = bytes([0x33, 0x33]) + IPv6Address(group).packed[12:]
        assert mask >> multicast_bit(mac) & 1, group


def test_listeners_are_reported():
    firmware = Firmware()
    configure6(firmware, OUR_IP6)
    firmware.command("time 6000")
    reports = sent(firmware, ICMPv6MLReport)
    assert {frame[ICMPv6MLReport].mladdr for frame in reports} >= {
        solicited_node(OUR_LINK_LOCAL),
        solicited_node(OUR_IP6),
    }
    firmware.close()


def test_addresses_routers_and_dns_of_advertisements():
    firmware = Firmware()
    configure6(firmware, autoconfigure=1)
    firmware.command("time 2500")
    solicitations = sent(firmware, ICMPv6ND_RS)
    assert solicitations and solicitations[0][IPv6].dst == "ff02::2"
    firmware.frame(router_advertisement(rdnss="2001:db8:1::53"))
    firmware.command("time 2500")
    status = status_of(firmware)
    ours = str(IPv6Address(IPv6Address("2001:db8:1::").packed[:8] + IPv6Address(OUR_LINK_LOCAL).packed[8:]))
    assert status["address6_0"] == packed_ip6(ours)
    assert status["address6_ready"] == 0b011 and status["autoconfigure"] == 1
    assert status["router6"] == packed_ip6(PEER_LINK_LOCAL)
    assert status["dns6"] == packed_ip6("2001:db8:1::53")
    know_peer(firmware, ours=ours)
    firmware.frame(router_advertisement(rdnss="2001:db8:1::53", rdnss_lifetime=0, router_lifetime=0))
    firmware.command("time 1500")
    status = status_of(firmware)
    assert status["dns6"] == 0 and status["router6"] == 0
    configure6(firmware, autoconfigure=0)
    assert status_of(firmware)["address6_0"] == 0
    assert firmware.close().count("panic") == 0


def test_an_address_of_an_advertisement_expires():
    firmware = Firmware()
    configure6(firmware, autoconfigure=1)
    firmware.command("time 2500")
    firmware.frame(router_advertisement(valid=5, preferred=3))
    firmware.command("time 2500")
    assert status_of(firmware)["address6_ready"] == 0b011
    firmware.command("time 5000")
    assert status_of(firmware)["address6_0"] == 0
    firmware.close()


def test_advertisements_are_ignored_unless_asked_for(firmware):
    firmware.frame(router_advertisement(prefix="2001:db8:77::", rdnss="2001:db8:1::53"))
    firmware.command("time 2000")
    status = status_of(firmware)
    assert status["address6_1"] == 0 and status["router6"] == 0 and status["dns6"] == 0


def test_other_cores_learn_from_group_frames_but_do_not_answer():
    """A core that is not to answer: advertisements count, requests to groups do not."""
    firmware = Firmware(("--core", "1", "--cores", "2", "--manager", "1"))
    configure6(firmware, autoconfigure=1, wait=1100)
    firmware.command("time 2500")
    firmware.frame(router_advertisement(), answer=False)
    firmware.command("time 2500")
    assert status_of(firmware)["address6_ready"] == 0b011
    sent(firmware, IPv6)
    firmware.frame(
        Ether(src=PEER_MAC, dst="33:33:00:00:00:01") / IPv6(src=PEER_LINK_LOCAL, dst=ALL_NODES) / ICMPv6EchoRequest(),
        answer=False,
    )
    assert not sent(firmware, ICMPv6EchoReply)
    firmware.close()


def test_other_cores_hear_that_an_address_is_taken():
    firmware = Firmware(("--core", "1", "--cores", "2", "--manager", "1"))
    configure6(firmware, OUR_IP6, wait=1100)
    firmware.frame(neighbour_advertisement(OUR_IP6, dst=ALL_NODES, solicited=0), answer=False)
    firmware.command("time 2500")
    assert status_of(firmware)["address6_ready"] == 0b001
    firmware.close()


def test_configurations_that_are_refused(firmware):
    def configure(operation_flags: int = 0, **values: int) -> int:
        block = NETIF_CONFIG6.pack({"family": 10, **values})
        return firmware.call(Operation.NETIF_CONFIG, operation_flags=operation_flags, inline=block)

    good = packed_ip6(OUR_IP6)
    assert configure(address=good, prefix_length=48) == -22
    assert configure(address=0, prefix_length=64) == -22
    assert configure(address=packed_ip6("ff02::1"), prefix_length=64) == -22
    assert configure(address=packed_ip6("::1"), prefix_length=64) == -22
    assert configure(address=packed_ip6("::ffff:1.2.3.4"), prefix_length=64) == -22
    assert configure(operation_flags=7, address=good, prefix_length=64) == -22
    assert configure(family=11) == -97
    assert status_of(firmware)["address6_0"] == good
    assert configure(address=good, prefix_length=64) == 0


def test_both_families_are_configured_apart(firmware):
    status = status_of(firmware)
    assert status["address"] == packed_ip(OUR_IP) and status["address6_0"] == packed_ip6(OUR_IP6)
    configure6(firmware, "2001:db8:2::3")
    firmware.command("time 2500")
    status = status_of(firmware)
    assert status["address"] == packed_ip(OUR_IP) and status["address6_0"] == packed_ip6("2001:db8:2::3")
    firmware.configure()
    assert status_of(firmware)["address6_ready"] == 0b011


# --- TCP ---


def listen(firmware: Firmware, address: bytes, flags: int = 0) -> int:
    return firmware.call(Operation.TCP_LISTEN, 2, joined=True, length=8, inline=address, operation_flags=flags)


def accept(firmware: Firmware, handle: int) -> None:
    firmware.sqe(Operation.TCP_ACCEPT, 3, joined=True, handle=handle, operation_flags=1)


def exchange(firmware: Firmware, handle: int, peer: TcpPeer6, length: int = 5000) -> None:
    """Bytes in both directions."""
    data = bytes(i * 7 & 0xFF for i in range(length))
    received = b""
    for offset in range(0, length, 1400):
        piece = data[offset : offset + 1400]
        firmware.sqe(Operation.RECV, 7, handle=handle, buffer=0x1000, length=4096)
        peer.send("PA", piece)
        firmware.command("time 20")
        result = firmware.completion().result
        received += firmware.read(0x1000, result)
    assert received == data
    firmware.write(0x4000, data)
    firmware.sqe(Operation.SEND, 8, handle=handle, buffer=0x4000, length=length)
    peer.collect()
    peer.acknowledge_all()
    assert firmware.completion().result == length
    assert peer.received == data
    assert max(peer.lengths) == 1440 and peer.lengths.count(1440) == length // 1440


def end(firmware: Firmware, handle: int, peer: TcpPeer6) -> None:
    peer.send("FA")
    assert firmware.call(Operation.CLOSE, handle=handle) == 0
    peer.collect()
    peer.send("A")


@pytest.mark.parametrize("local", ["::", OUR_IP6])
def test_passive_connection(firmware, local):
    know_peer(firmware)
    accept(firmware, listen(firmware, socket_address6(local, 7)))
    peer = TcpPeer6(firmware, 7, PEER_IP6, OUR_IP6)
    peer.open()
    assert peer.mss == 1440
    handle = firmware.completion().result
    assert handle > 0 and firmware.state()["flows"] == 1
    assert firmware.call(Operation.GETPEERNAME, handle=handle, buffer=0x9000, length=32) == 32
    assert firmware.read(0x9000, 32) == socket_address6(PEER_IP6, peer.local)
    assert firmware.call(Operation.GETSOCKNAME, handle=handle, buffer=0x9000, length=32) == 32
    assert firmware.read(0x9000, 32) == socket_address6(OUR_IP6, 7)
    exchange(firmware, handle, peer)
    end(firmware, handle, peer)


def test_passive_connection_of_link_local_addresses(firmware):
    know_peer(firmware, PEER_LINK_LOCAL, OUR_LINK_LOCAL)
    accept(firmware, listen(firmware, socket_address6("::", 7)))
    peer = TcpPeer6(firmware, 7, PEER_LINK_LOCAL, OUR_LINK_LOCAL)
    peer.open()
    handle = firmware.completion().result
    assert firmware.call(Operation.GETPEERNAME, handle=handle, buffer=0x9000, length=32) == 32
    assert firmware.read(0x9000, 32) == socket_address6(PEER_LINK_LOCAL, peer.local, scope=1)
    exchange(firmware, handle, peer)
    end(firmware, handle, peer)


def test_listeners_of_both_families(firmware):
    from firmware.firmware_peer import TcpPeer

    firmware.learn_peer()
    accept(firmware, listen(firmware, socket_address6("::", 7)))
    assert listen(firmware, socket_address("0.0.0.0", 7)) == -98
    assert listen(firmware, socket_address6(OUR_IP6, 7)) == -98
    peer = TcpPeer(firmware, 7)
    peer.open()
    handle = firmware.completion().result
    assert firmware.call(Operation.GETPEERNAME, handle=handle, buffer=0x9000, length=32) == 32
    assert firmware.read(0x9000, 32) == socket_address(PEER_IP, peer.local)
    assert firmware.call(Operation.ABORT, handle=handle) == 0
    peer.collect()


def test_listener_of_ipv6_only(firmware):
    from firmware.firmware_peer import TcpPeer

    firmware.learn_peer()
    know_peer(firmware)
    six = listen(firmware, socket_address6("::", 7), flags=1)
    assert six > 0
    peer = TcpPeer(firmware, 7)
    peer.send("S")
    assert "R" in peer.flags[-1]
    four = listen(firmware, socket_address("0.0.0.0", 7))
    assert four > 0 and listen(firmware, socket_address6("::", 7), flags=1) == -98
    peer = TcpPeer(firmware, 7, 40001)
    peer.open()
    peer6 = TcpPeer6(firmware, 7, PEER_IP6, OUR_IP6)
    peer6.open()
    assert firmware.state()["pcbs"] == 2
    for handle in (four, six):
        assert firmware.call(Operation.CLOSE, joined=True, handle=handle) == 0


def test_addresses_that_are_refused(firmware):
    for address, flags, result in (
        (socket_address6("::ffff:10.0.0.1", 7), 0, -22),
        (socket_address6(OUR_IP6, 7, scope=1), 0, -22),
        (socket_address6(OUR_LINK_LOCAL, 7, scope=9), 0, -22),
        (socket_address6(OUR_IP6, 0), 0, -22),
        (socket_address6(OUR_IP6, 7), 1, -22),
        (socket_address("0.0.0.0", 7), 1, -22),
        (socket_address6("::", 7), 2, -22),
        (SOCKET_ADDRESS.pack({"family": 2, "port": 7, "scope": 1}), 0, -22),
        (SOCKET_ADDRESS.pack({"family": 10, "port": 7, "extra": 1}), 0, -22),
        (SOCKET_ADDRESS.pack({"family": 1, "port": 7}), 0, -97),
    ):
        assert listen(firmware, address, flags) == result, (address, flags)


def test_active_connection_resolves_its_neighbour(firmware):
    firmware.sqe(Operation.TCP_CONNECT, 4, inline=socket_address6(PEER_IP6, 80))
    (query,) = sent(firmware, ICMPv6ND_NS)
    assert query[ICMPv6ND_NS].tgt == PEER_IP6 and query[IPv6].dst == solicited_node(PEER_IP6)
    assert query.dst.startswith("33:33:ff") and query[ICMPv6NDOptSrcLLAddr].lladdr == OUR_MAC
    firmware.frame(neighbour_advertisement(PEER_IP6, dst=query[IPv6].src))
    (syn,) = [frame for frame in firmware.frames if TCP in frame]
    assert syn.dst == PEER_MAC and syn[IPv6].src == OUR_IP6 and dict(syn[TCP].options)["MSS"] == 1440
    firmware.frames.clear()
    peer = TcpPeer6(firmware, syn[TCP].sport, PEER_IP6, OUR_IP6, local=80)
    peer.expected = syn[TCP].seq + 1
    peer.send("SA")
    handle = firmware.completion().result
    assert handle > 0
    exchange(firmware, handle, peer)
    end(firmware, handle, peer)


def test_active_connection_through_a_configured_router(firmware):
    configure6(firmware, OUR_IP6, gateway="fe80::ff:fe00:99")
    firmware.command("time 100")
    firmware.frames.clear()
    firmware.sqe(Operation.TCP_CONNECT, 4, inline=socket_address6(FAR_IP6, 80))
    (query,) = sent(firmware, ICMPv6ND_NS)
    assert query[ICMPv6ND_NS].tgt == "fe80::ff:fe00:99"
    firmware.frame(neighbour_advertisement("fe80::ff:fe00:99", dst=query[IPv6].src))
    (syn,) = sent(firmware, TCP)
    assert syn.dst == PEER_MAC and syn[IPv6].dst == FAR_IP6
    peer = TcpPeer6(firmware, syn[TCP].sport, FAR_IP6, OUR_IP6, local=80)
    peer.expected = syn[TCP].seq + 1
    peer.send("RA")
    assert firmware.completion().result == -111


def test_errors_of_connections(firmware):
    assert firmware.call(Operation.TCP_CONNECT, inline=socket_address6(FAR_IP6, 80)) == -101
    assert firmware.call(Operation.TCP_CONNECT, inline=socket_address6("ff02::1", 80)) == -101
    assert firmware.call(Operation.TCP_CONNECT, inline=socket_address6("::ffff:10.0.0.9", 80)) == -22
    assert firmware.call(Operation.TCP_CONNECT, inline=socket_address6(PEER_IP6, 0)) == -22
    firmware.sqe(Operation.TCP_CONNECT, 4, inline=socket_address6(PEER_IP6, 80))
    firmware.command("time 40000")
    assert firmware.completion().result == -113  # nobody is there
    know_peer(firmware)
    firmware.sqe(Operation.TCP_CONNECT, 4, inline=socket_address6(PEER_IP6, 80))
    for _ in range(40):
        firmware.command("time 1000")
        for query in sent(firmware, ICMPv6ND_NS):
            firmware.frame(neighbour_advertisement(PEER_IP6, dst=query[IPv6].src))
        if firmware.completions:
            break
    assert firmware.completion().result == -110  # the neighbour is there and does not answer


# --- Checksums, extension headers, fragments ---


def test_segments_behind_extension_headers(firmware):
    know_peer(firmware)
    accept(firmware, listen(firmware, socket_address6("::", 7)))
    peer = TcpPeer6(firmware, 7, PEER_IP6, OUR_IP6)
    peer.between = IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(12))])
    peer.open()
    handle = firmware.completion().result
    firmware.sqe(Operation.RECV, 7, handle=handle, buffer=0x1000, length=4096)
    peer.send("PA", b"hello")
    assert firmware.completion().result == 5 and firmware.read(0x1000, 5) == b"hello"
    assert firmware.call(Operation.ABORT, handle=handle) == 0
    peer.collect()


def fragments(packet: IPv6, size: int) -> list[bytes]:
    """The packet in pieces behind Fragment headers."""
    whole = bytes(packet)
    payload, pieces = whole[40:], []
    for offset in range(0, len(payload), size):
        header = IPv6ExtHdrFragment(nh=packet.nh, offset=offset // 8, m=int(offset + size < len(payload)), id=77)
        piece = IPv6(src=packet.src, dst=packet.dst) / header / payload[offset : offset + size]
        pieces.append(bytes(Ether(src=PEER_MAC, dst=OUR_MAC) / piece))
    return pieces


@pytest.mark.parametrize("order", [1, -1])
def test_fragments_are_put_together(firmware, order):
    know_peer(firmware)
    data = bytes(i & 0xFF for i in range(1300))
    request = IPv6(bytes(IPv6(src=PEER_IP6, dst=OUR_IP6) / ICMPv6EchoRequest(data=data)))
    for piece in fragments(request, 512)[::order]:
        firmware.frame(piece)
    (reply,) = sent(firmware, ICMPv6EchoReply)
    assert reply[ICMPv6EchoReply].data == data


def test_a_fragmented_segment_is_checked(firmware):
    know_peer(firmware)
    accept(firmware, listen(firmware, socket_address6("::", 7)))
    peer = TcpPeer6(firmware, 7, PEER_IP6, OUR_IP6)
    peer.open()
    handle = firmware.completion().result
    firmware.sqe(Operation.RECV, 7, handle=handle, buffer=0x1000, length=4096)
    good = IPv6(bytes(peer.packet("PA", bytes(range(200)))))
    bad = bytearray(bytes(good))
    bad[-1] ^= 1
    for piece in fragments(IPv6(bytes(bad)), 128):
        firmware.frame(piece)
    assert not firmware.completions
    for piece in fragments(good, 128):
        firmware.frame(piece)
    assert firmware.completion().result == 200 and firmware.read(0x1000, 200) == bytes(range(200))
    assert firmware.call(Operation.ABORT, handle=handle) == 0
    peer.sequence += 200
    peer.collect()


def test_closed_ports_and_bad_packets(firmware):
    know_peer(firmware)
    peer = TcpPeer6(firmware, 9, PEER_IP6, OUR_IP6)
    peer.send("S")
    assert peer.flags[-1] == "RA"
    datagram = IPv6(src=PEER_IP6, dst=OUR_IP6) / UDP(sport=5, dport=9) / b"x"
    firmware.frame(Ether(src=PEER_MAC, dst=OUR_MAC) / datagram)
    (refused,) = sent(firmware, ICMPv6DestUnreach)
    assert refused[ICMPv6DestUnreach].code == 4
    whole = bytes(Ether(src=PEER_MAC, dst=OUR_MAC) / peer.packet("S"))
    for length in range(54, len(whole)):
        firmware.frame(whole[:length].ljust(60, b"\0"))
    firmware.frames.clear()


def test_router_advertisements_that_are_none(firmware):
    configure6(firmware, OUR_IP6, autoconfigure=1)
    good = bytes(router_advertisement())
    for length in range(54, len(good), 3):
        firmware.frame(good[:length].ljust(60, b"\0"))
    firmware.frame(advertise(IPv6(src="2001:db8::1", dst=ALL_NODES, hlim=255) / ICMPv6ND_RA()))
    firmware.frame(advertise(IPv6(src=PEER_LINK_LOCAL, dst=ALL_NODES, hlim=64) / ICMPv6ND_RA()))
    wrong = ICMPv6ND_RA() / ICMPv6NDOptPrefixInfo(prefix="2001:db8:9::", prefixlen=48)
    firmware.frame(advertise(IPv6(src=PEER_LINK_LOCAL, dst=ALL_NODES, hlim=255) / wrong))
    endless = bytes(IPv6(src=PEER_LINK_LOCAL, dst=ALL_NODES, hlim=255) / ICMPv6ND_RA() / ICMPv6NDOptRDNSS(dns=["::5"]))
    firmware.frame(
        Ether(src=PEER_MAC, dst="33:33:00:00:00:01", type=0x86DD) / endless.replace(b"\x19\x03", b"\x19\x00")
    )
    firmware.command("time 2000")
    status = status_of(firmware)
    assert status["address6_1"] == 0
