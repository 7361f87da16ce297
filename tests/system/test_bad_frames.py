"""Bad frames at the pins: each is dropped, counted once and in the right place, and the engine serves on."""

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from system.rig import CONFIG, ENGINES, MACS, PEER_MACS, PEERS

PORT = 0
ETHER = Ether(src=PEER_MACS[PORT], dst=MACS[PORT])
ADDRESSES = IP(src=PEERS[PORT], dst=ENGINES[PORT])
DATA = Raw(bytes(range(100)))


def flip(frame: bytes, offset: int) -> bytes:
    """``frame`` with one bit wrong."""
    return frame[:offset] + bytes([frame[offset] ^ 0x10]) + frame[offset + 1 :]


TCP_FRAME = bytes(ETHER / ADDRESSES / TCP(sport=1, dport=2) / DATA)
UDP_FRAME = bytes(ETHER / ADDRESSES / UDP(sport=1, dport=2) / DATA)
PING = bytes(ETHER / ADDRESSES / ICMP(id=5, seq=5) / DATA)
RAW_PREAMBLE = bytes([0x55] * 7 + [0xD5])

# What is sent, how, and the one counter that moves.
CASES = {
    "bad FCS": (TCP_FRAME, {"bad_fcs": True}, "rx_crc_errors"),
    "PHY error": (TCP_FRAME, {"rx_er": True}, "rx_crc_errors"),
    "IPv4 checksum": (flip(TCP_FRAME, 14 + 10), {}, "rx_checksum_errors"),
    "IPv4 time to live changed": (flip(TCP_FRAME, 14 + 8), {}, "rx_checksum_errors"),
    "IPv4 length beyond the frame": (
        bytes(ETHER / IP(src=PEERS[PORT], dst=ENGINES[PORT], len=1400) / TCP(sport=1, dport=2) / DATA),
        {},
        "rx_checksum_errors",
    ),
    "TCP checksum": (flip(TCP_FRAME, 14 + 20 + 16), {}, "rx_checksum_errors"),
    "TCP payload changed": (flip(TCP_FRAME, len(TCP_FRAME) - 1), {}, "rx_checksum_errors"),
    "UDP checksum": (flip(UDP_FRAME, 14 + 20 + 6), {}, "rx_checksum_errors"),
    "UDP payload changed": (flip(UDP_FRAME, len(UDP_FRAME) - 7), {}, "rx_checksum_errors"),
    "unknown EtherType": (bytes(Ether(src=PEER_MACS[PORT], dst=MACS[PORT], type=0x88B5) / DATA), {}, "rx_unknown"),
    "IEEE 802.3 length": (bytes(Ether(src=PEER_MACS[PORT], dst=MACS[PORT], type=100) / DATA), {}, "rx_unknown"),
    "other station": (b"\x02\x54\x53\x00\x00\x77" + PING[6:], {}, "rx_filtered"),
    "runt": (PING[:40], {"pad": False}, "rx_runts"),
    "one byte short": (PING[:59], {"pad": False}, "rx_runts"),
    "one byte too long": (TCP_FRAME.ljust(CONFIG.max_frame_bytes + 1, b"\0"), {}, "rx_giants"),
    "giant": (TCP_FRAME.ljust(4000, b"\0"), {}, "rx_giants"),
    "jumbo": (TCP_FRAME.ljust(9000, b"\0"), {}, "rx_giants"),
}


def counted(rig, send) -> tuple[dict[str, int], list[int]]:
    """Counters of the MAC that moved while ``send`` and what follows it happened, and frames dispatched meanwhile."""
    mac, dispatched = rig.mac_counters(PORT), rig.dispatched()
    send()
    rig.wait(lambda: rig.simulation.rx_backlog_bytes(PORT) == 0, "the end of reception", 100_000)
    rig.run(1000)
    moved = {name: value - mac[name] for name, value in rig.mac_counters(PORT).items() if value != mac[name]}
    return moved, [now - then for now, then in zip(rig.dispatched(), dispatched, strict=True)]


@pytest.mark.parametrize("name", CASES)
def test_bad_frame_is_dropped_and_counted(rig, name):
    frame, how, counter = CASES[name]
    moved, dispatched = counted(rig, lambda: rig.simulation.send_frame(PORT, frame, **how))
    # What passes the MAC and fails at the parser is a good frame to the MAC.
    expected = {counter: 1} | ({"rx_frames": 1} if counter in ("rx_checksum_errors", "rx_unknown") else {})
    assert moved == expected
    assert dispatched == [0, 0]


def test_noise_on_the_pins_is_dropped(rig):
    """No start of frame; a start and nothing; an odd preamble and garbage."""
    rng = rig.random
    for octets in (bytes(100), RAW_PREAMBLE, RAW_PREAMBLE + rng.randbytes(3), RAW_PREAMBLE + rng.randbytes(200)):
        moved, dispatched = counted(rig, lambda octets=octets: rig.simulation.send_raw(PORT, octets))
        assert dispatched == [0, 0]
        assert set(moved) <= {"rx_runts", "rx_crc_errors"} and sum(moved.values()) <= 1
    assert moved == {"rx_crc_errors": 1}


def test_burst_of_bad_frames_among_good_ones(rig):
    """Back to back at line rate, in random order: every bad frame in its counter, every good one dispatched."""
    names = rig.random.choices(list(CASES), k=24)
    expected: dict[str, int] = {"rx_frames": 4}
    good = [bytes(ETHER / ADDRESSES / ICMP(type=0, id=9, seq=number) / DATA) for number in range(4)]
    plan = [CASES[name] for name in names] + [(frame, {}, None) for frame in good]
    rig.random.shuffle(plan)
    for _, _, counter in plan:
        if counter is not None:
            expected[counter] = expected.get(counter, 0) + 1
            expected["rx_frames"] += counter in ("rx_checksum_errors", "rx_unknown")

    def send():
        for frame, how, _ in plan:
            rig.simulation.send_frame(PORT, frame, **how)

    moved, dispatched = counted(rig, send)
    assert moved == expected
    assert sum(dispatched) == 4


def test_engine_serves_on_and_has_all_buffers(rig):
    for name, (frame, how, _) in CASES.items():
        if name != "jumbo":
            rig.simulation.send_frame(PORT, frame, **how)
    rig.assert_alive()
    rig.echo_once(0, 8001)
    rig.echo_once(1, 8002)
    rig.assert_buffers_back()
    assert rig.host_core("rx_buffers") == [CONFIG.rx_buffers] * 2
    assert rig.host_core("rx_dropped") == [0, 0]
