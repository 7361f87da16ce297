"""Sockets of each kind: the standard library's, and offloaded ones over an engine that works by itself or in turns."""

from __future__ import annotations

import pytest

from support.offloaded import HOST, KINDS, module, offloaded


@pytest.fixture(params=KINDS)
def sockets(request):
    with module(request.param) as one:
        yield one


@pytest.fixture
def pair(sockets):
    """Both ends of a connection: (the one that connected, the one that was accepted)."""
    with sockets.create_server((HOST, 0)) as server:
        client = sockets.create_connection(server.getsockname())
        accepted, address = server.accept()
    assert address == client.getsockname() and accepted.getsockname() == client.getpeername()
    for one in (client, accepted):
        one.settimeout(10)
    yield client, accepted
    client.close()
    accepted.close()


@pytest.fixture
def parts():
    """(engine, device, sockets) of an engine that works by itself."""
    with offloaded() as found:
        yield found
