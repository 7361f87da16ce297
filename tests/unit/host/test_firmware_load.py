"""Loading firmware into a board: what is refused before the first write, what is undone after a failure."""

import pytest

from support.fake_board import CODE_BYTES, FakeBoard, file
from twinstack.proto import flash_map
from twinstack.proto.flash_map import Source
from twinstack.proto.image import ImageError
from twinstack_host.device import Device
from twinstack_host.firmware_load import LoadError, load_firmware
from twinstack_host.loader import Loader, LoaderError


@pytest.fixture
def board():
    return FakeBoard()


def test_load_starts_the_image_and_tells_what_it_was(board):
    seen = []
    image = file(b"good one", 0x010203, size=1000)
    done = load_firmware(Device(board), image, seed=1, progress=lambda *step: seen.append(step))
    assert (done.version, done.abi) == ("1.2.3", 3) and done.crc32 == board.model.registers["crc"]
    assert board.model.code == image[32:] and board.running and board.model.source == Source.HOST
    assert seen == [("loading", 256 * n, 1000) for n in (1, 2, 3)] + [("loading", 1000, 1000)]


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (file(b"good")[:20], "header of 32 bytes, not 20 bytes in all"),
        (file(b"good")[:-8], "body of 1000 bytes, not 992"),
        (file(b"good")[:-1] + b"!", "must have CRC-32"),
        (file(b"good", abi=9), "ABI version 9, the engine has ABI version 3"),
        (file(b"good", code_bytes=65536), "another board: for 64 KiB of code memory and 48 KiB"),
        (file(b"good", data_bytes=20480), "another board"),
        (file(b"good", size=CODE_BYTES + 4), "must fit into 98304 bytes"),
        (b"\x7fELF" + file(b"good")[4:], "must start with magic"),
        (file(b"good")[:8] + b"\xff" + file(b"good")[9:], "header with CRC-32"),
    ],
)
def test_what_must_not_be_loaded_is_refused_before_anything_is_written(board, image, text):
    with pytest.raises(ImageError, match=text):
        load_firmware(Device(board), image, seed=1)
    assert board.writes == 0 and board.running


def test_engine_without_a_loader_says_so(board):
    type(board).loader, saved = None, type(board).loader
    try:
        with pytest.raises(LoaderError, match="no loader"):
            load_firmware(Device(board), file(b"good"), seed=1)
    finally:
        type(board).loader = saved


def test_other_page_or_version(board, monkeypatch):
    monkeypatch.setattr(flash_map, "MAP_VERSION", 2)
    read = board.model.read
    board.model.read = lambda offset: 1 if offset == 4 else read(offset)
    with pytest.raises(LoaderError, match="knows version 2 of the loader, the board has 1"):
        Loader(board)
    board.model.read = lambda offset: 0xFFFF_FFFF
    with pytest.raises(LoaderError, match="identity must be 0x4c465354, not 0xffffffff"):
        Loader(board)


def test_words_that_are_lost_are_noticed_and_the_old_image_runs_again(board):
    write = board.model.write
    words = []

    def losing(offset, value):
        if offset == flash_map.offset("stream"):
            words.append(value)
            if len(words) == 7:
                return
        write(offset, value)

    board.model.write = losing
    with pytest.raises(LoadError, match="the engine got 996 bytes, not 1000; the cores stay in reset: nothing"):
        load_firmware(Device(board), file(b"good one"), seed=1)
    assert not board.running and board.model.is_locked


def test_flipped_bit_is_noticed_and_a_good_slot_is_loaded_again(board):
    from twinstack_host.flash import write_slot

    write_slot(Loader(board), file(b"good slot", 0x020000), engine_abi=3)
    write = board.model.write
    board.model.write = lambda offset, value: write(offset, value ^ (offset == flash_map.offset("stream")))
    with pytest.raises(LoadError, match="CRC-32 in the engine is .*booted again: slot A, version 2.0.0, not confirmed"):
        load_firmware(Device(board), file(b"good one"), seed=1)
    assert board.running and board.model.code[:9] == b"good slot"


@pytest.mark.parametrize("text", [b"abi9", b"dead"])
def test_image_that_does_not_report_is_undone(board, text):
    from twinstack_host.flash import write_slot

    write_slot(Loader(board), file(b"good slot", 0x020000), engine_abi=3)
    device = Device(board, timeout=0.1)
    says = {b"abi9": "firmware has ABI version 9, the engine 3", b"dead": "did not report their stacks up within 0.1 s"}
    with pytest.raises(LoadError, match=f"{says[text]}.*; booted again: slot A, version 2.0.0"):
        load_firmware(device, file(text), seed=1)
    assert board.running and board.model.code[:9] == b"good slot"


def test_line_that_is_cut_in_the_middle(board):
    board.lost_word = 100
    with pytest.raises(LoadError, match="the line is cut"):
        load_firmware(Device(board), file(b"good one"), seed=1)
    assert not board.running


def test_interrupt_by_the_user_boots_again(board):
    from twinstack_host.flash import write_slot

    write_slot(Loader(board), file(b"good slot"), engine_abi=3)

    def stop(*step):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        load_firmware(Device(board), file(b"good one"), seed=1, progress=stop)
    assert board.running and board.model.code[:9] == b"good slot"
