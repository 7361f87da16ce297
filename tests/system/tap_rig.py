"""A running engine whose far end is this machine's kernel, in a network namespace of its own, for scenarios that a test names.

A module of scenarios ends with ``main(globals())``; :func:`run_scenarios` starts it as a program, once, and tells how each
scenario (a function ``scenario_<name>(tap)``) ended. Simulated time follows wall-clock time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from support.rtl import seed
from twinstack_host.device import Device
from twinstack_host.socket import SocketModule
from twinstack_sim.peer_tap import TapError, TapPeer, check_namespace, reexec_in_namespace
from twinstack_sim.session import ENGINE_ADDRESS, PEER_ADDRESS, PREFIX_LENGTH, engine_session
from twinstack_sim.simulation import SimulationOptions

ENGINE, LINUX = ENGINE_ADDRESS, PEER_ADDRESS
ENGINE6, LINUX6 = "2001:db8:77::1", "2001:db8:77::2"
PATIENCE = 60.0
"""Seconds for anything that one side waits for."""
BOUND_S = 540
MARK = "scenario: "


@dataclass
class Tap:
    """What a scenario gets."""

    device: Device
    sockets: SocketModule

    def idle(self) -> bool:
        """No connection is left in the engine."""
        return not any(self.device.stats(core)["sockets"] for core in range(self.device.cores))


@contextmanager
def beside(function: Callable[[], Any]) -> Any:
    """Run ``function`` in a thread during the block; its result is in the list, its error is raised at the end."""
    results: list[Any] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield results
    finally:
        thread.join(PATIENCE)
    if errors:
        raise errors[0]
    assert not thread.is_alive(), f"{function} did not end"


def main(names: dict[str, Any]) -> None:
    """Run the scenarios of a module, in order, and print how each ended."""
    reexec_in_namespace()
    scenarios = {name.removeprefix("scenario_"): value for name, value in names.items() if name.startswith("scenario_")}
    value = seed()
    with engine_session(options=SimulationOptions(seed=value, external_tick=True), verbose=True) as session:
        session.simulation.attach(0, TapPeer(f"{LINUX}/{PREFIX_LENGTH}", address6=f"{LINUX6}/64"))
        end = time.monotonic() + PATIENCE
        while True:
            try:
                session.device.configure(0, ENGINE, PREFIX_LENGTH, mac="02:54:53:00:00:01")
                break
            except TimeoutError:  # on a busy machine the other core misses 200 ms of wall-clock time
                if time.monotonic() > end:
                    raise
        with session.device.socket_module() as sockets:
            for name, scenario in scenarios.items():
                began, text = time.monotonic(), ""
                try:
                    scenario(Tap(session.device, sockets))
                except BaseException:
                    text = traceback.format_exc()
                print(f"{name}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
                print(MARK + json.dumps([name, text]), flush=True)


def run_scenarios(file: str) -> dict[str, str]:
    """Start the scenarios of ``file``: for each its error, empty if it went well. Skips where there is no TAP device."""
    try:
        check_namespace()
    except TapError as error:
        pytest.skip(f"no TAP device: {error}")
    paths = [str(Path(__file__).resolve().parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, file],
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "TWINSTACK_SEED": str(seed())},
    )
    found = [json.loads(line.removeprefix(MARK)) for line in done.stdout.splitlines() if line.startswith(MARK)]
    assert done.returncode == 0 and found, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return dict(found)
