"""From a configuration to a running engine: convert, compile (cached), wrap."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from .build import TOP, build_model
from .simulation import Simulation, SimulationOptions

if TYPE_CHECKING:
    from twinstack.config import EngineConfig


def build_engine(config: EngineConfig) -> Path:
    """The compiled engine for ``config``, from the build cache."""
    # The HDL tools take a second to load; commands that build no engine do without.
    from amaranth.back import verilog

    from twinstack.cpu import verilog_path
    from twinstack.engine import Engine

    text = verilog.convert(Engine(config), name=TOP, strip_internal_attrs=True)
    return build_model(text, [Path(verilog_path())], ports=config.ports)


def make_simulation(
    config: EngineConfig, options: SimulationOptions | None = None, *, pcap: Path | None = None
) -> Simulation:
    """A simulation of the engine, not yet started; its ``sync`` clock is the configuration's."""
    chosen = dataclasses.replace(options or SimulationOptions(), sync_hz=config.sync_hz)
    return Simulation(build_engine(config), chosen, pcap=pcap)
