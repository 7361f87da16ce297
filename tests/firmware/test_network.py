"""The network side of the firmware: receive queues and buffer classes, flow table, link, rules, acknowledgements."""

from __future__ import annotations

import struct

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from firmware.firmware_peer import (
    FLOWS_OFFSET,
    OUR_IP,
    OUR_MAC,
    PEER_IP,
    PEER_MAC,
    Firmware,
    TcpPeer,
    build,
    flow_owner,
    flow_table,
    packed_ip,
    packed_mac,
    socket_address,
)
from firmware.two_stacks import CORES, ECHO_PORT, TwoStacks
from twinstack.config import EngineConfig
from twinstack.proto.descriptor import RuleAction
from twinstack.proto.queues import NETIF_CONFIG, Operation
from twinstack_sim.peer_lwip import LwipPeer

CONFIG = EngineConfig()
BROADCAST = "ff:ff:ff:ff:ff:ff"
MSS = 1460
TIME_WAIT_MS = 12000
SEGMENT = TCP(sport=40000, dport=7)
STATUS, CONTROL, ADVERTISED, PARTNER, GIGABIT_CONTROL, GIGABIT_STATUS = 1, 0, 4, 5, 9, 10


@pytest.fixture(scope="module", autouse=True)
def built():
    build("host")


def start(*arguments: str) -> Firmware:
    """A configured core that knows the peer."""
    firmware = Firmware(arguments)
    if "--cores" in arguments:
        block = NETIF_CONFIG.pack(
            {"family": 2, "prefix_length": 24, "address": packed_ip(OUR_IP), "mac": packed_mac(OUR_MAC)}
        )
        firmware.sqe(Operation.NETIF_CONFIG, 100, inline=block)
        firmware.command("time 300")
        firmware.completions.clear()
        firmware.messages.clear()
    else:
        firmware.configure()
    firmware.learn_peer()
    firmware.frames.clear()
    return firmware


@pytest.fixture
def firmware():
    """After the test all buffers and flows must be back and no sanitizer unhappy."""
    process = start()
    first = process.state()
    yield process
    process.command(f"time {TIME_WAIT_MS}")
    last = process.state()
    process.close()
    assert not process.log
    for name in ("rx_large", "rx_small", "bad_free", "tx_free", "flows", "flow_errors", "pcbs", "time_wait"):
        assert last[name] == first[name], name


def listening(firmware: Firmware, *, accept: bool = True) -> int:
    handle = firmware.call(Operation.TCP_LISTEN, 2, joined=True, length=200, inline=socket_address("0.0.0.0", 7))
    if accept:
        firmware.sqe(Operation.TCP_ACCEPT, 3, joined=True, handle=handle, operation_flags=1)
    return handle


def accepted(firmware: Firmware, local: int = 40000) -> tuple[int, TcpPeer]:
    peer = TcpPeer(firmware, 7, local)
    peer.open()
    completion = firmware.completion()
    assert completion.user_data == 3 and completion.result > 0
    return completion.result, peer


def segment(peer: TcpPeer, payload: bytes, flags: str = "A") -> Ether:
    """The next segment of a connection, to be sent by burst()."""
    header = TCP(sport=peer.local, dport=peer.port, flags=flags, seq=peer.sequence, ack=peer.expected, window=60000)
    peer.sequence += len(payload)
    return Ether(src=PEER_MAC, dst=OUR_MAC) / IP(src=PEER_IP, dst=OUR_IP) / header / payload


def stranger(number: int, size: int) -> Ether:
    ip = IP(src=PEER_IP, dst=OUR_IP) / UDP(sport=3000 + number, dport=9) / Raw(bytes(size))
    return Ether(src=PEER_MAC, dst=OUR_MAC) / ip


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


@pytest.mark.skipif(CONFIG.rx_small_buffers == 0, reason="this engine has no small buffers")
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


@pytest.mark.skipif(CONFIG.rx_small_buffers == 0, reason="this engine has no small buffers")
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


# --- Flow table ---


def test_a_connection_enters_with_the_last_segment_of_its_handshake(firmware):
    listening(firmware)
    peer = TcpPeer(firmware, 7)
    peer.send("S")
    assert firmware.state()["flows"] == 0
    peer.send("A")
    state = firmware.state()
    assert state["flows"] == 1
    peer.send("PA", b"x")
    assert firmware.state()["flow_frames"] == state["flow_frames"] + 1
    firmware.call(Operation.ABORT, handle=firmware.completion().result)
    assert firmware.state()["flows"] == 0


def test_a_syn_flood_enters_nothing(firmware):
    listening(firmware)
    for port in range(20000, 20100):
        syn = TCP(sport=port, dport=7, flags="S", seq=1, window=1000)
        firmware.frame(Ether(src=PEER_MAC, dst=OUR_MAC) / IP(src=PEER_IP, dst=OUR_IP) / syn)
    assert firmware.state()["flows"] == 0
    firmware.command("time 60000")
    handle, _peer = accepted(firmware)
    assert firmware.state()["flows"] == 1
    firmware.call(Operation.ABORT, handle=handle)


def test_an_outgoing_connection_enters_before_its_syn(tmp_path):
    shared = tmp_path / "shared"
    firmware = start("--shared", str(shared))
    firmware.command("stall 1")
    firmware.sqe(Operation.TCP_CONNECT, 4, inline=socket_address(PEER_IP, 80))
    assert len(flow_table(shared)) == 1, "the SYN is still in its queue"
    firmware.command("stall 0")
    syn = firmware.frames.pop()
    assert flow_owner(shared, syn) == 0
    firmware.close()


def end_by_reset(firmware: Firmware, handle: int, peer: TcpPeer) -> None:
    peer.send("R")
    assert firmware.call(Operation.CLOSE, handle=handle) == 0


def end_by_abort(firmware: Firmware, handle: int, peer: TcpPeer) -> None:
    assert firmware.call(Operation.ABORT, handle=handle) == 0


def end_by_close(firmware: Firmware, handle: int, peer: TcpPeer) -> None:
    assert firmware.call(Operation.CLOSE, handle=handle) == 0
    peer.collect()
    peer.send("A")
    peer.send("FA")
    assert firmware.state()["flows"] == 1, "until TIME_WAIT ends"
    firmware.command(f"time {TIME_WAIT_MS}")


def end_by_peer(firmware: Firmware, handle: int, peer: TcpPeer) -> None:
    peer.send("FA")
    assert firmware.call(Operation.CLOSE, handle=handle) == 0
    peer.collect()
    peer.send("A")


def end_by_silence(firmware: Firmware, handle: int, peer: TcpPeer) -> None:
    """Data that is never acknowledged."""
    firmware.sqe(Operation.SEND, 9, handle=handle, buffer=0, length=10)
    firmware.completions.clear()
    for _ in range(60):
        firmware.command("time 20000")
        if not firmware.state()["pcbs"]:
            break
    firmware.frames.clear()
    assert firmware.call(Operation.CLOSE, handle=handle) == 0


ENDS = [end_by_reset, end_by_abort, end_by_close, end_by_peer, end_by_silence]


@pytest.mark.parametrize("end", ENDS)
def test_an_entry_goes_with_its_connection(firmware, end):
    listening(firmware)
    handle, peer = accepted(firmware)
    assert firmware.state()["flows"] == 1
    end(firmware, handle, peer)
    assert firmware.state()["flows"] == 0


def test_entries_of_connections_nobody_accepted(firmware):
    listener = listening(firmware, accept=False)
    for number in range(3):
        TcpPeer(firmware, 7, 40000 + number).open()
    assert firmware.state()["flows"] == 3
    assert firmware.call(Operation.CLOSE, joined=True, handle=listener) == 0
    assert firmware.state()["flows"] == 0


def test_entries_of_connects_that_fail(firmware):
    firmware.sqe(Operation.TCP_CONNECT, 4, inline=socket_address(PEER_IP, 81))
    peer = TcpPeer(firmware, firmware.frames[-1][TCP].sport, local=81)
    peer.expected = firmware.frames.pop()[TCP].seq + 1
    assert firmware.state()["flows"] == 1
    peer.send("RA")
    assert firmware.completion().result == -111 and firmware.state()["flows"] == 0
    firmware.sqe(Operation.TCP_CONNECT, 5, inline=socket_address(PEER_IP, 82))
    firmware.command("time 40000")
    assert firmware.completion().result == -110 and firmware.state()["flows"] == 0


def test_no_entry_is_lost_over_many_connections(firmware):
    listening(firmware)
    for number in range(500):
        local = 20000 + number
        handle, peer = accepted(firmware, local)
        (end_by_reset, end_by_abort, end_by_peer)[number % 3](firmware, handle, peer)
        firmware.frames.clear()
    state = firmware.state()
    assert state["flows"] == 0 and state["flow_full"] == 0 and state["flow_errors"] == 0


def test_connections_go_on_by_hash_when_the_table_is_full():
    firmware = start("--flows", "2")
    listening(firmware)
    connections = [accepted(firmware, 40000 + number) for number in range(6)]
    state = firmware.state()
    assert state["flows"] == 2 and state["flow_full"] == 4
    for number, (handle, peer) in enumerate(connections):
        firmware.sqe(Operation.RECV, 10, handle=handle, buffer=0, length=4000)
        firmware.command("time 30")
        for _, one in connections:
            one.gather(list(firmware.frames))
        firmware.frames.clear()
        for _ in range(2):
            peer.send("PA", bytes([number]) * 700)
            completion = firmware.completion()
            assert (completion.user_data, completion.result) == (10, 700)
            firmware.sqe(Operation.RECV, 10, handle=handle, buffer=0, length=4000)
            peer.collect()
        if number:
            firmware.sqe(Operation.ABORT, 99, handle=handle)
            firmware.completions.clear()
    assert firmware.state()["flows"] == 1
    firmware.sqe(Operation.ABORT, 99, handle=connections[0][0])
    firmware.completions.clear()
    handle, _ = accepted(firmware, 50000)
    assert firmware.state()["flows"] == 1, "entries can be had again"
    firmware.close()


def test_windows_without_entries_promise_no_more_than_the_other_queue_has():
    firmware = start("--flows", "1")
    listening(firmware)
    connections = [accepted(firmware, 40000 + number) for number in range(12)]
    peers = [peer for _, peer in connections[1:]]
    for number, (handle, _) in enumerate(connections):
        firmware.sqe(Operation.RECV, 10 + number, handle=handle, buffer=0x4000 * number, length=0x4000)
    for _ in range(20):
        firmware.command("time 5")
        for _, peer in connections:
            peer.gather(list(firmware.frames))
        firmware.frames.clear()
        promised = sum(-(-peer.window // MSS) for peer in peers)
        # The windows of SYN/ACKs are given before it is known that the table is full.
        assert promised <= max(CONFIG.rx_large_buffers // 2 - 1, 9) + firmware.state()["excess"]
    firmware.close()


def test_outgoing_connections_with_a_full_table_lead_back_by_hash(tmp_path):
    cores = [
        start("--core", str(core), "--cores", "2", "--shared", str(tmp_path / "shared"), "--flows", "1")
        for core in range(2)
    ]
    cores[0].sqe(Operation.TCP_CONNECT, 4, inline=socket_address(PEER_IP, 79))  # takes the only entry
    cores[0].frames.clear()
    for _ in range(8):
        cores[0].sqe(Operation.TCP_CONNECT, 4, inline=socket_address(PEER_IP, 80))
    stacks_model = TwoStacksModel()
    assert len(cores[0].frames) == 8
    for syn in cores[0].frames:
        assert stacks_model.core_of(syn) == 0
    assert cores[0].state()["flow_full"] == 8
    for core in cores:
        core.close()


class TwoStacksModel:
    """Where the hash leads the answer to a segment that we sent."""

    def __init__(self) -> None:
        from twinstack.models.dispatcher import DispatcherModel

        self.model = DispatcherModel(CORES)

    def core_of(self, sent: Ether) -> int:
        remote, local = (bytes(map(int, text.split("."))) for text in (sent[IP].dst, sent[IP].src))
        return self.model.probe(remote, local, (sent[TCP].dport, sent[TCP].sport))


def plant(shared, slot: int, core: int, source_port: int, destination_port: int) -> None:
    """An entry of another core in the fake flow table."""
    addresses = [bytes(map(int, text.split("."))) for text in (PEER_IP, OUR_IP)]
    with open(shared, "r+b") as file:
        file.seek(FLOWS_OFFSET + 16 * slot)
        file.write(struct.pack("<4s4sHHI", *addresses, source_port, destination_port, core + 1))


def test_a_tuple_of_another_core_is_not_taken(tmp_path):
    shared = tmp_path / "shared"
    firmware = start("--cores", "2", "--shared", str(shared))
    listening(firmware)
    plant(shared, 5, 1, 40000, 7)
    peer = TcpPeer(firmware, 7)
    peer.send("S")
    peer.send("A")
    assert "R" in peer.flags[-1] and not firmware.completions
    assert firmware.state()["flow_clashes"] == 1 and list(flow_table(shared).values()) == [1]
    firmware.close()


def test_a_local_port_that_clashes_is_not_used(tmp_path):
    ports = []
    for attempt in range(2):
        shared = tmp_path / f"shared{attempt}"
        firmware = start("--cores", "2", "--shared", str(shared), "--random", "4711")
        if ports:
            plant(shared, 3, 1, 80, ports[0])
        firmware.sqe(Operation.TCP_CONNECT, 4, inline=socket_address(PEER_IP, 80))
        ports.append(firmware.frames.pop()[TCP].sport)
        assert firmware.state()["directory"] == 1 and firmware.state()["flow_clashes"] == attempt
        firmware.close()
    assert ports[0] != ports[1]


# --- Segments that arrive in fragments at another core ---


@pytest.fixture
def stacks(tmp_path):
    peer = LwipPeer(PEER_IP, seed=1, mac=PEER_MAC)
    both = TwoStacks(tmp_path, peer)
    both.configure()
    both.take_sent()
    yield both, peer
    for core in both.cores:
        core.command("time 1000")
        state = core.state()
        assert state["rx_free"] == CONFIG.rx_buffers
        assert not core.log
    both.close()
    peer.close()


def fragmented(stacks: TwoStacks) -> list[int]:
    """From here on each TCP segment of the peer with data arrives in fragments; the number of segments so far."""
    count = [0]
    whole = stacks.dispatch

    def dispatch(frame: bytes) -> int:
        packet = Ether(frame)
        if TCP not in packet or packet[IP].len <= 40:
            return whole(frame)
        count[0] += 1
        ip = IP(bytes(packet[IP])[: packet[IP].len])
        ip.id = count[0]
        ip.flags = 0  # the peer does not let its packets be fragmented
        del ip.chksum
        mask = 0
        for part in fragment(ip, fragsize=480):
            mask = whole(bytes(Ether(src=PEER_MAC, dst=OUR_MAC) / part))
        return mask

    stacks.dispatch = dispatch
    return count


def echo_all(stacks: TwoStacks, clients, data: bytes, limit_ms: int) -> None:
    texts = dict.fromkeys(clients, b"")

    def done() -> bool:
        for client in clients:
            texts[client] += client.recv()
        return all(text == data for text in texts.values())

    stacks.run_until(done, "the echo", limit_ms)


def test_a_peer_whose_every_segment_is_fragmented_makes_progress(stacks):
    both, peer = stacks
    both.listen()
    clients = [peer.connect(OUR_IP, ECHO_PORT) for _ in range(4)]
    both.run_until(lambda: all(client.connected for client in clients), "connections")
    count = fragmented(both)
    data = bytes(i * 7 & 0xFF for i in range(8000))
    for client in clients:
        client.send_all(data)
    echo_all(both, clients, data, 30000)
    states = [core.state() for core in both.cores]
    assert count[0] >= 4 * 8000 // MSS
    assert sum(state["given"] for state in states) == sum(state["taken"] for state in states) > 5
    assert not any("R" in str(frame[TCP].flags) for _, frame in both.take_sent() if TCP in frame)
    for client in clients:
        client.close()
    both.run_until(lambda: all(connection.ended for connection in both.connections()), "the end of all")
    both.advance(20)


def test_handing_over_ends_when_messages_are_lost(stacks):
    both, peer = stacks
    both.listen()
    clients = [peer.connect(OUR_IP, ECHO_PORT) for _ in range(4)]
    both.run_until(lambda: all(client.connected for client in clients), "connections")
    fragmented(both)
    data = bytes(i * 11 & 0xFF for i in range(3000))
    both._drop_message = both.messages_passed + 1
    for client in clients:
        client.send_all(data)
    echo_all(both, clients, data, 30000)
    assert both.messages_passed > both._drop_message
    assert sum(core.state()["not_given"] for core in both.cores) >= 1
    for client in clients:
        client.close()
    both.run_until(lambda: all(connection.ended for connection in both.connections()), "the end of all")
    both.advance(20)


@pytest.mark.parametrize(
    "words",
    [
        (17 | 9 << 8, 0 | 60 << 16, 60 | 1 << 16, 0),  # no such port
        (17, 0 | 2000 << 16, 60 | 1 << 16, 0),  # longer than a buffer
        (17, 0 | 60 << 16, 0 | 1 << 16, 0),  # an empty part
        (17, 40 | 60 << 16, 40 | 1 << 16, 0),  # beyond the end
        (17, 20 | 60 << 16, 40 | 1 << 16, 0),  # no beginning
        (17, 0 | 60 << 16, 60 | 1 << 16, 0),  # not an IPv4 packet
        (18 | 1 << 8, 1 << 16, 0, 0),  # an answer to nothing
    ],
)
def test_nonsense_from_another_core_takes_no_buffer(words):
    firmware = start("--cores", "2")
    before = firmware.state()
    firmware.command("message 1 " + " ".join(map(str, words)))
    firmware.command("time 300")
    after = firmware.state()
    assert after["tx_free"] == before["tx_free"] and after["taken"] == 0
    firmware.close()


# --- Link ---


def phy(firmware: Firmware, registers: dict[int, int], *, address: int = 3, port: int = 0) -> None:
    for number, value in registers.items():
        firmware.command(f"phy {port} {address} {number} {value}")


FOUND = {  # auto-negotiation on; all of 10/100 in both duplex modes, pause; 1000BASE-T full duplex
    CONTROL: 0x1140,
    STATUS: 0x796D,
    ADVERTISED: 0x05E1,
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
        ({ADVERTISED: 0x0DE1, PARTNER: 0xC9E1}, 2, 0b01),  # table 28B-3: obey only
        ({ADVERTISED: 0x09E1, PARTNER: 0xCDE1}, 2, 0b10),  # send only
        ({ADVERTISED: 0x09E1, PARTNER: 0xC9E1}, 2, 0b00),
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
        block = firmware.call(Operation.NETIF_STATUS, buffer=0x8000, length=32)
        assert block == 32 and NETIF_CONFIG.unpack(firmware.read(0x8000, 32))["link_up"] == 0
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


def test_the_other_core_learns_of_the_link(stacks):
    both, _peer = stacks
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
    matches = {1 << 5 | 1 << 7, 1 << 5 | 1 << 8}
    assert {rule[:2] for rule in firmware.rules} == {(udp, 53), (udp, 68 << 16)}
    for _kind, ports, rule in firmware.rules:
        assert rule >> 12 & 7 == RuleAction.MANAGER
        assert rule & 0x1F0 == 1 << 5 | (1 << 7 if ports == 53 else 1 << 8) and rule & 0x1F0 in matches
    assert {rule[2] & 15 for rule in firmware.rules} == {CONFIG.rules - 1, CONFIG.rules - 2}


def test_no_other_core_touches_the_managers_page():
    other = Firmware(("--core", "1", "--cores", "2"))
    other.command("time 100")
    assert not other.rules
    other.close()


# --- Acknowledgements ---


@pytest.mark.parametrize(("connections", "burst"), [(1, 1), (1, 2), (1, 8), (2, 4), (4, 2)])
def test_at_most_one_acknowledgement_for_two_segments(firmware, connections, burst):
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
