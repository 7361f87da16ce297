"""Flow table entries live as long as their connections; fragmented segments find the core of theirs."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, TCP, fragment
from scapy.layers.l2 import Ether

from firmware.firmware_peer import (
    FLOW,
    FLOWS_OFFSET,
    OUR_IP,
    OUR_MAC,
    PEER_IP,
    PEER_MAC,
    PROMISED,
    Firmware,
    TcpPeer,
    build,
    flow_owner,
    flow_table,
    socket_address,
)
from firmware.network_bench import CONFIG, MSS, TIME_WAIT_MS, accepted, listening, start
from firmware.two_stacks import CORES, ECHO_PORT, TwoStacks
from twinstack.models.dispatcher import DispatcherModel
from twinstack.proto.queues import Operation


@pytest.fixture(scope="module", autouse=True)
def built():
    build("host")


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
        assert promised <= max(CONFIG.rx_large_buffers // 2 - 1, PROMISED) + firmware.state()["excess"]
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
        self.model = DispatcherModel(CORES)

    def core_of(self, sent: Ether) -> int:
        remote, local = (bytes(map(int, text.split("."))) for text in (sent[IP].dst, sent[IP].src))
        return self.model.probe(remote, local, (sent[TCP].dport, sent[TCP].sport))


def plant(shared, slot: int, core: int, source_port: int, destination_port: int) -> None:
    """An entry of another core in the fake flow table."""
    addresses = [bytes(map(int, text.split("."))) for text in (PEER_IP, OUR_IP)]
    with open(shared, "r+b") as file:
        file.seek(FLOWS_OFFSET + FLOW.size * slot)
        file.write(FLOW.pack(*addresses, source_port, destination_port, core + 1))


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


def test_a_peer_whose_every_segment_is_fragmented_makes_progress(stacks_and_peer):
    both, peer = stacks_and_peer
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


def test_handing_over_ends_when_messages_are_lost(stacks_and_peer):
    both, peer = stacks_and_peer
    both.listen()
    clients = [peer.connect(OUR_IP, ECHO_PORT) for _ in range(4)]
    both.run_until(lambda: all(client.connected for client in clients), "connections")
    fragmented(both)
    data = bytes(i * 11 & 0xFF for i in range(3000))
    lost = both.messages_passed + 1
    both._drop = lambda number: number == lost
    for client in clients:
        client.send_all(data)
    echo_all(both, clients, data, 30000)
    assert both.messages_passed > lost
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
