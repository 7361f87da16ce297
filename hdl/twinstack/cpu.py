"""The CPU of a core: VexRiscv (RV32IM, 4 KiB instruction cache, 4 KiB write-through data cache), behind one signature.

Another CPU can take its place by offering the same members.
"""

from pathlib import Path

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from .soc import wishbone_signature

VERILOG_NAME = "VexRiscv_Full.v"


def verilog_path() -> Path:
    """File that defines module ``VexRiscv``.

    Raises
    ------
    RuntimeError
        If the package that holds it is not installed; the text has the pip command.
    """
    try:
        import pythondata_cpu_vexriscv
    except ImportError:
        raise RuntimeError("VexRiscv is not installed: pip install 'twinstack[hdl]'") from None
    return Path(pythondata_cpu_vexriscv.data_location) / VERILOG_NAME


def verilog_source() -> tuple[str, str]:
    """Name and text of the file that defines module ``VexRiscv``, as ``platform.add_file`` wants them."""
    return VERILOG_NAME, verilog_path().read_text()


class VexRiscv(wiring.Component):
    """VexRiscv with Wishbone buses.

    Members
    -------
    ibus, dbus : ``Out(wishbone_signature())``
        Initiators. Cache lines are read in bursts of 8 words that start at word 0 of the line and never pause. Stores
        are single. Addresses from 0x8000_0000 on are not cached.
    timer_interrupt, external_interrupt : In(1)
        Levels; the external one is line 0 of VexRiscv's interrupt array (CSR 0xBC0 masks it, 0xFC0 shows it).
    reset_vector : In(32)
        Address of the first instruction.
    reset : In(1)
        Holds the CPU in reset, as the reset of the ``sync`` domain does. An access in flight is dropped.

    Timing
    ------
    Bus outputs of ``dbus`` come from registers; bus inputs go through a register. VexRiscv does not look at ``err``, so
    an error ends the access here as an acknowledgement; the data that comes with it is what the load returns.
    """

    ibus: Out(wishbone_signature())
    dbus: Out(wishbone_signature())
    timer_interrupt: In(1)
    external_interrupt: In(1)
    reset_vector: In(32)
    reset: In(1)

    def elaborate(self, platform):
        m = Module()
        ports = {}
        for prefix, bus in (("iBusWishbone", self.ibus), ("dBusWishbone", self.dbus)):
            cti = Signal(3)
            m.d.comb += bus.cti.eq(cti)
            ports |= {
                f"o_{prefix}_CYC": bus.cyc,
                f"o_{prefix}_STB": bus.stb,
                f"o_{prefix}_WE": bus.we,
                f"o_{prefix}_ADR": bus.adr,
                f"o_{prefix}_DAT_MOSI": bus.dat_w,
                f"o_{prefix}_SEL": bus.sel,
                f"o_{prefix}_CTI": cti,
                f"o_{prefix}_BTE": Signal(2, name=f"{prefix}_bte"),
                f"i_{prefix}_ACK": bus.ack | bus.err,
                f"i_{prefix}_ERR": bus.err,
                f"i_{prefix}_DAT_MISO": bus.dat_r,
            }
        m.submodules.vexriscv = Instance(
            "VexRiscv",
            i_clk=ClockSignal(),
            i_reset=ResetSignal(allow_reset_less=True) | self.reset,
            i_externalResetVector=self.reset_vector,
            i_timerInterrupt=self.timer_interrupt,
            i_softwareInterrupt=Const(0),
            i_externalInterruptArray=Cat(self.external_interrupt, Const(0, 31)),
            **ports,
        )
        return m
