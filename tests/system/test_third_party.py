"""aiohttp, urllib3 and wsgiref, unmodified, over offloaded sockets: against curl and nginx of the Linux kernel over TAP."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path

import pytest

from system.tap_rig import run_scenarios

FILE = Path(__file__).with_name("tap_third_party.py")
SCENARIOS = re.findall(r"^def scenario_(\w+)", FILE.read_text(), re.MULTILINE)
NEEDS = {"curl": "curl", "/usr/sbin/nginx": "nginx-light"}


@pytest.fixture(scope="module")
def outcome():
    """How each scenario ended; one program runs all of them."""
    missing = [package for tool, package in NEEDS.items() if shutil.which(tool) is None]
    assert not missing, f"these Debian packages are missing: {' '.join(missing)}"
    missing = [name for name in ("aiohttp", "urllib3") if importlib.util.find_spec(name) is None]
    assert not missing, f"these Python packages are missing: {' '.join(missing)} (pip install -e '.[test]')"
    return run_scenarios(str(FILE))


@pytest.mark.parametrize("name", SCENARIOS)
def test_unmodified(outcome, name):
    """Each function of ``tap_third_party.py``."""
    assert outcome.get(name, "it did not run") == ""
