"""Firmware images: every reason to refuse one, each with what was found and what would be right."""

import pytest

from twinstack.proto.image import (
    IMAGE_HEADER,
    IMAGE_HEADER_BYTES,
    ImageError,
    build_image,
    check_image,
    pack_header,
    version_text,
)


def check(image: bytes, engine_abi: int = 7, code_bytes: int = 64, data_bytes: int | None = None) -> bytes:
    return check_image(image, engine_abi=engine_abi, code_bytes=code_bytes, data_bytes=data_bytes)


def with_header(image: bytes, **values: int) -> bytes:
    """``image`` with other fields in its header, whose CRC is right."""
    header = IMAGE_HEADER.unpack(image[:IMAGE_HEADER_BYTES]) | values
    return pack_header(header) + image[IMAGE_HEADER_BYTES:]


def test_good_image():
    assert check(build_image(b"abcde", 1, abi=7)) == b"abcde\0\0\0"


def test_wrong_abi_names_both_versions():
    with pytest.raises(ImageError, match="ABI version 6, the engine has ABI version 7"):
        check(build_image(b"abcd", 1, abi=6))


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (b"short", "5 bytes in all"),
        (b"JUNK" + build_image(b"abcd", 1, abi=7)[4:], "magic"),
        (build_image(b"abcd", 1, abi=7)[:-1], "body of 4 bytes, not 3"),
        (build_image(b"abcd", 1, abi=7)[:-1] + b"x", "CRC-32"),
        (build_image(bytes(68), 1, abi=7), "64 bytes of code memory, not 68"),
        (with_header(build_image(b"abcd", 1, abi=7), length=3)[:-1], "whole words, not 3"),
        (build_image(b"", 1, abi=7), "whole words, not 0"),
    ],
)
def test_bad_images(image, text):
    with pytest.raises(ImageError, match=text):
        check(image)


@pytest.mark.parametrize("byte", range(8, IMAGE_HEADER_BYTES))
def test_any_flipped_bit_of_the_header(byte):
    image = bytearray(build_image(b"abcd", 1, abi=7))
    image[byte] ^= 0x20
    with pytest.raises(ImageError, match="header with CRC-32"):
        check(bytes(image))


def test_another_board_is_named_with_both_sizes():
    image = build_image(b"abcd", 1, abi=7, code_bytes=4096, data_bytes=2048)
    assert check(image, code_bytes=4096, data_bytes=2048) == b"abcd"
    assert check(image, code_bytes=8192) == b"abcd"
    for code_bytes, data_bytes in ((8192, 2048), (4096, 4096)):
        with pytest.raises(ImageError, match="another board: for 4 KiB of code memory and 2 KiB of data RAM"):
            check(image, code_bytes=code_bytes, data_bytes=data_bytes)
    with pytest.raises(ImageError, match="another board"):
        check(build_image(b"abcd", 1, abi=7), code_bytes=4096, data_bytes=2048)


def test_version_text():
    assert version_text(0x010203) == "1.2.3"
