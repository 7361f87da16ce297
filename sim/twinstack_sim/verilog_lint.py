"""Lint the generated Verilog: ``python -m twinstack_sim.verilog_lint``.

Warnings about the style in which the exporter writes (widths it extends by itself, unused slices of structures) say
nothing about the design and are off; everything else is an error. The CPU's netlist, which is not ours, is waived.
"""

from __future__ import annotations

import subprocess
import sys

from .toolchain import BUILD, verilator_environment

EXPORTER_STYLE = (
    "ASCRANGE",
    "CASEINCOMPLETE",
    "CMPCONST",
    "DECLFILENAME",
    "PROCASSINIT",
    "SYNCASYNCNET",
    "UNUSEDSIGNAL",
    "VARHIDDEN",
    "WIDTHEXPAND",
    "WIDTHTRUNC",
)


def main() -> int:
    """Lint the engine with its default configuration, as a board has it; the exit status is Verilator's."""
    from twinstack.config import EngineConfig
    from twinstack.cpu import verilog_source

    from .engine_model import StandaloneConfig, engine_verilog

    folder = BUILD / "lint"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "engine.v").write_text(engine_verilog(StandaloneConfig(EngineConfig())))
    name, text = verilog_source()
    (folder / name).write_text(text)
    (folder / "waivers.vlt").write_text(f'`verilator_config\nlint_off -file "*/{name}"\n')
    command = ["verilator", "--lint-only", "-Wall", "--top-module", "engine"]
    command += [f"-Wno-{warning}" for warning in EXPORTER_STYLE]
    command += [str(folder / file) for file in ("waivers.vlt", "engine.v", name)]
    done = subprocess.run(command, env=verilator_environment(), check=False)
    print("verilog lint: " + ("clean" if done.returncode == 0 else "FAILED"), file=sys.stderr)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main())
