"""Group addresses: the MAC's hash filter is the union of what all cores want, and IGMP speaks for the groups."""

from __future__ import annotations

import pytest

from firmware.firmware_peer import Firmware, build
from firmware.network_bench import start
from twinstack.models.mac import multicast_bit

ALL_SYSTEMS = bytes.fromhex("01005e000001")


@pytest.fixture(scope="module", autouse=True)
def built():
    build("host")


def filters(firmware: Firmware) -> tuple[int, int]:
    state = firmware.state()
    return state["multicast0"], state["multicast1"]


def test_all_systems_is_let_in():
    firmware = start()
    assert filters(firmware) == (1 << multicast_bit(ALL_SYSTEMS),) * 2
    firmware.close()
