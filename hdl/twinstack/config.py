"""Parameters of the engine: all of them, with their only defaults and all cross-checks."""

from __future__ import annotations

from dataclasses import dataclass

from .proto.memory_map import DIRECTORY_WORDS, RX_BUFFER_BYTES, RX_SMALL_BUFFER_BYTES, TX_BUFFER_BYTES


@dataclass(frozen=True)
class EngineConfig:
    """What is built.

    Parameters
    ----------
    ports : int, 1..4
        Network interface ports.
    cores : int, 1, 2 or 4
        Network processing cores.
    hosts : int, 1
        Host processing systems.
    sync_hz : int, 10 MHz..250 MHz
        Frequency of the ``sync`` clock. Below 31.25 MHz times the ports it cannot carry line rate.
    code_bytes, data_bytes : int, multiples of 4096
        Shared code memory; private data RAM of each core.
    rx_bank_bytes, tx_bank_bytes : int, multiples of 1536
        Packet memory of each core.
    rx_small_buffers : int, 0..64
        Buffers of 256 bytes in each RX bank; the rest of it is buffers of 1,536 bytes, at least 2.
    flows : int, power of two, 8..256
        Entries of the flow table.
    udp_port_entries : int, 1..64
        Entries of the UDP port table.
    rules : int, 1..16
        Dispatch rules.
    shared_bytes : int, multiple of 4
        Shared region of packet memory; holds the port directory.
    frame_fifo_words : int, power of two, 512..4096
        Depth of each full-frame FIFO in 32-bit words.
    max_frame_bytes : int, 1518..1534
        Longest frame accepted, FCS excluded. 1518 allows an 802.1Q tag.
    lock_count : int
        Locks in the lock unit, 32 by the register map.
    message_depth : int, power of two
        Messages in each message FIFO.

    Raises
    ------
    TypeError, ValueError
        If a parameter has the wrong type or value, naming it.
    """

    ports: int = 2
    cores: int = 2
    hosts: int = 1
    sync_hz: int = 75_000_000
    code_bytes: int = 120 * 1024
    data_bytes: int = 64 * 1024
    rx_bank_bytes: int = 24 * 1024
    tx_bank_bytes: int = 24 * 1024
    rx_small_buffers: int = 16
    flows: int = 128
    udp_port_entries: int = 32
    rules: int = 8
    shared_bytes: int = 2048
    frame_fifo_words: int = 1024
    max_frame_bytes: int = 1518
    lock_count: int = 32
    message_depth: int = 16

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} must be an integer, not {value!r}")
        self._require(1 <= self.ports <= 4, "ports", "1 to 4")
        self._require(self.cores in (1, 2, 4), "cores", "1, 2 or 4")
        self._require(self.hosts == 1, "hosts", "1")
        self._require(10_000_000 <= self.sync_hz <= 250_000_000, "sync_hz", "10 MHz to 250 MHz")
        for name in ("code_bytes", "data_bytes"):
            value = getattr(self, name)
            self._require(4096 <= value <= 1 << 18 and value % 4096 == 0, name, "a multiple of 4096 up to 262144")
        for name, unit in (("rx_bank_bytes", RX_BUFFER_BYTES), ("tx_bank_bytes", TX_BUFFER_BYTES)):
            value = getattr(self, name)
            self._require(2 * unit <= value <= 64 * unit and value % unit == 0, name, f"2 to 64 times {unit}")
        self._require(0 <= self.rx_small_buffers <= 64, "rx_small_buffers", "0 to 64")
        self._require(
            self.rx_large_buffers >= 2,
            "rx_small_buffers",
            f"small enough to leave two buffers of {RX_BUFFER_BYTES} bytes",
        )
        self._require(self.flows in (8, 16, 32, 64, 128, 256), "flows", "a power of two from 8 to 256")
        self._require(1 <= self.udp_port_entries <= 64, "udp_port_entries", "1 to 64")
        self._require(1 <= self.rules <= 16, "rules", "1 to 16")
        self._require(
            DIRECTORY_WORDS * 4 <= self.shared_bytes <= 1 << 16 and self.shared_bytes % 4 == 0,
            "shared_bytes",
            f"a multiple of 4 from {DIRECTORY_WORDS * 4} to 65536",
        )
        self._require(self.frame_fifo_words in (512, 1024, 2048, 4096), "frame_fifo_words", "512, 1024, 2048 or 4096")
        self._require(1518 <= self.max_frame_bytes <= RX_BUFFER_BYTES - 2, "max_frame_bytes", "1518 to 1534")
        self._require(self.lock_count == 32, "lock_count", "32")
        self._require(self.message_depth in (4, 8, 16, 32, 64), "message_depth", "4, 8, 16, 32 or 64")

    def _require(self, condition: bool, name: str, right: str) -> None:
        if not condition:
            raise ValueError(f"{name} must be {right}, not {getattr(self, name)!r}")

    @property
    def rx_large_buffers(self) -> int:
        """RX buffers of 1,536 bytes of each core; their indices come first."""
        return (self.rx_bank_bytes - self.rx_small_buffers * RX_SMALL_BUFFER_BYTES) // RX_BUFFER_BYTES

    @property
    def rx_buffers(self) -> int:
        """RX buffers of each core, of both classes."""
        return self.rx_large_buffers + self.rx_small_buffers

    @property
    def tx_buffers(self) -> int:
        """TX buffers of each core."""
        return self.tx_bank_bytes // TX_BUFFER_BYTES
