"""The socket service of one core, compiled for the PC with sanitizers, on a fake engine."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP, fragment
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from firmware.firmware_peer import (
    OUR_IP,
    OUR_MAC,
    PEER_IP,
    PEER_MAC,
    PROMISED,
    Firmware,
    TcpPeer,
    build,
    flow_owner,
    socket_address,
)
from twinstack.config import EngineConfig
from twinstack.proto.abi import ABI_VERSION
from twinstack.proto.queues import NETIF_CONFIG, NETIF_STATUS, SOCKET_ADDRESS, STATS, Handle, Operation

RESERVE = 2
"""Operation records for CLOSE, ABORT and CANCEL only."""


@pytest.fixture(scope="module", autouse=True)
def built():
    build("host")


@pytest.fixture
def firmware():
    """A configured core that knows the peer; after the test all pools must be back and no sanitizer unhappy."""
    process = Firmware()
    assert process.ready == (ABI_VERSION, 1)
    start = process.state()
    process.configure()
    process.learn_peer()
    process.frames.clear()
    yield process
    process.command("cqspace 255")
    process.command("time 12000")  # TIME_WAIT and linger
    end = process.state()
    process.close()
    assert not process.log
    for name in (
        "rx_large",
        "rx_small",
        "rx_free",
        "flows",
        "flow_errors",
        "bad_free",
        "tx_free",
        "scratch",
        "tx_errors",
        "copied",
        "rx_dropped",
        "pieces",
    ):
        assert end[name] == start[name], name
    for name in ("sockets", "pcbs", "time_wait", "directory"):
        assert end[name] == 0, name
    # A listener that the test left open has its ACCEPT.
    assert start["ops"] - end["ops"] <= end["listeners"], "operation records"


def listening(firmware: Firmware, port: int = 7) -> int:
    handle = firmware.call(Operation.TCP_LISTEN, 2, joined=True, length=4, inline=socket_address("0.0.0.0", port))
    assert handle > 0 and Handle.unpack(handle).core == 7
    firmware.sqe(Operation.TCP_ACCEPT, 3, joined=True, handle=handle, operation_flags=1)
    assert not firmware.completions
    return handle


def accepted(firmware: Firmware, port: int = 7, local: int = 40000) -> tuple[int, TcpPeer]:
    peer = TcpPeer(firmware, port, local)
    peer.open()
    completion = firmware.completion()
    assert completion.user_data == 3 and completion.more and completion.result > 0
    return completion.result, peer


def test_boot_refuses_another_abi():
    with pytest.raises(RuntimeError, match=f"hardware ABI 99, firmware ABI {ABI_VERSION}"):
        Firmware(("--abi", "99"))


def test_arp_and_ping(firmware):
    firmware.frame(Ether(src=PEER_MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(op=1, hwsrc=PEER_MAC, psrc=PEER_IP, pdst=OUR_IP))
    reply = firmware.frames.pop()
    assert reply[ARP].op == 2 and reply[ARP].hwsrc == OUR_MAC
    for size in (0, 1, 56, 1472):
        ping = Ether(src=PEER_MAC, dst=OUR_MAC) / IP(src=PEER_IP, dst=OUR_IP) / ICMP(id=7, seq=size) / Raw(bytes(size))
        firmware.frame(ping)
        answer = firmware.frames.pop()
        assert answer[ICMP].type == 0 and answer[ICMP].seq == size and answer[IP].len == 28 + size
        again = Ether(bytes(answer))
        del again[ICMP].chksum, again[IP].chksum
        again = Ether(bytes(again))
        assert again[ICMP].chksum == answer[ICMP].chksum and again[IP].chksum == answer[IP].chksum


def test_a_request_for_another_core_is_not_answered(firmware):
    request = Ether(src=PEER_MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(op=1, hwsrc=PEER_MAC, psrc=PEER_IP, pdst=OUR_IP)
    firmware.frame(request, answer=False)
    assert not firmware.frames


def test_echo_through_the_service(firmware):
    listener = listening(firmware)
    handle, peer = accepted(firmware)
    stream = bytes(i * 7 & 0xFF for i in range(20000))
    position = 0
    while position < len(stream):
        firmware.sqe(Operation.RECV, 10, handle=handle, buffer=0x1000, length=4096)
        peer.send("PA", stream[position : position + 1460])
        completion = firmware.completion()
        assert completion.user_data == 10 and completion.result > 0
        data = firmware.read(0x1000, completion.result)
        assert data == stream[position : position + completion.result]
        position += completion.result
        firmware.write(0x8000, data)
        firmware.sqe(Operation.SEND, 11, handle=handle, buffer=0x8000, length=len(data))
        assert firmware.completion().result == len(data)
        peer.collect()
        peer.acknowledge_all()
    assert peer.received == stream
    firmware.sqe(Operation.RECV, 12, handle=handle, buffer=0x1000, length=16)
    peer.send("FA")
    assert firmware.completion().result == 0
    firmware.sqe(Operation.SHUTDOWN, 13, handle=handle)
    assert not firmware.completions, "SHUTDOWN must wait for the acknowledgement of the FIN"
    peer.collect()
    peer.acknowledge_all()
    assert firmware.completion().result == 0
    assert firmware.call(Operation.CLOSE, handle=handle) == 0
    assert firmware.call(Operation.CLOSE, handle=handle) == -9
    firmware.sqe(Operation.CLOSE, 20, joined=True, handle=listener)
    assert [(c.user_data, c.result, c.more) for c in firmware.completions] == [(3, -125, 0), (20, 0, 0)]
    firmware.completions.clear()
    assert firmware.state()["sockets"] == 0


def test_a_large_send_waits_for_acknowledgements(firmware):
    listening(firmware)
    handle, peer = accepted(firmware)
    stream = bytes(i * 11 & 0xFF for i in range(30000))
    firmware.write(0x10000, stream)
    firmware.sqe(Operation.SEND, 5, handle=handle, buffer=0x10000, length=len(stream))
    assert not firmware.completions
    peer.collect()
    for _ in range(100):
        peer.acknowledge_all()
        if len(peer.received) == len(stream):
            break
        firmware.command("time 10")
        peer.collect()
    assert peer.received == stream
    assert firmware.completion().result == len(stream)
    firmware.call(Operation.ABORT, handle=handle)
    peer.collect()
    assert "R" in peer.flags[-1]


def test_close_delivers_what_was_sent(firmware):
    listening(firmware)
    handle, peer = accepted(firmware)
    firmware.write(0x100, b"last words")
    assert firmware.call(Operation.SEND, handle=handle, buffer=0x100, length=10) == 10
    assert firmware.call(Operation.CLOSE, handle=handle) == 0
    peer.collect()
    peer.acknowledge_all()
    assert peer.received == b"last words" and any("F" in flags for flags in peer.flags)
    assert not any("R" in flags for flags in peer.flags)
    peer.send("FA")
    assert firmware.state()["sockets"] == 0


def test_small_sends_do_not_exceed_a_gather_list(firmware):
    listening(firmware)
    handle, peer = accepted(firmware)
    firmware.write(0x100, bytes(range(200)))
    for i in range(40):
        firmware.sqe(Operation.SEND, i, handle=handle, buffer=0x100 + i, length=3)
    for _ in range(60):
        peer.collect()
        peer.acknowledge_all()
    assert [c.result for c in firmware.completions] == [3] * 40
    firmware.completions.clear()
    assert peer.received == b"".join(bytes(range(i, i + 3)) for i in range(40))
    firmware.call(Operation.ABORT, handle=handle)


def test_out_of_order_segments_are_delivered_in_order(firmware):
    listening(firmware)
    handle, peer = accepted(firmware)
    firmware.sqe(Operation.RECV, 5, handle=handle, buffer=0, length=8000)
    base = peer.sequence
    peer.send("PA", b"B" * 1000, sequence=base + 1000)
    assert not firmware.completions
    peer.send("PA", b"A" * 1000, sequence=base)
    assert firmware.completion().result == 2000
    assert firmware.read(0, 2000) == b"A" * 1000 + b"B" * 1000
    firmware.call(Operation.ABORT, handle=handle)


def test_reset_ends_receives_and_sends(firmware):
    listening(firmware)
    handle, peer = accepted(firmware)
    firmware.sqe(Operation.RECV, 5, handle=handle, buffer=0, length=100)
    peer.send("R")
    assert firmware.completion().result == -104
    assert firmware.call(Operation.SEND, handle=handle, buffer=0, length=5) == -104
    assert firmware.call(Operation.CLOSE, handle=handle) == 0


def test_accepts_wait_in_the_backlog(firmware):
    handle = firmware.call(Operation.TCP_LISTEN, joined=True, length=4, inline=socket_address("0.0.0.0", 9))
    peer = TcpPeer(firmware, 9)
    peer.open()
    assert not firmware.completions
    firmware.sqe(Operation.TCP_ACCEPT, 8, joined=True, handle=handle, operation_flags=1)
    completion = firmware.completion()
    assert completion.user_data == 8 and completion.more == 1 and completion.joined == 0
    assert firmware.call(Operation.ABORT, handle=completion.result) == 0


def test_window_is_the_quota_without_a_receive_and_grows_with_one(firmware):
    listening(firmware)
    handle, peer = accepted(firmware)
    peer.send("PA", b"x" * 1460)
    firmware.command("time 300")
    peer.collect()
    assert peer.window == 1460
    peer.send("PA", b"y" * 1460)
    firmware.command("time 300")
    peer.collect()
    assert peer.window == 0
    firmware.sqe(Operation.RECV, 5, handle=handle, buffer=0, length=6000)
    assert firmware.completion().result == 2920
    peer.collect()
    assert peer.window >= 2920
    firmware.call(Operation.ABORT, handle=handle)


def promised(firmware: Firmware, peers: list[TcpPeer]) -> int:
    """RX buffers that all windows together promise."""
    for peer in peers:
        peer.gather(list(firmware.frames))
    firmware.frames.clear()
    return sum(-(-peer.window // 1460) for peer in peers)


def opened(firmware: Firmware, count: int) -> list[tuple[int, TcpPeer]]:
    connections = []
    for number in range(count):
        connections.append(accepted(firmware, local=41000 + number))
    return connections


@pytest.mark.parametrize("count", [1, 3, 4, 8, 13])
def test_windows_promise_only_buffers_that_exist(firmware, count):
    listening(firmware)
    connections = opened(firmware, count)
    peers = [peer for _, peer in connections]
    assert promised(firmware, peers) <= PROMISED
    for number, (handle, _) in enumerate(connections):
        firmware.sqe(Operation.RECV, number, handle=handle, buffer=0x4000 * number, length=0x4000)
    for _ in range(40):
        firmware.command("time 5")
        excess = firmware.state()["excess"]
        assert promised(firmware, peers) <= PROMISED + excess
        assert excess == 0 or count > 4, "four connections with two segments each have room"
    assert all(peer.window >= 1460 for peer in peers), "each has room for a segment"
    if count == 1:
        assert peers[0].window >= 8 * 1460
    for handle, _ in connections:
        firmware.sqe(Operation.ABORT, 99, handle=handle)
    firmware.completions.clear()


def test_more_connections_than_buffers_all_get_their_turn(firmware):
    listening(firmware)
    connections = opened(firmware, 30)
    peers = [peer for _, peer in connections]
    assert promised(firmware, peers) <= PROMISED
    for number, (handle, _) in enumerate(connections):
        firmware.sqe(Operation.RECV, number, handle=handle, buffer=0x4000 * number, length=0x4000)
    firmware.command("time 200")
    promised(firmware, peers)
    assert all(peer.window >= 1460 for peer in peers), "none is shut out by idle ones"
    assert firmware.state()["excess"] >= 30 - PROMISED - 4
    for number, peer in enumerate(peers):
        peer.send("PA", bytes([number]) * 1000)
        completion = firmware.completion()
        assert (completion.user_data, completion.result) == (number, 1000)
    assert firmware.state()["rx_dropped"] == 0
    for handle, _ in connections:
        firmware.sqe(Operation.ABORT, 99, handle=handle)
    firmware.completions.clear()


def test_senders_share_the_transmit_buffers(firmware):
    """Peers that never acknowledge must not keep the others from sending."""
    listening(firmware)
    connections = opened(firmware, 6)
    firmware.write(0x100, bytes(3000))
    for number, (handle, _) in enumerate(connections):
        for part in range(4):
            firmware.sqe(Operation.SEND, 10 * number + part, handle=handle, buffer=0x100, length=3000)
    for _handle, peer in connections[4:]:
        for _ in range(40):
            peer.gather(list(firmware.frames))
            firmware.frames.clear()
            peer.acknowledge_all()
            firmware.command("time 5")
        assert len(peer.received) == 12000, "the silent peers took all buffers"
    for handle, _ in connections:
        firmware.sqe(Operation.ABORT, 99, handle=handle)
    firmware.completions.clear()


def test_one_byte_segments_cannot_take_the_bank(firmware):
    listening(firmware)
    handle, peer = accepted(firmware)
    for _ in range(40):
        peer.send("PA", b"z")
    state = firmware.state()
    assert state["rx_free"] >= 7 and state["dropped"] > 0
    firmware.call(Operation.ABORT, handle=handle)


def test_connect(firmware):
    firmware.sqe(Operation.TCP_CONNECT, 4, inline=socket_address(PEER_IP, 80))
    syn = firmware.frames.pop()
    assert str(syn[TCP].flags) == "S" and syn[TCP].sport >= 49152
    assert firmware.state()["directory"] == 1
    peer = TcpPeer(firmware, syn[TCP].sport, local=80)
    peer.expected = syn[TCP].seq + 1
    peer.send("SA")
    handle = firmware.completion().result
    assert handle > 0
    assert firmware.call(Operation.GETPEERNAME, handle=handle, buffer=0x40, length=32) == 32
    assert SOCKET_ADDRESS.unpack(firmware.read(0x40, 32))["port"] == 80
    assert firmware.call(Operation.ABORT, handle=handle) == 0
    assert firmware.state()["directory"] == 0


def test_connect_errors(firmware):
    firmware.sqe(Operation.TCP_CONNECT, 4, inline=socket_address(PEER_IP, 81))
    syn = firmware.frames.pop()
    peer = TcpPeer(firmware, syn[TCP].sport, local=81)
    peer.expected = syn[TCP].seq + 1
    peer.send("RA")
    assert firmware.completion().result == -111
    assert firmware.call(Operation.TCP_CONNECT, inline=socket_address("192.168.77.1", 80)) == -101
    assert firmware.call(Operation.TCP_CONNECT, inline=SOCKET_ADDRESS.pack({"family": 11, "port": 1})) == -97
    assert firmware.call(Operation.TCP_CONNECT, inline=SOCKET_ADDRESS.pack({"family": 10, "port": 1})) == -101
    firmware.sqe(Operation.TCP_CONNECT, 6, inline=socket_address("10.0.0.77", 80))
    firmware.command("time 40000")
    assert firmware.completion().result == -113
    assert firmware.state()["directory"] == 0


def test_refused_entries(firmware):
    assert firmware.call(Operation.NOP, 1 << 63 | 5) == 0
    assert firmware.call(Operation.NOP, flags=1) == -22
    assert firmware.call(Operation.NOP, reserved=1) == -22
    assert firmware.call(Operation.NOP, handle=1) == -22
    assert firmware.call(99) == -22
    assert firmware.call(Operation.SEND, handle=1, buffer=0, length=1) == -9
    assert firmware.call(Operation.SEND, handle=1, buffer=1 << 32, length=1) == -14
    assert firmware.call(Operation.STATS, operation_flags=5, length=80) == -22
    handle = listening(firmware)
    again = firmware.call(Operation.TCP_LISTEN, joined=True, length=4, inline=socket_address("0.0.0.0", 7))
    assert again == -98
    assert firmware.call(Operation.TCP_ACCEPT, joined=True, handle=handle) == -22
    assert firmware.call(Operation.SEND, joined=True, handle=handle, buffer=0, length=1) == -22


def test_no_socket_left_is_told(firmware):
    listening(firmware)
    for number in range(64):
        firmware.sqe(Operation.TCP_CONNECT, 1000 + number, inline=socket_address(PEER_IP, 2000 + number))
    assert not firmware.completions and firmware.state()["sockets"] == 64
    assert firmware.call(Operation.TCP_CONNECT, inline=socket_address(PEER_IP, 99)) == -23
    firmware.frames.clear()
    peer = TcpPeer(firmware, 7, 42000)
    peer.send("S")
    peer.send("A")
    assert "R" in peer.flags[-1], "a connection that cannot be kept is refused, not forgotten"
    firmware.command("time 40000")
    assert sorted(c.user_data for c in firmware.completions) == list(range(1000, 1064))
    assert {c.result for c in firmware.completions} == {-110}
    firmware.completions.clear()


def test_no_listener_left_is_told(firmware):
    def listen(port: int) -> int:
        return firmware.call(Operation.TCP_LISTEN, joined=True, length=4, inline=socket_address("0.0.0.0", port))

    handles = [listen(port) for port in range(100, 108)]
    assert min(handles) > 0
    assert listen(108) == -23
    assert firmware.call(Operation.CLOSE, joined=True, handle=handles[3]) == 0
    assert listen(109) > 0
    assert firmware.call(Operation.TCP_ACCEPT, joined=True, handle=handles[3], operation_flags=1) == -9


def test_no_operation_record_left_is_told(firmware):
    listening(firmware)
    handle, _peer = accepted(firmware)
    free = firmware.state()["ops"] - RESERVE
    for number in range(free):
        firmware.sqe(Operation.RECV, number, handle=handle, buffer=16 * number, length=16)
    assert not firmware.completions and firmware.state()["ops"] == RESERVE
    assert firmware.call(Operation.NOP, 555) == -105
    firmware.command("cqspace 0")
    firmware.sqe(Operation.NOP, 556)
    assert not firmware.completions, "it waits in the ring"
    firmware.command("cqspace 255")
    assert firmware.completion().result == -105
    cancelled = free - 1
    firmware.sqe(Operation.CANCEL, 557, joined=True, inline=cancelled.to_bytes(8, "little"))
    results = {c.user_data: c.result for c in firmware.completions}
    assert results == {557: 0, cancelled: -125}, "there is a record for what ends others"
    firmware.completions.clear()
    firmware.sqe(Operation.RECV, cancelled, handle=handle, length=16)
    firmware.sqe(Operation.ABORT, 557, handle=handle)
    results = {c.user_data: c.result for c in firmware.completions}
    assert results == {557: 0} | dict.fromkeys(range(free), -125)
    firmware.completions.clear()


def test_no_scratch_piece_left_is_told(firmware):
    firmware.command("dmastall 1")
    for number in range(14):
        firmware.sqe(Operation.STATS, number, buffer=0x400 + 128 * number, length=80)
    assert [(c.user_data, c.result) for c in firmware.completions] == [(12, -105), (13, -105)]
    firmware.completions.clear()
    firmware.command("dmastall 0")
    assert [(c.user_data, c.result) for c in firmware.completions] == [(number, 80) for number in range(12)]
    firmware.completions.clear()


def test_transfers_outside_the_windows_fail(firmware):
    listening(firmware)
    handle, peer = accepted(firmware)
    assert firmware.call(Operation.SEND, handle=handle, buffer=0xF000_0000, length=3000) == -14
    firmware.sqe(Operation.RECV, 5, handle=handle, buffer=0xF000_0000, length=100)
    peer.send("PA", b"x" * 50)
    assert firmware.completion().result == -14
    assert firmware.call(Operation.CLOSE, handle=handle) == 0
    peer.collect()
    peer.acknowledge_all()
    peer.send("FA")


def test_a_full_completion_queue_loses_nothing(firmware):
    firmware.command("cqspace 0")
    for i in range(150):
        firmware.sqe(Operation.NOP, i)
        if i % 8 == 7:
            firmware.command("cqspace 0")
        if firmware.log:
            firmware.log.clear()  # the ring is full now: the host dispatcher would wait
            break
    submitted = i
    assert submitted > 96
    for _ in range(40):
        firmware.command("cqspace 5")
    assert sorted(c.user_data for c in firmware.completions) == list(range(submitted))
    firmware.completions.clear()


def test_status_and_statistics(firmware):
    assert firmware.call(Operation.NETIF_STATUS, buffer=0x200, length=128) == 128
    status = NETIF_STATUS.unpack(firmware.read(0x200, 128))
    assert status["link_up"] == 1 and status["prefix_length"] == 24
    assert firmware.call(Operation.STATS, buffer=0x400, length=80) == 80
    stats = STATS.unpack(firmware.read(0x400, 80))
    assert stats["core"] == 0 and stats["epoch"] == 1 and stats["frames_in"] >= 1 and stats["locks"] >= 1
    assert firmware.call(Operation.STATS, buffer=0x400, length=79) == -22


def test_fragmented_segment_is_reassembled(firmware):
    listening(firmware)
    handle, peer = accepted(firmware)
    firmware.sqe(Operation.RECV, 5, handle=handle, buffer=0, length=2000)
    header = TCP(sport=peer.local, dport=7, flags="PA", seq=peer.sequence, ack=peer.expected, window=60000)
    packet = IP(src=PEER_IP, dst=OUR_IP, id=9) / header / (b"F" * 1200)
    for part in fragment(packet, fragsize=600):
        firmware.frame(Ether(src=PEER_MAC, dst=OUR_MAC) / part)
    assert firmware.completion().result == 1200
    assert firmware.read(0, 1200) == b"F" * 1200
    firmware.call(Operation.ABORT, handle=handle)


def test_netif_config_waits_for_the_other_core():
    manager = Firmware(("--core", "0", "--cores", "2"))
    other = Firmware(("--core", "1", "--cores", "2"))
    assert other.messages[0][0] == 0, "the other core says hello to the manager"
    block = NETIF_CONFIG.pack({"family": 2, "prefix_length": 24, "address": 0x0200000A})
    manager.sqe(Operation.NETIF_CONFIG, 1, inline=block)
    assert not manager.completions
    other.messages.clear()
    for to, *words in manager.messages:
        assert to == 1
        other.command("message 0 " + " ".join(map(str, words)))
    assert not [frame for frame in other.frames if ARP in frame], "only the manager announces the address"
    assert manager.frames and manager.frames[0][ARP].psrc == "10.0.0.2"
    for to, *words in other.messages:
        assert to == 0
        manager.command("message 1 " + " ".join(map(str, words)))
    assert manager.completion().result == 0
    manager.close()
    other.close()


def test_reassembled_segment_of_another_core_is_not_reset():
    firmware = Firmware(("--core", "0", "--cores", "2"))
    block = NETIF_CONFIG.pack({"family": 2, "prefix_length": 24, "address": 0x0200000A, "mac": 0x010000535402})
    firmware.sqe(Operation.NETIF_CONFIG, 1, inline=block)
    firmware.command("time 1100")
    assert firmware.completion().result == -110
    firmware.learn_peer()
    firmware.frames.clear()
    answered = 0
    for port in range(5000, 5016):
        header = TCP(sport=port, dport=7, flags="A", seq=1, ack=1)
        for part in fragment(IP(src=PEER_IP, dst=OUR_IP, id=port) / header / bytes(100), fragsize=64):
            firmware.frame(Ether(src=PEER_MAC, dst=OUR_MAC) / part)
        answered += len(firmware.frames)
        firmware.frames.clear()
    state = firmware.state()
    assert 0 < state["foreign"] < 16 and answered == 16 - state["foreign"]
    assert state["not_given"] == state["foreign"] - 1, "one waits for the other core, which does not answer"
    firmware.command("time 300")
    state = firmware.state()
    assert state["not_given"] == state["foreign"] and state["given"] == 0
    assert state["rx_free"] == EngineConfig().rx_buffers
    firmware.close()


TOEPLITZ_KEY = bytes.fromhex(
    "6d5a56da255b0ec24167253d43a38fb0d0ca2bcbae7b30b477cb2da38030f20c6a42b73bbeac01fa"
)  # the published verification key


def toeplitz(data: bytes) -> int:
    key = int.from_bytes(TOEPLITZ_KEY, "big")
    result = 0
    for bit in range(8 * len(data)):
        if data[bit // 8] >> (7 - bit % 8) & 1:
            result ^= key >> (320 - 32 - bit) & 0xFFFF_FFFF
    return result


def test_toeplitz_agrees_with_a_published_vector():
    tuple_ = bytes([66, 9, 149, 187, 161, 142, 100, 80]) + (2794).to_bytes(2, "big") + (1766).to_bytes(2, "big")
    assert toeplitz(tuple_) == 0x51CCC178


def test_local_ports_lead_back_to_their_core_and_are_never_given_twice(tmp_path):
    shared = tmp_path / "shared"
    cores = [Firmware(("--core", str(n), "--cores", "2", "--shared", str(shared))) for n in range(2)]
    cores[0].sqe(
        Operation.NETIF_CONFIG,
        1,
        inline=NETIF_CONFIG.pack({"family": 2, "prefix_length": 24, "address": 0x0200000A, "mac": 0x010000535402}),
    )
    for _to, *words in cores[0].messages:
        cores[1].command("message 0 " + " ".join(map(str, words)))
    ports: set[int] = set()
    for number, core in enumerate(cores):
        core.frames.clear()
        core.learn_peer()
        core.frames.clear()
        for user_data in range(10):
            core.sqe(Operation.TCP_CONNECT, user_data, inline=socket_address(PEER_IP, 80))
        for syn in core.frames:
            port = syn[TCP].sport
            assert flow_owner(shared, syn) == number
            assert port not in ports
            ports.add(port)
    assert len(ports) == 20
    assert cores[0].state()["directory"] == 20
    for core in cores:
        core.close()
