"""TCP over a cable that loses, reorders, duplicates and spoils frames: what arrives is what was sent."""

import pytest

from support.rtl import seed
from system.rig import FAST_OPTIONS, started
from twinstack_host.sockets import Listener
from twinstack_sim.streams import HostStream
from twinstack_sim.wire import WireModel

LISTEN_PORT = 7500


FAULTS = {
    "loss": {"loss": 0.03},
    "reorder": {"reorder": 0.1, "reorder_ns": 60_000},
    "duplicate": {"duplicate": 0.1},
    "corrupt": {"corrupt": 0.03},
    "damage": {"damage": 0.03},
    "all": {"loss": 0.01, "reorder": 0.02, "duplicate": 0.02, "corrupt": 0.01, "damage": 0.01},
}


@pytest.mark.parametrize("fault", FAULTS)
def test_data_survives_a_bad_wire(fault):
    """Both cores at the same time; firmware time runs a hundred times faster, so time-outs pass quickly."""
    with started() as rig:
        wire = WireModel(seed(), delay_ns=1000)
        rig.add_peer(0, wire=wire, options=FAST_OPTIONS)
        size = 6000
        with Listener(rig.device, LISTEN_PORT, backlog=4) as listener:
            pairs = []
            for core in range(2):
                socket, connection = rig.accept_on(listener, core, LISTEN_PORT)
                pairs.append((connection, HostStream(socket)))
            for name, value in FAULTS[fault].items():
                setattr(wire, name, value)
            rig.echo(pairs, size, cycles=6_000_000)
            for name in FAULTS[fault]:
                setattr(wire, name, 0)
            rig.run(10_000)  # what is on the wire arrives
            counters = rig.mac_counters()
            carried = wire.counts("to_engine")
            if fault == "corrupt":
                assert counters["rx_crc_errors"] == carried.corrupted
            if fault in ("loss", "reorder", "duplicate"):
                assert counters["rx_crc_errors"] == counters["rx_checksum_errors"] == 0
            assert carried.frames > 10
            for connection, stream in pairs:
                stream.socket.abort()
                connection.abort()
        rig.run(20_000)
        rig.assert_buffers_back()
