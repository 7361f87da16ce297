"""The unmodified lwIP 2.2.1 source tree: where it is, and how it gets there.

lwIP is never in the repository. :func:`lwip_dir` takes, in this order, the folder named by the environment variable
``LWIP_DIR``, the user's cache, or Debian's source package ``lwip`` of suite trixie. The package comes through ``apt-get``
with a private folder of sources and lists, so nothing of the system's package state changes, and its orig tarball must
have the pinned SHA-256.

``python -m twinstack_sim.lwip_source`` prints the folder.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

VERSION = "2.2.1"
SUITE = "trixie"
# lwip_2.2.1+dfsg1.orig.tar.*; the repack drops only generated HTML.
ORIG_SHA256 = "83729c274c499d3348e9fbbe043a3113f3fa8953e7efddc7c21c7fcbb1f2b7b1"
APT_TIMEOUT_S = 300


class LwipSourceError(RuntimeError):
    """The lwIP sources cannot be had; the message says what to do."""


def cache_folder() -> Path:
    """Twinstack's folder in the user's cache (XDG base directory specification)."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    return root / "twinstack"


def check_tree(folder: Path) -> None:
    """Check that ``folder`` holds lwIP of the pinned version.

    Raises
    ------
    LwipSourceError
        If it does not, saying what is missing.
    """
    header = folder / "src" / "include" / "lwip" / "init.h"
    if not header.is_file():
        raise LwipSourceError(f"{folder} is not an lwIP source tree: {header} is missing")
    text = header.read_text(errors="replace")
    parts = [re.search(rf"#define\s+LWIP_VERSION_{name}\s+(\d+)", text) for name in ("MAJOR", "MINOR", "REVISION")]
    found = ".".join(part.group(1) if part else "?" for part in parts)
    if found != VERSION:
        raise LwipSourceError(f"{folder} holds lwIP {found}, but {VERSION} is needed")


def check_tarball(path: Path, expected: str = ORIG_SHA256) -> None:
    """Check the SHA-256 of a downloaded tarball.

    Raises
    ------
    LwipSourceError
        If it differs.
    """
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != expected:
        raise LwipSourceError(f"{path.name} has SHA-256 {found}, expected {expected}; it was not unpacked")


def source_stanzas(parts: Path, single: Path) -> str:
    """A deb-src stanza of suite trixie for each Debian archive that the system's own sources name.

    Parameters
    ----------
    parts : Path
        Folder of ``*.sources`` and ``*.list`` files (``/etc/apt/sources.list.d``).
    single : Path
        The one-line-format file (``/etc/apt/sources.list``); it may be missing.

    Raises
    ------
    LwipSourceError
        If none names a Debian archive.
    """
    archives: list[tuple[str, str]] = []  # (URI, Signed-By)
    for file in sorted(parts.glob("*.sources")):
        for stanza in re.split(r"\n\s*\n", file.read_text()):
            lines = [line for line in stanza.splitlines() if not line.startswith("#")]
            fields = {
                key.lower(): value.strip()
                for key, value in re.findall(r"^([A-Za-z-]+):(.*(?:\n[ \t].*)*)", "\n".join(lines), re.MULTILINE)
            }
            if "main" in fields.get("components", "").split() and "-security" not in fields.get("suites", ""):
                archives += [(uri, fields.get("signed-by", "")) for uri in fields.get("uris", "").split()]
    for file in [single, *sorted(parts.glob("*.list"))]:
        text = file.read_text() if file.is_file() else ""
        for options, uri, suite, components in re.findall(
            r"^deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+(.*)$", text, re.MULTILINE
        ):
            if "main" in components.split() and "-security" not in suite:
                signed = re.search(r"signed-by=(\S+)", options)
                archives.append((uri, signed.group(1) if signed else ""))
    stanzas = []
    for uri, key in dict.fromkeys(archives):
        if "debian" not in uri:
            continue
        stanza = f"Types: deb-src\nURIs: {uri}\nSuites: {SUITE}\nComponents: main\n"
        # A key written out in the stanza (multi-line) keeps its continuation lines.
        stanzas.append(stanza + (f"Signed-By: {key}\n" if key else ""))
    if not stanzas:
        raise LwipSourceError(
            f"no Debian archive in {parts} or {single}: fetch lwIP {VERSION} yourself and set LWIP_DIR to its folder"
        )
    return "\n".join(stanzas)


def _apt(arguments: list[str], options: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(
            ["apt-get", "-q", *options, *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=APT_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError:
        raise LwipSourceError(
            f"apt-get is not available: fetch lwIP {VERSION} yourself and set LWIP_DIR to its folder"
        ) from None
    except subprocess.TimeoutExpired:
        raise LwipSourceError(f"apt-get {' '.join(arguments)} did not finish in {APT_TIMEOUT_S} s") from None
    if done.returncode:
        tail = "\n".join(done.stdout.splitlines()[-8:])
        raise LwipSourceError(f"apt-get {' '.join(arguments)} failed ({done.returncode}):\n{tail}")


def _download(folder: Path) -> Path:
    """Fetch the orig tarball into ``folder`` and return its path, unchecked."""
    for name in ("sources", "lists/partial", "cache/archives/partial", "download"):
        (folder / name).mkdir(parents=True)
    (folder / "sources" / "lwip.sources").write_text(
        source_stanzas(Path("/etc/apt/sources.list.d"), Path("/etc/apt/sources.list"))
    )
    options = []
    for key, value in (
        ("Dir::Etc::SourceList", "/dev/null"),
        ("Dir::Etc::SourceParts", f"{folder / 'sources'}"),
        ("Dir::State::Lists", f"{folder / 'lists'}"),
        ("Dir::Cache", f"{folder / 'cache'}"),
        ("Acquire::Languages", "none"),
    ):
        options += ["-o", f"{key}={value}"]
    _apt(["update"], options, folder)
    _apt(["source", "--download-only", "lwip"], options, folder / "download")
    found = sorted((folder / "download").glob(f"lwip_{VERSION}*.orig.tar.*"))
    found = [path for path in found if not path.name.endswith(".asc")]
    if len(found) != 1:
        raise LwipSourceError(f"Debian {SUITE} has no lwip {VERSION} source tarball (found {[p.name for p in found]})")
    return found[0]


def unpack(tarball: Path, target: Path) -> None:
    """Unpack ``tarball``, which holds one top folder, as ``target``; ``target`` appears whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".unpack-", dir=target.parent) as scratch:
        with tarfile.open(tarball) as archive:
            archive.extractall(scratch, filter="data")
        tops = sorted(Path(scratch).iterdir())
        if len(tops) != 1 or not tops[0].is_dir():
            raise LwipSourceError(f"{tarball.name} does not hold one top folder but {[top.name for top in tops]}")
        check_tree(tops[0])
        tops[0].rename(target)


@contextlib.contextmanager
def _fetch_lock(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lwip.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def lwip_dir() -> Path:
    """Folder of the lwIP source tree (the one that holds ``src/``), fetched at first use.

    Raises
    ------
    LwipSourceError
        If ``LWIP_DIR`` names something else, or the sources cannot be fetched or are not the pinned ones.
    """
    given = os.environ.get("LWIP_DIR")
    if given:
        folder = Path(given).resolve()
        check_tree(folder)
        return folder
    target = cache_folder() / f"lwip-{VERSION}"
    if target.is_dir():
        check_tree(target)
        return target
    with _fetch_lock(target.parent):
        if not target.is_dir():  # another process may have fetched it meanwhile
            print(f"twinstack: fetching lwIP {VERSION} sources (Debian {SUITE})", file=sys.stderr)
            scratch = Path(tempfile.mkdtemp(prefix="twinstack-lwip-"))
            try:
                scratch.chmod(0o755)  # apt's download user must reach it
                tarball = _download(scratch)
                check_tarball(tarball)
                unpack(tarball, target)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    return target


def main() -> int:
    """Print the folder; 1 with a message when there is none."""
    try:
        print(lwip_dir())
    except LwipSourceError as error:
        print(f"twinstack: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
