"""Build the firmware images from their sources."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from .lwip_source import lwip_dir
from .toolchain import BUILD, REPOSITORY, build_lock


def build_firmware(program: str = "sockets") -> Path:
    """Make the image of ``program`` and return its path; an image that is up to date is not made again.

    Raises
    ------
    RuntimeError
        If the compiler fails; its last lines are in the text.
    """
    folder = BUILD / "firmware"
    command = ["make", "-s", "-C", str(REPOSITORY / "firmware"), f"LWIP_DIR={lwip_dir()}", f"BUILD={folder}"]
    command += [f"PYTHON={sys.executable}"]
    image = folder / program / "firmware.img"
    with build_lock():  # two makes in one folder would break each other
        done = subprocess.run([*command, str(image)], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"firmware {program} did not compile:\n{(done.stdout + done.stderr)[-2000:]}")
    return image
