"""One running engine for each module: booting takes seconds."""

import pytest

from system.rig import started


@pytest.fixture(scope="module")
def rig():
    """The engine with its socket firmware and an lwIP station on port 0."""
    with started() as one:
        one.add_peer(0)
        yield one
