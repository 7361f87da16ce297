"""Frames with what scapy finds in them, for the benches of the parser and of the transmit checksums."""

from __future__ import annotations

import pickle
import random
import struct
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from support import packets, scapy_reference
from twinstack.models import parser as model

LONGEST = 500
"""Longer frames would make a batch of the bench too long; they are in ``test_rx_front_end``."""
VARIANTS = 3
"""Mutants of each frame that scapy built."""


@dataclass
class Case:
    """A frame, the parser's verdict and fields, and the frame with its checksums written."""

    frame: bytes
    error: bool
    verdict: str
    meta: dict[str, int]
    sent: bytes


def mutate(rng: random.Random, frame: bytes) -> bytes:
    """One or more faults; in half of the mutants the checksums are right again, so that the faults must be found."""
    if len(frame) < 35:
        return rng.randbytes(rng.randrange(70))
    out = packets.damage(rng, frame)
    while rng.random() < 0.3 and len(out) > 40:
        out = packets.damage(rng, out)
    if rng.random() < 0.5:
        out = model.insert_checksums(out)
        if rng.random() < 0.1:
            out = _icmp_checksum(out)
    return out


def _icmp_checksum(frame: bytes) -> bytes:
    """Write that of an ICMP message in untagged IPv4, which :func:`model.insert_checksums` does not."""
    header = (frame[14] & 15) * 4 if len(frame) > 34 else 0
    end = 14 + int.from_bytes(frame[16:18], "big")
    if frame[12:14] != b"\x08\0" or frame[23:24] != b"\x01" or 14 + header + 4 > end or end > len(frame):
        return frame
    message = frame[14 + header : end]
    value = 0xFFFF ^ model.ones_complement_sum(message[:2] + b"\0\0" + message[4:])
    return frame[: 14 + header + 2] + struct.pack(">H", value) + frame[14 + header + 4 :]


def zero_sums(rng: random.Random) -> list[bytes]:
    """UDP whose computed checksum is zero: sent as 0xFFFF (RFC 768), and as zero, which only looks right over IPv6."""
    from scapy.layers.inet import IP, UDP
    from scapy.layers.inet6 import IPv6
    from scapy.layers.l2 import Ether

    frames = []
    for network in (IP(src="192.0.2.1", dst="198.51.100.7"), IPv6(src="2001:db8::1", dst="2001:db8::2")):
        head = Ether(src=rng.randbytes(6), dst=rng.randbytes(6)) / network
        head /= UDP(sport=rng.randrange(65536), dport=rng.randrange(65536))
        found = int(Ether(bytes(head / bytes(2)))[UDP].chksum)
        right = bytes(head / struct.pack(">H", found))
        assert right[-4:-2] == b"\xff\xff"
        frames += [right, right[:-4] + bytes(2) + right[-2:]]
    return frames


def ends_about_the_copy(rng: random.Random) -> list[bytes]:
    """TCP and UDP headers behind extension headers that end just within the header copy, with it, and beyond."""
    from scapy.layers.inet import TCP, UDP
    from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, PadN
    from scapy.layers.l2 import Ether

    frames = []
    for padding in (44, 52, 60):
        for transport in (TCP, UDP):
            head = Ether(src=rng.randbytes(6), dst=rng.randbytes(6)) / IPv6(src="2001:db8::1", dst="2001:db8::2")
            head /= IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(padding))])
            frames.append(
                bytes(head / transport(sport=rng.randrange(65536), dport=rng.randrange(65536)) / rng.randbytes(9))
            )
    return frames


def make(seed: int, number: int) -> list[Case]:
    """So many cases, the same for the same seed; also checks that the Python model agrees with scapy on each."""
    rng = random.Random(seed)
    cases: list[Case] = []
    while len(cases) < number:
        frame = packets.random_frame(rng)
        if len(frame) > LONGEST:
            continue
        frames = [frame, *(mutate(rng, frame) for _ in range(VARIANTS))]
        if rng.random() < 0.01 or not cases:
            frames += zero_sums(rng) + ends_about_the_copy(rng)
        if model.inspect(frame).verdict != model.GOOD:  # scapy leaves out the checksum behind an authentication header
            frames.append(model.insert_checksums(frame))
        if rng.random() < 0.05:
            frames.append(packets.udp_shorter_than_ip(rng))
        for raw in frames:
            error = rng.random() < 0.01
            verdict, meta = scapy_reference.receive(raw, error=error)
            inspection = model.inspect(raw, error=error)
            ours = {name: value for name, value in inspection.meta.items() if value}
            assert (inspection.verdict, ours) == (verdict, meta), f"model and scapy differ on {raw.hex()}"
            sent = scapy_reference.transmit(raw)
            assert model.insert_checksums(raw) == sent, f"model and scapy write other checksums into {raw.hex()}"
            cases.append(Case(raw, error, verdict, meta, sent))
    return cases[:number]


def write(path: Path, seed: int, number: int, *, processes: int = 1) -> None:
    """Make cases in several processes and pickle them to ``path``."""
    share = -(-number // processes)
    seeds = [(seed + index, share) for index in range(processes)]
    if processes == 1:
        parts = [make(*seeds[0])]
    else:
        with get_context("spawn").Pool(processes) as pool:
            parts = pool.starmap(make, seeds)
    path.write_bytes(pickle.dumps([vars(case) for part in parts for case in part]))


def read(path: str) -> list[Case]:
    return [Case(**fields) for fields in pickle.loads(Path(path).read_bytes())]
