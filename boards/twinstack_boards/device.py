"""What the devices on the boards have."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Device:
    """A size of FPGA.

    Parameters
    ----------
    name : str
    block_rams : int
        Of 18 Kbit.
    luts : int
        Four-input tables.
    """

    name: str
    block_rams: int
    luts: int


# ECP5 family data sheet FPGA-DS-02012, table 1.1.
ECP5_45F = Device("ECP5 45F", block_rams=108, luts=43_848)
ECP5_85F = Device("ECP5 85F", block_rams=208, luts=83_640)
