"""Plant one-line faults in the gateware and see a test catch each: ``python tests/support/mutants.py [block ...]``.

The catalogue is ``tests/mutants/<block>.toml``, a list of ``[[mutant]]`` with

``file``     below ``hdl/twinstack``
``find``     a text that occurs there exactly once
``replace``  what takes its place
``test``     the pytest node that must fail, below ``tests``
``what``     the fault in a few words

A mutant runs in a copy of ``hdl``; the repository is not touched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
CATALOGUE = REPOSITORY / "tests" / "mutants"
TEST_FAILED = 1
"""pytest's exit code for a test that ran and failed; anything above is an error of its own."""
TIMEOUT_SECONDS = 2400
MINIMUM = 3
"""Mutants of each block."""


class MutantError(ValueError):
    """A catalogue entry that cannot be used."""


@dataclass(frozen=True)
class Mutant:
    """One planted fault."""

    block: str
    file: str
    find: str
    replace: str
    test: str
    what: str

    def __str__(self) -> str:
        return f"{self.block}: {self.what}"


def catalogue(blocks: list[str] | None = None) -> Iterator[Mutant]:
    """The mutants of ``blocks``, or of all; raises MutantError for an unknown block."""
    known = {path.stem: path for path in sorted(CATALOGUE.glob("*.toml"))}
    for block in blocks or known:
        if block not in known:
            raise MutantError(f"block must be one of {', '.join(known)}, not {block!r}")
        for entry in tomllib.loads(known[block].read_text())["mutant"]:
            yield Mutant(block, **entry)


def mutated(mutant: Mutant) -> str:
    """The whole text of the file with its fault.

    Raises
    ------
    MutantError
        If the text to replace is not there exactly once, or the fault changes nothing.
    """
    text = (REPOSITORY / "hdl" / "twinstack" / mutant.file).read_text()
    count = text.count(mutant.find)
    if count != 1:
        raise MutantError(f"{mutant}: {mutant.find!r} must occur once in {mutant.file}, not {count} times")
    if mutant.find == mutant.replace:
        raise MutantError(f"{mutant}: the replacement must differ, not {mutant.replace!r} again")
    return text.replace(mutant.find, mutant.replace)


def is_caught(mutant: Mutant) -> tuple[bool, str]:
    """Run the mutant's test on it; true if the test failed, and the end of what pytest printed."""
    text = mutated(mutant)
    with tempfile.TemporaryDirectory(prefix="twinstack-mutant-") as folder:
        copy = Path(folder) / "hdl"
        shutil.copytree(REPOSITORY / "hdl", copy, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        (copy / "twinstack" / mutant.file).write_text(text)
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join([str(copy), *filter(None, [os.environ.get("PYTHONPATH")])]),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        loads = subprocess.run(
            [sys.executable, "-c", "import sys, twinstack; sys.exit(twinstack.__file__ != sys.argv[1])"]
            + [str(copy / "twinstack" / "__init__.py")],
            env=environment,
        )
        if loads.returncode:
            raise MutantError(f"{mutant}: the copy of the gateware is not what Python imports")
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-x",
                "-p",
                "no:cacheprovider",
                str(REPOSITORY / "tests" / mutant.test),
            ],
            env=environment,
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )
    return done.returncode == TEST_FAILED and " error" not in done.stdout.splitlines()[-1], done.stdout[-1500:]


def main(blocks: list[str]) -> int:
    survivors = 0
    for mutant in catalogue(blocks):
        caught, output = is_caught(mutant)
        print(f"{'caught by ' + mutant.test if caught else 'SURVIVED ' + mutant.test}: {mutant}", flush=True)
        if not caught:
            survivors += 1
            print(output)
    print(f"mutants: {survivors} survived")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
