"""The Linux kernel's own stack as a peer, through a TAP device, for interoperability.

A TAP device needs CAP_NET_ADMIN. A network namespace of one's own gives it without root:
:func:`reexec_in_namespace`. The kernel lives in wall-clock time, so the engine's ticks must too
(``SimulationOptions.external_tick``).
"""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import os
import shutil
import struct
import subprocess
import sys

from .lwip_source import lwip_dir

TUN_DEVICE = "/dev/net/tun"
TUNSETIFF = 0x400454CA  # linux/if_tun.h
IFF_TAP = 0x0002
IFF_NO_PI = 0x1000
NAME_BYTES = 15
FRAME_BYTES = 65536
FRAMES_PER_POLL = 64
COMMAND_TIMEOUT_S = 10
INSIDE = "TWINSTACK_NAMESPACE"
"""Environment variable that marks a process which runs in a namespace of its own."""


class TapError(RuntimeError):
    """There is no TAP device to be had; the message says why."""


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        raise TapError(f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise TapError(f"{' '.join(command)} did not finish in {COMMAND_TIMEOUT_S} s") from None
    if done.returncode:
        raise TapError(f"{' '.join(command)} failed: {(done.stderr or done.stdout).strip()}")


def check_namespace() -> None:
    """Check that an unprivileged network namespace with a TAP device can be made here.

    Raises
    ------
    TapError
        If not, saying what is missing.
    """
    if not os.path.exists(TUN_DEVICE):
        raise TapError(f"{TUN_DEVICE} does not exist: the kernel has no TUN/TAP support, or the container hides it")
    if not os.access(TUN_DEVICE, os.R_OK | os.W_OK):
        raise TapError(f"{TUN_DEVICE} is not accessible for this user")
    for tool in ("unshare", "ip"):
        if shutil.which(tool) is None:
            raise TapError(f"{tool} is not installed")
    _run(["unshare", "-rn", "true"])


def reexec_in_namespace() -> None:
    """Start the current program again in a network namespace of its own; does not return then.

    Returns at once where that has happened already. The lwIP sources are fetched before: there is no network inside.

    Raises
    ------
    TapError
        If namespaces or TAP devices are not available here.
    LwipSourceError
        If the lwIP sources cannot be had.
    """
    if os.environ.get(INSIDE):
        return
    check_namespace()
    lwip_dir()
    environment = os.environ | {INSIDE: "1"}
    sys.stdout.flush()
    sys.stderr.flush()
    os.execvpe("unshare", ["unshare", "-rn", sys.executable, *sys.orig_argv[1:]], environment)


class TapPeer:
    """The kernel behind a TAP device; a :class:`~twinstack_sim.peer.Peer`.

    Parameters
    ----------
    address : str
        The kernel's address on the device with its prefix length, such as ``"192.168.77.2/24"``.
    name : str
        Of the device, up to 15 characters.
    address6 : str
        An IPv6 address likewise, besides the link-local one; usable at once. May be empty.

    Raises
    ------
    ValueError
        If an address or the name is not one.
    TapError
        If the device cannot be made.
    """

    def __init__(self, address: str = "192.168.77.2/24", name: str = "twinstack0", address6: str = "") -> None:
        for one in filter(None, (address, address6)):
            if "/" not in one:
                raise ValueError(f"address must have a prefix length, not {one!r}")
            ipaddress.ip_interface(one)
        if not 1 <= len(name.encode()) <= NAME_BYTES or "/" in name:
            raise ValueError(f"name must be 1 to {NAME_BYTES} characters, not {name!r}")
        self.address, self.name = address, name
        self._file = -1
        try:
            self._file = os.open(TUN_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            request = struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI)
            fcntl.ioctl(self._file, TUNSETIFF, request)
        except OSError as error:
            self.close()
            raise TapError(f"no TAP device from {TUN_DEVICE}: {error.strerror}; run under `unshare -rn`") from None
        try:
            _run(["ip", "link", "set", "lo", "up"])
            _run(["ip", "address", "add", address, "dev", name])
            if address6:
                _run(["ip", "address", "add", address6, "dev", name, "nodad"])
            _run(["ip", "link", "set", name, "up"])
        except TapError:
            self.close()
            raise

    def frame_from_engine(self, frame: bytes, now_ns: int) -> None:
        """Hand a frame to the kernel; it drops what it cannot hold."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._file, frame)

    def poll(self, now_ns: int) -> list[bytes]:
        """Frames that the kernel has sent since, up to a bound."""
        frames: list[bytes] = []
        while len(frames) < FRAMES_PER_POLL:
            try:
                frames.append(os.read(self._file, FRAME_BYTES))
            except BlockingIOError:
                break
        return frames

    def next_event_ns(self) -> int | None:
        """The kernel does not know simulated time."""
        return None

    def close(self) -> None:
        """Remove the device."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
