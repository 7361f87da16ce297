"""A configured core and a peer, for the tests of the firmware's network side."""

from __future__ import annotations

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from firmware.firmware_peer import (
    OUR_IP,
    OUR_MAC,
    PEER_IP,
    PEER_MAC,
    Firmware,
    TcpPeer,
    packed_ip,
    packed_mac,
    socket_address,
)
from twinstack.config import EngineConfig
from twinstack.proto.queues import NETIF_CONFIG, Operation

CONFIG = EngineConfig()
BROADCAST = "ff:ff:ff:ff:ff:ff"
MSS = 1460
TIME_WAIT_MS = 12000


def start(*arguments: str) -> Firmware:
    """A configured core that knows the peer."""
    firmware = Firmware(arguments)
    if "--cores" in arguments:
        block = NETIF_CONFIG.pack(
            {"family": 2, "prefix_length": 24, "address": packed_ip(OUR_IP), "mac": packed_mac(OUR_MAC)}
        )
        firmware.sqe(Operation.NETIF_CONFIG, 100, inline=block)
        firmware.command("time 1100")
        firmware.completions.clear()
        firmware.messages.clear()
    else:
        firmware.configure()
    firmware.learn_peer()
    firmware.frames.clear()
    return firmware


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
