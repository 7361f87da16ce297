"""Datagram sockets of two cores behind the dispatcher's model: ports, spread sockets, fragments, ICMP errors, groups."""

from __future__ import annotations

import pytest
from scapy.layers.igmp import IGMP
from scapy.layers.inet import ICMP, IP, UDP, fragment
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from firmware.firmware_peer import OUR_IP, OUR_MAC, PEER_IP, PEER_MAC, build, socket_address
from firmware.two_stacks import CORES, TwoStacks
from firmware.udp_bench import (
    PEER_PORT,
    PORT,
    close,
    datagram,
    get_option,
    group_address,
    group_mac,
    leaving,
    open_socket,
    receive,
    results,
    sent,
    set_option,
    taken,
)
from twinstack.models.mac import multicast_bit
from twinstack.proto.queues import Handle, Operation, SocketOption

GROUP = "239.1.2.3"
QUERIER = "10.0.0.8"
BOUND = 384
POOLS = ("rx_free", "tx_free", "scratch", "ops", "sockets", "directory", "udp_ports", "udp_errors", "kept", "groups")


@pytest.fixture(scope="module", autouse=True)
def built():
    build("host")


def make(folder, *extra: str) -> TwoStacks:
    stacks = TwoStacks(folder, extra=extra)
    stacks.configure()
    stacks.hosts.clear()  # the test is the host
    for core in stacks.cores:
        core.learn_peer()
    stacks.settle()
    stacks.take_sent()
    return stacks


@pytest.fixture
def stacks(tmp_path):
    both = make(tmp_path)
    both.advance(3000)
    first = [core.state() for core in both.cores]
    yield both
    for core in both.cores:
        core.completions.clear()
    for index in range(20):
        for generation in range(1, 8):
            for number, core in enumerate(both.cores):
                close(core, Handle(number, 0, 64 + index, generation).pack())
                if index < 4:
                    close(core, Handle(7, 0, 8 + index, generation).pack())
    both.advance(6000)
    for core, before in zip(both.cores, first, strict=True):
        state = core.state()
        assert not core.log
        for name in POOLS:
            assert state[name] == before[name], name
        assert state["multicast0"] == before["multicast0"]
    both.close()


def spread(stacks: TwoStacks, port: int = PORT, ip: str = "0.0.0.0", *, order: tuple[int, ...] = (0, 1)) -> int:
    """UDP_OPEN with SPREAD on all cores, in that order; they must agree."""
    found = {open_socket(stacks.cores[number], port, ip, flags=1) for number in order}
    assert len(found) == 1, found
    return found.pop()


def close_spread(stacks: TwoStacks, handle: int) -> None:
    assert {close(core, handle) for core in stacks.cores} == {0}


def test_datagrams_come_to_the_core_of_the_socket(stacks):
    for number, core in enumerate(stacks.cores):
        handle = open_socket(core, PORT + number)
        for sport in range(3000, 3020):
            receive(core, handle)
            assert stacks.dispatch(bytes(datagram(b"x%d" % sport, port=PORT + number, sport=sport))) == 1 << number
            assert taken(core)[0] == b"x%d" % sport
        assert close(core, handle) == 0
    masks = {stacks.dispatch(bytes(datagram(b"x", sport=sport))) for sport in range(20)}
    assert masks == {1, 2}, "by hash again"


def test_ports_are_unique_over_the_cores(stacks):
    first, second = stacks.cores
    one = open_socket(first)
    assert open_socket(second) == -98
    assert close(first, one) == 0
    assert open_socket(second) > 0
    assert open_socket(first) == -98


def test_random_ports_are_unique_over_the_cores(tmp_path):
    """Both cores draw the same numbers at the same time."""
    stacks = make(tmp_path, "--random", "77", "--race-us", "2000")
    for _ in range(10):
        for core in stacks.cores:
            core.sqe_begin(Operation.UDP_OPEN, 1, inline=socket_address("0.0.0.0", 0))
        for core in stacks.cores:
            core.finish()
            assert core.completion().result > 0
    assert stacks.cores[0].state()["directory"] == 20
    stacks.close()


def test_spread(stacks):
    handle = spread(stacks)
    parts = Handle.unpack(handle)
    assert (parts.core, parts.index, parts.generation) == (7, 8, 1)
    arrived = [0] * CORES
    for sport in range(3000, 3040):
        for number, core in enumerate(stacks.cores):
            receive(core, handle, core=number)
        mask = stacks.dispatch(bytes(datagram(b"%d" % sport, sport=sport)))
        number = {1: 0, 2: 1}[mask]
        arrived[number] += 1
        assert taken(stacks.cores[number])[0] == b"%d" % sport
        assert not stacks.cores[1 - number].completions
        other = stacks.cores[1 - number]
        other.sqe(Operation.CANCEL, 9, joined=True, inline=(60).to_bytes(8, "little"))
        assert sorted(results(other)) == [(9, 0), (60, -125)]
    assert min(arrived) > 5
    for number, core in enumerate(stacks.cores):
        core.write(0x8000, b"from core")
        fields = {"handle": handle, "buffer": 0x8000, "length": 9, "inline": socket_address(PEER_IP, PEER_PORT)}
        assert core.call(Operation.SENDTO, operation_flags=number << 8, **fields) == 9
        assert core.call(Operation.SENDTO, operation_flags=(1 - number) << 8, **fields) == -22
        assert core.call(Operation.SENDTO, operation_flags=number << 8 | 1, **fields) == -22
        ((ip, data),) = leaving(core)
        assert data == b"from core" and ip[UDP].sport == PORT
        assert core.call(Operation.GETSOCKNAME, joined=True, handle=handle, buffer=0, length=32) == 32
        assert core.call(Operation.TCP_ACCEPT, joined=True, handle=handle) == -22
        assert set_option(core, handle, SocketOption.TTL, 9) == 0
        assert get_option(core, handle, SocketOption.TTL) == 9
    close_spread(stacks, handle)
    assert {close(core, handle) for core in stacks.cores} == {-9}
    again = Handle.unpack(spread(stacks, order=(1, 0)))
    assert (again.index, again.generation) == (8, 2)


def test_spread_refuses(stacks):
    handles = [spread(stacks, PORT + n, order=(n % 2, 1 - n % 2)) for n in range(4)]
    assert spread(stacks, PORT) == -98
    assert spread(stacks, PORT + 9) == -23
    for core in stacks.cores:
        assert open_socket(core, PORT) == -98, "a spread socket has it"
    close_spread(stacks, handles[1])
    assert spread(stacks, PORT + 9, "10.0.0.77") == -99
    assert spread(stacks, 68) == -98
    handles[1] = spread(stacks, PORT + 9, OUR_IP)
    assert Handle.unpack(handles[1]).index == 9
    for handle in handles:
        close_spread(stacks, handle)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("owner", [0, 1])
def test_all_cores_decide_alike(stacks, order, owner):
    """An ordinary socket has the port when the first core comes, and no longer when the last one does."""
    core = stacks.cores[owner]
    ordinary = open_socket(core)
    assert open_socket(stacks.cores[order[0]], flags=1) == -98
    assert close(core, ordinary) == 0
    assert open_socket(stacks.cores[order[1]], flags=1) == -98
    handle = spread(stacks, order=order)
    close_spread(stacks, handle)
    # And the other way round.
    assert open_socket(stacks.cores[order[0]], flags=1) > 0
    assert open_socket(core) == -98
    assert open_socket(stacks.cores[order[1]], flags=1) > 0


def test_decisions_race(tmp_path):
    """Both cores come to the same spread sockets at the same time, between others' ordinary ones."""
    stacks = make(tmp_path, "--race-us", "3000")
    for turn in range(6):
        taken_port = turn % 3 == 0
        ordinary = open_socket(stacks.cores[turn % 2]) if taken_port else 0
        for core in stacks.cores:
            core.sqe_begin(
                Operation.UDP_OPEN, 1, joined=True, operation_flags=1, inline=socket_address("0.0.0.0", PORT)
            )
        for core in stacks.cores:
            core.finish()
        found = {core.completion().result for core in stacks.cores}
        assert len(found) == 1
        handle = found.pop()
        assert (handle == -98) == taken_port
        if taken_port:
            close(stacks.cores[turn % 2], ordinary)
        else:
            close_spread(stacks, handle)
    assert stacks.cores[0].state()["directory"] == 0
    stacks.close()


def test_full_port_table(stacks):
    for core in stacks.cores:
        for _ in range(16):
            assert open_socket(core, 0) > 0
    assert spread(stacks) == -28
    assert close(stacks.cores[1], Handle(1, 0, 64, 1).pack()) == 0
    close_spread(stacks, spread(stacks))


@pytest.mark.parametrize("pieces", [2, 5])
def test_fragments_reach_the_core_of_the_socket(stacks, pieces):
    for number, core in enumerate(stacks.cores):
        handle = open_socket(core, PORT + number)
        payload = bytes(i * 3 & 0xFF for i in range(1480 * pieces - 60))
        for turn in range(3):
            receive(core, handle, length=8192)
            for part in fragment(datagram(payload, port=PORT + number, sport=turn + 1), fragsize=1480):
                stacks.dispatch(bytes(part))
            stacks.advance(2)
            data, address = taken(core)
            assert data == payload and (address["port"], address["extra"]) == (turn + 1, len(payload))
        for part in fragment(datagram(payload[:2000], port=PORT + number), fragsize=1480):
            stacks.dispatch(bytes(part))
        stacks.advance(2)
        receive(core, handle, length=8192)
        assert taken(core)[0] == payload[:2000], "kept, too"
    assert sum(core.state()["given"] for core in stacks.cores) >= 4


def test_unread_fragments_leave_buffers(stacks):
    """Packets from the other core wait in TX buffers: a few of them only."""
    for core in stacks.cores:
        open_socket(core, PORT + stacks.cores.index(core))
    for number in range(40):
        for part in fragment(datagram(bytes(2500), port=PORT + number % 2, sport=number + 1), fragsize=1480):
            stacks.dispatch(bytes(part))
        stacks.advance(1)
    for core in stacks.cores:
        assert core.state()["tx_free"] >= 10


def unreachable(frame: Ether) -> bytes:
    quoted = bytes(frame[IP])[:28]
    return bytes(Ether(src=PEER_MAC, dst=OUR_MAC) / IP(src=PEER_IP, dst=OUR_IP) / ICMP(type=3, code=3) / Raw(quoted))


def test_errors_reach_the_core_of_the_socket(stacks):
    passed = 0
    for number, core in enumerate(stacks.cores):
        for offset in range(6):
            handle = open_socket(core, PORT + offset)
            set_option(core, handle, SocketOption.PEER, socket_address(PEER_IP, PEER_PORT))
            assert sent(core, handle, b"?", None) == 1
            before = stacks.messages_passed
            mask = stacks.dispatch(unreachable(core.frames.pop()))
            stacks.settle()
            passed += stacks.messages_passed - before
            assert (mask == 1 << number) == (stacks.messages_passed == before)
            assert get_option(core, handle, SocketOption.ERROR) == 111
            assert close(core, handle) == 0
    assert passed > 0


# ---- Groups ----


def query(group: str = "0.0.0.0") -> bytes:
    to = "224.0.0.1" if group == "0.0.0.0" else group
    packet = IP(src=QUERIER, dst=to, ttl=1, proto=2) / IGMP(type=0x11, mrcode=10, gaddr=group)
    frame = Ether(src="02:00:00:00:00:08", dst=group_mac(to)) / packet
    assert frame[IP].ihl == 6 or Ether(bytes(frame))[IP].ihl == 6, "with Router Alert (RFC 2236 2)"
    return bytes(frame)


def igmp(stacks: TwoStacks) -> list[tuple[int, int, str]]:
    """(core, type, group) of what was sent."""
    stacks.settle()
    found = []
    for core, frame in stacks.take_sent():
        if IP in frame and frame[IP].proto == 2:
            assert frame[IP].ttl == 1
            message = IGMP(bytes(frame[IP].payload)[:8])
            assert frame.dst == group_mac(frame[IP].dst)
            found.append((core, message.type, message.gaddr))
    return found


def test_join_and_leave(stacks):
    bit = 1 << multicast_bit(bytes.fromhex(group_mac(GROUP).replace(":", "")))
    manager, other = stacks.cores
    assert not other.state()["multicast0"] & bit
    handle = open_socket(other)
    assert set_option(other, handle, SocketOption.JOIN_GROUP, group_address(GROUP, 0)) == 0
    assert igmp(stacks) == [(1, 0x16, GROUP)]
    assert other.state()["multicast0"] & bit and manager.state()["multicast0"] & bit
    stacks.advance(1000)
    assert (1, 0x16, GROUP) in igmp(stacks), "reported twice (RFC 2236 3)"
    frame = bytes(datagram(b"to the group", dst=GROUP, mac=group_mac(GROUP)))
    receive(other, handle)
    assert stacks.dispatch(frame) == 2
    assert taken(other)[0] == b"to the group"
    stacks.advance(2000)
    igmp(stacks)
    assert stacks.dispatch(query()) == 3
    stacks.advance(1500)
    assert igmp(stacks) == [(1, 0x16, GROUP)], "each core speaks for its sockets"
    # A socket of the other core joins, too: the filter stays until both have left.
    second = open_socket(manager, PORT + 1)
    assert set_option(manager, second, SocketOption.JOIN_GROUP, group_address(GROUP)) == 0
    stacks.advance(2000)
    igmp(stacks)
    assert set_option(other, handle, SocketOption.LEAVE_GROUP, group_address(GROUP)) == 0
    assert igmp(stacks) == [(1, 0x17, GROUP)]
    assert other.state()["multicast0"] & bit
    stacks.dispatch(query(GROUP))
    stacks.advance(1500)
    assert igmp(stacks) == [(0, 0x16, GROUP)]
    assert close(manager, second) == 0, "which leaves"
    assert igmp(stacks) == [(0, 0x17, GROUP)]
    assert not manager.state()["multicast0"] & bit
    receive(other, handle)
    stacks.dispatch(frame)
    assert not other.completions, "no longer"
    assert close(other, handle) == 0


def test_spread_sockets_join_on_all_cores(stacks):
    handle = spread(stacks)
    for core in stacks.cores:
        assert set_option(core, handle, SocketOption.JOIN_GROUP, group_address(GROUP)) == 0
    assert {core for core, _, _ in igmp(stacks)} == {0, 1}
    seen = set()
    for sport in range(30):
        mask = stacks.dispatch(bytes(datagram(b"g", sport=sport + 1, dst=GROUP, mac=group_mac(GROUP))))
        number = {1: 0, 2: 1}[mask]
        seen.add(number)
        receive(stacks.cores[number], handle, core=number)
        assert taken(stacks.cores[number])[0] == b"g"
    assert seen == {0, 1}
