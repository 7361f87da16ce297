"""The MAC's receive side against cocotbext-eth's GMII models: data, gaps, bad frames, address filter, counters, losses."""

import random
import zlib

import cocotb
import pytest
from cocotb.triggers import RisingEdge, Timer

from support.mac_bench import ADDRESS, BROADCAST, GROUP, MAX_FRAME_BYTES, OTHER, Bench, with_fcs

LENGTHS = [60, 61, 62, 63, 64, 65, 66, 67, 100, 127, 128, 129, 511, 1000, 1510, 1511, 1512, 1513, 1514]


@cocotb.test(timeout_time=2000, timeout_unit="us")
async def receive_every_length(dut):
    bench = Bench(dut)
    bench.ready_probability = 0.85 if bench.sync_ps < 20000 else 1.0
    await bench.start()
    lengths = LENGTHS + [bench.rng.randint(60, 1514) for _ in range(6)]
    frames = [bench.frame(length) for length in lengths]
    for frame in frames:
        bench.source.ifg = bench.rng.choice([1, 5, 12, 40])
        bench.put(frame)
    await bench.drained()
    assert bench.received == [(frame, 0) for frame in frames]
    bench.check_counters()


@cocotb.test(timeout_time=2000, timeout_unit="us")
async def receive_preambles_and_gaps(dut):
    bench = Bench(dut)
    await bench.start()
    bench.source.ifg = 1
    frames = []
    for length in [0, 1, 2, 3, 7, 15, 40]:
        for _ in range(3):
            frames.append(bench.frame(bench.rng.randint(60, 72)))
            bench.put(frames[-1], preamble=b"\x55" * length + b"\xd5")
    # No SFD: ignored, uncounted.
    bench.put(b"\x55" * 30, counted=(), preamble=b"", fcs=False)
    bench.put(bytes(80), counted=(), preamble=b"\x55" * 7, fcs=False)
    bench.put(b"\x55", counted=(), preamble=b"", fcs=False)
    frames.append(bench.frame(64))
    bench.put(frames[-1])
    await bench.drained()
    # Errors and data outside of frames (false carrier, clause 35.2.2.8) are ignored.
    for rxd in (0xD5, 0x0E, 0xD5):
        await RisingEdge(dut.rx_clk)
        dut.pins__rxd.value = rxd
        dut.pins__rx_er.value = 1
    await RisingEdge(dut.rx_clk)
    dut.pins__rx_er.value = 0
    await bench.drained()
    assert bench.received == [(frame, 0) for frame in frames]
    bench.check_counters()


@cocotb.test(timeout_time=4000, timeout_unit="us")
async def receive_line_rate(dut):
    """Shortest frames with the shortest gap, in a clock that is fast against sync."""
    bench = Bench(dut, rx_ps=7998)
    await bench.start()
    frames = [bench.frame(length) for length in [60] * 60 + [61, 62, 63, 64] * 5 + [1514] * 3]
    for frame in frames:
        bench.put(frame)
    await bench.drained()
    assert bench.received == [(frame, 0) for frame in frames]
    # Beyond the standard: a bare SFD and a gap of one byte.
    bench.source.ifg = 1
    bench.received.clear()
    for frame in frames[:40]:
        bench.put(frame, preamble=b"\xd5")
    await bench.drained()
    assert bench.received == [(frame, 0) for frame in frames[:40]]
    bench.check_counters()


@cocotb.test(timeout_time=4000, timeout_unit="us")
async def receive_bad_frames(dut):
    bench = Bench(dut)
    await bench.start()
    good = []

    def put_good():
        good.append(bench.frame(bench.rng.randint(60, 90)))
        bench.put(good[-1])

    for gap in (12, 1):
        bench.source.ifg = gap
        # Wrong FCS: one bit anywhere.
        for _ in range(6):
            data = bytearray(with_fcs(bench.frame(bench.rng.randint(60, 100))))
            data[bench.rng.randrange(len(data))] ^= 1 << bench.rng.randrange(8)
            bench.put(bytes(data), fcs=False, counted=["rx_crc_errors"])
            put_good()
        # PHY errors: in preamble, SFD, address, data, FCS.
        for position in (0, 3, 7, 8, 20, 71, 75):
            bench.put(bench.frame(64), error_at=[position], counted=["rx_crc_errors"])
            put_good()
        # Runts with a right FCS where there is one, and without.
        for length in range(64):
            fcs = length >= 4 and length % 2 == 0
            bench.put(bench.frame(length - 4 if fcs else length), fcs=fcs, counted=["rx_runts"])
            if length % 8 == 7:
                put_good()
        bench.put(bench.frame(30), error_at=[12], counted=["rx_runts"])
        # Giants: one byte too long, much too long.
        for length in (MAX_FRAME_BYTES + 1, MAX_FRAME_BYTES + 2, MAX_FRAME_BYTES + 3, MAX_FRAME_BYTES + 4, 3000):
            bench.put(bench.frame(length), counted=["rx_giants"])
            put_good()
        # Four bytes more with a tag.
        for tag in (0x8100, 0x88A8):
            for extra in (0, 1, 3, 4):
                good.append(bench.tagged_frame(MAX_FRAME_BYTES + extra, tag))
                bench.put(good[-1])
            bench.put(bench.tagged_frame(MAX_FRAME_BYTES + 5, tag), counted=["rx_giants"])
        bench.put(bench.tagged_frame(MAX_FRAME_BYTES + 1, 0x8101), counted=["rx_giants"])
        bench.put(bench.tagged_frame(MAX_FRAME_BYTES + 1, 0x0081), counted=["rx_giants"])
        bench.put(bench.frame(MAX_FRAME_BYTES))
        bench.put(bench.frame(1600), error_at=[100], counted=["rx_giants"])
        await bench.drained()
        good.append(bench.good()[-1])
        assert len(good[-1]) == MAX_FRAME_BYTES
    assert bench.good() == good
    assert all(len(frame) <= MAX_FRAME_BYTES + 8 for frame, _ in bench.received)
    bench.check_counters()


@cocotb.test(timeout_time=2000, timeout_unit="us")
async def filter_addresses(dut):
    bench = Bench(dut)
    await bench.start()
    one_bit = [(int.from_bytes(ADDRESS, "little") ^ 1 << bit).to_bytes(6, "little") for bit in range(48)]
    for promiscuous, all_multicast in ((0, 0), (0, 1), (1, 0), (1, 1)):
        dut.promiscuous.value = promiscuous
        dut.all_multicast.value = all_multicast
        await bench.sync_cycles(10)
        accepted = []
        neighbours = one_bit if not promiscuous and not all_multicast else one_bit[:9]
        nearly = [b"\xff" * n + b"\xfe" + b"\xff" * (5 - n) for n in range(6)]
        for destination in [ADDRESS, OTHER, BROADCAST, GROUP, bytes(6), ADDRESS, *neighbours, *nearly, BROADCAST]:
            frame = bench.frame(60, destination)
            wanted = promiscuous or destination in (ADDRESS, BROADCAST) or (all_multicast and destination[0] & 1 == 1)
            bench.put(frame, counted=["rx_frames" if wanted else "rx_filtered"])
            if wanted:
                accepted.append((frame, 0))
        # A bad frame for someone else is bad, not filtered.
        if not promiscuous:
            bench.put(bench.frame(60, OTHER), error_at=[40], counted=["rx_crc_errors"])
        await bench.drained()
        assert bench.received == accepted
        bench.received.clear()
    bench.check_counters()


@cocotb.test(timeout_time=4000, timeout_unit="us")
async def multicast_hash(dut):
    """One bit admits exactly the group addresses whose hash it is, by zlib's CRC-32, and no others."""
    bench = Bench(dut)
    await bench.start()

    def hash_of(address):
        return (zlib.crc32(address) ^ 0xFFFFFFFF) >> 26

    mdns, solicited = bytes.fromhex("01005e0000fb"), bytes.fromhex("3333ff123456")
    groups = [GROUP, mdns, solicited] + [
        bytes([bench.rng.randrange(128) * 2 + 1]) + bench.rng.randbytes(5) for _ in range(45)
    ]
    for mask in (
        0,
        1 << hash_of(GROUP),
        1 << hash_of(mdns) | 1 << hash_of(solicited),
        bench.rng.getrandbits(64),
        2**64 - 1,
    ):
        dut.multicast.value = mask
        await bench.sync_cycles(10)
        accepted = []
        # Addresses of single stations never go by the hash.
        for destination in [*groups, OTHER, bytes([GROUP[0] ^ 1]) + GROUP[1:], ADDRESS]:
            frame = bench.frame(60, destination)
            wanted = destination == ADDRESS or (destination[0] & 1 and mask >> hash_of(destination) & 1)
            bench.put(frame, counted=["rx_frames" if wanted else "rx_filtered"])
            if wanted:
                accepted.append((frame, 0))
        await bench.drained()
        assert bench.received == accepted
        bench.received.clear()
    bench.check_counters()


@cocotb.test(timeout_time=4000, timeout_unit="us")
async def receive_with_back_pressure(dut):
    """A short stall loses nothing; a long one loses whole frames, each counted, and no boundary."""
    bench = Bench(dut)
    await bench.start()
    frames = [bench.frame(length) for length in (400, 60, 60, 60)]
    for frame in frames:
        bench.put(frame)
    for _ in range(5):
        await Timer(800, "ns")
        bench.ready_probability = 0.0
        await Timer(192, "ns")
        bench.ready_probability = 1.0
    await bench.drained()
    assert bench.received == [(frame, 0) for frame in frames]
    bench.check_counters()

    bench.received.clear()
    sent = []
    for n in range(150):
        bench.source.ifg = 12
        sent.append(bench.frame(bench.rng.choice([60, 61, 62, 63, 90, 300])))
        if n % 5 == 4:  # bad ones among them
            bench.put(sent.pop()[: bench.rng.choice([0, 1, 5, 30])], fcs=False, counted=())
        elif n % 7 == 6:
            bench.put(sent.pop(), error_at=[30], counted=())
        else:
            bench.put(sent[-1], counted=())
    while not bench.source.empty():
        bench.ready_probability = bench.rng.choice([0.0, 0.0, 0.1, 0.3, 1.0])
        await Timer(bench.rng.choice([100, 500, 2000, 10000]), "ns")
    bench.ready_probability = 0.0
    await bench.drained()
    bench.ready_probability = 1.0
    await bench.drained()
    good, rest = bench.good(), iter(sent)
    assert all(frame in rest for frame in good), "in order, unchanged, none twice"
    counters = bench.counters()
    assert counters["rx_frames"] - bench.expected["rx_frames"] == len(good)
    assert counters["rx_bytes"] - bench.expected["rx_bytes"] == sum(map(len, good))
    kinds = ("rx_frames", "rx_crc_errors", "rx_runts", "rx_giants", "rx_overflows", "rx_filtered")
    assert sum(counters[kind] - bench.expected[kind] for kind in kinds) == 150
    assert counters["rx_overflows"] >= len(sent) - len(good) > 10 and len(good) > 10

    # All lost but what the FIFOs hold, then normal again.
    before = counters
    bench.received.clear()
    bench.ready_probability = 0.0
    for _ in range(40):
        bench.put(bench.frame(60), counted=())
    await bench.drained()
    bench.ready_probability = 1.0
    await bench.drained()
    counters = bench.counters()
    assert counters["rx_overflows"] - before["rx_overflows"] == 40 - len(bench.good())
    assert len(bench.good()) <= 1
    last = bench.frame(777)
    bench.put(last)
    await bench.drained()
    assert bench.received[-1] == (last, 0)


def test_mac():
    from support.rtl import run_cocotb
    from twinstack.mac import Mac

    run_cocotb(Mac(), __file__)


def test_mac_with_the_slowest_sync_clock():
    from support.rtl import run_cocotb
    from twinstack.mac import Mac

    # 31.25 MHz, 100 ppm slow against byte clocks that are 100 ppm fast
    run_cocotb(
        Mac(),
        __file__,
        testcase=["receive_line_rate", "receive_every_length"],
        environment={"SYNC_PS": "32006"},
    )


def test_fcs_model():
    from twinstack.crc32 import fcs

    for length in (0, 1, 60, 1500):
        frame = random.Random(length).randbytes(length)
        assert fcs(frame) == zlib.crc32(frame).to_bytes(4, "little")


@pytest.mark.parametrize("size", [63, 0, -1, 9001])
def test_max_frame_bytes_out_of_range(size):
    from twinstack.mac import Mac

    with pytest.raises(ValueError, match=f"not {size}"):
        Mac(size)


@pytest.mark.parametrize("size", ["1518", 1518.0, True, None])
def test_max_frame_bytes_of_wrong_type(size):
    from twinstack.mac import Mac

    with pytest.raises(TypeError, match="max_frame_bytes"):
        Mac(size)


def test_domains():
    from twinstack.mac import Mac

    with pytest.raises(TypeError, match="rx_domain must be a string, not 3"):
        Mac(rx_domain=3)
    with pytest.raises(ValueError, match="tx_domain must name a clock domain, not 'comb'"):
        Mac(tx_domain="comb")


def test_limits_and_other_domains_elaborate():
    from amaranth.back import rtlil

    from twinstack.mac import Mac

    for size in (64, 9000):
        mac = Mac(size, rx_domain="port_rx", tx_domain="port_tx")
        assert "port_rx_clk" in (text := rtlil.convert(mac)) and "port_tx_clk" in text
        assert rtlil.convert(mac) == text, "elaboration must be pure"
