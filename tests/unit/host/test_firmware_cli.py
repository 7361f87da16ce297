"""``twinstack load`` and ``twinstack flash`` against a board of a few lines."""

import contextlib

import pytest

from support.fake_board import FakeBoard, file
from twinstack_host import firmware_cli
from twinstack_host.cli import build_parser
from twinstack_host.link import LinkError


@pytest.fixture
def board():
    return FakeBoard()


@pytest.fixture
def twinstack(board, capsys, tmp_path, monkeypatch):
    """Runs a command line with images in place of their names: (status, standard output, standard error)."""

    @contextlib.contextmanager
    def link(options):
        yield board

    def run(*words):
        line = []
        for word in words:
            if isinstance(word, bytes):
                (tmp_path / "image").write_bytes(word)
                word = str(tmp_path / "image")
            line.append(word)
        options = build_parser()[0].parse_args([*line, "--uart", "none"])
        options.open_link = link
        status = options.run(options)
        return status, *capsys.readouterr()

    return run


def test_load(board, twinstack):
    status, out, err = twinstack("load", file(b"good one", 0x010203))
    assert status == 0 and board.model.code[:8] == b"good one"
    assert "load: version 1.2.3, CRC-32 0x" in out and "2 cores are up and report ABI version 3" in out


@pytest.mark.parametrize("command", ["load", "flash"])
@pytest.mark.parametrize(
    ("image", "text"),
    [
        (file(b"good", code_bytes=65536), "is for another board"),
        (file(b"good", abi=9), "ABI version 9, the engine has ABI version 3"),
        (file(b"good")[:-8], "body of 1000 bytes, not 992"),
        (file(b"good")[:-1] + b"!", "must have CRC-32"),
    ],
)
def test_refusals(board, twinstack, command, image, text):
    status, out, err = twinstack(command, image)
    assert status == 1 and not out and err.startswith(f"{command}: REFUSED") and text in err
    assert board.writes == 0


def test_load_that_fails_tells_what_runs(board, twinstack):
    status, out, err = twinstack("load", file(b"dead"))
    assert status == 1 and "load: FAILED cores did not report" in err
    assert "the cores stay in reset: an image loaded by a host" in err and not board.running


def test_flash_list_and_confirm(board, twinstack):
    assert twinstack("flash", "--list")[1].splitlines() == [
        "flash: running: the bitstream's image",
        "flash: slot A: empty",
        "flash: slot B: empty",
    ]
    status, out, err = twinstack("flash", file(b"good one", 0x010000))
    assert status == 0 and "version 1.0.0 is in slot A, not confirmed" in out and "twinstack flash --confirm" in out
    assert "only what was booted from a slot can be confirmed" in twinstack("flash", "--confirm")[2]
    board.power_up()
    status, out, err = twinstack("flash", "--confirm")
    assert status == 0 and "slot A: good, version 1.0.0, 1000 bytes, number 1, confirmed" in out
    status, out, err = twinstack("flash", file(b"good two", 0x020000), "--confirm", "--list")
    assert status == 0 and "booted, 2 cores report ABI version 3" in out
    assert "running: slot B, version 2.0.0" in out and "slot B: good, version 2.0.0" in out
    status, out, err = twinstack("flash", file(b"good two", 0x020000), "--slot", "b")
    assert status == 1 and "slot must be A, not 'B'" in err


def test_image_that_does_not_report_is_not_confirmed(board, twinstack, monkeypatch):
    status, out, err = twinstack("flash", file(b"dead"), "--confirm")
    assert status == 1 and "FAILED cores did not report their stacks up" in err
    assert "not confirmed, 2 attempts left" in twinstack("flash", "--list")[1]


@pytest.mark.parametrize("line", [["flash"], ["flash", "--slot", "A", "--list"]])
def test_command_line_that_asks_for_nothing(twinstack, line):
    status, out, err = twinstack(*line)
    assert status == 1 and "flash: REFUSED" in err


def test_no_board(monkeypatch, capsys, tmp_path):
    @contextlib.contextmanager
    def link(options):
        raise LinkError(19, "no bridge here")
        yield

    options = build_parser()[0].parse_args(["flash", "--list", "--uart", "none"])
    options.open_link = link
    assert options.run(options) == 1 and "flash: FAILED no bridge here" in capsys.readouterr().err
    missing = build_parser()[0].parse_args(["load", str(tmp_path / "none"), "--uart", "none"])
    assert firmware_cli.run_load(missing) == 1 and "No such file" in capsys.readouterr().err
