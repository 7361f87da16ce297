"""Long runs, ``make nightly``: the demonstration with many seeds and more of everything, and the random benches again.

Each run prints its seed; counts go into docs/results.md.
"""

import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.nightly

UNIT = Path(__file__).resolve().parents[1] / "unit" / "hdl"
BASE_SEED = int(os.environ.get("TWINSTACK_SEED") or random.SystemRandom().randrange(1 << 30))
LAST_LINE = re.compile(r"^demo: ok (\d+) connections, core0 (\d+), core1 (\d+), (\d+) bytes verified$")


@pytest.mark.parametrize(
    ("offset", "connections", "length"), [*((n, 16, 16384) for n in range(6)), *((n, 32, 65536) for n in range(6, 9))]
)
def test_demo_with_other_seeds(offset, connections, length, tmp_path):
    seed = BASE_SEED + offset
    print(f"seed {seed}")
    command = [sys.executable, "-m", "twinstack_sim.demo", "demo", "--peer", "lwip", "--seed", str(seed)]
    command += ["--connections", str(connections), "--bytes", str(length), "--pcap", str(tmp_path / "demo.pcap")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    last = done.stdout.splitlines()[-1]
    found = LAST_LINE.match(last)
    assert done.returncode == 0 and found, done.stdout[-2000:]
    assert int(found[1]) == connections and int(found[4]) == 2 * connections * length
    assert int(found[2]) > 0 and int(found[3]) > 0


@pytest.mark.parametrize("bench", sorted(path.stem for path in UNIT.glob("test_*.py")))
def test_random_benches_again(bench):
    for offset in range(3):
        environment = os.environ | {"TWINSTACK_SEED": str(BASE_SEED + offset)}
        command = [sys.executable, "-m", "pytest", "-q", "-x", str(UNIT / f"{bench}.py")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800, env=environment)
        assert done.returncode == 0, f"{bench} with seed {BASE_SEED + offset}:\n{done.stdout[-3000:]}"
