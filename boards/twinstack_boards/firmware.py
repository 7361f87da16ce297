"""The firmware that a bitstream carries."""

from __future__ import annotations

import struct

from twinstack.proto.abi import ABI_VERSION
from twinstack.proto.image import check_image

from .board import Board


def firmware_words(board: Board) -> list[int]:
    """Words of code memory for ``board``: the socket firmware for its configuration, built if need be.

    Raises
    ------
    twinstack.proto.image.ImageError
        If the image does not suit the board.
    """
    from twinstack_sim.firmware import build_firmware

    image = build_firmware(config=board.config).read_bytes()
    body = check_image(image, engine_abi=ABI_VERSION, code_bytes=board.config.code_bytes)
    return list(struct.unpack(f"<{len(body) // 4}I", body))
