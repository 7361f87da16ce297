"""Pins of the boards: each file against the tool's constraints and an independent list; what is at them besides frames."""

import re
from types import SimpleNamespace

import pytest
from amaranth import Elaboratable, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.sim import Simulator

from twinstack.interfaces import GmiiPins, MdioPins
from twinstack.spi_flash import SpiPins
from twinstack_boards import board as board_module
from twinstack_boards.board import TX_HZ, BoardTop
from twinstack_boards.build import BOARDS, board_by_name
from twinstack_boards.phy import B50612D, KSZ9031RNX, NetworkPort, PhyStep, phy_setup_words
from twinstack_boards.port_pins import Management, StatusLeds


class EmptyEngine(wiring.Component):
    """In place of the engine, whose conversion takes half a minute: its pins, each driven by what depends on another."""

    def __init__(self, config, *_, **__):
        self._ports = config.ports
        super().__init__(
            {f"port{p}": Out(GmiiPins()) for p in range(config.ports)}
            | {f"mdio{p}": Out(MdioPins()) for p in range(config.ports)}
            | {"tick": In(1), "uart_rx": In(1), "uart_tx": Out(1), "flash": Out(SpiPins()), "irq": Out(1)}
        )

    def elaborate(self, platform):
        m = Module()
        for p in range(self._ports):
            port, mdio = getattr(self, f"port{p}"), getattr(self, f"mdio{p}")
            m.d.sync += [port.txd.eq(port.rxd), port.tx_en.eq(port.rx_dv), mdio.mdio_oe.eq(mdio.mdio_i)]
        m.d.sync += [self.uart_tx.eq(self.uart_rx), self.flash.copi.eq(self.flash.cipo)]
        return m


@pytest.fixture
def constraints(monkeypatch):
    """Constraints that a board's top gives to place and route."""
    monkeypatch.setattr(board_module, "StandaloneEngine", EmptyEngine)

    def make(name):
        board = board_by_name(name)
        plan = board.platform().build(BoardTop(board, []), name="top", do_build=False)
        return board, plan.files["top.lpf"], plan.files["top.il"]

    return make


@pytest.mark.parametrize("name", BOARDS)
def test_every_clock_has_its_constraint(constraints, name):
    board, lpf, rtlil = constraints(name)
    found = sorted(round(float(hz)) for hz in re.findall(r'FREQUENCY (?:NET|PORT) "[^"]+" ([0-9.]+) HZ', lpf))
    ports = board.config.ports
    assert found == sorted([board.reference_hz, board.config.sync_hz, TX_HZ, *[TX_HZ] * ports])
    sites = re.findall(r'LOCATE COMP "[^"]+" SITE "(\w+)"', lpf)
    assert len(sites) == len(set(sites)), "no pin twice"
    # Cells at the pins: five of each port are received and delayed; a delayed transmit clock is one more.
    assert len(re.findall(r"cell \\?IDDRX1F", rtlil)) == 5 * ports
    assert len(re.findall(r"cell \\?ODDRX1F", rtlil)) == 6 * ports
    late = sum(port.tx_delay == "fpga" for port in board.ports)
    assert len(re.findall(r"cell \\?DELAYG", rtlil)) == 5 * ports + late


COLORLIGHT = {
    # From the module's pin table (wuxx, "ETH-PHY1 (U30)" and "ETH-PHY0 (U29)"), read by hand.
    0: "G1 K1 G2 H1 J1 J3 H2 P2 K2 L1 N1 P1",
    1: "U19 P19 U20 T19 T20 R20 L19 M20 P20 N19 N20 M19",
}


def test_pins_of_the_colorlight(constraints):
    _, lpf, _ = constraints("colorlight_i9")
    sites = dict(re.findall(r'LOCATE COMP "([^"]+)" SITE "(\w+)"', lpf))
    names = ["tx_clk", "tx_ctrl", *(f"tx_data__io[{n}]" for n in range(4))]
    names += ["rx_clk", "rx_ctrl", *(f"rx_data__io[{n}]" for n in range(4))]
    for port, pins in COLORLIGHT.items():
        found = [
            next(
                site
                for net, site in sites.items()
                if net.startswith(f"eth_rgmii_{port}__{name.split('__')[0]}__io")
                and ("[" not in name or net.endswith(name.split("__io")[1]))
            )
            for name in names
        ]
        assert " ".join(found) == pins
    fixed = {"clk25_0__io": "P3", "rst_0__io": "K18", "led_0__io": "L2"}
    fixed |= {f"eth_management_0__{name}__io": pin for name, pin in (("rst", "P4"), ("mdc", "N5"), ("mdio", "P5"))}
    assert fixed.items() <= sites.items()


def run(component, process, clock=1e-6):
    simulator = Simulator(component)
    simulator.add_clock(clock)
    simulator.add_testbench(process)
    simulator.run()


def test_phys_are_in_reset_for_their_time():
    held = Signal(init=1)
    ports = (NetworkPort(("eth", 0), KSZ9031RNX, 0, tx_delay="fpga"), NetworkPort(("eth", 1), B50612D, 0))
    management = Management(1_000_000, ports, held)  # a cycle is a microsecond

    async def process(ctx):
        for _ in range(2):
            await ctx.tick().repeat(5)
            assert ctx.get(management.reset) == 1
            ctx.set(held, 0)
            await ctx.tick().repeat(9_990)
            assert ctx.get(management.reset) == 1
            await ctx.tick().repeat(20)
            assert ctx.get(management.reset) == 0
            ctx.set(held, 1)
            await ctx.tick().repeat(2)

    run(management, process)


def test_a_shared_management_bus_has_one_controller():
    ports = board_by_name("colorlight_i9").ports
    pins = SimpleNamespace(
        rst=SimpleNamespace(o=Signal()),
        mdc=SimpleNamespace(o=Signal()),
        mdio=SimpleNamespace(o=Signal(), oe=Signal(), i=Signal()),
    )
    requested = []
    platform = SimpleNamespace(request=lambda *resource: requested.append(resource) or pins)
    mdios = [MdioPins().create() for _ in ports]
    management = Management(1_000_000, ports, Signal())

    class Top(Elaboratable):
        def elaborate(self, _):
            m = Module()
            m.submodules.management = management
            for index, mdio in enumerate(mdios):
                management.attach(m, platform, index, None, mdio)
            return m

    async def process(ctx):
        ctx.set(mdios[1].mdc, 1)
        ctx.set(mdios[1].mdio_oe, 1)
        ctx.set(pins.mdio.i, 0)
        await ctx.delay(1e-9)
        assert (ctx.get(pins.mdc.o), ctx.get(pins.mdio.oe)) == (0, 0)
        assert [ctx.get(mdio.mdio_i) for mdio in mdios] == [0, 1]
        ctx.set(mdios[0].mdc, 1)
        await ctx.delay(1e-9)
        assert ctx.get(pins.mdc.o) == 1

    run(Top(), process)
    assert requested == [("eth_management", 0)]


def test_leds():
    held, tick = Signal(), Signal()
    leds = StatusLeds(2, held, tick)

    async def milliseconds(ctx, count):
        for _ in range(count):
            ctx.set(tick, 1)
            await ctx.tick()
            ctx.set(tick, 0)
            await ctx.tick()

    def shown(ctx, *names):
        return [ctx.get(leds.shown[name]) for name in names]

    async def process(ctx):
        await milliseconds(ctx, 2)
        assert shown(ctx, "link0", "activity0", "fault", "status") == [0, 0, 0, 0]
        ctx.set(leds._in_band, 0b01)
        ctx.set(leds._link, 0b01)
        await milliseconds(ctx, 2)
        assert shown(ctx, "link0", "link1", "status") == [1, 0, 1]
        ctx.set(leds._received, 0b10)  # port 1 has no in-band status
        await ctx.tick()
        ctx.set(leds._received, 0)
        await milliseconds(ctx, 2)
        assert shown(ctx, "link1", "activity1", "activity0") == [1, 1, 0]
        await milliseconds(ctx, 70)
        assert shown(ctx, "link1", "activity1") == [1, 0]
        await milliseconds(ctx, 4000)
        assert shown(ctx, "link1") == [0]
        ctx.set(leds._bad, 0b10)
        await ctx.tick()
        ctx.set(leds._bad, 0)
        await milliseconds(ctx, 2)
        assert shown(ctx, "fault") == [1]
        await milliseconds(ctx, 1001)
        assert shown(ctx, "fault") == [0]
        ctx.set(held, 1)
        seen = set()
        for _ in range(140):
            await milliseconds(ctx, 1)
            seen.add(ctx.get(leds.shown["status"]))
        assert seen == {0, 1} and shown(ctx, "fault") == [1]

    run(leds, process)


def test_leds_show_what_there_is():
    with pytest.raises(ValueError, match="leds must show one of link0, activity0, fault, status, not 'link1'"):
        StatusLeds(1, Signal(), Signal()).attach(Module(), SimpleNamespace(), (("link1", ("led", 0)),))


def test_delays_must_add_up():
    with pytest.raises(
        ValueError, match="tx_delay must add up to 1.0 to 2.6 ns with Microchip KSZ9031RNX, not 0.00 ns"
    ):
        NetworkPort(("eth", 0), KSZ9031RNX, 0)
    with pytest.raises(ValueError, match="rx_delay must add up to .* not 4.16 ns"):
        NetworkPort(("eth", 0), KSZ9031RNX, 0, rx_delay="fpga", tx_delay="fpga")
    with pytest.raises(ValueError, match="rx_delay must be one of phy, fpga, not 'none'"):
        NetworkPort(("eth", 0), KSZ9031RNX, 0, rx_delay="none")
    with pytest.raises(ValueError, match="address must be 0 to 31, not 32"):
        NetworkPort(("eth", 0), B50612D, 32)


def play(words, registers):
    """What firmware does with the table ``phy_setup``, as docs/boards.md has it; yields what it writes."""
    words = iter(words)
    for head in words:
        for _ in range(head >> 16 & 0xFF):
            first, value = next(words), next(words)
            register, keep = first & 31, first >> 16
            yield head & 31, head >> 5 & 31, register, value | (registers.get(register, 0) & keep if keep else 0)


def test_the_table_of_phy_setup():
    written = list(play(phy_setup_words(board_by_name("colorlight_i9").ports), {0x18: 0x7067, 0x1C: 0x0CAA}))
    assert written == [
        (0, address, *write)
        for address in (0, 1)
        for write in ((0x18, 0x7007), (0x18, 0xF167), (0x1C, 0x0C00), (0x1C, 0x8EAA))
    ]
    written = list(play(phy_setup_words(board_by_name("ecpix5_85").ports), {}))
    # The data sheet's own example for this register, with 0x01FF for 0x03FF (DS00002117, section 3.9.3).
    assert [write[2:] for write in written] == [(13, 0x0002), (14, 0x0008), (13, 0x4002), (14, 0x01FF)]
    assert [head >> 10 & 1 for head in phy_setup_words(board_by_name("ecpix5_85").ports)[:1]] == [1]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((32, 0), "register must be 0 to 31, not 32"),
        ((0, 0x10000), "value must have 16 bits, not 65536"),
        ((0, 0, -1), "keep must have 16 bits, not -1"),
    ],
)
def test_steps_have_the_right_size(arguments, text):
    with pytest.raises(ValueError, match=text):
        PhyStep(*arguments)
