"""Slots of the flash: which one is written, what is confirmed, and a plug pulled at every write."""

import random

import pytest

from support.fake_board import CODE_BYTES, FLASH_BYTES, LAYOUT, CutFlash, FakeBoard, PowerCut, file
from support.rtl import seed
from twinstack.proto.flash_map import SlotResult, Source
from twinstack.proto.image import ImageError
from twinstack_host.device import Device, EngineError
from twinstack_host.flash import SlotInfo, choose_slot, confirm, list_slots, write_slot
from twinstack_host.loader import Loader, LoaderError

GOOD, BAD, USED = SlotResult.GOOD, SlotResult.MAGIC, SlotResult.ATTEMPTS


def write(board, image, **options):
    return write_slot(Loader(board), image, engine_abi=3, **options)


def booted(board):
    board.power_up()
    return board.model.source, bytes(board.model.code[:9])


def confirm_now(board):
    return confirm(Device(board, timeout=0.1), Loader(board), timeout=0.1)


@pytest.mark.parametrize(
    ("a", "b", "chosen"),
    [
        ((BAD, 0, False), (BAD, 0, False), 0),
        ((GOOD, 1, False), (BAD, 0, False), 1),
        ((GOOD, 1, True), (BAD, 0, False), 1),
        ((BAD, 0, False), (GOOD, 1, True), 0),
        ((GOOD, 1, True), (GOOD, 2, False), 1),
        ((GOOD, 2, True), (GOOD, 1, True), 1),
        ((GOOD, 1, True), (GOOD, 2, True), 0),
        ((GOOD, 1, False), (GOOD, 2, False), 1),
        ((GOOD, 2, False), (GOOD, 1, True), 0),
        ((USED, 2, False), (GOOD, 1, True), 0),
        ((USED, 2, False), (BAD, 0, False), 1),
    ],
)
def test_the_slot_to_fall_back_to_stays(a, b, chosen):
    infos = [
        SlotInfo(slot, result, sequence=sequence, confirmed=confirmed)
        for slot, (result, sequence, confirmed) in enumerate((a, b))
    ]
    assert choose_slot(infos) == chosen


def test_life_of_two_images():
    board = FakeBoard()
    assert booted(board) == (Source.DEFAULT, b"good defa")
    with pytest.raises(
        LoaderError, match="only what was booted from a slot can be confirmed, not the bitstream's image"
    ):
        confirm_now(board)
    seen = []
    first = write(board, file(b"good one.", 0x010000, size=3000), progress=lambda *step: seen.append(step))
    assert (first.name, first.sequence, first.confirmed, first.attempts_left) == ("A", 1, False, 3)
    assert seen[0][0] == "erasing" and seen[-1] == ("writing", 3000, 3000)
    assert booted(board) == (Source.SLOT_A, b"good one.")
    assert confirm_now(board).confirmed and confirm_now(board).confirmed
    second = write(board, file(b"good two.", 0x020000))
    assert (second.name, second.sequence) == ("B", 2)
    # Without a confirmation it boots three times.
    for attempt in (1, 2, 3):
        assert booted(board) == (Source.SLOT_B, b"good two.") and board.model.attempt == attempt
    assert booted(board) == (Source.SLOT_A, b"good one.") and board.model.results[1] == SlotResult.ATTEMPTS
    third = write(board, file(b"dead end.", 0x030000))
    assert (third.name, third.sequence) == ("B", 3)
    assert booted(board) == (Source.SLOT_B, b"dead end.")
    with pytest.raises(EngineError, match="did not report"):
        confirm_now(board)
    fourth = write(board, file(b"good four", 0x040000))
    assert (fourth.name, fourth.sequence) == ("B", 4)
    with pytest.raises(LoaderError, match="written since it was booted"):
        board.let_go(False)
        board.model.code[:4] = b"good"
        board.let_go(True)
        confirm_now(board)
    assert booted(board) == (Source.SLOT_B, b"good four") and confirm_now(board).confirmed
    slots = list_slots(Loader(board), engine_abi=3)
    assert [(one.name, one.result, one.sequence, one.confirmed) for one in slots] == [
        ("A", GOOD, 1, True),
        ("B", GOOD, 4, True),
    ]
    assert choose_slot(slots) == 0


def test_the_slot_to_fall_back_to_cannot_be_named():
    board = FakeBoard()
    write(board, file(b"good one."), slot=1)
    with pytest.raises(ValueError, match="slot must be A, not 'B'"):
        write(board, file(b"good two."), slot=1)
    assert write(board, file(b"good two."), slot=0).name == "A"


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (file(b"good", abi=9), "ABI version 9"),
        (file(b"good", code_bytes=65536), "another board"),
        (file(b"good")[:-8], "body of 1000 bytes, not 992"),
        (file(b"good")[:-1] + b"!", "CRC-32"),
    ],
)
def test_what_must_not_be_loaded_is_not_written(image, text):
    board = FakeBoard()
    with pytest.raises(ImageError, match=text):
        write(board, image)
    assert board.flash.writes == 0 and board.writes == 0


def test_flash_that_does_not_take_it():
    board = FakeBoard()
    board.flash.program = lambda address, data: None
    with pytest.raises(LoaderError, match="slot A did not take the image: CRC-32"):
        write(board, file(b"good one."))
    assert booted(board)[0] == Source.DEFAULT


def prepared(kind: str) -> bytes:
    """Contents of a flash before the session that is interrupted."""
    board = FakeBoard()
    if kind != "empty":
        write(board, file(b"good old."))
        booted(board)
        confirm_now(board)
    if kind in ("both", "open"):
        write(board, file(b"good mid.", 0x020000))
        booted(board)
    if kind == "both":
        confirm_now(board)
    return bytes(board.flash.data)


def session(board) -> None:
    """Write a new image, boot it, confirm it."""
    write(board, file(b"good new.", 0x030000, size=1500))
    board.power_up()
    confirm_now(board)


@pytest.mark.parametrize("kind", ["empty", "one", "open", "both"])
def test_plug_pulled_at_every_write(kind):
    contents = prepared(kind)
    may_boot = {
        "empty": {b"good defa", b"good new."},
        "one": {b"good old.", b"good new."},
        "open": {b"good old.", b"good mid.", b"good new."},
        "both": {b"good mid.", b"good old.", b"good new."},
    }[kind]
    rng = random.Random(seed())
    whole = FakeBoard(CutFlash(FLASH_BYTES, contents))
    before = whole.flash.writes
    session(whole)
    writes = whole.flash.writes
    assert writes > 8
    seen = set()
    for cut_at in range(before, writes):
        for how in ("before", "after", *["torn"] * 12):
            flash = CutFlash(FLASH_BYTES, contents)
            board = FakeBoard(flash)
            flash.cut_at, flash.how, flash.rng = cut_at, how, rng
            with pytest.raises(PowerCut):
                session(board)
            for _ in range(5):  # and again, until no attempt is left
                source, text = booted(board)
                assert text in may_boot, (cut_at, how)
                assert board.running and board.model.code[: 1000 - 100].startswith(text)
                seen.add(text)
            # A second try ends well.
            session(board)
            assert booted(board) == (board.model.source, b"good new.")
            assert flash.data[: LAYOUT.base] == b"\xff" * LAYOUT.base
    assert b"good new." in seen and len(seen) > 1


def test_a_body_too_long_for_a_slot():
    from twinstack.proto.flash_map import FlashLayout

    board = FakeBoard(layout=FlashLayout(base=0x4_0000, slot_bytes=0x4000))
    with pytest.raises(LoaderError, match="the image has 12292 bytes, a slot takes 12288"):
        write(board, file(b"good", size=12292))
    assert CODE_BYTES > 12292 and board.flash.writes == 0


def test_header_goes_first_and_comes_last():
    board = FakeBoard()
    write(board, file(b"good one.", size=5000))
    at = LAYOUT.slot(0)
    assert board.flash.operations[0] == ("erase", at, 4096) and board.flash.operations[-1] == ("program", at, 32)
    assert all(first > at + 4096 - 1 for _, first, _ in board.flash.operations[1:-1])


@pytest.mark.parametrize("place", [*range(8, 32, 4), 0x1000, 0x1000 + 999])
def test_one_flipped_bit_of_the_newer_slot(place):
    """One bit in a header word, or in the first or last byte of the body: the older slot boots."""
    board = FakeBoard()
    for text in (b"good old.", b"good new."):
        write(board, file(text))
        booted(board)
        confirm_now(board)
    board.flash.data[LAYOUT.slot(1) + place] ^= 1
    assert booted(board) == (Source.SLOT_A, b"good old.")
