"""The host asks the dispatcher which core gets a packet, and that is where connections land."""

import pytest

from support.rss_vectors import RSS_VECTORS
from system.rig import ENGINES, PEERS
from twinstack.models.toeplitz import rss_hash
from twinstack.proto.registers import DISPATCH
from twinstack_host.device import DEFAULT_KEY, ipv4_bytes
from twinstack_host.sockets import Listener

LISTEN_PORT = 7600
PEER_PORT = 9600


def set_table(rig, core_of_entry):
    for entry in range(128):
        rig.device.registers.write(DISPATCH, "indirection", entry | core_of_entry(entry) << 8)


def wait_for_flow(rig, *arguments):
    """The probe's answer once the flow table has the tuple."""
    answers = []

    def hit():
        answers.append(rig.device.probe(*arguments))
        return answers[-1].flow_index is not None

    rig.wait(hit, "an entry in the flow table", 200_000)
    return answers[-1]


def test_published_vectors(rig):
    """Hash and core with and without ports, IPv4 and IPv6, by the key of the published vectors."""
    device = rig.device
    device.set_hash_key(DEFAULT_KEY)
    try:
        for vector in RSS_VECTORS:
            addresses = vector.source_text, vector.destination_text
            answer = device.probe(*addresses, vector.source_port, vector.destination_port)
            assert answer.hash == vector.hash_with_ports
            assert (answer.core, answer.flow_index) == ((answer.hash & 127) % device.cores, None)
            assert device.probe(*addresses).hash == vector.hash_addresses
    finally:
        rig.program_key()


@pytest.mark.parametrize("core", [0, 1])
def test_connections_land_where_the_probe_says(rig, core):
    """Of the peer and of the host; before, while and after they are open; also when the table has been turned round meanwhile."""
    device = rig.device
    ends, tuples = [], []
    server = rig.peer.listen(PEER_PORT + core)
    with Listener(device, LISTEN_PORT + core, backlog=4) as listener:
        for _ in range(2):
            local = rig.local_port_for(core, LISTEN_PORT + core)
            rig._port -= 1  # the same port again, for the connection
            one = (PEERS[0], ENGINES[0], local, LISTEN_PORT + core)
            before = device.probe(*one)
            hashed = rss_hash(rig.key, ipv4_bytes(PEERS[0]), ipv4_bytes(ENGINES[0]), one[2:])
            assert (before.hash, before.core, before.flow_index) == (hashed, core, None)
            socket, connection = rig.accept_on(listener, core, LISTEN_PORT + core)
            assert socket.getpeername() == (PEERS[0], local) and socket.core == before.core
            tuples.append((one, socket.core))
            ends += [connection, socket]
        socket, connection = rig.connect(server, PEER_PORT + core)
        tuples.append(((PEERS[0], ENGINES[0], PEER_PORT + core, socket.getsockname()[1]), socket.core))
        ends += [connection, socket]
        answers = [wait_for_flow(rig, *one) for one, _ in tuples]
        assert [answer.core for answer in answers] == [on for _, on in tuples]
        assert len({answer.flow_index for answer in answers}) == len(tuples)
        set_table(rig, lambda entry: 1 - entry % 2)
        try:
            for (one, on), answer in zip(tuples, answers, strict=True):
                assert device.probe(*one) == answer
                strange = device.probe(one[0], one[1], 1, one[3])
                assert strange.core == 1 - (strange.hash & 1) and strange.flow_index is None
                assert on == answer.core
        finally:
            set_table(rig, lambda entry: entry % 2)
        rig.close_all(*ends)
        server.close()
    rig.assert_buffers_back()
