"""Window scaling (RFC 7323 2): the peer's windows count in its units, ours never need a scale."""

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from firmware.firmware_peer import OUR_IP, OUR_MAC, PEER_IP, PEER_MAC, build
from firmware.network_bench import listening
from twinstack.proto.queues import Operation

LOCAL, SHIFT, LENGTH = 41000, 8, 4000


@pytest.fixture(scope="module", autouse=True)
def built():
    build("host")


def give(firmware, flags, sequence, acknowledgement, window, options=()):
    header = TCP(sport=LOCAL, dport=7, flags=flags, seq=sequence, ack=acknowledgement, window=window)
    header.options = list(options)
    firmware.frames.clear()
    firmware.frame(Ether(src=PEER_MAC, dst=OUR_MAC) / IP(src=PEER_IP, dst=OUR_IP) / header)
    return [frame[TCP] for frame in firmware.frames if TCP in frame and frame[TCP].dport == LOCAL]


@pytest.mark.parametrize("offered", [True, False])
def test_the_window_of_the_peer_is_scaled_if_it_offered_that(firmware, offered):
    listening(firmware)
    options = [("MSS", 1460), ("WScale", SHIFT)] if offered else [("MSS", 1460)]
    (answer,) = give(firmware, "S", 999, 0, 60000, options)
    assert str(answer.flags) == "SA" and dict(answer.options).get("WScale") == (0 if offered else None)
    # 16 units: less than a segment without a scale, all of the data with it.
    give(firmware, "A", 1000, answer.seq + 1, 16)
    handle = firmware.completion().result
    firmware.write(0x1000, bytes(range(250)) * (LENGTH // 250))
    firmware.frames.clear()
    firmware.sqe(Operation.SEND, 11, handle=handle, buffer=0x1000, length=LENGTH)
    sent = [len(frame[TCP].payload) for frame in firmware.frames if TCP in frame and frame[TCP].dport == LOCAL]
    if offered:
        assert sum(sent) == LENGTH
    else:
        assert sum(sent) <= 16
    give(firmware, "R", 1000, 0, 0)
