"""The registers of the MAC through the whole engine, by the host: statistics, MDIO without a PHY, filters, pause time."""

import zlib

import pytest
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from twinstack.config import EngineConfig
from twinstack.proto import memory_map
from twinstack.proto.registers import page_blocks
from twinstack.proto.statistics import Statistic
from twinstack_sim.engine_model import make_simulation

OWN = "02:54:53:00:00:01"
MAC = next(block for block in page_blocks("manager") if block.name == "mac")


class Port:
    def __init__(self, simulation, port=0):
        self.simulation = simulation
        self.base = memory_map.HOST_MANAGER_BASE + MAC.offset + port * MAC.size
        self.offsets = {register.name: register.offset for register in MAC.registers}

    def read(self, name, index=0):
        return self.simulation.csr_read(self.base + self.offsets[name] + 4 * index)

    def write(self, name, value, index=0):
        self.simulation.csr_write(self.base + self.offsets[name] + 4 * index, value)

    def statistic(self, index):
        self.write("statistic_index", index)
        low = self.read("statistic_low")
        return self.read("statistic_high") << 32 | low


@pytest.fixture(scope="module")
def simulation():
    with make_simulation(EngineConfig()) as simulation:
        yield simulation


def test_statistics_and_filters(simulation):
    ports = [Port(simulation, n) for n in range(2)]
    for port in ports:
        port.write("address_low", int.from_bytes(bytes.fromhex("02545300"), "little"))
        port.write("address_high", int.from_bytes(bytes.fromhex("0001"), "little"))
        port.write("control", 1 | 2 << 4)
    group, other = "01:00:5e:00:00:fb", "01:00:5e:00:00:01"
    frames = [Ether(dst=OWN), Ether(dst=group), Ether(dst=other), Ether(dst="ff:ff:ff:ff:ff:ff")]
    bit = (zlib.crc32(bytes.fromhex(group.replace(":", ""))) ^ 0xFFFFFFFF) >> 26
    ports[1].write("multicast", 1 << bit % 32, bit // 32)
    for frame in frames:
        simulation.send_frame(1, bytes(frame / Raw(bytes(100))))
    simulation.run(2000)
    found = {statistic.name: ports[1].statistic(statistic) for statistic in Statistic}
    assert {name: value for name, value in found.items() if value} == {
        "etherStatsPkts": 4,
        "etherStatsOctets": 4 * 118,
        "etherStatsPkts65to127Octets": 4,
        "etherStatsMulticastPkts": 2,
        "etherStatsBroadcastPkts": 1,
        "ifInUcastPkts": 1,
        "ifInMulticastPkts": 1,
        "ifInBroadcastPkts": 1,
        "ifInOctets": 3 * 118,
    }
    assert ports[1].read("rx_frames") == 3 and ports[1].read("rx_filtered") == 1
    assert not any(ports[0].statistic(statistic) for statistic in Statistic)


def test_mdio_without_a_phy(simulation):
    port = Port(simulation)
    assert port.read("mdio_result") == 0
    port.write("mdio", 1 << 26 | 1 << 21 | 2 << 16)
    assert port.read("mdio_result") >> 31
    simulation.run_until(lambda: not port.read("mdio_result") >> 31, 5000)
    assert port.read("mdio_result") >> 30 == 1


def test_link_and_pause_at_rest(simulation):
    port = Port(simulation)
    assert port.read("status") == 0
    assert port.read("pause_time") == 0xFFFF
    assert port.read("tx_pauses") == port.read("rx_pauses") == 0
    pause = bytes.fromhex("0180c2000001020000000009880800010010").ljust(60, b"\0")
    port.write("control", 1 | 2 << 4 | 1 << 8)
    simulation.send_frame(0, pause)
    simulation.run(1000)
    assert port.read("rx_pauses") == 1 and port.read("rx_frames") == 0
