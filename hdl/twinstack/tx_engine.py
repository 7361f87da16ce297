"""Transmit engine: takes the cores' commands, gathers their frames, inserts checksums, hands whole frames to the MACs."""

from contextlib import contextmanager

from amaranth import *
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from .byte_packer import BytePacker
from .config import EngineConfig
from .interfaces import FrameStream, TxQueuePort, ram_port_for
from .proto.descriptor import FRAME_PAD_BYTES, GATHER_ENTRY, MAX_GATHER, TX_COMMAND, TxOpcode, TxStatus
from .proto.layout import WORD_BITS, WORD_BYTES, Layout
from .tx_checksum import ETHERNET_HEADER_BYTES, TxChecksum
from .tx_fetch import LOCAL_BITS, REGION_BASES, REGION_LSB, Region, TxFetch, region_bytes
from .tx_frame_buffer import LENGTH_BITS, TxFrameBuffer

FRAME_BUFFER_WORDS = 1024
ADDRESS_BITS = 31  # bit 31 only selects the uncached alias

_COMPLETION_FIELDS = ("status", "done", "owner")
_USED_FIELDS = ("opcode", "port", "gather_count", "gather_address", "epoch", *_COMPLETION_FIELDS)


def _word_runs(words):
    """Consecutive word numbers as (first, count)."""
    runs = []
    for word in sorted(set(words)):
        if runs and sum(runs[-1]) == word:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((word, 1))
    return runs


COMMAND_RUNS = _word_runs(TX_COMMAND[name].word for name in _USED_FIELDS)
COMMAND_WORDS = [first + step for first, count in COMMAND_RUNS for step in range(count)]
"""Words of a command that RAW and GATHER need; the others are not read."""
(COMPLETION_WORD,) = {TX_COMMAND[name].word for name in _COMPLETION_FIELDS}


def _field(words, layout: Layout, name: str):
    """The bits of a field, from a mapping of word number to signal."""
    field = layout[name]
    return words[field.word][field.lsb : field.lsb + field.width]


class _Piece(data.Struct):
    """A checked entry of the gather list."""

    region: Region
    offset: LOCAL_BITS
    length: 16


class TxEngine(wiring.Component):
    """Executes the TX commands of all cores, one at a time, in round robin.

    A command is checked wholly before anything of its frame is read. The frame goes into the port's frame buffer; as soon as it
    is whole there, the command is returned and its memory is free. A command whose port has no room is put off, and
    read again when there is room for any frame, so that a slow port does not hold up the commands of other cores.

    Parameters
    ----------
    config : EngineConfig

    Members
    -------
    queue0.. : ``In(TxQueuePort())``
        Queue of each core.
    data0.., rx_bank0.., tx_bank0.. : ``Out(RamPort)``
        Memories of each core.
    frame0.. : ``Out(FrameStream)``
        Frames for each port, gapless within a frame; ``error`` is never set.
    core_reset : ``In(cores)``
        Bit n: core n is in reset; its command in progress is dropped, its queue is empty and its consumer index zero.
    epochs : ``In(ArrayLayout(8, cores))``
        Epoch of each core.
    sent0.., refused0.. : ``Out(32)``
        Frames given to a port, and commands returned with a status other than OK, of each core. They wrap.

    Timing
    ------
    One word per cycle while the memory is ready, and about 40 cycles for each command; a frame of 1,514 bytes takes about 420.
    The engine waits for nothing but the memories.

    Raises
    ------
    TypeError
        If ``config`` is not an EngineConfig.
    """

    def __init__(self, config: EngineConfig):
        if not isinstance(config, EngineConfig):
            raise TypeError(f"config must be an EngineConfig, not {config!r}")
        self._config = config
        members = {}
        for core in range(config.cores):
            members |= {
                f"queue{core}": In(TxQueuePort()),
                f"data{core}": Out(ram_port_for(config.data_bytes)),
                f"rx_bank{core}": Out(ram_port_for(config.rx_bank_bytes)),
                f"tx_bank{core}": Out(ram_port_for(config.tx_bank_bytes)),
                f"sent{core}": Out(32),
                f"refused{core}": Out(32),
            }
        for port in range(config.ports):
            members[f"frame{port}"] = Out(FrameStream)
        members |= {"core_reset": In(config.cores), "epochs": In(data.ArrayLayout(8, config.cores))}
        super().__init__(members)

    def elaborate(self, platform):
        m = Module()
        config = self._config
        cores, ports = range(config.cores), range(config.ports)
        queues = [getattr(self, f"queue{index}") for index in cores]

        restart = Signal()  # empties the packer
        m.submodules.fetch = fetch = TxFetch(config)
        m.submodules.packer = packer = ResetInserter(restart)(BytePacker())
        m.submodules.checksum = checksum = TxChecksum()
        buffers = []
        for index in ports:
            buffer = TxFrameBuffer(FRAME_BUFFER_WORDS)
            m.submodules[f"buffer{index}"] = buffer
            wiring.connect(m, wiring.flipped(getattr(self, f"frame{index}")), buffer.o)
            buffers.append(buffer)
        for index in cores:
            for name in (f"data{index}", f"rx_bank{index}", f"tx_bank{index}"):
                wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(fetch, name))

        # --- The command in progress ---
        core = Signal(range(config.cores))
        command = {word: Signal(WORD_BITS, name=f"command{word}") for word in COMMAND_WORDS}
        port = _field(command, TX_COMMAND, "port")
        gather_count = _field(command, TX_COMMAND, "gather_count")
        gather_address = _field(command, TX_COMMAND, "gather_address")
        opcode = _field(command, TX_COMMAND, "opcode")
        status = Signal(TX_COMMAND["status"].width)
        command_offset = Signal(LOCAL_BITS)  # byte in data RAM
        total = Signal(16 + MAX_GATHER.bit_length())  # bytes of the frame
        core_cancelled = Signal()  # the core was in reset since the command was begun
        cancelled = Signal()
        m.d.comb += cancelled.eq(core_cancelled | self.core_reset.bit_select(core, 1))
        m.d.sync += core_cancelled.eq(cancelled)
        m.d.comb += fetch.core.eq(core)

        # --- Which core is next ---
        longest_words = (config.max_frame_bytes + FRAME_PAD_BYTES + 3) // WORD_BYTES
        room = Signal(config.ports)  # the port has room for any frame
        m.d.sync += room.eq(Cat(buffer.space >= longest_words for buffer in buffers))
        put_off = Signal(config.cores)
        put_off_port = Array(Signal(range(config.ports), name=f"put_off_port{index}") for index in cores)
        eligible = Signal(config.cores)
        for index, queue in enumerate(queues):
            m.d.comb += eligible[index].eq(
                queue.enable
                & (queue.producer != queue.consumer)
                & ~self.core_reset[index]
                & (~put_off[index] | room.bit_select(put_off_port[index], 1))
            )
        previous = Signal(range(config.cores))  # whose command was returned last
        following = Signal(range(config.cores))
        with m.Switch(previous):
            for last in cores:
                with m.Case(last):
                    # The one served last comes last; assignments further down win.
                    for step in reversed(range(1, config.cores + 1)):
                        candidate = (last + step) % config.cores
                        with m.If(eligible[candidate]):
                            m.d.comb += following.eq(candidate)

        # --- The gather list: checked in three steps as it arrives ---
        m.submodules.pieces = pieces = memory.Memory(shape=_Piece, depth=MAX_GATHER, init=[])
        write_piece = pieces.write_port()
        read_piece = pieces.read_port(domain="comb")
        receiving_list = Signal()
        entry = {word: Signal(WORD_BITS, name=f"entry{word}") for word in range(GATHER_ENTRY.words)}
        entry_word = Signal(range(GATHER_ENTRY.words))
        entry_whole, entry_located = Signal(), Signal()
        located, located_ok, located_end = Signal(_Piece), Signal(), Signal(REGION_LSB + 1)
        checked = Signal(range(MAX_GATHER + 1))  # entries
        bad_entry = Signal()
        m.d.sync += [entry_whole.eq(0), entry_located.eq(0)]
        with m.If(receiving_list & fetch.valid):
            with m.Switch(entry_word):
                for word, value in entry.items():
                    with m.Case(word):
                        m.d.sync += value.eq(fetch.word.data)
            with m.If(entry_word == GATHER_ENTRY.words - 1):
                m.d.sync += [entry_word.eq(0), entry_whole.eq(1)]
            with m.Else():
                m.d.sync += entry_word.eq(entry_word + 1)
        address = _field(entry, GATHER_ENTRY, "address")
        length = _field(entry, GATHER_ENTRY, "length")
        with m.If(entry_whole):
            m.d.sync += [
                entry_located.eq(1),
                located.offset.eq(address),
                located.length.eq(length),
                located_end.eq(address[:REGION_LSB] + length),
                located_ok.eq(0),
            ]
            for region, base in REGION_BASES.items():
                with m.If(address[REGION_LSB:ADDRESS_BITS] == base >> REGION_LSB):
                    m.d.sync += [located.region.eq(region), located_ok.eq(length != 0)]
        limit = Signal(REGION_LSB + 1)
        with m.Switch(located.region):
            for region, size in region_bytes(config).items():
                with m.Case(region):
                    m.d.comb += limit.eq(size)
        m.d.comb += [
            write_piece.en.eq(entry_located),
            write_piece.addr.eq(checked),
            write_piece.data.eq(located),
        ]
        with m.If(entry_located):
            m.d.sync += [checked.eq(checked + 1), total.eq(total + located.length)]
            with m.If(~located_ok | (located_end > limit)):
                m.d.sync += bad_entry.eq(1)

        # --- Data path: memory, packer, frame buffer and checksum ---
        streaming = Signal()
        frame_written = Signal()
        frame_bytes = Signal(LENGTH_BITS)  # with pad
        patch = Signal(checksum.ipv4.shape())
        commit, discard = Signal(), Signal()
        m.d.comb += [
            packer.start.eq(FRAME_PAD_BYTES),
            packer.i.valid.eq(fetch.valid & streaming),
            packer.i.payload.eq(fetch.word),
            packer.o.ready.eq(1),
            checksum.length.eq(total),
            checksum.valid.eq(packer.o.valid & streaming),
            checksum.word.eq(packer.o.payload.data),
            checksum.last.eq(packer.o.payload.last),
        ]
        for index, buffer in enumerate(buffers):
            chosen = port == index
            m.d.comb += [
                buffer.write.eq(packer.o.valid & streaming & chosen),
                buffer.data.eq(packer.o.payload.data),
                buffer.patch.eq(patch.valid & chosen),
                buffer.patch_offset.eq(patch.offset),
                buffer.patch_value.eq(patch.value),
                buffer.commit.eq(commit & chosen),
                buffer.length.eq(frame_bytes),
                buffer.discard.eq(discard & chosen),
            ]

        # --- The sequence ---
        def count(name):
            counters = Array(getattr(self, f"{name}{index}") for index in cores)
            return counters[core].eq(counters[core] + 1)

        @contextmanager
        def state(name):
            """A state in which the command is dropped when its core is reset."""
            with m.State(name):
                yield
                with m.If(cancelled):
                    m.next = "Drop Command"

        def refuse(reason):
            m.d.sync += status.eq(reason)
            m.next = "Return Command"

        ring, ring_index = Signal(LOCAL_BITS), Signal(16)
        run = fetch.i.payload
        step = Signal(range(max(MAX_GATHER, len(COMMAND_RUNS)) + 1))
        received = Signal(range(len(COMMAND_WORDS) + 1))
        list_bytes = Signal(range(MAX_GATHER * GATHER_ENTRY.size_bytes + 1))
        list_end = Signal(REGION_LSB + 1)
        needed_words = Signal(LENGTH_BITS - 1)

        with m.FSM():
            with m.State("Wait for Command"):
                m.d.comb += restart.eq(1)
                m.d.sync += [
                    core_cancelled.eq(0),
                    step.eq(0),
                    received.eq(0),
                    checked.eq(0),
                    entry_word.eq(0),
                    bad_entry.eq(0),
                    total.eq(0),
                    frame_written.eq(0),
                    status.eq(TxStatus.OK),
                ]
                with m.If(eligible.any()):
                    m.d.sync += [core.eq(following), put_off.bit_select(following, 1).eq(0)]
                    m.next = "Find Ring"

            with state("Find Ring"):
                m.d.sync += [
                    ring.eq(Array(queue.ring for queue in queues)[core]),
                    ring_index.eq(
                        Array(queue.consumer for queue in queues)[core]
                        & ((C(1, 16) << Array(queue.ring_log2 for queue in queues)[core]) - 1)
                    ),
                ]
                m.next = "Find Command"

            with state("Find Command"):
                m.d.sync += command_offset.eq(ring + ring_index * TX_COMMAND.size_bytes)
                m.next = "Fetch Command"

            with state("Fetch Command"):
                m.d.comb += fetch.i.valid.eq(1)
                with m.Switch(step):
                    for index, (first, words) in enumerate(COMMAND_RUNS):
                        with m.Case(index):
                            m.d.comb += [
                                run.offset.eq(command_offset + first * WORD_BYTES),
                                run.length.eq(words * WORD_BYTES),
                            ]
                with m.If(fetch.i.ready):
                    m.d.sync += step.eq(step + 1)
                    with m.If(step == len(COMMAND_RUNS) - 1):
                        m.d.sync += step.eq(0)
                        m.next = "Receive Command"

            with state("Receive Command"):
                with m.If(received == len(COMMAND_WORDS)):
                    m.next = "Check Command"

            with state("Check Command"):
                m.d.sync += [
                    list_bytes.eq(gather_count * GATHER_ENTRY.size_bytes),
                    list_end.eq(gather_address[:REGION_LSB] + gather_count * GATHER_ENTRY.size_bytes),
                ]
                with m.If((opcode != TxOpcode.RAW) & (opcode != TxOpcode.GATHER)):
                    refuse(TxStatus.BAD_OPCODE)
                with m.Elif(port >= config.ports):
                    refuse(TxStatus.BAD_PORT)
                with m.Elif(
                    (gather_count == 0)
                    | (gather_count > MAX_GATHER)
                    | (gather_address[:2] != 0)
                    | (gather_address[REGION_LSB:ADDRESS_BITS] != REGION_BASES[Region.DATA] >> REGION_LSB)
                ):
                    refuse(TxStatus.BAD_GATHER)
                with m.Else():
                    m.next = "Fetch List"

            with state("Fetch List"):
                m.d.comb += [
                    run.region.eq(Region.DATA),
                    run.offset.eq(gather_address),
                    run.length.eq(list_bytes),
                ]
                with m.If(list_end > config.data_bytes):
                    refuse(TxStatus.BAD_GATHER)
                with m.Else():
                    m.d.comb += fetch.i.valid.eq(1)
                    with m.If(fetch.i.ready):
                        m.next = "Receive List"

            with state("Receive List"):
                m.d.comb += receiving_list.eq(1)
                with m.If(checked == gather_count):
                    m.next = "Check List"

            with state("Check List"):
                m.d.sync += [
                    frame_bytes.eq(total + FRAME_PAD_BYTES),
                    needed_words.eq((total + FRAME_PAD_BYTES + 3) >> 2),
                ]
                with m.If(bad_entry):
                    refuse(TxStatus.BAD_GATHER)
                with m.Elif((total < ETHERNET_HEADER_BYTES) | (total > config.max_frame_bytes)):
                    refuse(TxStatus.BAD_LENGTH)
                with m.Elif(_field(command, TX_COMMAND, "epoch") != self.epochs[core]):
                    refuse(TxStatus.OLD_EPOCH)
                with m.Else():
                    m.next = "Find Room"

            with state("Find Room"):
                m.d.comb += checksum.start.eq(1)
                with m.If(Array(buffer.space for buffer in buffers)[port] >= needed_words):
                    m.next = "Fetch Frame"
                with m.Else():
                    m.d.sync += [put_off.bit_select(core, 1).eq(1), put_off_port[core].eq(port)]
                    m.next = "Wait for Command"

            with state("Fetch Frame"):
                m.d.comb += [
                    streaming.eq(1),
                    read_piece.addr.eq(step),
                    fetch.i.valid.eq(1),
                    run.region.eq(read_piece.data.region),
                    run.offset.eq(read_piece.data.offset),
                    run.length.eq(read_piece.data.length),
                    run.last.eq(step == gather_count - 1),
                ]
                with m.If(fetch.i.ready):
                    m.d.sync += step.eq(step + 1)
                    with m.If(run.last):
                        m.next = "Finish Frame"

            with state("Finish Frame"):
                m.d.comb += streaming.eq(1)
                with m.If(frame_written):
                    with m.If(opcode == TxOpcode.RAW):
                        m.next = "Commit Frame"
                    with m.Elif(checksum.done):
                        m.next = "Patch IPv4 Checksum"

            with state("Patch IPv4 Checksum"):
                m.d.comb += patch.eq(checksum.ipv4)
                m.next = "Patch L4 Checksum"

            with state("Patch L4 Checksum"):
                m.d.comb += patch.eq(checksum.l4)
                m.next = "Commit Frame"

            with state("Commit Frame"):
                with m.If(~cancelled):
                    m.d.comb += commit.eq(1)
                    m.d.sync += count("sent")
                m.next = "Return Command"

            with state("Return Command"):
                completion = command[COMPLETION_WORD]
                m.d.comb += [
                    fetch.i.valid.eq(1),
                    run.region.eq(Region.DATA),
                    run.offset.eq(command_offset + COMPLETION_WORD * WORD_BYTES),
                    run.length.eq(WORD_BYTES),
                    run.write.eq(1),
                    run.data.eq(completion),
                ]
                for name, value in (("status", status), ("done", 1), ("owner", 0)):
                    m.d.comb += _field({COMPLETION_WORD: run.data}, TX_COMMAND, name).eq(value)
                with m.If(fetch.i.ready):
                    m.next = "Advance Queue"

            with state("Advance Queue"):
                with m.If(fetch.idle & ~cancelled):
                    m.d.sync += previous.eq(core)
                    with m.Switch(core):
                        for index, queue in enumerate(queues):
                            with m.Case(index):
                                m.d.sync += queue.consumer.eq(queue.consumer + 1)
                    with m.If(status != TxStatus.OK):
                        m.d.sync += count("refused")
                    m.next = "Wait for Command"

            with m.State("Drop Command"):
                m.d.comb += [fetch.flush.eq(1), restart.eq(1), discard.eq(1)]
                with m.If(fetch.idle):
                    m.d.sync += previous.eq(core)
                    m.next = "Wait for Command"

        # Words of the command arrive while it is being fetched and after.
        with m.If(fetch.valid & (received != len(COMMAND_WORDS))):
            m.d.sync += received.eq(received + 1)
            with m.Switch(received):
                for index, word in enumerate(COMMAND_WORDS):
                    with m.Case(index):
                        m.d.sync += command[word].eq(fetch.word.data)
        with m.If(streaming & packer.o.valid & packer.o.payload.last):
            m.d.sync += frame_written.eq(1)

        for index, queue in enumerate(queues):
            with m.If(self.core_reset[index]):
                m.d.sync += [queue.consumer.eq(0), put_off[index].eq(0)]
        return m
