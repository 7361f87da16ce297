"""Compile the engine's Verilog and the native harness into one shared library, and native code in general.

Everything is cached under ``build/sim`` by a fingerprint of what goes in: sources, flags and tool versions.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

from .toolchain import BUILD, build_lock, fingerprint, verilator_environment

NATIVE = Path(__file__).resolve().parent / "native"
TOP = "engine"
PINS = "pins"
BUILD_TIMEOUT_S = 1800

_WISHBONE = ("adr", "cyc", "stb", "we", "sel", "dat_w", "dat_r", "ack", "err", "cti")


class BuildError(RuntimeError):
    """A model or library could not be built; the message has the tool's last lines."""


def expected_ports(ports: int) -> list[str]:
    """Verilog ports that the top module must have, for ``ports`` network ports."""
    names = ["clk", "rst", "tick", "irq"]
    for port in range(ports):
        names += [f"{side}{port}_{pin}" for side in ("rx", "tx") for pin in ("clk", "rst")]
        names += [f"port{port}__{pin}" for pin in ("rxd", "rx_dv", "rx_er", "txd", "tx_en", "tx_er")]
    names += [f"{bus}__{pin}" for bus in ("host_read", "host_write", "host_csr") for pin in _WISHBONE]
    return names


def check_ports(verilog: str, ports: int) -> None:
    """Check that module ``engine`` in ``verilog`` has the ports the harness binds.

    Raises
    ------
    BuildError
        Naming the ports that are missing.
    """
    header = re.search(rf"^module {TOP}\s*\((.*?)\);", verilog, re.MULTILINE | re.DOTALL)
    if header is None:
        raise BuildError(f"the Verilog has no module {TOP!r}")
    found = set(re.findall(r"[\w$]+", header.group(1)))
    missing = [name for name in expected_ports(ports) if name not in found]
    if missing:
        raise BuildError(f"module {TOP!r} lacks the ports {', '.join(missing)}")


def input_registers(verilog: str, ports: int) -> str:
    """Verilog of the module ``pins``: module ``engine`` of ``verilog`` with registers before its inputs.

    A register loads on both edges of ``apply`` (of ``apply<n>`` for the receive pins of port n). The clocks go straight
    through. What this is for is told in ``native/harness.cpp``.
    """
    body = verilog[re.search(rf"^module {TOP}\s*\(", verilog, re.MULTILINE).start() :]  # type: ignore[union-attr]
    declarations = re.findall(
        r"^ *(input|output) +(?:wire +)?(\[\d+:0\] +)?(\w+) *;", body[: body.find("endmodule")], re.MULTILINE
    )
    applies = ["apply", *(f"apply{port}" for port in range(ports))]
    lines = [f"  input {name};" for name in applies]
    groups: dict[str, list[str]] = {name: [] for name in applies}
    connections = []
    for direction, width, name in declarations:
        lines.append(f"  {direction} {width}{name};")
        inner = name
        if direction == "input" and not re.fullmatch(r"(\w+_)?clk", name):
            inner = f"held_{name}"
            lines.append(f"  reg {width}{inner} = 0;")
            receive = re.fullmatch(r"port(\d)__rx\w+", name)
            groups[f"apply{receive.group(1)}" if receive else "apply"].append(f"{inner} <= {name};")
        connections.append(f".{name}({inner})")
    for name, loads in groups.items():
        lines.append(f"  always @(posedge {name} or negedge {name}) begin {' '.join(loads)} end")
    names = ", ".join([*applies, *(name for _, _, name in declarations)])
    instance = f"  {TOP} {TOP}({', '.join(connections)});"
    return "\n".join([f"module {PINS}({names});", *lines, instance, "endmodule", ""])


def run_tool(command: Sequence[str], folder: Path, environment: dict[str, str] | None = None) -> None:
    """Run a build tool; on failure raise :class:`BuildError` with the end of its output."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=BUILD_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError:
        raise BuildError(f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise BuildError(f"{command[0]} did not finish in {BUILD_TIMEOUT_S} s") from None
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-25:])
        raise BuildError(f"{command[0]} failed ({done.returncode}):\n{tail}")


def _say(text: str) -> None:
    print(f"twinstack: {text}", file=sys.stderr, flush=True)


def build_model(verilog: str, extra_sources: Iterable[Path] = (), *, ports: int) -> Path:
    """Shared library with the model of ``verilog`` and the C ABI of ``native/harness.cpp``.

    Parameters
    ----------
    verilog : str
        Text that has the top module ``engine``.
    extra_sources : iterable of Path
        Further Verilog files, such as the CPU's.
    ports : int, 1..4
        Network ports of the top.

    Returns
    -------
    Path
        The library, in the build cache.

    Raises
    ------
    ValueError
        If ``ports`` is out of range.
    BuildError
        If a port is missing or a tool fails.
    """
    if ports not in range(1, 5):
        raise ValueError(f"ports must be 1 to 4, not {ports!r}")
    check_ports(verilog, ports)
    extra = [Path(path).resolve() for path in extra_sources]
    harness = NATIVE / "harness.cpp"
    key = fingerprint(
        verilog,
        *(path.read_bytes() for path in extra),
        harness.read_bytes(),
        Path(__file__).read_bytes(),
        str(ports),
        importlib.metadata.version("verilator"),
        platform.machine(),
    )
    folder = BUILD / "sim" / key
    library = folder / "libengine.so"
    if library.exists():
        return library
    with build_lock():
        if library.exists():  # another process built it while this one waited
            return library
        _say(f"compiling the simulation model {key} (cached afterwards)")
        # The model is built aside and moved into place whole, so that a build that is cut short leaves no ruin.
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{key}-", dir=folder.parent) as scratch_name:
            scratch = Path(scratch_name)
            (scratch / f"{TOP}.v").write_text(verilog)
            (scratch / f"{PINS}.v").write_text(input_registers(verilog, ports))
            _compile_model(scratch, extra, harness, ports)
            folder.mkdir(exist_ok=True)
            shutil.copyfile(scratch / f"{TOP}.v", folder / f"{TOP}.v")
            os.replace(scratch / "libengine.so", library)
        _say(f"simulation model {key} ready")
    return library


def _compile_model(folder: Path, extra: list[Path], harness: Path, ports: int) -> None:
    environment = verilator_environment()
    root = Path(environment["VERILATOR_ROOT"])
    command = ["verilator", "--cc", "--build", "-j", "2", "-O3", "--no-public-flat-rw", "-Wno-fatal", "-Wno-lint"]
    command += ["--no-timing", "--x-assign", "fast", "--x-initial", "fast"]
    command += ["--top-module", PINS, "--prefix", "Vengine", "-Mdir", "obj"]
    command += ["-CFLAGS", "-fPIC -fvisibility=hidden -fno-gnu-unique"]
    command += ["-MAKEFLAGS", "OPT_FAST=-O3 OPT_SLOW=-O1 OPT_GLOBAL=-O3"]
    run_tool([*command, f"{PINS}.v", f"{TOP}.v", *map(str, extra)], folder, environment)
    archives = sorted(str(path.relative_to(folder)) for path in (folder / "obj").glob("*.a"))
    link = ["g++", "-std=c++17", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-fno-gnu-unique"]
    link += ["-Wall", "-Wextra", f"-DTS_PORTS={ports}", "-I", "obj"]
    link += ["-isystem", str(root / "include"), "-isystem", str(root / "include" / "vltstd")]
    link += ["-o", "libengine.so", str(harness), "-Wl,-Bsymbolic", "-Wl,--start-group", *archives, "-Wl,--end-group"]
    run_tool([*link, "-lpthread"], folder, environment)


def build_library(name: str, sources: Sequence[Path], flags: Sequence[str], key_parts: Sequence[str | bytes]) -> Path:
    """Shared library ``lib<name>.so`` from C sources, cached like the model.

    Parameters
    ----------
    name : str
        Of the library.
    sources : sequence of Path
        C files.
    flags : sequence of str
        For the compiler.
    key_parts : sequence of str or bytes
        What the result depends on besides the sources' own text and the flags.
    """
    key = fingerprint(name, *(path.read_bytes() for path in sources), *flags, *key_parts, platform.machine())
    folder = BUILD / "sim" / f"{name}-{key}"
    library = folder / f"lib{name}.so"
    if library.exists():
        return library
    with build_lock():
        if library.exists():
            return library
        _say(f"compiling {name} {key} (cached afterwards)")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".build-", dir=folder) as scratch_name:
            command = ["gcc", "-shared", "-fPIC", "-fvisibility=hidden", "-Wl,-Bsymbolic", *flags]
            run_tool([*command, "-o", "out.so", *map(str, sources)], Path(scratch_name))
            os.replace(Path(scratch_name) / "out.so", library)
    return library
