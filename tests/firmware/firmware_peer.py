"""One core's firmware as a PC process behind the fake engine, and packets for it (scapy)."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import ARP, Ether

from twinstack.config import EngineConfig
from twinstack.proto.queues import NETIF_CONFIG, SOCKET_ADDRESS, SQE, Operation

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "firmware"
OUR_MAC = "02:54:53:00:00:01"
OUR_IP = "10.0.0.2"
PEER_MAC = "02:00:00:00:00:99"
PEER_IP = "10.0.0.9"

CONFIG = EngineConfig()
LARGE = CONFIG.rx_large_buffers
PROMISED = LARGE - ((LARGE + 2) // 3 if CONFIG.rx_small_buffers else 3 + LARGE // 4)
"""Full segments that all windows together promise at most: sizes.h reserves the rest of the large buffers."""


def lwip_dir() -> str:
    """The lwIP source tree: from the environment, or as the simulation finds it."""
    given = os.environ.get("LWIP_DIR")
    if given:
        return given
    result = subprocess.run(
        [sys.executable, "-m", "twinstack_sim.lwip_source"], check=True, capture_output=True, text=True
    )
    return result.stdout.strip()


def build(target: str) -> None:
    """Run the firmware's make; one at a time."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with open(BUILD / "make.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        command = ["make", "-j2", "-C", ROOT / "firmware", f"LWIP_DIR={lwip_dir()}", f"PYTHON={sys.executable}"]
        result = subprocess.run([*command, f"BUILD={BUILD}", target], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]


def packed_ip(text: str) -> int:
    return int.from_bytes(bytes(int(part) for part in text.split(".")), "little")


def packed_mac(text: str) -> int:
    return int.from_bytes(bytes.fromhex(text.replace(":", "")), "little")


def socket_address(ip: str, port: int) -> bytes:
    return SOCKET_ADDRESS.pack({"family": 2, "port": port, "address": packed_ip(ip)})


COMMON_OFFSET = 4096
"""Of what the fake engines of several cores share, behind the shared region: 32 locks and their padding, then flows."""
FLOWS_OFFSET = COMMON_OFFSET + 256
FLOW = struct.Struct("<16s16sHHI")
"""One flow there: source and destination, of IPv4 in the first 4 bytes, ports, 1 + core."""


def flow_table(shared: Path) -> dict[tuple[bytes, bytes, int, int], int]:
    """The fake flow table in the file ``shared``: (source, destination, ports as a frame to us has them) -> core."""
    data = shared.read_bytes()[FLOWS_OFFSET : FLOWS_OFFSET + FLOW.size * CONFIG.flows]
    flows = {}
    for source, destination, source_port, destination_port, state in FLOW.iter_unpack(data):
        if state:
            bytes_of = 16 if any(source[4:] + destination[4:]) else 4
            key = (source[:bytes_of], destination[:bytes_of], source_port, destination_port)
            assert key not in flows
            flows[key] = state - 1
    return flows


def udp_ports(shared: Path) -> dict[int, list]:
    """The fake UDP port table in the file ``shared``: port -> [member mask, is_spread]."""
    start = FLOWS_OFFSET + FLOW.size * CONFIG.flows
    data = shared.read_bytes()[start : start + 12 * CONFIG.udp_port_entries]
    return {port: [members, bool(spread)] for port, spread, members in struct.iter_unpack("<III", data) if members}


def flow_owner(shared: Path, sent: Ether) -> int | None:
    """Core that has the connection of a segment that we sent; None if it is in no table."""
    ip, tcp = sent[IP], sent[TCP]
    addresses = tuple(bytes(map(int, text.split("."))) for text in (ip.dst, ip.src))
    return flow_table(shared).get((*addresses, tcp.dport, tcp.sport))


@dataclass
class Completion:
    user_data: int
    result: int
    more: int
    joined: int


@dataclass
class Firmware:
    """The process; every command runs the firmware until it is idle and collects what it did."""

    arguments: tuple[str, ...] = ()
    frames: list[Ether] = field(default_factory=list)
    completions: list[Completion] = field(default_factory=list)
    messages: list[tuple[int, ...]] = field(default_factory=list)
    rules: list[tuple[int, ...]] = field(default_factory=list)
    indirection: dict[int, int] = field(default_factory=dict)
    mdio: list[tuple[int, ...]] = field(default_factory=list)
    ready: tuple[int, int] = (0, 0)
    log: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.process = subprocess.Popen(
            [BUILD / "host" / "firmware", *self.arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "ASAN_OPTIONS": "detect_leaks=0"},
        )
        self._collect()

    def _collect(self) -> str:
        answer = ""
        for line in self.process.stdout:
            words = line.split()
            if words[0] == "ok":
                return answer
            if words[0] == "tx":
                self.frames.append(Ether(bytes.fromhex(words[2])))
            elif words[0] == "cqe":
                low, high, result, more, joined, _slot = (int(word) for word in words[1:])
                self.completions.append(Completion(low | high << 32, result, more, joined))
            elif words[0] == "message":
                self.messages.append(tuple(int(word) for word in words[1:]))
            elif words[0] == "rule":
                self.rules.append(tuple(int(word) for word in words[1:]))
            elif words[0] == "indirection":
                self.indirection[int(words[1])] = int(words[2])
            elif words[0] == "mdio":
                self.mdio.append(tuple(int(word) for word in words[1:]))
            elif words[0] == "ready":
                self.ready = (int(words[1]), int(words[2]))
            elif words[0] in ("data", "state"):
                answer = line.split(maxsplit=1)[1].strip() if len(words) > 1 else ""
            else:
                self.log.append(line.strip())
        self.process.wait(timeout=10)
        raise RuntimeError(f"the firmware stopped ({self.process.returncode}): {self.process.stderr.read()[-3000:]}")

    def command(self, text: str) -> str:
        self.begin(text)
        return self._collect()

    def begin(self, text: str) -> None:
        """Start a command without waiting; finish() must follow."""
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def finish(self) -> None:
        self._collect()

    def close(self) -> str:
        """End the process; its console and what the sanitizers said."""
        self.process.stdin.close()
        error = self.process.stderr.read()
        self.process.stdout.close()
        self.process.stderr.close()
        assert self.process.wait(timeout=10) == 0, error
        return error

    def frame(self, packet, *, answer: bool = True, port: int = 0) -> None:
        self.command(f"frame {port} {int(answer)} {bytes(packet).hex()}")

    def burst(self, packets, *, port: int = 0) -> None:
        """Frames that come faster than the firmware handles them."""
        self.command(f"burst {port} 1 " + " ".join(bytes(packet).hex() for packet in packets))

    def sqe(self, operation: int, user_data: int, *, joined: bool = False, **fields: int | bytes) -> None:
        self.sqe_begin(operation, user_data, joined=joined, **fields)
        self.finish()

    def sqe_begin(self, operation: int, user_data: int, *, joined: bool = False, **fields: int | bytes) -> None:
        inline = fields.pop("inline", b"")
        values = {"operation": int(operation), "user_data": user_data, **fields}
        values["inline"] = int.from_bytes(inline, "little")
        self.begin(f"sqe 0 {int(joined)} 0 {SQE.pack(values).hex()}")

    def completion(self) -> Completion:
        """The oldest completion; there must be one."""
        assert self.completions, "no completion came"
        return self.completions.pop(0)

    def call(self, operation: int, user_data: int = 1, **fields) -> int:
        self.sqe(operation, user_data, **fields)
        completion = self.completion()
        assert completion.user_data == user_data
        return completion.result

    def write(self, address: int, data: bytes) -> None:
        for offset in range(0, len(data), 2048):
            self.command(f"write {address + offset} {data[offset : offset + 2048].hex()}")

    def read(self, address: int, length: int) -> bytes:
        return bytes.fromhex(self.command(f"read {address} {length}"))

    def state(self) -> dict[str, int]:
        return {name: int(value) for name, value in (item.split("=") for item in self.command("state").split())}

    def configure(self, port: int = 0) -> None:
        block = NETIF_CONFIG.pack(
            {"family": 2, "prefix_length": 24, "address": packed_ip(OUR_IP), "mac": packed_mac(OUR_MAC)}
        )
        assert self.call(Operation.NETIF_CONFIG, 100, operation_flags=port, inline=block) == 0

    def learn_peer(self) -> None:
        """Let the firmware learn the peer's MAC address from its ARP request."""
        request = Ether(src=PEER_MAC, dst="ff:ff:ff:ff:ff:ff") / ARP(op=1, hwsrc=PEER_MAC, psrc=PEER_IP, pdst=OUR_IP)
        self.frame(request)


class TcpPeer:
    """A minimal TCP peer: in order, one segment at a time; keeps what it received."""

    def __init__(self, firmware: Firmware, port: int, local: int = 40000):
        self.firmware, self.port, self.local = firmware, port, local
        self.sequence, self.expected = 1000, 0
        self.received = b""
        self.flags: list[str] = []
        self.window = 0

    def send(self, flags: str, payload: bytes = b"", *, sequence: int | None = None) -> None:
        start = self.sequence if sequence is None else sequence
        header = TCP(sport=self.local, dport=self.port, flags=flags, seq=start, ack=self.expected, window=60000)
        if "S" in flags:
            header.options = [("MSS", 1460)]
        frame = Ether(src=PEER_MAC, dst=OUR_MAC) / IP(src=PEER_IP, dst=OUR_IP) / header / payload
        if sequence is None:
            self.sequence += len(payload) + ("S" in flags) + ("F" in flags)
        self.firmware.frame(frame)
        self.collect()

    def collect(self) -> None:
        self.gather(self.firmware.frames)
        self.firmware.frames.clear()

    def gather(self, frames: list[Ether]) -> None:
        """Take in what is for this connection."""
        for frame in frames:
            if TCP not in frame or frame[TCP].dport != self.local:
                continue
            fresh = type(frame)(bytes(frame))
            del fresh[IP].chksum, fresh[TCP].chksum
            fresh = type(frame)(bytes(fresh))
            assert fresh[IP].chksum == frame[IP].chksum and fresh[TCP].chksum == frame[TCP].chksum
            length = frame[IP].len - 4 * frame[IP].ihl - 4 * frame[TCP].dataofs
            payload = bytes(frame[TCP].payload)[:length]
            flags = str(frame[TCP].flags)
            self.flags.append(flags)
            self.window = frame[TCP].window
            if "S" in flags:
                self.expected = frame[TCP].seq + 1
            elif frame[TCP].seq == self.expected:
                self.received += payload
                self.expected += len(payload) + ("F" in flags)

    def acknowledge_all(self, rounds: int = 50) -> None:
        """Acknowledge until nothing new comes."""
        for _ in range(rounds):
            before = self.expected
            self.send("A")
            if self.expected == before:
                return

    def open(self) -> None:
        self.send("S")
        assert self.flags[-1] == "SA", self.flags
        self.send("A")
