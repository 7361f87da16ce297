"""RESOLVE, PING and DISPATCH_CONFIG by the whole engine: a DNS server of scapy, both cores' hashes, running traffic."""

from __future__ import annotations

import errno

import pytest
from scapy.layers.dns import DNS, DNSQR, DNSRR
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from system.rig import ENGINES, MACS, PEERS, STRANGER_MAC
from system.udp_host import address
from twinstack.models.toeplitz import rss_hash
from twinstack.proto.descriptor import RuleAction
from twinstack.proto.queues import SOCKET_ADDRESS, Operation
from twinstack_host.device import ipv4_bytes
from twinstack_host.dispatch import TABLE_ENTRIES, DispatchConfig, DispatchRule
from twinstack_host.sockets import Listener
from twinstack_sim.streams import HostStream

NETWORK = PEERS[0].rpartition(".")[0]
SERVER = f"{NETWORK}.53"
PORT = 7400
TIMEOUT = 5.0


class Station:
    """Stations of scapy: they answer ARP, DNS questions to SERVER, and echo requests."""

    def __init__(self, rig, names: dict[str, str]):
        self.rig, self.names = rig, names
        self.asked: list[str] = []
        rig.keep_frames = True
        self._seen = len(rig.sent)

    def close(self) -> None:
        self.rig.keep_frames = False
        self.rig.sent.clear()

    def wait(self, pending) -> int:
        def done() -> bool:
            while self._seen < len(self.rig.sent):
                frame = Ether(self.rig.sent[self._seen].data)
                self._seen += 1
                if (answer := self._answer(frame)) is not None:
                    self.rig.simulation.send_frame(0, bytes(Ether(src=STRANGER_MAC, dst=MACS[0]) / answer))
            return pending.done

        self.rig.wait(done, "the result")
        return pending.result

    def _answer(self, frame: Ether):
        if ARP in frame and frame[ARP].op == 1 and frame[ARP].pdst not in (PEERS[0], ENGINES[0]):
            return ARP(op=2, hwsrc=STRANGER_MAC, psrc=frame[ARP].pdst, hwdst=MACS[0], pdst=ENGINES[0])
        if frame.dst != STRANGER_MAC:
            return None
        ip = IP(src=frame[IP].dst, dst=ENGINES[0])
        if ICMP in frame:
            payload = Raw(bytes(frame[ICMP].payload)[: frame[IP].len - 28])
            return ip / ICMP(type=0, id=frame[ICMP].id, seq=frame[ICMP].seq) / payload
        question = frame[DNS]
        name = question.qd[0].qname.decode().rstrip(".")
        self.asked.append(name)
        found = self.names.get(name) if question.qd[0].qtype == 1 else None
        answers = [DNSRR(rrname=question.qd[0].qname, type="A", ttl=60, rdata=found)] if found else []
        dns = DNS(id=question.id, qr=1, ra=1, rcode=0 if found else 3, qd=DNSQR(bytes(question.qd[0])), an=answers)
        return ip / UDP(sport=53, dport=frame[UDP].sport) / dns


@pytest.fixture
def station(rig):
    one = Station(rig, {f"host{number}.example.org": f"198.51.100.{number}" for number in range(1, 9)})
    yield one
    one.close()


def resolve(rig, station, name: str) -> str | int:
    """The address as text, or the error."""
    buffer = rig.device.pool.take()
    rig.link.write(buffer, name.encode())
    inline = (buffer + 256).to_bytes(8, "little")
    result = station.wait(rig.device.submit(Operation.RESOLVE, buffer=buffer, length=len(name), inline=inline))
    values = SOCKET_ADDRESS.unpack(rig.link.read(buffer + 256, 32))
    rig.device.pool.give(buffer)
    return ".".join(map(str, values["address"].to_bytes(16, "little")[:4])) if result == 32 else result


def test_resolve(rig, station):
    assert resolve(rig, station, "192.0.2.1") == "192.0.2.1"
    assert resolve(rig, station, "host1.example.org") == -errno.ENETUNREACH
    rig.device.configure(0, ENGINES[0], 24, mac=MACS[0], dns=(SERVER,))
    for number in range(1, 9):  # answers hash by tuple: the rule brings them to the manager
        assert resolve(rig, station, f"host{number}.example.org") == f"198.51.100.{number}"
    assert resolve(rig, station, "nobody.example.org") == -errno.ENOENT
    assert station.asked.count("host8.example.org") == 1
    assert resolve(rig, station, "host8.example.org") == "198.51.100.8"
    assert station.asked.count("host8.example.org") == 1


@pytest.mark.parametrize("core", [0, 1])
@pytest.mark.parametrize("length", [0, 64, 1024])
def test_ping_whose_answer_comes_to_each_core(rig, station, core, length):
    target = next(f"{NETWORK}.{last}" for last in range(100, 200) if rig.core_of(0, f"{NETWORK}.{last}") == core)
    before = rig.dispatched()
    pending = rig.device.submit(Operation.PING, length=length, inline=address(target, 0))
    result = station.wait(pending)
    assert 1 <= result < 1_000_000
    assert rig.dispatched()[core] > before[core]


def test_ping_of_the_peer_and_of_nobody(rig):
    assert rig.device.wait(rig.device.submit(Operation.PING, length=56, inline=address(PEERS[0], 0)), TIMEOUT) > 0
    fields = {"operation_flags": 100, "inline": address(f"{NETWORK}.99", 0)}
    result = rig.device.wait(rig.device.submit(Operation.PING, **fields), TIMEOUT)
    assert result == -errno.EHOSTUNREACH


def expected_core(config: DispatchConfig, source: str, ports: tuple[int, int]) -> int:
    hashed = rss_hash(config.key, ipv4_bytes(source), ipv4_bytes(ENGINES[0]), ports)
    return config.indirection[hashed & TABLE_ENTRIES - 1]


def collected(rig, socket, connection, host_bytes: int, peer_bytes: int) -> tuple[bytes, bytes]:
    """What comes to the host and to the peer, so many bytes."""
    at_host = at_peer = b""

    def complete() -> bool:
        nonlocal at_host, at_peer
        socket.receive_step()
        at_host += socket.take(host_bytes)
        at_peer += connection.recv()
        return len(at_host) >= host_bytes and len(at_peer) >= peer_bytes

    rig.wait(complete, "all bytes")
    return at_host, at_peer


def test_dispatch_under_traffic(rig):
    """New connections follow the new configuration; those that are open stay, and lose nothing."""
    key_before = rig.key
    with Listener(rig.device, PORT, backlog=8) as listener:
        pairs = [rig.accept_on(listener, core, PORT) for core in (0, 1)]
        original = rig.device.dispatch_config()
        assert original.key == rig.key and original.indirection == tuple(i % 2 for i in range(TABLE_ENTRIES))
        for number, table in enumerate(([1] * TABLE_ENTRIES, [0] * TABLE_ENTRIES, [i // 64 for i in range(128)])):
            config = DispatchConfig(key=rig.random.randbytes(40), indirection=table, tcp_ports=True, udp_ports=False)
            sent = rig.random.randbytes(6000)
            for socket, connection in pairs:
                connection.send_all(sent)
                socket.sendall(sent[:2000])
            rig.device.set_dispatch(config)
            for socket, connection in pairs:
                assert collected(rig, socket, connection, len(sent), 2000) == (sent, sent[:2000])
            assert rig.device.dispatch_config().indirection == tuple(table)
            for _ in range(3):
                local = 41000 + rig.random.randrange(20000)
                connection = rig.peer.connect(ENGINES[0], PORT, local)
                accepted = []
                rig.wait(lambda accepted=accepted: accepted.append(listener.accept_step()) or accepted[-1], "accept")
                assert accepted[-1].core == expected_core(config, PEERS[0], (local, PORT)), number
                rig.echo([(connection, HostStream(accepted[-1]))], 500)
                accepted[-1].abort()
                rig.run(20_000)
        rig.echo([(connection, HostStream(socket)) for socket, connection in pairs], 3000)
        rig.device.set_dispatch(original)
        rig.close_all(*(end for pair in pairs for end in pair))
    assert rig.key == key_before
    rig.assert_alive()


def test_rules_of_the_host(rig, station):
    original = rig.device.dispatch_config()
    rule = DispatchRule(RuleAction.DROP, protocol=1)
    rig.device.set_dispatch(DispatchConfig(rules=[rule]))
    assert rig.device.dispatch_config().rules[0] == rule
    fields = {"operation_flags": 50, "inline": address(f"{NETWORK}.120", 0)}
    assert station.wait(rig.device.submit(Operation.PING, **fields)) == -errno.ETIMEDOUT, "the answer is dropped"
    rig.device.set_dispatch(DispatchConfig(rules=original.rules))
    assert station.wait(rig.device.submit(Operation.PING, inline=address(f"{NETWORK}.120", 0))) > 0
    with pytest.raises(ValueError, match=r"rules\[0\]\.core must be below 2, not 2"):
        rig.device.set_dispatch(DispatchConfig(rules=[DispatchRule(RuleAction.CORE, 2)]))
