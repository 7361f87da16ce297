"""Datagram sockets of one core, compiled for the PC with sanitizers, on a fake engine; scapy is the other side."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, UDP, fragment
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from firmware.firmware_peer import OUR_IP, OUR_MAC, PEER_IP, PEER_MAC, Firmware, build, packed_ip, socket_address
from firmware.network_bench import BROADCAST, CONFIG, accepted, listening, start
from firmware.udp_bench import (
    ADDRESS,
    BUFFER,
    PEER_PORT,
    PORT,
    close,
    datagram,
    get_option,
    leaving,
    open_socket,
    receive,
    results,
    send,
    sent,
    set_option,
    taken,
)
from twinstack.proto.queues import NETIF_CONFIG, SOCKET_ADDRESS, Handle, Operation, SocketOption

POOLS = (
    "rx_large",
    "rx_small",
    "rx_free",
    "bad_free",
    "tx_free",
    "scratch",
    "pieces",
    "ops",
    "sockets",
    "directory",
    "flows",
    "udp_ports",
    "udp_errors",
    "udp_tx",
    "kept_large",
    "kept_small",
    "kept",
    "groups",
    "tx_errors",
    "copied",
    "multicast0",
)


@pytest.fixture(scope="module", autouse=True)
def built():
    build("host")


@pytest.fixture
def firmware():
    """After the test, with its sockets closed, all pools must be as before and no sanitizer unhappy."""
    process = start()
    process.command("time 3000")  # duplicate address detection
    process.frames.clear()
    first = process.state()
    yield process
    process.command("cqspace 255")
    process.command("stall 0")
    process.command("dmastall 0")
    process.completions.clear()
    for index in range(16):
        for generation in (1, 2, 3):
            close(process, Handle(0, 0, 64 + index, generation).pack())
    process.command("time 12000")
    last = process.state()
    process.close()
    assert not process.log
    for name in POOLS:
        assert last[name] == first[name], name


def pattern(size: int, seed: int = 7) -> bytes:
    return bytes(i * seed + (i >> 8) & 0xFF for i in range(size))


def end_listener(firmware: Firmware) -> None:
    firmware.sqe(Operation.CLOSE, 4, joined=True, handle=Handle(7, 0, 0, 1).pack())
    assert (4, 0) in results(firmware)


# ---- UDP_OPEN ----


def test_handles_and_names(firmware):
    handle = open_socket(firmware)
    parts = Handle.unpack(handle)
    assert (parts.core, parts.index, parts.generation) == (0, 64, 1)
    state = firmware.state()
    assert (state["sockets"], state["udp_ports"], state["directory"]) == (1, 1, 1)
    assert firmware.call(Operation.GETSOCKNAME, handle=handle, buffer=0, length=32) == 32
    name = SOCKET_ADDRESS.unpack(firmware.read(0, 32))
    assert (name["family"], name["port"], name["address"]) == (2, PORT, 0)
    assert firmware.call(Operation.GETPEERNAME, handle=handle, buffer=0, length=32) == -107
    assert firmware.call(Operation.GETSOCKNAME, handle=handle, buffer=0, length=31) == -22
    for operation in (Operation.SHUTDOWN, Operation.TCP_ACCEPT):
        assert firmware.call(operation, handle=handle) == -22
    assert close(firmware, handle) == 0
    for operation in (Operation.CLOSE, Operation.ABORT, Operation.SEND, Operation.RECV, Operation.GETSOCKNAME):
        assert firmware.call(operation, handle=handle) == -9
    again = open_socket(firmware)
    assert Handle.unpack(again).index == 64 and Handle.unpack(again).generation == 2
    assert firmware.call(Operation.ABORT, handle=again) == 0


def test_open_refuses(firmware):
    first = open_socket(firmware, ip=OUR_IP)
    assert first > 0
    assert open_socket(firmware) == -98, "port in use, whatever the address"
    assert open_socket(firmware, PORT + 1, "10.0.0.77") == -99
    assert open_socket(firmware, PORT + 1, "224.0.0.9") == -99
    assert open_socket(firmware, PORT + 1, flags=4) == -22
    assert open_socket(firmware, PORT + 1, flags=2) == -22, "V6ONLY without IPv6"
    assert open_socket(firmware, 0, flags=1) == -22, "SPREAD needs a port"
    unknown = SOCKET_ADDRESS.pack({"family": 3, "port": 1})
    assert firmware.call(Operation.UDP_OPEN, inline=unknown) == -97
    for extra in ({"scope": 1}, {"extra": 1}, {"address": 1 << 64}):
        block = SOCKET_ADDRESS.pack({"family": 2, "port": 9, **extra})
        assert firmware.call(Operation.UDP_OPEN, inline=block) == -22
    for field in ("handle", "buffer", "length", "flags"):
        fields = {field: 1, "inline": socket_address("0.0.0.0", 99)}
        assert firmware.call(Operation.UDP_OPEN, **fields) == -22


def test_port_of_the_dhcp_client(firmware):
    assert close(firmware, open_socket(firmware, 68)) == 0
    block = NETIF_CONFIG.pack({"family": 2, "dhcp": 1})
    assert firmware.call(Operation.NETIF_CONFIG, operation_flags=1, inline=block) == 0
    assert open_socket(firmware, 68) == -98
    block = NETIF_CONFIG.pack({"family": 2})
    assert firmware.call(Operation.NETIF_CONFIG, operation_flags=1, inline=block) == 0
    firmware.command("time 10")
    assert open_socket(firmware, 68) > 0


def test_a_tcp_port_is_no_udp_port(firmware):
    listening(firmware)
    handle = open_socket(firmware, 7)
    assert handle > 0
    end_listener(firmware)


def test_sixteen_sockets_with_random_ports(firmware):
    handles, ports = [], set()
    for _ in range(16):
        handles.append(open_socket(firmware, 0))
        assert firmware.call(Operation.GETSOCKNAME, handle=handles[-1], buffer=0, length=32) == 32
        ports.add(SOCKET_ADDRESS.unpack(firmware.read(0, 32))["port"])
    assert len(ports) == 16 and min(ports) >= 49152
    assert open_socket(firmware, 0) == -23
    assert firmware.state()["udp_ports"] == 16
    for handle in handles:
        assert close(firmware, handle) == 0


# ---- Receiving ----


@pytest.mark.parametrize("size", [0, 1, 17, 18, 19, 200, 255, 1471, 1472])
def test_receive_before_and_after_the_datagram(firmware, size):
    handle = open_socket(firmware)
    payload = pattern(size)
    receive(firmware, handle)
    assert not firmware.completions
    firmware.frame(datagram(payload))
    data, address = taken(firmware)
    assert data == payload
    assert (address["family"], address["port"], address["extra"]) == (2, PEER_PORT, size)
    assert (address["address"], address["scope"]) == (packed_ip(PEER_IP), 0)
    firmware.frame(datagram(payload, sport=4))
    receive(firmware, handle)
    data, address = taken(firmware)
    assert data == payload and address["port"] == 4
    firmware.write(BUFFER, b"\xa5" * 64)
    firmware.sqe(Operation.RECV, 61, handle=handle, buffer=BUFFER, length=3)
    firmware.frame(datagram(payload))
    assert results(firmware) == [(61, min(size, 3))]
    assert firmware.read(BUFFER, 64) == payload[:3].ljust(64, b"\xa5")


def test_truncated(firmware):
    handle = open_socket(firmware)
    firmware.write(BUFFER, b"\xa5" * 2000)
    firmware.frame(datagram(pattern(1000)))
    firmware.frame(datagram(b"next"))
    receive(firmware, handle, length=333)
    data, address = taken(firmware)
    assert data == pattern(1000)[:333] and address["extra"] == 1000
    assert firmware.read(BUFFER + 333, 1000) == b"\xa5" * 1000, "nothing beyond"
    receive(firmware, handle)
    assert taken(firmware)[0] == b"next", "the rest is lost"
    firmware.frame(datagram(b"lost"))
    receive(firmware, handle, length=0)
    data, address = taken(firmware)
    assert data == b"" and address["extra"] == 4


def test_receives_complete_in_order(firmware):
    handle = open_socket(firmware)
    for number in range(8):
        firmware.sqe(Operation.RECVFROM, 100 + number, handle=handle, buffer=256 * number, length=256)
    firmware.burst([datagram(bytes([number]) * (number + 1)) for number in range(8)])
    assert results(firmware) == [(100 + number, number + 1) for number in range(8)]
    for number in range(8):
        assert firmware.read(256 * number, number + 1) == bytes([number]) * (number + 1)


def test_receive_refuses(firmware):
    handle = open_socket(firmware)
    address = ADDRESS.to_bytes(8, "little")
    for inline, result in (
        (address + bytes(4) + b"\1", -22),
        (address[:4] + b"\1", -14),
    ):
        fields = {"handle": handle, "buffer": 0, "length": 9, "inline": inline}
        assert firmware.call(Operation.RECVFROM, **fields) == result
    assert firmware.call(Operation.RECV, handle=handle, length=9, inline=address) == -22
    assert firmware.call(Operation.RECV, handle=handle, length=9, operation_flags=1) == -22
    assert firmware.call(Operation.RECVFROM, handle=handle, length=9, operation_flags=0x100) == -22
    assert firmware.call(Operation.RECV, handle=handle, length=9, buffer=1 << 32) == -14


def test_outside_the_windows(firmware):
    handle = open_socket(firmware)
    beyond = 0x200000
    receive(firmware, handle, buffer=beyond)
    firmware.frame(datagram(b"lost"))
    assert results(firmware) == [(60, -14)]
    fields = {"handle": handle, "buffer": BUFFER, "length": 64}
    firmware.sqe(Operation.RECVFROM, 61, **fields, inline=beyond.to_bytes(8, "little"))
    firmware.frame(datagram(b"lost"))
    assert results(firmware) == [(61, -14)]
    firmware.frame(datagram(b"here"))
    receive(firmware, handle)
    assert taken(firmware)[0] == b"here"
    peer = socket_address(PEER_IP, PEER_PORT)
    assert firmware.call(Operation.SENDTO, handle=handle, buffer=beyond, length=5, inline=peer) == -14
    assert not leaving(firmware)


@pytest.mark.parametrize("size", [1, 200, 1000])
def test_quota(firmware, size):
    """Four wait, fewer large ones; the rest is dropped and counted, and the oldest are kept."""
    handle = open_socket(firmware)
    for number in range(9):
        firmware.frame(datagram(bytes([number]) * size))
    large = (CONFIG.rx_large_buffers + 2) // 3 - 2
    expected = min(4, large) if size > 200 else 4
    state = firmware.state()
    assert state["kept"] == expected and state["udp_dropped"] == 9 - expected
    assert state["rx_dropped"] == 0, "nothing is lost in hardware"
    assert firmware.call(Operation.STATS, operation_flags=0, buffer=0, length=80) == 80
    for number in range(expected):
        receive(firmware, handle)
        assert taken(firmware)[0] == bytes([number]) * size
    receive(firmware, handle)
    assert not firmware.completions
    firmware.frame(datagram(b"again"))
    assert taken(firmware)[0] == b"again"


def test_two_sockets_share_the_quota_but_receives_go_on(firmware):
    idle, busy = open_socket(firmware), open_socket(firmware, PORT + 1)
    for _ in range(10):
        firmware.frame(datagram(pattern(1400)))
        firmware.frame(datagram(pattern(10)))
    for number in range(20):
        receive(firmware, busy)
        firmware.frame(datagram(pattern(1472, number), port=PORT + 1))
        assert taken(firmware)[0] == pattern(1472, number)
    assert firmware.state()["rx_dropped"] == 0
    listening(firmware)
    _, peer = accepted(firmware)
    peer.send("FA")
    assert close(firmware, idle) == 0
    end_listener(firmware)
    firmware.call(Operation.ABORT, handle=Handle(0, 0, 0, 1).pack())


def test_set_quota(firmware):
    handle = open_socket(firmware)
    assert get_option(firmware, handle, SocketOption.RCVBUF) == 4 * 1460
    assert set_option(firmware, handle, SocketOption.RCVBUF, 1461) == 0
    assert get_option(firmware, handle, SocketOption.RCVBUF) == 2 * 1460
    for _ in range(4):
        firmware.frame(datagram(b"1"))
    assert firmware.state()["kept"] == 2
    for value, bytes_ in ((0, 1460), (10**6, 4 * 1460)):
        for option in (SocketOption.RCVBUF, SocketOption.SNDBUF):
            assert set_option(firmware, handle, option, value) == 0
            assert get_option(firmware, handle, option) == bytes_


@pytest.mark.parametrize("pieces", [2, 3, 5])
@pytest.mark.parametrize("reverse", [False, True])
def test_fragments(firmware, pieces, reverse):
    handle = open_socket(firmware)
    payload = pattern(1480 * pieces - 100)
    parts = fragment(datagram(payload), fragsize=1480)
    assert len(parts) == pieces
    receive(firmware, handle, length=8192)
    for part in reversed(parts) if reverse else parts:
        firmware.frame(part)
    data, address = taken(firmware)
    assert data == payload and address["extra"] == len(payload)
    for part in parts:
        firmware.frame(part)
    assert firmware.state()["rx_large"] == CONFIG.rx_large_buffers - pieces, "kept"
    firmware.frame(datagram(b"another"))
    receive(firmware, handle, length=1500)
    assert taken(firmware)[0] == payload[:1500]
    for part in parts:
        firmware.frame(part)
    firmware.command("time 200")
    state = firmware.state()
    assert state["rx_large"] == CONFIG.rx_large_buffers - (pieces if pieces < 4 else 0), "too large to stay"
    assert state["udp_dropped"] == (0 if pieces < 4 else 1)
    receive(firmware, handle, length=1500)
    assert taken(firmware)[0] == b"another"
    receive(firmware, handle, length=1500)
    assert len(firmware.completions) == (1 if pieces < 4 else 0)


def test_bad_lengths(firmware):
    """lwIP does not look at the length in the header; IP may carry more."""
    handle = open_socket(firmware)
    for length, good in ((8 + 4, True), (8, True), (7, False), (8 + 11, False), (8 + 10, True)):
        receive(firmware, handle)
        packet = datagram(b"0123456789")
        packet[UDP].len = length
        firmware.frame(packet)
        if good:
            assert taken(firmware)[0] == b"0123456789"[: length - 8]
        else:
            assert not firmware.completions
            firmware.frame(datagram(b"good"))
            assert taken(firmware)[0] == b"good"


def test_bound_address(firmware):
    handle = open_socket(firmware, ip=OUR_IP)
    receive(firmware, handle)
    firmware.frame(datagram(b"1"))
    assert taken(firmware)[0] == b"1"
    assert firmware.call(Operation.GETSOCKNAME, handle=handle, buffer=0, length=32) == 32
    assert SOCKET_ADDRESS.unpack(firmware.read(0, 32))["address"] == packed_ip(OUR_IP)


def test_closed_port(firmware):
    firmware.frame(datagram(b"nobody"))
    answer = firmware.frames.pop()
    assert (answer[ICMP].type, answer[ICMP].code) == (3, 3)
    handle = open_socket(firmware)
    firmware.frame(datagram(b"kept"))
    assert not firmware.frames
    close(firmware, handle)
    firmware.frame(datagram(b"nobody"))
    assert firmware.frames.pop()[ICMP].code == 3


# ---- Sending ----


@pytest.mark.parametrize("size", [0, 1, 2, 3, 17, 18, 19, 1471, 1472])
def test_send(firmware, size):
    handle = open_socket(firmware)
    payload = pattern(size)
    assert sent(firmware, handle, payload) == size
    ((ip, data),) = leaving(firmware)
    assert data == payload
    assert (ip.src, ip.dst, ip[UDP].sport, ip[UDP].dport, ip.ttl, ip.tos) == (OUR_IP, PEER_IP, PORT, PEER_PORT, 64, 0)


def test_checksum_is_never_zero(firmware):
    handle = open_socket(firmware)
    plain = datagram(b"\0\0", sport=PORT, port=PEER_PORT, src=OUR_IP, dst=PEER_IP)
    missing = Ether(bytes(plain))[UDP].chksum
    assert sent(firmware, handle, missing.to_bytes(2, "big")) == 2
    frame = firmware.frames[-1]
    assert frame[UDP].chksum == 0xFFFF


def test_send_refuses(firmware):
    handle = open_socket(firmware)
    big = {"handle": handle, "buffer": 0, "length": 1473}
    peer = socket_address(PEER_IP, PEER_PORT)
    assert firmware.call(Operation.SENDTO, **big, inline=peer) == -90
    assert firmware.call(Operation.SEND, handle=handle, buffer=0, length=4) == -89
    assert sent(firmware, handle, b"x", ("10.1.0.1", 5)) == -101, "no gateway"
    assert sent(firmware, handle, b"x", ("0.0.0.0", 5)) == -101
    assert sent(firmware, handle, b"x", (PEER_IP, 0)) == -22
    assert sent(firmware, handle, b"x", ("255.255.255.255", 5)) == -13
    assert sent(firmware, handle, b"x", ("10.0.0.255", 5)) == -13
    wrong = SOCKET_ADDRESS.pack({"family": 1, "port": 5})
    assert firmware.call(Operation.SENDTO, handle=handle, inline=wrong) == -97
    assert firmware.call(Operation.SENDTO, handle=handle, inline=peer, operation_flags=1) == -22
    assert firmware.call(Operation.SEND, handle=handle, inline=peer) == -22
    assert not leaving(firmware)


def test_datagram_operations_on_a_connection(firmware):
    listening(firmware)
    connection, _ = accepted(firmware)
    peer = socket_address(PEER_IP, PEER_PORT)
    assert firmware.call(Operation.SENDTO, handle=connection, length=4, inline=peer) == -95
    assert firmware.call(Operation.RECVFROM, handle=connection, length=4) == -95
    for operation in (Operation.SEND, Operation.RECV, Operation.SENDTO, Operation.RECVFROM):
        assert firmware.call(operation, handle=connection, length=4, operation_flags=0x100) == -22
    firmware.call(Operation.ABORT, handle=connection)
    end_listener(firmware)


def test_many_sends_under_back_pressure(firmware):
    """TX stalled: four of a socket wait in buffers, the rest in the host; order stays."""
    handle = open_socket(firmware)
    firmware.command("stall 1")
    for number in range(30):
        send(firmware, handle, bytes([number]) * 900, user_data=200 + number, buffer=0x8000 + 0x400 * number)
    assert not firmware.completions
    assert firmware.state()["udp_tx"] == 4
    firmware.command("stall 0")
    firmware.command("time 5")
    assert results(firmware) == [(200 + number, 900) for number in range(30)]
    assert [data[0] for _, data in leaving(firmware)] == list(range(30))


def test_sends_of_all_sockets_leave_buffers(firmware):
    handles = [open_socket(firmware, 0) for _ in range(16)]
    firmware.command("stall 1")
    for number, handle in enumerate(handles):
        for turn in range(3):
            send(
                firmware,
                handle,
                bytes([number, turn]),
                user_data=16 * turn + number,
                buffer=0x8000 + 32 * number + turn * 2,
            )
    state = firmware.state()
    assert state["udp_tx"] == 8 and state["tx_free"] >= 7
    firmware.command("stall 0")
    firmware.command("time 5")
    assert sorted(results(firmware)) == [(number, 2) for number in range(48)]
    assert sorted(data for _, data in leaving(firmware)) == sorted(bytes([n, t]) for n in range(16) for t in range(3))
    for handle in handles:
        close(firmware, handle)


def test_next_hop_is_resolved_first(firmware):
    handle = open_socket(firmware)
    send(firmware, handle, b"first", ("10.0.0.50", 7), user_data=1, buffer=0x8000)
    send(firmware, handle, b"second", ("10.0.0.50", 7), user_data=2, buffer=0x9000)
    assert not firmware.completions, "not yet handed to the MAC"
    request = firmware.frames.pop(0)
    assert request[ARP].pdst == "10.0.0.50"
    firmware.write(0x8000, b"XXXXX")  # a bad host cannot change what was fetched
    mac = "02:00:00:00:00:50"
    firmware.frame(Ether(src=mac, dst=OUR_MAC) / ARP(op=2, hwsrc=mac, psrc="10.0.0.50", hwdst=OUR_MAC, pdst=OUR_IP))
    assert [data for _, data in leaving(firmware)] == [b"first", b"second"]
    assert results(firmware) == [(1, 5), (2, 6)]


def test_nobody_answers_arp(firmware):
    """Bounded: buffers come back and the sends complete, dropped."""
    handle, other = open_socket(firmware), open_socket(firmware, PORT + 1)
    for number in range(12):
        send(firmware, handle, bytes(100), ("10.0.0.51", 7), user_data=number)
    assert firmware.state()["udp_tx"] == 4
    assert sent(firmware, other, b"meanwhile") == 9
    firmware.command("time 60000")
    assert results(firmware) == [(number, 100) for number in range(12)]
    assert firmware.state()["udp_tx"] == 0


def test_broadcast(firmware):
    handle = open_socket(firmware)
    assert get_option(firmware, handle, SocketOption.BROADCAST) == 0
    assert set_option(firmware, handle, SocketOption.BROADCAST, 1) == 0
    assert get_option(firmware, handle, SocketOption.BROADCAST) == 1
    for address in ("255.255.255.255", "10.0.0.255"):
        assert sent(firmware, handle, b"all", (address, 9)) == 3
        frame = firmware.frames[-1]
        assert frame.dst == BROADCAST and frame[IP].dst == address
        leaving(firmware)
        receive(firmware, handle)
        firmware.frame(datagram(b"from all", dst=address, mac=BROADCAST))
        assert taken(firmware)[0] == b"from all"
    assert set_option(firmware, handle, SocketOption.BROADCAST, 2) == -22
    assert set_option(firmware, handle, SocketOption.BROADCAST, 0) == 0
    assert sent(firmware, handle, b"all", ("10.0.0.255", 9)) == -13


def test_ttl_and_tos(firmware):
    handle = open_socket(firmware)
    for option, low, high in ((SocketOption.TTL, 1, 255), (SocketOption.TOS, 0, 255)):
        assert set_option(firmware, handle, option, low - 1 & 0xFFFFFFFF) == -22
        assert set_option(firmware, handle, option, high + 1) == -22
        for value in (low, high):
            assert set_option(firmware, handle, option, value) == 0
            assert get_option(firmware, handle, option) == value
    assert set_option(firmware, handle, SocketOption.TTL, 3) == 0
    assert set_option(firmware, handle, SocketOption.TOS, 0xB8) == 0
    assert sent(firmware, handle, b"1") == 1
    ((ip, _),) = leaving(firmware)
    assert (ip.ttl, ip.tos) == (3, 0xB8)


def test_options_that_are_none(firmware):
    handle = open_socket(firmware)
    assert get_option(firmware, handle, SocketOption.TYPE) == 2
    assert get_option(firmware, handle, SocketOption.ERROR) == 0
    for option in (SocketOption.NODELAY, SocketOption.KEEPALIVE, SocketOption.LINGER, 99):
        assert set_option(firmware, handle, option, 1) == -92
        assert get_option(firmware, handle, option) == -92
    for option in (SocketOption.TYPE, SocketOption.ERROR):
        assert set_option(firmware, handle, option, 1) == -92
    for option in (SocketOption.PEER, SocketOption.JOIN_GROUP, SocketOption.LEAVE_GROUP):
        assert get_option(firmware, handle, option) == -92
    assert set_option(firmware, handle, SocketOption.TTL, bytes([5, 0, 0, 0, 1])) == -22


# ---- A peer ----


def unreachable(to: Ether, code: int = 3, kind: int = 3) -> Ether:
    """The answer of a host to a datagram of ours."""
    quoted = bytes(to[IP])[:28]
    return Ether(src=PEER_MAC, dst=OUR_MAC) / IP(src=PEER_IP, dst=OUR_IP) / ICMP(type=kind, code=code) / Raw(quoted)


def test_peer(firmware):
    handle = open_socket(firmware)
    assert set_option(firmware, handle, SocketOption.PEER, socket_address(PEER_IP, PEER_PORT)) == 0
    assert firmware.call(Operation.GETPEERNAME, handle=handle, buffer=0, length=32) == 32
    name = SOCKET_ADDRESS.unpack(firmware.read(0, 32))
    assert (name["port"], name["address"]) == (PEER_PORT, packed_ip(PEER_IP))
    assert sent(firmware, handle, b"to the peer", None) == 11
    assert leaving(firmware)[0][1] == b"to the peer"
    assert sent(firmware, handle, b"same") == 4
    assert sent(firmware, handle, b"other", (PEER_IP, PEER_PORT + 1)) == -106
    assert sent(firmware, handle, b"other", ("10.0.0.10", PEER_PORT)) == -106
    receive(firmware, handle)
    firmware.frame(datagram(b"stranger", sport=1))
    firmware.frame(datagram(b"stranger", src="10.0.0.10"))
    assert not firmware.completions
    firmware.frame(datagram(b"peer"))
    assert taken(firmware)[0] == b"peer"
    assert set_option(firmware, handle, SocketOption.PEER, bytes(32)) == 0
    assert firmware.call(Operation.GETPEERNAME, handle=handle, buffer=0, length=32) == -107
    assert sent(firmware, handle, b"none", None) == -89
    receive(firmware, handle)
    firmware.frame(datagram(b"stranger", sport=1))
    assert taken(firmware)[0] == b"stranger"
    for wrong, result in (
        (socket_address(PEER_IP, 0), -22),
        (SOCKET_ADDRESS.pack({"family": 0, "port": 1}), -22),
        (SOCKET_ADDRESS.pack({"family": 3, "port": 1}), -97),
        (SOCKET_ADDRESS.pack({"family": 2, "port": 1, "extra": 1}), -22),
    ):
        assert set_option(firmware, handle, SocketOption.PEER, wrong) == result


def test_refused(firmware):
    handle = open_socket(firmware)
    set_option(firmware, handle, SocketOption.PEER, socket_address(PEER_IP, PEER_PORT))
    sent(firmware, handle, b"anybody?", None)
    frame = firmware.frames.pop()
    firmware.frame(unreachable(frame))
    assert sent(firmware, handle, b"again", None) == -111
    assert sent(firmware, handle, b"again", None) == 5, "reported once"
    firmware.frame(unreachable(frame))
    assert get_option(firmware, handle, SocketOption.ERROR) == 111
    assert get_option(firmware, handle, SocketOption.ERROR) == 0
    firmware.frame(unreachable(frame))
    firmware.sqe(Operation.RECV, 1, handle=handle, buffer=0, length=9)
    assert results(firmware) == [(1, -111)]
    firmware.sqe(Operation.RECV, 1, handle=handle, buffer=0, length=9)
    firmware.sqe(Operation.RECV, 2, handle=handle, buffer=0, length=9)
    firmware.frame(unreachable(frame))
    assert results(firmware) == [(1, -111)], "the oldest of those that wait"
    firmware.frame(unreachable(frame, code=1))
    firmware.frame(unreachable(frame, kind=11))
    bad = unreachable(frame)
    bad[ICMP].chksum = 1
    firmware.frame(bad)
    other = Ether(bytes(frame))
    other[UDP].dport = 1
    firmware.frame(unreachable(other))
    short = unreachable(frame)
    short[Raw].load = short[Raw].load[:27]
    firmware.frame(short)
    assert not firmware.completions and get_option(firmware, handle, SocketOption.ERROR) == 0


def test_refused_without_a_peer(firmware):
    handle = open_socket(firmware)
    sent(firmware, handle, b"anybody?")
    firmware.frame(unreachable(firmware.frames.pop()))
    assert get_option(firmware, handle, SocketOption.ERROR) == 0


# ---- Cancel, close, pressure ----


def test_cancel(firmware):
    handle = open_socket(firmware)
    for user_data in (1, 2, 2, 3):
        firmware.sqe(Operation.RECV, user_data, handle=handle, buffer=0, length=9)
    firmware.sqe(Operation.CANCEL, 9, joined=True, inline=(2).to_bytes(8, "little"))
    assert sorted(results(firmware)) == [(2, -125), (2, -125), (9, 0)]
    assert firmware.call(Operation.CANCEL, joined=True, inline=(77).to_bytes(8, "little")) == 0
    firmware.frame(datagram(b"a"))
    firmware.frame(datagram(b"bc"))
    assert results(firmware) == [(1, 1), (3, 2)]
    firmware.command("stall 1")
    for number in range(6):
        send(firmware, handle, b"12", user_data=10 + number)
    firmware.sqe(Operation.CANCEL, 9, joined=True, inline=(15).to_bytes(8, "little"))
    firmware.sqe(Operation.CANCEL, 8, joined=True, inline=(10).to_bytes(8, "little"))
    assert sorted(results(firmware)) == [(8, 0), (9, 0), (15, -125)], "what is in a buffer goes on"
    firmware.command("stall 0")
    assert results(firmware) == [(10 + number, 2) for number in range(5)]


def test_cancel_with_a_transfer_under_way(firmware):
    handle = open_socket(firmware)
    firmware.command("dmastall 1")
    receive(firmware, handle, 1)
    firmware.frame(datagram(b"moving"))
    firmware.sqe(Operation.CANCEL, 9, joined=True, inline=(1).to_bytes(8, "little"))
    assert results(firmware) == [(9, 0)]
    firmware.command("dmastall 0")
    assert taken(firmware, 1)[0] == b"moving"


def test_close_with_transfers_under_way(firmware):
    """Completions come when the transfers have ended; what was received, completes as it would have."""
    handle = open_socket(firmware)
    firmware.command("dmastall 1")
    receive(firmware, handle, 1)
    receive(firmware, handle, 2)
    firmware.frame(datagram(b"moving"))
    for number in range(6):
        send(firmware, handle, b"never sent", user_data=10 + number)
    firmware.sqe(Operation.CLOSE, 5, handle=handle)
    now = results(firmware)
    assert sorted(now) == [(2, -125), (5, 0), (14, -125), (15, -125)]
    firmware.command("dmastall 0")
    assert sorted(results(firmware)) == [(1, 6), (10, -125), (11, -125), (12, -125), (13, -125)]
    assert not leaving(firmware)
    assert firmware.read(BUFFER, 6) == b"moving"


def test_close_with_frames_in_the_queue(firmware):
    handle = open_socket(firmware)
    firmware.command("stall 1")
    for number in range(3):
        send(firmware, handle, b"sent", user_data=10 + number, buffer=0x8000)
    send(firmware, handle, b"", user_data=13)
    firmware.frame(datagram(b"kept"))
    assert close(firmware, handle) == 0
    assert results(firmware) == [(13, 0)], "nothing of it is in a buffer"
    again = open_socket(firmware)
    firmware.command("stall 0")
    assert sorted(results(firmware)) == [(10, 4), (11, 4), (12, 4)]
    assert [data for _, data in leaving(firmware)] == [b"sent"] * 3 + [b""]
    assert sent(firmware, again, b"new") == 3


def test_full_completion_queue(firmware):
    handle = open_socket(firmware)
    for number in range(4):
        firmware.sqe(Operation.RECV, number, handle=handle, buffer=64 * number, length=64)
    firmware.command("cqspace 0")
    for number in range(4):
        firmware.frame(datagram(bytes([number])))
        send(firmware, handle, b"out", user_data=10 + number)
    assert not firmware.completions
    firmware.command("cqspace 3")
    assert len(firmware.completions) == 3
    firmware.command("cqspace 255")
    assert sorted(results(firmware)) == sorted([(n, 1) for n in range(4)] + [(10 + n, 3) for n in range(4)])


def test_stalled_dma_loses_nothing_that_has_a_receive(firmware):
    """More receives than the DMA queue and the scratch pieces hold."""
    handle = open_socket(firmware)
    firmware.command("dmastall 1")
    for number in range(20):
        receive(firmware, handle, number, buffer=0x1000 + 64 * number, length=64)
    for number in range(8):
        firmware.frame(datagram(bytes([number])))
    firmware.command("dmastall 0")
    firmware.command("time 2")
    assert results(firmware) == [(number, 1) for number in range(8)]
    for number in range(8, 20):
        firmware.frame(datagram(bytes([number])))
    assert results(firmware) == [(number, 1) for number in range(8, 20)]
    for number in range(20):
        assert firmware.read(0x1000 + 64 * number, 1) == bytes([number])


def test_no_operation_records(firmware):
    handle = open_socket(firmware)
    for number in range(96):
        firmware.sqe(Operation.RECV, number, handle=handle, buffer=0, length=9)
    assert not firmware.completions
    assert firmware.call(Operation.RECV, 200, handle=handle, buffer=0, length=9) == -105
    assert sorted(set(results(firmware))) == []
    firmware.frame(datagram(b"1"))
    assert results(firmware) == [(0, 1)]
    assert close(firmware, handle) == 0
    assert sorted(results(firmware)) == [(number, -125) for number in range(1, 96)]


def test_what_waits_takes_no_windows(firmware):
    """Large datagrams that nobody reads are within what is kept back for strangers."""
    listening(firmware)
    connection, peer = accepted(firmware)
    firmware.sqe(Operation.RECV, 10, handle=connection, buffer=0x1000, length=0x10000)
    peer.send("PA", b"1")
    assert firmware.completion().result == 1
    firmware.sqe(Operation.RECV, 10, handle=connection, buffer=0x1000, length=0x10000)
    firmware.command("time 50")
    peer.collect()
    assert peer.window > 7 * 1460
    handle = open_socket(firmware)
    firmware.burst([datagram(pattern(1400)) for _ in range(4)])
    assert firmware.state()["kept_large"] == 3
    for _ in range(8):
        peer.send("PA", pattern(1460))
        assert firmware.completion().result == 1460
        firmware.sqe(Operation.RECV, 10, handle=connection, buffer=0x1000, length=0x10000)
    firmware.command("time 50")
    peer.collect()
    assert peer.window > 6 * 1460
    assert close(firmware, handle) == 0
    firmware.sqe(Operation.ABORT, 1, handle=connection)
    firmware.completions.clear()
    end_listener(firmware)


def test_unread_flood_leaves_tcp_alone(firmware):
    """A socket that nobody reads keeps what it may; connections work."""
    open_socket(firmware)
    listening(firmware)
    for size in (1, 1000, 200, 1472):
        firmware.burst([datagram(pattern(size, n)) for n in range(20)])
    connection, peer = accepted(firmware)
    for _ in range(20):
        firmware.burst([datagram(pattern(1472)) for _ in range(2)])
        firmware.sqe(Operation.RECV, 10, handle=connection, buffer=0x1000, length=4096)
        peer.send("PA", pattern(1460))
        assert firmware.completion().result == 1460
        firmware.sqe(Operation.SEND, 11, handle=connection, buffer=0x1000, length=1460)
        assert firmware.completion().result == 1460
        peer.collect()
        peer.acknowledge_all()
    assert peer.received == pattern(1460) * 20
    assert firmware.state()["udp_dropped"] > 0
    firmware.call(Operation.ABORT, handle=connection)
    end_listener(firmware)
