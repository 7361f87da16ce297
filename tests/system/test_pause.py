"""Pause frames (IEEE 802.3 annex 31B) that the engine sends when a core's packet memory runs low: when, what, how long."""

from collections import deque

import pytest
from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from system.rig import CONFIG, ENGINES, FAST_OPTIONS, LIMIT_CYCLES, MACS, PEER_MACS, PEERS, Rig, started
from twinstack.proto.registers import HOST_CORE, MAC
from twinstack_host.sockets import Listener
from twinstack_sim.peer_lwip import LwipPeer
from twinstack_sim.streams import HostStream

PORT = 0
SERVED = 7700
QUANTUM_NS = 512
"""512 bit times at 1 Gb/s."""
BYTE_NS = 8
OVERHEAD_BYTES = 24
"""Preamble, FCS, gap."""
PAUSE_TIME = 4000
"""Quanta; 2 ms, 154,000 cycles."""
LAZY = 4
"""Connections that nobody reads: with their quota of two buffers each they hold all that windows promise."""
WATERMARK = 1 + 2 * CONFIG.ports
"""RX_WATERMARK in the firmware's sizes.h."""


class Station:
    """An lwIP peer and a source of frames on one cable, behind a MAC that sends at line rate and obeys pause frames."""

    def __init__(self, peer: LwipPeer):
        self._peer = peer
        self.obeys = True
        self.hears_resume = True
        self.flood: deque[bytes] = deque()
        self.pauses: list[tuple[int, bytes]] = []
        """(when, frame), and when frames of others began to be sent."""
        self.sent_ns: list[int] = []
        self._waiting: deque[bytes] = deque()
        self.silent_until_ns = self._line_free_ns = 0

    def frame_from_engine(self, frame: bytes, now_ns: int) -> None:
        if frame[12:14] != b"\x88\x08":
            self._peer.frame_from_engine(frame, now_ns)
            return
        self.pauses.append((now_ns, frame))
        quanta = quanta_of(frame)
        if self.obeys and (quanta or self.hears_resume):
            self.silent_until_ns = now_ns + quanta * QUANTUM_NS

    def poll(self, now_ns: int) -> list[bytes]:
        self._waiting += self._peer.poll(now_ns)
        source = self._waiting or self.flood
        if not source or now_ns < self._free_at():
            return []
        frame = source.popleft()
        self._line_free_ns = now_ns + (max(len(frame), 60) + OVERHEAD_BYTES) * BYTE_NS
        self.sent_ns.append(now_ns)
        return [frame]

    def next_event_ns(self) -> int | None:
        times = [self._peer.next_event_ns(), self._free_at() if self._waiting or self.flood else None]
        return min((time for time in times if time is not None), default=None)

    def close(self) -> None:
        self._peer.close()

    def _free_at(self) -> int:
        return max(self._line_free_ns, self.silent_until_ns)


def quanta_of(frame: bytes) -> int:
    return int.from_bytes(frame[16:18], "big")


@pytest.fixture(scope="module")
def stations():
    return []


@pytest.fixture(scope="module")
def rig(stations):
    def behind(peer: LwipPeer) -> Station:
        stations.append(Station(peer))
        return stations[-1]

    with started() as one:
        one.add_peer(PORT, options=FAST_OPTIONS, behind=behind)
        one.device.registers.write(MAC, "pause_time", PAUSE_TIME, instance=PORT)
        yield one
        for core in range(one.device.cores):
            one.echo_once(core, SERVED + 10 + core)


@pytest.fixture
def station(rig, stations):
    """The station, allowed to be paused; after the test both cores answer and every buffer is in its pool."""
    may_pause(rig, True)
    one = stations[0]
    one.obeys = one.hears_resume = True
    one.pauses.clear()
    one.sent_ns.clear()
    yield one
    rig.wait(lambda: not one.flood, "the end of the flood", 4 * LIMIT_CYCLES)
    rig.run(100_000)
    rig.assert_alive()
    rig.assert_buffers_back()


def may_pause(rig: Rig, allowed: bool) -> None:
    control = rig.device.registers.read_fields(MAC, "control", instance=PORT)
    rig.device.registers.write_fields(MAC, "control", instance=PORT, **control | {"pause_send": int(allowed)})


def free_large(rig: Rig, core: int = 0) -> int:
    return rig.device.registers.read_fields(HOST_CORE, "rx_buffers", instance=core)["large"]


def drops(rig: Rig) -> tuple[list[int], list[int]]:
    return rig.host_core("rx_dropped"), rig.host_core("rx_flow_dropped")


def datagrams(rig: Rig, count: int) -> list[bytes]:
    """Of maximum size, from the peer to a closed port, for core 0; each is answered with ICMP."""
    source = next(port for port in range(1024, 2000) if rig.core_of(PORT, PEERS[PORT], (port, 9)) == 0)
    ether = Ether(src=PEER_MACS[PORT], dst=MACS[PORT])
    return [
        bytes(ether / IP(src=PEERS[PORT], dst=ENGINES[PORT], id=number) / UDP(sport=source, dport=9) / Raw(bytes(1472)))
        for number in range(count)
    ]


def two_fragments(rig: Rig) -> list[bytes]:
    """Of one datagram for core 0; the first holds a large buffer until the other comes."""
    network = PEERS[PORT].rpartition(".")[0]
    source = next(f"{network}.{last}" for last in range(10, 250) if rig.core_of(PORT, f"{network}.{last}") == 0)
    datagram = IP(src=source, dst=ENGINES[PORT], id=7) / UDP(sport=1024, dport=9) / Raw(bytes(2000))
    return [bytes(Ether(src=PEER_MACS[PORT], dst=MACS[PORT]) / one) for one in fragment(datagram, fragsize=1400)]


def fill_windows(rig: Rig, listener: Listener) -> tuple[list, list[bytes]]:
    """Connections on core 0 that nobody reads, each with as much on its way as its window takes, and that data."""
    lazy = [rig.accept_on(listener, 0, SERVED) for _ in range(LAZY)]
    data = [rig.random.randbytes(5000) for _ in lazy]
    for (_, connection), one in zip(lazy, data, strict=True):
        connection.send_all(one)
    rig.wait(lambda: free_large(rig) <= CONFIG.rx_large_buffers - 2 * LAZY, "full windows", 400_000)
    rig.run(20_000)
    assert free_large(rig) == CONFIG.rx_large_buffers - 2 * LAZY
    return lazy, data


def read_all(rig: Rig, lazy: list, data: list[bytes]) -> None:
    """What was withheld comes whole and in order."""
    got = [bytearray() for _ in lazy]

    def all_there() -> bool:
        for (socket, _), one in zip(lazy, got, strict=True):
            socket.receive_step()
            one += socket.take(1 << 16)
        return all(len(one) >= len(right) for one, right in zip(got, data, strict=True))

    rig.wait(all_there, "the withheld bytes", 4 * LIMIT_CYCLES)
    assert [bytes(one) for one in got] == data


def assert_pause_frames(rig: Rig, station: Station, counted_before: int) -> None:
    """Each is as annex 31B.1 and 31A want it, asks for the time set or for none, and was counted."""
    for _, frame in station.pauses:
        assert frame[:6] == bytes.fromhex("0180c2000001")
        assert frame[6:12] == bytes.fromhex(MACS[PORT].replace(":", ""))
        assert frame[12:16] == bytes.fromhex("88080001")
        assert quanta_of(frame) in (0, PAUSE_TIME)
        assert len(frame) == 60 and not any(frame[18:])
    counted = rig.mac_counters(PORT)["tx_pauses"] - counted_before
    assert counted == len(station.pauses)


def test_a_sender_that_obeys_loses_nothing(rig, station):
    """Strangers flood the core whose windows are full: without obedience most is lost, with it nothing. Meanwhile, the other core's
    connection carries data both ways; large frames of the engine's own delay its pause frames as much as they can."""
    with Listener(rig.device, SERVED, backlog=8) as listener:
        busy, busy_end = rig.accept_on(listener, 1, SERVED)
        lazy, data = fill_windows(rig, listener)
        assert station.pauses == [], "windows alone cause no pause"
        counted, before = rig.mac_counters(PORT)["tx_pauses"], drops(rig)

        station.obeys = False
        station.flood += datagrams(rig, 40)
        rig.wait(lambda: not station.flood, "the end of the flood")
        rig.run(60_000)
        lost = drops(rig)
        assert lost[0][0] - before[0][0] > 20
        assert lost[0][1] == before[0][1] and lost[1] == before[1], "only strangers to that core lose"
        assert any(quanta_of(frame) for _, frame in station.pauses)

        station.obeys = True
        heard, dispatched = len(station.pauses), rig.dispatched()[0]
        station.flood += datagrams(rig, 40)
        rig.echo([(busy_end, HostStream(busy))], 12_000, 6 * LIMIT_CYCLES)
        rig.wait(lambda: not station.flood, "the end of the flood", 4 * LIMIT_CYCLES)
        rig.run(100_000)
        assert rig.dispatched()[0] >= dispatched + 40
        assert drops(rig) == lost
        during = [quanta_of(frame) for _, frame in station.pauses[heard:]]
        assert during.count(PAUSE_TIME) > 5 and during.count(0) > 5
        assert during[-1] == 0, "and in the end it may send again"
        assert free_large(rig) == CONFIG.rx_large_buffers - 2 * LAZY >= WATERMARK

        read_all(rig, lazy, data)
        assert_pause_frames(rig, station, counted)
        rig.close_all(*(end for pair in lazy for end in pair), busy_end, busy)


def test_pause_lasts_while_memory_is_low_and_ends_when_the_host_reads(rig, station):
    """Repeated when half of its time has passed, so that a station that obeys is silent all the time."""
    with Listener(rig.device, SERVED, backlog=8) as listener:
        lazy, data = fill_windows(rig, listener)
        counted = rig.mac_counters(PORT)["tx_pauses"]
        first, rest = two_fragments(rig)
        station.flood.append(first)
        rig.wait(lambda: bool(station.pauses), "a pause frame", 200_000)
        assert free_large(rig) == WATERMARK - 1
        rig.run(400_000)  # two and a half times what one pause frame asks for
        assert free_large(rig) == WATERMARK - 1
        times = [time for time, _ in station.pauses]
        assert len(times) > 4 and all(quanta_of(frame) == PAUSE_TIME for _, frame in station.pauses)
        half = PAUSE_TIME * QUANTUM_NS // 2
        for earlier, later in zip(times, times[1:], strict=False):
            assert half * 0.99 < later - earlier < half * 1.01 + 1538 * BYTE_NS
        # A frame may have begun before the pause frame came.
        assert not [time for time in station.sent_ns if times[0] + 1538 * BYTE_NS < time]
        # The peer cannot send, but the host reads what has come.
        sockets = [socket for socket, _ in lazy]
        for socket in sockets:
            socket.receive_step()
        rig.wait(lambda: quanta_of(station.pauses[-1][1]) == 0, "the end of the pause", 200_000)
        assert free_large(rig) >= WATERMARK
        station.flood.append(rest)
        read_all(rig, lazy, data)
        assert_pause_frames(rig, station, counted)
        rig.close_all(*(end for pair in lazy for end in pair))


def test_a_pause_ends_by_itself_when_the_frame_that_ends_it_is_lost(rig, station):
    """The station does not hear the pause frame with time zero: it sends again when its time is over."""
    with Listener(rig.device, SERVED, backlog=8) as listener:
        lazy, data = fill_windows(rig, listener)
        lost = drops(rig)
        station.hears_resume = False
        station.flood += datagrams(rig, 8)
        rig.wait(lambda: not station.flood, "the end of the flood", 4 * LIMIT_CYCLES)
        rig.run(100_000)
        asked = [time for time, frame in station.pauses if quanta_of(frame)]
        silence = max(later - earlier for earlier, later in zip(station.sent_ns, station.sent_ns[1:], strict=False))
        assert asked and silence >= PAUSE_TIME * QUANTUM_NS
        assert drops(rig) == lost
        read_all(rig, lazy, data)
        rig.close_all(*(end for pair in lazy for end in pair))


def test_a_port_that_may_not_sends_no_pause_frames(rig, station):
    may_pause(rig, False)
    with Listener(rig.device, SERVED, backlog=8) as listener:
        lazy, data = fill_windows(rig, listener)
        counted, before = rig.mac_counters(PORT)["tx_pauses"], drops(rig)
        station.flood += datagrams(rig, 30)
        rig.wait(lambda: free_large(rig) < 2, "low memory")
        rig.wait(lambda: not station.flood, "the end of the flood")
        rig.run(60_000)
        assert drops(rig)[0][0] > before[0][0] and station.pauses == []
        assert rig.mac_counters(PORT)["tx_pauses"] == counted and rig.mac_counters(1)["tx_pauses"] == 0
        read_all(rig, lazy, data)
        rig.close_all(*(end for pair in lazy for end in pair))
