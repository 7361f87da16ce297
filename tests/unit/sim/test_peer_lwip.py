"""Two lwIP peers back to back: data through a bad wire, checksums, pings, connection states."""

import random

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Ether

from support.rtl import seed
from twinstack_sim.peer_lwip import LwipPeer, PeerError, PeerOptions
from twinstack_sim.wire import WireModel

ONE, OTHER = "192.168.77.1", "192.168.77.2"
ONE6, OTHER6 = "2001:db8::1", "2001:db8::2"
STEP_NS = 20_000
MS = 1_000_000


class Cable:
    """Two stations and the wire between them; ``one`` stands where the engine would."""

    def __init__(self, wire: WireModel | None = None, value: int = 1, **options):
        chosen = PeerOptions(**options)
        self.one = LwipPeer(ONE, address6=ONE6, mac="02:00:00:00:00:01", seed=value, options=chosen)
        self.other = LwipPeer(OTHER, address6=OTHER6, mac="02:00:00:00:00:02", seed=value + 1, options=chosen)
        self.wire = wire or WireModel(value, delay_ns=5_000)
        self.now = 0
        self.seen: list[bytes] = []

    def step(self) -> None:
        self.now += STEP_NS
        for peer, out, into in ((self.one, "to_peer", "to_engine"), (self.other, "to_engine", "to_peer")):
            for frame in peer.poll(self.now):
                self.seen.append(frame)
                self.wire.push(out, frame, self.now)
            for carried in self.wire.pop(into, self.now):
                if not carried.bad_fcs:
                    peer.frame_from_engine(carried.data, self.now)

    def run_until(self, condition, limit_ms: int = 2000) -> None:
        end = self.now + limit_ms * MS
        while not condition():
            assert self.now < end, f"did not happen in {limit_ms} ms of simulated time"
            self.step()

    def connect(self, address: str = OTHER, port: int = 7):
        listener = self.other.listen(port)
        client = self.one.connect(address, port)
        # A lost neighbour solicitation alone costs a second (RFC 4861 section 10: RETRANS_TIMER).
        self.run_until(lambda: client.connected and listener.pending, 30_000)
        return client, listener.accept()

    def close(self) -> None:
        self.one.close()
        self.other.close()


@pytest.fixture
def cable():
    made = Cable()
    yield made
    made.close()


def transfer(cable: Cable, left, right, size: int, dice: random.Random, limit_ms: int) -> None:
    """Send ``size`` random bytes each way and close in an orderly way from both sides."""
    data = {left: dice.randbytes(size), right: dice.randbytes(size)}
    got = {left: bytearray(), right: bytearray()}
    for end, content in data.items():
        end.send_all(content)
        end.shutdown()

    def done() -> bool:
        for end in (left, right):
            got[end] += end.recv(dice.randrange(1, 5000))
        return all(len(one) == size for one in got.values()) and left.peer_closed and right.peer_closed

    cable.run_until(done, limit_ms)
    assert got[left] == data[right] and got[right] == data[left]
    assert left.error == right.error == ""


def test_data_both_ways_through_a_bad_wire():
    value = seed()
    wire = WireModel(value, loss=0.03, reorder=0.03, duplicate=0.03, corrupt=0.02, delay_ns=50_000)
    cable = Cable(wire, value)
    try:
        left, right = cable.connect()
        transfer(cable, left, right, 150_000, random.Random(value), 60_000)
        counts = wire.counts("to_peer")
        assert counts.lost and counts.reordered and counts.duplicated and counts.corrupted
        assert cable.one.counters.tcp_retransmissions > 0
        # What the wire spoils, the FCS tells: nothing wrong reaches a checksum.
        assert cable.one.counters.checksum_errors == cable.other.counters.checksum_errors == 0
    finally:
        cable.close()


@pytest.mark.parametrize("address", [OTHER, OTHER6])
def test_checksums_catch_damage(address):
    value = seed()
    cable = Cable(WireModel(value, damage=0.15, delay_ns=5_000), value)
    try:
        left, right = cable.connect(address)
        transfer(cable, left, right, 120_000, random.Random(value), 120_000)
        # Most flipped bits are in TCP; in both directions together some 30 frames are hit.
        assert cable.one.counters.tcp_checksum_errors + cable.other.counters.tcp_checksum_errors > 5
    finally:
        cable.close()


def test_all_frames_agree_with_scapy(cable):
    left, right = cable.connect()
    transfer(cable, left, right, 5_000, random.Random(1), 2000)
    cable.one.udp().send_to(b"x" * 31, OTHER, 9)
    cable.one.ping(OTHER)
    cable.one.ping(OTHER6)
    cable.run_until(lambda: len(cable.one.ping_replies) == 2)
    kinds = set()
    for frame in cable.seen:
        packet = Ether(frame)
        kinds |= {layer.__name__ for layer in packet.layers()}
        if ARP in packet:
            continue
        again = packet.copy()
        for layer, field in ((IP, "chksum"), (TCP, "chksum"), (UDP, "chksum"), (ICMP, "chksum")):
            if layer in again:
                delattr(again[layer], field)
        assert bytes(again) == frame
        assert IP in packet or IPv6 in packet
    assert {"ARP", "IP", "TCP", "UDP", "ICMP", "IPv6"} <= kinds


@pytest.mark.parametrize("address", [OTHER, OTHER6])
def test_ping(cable, address):
    sequence = cable.one.ping(address, 1000)
    cable.run_until(lambda: bool(cable.one.ping_replies))
    (reply,) = cable.one.ping_replies
    assert (reply.sequence, reply.length) == (sequence, 1000)


def test_ping_reply_with_a_wrong_checksum_is_not_taken(cable):
    cable.one.ping(OTHER)
    cable.run_until(lambda: any(ICMP in Ether(frame) and Ether(frame)[ICMP].type == 0 for frame in cable.seen))
    reply = bytearray(next(frame for frame in cable.seen if ICMP in Ether(frame) and Ether(frame)[ICMP].type == 0))
    reply[-1] ^= 1
    cable.one.frame_from_engine(bytes(reply), cable.now)
    cable.one.poll(cable.now)
    assert cable.one.counters.icmp_checksum_errors == 1
    assert not cable.one.ping_replies
    cable.run_until(lambda: bool(cable.one.ping_replies))


def test_udp_fragments_meet_again(cable):
    server, client = cable.other.udp(5000), cable.one.udp(6000)
    data = random.Random(2).randbytes(6000)
    client.send_to(data, OTHER, 5000)
    received = []

    def arrived() -> bool:
        datagram = server.recv()
        if datagram is not None:
            received.append(datagram)
        return bool(received)

    cable.run_until(arrived)
    assert (received[0].data, received[0].address, received[0].port) == (data, ONE, 6000)
    with pytest.raises(PeerError, match="UDP open: address in use"):
        cable.other.udp(5000)


def test_established_abort_resets_the_other_end(cable):
    left, right = cable.connect()
    assert left.remote == (OTHER, 7) == right.local and left.local == right.remote
    left.abort()
    cable.run_until(lambda: right.closed)
    assert right.error == "connection reset"
    with pytest.raises(PeerError, match="send: not connected"):
        right.send(b"x")


def test_connect_to_closed_port_is_refused(cable):
    connection = cable.one.connect(OTHER, 81)
    cable.run_until(lambda: connection.closed)
    assert connection.error == "connection reset" and not connection.connected


def test_closed_window_holds_data_back(cable):
    left, right = cable.connect()
    left.send_all(bytes(200_000))
    for _ in range(1000):
        cable.step()
    assert left.unsent > 0
    received = 0

    def drained() -> bool:
        nonlocal received
        received += len(right.recv())
        return received == 200_000

    cable.run_until(drained)
    assert left.unsent == 0


def test_port_can_be_used_again_after_close(cable):
    for _ in range(3):
        listener = cable.other.listen(7)
        left = cable.one.connect(OTHER, 7)
        cable.run_until(lambda left=left, listener=listener: left.connected and listener.pending)
        right = listener.accept()
        left.shutdown()
        cable.run_until(lambda right=right: right.peer_closed)
        right.close()
        cable.run_until(lambda left=left: left.peer_closed and left.closed)
        listener.close()
        left.close()


def test_same_seed_same_frames():
    def run(value):
        cable = Cable(value=value)
        left, right = cable.connect()
        left.send_all(b"x" * 3000)
        cable.run_until(lambda: len(right.recv()) > 0)
        cable.close()
        return cable.seen

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_frame_for_another_station_is_ignored(cable):
    before = cable.one.counters.frames_in
    cable.one.frame_from_engine(bytes(Ether(dst="02:00:00:00:00:09") / IP(dst=ONE) / ICMP()), 0)
    cable.one.frame_from_engine(b"\xff" * 5, 0)
    assert cable.one.counters.frames_in == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"mac": "03:00:00:00:00:01"}, "mac must be"), ({"address": "1.2.3"}, "1.2.3"), ({"address6": "x"}, "x")],
)
def test_addresses_are_checked(arguments, message):
    with pytest.raises(ValueError, match=message):
        LwipPeer(**arguments)


@pytest.mark.parametrize(("name", "value"), [("tcp_timer_ms", 0), ("tcp_mss", 1461), ("tcp_window", 100)])
def test_options_are_checked(name, value):
    with pytest.raises(ValueError, match=f"{name} must .* not {value}"):
        PeerOptions(**{name: value})
