"""Layouts pack and unpack, and refuse what is wrong."""

import pytest

from twinstack.proto.layout import Field, Layout
from twinstack.proto.queues import ALL_CORES, CQE, HANDLE, SQE, Handle, Operation
from twinstack.proto.registers import DISPATCH, Block, Register, RegisterField, register_offset


def test_sqe_bytes_are_where_a_driver_expects_them():
    # Hand-written from the documentation, not from the layout.
    raw = SQE.pack(
        {
            "operation": Operation.SEND,
            "handle": 0x11223344,
            "user_data": 0x0102030405060708,
            "buffer": 0x1000,
            "length": 5,
            "operation_flags": 0,
            "inline": int.from_bytes(b"\x02\x00\x50\x00", "little"),
        }
    )
    assert raw == bytes.fromhex("080000004433221108070605040302010010000000000000050000000000000002005000" + "00" * 28)


def test_cqe_round_trip():
    values = {"user_data": 1 << 63, "result": 0xFFFFFFFF, "phase": 1, "more": 0}
    assert CQE.unpack(CQE.pack(values)) == values


def test_handle_is_positive_and_round_trips():
    handle = Handle(core=ALL_CORES, host=3, index=1023, generation=0xFFFF)
    assert Handle.unpack(handle.pack()) == handle
    assert handle.pack() < 1 << 31
    assert HANDLE["core"].bit + HANDLE["core"].width == 31


def test_value_must_fit():
    with pytest.raises(ValueError, match="not 256"):
        SQE.pack({"operation": 256})


def test_size_must_match():
    with pytest.raises(ValueError, match="not 3"):
        CQE.unpack(b"abc")


@pytest.mark.parametrize(
    "fields",
    [
        (Field("a", 0, 0, 8, "x"), Field("b", 0, 7, 2, "x")),
        (Field("a", 0, 0, 8, "x"), Field("a", 0, 8, 8, "x")),
        (Field("a", 1, 0, 8, "x"),),
        (Field("a", 0, 24, 16, "x"),),
        (Field("a", 0, 0, 8, ""),),
    ],
)
def test_bad_layouts_are_refused(fields):
    with pytest.raises(ValueError, match="bad"):
        Layout("bad", 1, "x", fields)


def test_register_offsets():
    assert register_offset(DISPATCH, "key", index=3) == 0x0C
    with pytest.raises(KeyError):
        register_offset(DISPATCH, "key", index=10)


def test_bad_blocks_are_refused():
    field = RegisterField("value", 0, 32, "rw", "x")
    with pytest.raises(ValueError, match="aligned"):
        Block("b", "core", 0, 8, (Register("r", 0, (field,), "x"), Register("s", 0, (field,), "x")), "x")
    with pytest.raises(ValueError, match="page"):
        Block("b", "nowhere", 0, 8, (), "x")
    with pytest.raises(ValueError, match="well formed"):
        Block("b", "core", 0, 8, (Register("r", 0, (RegisterField("v", 30, 4, "rw", "x"),), "x"),), "x")
