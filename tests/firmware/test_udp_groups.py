"""Groups and IPv6 of datagram sockets on one core, compiled for the PC with sanitizers, against scapy."""

from __future__ import annotations

import pytest
from scapy.layers.igmp import IGMP
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6MLDone,
    ICMPv6MLReport,
    ICMPv6ND_NS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrFragment,
    fragment6,
)
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from firmware.firmware_peer import (
    OUR_IP,
    OUR_MAC,
    PEER_IP,
    PEER_MAC,
    Firmware,
    build,
    packed_ip,
    packed_mac,
    socket_address,
)
from firmware.ipv6_peer import (
    OUR_LINK_LOCAL,
    PEER_LINK_LOCAL,
    configure6,
    good_checksums,
    neighbour_advertisement,
    packed_ip6,
    socket_address6,
    solicited_node,
)
from firmware.ipv6_peer import group_mac as group_mac6
from firmware.udp_bench import (
    BUFFER,
    PEER_PORT,
    PORT,
    close,
    datagram,
    get_option,
    group_address,
    group_mac,
    open_socket,
    receive,
    results,
    set_option,
    taken,
)
from twinstack.models.mac import multicast_bit
from twinstack.proto.queues import NETIF_CONFIG, SOCKET_ADDRESS, Handle, Operation, SocketOption

OUR_IP6 = "2001:db8:1::2"
PEER_IP6 = "2001:db8:1::9"
GROUP = "239.1.2.3"
GROUP6 = "ff15::1234"
POOLS = (
    "rx_large", "rx_small", "bad_free", "tx_free", "scratch", "pieces", "ops", "sockets", "directory", "udp_ports",
    "udp_tx", "kept", "groups", "multicast0", "multicast1", "tx_errors", "copied",
)  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def built():
    build("host")


@pytest.fixture
def firmware():
    """A core with a static address of each family that knows the peer's; pools are as before after the test."""
    process = Firmware()
    process.configure()
    second = {
        "family": 2,
        "prefix_length": 24,
        "address": packed_ip("10.0.1.2"),
        "mac": packed_mac("02:54:53:00:01:01"),
    }
    assert process.call(Operation.NETIF_CONFIG, operation_flags=1, inline=NETIF_CONFIG.pack(second)) == 0
    configure6(process, OUR_IP6)
    process.command("time 3000")
    process.learn_peer()
    for ip, ours in ((PEER_IP6, OUR_IP6), (PEER_LINK_LOCAL, OUR_LINK_LOCAL)):
        asks = ICMPv6ND_NS(tgt=ours) / ICMPv6NDOptSrcLLAddr(lladdr=PEER_MAC)
        process.frame(Ether(src=PEER_MAC, dst=OUR_MAC) / IPv6(src=ip, dst=solicited_node(ours), hlim=255) / asks)
    process.frames.clear()
    first = process.state()
    yield process
    process.completions.clear()
    for index in range(16):
        for generation in range(1, 7):
            close(process, Handle(0, 0, 64 + index, generation).pack())
    process.command("time 12000")
    last = process.state()
    process.close()
    assert not process.log
    for name in POOLS:
        assert last[name] == first[name], name


def open6(firmware: Firmware, ip: str = "::", port: int = PORT, *, flags: int = 0, scope: int = 0) -> int:
    return firmware.call(Operation.UDP_OPEN, operation_flags=flags, inline=socket_address6(ip, port, scope))


def sendto(firmware: Firmware, handle: int, payload: bytes, address: bytes) -> int:
    firmware.write(0x8000, payload)
    fields = {"handle": handle, "buffer": 0x8000, "length": len(payload), "inline": address}
    return firmware.call(Operation.SENDTO, 70, **fields)


def datagram6(payload: bytes, *, src: str = PEER_IP6, dst: str = OUR_IP6, port: int = PORT, sport: int = PEER_PORT):
    mac = group_mac6(dst) if dst.startswith("ff") else OUR_MAC
    return Ether(src=PEER_MAC, dst=mac) / IPv6(src=src, dst=dst) / UDP(sport=sport, dport=port) / Raw(payload)


def leaving6(firmware: Firmware) -> list[tuple[IPv6, bytes]]:
    frames, firmware.frames = firmware.frames, []
    found = []
    for frame in frames:
        if IPv6 in frame and UDP in frame:
            assert good_checksums(frame) and frame[UDP].chksum != 0
            found.append((frame[IPv6], bytes(frame[UDP].payload)[: frame[UDP].len - 8]))
    return found


def bits(*macs: str) -> int:
    mask = 0
    for mac in macs:
        mask |= 1 << multicast_bit(bytes.fromhex(mac.replace(":", "")))
    return mask


# ---- Groups, IPv4 ----


def test_join_refuses(firmware):
    handle = open_socket(firmware)
    for option in (SocketOption.JOIN_GROUP, SocketOption.LEAVE_GROUP):
        assert set_option(firmware, handle, option, group_address(PEER_IP)) == -99
        assert set_option(firmware, handle, option, group_address("255.255.255.255")) == -99
        assert set_option(firmware, handle, option, group_address(GROUP, 2)) == -22, "no such port"
        assert set_option(firmware, handle, option, SOCKET_ADDRESS.pack({"family": 3})) == -97
        assert set_option(firmware, handle, option, socket_address6(GROUP6, 0)) == -97
    assert set_option(firmware, handle, SocketOption.LEAVE_GROUP, group_address(GROUP)) == -99
    assert set_option(firmware, handle, SocketOption.JOIN_GROUP, group_address(GROUP)) == 0
    assert set_option(firmware, handle, SocketOption.JOIN_GROUP, group_address(GROUP)) == 0, "again"
    assert set_option(firmware, handle, SocketOption.LEAVE_GROUP, group_address(GROUP)) == 0
    assert set_option(firmware, handle, SocketOption.LEAVE_GROUP, group_address(GROUP)) == -99


def test_eight_groups_a_port(firmware):
    handle, other = open_socket(firmware), open_socket(firmware, PORT + 1)
    groups = [f"239.1.1.{n}" for n in range(8)]
    for network_port in (0, 1):
        for group in groups:
            assert set_option(firmware, handle, SocketOption.JOIN_GROUP, group_address(group, network_port)) == 0
        assert set_option(firmware, handle, SocketOption.JOIN_GROUP, group_address(GROUP, network_port)) == -105
        assert set_option(firmware, other, SocketOption.JOIN_GROUP, group_address(groups[3], network_port)) == 0
    state = firmware.state()
    assert state["groups"] == 18
    wanted = bits(*map(group_mac, groups))
    assert state["multicast0"] & wanted == wanted and state["multicast1"] & wanted == wanted
    assert close(firmware, handle) == 0
    wanted = bits(group_mac(groups[3]))
    assert firmware.state()["multicast1"] & wanted == wanted
    assert set_option(firmware, other, SocketOption.JOIN_GROUP, group_address(GROUP, 0)) == 0


def test_group_of_one_network_port(firmware):
    handle = open_socket(firmware)
    assert set_option(firmware, handle, SocketOption.JOIN_GROUP, group_address(GROUP, 1)) == 0
    reports = [frame for frame in firmware.frames if IP in frame and frame[IP].proto == 2]
    assert len(reports) == 1 and IGMP(bytes(reports[0][IP].payload)[:8]).gaddr == GROUP
    receive(firmware, handle)
    packet = datagram(b"group", dst=GROUP, mac=group_mac(GROUP))
    firmware.frame(packet, port=0)
    assert not firmware.completions, "joined on the other"
    firmware.frame(packet, port=1)
    data, address = taken(firmware)
    assert data == b"group" and address["address"] == packed_ip(PEER_IP)


def test_bound_to_an_address_no_group(firmware):
    handle = open_socket(firmware, ip=OUR_IP)
    set_option(firmware, handle, SocketOption.JOIN_GROUP, group_address(GROUP))
    receive(firmware, handle)
    firmware.frame(datagram(b"group", dst=GROUP, mac=group_mac(GROUP)))
    assert not firmware.completions


def test_send_to_a_group(firmware):
    handle = open_socket(firmware)
    assert get_option(firmware, handle, SocketOption.MULTICAST_TTL) == 1
    assert get_option(firmware, handle, SocketOption.MULTICAST_INTERFACE) == 0
    assert sendto(firmware, handle, b"to all of them", socket_address(GROUP, 99)) == 14
    frame = firmware.frames.pop()
    assert frame.dst == group_mac(GROUP) and (frame[IP].dst, frame[IP].ttl) == (GROUP, 1)
    assert set_option(firmware, handle, SocketOption.MULTICAST_TTL, 256) == -22
    for ttl in (0, 33, 255):
        assert set_option(firmware, handle, SocketOption.MULTICAST_TTL, ttl) == 0
        assert get_option(firmware, handle, SocketOption.MULTICAST_TTL) == ttl
        assert sendto(firmware, handle, b"x", socket_address(GROUP, 99)) == 1
        assert firmware.frames.pop()[IP].ttl == ttl
    assert set_option(firmware, handle, SocketOption.MULTICAST_INTERFACE, 3) == -22
    for value in (2, 1, 0):
        assert set_option(firmware, handle, SocketOption.MULTICAST_INTERFACE, value) == 0
        assert get_option(firmware, handle, SocketOption.MULTICAST_INTERFACE) == value
    assert set_option(firmware, handle, SocketOption.MULTICAST_TTL, 7) == 0
    assert sendto(firmware, handle, b"x", socket_address(PEER_IP, 99)) == 1
    assert firmware.frames.pop()[IP].ttl == 64, "not to a station"


# ---- IPv6 ----


@pytest.mark.parametrize("size", [0, 1, 100, 1451, 1452])
def test_ipv6_both_ways(firmware, size):
    handle = open6(firmware)
    payload = bytes(i & 0xFF for i in range(size))
    receive(firmware, handle)
    firmware.frame(datagram6(payload))
    data, address = taken(firmware)
    assert data == payload
    assert (address["family"], address["port"], address["scope"]) == (10, PEER_PORT, 0)
    assert address["address"] == packed_ip6(PEER_IP6) and address["extra"] == size
    assert sendto(firmware, handle, payload, socket_address6(PEER_IP6, PEER_PORT)) == size
    ((ip, data),) = leaving6(firmware)
    assert data == payload and (ip.src, ip.dst, ip.hlim) == (OUR_IP6, PEER_IP6, 64)


def test_ipv6_limits(firmware):
    handle = open6(firmware)
    to = socket_address6(PEER_IP6, PEER_PORT)
    assert firmware.call(Operation.SENDTO, handle=handle, buffer=0, length=1453, inline=to) == -90
    to = socket_address6("2001:db8:ffff::1", PEER_PORT)
    assert firmware.call(Operation.SENDTO, handle=handle, buffer=0, length=1, inline=to) == -101
    to = socket_address6("::ffff:10.0.0.9", PEER_PORT)
    assert firmware.call(Operation.SENDTO, handle=handle, buffer=0, length=1, inline=to) == -22


def test_dual_stack_and_v6only(firmware):
    handle = open6(firmware)
    assert firmware.call(Operation.GETSOCKNAME, handle=handle, buffer=0, length=32) == 32
    name = SOCKET_ADDRESS.unpack(firmware.read(0, 32))
    assert (name["family"], name["port"], name["address"]) == (10, PORT, 0)
    receive(firmware, handle)
    firmware.frame(datagram(b"four"))
    data, address = taken(firmware)
    assert data == b"four" and (address["family"], address["address"]) == (2, packed_ip(PEER_IP))
    assert sendto(firmware, handle, b"four", socket_address(PEER_IP, PEER_PORT)) == 4
    assert firmware.frames.pop()[IP].dst == PEER_IP
    assert open_socket(firmware) == -98
    assert close(firmware, handle) == 0
    only = open6(firmware, flags=2)
    assert only > 0
    firmware.frame(datagram(b"four"))
    assert sendto(firmware, only, b"four", socket_address(PEER_IP, PEER_PORT)) == -97
    assert set_option(firmware, only, SocketOption.PEER, socket_address(PEER_IP, PEER_PORT)) == -97
    receive(firmware, only)
    firmware.frame(datagram6(b"six"))
    assert taken(firmware)[0] == b"six"
    assert close(firmware, only) == 0
    four = open_socket(firmware)
    assert sendto(firmware, four, b"six", socket_address6(PEER_IP6, PEER_PORT)) == -97


def test_ipv6_addresses(firmware):
    assert open6(firmware, "2001:db8:1::77") == -99
    assert open6(firmware, GROUP6) == -99
    assert open6(firmware, OUR_IP6, flags=2) == -22
    handle = open6(firmware, OUR_IP6)
    assert handle > 0
    assert close(firmware, handle) == 0
    handle = open6(firmware, OUR_LINK_LOCAL)
    assert handle > 0
    receive(firmware, handle)
    firmware.frame(datagram6(b"link", src=PEER_LINK_LOCAL, dst=OUR_LINK_LOCAL))
    data, address = taken(firmware)
    assert data == b"link" and (address["scope"], address["address"]) == (1, packed_ip6(PEER_LINK_LOCAL))
    for scope in (0, 1):
        assert sendto(firmware, handle, b"link", socket_address6(PEER_LINK_LOCAL, 9, scope)) == 4
        ((ip, _),) = leaving6(firmware)
        assert (ip.src, ip.dst) == (OUR_LINK_LOCAL, PEER_LINK_LOCAL)


def test_ipv6_next_hop_is_resolved_first(firmware):
    handle = open6(firmware)
    firmware.write(0x8000, b"waiting")
    to = socket_address6("2001:db8:1::55", 7)
    firmware.sqe(Operation.SENDTO, 1, handle=handle, buffer=0x8000, length=7, inline=to)
    assert not firmware.completions
    firmware.frame(neighbour_advertisement("2001:db8:1::55", dst=OUR_IP6))
    assert results(firmware) == [(1, 7)]
    assert [data for _, data in leaving6(firmware)] == [b"waiting"]
    to = socket_address6("2001:db8:1::56", 7)
    firmware.sqe(Operation.SENDTO, 2, handle=handle, buffer=0x8000, length=7, inline=to)
    firmware.command("time 15000")
    assert results(firmware) == [(2, 7)], "dropped"


def test_ipv6_refused(firmware):
    handle = open6(firmware)
    assert set_option(firmware, handle, SocketOption.PEER, socket_address6(PEER_IP6, PEER_PORT)) == 0
    firmware.write(0x8000, b"?")
    assert firmware.call(Operation.SEND, handle=handle, buffer=0x8000, length=1) == 1
    frame = firmware.frames.pop()
    quoted = bytes(frame[IPv6])[:49]
    answer = IPv6(src=PEER_IP6, dst=OUR_IP6) / ICMPv6DestUnreach(code=4) / Raw(quoted)
    firmware.frame(Ether(src=PEER_MAC, dst=OUR_MAC) / answer)
    assert firmware.call(Operation.SEND, handle=handle, buffer=0x8000, length=1) == -111
    answer = IPv6(src=PEER_IP6, dst=OUR_IP6) / ICMPv6DestUnreach(code=3) / Raw(quoted)
    firmware.frame(Ether(src=PEER_MAC, dst=OUR_MAC) / answer)
    assert firmware.call(Operation.SEND, handle=handle, buffer=0x8000, length=1) == 1
    assert close(firmware, handle) == 0
    firmware.frames.clear()
    firmware.frame(datagram6(b"nobody"))
    assert firmware.frames.pop()[ICMPv6DestUnreach].code == 4


def test_ipv6_fragments(firmware):
    handle = open6(firmware)
    payload = bytes(i * 5 & 0xFF for i in range(5000))
    packet = IPv6(src=PEER_IP6, dst=OUR_IP6) / IPv6ExtHdrFragment(id=9) / UDP(sport=6, dport=PORT) / Raw(payload)
    receive(firmware, handle, length=8192)
    for part in fragment6(packet, 1500):
        firmware.frame(Ether(src=PEER_MAC, dst=OUR_MAC) / part)
    data, address = taken(firmware)
    assert data == payload and address["extra"] == 5000


def test_ipv6_groups(firmware):
    handle = open6(firmware)
    group = SOCKET_ADDRESS.pack({"family": 10, "scope": 1, "address": packed_ip6(GROUP6)})
    assert set_option(firmware, handle, SocketOption.LEAVE_GROUP, group) == -99
    assert set_option(firmware, handle, SocketOption.JOIN_GROUP, group) == 0
    assert firmware.state()["multicast0"] & bits(group_mac6(GROUP6))
    firmware.command("time 2000")
    reports = [frame[ICMPv6MLReport].mladdr for frame in firmware.frames if ICMPv6MLReport in frame]
    assert GROUP6 in reports
    receive(firmware, handle)
    firmware.frame(datagram6(b"group", dst=GROUP6))
    assert taken(firmware)[0] == b"group"
    assert sendto(firmware, handle, b"group", socket_address6(GROUP6, 9)) == 5
    frame = firmware.frames.pop()
    assert frame.dst == group_mac6(GROUP6) and frame[IPv6].hlim == 1
    firmware.frames.clear()
    assert set_option(firmware, handle, SocketOption.LEAVE_GROUP, group) == 0
    assert [frame[ICMPv6MLDone].mladdr for frame in firmware.frames if ICMPv6MLDone in frame] == [GROUP6]
    receive(firmware, handle)
    firmware.frame(datagram6(b"group", dst=GROUP6))
    assert not firmware.completions
    everybody = SOCKET_ADDRESS.pack({"family": 10, "scope": 1, "address": packed_ip6("ff02::1")})
    assert set_option(firmware, handle, SocketOption.JOIN_GROUP, everybody) == 0
    firmware.frame(datagram6(b"all", dst="ff02::1"))
    assert taken(firmware)[0] == b"all"
    mapped = open_socket(firmware, PORT + 1)
    assert set_option(firmware, mapped, SocketOption.JOIN_GROUP, group) == -97
    assert firmware.read(BUFFER, 3) == b"all"
