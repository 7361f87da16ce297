"""Slow pins beside the network ports: reset and MDIO of the PHYs, LEDs."""

from __future__ import annotations

from typing import Any

from amaranth import Cat, Elaboratable, Module, Mux, Signal, Value
from amaranth.lib.cdc import FFSynchronizer, PulseSynchronizer

from .phy import NetworkPort


class Management(Elaboratable):
    """Reset and MDIO pins of the PHYs.

    All PHYs are in reset while ``held`` is high and for the longest of their reset times after it. Where ports share the pins, the
    controller of the first of them has the bus, and reaches every PHY on it by its address; the controllers of the others see a
    bus on which nobody answers.

    Parameters
    ----------
    sync_hz : int
    ports : tuple of NetworkPort
    held : Value
        High while the engine is held, in ``sync``.
    """

    def __init__(self, sync_hz: int, ports: tuple[NetworkPort, ...], held: Value):
        self._ports, self._held = ports, held
        self.reset_cycles = -(-sync_hz * max(port.phy.reset_us for port in ports) // 1_000_000)
        self.reset = Signal(init=1)

    def attach(self, m: Module, platform: Any, index: int, pins: Any, mdio: Any) -> None:
        """Connect the pins of port ``index``; ``pins`` is its own resource."""
        port = self._ports[index]
        if any(other.control == port.control for other in self._ports[:index]):
            m.d.comb += mdio.mdio_i.eq(1)  # pulled up
            return
        if port.management is not None:
            pins = platform.request(*port.management)
        m.d.comb += [
            pins.rst.o.eq(self.reset),
            pins.mdc.o.eq(mdio.mdc),
            pins.mdio.o.eq(mdio.mdio_o),
            pins.mdio.oe.eq(mdio.mdio_oe),
            mdio.mdio_i.eq(pins.mdio.i),
        ]

    def elaborate(self, platform):  # type: ignore[no-untyped-def]
        m = Module()
        count = Signal(range(self.reset_cycles + 1))
        with m.If(self._held):
            m.d.sync += [count.eq(0), self.reset.eq(1)]
        with m.Elif(count == self.reset_cycles):
            m.d.sync += self.reset.eq(0)
        with m.Else():
            m.d.sync += count.eq(count + 1)
        return m


class StatusLeds(Elaboratable):
    """What the LEDs of a board show.

    ==============  ==========================================================================================
    ``link<n>``     The PHY of port n says in band that it has a link; without in-band status, its clock has
                    carried a frame in the last 4 s.
    ``activity<n>``  A frame was received or sent at port n within the last 1/16 s.
    ``fault``       The engine is held in reset; or within the last second a port received a frame with an error.
    ``status``      All in one: on with a link, flickers with activity, blinks 8 times a second with a fault.
    ==============  ==========================================================================================

    Parameters
    ----------
    ports : int
    held : Value
        High while the engine is held, in ``sync``.
    tick : Value
        1 kHz pulses.
    """

    def __init__(self, ports: int, held: Value, tick: Value):
        self._held, self._tick = held, tick
        self.names = [*(f"{name}{port}" for port in range(ports) for name in ("link", "activity")), "fault", "status"]
        self.shown = {name: Signal(name=f"led_{name}") for name in self.names}
        self._ports = ports
        self._link = Signal(ports)  # with in-band status
        self._in_band = Signal(ports)
        self._received, self._sent, self._bad = Signal(ports), Signal(ports), Signal(ports)

    def watch(self, m: Module, index: int, gmii: Any) -> None:
        """Watch the MAC's pins of port ``index``."""
        rx, tx = f"rx{index}", f"tx{index}"
        status = Cat(self._link[index], self._in_band[index])
        m.submodules += FFSynchronizer(Cat(gmii.link.link_up, gmii.link.in_band), status)
        for domain, event, target in (
            (rx, gmii.rx_dv, self._received),
            (tx, gmii.tx_en, self._sent),
            (rx, gmii.rx_dv & gmii.rx_er, self._bad),
        ):
            before = Signal()
            m.d[domain] += before.eq(event)
            m.submodules += (pulse := PulseSynchronizer(domain, "sync"))
            m.d.comb += [pulse.i.eq(event & ~before), target[index].eq(pulse.o)]

    def attach(self, m: Module, platform: Any, leds: tuple[tuple[str, tuple[Any, ...]], ...]) -> None:
        """Connect the LEDs of a board.

        Raises
        ------
        ValueError
            If one shows what there is not.
        """
        requested: dict[tuple[str, int], Any] = {}
        for name, (resource, number, *part) in leds:
            if name not in self.shown:
                raise ValueError(f"leds must show one of {', '.join(self.names)}, not {name!r}")
            if (resource, number) not in requested:
                requested[resource, number] = platform.request(resource, number)
            pin = requested[resource, number]
            for field in part:
                pin = getattr(pin, field)
            m.d.comb += pin.o.eq(self.shown[name])

    def elaborate(self, platform):  # type: ignore[no-untyped-def]
        m = Module()

        def after(event: Value, milliseconds: int, name: str) -> Value:
            """High for some time after ``event``."""
            left = Signal(range(milliseconds + 1), name=f"{name}_left")
            with m.If(event):
                m.d.sync += left.eq(milliseconds)
            with m.Elif(self._tick & left.any()):
                m.d.sync += left.eq(left - 1)
            return left.any()

        links, busy = [], []
        for port in range(self._ports):
            alive = after(self._received[port], 4000, f"alive{port}")
            links.append(Mux(self._in_band[port], self._link[port], alive))
            busy.append(after(self._received[port] | self._sent[port], 62, f"busy{port}"))
            m.d.sync += [self.shown[f"link{port}"].eq(links[port]), self.shown[f"activity{port}"].eq(busy[port])]
        fault = Signal()
        time = Signal(7)
        m.d.comb += fault.eq(self._held | after(self._bad.any(), 1000, "bad"))
        with m.If(self._tick):
            m.d.sync += time.eq(time + 1)
        m.d.sync += [
            self.shown["fault"].eq(fault),
            self.shown["status"].eq(Mux(fault, time[6], Cat(*links).any() & ~(Cat(*busy).any() & time[5]))),
        ]
        return m
