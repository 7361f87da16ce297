"""PING: echo requests of both families, answers on either core, and what can go wrong."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from firmware.firmware_peer import OUR_IP, OUR_MAC, PEER_IP, PEER_MAC, Firmware, build, socket_address
from firmware.network_bench import start
from twinstack.proto.queues import Operation

EINVAL, EMSGSIZE, EAFNOSUPPORT, ENETUNREACH, ENOBUFS = 22, 90, 97, 101, 105
ETIMEDOUT, EHOSTUNREACH, ECANCELED = 110, 113, 125


@pytest.fixture(scope="module", autouse=True)
def built():
    build("host")


def ping(firmware: Firmware, length: int = 8, *, user_data: int = 1, ip: str = PEER_IP, timeout_ms: int = 0) -> None:
    inline = socket_address(ip, 0)
    firmware.sqe(Operation.PING, user_data, length=length, operation_flags=timeout_ms, inline=inline)


def request(firmware: Firmware) -> Ether:
    """The echo request that was sent last."""
    return [frame for frame in firmware.frames if ICMP in frame and frame[ICMP].type == 8][-1]


def answer(sent: Ether, *, payload: bytes | None = None, **fields: int) -> Ether:
    length = sent[IP].len - 28
    data = bytes(sent[ICMP].payload)[:length] if payload is None else payload
    header = ICMP(type=0, **({"id": sent[ICMP].id, "seq": sent[ICMP].seq} | fields))
    return Ether(src=PEER_MAC, dst=OUR_MAC) / IP(src=PEER_IP, dst=OUR_IP) / header / Raw(data)


@pytest.mark.parametrize("length", [0, 1, 56, 300, 1024])
def test_the_answer_takes_the_time_it_took(firmware, length):
    ping(firmware, length)
    sent = request(firmware)
    assert sent[IP].len == 28 + length and sent[IP].dst == PEER_IP
    assert bytes(sent[ICMP].payload)[:length] == bytes(i & 0xFF for i in range(length))
    fresh = Ether(bytes(sent))
    del fresh[ICMP].chksum
    assert Ether(bytes(fresh))[ICMP].chksum == sent[ICMP].chksum
    firmware.command("time 7")
    assert not firmware.completions
    firmware.frame(answer(sent))
    assert firmware.completion().result == 7000, "microseconds"
    firmware.frame(answer(sent))
    assert not firmware.completions, "a second answer is nobody's"


def test_an_answer_at_once_takes_at_least_a_microsecond(firmware):
    ping(firmware)
    firmware.frame(answer(request(firmware)))
    assert firmware.completion().result == 1


def test_wrong_answers_do_not_count(firmware):
    ping(firmware, 16)
    sent = request(firmware)
    good = bytes(range(16))
    firmware.frame(answer(sent, payload=good[:15]))
    firmware.frame(answer(sent, payload=good + b"\x10"))
    firmware.frame(answer(sent, payload=good[:8] + b"!" + good[9:]))
    firmware.frame(answer(sent, seq=sent[ICMP].seq ^ 1))
    firmware.frame(answer(sent, id=sent[ICMP].id ^ 0x100))
    firmware.frame(Ether(src=PEER_MAC, dst=OUR_MAC) / IP(src=PEER_IP, dst=OUR_IP) / ICMP(type=0))
    assert not firmware.completions
    firmware.frame(answer(sent))
    assert firmware.completion().result > 0


@pytest.mark.parametrize(("asked", "lasts"), [(0, 1000), (50, 50), (60000, 60000)])
def test_nobody_answers(firmware, asked, lasts):
    ping(firmware, timeout_ms=asked)
    firmware.command(f"time {lasts - 1}")
    assert not firmware.completions
    firmware.command("time 2")
    assert firmware.completion().result in (-ETIMEDOUT, -EHOSTUNREACH if lasts > 10000 else -ETIMEDOUT)


def test_no_such_station(firmware):
    ping(firmware, ip="10.0.0.77")
    assert firmware.frames[-1][ARP].pdst == "10.0.0.77"
    firmware.command("time 1001")
    assert firmware.completion().result == -EHOSTUNREACH


def test_a_router_says_unreachable(firmware):
    ping(firmware, 16)
    sent = request(firmware)
    quoted = bytes(sent[IP])[:28]
    error = IP(src="10.0.0.1", dst=OUR_IP) / ICMP(type=3, code=1) / Raw(quoted)
    firmware.frame(Ether(src=PEER_MAC, dst=OUR_MAC) / error)
    assert firmware.completion().result == -EHOSTUNREACH


def test_arguments(firmware):
    call = firmware.call
    assert call(Operation.PING, length=1025, inline=socket_address(PEER_IP, 0)) == -EMSGSIZE
    assert call(Operation.PING, inline=socket_address(PEER_IP, 1)) == -EINVAL
    assert call(Operation.PING, operation_flags=60001, inline=socket_address(PEER_IP, 0)) == -EINVAL
    assert call(Operation.PING, handle=1, inline=socket_address(PEER_IP, 0)) == -EINVAL
    assert call(Operation.PING, inline=b"\x01") == -EAFNOSUPPORT
    assert call(Operation.PING, inline=socket_address("192.0.2.1", 0)) == -ENETUNREACH
    assert call(Operation.PING, inline=socket_address("0.0.0.0", 0)) == -ENETUNREACH


def test_four_at_once_and_cancel(firmware):
    for number in range(4):
        ping(firmware, user_data=10 + number)
    requests = [frame for frame in firmware.frames if ICMP in frame]
    assert firmware.call(Operation.PING, 20, inline=socket_address(PEER_IP, 0)) == -ENOBUFS
    firmware.sqe(Operation.CANCEL, 30, joined=True, inline=(12).to_bytes(8, "little"))
    assert {c.user_data: c.result for c in firmware.completions} == {12: -ECANCELED, 30: 0}
    firmware.completions.clear()
    firmware.frame(answer(requests[2]))
    assert not firmware.completions
    for number in (3, 0, 1):
        firmware.frame(answer(requests[number]))
        assert firmware.completion().user_data == 10 + number


def test_the_answer_comes_to_the_other_core(tmp_path):
    shared = ("--cores", "2", "--shared", str(tmp_path / "shared"))
    manager, other = start(*shared, "--core", "0"), start(*shared, "--core", "1", "--manager", "1")
    manager.messages.clear()
    other.messages.clear()
    ping(manager, 100)
    sent = request(manager)
    other.frame(answer(sent, payload=b"x" * 100))
    assert not other.messages, "the core that gets it looks at it"
    other.frame(answer(sent))
    ((to, *words),) = other.messages
    assert to == 0
    manager.command("message 1 " + " ".join(map(str, words)))
    assert manager.completion().result >= 1
    manager.close()
    other.close()


def test_answers_that_nobody_asked_for_do_not_fill_the_messages(tmp_path):
    shared = ("--cores", "2", "--shared", str(tmp_path / "shared"))
    one = start(*shared, "--core", "1", "--manager", "1")
    for identifier in range(0, 64):
        header = ICMP(type=0, id=identifier << 8 | identifier & 7, seq=identifier)
        one.frame(Ether(src=PEER_MAC, dst=OUR_MAC) / IP(src=PEER_IP, dst=OUR_IP) / header)
    assert {to for to, *_ in one.messages} <= {0}
    one.close()
