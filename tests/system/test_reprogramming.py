"""The dispatcher is reprogrammed while data flows: new flows move, live ones neither break nor change their core."""

import pytest
from scapy.layers.inet import TCP
from scapy.layers.l2 import Ether

from system.rig import CONFIG, FAST_OPTIONS, LIMIT_CYCLES, STEP_CYCLES, Rig, started
from twinstack.proto.registers import DISPATCH
from twinstack_host.sockets import Listener
from twinstack_sim.streams import HostStream
from twinstack_sim.transfer import EchoTransfer, run_transfers

PORT = 8400
PEER_PORT = 8500
RST = 4
ENTRIES = 128


@pytest.fixture(scope="module")
def rig():
    with started() as one:
        one.add_peer(0, options=FAST_OPTIONS)
        yield one


def program_table(rig: Rig, cores: list[int]) -> None:
    for index, core in enumerate(cores):
        rig.device.registers.write(DISPATCH, "indirection", index | core << 8)


@pytest.fixture(autouse=True)
def usual_table(rig):
    yield
    program_table(rig, [index % CONFIG.cores for index in range(ENTRIES)])
    rig.device.registers.write(DISPATCH, "hash_config", 3)
    rig.program_key()


def counter(rig: Rig, name: str) -> int:
    return rig.device.registers.read(DISPATCH, name)


def reprogram(rig: Rig) -> None:
    """Something of the hash, at random: so that most live flows would be led to the other core."""
    choice = rig.random.randrange(4)
    if choice == 0:
        rig.program_key()
    elif choice == 1:
        program_table(rig, [rig.random.randrange(CONFIG.cores) for _ in range(ENTRIES)])
    elif choice == 2:
        program_table(rig, [rig.random.randrange(CONFIG.cores)] * ENTRIES)
    else:
        rig.device.registers.write(DISPATCH, "hash_config", rig.random.randrange(4))


@pytest.mark.claim(10)
@pytest.mark.claim(20)
@pytest.mark.claim(27)
@pytest.mark.claim(28)
@pytest.mark.claim(40)
def test_live_flows_stay_while_everything_else_moves(rig):
    peer_listener = rig.peer.listen(PEER_PORT)
    with Listener(rig.device, PORT, backlog=8) as listener:
        made = [rig.accept_on(listener, core, PORT) for core in (0, 1, 0, 1)]
        made += [rig.connect(peer_listener, PEER_PORT) for _ in range(2)]
        cores = [socket.core for socket, _ in made]
        transfers = [
            EchoTransfer(f"transfer {number}", end, HostStream(socket), rig.random.randbytes(20_000))
            for number, (socket, end) in enumerate(made)
        ]
        rig.sent.clear()
        rig.keep_frames = True
        by_flow = counter(rig, "by_flow")
        limit = rig.simulation.cycles + 8 * LIMIT_CYCLES
        changes = 0

        def advance() -> None:
            nonlocal changes
            reprogram(rig)
            changes += 1
            rig.device.advance(STEP_CYCLES / rig.second_cycles)

        run_transfers(transfers, advance, lambda: rig.simulation.cycles > limit)
        rig.keep_frames = False
        assert changes > 20
        assert all(transfer.verified == 40_000 for transfer in transfers)
        assert [socket.core for socket, _ in made] == cores
        packets = [Ether(one.data) for one in rig.sent]
        assert not [packet for packet in packets if TCP in packet and int(packet[TCP].flags) & RST]
        assert counter(rig, "by_flow") - by_flow > 6 * 20_000 // 1460, "the flow table must have decided"
        rig.close_all(*(end for _, end in made), *(socket for socket, _ in made))


def test_new_flows_go_where_the_table_says(rig):
    with Listener(rig.device, PORT + 1, backlog=8) as listener:
        for core in (0, 1, 1, 0):
            program_table(rig, [core] * ENTRIES)
            connection = rig.peer.connect("192.168.77.1", PORT + 1, rig.local_port_for(0, PORT + 1))
            accepted = []

            def arrived(accepted=accepted, connection=connection) -> bool:
                one = listener.accept_step()
                if one is not None:
                    accepted.append(one)
                return connection.connected and bool(accepted)

            rig.wait(arrived, "a connection")
            assert accepted[0].core == core
            rig.echo([(connection, HostStream(accepted[0]))], 2000)
            rig.close_all(connection, accepted[0])


def test_flows_leave_the_table_with_their_connections(rig):
    rig.wait(
        lambda: rig.device.registers.read_fields(DISPATCH, "flows")["used"] == 0, "an empty flow table", 60_000_000
    )
