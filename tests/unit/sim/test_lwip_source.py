"""Where the lwIP sources come from, and that nothing else is taken for them."""

import hashlib
import io
import tarfile
from pathlib import Path

import pytest

from twinstack_sim import lwip_source
from twinstack_sim.lwip_source import LwipSourceError

INIT_H = "src/include/lwip/init.h"


def init_text(version: str) -> str:
    major, minor, revision = version.split(".")
    return f"#define LWIP_VERSION_MAJOR   {major}\n#define LWIP_VERSION_MINOR {minor}\n#define LWIP_VERSION_REVISION {revision}\n"


def make_tree(folder: Path, version: str = lwip_source.VERSION) -> Path:
    header = folder / INIT_H
    header.parent.mkdir(parents=True)
    header.write_text(init_text(version))
    return folder


def make_tarball(path: Path, members: dict[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, text in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return path


@pytest.fixture(autouse=True)
def no_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("LWIP_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_folder_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("LWIP_DIR", str(make_tree(tmp_path / "tree")))
    assert lwip_source.lwip_dir() == tmp_path / "tree"


@pytest.mark.parametrize(("version", "message"), [("2.1.3", "holds lwIP 2.1.3, but 2.2.1"), (None, "is missing")])
def test_wrong_folder_is_refused(monkeypatch, tmp_path, version, message):
    folder = make_tree(tmp_path / "tree", version) if version else tmp_path
    monkeypatch.setenv("LWIP_DIR", str(folder))
    with pytest.raises(LwipSourceError, match=message):
        lwip_source.lwip_dir()


def test_tarball_with_another_hash_is_not_unpacked(monkeypatch, tmp_path, capsys):
    bad = make_tarball(tmp_path / "lwip_2.2.1.orig.tar.gz", {f"lwip/{INIT_H}": init_text("2.2.1")})
    monkeypatch.setattr(lwip_source, "_download", lambda folder: bad)
    digest = hashlib.sha256(bad.read_bytes()).hexdigest()
    with pytest.raises(LwipSourceError, match=f"SHA-256 {digest}, expected {lwip_source.ORIG_SHA256}"):
        lwip_source.lwip_dir()
    assert not (lwip_source.cache_folder() / "lwip-2.2.1").exists()
    assert lwip_source.main() == 1
    assert "it was not unpacked" in capsys.readouterr().err


def test_right_tarball_is_unpacked_once(monkeypatch, tmp_path, capsys):
    good = make_tarball(tmp_path / "lwip_2.2.1.orig.tar.gz", {f"lwip/{INIT_H}": init_text("2.2.1")})
    monkeypatch.setattr(lwip_source, "ORIG_SHA256", hashlib.sha256(good.read_bytes()).hexdigest())
    monkeypatch.setattr(lwip_source.check_tarball, "__defaults__", (lwip_source.ORIG_SHA256,))
    calls = []
    monkeypatch.setattr(lwip_source, "_download", lambda folder: calls.append(folder) or good)
    folder = lwip_source.lwip_dir()
    assert lwip_source.lwip_dir() == folder == tmp_path / "cache" / "twinstack" / "lwip-2.2.1"
    assert len(calls) == 1 and not calls[0].exists()
    assert (folder / INIT_H).is_file()
    assert sorted(path.name for path in folder.parent.iterdir()) == ["lwip-2.2.1", "lwip.lock"]
    assert lwip_source.main() == 0
    assert capsys.readouterr().out.strip() == str(folder)


@pytest.mark.parametrize("members", [{"a/x": "", "b/x": ""}, {f"lwip/{INIT_H}": init_text("2.1.0")}])
def test_unpack_leaves_nothing_behind_a_wrong_tarball(tmp_path, members):
    tarball = make_tarball(tmp_path / "x.tar.gz", members)
    with pytest.raises(LwipSourceError):
        lwip_source.unpack(tarball, tmp_path / "out" / "lwip")
    assert list((tmp_path / "out").iterdir()) == []


def test_stanzas_come_from_the_systems_own_archives(tmp_path):
    (tmp_path / "debian.sources").write_text(
        "Types: deb\n# a comment\nURIs: http://deb.debian.org/debian\nSuites: bookworm bookworm-updates\n"
        "Components: main contrib\nSigned-By: /usr/share/keyrings/debian.gpg\n\n"
        "Types: deb\nURIs: http://deb.debian.org/debian-security\nSuites: bookworm-security\nComponents: main\n"
    )
    (tmp_path / "other.sources").write_text("Types: deb\nURIs: https://other.example/\nSuites: x\nComponents: main\n")
    single = tmp_path / "sources.list"
    single.write_text(
        "deb [signed-by=/k.gpg] http://mirror.example/debian bookworm main\n# deb http://no/debian x main\n"
    )
    text = lwip_source.source_stanzas(tmp_path, single)
    assert text == (
        "Types: deb-src\nURIs: http://deb.debian.org/debian\nSuites: trixie\nComponents: main\n"
        "Signed-By: /usr/share/keyrings/debian.gpg\n\n"
        "Types: deb-src\nURIs: http://mirror.example/debian\nSuites: trixie\nComponents: main\nSigned-By: /k.gpg\n"
    )


def test_system_without_debian_archive_says_what_to_do(tmp_path):
    with pytest.raises(LwipSourceError, match="set LWIP_DIR"):
        lwip_source.source_stanzas(tmp_path, tmp_path / "none")
