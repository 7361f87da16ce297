"""Group addresses: the MAC's hash filter is the union of what all cores want, and IGMP speaks for the groups."""

from __future__ import annotations

import pytest

from firmware.firmware_peer import Firmware, build
from firmware.network_bench import start
from twinstack.models.mac import multicast_bit

ALL_SYSTEMS = bytes.fromhex("01005e000001")
ALL_NODES = bytes.fromhex("333300000001")
SOLICITED_NODE = bytes.fromhex("3333ff000001")  # of the link-local address (tests/firmware/test_ipv6.py looks at more)


@pytest.fixture(scope="module", autouse=True)
def built():
    build("host")


def filters(firmware: Firmware) -> tuple[int, int]:
    state = firmware.state()
    return state["multicast0"], state["multicast1"]


def test_all_systems_is_let_in():
    firmware = start()
    configured, other = filters(firmware)
    assert other == 1 << multicast_bit(ALL_SYSTEMS)
    assert configured & ~(1 << multicast_bit(SOLICITED_NODE)) == other | 1 << multicast_bit(ALL_NODES)
    firmware.close()
