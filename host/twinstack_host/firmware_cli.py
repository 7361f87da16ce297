"""``twinstack load`` and ``twinstack flash``: firmware into a board's engine, and into its flash."""

from __future__ import annotations

import argparse
import contextlib
import errno
import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from twinstack.proto.flash_map import SlotResult, Source
from twinstack.proto.image import ImageError, version_text

from .connection import SLOW_FACTOR, add_connection, open_link
from .device import Device
from .firmware_load import handshake, image_version, load_firmware
from .flash import NAMES, SlotInfo, confirm, list_slots, write_slot
from .loader import REASONS, Loader, Progress

START_SECONDS = 5.0
"""For the cores to report, on a board."""

FLASH_DESCRIPTION = """\
Write firmware into one of the two slots of the board's flash, or show or confirm what is in them.

An image boots as soon as it is newer than the other, but only three times unless it is confirmed; then the board falls back
to the other slot. With --confirm and IMAGE the new image is booted and confirmed at once if all cores report.
"""


def add_commands(commands: Any) -> None:
    """Add both sub-commands."""
    load = commands.add_parser("load", help="load firmware into a board's engine and start it")
    load.add_argument("image", type=Path, help="firmware image")
    load.set_defaults(run=run_load)
    flash = commands.add_parser(
        "flash",
        help="write firmware into a board's flash",
        description=FLASH_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    flash.add_argument("image", type=Path, nargs="?", help="firmware image")
    flash.add_argument(
        "--slot", choices=NAMES, type=str.upper, help="slot to write; default: the one not needed to fall back"
    )
    flash.add_argument("--list", action="store_true", help="show what the slots hold")
    flash.add_argument("--confirm", action="store_true", help="confirm what was booted; with IMAGE: boot it first")
    flash.set_defaults(run=run_flash)
    for parser in (load, flash):
        add_connection(parser, connect=False)
        parser.set_defaults(open_link=open_link)


@contextlib.contextmanager
def shown_progress() -> Iterator[Progress]:
    """A bar for each step, by tqdm if it is installed, and only on a terminal."""
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        yield lambda step, done, total: None
        return
    bars: dict[str, Any] = {}

    def show(step: str, done: int, total: int) -> None:
        if step not in bars:
            bars[step] = tqdm(total=total, desc=step, unit="B", unit_scale=True, disable=None, file=sys.stderr)
        bars[step].update(done - bars[step].n)

    try:
        yield show
    finally:
        for bar in bars.values():
            bar.close()


def _guarded(name: str, work: Callable[[argparse.Namespace], int], options: argparse.Namespace) -> int:
    try:
        return work(options)
    except (ImageError, ValueError) as error:
        print(f"{name}: REFUSED {error}", file=sys.stderr)
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
    except OSError as error:
        print(f"{name}: FAILED {error.strerror or error}", file=sys.stderr)
    return 1


def run_load(options: argparse.Namespace) -> int:
    """Load, start, report."""
    return _guarded("load", _load, options)


def _load(options: argparse.Namespace) -> int:
    image = options.image.read_bytes()
    with options.open_link(options) as link:
        device = Device(link, timeout=START_SECONDS * (SLOW_FACTOR if options.slow else 1))
        with shown_progress() as progress:
            done = load_firmware(device, image, seed=secrets.randbits(32), progress=progress)
    print(f"load: version {done.version}, CRC-32 {done.crc32:#010x} compared in the engine")
    print(f"load: {device.cores} cores are up and report ABI version {done.abi}")
    return 0


def run_flash(options: argparse.Namespace) -> int:
    """Write, list, confirm."""
    return _guarded("flash", _flash, options)


def describe_slot(one: SlotInfo) -> str:
    """A slot in a line."""
    text = f"slot {one.name}: {REASONS[one.result]}"
    if one.version or one.sequence:
        state = "confirmed" if one.confirmed else f"not confirmed, {one.attempts_left} attempts left"
        text += f", version {version_text(one.version)}, {one.length} bytes, number {one.sequence}, {state}"
    return text


def _flash(options: argparse.Namespace) -> int:
    if options.image is None and not options.list and not options.confirm:
        raise ValueError("flash needs an image, --list or --confirm")
    if options.slot is not None and options.image is None:
        raise ValueError("--slot needs an image")
    image = None if options.image is None else options.image.read_bytes()
    with options.open_link(options) as link:
        device = Device(link, timeout=START_SECONDS * (SLOW_FACTOR if options.slow else 1))
        loader = Loader(link)
        if image is not None:
            slot = None if options.slot is None else NAMES.index(options.slot)
            with shown_progress() as progress:
                written = write_slot(loader, image, engine_abi=device.abi, slot=slot, progress=progress)
            print(f"flash: version {image_version(image)} is in slot {written.name}, not confirmed")
            if options.confirm:
                status = loader.boot()
                if status["source"] != Source.SLOT_A + written.slot:
                    reason = REASONS[SlotResult(status[f"slot_{written.name.lower()}"])]
                    raise OSError(errno.EIO, f"the new image did not boot: {reason}; {loader.describe(status)}")
                abi = handshake(device, device.timeout)
                print(f"flash: booted, {device.cores} cores report ABI version {abi}")
            else:
                print("flash: it boots next; when it works: twinstack flash --confirm")
        if options.confirm:
            print(f"flash: {describe_slot(confirm(device, loader, timeout=device.timeout))}")
        if options.list:
            print(f"flash: running: {loader.describe()}")
            for one in list_slots(loader, engine_abi=device.abi):
                print(f"flash: {describe_slot(one)}")
    return 0


__all__ = ["add_commands", "describe_slot", "run_flash", "run_load"]
