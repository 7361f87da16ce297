"""Write Ethernet frames to a pcap file with nanosecond time stamps (draft-ietf-opsawg-pcap)."""

from __future__ import annotations

import struct
from pathlib import Path
from types import TracebackType

MAGIC_NANOSECONDS = 0xA1B23C4D
LINKTYPE_ETHERNET = 1
SNAP_BYTES = 262144


class PcapWriter:
    """An open capture file.

    Parameters
    ----------
    path : Path
        File to write; replaced if it exists.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self._file.write(struct.pack("<IHHiIII", MAGIC_NANOSECONDS, 2, 4, 0, 0, SNAP_BYTES, LINKTYPE_ETHERNET))

    def write(self, frame: bytes, time_ns: int) -> None:
        """Add ``frame`` (without FCS) as seen at ``time_ns``."""
        seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
        taken = frame[:SNAP_BYTES]
        self._file.write(struct.pack("<IIII", seconds & 0xFFFFFFFF, nanoseconds, len(taken), len(frame)) + taken)

    def close(self) -> None:
        """Write out and close; closing twice is allowed."""
        self._file.close()

    def __enter__(self) -> PcapWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
