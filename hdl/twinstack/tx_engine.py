"""Transmit engine: takes the cores' commands, gathers their frames, inserts checksums, hands whole frames to the MACs."""

from contextlib import contextmanager
from types import SimpleNamespace

from amaranth import *
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from .byte_packer import BytePacker
from .config import EngineConfig
from .interfaces import FrameStream, TxQueuePort, ram_port_for
from .proto.descriptor import FRAME_PAD_BYTES, GATHER_ENTRY, MAX_GATHER, NEXT_HOP, TX_COMMAND, TxOpcode, TxStatus
from .proto.layout import WORD_BITS, WORD_BYTES
from .tx_checksum import ETHERNET_HEADER_BYTES, VLAN_TAG_BYTES, TxChecksum
from .tx_fetch import LOCAL_BITS, REGION_BASES, REGION_LSB, Region, TxFetch, TxRun
from .tx_frame_buffer import LENGTH_BITS, TxFrameBuffer
from .tx_gather import ADDRESS_BITS, GatherCheck, TxPiece, layout_field

FRAME_BUFFER_WORDS = 1024

_COMPLETION_FIELDS = ("status", "done", "owner")
_USED_FIELDS = ("opcode", "next_hop", "port", "gather_count", "gather_address", "epoch", *_COMPLETION_FIELDS)


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


class _Job(data.Struct):
    """A command with its verdict, from the part that takes commands to the part that makes frames."""

    core: 2
    status: 8
    is_outside: 1  # the command does not lie in data RAM: nothing to write back
    is_raw: 1
    port: 4
    place: LOCAL_BITS  # of the command in data RAM
    completion: WORD_BITS  # the word that is written back, as it was
    length: LENGTH_BITS  # bytes of the frame, without pad
    pieces: 4
    half: 1  # of the memory of pieces
    has_hop: 1
    hop: LOCAL_BITS  # of the L2 header in data RAM
    hop_length: 8


class TxEngine(wiring.Component):
    """Executes the TX commands of all cores, in order for each core, in turn between the cores.

    One part takes commands: it reads and checks a command with its gather list wholly, before anything of its frame
    is read. The other makes frames: it fetches the pieces into the port's frame buffer, inserts the checksums there, and
    returns the command as soon as the frame is whole, so that its memory is free. The two work on different commands at
    the same time. A command whose port has no room for the longest frame is put off, and read again when there is, so that
    a slow port does not hold up the commands of other cores, and nobody is overtaken by shorter frames.

    With ``next_hop`` n, entry n - 1 of the core's next-hop table gives the L2 header: its bytes are sent before those of
    the gather list, and count for the frame's length. RAW takes none. A command is refused with

    - BAD_OPCODE: an opcode that is not RAW or GATHER;
    - BAD_PORT: no such port;
    - BAD_GATHER: a gather list with a count of 0 or above 8, unaligned or not in data RAM; an entry of no bytes, or that
      leaves its memory; RAW with a next hop; a next-hop entry that is unaligned, not in data RAM, or of a length other
      than 14 or 18;
    - BAD_LENGTH: a frame below 14 or above ``max_frame_bytes``;
    - OLD_EPOCH: an epoch that is not the core's.

    A refused command gives no frame. A command at a place that is unaligned or outside data RAM (``ring``, ``ring_log2``
    wrong) is not read nor written: it is passed over, and counted in ``refused``.

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
        Bit n: core n is in reset; its commands in progress are dropped, its queue is empty and its consumer index zero.
    epochs : ``In(ArrayLayout(8, cores))``
        Epoch of each core.
    sent0.., refused0.. : ``Out(32)``
        Frames given to a port, and commands returned with a status other than OK, of each core. They wrap.

    Timing
    ------
    While the memory is ready: about 36 cycles for each frame of 60 bytes, and 400 for one of 1,514, back to back; about
    55 more from a lone command to its return. The engine waits for nothing but the memories.

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
        m.submodules.fetch = fetch = TxFetch(config)
        for index in range(config.cores):
            for name in (f"data{index}", f"rx_bank{index}", f"tx_bank{index}"):
                wiring.connect(m, wiring.flipped(getattr(self, name)), getattr(fetch, name))
        m.submodules.pieces = pieces = memory.Memory(shape=TxPiece, depth=2 * MAX_GATHER, init=[])
        # Between the two parts: `give` for one cycle with `job`, while `wanted`.
        link = SimpleNamespace(job=Signal(_Job), give=Signal(), wanted=Signal(), room=Signal(config.ports))
        self._take_commands(m, fetch, pieces, link)
        self._make_frames(m, fetch, pieces, link)
        return m

    @contextmanager
    def _state(self, m, name, cancelled):
        """A state in which the command is dropped when its core is reset."""
        with m.State(name):
            yield
            with m.If(cancelled):
                m.next = "Drop Command"

    def _take_commands(self, m, fetch, pieces, link):
        config = self._config
        cores = range(config.cores)
        queues = [getattr(self, f"queue{index}") for index in cores]

        # --- The command in progress ---
        core = Signal(range(config.cores))
        command = {word: Signal(WORD_BITS, name=f"command{word}") for word in COMMAND_WORDS}
        port, opcode, next_hop, gather_count, gather_address, epoch = (
            layout_field(command, TX_COMMAND, name)
            for name in ("port", "opcode", "next_hop", "gather_count", "gather_address", "epoch")
        )
        status = Signal(TX_COMMAND["status"].width)
        place = Signal(21)  # of the command in data RAM
        core_cancelled = Signal()  # the core was in reset since the command was begun
        cancelled = Signal()
        m.d.comb += cancelled.eq(core_cancelled | self.core_reset.bit_select(core, 1))
        m.d.sync += core_cancelled.eq(cancelled)

        # --- Which core is next ---
        fetched = Array(Signal(16, name=f"fetched{index}") for index in cores)  # commands that the other part has got
        put_off = Signal(config.cores)
        put_off_port = Array(Signal(range(config.ports), name=f"put_off_port{index}") for index in cores)
        was_put_off = Signal()  # the command in progress, before
        eligible = Signal(config.cores)
        for index, queue in enumerate(queues):
            m.d.comb += eligible[index].eq(
                queue.enable
                & (queue.producer != fetched[index])
                & ~self.core_reset[index]
                & (~put_off[index] | link.room.bit_select(put_off_port[index], 1))
            )
        previous = Signal(range(config.cores))  # whose command was given on last
        following = Signal(range(config.cores))
        with m.Switch(previous):
            for last in cores:
                with m.Case(last):
                    # The one served last comes last; assignments further down win.
                    for step in reversed(range(1, config.cores + 1)):
                        candidate = (last + step) % config.cores
                        with m.If(eligible[candidate]):
                            m.d.comb += following.eq(candidate)

        # --- What arrives: the command, then the list, then the next hop's length ---
        arrives = Signal()
        received = Signal(range(len(COMMAND_WORDS) + 1))
        list_words = Signal(range(MAX_GATHER * GATHER_ENTRY.words + 1))  # still to come
        receiving_list = Signal()
        half = Signal()
        has_hop, hop_arrived, hop_length = Signal(), Signal(), Signal(NEXT_HOP["length"].width)
        m.submodules.gather = gather = GatherCheck(config)
        write_piece = pieces.write_port()
        m.d.comb += [
            gather.valid.eq(receiving_list),
            gather.word.eq(fetch.word.data),
            gather.add_bytes.eq(hop_length),
            write_piece.en.eq(gather.piece_valid),
            write_piece.addr.eq(Cat(gather.checked[: MAX_GATHER.bit_length() - 1], half)),
            write_piece.data.eq(gather.piece),
            arrives.eq(fetch.valid & ~fetch.for_frame),
            receiving_list.eq(arrives & (list_words != 0)),
        ]
        with m.If(arrives):
            with m.If(received != len(COMMAND_WORDS)):
                m.d.sync += received.eq(received + 1)
                with m.Switch(received):
                    for index, word in enumerate(COMMAND_WORDS):
                        with m.Case(index):
                            m.d.sync += command[word].eq(fetch.word.data)
            with m.Elif(list_words != 0):
                m.d.sync += list_words.eq(list_words - 1)
            with m.Else():
                m.d.sync += [hop_length.eq(fetch.word.data), hop_arrived.eq(1)]

        # --- The sequence ---
        ring, ring_index = Signal(20), Signal(15)
        offset, length = Signal(LOCAL_BITS), Signal(16)  # of the run that is asked for
        step = Signal(range(len(COMMAND_RUNS)))
        list_end = Signal(REGION_LSB + 1)
        hop, hop_bad = Signal(22), Signal()
        job = link.job
        m.d.comb += [
            # In the order of TxRun: a read from data RAM, not marked as last.
            fetch.command.payload.as_value().eq(Cat(core | C(0, 2), C(Region.DATA.value, 2), offset, length)),
            job.core.eq(core),
            job.status.eq(status),
            job.is_outside.eq(received == 0),
            job.is_raw.eq(opcode == TxOpcode.RAW),
            job.port.eq(port),
            job.place.eq(place),
            job.completion.eq(command[COMPLETION_WORD]),
            job.length.eq(gather.total),
            job.pieces.eq(gather_count),
            job.half.eq(half),
            job.has_hop.eq(has_hop),
            job.hop.eq(hop),
            job.hop_length.eq(hop_length),
        ]

        def state(name):
            return self._state(m, name, cancelled)

        def refuse(reason):
            m.d.sync += status.eq(reason)
            m.next = "Give Command"

        with m.FSM(name="commands"):
            with m.State("Wait for Command"):
                m.d.comb += gather.restart.eq(1)
                m.d.sync += [
                    core_cancelled.eq(0),
                    step.eq(0),
                    received.eq(0),
                    list_words.eq(0),
                    has_hop.eq(0),
                    hop_arrived.eq(0),
                    status.eq(TxStatus.OK),
                ]
                with m.If(eligible.any()):
                    m.d.sync += [
                        core.eq(following),
                        was_put_off.eq(put_off.bit_select(following, 1)),
                        put_off.bit_select(following, 1).eq(0),
                    ]
                    m.next = "Find Ring"

            with state("Find Ring"):
                m.d.sync += [
                    ring.eq(Array(queue.ring for queue in queues)[core]),
                    ring_index.eq(fetched[core] & ((C(1, 16) << Array(queue.ring_log2 for queue in queues)[core]) - 1)),
                ]
                m.next = "Find Command"

            with state("Find Command"):
                m.d.sync += place.eq(ring + ring_index * TX_COMMAND.size_bytes)
                m.next = "Fetch Command"

            with state("Fetch Command"):
                with m.Switch(step):
                    for index, (first, words) in enumerate(COMMAND_RUNS):
                        with m.Case(index):
                            m.d.comb += [offset.eq(place + first * WORD_BYTES), length.eq(words * WORD_BYTES)]
                with m.If((place > config.data_bytes - TX_COMMAND.size_bytes) | (place[:2] != 0)):
                    refuse(TxStatus.BAD_GATHER)
                with m.Else():
                    m.d.comb += fetch.command.valid.eq(1)
                    with m.If(fetch.command.ready):
                        m.d.sync += step.eq(step + 1)
                        with m.If(step == len(COMMAND_RUNS) - 1):
                            m.next = "Receive Command"

            with state("Receive Command"):
                with m.If(received == len(COMMAND_WORDS)):
                    m.next = "Check Command"

            with state("Check Command"):
                list_start = gather_address[:REGION_LSB]
                m.d.sync += [
                    list_end.eq(list_start + gather_count * GATHER_ENTRY.size_bytes),
                    has_hop.eq(next_hop != 0),
                    hop.eq(Array(queue.next_hops for queue in queues)[core] + (next_hop - 1) * NEXT_HOP.size_bytes),
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
                    | ((next_hop != 0) & (opcode == TxOpcode.RAW))
                ):
                    refuse(TxStatus.BAD_GATHER)
                with m.Else():
                    m.next = "Fetch List"

            with state("Fetch List"):
                m.d.comb += [
                    offset.eq(gather_address),
                    length.eq(gather_count * GATHER_ENTRY.size_bytes),
                ]
                with m.If(
                    (list_end > config.data_bytes)
                    | (has_hop & ((hop > config.data_bytes - NEXT_HOP.size_bytes) | (hop[:2] != 0)))
                ):
                    refuse(TxStatus.BAD_GATHER)
                with m.Else():
                    m.d.comb += fetch.command.valid.eq(1)
                    with m.If(fetch.command.ready):
                        m.d.sync += list_words.eq(gather_count * GATHER_ENTRY.words)
                        m.next = "Receive List"
                        with m.If(has_hop):
                            m.next = "Fetch Next Hop"

            with state("Fetch Next Hop"):
                m.d.comb += [
                    fetch.command.valid.eq(1),
                    offset.eq(hop + NEXT_HOP["length"].word * WORD_BYTES),
                    length.eq(WORD_BYTES),
                ]
                with m.If(fetch.command.ready):
                    m.next = "Receive List"

            with state("Receive List"):
                with m.If((gather.checked == gather_count) & (~has_hop | hop_arrived)):
                    m.next = "Check List"
                    with m.If(has_hop):
                        m.next = "Add Next Hop"

            with state("Add Next Hop"):
                m.d.comb += gather.add.eq(1)
                m.d.sync += hop_bad.eq(
                    (hop_length != ETHERNET_HEADER_BYTES) & (hop_length != ETHERNET_HEADER_BYTES + VLAN_TAG_BYTES)
                )
                m.next = "Check List"

            with state("Check List"):
                m.next = "Give Command"
                with m.If(gather.is_bad | (has_hop & hop_bad)):
                    refuse(TxStatus.BAD_GATHER)
                with m.Elif((gather.total < ETHERNET_HEADER_BYTES) | (gather.total > config.max_frame_bytes)):
                    refuse(TxStatus.BAD_LENGTH)
                with m.Elif(epoch != self.epochs[core]):
                    refuse(TxStatus.OLD_EPOCH)

            with state("Give Command"):
                # Who finds others put off for this port lines up with them: then the turn decides.
                lines_up = Signal()
                m.d.comb += lines_up.eq(
                    ~was_put_off & Cat(put_off[index] & (put_off_port[index] == port) for index in cores).any()
                )
                with m.If(link.wanted & ~cancelled):
                    m.next = "Wait for Command"
                    with m.If((status == TxStatus.OK) & (~link.room.bit_select(port, 1) | lines_up)):
                        m.d.sync += [put_off.bit_select(core, 1).eq(1), put_off_port[core].eq(port)]
                    with m.Else():
                        m.d.comb += link.give.eq(1)
                        m.d.sync += [previous.eq(core), fetched[core].eq(fetched[core] + 1), half.eq(~half)]

            with m.State("Drop Command"):
                with m.If(fetch.command_idle):
                    m.d.sync += previous.eq(core)
                    m.next = "Wait for Command"

        for index in cores:
            with m.If(self.core_reset[index]):
                m.d.sync += [fetched[index].eq(0), put_off[index].eq(0)]

    def _make_frames(self, m, fetch, pieces, link):
        config = self._config
        cores, ports = range(config.cores), range(config.ports)
        queues = [getattr(self, f"queue{index}") for index in cores]
        restart = Signal()  # empties the packer
        m.submodules.packer = packer = ResetInserter(restart)(BytePacker())
        m.submodules.checksum = checksum = TxChecksum()
        buffers = []
        for index in ports:
            buffer = TxFrameBuffer(FRAME_BUFFER_WORDS)
            m.submodules[f"buffer{index}"] = buffer
            wiring.connect(m, wiring.flipped(getattr(self, f"frame{index}")), buffer.o)
            buffers.append(buffer)
        longest_words = (config.max_frame_bytes + FRAME_PAD_BYTES + 3) // WORD_BYTES
        # Three cycles after a commit, which is before the next command is wanted.
        m.d.sync += link.room.eq(Cat(buffer.space >= longest_words for buffer in buffers))

        job = Signal(_Job)
        core = job.core[: max(1, (config.cores - 1).bit_length())]
        core_cancelled = Signal()  # the core was in reset since the command was taken
        cancelled = Signal()
        m.d.comb += cancelled.eq(core_cancelled | self.core_reset.bit_select(core, 1))
        m.d.sync += core_cancelled.eq(cancelled)

        # --- Data path: memory, packer, frame buffer and checksum ---
        streaming = Signal()
        frame_written = Signal()
        begun = Signal()
        patch = Signal(checksum.ipv4.shape())
        commit, discard = Signal(), Signal()
        read_piece = pieces.read_port(domain="comb")
        m.d.comb += [
            packer.start.eq(FRAME_PAD_BYTES),
            packer.i.valid.eq(fetch.valid & fetch.for_frame & streaming),
            packer.i.payload.eq(fetch.word),
            packer.o.ready.eq(1),
            checksum.start.eq(begun),
            checksum.length.eq(job.length),
            checksum.valid.eq(packer.o.valid & streaming),
            checksum.word.eq(packer.o.payload.data),
            checksum.last.eq(packer.o.payload.last),
        ]
        m.d.sync += begun.eq(link.give)
        for index, buffer in enumerate(buffers):
            chosen = job.port == index
            m.d.comb += [
                buffer.write.eq(packer.o.valid & streaming & chosen),
                buffer.data.eq(packer.o.payload.data),
                buffer.patch.eq(patch.valid & chosen),
                buffer.patch_offset.eq(patch.offset),
                buffer.patch_value.eq(patch.value),
                buffer.commit.eq(commit & chosen),
                buffer.length.eq(job.length + FRAME_PAD_BYTES),
                buffer.discard.eq(discard & chosen),
            ]
        with m.If(streaming & packer.o.valid & packer.o.payload.last):
            m.d.sync += frame_written.eq(1)

        def count(name):
            counters = Array(getattr(self, f"{name}{index}") for index in cores)
            return counters[core].eq(counters[core] + 1)

        def state(name):
            return self._state(m, name, cancelled)

        # --- The sequence ---
        run = Signal(TxRun)
        step = Signal(range(MAX_GATHER + 1))
        m.d.comb += [
            fetch.frame.payload.eq(run),
            run.core.eq(job.core),
            read_piece.addr.eq(Cat(step[: MAX_GATHER.bit_length() - 1], job.half)),
        ]
        with m.FSM(name="frames"):
            with m.State("Wait for Command"):
                m.d.comb += [restart.eq(1), link.wanted.eq(1)]
                m.d.sync += [core_cancelled.eq(0), step.eq(0), frame_written.eq(0), job.eq(link.job)]
                with m.If(link.give):
                    m.next = "Fetch Frame"
                    with m.If(link.job.status != TxStatus.OK):
                        m.next = "Return Command"
                    with m.Elif(link.job.has_hop):
                        m.next = "Fetch L2 Header"

            with state("Fetch L2 Header"):
                m.d.comb += [
                    streaming.eq(1),
                    fetch.frame.valid.eq(1),
                    run.region.eq(Region.DATA),
                    run.offset.eq(job.hop),
                    run.length.eq(job.hop_length),
                ]
                with m.If(fetch.frame.ready):
                    m.next = "Fetch Frame"

            with state("Fetch Frame"):
                m.d.comb += [
                    streaming.eq(1),
                    fetch.frame.valid.eq(1),
                    run.region.eq(read_piece.data.region),
                    run.offset.eq(read_piece.data.offset),
                    run.length.eq(read_piece.data.length),
                    run.last.eq(step == job.pieces - 1),
                ]
                with m.If(fetch.frame.ready):
                    m.d.sync += step.eq(step + 1)
                    with m.If(run.last):
                        m.next = "Finish Frame"

            with state("Finish Frame"):
                m.d.comb += streaming.eq(1)
                with m.If(frame_written):
                    with m.If(job.is_raw):
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
                m.d.comb += [
                    fetch.frame.valid.eq(~job.is_outside),
                    run.region.eq(Region.DATA),
                    run.offset.eq(job.place + COMPLETION_WORD * WORD_BYTES),
                    run.length.eq(WORD_BYTES),
                    run.write.eq(1),
                    run.data.eq(job.completion),
                ]
                for name, value in (("status", job.status), ("done", 1), ("owner", 0)):
                    m.d.comb += layout_field({COMPLETION_WORD: run.data}, TX_COMMAND, name).eq(value)
                with m.If(fetch.frame.ready | job.is_outside):
                    m.next = "Advance Queue"

            with state("Advance Queue"):
                with m.If(fetch.frame_idle & ~cancelled):
                    with m.Switch(core):
                        for index, queue in enumerate(queues):
                            with m.Case(index):
                                m.d.sync += queue.consumer.eq(queue.consumer + 1)
                    with m.If(job.status != TxStatus.OK):
                        m.d.sync += count("refused")
                    m.next = "Wait for Command"

            with m.State("Drop Command"):
                m.d.comb += [fetch.flush.eq(1), restart.eq(1), discard.eq(1)]
                with m.If(fetch.frame_idle):
                    m.next = "Wait for Command"

        for index, queue in enumerate(queues):
            with m.If(self.core_reset[index]):
                m.d.sync += queue.consumer.eq(0)
