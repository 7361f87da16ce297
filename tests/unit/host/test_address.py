"""Socket addresses: tuples to the engine's 32 bytes and back."""

import socket

import pytest

from twinstack.proto.queues import SOCKET_ADDRESS
from twinstack_host.address import in_family, pack_socket_address, unpack_socket_address


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (("10.1.2.3", 80), ("10.1.2.3", 80)),
        (("0.0.0.0", 0), ("0.0.0.0", 0)),
        (("::1", 65535), ("::1", 65535, 0, 0)),
        (("fe80::1%2", 7), ("fe80::1", 7, 0, 2)),
        (("2001:db8::99", 7), ("2001:db8::99", 7, 0, 0)),
    ],
)
def test_both_ways(arguments, found):
    assert unpack_socket_address(pack_socket_address(*arguments)) == found


def test_bytes_are_those_of_the_wire():
    values = SOCKET_ADDRESS.unpack(pack_socket_address("10.1.2.3", 258, extra=9))
    assert values == {
        "family": socket.AF_INET,
        "port": 258,
        "scope": 0,
        "address": int.from_bytes(bytes([10, 1, 2, 3]), "little"),
        "extra": 9,
    }
    packed = pack_socket_address("fe80::7", 5, scope=1)
    values = SOCKET_ADDRESS.unpack(packed)
    assert values["family"] == socket.AF_INET6 and values["scope"] == 1
    assert packed[8:24] == socket.inet_pton(socket.AF_INET6, "fe80::7")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("10.1.2.3", 65536), "port must be 0 to 65535, not 65536"),
        (("10.1.2.3", -1), "port must be 0 to 65535, not -1"),
        (("example.org", 80), "host must be a numeric IPv4 or IPv6 address, not 'example.org'"),
        (("", 80), "host must be a numeric IPv4 or IPv6 address, not ''"),
        (("fe80::1%eth0", 80), "scope must be the number of a network port plus one, not 'eth0'"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        pack_socket_address(*arguments)


def test_two_scopes_that_differ():
    with pytest.raises(ValueError, match="scope must be the number"):
        pack_socket_address("fe80::1%2", 80, scope=1)


def test_unknown_family():
    with pytest.raises(ValueError, match="family must be 2 or 10, not 7"):
        unpack_socket_address(SOCKET_ADDRESS.pack({"family": 7}))


def test_mapped_addresses():
    assert in_family(("1.2.3.4", 5), socket.AF_INET6) == ("::ffff:1.2.3.4", 5, 0, 0)
    assert in_family(("1.2.3.4", 5), socket.AF_INET) == ("1.2.3.4", 5)
    assert in_family(("::1", 5, 0, 0), socket.AF_INET6) == ("::1", 5, 0, 0)
