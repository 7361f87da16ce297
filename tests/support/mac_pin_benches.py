"""The MAC's bench at MII and RGMII pins, on the tops of ``mac_tops``."""

import cocotb
from cocotb.triggers import Edge, FallingEdge, RisingEdge, Timer
from cocotb.utils import get_sim_time

from support.mac_bench import PREAMBLE, Bench

MII_PS = {1: 40000, 0: 400000}


class MiiBench(Bench):
    """As the GMII bench, with nibbles."""

    def __init__(self, dut, speed=1):
        super().__init__(dut, MII_PS[speed], MII_PS[speed], speed=speed)

    def make_models(self):
        from cocotbext.eth import MiiSink, MiiSource

        dut = self.dut
        self.source = MiiSource(dut.mii_rxd, dut.mii_rx_er, dut.mii_rx_dv, dut.rx_clk)
        self.sink = MiiSink(dut.mii_txd, dut.mii_tx_er, dut.mii_tx_en, dut.tx_clk)
        self.source.ifg = 24  # it counts nibbles
        cocotb.start_soon(self._watch_pins())

    async def _watch_pins(self):
        dut = self.dut
        idle, nibbles, begun = 24, [], False  # there was none before
        while True:
            await FallingEdge(dut.tx_clk)
            if dut.mii_tx_en.value:
                nibbles.append(int(dut.mii_txd.value))
            elif nibbles:
                assert len(nibbles) % 2 == 0 and (idle % 2 == 0 or not begun)
                begun = True
                pairs = zip(nibbles[::2], nibbles[1::2], strict=True)
                self.pin_frames.append((idle // 2, bytes(low | high << 4 for low, high in pairs)))
                idle, nibbles = 1, []
            else:
                idle += 1

    async def next_sent(self):
        sent = await self.sink.recv()
        idle, data = self.pin_frames.pop(0)
        assert data.startswith(PREAMBLE) and bytes(sent.get_payload(strip_fcs=False)) == data[8:]
        assert len(self.pin_frames) == 0 or idle >= 12
        return sent, idle

    async def nibbles(self, values):
        """Put nibbles on the pins by hand."""
        dut = self.dut
        for value in values:
            await RisingEdge(dut.rx_clk)
            dut.mii_rxd.value = value
            dut.mii_rx_dv.value = 1
        await RisingEdge(dut.rx_clk)
        dut.mii_rx_dv.value = 0
        await RisingEdge(dut.rx_clk)


RX_PS = {2: 8000, 1: 40000, 0: 400000}
TX_PS = 8000  # at every speed


class RgmiiBench(Bench):
    """The receive clock is the PHY's; the transmit clock on the pin is watched."""

    def __init__(self, dut, speed):
        super().__init__(dut, RX_PS[speed], TX_PS, speed=speed)

    def make_models(self):
        from cocotbext.eth import RgmiiSink, RgmiiSource

        dut = self.dut
        self.source = RgmiiSource(dut.rgmii_rxd, dut.rgmii_rx_ctl, dut.rx_clk)
        self.sink = RgmiiSink(dut.rgmii_txd, dut.rgmii_tx_ctl, dut.rgmii_tx_clk)
        self.set_mode()
        self.phase_errors = []
        cocotb.start_soon(self._watch_clock())
        cocotb.start_soon(self._watch_nibbles())

    def set_mode(self):
        self.source.mii_mode = self.sink.mii_mode = self.speed != 2
        self.source.ifg = 12 if self.speed == 2 else 24

    async def change_speed(self, speed):
        self.speed = speed
        self.dut.speed.value = speed
        self.start_clock("rx_", RX_PS[speed])
        self.set_mode()
        await Timer(1200, "ns")
        self.sink.clear()
        self.halves = []

    async def _watch_clock(self):
        """Halves of the transmit clock's periods, in ps."""
        self.halves = []
        last = None
        while True:
            await Edge(self.dut.rgmii_tx_clk)
            now = get_sim_time("ps")
            if last is not None:
                self.halves.append(now - last)
            last = now

    async def _watch_nibbles(self):
        """At 10 and 100 Mb/s data and enable must be the same at both edges, and change with a rise only."""
        dut = self.dut
        while True:
            await RisingEdge(dut.rgmii_tx_clk)
            speed = self.speed
            rise = int(dut.rgmii_txd.value), int(dut.rgmii_tx_ctl.value)
            await FallingEdge(dut.rgmii_tx_clk)
            fall = int(dut.rgmii_txd.value), int(dut.rgmii_tx_ctl.value)
            if speed != 2 and self.speed == speed and rise != fall:
                self.phase_errors.append((rise, fall))

    async def expect_sent(self, frame):
        sent = await self.sink.recv()
        assert sent.error is None
        assert bytes(sent.get_payload()) == frame.ljust(60, b"\0") and sent.check_fcs()

    async def status(self, low, *, high=None, cycles=6):
        """What a PHY puts on the pins between frames."""
        dut = self.dut
        for _ in range(cycles):
            await FallingEdge(dut.rx_clk)
            dut.rgmii_rxd.value = low
            await RisingEdge(dut.rx_clk)
            dut.rgmii_rxd.value = low if high is None else high
        await Timer(max(8 * self.rx_ps, 200_000), "ps")

    def link(self):
        value = int(self.dut.link.value)
        return {"in_band": value & 1, "link_up": value >> 1 & 1, "speed": value >> 2 & 3, "full_duplex": value >> 4}
