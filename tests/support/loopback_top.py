"""A small design with the engine's ports, to test the simulation without the engine.

- Network: each port sends back what it receives, byte by byte, through an asynchronous FIFO.
- Host CSRs (byte offset): 0 scratch (rw); 4 source and 8 destination byte address; 12 word count, a write starts a copy
  in host memory, reads 1 while it runs; 16 ticks seen (r); 20 interrupt level (rw); 24 bus errors (r);
  28 the last word that ``host_read`` delivered (r). 0x100 answers with ``err``; 0x200 never answers.
"""

from __future__ import annotations

import os
import subprocess
import sys

from amaranth import *
from amaranth.back import verilog
from amaranth.lib import wiring
from amaranth.lib.fifo import AsyncFIFO
from amaranth.lib.wiring import In, Out

from twinstack.interfaces import GmiiPins
from twinstack.soc import wishbone_signature

WITHDRAW = 0x300
"""A write here makes ``host_read`` break the protocol: it withdraws a request."""


class LoopbackTop(wiring.Component):
    """See the module.

    Parameters
    ----------
    ports : int, 1..4
        Network ports.
    """

    def __init__(self, ports: int = 2):
        if ports not in range(1, 5):
            raise ValueError(f"ports must be 1 to 4, not {ports!r}")
        self.ports = ports
        members = {f"port{n}": Out(GmiiPins()) for n in range(ports)}
        members |= {"host_read": Out(wishbone_signature()), "host_write": Out(wishbone_signature())}
        members |= {"host_csr": In(wishbone_signature(13)), "tick": In(1), "irq": Out(1)}
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        for n in range(self.ports):
            self._loop(m, n)
        source, destination, count = Signal(32), Signal(32), Signal(16)
        start, busy, withdraw = Signal(), Signal(), Signal()
        errors, ticks, word, scratch = Signal(32), Signal(32), Signal(32), Signal(32)
        m.d.sync += ticks.eq(ticks + self.tick)

        with m.FSM():
            with m.State("Idle"):
                with m.If(withdraw):
                    m.next = "Withdraw"
                with m.Elif(start):
                    m.next = "Read"
            with m.State("Withdraw"):
                m.d.comb += [self.host_read.cyc.eq(1), self.host_read.stb.eq(1)]
                m.next = "Idle"
            with m.State("Read"):
                m.d.comb += [
                    busy.eq(1),
                    self.host_read.cyc.eq(1),
                    self.host_read.stb.eq(1),
                    self.host_read.sel.eq(0xF),
                    self.host_read.adr.eq(source >> 2),
                ]
                with m.If(self.host_read.ack | self.host_read.err):
                    m.d.sync += [word.eq(self.host_read.dat_r), errors.eq(errors + self.host_read.err)]
                    m.next = "Write"
            with m.State("Write"):
                m.d.comb += [
                    busy.eq(1),
                    self.host_write.cyc.eq(1),
                    self.host_write.stb.eq(1),
                    self.host_write.we.eq(1),
                    self.host_write.sel.eq(0xF),
                    self.host_write.adr.eq(destination >> 2),
                    self.host_write.dat_w.eq(word),
                ]
                with m.If(self.host_write.ack | self.host_write.err):
                    m.d.sync += [
                        errors.eq(errors + self.host_write.err),
                        source.eq(source + 4),
                        destination.eq(destination + 4),
                        count.eq(count - 1),
                    ]
                    m.next = "Read"
                    with m.If(count == 1):
                        m.next = "Idle"

        bus = self.host_csr
        request = Signal()
        m.d.comb += request.eq(bus.cyc & bus.stb & ~bus.ack & ~bus.err)
        m.d.sync += [bus.ack.eq(0), bus.err.eq(0)]
        with m.If(request):
            with m.Switch(bus.adr):
                with m.Case(0x100 // 4):
                    m.d.sync += bus.err.eq(1)
                with m.Case(0x200 // 4):
                    pass
                with m.Default():
                    m.d.sync += bus.ack.eq(1)
            with m.Switch(bus.adr):
                for index, value in enumerate((scratch, source, destination, busy, ticks, self.irq, errors, word)):
                    with m.Case(index):
                        m.d.sync += bus.dat_r.eq(value)
            with m.If(bus.we):
                with m.Switch(bus.adr):
                    with m.Case(0):
                        for lane in range(4):
                            with m.If(bus.sel[lane]):
                                m.d.sync += scratch.word_select(lane, 8).eq(bus.dat_w.word_select(lane, 8))
                    with m.Case(1):
                        m.d.sync += source.eq(bus.dat_w)
                    with m.Case(2):
                        m.d.sync += destination.eq(bus.dat_w)
                    with m.Case(3):
                        m.d.sync += [count.eq(bus.dat_w), start.eq(1)]
                    with m.Case(5):
                        m.d.sync += self.irq.eq(bus.dat_w)
                    with m.Case(WITHDRAW // 4):
                        m.d.sync += withdraw.eq(1)
        with m.If(start):
            m.d.sync += start.eq(0)
        with m.If(withdraw):
            m.d.sync += withdraw.eq(0)
        return m

    def _loop(self, m, n):
        """Send back what port ``n`` receives, once enough of it is there to bridge the clocks' difference."""
        pins = getattr(self, f"port{n}")
        rx, tx = f"rx{n}", f"tx{n}"
        m.submodules[f"fifo{n}"] = fifo = AsyncFIFO(width=9, depth=32, w_domain=rx, r_domain=tx)
        was_valid = Signal(name=f"was_valid{n}")
        m.d[rx] += was_valid.eq(pins.rx_dv)
        # One more entry with bit 8 clear ends each frame.
        m.d.comb += [fifo.w_data.eq(Cat(pins.rxd, pins.rx_dv)), fifo.w_en.eq(pins.rx_dv | was_valid)]
        sending = Signal(name=f"sending{n}")
        m.d[tx] += [pins.tx_en.eq(0), pins.txd.eq(0), pins.tx_er.eq(0)]
        with m.If(sending):
            m.d.comb += fifo.r_en.eq(1)
            with m.If(fifo.r_rdy & fifo.r_data[8]):
                m.d[tx] += [pins.tx_en.eq(1), pins.txd.eq(fifo.r_data[:8])]
            with m.Else():
                m.d[tx] += sending.eq(0)
        with m.Elif(fifo.r_level >= 4):
            m.d[tx] += sending.eq(1)


def loopback_verilog(ports: int = 2) -> str:
    """The design's Verilog, the same text each time: Python's string hashes, which order Amaranth's ports, are fixed."""
    command = [sys.executable, "-P", __file__, str(ports)]
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True, timeout=60).stdout


if __name__ == "__main__":
    print(verilog.convert(LoopbackTop(int(sys.argv[1])), name="engine", strip_internal_attrs=True))
