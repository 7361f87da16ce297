"""Memory access of the TX engine: runs of bytes from any memory of any core, one word per cycle."""

from functools import reduce
from operator import or_

from amaranth import *
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from .byte_packer import PackInput
from .config import EngineConfig
from .interfaces import ram_port_for
from .proto.memory_map import DATA_BASE, RX_BANK_BASE, TX_BANK_BASE

REGION_LSB = 24
"""Address bits from here up to 30 tell the memory; the memories are smaller and their bases are aligned to this."""
LOCAL_BITS = 18
"""Bits of a byte offset in the largest memory that a configuration permits."""


class Region(enum.Enum, shape=2):
    """The memories of one core."""

    DATA = 0
    RX_BANK = 1
    TX_BANK = 2


REGION_BASES = {Region.DATA: DATA_BASE, Region.RX_BANK: RX_BANK_BASE, Region.TX_BANK: TX_BANK_BASE}


def region_bytes(config: EngineConfig) -> dict[Region, int]:
    """Size of each memory in bytes."""
    return {
        Region.DATA: config.data_bytes,
        Region.RX_BANK: config.rx_bank_bytes,
        Region.TX_BANK: config.tx_bank_bytes,
    }


class TxRun(data.Struct):
    """A run of bytes to read, or one word to write."""

    core: 2  # whose memory
    region: Region
    offset: LOCAL_BITS  # byte in the memory; a write ignores bits 1:0
    length: 16  # bytes, at least 1; 4 for a write
    last: 1  # the last word of the run gets last in the answer
    write: 1
    data: 32  # word to write


class TxFetch(wiring.Component):
    """Reads runs of bytes from the memories of the cores, for two users: who fetches commands, and who fetches frames.

    Parameters
    ----------
    config : EngineConfig

    Members
    -------
    command, frame : ``In(stream.Signature(TxRun))``
        Runs of the two users; ``command`` goes first, between two runs. The caller has checked that they lie within the
        memory.
    valid : ``Out(1)``, word : ``Out(PackInput)``, for_frame : ``Out(1)``
        The words of the runs that are read, in order, without a way to stall them, and whose they are. Writes give none.
    flush : ``In(1)``
        Give up the run of ``frame`` in progress; a request that a memory has not accepted yet stays until it is
        (``RamPort``). Words that were asked for may still come until ``frame_idle``.
    command_idle, frame_idle : ``Out(1)``
        Nothing of that user is in progress: all is read and delivered, or written.
    data0.., rx_bank0.., tx_bank0.. : ``Out(RamPort)``
        Memories of each core.

    Timing
    ------
    One word per cycle, also from one run to the next, while the memory is ready. A word is delivered two cycles after
    its request was accepted. ``ready`` of both users depends on the memory's ``ready`` in the same cycle, and that of
    ``frame`` on ``command.valid``.
    """

    def __init__(self, config: EngineConfig):
        self._config = config
        members = {
            "command": In(stream.Signature(TxRun)),
            "frame": In(stream.Signature(TxRun)),
            "valid": Out(1),
            "word": Out(PackInput),
            "for_frame": Out(1),
            "flush": In(1),
            "command_idle": Out(1),
            "frame_idle": Out(1),
        }
        for core in range(config.cores):
            members[f"data{core}"] = Out(ram_port_for(config.data_bytes))
            members[f"rx_bank{core}"] = Out(ram_port_for(config.rx_bank_bytes))
            members[f"tx_bank{core}"] = Out(ram_port_for(config.tx_bank_bytes))
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        run = Signal(TxRun)  # the one that may begin
        begins = Signal()

        # --- Request: the registers are the port's signals ---
        ports = {
            (core, region): getattr(self, f"{region.name.lower()}{core}")
            for core in range(self._config.cores)
            for region in Region
        }
        chosen = Signal(len(ports))  # one-hot: memory of the request; zero: none
        active = Signal()
        is_frame = Signal()
        offset = Signal(LOCAL_BITS)
        remaining = Signal(16)  # bytes of the run from this word on
        last, write = Signal(), Signal()
        value = Signal(32)
        accepted = Signal()
        room = Signal(3)  # bytes from the offset to the end of the word
        is_final = Signal()  # the request is the run's last
        free = Signal()
        m.d.comb += [
            room.eq(4 - offset[:2]),
            is_final.eq(remaining <= room),
            free.eq(~active | (accepted & is_final)),
            self.command.ready.eq(free),
            self.frame.ready.eq(free & ~self.command.valid & ~self.flush),
            run.eq(Mux(self.command.valid, self.command.payload, self.frame.payload)),
            begins.eq(free & (self.command.valid | (self.frame.valid & ~self.flush))),
        ]
        with m.If(accepted):
            m.d.sync += [
                offset.eq(Cat(C(0, 2), offset[2:] + 1)),
                remaining.eq(remaining - room),
            ]
            with m.If(is_final | (self.flush & is_frame)):
                m.d.sync += chosen.eq(0)
        with m.If(begins):
            m.d.sync += [
                chosen.eq(Cat((run.core == core) & (run.region == region) for core, region in ports)),
                is_frame.eq(~self.command.valid),
                offset.eq(run.offset),
                remaining.eq(run.length),
                last.eq(run.last),
                write.eq(run.write),
                value.eq(run.data),
            ]

        # --- Memories: one bit each says which is asked, so that valid comes from a register ---
        asked_one = Signal(len(ports))  # memory of the request accepted in the previous cycle
        read_data = Signal(32)
        m.d.comb += [
            active.eq(chosen.any()),
            accepted.eq(Cat(bit & port.ready for bit, port in zip(chosen, ports.values(), strict=True)).any()),
            read_data.eq(
                reduce(or_, (Mux(bit, port.read_data, 0) for bit, port in zip(asked_one, ports.values(), strict=True)))
            ),
        ]
        for bit, port in zip(chosen, ports.values(), strict=True):
            m.d.comb += [
                port.valid.eq(bit),
                port.write.eq(write),
                port.address.eq(offset[2:]),
                port.data.eq(value),
                port.mask.eq(0b1111),
            ]

        # --- Answer: asked in the cycle of the read data, then registered ---
        asked = Signal()
        asked_word = Signal(PackInput)
        asked_frame = Signal()
        m.d.sync += [
            asked.eq(accepted & ~write),
            asked_one.eq(chosen),
            asked_frame.eq(is_frame),
            asked_word.offset.eq(offset[:2]),
            asked_word.count.eq(Mux(is_final, remaining, room)),
            asked_word.last.eq(is_final & last),
            self.valid.eq(asked),
            self.for_frame.eq(asked_frame),
            self.word.eq(asked_word),
            self.word.data.eq(read_data),
        ]
        for idle, mine in (
            (self.command_idle, lambda frame: ~frame),
            (self.frame_idle, lambda frame: frame),
        ):
            m.d.comb += idle.eq(
                ~((active & mine(is_frame)) | (asked & mine(asked_frame)) | (self.valid & mine(self.for_frame)))
            )
        return m
