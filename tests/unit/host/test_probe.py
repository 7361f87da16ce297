"""The host's hash probe, against registers that answer as the engine's do."""

from ipaddress import ip_address

import pytest

from support.rss_vectors import RSS_VECTORS
from twinstack.proto.registers import HOST_PROBE
from twinstack_host import probe
from twinstack_host.link import HostLink
from twinstack_host.registers import Registers


class ProbeRegisters(HostLink):
    """Busy for some reads after ``go``; remembers each tuple that was asked for."""

    memory_base = memory_size = 0

    def __init__(self, busy_reads=3, core=1, flow=None):
        self.busy_reads, self.core, self.flow = busy_reads, core, flow
        self.busy = 0
        self.values = {}
        self.asked = []

    def at(self, name, index=0):
        return Registers.address(HOST_PROBE, name, index=index)

    def csr_write(self, offset, value):
        assert not self.busy, "a probe was not finished"
        self.values[offset] = value
        if offset == self.at("go"):
            self.busy = self.busy_reads
            addresses = [
                b"".join(self.values[self.at(name, index)].to_bytes(4, "little") for index in range(4))
                for name in ("source", "destination")
            ]
            self.asked.append((*addresses, self.values[self.at("ports")], value))

    def csr_read(self, offset):
        if offset == self.at("hash"):
            return 0x1234_5678
        assert offset == self.at("result")
        self.busy -= self.busy > 0
        return self.core | (self.flow is not None) << 4 | (self.flow or 0) << 8 | bool(self.busy) << 31

    def read(self, address, length):
        raise AssertionError

    def write(self, address, data):
        raise AssertionError

    def wait_interrupt(self, timeout):
        raise AssertionError

    def clock(self):
        raise AssertionError


@pytest.mark.parametrize("vector", RSS_VECTORS, ids=lambda vector: vector.source_text)
def test_tuple_is_written_as_frames_carry_it(vector):
    link = ProbeRegisters(flow=5)
    arguments = (vector.source_text, ip_address(vector.destination_text), vector.source_port, vector.destination_port)
    assert probe.ask(Registers(link), *arguments) == probe.ProbeAnswer(0x1234_5678, 1, 5)
    probe.ask(Registers(link), *arguments, tcp=False)
    probe.ask(Registers(link), vector.source_text, vector.destination_text)
    addresses = vector.source.ljust(16, b"\0"), vector.destination.ljust(16, b"\0")
    ports = vector.source_port | vector.destination_port << 16
    assert link.asked == [
        (*addresses, ports, vector.is_ipv6 | 0b110),
        (*addresses, ports, vector.is_ipv6 | 0b010),
        (*addresses, 0, int(vector.is_ipv6)),
    ]


def test_flow_that_was_not_hit_has_no_index():
    assert probe.ask(Registers(ProbeRegisters()), "10.0.0.1", "10.0.0.2").flow_index is None


def test_wait_is_bounded():
    link = ProbeRegisters(busy_reads=1 << 30)
    with pytest.raises(TimeoutError, match="does not answer"):
        probe.ask(Registers(link), "10.0.0.1", "10.0.0.2")
    # Neither is a second one started on top of it.
    with pytest.raises(TimeoutError):
        probe.ask(Registers(link), "10.0.0.1", "10.0.0.3")
    assert len(link.asked) == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("10.0.0.1", "::1"), "one family"),
        (("10.0.0", "10.0.0.1"), "10.0.0"),
        (("10.0.0.1", "10.0.0.2", 1), "both or not at all"),
        (("10.0.0.1", "10.0.0.2", None, 1), "both or not at all"),
        (("10.0.0.1", "10.0.0.2", 1, 65536), "destination_port must be 0 to 65535, not 65536"),
        (("10.0.0.1", "10.0.0.2", -1, 1), "source_port must be 0 to 65535, not -1"),
    ],
)
def test_bad_tuples(arguments, text):
    link = ProbeRegisters()
    with pytest.raises(ValueError, match=text):
        probe.ask(Registers(link), *arguments)
    assert not link.asked
