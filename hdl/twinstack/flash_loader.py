"""Boots firmware from flash, and takes it from the host: every word of code memory passes the hardware's CRC-32.

What it does in which order stands in docs/flash.md, its registers in :mod:`.proto.flash_map`.
"""

from __future__ import annotations

from amaranth import *
from amaranth.lib import memory, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .config import EngineConfig
from .crc32 import fcs_processor
from .host_gate import CSR_ADDRESS_BITS, HostGate
from .proto import flash_map
from .proto.abi import ABI_VERSION
from .proto.flash_map import Command, Error, FlashLayout, SlotResult, Source
from .proto.image import IMAGE_HEADER_BYTES, IMAGE_MAGIC
from .proto.registers import ENGINE, register_offset
from .soc import wishbone_signature
from .spi_flash import READ_HZ, FlashCommand, SpiFlash, SpiPins

LOADER_ADDRESS_BITS = 14
BUS_CYCLES = 60
"""Longest access to the engine's registers; a word of the flash takes at least 68."""
BUFFER_WORDS = flash_map.PAGE_BYTES // 4


class FlashLoader(wiring.Component):
    """Loader of firmware, between the host and the engine's registers.

    Parameters
    ----------
    config : EngineConfig
        The engine: an image must be for its memories.
    layout : FlashLayout
        Where the slots are.
    default_image : bool
        The bitstream carries an image in code memory. The engine itself must not start it (``autostart=False``).
    spi_hz : int
        Highest clock of the flash.
    timeout_cycles : int
        Longest time for which the flash may be busy; default: four seconds.

    Members
    -------
    pins : ``Out(SpiPins())``
        To the flash.
    host : ``In(wishbone_signature(13))``
        The host's way to the engine's registers.
    csr : ``Out(wishbone_signature(13))``
        The engine's registers.
    page : ``In(wishbone_signature(14))``
        The loader's own registers. A write with some byte enables off changes nothing; other addresses read as zero.

    Timing
    ------
    ``page`` acknowledges after one cycle; a word at ``stream`` after the one before it is in code memory, at most 65 cycles.
    A boot reads header, state and twice the body: 110 ms for 120 KiB at 19 MHz. Every wait for the flash or the engine ends.

    Raises
    ------
    TypeError, ValueError
        If a parameter has the wrong type or value.
    """

    def __init__(
        self,
        config: EngineConfig,
        layout: FlashLayout | None = None,
        *,
        default_image: bool = False,
        spi_hz: int = READ_HZ,
        timeout_cycles: int | None = None,
    ):
        layout = FlashLayout() if layout is None else layout
        if not isinstance(config, EngineConfig):
            raise TypeError(f"config must be an EngineConfig, not {config!r}")
        if not isinstance(layout, FlashLayout):
            raise TypeError(f"layout must be a FlashLayout, not {layout!r}")
        self.config, self.layout = config, layout
        self._default_image = bool(default_image)
        self._spi = SpiFlash(config.sync_hz, spi_hz=spi_hz, timeout_cycles=timeout_cycles)
        super().__init__(
            {
                "pins": Out(SpiPins()),
                "host": In(wishbone_signature(CSR_ADDRESS_BITS)),
                "csr": Out(wishbone_signature(CSR_ADDRESS_BITS)),
                "page": In(wishbone_signature(LOADER_ADDRESS_BITS)),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config, layout = self.config, self.layout
        m.submodules.spi = spi = self._spi
        m.submodules.crc = crc = fcs_processor()
        m.submodules.gate = gate = HostGate(config.cores)
        connect(m, flipped(self.pins), spi.pins)
        connect(m, flipped(self.host), gate.host)
        connect(m, gate.csr, flipped(self.csr))

        # What the host sees.
        source = Signal(4, init=Source.DEFAULT if self._default_image else Source.NONE)
        error = Signal(4)
        results = [Signal(4, name=f"result_{name}") for name in "ab"]
        version, sequence = Signal(32), Signal(32)
        address, length, expected_crc = Signal(24), Signal(24), Signal(32)
        streamed, crc_value = Signal(24), Signal(32)
        attempt = Signal(2)
        locked, held = Signal(init=1), Signal(init=1)
        busy = Signal()
        spoiled = Signal()  # the loader has begun to write code memory, and what it holds is not whole
        loading = Signal()  # after LOAD_BEGIN
        m.d.comb += gate.locked.eq(locked)
        with m.If(gate.wrote_code):
            m.d.sync += source.eq(Source.UNCHECKED)
        with m.If(gate.let_go):
            m.d.sync += held.eq(0)

        # Bytes of the flash: words, buffer, CRC.
        word, word_next = Signal(32), Signal(32)
        index = Signal(24)  # of the next byte
        word_valid = Signal()  # word_next is whole
        to_buffer = Signal()
        zeros = Signal()  # PROGRAM takes zeros instead of the buffer
        m.submodules.buffer = buffer = memory.Memory(shape=32, depth=BUFFER_WORDS, init=[])
        buffer_in, buffer_out = buffer.write_port(), buffer.read_port(domain="comb")
        m.d.comb += [
            word_next.eq(word),
            word_next.word_select(index[:2], 8).eq(spi.rx_data),
            word_valid.eq(spi.rx_valid & (index[:2] == 3)),
            spi.tx_data.eq(Mux(zeros, 0, buffer_out.data.word_select(spi.tx_index[:2], 8))),
            crc.data.eq(spi.rx_data),
        ]
        with m.If(spi.rx_valid):
            m.d.sync += [word.eq(word_next), index.eq(index + 1)]

        # The loader's page.
        page = self.page
        command, stream, stream_waits = Signal(4), Signal(), Signal()
        request, write = Signal(), Signal()
        in_registers, in_buffer = Signal(), Signal()
        m.d.comb += [
            request.eq(page.cyc & page.stb & ~page.ack),
            write.eq(request & page.we & page.sel.all()),
            in_registers.eq(page.adr[4:] == 0),
            in_buffer.eq(page.adr[6:] == flash_map.offset("buffer") // 4 >> 6),
            buffer_out.addr.eq(Mux(busy, spi.tx_index[2:], page.adr)),
            buffer_in.addr.eq(Mux(busy, index[2:], page.adr)),
            buffer_in.data.eq(Mux(busy, word_next, page.dat_w)),
            buffer_in.en.eq(Mux(busy, spi.rx_valid & to_buffer, write & in_buffer)),
        ]
        m.d.sync += [page.ack.eq(request & ~(stream & stream_waits)), page.dat_r.eq(0)]
        values = {
            "identity": C(flash_map.IDENTITY, 32),
            "map_version": C(flash_map.MAP_VERSION, 32),
            "profile": Cat(C(config.code_bytes // 1024, 16), C(config.data_bytes // 1024, 16)),
            "slots_base": C(layout.base, 24),
            "slot_bytes": C(layout.slot_bytes, 24),
            "status": Cat(busy, locked, held, C(0, 1), source, error, C(0, 4), *results, attempt),
            "version": version,
            "sequence": sequence,
            "crc": crc_value,
            "streamed": streamed,
            "address": address,
            "length": length,
            "expected_crc": expected_crc,
            "refused": gate.refused,
        }
        with m.If(in_registers):
            with m.Switch(page.adr[:4]):
                for name, value in values.items():
                    with m.Case(flash_map.offset(name) // 4):
                        m.d.sync += page.dat_r.eq(value)
        with m.If(in_buffer):
            m.d.sync += page.dat_r.eq(buffer_out.data)
        with m.If(write & in_registers):
            with m.Switch(page.adr[:4]):
                for name, register in (("address", address), ("length", length), ("expected_crc", expected_crc)):
                    with m.Case(flash_map.offset(name) // 4):
                        with m.If(~busy):
                            m.d.sync += register.eq(page.dat_w)
                with m.Case(flash_map.offset("command") // 4):
                    m.d.comb += command.eq(Mux(page.dat_w[4:8] == 0, page.dat_w[:4], 0xF))
                with m.Case(flash_map.offset("stream") // 4):
                    m.d.comb += stream.eq(1)

        # Writes to the engine's registers.
        bus_left = Signal(range(BUS_CYCLES + 1))
        bus_failed = Signal()
        with m.If(gate.request):
            m.d.sync += bus_left.eq(bus_left - 1)
            with m.If(gate.done | (bus_left == 0)):
                m.d.sync += gate.request.eq(0)
            with m.If(~gate.done & (bus_left == 0)):
                m.d.sync += bus_failed.eq(1)

        def engine_write(name: str, value) -> None:
            """Begin a write; it ends when ``gate.request`` has fallen."""
            m.d.sync += [
                gate.request.eq(1),
                gate.address.eq(register_offset(ENGINE, name) // 4),
                gate.data.eq(value),
                bus_left.eq(BUS_CYCLES),
            ]

        def flash(which, at, count) -> None:
            """Begin a command; ``spi.busy`` is up in the next cycle."""
            m.d.comb += [spi.start.eq(1), spi.command.eq(which), spi.address.eq(at), spi.length.eq(count)]
            m.d.sync += [index.eq(0), words.eq(0)]

        # The boot's working registers.
        slot = Signal()
        choosing = Signal()  # both slots have been looked at
        candidates = Signal(2)
        sequences = [Signal(32, name=f"sequence_{name}") for name in "ab"]
        result = Signal(4)
        found_version, found_sequence, found_length, found_crc = (
            Signal(32, name=f"found_{name}") for name in ("version", "sequence", "length", "crc")
        )
        confirmed = Signal()
        free = Signal(2)  # first unused attempt word; 0: none
        words = Signal(4)  # words of this command before the present one
        part = Signal(3)
        what = Signal(Command)
        slot_address, attempt_address = Signal(24), Signal(24)
        m.d.comb += [
            slot_address.eq(Mux(slot, layout.slot(1), layout.slot(0))),
            attempt_address.eq(slot_address | flash_map.STATE_OFFSET | free << 2),
        ]
        with m.If(word_valid):
            m.d.sync += words.eq(words + 1)
        body_limit = min(config.code_bytes, layout.body_limit)
        bad_length = Signal()
        m.d.comb += bad_length.eq((word_next[:2] != 0) | (word_next == 0) | (word_next > body_limit))

        def drop(reason) -> None:
            """The present slot is no candidate any more."""
            m.d.sync += candidates.bit_select(slot, 1).eq(0)
            for number, one in enumerate(results):
                with m.If(slot == number):
                    m.d.sync += one.eq(reason)
            m.next = "Choose"

        # --- Host's commands ---------------------------------------------------------------------------------------
        with m.FSM(init="Power Up") as fsm:
            m.d.comb += [
                busy.eq(~(fsm.ongoing("Idle") | fsm.ongoing("Stream"))),
                stream_waits.eq(fsm.ongoing("Stream") | fsm.ongoing("Load Hold") | fsm.ongoing("Load Address")),
            ]
            with m.State("Idle"):
                m.d.sync += [part.eq(0), bus_failed.eq(0)]
                with m.If(loading):
                    m.d.sync += crc_value.eq(crc.crc)
                with m.If(stream & loading):
                    m.d.sync += [word.eq(page.dat_w), spoiled.eq(1), source.eq(Source.NONE)]
                    engine_write("code_data", page.dat_w)
                    m.next = "Stream"
                with m.If(command != Command.NONE):
                    m.d.sync += [error.eq(Error.NONE), what.eq(command)]
                with m.Switch(command):
                    with m.Case(Command.NONE):
                        pass
                    with m.Case(Command.BOOT):
                        m.next = "Power Up"
                    with m.Case(Command.LOAD_BEGIN):
                        m.d.sync += [loading.eq(1), locked.eq(1), held.eq(1), streamed.eq(0)]
                        engine_write("reset_cores", 0xFF)
                        m.next = "Load Hold"
                    with m.Case(Command.LOAD_FINISH):
                        m.next = "Load Finish"
                    with m.Case(Command.READ, Command.PROGRAM, Command.ERASE_SECTOR, Command.ERASE_BLOCK):
                        m.next = "Check Command"
                    with m.Case(Command.IDENTIFY, Command.CRC):
                        m.next = "Begin Command"
                    with m.Default():
                        m.d.sync += error.eq(Error.SEQUENCE)

            with m.State("Load Hold"):
                with m.If(~gate.request):
                    m.d.comb += crc.start.eq(1)
                    engine_write("code_address", 0)
                    m.next = "Load Address"
            with m.State("Load Address"):
                with m.If(~gate.request):
                    m.next = "Idle"
                    with m.If(bus_failed):
                        m.d.sync += [error.eq(Error.BUS), loading.eq(0)]
            with m.State("Stream"):
                m.d.comb += [crc.data.eq(word.word_select(part[:2], 8)), crc.valid.eq(~part[2])]
                with m.If(~part[2]):
                    m.d.sync += part.eq(part + 1)
                with m.Elif(~gate.request):
                    m.d.sync += streamed.eq(streamed + 4)
                    m.next = "Idle"
                    with m.If(bus_failed):
                        m.d.sync += [error.eq(Error.BUS), loading.eq(0)]
            with m.State("Load Finish"):
                m.d.sync += loading.eq(0)
                m.next = "Idle"
                with m.If(~loading):
                    m.d.sync += error.eq(Error.SEQUENCE)
                with m.Elif((streamed != length) | (streamed == 0) | (streamed > config.code_bytes)):
                    m.d.sync += error.eq(Error.LENGTH)
                with m.Elif(crc_value != expected_crc):
                    m.d.sync += error.eq(Error.CRC)
                with m.Else():
                    m.d.sync += [source.eq(Source.HOST), spoiled.eq(0), locked.eq(0), held.eq(0), attempt.eq(0)]

            with m.State("Check Command"):
                pair_bits = (2 * layout.slot_bytes).bit_length() - 1
                is_outside = (what != Command.READ) & (address[pair_bits:] != layout.base >> pair_bits)
                if layout.slot_bytes < flash_map.BLOCK_BYTES:  # a block would reach beyond the slots
                    is_outside |= what == Command.ERASE_BLOCK
                is_erase = (what == Command.ERASE_SECTOR) | (what == Command.ERASE_BLOCK)
                leaves_page = (what == Command.PROGRAM) & (address[:8] + length[:9] > flash_map.PAGE_BYTES)
                m.next = "Begin Command"
                with m.If(is_outside):
                    m.d.sync += error.eq(Error.PROTECTED)
                    m.next = "Idle"
                with m.Elif(~is_erase & ((length == 0) | (length > flash_map.PAGE_BYTES) | leaves_page)):
                    m.d.sync += error.eq(Error.LENGTH)
                    m.next = "Idle"
            with m.State("Begin Command"):
                flash(FlashCommand.READ, address, Mux(what == Command.IDENTIFY, 3, length))
                with m.Switch(what):
                    for one in ("PROGRAM", "ERASE_SECTOR", "ERASE_BLOCK", "IDENTIFY"):
                        with m.Case(Command[one]):
                            m.d.comb += spi.command.eq(FlashCommand[one])
                    with m.Case(Command.CRC):
                        m.d.comb += crc.start.eq(1)
                        m.d.sync += loading.eq(0)
                m.next = "Run Command"
            with m.State("Run Command"):
                m.d.comb += [
                    to_buffer.eq((what == Command.READ) | (what == Command.IDENTIFY)),
                    crc.valid.eq(spi.rx_valid & (what == Command.CRC)),
                ]
                with m.If(~spi.busy):
                    with m.If(what == Command.CRC):
                        m.d.sync += crc_value.eq(crc.crc)
                    with m.If(spi.error):
                        m.d.sync += error.eq(Error.FLASH)
                    m.next = "Idle"

            # --- Boot ----------------------------------------------------------------------------------------------
            with m.State("Power Up"):
                m.d.sync += [loading.eq(0), locked.eq(1), held.eq(1), attempt.eq(0), bus_failed.eq(0)]
                m.d.sync += [slot.eq(0), choosing.eq(0), candidates.eq(0), version.eq(0), sequence.eq(0)]
                m.d.sync += [one.eq(SlotResult.UNKNOWN) for one in results]
                engine_write("reset_cores", 0xFF)
                # Nobody looks at the answer: it takes the first clocks, which not every clock output of an FPGA passes on.
                flash(FlashCommand.IDENTIFY, 0, 3)
                m.next = "Wake"
            with m.State("Wake"):
                with m.If(~spi.busy):
                    flash(FlashCommand.WAIT, 0, 0)
                    m.next = "Wait Ready"
            with m.State("Wait Ready"):
                with m.If(~spi.busy & ~gate.request):
                    m.next = "Read Header"
                    with m.If(spi.error):
                        m.d.sync += [one.eq(SlotResult.FLASH) for one in results]
                        m.d.sync += error.eq(Error.FLASH)
                        m.next = "No Slot"
                    with m.If(bus_failed):
                        m.next = "Bus Failed"
            with m.State("Read Header"):
                m.d.comb += crc.start.eq(1)
                flash(FlashCommand.READ, slot_address, IMAGE_HEADER_BYTES)
                m.next = "Header"
            with m.State("Header"):
                m.d.comb += crc.valid.eq(spi.rx_valid & (index < IMAGE_HEADER_BYTES - 4))
                with m.If(word_valid):
                    with m.Switch(words):
                        with m.Case(0):
                            m.d.sync += result.eq(
                                Mux(word_next == IMAGE_MAGIC, SlotResult.GOOD.value, SlotResult.MAGIC.value)
                            )
                        with m.Case(1):
                            with m.If((result == SlotResult.GOOD) & (word_next != ABI_VERSION)):
                                m.d.sync += result.eq(SlotResult.ABI)
                        with m.Case(2):
                            m.d.sync += found_version.eq(word_next)
                        with m.Case(3):
                            m.d.sync += found_length.eq(word_next)
                            with m.If((result == SlotResult.GOOD) & bad_length):
                                m.d.sync += result.eq(SlotResult.LENGTH)
                        with m.Case(4):
                            m.d.sync += found_crc.eq(word_next)
                        with m.Case(5):
                            is_known = (result != SlotResult.MAGIC) & (result != SlotResult.ABI)
                            with m.If(is_known & (word_next != values["profile"])):
                                m.d.sync += result.eq(SlotResult.BOARD)
                        with m.Case(6):
                            m.d.sync += found_sequence.eq(word_next)
                        with m.Case(7):
                            is_known = (result != SlotResult.MAGIC) & (result != SlotResult.ABI)
                            with m.If(is_known & (word_next != crc.crc)):
                                m.d.sync += result.eq(SlotResult.HEADER_CRC)
                with m.If(~spi.busy):
                    m.next = "Read State"
            with m.State("Read State"):
                m.d.sync += [confirmed.eq(0), free.eq(0)]
                flash(FlashCommand.READ, slot_address | flash_map.STATE_OFFSET, 4 * flash_map.STATE_WORDS)
                m.next = "State"
            with m.State("State"):
                with m.If(word_valid):
                    with m.If(words == 0):
                        m.d.sync += confirmed.eq(word_next == flash_map.CONFIRMED)
                    with m.Elif((free == 0) & (word_next == flash_map.UNUSED)):
                        m.d.sync += free.eq(words)
                with m.If(~spi.busy):
                    with m.If((result == SlotResult.GOOD) & ~confirmed & (free == 0)):
                        m.d.sync += result.eq(SlotResult.ATTEMPTS)
                    m.next = "Judge Slot"
            with m.State("Judge Slot"):
                for number, one in enumerate(results):
                    with m.If(slot == number):
                        m.d.sync += [one.eq(result), candidates[number].eq(result == SlotResult.GOOD)]
                        with m.If(~choosing):
                            m.d.sync += sequences[number].eq(found_sequence)
                m.next = "Choose"
                with m.If(~choosing & ~slot):
                    m.d.sync += slot.eq(1)
                    m.next = "Read Header"
                with m.If(choosing & (result == SlotResult.GOOD)):
                    m.next = "Begin Check"
            with m.State("Choose"):
                m.d.sync += choosing.eq(1)
                m.d.sync += slot.eq(candidates[1] & (~candidates[0] | (sequences[1] > sequences[0])))
                m.next = "Read Header"
                with m.If(candidates == 0):
                    m.next = "No Slot"
            with m.State("Begin Check"):
                m.d.comb += crc.start.eq(1)
                flash(FlashCommand.READ, slot_address | flash_map.BODY_OFFSET, found_length)
                m.next = "Check Body"
            with m.State("Check Body"):
                m.d.comb += crc.valid.eq(spi.rx_valid)
                with m.If(~spi.busy):
                    with m.If(crc.crc != found_crc):
                        drop(SlotResult.BODY_CRC)
                    with m.Elif(confirmed):
                        m.d.sync += free.eq(0)
                        m.next = "Begin Copy"
                    with m.Else():
                        m.next = "Record"
            with m.State("Record"):
                m.d.comb += zeros.eq(1)
                flash(FlashCommand.PROGRAM, attempt_address, 4)
                m.next = "Recording"
            with m.State("Recording"):
                m.d.comb += zeros.eq(1)
                with m.If(~spi.busy):
                    m.next = "Read Record"
                    with m.If(spi.error):
                        drop(SlotResult.FLASH)
            with m.State("Read Record"):
                flash(FlashCommand.READ, attempt_address, 4)
                m.next = "Recorded"
            with m.State("Recorded"):
                with m.If(~spi.busy):
                    m.next = "Begin Copy"
                    with m.If(word == flash_map.UNUSED):
                        drop(SlotResult.NOT_RECORDED)
            with m.State("Begin Copy"):
                m.d.sync += [spoiled.eq(1), source.eq(Source.NONE)]
                engine_write("code_address", 0)
                m.next = "Copy Address"
            with m.State("Copy Address"):
                with m.If(~gate.request):
                    m.d.comb += crc.start.eq(1)
                    flash(FlashCommand.READ, slot_address | flash_map.BODY_OFFSET, found_length)
                    m.next = "Copy"
            with m.State("Copy"):
                m.d.comb += crc.valid.eq(spi.rx_valid)
                with m.If(word_valid):
                    engine_write("code_data", word_next)
                with m.If(~spi.busy & ~gate.request):
                    with m.If(bus_failed):
                        m.next = "Bus Failed"
                    with m.Elif(crc.crc != found_crc):
                        drop(SlotResult.COPY)
                    with m.Else():
                        m.d.sync += [spoiled.eq(0), attempt.eq(free)]
                        m.d.sync += source.eq(Mux(slot, Source.SLOT_B.value, Source.SLOT_A.value))
                        m.d.sync += [version.eq(found_version), sequence.eq(found_sequence)]
                        m.next = "Release"
            with m.State("No Slot"):
                # An image of a host, or of a slot that has no attempt left, had its turn: it does not run again.
                with m.If(source != Source.DEFAULT):
                    m.d.sync += [error.eq(Error.NO_IMAGE), locked.eq(spoiled)]
                    m.next = "Idle"
                with m.Else():
                    m.next = "Release"
            with m.State("Release"):
                engine_write("reset_cores", 0)
                m.next = "Releasing"
            with m.State("Releasing"):
                with m.If(~gate.request):
                    m.d.sync += [held.eq(0), locked.eq(0)]
                    m.next = "Idle"
                    with m.If(bus_failed):
                        m.next = "Bus Failed"
            with m.State("Bus Failed"):
                m.d.sync += [error.eq(Error.BUS), held.eq(1), locked.eq(1)]
                m.next = "Idle"
        return m


__all__ = ["FlashLoader"]
