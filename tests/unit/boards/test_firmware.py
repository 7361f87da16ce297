"""Firmware for each board: built for its memories, small where code memory is, and no other board takes it."""

import pytest

from twinstack.config import EngineConfig
from twinstack.proto.abi import ABI_VERSION
from twinstack.proto.image import ImageError, check_image
from twinstack_boards.build import BOARDS, board_by_name
from twinstack_boards.firmware import firmware_words
from twinstack_sim.firmware import build_firmware, firmware_profile


@pytest.mark.parametrize("name", BOARDS)
def test_firmware_fits_the_board(name):
    board = board_by_name(name)
    config = board.config
    image = build_firmware(config=config).read_bytes()
    body = check_image(image, engine_abi=ABI_VERSION, code_bytes=config.code_bytes, data_bytes=config.data_bytes)
    assert 0 < len(body) <= config.code_bytes
    words = firmware_words(board)
    assert b"".join(word.to_bytes(4, "little") for word in words) == body


def test_profiles_differ_and_do_not_mix():
    large, small = board_by_name("ecpix5_85").config, board_by_name("versa_ecp5").config
    assert (firmware_profile(large), firmware_profile(small)) == ("full", "small")
    assert firmware_profile(EngineConfig()) == "full"
    # One image for every number of ports of the default configuration.
    assert build_firmware() == build_firmware(config=large) != build_firmware(config=small)
    for config, image in ((large, build_firmware(config=small)), (small, build_firmware())):
        with pytest.raises(ImageError):
            check_image(
                image.read_bytes(),
                engine_abi=ABI_VERSION,
                code_bytes=config.code_bytes,
                data_bytes=config.data_bytes,
            )
