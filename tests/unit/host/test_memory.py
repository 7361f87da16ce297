"""Host memory blocks: all can be had, none twice, errors name what is wrong."""

import pytest

from twinstack_host.memory import BlockPool, OutOfMemory


def test_take_all_give_all():
    pool = BlockPool(0x1000, 0x4000, 0x1000)
    taken = [pool.take() for _ in range(4)]
    assert sorted(taken) == [0x1000, 0x2000, 0x3000, 0x4000]
    with pytest.raises(OutOfMemory, match="4 buffers"):
        pool.take()
    for address in taken:
        pool.give(address)
    assert pool.free == 4


def test_giving_back_twice_is_an_error():
    pool = BlockPool(0, 128, 64)
    address = pool.take()
    pool.give(address)
    with pytest.raises(ValueError, match="must be that of a block"):
        pool.give(address)


@pytest.mark.parametrize(("size", "block"), [(63, 64), (128, 32)])
def test_bad_sizes(size, block):
    with pytest.raises(ValueError, match="size must hold"):
        BlockPool(0, size, block)
