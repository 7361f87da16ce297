"""The lwIP that firmware and peer are built from is the published one, unchanged, file by file."""

import hashlib
import os
from pathlib import Path

import pytest

from twinstack_sim import lwip_source
from twinstack_sim.toolchain import REPOSITORY


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of each file below ``folder``, by its path."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.is_symlink()
    }


def test_tree_in_use_equals_the_pinned_tarball(tmp_path):
    used = lwip_source.lwip_dir()
    tarballs = sorted(used.parent.glob(f"lwip_{lwip_source.VERSION}*.orig.tar.*"))
    if tarballs:
        tarball = tarballs[0]
    else:
        try:
            tarball = lwip_source._download(tmp_path / "fetched")
        except lwip_source.LwipSourceError as error:
            pytest.skip(f"the tarball cannot be had: {error}")
    lwip_source.check_tarball(tarball)
    lwip_source.unpack(tarball, tmp_path / "fresh")
    found, published = digests(used), digests(tmp_path / "fresh")
    assert len(published) > 100
    changed = sorted(name for name in published.keys() & found.keys() if found[name] != published[name])
    assert (changed, sorted(found.keys() ^ published.keys())) == ([], [])


def test_repository_has_no_copy_of_lwip():
    """Neither lwIP's files nor changed copies of them may shadow the tree."""
    names = {path.name for path in (lwip_source.lwip_dir() / "src").rglob("*.c")}
    names |= {path.name for path in (lwip_source.lwip_dir() / "src" / "include" / "lwip").rglob("*.h")}
    clashes = []
    for folder, folders, files in os.walk(REPOSITORY):
        folders[:] = [one for one in folders if one not in ("build", ".venv", ".git", "node_modules")]
        for name in set(files) & names:
            text = (Path(folder) / name).read_text(errors="replace")
            if "Swedish Institute of Computer Science" in text or "Adam Dunkels" in text:
                clashes.append(str(Path(folder, name).relative_to(REPOSITORY)))
    assert clashes == []
