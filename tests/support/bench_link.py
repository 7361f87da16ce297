"""The loader's bench as link, loader page and device of the host library, which runs in a thread."""

from __future__ import annotations

import contextlib

from cocotb.task import resume
from cocotb.utils import get_sim_time

from twinstack.proto.abi import ABI_VERSION
from twinstack_host.link import LoaderPort


class BenchLink(LoaderPort):
    """Of the engine's registers there is ``alive`` alone: all cores report as soon as they run."""

    abi, cores, timeout = ABI_VERSION, 2, 1.0
    lock = contextlib.nullcontext()

    def __init__(self, bench):
        self.bench = bench
        self.loader = self.registers = self.link = self
        self._access, self._wait = resume(bench.access), resume(bench.idle)

    def read(self, offset, name=None, **_):  # a register of the loader's page, or of the engine
        if name is not None:
            return 3 if self.bench.reset_cores == 0 else 0
        return self._access("page", offset // 4)

    def write(self, offset, value):
        self._access("page", offset // 4, value)

    def clock(self):
        return get_sim_time("ns") * 1e-9

    def wait_interrupt(self, timeout):
        self._wait()
        return False
