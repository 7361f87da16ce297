"""DHCP through the whole engine: a server on the wire, its lease on both cores."""

from __future__ import annotations

from ipaddress import IPv4Address

from scapy.layers.l2 import ARP, Ether

from firmware.dhcp_server import DNS, LEASE, SERVER_IP, DhcpServer
from system.rig import ENGINES, MACS, STRANGER_MAC, started


class DhcpStation:
    """A :class:`~twinstack_sim.peer.Peer` that is a DHCP server, and nothing else."""

    def __init__(self, server: DhcpServer):
        self.server = server
        self._out: list[bytes] = []

    def frame_from_engine(self, frame: bytes, now_ns: int) -> None:
        if (answer := self.server.answer(Ether(frame))) is not None:
            self._out.append(bytes(answer))

    def poll(self, now_ns: int) -> list[bytes]:
        frames, self._out = self._out, []
        return frames

    def next_event_ns(self) -> int | None:
        return None

    def close(self) -> None:
        pass


def test_a_lease_serves_both_cores():
    with started() as rig:
        server = DhcpServer(offer=ENGINES[0])
        rig.simulation.attach(0, DhcpStation(server))
        rig.device.configure(0, dhcp=True, mac=MACS[0])
        assert rig.device.wait_for_address(0, 10) == IPv4Address(ENGINES[0])
        status = rig.device.network_status(0)
        assert status.dhcp and status.dhcp_bound and LEASE - 60 <= status.lease_seconds <= LEASE
        assert [str(one) for one in status.dns] == DNS and str(status.gateway) == SERVER_IP
        assert server.log == ["discover", "request"], "one core asks"
        for core in range(rig.device.cores):
            rig.ping_core(core)
        announced = [frame for frame in server.others if ARP in frame and frame[ARP].psrc == ENGINES[0]]
        assert announced and all(frame.dst != STRANGER_MAC or frame[ARP].op == 2 for frame in announced)
        rig.device.configure(0, ENGINES[0], 24)
        rig.link.skip(0.1)
        status = rig.device.network_status(0)
        assert not status.dhcp and status.dns == () and str(status.address) == ENGINES[0]
