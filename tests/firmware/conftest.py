"""Fixtures of several modules; one that looks for more has its own of that name."""

from __future__ import annotations

import pytest

from firmware.firmware_peer import PEER_IP, PEER_MAC
from firmware.network_bench import CONFIG, TIME_WAIT_MS, start
from firmware.two_stacks import TwoStacks
from twinstack_sim.peer_lwip import LwipPeer


@pytest.fixture
def firmware():
    """After the test all buffers and flows must be back and no sanitizer unhappy."""
    process = start()
    first = process.state()
    yield process
    process.command(f"time {TIME_WAIT_MS}")
    last = process.state()
    process.close()
    assert not process.log
    for name in ("rx_large", "rx_small", "bad_free", "tx_free", "flows", "flow_errors", "pcbs", "time_wait"):
        assert last[name] == first[name], name


@pytest.fixture
def stacks_and_peer(tmp_path):
    peer = LwipPeer(PEER_IP, seed=1, mac=PEER_MAC)
    both = TwoStacks(tmp_path, peer)
    both.configure()
    both.take_sent()
    yield both, peer
    for core in both.cores:
        core.command("time 6000")
        state = core.state()
        assert state["rx_free"] == CONFIG.rx_buffers
        assert not core.log
    both.close()
    peer.close()
