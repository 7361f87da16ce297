"""Pause frames of the MAC (IEEE 802.3 annex 31B) in both directions, with the times they take."""

import cocotb
from cocotb.triggers import FallingEdge, RisingEdge, Timer
from cocotb.utils import get_sim_time

from support.mac_bench import ADDRESS, BROADCAST, GROUP, OTHER, Bench, with_fcs

PAUSE_ADDRESS = bytes.fromhex("0180c2000001")
QUANTUM_BITS = 512


def pause_frame(quanta, destination=PAUSE_ADDRESS, *, opcode=1, kind=0x8808, source=OTHER):
    header = destination + source + kind.to_bytes(2, "big") + opcode.to_bytes(2, "big") + quanta.to_bytes(2, "big")
    return header.ljust(60, b"\0")


class PauseBench(Bench):
    """Notes when frames begin and end on the pins, in bit times of the transmit clock."""

    def make_models(self):
        super().make_models()
        self.begins, self.ends = [], []
        self.rx_ends = []
        cocotb.start_soon(self._note(self.dut.pins__tx_en, RisingEdge, self.begins))
        cocotb.start_soon(self._note(self.dut.pins__tx_en, FallingEdge, self.ends))
        cocotb.start_soon(self._note(self.dut.pins__rx_dv, FallingEdge, self.rx_ends))

    async def _note(self, signal, edge, times):
        while True:
            await edge(signal)
            times.append(get_sim_time("ps"))

    def bits(self, ps):
        return ps * 8 / self.tx_ps

    async def wait_for(self, times, count, timeout_us=600):
        end = get_sim_time("ps") + timeout_us * 1_000_000
        while len(times) < count:
            assert get_sim_time("ps") < end, "nothing came"
            await Timer(100, "ns")

    async def next_pause(self):
        """The next frame sent is a pause frame: its time, and when it began."""
        begin = self.begins[len(self.begins) - self.sink.count()] if not self.sink.empty() else None
        sent, _ = await self.next_sent()
        data = bytes(sent.get_payload())
        assert sent.error is None and sent.check_fcs()
        quanta = int.from_bytes(data[16:18], "big")
        assert data == pause_frame(quanta, source=ADDRESS)
        self.expected["tx_pauses"] += 1
        return quanta, begin


@cocotb.test(timeout_time=5000, timeout_unit="us")
async def obey_pause_frames(dut):
    bench = PauseBench(dut, tx_ps=8000, rx_ps=8000)
    await bench.start()
    dut.pause_receive.value = 1
    bench.source.ifg = 12
    for quanta, destination in ((1, PAUSE_ADDRESS), (2, ADDRESS), (40, PAUSE_ADDRESS), (100, PAUSE_ADDRESS)):
        frames = [bench.frame(length) for length in (200, 60, 60, 60, 60, 60, 60, 60, 60, 60, 60)]
        for times in (bench.begins, bench.ends, bench.rx_ends):
            times.clear()
        supplier = cocotb.start_soon(bench.supply(frames))
        await bench.wait_for(bench.begins, 1)
        bench.put(pause_frame(quanta, destination), counted=["rx_pauses"])
        await bench.wait_for(bench.rx_ends, 1)
        await supplier
        for frame in frames:
            await bench.expect_sent(frame)
        came = bench.rx_ends[0]
        # A frame may begin within two quanta (annex 31B.3.7), none after that until the time is over.
        later = [begin for begin in bench.begins if begin > came]
        late = [begin for begin in later if bench.bits(begin - came) > 2 * QUANTUM_BITS]
        wanted = quanta * QUANTUM_BITS
        silent = max(
            (bench.bits(begin - end) for begin, end in zip(bench.begins[1:], bench.ends, strict=False)), default=0
        )
        if quanta >= 40:
            resumed = bench.bits(late[0] - came)
            assert wanted <= resumed <= wanted + 2 * QUANTUM_BITS, (quanta, resumed)
            assert silent >= wanted - 3 * QUANTUM_BITS
            early = [begin for begin in later if begin not in late]
            assert all(bench.bits(begin - came) <= QUANTUM_BITS for begin in early), "much faster than it must be"
        else:
            assert silent <= wanted + 2 * QUANTUM_BITS
    assert not bench.good(), "pause frames are not passed up"
    await bench.drained()
    bench.check_counters()


@cocotb.test(timeout_time=5000, timeout_unit="us")
async def pause_replaced_and_ended(dut):
    """A later pause frame replaces the time; time zero ends the silence. The frame under way is finished."""
    bench = PauseBench(dut, tx_ps=8000, rx_ps=8000)
    await bench.start()
    dut.pause_receive.value = 1
    for second in (0, 30):
        long, short = bench.frame(1200), bench.frame(60)
        for times in (bench.begins, bench.ends, bench.rx_ends):
            times.clear()
        supplier = cocotb.start_soon(bench.supply([long, short]))
        await bench.wait_for(bench.begins, 1)
        bench.put(pause_frame(60000), counted=["rx_pauses"])
        await bench.expect_sent(long)
        await Timer(20, "us")
        assert len(bench.begins) == 1
        bench.put(pause_frame(second), counted=["rx_pauses"])
        await bench.expect_sent(short)
        await supplier
        waited = bench.bits(bench.begins[1] - bench.rx_ends[1])
        assert second * QUANTUM_BITS <= waited <= (second + 2) * QUANTUM_BITS
    await bench.drained()
    bench.check_counters()


@cocotb.test(timeout_time=5000, timeout_unit="us")
async def what_is_no_pause_frame(dut):
    """None of these stops the transmitter, and no MAC control frame is passed up."""
    bench = PauseBench(dut)
    await bench.start()
    dut.pause_receive.value = 1
    dut.promiscuous.value = 1
    await bench.sync_cycles(10)
    expected = []
    for counted, frame in (
        ("rx_filtered", pause_frame(0xFFFF, OTHER)),
        ("rx_filtered", pause_frame(0xFFFF, BROADCAST)),
        ("rx_filtered", pause_frame(0xFFFF, GROUP)),
        ("rx_filtered", pause_frame(0xFFFF, opcode=2)),
        ("rx_filtered", pause_frame(0xFFFF, opcode=0x0100)),
        ("rx_frames", pause_frame(0xFFFF, kind=0x8809)),
        ("rx_frames", pause_frame(0xFFFF, kind=0x0888)),
        ("rx_frames", pause_frame(0xFFFF)[:12] + bytes.fromhex("81000001") + pause_frame(0xFFFF)[12:]),
    ):
        bench.put(frame, counted=[counted])
        if counted == "rx_frames":
            expected.append(frame)
    broken = bytearray(with_fcs(pause_frame(0xFFFF)))
    broken[-1] ^= 1
    bench.put(bytes(broken), fcs=False, counted=["rx_crc_errors"])
    bench.put(pause_frame(0xFFFF)[:50], counted=["rx_runts"])
    await bench.drained()
    # Counted, but not obeyed.
    dut.pause_receive.value = 0
    await bench.sync_cycles(4)
    bench.put(pause_frame(0xFFFF), counted=["rx_pauses"])
    await bench.drained()
    frame = bench.frame(100)
    await bench.supply([frame])
    await bench.wait_for(bench.ends, 1, timeout_us=3)
    await bench.expect_sent(frame)
    await bench.drained()
    assert bench.good() == expected
    bench.check_counters()


@cocotb.test(timeout_time=8000, timeout_unit="us")
async def send_pause_frames(dut):
    bench = PauseBench(dut, tx_ps=8000)
    await bench.start()
    before = await bench.statistics()
    for quanta in (64, 200, 401):
        dut.pause_time.value = quanta
        await bench.sync_cycles(10)
        bench.begins.clear()
        start = get_sim_time("ps")
        dut.pause_request.value = 1
        await bench.wait_for(bench.begins, 4, timeout_us=3000)
        first = bench.bits(bench.begins[0] - start)
        assert first <= 2 * QUANTUM_BITS
        repeats = [bench.bits(b - a) for a, b in zip(bench.begins, bench.begins[1:], strict=False)]
        # Before the time is over, but not more often than that takes.
        assert all(0.4 * quanta * QUANTUM_BITS <= repeat <= 0.6 * quanta * QUANTUM_BITS + 1024 for repeat in repeats)
        end = get_sim_time("ps")
        dut.pause_request.value = 0
        await bench.wait_for(bench.begins, 5)
        assert bench.bits(bench.begins[4] - end) <= 4 * QUANTUM_BITS
        await Timer(60 + quanta, "us")
        assert len(bench.begins) == 5
        assert [(await bench.next_pause())[0] for _ in range(5)] == [quanta] * 4 + [0]
    bench.check_counters()
    # RFC 3635 section 3.2.4: the octets count, the packets do not.
    after = await bench.statistics()
    assert {name: after[name] - before[name] for name in after if after[name] != before[name]} == {
        "ifOutOctets": 15 * 64
    }


@cocotb.test(timeout_time=8000, timeout_unit="us")
async def pause_frames_among_others(dut):
    """A pause frame waits for the frame under way only, with a minimum gap; other frames go on, also with a tiny pause time."""
    bench = PauseBench(dut, tx_ps=8000)
    await bench.start()
    for quanta in (80, 1, 0):
        dut.pause_time.value = quanta
        frames = [bench.frame(bench.rng.choice([60, 61, 300, 1514])) for _ in range(12)]
        supplier = cocotb.start_soon(bench.supply(frames))
        await Timer(5, "us")
        dut.pause_request.value = 1
        await supplier
        dut.pause_request.value = 0
        await bench.drained()
        await Timer(30, "us")
        sent, times = [], []
        while not bench.sink.empty():
            frame, idle = await bench.next_sent()
            assert frame.check_fcs() and not frame.error
            data = bytes(frame.get_payload())
            if data[:6] == PAUSE_ADDRESS:
                bench.expected["tx_pauses"] += 1
                times.append(int.from_bytes(data[16:18], "big"))
                assert data == pause_frame(times[-1], source=ADDRESS)
            else:
                sent.append(data)
        assert sent == [frame.ljust(60, b"\0") for frame in frames]
        assert len(times) >= 3 and times[-1] == 0
        assert all(time == quanta for time in times[:-1])
    bench.check_counters()


@cocotb.test(timeout_time=5000, timeout_unit="us")
async def pause_both_directions(dut):
    """Silence does not hold back pause frames; a disabled MAC asks for nothing."""
    bench = PauseBench(dut)
    await bench.start()
    dut.pause_receive.value = 1
    dut.pause_time.value = 0xFFFF
    bench.put(pause_frame(0xFFFF), counted=["rx_pauses"])
    await bench.drained()
    frame = bench.frame(100)
    cocotb.start_soon(bench.supply([frame]))
    dut.pause_request.value = 1
    await bench.wait_for(bench.begins, 1)
    dut.pause_request.value = 0
    await bench.wait_for(bench.ends, 2)
    assert [(await bench.next_pause())[0] for _ in range(2)] == [0xFFFF, 0]
    assert bench.sink.empty()
    bench.put(pause_frame(0), counted=["rx_pauses"])
    await bench.expect_sent(frame)
    dut.enable.value = 0
    await bench.sync_cycles(10)
    dut.pause_request.value = 1
    await Timer(20, "us")
    assert bench.sink.empty()
    bench.check_counters()


def test_mac_pause():
    from support.rtl import run_cocotb
    from twinstack.mac import Mac

    run_cocotb(Mac(), __file__)


def test_mac_pause_with_the_slowest_sync_clock():
    from support.rtl import run_cocotb
    from twinstack.mac import Mac

    run_cocotb(Mac(), __file__, testcase=["obey_pause_frames", "send_pause_frames"], environment={"SYNC_PS": "32000"})
