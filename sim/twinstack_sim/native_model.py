"""The C ABI of ``native/harness.cpp``, for Python."""

from __future__ import annotations

import ctypes
from pathlib import Path

ABI = 3
MAX_PORTS = 4

PUSH_BAD_FCS, PUSH_RX_ER, PUSH_RAW = 1, 2, 4
FRAME_BAD_FCS, FRAME_TX_ER, FRAME_BAD_PREAMBLE, FRAME_SHORT_GAP, FRAME_RUNT, FRAME_TRUNCATED = 1, 2, 4, 8, 16, 32
FRAME_FLAG_NAMES = {
    FRAME_BAD_FCS: "bad FCS",
    FRAME_TX_ER: "TX_ER",
    FRAME_BAD_PREAMBLE: "bad preamble",
    FRAME_SHORT_GAP: "inter-frame gap below 12 bytes",
    FRAME_RUNT: "shorter than 64 bytes",
    FRAME_TRUNCATED: "too long to be captured",
}
STOP_FRAME, STOP_IRQ, STOP_UART = 1, 2, 4
REASON_CYCLES, REASON_FRAME, REASON_IRQ, REASON_FAULT, REASON_FINISH, REASON_UART = range(6)
UART_BAD_STOP, UART_BREAK = 1, 2
CSR_OK, CSR_ERR, CSR_TIMEOUT = range(3)


class ModelConfig(ctypes.Structure):
    """``struct ts_config``."""

    _fields_ = [
        ("sync_hz", ctypes.c_uint64),
        ("phy_hz", ctypes.c_uint64),
        ("sync_ppm", ctypes.c_double),
        ("rx_ppm", ctypes.c_double * MAX_PORTS),
        ("tx_ppm", ctypes.c_double * MAX_PORTS),
        ("seed", ctypes.c_uint64),
        ("memory", ctypes.c_void_p),
        ("memory_bytes", ctypes.c_uint64),
        ("max_wait", ctypes.c_uint32),
        ("external_tick", ctypes.c_uint32),
    ]


_U64, _U32, _INT, _POINTER = ctypes.c_uint64, ctypes.c_uint32, ctypes.c_int, ctypes.c_void_p
_SIGNATURES = {
    "ts_abi": (_U32, []),
    "ts_ports": (_U32, []),
    "ts_create": (_POINTER, [ctypes.POINTER(ModelConfig)]),
    "ts_destroy": (None, [_POINTER]),
    "ts_run": (_INT, [_POINTER, _U64, _U32]),
    "ts_cycles": (_U64, [_POINTER]),
    "ts_time_ns": (_U64, [_POINTER]),
    "ts_irq": (_INT, [_POINTER]),
    "ts_csr": (_INT, [_POINTER, _INT, _U32, _U32, _U32, _U64, ctypes.POINTER(_U32)]),
    "ts_uart_rate": (None, [_POINTER, ctypes.c_double]),
    "ts_flash": (None, [_POINTER, ctypes.c_void_p, _U64, _U64]),
    "ts_uart_push": (None, [_POINTER, ctypes.c_char_p, _U64, _U32]),
    "ts_uart_backlog": (_U64, [_POINTER]),
    "ts_uart_waiting": (_U64, [_POINTER]),
    "ts_uart_pop": (_U64, [_POINTER, ctypes.c_char_p, _U64]),
    "ts_uart_want": (None, [_POINTER, _U64]),
    "ts_uart_bad_frames": (_U64, [_POINTER]),
    "ts_port_hz": (_INT, [_POINTER, _INT, _U64]),
    "ts_tick": (None, [_POINTER]),
    "ts_frame_push": (_INT, [_POINTER, _INT, ctypes.c_char_p, _U64, _U32]),
    "ts_frame_backlog": (_U64, [_POINTER, _INT]),
    "ts_frame_pop": (
        ctypes.c_int64,
        [_POINTER, _POINTER, _U64, ctypes.POINTER(_INT), ctypes.POINTER(_U32), ctypes.POINTER(_U64)],
    ),
    "ts_bus_counts": (None, [_POINTER, _INT, ctypes.POINTER(_U64), ctypes.POINTER(_U64), ctypes.POINTER(_U64)]),
    "ts_faults": (_U64, [_POINTER, ctypes.c_char_p, _U64]),
}


def load_model(path: Path) -> ctypes.CDLL:
    """Load a model library and declare its functions.

    Raises
    ------
    RuntimeError
        If it was built for another version of this interface.
    """
    library = ctypes.CDLL(str(path))
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    found = library.ts_abi()
    if found != ABI:
        raise RuntimeError(f"{path} has interface version {found}, but {ABI} is needed; remove the folder build/sim")
    return library
