"""Two network ports, each with its own station and address, served by the same cores."""

import pytest

from system.rig import ENGINES, PEERS, started
from twinstack_host.sockets import Listener
from twinstack_sim.streams import HostStream

PORT = 7300


@pytest.fixture(scope="module")
def two():
    """An engine with a station on each port."""
    with started() as rig:
        rig.add_peer(0)
        rig.add_peer(1)
        yield rig


@pytest.mark.claim(44)
def test_both_ports_are_configured_and_answer(two):
    for port in range(2):
        assert two.device.status(port)["link_up"] == 1
        replies = len(two.peers[port].ping_replies)
        two.peers[port].ping(ENGINES[port])
        two.wait(lambda port=port, replies=replies: len(two.peers[port].ping_replies) > replies, "an answer", 300_000)
        assert two.peers[port].ping_replies[-1].length == 56
        for core in range(2):
            two.ping_core(core, port)


@pytest.mark.claim(44)
@pytest.mark.claim(45)
@pytest.mark.parametrize("core", [0, 1])
def test_one_core_serves_connections_of_both_ports(two, core):
    """Two remote systems on two ports, both sessions on the same core at the same time."""
    frames = [two.mac_counters(port)["rx_frames"] for port in range(2)]
    before = two.device.stats(core)["connections"]
    other = two.device.stats(1 - core)["connections"]
    with Listener(two.device, PORT + core, backlog=4) as listener:
        made = [two.accept_on(listener, core, PORT + core, port) for port in range(2)]
        for port, (socket, _) in enumerate(made):
            assert socket.getsockname() == (ENGINES[port], PORT + core)
            assert socket.getpeername()[0] == PEERS[port]
        two.echo([(connection, HostStream(socket)) for socket, connection in made], 3000)
        two.close_all(*(end for pair in made for end in pair))
    assert two.device.stats(core)["connections"] == before + 2
    assert two.device.stats(1 - core)["connections"] == other
    for port in range(2):
        assert two.mac_counters(port)["rx_frames"] > frames[port] + 4
    two.assert_buffers_back()


@pytest.mark.claim(44)
def test_host_connects_through_both_ports(two):
    made, ends = [], []
    for port in range(2):
        server = two.peers[port].listen(9300)
        socket, connection = two.connect(server, 9300, port)
        assert socket.getsockname()[0] == ENGINES[port]
        made.append((HostStream(socket), connection))
        ends += [socket, connection]
    two.echo(made, 2000)
    two.close_all(*ends)
    two.assert_buffers_back()
