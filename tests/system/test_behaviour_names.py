"""The behavioural suite over both host libraries: names and pings."""

from __future__ import annotations

import errno

import pytest
from scapy.layers.dns import DNS, DNSRR

from support.libraries import LIBRARIES
from system.behaviour import ENGINE, ENGINE6, MAC, PEER, PEER6, driven_by, error
from system.rig import LIMIT_CYCLES
from twinstack.proto.queues import AF_INET, AF_INET6

RECORDS = {"four.example": {"A": "10.1.2.3"}, "both.example": {"A": "10.9.8.7", "AAAA": "2001:db8::9"}}
TYPES = {1: "A", 28: "AAAA"}


@pytest.fixture(scope="module", params=sorted(LIBRARIES))
def bench(request):
    with driven_by(request.param) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_stays(bench):
    yield
    assert bench.library.unexpected() == 0


class NameServer:
    """Answers questions about RECORDS at UDP port 53 of the peer."""

    def __init__(self, peer):
        self.socket, self.questions, self.silent = peer.udp(53), 0, False

    def step(self):
        while (got := self.socket.recv()) is not None:
            question = DNS(got.data)
            self.questions += 1
            name = question.qd[0].qname.decode().rstrip(".")
            kind = TYPES.get(question.qd[0].qtype)
            known = RECORDS.get(name)
            if self.silent:
                continue
            answer = DNS(id=question.id, qr=1, rd=1, ra=1, qd=question.qd[0], rcode=0 if known else 3)
            if known and kind in known:
                answer.an = DNSRR(rrname=name, type=kind, ttl=60, rdata=known[kind])
            self.socket.send_to(bytes(answer), got.address, got.port)


@pytest.fixture(scope="module")
def names(bench):
    bench.library.configure(0, ENGINE, 24, MAC, dns=PEER)
    server = NameServer(bench.peer)
    bench.link.programs.append(server.step)
    yield server
    bench.link.programs.remove(server.step)
    server.socket.close()


def test_numeric_addresses_need_no_server(bench):
    assert bench.library.resolve("10.20.30.40") == "10.20.30.40"
    assert bench.library.resolve("2001:db8::1:2") == "2001:db8::1:2"


def test_no_server(bench):
    assert error(bench.library.resolve, "four.example") == errno.ENETUNREACH


def test_names_that_cannot_be(bench):
    for name in ("", "x" * 128):
        assert error(bench.library.resolve, name) == errno.EINVAL


def test_names(bench, names):
    assert bench.library.resolve("four.example") == "10.1.2.3"
    assert bench.library.resolve("four.example", AF_INET) == "10.1.2.3"
    assert bench.library.resolve("both.example", AF_INET) == "10.9.8.7"
    assert bench.library.resolve("both.example", AF_INET6) == "2001:db8::9"


def test_names_that_are_not(bench, names):
    assert error(bench.library.resolve, "nobody.example", timeout=60.0) == errno.ENOENT
    assert error(bench.library.resolve, "four.example", AF_INET6, timeout=60.0) == errno.ENOENT


def test_question_that_is_given_up(bench, names):
    names.silent = True
    before = names.questions
    assert error(bench.library.resolve, "slow.example", timeout=0.3) == errno.ETIMEDOUT
    assert names.questions > before
    names.silent = False
    assert bench.library.resolve("both.example") in RECORDS["both.example"].values()


@pytest.mark.parametrize("length", [0, 56, 1024])
def test_ping(bench, length):
    assert 1 <= bench.library.ping(PEER, length) < 1_000_000


def test_ping_errors(bench):
    assert error(bench.library.ping, PEER, 1025) == errno.EMSGSIZE
    assert error(bench.library.ping, "10.9.8.7") == errno.ENETUNREACH
    assert error(bench.library.ping, "192.168.77.202", timeout=0.2) in (errno.ETIMEDOUT, errno.EHOSTUNREACH)


def test_ping_ipv6(bench):
    bench.library.configure6(0, ENGINE6)
    bench.wait(lambda: all(bench.library.status(0)["ready6"][:2]), "duplicate address detection", 4 * LIMIT_CYCLES)
    assert bench.library.ping(PEER6) >= 1
