"""TX engine: refusals, throughput, fairness between cores and ports, core reset."""

import cocotb
import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from support.tx_bench import CONFIG, CORES, EPOCH, HEAP, LISTS, MEMORIES, NEXT_HOPS, PORTS, RING, Bench
from support.tx_frames import random_packet, with_checksums
from twinstack.config import EngineConfig
from twinstack.proto.descriptor import GATHER_ENTRY, TX_COMMAND, TxOpcode, TxStatus
from twinstack.proto.memory_map import DATA_BASE, TX_BANK_BASE


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
        (TxStatus.BAD_LENGTH, [(DATA_BASE, min(CONFIG.data_bytes, 0xFFFC))] * 8, {}),  # the length field has 16 bits
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


async def cycles_per_command(bench, core, count):
    """Cycles from the first to the last of ``count`` commands that wait in the ring."""
    await bench.until(lambda: core.consumer == (core.producer - count) % 65536 + 1, 3000, "the first command")
    begin = bench.cycle
    await bench.until(lambda: core.consumer == core.producer, 10_000, "all commands")
    return (bench.cycle - begin) / (count - 1)


@cocotb.test(timeout_time=3000, timeout_unit="us")
async def minimum_frames_take_at_most_40_cycles(dut):
    bench = Bench(dut)
    await bench.start()
    core, rng = bench.cores[0], bench.rng
    header = rng.randbytes(12) + b"\x08\x00"
    core.next_hop(1, header)
    for name, opcode, hop, pieces, limit in (
        ("raw", TxOpcode.RAW, 0, 1, 40),
        ("one piece", TxOpcode.GATHER, 0, 1, 40),
        ("header and payload", TxOpcode.GATHER, 0, 2, 42),
        ("next hop, header, payload", TxOpcode.GATHER, 1, 2, 46),
    ):
        core.pins["enable"].value = 0
        for _ in range(8):
            packet = Ether(header) / IP() / TCP() / Raw(rng.randbytes(6))
            frame, expected = with_checksums(packet, rng)
            cuts = [14 if hop else 0, *([54] if pieces == 2 else []), len(frame)]
            entries = [(core.place(frame[a:b]), b - a) for a, b in zip(cuts, cuts[1:], strict=False)]
            core.submit(entries, opcode=opcode, next_hop=hop, port=1)
            core.expected[1].append(frame if opcode == TxOpcode.RAW else expected)
        core.pins["enable"].value = 1
        cycles = await cycles_per_command(bench, core, 8)
        dut._log.info(f"60 bytes, {name}: {cycles:.1f} cycles each")
        assert cycles <= limit, name
        await bench.returned()
        await bench.drained()


@cocotb.test(timeout_time=3000, timeout_unit="us")
async def long_frames_leave_both_ports_at_line_rate(dut):
    """A frame of 1,514 bytes has 1,538 byte times on the wire (IEEE 802.3, 4.4.2): 923 cycles at 75 MHz and 1 Gb/s, 461 for
    two ports."""
    bench = Bench(dut)
    await bench.start()
    rng = bench.rng
    for count in (1, 2, 8):
        for core in bench.cores:
            core.pins["enable"].value = 0
            for number in range(3):
                packet = Ether(bytes(12) + b"\x08\x00") / IP() / TCP() / Raw(rng.randbytes(1514 - 54))
                frame, expected = with_checksums(packet, rng)
                cuts = [*range(0, 54 * (count - 1) + 1, 54), len(frame)]
                entries = [(core.place(frame[a:b]), b - a) for a, b in zip(cuts, cuts[1:], strict=False)]
                port = (core.number + number) % len(PORTS)
                core.submit(entries, port=port)
                core.expected[port].append(expected)
        for core in bench.cores:
            core.pins["enable"].value = 1
        begin = bench.cycle
        await bench.returned(4000)
        cycles = (bench.cycle - begin) / 6
        dut._log.info(f"1514 bytes in {count} pieces: {cycles:.1f} cycles each")
        assert cycles <= 430
        await bench.drained()


@cocotb.test(timeout_time=3000, timeout_unit="us")
async def a_lone_command_returns_soon(dut):
    bench = Bench(dut)
    await bench.start()
    core = bench.cores[0]
    frame = bench.rng.randbytes(60)
    begin = bench.cycle
    core.send(frame, frame, 1, TxOpcode.RAW)
    await bench.returned(100)
    dut._log.info(f"60 bytes: returned after {bench.cycle - begin} cycles")
    await bench.drained()


@cocotb.test(timeout_time=3000, timeout_unit="us")
async def ring_outside_data_ram_is_passed_over(dut):
    bench = Bench(dut)
    await bench.start()
    core, other = bench.cores
    rng = bench.rng
    passed = 0
    for ring in (CONFIG.data_bytes, CONFIG.data_bytes - 28, 0xFFFFF, 0xFFFE0, RING + 2):
        core.restart()
        dut.core_reset.value = 1
        await bench.tick(3)
        dut.core_reset.value = 0
        core.pins["ring"].value = ring
        before = bytes(core.memory["data"].bytes)
        for _ in range(3):
            core.producer += 1
        core.pins["producer"].value = core.producer
        other.send(frame := rng.randbytes(90), frame, 1, TxOpcode.RAW)
        await bench.returned(1000)
        passed += 3
        assert bytes(core.memory["data"].bytes) == before
        assert bench.counter("refused", 0) == passed
    # A ring that ends beyond: what lies in data RAM works.
    dut.core_reset.value = 1
    core.restart()
    await bench.tick(3)
    dut.core_reset.value = 0
    at = CONFIG.data_bytes - 32
    core.pins["ring"].value = at
    core.pins["enable"].value = 0
    frame = rng.randbytes(77)
    core.send(frame, frame, 0, TxOpcode.RAW)
    core.checks.clear()
    data = core.memory["data"].bytes
    data[at:] = data[RING : RING + 32]
    core.producer += 1
    core.pins["producer"].value = core.producer
    core.pins["enable"].value = 1
    await bench.returned(1000)
    assert TX_COMMAND.unpack(bytes(data[at:]))["done"] and not TX_COMMAND.unpack(bytes(data[at:]))["status"]
    await bench.drained()
    assert bench.counter("refused", 0) == passed + 1


@cocotb.test(timeout_time=3000, timeout_unit="us")
async def random_commands_do_as_the_model_says(dut):
    """Commands, lists and next hops with random faults; the frames' EtherType has no checksums."""
    from twinstack.models.tx_engine import execute

    bench = Bench(dut)
    await bench.start(busy=0.1)
    rng = bench.rng
    seen = dict.fromkeys(TxStatus, 0)
    for _ in range(150):
        core = rng.choice(bench.cores)
        hop = rng.randint(1, 4) if rng.random() < 0.5 else 0
        header = rng.randbytes(12) + rng.choice((b"\x88\xb5", b"\x81\x00\x00\x05\x88\xb5"))
        if hop:
            core.next_hop(hop, header, rng.choice((None, None, None, rng.randrange(256))))
        pieces = [b"" if hop else header, *(rng.randbytes(rng.randint(1, 90)) for _ in range(rng.randint(1, 7)))]
        entries = [(core.place(part), len(part)) for part in pieces if part]
        if rng.random() < 0.2:
            number = rng.randrange(len(entries))
            address, length = entries[number]
            entries[number] = rng.choice(
                (
                    (address ^ 1 << rng.randrange(32), length),
                    (address, 0),
                    (address, rng.randrange(65536)),
                    ((address & 0xFF00_0000) + rng.choice([0, 24, 48]) * 1024 - rng.randrange(100), length),
                )
            )
        fields = {"opcode": rng.choice((TxOpcode.RAW, TxOpcode.GATHER, TxOpcode.GATHER)), "port": rng.choice(PORTS)}
        if rng.random() < 0.2:
            name = rng.choice(("opcode", "port", "gather_count", "epoch"))
            fields[name] = rng.choice((rng.randrange(16), rng.randrange(256))) & (15 if name != "opcode" else 255)
        entries = [(address & 0xFFFF_FFFF, length) for address, length in entries]
        if any(address & 0x7F00_0000 == DATA_BASE and address & 0xFF_FFFF < LISTS for address, _ in entries):
            continue  # the ring changes under it
        list_address = DATA_BASE + LISTS + 64 * (core.producer % (1 << core.ring_log2))
        if rng.random() < 0.05:
            list_address ^= 1 << rng.randrange(32)
        raw = b"".join(GATHER_ENTRY.pack({"address": address, "length": length}) for address, length in entries)
        lists = LISTS + 64 * (core.producer % (1 << core.ring_log2))
        core.memory["data"].bytes[lists : lists + len(raw)] = raw
        command = {
            "gather_count": len(entries),
            "next_hop": hop,
            "epoch": EPOCH,
            "gather_address": list_address,
        } | fields
        memories = {base: core.memory[name].bytes for name, (base, _) in MEMORIES.items()}
        status, frame = execute(
            command, memories, next_hops=NEXT_HOPS, epoch=EPOCH, ports=CONFIG.ports, longest=CONFIG.max_frame_bytes
        )
        core.submit(entries, status=status, **command)
        seen[status] += 1
        if status == TxStatus.OK and is_without_checksums(frame):
            core.expected[fields["port"]].append(frame)
            await bench.returned(3000)
            await bench.drained()
        else:
            await bench.returned(3000)
            await bench.tick(600 if status == TxStatus.OK else 20)
            assert status == TxStatus.OK or not any(sink.frames for sink in bench.sinks)
            for sink in bench.sinks:
                sink.frames.clear()
    dut._log.info(f"{seen}")
    assert seen[TxStatus.OK] and seen[TxStatus.BAD_GATHER]


def is_without_checksums(frame):
    """A fault may have put other bytes where the EtherType was."""
    return frame[12:14] == b"\x88\xb5" or frame[12:18] == b"\x81\x00\x00\x05\x88\xb5"


@cocotb.test(timeout_time=3000, timeout_unit="us")
async def short_frames_do_not_overtake_long_ones(dut):
    """A port that is nearly full takes the next frame of each core in turn, however long."""
    bench = Bench(dut)
    await bench.start()
    short, long = bench.cores
    rng = bench.rng
    bench.sinks[0].stall = 0.7
    for core in bench.cores:
        core.ring_log2 = 4
        core.restart()
    counts = [0, 0]
    while min(counts) < 12:
        for core, size in ((short, 60), (long, 1500)):
            if core.free:
                core.send(frame := rng.randbytes(size), frame, 0, TxOpcode.RAW)
        await bench.tick()
        counts = [core.consumer for core in bench.cores]
        assert abs(counts[0] - counts[1]) <= 1, counts


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
