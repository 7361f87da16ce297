"""TX engine: frames and checksums of every kind against scapy; L2 headers from the next-hop table."""

import cocotb

from support.tx_bench import CONFIG, NEXT_HOPS, PORTS, Bench
from support.tx_frames import directed_frames, random_packet, with_checksums
from twinstack.proto.descriptor import NEXT_HOP, TxOpcode, TxStatus
from twinstack.proto.memory_map import DATA_BASE


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
async def l2_header_comes_from_the_next_hop_table(dut):
    bench = Bench(dut)
    await bench.start(busy=0.2, stall=0.1)
    rng = bench.rng
    for core in bench.cores:
        core.restart()
    for number in range(60):
        core = rng.choice(bench.cores)
        wrong, right = with_checksums(random_packet(rng), rng)
        split = 18 if right[12:14] == b"\x81\x00" else 14
        entry = rng.randint(1, 16)
        await bench.until(lambda c=core: c.free, 5000, "room in the ring")
        await bench.until(lambda c=core: c.consumer == c.producer, 5000, "the entry is free")
        core.next_hop(entry, right[:split])
        port = rng.choice(PORTS)
        core.submit(core.cut(wrong[split:]), port=port, next_hop=entry)
        core.expected[port].append(right)
        if number % 8 == 7:
            await bench.returned()
    await bench.returned()
    await bench.drained()
    # The last entry of the largest table, and the last of data RAM.
    core = bench.cores[1]
    at = CONFIG.data_bytes - 32
    header = rng.randbytes(12) + b"\x88\xb5"
    core.memory["data"].bytes[at:] = NEXT_HOP.pack({"header": int.from_bytes(header, "little"), "length": 14})
    core.pins["next_hops"].value = at - 254 * 32
    payload = rng.randbytes(46)
    core.submit(core.cut(payload), next_hop=255)
    core.expected[0].append(header + payload)
    await bench.returned()
    await bench.drained()


@cocotb.test(timeout_time=3000, timeout_unit="us")
async def bad_next_hop_is_refused(dut):
    bench = Bench(dut)
    await bench.start(busy=0.2)
    core, rng = bench.cores[0], bench.rng
    header = rng.randbytes(12) + b"\x08\x00"
    payload = rng.randbytes(50)
    refused = 0
    for length in (0, 1, 12, 13, 15, 16, 17, 19, 28, 32, 128, 255):
        core.next_hop(3, header, length)
        core.submit(core.cut(payload), next_hop=3, status=TxStatus.BAD_GATHER)
        refused += 1
        await bench.returned(2000)
    core.next_hop(3, header)
    core.submit(core.cut(payload), next_hop=3, opcode=TxOpcode.RAW, status=TxStatus.BAD_GATHER)
    core.submit(core.cut(rng.randbytes(CONFIG.max_frame_bytes - 13)), next_hop=3, status=TxStatus.BAD_LENGTH)
    core.submit(core.cut(payload), next_hop=3, epoch=1, status=TxStatus.OLD_EPOCH)
    core.submit(
        [*core.cut(payload)[:4], (DATA_BASE + CONFIG.data_bytes - 3, 4)], next_hop=3, status=TxStatus.BAD_GATHER
    )
    refused += 4
    await bench.returned(2000)
    for table, entry in (
        (CONFIG.data_bytes, 1),
        (CONFIG.data_bytes - 32, 2),
        (CONFIG.data_bytes - 28, 1),
        (0xFFFFC, 1),
        (0xFFFFC, 255),
        (CONFIG.data_bytes - 32 * 254 + 4, 255),
        (2, 1),
        (1, 1),
    ):
        core.pins["next_hops"].value = table
        core.submit(core.cut(payload), next_hop=entry, status=TxStatus.BAD_GATHER)
        refused += 1
        await bench.returned(2000)
    core.pins["next_hops"].value = NEXT_HOPS
    header = header[:12] + b"\x88\xb5"  # an EtherType without checksums
    core.next_hop(3, header)
    for size in (1, 50, CONFIG.max_frame_bytes - 14):
        payload = rng.randbytes(size)
        core.submit(core.cut(payload) if size > 1 else [(core.place(payload), 1)], next_hop=3)
        core.expected[0].append(header + payload)
    await bench.returned(3000)
    await bench.drained()
    assert bench.counter("refused", 0) == refused


def test_tx_engine_frames():
    from support.rtl import run_cocotb
    from twinstack.tx_engine import TxEngine

    run_cocotb(TxEngine(CONFIG), __file__)
