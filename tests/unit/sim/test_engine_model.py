"""The engine's Verilog is converted once and is the same text each time."""

import json
import sys
from types import SimpleNamespace

import pytest

from twinstack.config import EngineConfig
from twinstack_sim import engine_model
from twinstack_sim.build import BuildError


@pytest.fixture
def conversions(monkeypatch, tmp_path):
    """Stands in for the conversion, which takes half a minute; notes what it was asked for."""
    calls = []

    def convert(command, folder, environment=None):
        assert command[:3] == [sys.executable, "-m", "twinstack_sim.engine_model"]
        assert environment["PYTHONHASHSEED"] == "0"
        calls.append(json.loads(command[3]))
        with open(command[4], "w") as output:
            output.write(f"module {len(calls)}")

    monkeypatch.setattr(engine_model, "BUILD", tmp_path)
    monkeypatch.setattr(engine_model, "run_tool", convert)
    return calls


def test_conversion_happens_once_for_each_configuration(conversions):
    one, two = EngineConfig(ports=1), EngineConfig()
    assert [engine_model.engine_verilog(config) for config in (one, one, two, one)] == [
        "module 1",
        "module 1",
        "module 2",
        "module 1",
    ]
    assert [EngineConfig(**call) for call in conversions] == [one, two]


def test_failed_conversion_leaves_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(engine_model, "BUILD", tmp_path)
    with pytest.raises(BuildError, match="ports must be 1 to 4, not 9"):
        engine_model.engine_verilog(unchecked(ports=9))
    assert list((tmp_path / "sim").iterdir()) == []


def unchecked(**changes):
    """A configuration that was not checked."""
    config = EngineConfig()
    for name, value in changes.items():
        object.__setattr__(config, name, value)
    return config


def test_simulation_runs_at_the_configured_clock(monkeypatch):
    made = {}
    monkeypatch.setattr(engine_model, "build_engine", lambda config: "library")
    monkeypatch.setattr(engine_model, "Simulation", lambda library, options, pcap: made.update(vars(options)))
    engine_model.make_simulation(SimpleNamespace(sync_hz=60_000_000))
    assert made["sync_hz"] == 60_000_000
