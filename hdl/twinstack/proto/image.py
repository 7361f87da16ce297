"""Firmware image: a header, then the bytes of code memory from its first word on."""

from __future__ import annotations

import zlib

from .abi import ABI_VERSION
from .layout import Field, Layout

IMAGE_MAGIC = 0x4D495354
IMAGE_HEADER_BYTES = 32

IMAGE_HEADER = Layout(
    "image_header",
    8,
    "Start of a firmware image file; the CRC covers the body only. It is not loaded into code memory.",
    (
        Field("magic", 0, 0, 32, "Bytes TSIM in little-endian order."),
        Field("abi", 1, 0, 32, "ABI_VERSION the firmware was compiled with."),
        Field("version", 2, 0, 32, "Version of the firmware, major << 16 | minor << 8 | patch."),
        Field("length", 3, 0, 32, "Bytes of the body, a multiple of 4."),
        Field("crc32", 4, 0, 32, "CRC-32 (IEEE 802.3, as zlib) of the body."),
    ),
)


class ImageError(ValueError):
    """A firmware image that must not be loaded; the text says why."""


def build_image(body: bytes, version: int, abi: int = ABI_VERSION) -> bytes:
    """Prepend the header to ``body`` (padded to words)."""
    body = body + bytes(-len(body) % 4)
    header = {"magic": IMAGE_MAGIC, "abi": abi, "version": version, "length": len(body), "crc32": zlib.crc32(body)}
    return IMAGE_HEADER.pack(header) + body


def check_image(image: bytes, *, engine_abi: int, code_bytes: int) -> bytes:
    """Return the body of ``image`` if the engine can run it.

    Raises
    ------
    ImageError
        If it is too short, has the wrong magic, ABI, length or CRC, or does not fit into ``code_bytes``.
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
    if header["length"] != len(body):
        raise ImageError(f"firmware image must have a body of {header['length']} bytes, not {len(body)}")
    if len(body) > code_bytes:
        raise ImageError(f"firmware image must fit into {code_bytes} bytes of code memory, not {len(body)}")
    if header["crc32"] != zlib.crc32(body):
        raise ImageError(f"firmware image must have CRC-32 {header['crc32']:#010x}, not {zlib.crc32(body):#010x}")
    return body
