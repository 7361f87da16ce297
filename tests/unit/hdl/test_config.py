"""Wrong engine parameters raise, naming the value."""

import pytest

from twinstack.config import EngineConfig


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ports", 0),
        ("ports", 5),
        ("cores", 3),
        ("hosts", 3),
        ("sync_hz", 1),
        ("code_bytes", 1000),
        ("data_bytes", 0),
        ("rx_bank_bytes", 1000),
        ("tx_bank_bytes", 1536),
        ("shared_bytes", 6),
        ("frame_fifo_words", 100),
        ("max_frame_bytes", 9000),
        ("lock_count", 31),
        ("message_depth", 3),
    ],
)
def test_wrong_values(name, value):
    with pytest.raises(ValueError, match=f"{name} must be .*not {value}"):
        EngineConfig(**{name: value})


@pytest.mark.parametrize("value", [1.0, "2", None, True])
def test_wrong_types(value):
    with pytest.raises(TypeError, match="ports must be an integer"):
        EngineConfig(ports=value)


@pytest.mark.parametrize("cores", [1, 2, 4])
def test_right_values(cores):
    config = EngineConfig(cores=cores)
    assert (config.rx_large_buffers, config.rx_buffers) == (13, 29)
    assert EngineConfig(cores=cores, rx_small_buffers=0).rx_buffers == 16
