"""The MAC behind other pins than GMII, for benches: MII with four data pins, RGMII with double-rate cells."""

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from twinstack.mac import Mac
from twinstack.rgmii import DoubleRateInput, DoubleRateOutput, RgmiiFrontEnd


class MacTop(wiring.Component):
    """A MAC whose members but ``pins`` are the component's own."""

    def __init__(self, pins):
        self._mac = Mac()
        members = {name: member for name, member in self._mac.signature.members.items() if name != "pins"}
        super().__init__(members | pins)

    def _connect_mac(self, m):
        m.submodules.mac = mac = self._mac
        for name, member in self._mac.signature.members.items():
            if name == "pins":
                continue
            if member.is_signature:
                connect(m, getattr(mac, name), flipped(getattr(self, name)))
            elif member.flow == In:
                m.d.comb += getattr(mac, name).eq(getattr(self, name))
            else:
                m.d.comb += getattr(self, name).eq(getattr(mac, name))
        return mac.pins


class MiiMac(MacTop):
    """With the pins of MII (IEEE 802.3 clause 22.2.2)."""

    def __init__(self):
        super().__init__(
            {
                "mii_rxd": In(4),
                "mii_rx_dv": In(1),
                "mii_rx_er": In(1),
                "mii_txd": Out(4),
                "mii_tx_en": Out(1),
                "mii_tx_er": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        pins = self._connect_mac(m)
        m.d.comb += [
            pins.rxd.eq(self.mii_rxd),
            pins.rx_dv.eq(self.mii_rx_dv),
            pins.rx_er.eq(self.mii_rx_er),
            self.mii_txd.eq(pins.txd),
            self.mii_tx_en.eq(pins.tx_en),
            self.mii_tx_er.eq(pins.tx_er),
        ]
        return m


class RgmiiMac(MacTop):
    """With the pins of RGMII, the receive clock aside, which is the domain ``rx``; ``tx`` runs at 125 MHz."""

    def __init__(self):
        super().__init__(
            {
                "rgmii_rxd": In(4),
                "rgmii_rx_ctl": In(1),
                "rgmii_txd": Out(4),
                "rgmii_tx_ctl": Out(1),
                "rgmii_tx_clk": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        m.submodules.front_end = front_end = RgmiiFrontEnd()
        connect(m, self._connect_mac(m), front_end.gmii)
        pairs = front_end.pairs
        outputs = [(self.rgmii_tx_clk, pairs.tx_clk), (self.rgmii_tx_ctl, pairs.tx_ctl)]
        outputs += [(self.rgmii_txd[n], Cat(pairs.tx_first[n], pairs.tx_second[n])) for n in range(4)]
        inputs = [(self.rgmii_rx_ctl, pairs.rx_ctl)]
        inputs += [(self.rgmii_rxd[n], Cat(pairs.rx_first[n], pairs.rx_second[n])) for n in range(4)]
        for index, (pin, pair) in enumerate(outputs):
            m.submodules[f"output{index}"] = cell = DoubleRateOutput("tx")
            m.d.comb += [cell.pair.eq(pair), pin.eq(cell.pin)]
        for index, (pin, pair) in enumerate(inputs):
            m.submodules[f"input{index}"] = cell = DoubleRateInput("rx")
            m.d.comb += [cell.pin.eq(pin), pair.eq(cell.pair)]
        return m
