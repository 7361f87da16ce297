"""Datagrams for the firmware on the PC, and the operations on datagram sockets."""

from __future__ import annotations

from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from firmware.firmware_peer import OUR_IP, OUR_MAC, PEER_IP, PEER_MAC, Firmware, packed_ip, socket_address
from twinstack.proto.queues import SOCKET_ADDRESS, Handle, Operation, SocketOption

PORT, PEER_PORT = 5000, 6000
ADDRESS = 0x3000
"""Where RECVFROM has the sender's address written."""
CLOSE = 900
BUFFER = 0x1000


def open_socket(firmware: Firmware, port: int = PORT, ip: str = "0.0.0.0", *, flags: int = 0) -> int:
    inline = socket_address(ip, port)
    return firmware.call(Operation.UDP_OPEN, 50, joined=bool(flags & 1), operation_flags=flags, inline=inline)


def datagram(
    payload: bytes,
    *,
    port: int = PORT,
    sport: int = PEER_PORT,
    src: str = PEER_IP,
    dst: str = OUR_IP,
    mac: str = OUR_MAC,
) -> Ether:
    return Ether(src=PEER_MAC, dst=mac) / IP(src=src, dst=dst) / UDP(sport=sport, dport=port) / Raw(payload)


def group_mac(group: str) -> str:
    parts = [int(part) for part in group.split(".")]
    return f"01:00:5e:{parts[1] & 0x7F:02x}:{parts[2]:02x}:{parts[3]:02x}"


def receive(
    firmware: Firmware, handle: int, user_data: int = 60, *, length: int = 2048, buffer: int = BUFFER, core: int = 0
) -> None:
    """Post a RECVFROM with an address."""
    firmware.sqe(
        Operation.RECVFROM,
        user_data,
        handle=handle,
        buffer=buffer,
        length=length,
        operation_flags=core << 8,
        inline=ADDRESS.to_bytes(8, "little"),
    )


def taken(firmware: Firmware, user_data: int = 60, *, buffer: int = BUFFER) -> tuple[bytes, dict]:
    """Payload and address block of a RECVFROM that must have completed."""
    completion = firmware.completion()
    assert completion.user_data == user_data and completion.result >= 0, completion
    return firmware.read(buffer, completion.result), SOCKET_ADDRESS.unpack(firmware.read(ADDRESS, 32))


def send(
    firmware: Firmware,
    handle: int,
    payload: bytes,
    to: tuple[str, int] | None = (PEER_IP, PEER_PORT),
    *,
    user_data: int = 70,
    buffer: int = 0x8000,
    core: int = 0,
) -> None:
    """Post a SENDTO, or a SEND without ``to``."""
    if payload:
        firmware.write(buffer, payload)
    operation = Operation.SENDTO if to else Operation.SEND
    fields = {"inline": socket_address(*to)} if to else {}
    firmware.sqe(
        operation, user_data, handle=handle, buffer=buffer, length=len(payload), operation_flags=core << 8, **fields
    )


def sent(firmware: Firmware, handle: int, payload: bytes, to: tuple[str, int] | None = (PEER_IP, PEER_PORT)) -> int:
    """The result of a SENDTO, or of a SEND without ``to``."""
    send(firmware, handle, payload, to)
    completion = firmware.completion()
    assert completion.user_data == 70
    return completion.result


def leaving(firmware: Firmware) -> list[tuple[IP, bytes]]:
    """Datagrams that left since the last call: checked, with their payload."""
    frames, firmware.frames = firmware.frames, []
    return [(frame[IP], payload_of(frame)) for frame in frames if UDP in frame and ICMP not in frame]


def payload_of(frame: Ether) -> bytes:
    """Payload of a datagram with good checksums and lengths."""
    assert frame[UDP].chksum != 0
    fresh = Ether(bytes(frame))
    del fresh[IP].chksum, fresh[UDP].chksum, fresh[IP].len, fresh[UDP].len
    size = frame[UDP].len - 8
    payload = bytes(frame[UDP].payload)[:size]
    fresh[UDP].remove_payload()
    fresh = Ether(bytes(fresh / Raw(payload)))
    assert fresh[IP].chksum == frame[IP].chksum and fresh[UDP].chksum == frame[UDP].chksum
    assert fresh[IP].len == frame[IP].len and fresh[UDP].len == frame[UDP].len
    assert not frame[IP].flags.MF and frame[IP].frag == 0
    return payload


def set_option(firmware: Firmware, handle: int, option: SocketOption, value: int | bytes) -> int:
    inline = value if isinstance(value, bytes) else value.to_bytes(4, "little")
    joined = Handle.unpack(handle).core == 7
    return firmware.call(Operation.SETSOCKOPT, 80, joined=joined, handle=handle, operation_flags=option, inline=inline)


def get_option(firmware: Firmware, handle: int, option: SocketOption) -> int:
    joined = Handle.unpack(handle).core == 7
    return firmware.call(Operation.GETSOCKOPT, 81, joined=joined, handle=handle, operation_flags=option)


def group_address(group: str, network_port: int | None = None) -> bytes:
    scope = 0 if network_port is None else network_port + 1
    return SOCKET_ADDRESS.pack({"family": 2, "scope": scope, "address": packed_ip(group)})


def close(firmware: Firmware, handle: int) -> int:
    """Close it; the completions of its operations stay."""
    firmware.sqe(Operation.CLOSE, CLOSE, joined=Handle.unpack(handle).core == 7, handle=handle)
    (own,) = [one for one in firmware.completions if one.user_data == CLOSE]
    firmware.completions.remove(own)
    return own.result


def results(firmware: Firmware) -> list[tuple[int, int]]:
    """(user data, result) of what has completed since the last call."""
    completions, firmware.completions = firmware.completions, []
    return [(one.user_data, one.result) for one in completions]
