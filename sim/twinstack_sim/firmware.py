"""Build the firmware images from their sources."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from twinstack.config import EngineConfig

from .lwip_source import lwip_dir
from .toolchain import BUILD, REPOSITORY, build_lock, fingerprint

FULL_CODE_BYTES = 96 * 1024
"""Code memory below which an engine gets the small profile."""


def firmware_profile(config: EngineConfig) -> str:
    """``full``, or ``small``: what fits an engine with little code memory (docs/firmware.md)."""
    return "full" if config.code_bytes >= FULL_CODE_BYTES else "small"


def build_firmware(program: str = "sockets", config: EngineConfig | None = None) -> Path:
    """Make the image of ``program`` for ``config`` and return its path; an image that is up to date is not made again.

    An image serves engines with fewer ports as well: the number of ports makes no other image.

    Raises
    ------
    RuntimeError
        If the compiler fails; its last lines are in the text.
    """
    default = EngineConfig()
    config = replace(config or default, ports=default.ports)
    settings = [f"{name}={value}" for name, value in vars(config).items() if value != getattr(default, name)]
    folder = BUILD / (f"firmware-{fingerprint(*settings)}" if settings else "firmware")
    command = ["make", "-s", "-C", str(REPOSITORY / "firmware"), f"LWIP_DIR={lwip_dir()}", f"BUILD={folder}"]
    command += [f"PYTHON={sys.executable}", f"ENGINE={' '.join(settings)}", f"PROFILE={firmware_profile(config)}"]
    image = folder / program / "firmware.img"
    with build_lock():  # two makes in one folder would break each other
        done = subprocess.run([*command, str(image)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"firmware {program} did not compile:\n{(done.stdout + done.stderr)[-2000:]}")
    return image
