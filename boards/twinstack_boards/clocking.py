"""Clocks and resets of ECP5 boards."""

from __future__ import annotations

from dataclasses import dataclass

from amaranth import ClockDomain, ClockSignal, Const, Elaboratable, Instance, Module, Mux, Signal, Value
from amaranth.lib.cdc import ResetSynchronizer

# ECP5 family data sheet FPGA-DS-02012, table 3.24 (sysCLOCK PLL timing); dividers: FPGA-TN-02200.
INPUT_HZ = (8_000_000, 400_000_000)
OUTPUT_HZ = (3_125_000, 400_000_000)
VCO_HZ = (400_000_000, 800_000_000)
PFD_HZ = (3_125_000, 400_000_000)
REFERENCE_DIVIDERS = range(1, 129)
FEEDBACK_DIVIDERS = range(1, 81)
OUTPUT_DIVIDERS = range(1, 129)


@dataclass(frozen=True)
class PllSettings:
    """Dividers of an EHXPLLL: ``vco = reference / reference_divider * feedback_divider * sync_divider``.

    The feedback comes from the ``sync`` output, so ``sync = reference / reference_divider * feedback_divider``.
    """

    reference_divider: int
    feedback_divider: int
    sync_divider: int
    tx_divider: int


def pll_settings(reference_hz: int, sync_hz: int, tx_hz: int) -> PllSettings:
    """Dividers that give both clocks exactly, with the fastest phase detector, then the fastest oscillator.

    Raises
    ------
    ValueError
        If a frequency is outside the limits of the device, or no dividers within them give both.
    """
    for name, value, (least, most) in (
        ("reference_hz", reference_hz, INPUT_HZ),
        ("sync_hz", sync_hz, OUTPUT_HZ),
        ("tx_hz", tx_hz, OUTPUT_HZ),
    ):
        if not least <= value <= most:
            raise ValueError(f"{name} must be {least} to {most} for a PLL of the ECP5, not {value!r}")
    for reference_divider in REFERENCE_DIVIDERS:
        # Compared without division: the phase detector's frequency need not be whole.
        scaled = sync_hz * reference_divider
        if not PFD_HZ[0] * reference_divider <= reference_hz <= PFD_HZ[1] * reference_divider or scaled % reference_hz:
            continue
        feedback_divider = scaled // reference_hz
        if feedback_divider not in FEEDBACK_DIVIDERS:
            continue
        for sync_divider in reversed(OUTPUT_DIVIDERS):
            vco = sync_hz * sync_divider
            if VCO_HZ[0] <= vco <= VCO_HZ[1] and vco % tx_hz == 0 and vco // tx_hz in OUTPUT_DIVIDERS:
                return PllSettings(reference_divider, feedback_divider, sync_divider, vco // tx_hz)
    raise ValueError(f"sync_hz must come from {reference_hz} Hz together with {tx_hz} Hz by one PLL, not {sync_hz!r}")


class Ecp5Clocks(Elaboratable):
    """Domains ``sync`` and ``tx`` (125 MHz) from the board's oscillator by one PLL; reset until it locks.

    ``sync`` has no reset net: the device's own set/reset network (GSR) brings all flip-flops to their initial values, which
    saves the routing of a net with thousands of ends. ``tx`` has one, since GSR ends without regard to its clock.

    ``reset`` is high while the engine is held, in ``sync``.

    Parameters
    ----------
    reference : Signal
        Oscillator pin.
    reference_hz, sync_hz, tx_hz : int
        Frequencies.
    reset : Signal
        Reset button, active high.
    """

    def __init__(self, reference: Value, reference_hz: int, sync_hz: int, tx_hz: int, reset: Value):
        self._settings = pll_settings(reference_hz, sync_hz, tx_hz)
        self._reference, self._reset = reference, reset
        self.sync_hz, self.tx_hz = sync_hz, tx_hz
        self.sync_clk = Signal()
        self.tx_clk = Signal()
        self.reset = Signal()

    def elaborate(self, platform):  # type: ignore[no-untyped-def]
        m = Module()
        settings = self._settings
        locked = Signal()
        m.domains.sync = ClockDomain("sync", reset_less=True)
        m.domains.tx = ClockDomain("tx")
        m.submodules.pll = Instance(
            "EHXPLLL",
            a_FREQUENCY_PIN_CLKOP=str(self.sync_hz / 1e6),
            a_FREQUENCY_PIN_CLKOS=str(self.tx_hz / 1e6),
            p_PLLRST_ENA="DISABLED",
            p_INTFB_WAKE="DISABLED",
            p_STDBY_ENABLE="DISABLED",
            p_DPHASE_SOURCE="DISABLED",
            p_OUTDIVIDER_MUXA="DIVA",
            p_OUTDIVIDER_MUXB="DIVB",
            p_CLKOP_ENABLE="ENABLED",
            p_CLKOS_ENABLE="ENABLED",
            p_CLKI_DIV=settings.reference_divider,
            p_CLKFB_DIV=settings.feedback_divider,
            p_CLKOP_DIV=settings.sync_divider,
            p_CLKOP_CPHASE=settings.sync_divider - 1,
            p_CLKOP_FPHASE=0,
            p_CLKOS_DIV=settings.tx_divider,
            p_CLKOS_CPHASE=settings.tx_divider - 1,
            p_CLKOS_FPHASE=0,
            p_FEEDBK_PATH="CLKOP",
            i_CLKI=self._reference,
            i_CLKFB=self.sync_clk,
            i_RST=Const(0),
            i_STDBY=Const(0),
            i_PHASESEL0=Const(0),
            i_PHASESEL1=Const(0),
            i_PHASEDIR=Const(0),
            i_PHASESTEP=Const(0),
            i_PHASELOADREG=Const(0),
            i_PLLWAKESYNC=Const(0),
            i_ENCLKOP=Const(1),
            i_ENCLKOS=Const(1),
            o_CLKOP=self.sync_clk,
            o_CLKOS=self.tx_clk,
            o_LOCK=locked,
        )
        m.d.comb += [ClockSignal("sync").eq(self.sync_clk), ClockSignal("tx").eq(self.tx_clk)]
        m.submodules.reset_tx = ResetSynchronizer(~locked | self._reset, domain="tx")
        # Two flip-flops that GSR spares bring its end into step with ``sync``.
        first, run = Signal(), Signal()
        for number, (d, q) in enumerate(((locked & ~self._reset, first), (first, run))):
            m.submodules[f"gsr_step{number}"] = Instance("FD1S3AX", p_GSR="DISABLED", i_CK=self.sync_clk, i_D=d, o_Q=q)
        m.submodules.gsr = Instance("SGSR", i_CLK=self.sync_clk, i_GSR=run)
        m.d.comb += self.reset.eq(~run)
        return m


class TickGenerator(Elaboratable):
    """1 kHz pulses of one ``sync`` cycle; ``tick`` is the output."""

    def __init__(self, sync_hz: int):
        self._cycles = sync_hz // 1000
        self.tick = Signal()

    def elaborate(self, platform):  # type: ignore[no-untyped-def]
        m = Module()
        count = Signal(range(self._cycles))
        m.d.sync += [count.eq(Mux(self.tick, 0, count + 1)), self.tick.eq(count == self._cycles - 2)]
        return m
