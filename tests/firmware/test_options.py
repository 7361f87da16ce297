"""SETSOCKOPT and GETSOCKOPT of connections and listeners: values, and what they do on the wire."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from firmware.firmware_peer import OUR_IP, OUR_MAC, PEER_IP, PEER_MAC, Firmware, build
from firmware.network_bench import MSS, accepted, listening
from twinstack.proto.queues import Operation, SocketOption

EAGAIN, EFAULT, EINVAL, EPIPE, ENOPROTOOPT, ECONNRESET, ENOTCONN, ETIMEDOUT = 11, 14, 22, 32, 92, 104, 107, 110
DEFAULTS = {
    SocketOption.TYPE: 1,
    SocketOption.ERROR: 0,
    SocketOption.NODELAY: 1,
    SocketOption.KEEPALIVE: 0,
    SocketOption.KEEPIDLE: 7200,
    SocketOption.KEEPINTVL: 75,
    SocketOption.KEEPCNT: 9,
    SocketOption.LINGER: 0,
    SocketOption.RCVBUF: 2 * MSS,
    SocketOption.SNDBUF: 8 * MSS,
    SocketOption.USER_TIMEOUT: 0,
    SocketOption.TTL: 255,
    SocketOption.TOS: 0,
}
CHOSEN = {
    SocketOption.NODELAY: 0,
    SocketOption.KEEPALIVE: 1,
    SocketOption.KEEPIDLE: 32767,
    SocketOption.KEEPINTVL: 5,
    SocketOption.KEEPCNT: 127,
    SocketOption.LINGER: 3,
    SocketOption.RCVBUF: 4 * MSS,
    SocketOption.SNDBUF: 3 * MSS,
    SocketOption.USER_TIMEOUT: 123456,
    SocketOption.TTL: 7,
    SocketOption.TOS: 0xB8,
}


@pytest.fixture(scope="module", autouse=True)
def built():
    build("host")


def set_option(firmware: Firmware, handle: int, option: int, value: int) -> int:
    inline = (value & 0xFFFFFFFF).to_bytes(4, "little")
    return firmware.call(Operation.SETSOCKOPT, handle=handle, operation_flags=option, inline=inline)


def get_option(firmware: Firmware, handle: int, option: int) -> int:
    return firmware.call(Operation.GETSOCKOPT, handle=handle, operation_flags=option)


def send(firmware: Firmware, handle: int, data: bytes, *, user_data: int = 5, address: int = 0x8000) -> None:
    firmware.write(address, data)
    firmware.sqe(Operation.SEND, user_data, handle=handle, buffer=address, length=len(data))


def payloads(firmware: Firmware) -> list[bytes]:
    """Of the segments sent since the last call."""
    frames, firmware.frames = [frame for frame in firmware.frames if TCP in frame], []
    return [bytes(frame[TCP].payload)[: frame[IP].len - 4 * (frame[IP].ihl + frame[TCP].dataofs)] for frame in frames]


def abort(firmware: Firmware, handle: int) -> None:
    firmware.completions.clear()
    assert firmware.call(Operation.ABORT, 90, handle=handle) == 0
    firmware.completions.clear()


def test_defaults_and_what_is_set_is_read_back(firmware):
    listening(firmware)
    handle, _peer = accepted(firmware)
    assert {option: get_option(firmware, handle, option) for option in DEFAULTS} == DEFAULTS
    for option, value in CHOSEN.items():
        assert set_option(firmware, handle, option, value) == 0
    assert {option: get_option(firmware, handle, option) for option in CHOSEN} == CHOSEN
    abort(firmware, handle)


def test_connections_begin_with_the_options_of_their_listener(firmware):
    listener = listening(firmware)
    for option, value in CHOSEN.items():
        assert set_option(firmware, listener, option, value) == 0
        assert get_option(firmware, listener, option) == value
    assert get_option(firmware, listener, SocketOption.TYPE) == 1
    handle, _peer = accepted(firmware)
    assert {option: get_option(firmware, handle, option) for option in CHOSEN} == CHOSEN
    firmware.frames.clear()
    send(firmware, handle, b"x")
    sent = firmware.frames[-1][IP]
    assert (sent.ttl, sent.tos) == (7, 0xB8)
    abort(firmware, handle)


def test_the_syn_ack_has_the_listeners_time_to_live(firmware):
    listener = listening(firmware)
    assert set_option(firmware, listener, SocketOption.TTL, 3) == 0
    header = TCP(sport=40001, dport=7, flags="S", seq=1, window=1000)
    firmware.frame(Ether(src=PEER_MAC, dst=OUR_MAC) / IP(src=PEER_IP, dst=OUR_IP) / header)
    assert str(firmware.frames[-1][TCP].flags) == "SA" and firmware.frames[-1][IP].ttl == 3
    header = TCP(sport=40001, dport=7, flags="R", seq=2)
    firmware.frame(Ether(src=PEER_MAC, dst=OUR_MAC) / IP(src=PEER_IP, dst=OUR_IP) / header)


@pytest.mark.parametrize(
    ("option", "bad"),
    [
        (SocketOption.NODELAY, (2, -1)),
        (SocketOption.KEEPALIVE, (2, -1)),
        (SocketOption.KEEPIDLE, (0, 32768)),
        (SocketOption.KEEPINTVL, (0, 32768)),
        (SocketOption.KEEPCNT, (0, 128)),
        (SocketOption.LINGER, (65536, -1)),
        (SocketOption.USER_TIMEOUT, (-1,)),
        (SocketOption.TTL, (0, 256)),
        (SocketOption.TOS, (256, -1)),
    ],
)
def test_values_out_of_range_change_nothing(firmware, option, bad):
    listening(firmware)
    handle, _peer = accepted(firmware)
    for value in bad:
        assert set_option(firmware, handle, option, value) == -EINVAL
    assert get_option(firmware, handle, option) == DEFAULTS[option]
    abort(firmware, handle)


def test_options_that_do_not_exist(firmware):
    listener = listening(firmware)
    handle, _peer = accepted(firmware)
    for target in (handle, listener):
        for option in (SocketOption.BROADCAST, SocketOption.JOIN_GROUP, SocketOption.PEER, 19, 0xFFFFFFFF):
            assert set_option(firmware, target, option, 0) == -ENOPROTOOPT
            assert get_option(firmware, target, option) == -ENOPROTOOPT
        for option in (SocketOption.TYPE, SocketOption.ERROR):
            assert set_option(firmware, target, option, 0) == -ENOPROTOOPT
    inline = (1).to_bytes(4, "little") + b"\x01"
    arguments = {"handle": handle, "operation_flags": SocketOption.NODELAY, "inline": inline}
    assert firmware.call(Operation.SETSOCKOPT, **arguments) == -EINVAL
    assert firmware.call(Operation.GETSOCKOPT, **arguments) == -EINVAL
    abort(firmware, handle)


@pytest.mark.parametrize(
    ("option", "asked", "given"),
    [
        (SocketOption.RCVBUF, 0, 2 * MSS),
        (SocketOption.RCVBUF, 2 * MSS + 1, 3 * MSS),
        (SocketOption.RCVBUF, 0x7FFFFFFF, 8 * MSS),
        (SocketOption.SNDBUF, 0, MSS),
        (SocketOption.SNDBUF, MSS, MSS),
        (SocketOption.SNDBUF, 0xFFFFFFFF, 8 * MSS),
    ],
)
def test_buffers_are_rounded_to_segments_and_bounded(firmware, option, asked, given):
    listening(firmware)
    handle, _peer = accepted(firmware)
    assert set_option(firmware, handle, option, asked) == 0
    assert get_option(firmware, handle, option) == given
    abort(firmware, handle)


def test_after_the_end_of_the_connection(firmware):
    listening(firmware)
    handle, peer = accepted(firmware)
    peer.send("R")
    assert get_option(firmware, handle, SocketOption.ERROR) == ECONNRESET
    assert get_option(firmware, handle, SocketOption.ERROR) == ECONNRESET, "it stays"
    assert get_option(firmware, handle, SocketOption.TYPE) == 1
    assert set_option(firmware, handle, SocketOption.NODELAY, 0) == 0
    assert set_option(firmware, handle, SocketOption.NODELAY, 2) == -EINVAL
    assert get_option(firmware, handle, SocketOption.NODELAY) == -ENOTCONN
    assert get_option(firmware, handle, SocketOption.LINGER) == 0
    assert firmware.call(Operation.CLOSE, handle=handle) == 0


def test_nagle(firmware):
    """RFC 896: one small segment at a time; RFC 9293 3.7.4."""
    listening(firmware)
    handle, peer = accepted(firmware)
    assert set_option(firmware, handle, SocketOption.NODELAY, 0) == 0
    firmware.frames.clear()
    for number in range(3):
        send(firmware, handle, bytes([number]) * 10, user_data=10 + number, address=0x8000 + 16 * number)
    assert [c.result for c in firmware.completions] == [10, 10, 10]
    firmware.completions.clear()
    assert payloads(firmware) == [bytes(10)], "the others wait for the acknowledgement"
    peer.expected += 10
    peer.send("A")
    assert peer.received == b"\x01" * 10 + b"\x02" * 10
    send(firmware, handle, b"a" * 10)
    firmware.completions.clear()
    assert [len(one) for one in payloads(firmware)] == [], "unacknowledged data is on its way"
    assert set_option(firmware, handle, SocketOption.NODELAY, 1) == 0
    assert payloads(firmware) == [b"a" * 10], "what was held back goes out"
    abort(firmware, handle)


def test_without_nagle_each_send_is_a_segment(firmware):
    listening(firmware)
    handle, _peer = accepted(firmware)
    firmware.frames.clear()
    for number in range(3):
        send(firmware, handle, bytes([number]) * 10, user_data=10 + number, address=0x8000 + 16 * number)
    assert [len(one) for one in payloads(firmware)] == [10, 10, 10]
    abort(firmware, handle)


def test_keepalive_against_a_peer_that_vanished(firmware):
    listening(firmware)
    handle, peer = accepted(firmware)
    options = {SocketOption.KEEPIDLE: 2, SocketOption.KEEPINTVL: 1, SocketOption.KEEPCNT: 3, SocketOption.KEEPALIVE: 1}
    for option, value in options.items():
        assert set_option(firmware, handle, option, value) == 0
    firmware.sqe(Operation.RECV, 20, handle=handle, buffer=0x1000, length=100)
    firmware.frames.clear()
    firmware.command("time 1700")
    assert not payloads(firmware)
    firmware.command("time 600")
    assert len(payloads(firmware)) == 1, "a probe (RFC 9293 3.8.4)"
    peer.send("A")
    payloads(firmware)
    firmware.command("time 1500")
    assert not payloads(firmware), "the answer begins the time anew"
    firmware.command("time 6000")
    assert firmware.completion().result == -ETIMEDOUT
    assert len(payloads(firmware)) >= 3
    assert get_option(firmware, handle, SocketOption.ERROR) == ETIMEDOUT
    assert firmware.call(Operation.CLOSE, handle=handle) == 0


def test_user_timeout(firmware):
    listening(firmware)
    handle, peer = accepted(firmware)
    assert set_option(firmware, handle, SocketOption.USER_TIMEOUT, 3000) == 0
    firmware.command("time 5000")
    send(firmware, handle, b"abc")
    assert firmware.completion().result == 3
    firmware.command("time 2500")
    peer.collect()
    peer.send("A")
    firmware.command("time 5000")
    assert get_option(firmware, handle, SocketOption.ERROR) == 0, "it was acknowledged in time"
    send(firmware, handle, b"def")
    firmware.completions.clear()
    firmware.command("time 2900")
    assert get_option(firmware, handle, SocketOption.ERROR) == 0
    firmware.command("time 200")
    assert get_option(firmware, handle, SocketOption.ERROR) == ETIMEDOUT
    assert firmware.call(Operation.CLOSE, handle=handle) == 0


def test_a_long_user_timeout_outlasts_the_retransmissions(firmware):
    listening(firmware)
    handle, peer = accepted(firmware)
    assert set_option(firmware, handle, SocketOption.USER_TIMEOUT, 1_200_000) == 0
    send(firmware, handle, b"abc")
    firmware.completions.clear()
    for _ in range(10):
        firmware.command("time 100000")
        assert get_option(firmware, handle, SocketOption.ERROR) == 0
    peer.collect()
    peer.send("A")
    abort(firmware, handle)


def test_sndbuf_bounds_what_waits(firmware):
    listening(firmware)
    handle, peer = accepted(firmware)
    assert set_option(firmware, handle, SocketOption.SNDBUF, 2 * MSS) == 0
    send(firmware, handle, bytes(6 * MSS))
    assert sum(map(len, payloads(firmware))) == 2 * MSS and not firmware.completions
    assert firmware.state()["pieces"] == 2
    assert set_option(firmware, handle, SocketOption.SNDBUF, 8 * MSS) == 0
    assert firmware.state()["pieces"] == 6
    peer.send("R")
    firmware.completions.clear()
    assert firmware.call(Operation.CLOSE, handle=handle) == 0


def test_rcvbuf_is_the_window_without_a_receive(firmware):
    listening(firmware)
    handle, peer = accepted(firmware)
    assert set_option(firmware, handle, SocketOption.RCVBUF, 5 * MSS) == 0
    firmware.command("time 5")
    peer.collect()
    assert peer.window == 5 * MSS
    abort(firmware, handle)


# --- LINGER and CLOSE ---


def test_linger_completes_when_all_is_acknowledged(firmware):
    listening(firmware)
    handle, peer = accepted(firmware)
    assert set_option(firmware, handle, SocketOption.LINGER, 6) == 0
    send(firmware, handle, b"last words")
    firmware.completions.clear()
    firmware.sqe(Operation.CLOSE, 40, handle=handle)
    assert not firmware.completions
    assert firmware.call(Operation.CLOSE, 41, handle=handle) == -9, "the handle is dead at once"
    peer.collect()
    peer.acknowledge_all()
    completion = firmware.completion()
    assert (completion.user_data, completion.result) == (40, 0)
    assert peer.received == b"last words" and peer.flags[-1] == "FA"
    peer.send("FA")
    assert firmware.state()["sockets"] == 0


@pytest.mark.parametrize("first", ["data", "fin", "shutdown"])
def test_linger_in_every_order(firmware, first):
    """The peer's FIN before ours; ours long acknowledged."""
    listening(firmware)
    handle, peer = accepted(firmware)
    assert set_option(firmware, handle, SocketOption.LINGER, 6) == 0
    if first == "fin":
        peer.send("FA")
    if first == "shutdown":
        firmware.sqe(Operation.SHUTDOWN, 39, handle=handle)
        peer.collect()
        peer.send("A")
        assert firmware.completion().result == 0
    firmware.sqe(Operation.CLOSE, 40, handle=handle)
    peer.collect()
    peer.send("A")
    assert firmware.completion().result == 0
    if first != "fin":
        peer.send("FA")
    assert firmware.state()["sockets"] == 0


def test_linger_ends_with_a_reset(firmware):
    listening(firmware)
    handle, peer = accepted(firmware)
    assert set_option(firmware, handle, SocketOption.LINGER, 3) == 0
    send(firmware, handle, b"x")
    firmware.completions.clear()
    firmware.sqe(Operation.CLOSE, 40, handle=handle)
    firmware.command("time 1900")
    assert not firmware.completions
    firmware.command("time 150")
    assert firmware.completion().result == -EAGAIN
    peer.collect()
    assert "R" in peer.flags[-1]
    assert firmware.state()["sockets"] == 0


def test_linger_zero_resets_at_once(firmware):
    listening(firmware)
    handle, peer = accepted(firmware)
    assert set_option(firmware, handle, SocketOption.LINGER, 1) == 0
    assert firmware.call(Operation.CLOSE, handle=handle) == 0
    peer.collect()
    assert "R" in peer.flags[-1]


@pytest.mark.parametrize("ending", ["R", "PA"])
def test_a_peer_that_ends_a_lingering_close(firmware, ending):
    listening(firmware)
    handle, peer = accepted(firmware)
    assert set_option(firmware, handle, SocketOption.LINGER, 60) == 0
    send(firmware, handle, b"x")
    firmware.completions.clear()
    firmware.sqe(Operation.CLOSE, 40, handle=handle)
    peer.send(ending, b"" if ending == "R" else b"too late")
    assert firmware.completion().result == -ECONNRESET
    assert ending == "R" or "R" in peer.flags[-1]
    assert firmware.state()["sockets"] == 0


def test_close_with_unread_data_resets(firmware):
    """RFC 1122 4.2.2.13"""
    listening(firmware)
    handle, peer = accepted(firmware)
    peer.send("PA", b"unread")
    assert firmware.call(Operation.CLOSE, handle=handle) == 0
    peer.collect()
    assert "R" in peer.flags[-1]
    assert firmware.state()["sockets"] == 0


def test_data_after_close_resets(firmware):
    listening(firmware)
    handle, peer = accepted(firmware)
    send(firmware, handle, b"x")
    firmware.completions.clear()
    assert firmware.call(Operation.CLOSE, handle=handle) == 0
    peer.collect()
    peer.send("PA", b"too late")
    assert "R" in peer.flags[-1]
    assert firmware.state()["sockets"] == 0


# --- A SEND that fails ---


def test_nothing_is_sent_after_a_send_that_failed(firmware):
    listening(firmware)
    handle, peer = accepted(firmware)
    firmware.command("dmastall 1")
    send(firmware, handle, b"whole", user_data=1)
    firmware.sqe(Operation.SEND, 2, handle=handle, buffer=0x100000 - 4, length=8)
    send(firmware, handle, b"after", user_data=3, address=0x9000)
    firmware.sqe(Operation.SHUTDOWN, 4, handle=handle)
    firmware.command("dmastall 0")
    assert {c.user_data: c.result for c in firmware.completions} == {1: 5, 2: -EFAULT, 3: -EPIPE, 4: -EPIPE}
    firmware.completions.clear()
    send(firmware, handle, b"later")
    assert firmware.completion().result == -EPIPE
    assert firmware.call(Operation.SHUTDOWN, handle=handle) == -EPIPE
    peer.collect()
    peer.acknowledge_all()
    assert peer.received == b"whole" and not any("F" in flags for flags in peer.flags)
    firmware.sqe(Operation.RECV, 6, handle=handle, buffer=0x1000, length=100)
    peer.send("PA", b"still heard")
    assert firmware.completion().result == 11
    assert firmware.call(Operation.CLOSE, handle=handle) == 0
    peer.collect()
    assert "R" in peer.flags[-1], "the peer must not take that for the whole"
    assert firmware.state()["pieces"] == 0


def test_urgent_data_is_delivered_in_line(firmware):
    """RFC 9293 3.8.5, as docs/host-interface.md says."""
    listening(firmware)
    handle, peer = accepted(firmware)
    firmware.sqe(Operation.RECV, 5, handle=handle, buffer=0x1000, length=100)
    header = TCP(sport=peer.local, dport=7, flags="PAU", seq=peer.sequence, ack=peer.expected, window=9000, urgptr=2)
    peer.sequence += 6
    firmware.frame(Ether(src=PEER_MAC, dst=OUR_MAC) / IP(src=PEER_IP, dst=OUR_IP) / header / b"urgent")
    assert firmware.completion().result == 6 and firmware.read(0x1000, 6) == b"urgent"
    firmware.frames.clear()
    send(firmware, handle, b"answer")
    firmware.completions.clear()
    assert "U" not in str(firmware.frames[-1][TCP].flags) and firmware.frames[-1][TCP].urgptr == 0
    abort(firmware, handle)
