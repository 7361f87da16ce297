"""The harness on a small design with the engine's ports: pins, host memory, registers, ticks, peers."""

import contextlib
import os
import random
import struct
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.utils import RawPcapNgReader, RawPcapReader

from support.loopback_top import loopback_verilog
from support.rtl import seed
from twinstack_sim import build
from twinstack_sim.build import BuildError, build_model, check_ports
from twinstack_sim.simulation import Simulation, SimulationError, SimulationOptions
from twinstack_sim.wire import WireModel

SCRATCH, SOURCE, DESTINATION, COUNT, TICKS, IRQ, ERRORS, WORD = range(0, 32, 4)
CSR_ERR, CSR_SILENT, CSR_WITHDRAW = 0x100, 0x200, 0x300

MEMORY_BYTES = 8192


@pytest.fixture(scope="module")
def verilog() -> str:
    return loopback_verilog()


@pytest.fixture(scope="module")
def library(verilog) -> Path:
    return build_model(verilog, ports=2)


def options(**changes) -> SimulationOptions:
    # The loopback's gap shrinks by a byte when the sender's clock is slower: that is its fault, not the harness's.
    defaults = {"seed": 1, "memory_bytes": MEMORY_BYTES, "strict_frames": False}
    return SimulationOptions(**(defaults | changes))


def random_frame(dice: random.Random, length: int) -> bytes:
    return bytes(dice.randrange(256) for _ in range(length))


def collect(simulation: Simulation) -> list:
    frames: list = []
    simulation.on_frame(frames.append)
    return frames


def copy_words(simulation: Simulation, source: int, destination: int, count: int) -> None:
    simulation.csr_write(SOURCE, source)
    simulation.csr_write(DESTINATION, destination)
    simulation.csr_write(COUNT, count)
    simulation.run_until(lambda: simulation.csr_read(COUNT) == 0, 20_000)


def test_frames_pass_on_both_ports_in_order(library):
    value = seed()
    dice = random.Random(value)
    with Simulation(library, options(seed=value)) as simulation:
        got = collect(simulation)
        sent = {port: [random_frame(dice, dice.randrange(60, 1519)) for _ in range(12)] for port in range(2)}
        for port, frames in sent.items():
            for frame in frames:
                simulation.send_frame(port, frame)
        simulation.run_until(lambda: len(got) == 24, 60_000)
        for port, frames in sent.items():
            assert [one.data for one in got if one.port == port] == frames
        assert not [one.faults for one in got if set(one.faults) - {"inter-frame gap below 12 bytes"}]
        assert simulation.rx_backlog_bytes(0) == 0


def test_short_frame_is_padded_unless_told_otherwise(library):
    with Simulation(library, options()) as simulation:
        got = collect(simulation)
        simulation.send_frame(0, b"\1" * 20)
        simulation.send_frame(0, b"\2" * 20, pad=False)
        simulation.run_until(lambda: len(got) == 2, 5_000)
    assert got[0].data == b"\1" * 20 + bytes(40) and got[0].faults == ()
    assert got[1].data == b"\2" * 20 and "shorter than 64 bytes" in got[1].faults


def test_frame_takes_its_time_on_the_wire(library):
    with Simulation(library, options(max_ppm=0)) as simulation:
        got = collect(simulation)
        for _ in range(2):
            simulation.send_frame(0, bytes(1514))
        simulation.run_until(lambda: len(got) == 2, 5_000)
    assert abs((got[1].time_ns - got[0].time_ns) - (1514 + 24) * 8) <= 16


def gap_of_two_frames(library, idle_ports_hz: int, *, awake: bool) -> int:
    """Nanoseconds between two frames of 1,514 bytes that come straight to the pins, as from nowhere."""
    with Simulation(library, options(max_ppm=0, idle_ports_hz=idle_ports_hz)) as simulation:
        got = collect(simulation)
        if awake:
            simulation.attach(1, Echo(b"", 1 << 60))
        for _ in range(2):
            simulation._library.ts_frame_push(simulation._handle, 1, bytes(1514), 1514, 0)
        simulation.run_until(lambda: len(got) == 2, 120_000)
        assert [frame.data for frame in got] == [bytes(1514)] * 2
        return got[1].time_ns - got[0].time_ns


def test_port_without_peer_is_slow_but_works(library):
    assert gap_of_two_frames(library, 2_500_000, awake=False) == pytest.approx((1514 + 24) * 400, abs=800)
    assert gap_of_two_frames(library, 2_500_000, awake=True) == pytest.approx((1514 + 24) * 8, abs=16)
    assert gap_of_two_frames(library, 125_000_000, awake=False) == pytest.approx((1514 + 24) * 8, abs=16)


def test_sending_a_frame_wakes_its_port(library):
    with Simulation(library, options(max_ppm=0)) as simulation:
        got = collect(simulation)
        simulation.run(1_000)
        for _ in range(2):
            simulation.send_frame(1, bytes(1514))
        simulation.run_until(lambda: len(got) == 2, 5_000)
    assert got[1].time_ns - got[0].time_ns == pytest.approx((1514 + 24) * 8, abs=16)


def test_inputs_get_registers_and_clocks_do_not(verilog):
    text = build.input_registers(verilog, 2)
    names = set(build.expected_ports(2)) | {"apply", "apply0", "apply1"}
    # The harness leaves these alone: inputs stay zero.
    names |= {f"port{n}__{pin}" for n in range(2) for pin in ("tx_hold", "link", "speed")}
    assert set(text[text.index("(") + 1 : text.index(")")].split(", ")) == names
    assert ".rx1_clk(rx1_clk)" in text and ".irq(irq)" in text and ".rx1_rst(held_rx1_rst)" in text
    assert "posedge apply1 or negedge apply1) begin held_port1__rx" in text
    assert text.count("reg [31:0] held_host") == 3  # dat_r of both initiators, dat_w of the target


def test_bad_fcs_and_bad_preamble_are_told(library):
    with Simulation(library, options()) as simulation:
        got = collect(simulation)
        simulation.send_frame(1, bytes(100), bad_fcs=True)
        simulation.send_raw(1, b"\x55" * 5 + b"\xd5" + bytes(64))
        simulation.send_frame(1, bytes(100))
        simulation.run_until(lambda: len(got) == 3, 5_000)
    assert "bad FCS" in got[0].faults
    assert {"bad FCS", "bad preamble"} <= set(got[1].faults)
    assert not set(got[2].faults) - {"inter-frame gap below 12 bytes"}


def test_strict_frames_raises_on_a_bad_one(library):
    with Simulation(library, options(strict_frames=True)) as simulation:
        simulation.send_frame(0, bytes(100), bad_fcs=True)
        with pytest.raises(SimulationError, match="port 0 sent a bad frame .*bad FCS"):
            simulation.run(2_000)


@pytest.mark.parametrize("max_wait", [0, 1, 9])
def test_host_memory_copy(library, max_wait):
    value = seed()
    with Simulation(library, options(seed=value, max_wait_cycles=max_wait, step_cycles=8)) as simulation:
        simulation.host_memory[:1024] = data = random.Random(value).randbytes(1024)
        before = simulation.cycles
        copy_words(simulation, 256, 4096, 128)
        taken = simulation.cycles - before
        assert simulation.host_memory[4096 : 4096 + 512] == data[256 : 256 + 512]
        assert simulation.host_memory[4096 + 512 : 4096 + 1024] == bytes(512)
        assert simulation.bus_counts("host_read").reads == 128
        assert simulation.bus_counts("host_write").writes == 128
        assert simulation.csr_read(ERRORS) == 0
        # One cycle for each access, and max_wait / 2 more on average.
        expected = 256 * (1 + max_wait / 2)
        assert 0.8 * expected <= taken <= 1.2 * expected + 40


def test_access_beyond_host_memory_gets_err(library):
    with Simulation(library, options()) as simulation:
        simulation.host_memory[-4:] = b"\x11\x22\x33\x44"
        copy_words(simulation, MEMORY_BYTES - 4, 16, 2)
        assert simulation.csr_read(ERRORS) == 1
        assert simulation.bus_counts("host_read").errors == 1
        assert simulation.host_memory[16:20] == b"\x11\x22\x33\x44"


def test_withdrawn_request_is_a_fault(library):
    with Simulation(library, options(max_wait_cycles=50, seed=3)) as simulation:
        simulation.csr_write(CSR_WITHDRAW, 1)
        with pytest.raises(SimulationError, match="host_read: request withdrawn"):
            simulation.run(100)


def test_csr_access_is_bounded(library):
    with Simulation(library, options(csr_timeout_cycles=50)) as simulation:
        simulation.csr_write(SCRATCH, 0x12345678)
        assert simulation.csr_read(SCRATCH) == 0x12345678
        simulation.csr_write(SCRATCH, 0xAABBCCDD, byte_enables=0b0101)
        assert simulation.csr_read(SCRATCH) == 0x12BB56DD
        before = simulation.cycles
        with pytest.raises(SimulationError, match="CSR read at 0x200: no answer in 50 cycles"):
            simulation.csr_read(CSR_SILENT)
        assert simulation.cycles - before == 50
        with pytest.raises(SimulationError, match="CSR write at 0x100: bus error"):
            simulation.csr_write(CSR_ERR, 0)
        assert simulation.csr_read(SCRATCH) == 0x12BB56DD


@pytest.mark.parametrize("offset", [2, -4, 0x8000])
def test_csr_offset_is_checked(library, offset):
    with Simulation(library, options()) as simulation, pytest.raises(ValueError, match=f"not {offset}"):
        simulation.csr_read(offset)


def test_interrupt_ends_a_step(library):
    with Simulation(library, options()) as simulation:
        assert not simulation.irq
        simulation.csr_write(IRQ, 1)
        before = simulation.cycles
        simulation.run_until(lambda: simulation.irq, 1_000)
        assert simulation.cycles - before < 10


def test_ticks_follow_simulated_time(library):
    with Simulation(library, options(sync_hz=1_000_000)) as simulation:
        simulation.run(10_500)
        assert simulation.csr_read(TICKS) == 10
        with pytest.raises(SimulationError, match="external_tick"):
            simulation.tick()


def test_external_ticks(library):
    with Simulation(library, options(sync_hz=1_000_000, external_tick=True)) as simulation:
        simulation.run(5_000)
        assert simulation.csr_read(TICKS) == 0
        for _ in range(3):
            simulation.tick()
        simulation.run(20)
        assert simulation.csr_read(TICKS) == 3


def test_run_until_gives_up(library):
    with Simulation(library, options()) as simulation:
        with pytest.raises(SimulationError, match="did not come true in 500 cycles"):
            simulation.run_until(lambda: False, 500)
        assert simulation.cycles == 500


def test_two_instances_do_not_meet(library):
    with Simulation(library, options(seed=1)) as one, Simulation(library, options(seed=2)) as other:
        from_one, from_other = collect(one), collect(other)
        one.csr_write(SCRATCH, 1)
        other.csr_write(SCRATCH, 2)
        one.host_memory[:4] = b"\1\1\1\1"
        other.host_memory[:4] = b"\2\2\2\2"
        one.send_frame(0, b"\1" * 60)
        other.send_frame(0, b"\2" * 60)
        for _ in range(10):
            one.run(50)
            other.run(70)
        assert (one.cycles - other.cycles) < 0
        assert [frame.data for frame in from_one] == [b"\1" * 60]
        assert [frame.data for frame in from_other] == [b"\2" * 60]
        assert one.csr_read(SCRATCH) == 1 and other.csr_read(SCRATCH) == 2
        copy_words(one, 0, 8, 1)
        copy_words(other, 0, 8, 1)
        assert one.host_memory[8:12] == b"\1\1\1\1" and other.host_memory[8:12] == b"\2\2\2\2"


def test_same_seed_same_run(library):
    def run(value: int) -> tuple:
        with Simulation(library, options(seed=value, max_wait_cycles=7)) as simulation:
            got = collect(simulation)
            simulation.send_frame(0, bytes(200))
            copy_words(simulation, 0, 1024, 64)
            simulation.run_until(lambda: len(got) == 1, 5_000)
            return simulation.cycles, simulation.time_ns, got[0].time_ns

    assert run(5) == run(5)
    assert run(5) != run(6)


class Echo:
    """Sends one frame at a given time and keeps what comes back."""

    def __init__(self, frame: bytes, at_ns: int):
        self.frame, self.at_ns, self.closed = frame, at_ns, False
        self.got: list[tuple[bytes, int]] = []
        self.pending = True

    def frame_from_engine(self, frame, now_ns):
        self.got.append((frame, now_ns))

    def poll(self, now_ns):
        if not self.pending or now_ns < self.at_ns:
            return []
        self.pending = False
        return [self.frame]

    def next_event_ns(self):
        return self.at_ns if self.pending else None

    def close(self):
        self.closed = True


def test_peer_gets_its_frames_back_and_both_are_captured(library, tmp_path):
    frame = bytes(Ether(dst="02:00:00:00:00:01") / IP(dst="192.0.2.1") / UDP(sport=1, dport=2) / (b"x" * 100))
    peer = Echo(frame, 40_000)
    with Simulation(library, options(), pcap=tmp_path / "run.pcap") as simulation:
        simulation.attach(1, peer)
        with pytest.raises(ValueError, match="port 1 has a peer already"):
            simulation.attach(1, peer)
        with pytest.raises(ValueError, match="port must be 0 to 1, not 2"):
            simulation.attach(2, peer)
        simulation.run_until(lambda: bool(peer.got), 20_000)
    assert peer.closed
    assert peer.got[0][0] == frame
    assert 40_000 + len(frame) * 8 < peer.got[0][1] < 43_000
    with RawPcapReader(str(tmp_path / "run-port1.pcap")) as reader:
        assert not isinstance(reader, RawPcapNgReader) and reader.nano and reader.linktype == 1
        packets = list(reader)
    assert [data for data, _ in packets] == [frame, frame]
    times = [meta.sec * 1_000_000_000 + meta.usec for _, meta in packets]
    assert 40_000 <= times[0] < times[1] == peer.got[0][1]
    assert os.path.getsize(tmp_path / "run-port0.pcap") == struct.calcsize("<IHHiIII")


def test_wire_towards_the_engine_spoils_the_fcs(library):
    peer = Echo(bytes(100), 1_000)
    wire = WireModel(1, corrupt=1.0, delay_ns=5_000)
    with Simulation(library, options()) as simulation:
        got = collect(simulation)
        simulation.attach(0, peer, wire)
        simulation.run_until(lambda: bool(got), 20_000)
    assert got[0].faults == ("bad FCS",) and got[0].time_ns > 6_000
    assert bin(int.from_bytes(got[0].data, "big")).count("1") == 1
    assert peer.got == []


def test_simulation_must_run(library):
    simulation = Simulation(library, options())
    with pytest.raises(SimulationError, match="not running"):
        simulation.run(1)
    with simulation, pytest.raises(SimulationError, match="running already"):
        simulation.start()
    simulation.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("sync_hz", 1),
        ("max_ppm", -1),
        ("memory_bytes", 2),
        ("memory_bytes", 1026),
        ("step_cycles", 0),
        ("idle_ports_hz", 0),
    ],
)
def test_options_are_checked(name, value):
    with pytest.raises(ValueError, match=f"{name} must .* not {value}"):
        SimulationOptions(**{name: value})


def test_missing_port_is_named(verilog):
    with pytest.raises(BuildError, match="lacks the ports rx2_clk"):
        check_ports(verilog, 3)
    with pytest.raises(BuildError, match="no module 'engine'"):
        check_ports("module other(a); endmodule", 1)


def test_bad_verilog_does_not_stay_in_the_cache(verilog, tmp_path, monkeypatch):
    # It fails while parsing, long before it could burden the machine: no need to wait for the build lock.
    monkeypatch.setattr(build, "build_lock", contextlib.nullcontext)
    monkeypatch.setattr(build, "BUILD", tmp_path)
    broken = verilog.replace("endmodule", "nonsense endmodule", 1)
    for _ in range(2):
        with pytest.raises(BuildError, match="verilator failed"):
            build_model(broken, ports=2)
    assert [path for path in tmp_path.rglob("*") if path.name != "sim"] == []
