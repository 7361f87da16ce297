"""Rules for the whole suite."""

import os
import random

import pytest


def pytest_configure(config):
    """One seed for the whole run, so that one line repeats it."""
    os.environ.setdefault("TWINSTACK_SEED", str(random.SystemRandom().randrange(1 << 30)))


def pytest_report_header(config):
    return f"TWINSTACK_SEED={os.environ['TWINSTACK_SEED']}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """In CI a skipped test is an error: what is not run there is not known to work."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("CI") == "true":
        report.outcome = "failed"
        report.longrepr = f"skipped in CI: {report.longrepr}"
