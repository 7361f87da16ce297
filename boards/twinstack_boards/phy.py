"""Ethernet PHYs of the boards: what each adds to the RGMII clocks, how it is reset, what firmware has to write into it.

RGMII wants the clock between the edges of the data, 1.0 to 2.6 ns after them at the receiver (RGMII 2.0 table 2, TskewR). Some side
adds that delay, once in each direction: the PHY, or the FPGA by the delay cells of its pins. A board's file says which
(:class:`NetworkPort`); here is what the PHY does by itself, and after its set-up.
"""

from __future__ import annotations

from dataclasses import dataclass

RGMII_DELAY_NS = (1.0, 2.6)
"""Clock after data at the receiver, RGMII 2.0 table 2."""
TAP_NS = 0.025
"""A step of the delay cells of a pin (ECP5 family data sheet; FPGA-TN-02035)."""
MAX_TAPS = 127
CENTERED_TAPS = 39
"""Delay of data pins that makes up for the way of the clock into the device (DEL_MODE SCLK_CENTERED in the tools)."""
FPGA_DELAY_TAPS = 80
"""The delay that the FPGA adds where the PHY adds none: 2 ns."""
SIDES = ("phy", "fpga")


@dataclass(frozen=True)
class PhyStep:
    """A write into a register of the PHY: ``value | (the register's old value & keep)``.

    Parameters
    ----------
    register : int, 0..31
        Clause 22 register.
    value, keep : int, 16 bits
        ``keep`` of 0 means a plain write: the register is not read.
    """

    register: int
    value: int
    keep: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.register <= 31:
            raise ValueError(f"register must be 0 to 31, not {self.register!r}")
        for name in ("value", "keep"):
            if not 0 <= getattr(self, name) <= 0xFFFF:
                raise ValueError(f"{name} must have 16 bits, not {getattr(self, name)!r}")


@dataclass(frozen=True)
class Phy:
    """A kind of PHY.

    Parameters
    ----------
    name : str
    identifier, identifier_mask : int
        Registers 2 (upper half) and 3; the mask leaves out the revision.
    rx_delay_ns, tx_delay_ns : float
        What the PHY adds to RXC, and to TXC inside, after ``setup``; 0 where it does not.
    has_in_band_status : bool
        It says link, speed and duplex on RXD between frames.
    reset_us, settle_us : int
        Least time that reset is low, and after it until the PHY answers on MDIO.
    setup : tuple of PhyStep
        What firmware writes after each reset of the PHY, in order, before it lets it negotiate.
    """

    name: str
    identifier: int
    identifier_mask: int
    rx_delay_ns: float
    tx_delay_ns: float
    has_in_band_status: bool
    reset_us: int
    settle_us: int
    setup: tuple[PhyStep, ...] = ()


# Data sheet DS00002117. By default it adds 1.2 ns to RXC and nothing to TXC (section 7.1): the MAC's side has to. In-band
# status is always on (section 3.9.4). Set-up: MMD address 2, register 8 (clock pad skew, 60 ps a step, section 3.9.3): RXC from 15 to
# 31, +0.96 ns; TXC stays at 15. Reset low for 10 ms, MDIO 100 us after it (table 7-5, 10 ms and 100 us).
KSZ9031RNX = Phy(
    name="Microchip KSZ9031RNX",
    identifier=0x0022_1620,
    identifier_mask=0xFFFF_FFF0,
    rx_delay_ns=1.2 + 16 * 0.06,
    tx_delay_ns=0.0,
    has_in_band_status=True,
    reset_us=10_000,
    settle_us=100,
    setup=(PhyStep(13, 0x0002), PhyStep(14, 0x0008), PhyStep(13, 0x4002), PhyStep(14, 15 << 5 | 31)),
)

# Page 2 (register 22), register 21: bit 5 delays RXC, bit 4 TXC, both set by hardware reset; the set-up sets them again, so that
# nothing depends on what was before. Then page 0. In-band status is not relied on: firmware asks over MDIO.
MARVELL_88E1512 = Phy(
    name="Marvell 88E1512",
    identifier=0x0141_0DD0,
    identifier_mask=0xFFFF_FFF0,
    rx_delay_ns=2.0,
    tx_delay_ns=2.0,
    has_in_band_status=False,
    reset_us=10_000,
    settle_us=50_000,
    setup=(PhyStep(22, 2), PhyStep(21, 0x0030, keep=0xFFCF), PhyStep(22, 0)),
)

# Registers as in the BCM54xx family. Register 0x18 shadow 7 (read by writing 0x7007 first), bit 8: RXC delayed; bit 15 allows the
# write. Register 0x1C shadow 3 (read by writing 3 << 10), bit 9: TXC delayed inside; bit 15 writes.
B50612D = Phy(
    name="Broadcom B50612D",
    identifier=0x0362_5E60,
    identifier_mask=0xFFFF_FFF0,
    rx_delay_ns=2.0,
    tx_delay_ns=2.0,
    has_in_band_status=False,
    reset_us=10_000,
    settle_us=20_000,
    setup=(
        PhyStep(0x18, 0x7007),
        PhyStep(0x18, 0x8107, keep=0x7EF8),
        PhyStep(0x1C, 3 << 10),
        PhyStep(0x1C, 0x8000 | 3 << 10 | 1 << 9, keep=0x01FF),
    ),
)


@dataclass(frozen=True)
class NetworkPort:
    """One network port of a board.

    Parameters
    ----------
    resource : (str, int)
        Pins: ``tx_clk``, ``tx_ctrl`` or ``tx_ctl``, ``tx_data``, ``rx_clk``, ``rx_ctrl`` or ``rx_ctl``, ``rx_data``.
    phy : Phy
    address : int, 0..31
        Of the PHY on MDIO, by its straps.
    rx_delay, tx_delay : "phy" or "fpga"
        Which side delays RXC against RXD, and TXC against TXD.
    management : (str, int), optional
        Resource with ``rst``, ``mdc``, ``mdio``, if not ``resource``. Ports may share one.

    Raises
    ------
    ValueError
        If the delays do not add up to what RGMII wants, or an address or side is none.
    """

    resource: tuple[str, int]
    phy: Phy
    address: int
    rx_delay: str = "phy"
    tx_delay: str = "phy"
    management: tuple[str, int] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.address <= 31:
            raise ValueError(f"address must be 0 to 31, not {self.address!r}")
        for name in ("rx_delay", "tx_delay"):
            side = getattr(self, name)
            if side not in SIDES:
                raise ValueError(f"{name} must be one of {', '.join(SIDES)}, not {side!r}")
            by_phy = getattr(self.phy, f"{name}_ns")
            total = by_phy + (FPGA_DELAY_TAPS * TAP_NS if side == "fpga" else 0)
            if not RGMII_DELAY_NS[0] <= total <= RGMII_DELAY_NS[1]:
                raise ValueError(f"{name} must add up to 1.0 to 2.6 ns with {self.phy.name}, not {total:.2f} ns")

    @property
    def control(self) -> tuple[str, int]:
        """Resource of reset and MDIO."""
        return self.management or self.resource


def phy_setup_words(ports: tuple[NetworkPort, ...]) -> list[int]:
    """The table ``phy_setup`` for firmware, as 32-bit words; the format is in docs/boards.md.

    For each port a head: MDIO port (bits 4:0), PHY address (9:5), in-band status (10), number of steps (23:16). Then its steps, two
    words each: register (4:0) with ``keep`` (31:16), then ``value``.
    """
    words = []
    for port in ports:
        # Where ports share a management bus, the controller of the first of them reaches all of it.
        bus = next(index for index, other in enumerate(ports) if other.control == port.control)
        steps = port.phy.setup
        words.append(bus | port.address << 5 | port.phy.has_in_band_status << 10 | len(steps) << 16)
        for step in steps:
            words += [step.register | step.keep << 16, step.value]
    return words
