"""Bench for the TX engine: models of the cores' memories that are ready at random, of the ports' MACs, and of the drivers."""

from __future__ import annotations

import os
import random

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import RisingEdge

from twinstack.config import EngineConfig
from twinstack.interfaces import FrameWord
from twinstack.proto.descriptor import GATHER_ENTRY, NEXT_HOP, TX_COMMAND, TxOpcode, TxStatus
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
NEXT_HOPS = 0x1804  # any word
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
            for member in ("ring", "ring_log2", "enable", "next_hops", "producer", "consumer")
        }
        self.ring_log2 = 3
        self.heap = dict.fromkeys(MEMORIES, HEAP)
        self.restart()

    def restart(self):
        self.producer = 0
        self.pins["ring"].value = RING
        self.pins["ring_log2"].value = self.ring_log2
        self.pins["next_hops"].value = NEXT_HOPS
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

    def submit(self, entries, *, status=TxStatus.OK, gather_address=None, returns=True, **fields):
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
        if returns:
            self.checks.append((at, bytes(command[:28]) + word.to_bytes(4, "little")))
        self.producer = self.producer + 1 & 0xFFFF
        self.pins["producer"].value = self.producer

    def next_hop(self, number, header, length=None):
        """Write entry ``number`` of the next-hop table, counted from 1."""
        raw = NEXT_HOP.pack({"length": len(header) if length is None else length})
        raw = header + self.rng.randbytes(len(raw) - 4 - len(header)) + raw[-4:]
        at = NEXT_HOPS + NEXT_HOP.size_bytes * (number - 1)
        self.memory["data"].bytes[at : at + len(raw)] = raw

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
