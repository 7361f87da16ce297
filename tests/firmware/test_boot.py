"""The images boot on an RV32IM interpreter that traps on what the core would: misaligned, unmapped and code-write accesses."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.l2 import ARP, Ether

from firmware.firmware_peer import BUILD, PEER_MAC, build
from twinstack.config import EngineConfig
from twinstack.proto import registers
from twinstack.proto.abi import ABI_VERSION, MAGIC
from twinstack.proto.descriptor import RX_DESCRIPTOR, TX_COMMAND
from twinstack.proto.image import check_image
from twinstack.proto.memory_map import (
    CSR_CORE_BASE,
    CSR_MANAGER_BASE,
    DATA_BASE,
    RX_BANK_BASE,
    SHARED_BASE,
    TX_BANK_BASE,
)

CONFIG = EngineConfig()
MASK = 0xFFFF_FFFF


@pytest.fixture(scope="module", autouse=True)
def built():
    build("images")


def signed(value: int, bits: int = 32) -> int:
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


class Core:
    """RV32IM in the plainest form, with the core's CSR page as a dictionary."""

    def __init__(self, image: bytes, abi: int = ABI_VERSION):
        code = check_image(image, engine_abi=ABI_VERSION, code_bytes=CONFIG.code_bytes)
        self.memories = {
            0: bytearray(code.ljust(CONFIG.code_bytes, b"\0")),
            DATA_BASE: bytearray(b"\xa5" * CONFIG.data_bytes),
            RX_BANK_BASE: bytearray(CONFIG.rx_bank_bytes),
            TX_BANK_BASE: bytearray(CONFIG.tx_bank_bytes),
            SHARED_BASE: bytearray(CONFIG.shared_bytes),
        }
        self.x, self.pc, self.csrs, self.console = [0] * 32, 0, {}, ""

        def core(block: registers.Block, name: str) -> int:
            return CSR_CORE_BASE + registers.register_offset(block, name)

        kib = CONFIG.data_bytes // 1024 | CONFIG.rx_bank_bytes // 1024 << 8 | CONFIG.tx_bank_bytes // 1024 << 16
        self.registers = {
            core(registers.CORE, "magic"): MAGIC,
            core(registers.CORE, "abi"): abi,
            core(registers.CORE, "identity"): 2 << 4 | CONFIG.ports << 8 | 1 << 16,
            core(registers.CORE, "memory"): kib,
            core(registers.CORE, "rx_buffers"): CONFIG.rx_large_buffers | CONFIG.rx_small_buffers << 8,
            core(registers.LOCK, "lock"): 3 << 30,
        }
        self.console_data = core(registers.CONSOLE, "data")
        self.ready = core(registers.CORE, "ready")

    def region(self, address: int, size: int) -> tuple[bytearray, int]:
        assert address % size == 0, f"misaligned access to {address:#x} at {self.pc:#x}"
        plain = address & ~0x8000_0000
        for base, memory in self.memories.items():
            if base <= plain <= base + len(memory) - size:
                return memory, plain - base
        raise AssertionError(f"access to nothing at {address:#x}, pc {self.pc:#x}")

    def load(self, address: int, size: int) -> int:
        if address >= CSR_CORE_BASE:
            assert size == 4 and address < CSR_MANAGER_BASE + 0x2000
            return self.registers.get(address, 0)
        memory, offset = self.region(address, size)
        return int.from_bytes(memory[offset : offset + size], "little")

    def store(self, address: int, size: int, value: int) -> None:
        if address == self.console_data:
            self.console += chr(value & 0xFF)
        elif address >= CSR_CORE_BASE:
            assert size == 4
            if registers.LOCK.offset > address - CSR_CORE_BASE or address > CSR_CORE_BASE + 0x300:
                self.registers[address] = value
        else:
            memory, offset = self.region(address, size)
            assert memory is not self.memories[0], f"write to code memory at pc {self.pc:#x}"
            memory[offset : offset + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")

    def multiply(self, funct3: int, a: int, b: int) -> int:
        if funct3 < 4:
            left = a if funct3 == 3 else signed(a)
            right = b if funct3 >= 2 else signed(b)
            return left * right >> (32 if funct3 else 0)
        unsigned = funct3 & 1
        left, right = (a, b) if unsigned else (signed(a), signed(b))
        if right == 0:
            return -1 if funct3 < 6 else left
        quotient = abs(left) // abs(right) * (-1 if (left < 0) != (right < 0) else 1)
        return quotient if funct3 < 6 else left - quotient * right

    def arithmetic(self, funct3: int, a: int, b: int, alternate: bool) -> int:
        shift = b & 31
        return (
            a - b if alternate else a + b,
            a << shift,
            int(signed(a) < signed(b)),
            int(a < b),
            a ^ b,
            signed(a) >> shift if alternate else a >> shift,
            a | b,
            a & b,
        )[funct3]

    def step(self) -> None:
        word, x = self.load(self.pc, 4), self.x
        opcode, rd, funct3 = word & 0x7F, word >> 7 & 31, word >> 12 & 7
        a, b = x[word >> 15 & 31], x[word >> 20 & 31]
        immediate, following, result = signed(word >> 20, 12), self.pc + 4, None
        if opcode == 0x13:
            alternate = funct3 == 5 and bool(word >> 30 & 1)
            result = self.arithmetic(funct3, a, immediate & MASK, alternate)
        elif opcode == 0x33:
            multiply = word >> 25 == 1
            result = self.multiply(funct3, a, b) if multiply else self.arithmetic(funct3, a, b, bool(word >> 30 & 1))
        elif opcode == 0x03:
            size = 1 << (funct3 & 3)
            result = self.load((a + immediate) & MASK, size)
            result = result if funct3 & 4 else signed(result, 8 * size)
        elif opcode == 0x23:
            offset = signed(word >> 25 << 5 | rd, 12)
            self.store((a + offset) & MASK, 1 << funct3, b)
        elif opcode == 0x63:
            offset = signed(
                word >> 31 << 12 | (word >> 7 & 1) << 11 | (word >> 25 & 63) << 5 | (word >> 8 & 15) << 1, 13
            )
            taken = (a == b, None, None, None, signed(a) < signed(b), None, a < b)[funct3 & 6]
            following = self.pc + offset if taken != bool(funct3 & 1) else following
        elif opcode in (0x37, 0x17):
            result = (word & 0xFFFFF000) + (self.pc if opcode == 0x17 else 0)
        elif opcode == 0x6F:
            result = following
            offset = word >> 31 << 20 | (word >> 12 & 255) << 12 | (word >> 20 & 1) << 11 | (word >> 21 & 1023) << 1
            following = self.pc + signed(offset, 21)
        elif opcode == 0x67:
            result, following = following, (a + immediate) & ~1
        elif opcode == 0x73 and funct3:
            number = word >> 20
            result = self.csrs.get(number, 0)
            operand = word >> 15 & 31 if funct3 & 4 else a
            self.csrs[number] = (operand, result | operand, result & ~operand)[(funct3 & 3) - 1]
        else:
            assert opcode == 0x0F, f"unknown instruction {word:#010x} at {self.pc:#x}"
        if result is not None and rd:
            x[rd] = result & MASK
        self.pc = following & MASK

    def run(self, until, limit: int = 400_000) -> None:
        for _ in range(limit):
            self.step()
            if until(self):
                return
        raise AssertionError(f"not reached, pc {self.pc:#x}, console {self.console!r}")


@pytest.mark.parametrize("program", ["sockets", "echo"])
def test_image_boots(program):
    core = Core((BUILD / program / "firmware.img").read_bytes())
    core.run(lambda core: core.registers.get(core.ready, 0) >> 31)
    assert core.console.endswith(f"core 0: twinstack firmware 0.1, ABI {ABI_VERSION}, stack up\n")
    assert core.csrs[0xBC0] == 1 and core.csrs[0x300] & 8, "the tick interrupt is enabled"


def test_image_refuses_another_abi():
    core = Core((BUILD / "sockets" / "firmware.img").read_bytes(), abi=7)
    core.run(lambda core: core.console.endswith("stopped\ncore 0: stopped\n"))
    assert f"hardware ABI 7, firmware ABI {ABI_VERSION}" in core.console
    assert core.registers[core.ready] == ABI_VERSION


def test_image_refuses_other_buffers():
    core = Core((BUILD / "sockets" / "firmware.img").read_bytes())
    core.registers[CSR_CORE_BASE + registers.register_offset(registers.CORE, "rx_buffers")] += 1
    core.run(lambda core: core.console.endswith("stopped\ncore 0: stopped\n"))
    assert "not those the firmware was built for" in core.console


class EchoCore(Core):
    """The echo program, with what the receive and transmit paths do."""

    def __init__(self) -> None:
        super().__init__((BUILD / "echo" / "firmware.img").read_bytes())
        self.freed: list[int] = []
        self.run(lambda core: core.registers.get(core.ready, 0) >> 31)
        self.frames = 0
        self.rx_free = self.register(registers.RX, "free")
        self.producer = self.register(registers.TX, "producer")
        self.ring = DATA_BASE + self.registers[self.register(registers.RX, "ring")]
        self.headers = DATA_BASE + self.registers[self.register(registers.RX, "headers")]
        self.commands = DATA_BASE + self.registers[self.register(registers.TX, "ring")]

    def register(self, block: registers.Block, name: str) -> int:
        return CSR_CORE_BASE + registers.register_offset(block, name)

    def store(self, address: int, size: int, value: int) -> None:
        super().store(address, size, value)
        if address == getattr(self, "rx_free", None):
            self.freed.append(value)

    def give(self, packet, **fields: int) -> int:
        """A frame to the next RX buffer; its number."""
        index, self.frames = self.frames, self.frames + 1
        data = bytes(2) + bytes(packet)
        for base, length in (
            (RX_BANK_BASE + 1536 * index, len(data)),
            (self.headers + 128 * index, min(len(data), 128)),
        ):
            memory, offset = self.region(base, 1)
            memory[offset : offset + length] = data[:length]
        fields |= {"version": 1, "buffer_index": index, "frame_length": len(data) - 2, "l3_offset": 14, "answer": 1}
        fields |= {"ip_checksum_ok": 1, "l4_checksum_ok": 1, "epoch": 1, "owner": 1}
        memory, offset = self.region(self.ring + 64 * index, 4)
        memory[offset : offset + 64] = RX_DESCRIPTOR.pack(fields)
        return index

    def answer(self) -> Ether:
        """The next frame sent, put together from its gather list; the command is then marked as done."""
        before = self.registers[self.producer]
        self.run(lambda core: core.registers[core.producer] != before)
        memory, offset = self.region(self.commands + 32 * before, 4)
        command = TX_COMMAND.unpack(bytes(memory[offset : offset + 32]))
        frame = b""
        for entry in range(command["gather_count"]):
            address = self.load(command["gather_address"] + 8 * entry, 4)
            length = self.load(command["gather_address"] + 8 * entry + 4, 4)
            frame += bytes(self.load(address + i, 1) for i in range(length))
        memory[offset : offset + 32] = TX_COMMAND.pack(command | {"done": 1})
        return Ether(frame)


def test_echo_answers_arp_ping_and_tcp_without_a_misaligned_access():
    core = EchoCore()
    peer = Ether(src=PEER_MAC, dst="02:54:53:00:00:00")
    ip = IP(src="10.0.0.9", dst="10.0.0.2")
    core.give(peer / ARP(op=1, hwsrc=PEER_MAC, psrc="10.0.0.9", pdst="10.0.0.2"), is_arp=1)
    reply = core.answer()
    assert reply[ARP].op == 2 and reply[ARP].pdst == "10.0.0.9"
    core.give(peer / ip / ICMP() / bytes(5), is_ipv4=1, is_icmp=1)
    assert core.answer()[ICMP].type == 0
    tcp = {"is_ipv4": 1, "is_tcp": 1}
    core.give(peer / ip / TCP(sport=1, dport=7, flags="S", seq=9, options=[("MSS", 1460)]), **tcp)
    opened = core.answer()
    assert str(opened[TCP].flags) == "SA" and opened[TCP].ack == 10
    # Longer than the header copy: the echo must come from the RX bank.
    stream = bytes(i * 7 & 0xFF for i in range(900))
    position = 0
    sequence = opened[TCP].seq + 1
    core.give(peer / ip / TCP(sport=1, dport=7, flags="A", seq=10, ack=sequence), **tcp)
    for length in (1, 99, 800):
        piece = stream[position : position + length]
        header = TCP(sport=1, dport=7, flags="PA", seq=10 + position, ack=sequence + position)
        buffer = core.give(peer / ip / header / piece, **tcp)
        echo = core.answer()
        assert bytes(echo[TCP].payload)[: len(piece)] == piece and echo[IP].len == 40 + len(piece)
        assert echo[TCP].seq == sequence + position and echo[TCP].ack == 10 + position + length
        assert buffer not in core.freed, "unacknowledged data must stay"
        position += length
        core.give(peer / ip / TCP(sport=1, dport=7, flags="A", seq=10 + position, ack=sequence + position), **tcp)
        core.run(lambda core, buffer=buffer: buffer in core.freed)
    assert position == len(stream)
