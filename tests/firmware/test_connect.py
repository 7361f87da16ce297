"""TCP_CONNECT: chosen local ports and addresses, and why an attempt fails."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from firmware.firmware_peer import OUR_IP, OUR_MAC, PEER_IP, PEER_MAC, Firmware, TcpPeer, build, packed_ip
from firmware.network_bench import listening, start
from twinstack.proto.queues import SOCKET_ADDRESS, Operation

EINVAL, EADDRINUSE, EADDRNOTAVAIL = 22, 98, 99
ENETUNREACH, ETIMEDOUT, ECONNREFUSED, EHOSTUNREACH = 101, 110, 111, 113
PORT = 80


@pytest.fixture(scope="module", autouse=True)
def built():
    build("host")


def address(port: int = PORT, *, ip: str = PEER_IP, local: str = "0.0.0.0") -> bytes:
    values = {"family": 2, "port": port, "address": packed_ip(ip), "extra": packed_ip(local)}
    return SOCKET_ADDRESS.pack(values)


def connect(firmware: Firmware, local_port: int = 0, user_data: int = 7, **fields: str | int) -> None:
    firmware.sqe(Operation.TCP_CONNECT, user_data, operation_flags=local_port, inline=address(**fields))


def result(firmware: Firmware, local_port: int = 0, **fields: str | int) -> int:
    connect(firmware, local_port, **fields)
    return firmware.completion().result


def syn(firmware: Firmware) -> Ether:
    frame = [one for one in firmware.frames if TCP in one][-1]
    assert str(frame[TCP].flags) == "S"
    return frame


def accept(firmware: Firmware) -> TcpPeer:
    """The peer takes the connection whose SYN was sent last."""
    sent = syn(firmware)
    peer = TcpPeer(firmware, sent[TCP].sport, sent[TCP].dport)
    peer.expected = sent[TCP].seq + 1
    firmware.frames.clear()
    peer.send("SA")
    return peer


def icmp_error(sent: Ether, code: int, *, kind: int = 3, sequence: int = 0, length: int = 28) -> Ether:
    """A router's message about a segment of ours."""
    quoted = Ether(bytes(sent))[IP]
    quoted[TCP].seq += sequence
    body = Raw(bytes(quoted)[:length])
    return Ether(src=PEER_MAC, dst=OUR_MAC) / IP(src="10.0.0.1", dst=OUR_IP) / ICMP(type=kind, code=code) / body


def test_a_chosen_port_and_address(firmware):
    for local in ("0.0.0.0", OUR_IP):
        connect(firmware, 12345, local=local)
        assert syn(firmware)[TCP].sport == 12345 and syn(firmware)[IP].src == OUR_IP
        state = firmware.state()
        assert state["directory"] == 1 and state["flows"] == 1
        peer = accept(firmware)
        handle = firmware.completion().result
        assert handle > 0
        peer.send("R")
        assert firmware.call(Operation.CLOSE, handle=handle) == 0
        assert firmware.state()["directory"] == 0


def test_ports_in_use(firmware):
    listener = listening(firmware)
    assert result(firmware, 7) == -EADDRINUSE, "a listener's"
    connect(firmware, 12345)
    assert result(firmware, 12345) == -EADDRINUSE
    assert result(firmware, 12345, port=81) == -EADDRINUSE, "also to another port of the peer"
    firmware.sqe(Operation.CANCEL, 8, joined=True, inline=(7).to_bytes(8, "little"))
    assert sorted(c.result for c in firmware.completions) == [-125, 0]
    firmware.completions.clear()
    firmware.sqe(Operation.CLOSE, 9, joined=True, handle=listener)
    firmware.completions.clear()
    connect(firmware, 12345)
    assert not firmware.completions, "free again"
    firmware.sqe(Operation.CANCEL, 8, joined=True, inline=(7).to_bytes(8, "little"))
    firmware.completions.clear()


def test_a_port_that_the_other_core_has(tmp_path):
    shared = ("--cores", "2", "--shared", str(tmp_path / "shared"))
    one, other = start(*shared, "--core", "0"), start(*shared, "--core", "1", "--manager", "1")
    connect(one, 12345)
    assert result(other, 12345) == -EADDRINUSE
    one.sqe(Operation.CANCEL, 8, joined=True, inline=(7).to_bytes(8, "little"))
    one.completions.clear()
    connect(other, 12345)
    assert not other.completions
    one.close()
    other.close()


def test_the_same_connection_in_time_wait(firmware):
    connect(firmware, 12345)
    peer = accept(firmware)
    handle = firmware.completion().result
    assert firmware.call(Operation.CLOSE, handle=handle) == 0
    peer.collect()
    peer.send("FA")
    state = firmware.state()
    assert state["time_wait"] == 1 and state["directory"] == 0
    assert result(firmware, 12345) == -EADDRINUSE
    connect(firmware, 12345, port=81)
    assert not firmware.completions, "another connection"
    firmware.sqe(Operation.CANCEL, 8, joined=True, inline=(7).to_bytes(8, "little"))
    firmware.completions.clear()


def test_arguments(firmware):
    assert result(firmware, 12345, local="10.0.0.99") == -EADDRNOTAVAIL
    assert result(firmware, 0, local=OUR_IP) == -EINVAL, "an address without a port"
    assert result(firmware, 65536) == -EINVAL
    assert result(firmware, port=0) == -EINVAL
    six = SOCKET_ADDRESS.pack({"family": 10, "port": 1, "address": 1, "extra": 1})
    assert firmware.call(Operation.TCP_CONNECT, operation_flags=9, inline=six) == -EINVAL
    assert firmware.state()["directory"] == 0


def test_refused_by_reset(firmware):
    connect(firmware)
    sent = syn(firmware)
    header = TCP(sport=PORT, dport=sent[TCP].sport, flags="RA", seq=0, ack=sent[TCP].seq + 1)
    firmware.frame(Ether(src=PEER_MAC, dst=OUR_MAC) / IP(src=PEER_IP, dst=OUR_IP) / header)
    assert firmware.completion().result == -ECONNREFUSED


@pytest.mark.parametrize("code", [2, 3])
def test_refused_by_a_hard_error(firmware, code):
    connect(firmware)
    firmware.frame(icmp_error(syn(firmware), code))
    assert firmware.completion().result == -ECONNREFUSED
    state = firmware.state()
    assert (state["sockets"], state["pcbs"], state["directory"], state["flows"]) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("code", "error"),
    [(0, ENETUNREACH), (1, EHOSTUNREACH), (5, EHOSTUNREACH), (6, ENETUNREACH), (11, ENETUNREACH), (13, EHOSTUNREACH)],
)
def test_a_soft_error_is_told_when_the_attempt_ends(firmware, code, error):
    """RFC 1122 4.2.3.9: it must not end the attempt."""
    connect(firmware)
    firmware.frame(icmp_error(syn(firmware), code))
    assert not firmware.completions
    firmware.command("time 40000")
    assert firmware.completion().result == -error


def test_a_soft_error_is_forgotten_when_the_peer_answers(firmware):
    connect(firmware)
    firmware.frame(icmp_error(syn(firmware), 1))
    accept(firmware)
    handle = firmware.completion().result
    assert handle > 0
    assert firmware.call(Operation.GETSOCKOPT, handle=handle, operation_flags=1) == 0
    assert firmware.call(Operation.ABORT, handle=handle) == 0


@pytest.mark.parametrize(
    ("fields", "change"),
    [
        ({"sequence": 1}, ()),  # RFC 5927 4.1
        ({"sequence": -1}, ()),
        ({"kind": 11}, ()),
        ({"length": 24}, ()),
        ({}, ("sport", 1)),
        ({}, ("dport", 1)),
        ({}, ("dst", "10.0.0.3")),
        ({}, ("src", "10.0.0.3")),
    ],
)
def test_errors_about_other_segments_change_nothing(firmware, fields, change):
    connect(firmware)
    sent = Ether(bytes(syn(firmware)))
    if change:
        name, value = change
        layer = sent[IP] if isinstance(value, str) else sent[TCP]
        setattr(layer, name, value if isinstance(value, str) else getattr(layer, name) + value)
    firmware.frame(icmp_error(sent, 3, **fields))
    assert not firmware.completions
    accept(firmware)
    handle = firmware.completion().result
    assert handle > 0
    assert firmware.call(Operation.ABORT, handle=handle) == 0


def test_an_established_connection_does_not_care(firmware):
    connect(firmware)
    sent = syn(firmware)
    accept(firmware)
    handle = firmware.completion().result
    for code in (0, 1, 2, 3):
        firmware.frame(icmp_error(sent, code))
    assert firmware.call(Operation.GETSOCKOPT, handle=handle, operation_flags=1) == 0
    assert firmware.call(Operation.ABORT, handle=handle) == 0


def test_no_answer_and_nobody_there(firmware):
    connect(firmware)
    firmware.command("time 40000")
    assert firmware.completion().result == -ETIMEDOUT
    connect(firmware, ip="10.0.0.77")
    firmware.command("time 40000")
    assert firmware.completion().result == -EHOSTUNREACH
    assert result(firmware, ip="192.0.2.1") == -ENETUNREACH
