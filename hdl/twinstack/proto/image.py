"""Firmware image: a header, then the bytes of code memory from its first word on.

The same header begins an image file and, with a sequence number, a slot of the flash (:mod:`.flash_map`).
"""

from __future__ import annotations

import zlib

from .abi import ABI_VERSION
from .layout import Field, Layout

IMAGE_MAGIC = 0x4D495354
IMAGE_HEADER_BYTES = 32

IMAGE_HEADER = Layout(
    "image_header",
    8,
    "Start of a firmware image file and of a flash slot. It is not loaded into code memory.",
    (
        Field("magic", 0, 0, 32, "Bytes TSIM in little-endian order."),
        Field("abi", 1, 0, 32, "ABI_VERSION the firmware was compiled with."),
        Field("version", 2, 0, 32, "Version of the firmware, major << 16 | minor << 8 | patch."),
        Field("length", 3, 0, 32, "Bytes of the body, a multiple of 4, not 0."),
        Field("crc32", 4, 0, 32, "CRC-32 (IEEE 802.3, as zlib) of the body."),
        Field("code_kib", 5, 0, 16, "Code memory the firmware was linked for, in KiB."),
        Field("data_kib", 5, 16, 16, "Data RAM of a core the firmware was linked for, in KiB."),
        Field("sequence", 6, 0, 32, "In a flash slot: the greater, the newer. 0 in a file."),
        Field("header_crc32", 7, 0, 32, "CRC-32 of words 0 to 6."),
    ),
)


class ImageError(ValueError):
    """A firmware image that must not be loaded; the text says why."""


def pack_header(values: dict[str, int]) -> bytes:
    """The 32 bytes of a header; ``header_crc32`` is computed."""
    head = IMAGE_HEADER.pack(values | {"header_crc32": 0})[:-4]
    return head + zlib.crc32(head).to_bytes(4, "little")


def build_image(
    body: bytes, version: int, abi: int = ABI_VERSION, *, code_bytes: int = 0, data_bytes: int = 0
) -> bytes:
    """Prepend the header to ``body`` (padded to words).

    ``code_bytes`` and ``data_bytes`` are the memories that the firmware was linked for, multiples of 1024; an image that
    does not tell them (0) can be loaded, but not into an engine that asks for them.
    """
    body = body + bytes(-len(body) % 4)
    header = {"magic": IMAGE_MAGIC, "abi": abi, "version": version, "length": len(body), "crc32": zlib.crc32(body)}
    return pack_header(header | {"code_kib": code_bytes // 1024, "data_kib": data_bytes // 1024}) + body


def version_text(version: int) -> str:
    """``major.minor.patch`` of a header's version."""
    return f"{version >> 16}.{version >> 8 & 0xFF}.{version & 0xFF}"


def check_image(image: bytes, *, engine_abi: int, code_bytes: int, data_bytes: int | None = None) -> bytes:
    """Return the body of ``image`` if the engine can run it.

    With ``data_bytes`` the image must have been linked for exactly these memories: it is known which board it is for.
    Magic and ABI come first, for another ABI may have another header.

    Raises
    ------
    ImageError
        If it is too short, has the wrong magic, ABI, length or CRC, is for another board, or does not fit into
        ``code_bytes``.
    """
    if len(image) < IMAGE_HEADER_BYTES:
        raise ImageError(
            f"firmware image must have a header of {IMAGE_HEADER_BYTES} bytes, not {len(image)} bytes in all"
        )
    header = IMAGE_HEADER.unpack(image[:IMAGE_HEADER_BYTES])
    body = image[IMAGE_HEADER_BYTES:]
    if header["magic"] != IMAGE_MAGIC:
        raise ImageError(f"firmware image must start with magic {IMAGE_MAGIC:#010x}, not {header['magic']:#010x}")
    if header["abi"] != engine_abi:
        raise ImageError(f"firmware image has ABI version {header['abi']}, the engine has ABI version {engine_abi}")
    header_crc = zlib.crc32(image[: IMAGE_HEADER_BYTES - 4])
    if header["header_crc32"] != header_crc:
        raise ImageError(
            f"firmware image must have a header with CRC-32 {header['header_crc32']:#010x}, not {header_crc:#010x}"
        )
    if header["length"] != len(body):
        raise ImageError(f"firmware image must have a body of {header['length']} bytes, not {len(body)}")
    if not body or len(body) % 4:
        raise ImageError(f"firmware image must have a body of whole words, not {len(body)} bytes")
    if data_bytes is not None:
        profile, board = (header["code_kib"], header["data_kib"]), (code_bytes // 1024, data_bytes // 1024)
        if profile != board:
            raise ImageError(
                f"firmware image is for another board: for {profile[0]} KiB of code memory and {profile[1]} KiB of data RAM; "
                f"this one has {board[0]} and {board[1]} KiB"
            )
    if len(body) > code_bytes:
        raise ImageError(f"firmware image must fit into {code_bytes} bytes of code memory, not {len(body)}")
    if header["crc32"] != zlib.crc32(body):
        raise ImageError(f"firmware image must have CRC-32 {header['crc32']:#010x}, not {zlib.crc32(body):#010x}")
    return body
