"""The memory profile of devices with 108 block RAMs."""

from __future__ import annotations

from twinstack.config import EngineConfig

SMALL_DISTRIBUTED = ("engine.mac?.statistics", "engine.core?.console")
"""Memories that go into distributed RAM with it."""


def small_config(*, ports: int, sync_hz: int) -> EngineConfig:
    """What fits a 45F beside 8 KiB of host memory; the budget is in docs/architecture.md, the firmware's part in docs/boards.md."""
    return EngineConfig(
        ports=ports,
        sync_hz=sync_hz,
        code_bytes=64 * 1024,
        data_bytes=24 * 1024,
        rx_bank_bytes=5 * 1536,
        tx_bank_bytes=4 * 1536,
        rx_small_buffers=6,
        flows=32,
        udp_port_entries=8,
        rules=4,
        frame_fifo_words=512,
    )
