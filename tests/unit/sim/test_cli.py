"""``twinstack sim`` on the small design in the engine's place."""

import argparse

import pytest

from support.loopback_top import loopback_verilog
from twinstack_sim import cli, engine_model
from twinstack_sim.build import build_model
from twinstack_sim.simulation import Simulation, SimulationOptions


@pytest.fixture(scope="module")
def library():
    return build_model(loopback_verilog(), ports=2)


def run(*arguments: str) -> int:
    parser = argparse.ArgumentParser()
    cli.add_commands(parser.add_subparsers(required=True))
    parsed = parser.parse_args(["sim", *arguments])
    return parsed.run(parsed)


@pytest.fixture
def loopback(monkeypatch, library):
    monkeypatch.setattr(engine_model, "build_engine", lambda config: library)


def test_runs_with_the_lwip_peer(loopback, tmp_path, capsys):
    assert run("--seed", "5", "--duration", "0.5", "--pcap", str(tmp_path / "x.pcap")) == 0
    out, err = capsys.readouterr()
    assert "37500 cycles, 0.5" in out and "simulation seed 5" in err
    assert "port 0: 1, port 1: 0" in out  # the peer's gratuitous ARP comes back
    assert (tmp_path / "x-port0.pcap").stat().st_size == 24 + 2 * (16 + 60)


def test_wrong_arguments_are_told(loopback, capsys):
    assert run("--duration", "0") == 2
    assert "--duration must be positive, not 0.0" in capsys.readouterr().err
    assert run("--address", "nonsense", "--seed", "1") == 1
    assert "nonsense" in capsys.readouterr().err


def test_ticks_follow_the_wall_clock(library):
    options = SimulationOptions(seed=1, external_tick=True, strict_frames=False)
    with Simulation(library, options) as simulation:
        cli.run_in_real_time(simulation, 0.3)
        simulation.run(cli.MAX_TICKS_BEHIND * 4)
        assert 200 < simulation.csr_read(16) <= 301
