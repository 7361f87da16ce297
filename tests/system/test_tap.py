"""The Linux kernel as the far end: an independent TCP implementation over TAP."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.rtl import seed
from twinstack_sim.peer_tap import TapError, check_namespace
from twinstack_sim.toolchain import REPOSITORY

TIMEOUT_S = 300


@pytest.mark.claim(4)
def test_linux_talks_to_the_engine(tmp_path):
    """Ping, connections both ways on both cores, every byte verified; the command makes its own namespace."""
    if shutil.which("ping") is None:
        pytest.skip("ping is not installed")
    try:
        check_namespace()
    except TapError as error:
        pytest.skip(f"no TAP device: {error}")
    command = [str(Path(sys.executable).with_name("twinstack")), "demo", "--peer", "tap", "--connections", "4"]
    command += ["--bytes", "4096", "--seed", str(seed()), "--pcap", str(tmp_path / "tap.pcap")]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=TIMEOUT_S)
    lines = done.stdout.strip().splitlines()
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    match = re.fullmatch(r"demo: ok 4 connections, core0 (\d+), core1 (\d+), (\d+) bytes verified", lines[-1])
    assert match is not None, lines[-1]
    first, second, verified = map(int, match.groups())
    assert first + second == 4 and verified == 2 * 4 * 4096
    assert (tmp_path / "tap-port0.pcap").stat().st_size > 4 * 2 * 4096
