"""Several engines in one process, ended in any order."""

import subprocess
import sys

import pytest

PROGRAM = """
from twinstack.config import EngineConfig
from twinstack_sim.engine_model import make_simulation
from twinstack_sim.simulation import SimulationOptions
engines = [make_simulation(EngineConfig(), SimulationOptions(seed=seed)) for seed in (1, 2)]
for engine in engines:
    engine.start()
    engine.run(1000)
for index in {order}:
    engines[index].close()
print("closed")
"""


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_engines_close_in_any_order(order):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(order=order)], capture_output=True, text=True, timeout=900, check=True
    )
    assert done.stdout.strip() == "closed"
