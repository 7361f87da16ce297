"""DHCP (RFC 2131) of the manager core on the PC, against a server made of scapy packets."""

from __future__ import annotations

import pytest
from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether

from firmware.dhcp_server import LEASE, SERVER_IP, DhcpServer, configure_dhcp
from firmware.firmware_peer import OUR_IP, OUR_MAC, Firmware, build, packed_ip
from firmware.ipv6_peer import status_of
from firmware.two_stacks import TwoStacks
from twinstack.proto.queues import NETIF_CONFIG, NETIF_STATUS, Operation

OTHER_IP = "10.0.0.77"


@pytest.fixture(scope="module", autouse=True)
def built():
    build("host")


@pytest.fixture
def bound():
    """A core with a lease, and its server."""
    firmware, server = Firmware(), DhcpServer()
    configure_dhcp(firmware)
    server.serve(firmware)
    assert server.log == ["discover", "request"]
    yield firmware, server
    assert not firmware.log
    assert "panic" not in firmware.close()


def test_a_lease(bound):
    firmware, server = bound
    status = status_of(firmware)
    assert status["address"] == packed_ip(OUR_IP) and status["prefix_length"] == 24
    assert status["gateway"] == packed_ip(SERVER_IP) and status["dns0"] == packed_ip("10.0.0.53")
    assert status["dns1"] == packed_ip("10.0.0.54")
    assert status["dhcp"] == 1 and status["dhcp_bound"] == 1
    assert LEASE - 60 <= status["lease_seconds"] <= LEASE
    announced = [frame for frame in server.others if ARP in frame and frame[ARP].psrc == OUR_IP]
    assert announced and announced[0][ARP].pdst == OUR_IP
    request = Ether(src=server.mac, dst="ff:ff:ff:ff:ff:ff") / ARP(hwsrc=server.mac, psrc=SERVER_IP, pdst=OUR_IP)
    firmware.frame(request)
    assert firmware.frames.pop()[ARP].op == 2


def test_without_a_lease_there_is_no_address():
    firmware = Firmware()
    configure_dhcp(firmware)
    status = status_of(firmware)
    assert status["dhcp"] == 1 and status["dhcp_bound"] == 0 and status["address"] == status["lease_seconds"] == 0
    firmware.command("time 20000")
    discovers = [frame for frame in firmware.frames if DHCP in frame]
    assert len(discovers) >= 3 and len({frame[BOOTP].chaddr for frame in discovers}) == 1
    for frame in discovers:
        assert frame[IP].src == "0.0.0.0" and frame[IP].dst == "255.255.255.255" and frame[UDP].sport == 68
        assert frame[BOOTP].chaddr[:6] == bytes.fromhex(OUR_MAC.replace(":", ""))
    firmware.close()


def test_renewal(bound):
    firmware, server = bound
    server.log.clear()
    server.run(firmware, LEASE // 2 + 70)
    assert server.log == ["request"]
    assert server.last[IP].dst == SERVER_IP and server.last[IP].src == OUR_IP and server.last[BOOTP].ciaddr == OUR_IP
    assert status_of(firmware)["lease_seconds"] >= LEASE - 60
    server.run(firmware, 60)
    assert server.log == ["request"]


def test_a_lease_that_nobody_renews_is_lost(bound):
    firmware, server = bound
    firmware.command(f"time {(LEASE + 130) * 1000}")
    status = status_of(firmware)
    assert status["address"] == status["dhcp_bound"] == status["gateway"] == status["prefix_length"] == 0
    firmware.frames.clear()
    server.log.clear()
    server.run(firmware, 70)  # lwIP's interval grows to 60 s
    assert server.log[-2:] == ["discover", "request"]
    assert status_of(firmware)["address"] == packed_ip(OUR_IP)


def test_a_refused_renewal_ends_the_lease(bound):
    firmware, server = bound
    server.nak = True
    server.log.clear()
    server.run(firmware, LEASE // 2 + 70)
    assert server.log[0] == "request" and status_of(firmware)["address"] == 0
    server.nak, server.offer = False, OTHER_IP
    server.run(firmware, 30)
    assert status_of(firmware)["address"] == packed_ip(OTHER_IP)


def test_a_static_address_releases_the_lease(bound):
    firmware, server = bound
    firmware.frames.clear()
    server.log.clear()
    block = NETIF_CONFIG.pack({"family": 2, "prefix_length": 24, "address": packed_ip(OTHER_IP)})
    firmware.sqe(Operation.NETIF_CONFIG, 9, inline=block)
    frames = list(firmware.frames)
    server.serve(firmware)
    if "release" not in server.log:  # the server's address must be resolved first
        assert any(ARP in frame for frame in frames)
    assert firmware.completion().result == 0
    status = status_of(firmware)
    assert status["address"] == packed_ip(OTHER_IP) and status["dhcp"] == status["dhcp_bound"] == 0
    assert status["dns0"] == 0


def test_a_second_configuration_keeps_the_lease(bound):
    firmware, server = bound
    server.log.clear()
    configure_dhcp(firmware)
    server.serve(firmware)
    assert server.log == [] and status_of(firmware)["dhcp_bound"] == 1


@pytest.mark.parametrize(
    "values",
    [{"address": 0x0200000A}, {"gateway": 0x0100000A}, {"prefix_length": 24}, {"dns0": 0x3500000A}, {"dns1": 1}],
)
def test_what_does_not_go_with_dhcp_is_refused(values):
    firmware = Firmware()
    block = NETIF_CONFIG.pack({"family": 2, "dhcp": 1, **values})
    assert firmware.call(Operation.NETIF_CONFIG, inline=block) == -22
    assert not firmware.frames
    firmware.close()


def test_static_dns_servers():
    firmware = Firmware()
    block = {"family": 2, "prefix_length": 24, "address": packed_ip(OUR_IP), "dns1": packed_ip("10.0.0.54")}
    assert firmware.call(Operation.NETIF_CONFIG, inline=NETIF_CONFIG.pack(block)) == 0
    status = status_of(firmware)
    assert status["dns0"] == packed_ip("10.0.0.54") and status["dns1"] == 0
    for address in ("224.0.0.1", "255.255.255.255"):
        for field in ("address", "gateway", "dns0", "dns1"):
            bad = NETIF_CONFIG.pack(block | {field: packed_ip(address)})
            assert firmware.call(Operation.NETIF_CONFIG, inline=bad) == -22
    firmware.close()


# --- Two cores: the manager asks, both have the address ---


def addresses(stacks: TwoStacks) -> list[int]:
    result = []
    for core in stacks.cores:
        assert core.call(Operation.NETIF_STATUS, 77, buffer=0, length=128) == 128
        result.append(NETIF_STATUS.unpack(core.read(0, 128))["address"])
    return result


def serve(stacks: TwoStacks, server: DhcpServer, rounds: int = 30, step: int = 2) -> None:
    """Frames of both cores to the server, its answers through the dispatcher, each ``step`` milliseconds."""
    for _ in range(rounds):
        for core in stacks.cores:
            core.command(f"time {step}")
        stacks.settle()
        sent = stacks.take_sent()
        for _core, frame in sent:
            if (answer := server.answer(frame)) is not None:
                stacks.dispatch(bytes(answer))
        stacks.settle()


@pytest.fixture
def two(tmp_path):
    stacks, server = TwoStacks(tmp_path), DhcpServer()
    stacks.settle()
    block = NETIF_CONFIG.pack({"family": 2, "dhcp": 1, "mac": int.from_bytes(server.client_mac, "little")})
    stacks.cores[0].sqe(Operation.NETIF_CONFIG, 9, inline=block)
    serve(stacks, server)
    yield stacks, server
    for core in stacks.cores:
        assert not core.log
    stacks.close()


def test_the_lease_reaches_both_cores(two):
    stacks, server = two
    assert server.log == ["discover", "request"], "only the manager asks"
    assert addresses(stacks) == [packed_ip(OUR_IP)] * 2
    server.offer = OTHER_IP
    server.nak = True
    serve(stacks, server, LEASE // 2 + 70, step=1000)
    assert addresses(stacks) == [0, 0], "the loss reaches both"
    server.nak = False
    serve(stacks, server, 30, step=1000)
    assert addresses(stacks) == [packed_ip(OTHER_IP)] * 2


def test_the_next_manager_goes_on_with_the_lease(two):
    stacks, server = two
    server.log.clear()
    survivor = stacks.cores[1]
    survivor.command("manager 1")
    survivor.command("time 10")
    frames = [frame for frame in survivor.frames if DHCP in frame]
    survivor.frames.clear()
    assert addresses(stacks)[1] == packed_ip(OUR_IP), "the address stays in use"
    (request,) = frames
    options = dict(option for option in request[DHCP].options if len(option) == 2)
    assert options["message-type"] == 3 and options["requested_addr"] == OUR_IP  # INIT-REBOOT
    survivor.frame(server.answer(request))
    status = status_of(survivor)
    assert status["dhcp_bound"] == 1 and status["address"] == packed_ip(OUR_IP) and status["lease_seconds"] > 0
    survivor.command("manager 0")  # the first core is back
    survivor.command("time 10")
    assert not [frame for frame in survivor.frames if DHCP in frame], "the lease is not given up"
    status = status_of(survivor)
    assert status["dhcp_bound"] == 0 and status["address"] == packed_ip(OUR_IP)
