"""TX engine on models of the cores' memories that are ready at random, against frames and checksums made by scapy."""

import os
import random

import cocotb
import pytest
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw

from twinstack.config import EngineConfig
from twinstack.interfaces import FrameWord
from twinstack.proto.descriptor import GATHER_ENTRY, TX_COMMAND, TxOpcode, TxStatus
from twinstack.proto.memory_map import DATA_BASE, RX_BANK_BASE, TX_BANK_BASE, UNCACHED

CONFIG = EngineConfig()
CORES, PORTS = range(CONFIG.cores), range(CONFIG.ports)
MEMORIES = {
    "data": (DATA_BASE, CONFIG.data_bytes),
    "rx_bank": (RX_BANK_BASE, CONFIG.rx_bank_bytes),
    "tx_bank": (TX_BANK_BASE, CONFIG.tx_bank_bytes),
}
RING = 0x400  # rings and lists below HEAP, pieces of frames above
LISTS = 0x1000
HEAP = 0x2000
EPOCH = 0x5A


class Memory:
    """A RAM port's other end: ready at random, read data exactly one cycle after acceptance."""

    def __init__(self, dut, name, size, rng):
        self.bytes = bytearray(rng.randbytes(size))
        self.rng = rng
        self.busy = 0.0
        self.port = {
            member: getattr(dut, f"{name}__{member}")
            for member in ("valid", "write", "address", "data", "mask", "ready", "read_data")
        }
        self.ready = 0
        self.waiting = None
        self.writes = 0

    def step(self):
        """Take what the port showed up to this clock edge; drive the next cycle."""
        port = self.port
        answer = None
        if int(port["valid"].value):
            request = tuple(int(port[name].value) for name in ("write", "address", "data", "mask"))
            assert self.waiting in (None, request), "a request must stay unchanged until it is accepted"
            self.waiting = None if self.ready else request
            if self.ready:
                write, address, data, mask = request
                at = 4 * address
                assert at < len(self.bytes), f"access to byte {at:#x} of {len(self.bytes):#x}"
                if write:
                    assert mask == 0b1111
                    self.bytes[at : at + 4] = data.to_bytes(4, "little")
                    self.writes += 1
                else:
                    answer = int.from_bytes(self.bytes[at : at + 4], "little")
        else:
            assert self.waiting is None, "a request must stay until it is accepted"
        port["read_data"].value = self.rng.getrandbits(32) if answer is None else answer
        self.ready = int(self.rng.random() >= self.busy)
        port["ready"].value = self.ready


class Sink:
    """A port's MAC: collects frames, checks that an always-ready reader sees no gap."""

    def __init__(self, dut, port, rng):
        self.rng = rng
        self.valid, self.payload, self.ready_pin = (
            getattr(dut, f"frame{port}__{member}") for member in ("valid", "payload", "ready")
        )
        self.stall = 0.0
        self.ready = 0
        self.words = bytearray()
        self.inside = False
        self.waiting = None
        self.frames = []

    def step(self):
        valid = int(self.valid.value)
        payload = int(self.payload.value)
        assert valid or not self.inside, "gap inside a frame"
        assert self.waiting in (None, payload), "payload must stay until ready"
        self.waiting = payload if valid and not self.ready else None
        if valid and self.ready:
            word = FrameWord.from_bits(payload)
            assert not word.error
            assert word.last or word.count == 4
            self.words += word.data.to_bytes(4, "little")[: word.count]
            self.inside = not word.last
            if word.last:
                assert self.words[:2] == bytes(2), "pad bytes"
                self.frames.append(bytes(self.words[2:]))
                self.words.clear()
        self.ready = int(self.rng.random() >= self.stall)
        self.ready_pin.value = self.ready


class Core:
    """Driver of one core's queue."""

    def __init__(self, dut, number, rng):
        self.number, self.rng = number, rng
        self.memory = {name: Memory(dut, f"{name}{number}", size, rng) for name, (_, size) in MEMORIES.items()}
        self.pins = {
            member: getattr(dut, f"queue{number}__{member}")
            for member in ("ring", "ring_log2", "enable", "producer", "consumer")
        }
        self.ring_log2 = 3
        self.heap = dict.fromkeys(MEMORIES, HEAP)
        self.restart()

    def restart(self):
        self.producer = 0
        self.pins["ring"].value = RING
        self.pins["ring_log2"].value = self.ring_log2
        self.pins["producer"].value = 0
        self.pins["enable"].value = 1
        self.heap = dict.fromkeys(MEMORIES, HEAP)
        self.checks = []  # (address, expected bytes) of each command, in order
        self.expected = {port: [] for port in PORTS}

    @property
    def consumer(self):
        return int(self.pins["consumer"].value)

    @property
    def free(self):
        """Commands that fit into the ring."""
        return (1 << self.ring_log2) - (self.producer - self.consumer & 0xFFFF)

    def place(self, piece):
        """Put ``piece`` somewhere at random alignment; return its CPU address."""
        name = self.rng.choice(list(MEMORIES))
        base, size = MEMORIES[name]
        at = self.heap[name] + self.rng.randrange(4)
        if at + len(piece) > size:
            at = HEAP + self.rng.randrange(4)
        self.heap[name] = at + len(piece)
        self.memory[name].bytes[at : at + len(piece)] = piece
        return base + at + self.rng.choice((0, UNCACHED))

    def cut(self, frame):
        """Place a frame in 1 to 8 pieces of any length; return the gather entries."""
        count = self.rng.randint(1, min(8, len(frame)))
        cuts = [0, *sorted(self.rng.sample(range(1, len(frame)), count - 1)), len(frame)]
        return [(self.place(frame[a:b]), b - a) for a, b in zip(cuts, cuts[1:], strict=False)]

    def submit(self, entries, *, status=TxStatus.OK, gather_address=None, **fields):
        """Write a command and ring the doorbell. ``status`` is what it must return with."""
        slot = self.producer % (1 << self.ring_log2)
        assert self.free, "ring is full"
        self.check(keep=(1 << self.ring_log2) - 1)
        data = self.memory["data"].bytes
        lists = LISTS + 64 * slot
        raw = b"".join(GATHER_ENTRY.pack({"address": address, "length": length}) for address, length in entries)
        data[lists : lists + len(raw)] = raw
        if gather_address is None:
            gather_address = DATA_BASE + lists + self.rng.choice((0, UNCACHED))
        values = {
            "opcode": TxOpcode.GATHER,
            "port": 0,
            "gather_count": min(len(entries), 15),
            "tag": self.rng.getrandbits(16),
            "sequence": self.rng.getrandbits(32),
            "mss": self.rng.getrandbits(16),
            "epoch": EPOCH,
            "owner": 1,
        } | fields
        values["gather_address"] = gather_address
        reserved = self.rng.getrandbits(14) << 16  # bits of the last word that no field names: kept
        command = bytearray(TX_COMMAND.pack(values))
        command[28:32] = (int.from_bytes(command[28:32], "little") | reserved).to_bytes(4, "little")
        at = RING + 32 * slot
        data[at : at + 32] = command
        word = int.from_bytes(command[28:32], "little") & 0x3FFF_00FF | 1 << 30 | status << 8
        self.checks.append((at, bytes(command[:28]) + word.to_bytes(4, "little")))
        self.producer = self.producer + 1 & 0xFFFF
        self.pins["producer"].value = self.producer

    def check(self, keep=0):
        """Compare returned commands with what they must look like, all but the newest ``keep``."""
        while len(self.checks) > keep:
            at, command = self.checks.pop(0)
            got = bytes(self.memory["data"].bytes[at : at + 32])
            assert got == command, f"core {self.number}: {TX_COMMAND.unpack(got)}, not {TX_COMMAND.unpack(command)}"

    def send(self, frame, expected, port, opcode=TxOpcode.GATHER):
        self.submit(self.cut(frame), port=port, opcode=opcode)
        self.expected[port].append(expected)


class Bench:
    def __init__(self, dut):
        self.dut = dut
        self.rng = random.Random(int(os.environ["TWINSTACK_SEED"]))
        self.cores = [Core(dut, number, self.rng) for number in CORES]
        self.sinks = [Sink(dut, port, self.rng) for port in PORTS]
        self.cycle = 0

    async def start(self, busy=0.0, stall=0.0):
        dut = self.dut
        cocotb.start_soon(Clock(dut.clk, 10, "ns").start())
        dut.core_reset.value = 0
        dut.epochs.value = sum(EPOCH << 8 * number for number in CORES)
        for core in self.cores:
            for memory in core.memory.values():
                memory.busy = busy
                memory.port["ready"].value = 0
        for sink in self.sinks:
            sink.stall = stall
            sink.ready_pin.value = 0
        dut.rst.value = 1
        await RisingEdge(dut.clk)
        await RisingEdge(dut.clk)
        dut.rst.value = 0
        self.models = [memory for core in self.cores for memory in core.memory.values()] + self.sinks

    async def tick(self, cycles=1):
        for _ in range(cycles):
            await RisingEdge(self.dut.clk)
            self.cycle += 1
            for model in self.models:
                model.step()

    async def until(self, condition, limit, what):
        deadline = self.cycle + limit
        while not condition():
            assert self.cycle < deadline, f"not within {limit} cycles: {what}"
            await self.tick()

    async def returned(self, limit=100_000):
        """Wait until all commands are back, and check what they look like."""
        await self.until(lambda: all(core.consumer == core.producer for core in self.cores), limit, "commands back")
        for core in self.cores:
            core.check()

    async def drained(self):
        """Wait for all frames; each core's frames must come in order on each port, and no others."""
        for port, sink in enumerate(self.sinks):
            wanted = sum(len(core.expected[port]) for core in self.cores)
            await self.until(lambda s=sink, w=wanted: len(s.frames) >= w, 20_000, f"{wanted} frames on port {port}")
        await self.tick(60)
        for port, sink in enumerate(self.sinks):
            queues = [core.expected[port] for core in self.cores]
            for number, frame in enumerate(sink.frames):
                queue = next((queue for queue in queues if queue and queue[0] == frame), None)
                nexts = [queue[0].hex() for queue in queues if queue]
                assert queue is not None, f"frame {number} on port {port} is {frame.hex()}, not one of {nexts}"
                queue.pop(0)
            assert not any(queues)
            sink.frames.clear()

    def counter(self, name, core):
        return int(getattr(self.dut, f"{name}{core}").value)


# --- Frames ---


def with_checksums(packet, rng):
    """``packet`` as bytes with wrong checksums, and with those of scapy."""
    wrong, right = packet.copy(), packet.copy()
    for layer in (IP, TCP, UDP):
        if layer in packet:
            wrong[layer].chksum = rng.choice((0, rng.getrandbits(16)))
            del right[layer].chksum
    return bytes(wrong), bytes(right)


def l2(rng):
    ether = Ether(dst=rng.randbytes(6), src=rng.randbytes(6))
    return ether / Dot1Q(vlan=rng.randrange(4096), prio=rng.randrange(8)) if rng.random() < 0.3 else ether


def l3(rng, **fields):
    if fields or rng.random() < 0.6:
        options = [IPOption(rng.choice((b"\x94\x04\x00\x00", b"\x01" * 8, b"\x07\x27\x04" + bytes(37))))]
        address = [".".join(str(byte) for byte in rng.randbytes(4)) for _ in "sd"]
        ip = IP(src=address[0], dst=address[1], id=rng.getrandbits(16), ttl=rng.randrange(256), **fields)
        if rng.random() < 0.3:
            ip.options = options
        return ip
    address = [":".join(f"{rng.getrandbits(16):x}" for _ in range(8)) for _ in "sd"]
    return IPv6(src=address[0], dst=address[1], hlim=rng.randrange(256), fl=rng.getrandbits(20))


def l4(rng):
    ports = {"sport": rng.getrandbits(16), "dport": 0xBEEF}
    if rng.random() < 0.5:
        return UDP(**ports)
    options = [("NOP", None), ("NOP", None), ("Timestamp", (rng.getrandbits(32), 0))] if rng.random() < 0.5 else []
    return TCP(**ports, seq=rng.getrandbits(32), ack=rng.getrandbits(32), window=rng.getrandbits(16), options=options)


def random_packet(rng, longest=400):
    packet = l2(rng) / l3(rng) / l4(rng)
    return packet / Raw(
        rng.randbytes(rng.randint(0, max(0, longest - len(packet))) if rng.random() < 0.7 else rng.randrange(8))
    )


def flip_ip_length(frame, change, rng):
    """An untagged IPv4 frame whose total length is ``change`` off, with the right header checksum, and a wrong one."""
    packet = Ether(frame)
    packet[IP].len += change
    rest = bytes(packet[IP].payload)
    header = packet[IP].copy()
    header.remove_payload()
    del header.chksum
    ethernet = frame[:14]
    right = ethernet + bytes(header) + rest
    wrong = bytearray(right)
    wrong[24:26] = rng.randbytes(2)
    return bytes(wrong), right


def directed_frames(rng):
    """(name, frame in memory, frame on the wire)."""
    ether = Ether(dst="02:00:00:00:00:01", src="02:00:00:00:00:02")
    ip, ip6 = IP(src="192.0.2.1", dst="198.51.100.7"), IPv6(src="2001:db8::1", dst="2001:db8::2")
    vlan = Dot1Q(vlan=7)
    options = IPOption(b"\x94\x04\x00\x00")

    def cases():
        for size in range(6):
            yield f"tcp {size}", *with_checksums(ether / ip / TCP() / Raw(rng.randbytes(size)), rng)
            yield f"udp {size}", *with_checksums(ether / ip / UDP() / Raw(rng.randbytes(size)), rng)
        for tag in (False, True):
            base = ether / vlan if tag else ether
            yield "udp v6", *with_checksums(base / ip6 / UDP() / Raw(b"odd"), rng)
            yield "tcp v6", *with_checksums(base / ip6 / TCP() / Raw(b"even"), rng)
            yield "options", *with_checksums(base / IP(options=[options] * 10) / TCP() / Raw(b"odd"), rng)
            yield "icmp", *with_checksums(base / ip / ICMP(chksum=0x1234) / Raw(b"echo"), rng)
            yield "icmp v6", *with_checksums(base / ip6 / ICMPv6EchoRequest(cksum=0x1234, data=b"echo"), rng)
            for flags, fragment in (("MF", 0), (0, 185), ("MF", 185)):
                packet = base / IP(proto=17, flags=flags, frag=fragment) / Raw(rng.randbytes(50))
                yield "fragment", *with_checksums(packet, rng)
            yield "don't fragment", *with_checksums(base / IP(flags="DF") / UDP() / Raw(b"x"), rng)
            # The checksum would be zero (RFC 768): its complement in the payload makes it so.
            for network in (ip, ip6):
                found = Ether(bytes(ether / network / UDP() / Raw(bytes(2))))[UDP].chksum
                wrong, right = with_checksums(base / network / UDP() / Raw(found.to_bytes(2, "big")), rng)
                assert right[-4:-2] == b"\xff\xff"
                yield "udp zero", wrong, right
        for longest in (ip / UDP(), ip6 / TCP()):
            size = 1514 - len(ether / longest)
            yield "longest", *with_checksums(ether / longest / Raw(rng.randbytes(size)), rng)
        yield "all ones", *with_checksums(ether / ip / UDP() / Raw(b"\xff" * 1400), rng)
        wrong, right = with_checksums(ether / ip / UDP() / Raw(b"abc"), rng)
        padding = rng.randbytes(60 - len(wrong))
        yield "ethernet padding", wrong + padding, right + padding
        arp = bytes(ether / ARP(psrc="192.0.2.1", pdst="192.0.2.2"))
        yield "arp", arp, arp
        for name, start in (
            ("two tags", b"\x81\x00\x00\x01\x81\x00\x00\x02\x08\x00"),
            ("length field", b"\x00\x40"),
            ("bad version", b"\x08\x00\x65"),
            ("bad header length", b"\x08\x00\x44"),
            ("v6 with version 4", b"\x86\xdd\x45"),
            ("v6 with hop-by-hop options", b"\x86\xdd\x60\x00\x00\x00\x00\x30\x00\x40"),
        ):
            frame = (bytes(12) + start).ljust(90, b"\x5a")
            yield name, frame, frame
        for length in (14, 15, 16, 17, 18, 20):
            frame = rng.randbytes(12) + b"\x08\x00\x45" + rng.randbytes(5)
            yield "cut short", frame[:length], frame[:length]
        whole = bytes(ether / ip / UDP(chksum=0x5555) / Raw(b"abcdef"))
        yield "ip length beyond the frame", *flip_ip_length(whole, 1, rng)
        yield "ip length below the header", *flip_ip_length(whole, -20, rng)
        yield "no room for a udp header", *flip_ip_length(whole, -7, rng)

    yield from cases()


# --- Tests ---


async def send_directed(dut, busy, stall):
    bench = Bench(dut)
    await bench.start(busy, stall)
    core = bench.cores[0]
    for name, frame, expected in directed_frames(bench.rng):
        core.send(frame, expected, 0)
        await bench.returned(5000)
        await bench.until(lambda: bench.sinks[0].frames, 20_000, name)
        got = bench.sinks[0].frames[0]
        assert got == expected, f"{name}: {got.hex()}, not {expected.hex()}"
        await bench.drained()
    assert bench.counter("refused", 0) == 0


@cocotb.test(timeout_time=3000, timeout_unit="us")
async def checksums_of_every_kind_of_frame(dut):
    await send_directed(dut, busy=0.15, stall=0)


@cocotb.test(timeout_time=3000, timeout_unit="us")
async def raw_frames_stay_as_they_are(dut):
    bench = Bench(dut)
    await bench.start(0.2, 0.2)
    core = bench.cores[1]
    for length in (14, 15, 16, 17, 60, 61, CONFIG.max_frame_bytes):
        frame = bench.rng.randbytes(length)
        core.send(frame, frame, 1, TxOpcode.RAW)
        await bench.returned()
    for _ in range(10):
        wrong, _ = with_checksums(random_packet(bench.rng), bench.rng)
        core.send(wrong, wrong, bench.rng.choice(PORTS), TxOpcode.RAW)
        await bench.returned()
    await bench.drained()
    assert bench.counter("sent", 1) == 17
    assert bench.counter("sent", 0) == 0


@cocotb.test(timeout_time=3000, timeout_unit="us")
async def cores_and_ports_interleave(dut):
    bench = Bench(dut)
    await bench.start(busy=0.3, stall=0.5)
    rng = bench.rng
    for core in bench.cores:
        core.ring_log2 = rng.randint(1, 4)
        core.restart()
    left = {core: 40 for core in bench.cores}
    while any(left.values()):
        for core in bench.cores:
            if left[core] and core.free and rng.random() < 0.1:
                core.send(*with_checksums(random_packet(rng, 300), rng), rng.choice(PORTS))
                left[core] -= 1
        await bench.tick()
    await bench.returned()
    await bench.drained()
    assert [bench.counter("sent", core) for core in CORES] == [40] * len(CORES)


@cocotb.test(timeout_time=3000, timeout_unit="us")
async def refused_commands_transmit_nothing(dut):
    bench = Bench(dut)
    await bench.start(busy=0.2)
    core, rng = bench.cores[1], bench.rng
    good = [(DATA_BASE + HEAP, 64)]
    refusals = [
        *((TxStatus.BAD_OPCODE, good, {"opcode": opcode}) for opcode in (0, TxOpcode.SEND, TxOpcode.ACK, 5, 129, 255)),
        *((TxStatus.BAD_PORT, good, {"port": port}) for port in range(CONFIG.ports, 16)),
        (TxStatus.BAD_GATHER, [], {}),
        (TxStatus.BAD_GATHER, good * 9, {}),
        (TxStatus.BAD_GATHER, good * 15, {}),
        (TxStatus.BAD_GATHER, [(DATA_BASE + HEAP, 0)], {}),
        (TxStatus.BAD_GATHER, [*good, (DATA_BASE + HEAP, 0)], {}),
        (TxStatus.OLD_EPOCH, good, {"epoch": EPOCH - 1}),
        (TxStatus.BAD_LENGTH, [(DATA_BASE + HEAP, 13)], {}),
        (TxStatus.BAD_LENGTH, [(DATA_BASE + HEAP, 1)], {}),
        (TxStatus.BAD_LENGTH, [(DATA_BASE + HEAP, CONFIG.max_frame_bytes + 1)], {}),
        (TxStatus.BAD_LENGTH, [(DATA_BASE + HEAP, CONFIG.max_frame_bytes - 7), *[good[0]] * 7], {}),
        (TxStatus.BAD_LENGTH, [(DATA_BASE, CONFIG.data_bytes)] * 8, {}),
    ]
    for base, size in MEMORIES.values():
        for address, length in ((base + size, 20), (base + size - 19, 20), (base - 1, 20), (base + size, 1)):
            entries = [*good, (address, length)]
            rng.shuffle(entries)
            refusals.append((TxStatus.BAD_GATHER, entries, {}))
        refusals.append((TxStatus.BAD_GATHER, [(base + 0x0100_0000 * 4, 20)], {}))
    for address in (0, 0x1000_0000 - 64, 0x2200_0000, 0xF000_0000, 0x7FFF_FFFF, 0xFFFF_FFFF):
        refusals.append((TxStatus.BAD_GATHER, [(address, 64)], {}))
    lists = (DATA_BASE + CONFIG.data_bytes, DATA_BASE + CONFIG.data_bytes - 4, DATA_BASE + LISTS + 2, TX_BANK_BASE, 0)
    refusals += [(TxStatus.BAD_GATHER, good, {"gather_address": address}) for address in lists]
    rng.shuffle(refusals)
    for status, entries, fields in refusals:
        core.submit(entries, status=status, **fields)
        await bench.returned(1000)
    await bench.drained()
    assert bench.counter("refused", 1) == len(refusals)
    assert bench.counter("sent", 1) == 0
    # The last bytes of each memory, and of the data RAM for a list, are still good.
    entries = [(base + size - 20, 20) for base, size in MEMORIES.values()]
    frame = b"".join(bytes(core.memory[name].bytes[-20:]) for name in MEMORIES)
    core.submit(entries, opcode=TxOpcode.RAW)
    core.expected[0].append(frame)
    await bench.returned(1000)
    at = CONFIG.data_bytes - GATHER_ENTRY.size_bytes
    raw = GATHER_ENTRY.pack({"address": TX_BANK_BASE, "length": 60})
    core.memory["data"].bytes[at:] = raw
    core.submit(good, opcode=TxOpcode.RAW, gather_address=DATA_BASE + at)
    core.expected[0].append(bytes(core.memory["tx_bank"].bytes[:60]))
    await bench.returned(1000)
    await bench.drained()


@cocotb.test(timeout_time=3000, timeout_unit="us")
async def a_full_frame_takes_at_most_450_cycles(dut):
    bench = Bench(dut)
    await bench.start()
    core = bench.cores[0]
    for count in (1, 2, 8):
        bench.rng.shuffle(list(PORTS))
        frame, expected = with_checksums(
            Ether(dst=bytes(6)) / IP() / TCP() / Raw(bench.rng.randbytes(1514 - 54)), bench.rng
        )
        cuts = [*range(0, 54 * (count - 1) + 1, 54), len(frame)]
        entries = [(core.place(frame[a:b]), b - a) for a, b in zip(cuts, cuts[1:], strict=False)]
        core.submit(entries)
        core.expected[0].append(expected)
        begin = bench.cycle
        await bench.returned(1000)
        dut._log.info(f"{len(entries)} pieces: {bench.cycle - begin} cycles")
        assert bench.cycle - begin <= 450
    await bench.drained()
    frame = bench.rng.randbytes(60)
    begin = bench.cycle
    for _ in range(8):
        core.send(frame, frame, 1, TxOpcode.RAW)
    await bench.returned(1000)
    dut._log.info(f"60 bytes: {(bench.cycle - begin) / 8} cycles each")
    await bench.drained()


@cocotb.test(timeout_time=3000, timeout_unit="us")
async def a_stuck_port_does_not_hold_up_the_other(dut):
    bench = Bench(dut)
    await bench.start()
    rng = bench.rng
    bench.sinks[0].stall = 1.0
    slow, fast = bench.cores
    for _ in range(4):
        slow.send(frame := rng.randbytes(1500), frame, 0, TxOpcode.RAW)
    for _ in range(3):
        await bench.until(lambda: fast.consumer == fast.producer, 5000, "commands for the other port")
        for _ in range(5):
            fast.send(frame := rng.randbytes(300), frame, 1, TxOpcode.RAW)
    await bench.until(lambda: fast.consumer == fast.producer, 5000, "commands for the other port")
    assert slow.consumer == 2, "two frames fit into the buffer"
    bench.sinks[0].stall = 0.0
    await bench.returned()
    await bench.drained()


@cocotb.test(timeout_time=3000, timeout_unit="us")
async def cores_take_turns(dut):
    bench = Bench(dut)
    await bench.start()
    first, second = bench.cores
    for core in (first, second):
        core.pins["enable"].value = 0
        for _ in range(8):
            core.send(frame := bench.rng.randbytes(1500), frame, 0, TxOpcode.RAW)
    await bench.tick(100)
    assert first.consumer == second.consumer == 0, "disabled queues"
    for core in (first, second):
        core.pins["enable"].value = 1
    bench.sinks[0].stall = 0.6  # slower than the engine: both are put off again and again

    def fair():
        assert abs(first.consumer - second.consumer) <= 1
        return first.consumer == second.consumer == 8

    await bench.until(fair, 30_000, "commands back")
    await bench.drained()


@cocotb.test(timeout_time=3000, timeout_unit="us")
async def core_reset_drops_the_command_in_progress(dut):
    bench = Bench(dut)
    await bench.start(busy=0.3, stall=0.1)
    rng = bench.rng
    victim, other = bench.cores
    for _ in range(50):
        for port in PORTS:  # what the victim sent before is known, but not whether it got out
            victim.expected[port].clear()
        sent = [with_checksums(random_packet(rng, 150), rng) for _ in range(3)]
        for wrong, right in sent:
            victim.send(wrong, right, 0)
        other.send(*with_checksums(random_packet(rng, 100), rng), 1)
        await bench.tick(rng.randrange(200))
        dut.core_reset.value = 1 << victim.number
        victim.restart()
        await bench.tick(rng.choice((1, 2, 20)))
        dut.core_reset.value = 0
        await bench.tick()
        assert victim.consumer == 0
        writes = victim.memory["data"].writes
        await bench.returned(2000)
        await bench.tick(300)
        assert victim.memory["data"].writes <= writes + 1, "more than the access in flight"
        assert victim.consumer == 0
        allowed = [right for _, right in sent]
        assert all(frame in allowed for frame in bench.sinks[0].frames), "frame of a dropped command"
        bench.sinks[0].frames.clear()
    victim.send(*with_checksums(random_packet(rng), rng), 0)
    await bench.returned(2000)
    await bench.drained()


def test_tx_engine():
    from support.rtl import run_cocotb
    from twinstack.tx_engine import TxEngine

    run_cocotb(TxEngine(CONFIG), __file__)


@pytest.mark.parametrize("cores, ports", [(1, 1), (4, 4)])
def test_other_sizes_elaborate(cores, ports):
    from amaranth.back import rtlil

    from twinstack.tx_engine import TxEngine

    assert rtlil.convert(TxEngine(EngineConfig(cores=cores, ports=ports)))


def test_config_must_be_one():
    from twinstack.tx_engine import TxEngine

    with pytest.raises(TypeError, match="not 2"):
        TxEngine(2)
