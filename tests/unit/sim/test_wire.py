"""The wire model alone, and the capture file."""

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether

from twinstack_sim.wire import WireModel

FRAME = bytes(Ether(dst="02:00:00:00:00:01", src="02:00:00:00:00:02") / IP() / UDP() / (b"x" * 30))
MANY = 4000


def flipped_bits(one: bytes, other: bytes) -> list[int]:
    difference = int.from_bytes(one, "little") ^ int.from_bytes(other, "little")
    return [n for n in range(8 * len(one)) if difference >> n & 1]


def test_good_wire_keeps_order_and_time():
    wire = WireModel(1, delay_ns=100)
    for n in range(5):
        wire.push("to_peer", bytes([n]), 10 * n)
    assert wire.next_arrival_ns() == 100
    assert wire.pop("to_peer", 99) == [] and wire.pop("to_engine", 1000) == []
    assert [one.data[0] for one in wire.pop("to_peer", 120)] == [0, 1, 2]
    assert [one.data[0] for one in wire.pop("to_peer", 10_000)] == [3, 4]
    assert wire.next_arrival_ns() is None


@pytest.mark.parametrize("kind", ["loss", "reorder", "duplicate", "corrupt", "damage"])
def test_each_fault_comes_as_often_as_asked(kind):
    wire = WireModel(7, reorder_ns=50, **{kind: 0.25})
    for n in range(MANY):
        wire.push("to_engine", FRAME, n * 10)
    arrived = wire.pop("to_engine", MANY * 1000)
    counts = wire.counts("to_engine")
    happened = {
        "loss": (counts.lost, MANY - len(arrived)),
        "duplicate": (counts.duplicated, len(arrived) - MANY),
        "corrupt": (counts.corrupted, sum(one.bad_fcs for one in arrived)),
        "damage": (counts.damaged, sum(one.data != FRAME and not one.bad_fcs for one in arrived)),
        "reorder": (counts.reordered, counts.reordered),
    }[kind]
    assert happened[0] == happened[1]
    assert 0.22 * MANY < happened[0] < 0.28 * MANY
    total = counts.lost + counts.duplicated + counts.corrupted + counts.damaged + counts.reordered
    assert total == happened[0]


def test_reordered_frame_is_overtaken():
    wire = WireModel(3, reorder=0.5, reorder_ns=25)
    for n in range(100):
        wire.push("to_peer", bytes([n]), n * 10)
    order = [one.data[0] for one in wire.pop("to_peer", 10_000)]
    assert sorted(order) == list(range(100)) and order != sorted(order)


def test_corruption_flips_one_bit_anywhere_and_damage_behind_the_mac_header():
    for kind, lowest in (("corrupt", 0), ("damage", 14 * 8)):
        wire = WireModel(4, **{kind: 1.0})
        seen = set()
        for _ in range(2000):
            wire.push("to_peer", FRAME, 0)
        for one in wire.pop("to_peer", 0):
            (bit,) = flipped_bits(FRAME, one.data)
            seen.add(bit)
        assert lowest <= min(seen) < lowest + 16


def test_what_has_no_checksum_is_not_damaged():
    wire = WireModel(4, damage=1.0)
    frame = bytes(Ether() / ARP())
    wire.push("to_peer", frame, 0)
    assert wire.pop("to_peer", 0)[0].data == frame


def test_seed_repeats_and_is_printed(capsys):
    def run(seed):
        wire = WireModel(seed, loss=0.5)
        for n in range(50):
            wire.push("to_peer", bytes([n]), 0)
        return wire.seed, [one.data for one in wire.pop("to_peer", 0)]

    assert run(5) == run(5) != run(6)
    drawn, frames = run(None)
    assert f"wire model seed {drawn}" in capsys.readouterr().err
    assert run(drawn) == (drawn, frames)


@pytest.mark.parametrize(("name", "value"), [("loss", 1.5), ("damage", -0.1), ("delay_ns", -1)])
def test_parameters_are_checked(name, value):
    with pytest.raises(ValueError, match=f"{name} must .* not {value}"):
        WireModel(1, **{name: value})
