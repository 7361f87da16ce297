"""CANCEL by user data: what waits ends with -ECANCELED, what is in the middle of a transfer goes on."""

from __future__ import annotations

import pytest

from firmware.firmware_peer import PEER_IP, Firmware, build, socket_address
from firmware.network_bench import MSS, accepted, listening
from twinstack.proto.queues import Operation, SocketOption

EINVAL, ECANCELED = 22, 125


@pytest.fixture(scope="module", autouse=True)
def built():
    build("host")


def cancel(firmware: Firmware, user_data: int) -> list[tuple[int, int]]:
    """(user data, result) of what completed, without the CANCEL."""
    firmware.sqe(Operation.CANCEL, 999, joined=True, inline=user_data.to_bytes(8, "little"))
    results = [(completion.user_data, completion.result) for completion in firmware.completions]
    firmware.completions.clear()
    assert results.count((999, 0)) == 1
    return [result for result in results if result[0] != 999]


def test_nothing_to_cancel(firmware):
    assert cancel(firmware, 12345) == []
    assert firmware.call(Operation.CANCEL, 1, inline=bytes(8) + b"\x01") == -EINVAL
    assert firmware.call(Operation.CANCEL, 1, length=1) == -EINVAL


def test_an_accept_is_cancelled_and_the_listener_lives(firmware):
    listener = listening(firmware)
    assert cancel(firmware, 3) == [(3, -ECANCELED)]
    firmware.sqe(Operation.TCP_ACCEPT, 3, joined=True, handle=listener, operation_flags=1)
    assert not firmware.completions, "not busy any more"
    handle, _peer = accepted(firmware)
    assert firmware.call(Operation.ABORT, handle=handle) == 0


def test_a_connect_is_cancelled(firmware):
    firmware.sqe(Operation.TCP_CONNECT, 7, inline=socket_address(PEER_IP, 80))
    assert firmware.frames and not firmware.completions
    before = firmware.state()
    assert before["sockets"] == 1 and before["directory"] == 1
    assert cancel(firmware, 7) == [(7, -ECANCELED)]
    after = firmware.state()
    assert (after["sockets"], after["pcbs"], after["directory"], after["flows"]) == (0, 0, 0, 0)


def test_receives_without_data_are_cancelled(firmware):
    listening(firmware)
    handle, peer = accepted(firmware)
    for number in (10, 11, 11, 12):
        firmware.sqe(Operation.RECV, number, handle=handle, buffer=0x1000, length=100)
    assert cancel(firmware, 11) == [(11, -ECANCELED)] * 2, "all with equal user data"
    peer.send("PA", b"data")
    assert (firmware.completion().user_data, firmware.read(0x1000, 4)) == (10, b"data")
    firmware.sqe(Operation.ABORT, 1000, handle=handle)
    assert sorted(c.user_data for c in firmware.completions) == [12, 1000]
    firmware.completions.clear()


def test_a_receive_in_the_middle_of_a_transfer_goes_on(firmware):
    listening(firmware)
    handle, peer = accepted(firmware)
    firmware.sqe(Operation.RECV, 10, handle=handle, buffer=0x1000, length=100)
    firmware.command("dmastall 1")
    peer.send("PA", b"data")
    assert cancel(firmware, 10) == []
    firmware.command("dmastall 0")
    assert firmware.completion().result == 4
    assert firmware.call(Operation.ABORT, handle=handle) == 0


def test_sends_of_which_nothing_was_copied(firmware):
    listening(firmware)
    handle, peer = accepted(firmware)
    firmware.write(0x8000, bytes(i & 0xFF for i in range(8 * MSS)))
    firmware.sqe(Operation.SEND, 20, handle=handle, buffer=0x8000, length=8 * MSS)
    firmware.completions.clear()
    firmware.write(0x20000, b"dropped" + b"kept")
    firmware.sqe(Operation.SEND, 21, handle=handle, buffer=0x20000, length=7)
    firmware.sqe(Operation.SEND, 22, handle=handle, buffer=0x20007, length=4)
    assert not firmware.completions, "no buffer is free"
    assert cancel(firmware, 21) == [(21, -ECANCELED)]
    for _ in range(20):
        peer.collect()
        peer.acknowledge_all()
    assert firmware.completion().user_data == 22
    assert peer.received[8 * MSS :] == b"kept"
    assert firmware.call(Operation.ABORT, handle=handle) == 0


def test_a_send_that_was_partly_copied_goes_on(firmware):
    listening(firmware)
    handle, peer = accepted(firmware)
    firmware.write(0x8000, bytes(20 * MSS))
    firmware.sqe(Operation.SEND, 20, handle=handle, buffer=0x8000, length=20 * MSS)
    assert cancel(firmware, 20) == []
    for _ in range(30):
        peer.collect()
        peer.acknowledge_all()
    assert firmware.completion().result == 20 * MSS
    assert firmware.call(Operation.ABORT, handle=handle) == 0


def test_a_shutdown_sends_its_fin_all_the_same(firmware):
    listening(firmware)
    handle, peer = accepted(firmware)
    firmware.sqe(Operation.SHUTDOWN, 30, handle=handle)
    assert cancel(firmware, 30) == [(30, -ECANCELED)]
    peer.collect()
    assert peer.flags[-1] == "FA"
    peer.send("FA")
    assert firmware.call(Operation.CLOSE, handle=handle) == 0


def test_a_lingering_close_goes_on_in_the_background(firmware):
    listening(firmware)
    handle, peer = accepted(firmware)
    value = (100).to_bytes(4, "little")
    assert firmware.call(Operation.SETSOCKOPT, handle=handle, operation_flags=SocketOption.LINGER, inline=value) == 0
    firmware.sqe(Operation.CLOSE, 40, handle=handle)
    assert not firmware.completions
    assert cancel(firmware, 40) == [(40, -ECANCELED)]
    peer.collect()
    peer.send("A")
    peer.send("FA")
    assert firmware.state()["sockets"] == 0 and "R" not in "".join(peer.flags)


def test_all_64_bits_of_the_user_data_count(firmware):
    listening(firmware)
    handle, _peer = accepted(firmware)
    firmware.sqe(Operation.RECV, 5 << 32 | 6, handle=handle, buffer=0, length=10)
    for other in (6, 5 << 32, 6 << 32 | 5):
        assert cancel(firmware, other) == []
    assert cancel(firmware, 5 << 32 | 6) == [(5 << 32 | 6, -ECANCELED)]
    assert firmware.call(Operation.ABORT, handle=handle) == 0
