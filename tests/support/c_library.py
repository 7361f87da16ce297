"""The C host library through ctypes, its HAL on a HostLink."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
from ctypes import (
    POINTER,
    c_bool,
    c_char,
    c_char_p,
    c_int,
    c_int32,
    c_size_t,
    c_uint,
    c_uint8,
    c_uint16,
    c_uint32,
    c_uint64,
)
from pathlib import Path

from twinstack.proto.export import main as export
from twinstack_host.link import HostLink

ROOT = Path(__file__).resolve().parents[2]
C = ROOT / "host" / "c"
SOURCES = [*sorted(C.glob("*.c")), C / "examples" / "echo.c"]
FOREVER = 0xFFFF_FFFF
WARNINGS = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Wundef", "-Werror"]
SANITIZE = ["-fsanitize=undefined", "-fno-sanitize-recover=all"]
ADDRESS_SANITIZER = "TWINSTACK_ADDRESS_SANITIZER"


def header_folder() -> Path:
    """Where the generated twinstack_abi.h is."""
    folder = ROOT / "build" / "generated"
    export(["--out", str(folder)])
    return folder


def build() -> Path:
    """Compile the library for this machine, with sanitizers."""
    sanitize = SANITIZE + (["-fsanitize=address"] if os.environ.get(ADDRESS_SANITIZER) else [])
    sources = [*SOURCES, Path(__file__).with_name("twinstack_sizes.c")]
    return _compile(sources, [*sanitize, "-fPIC", "-shared"], "libtwinstack", ".so")


def build_program() -> Path:
    """Compile the example for POSIX systems, with all sanitizers."""
    sources = [*SOURCES, *(C / "posix").glob("*.c"), C / "examples" / "echo_main.c"]
    return _compile(sources, [*SANITIZE, "-fsanitize=address", f"-I{C / 'posix'}"], "echo", "")


def _compile(sources: list[Path], more: list[str], name: str, suffix: str) -> Path:
    header = header_folder()
    flags = [*WARNINGS, "-g", "-O1", f"-I{C}", f"-I{header}", *more]
    read = [*sources, *sorted(C.glob("**/*.h")), header / "twinstack_abi.h"]
    digest = hashlib.sha256(repr(flags).encode() + b"".join(path.read_bytes() for path in read)).hexdigest()[:16]
    product = ROOT / "build" / "c_library" / f"{name}-{digest}{suffix}"
    if not product.exists():
        product.parent.mkdir(parents=True, exist_ok=True)
        scratch = product.with_suffix(f".{os.getpid()}")
        subprocess.run(["gcc", *flags, *map(str, sources), "-o", str(scratch)], check=True, timeout=120)
        scratch.rename(product)
    return product


READ32 = ctypes.CFUNCTYPE(c_uint32, ctypes.c_void_p, c_uint32)
WRITE32 = ctypes.CFUNCTYPE(None, ctypes.c_void_p, c_uint32, c_uint32)
MEMORY = ctypes.CFUNCTYPE(None, ctypes.c_void_p, c_uint32, ctypes.c_void_p, c_size_t)
MILLISECONDS = ctypes.CFUNCTYPE(c_uint32, ctypes.c_void_p)
WAIT = ctypes.CFUNCTYPE(None, ctypes.c_void_p, c_uint32)
BARRIER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
BROKEN = ctypes.CFUNCTYPE(c_bool, ctypes.c_void_p)


class Hal(ctypes.Structure):
    _fields_ = [
        ("context", ctypes.c_void_p),
        ("read32", READ32),
        ("write32", WRITE32),
        ("read_memory", MEMORY),
        ("write_memory", MEMORY),
        ("milliseconds", MILLISECONDS),
        ("wait", WAIT),
        ("barrier", BARRIER),
        ("broken", BROKEN),
    ]


class Memory(ctypes.Structure):
    _fields_ = [("base", c_uint32), ("bytes", c_uint32), ("sq_log2", c_uint8), ("cq_log2", c_uint8)]


class Operation(ctypes.Structure):
    _fields_ = [
        ("done", c_bool),
        ("result", c_int32),
        ("on_more", ctypes.c_void_p),
        ("on_done", ctypes.c_void_p),
        ("argument", ctypes.c_void_p),
        ("user_data", c_uint64),
        ("next", ctypes.c_void_p),
    ]


class Device(ctypes.Structure):
    _fields_ = [
        ("hal", Hal),
        ("timeout_ms", c_uint32),
        ("cores", c_uint8),
        ("ports", c_uint8),
        ("code_bytes", c_uint32),
        ("sync_hz", c_uint32),
        ("unexpected", c_uint32),
        ("failed", c_bool),
        ("memory", Memory),
        ("sq_base", c_uint32),
        ("cq_base", c_uint32),
        ("results", c_uint32),
        ("bounce", c_uint32),
        ("bounce_bytes", c_uint32),
        ("sq_tail", c_uint16),
        ("cq_head", c_uint16),
        ("next_user_data", c_uint64),
        ("pending", ctypes.c_void_p),
        ("call", Operation),
        ("calling", c_bool),
        ("polling", c_bool),
    ]


class Entry(ctypes.Structure):
    _fields_ = [
        ("operation", c_uint8),
        ("handle", c_uint32),
        ("buffer", c_uint32),
        ("length", c_uint32),
        ("operation_flags", c_uint32),
        ("inline_words", c_uint32 * 8),
    ]


class Address(ctypes.Structure):
    _fields_ = [("family", c_uint16), ("port", c_uint16), ("scope", c_uint32), ("address", c_uint8 * 16)]


class Listener(ctypes.Structure):
    _fields_ = [
        ("handle", c_uint32),
        ("accept", Operation),
        ("queue", POINTER(c_uint32)),
        ("queue_size", c_uint32),
        ("queued", c_uint32),
        ("first", c_uint32),
        ("refused", c_uint32),
    ]


class Ipv4Config(ctypes.Structure):
    _fields_ = [
        ("dhcp", c_bool),
        ("prefix_length", c_uint8),
        ("address", c_uint8 * 4),
        ("gateway", c_uint8 * 4),
        ("dns", c_uint8 * 4 * 2),
        ("mac", c_uint8 * 6),
    ]


class Ipv6Config(ctypes.Structure):
    _fields_ = [
        ("autoconfigure", c_bool),
        ("prefix_length", c_uint8),
        ("address", c_uint8 * 16),
        ("gateway", c_uint8 * 8),
    ]


class NetifStatus(ctypes.Structure):
    _fields_ = [
        *((name, c_bool) for name in ("configured", "link_up", "full_duplex", "dhcp", "dhcp_bound", "autoconfigure")),
        ("speed", c_uint16),
        ("prefix_length", c_uint8),
        ("mac", c_uint8 * 6),
        ("address", c_uint8 * 4),
        ("gateway", c_uint8 * 4),
        ("dns", c_uint8 * 4 * 2),
        ("lease_seconds", c_uint32),
        ("address6", c_uint8 * 16 * 3),
        ("address6_ready", c_bool * 3),
        ("router6", c_uint8 * 16),
        ("dns6", c_uint8 * 16),
    ]


class Stats(ctypes.Structure):
    _fields_ = [
        ("core", c_uint8),
        ("epoch", c_uint8),
        ("sockets", c_uint16),
        *((name, c_uint64) for name in ("cycles", "instructions", "idle_cycles", "bytes_in", "bytes_out")),
        *((name, c_uint32) for name in ("frames_in", "frames_out", "tcp_segments_in", "tcp_segments_out")),
        *((name, c_uint32) for name in ("connections", "locks", "messages", "dropped")),
        ("rx_buffers_free", c_uint16),
        ("tx_buffers_free", c_uint16),
    ]


MATCHES = ("ethertype", "protocol", "network_port", "source_port", "destination_port")


class Rule(ctypes.Structure):
    _fields_ = [
        ("action", c_uint8),
        ("core", c_uint8),
        *((f"match_{name}", c_bool) for name in MATCHES),
        ("ethertype", c_uint16),
        ("protocol", c_uint8),
        ("network_port", c_uint8),
        ("source_port", c_uint16),
        ("destination_port", c_uint16),
    ]


class Dispatch(ctypes.Structure):
    _fields_ = [
        *((name, c_bool) for name in ("has_key", "has_hash_types", "has_indirection", "has_rules")),
        ("refused_at", c_uint32),
        ("key", c_uint8 * 40),
        ("tcp_ports", c_bool),
        ("udp_ports", c_bool),
        ("indirection", c_uint8 * 128),
        ("rules", Rule * 8),
    ]


RECORDS = (Hal, Memory, Device, Operation, Entry, Address, Listener, Ipv4Config, Ipv6Config, NetifStatus, Stats, Rule)
RECORDS += (Dispatch,)

_DEVICE, _OPERATION, _ADDRESS, _LISTENER = POINTER(Device), POINTER(Operation), POINTER(Address), POINTER(Listener)
_SIGNATURES: dict[str, tuple[object, list[object]]] = {
    "ts_open": (c_int, [_DEVICE, POINTER(Hal), POINTER(Memory)]),
    "ts_load": (c_int, [_DEVICE, c_char_p, c_size_t]),
    "ts_start": (c_int, [_DEVICE, c_uint32]),
    "ts_attach": (c_int, [_DEVICE]),
    "ts_stop": (None, [_DEVICE]),
    "ts_set_window": (c_int, [_DEVICE, c_uint, c_uint32, c_uint32, c_bool, c_bool]),
    "ts_console": (c_int, [_DEVICE, c_uint, POINTER(c_char), c_size_t]),
    "ts_submit": (c_int, [_DEVICE, POINTER(Entry), _OPERATION]),
    "ts_poll": (c_int, [_DEVICE]),
    "ts_wait": (c_int, [_DEVICE, _OPERATION, c_uint32]),
    "ts_call": (c_int32, [_DEVICE, POINTER(Entry), c_uint32]),
    "ts_cancel": (c_int, [_DEVICE, _OPERATION]),
    "ts_listen": (c_int, [_DEVICE, _LISTENER, _ADDRESS, c_uint32, c_uint32, POINTER(c_uint32), c_uint32]),
    "ts_accept": (c_int32, [_DEVICE, _LISTENER, c_uint32]),
    "ts_listener_close": (c_int, [_DEVICE, _LISTENER]),
    "ts_connect": (c_int32, [_DEVICE, _ADDRESS, _ADDRESS, c_uint32]),
    "ts_udp_open": (c_int32, [_DEVICE, _ADDRESS, c_uint32]),
    "ts_send": (c_int32, [_DEVICE, c_uint32, c_char_p, c_size_t, c_uint32]),
    "ts_recv": (c_int32, [_DEVICE, c_uint32, POINTER(c_char), c_size_t, c_uint32]),
    "ts_sendto": (c_int32, [_DEVICE, c_uint32, c_char_p, c_size_t, _ADDRESS, c_uint, c_uint32]),
    "ts_recvfrom": (
        c_int32,
        [_DEVICE, c_uint32, POINTER(c_char), c_size_t, _ADDRESS, POINTER(c_uint32), c_uint, c_uint32],
    ),
    "ts_shutdown": (c_int, [_DEVICE, c_uint32, c_uint32]),
    "ts_close": (c_int, [_DEVICE, c_uint32, c_uint32]),
    "ts_abort": (c_int, [_DEVICE, c_uint32]),
    "ts_set_option": (c_int, [_DEVICE, c_uint32, c_uint32, c_uint32]),
    "ts_set_address_option": (c_int, [_DEVICE, c_uint32, c_uint32, _ADDRESS]),
    "ts_get_option": (c_int32, [_DEVICE, c_uint32, c_uint32]),
    "ts_local_address": (c_int, [_DEVICE, c_uint32, _ADDRESS]),
    "ts_remote_address": (c_int, [_DEVICE, c_uint32, _ADDRESS]),
    "ts_resolve": (c_int, [_DEVICE, c_char_p, c_uint16, _ADDRESS, c_uint32]),
    "ts_ping": (c_int32, [_DEVICE, _ADDRESS, c_uint32, c_uint32]),
    "ts_configure": (c_int, [_DEVICE, c_uint, POINTER(Ipv4Config)]),
    "ts_configure6": (c_int, [_DEVICE, c_uint, POINTER(Ipv6Config)]),
    "ts_status": (c_int, [_DEVICE, c_uint, POINTER(NetifStatus)]),
    "ts_read_stats": (c_int, [_DEVICE, c_uint, POINTER(Stats)]),
    "ts_set_dispatch": (c_int, [_DEVICE, POINTER(Dispatch)]),
    "ts_get_dispatch": (c_int, [_DEVICE, POINTER(Dispatch)]),
    "echo_serve": (c_int, [_DEVICE, c_uint16, c_uint]),
}


def load() -> ctypes.CDLL:
    """The compiled library with the signatures of its functions."""
    library = ctypes.CDLL(str(build()))
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    sizes = (c_size_t * len(RECORDS)).in_dll(library, "ts_test_sizes")
    for record, size in zip(RECORDS, sizes, strict=True):
        assert ctypes.sizeof(record) == size, f"{record.__name__} has {size} bytes in C"
    return library


class CDevice:
    """A ``ts_device`` on a HostLink. ``call`` raises what a callback raised; results are as in C."""

    def __init__(
        self, library: ctypes.CDLL, link: HostLink, *, sq_log2: int = 4, cq_log2: int = 4, bytes: int = 1 << 15
    ):
        self.library, self.link = library, link
        self.device = Device()
        self.error: BaseException | None = None
        self.memory = Memory(link.memory_base, bytes, sq_log2, cq_log2)
        self.hal = Hal(
            None,
            READ32(self._guard(lambda _, offset: link.csr_read(offset), 0xFFFF_FFFF)),
            WRITE32(self._guard(lambda _, offset, value: link.csr_write(offset, value))),
            MEMORY(
                self._guard(
                    lambda _, address, to, length: ctypes.memmove(to, link.read(address, length), length) and None
                )
            ),
            MEMORY(
                self._guard(lambda _, address, source, length: link.write(address, ctypes.string_at(source, length)))
            ),
            MILLISECONDS(self._guard(lambda _: int(link.clock() * 1000) & 0xFFFF_FFFF, 0)),
            WAIT(self._guard(lambda _, milliseconds: link.wait_interrupt(milliseconds / 1000) and None)),
            BARRIER(self._guard(lambda _: None)),
            BROKEN(lambda _: self.error is not None),
        )

    def _guard(self, function, otherwise=None):
        def guarded(*arguments):
            try:
                return function(*arguments)
            except BaseException as error:
                self.error = self.error or error
                return otherwise

        return guarded

    def call(self, name: str, *arguments: object) -> int:
        """Call ``ts_<name>`` of this device."""
        result = getattr(self.library, f"ts_{name}")(ctypes.byref(self.device), *arguments)
        if self.error is not None:
            error, self.error = self.error, None
            raise error
        return result

    def open(self) -> int:
        return self.call("open", ctypes.byref(self.hal), ctypes.byref(self.memory))
