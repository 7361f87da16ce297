"""Ethernet MAC at GMII (IEEE 802.3 clauses 3, 4 and 35), full duplex, one byte per clock."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .interfaces import FrameStream, GmiiPins, MacCounters
from .mac_crossing import MacCrossing
from .mac_rx import MacFilter, MacReceiver
from .mac_tx import MacTransmitter, TxGate


class Mac(wiring.Component):
    """Ethernet MAC.

    Parameters
    ----------
    max_frame_bytes : int, 64..9000
        Longest frame received, FCS excluded. What is sent is not checked.
    rx_domain, tx_domain : str
        Domains of the receive and the transmit pins, 125 MHz; the parent creates them. ``sync`` must have at least a
        quarter of their frequency. The three may be reset in any order: a frame under way is cut, the next one passes.
        A reset must last four cycles of the slowest of the three clocks.

    Members
    -------
    pins : ``Out(GmiiPins())``
        GMII; in and out through registers.
    rx : ``Out(FrameStream)``
        Received frames, two zero pad bytes first, FCS stripped. The last word of a bad frame has ``error``; the rest of
        such a frame means nothing.
    tx : ``In(FrameStream)``
        Frames to send, two pad bytes first. From a frame's first word on, a word must be valid in every cycle until the last
        is taken; a frame that is late is spoiled and counted. A last word with ``error`` spoils its frame on the wire, too.
    address : ``In(48)``
        Own address, the first byte on the wire in bits 7:0. Quasi-static, as the next three.
    enable : ``In(1)``
        Receive and send the frames that begin from now on. While low, frames from ``tx`` are taken and discarded, and
        frames from the wire ignored, uncounted.
    promiscuous, all_multicast : ``In(1)``
        Accept every address; every group address. Broadcast is always accepted.
    counters : ``Out(MacCounters)``
        As block ``mac`` of the register map says. Each received frame counts in one of ``rx_frames``, ``rx_filtered``,
        ``rx_crc_errors``, ``rx_runts``, ``rx_giants`` and ``rx_overflows``; bad frames count whatever their address.

    Timing
    ------
    Line rate in both directions with minimum gaps. ``rx`` may stall for about six word times (32 ns each) without loss.

    Raises
    ------
    TypeError, ValueError
        If a parameter has the wrong type or value.
    """

    def __init__(self, max_frame_bytes: int = 1518, *, rx_domain: str = "rx", tx_domain: str = "tx"):
        if not isinstance(max_frame_bytes, int) or isinstance(max_frame_bytes, bool):
            raise TypeError(f"max_frame_bytes must be an integer, not {max_frame_bytes!r}")
        if not 64 <= max_frame_bytes <= 9000:
            raise ValueError(f"max_frame_bytes must be 64 to 9000, not {max_frame_bytes!r}")
        for name, domain in (("rx_domain", rx_domain), ("tx_domain", tx_domain)):
            if not isinstance(domain, str):
                raise TypeError(f"{name} must be a string, not {domain!r}")
            if domain in {"", "comb"}:
                raise ValueError(f"{name} must name a clock domain, not {domain!r}")
        self._max_frame_bytes = max_frame_bytes
        self._rx_domain = rx_domain
        self._tx_domain = tx_domain
        super().__init__(
            {
                "pins": Out(GmiiPins()),
                "rx": Out(FrameStream),
                "tx": In(FrameStream),
                "address": In(48),
                "enable": In(1),
                "promiscuous": In(1),
                "all_multicast": In(1),
                "counters": Out(MacCounters),
            }
        )

    def elaborate(self, platform):
        m = Module()
        receiver = MacReceiver(self._max_frame_bytes)
        transmitter = MacTransmitter()
        m.submodules.receiver = DomainRenamer(self._rx_domain)(receiver)
        m.submodules.transmitter = DomainRenamer(self._tx_domain)(transmitter)
        m.submodules.crossing = crossing = MacCrossing(rx_domain=self._rx_domain, tx_domain=self._tx_domain)
        m.submodules.filter = address_filter = MacFilter()
        m.submodules.gate = gate = TxGate()

        # Receive: pins, receiver, crossing, filter, stream.
        m.d.comb += [
            receiver.rxd.eq(self.pins.rxd),
            receiver.rx_dv.eq(self.pins.rx_dv),
            receiver.rx_er.eq(self.pins.rx_er),
            crossing.enable.eq(self.enable),
            receiver.enable.eq(crossing.rx_enable),
            crossing.rx_word.eq(receiver.word),
            crossing.rx_write.eq(receiver.write),
            receiver.space.eq(crossing.rx_space),
            address_filter.restarted.eq(crossing.rx_restarted),
            address_filter.address.eq(self.address),
            address_filter.promiscuous.eq(self.promiscuous),
            address_filter.all_multicast.eq(self.all_multicast),
        ]
        connect(m, crossing=crossing.rx_o, filter=address_filter.i)
        connect(m, filter=address_filter.o, rx=flipped(self.rx))

        # Transmit: stream, gate, crossing, transmitter, pins.
        m.d.comb += [
            gate.enable.eq(self.enable),
            transmitter.level.eq(crossing.tx_level),
            self.pins.txd.eq(transmitter.txd),
            self.pins.tx_en.eq(transmitter.tx_en),
            self.pins.tx_er.eq(transmitter.tx_er),
            crossing.status.eq(transmitter.status),
            crossing.status_write.eq(transmitter.status_write),
            crossing.status_o.ready.eq(1),
        ]
        connect(m, tx=flipped(self.tx), gate=gate.i)
        connect(m, gate=gate.o, crossing=crossing.tx_i)
        connect(m, crossing=crossing.tx_o, transmitter=transmitter.i)

        counters = self.counters
        status = crossing.status_o
        with m.If(status.valid):
            with m.If(status.payload.spoiled):
                m.d.sync += counters.tx_underflows.eq(counters.tx_underflows + 1)
            with m.Else():
                m.d.sync += [
                    counters.tx_frames.eq(counters.tx_frames + 1),
                    counters.tx_bytes.eq(counters.tx_bytes + status.payload.length),
                ]
        m.d.comb += [
            counters.rx_frames.eq(address_filter.frames),
            counters.rx_bytes.eq(address_filter.bytes),
            counters.rx_crc_errors.eq(address_filter.crc_errors),
            counters.rx_runts.eq(address_filter.runts),
            counters.rx_giants.eq(address_filter.giants),
            counters.rx_overflows.eq(address_filter.overflows),
            counters.rx_filtered.eq(address_filter.filtered),
        ]
        return m


__all__ = ["Mac"]
