"""A MAC behind the boards' RGMII pins, with wires of any length between them and the PHY."""

from types import SimpleNamespace

from amaranth import *
from amaranth.lib import io
from amaranth.lib.wiring import In, Out, connect

from support.mac_tops import MacTop
from twinstack.mac import Mac
from twinstack_boards.phy import CENTERED_TAPS, TAP_NS
from twinstack_boards.rgmii import RgmiiPort


class RgmiiPins(MacTop):
    """As ``RgmiiMac``, with the ECP5's cells and without domains for the receive clock, which is a pin.

    ``rx_data_ps`` delays received data, ``tx_clock_ps`` and ``tx_data_ps`` what goes out. The clock takes as long into the
    device as the device's own setting for centred clocks makes up for.
    """

    def __init__(self, rx_delay, tx_delay):
        pins = {
            "rgmii_rxd": In(4),
            "rgmii_rx_ctl": In(1),
            "rgmii_txd": Out(4),
            "rgmii_tx_ctl": Out(1),
            "rgmii_tx_clk": Out(1),
        }
        pins |= {"rx_clk": In(1), "rx_rst": In(1)}
        super().__init__(pins | {name: In(20) for name in ("rx_data_ps", "rx_clock_ps", "tx_clock_ps", "tx_data_ps")})
        self._mac = Mac(rx_domain="rx0", tx_domain="tx0")
        self._sides = {"rx_delay": rx_delay, "tx_delay": tx_delay}

    def elaborate(self, platform):
        m = Module()

        def wire(name, source, ps):
            target = Signal(len(source), name=f"{name}_far")
            near = Signal(len(source), name=f"{name}_near")
            m.d.comb += near.eq(source)
            m.submodules[name] = Instance("wire_delay", p_WIDTH=len(source), i_a=near, i_ps=ps, o_z=target)
            return target

        rx_clk = io.SimulationPort("i", 1)
        clock = wire("rx_clock_wire", self.rx_clk, self.rx_clock_ps)
        m.d.comb += rx_clk.i.eq(wire("clock_tree", clock, Const(int(CENTERED_TAPS * TAP_NS * 1000), 20)))
        out = {"tx_clk": Signal(), "tx_ctrl": Signal(), "tx_data": Signal(4)}
        pins = SimpleNamespace(
            **{name: SimpleNamespace(o=signal) for name, signal in out.items()},
            rx_clk=rx_clk,
            rx_ctl=SimpleNamespace(i=wire("rx_ctl_wire", self.rgmii_rx_ctl, self.rx_data_ps)),
            rx_data=SimpleNamespace(i=wire("rx_data_wire", self.rgmii_rxd, self.rx_data_ps)),
        )
        m.submodules.port = port = RgmiiPort(pins, ClockSignal("tx"), ResetSignal("tx"), **self._sides)
        connect(m, self._connect_mac(m), port.gmii)
        m.d.comb += [
            self.rgmii_tx_clk.eq(wire("tx_clock_wire", out["tx_clk"], self.tx_clock_ps)),
            self.rgmii_tx_ctl.eq(wire("tx_ctl_wire", out["tx_ctrl"], self.tx_data_ps)),
            self.rgmii_txd.eq(wire("tx_data_wire", out["tx_data"], self.tx_data_ps)),
        ]
        return m
