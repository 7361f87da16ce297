"""Run cocotb test benches on Amaranth components under Verilator, with one cached model per component."""

from __future__ import annotations

import os
import random
import re
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from amaranth.back import verilog
from cocotb_tools.runner import get_runner

from twinstack_sim.toolchain import BUILD, build_lock, fingerprint, verilator_environment

TESTS = Path(__file__).resolve().parents[1]


def public_ports(source: str, top: str) -> str:
    """Verilator settings that make the ports of ``top``, and nothing else, visible to a bench.

    Everything public costs a factor of 4 to 6 in speed, and minutes of compilation where a module has many wires.
    """
    names = re.search(rf"^module {top}\((.*?)\);", source, re.MULTILINE | re.DOTALL).group(1).split(",")
    lines = [f'public_flat_rw -module "{top}" -var "{name.strip()}"' for name in names]
    return "\n".join(["`verilator_config", *lines, ""])


def seed() -> int:
    """The seed of this run: ``TWINSTACK_SEED``, or a fresh one; printed so that a failure can be repeated."""
    value = int(os.environ.get("TWINSTACK_SEED") or random.SystemRandom().randrange(1 << 31))
    print(f"TWINSTACK_SEED={value}")
    return value


def stable_verilog(text: str) -> str:
    """``text`` from Amaranth with the ports in each module's header in alphabetical order.

    Amaranth orders them by Python's string hashes, which differ from process to process, and each order would be built
    anew. Instances name the ports they connect, so the order means nothing.
    """

    def in_order(header: re.Match[str]) -> str:
        # A space ends a name that is escaped with a backslash; the header may break between names.
        names = [f"{name.strip()} " for name in header[2].split(",")]
        return f"{header[1]}({', '.join(sorted(names))});"

    return re.sub(r"^(module \S+? *)\((.*?)\);$", in_order, text, flags=re.MULTILINE | re.DOTALL)


def run_cocotb(
    component,
    test_file: str,
    *,
    testcase=None,
    name: str | None = None,
    environment=None,
    waves=False,
    sources=(),
    build_args=(),
):
    """Build ``component`` (cached by its Verilog) and run the ``@cocotb.test`` functions of ``test_file`` on it.

    Parameters
    ----------
    component : wiring.Component
        Design under test; its clock and reset ports are ``clk``/``rst``, or ``<domain>_clk``/``<domain>_rst``.
    test_file : str
        ``__file__`` of the caller.
    testcase : str or list of str
        Only these test functions.
    name : str
        Of the top module; default the component's class name in lower case.
    environment : dict of str
        Passed to the bench.
    waves : bool
        Write an FST into the build folder.
    sources : sequence of Path
        Verilog files with the modules that ``component`` instantiates.
    build_args : sequence of str
        Further arguments of Verilator.

    Raises
    ------
    AssertionError
        If a test failed, or none ran.
    """
    top = name or type(component).__name__.lower()
    source = stable_verilog(verilog.convert(component, name=top, strip_internal_attrs=True))
    parts = [source, str(waves), *build_args, *(path.read_text() for path in map(Path, sources))]
    folder = BUILD / "rtl" / f"{top}-{fingerprint(*parts)}"
    runner = get_runner("verilator")
    saved, saved_path = dict(os.environ), list(sys.path)
    os.environ.update(verilator_environment())
    try:
        with build_lock():
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "top.v").write_text(source)
            (folder / "ports.vlt").write_text(public_ports(source, top))
            stamp = folder / "built"
            runner.build(
                sources=[folder / "top.v", *sources],
                hdl_toplevel=top,
                build_dir=folder,
                build_args=["--no-public-flat-rw", "-Wno-fatal", "-O3", *build_args, str(folder / "ports.vlt")],
                waves=waves,
                timescale=("1ns", "1ps"),
                always=not stamp.exists(),
            )
            stamp.touch()
        test_path = Path(test_file).resolve()
        test_folder = folder / f"run-{test_path.stem}-{os.getpid()}"
        test_folder.mkdir(exist_ok=True)
        sys.path[:0] = [str(test_path.parent), str(TESTS)]  # the runner hands sys.path to the simulator
        results = runner.test(
            hdl_toplevel=top,
            test_module=test_path.stem,
            testcase=testcase,
            hdl_toplevel_lang="verilog",
            build_dir=folder,
            test_dir=test_folder,
            extra_env={"TWINSTACK_SEED": str(seed())} | (environment or {}),
            waves=waves,
            results_xml=str(test_folder / "results.xml"),
        )
    finally:
        os.environ.clear()
        os.environ.update(saved)
        sys.path[:] = saved_path
    cases = list(ElementTree.parse(results).getroot().iter("testcase"))
    assert cases, f"no cocotb test ran in {test_file}"
    failed = [case.get("name") for case in cases if case.find("failure") is not None or case.find("error") is not None]
    assert not failed, f"cocotb tests failed: {failed}"
