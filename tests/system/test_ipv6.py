"""TCP over IPv6 through the whole engine, both directions, both cores: against Linux over TAP, and against lwIP."""

from __future__ import annotations

from pathlib import Path

import pytest

from system import tap_ipv6
from system.rig import ENGINES6, PEERS6, started
from system.tap_rig import run_scenarios
from twinstack.proto.queues import SOCKET_ADDRESS, Operation, OperationFlag
from twinstack.proto.registers import MAC
from twinstack_host.address import pack_socket_address
from twinstack_host.sockets import Socket
from twinstack_sim.peer_lwip import LwipConnection
from twinstack_sim.streams import HostStream

SCENARIOS = [name.removeprefix("scenario_") for name in vars(tap_ipv6) if name.startswith("scenario_")]
OURS, THEIRS = ENGINES6[0], PEERS6[0]
PORT = 7650


@pytest.fixture(scope="module")
def outcome():
    return run_scenarios(str(Path(tap_ipv6.__file__)))


@pytest.mark.parametrize("name", SCENARIOS)
def test_linux(outcome, name):
    """Each function of ``tap_ipv6.py``."""
    assert outcome.get(name, "it did not run") == ""


@pytest.fixture(scope="module")
def rig6():
    """The engine and lwIP, both with a global IPv6 address, ready."""
    with started() as rig:
        rig.add_peer(0, ipv6=True)
        status = rig.device.network_status(0)
        assert [str(one) for one in status.addresses6] == [OURS] and not status.tentative6
        yield rig


def port_of(rig, operation: Operation, socket: Socket) -> int:
    return rig.device.read_layout(operation, SOCKET_ADDRESS, "name", handle=socket.handle)["port"]


def test_lwip_both_directions_on_both_cores(rig6):
    rig, size = rig6, 5000
    device, peer = rig.device, rig.peer
    server = peer.listen(PORT + 1)
    address = pack_socket_address(THEIRS, PORT + 1)
    pending = [device.submit(Operation.TCP_CONNECT, inline=address) for _ in range(4)]
    arrived: list[LwipConnection] = []

    def established() -> bool:
        one = server.accept()
        arrived.extend([] if one is None else [one])
        return len(arrived) == len(pending) and all(one.done for one in pending)

    rig.wait(established, "the host's connections", 6_000_000)
    assert all(one.result > 0 for one in pending), [one.result for one in pending]
    opened = {port_of(rig, Operation.GETSOCKNAME, one): one for one in (Socket(device, one.result) for one in pending)}
    assert {one.core for one in opened.values()} == {0, 1}, "connects go to the least loaded core"
    handles: list[int] = []
    listener = device.call(Operation.TCP_LISTEN, "listen", length=8, inline=pack_socket_address("::", PORT))
    flags = OperationFlag.ACCEPT_MULTISHOT
    device.submit(Operation.TCP_ACCEPT, handle=listener, operation_flags=flags, on_more=handles.append)
    cores = {local: device.probe(THEIRS, OURS, local, PORT).core for local in range(20000, 20040)}
    ports = [[local for local, one in cores.items() if one == core][:3] for core in range(2)]
    clients = [peer.connect(OURS, PORT, local) for local in sum(ports, [])]
    rig.wait(lambda: len(handles) == len(clients) and all(one.connected for one in clients), "connections", 6_000_000)
    accepted = {port_of(rig, Operation.GETPEERNAME, one): one for one in (Socket(device, handle) for handle in handles)}
    assert {local: one.core for local, one in accepted.items()} == {local: cores[local] for local in accepted}
    cpu = rig.host_core("cpu_accesses")
    pairs = [(client, HostStream(accepted[client.local[1]])) for client in clients]
    pairs += [(HostStream(opened[one.remote[1]]), one) for one in arrived]
    rig.echo(pairs, size, 20_000_000)
    assert rig.host_core("cpu_accesses") == cpu, "payload moves by DMA"
    assert peer.counters.checksum_errors == 0
    assert [device.registers.read(MAC, "rx_checksum_errors", instance=port) for port in range(device.ports)] == [0, 0]
    rig.close_all(*clients, *accepted.values(), *opened.values(), *arrived)
    assert device.call(Operation.CLOSE, "close", handle=listener) == 0
    rig.assert_buffers_back(14)
