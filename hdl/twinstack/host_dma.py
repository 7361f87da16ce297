"""Host DMA engine: moves bytes between host memory and the cores' packet memory, within the bounds of both."""

from types import SimpleNamespace

from amaranth import *
from amaranth.lib import data, enum, fifo, memory, wiring
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
TURN_BYTES = 1024
"""A core's turn ends at multiples of this in host memory, so that the other cores get theirs."""
TIMEOUT_CYCLES = 4096
"""An access that the host bus has not answered by then is given up as a bus error."""

STATUS_DONE = 0
STATUS_OUTSIDE_BANKS = 1
STATUS_OUTSIDE_WINDOWS = 2
STATUS_BUS_ERROR = 3

_BANK_BITS = 24  # a bank's region of the memory map: bits 30:24 name it
_STAGE_DEPTH = 4

CycleType = wishbone.CycleType


class Phase(enum.Enum, shape=4):
    """What the engine is doing; for proofs."""

    IDLE = 0
    LOAD = 1
    START_CHECK = 2
    CHECK = 3
    MEASURE = 4
    BEGIN = 5
    MOVE = 6
    FLUSH = 7
    COMPLETE = 8


class _Command(data.Struct):
    local: 32
    host_address: 32
    length: 16
    tag: 14
    host: 2


class _Walk:
    """A run of bytes, taken word by word. Each side of a transfer has its own: whatever the data path between them does,
    neither leaves its bounds."""

    def __init__(self, name: str, word_bits: int, most: int):
        self.word = Signal(word_bits, name=f"{name}_word")
        self.lane = Signal(2, name=f"{name}_lane")
        self.remaining = Signal(range(most + 1), name=f"{name}_remaining")
        self.some = Signal(name=f"{name}_some")  # bytes remain
        self.last = Signal(name=f"{name}_last")  # this word is the last
        self.count = Signal(3, name=f"{name}_count")
        self.mask = Signal(4, name=f"{name}_mask")
        self.step = Signal(name=f"{name}_step")  # one cycle: on to the next word

    def connect(self, m: Module) -> None:
        room = Signal(3, name="room")
        m.d.comb += [
            room.eq(4 - self.lane),
            self.some.eq(self.remaining != 0),
            self.last.eq(self.remaining <= room),
            self.count.eq(Mux(self.last, self.remaining, room)),
            self.mask.eq(Cat((n >= self.lane) & (n < self.lane + self.count) for n in range(4))),
        ]
        with m.If(self.step):
            m.d.sync += [
                self.word.eq(self.word + 1),
                self.lane.eq(0),
                self.remaining.eq(self.remaining - self.count),
            ]

    def begin(self, address: Value, length: Value):
        return [self.word.eq(address >> 2), self.lane.eq(address[:2]), self.remaining.eq(length)]


class _Status(data.Struct):
    tag: 14
    status: 2


class HostDma(wiring.Component):
    """One direction of the host DMA engine.

    Each core queues transfers of any byte alignment and length, which are carried out in order. Cores take turns: a
    turn is one transfer's bytes up to the next multiple of ``TURN_BYTES`` in host memory. A transfer outside the core's
    banks or the host's windows touches nothing. The windows are checked, for all its bytes, when a transfer begins; a
    window that shrinks does not stop it. A completion is given when the last word was acknowledged by its destination.
    After a bus error some of the bytes may have been moved.

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
        Registered-feedback bursts (Wishbone B4, 4.3). Byte enables show exactly the bytes of the transfer. Bursts end
        at 256-byte boundaries, where ``cyc`` pauses for one cycle. An access without an answer is withdrawn after
        ``TIMEOUT_CYCLES``, the wait for an arbiter included; its transfer completes as a bus error. The slave must
        take the end of ``cyc`` as the end of the access, and not answer later.
    windows : ``In(ArrayLayout(HostWindow, 4))``
    core_reset : ``In(cores)``
        Drops the core's transfers and completions. One in progress stops: from the second cycle on no access begins; one
        in flight on the bus, and one at the bank, still end.
    busy : ``Out(1)``
        A transfer runs or waits.
    core_busy : ``Out(cores)``
        Bit n: a transfer of core n runs or waits. While core n is in reset: an access of its own is still in flight,
        for at most ``TIMEOUT_CYCLES`` and a few more; who holds the reset until this is low gets no write after it.

    Timing
    ------
    If memory and bus answer at once: about 20 cycles for each transfer, 1 for each word, 1 for each burst, and 13 for
    each turn: 0.93 words a cycle. A turn takes at most 280 cycles, so a core waits for at most
    ``280 * (cores - 1)``.

    Raises
    ------
    TypeError, ValueError
        If ``config`` is not an EngineConfig, or ``direction`` neither "in" nor "out".
    """

    BURST_WORDS = BURST_WORDS
    TURN_BYTES = TURN_BYTES
    TIMEOUT_CYCLES = TIMEOUT_CYCLES

    def __init__(self, config: EngineConfig, direction: str):
        if not isinstance(config, EngineConfig):
            raise TypeError(f"config must be an EngineConfig, not {config!r}")
        if direction not in ("in", "out"):
            raise ValueError(f'direction must be "in" or "out", not {direction!r}')
        self._config = config
        self._is_out = direction == "out"
        # Here, not in elaborate(), so that proofs can see them.
        self._inside = SimpleNamespace(
            phase=Signal(Phase),
            command=Signal(_Command),
            core=Signal(range(config.cores)),
            dropped=Signal(),  # the core of the transfer was reset meanwhile
            failed=Signal(),
            ended=Signal(),  # the last word of the turn was acknowledged
            rest=Signal(16),  # bytes after this turn
            waited=Signal(range(self.TIMEOUT_CYCLES)),  # for the bus's answer
            expired=Signal(),
            partial=Signal(config.cores),  # the core's oldest transfer goes on from the saved command
            queued=Signal(config.cores),
            turn=Signal(range(self.TURN_BYTES + 1)),  # bytes of this turn
            end=Signal(_BANK_BITS + 1),
            in_tx=Signal(),
            in_rx=Signal(),
            in_bank=Signal(),
            is_tx=Signal(),
            bus=_Walk("bus", 30, self.TURN_BYTES),
            bank=_Walk("bank", _BANK_BITS - 2, self.TURN_BYTES),
            check=self._window_check(),
        )
        members = {
            "bus": Out(wishbone_signature()),
            "windows": In(data.ArrayLayout(HostWindow, WINDOWS)),
            "core_reset": In(config.cores),
            "busy": Out(1),
            "core_busy": Out(config.cores),
        }
        for core in range(config.cores):
            members[f"queue{core}"] = In(DmaPort())
            members[f"tx_bank{core}"] = Out(ram_port_for(config.tx_bank_bytes))
            if self._is_out:
                members[f"rx_bank{core}"] = Out(ram_port_for(config.rx_bank_bytes))
        super().__init__(members)

    # The decisions that the proofs are about; tests override them with wrong ones.

    def _window_check(self) -> WindowCheck:
        return WindowCheck()

    def _host_exists(self, host: Value) -> Value:
        return host < self._config.hosts

    def _fits(self, end: Value, size: int) -> Value:
        return end <= size

    def _stops(self, reset: Value, ended: Value, failed: Value) -> Value:
        return reset | ended | failed

    def elaborate(self, platform):
        m = Module()
        cores = self._config.cores
        inside = self._inside

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
            m.d.comb += inside.queued[core].eq(queue.r_rdy)
            commands.append(_Command(queue.r_data))

        # --- The transfer that runs ------------------------------------------------------------------------------
        command, core = inside.command, inside.core
        partial, dropped, failed = inside.partial, inside.dropped, inside.failed
        core_mask = Signal(cores)
        status = Signal(2)
        waiting = Signal(cores)
        chosen = Signal(range(cores))
        head = Signal(_Command)
        m.d.comb += [core_mask.eq(1 << core), waiting.eq((inside.queued | partial) & ~self.core_reset)]
        with m.Switch(core):
            for number, oldest in enumerate(commands):
                with m.Case(number):
                    m.d.comb += head.eq(oldest)
                    for step in reversed(range(1, cores + 1)):
                        candidate = (number + step) % cores
                        with m.If(waiting[candidate]):
                            m.d.comb += chosen.eq(candidate)
        resets = (self.core_reset & core_mask).any()
        with m.If(resets):
            m.d.sync += dropped.eq(1)

        saved = self._saved(m)
        save, load = saved.write_port(), saved.read_port(domain="comb")
        m.submodules.check = check = inside.check
        m.d.comb += [
            check.address.eq(command.host_address),
            check.length.eq(command.length),
            check.write.eq(int(self._is_out)),
            check.windows.eq(self.windows),
            save.addr.eq(core),
            load.addr.eq(core),
        ]
        region = command.local[_BANK_BITS:31]
        offset = command.local[:_BANK_BITS]
        end, in_tx, in_rx, in_bank = inside.end, inside.in_tx, inside.in_rx, inside.in_bank
        m.d.sync += [
            end.eq(offset + command.length),
            in_tx.eq((region == TX_BANK_BASE >> _BANK_BITS) & self._fits(end, self._config.tx_bank_bytes)),
            in_rx.eq((region == RX_BANK_BASE >> _BANK_BITS) & self._fits(end, self._config.rx_bank_bytes)),
            in_bank.eq((in_tx | (in_rx if self._is_out else 0)) & (command.length != 0)),
        ]
        # A turn ends at the transfer's end, or where host memory has a multiple of TURN_BYTES.
        turn = inside.turn
        turn_bits = self.TURN_BYTES.bit_length() - 1
        place = command.host_address[:turn_bits]
        rest = inside.rest

        # --- Data path -------------------------------------------------------------------------------------------
        path = SimpleNamespace(
            stopping=Signal(),  # no new access
            quiet=Signal(),  # no access in flight
            finished=Signal(),
            launch=Signal(),  # one cycle: the next word goes on the bus
            can_launch=Signal(),
            in_flight=Signal(PackInput),  # bytes of the word that the source is asked for
            ram_valid=Signal(),
            ram_ready=Signal(),
        )
        begin = Signal()
        flush = Signal()
        m.submodules.stage = path.stage = stage = ResetInserter(flush)(
            fifo.SyncFIFO(width=Shape.cast(PackInput).width, depth=_STAGE_DEPTH)
        )
        m.submodules.packer = path.packer = packer = ResetInserter(flush)(BytePacker())
        bus_walk, bank_walk = inside.bus, inside.bank
        source, destination = (bank_walk, bus_walk) if self._is_out else (bus_walk, bank_walk)
        start = Signal(2)  # the packer looks at this with its first word, when the destination has not begun
        for walk in (bus_walk, bank_walk):
            walk.connect(m)
        m.d.comb += [
            packer.i.valid.eq(stage.r_rdy),
            packer.i.payload.eq(stage.r_data),
            stage.r_en.eq(packer.i.ready),
            packer.start.eq(start),
            start.eq(command.host_address if self._is_out else command.local),
        ]
        with m.If(source.step):
            m.d.sync += [
                path.in_flight.offset.eq(source.lane),
                path.in_flight.count.eq(source.count),
                path.in_flight.last.eq(source.last),
            ]

        answered = self.bus.ack | self.bus.err
        burst_ends = Signal()  # with the word on the bus
        next_ends = Signal()
        waited, expired = inside.waited, inside.expired
        m.d.comb += [
            path.can_launch.eq(~path.stopping & (~self.bus.stb | (self.bus.ack & ~self.bus.err & ~burst_ends))),
            next_ends.eq(bus_walk.last | (bus_walk.word[: self.BURST_WORDS.bit_length() - 1] == self.BURST_WORDS - 1)),
            bus_walk.step.eq(path.launch),
        ]
        m.d.sync += [
            waited.eq(Mux(self.bus.stb & ~answered, waited + 1, 0)),
            expired.eq(self.bus.stb & ~answered & (waited == self.TIMEOUT_CYCLES - 2)),
        ]
        with m.If(self.bus.stb & (answered | expired)):
            m.d.sync += self.bus.stb.eq(0)
            with m.If(burst_ends | ~self.bus.ack | self.bus.err):
                m.d.sync += self.bus.cyc.eq(0)
            with m.If(~self.bus.ack | self.bus.err):
                m.d.sync += failed.eq(1)
        with m.If(path.launch):
            m.d.sync += [
                self.bus.cyc.eq(1),
                self.bus.stb.eq(1),
                self.bus.adr.eq(bus_walk.word),
                self.bus.sel.eq(bus_walk.mask),
                burst_ends.eq(next_ends),
                self.bus.cti.eq(
                    Mux(
                        next_ends,
                        Mux(self.bus.cyc, CycleType.END_OF_BURST.value, CycleType.CLASSIC.value),
                        CycleType.INCR_BURST.value,
                    )
                ),
            ]
        if self._is_out:
            self._connect_out(m, path)
        else:
            self._connect_in(m, path)
        with m.If(begin):
            m.d.sync += [
                *bus_walk.begin(command.host_address, turn),
                *bank_walk.begin(offset, turn),
                inside.is_tx.eq(region == TX_BANK_BASE >> _BANK_BITS),
                rest.eq(command.length - turn),
            ]
        with m.If(flush):
            m.d.sync += [
                bus_walk.remaining.eq(0),
                bank_walk.remaining.eq(0),
                self.bus.cyc.eq(0),
                self.bus.cti.eq(CycleType.CLASSIC.value),
            ]

        # --- Sequence --------------------------------------------------------------------------------------------
        moving = Signal()
        running = Signal()
        phase = inside.phase
        m.d.comb += [
            path.stopping.eq(~moving | self._stops(dropped, inside.ended, failed)),
            completed.tag.eq(command.tag),
            completed.status.eq(status),
            running.eq(phase != Phase.IDLE),
            self.core_busy.eq(inside.queued | partial | Mux(running, core_mask, 0)),
            self.busy.eq(self.core_busy.any()),
            save.data.eq(command),
            save.data.local[:_BANK_BITS].eq(offset + turn),
            save.data.host_address.eq(Cat(C(0, turn_bits), command.host_address[turn_bits:] + 1)),
            save.data.length.eq(rest),
        ]
        with m.FSM():
            with m.State("Idle"):
                m.d.comb += phase.eq(Phase.IDLE)
                with m.If(waiting.any()):
                    m.d.sync += core.eq(chosen)
                    m.next = "Load"
            with m.State("Load"):
                m.d.comb += phase.eq(Phase.LOAD)
                m.d.sync += [command.eq(head), dropped.eq(0), failed.eq(0), inside.ended.eq(0)]
                m.d.sync += status.eq(STATUS_DONE)
                m.next = "Idle"
                with m.If((waiting & core_mask).any()):
                    with m.If((partial & core_mask).any()):
                        m.d.sync += command.eq(load.data)
                        m.next = "Measure"
                    with m.Else():
                        m.d.comb += takes.eq(core_mask)
                        m.next = "Start Check"
            with m.State("Start Check"):
                m.d.comb += [phase.eq(Phase.START_CHECK), check.start.eq(1)]
                m.next = "Check"
            with m.State("Check"):
                # Longer than the bank check, which is three registers deep.
                m.d.comb += phase.eq(Phase.CHECK)
                with m.If(check.done):
                    m.next = "Complete"
                    with m.If(~in_bank):
                        m.d.sync += status.eq(STATUS_OUTSIDE_BANKS)
                    with m.Elif(~check.ok | ~self._host_exists(command.host)):
                        m.d.sync += status.eq(STATUS_OUTSIDE_WINDOWS)
                    with m.Else():
                        m.next = "Measure"
            with m.State("Measure"):
                m.d.comb += phase.eq(Phase.MEASURE)
                m.d.sync += turn.eq(
                    Mux(command.length > self.TURN_BYTES - place, self.TURN_BYTES - place, command.length)
                )
                m.next = "Begin"
            with m.State("Begin"):
                m.d.comb += [phase.eq(Phase.BEGIN), begin.eq(1)]
                m.next = "Move"
            with m.State("Move"):
                m.d.comb += [phase.eq(Phase.MOVE), moving.eq(1)]
                with m.If(path.finished):
                    m.d.sync += inside.ended.eq(1)
                with m.If(self._stops(dropped, inside.ended, failed) & path.quiet):
                    m.next = "Flush"
            with m.State("Flush"):
                m.d.comb += [phase.eq(Phase.FLUSH), flush.eq(1)]
                m.d.sync += partial.eq(partial & ~core_mask)
                m.next = "Complete"
                with m.If(failed):
                    m.d.sync += status.eq(STATUS_BUS_ERROR)
                with m.Elif((rest != 0) & ~dropped):
                    m.d.comb += save.en.eq(1)
                    m.d.sync += partial.eq(partial | core_mask)
                    m.next = "Idle"
            with m.State("Complete"):
                m.d.comb += phase.eq(Phase.COMPLETE)
                with m.If(~dropped & ~resets):
                    m.d.comb += completes.eq(core_mask)
                m.next = "Idle"
        for number in range(cores):
            with m.If(self.core_reset[number]):
                m.d.sync += partial[number].eq(0)
        return m

    def _saved(self, m):
        """What is left of each core's transfer between its turns."""
        m.submodules.saved = saved = memory.Memory(shape=_Command, depth=self._config.cores, init=[])
        return saved

    def _connect_out(self, m, path):
        """Banks to bus."""
        bank, bus, core, is_tx = self._inside.bank, self._inside.bus, self._inside.core, self._inside.is_tx
        stage, packer = path.stage, path.packer
        returns = Signal()  # the bank's answer is on read_data
        holds = Signal()  # a request that was not accepted must stay
        answer = Signal(32)
        arrived = Signal(PackInput)
        for number in range(self._config.cores):
            for selected, ram in (
                (is_tx, getattr(self, f"tx_bank{number}")),
                (~is_tx, getattr(self, f"rx_bank{number}")),
            ):
                m.d.comb += [ram.valid.eq(path.ram_valid & selected & (core == number)), ram.address.eq(bank.word)]
                with m.If(selected & (core == number)):
                    m.d.comb += [path.ram_ready.eq(ram.ready), answer.eq(ram.read_data)]
        m.d.comb += [
            path.ram_valid.eq(bank.some & (stage.level + returns < _STAGE_DEPTH) & (~path.stopping | holds)),
            bank.step.eq(path.ram_valid & path.ram_ready),
            arrived.eq(path.in_flight),
            arrived.data.eq(answer),
            stage.w_data.eq(arrived),
            stage.w_en.eq(returns),
        ]
        m.d.sync += [returns.eq(bank.step), holds.eq(path.ram_valid & ~path.ram_ready)]

        last_on_bus = Signal()
        m.d.comb += [
            path.launch.eq(path.can_launch & packer.o.valid & bus.some),
            packer.o.ready.eq(path.can_launch),
            self.bus.we.eq(1),
            path.finished.eq(self.bus.stb & self.bus.ack & ~self.bus.err & last_on_bus),
            path.quiet.eq(~self.bus.stb & ~path.ram_valid & ~returns),
        ]
        with m.If(path.launch):
            m.d.sync += [self.bus.dat_w.eq(packer.o.payload.data), last_on_bus.eq(bus.last)]

    def _connect_in(self, m, path):
        """Bus to TX banks."""
        bank, bus, core = self._inside.bank, self._inside.bus, self._inside.core
        stage, packer = path.stage, path.packer
        arrived = Signal(PackInput)
        m.d.comb += [
            path.launch.eq(path.can_launch & bus.some & (stage.level + self.bus.stb < _STAGE_DEPTH)),
            arrived.eq(path.in_flight),
            arrived.data.eq(self.bus.dat_r),
            stage.w_data.eq(arrived),
            stage.w_en.eq(self.bus.stb & self.bus.ack & ~self.bus.err),
        ]

        ram_data = Signal(32)
        ram_mask = Signal(4)
        ram_last = Signal()
        ram_address = Signal.like(bank.word)
        for number in range(self._config.cores):
            ram = getattr(self, f"tx_bank{number}")
            m.d.comb += [
                ram.valid.eq(path.ram_valid & (core == number)),
                ram.write.eq(1),
                ram.address.eq(ram_address),
                ram.data.eq(ram_data),
                ram.mask.eq(ram_mask),
            ]
            with m.If(core == number):
                m.d.comb += path.ram_ready.eq(ram.ready)
        can_write = Signal()
        m.d.comb += [
            can_write.eq(~path.stopping & (~path.ram_valid | path.ram_ready)),
            packer.o.ready.eq(can_write),
            bank.step.eq(packer.o.valid & can_write & bank.some),
            path.finished.eq(path.ram_valid & path.ram_ready & ram_last),
            path.quiet.eq(~self.bus.stb & ~path.ram_valid),
        ]
        with m.If(path.ram_ready):
            m.d.sync += path.ram_valid.eq(0)
        with m.If(bank.step):
            m.d.sync += [
                path.ram_valid.eq(1),
                ram_address.eq(bank.word),
                ram_data.eq(packer.o.payload.data),
                ram_mask.eq(bank.mask),
                ram_last.eq(bank.last),
            ]


__all__ = ["BURST_WORDS", "COMMAND_DEPTH", "COMPLETION_DEPTH", "TIMEOUT_CYCLES", "TURN_BYTES", "HostDma"]
