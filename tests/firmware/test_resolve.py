"""RESOLVE on the manager's DNS client, against servers made of scapy."""

from __future__ import annotations

import pytest
from scapy.layers.dns import DNS, DNSQR, DNSRR
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether

from firmware.firmware_peer import OUR_IP, OUR_MAC, PEER_IP, PEER_MAC, Firmware, build, packed_ip, packed_mac
from twinstack.proto.queues import NETIF_CONFIG, SOCKET_ADDRESS, Operation

ENOENT, EFAULT, EINVAL, ENETUNREACH, ENOBUFS, ETIMEDOUT, ECANCELED = 2, 14, 22, 101, 105, 110, 125
AF_INET, AF_INET6 = 2, 10
RESULT = 0x4000
NXDOMAIN = 3


@pytest.fixture(scope="module", autouse=True)
def built():
    build("host")


@pytest.fixture
def server(firmware):
    """The firmware with the peer as its DNS server."""
    configure(firmware, PEER_IP)
    return firmware


def configure(firmware: Firmware, *servers: str) -> None:
    fields = {f"dns{number}": packed_ip(server) for number, server in enumerate(servers)}
    block = {"family": 2, "prefix_length": 24, "address": packed_ip(OUR_IP), "mac": packed_mac(OUR_MAC)} | fields
    assert firmware.call(Operation.NETIF_CONFIG, 100, inline=NETIF_CONFIG.pack(block)) == 0
    firmware.learn_peer()
    firmware.frames.clear()


def resolve(
    firmware: Firmware, name: str | bytes, *, family: int = 0, user_data: int = 1, length: int | None = None
) -> None:
    data = name.encode() if isinstance(name, str) else name
    firmware.write(0x3000, data + b"\xa5")
    firmware.write(RESULT, b"\xa5" * 32)
    size = len(data) if length is None else length
    inline = RESULT.to_bytes(8, "little")
    firmware.sqe(Operation.RESOLVE, user_data, buffer=0x3000, length=size, operation_flags=family, inline=inline)


def address(firmware: Firmware) -> tuple[int, int, bytes]:
    values = SOCKET_ADDRESS.unpack(firmware.read(RESULT, 32))
    raw = values["address"].to_bytes(16, "little")
    assert values["scope"] == values["extra"] == 0
    return values["family"], values["port"], raw if values["family"] == AF_INET6 else raw[:4]


def questions(firmware: Firmware) -> list[Ether]:
    """DNS questions sent since the last call."""
    frames, firmware.frames = [frame for frame in firmware.frames if DNS in frame], []
    return frames


def reply(firmware: Firmware, question: Ether, *, rcode: int = 0, **records: str) -> None:
    """Answer with a record of each given type."""
    asked = question[DNS]
    answers = [DNSRR(rrname=asked.qd[0].qname, type=kind, ttl=60, rdata=data) for kind, data in records.items()]
    dns = DNS(id=asked.id, qr=1, ra=1, rcode=rcode, qd=DNSQR(bytes(asked.qd[0])), an=answers)
    udp = UDP(sport=53, dport=question[UDP].sport)
    firmware.frame(Ether(src=PEER_MAC, dst=OUR_MAC) / IP(src=question[IP].dst, dst=OUR_IP) / udp / dns)


@pytest.mark.parametrize(
    ("name", "family", "raw"),
    [
        ("192.0.2.7", 0, bytes([192, 0, 2, 7])),
        ("192.0.2.7", AF_INET, bytes([192, 0, 2, 7])),
        ("2001:db8::1", 0, bytes.fromhex("20010db8") + bytes(11) + b"\x01"),
        ("2001:db8::1", AF_INET6, bytes.fromhex("20010db8") + bytes(11) + b"\x01"),
    ],
)
def test_numeric_addresses_need_no_server(firmware, name, family, raw):
    resolve(firmware, name, family=family)
    assert firmware.completion().result == 32
    assert address(firmware) == (AF_INET6 if ":" in name else AF_INET, 0, raw)
    assert not questions(firmware)


def test_numeric_address_of_the_other_family(firmware):
    resolve(firmware, "192.0.2.7", family=AF_INET6)
    assert firmware.completion().result == -ENOENT
    resolve(firmware, "::1", family=AF_INET)
    assert firmware.completion().result == -ENOENT


def test_without_a_server(firmware):
    resolve(firmware, "example.org")
    assert firmware.completion().result == -ENETUNREACH


def test_a_name(server):
    resolve(server, "www.example.org.")
    (question,) = questions(server)
    assert question[IP].dst == PEER_IP and question[UDP].dport == 53
    assert question[DNS].qd[0].qname == b"www.example.org." and question[DNS].qd[0].qtype == 1
    reply(server, question, A="198.51.100.4")
    assert server.completion().result == 32
    assert address(server) == (AF_INET, 0, bytes([198, 51, 100, 4]))
    resolve(server, "WWW.example.org")
    assert server.completion().result == 32 and not questions(server), "it is remembered"
    server.command("time 61000")
    resolve(server, "www.example.org")
    (question,) = questions(server)
    reply(server, question, rcode=NXDOMAIN)
    assert server.completion().result == -ENOENT


def test_ipv6_addresses(server):
    resolve(server, "six.example.org", family=AF_INET6)
    (question,) = questions(server)
    assert question[DNS].qd[0].qtype == 28
    reply(server, question, AAAA="2001:db8::6")
    assert server.completion().result == 32
    assert address(server) == (AF_INET6, 0, bytes.fromhex("20010db8") + bytes(11) + b"\x06")


def test_any_family_asks_for_both(server):
    resolve(server, "only6.example.org")
    (question,) = questions(server)
    reply(server, question)
    (question,) = questions(server)
    assert question[DNS].qd[0].qtype == 28
    reply(server, question, AAAA="2001:db8::7")
    assert server.completion().result == 32 and address(server)[0] == AF_INET6


def test_no_such_name(server):
    resolve(server, "nowhere.example.org", family=AF_INET)
    (question,) = questions(server)
    reply(server, question, rcode=NXDOMAIN)
    assert server.completion().result == -ENOENT
    assert server.read(RESULT, 32) == b"\xa5" * 32


def test_an_answer_with_another_identifier_is_none(server):
    resolve(server, "www.example.org", family=AF_INET)
    (question,) = questions(server)
    forged = Ether(bytes(question))
    forged[DNS].id ^= 1
    reply(server, forged, A="203.0.113.66")
    assert not server.completions
    reply(server, question, A="198.51.100.4")
    assert server.completion().result == 32 and address(server)[2] == bytes([198, 51, 100, 4])


def test_no_server_answers(server):
    resolve(server, "slow.example.org", family=AF_INET)
    server.command("time 30000")
    assert server.completion().result == -ETIMEDOUT
    assert 2 <= len(questions(server)) <= 6


def test_the_second_server_is_asked_when_the_first_is_silent(firmware):
    configure(firmware, "10.0.0.66", PEER_IP)
    resolve(firmware, "www.example.org", family=AF_INET)
    for _ in range(60):
        firmware.command("time 1000")
        asked = [question for question in questions(firmware) if question[IP].dst == PEER_IP]
        if asked:
            break
    reply(firmware, asked[-1], A="198.51.100.4")
    assert firmware.completion().result == 32


def test_four_at_once_and_cancel(server):
    for number in range(4):
        resolve(server, f"host{number}.example.org", family=AF_INET, user_data=10 + number)
    asked = questions(server)
    assert len(asked) == 4
    resolve(server, "host4.example.org", user_data=14)
    assert (server.completions[0].user_data, server.completion().result) == (14, -ENOBUFS)
    server.sqe(Operation.CANCEL, 30, joined=True, inline=(11).to_bytes(8, "little"))
    assert {c.user_data: c.result for c in server.completions} == {11: -ECANCELED, 30: 0}
    server.completions.clear()
    for question in asked:
        reply(server, question, A="198.51.100.4")
    assert sorted((c.user_data, c.result) for c in server.completions) == [(10, 32), (12, 32), (13, 32)]
    server.completions.clear()


@pytest.mark.parametrize(
    "name", [b"a..b", b".", b".a", b"a b", b"a\x00b", b"a\x7f", b"a\xc3\xa4", b"x" * 64, b"a." + b"x" * 64 + b".b"]
)
def test_names_that_are_none(server, name):
    resolve(server, name)
    assert server.completion().result == -EINVAL
    assert not questions(server)


def test_the_longest_name(server):
    name = ".".join(["x" * 63, "y" * 61, "z"])
    assert len(name) == 127
    resolve(server, name, family=AF_INET)
    (question,) = questions(server)
    assert question[DNS].qd[0].qname == name.encode() + b"."
    reply(server, question, A="198.51.100.4")
    assert server.completion().result == 32


def test_arguments(server):
    inline = RESULT.to_bytes(8, "little")
    for fields in ({"length": 0}, {"length": 128}, {"length": 3, "operation_flags": 3}, {"length": 3, "handle": 1}):
        assert server.call(Operation.RESOLVE, buffer=0x3000, inline=inline, **fields) == -EINVAL
    assert server.call(Operation.RESOLVE, buffer=0x3000, length=3, inline=inline + b"\x01") == -EINVAL
    assert server.call(Operation.RESOLVE, buffer=0x3000, length=3, inline=bytes(4) + b"\x01") == -EFAULT
    assert server.call(Operation.RESOLVE, buffer=0xFFFFF, length=3, inline=inline) == -EFAULT
    server.write(0x3000, b"1.2.3.4")
    bad = (0xFFFF0).to_bytes(8, "little")
    assert server.call(Operation.RESOLVE, buffer=0x3000, length=7, inline=bad) == -EFAULT
