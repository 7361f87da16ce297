"""Firmware images: every reason to refuse one, each with what was found and what would be right."""

import pytest

from twinstack.proto.image import ImageError, build_image, check_image


def check(image: bytes, engine_abi: int = 7, code_bytes: int = 64) -> bytes:
    return check_image(image, engine_abi=engine_abi, code_bytes=code_bytes)


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
    ],
)
def test_bad_images(image, text):
    with pytest.raises(ImageError, match=text):
        check(image)
