"""A running engine with its firmware, its host library and a peer on each port: what demo, bench and tests start from."""

from __future__ import annotations

import contextlib
import secrets
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from twinstack.config import EngineConfig
from twinstack_host.device import Device

from .engine_model import make_simulation
from .firmware import build_firmware
from .link import SimulationLink
from .simulation import Simulation, SimulationOptions

ENGINE_ADDRESS = "192.168.77.1"
PEER_ADDRESS = "192.168.77.2"
PREFIX_LENGTH = 24


@dataclass
class Session:
    """A started engine."""

    simulation: Simulation
    link: SimulationLink
    device: Device

    def run_until_quiet(self, cycles: int = 20_000) -> None:
        """Let what is under way settle."""
        self.link.run(cycles)
        self.device.poll()


@contextlib.contextmanager
def engine_session(
    config: EngineConfig | None = None,
    options: SimulationOptions | None = None,
    *,
    image: bytes | None = None,
    pcap: Path | None = None,
    verbose: bool = False,
    shared_bytes: int = 0,
) -> Iterator[Session]:
    """Build what is needed, start the engine and its firmware, and hand over the running session.

    Parameters
    ----------
    config : EngineConfig
        Default: the default configuration.
    options : SimulationOptions
        Surroundings; the seed is also that of the cores' random numbers.
    image : bytes
        Firmware image; default: the socket firmware, built from its sources.
    pcap : Path
        Where captures go.
    verbose : bool
        Tell on standard error what takes long.
    shared_bytes : int
        Host memory that the session's Device leaves to others, as its parameter of that name.
    """

    def say(text: str) -> None:
        if verbose:
            print(text, file=sys.stderr, flush=True)

    if image is None:
        say("building the firmware")
        image = build_firmware().read_bytes()
    say("building the simulated engine (some minutes the first time)")
    simulation = make_simulation(config or EngineConfig(), options, pcap=pcap)
    with simulation:
        link = SimulationLink(simulation)
        # Simulated time passes quickly where it counts; wall-clock time runs on while the simulation crawls.
        timeout = 120.0 if simulation.options.external_tick else 0.2
        device = Device(link, timeout=timeout, shared_bytes=shared_bytes)
        say("loading the firmware")
        device.load(image)
        # Registers of the MACs and the dispatcher outlive the cores; the firmware sets them up as it needs them.
        device.start(seed=simulation.seed or secrets.randbits(31))
        try:
            yield Session(simulation, link, device)
        finally:
            device.close()  # its thread must not run a simulation that is gone
