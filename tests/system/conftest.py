"""One running engine for each module: booting takes seconds."""

import pytest

from system.rig import started


@pytest.fixture(scope="module")
def rig():
    """The engine with its socket firmware and an lwIP station on port 0."""
    with started() as one:
        one.add_peer(0)
        yield one


@pytest.fixture(autouse=True)
def buffers_add_up(request):
    """After each test on the shared engine every packet buffer is back in its pool, unless a connection of the module may hold
    some; then it is checked when the engine stops."""
    yield
    if "rig" in request.fixturenames:
        rig = request.getfixturevalue("rig")
        if not any(rig.device.stats(core)["sockets"] for core in range(rig.device.cores)):
            rig.assert_buffers_back()
