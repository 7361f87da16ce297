"""The network side of the firmware: receive queues and buffer classes, link, rules, acknowledgements."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from firmware.firmware_peer import (
    OUR_IP,
    OUR_MAC,
    PEER_IP,
    PEER_MAC,
    PROMISED,
    Firmware,
    build,
    socket_address,
)
from firmware.network_bench import BROADCAST, CONFIG, MSS, accepted, listening, segment, stranger
from twinstack.proto.descriptor import RuleAction
from twinstack.proto.queues import NETIF_STATUS, Operation

STATUS, CONTROL, ADVERTISED, PARTNER, GIGABIT_CONTROL, GIGABIT_STATUS = 1, 0, 4, 5, 9, 10


@pytest.fixture(scope="module", autouse=True)
def built():
    build("host")


# --- Receive queues and buffers ---


@pytest.mark.parametrize("size", [0, 100, 1400])
def test_a_flood_of_strangers_leaves_buffers_for_connections(firmware, size):
    listening(firmware)
    handle, peer = accepted(firmware)
    firmware.sqe(Operation.RECV, 5, handle=handle, buffer=0, length=4096)
    before = firmware.state()
    flood = [stranger(number, size) for number in range(60)]
    firmware.burst([*flood, segment(peer, b"D" * 1000), segment(peer, b"s" * 10)])
    assert firmware.completion().result == 1010
    assert firmware.read(0, 1010) == b"D" * 1000 + b"s" * 10
    after = firmware.state()
    assert after["rx_dropped"] > 0 and after["flow_frames"] == before["flow_frames"] + 2
    answers = [frame for frame in firmware.frames if ICMP in frame]
    taken = after["frames"] - before["frames"] - 2
    assert len(answers) == taken, "each stranger that got a buffer is told once"
    firmware.call(Operation.ABORT, handle=handle)


def test_a_full_flow_queue_leaves_buffers_for_strangers(firmware):
    """Data that nobody reads, then an ARP request and a ping."""
    listening(firmware)
    connections = [accepted(firmware, 41000 + number) for number in range(20)]
    firmware.command("time 50")
    for _, peer in connections:
        peer.gather(list(firmware.frames))
    for _, peer in connections:
        firmware.burst([segment(peer, bytes(1400)) for _ in range(3)])  # more than the windows
    firmware.frames.clear()
    request = Ether(src=PEER_MAC, dst=BROADCAST) / ARP(op=1, hwsrc=PEER_MAC, psrc=PEER_IP, pdst=OUR_IP)
    ping = Ether(src=PEER_MAC, dst=OUR_MAC) / IP(src=PEER_IP, dst=OUR_IP) / ICMP() / Raw(bytes(1400))
    firmware.burst([request, ping])
    assert [ARP in frame for frame in firmware.frames].count(True) == 1
    assert [ICMP in frame for frame in firmware.frames].count(True) == 1
    for handle, _ in connections:
        firmware.call(Operation.ABORT, handle=handle)


def test_short_segments_lie_in_small_buffers(firmware):
    """Every length around the limit of 256 bytes with the pad: what the host gets is what was sent."""
    listening(firmware)
    handle, peer = accepted(firmware)
    start_state = firmware.state()
    for size in (1, 64, 72, 73, 128, 199, 200, 201, 300):  # 54 bytes of headers
        data = bytes(size * 7 + i & 0xFF for i in range(size))
        firmware.command("dmastall 1")
        firmware.sqe(Operation.RECV, 5, handle=handle, buffer=0x100, length=1024)
        peer.send("PA", data)
        state = firmware.state()
        short = size + 54 + 2 <= 256
        assert start_state["rx_small"] - state["rx_small"] == short, size
        assert start_state["rx_large"] - state["rx_large"] == (not short), size
        firmware.command("dmastall 0")
        assert firmware.completion().result == size
        assert firmware.read(0x100, size) == data
    firmware.call(Operation.ABORT, handle=handle)


def test_tiny_segments_leave_the_large_buffers_to_others(firmware):
    listening(firmware)
    handle, peer = accepted(firmware)
    for _ in range(200):
        peer.send("PA", b"z")
    state = firmware.state()
    assert state["rx_large"] == CONFIG.rx_large_buffers and state["dropped"] > 0
    assert state["rx_small"] >= CONFIG.rx_small_buffers // 2 - 1
    other, second = accepted(firmware, 40001)
    firmware.sqe(Operation.RECV, 6, handle=other, buffer=0, length=100)
    second.send("PA", b"still here")
    assert firmware.completion().result == 10
    for one in (handle, other):
        firmware.call(Operation.ABORT, handle=one)


def test_broadcasts_and_empty_datagrams_do_no_harm(firmware):
    listening(firmware)
    handle, peer = accepted(firmware)
    for _ in range(5):
        to_all = Ether(src=PEER_MAC, dst=BROADCAST) / IP(src=PEER_IP, dst="10.0.0.255") / UDP(dport=9) / Raw(bytes(900))
        firmware.burst([to_all] * 40)
        assert not firmware.frames, "RFC 1122 3.2.2: no error about a broadcast"
        padded = bytes(stranger(0, 0)).ljust(60, b"\0")
        firmware.burst([Ether(padded)])
        (answer,) = firmware.frames
        assert answer[ICMP].type == 3 and answer[ICMP].code == 3
        firmware.frames.clear()
    cut = bytearray(bytes(stranger(0, 0)).ljust(60, b"\0"))
    for length in range(8):  # RFC 768: the length covers the header
        cut[38:40] = length.to_bytes(2, "big")
        firmware.burst([Ether(bytes(cut))])
    firmware.frames.clear()
    firmware.sqe(Operation.RECV, 5, handle=handle, buffer=0, length=100)
    peer.send("PA", b"alive")
    assert firmware.completion().result == 5
    firmware.call(Operation.ABORT, handle=handle)


# --- Link ---


def phy(firmware: Firmware, registers: dict[int, int], *, address: int = 3, port: int = 0) -> None:
    for number, value in registers.items():
        firmware.command(f"phy {port} {address} {number} {value}")


FOUND = {  # auto-negotiation on; 10/100 in full duplex, pause; 1000BASE-T full duplex; the partner both duplex modes
    CONTROL: 0x1140,
    STATUS: 0x796D,
    ADVERTISED: 0x0541,
    PARTNER: 0xC5E1,
    GIGABIT_CONTROL: 0x0200,
    GIGABIT_STATUS: 0x3800,
}


def mac_control(firmware: Firmware) -> tuple[int, int]:
    """(speed, {pause_send, pause_receive}) of port 0."""
    control = firmware.state()["mac0"]
    return control >> 4 & 3, control >> 8 & 3


def test_without_a_phy_the_link_is_up(firmware):
    firmware.command("time 200")
    assert firmware.state()["link"] == 1 and mac_control(firmware) == (2, 0)


@pytest.mark.parametrize(
    ("registers", "speed", "pause"),
    [
        ({}, 2, 0b11),
        ({GIGABIT_STATUS: 0}, 1, 0b11),
        ({GIGABIT_CONTROL: 0}, 1, 0b11),
        ({GIGABIT_STATUS: 0, PARTNER: 0x4061}, 0, 0b00),
        ({GIGABIT_STATUS: 0, PARTNER: 0x4101}, 1, 0b00),
        ({ADVERTISED: 0x0D41, PARTNER: 0xC9E1}, 2, 0b01),  # table 28B-3: obey only
        ({PARTNER: 0xC9E1}, 2, 0b00),
        ({PARTNER: 0xC1E1}, 2, 0b00),
        ({CONTROL: 0x2100, STATUS: 0x794D}, 1, 0b00),  # fixed 100 Mb/s
        ({CONTROL: 0x0140, STATUS: 0x794D}, 2, 0b00),
        ({CONTROL: 0x0100, STATUS: 0x794D}, 0, 0b00),
    ],
)
@pytest.mark.parametrize("address", [0, 31])
def test_the_mac_follows_the_negotiated_link(firmware, registers, speed, pause, address):
    phy(firmware, FOUND | registers, address=address)
    firmware.command("time 2500")
    assert firmware.state()["link"] == 1 and mac_control(firmware) == (speed, pause)


def test_a_phy_advertises_what_the_mac_can_do(firmware):
    phy(firmware, FOUND | {ADVERTISED: 0x01E1, GIGABIT_CONTROL: 0x0300}, address=1)
    firmware.command("time 2500")
    assert firmware.mdio == [(0, ADVERTISED, 0x0541), (0, GIGABIT_CONTROL, 0x0200), (0, CONTROL, 0x1340)]
    assert firmware.state()["link"] == 1 and mac_control(firmware) == (2, 0b11)
    firmware.mdio.clear()
    firmware.command("time 1000")
    assert not firmware.mdio, "once"


def test_a_phy_that_needs_no_change_is_not_disturbed(firmware):
    for registers in (FOUND, FOUND | {CONTROL: 0x2100, ADVERTISED: 0x01E1}):
        firmware.command("nophy 0")
        firmware.command("time 2500")
        phy(firmware, registers)
        firmware.command("time 2500")
        assert not firmware.mdio


def test_a_phy_that_comes_late_goes_and_comes_again(firmware):
    firmware.command("time 3000")
    phy(firmware, FOUND | {GIGABIT_STATUS: 0})
    firmware.command("time 2500")
    assert mac_control(firmware)[0] == 1
    firmware.command("nophy 0")
    firmware.command("time 3000")
    assert firmware.state()["link"] == 1
    phy(firmware, FOUND, address=9)
    firmware.command("time 2500")
    assert mac_control(firmware)[0] == 2


def test_connections_outlive_a_link_that_goes_down(firmware):
    phy(firmware, FOUND)
    firmware.command("time 200")
    listening(firmware)
    handle, peer = accepted(firmware)
    for down_ms in (200, 3000, 20000):
        phy(firmware, {STATUS: FOUND[STATUS] & ~4})
        firmware.command("time 200")
        assert firmware.state()["link"] == 0
        block = firmware.call(Operation.NETIF_STATUS, buffer=0x8000, length=128)
        assert block == 128 and NETIF_STATUS.unpack(firmware.read(0x8000, 128))["link_up"] == 0
        assert firmware.call(Operation.TCP_CONNECT, inline=socket_address(PEER_IP, 80)) == -101
        firmware.write(0x100, b"while it is down")
        firmware.sqe(Operation.SEND, 11, handle=handle, buffer=0x100, length=16)
        firmware.completions.clear()
        firmware.frames.clear()
        firmware.command(f"time {down_ms}")
        assert not firmware.frames, "nothing is sent"
        phy(firmware, {STATUS: FOUND[STATUS]})
        firmware.command("time 150")
        assert [frame for frame in firmware.frames if ARP in frame and frame[ARP].psrc == OUR_IP], "announced again"
        before = len(peer.received)
        peer.collect()
        peer.acknowledge_all()
        assert peer.received[before:] == b"while it is down", "sent again at once"
    firmware.sqe(Operation.RECV, 5, handle=handle, buffer=0, length=100)
    peer.send("PA", b"and back")
    assert firmware.completion().result == 8
    firmware.call(Operation.ABORT, handle=handle)


def test_what_a_link_lost_goes_out_again_at_once(firmware):
    """Not only after lwIP's retransmission timeout of a second."""
    phy(firmware, FOUND)
    firmware.command("time 200")
    listening(firmware)
    handle, peer = accepted(firmware)
    firmware.write(0x100, b"lost with the link")
    assert firmware.call(Operation.SEND, handle=handle, buffer=0x100, length=18) == 18
    firmware.frames.clear()
    for status in (FOUND[STATUS] & ~4, FOUND[STATUS]):
        phy(firmware, {STATUS: status})
        firmware.command("time 80")
    peer.collect()
    assert peer.received == b"lost with the link"
    firmware.call(Operation.ABORT, handle=handle)


def test_the_link_in_band(firmware):
    firmware.command("mac 0 " + str(0b1 | 0b10 | 1 << 2 | 1 << 4))
    firmware.command("time 5")
    assert firmware.state()["link"] == 1 and mac_control(firmware)[0] == 1
    firmware.command("mac 0 1")
    firmware.command("time 5")
    assert firmware.state()["link"] == 0
    firmware.command("mac 0 " + str(0b1 | 0b10 | 2 << 2 | 1 << 4))
    firmware.command("time 5")
    assert firmware.state()["link"] == 1 and mac_control(firmware)[0] == 2


def test_the_other_core_learns_of_the_link(stacks_and_peer):
    both, _peer = stacks_and_peer
    for status in (FOUND[STATUS] & ~4, FOUND[STATUS]):
        phy(both.cores[0], FOUND | {STATUS: status})
        both.take_sent()
        both.advance(300)
        assert [core.state()["link"] for core in both.cores] == [bool(status & 4)] * 2
    assert [(core, frame[ARP].psrc) for core, frame in both.take_sent() if ARP in frame] == [(0, OUR_IP)]


def test_a_core_that_boots_learns_that_the_link_is_down():
    manager = Firmware(("--core", "0", "--cores", "2"))
    phy(manager, FOUND | {STATUS: FOUND[STATUS] & ~4})
    manager.command("time 200")
    manager.messages.clear()
    other = Firmware(("--core", "1", "--cores", "2"))
    for to, *words in other.messages:
        assert to == 0
        manager.command("message 1 " + " ".join(map(str, words)))
    manager.command("time 2")
    assert other.state()["link"] == 1
    for to, *words in manager.messages:
        assert to == 1
        other.command("message 0 " + " ".join(map(str, words)))
    assert other.state()["link"] == 0
    manager.close()
    other.close()


# --- Dispatch rules ---


def test_the_manager_sets_the_rules(firmware):
    udp = 17 << 16
    by_index = {rule[2] & 15: (*rule[:2], rule[2] & 0x1F0) for rule in firmware.rules if rule[2] >> 12 & 7}
    assert by_index == {
        CONFIG.rules - 2: (udp, 53, 1 << 5 | 1 << 7),
        CONFIG.rules - 1: (udp, 67 | 68 << 16, 1 << 5 | 1 << 7 | 1 << 8),
    }
    assert {rule[2] >> 12 & 7 for rule in firmware.rules} == {RuleAction.OFF, RuleAction.MANAGER}
    assert {rule[2] & 15 for rule in firmware.rules} == set(range(CONFIG.rules))


def test_no_other_core_touches_the_managers_page():
    other = Firmware(("--core", "1", "--cores", "2"))
    other.command("time 100")
    assert not other.rules
    other.close()


# --- Acknowledgements ---


@pytest.mark.parametrize(("connections", "burst"), [(1, 1), (1, 2), (1, 8), (2, 4), (4, 2)])
def test_at_most_one_acknowledgement_for_two_segments(firmware, connections, burst):
    assert PROMISED >= 2 * connections, "windows of one segment, each of which is acknowledged"
    listening(firmware)
    opened = [accepted(firmware, 40000 + number) for number in range(connections)]
    for number, (handle, _) in enumerate(opened):
        firmware.sqe(Operation.RECV, 10 + number, handle=handle, buffer=0x8000 * number, length=0x8000)
    firmware.command("time 30")
    edges = [0] * connections
    segments = acknowledgements = 0

    def look() -> None:
        nonlocal acknowledgements
        for frame in firmware.frames:
            number = frame[TCP].dport - 40000
            edges[number] = max(edges[number], frame[TCP].ack + frame[TCP].window)
            acknowledgements += 1
        firmware.frames.clear()
        for completion in firmware.completions:
            number = completion.user_data - 10
            handle = opened[number][0]
            firmware.sqe(Operation.RECV, 10 + number, handle=handle, buffer=0x8000 * number, length=0x8000)
        firmware.completions.clear()

    for number, (_, peer) in enumerate(opened):
        peer.gather(list(firmware.frames))
        edges[number] = peer.sequence + peer.window
    firmware.frames.clear()
    for _ in range(200):
        moved = 0
        for number, (_, peer) in enumerate(opened):
            room = min(burst, (edges[number] - peer.sequence) // MSS)
            if room:
                firmware.burst([segment(peer, bytes(MSS)) for _ in range(room)])
                look()
            moved += room
        segments += moved
        if not moved:
            firmware.command("time 1")
            look()
        if segments >= 96:
            break
    firmware.command("time 20")
    look()
    assert segments >= 96 and acknowledgements <= segments / 2 + 2 * connections
    for number, (_, peer) in enumerate(opened):
        assert edges[number] >= peer.sequence + MSS, "all is acknowledged, and there is room"
    for handle, _ in opened:
        firmware.sqe(Operation.ABORT, 99, handle=handle)
    firmware.completions.clear()


def test_a_single_segment_is_acknowledged_soon(firmware):
    listening(firmware)
    handle, peer = accepted(firmware)
    firmware.sqe(Operation.RECV, 5, handle=handle, buffer=0, length=0x4000)
    firmware.command("time 50")
    peer.collect()
    firmware.burst([segment(peer, b"one")])
    firmware.command("time 11")
    acknowledged = [frame[TCP].ack for frame in firmware.frames]
    assert acknowledged == [peer.sequence]
    firmware.sqe(Operation.ABORT, 99, handle=handle)
    firmware.completions.clear()


def test_a_second_segment_is_acknowledged_although_dma_is_slow(firmware):
    listening(firmware)
    handle, peer = accepted(firmware)
    firmware.sqe(Operation.RECV, 5, handle=handle, buffer=0, length=0x4000)
    firmware.command("time 50")
    peer.collect()
    firmware.command("dmastall 1")
    firmware.burst([segment(peer, bytes(MSS)) for _ in range(2)])
    firmware.command("time 2")
    assert firmware.frames[-1][TCP].ack == peer.sequence
    firmware.command("dmastall 0")
    firmware.sqe(Operation.ABORT, 99, handle=handle)
    firmware.completions.clear()


@pytest.mark.parametrize("ms", [0, 1, 2, 3])
def test_a_window_that_opens_is_told_whatever_carried_the_acknowledgement(firmware, ms):
    listening(firmware)
    handle, peer = accepted(firmware)
    others = [accepted(firmware, 40001 + number) for number in range(5)]  # for small windows
    firmware.sqe(Operation.RECV, 5, handle=handle, buffer=0, length=0x4000)
    firmware.command("time 50")
    peer.collect()
    for _ in range(3):
        firmware.command("time 2")
        peer.collect()
        firmware.command("dmastall 1")
        firmware.burst([segment(peer, bytes(MSS)) for _ in range(peer.window // MSS)])
        firmware.command(f"dmastall 0 {ms}")
        firmware.completions.clear()
        firmware.sqe(Operation.RECV, 5, handle=handle, buffer=0, length=0x4000)
        peer.collect()
        assert firmware.state()["rx_large"] == CONFIG.rx_large_buffers
        assert peer.window >= MSS, "without waiting for the peer's persist timer"
    for one in (handle, *(other for other, _ in others)):
        firmware.sqe(Operation.ABORT, 99, handle=one)
    firmware.completions.clear()


def test_segments_out_of_order_are_acknowledged_at_once(firmware):
    """RFC 5681 3.2: the sender's fast retransmission lives on duplicates."""
    listening(firmware)
    handle, peer = accepted(firmware)
    firmware.sqe(Operation.RECV, 5, handle=handle, buffer=0, length=0x4000)
    firmware.command("time 50")
    peer.collect()
    lost = segment(peer, b"a" * 1000)
    first = peer.sequence
    later = [segment(peer, b"b" * 1000) for _ in range(3)]
    firmware.burst(later)
    assert [frame[TCP].ack for frame in firmware.frames] == [first - 1000] * 3
    firmware.frames.clear()
    firmware.burst([lost])
    assert firmware.completion().result == 4000
    assert firmware.frames[-1][TCP].ack == peer.sequence
    firmware.sqe(Operation.ABORT, 99, handle=handle)
    firmware.completions.clear()
