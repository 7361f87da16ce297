"""PING, connects that fail, and options over IPv6."""

from __future__ import annotations

import pytest
from scapy.layers.inet import TCP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from firmware.firmware_peer import OUR_MAC, PEER_MAC, Firmware, build
from firmware.ipv6_peer import configure6, good_checksums, socket_address6, solicited_node
from twinstack.proto.queues import Operation, SocketOption

OUR_IP6 = "2001:db8:1::2"
PEER_IP6 = "2001:db8:1::9"
ROUTER_IP6 = "2001:db8:1::1"
ETIMEDOUT, ENETUNREACH, ECONNREFUSED, EHOSTUNREACH = 110, 101, 111, 113


@pytest.fixture(scope="module", autouse=True)
def built():
    build("host")


@pytest.fixture
def firmware():
    """A core with an IPv6 address that knows the peer."""
    process = Firmware()
    process.configure()
    configure6(process, OUR_IP6)
    process.command("time 2500")
    query = ICMPv6ND_NS(tgt=OUR_IP6) / ICMPv6NDOptSrcLLAddr(lladdr=PEER_MAC)
    ip = IPv6(src=PEER_IP6, dst=solicited_node(OUR_IP6), hlim=255)
    process.frame(Ether(src=PEER_MAC, dst=OUR_MAC) / ip / query)
    assert any(ICMPv6ND_NA in frame for frame in process.frames)
    process.frames.clear()
    yield process
    process.command("time 12000")
    state = process.state()
    process.close()
    assert not process.log
    assert (state["sockets"], state["pcbs"], state["flows"], state["directory"]) == (0, 0, 0, 0)


def to_us(body, source: str = PEER_IP6) -> Ether:
    return Ether(src=PEER_MAC, dst=OUR_MAC) / IPv6(src=source, dst=OUR_IP6, hlim=64) / body


@pytest.mark.parametrize("length", [0, 1, 56, 1024])
def test_ping(firmware, length):
    firmware.sqe(Operation.PING, 1, length=length, inline=socket_address6(PEER_IP6, 0))
    (sent,) = [frame for frame in firmware.frames if ICMPv6EchoRequest in frame]
    assert good_checksums(sent) and sent[IPv6].dst == PEER_IP6
    request = sent[ICMPv6EchoRequest]
    assert request.data == bytes(i & 0xFF for i in range(length))
    firmware.command("time 3")
    wrong = ICMPv6EchoReply(id=request.id, seq=request.seq ^ 1, data=request.data)
    firmware.frame(to_us(wrong))
    assert not firmware.completions
    firmware.frame(to_us(ICMPv6EchoReply(id=request.id, seq=request.seq, data=request.data)))
    assert firmware.completion().result == 3000


def test_ping_of_nobody(firmware):
    firmware.sqe(Operation.PING, 1, inline=socket_address6("2001:db8:1::77", 0))
    firmware.command("time 1001")
    assert firmware.completion().result == -EHOSTUNREACH


def test_a_router_says_that_a_station_is_unreachable(firmware):
    firmware.sqe(Operation.PING, 1, length=16, inline=socket_address6(PEER_IP6, 0))
    (sent,) = [frame for frame in firmware.frames if ICMPv6EchoRequest in frame]
    firmware.frame(to_us(ICMPv6DestUnreach(code=3) / Raw(bytes(sent[IPv6])), ROUTER_IP6))
    assert firmware.completion().result == -EHOSTUNREACH


def syn(firmware: Firmware) -> Ether:
    return [frame for frame in firmware.frames if TCP in frame and str(frame[TCP].flags) == "S"][-1]


@pytest.mark.parametrize(
    ("code", "error", "at_once"),
    [(4, ECONNREFUSED, True), (0, ENETUNREACH, False), (3, EHOSTUNREACH, False), (1, EHOSTUNREACH, False)],
)
def test_icmp_errors_of_a_connect(firmware, code, error, at_once):
    firmware.sqe(Operation.TCP_CONNECT, 1, inline=socket_address6(PEER_IP6, 80))
    quoted = bytes(syn(firmware)[IPv6])
    other = bytearray(quoted)
    other[44] ^= 1  # of the sequence number
    firmware.frame(to_us(ICMPv6DestUnreach(code=code) / Raw(bytes(other)), ROUTER_IP6))
    assert not firmware.completions
    firmware.frame(to_us(ICMPv6DestUnreach(code=code) / Raw(quoted), ROUTER_IP6))
    assert bool(firmware.completions) == at_once
    if not at_once:
        firmware.command("time 40000")
    assert firmware.completion().result == -error


def test_hop_limit_and_traffic_class(firmware):
    firmware.sqe(Operation.TCP_CONNECT, 1, operation_flags=5000, inline=socket_address6(PEER_IP6, 80))
    first = syn(firmware)
    assert first[TCP].sport == 5000
    header = TCP(sport=80, dport=5000, flags="SA", seq=9, ack=first[TCP].seq + 1, window=9000, options=[("MSS", 1440)])
    firmware.frame(to_us(header))
    handle = firmware.completion().result
    for option, value in ((SocketOption.TTL, 5), (SocketOption.TOS, 0x48)):
        inline = value.to_bytes(4, "little")
        assert firmware.call(Operation.SETSOCKOPT, handle=handle, operation_flags=option, inline=inline) == 0
    firmware.frames.clear()
    firmware.write(0x8000, b"x")
    assert firmware.call(Operation.SEND, handle=handle, buffer=0x8000, length=1) == 1
    sent = firmware.frames[-1]
    assert (sent[IPv6].hlim, sent[IPv6].tc) == (5, 0x48) and good_checksums(sent)
    assert firmware.call(Operation.ABORT, handle=handle) == 0
