"""Ethernet MAC at GMII and MII (IEEE 802.3 clauses 3, 4, 22, 31 and 35), full duplex, 10, 100 and 1000 Mb/s."""

from __future__ import annotations

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .interfaces import FrameStream, GmiiPins, LinkStatus, MacCounters
from .mac_crossing import MacCrossing
from .mac_filter import MacFilter
from .mac_mii import BytesToNibbles, NibblesToBytes
from .mac_pause import PauseTimers
from .mac_rx import MacReceiver
from .mac_statistics import INDEX_BITS, MacStatistics
from .mac_tx import MacTransmitter, TxGate


class Mac(wiring.Component):
    """Ethernet MAC.

    Parameters
    ----------
    max_frame_bytes : int, 64..9000
        Longest frame received, FCS and VLAN tag excluded: with a tag (IEEE 802.1Q or 802.1ad) four bytes more. What is sent
        is not checked.
    rx_domain, tx_domain : str
        Domains of the receive and the transmit pins; the parent creates them. 125 MHz at 1000 Mb/s, 25 and 2.5 MHz at 100 and
        10 (with ``pins.tx_hold`` the transmit clock may be faster). ``sync`` must have at least a quarter of their
        frequency. The three may be reset in any order: a frame under way is cut, the next one passes. A reset must last
        four cycles of the slowest of the three clocks. A pin clock may stop: nothing arrives then, and frames to send are
        discarded.

    Members
    -------
    pins : ``Out(GmiiPins())``
        GMII, or MII on the lower nibbles; in and out through registers.
    rx : ``Out(FrameStream)``
        Received frames, two zero pad bytes first, FCS stripped. The last word of a bad frame, and of a MAC control frame, has
        ``error``; the rest of such a frame means nothing.
    tx : ``In(FrameStream)``
        Frames to send, two pad bytes first. From a frame's first word on, a word must be valid in every cycle until the last
        is taken; a frame that is late is spoiled and counted. A last word with ``error`` spoils its frame on the wire, too.
    address : ``In(48)``
        Own address, the first byte on the wire in bits 7:0. Quasi-static, as all up to ``pause_time``: what changes while
        frames pass may meet one of them half changed.
    speed : ``In(2)``
        0: 10, 1: 100, 2: 1000 Mb/s. Frames under way at a change are lost.
    enable : ``In(1)``
        Receive and send the frames that begin from now on. While low, frames from ``tx`` are taken and discarded, and
        frames from the wire ignored, uncounted.
    promiscuous, all_multicast, multicast : ``In``
        Accept every address; every group address; group addresses with their bit set, see ``mac_filter``. Broadcast is
        always accepted.
    pause_receive : ``In(1)``
        Obey pause frames. They are counted and not passed up in any case.
    pause_request : ``In(1)``
        The other side should be silent: send pause frames, and one with time zero in the end.
    pause_time : ``In(16)``
        Quanta that pause frames ask for. At least 64: then a frame of the longest ordinary kind cannot delay the next
        pause frame for too long.
    rx_dropped : ``In(1)``
        For each cycle: a good frame was lost behind ``rx``, for the statistics.
    counters : ``Out(MacCounters)``
        As block ``mac`` of the register map says. Each received frame counts in one of ``rx_frames``, ``rx_filtered``,
        ``rx_crc_errors``, ``rx_runts``, ``rx_giants``, ``rx_overflows`` and ``rx_pauses``; bad frames count whatever their address.
    link : ``Out(LinkStatus)``
        ``pins.link``.
    statistic_index, statistic_strobe, statistic_next, statistic_low, statistic_low_strobe, statistic_high
        As in ``MacStatistics``.

    Timing
    ------
    Line rate in both directions with minimum gaps. ``rx`` may stall for about six word times (32 ns each) without loss.
    A pause frame is obeyed within two pause quanta after its end, as annex 31B.3.7 demands.

    Raises
    ------
    TypeError, ValueError
        If a parameter has the wrong type or value.
    """

    def __init__(self, max_frame_bytes: int = 1514, *, rx_domain: str = "rx", tx_domain: str = "tx"):
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
                "multicast": In(64),
                "speed": In(2, init=2),
                "pause_receive": In(1),
                "pause_request": In(1),
                "pause_time": In(16),
                "rx_dropped": In(1),
                "counters": Out(MacCounters),
                "link": Out(LinkStatus),
                "statistic_index": In(INDEX_BITS),
                "statistic_strobe": In(1),
                "statistic_next": In(INDEX_BITS),
                "statistic_low": Out(32),
                "statistic_low_strobe": In(1),
                "statistic_high": Out(32),
            }
        )

    def elaborate(self, platform):
        m = Module()
        rx, tx = self._rx_domain, self._tx_domain
        receiver = MacReceiver(self._max_frame_bytes)
        transmitter = MacTransmitter()
        # Receiver and transmitter think in bytes; they stand still in the cycles between.
        rx_bytes, tx_nibbles = NibblesToBytes(), BytesToNibbles()
        m.submodules.rx_bytes = DomainRenamer(rx)(rx_bytes)
        m.submodules.tx_nibbles = DomainRenamer(tx)(tx_nibbles)
        m.submodules.receiver = DomainRenamer(rx)(EnableInserter(rx_bytes.step)(receiver))
        m.submodules.transmitter = DomainRenamer(tx)(EnableInserter(tx_nibbles.step)(transmitter))
        pause = PauseTimers()
        m.submodules.pause = DomainRenamer(tx)(pause)
        m.submodules.crossing = crossing = MacCrossing(rx_domain=rx, tx_domain=tx)
        m.submodules.filter = address_filter = MacFilter()
        m.submodules.gate = gate = TxGate()
        m.submodules.statistics = statistics = MacStatistics()

        # Receive: pins, bytes, receiver, crossing, filter, stream.
        m.d.comb += [
            rx_bytes.nibbles.eq(crossing.rx_nibbles),
            rx_bytes.rxd.eq(self.pins.rxd),
            rx_bytes.rx_dv.eq(self.pins.rx_dv),
            rx_bytes.rx_er.eq(self.pins.rx_er),
            receiver.rxd.eq(rx_bytes.data),
            receiver.rx_dv.eq(rx_bytes.valid),
            receiver.rx_er.eq(rx_bytes.error),
            crossing.enable.eq(self.enable),
            crossing.speed.eq(self.speed),
            receiver.enable.eq(crossing.rx_enable),
            crossing.rx_word.eq(receiver.word),
            crossing.rx_write.eq(receiver.write & rx_bytes.step),
            receiver.space.eq(crossing.rx_space),
            address_filter.restarted.eq(crossing.rx_restarted),
            address_filter.address.eq(self.address),
            address_filter.promiscuous.eq(self.promiscuous),
            address_filter.all_multicast.eq(self.all_multicast),
            address_filter.multicast.eq(self.multicast),
            crossing.link.eq(self.pins.link),
            self.link.eq(crossing.link_o),
        ]
        connect(m, crossing=crossing.rx_o, filter=address_filter.i)
        connect(m, filter=address_filter.o, rx=flipped(self.rx))

        # Transmit: stream, gate, crossing, transmitter, nibbles, pins.
        m.d.comb += [
            gate.enable.eq(self.enable),
            gate.stopped.eq(crossing.tx_stopped),
            transmitter.i.valid.eq(crossing.tx_o.valid),
            transmitter.i.payload.eq(crossing.tx_o.payload),
            crossing.tx_o.ready.eq(transmitter.i.ready & tx_nibbles.step),
            transmitter.level.eq(crossing.tx_level),
            transmitter.address.eq(self.address),
            tx_nibbles.nibbles.eq(crossing.tx_nibbles),
            tx_nibbles.hold.eq(self.pins.tx_hold),
            tx_nibbles.data.eq(transmitter.txd),
            tx_nibbles.enable.eq(transmitter.tx_en),
            tx_nibbles.error.eq(transmitter.tx_er),
            self.pins.txd.eq(tx_nibbles.txd),
            self.pins.tx_en.eq(tx_nibbles.tx_en),
            self.pins.tx_er.eq(tx_nibbles.tx_er),
            self.pins.speed.eq(self.speed),
            crossing.status.eq(transmitter.status),
            crossing.status_write.eq(transmitter.status_write & tx_nibbles.step),
        ]
        connect(m, tx=flipped(self.tx), gate=gate.i)
        connect(m, gate=gate.o, crossing=crossing.tx_i)

        # Pause: from the filter to the transmitter, and from the packet memory to the transmitter.
        m.d.comb += [
            crossing.pause.eq(address_filter.pause & self.pause_receive),
            crossing.pause_request.eq(self.pause_request & self.enable),
            pause.step.eq(tx_nibbles.step),
            pause.pause.eq(crossing.tx_pause),
            pause.quanta.eq(address_filter.quanta),
            pause.request.eq(crossing.tx_pause_request),
            pause.pause_time.eq(self.pause_time),
            pause.sent.eq(transmitter.pause_sent & tx_nibbles.step),
            transmitter.paused.eq(pause.paused),
            transmitter.send_pause.eq(pause.send),
            transmitter.quanta.eq(pause.send_quanta),
        ]

        # Statistics and counters.
        connect(m, filter=address_filter.event, statistics=statistics.rx)
        connect(m, crossing=crossing.status_o, statistics=statistics.tx)
        m.d.comb += [
            statistics.rx_dropped.eq(self.rx_dropped),
            statistics.tx_discarded.eq(gate.discarded),
            statistics.index.eq(self.statistic_index),
            statistics.index_strobe.eq(self.statistic_strobe),
            statistics.next_index.eq(self.statistic_next),
            statistics.low_strobe.eq(self.statistic_low_strobe),
            self.statistic_low.eq(statistics.low),
            self.statistic_high.eq(statistics.high),
        ]
        counters = self.counters
        status = crossing.status_o
        with m.If(status.valid & status.ready):
            with m.If(status.payload.spoiled):
                m.d.sync += counters.tx_underflows.eq(counters.tx_underflows + 1)
            with m.Elif(status.payload.is_pause):
                m.d.sync += counters.tx_pauses.eq(counters.tx_pauses + 1)
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
            counters.rx_pauses.eq(address_filter.pauses),
        ]
        return m


__all__ = ["Mac"]
