"""Runs last in this folder: proofs that stop at a bound are named in docs/proofs.md, and no others."""

import re
from pathlib import Path

from support import formal

PAGE = Path(__file__).resolve().parents[2] / "docs" / "proofs.md"


def test_bounded_proofs_are_listed(request):
    listed = set(re.findall(r"^\| `([^`]+)` \|", PAGE.read_text(), re.MULTILINE))
    ran = {name for name, *_ in formal.RECORDS}
    assert formal.bounded() <= listed, f"{PAGE.name} must list {sorted(formal.bounded() - listed)}"
    # One that ran and turned out unbounded, or found its fault, has no business there.
    assert not (listed & ran) - formal.bounded()
