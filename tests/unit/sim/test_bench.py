"""``twinstack bench``: what is computed from the measurements; the measurement itself is in the nightly tests."""

import argparse
import json

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

from twinstack.config import EngineConfig
from twinstack_sim import bench
from twinstack_sim.bench import CoreCost, Retransmissions, Run
from twinstack_sim.simulation import SentFrame


def sent(sequence: int, payload: bytes = b"", **layers) -> SentFrame:
    packet = Ether() / IP(src="10.0.0.1", dst="10.0.0.2") / TCP(sport=1, dport=2, seq=sequence, **layers) / payload
    return SentFrame(0, bytes(packet).ljust(60, b"\0"), 0)


def test_retransmissions_are_counted_across_the_wrap():
    seen = Retransmissions()
    start = 2**32 - 150
    for sequence in (start, start + 100, (start + 200) % 2**32):
        seen.frame(sent(sequence, bytes(100)))
    seen.frame(sent((start + 300) % 2**32))  # a pure acknowledgement, padded
    assert seen.count == 0
    seen.frame(sent(start + 100, bytes(100)))
    assert seen.count == 1
    seen.frame(sent((start + 300) % 2**32, bytes(100)))
    assert seen.count == 1


def test_other_frames_and_flows_do_not_count():
    seen = Retransmissions()
    for sport in (1, 3):
        packet = Ether() / IP(src="10.0.0.1", dst="10.0.0.2") / TCP(sport=sport, dport=2, seq=5) / b"data"
        seen.frame(SentFrame(0, bytes(packet), 0))
    packet = bytes(Ether() / IP(dst="10.0.0.2") / UDP(sport=1, dport=2) / b"data")
    for _ in range(2):
        seen.frame(SentFrame(0, packet, 0))
        seen.frame(SentFrame(0, b"short", 0))
    assert seen.count == 0


def some_runs() -> list[Run]:
    busy, idle = CoreCost(0, 40, 60, 500_000, 200_000), CoreCost(1, 0, 0, 10, 5)
    return [
        Run("receive", 1, 4, 1000, 8000, 1.0, 0, (busy, idle)),
        Run("receive", 2, 8, 2000, 8000, 1.9, 3, (busy, CoreCost(1, 50, 50, 450_000, 190_000))),
    ]


def test_table_and_json():
    text = bench.table(some_runs(), 50e6, "a clock")
    assert "Mb/s at 50.00 MHz: a clock" in text and "receive: all cores over one core: 1.90" in text
    lines = [line.split() for line in text.splitlines()]
    assert ["receive", "1", "4", "1000", "8000", "1.000", "50.0", "0"] in lines
    assert ["receive", "1", "0", "40", "60", "5000", "2000"] in lines
    assert ["receive", "2", "1", "50", "50", "4500", "1900"] in lines
    assert not any(line[:3] == ["receive", "1", "1"] for line in lines)  # a core without segments has no cost of one
    result = bench.as_json(EngineConfig(), 7, 4, 250, some_runs(), 50e6, "a clock")
    assert json.loads(json.dumps(result))["setup"]["seed"] == 7
    assert result["all_cores_over_one"] == {"receive": 1.9} and result["runs"][1]["mbit_s"] == 95.0


def test_clock_is_that_of_the_last_place_and_route(tmp_path):
    file = tmp_path / "clocks.json"
    assert bench.clock(EngineConfig(), file)[0] == EngineConfig().sync_hz
    file.write_text(json.dumps({"sync": [75.0, 81.5], "rx0": [125.0, 130.0]}))
    value, text = bench.clock(EngineConfig(), file)
    assert value == 81.5e6 and "place and route" in text


def test_wrong_arguments_are_told(capsys):
    parser = argparse.ArgumentParser()
    bench.add_commands(parser.add_subparsers(required=True))
    options = parser.parse_args(["bench", "--bytes", "10"])
    assert options.run(options) == 1
    assert "bench: FAILED BenchError: needs a connection and 2920 bytes, not 4, 10" in capsys.readouterr().out


@pytest.mark.nightly
def test_small_measurement_is_repeatable():
    first, second = (bench.measure(EngineConfig(), 3, 2, 4 * bench.SEGMENT_BYTES) for _ in range(2))
    assert first == second
    assert [one.retransmissions for one in first] == [0] * 4
    assert all(cost.segments for one in first for cost in one.cost[: one.cores])
