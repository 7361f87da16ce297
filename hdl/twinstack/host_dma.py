"""Host DMA engine: moves bytes between host memory and the cores' packet memory, within the bounds of both."""

from amaranth import *
from amaranth.lib import data, fifo, wiring
from amaranth.lib.wiring import In, Out

from .byte_packer import BytePacker, PackInput
from .config import EngineConfig
from .interfaces import DmaPort, HostWindow, ram_port_for
from .proto.memory_map import RX_BANK_BASE, TX_BANK_BASE
from .soc import wishbone, wishbone_signature
from .windows import WINDOWS, WindowCheck

COMMAND_DEPTH = 8
"""Transfers that wait for each core."""
COMPLETION_DEPTH = 16
"""Transfers queued, running and completed of each core, together."""
BURST_WORDS = 64
"""Bursts end at multiples of this, so that the other masters of the host bus get their turn."""

STATUS_DONE = 0
STATUS_OUTSIDE_BANKS = 1
STATUS_OUTSIDE_WINDOWS = 2
STATUS_BUS_ERROR = 3

_BANK_BITS = 24  # a bank's region of the memory map: bits 30:24 name it
_STAGE_DEPTH = 4

CycleType = wishbone.CycleType


class _Command(data.Struct):
    local: 32
    host_address: 32
    length: 16
    tag: 14
    host: 2


class _Status(data.Struct):
    tag: 14
    status: 2


class HostDma(wiring.Component):
    """One direction of the host DMA engine.

    Each core queues transfers, which are carried out one at a time, round robin between the cores, at any byte
    alignment of both sides. A transfer outside the core's banks or the host's windows touches nothing. The windows are
    checked when a transfer begins. A completion is given when the last word was acknowledged by its destination.

    Parameters
    ----------
    config : EngineConfig
        Number of cores and hosts, size of the banks.
    direction : "in" or "out"
        "in": host memory to TX bank; "out": RX or TX bank to host memory.

    Members
    -------
    queue0.. : ``In(DmaPort())``
        As in blocks ``dma_in`` and ``dma_out`` of the register map. ``go`` without ``space``, and ``completion_pop``
        without ``completion_valid``, are ignored.
    rx_bank0.. : ``Out(ram_port_for(rx_bank_bytes))``
        Only for "out".
    tx_bank0.. : ``Out(ram_port_for(tx_bank_bytes))``
    bus : ``Out(wishbone_signature())``
        Byte enables show exactly the bytes of the transfer. Bursts end at 256-byte boundaries, where ``cyc`` pauses for
        one cycle.
    windows : ``In(ArrayLayout(HostWindow, 4))``
    core_reset : ``In(cores)``
        Drops the core's transfers and completions. One in progress stops at once; a word in flight still ends.
    busy : ``Out(1)``
        A transfer runs or waits.

    Timing
    ------
    About 12 cycles for each transfer, and one for each word if memory and bus answer at once.

    Raises
    ------
    TypeError, ValueError
        If ``config`` is not an EngineConfig, or ``direction`` neither "in" nor "out".
    """

    def __init__(self, config: EngineConfig, direction: str):
        if not isinstance(config, EngineConfig):
            raise TypeError(f"config must be an EngineConfig, not {config!r}")
        if direction not in ("in", "out"):
            raise ValueError(f'direction must be "in" or "out", not {direction!r}')
        self._config = config
        self._is_out = direction == "out"
        members = {
            "bus": Out(wishbone_signature()),
            "windows": In(data.ArrayLayout(HostWindow, WINDOWS)),
            "core_reset": In(config.cores),
            "busy": Out(1),
        }
        for core in range(config.cores):
            members[f"queue{core}"] = In(DmaPort())
            members[f"tx_bank{core}"] = Out(ram_port_for(config.tx_bank_bytes))
            if self._is_out:
                members[f"rx_bank{core}"] = Out(ram_port_for(config.rx_bank_bytes))
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        cores = self._config.cores

        # --- Queues ----------------------------------------------------------------------------------------------
        commands = []
        takes = Signal(cores)
        completed = Signal(_Status)
        completes = Signal(cores)
        for core in range(cores):
            port = getattr(self, f"queue{core}")
            flush = self.core_reset[core]
            queue = fifo.SyncFIFO(width=Shape.cast(_Command).width, depth=COMMAND_DEPTH)
            done = fifo.SyncFIFO(width=Shape.cast(_Status).width, depth=COMPLETION_DEPTH)
            m.submodules[f"commands{core}"] = ResetInserter(flush)(queue)
            m.submodules[f"completions{core}"] = ResetInserter(flush)(done)
            outstanding = Signal(range(COMPLETION_DEPTH + 1), name=f"outstanding{core}")
            room = Signal(range(COMPLETION_DEPTH + 1), name=f"room{core}")
            accept = Signal(name=f"accept{core}")
            pop = Signal(name=f"pop{core}")
            command = Signal(_Command, name=f"command{core}")
            oldest = _Status(done.r_data)
            m.d.comb += [
                room.eq(COMPLETION_DEPTH - outstanding),
                port.space.eq(Mux(room < COMMAND_DEPTH - queue.level, room, COMMAND_DEPTH - queue.level)),
                accept.eq(port.go & queue.w_rdy & (room != 0) & ~flush),
                pop.eq(port.completion_pop & done.r_rdy),
                command.local.eq(port.local),
                command.host_address.eq(port.host_address),
                command.length.eq(port.length),
                command.tag.eq(port.tag),
                command.host.eq(port.host),
                queue.w_data.eq(command),
                queue.w_en.eq(accept),
                queue.r_en.eq(takes[core]),
                done.w_data.eq(completed),
                done.w_en.eq(completes[core]),
                done.r_en.eq(pop),
                port.completion_valid.eq(done.r_rdy),
                port.completion_tag.eq(oldest.tag),
                port.completion_status.eq(oldest.status),
            ]
            m.d.sync += outstanding.eq(outstanding + accept - pop)
            with m.If(flush):
                m.d.sync += outstanding.eq(0)
            commands.append((queue.r_rdy & ~flush, _Command(queue.r_data)))

        # --- The transfer that runs ------------------------------------------------------------------------------
        command = Signal(_Command)
        core = Signal(range(cores))
        core_mask = Signal(cores)
        dropped = Signal()  # its core was reset meanwhile
        failed = Signal()
        status = Signal(2)
        waiting = Signal(cores)
        chosen = Signal(range(cores))
        head = Signal(_Command)
        m.d.comb += [core_mask.eq(1 << core), waiting.eq(Cat(valid for valid, _ in commands))]
        with m.Switch(core):
            for number, (_, oldest) in enumerate(commands):
                with m.Case(number):
                    m.d.comb += head.eq(oldest)
                    for step in reversed(range(1, cores + 1)):
                        candidate = (number + step) % cores
                        with m.If(waiting[candidate]):
                            m.d.comb += chosen.eq(candidate)
        resets = (self.core_reset & core_mask).any()
        with m.If(resets):
            m.d.sync += dropped.eq(1)

        m.submodules.check = check = WindowCheck()
        m.d.comb += [
            check.address.eq(command.host_address),
            check.length.eq(command.length),
            check.write.eq(int(self._is_out)),
            check.windows.eq(self.windows),
        ]
        region = command.local[_BANK_BITS:31]
        offset = command.local[:_BANK_BITS]
        end = Signal(_BANK_BITS + 1)
        in_tx = Signal()
        in_rx = Signal()
        in_bank = Signal()
        m.d.sync += [
            end.eq(offset + command.length),
            in_tx.eq((region == TX_BANK_BASE >> _BANK_BITS) & (end <= self._config.tx_bank_bytes)),
            in_rx.eq((region == RX_BANK_BASE >> _BANK_BITS) & (end <= self._config.rx_bank_bytes)),
            in_bank.eq((in_tx | (in_rx if self._is_out else 0)) & (command.length != 0)),
        ]

        # --- Data path -------------------------------------------------------------------------------------------
        begin = Signal()
        stopping = Signal()  # no new access
        flush = Signal()
        quiet = Signal()  # no access in flight
        finished = Signal()
        m.submodules.stage = stage = ResetInserter(flush)(
            fifo.SyncFIFO(width=Shape.cast(PackInput).width, depth=_STAGE_DEPTH)
        )
        m.submodules.packer = packer = ResetInserter(flush)(BytePacker())
        m.d.comb += [
            packer.i.valid.eq(stage.r_rdy),
            packer.i.payload.eq(stage.r_data),
            stage.r_en.eq(packer.i.ready),
        ]

        # Source side: bytes of the next word.
        remaining = Signal(16)
        lane = Signal(2)
        run = Signal(PackInput)
        capacity = Signal(3)
        m.d.comb += [
            capacity.eq(4 - lane),
            run.offset.eq(lane),
            run.last.eq(remaining <= capacity),
            run.count.eq(Mux(run.last, remaining, capacity)),
        ]
        requested = Signal()  # one cycle: the next word is asked for
        in_flight = Signal(PackInput)
        with m.If(requested):
            m.d.sync += [in_flight.eq(run), remaining.eq(remaining - run.count), lane.eq(0)]

        ram_word = Signal(_BANK_BITS - 2)
        bus_word = Signal(30)
        answered = self.bus.ack | self.bus.err
        burst_ends = Signal()  # with the word on the bus
        launch = Signal()  # one cycle: the next word goes on the bus
        can_launch = Signal()
        next_is_last = Signal()
        next_ends = Signal()
        m.d.comb += [
            can_launch.eq(~stopping & (~self.bus.stb | (self.bus.ack & ~self.bus.err & ~burst_ends))),
            next_ends.eq(next_is_last | (bus_word[: BURST_WORDS.bit_length() - 1] == BURST_WORDS - 1)),
        ]
        with m.If(answered & self.bus.stb):
            m.d.sync += self.bus.stb.eq(0)
            with m.If(burst_ends | self.bus.err):
                m.d.sync += self.bus.cyc.eq(0)
            with m.If(self.bus.err):
                m.d.sync += failed.eq(1)
        with m.If(launch):
            m.d.sync += [
                self.bus.cyc.eq(1),
                self.bus.stb.eq(1),
                self.bus.adr.eq(bus_word),
                bus_word.eq(bus_word + 1),
                burst_ends.eq(next_ends),
                self.bus.cti.eq(
                    Mux(
                        next_ends,
                        Mux(self.bus.cyc, CycleType.END_OF_BURST.value, CycleType.CLASSIC.value),
                        CycleType.INCR_BURST.value,
                    )
                ),
            ]

        is_tx = Signal()
        ram_valid = Signal()
        ram_ready = Signal()
        if self._is_out:
            self._connect_out(
                m, stage, packer, in_flight, run, remaining, ram_word, ram_valid, ram_ready, is_tx, core, requested,
                stopping, quiet, launch, can_launch, next_is_last, finished,
            )  # fmt: skip
        else:
            self._connect_in(
                m, stage, packer, in_flight, run, remaining, ram_word, ram_valid, ram_ready, core, requested, stopping,
                quiet, launch, can_launch, next_is_last, finished,
            )  # fmt: skip
        source, destination = (
            (command.local, command.host_address) if self._is_out else (command.host_address, command.local)
        )
        m.d.comb += packer.start.eq(destination[:2])
        with m.If(begin):
            m.d.sync += [
                remaining.eq(command.length),
                lane.eq(source[:2]),
                ram_word.eq(offset >> 2),
                bus_word.eq(command.host_address >> 2),
                is_tx.eq(in_tx),
            ]
        with m.If(flush):
            m.d.sync += [remaining.eq(0), self.bus.cyc.eq(0), self.bus.cti.eq(CycleType.CLASSIC.value)]

        # --- Sequence --------------------------------------------------------------------------------------------
        moving = Signal()
        m.d.comb += [
            stopping.eq(~moving | failed | dropped),
            completed.tag.eq(command.tag),
            completed.status.eq(status),
            self.busy.eq(waiting.any()),
        ]
        with m.FSM() as sequence:
            with m.State("Idle"):
                with m.If(waiting.any()):
                    m.d.sync += core.eq(chosen)
                    m.next = "Take Command"
            with m.State("Take Command"):
                m.d.sync += [command.eq(head), dropped.eq(0), failed.eq(0)]
                m.next = "Idle"
                with m.If((waiting & core_mask).any()):
                    m.d.comb += takes.eq(core_mask)
                    m.next = "Start Check"
            with m.State("Start Check"):
                m.d.comb += check.start.eq(1)
                m.next = "Check"
            with m.State("Check"):
                # Longer than the bank check, which is three registers deep.
                with m.If(check.done):
                    m.next = "Complete"
                    with m.If(~in_bank):
                        m.d.sync += status.eq(STATUS_OUTSIDE_BANKS)
                    with m.Elif(~check.ok | (command.host >= self._config.hosts)):
                        m.d.sync += status.eq(STATUS_OUTSIDE_WINDOWS)
                    with m.Else():
                        m.d.comb += begin.eq(1)
                        m.d.sync += status.eq(STATUS_DONE)
                        m.next = "Move"
            with m.State("Move"):
                m.d.comb += moving.eq(1)
                with m.If(finished | ((failed | dropped) & quiet)):
                    m.next = "Flush"
            with m.State("Flush"):
                m.d.comb += flush.eq(1)
                with m.If(failed):
                    m.d.sync += status.eq(STATUS_BUS_ERROR)
                m.next = "Complete"
            with m.State("Complete"):
                with m.If(~dropped & ~resets):
                    m.d.comb += completes.eq(core_mask)
                m.next = "Idle"
        with m.If(~sequence.ongoing("Idle")):
            m.d.comb += self.busy.eq(1)
        return m

    def _connect_out(
        self, m, stage, packer, in_flight, run, remaining, ram_word, ram_valid, ram_ready, is_tx, core, requested,
        stopping, quiet, launch, can_launch, next_is_last, finished,
    ):  # fmt: skip
        """Banks to bus."""
        returns = Signal()  # the bank's answer is on read_data
        holds = Signal()  # a request that was not accepted must stay
        answer = Signal(32)
        arrived = Signal(PackInput)
        for number in range(self._config.cores):
            for selected, ram in (
                (is_tx, getattr(self, f"tx_bank{number}")),
                (~is_tx, getattr(self, f"rx_bank{number}")),
            ):
                m.d.comb += [ram.valid.eq(ram_valid & selected & (core == number)), ram.address.eq(ram_word)]
                with m.If(selected & (core == number)):
                    m.d.comb += [ram_ready.eq(ram.ready), answer.eq(ram.read_data)]
        m.d.comb += [
            ram_valid.eq((remaining != 0) & (stage.level + returns < _STAGE_DEPTH) & (~stopping | holds)),
            requested.eq(ram_valid & ram_ready),
            arrived.eq(in_flight),
            arrived.data.eq(answer),
            stage.w_data.eq(arrived),
            stage.w_en.eq(returns),
        ]
        m.d.sync += [returns.eq(requested), holds.eq(ram_valid & ~ram_ready)]
        with m.If(requested):
            m.d.sync += ram_word.eq(ram_word + 1)

        last_on_bus = Signal()
        m.d.comb += [
            next_is_last.eq(packer.o.payload.last),
            launch.eq(can_launch & packer.o.valid),
            packer.o.ready.eq(can_launch),
            self.bus.we.eq(1),
            finished.eq(self.bus.stb & self.bus.ack & ~self.bus.err & last_on_bus),
            quiet.eq(~self.bus.stb & ~ram_valid & ~returns),
        ]
        with m.If(launch):
            m.d.sync += [
                self.bus.dat_w.eq(packer.o.payload.data),
                self.bus.sel.eq(packer.o.payload.mask),
                last_on_bus.eq(packer.o.payload.last),
            ]

    def _connect_in(
        self, m, stage, packer, in_flight, run, remaining, ram_word, ram_valid, ram_ready, core, requested, stopping,
        quiet, launch, can_launch, next_is_last, finished,
    ):  # fmt: skip
        """Bus to TX banks."""
        arrived = Signal(PackInput)
        m.d.comb += [
            next_is_last.eq(run.last),
            launch.eq(can_launch & (remaining != 0) & (stage.level + self.bus.stb < _STAGE_DEPTH)),
            requested.eq(launch),
            arrived.eq(in_flight),
            arrived.data.eq(self.bus.dat_r),
            stage.w_data.eq(arrived),
            stage.w_en.eq(self.bus.stb & self.bus.ack & ~self.bus.err),
        ]
        with m.If(launch):
            m.d.sync += self.bus.sel.eq(((1 << run.count) - 1) << run.offset)

        can_write = Signal()
        ram_data = Signal(32)
        ram_mask = Signal(4)
        ram_last = Signal()
        ram_address = Signal.like(ram_word)
        for number in range(self._config.cores):
            ram = getattr(self, f"tx_bank{number}")
            m.d.comb += [
                ram.valid.eq(ram_valid & (core == number)),
                ram.write.eq(1),
                ram.address.eq(ram_address),
                ram.data.eq(ram_data),
                ram.mask.eq(ram_mask),
            ]
            with m.If(core == number):
                m.d.comb += ram_ready.eq(ram.ready)
        m.d.comb += [
            can_write.eq(~stopping & (~ram_valid | ram_ready)),
            packer.o.ready.eq(can_write),
            finished.eq(ram_valid & ram_ready & ram_last),
            quiet.eq(~self.bus.stb & ~ram_valid),
        ]
        with m.If(ram_ready):
            m.d.sync += ram_valid.eq(0)
        with m.If(packer.o.valid & can_write):
            m.d.sync += [
                ram_valid.eq(1),
                ram_address.eq(ram_word),
                ram_word.eq(ram_word + 1),
                ram_data.eq(packer.o.payload.data),
                ram_mask.eq(packer.o.payload.mask),
                ram_last.eq(packer.o.payload.last),
            ]


__all__ = ["BURST_WORDS", "COMMAND_DEPTH", "COMPLETION_DEPTH", "HostDma"]
