"""The register map: every CSR of the three pages, declared once.

All registers are 32 bits wide and word aligned; unnamed bits read as zero and ignore writes. Access of a field:

``rw``  storage in the register block, readable back
``r``   driven by hardware; ``r_stb`` pulses on a read (a read may have a side effect, told in the text)
``w``   write-only; ``w_stb`` pulses with the data
``x``   driven by hardware on read *and* strobed on write (``r_data``, ``r_stb``, ``w_data``, ``w_stb``)
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RegisterField:
    name: str
    lsb: int
    width: int
    access: str
    doc: str
    reset: int = 0


@dataclass(frozen=True)
class Register:
    """``count`` registers of the same kind, at ``offset``, ``offset + 4``, ... bytes from the block's base."""

    name: str
    offset: int
    fields: tuple[RegisterField, ...]
    doc: str
    count: int = 1


@dataclass(frozen=True)
class Block:
    """A register block of ``size`` bytes at byte ``offset`` of its page, repeated ``count`` times."""

    name: str
    page: str
    offset: int
    size: int
    registers: tuple[Register, ...]
    doc: str
    count: int = 1

    def __post_init__(self) -> None:
        check_block(self)


ACCESSES = ("rw", "r", "w", "x")
PAGES = ("core", "manager", "host")


def check_block(block: Block) -> None:
    """Raise ValueError where a block contradicts itself: overlaps, bad accesses, missing texts."""
    if block.page not in PAGES:
        raise ValueError(f"{block.name}: page must be one of {PAGES}, not {block.page!r}")
    taken: dict[int, str] = {}
    for register in block.registers:
        if not register.doc or not block.doc:
            raise ValueError(
                f"{block.name}.{register.name}: a register and its block need a text, not {register.doc!r}"
            )
        for index in range(register.count):
            offset = register.offset + 4 * index
            if offset % 4 or offset + 4 > block.size or offset in taken:
                raise ValueError(f"{block.name}.{register.name} must have its own aligned place, not {offset:#x}")
            taken[offset] = register.name
        bits = 0
        for field in register.fields:
            mask = ((1 << field.width) - 1) << field.lsb
            if bits & mask or mask >> 32 or field.access not in ACCESSES or not field.doc:
                raise ValueError(f"{block.name}.{register.name}.{field.name} must be well formed, not {field!r}")
            bits |= mask


def _whole(
    name: str, offset: int, access: str, doc: str, *, width: int = 32, reset: int = 0, count: int = 1
) -> Register:
    """A register with one field, called ``value``."""
    return Register(name, offset, (RegisterField("value", 0, width, access, doc, reset),), doc, count)


def _fields(name: str, offset: int, doc: str, *fields: RegisterField, count: int = 1) -> Register:
    return Register(name, offset, fields, doc, count)


F = RegisterField

# --- A core's own page -------------------------------------------------------------------------------------------

CORE = Block(
    "core",
    "core",
    0x000,
    0x40,
    (
        _whole("magic", 0x00, "r", "MAGIC of twinstack.proto.abi."),
        _whole("abi", 0x04, "r", "ABI_VERSION of the hardware."),
        _fields(
            "identity",
            0x08,
            "Which core this is, of what engine.",
            F("core", 0, 4, "r", "Number of this core."),
            F("cores", 4, 4, "r", "Cores in the engine."),
            F("ports", 8, 4, "r", "Network ports in the engine."),
            F("manager", 12, 4, "r", "Number of the manager core."),
            F("epoch", 16, 8, "r", "Epoch of this core; grows with each of its resets."),
        ),
        _fields(
            "ready",
            0x0C,
            "The firmware reports its ABI here; the core takes part in dispatch once it matches the hardware's.",
            F("firmware_abi", 0, 16, "rw", "ABI_VERSION the firmware was compiled with."),
            F("ready", 31, 1, "rw", "Stack is up; with a matching ABI this makes the core alive."),
        ),
        _whole("sync_hz", 0x10, "r", "Frequency of the sync clock in Hz."),
        _fields(
            "memory",
            0x14,
            "Sizes of this core's memories in KiB.",
            F("data_kib", 0, 8, "r", "Data RAM."),
            F("rx_kib", 8, 8, "r", "RX bank."),
            F("tx_kib", 16, 8, "r", "TX bank."),
        ),
        _whole("load", 0x18, "rw", "Load figure: open sockets; the host dispatcher balances connects by it.", width=16),
        _whole("random", 0x1C, "r", "A different pseudo-random number at each read, seeded by the host.", width=32),
    ),
    "Identity, boot handshake, load figure.",
)

CONSOLE = Block(
    "console",
    "core",
    0x040,
    0x10,
    (
        _whole("data", 0x00, "w", "Put a byte into the console FIFO; dropped and counted when full.", width=8),
        _whole("space", 0x04, "r", "Bytes that fit into the console FIFO now.", width=16),
    ),
    "Firmware log of this core, read by the host.",
)

TIMER = Block(
    "timer",
    "core",
    0x080,
    0x40,
    (
        _whole("cycles_low", 0x00, "r", "Low word of the cycle counter; reading it latches the high word."),
        _whole("cycles_high", 0x04, "r", "High word of the cycle counter, latched."),
        _whole("milliseconds", 0x08, "r", "Ticks of the engine's 1 kHz input since reset."),
        _whole("tick", 0x0C, "x", "Tick interrupt pending; writing any value clears it.", width=1),
        _whole("idle", 0x10, "rw", "1 while the firmware waits for work; the idle counter runs then.", width=1),
        _whole("idle_low", 0x14, "r", "Low word of the idle cycle counter; reading it latches the high word."),
        _whole("idle_high", 0x18, "r", "High word of the idle cycle counter, latched."),
    ),
    "Time, and the measure of idleness.",
)

EVENTS = (
    ("rx", "RX descriptors not yet consumed."),
    ("sq", "SQ deliveries not yet consumed."),
    ("tx", "TX commands were returned since the last look."),
    ("dma_in", "A host-in DMA completion is waiting."),
    ("dma_out", "A host-out DMA completion is waiting."),
    ("message", "A message from another core is waiting."),
    ("tick", "A tick is pending."),
)
"""Event bits, in order from bit 0, of ``event.pending`` and ``event.enable``; all level-triggered but tx, which ``tx.consumer`` clears."""

EVENT = Block(
    "event",
    "core",
    0x0C0,
    0x10,
    (
        _fields("pending", 0x00, "What waits for this core.", *(F(n, i, 1, "r", d) for i, (n, d) in enumerate(EVENTS))),
        _fields(
            "enable",
            0x04,
            "Which events raise the CPU's external interrupt (line 0).",
            *(F(n, i, 1, "rw", d) for i, (n, d) in enumerate(EVENTS)),
        ),
    ),
    "Interrupt controller.",
)

RX = Block(
    "rx",
    "core",
    0x100,
    0x40,
    (
        _whole("ring", 0x00, "rw", "Byte offset in data RAM of the RX descriptor ring, 64-byte entries.", width=20),
        _whole(
            "headers", 0x04, "rw", "Byte offset in data RAM of the header copies, 128 bytes for each buffer.", width=20
        ),
        _fields(
            "control",
            0x08,
            "RX queue control.",
            F("ring_log2", 0, 4, "rw", "log2 of the ring's entries; the ring must hold as many as there are buffers."),
            F("enable", 31, 1, "rw", "Accept frames for this core."),
        ),
        _whole("producer", 0x0C, "r", "Descriptors written since reset, modulo 65,536.", width=16),
        _whole("consumer", 0x10, "rw", "Descriptors consumed since reset, modulo 65,536.", width=16),
        _whole(
            "free",
            0x14,
            "w",
            "Give back the buffer of this index; one that is not out is ignored and counted.",
            width=16,
        ),
        _whole("buffers", 0x18, "r", "Buffers in the free list now.", width=16),
        _whole("dropped", 0x1C, "r", "Frames for this core dropped because no buffer was free, or it was disabled."),
        _whole("bad_free", 0x20, "r", "Buffers given back that were not out."),
        _whole("cpu_accesses", 0x24, "r", "Accesses of the CPU to its RX bank and TX bank since reset."),
    ),
    "Receive queue of this core.",
)

TX = Block(
    "tx",
    "core",
    0x140,
    0x20,
    (
        _whole("ring", 0x00, "rw", "Byte offset in data RAM of the TX command ring, 32-byte entries.", width=20),
        _fields(
            "control",
            0x04,
            "TX queue control.",
            F("ring_log2", 0, 4, "rw", "log2 of the ring's entries, 1 to 8."),
            F("enable", 31, 1, "rw", "Fetch commands."),
        ),
        _whole("producer", 0x08, "rw", "Doorbell: commands placed since reset, modulo 65,536.", width=16),
        _whole(
            "consumer",
            0x0C,
            "x",
            "Commands returned since reset, modulo 65,536; writing any value clears the tx event.",
            width=16,
        ),
    ),
    "Transmit queue of this core.",
)

SQ = Block(
    "sq",
    "core",
    0x180,
    0x20,
    (
        _whole("ring", 0x00, "rw", "Byte offset in data RAM of the delivery ring, 80-byte entries.", width=20),
        _fields(
            "control",
            0x04,
            "Delivery ring control.",
            F("ring_log2", 0, 4, "rw", "log2 of the ring's entries, 0 to 8."),
            F("enable", 31, 1, "rw", "Deliver entries to this core."),
        ),
        _whole("producer", 0x08, "r", "Entries delivered since reset, modulo 65,536.", width=16),
        _whole("consumer", 0x0C, "rw", "Entries consumed since reset, modulo 65,536.", width=16),
    ),
    "Submission queue entries for this core.",
)

CQ = Block(
    "cq",
    "core",
    0x1A0,
    0x20,
    (
        _whole("user_low", 0x00, "rw", "Low word of the user data."),
        _whole("user_high", 0x04, "rw", "High word of the user data."),
        _whole("result", 0x08, "rw", "Result, signed."),
        _fields(
            "post",
            0x0C,
            "Posts the completion; ignored and counted when there is no space.",
            F("more", 0, 1, "w", "More completions will follow."),
            F("is_joined", 1, 1, "w", "Merge into join slot join_id, which posts one completion for all cores."),
            F("host", 2, 2, "w", "Host to complete to."),
            F("join_id", 4, 4, "w", "Join slot of the delivery."),
        ),
        _whole("space", 0x10, "r", "Completions that can be posted now.", width=8),
    ),
    "Completions of this core.",
)


def _dma(name: str, offset: int, local: str, doc: str) -> Block:
    return Block(
        name,
        "core",
        offset,
        0x20,
        (
            _whole("local", 0x00, "rw", local),
            _whole("host_address", 0x04, "rw", "Host bus byte address."),
            _fields(
                "go",
                0x08,
                "Queues the transfer; ignored when there is no space.",
                F("length", 0, 16, "w", "Bytes, 1 to 65,535."),
                F("tag", 16, 14, "w", "Comes back with the completion."),
                F("host", 30, 2, "w", "Host whose windows bound the transfer."),
            ),
            _whole("space", 0x0C, "r", "Transfers that can be queued now.", width=8),
            _fields(
                "completion",
                0x10,
                "Oldest completion; a read that shows valid removes it. In order of queueing.",
                F("tag", 0, 16, "r", "Tag of the transfer."),
                F(
                    "status",
                    16,
                    8,
                    "r",
                    "0 done, 1 outside the core's banks, 2 outside the host's windows, 3 bus error.",
                ),
                F("valid", 31, 1, "r", "There is a completion."),
            ),
        ),
        doc,
    )


DMA_IN = _dma("dma_in", 0x1C0, "CPU address in the TX bank to write.", "Host memory to TX bank.")
DMA_OUT = _dma("dma_out", 0x1E0, "CPU address in the RX bank or TX bank to read.", "RX or TX bank to host memory.")

MESSAGE = Block(
    "message",
    "core",
    0x200,
    0x40,
    (
        _whole("send_word", 0x00, "rw", "The four words of the message to send.", count=4),
        _fields(
            "send",
            0x10,
            "Sends the message; with no space the write is ignored and counted.",
            F("to", 0, 4, "w", "Receiving core."),
        ),
        _fields(
            "status",
            0x14,
            "State of the FIFOs.",
            F("space", 0, 8, "r", "Bit n: a message to core n can be sent."),
            F("available", 31, 1, "r", "A message has come."),
            F("sender", 8, 4, "r", "Who sent it."),
        ),
        _whole("word", 0x20, "r", "The four words of the oldest message.", count=4),
        _whole("pop", 0x30, "w", "Removes the oldest message.", width=1),
    ),
    "Message FIFOs to and from the other cores.",
)

PROBE = Block(
    "probe",
    "core",
    0x240,
    0x40,
    (
        _whole(
            "source",
            0x00,
            "rw",
            "Source address as a frame to us would carry it, 4 words of wire bytes; IPv4 uses the first.",
            count=4,
        ),
        _whole("destination", 0x10, "rw", "Destination address, likewise.", count=4),
        _fields(
            "ports",
            0x20,
            "Port numbers as integers.",
            F("source", 0, 16, "rw", "Source port of a frame to us."),
            F("destination", 16, 16, "rw", "Destination port of a frame to us."),
        ),
        _fields(
            "go",
            0x24,
            "Starts a probe.",
            F("is_ipv6", 0, 1, "w", "Addresses are IPv6."),
            F("has_ports", 1, 1, "w", "Hash the ports too, if the dispatcher is configured to."),
        ),
        _fields(
            "result",
            0x28,
            "Result of the last probe.",
            F("core", 0, 4, "r", "Core to which the dispatcher would send it."),
            F("busy", 31, 1, "r", "Not finished yet; at most 64 cycles."),
        ),
        _whole("hash", 0x2C, "r", "RSS hash of the last probe."),
    ),
    "Hash probe: which core would get a packet.",
)

LOCK = Block(
    "lock",
    "core",
    0x280,
    0x80,
    (
        _fields(
            "lock",
            0x00,
            "A read tries to take the lock; a write of any value by the owner releases it.",
            F("owner", 0, 4, "x", "Core that holds the lock after this read."),
            F("taken_now", 30, 1, "x", "This read took it."),
            F("mine", 31, 1, "x", "This core holds it."),
            count=32,
        ),
    ),
    "Hardware lock unit.",
)

# --- The manager's page ------------------------------------------------------------------------------------------

DISPATCH = Block(
    "dispatch",
    "manager",
    0x000,
    0x80,
    (
        _whole("key", 0x00, "rw", "Toeplitz key, 10 words; the key's first byte is bits 7:0 of word 0.", count=10),
        _fields(
            "indirection",
            0x28,
            "Write: set one entry of the indirection table.",
            F("index", 0, 7, "w", "Entry, 0 to 127."),
            F("core", 8, 4, "w", "Core number; one that does not exist is ignored and counted in bad_config."),
        ),
        _fields(
            "hash_config",
            0x2C,
            "What is hashed.",
            F("tcp_ports", 0, 1, "rw", "Hash addresses and ports for TCP (otherwise addresses only).", 1),
            F("udp_ports", 1, 1, "rw", "Hash addresses and ports for UDP.", 1),
        ),
        _fields(
            "state",
            0x30,
            "Who lives.",
            F("alive", 0, 8, "r", "Bit n: core n is alive and gets frames."),
            F("manager", 8, 4, "r", "The manager."),
        ),
        _whole("bad_config", 0x34, "r", "Configuration writes that were refused.", width=16),
        _whole("dropped", 0x38, "r", "Frames dropped by verdict: nobody to take them."),
        _whole("dispatched", 0x40, "r", "Frames given to core n.", count=8),
    ),
    "Network-side dispatcher.",
)

MAC = Block(
    "mac",
    "manager",
    0x100,
    0x80,
    (
        _whole("address_low", 0x00, "rw", "MAC address, first byte on the wire in bits 7:0: bytes 0 to 3."),
        _whole("address_high", 0x04, "rw", "MAC address: bytes 4 and 5.", width=16),
        _fields(
            "control",
            0x08,
            "MAC control.",
            F("enable", 0, 1, "rw", "Receive and transmit."),
            F("promiscuous", 1, 1, "rw", "Accept every destination address."),
            F("all_multicast", 2, 1, "rw", "Accept every group address."),
        ),
        _whole("rx_frames", 0x10, "r", "Good frames that passed the address filter."),
        _whole("rx_bytes", 0x14, "r", "Bytes of rx_frames, address to payload end."),
        _whole("rx_crc_errors", 0x18, "r", "Frames of legal length with a bad FCS or a PHY error."),
        _whole("rx_runts", 0x1C, "r", "Frames below 64 bytes, FCS included."),
        _whole("rx_giants", 0x20, "r", "Frames longer than the limit."),
        _whole("rx_overflows", 0x24, "r", "Frames lost because a FIFO was full."),
        _whole("rx_filtered", 0x28, "r", "Good frames to another address."),
        _whole("tx_frames", 0x2C, "r", "Frames sent."),
        _whole("tx_bytes", 0x30, "r", "Bytes of tx_frames, without padding and FCS."),
        _whole("tx_underflows", 0x34, "r", "Frames cut off because data came too late; sent with a bad FCS."),
        _whole("rx_checksum_errors", 0x38, "r", "Frames dropped for a bad IPv4, TCP or UDP checksum."),
        _whole("rx_unknown", 0x3C, "r", "Frames dropped for an EtherType that nobody handles."),
    ),
    "Ethernet MAC, one block for each network port.",
    count=4,
)

# --- The host's page ---------------------------------------------------------------------------------------------

ENGINE = Block(
    "engine",
    "host",
    0x000,
    0x80,
    (
        _whole("magic", 0x00, "r", "MAGIC of twinstack.proto.abi."),
        _whole("abi", 0x04, "r", "ABI_VERSION of the hardware."),
        _fields(
            "identity",
            0x08,
            "What engine this is.",
            F("cores", 0, 4, "r", "Cores."),
            F("ports", 4, 4, "r", "Network ports."),
            F("hosts", 8, 4, "r", "Hosts."),
            F("code_kib", 16, 16, "r", "Code memory in KiB."),
        ),
        _whole("sync_hz", 0x0C, "r", "Frequency of the sync clock in Hz."),
        _whole("reset_cores", 0x10, "rw", "Bit n holds core n in reset.", width=8, reset=0xFF),
        _whole(
            "code_address", 0x14, "rw", "Word address in code memory for code_data; advances with each write.", width=20
        ),
        _whole(
            "code_data", 0x18, "w", "Write a word of code memory; ignored and counted unless all cores are in reset."
        ),
        _whole("code_refused", 0x1C, "r", "Writes to code memory that were refused.", width=16),
        _whole("alive", 0x20, "r", "Bit n: core n has reported a matching ABI and a stack that is up.", width=8),
        _whole(
            "seed", 0x24, "rw", "Seed of the cores' random numbers; write it while they are in reset.", reset=0x1234567
        ),
        _whole("milliseconds", 0x28, "r", "Ticks of the 1 kHz input since reset."),
        _whole("cycles_low", 0x2C, "r", "Low word of the engine's cycle counter; reading it latches the high word."),
        _whole("cycles_high", 0x30, "r", "High word of the cycle counter, latched."),
    ),
    "Identity, boot, time.",
)

HOST_CORE = Block(
    "host_core",
    "host",
    0x100,
    0x40,
    (
        _fields(
            "status",
            0x00,
            "State of the core.",
            F("firmware_abi", 0, 16, "r", "ABI the firmware reported; 0 before it did."),
            F("epoch", 16, 8, "r", "Epoch."),
            F("ready", 31, 1, "r", "Firmware says its stack is up."),
        ),
        _fields(
            "console",
            0x04,
            "Oldest byte of the console; a read that shows valid removes it.",
            F("data", 0, 8, "r", "The byte."),
            F("valid", 31, 1, "r", "There was one."),
        ),
        _whole("console_lost", 0x08, "r", "Console bytes dropped."),
        _whole("cpu_accesses", 0x0C, "r", "Accesses of the CPU to its packet memory banks."),
        _whole("rx_buffers", 0x10, "r", "RX buffers free.", width=16),
        _whole("rx_dropped", 0x14, "r", "Frames dropped for lack of an RX buffer."),
    ),
    "State of each core as the host sees it.",
    count=4,
)

WINDOW = Block(
    "window",
    "host",
    0x200,
    0x10,
    (
        _whole("base", 0x00, "rw", "First byte address of the window on the host bus."),
        _whole("limit", 0x04, "rw", "Last byte address of the window."),
        _fields(
            "control",
            0x08,
            "What the window permits.",
            F("read", 0, 1, "rw", "The engine may read (SEND data)."),
            F("write", 1, 1, "rw", "The engine may write (RECV data, results)."),
        ),
    ),
    "DMA windows of the host; a transfer must lie within one of them. Rings need none.",
    count=4,
)

QUEUE = Block(
    "queue",
    "host",
    0x280,
    0x40,
    (
        _whole("sq_base", 0x00, "rw", "Byte address of the submission ring, 64-byte aligned."),
        _whole("cq_base", 0x04, "rw", "Byte address of the completion ring, 16-byte aligned."),
        _fields(
            "control",
            0x08,
            "Ring sizes and enable; sizes may change only while disabled. Disabling resets all indices.",
            F("sq_log2", 0, 4, "rw", "log2 of the submission ring's entries, 0 to 15."),
            F("cq_log2", 4, 4, "rw", "log2 of the completion ring's entries, 1 to 15."),
            F("irq_enable", 30, 1, "rw", "Raise the host interrupt."),
            F("enable", 31, 1, "rw", "Fetch and post."),
        ),
        _whole("sq_tail", 0x0C, "rw", "Doorbell: entries submitted, modulo 65,536.", width=16),
        _whole("sq_head", 0x10, "r", "Entries fetched, modulo 65,536; their slots may be reused.", width=16),
        _whole("cq_tail", 0x14, "r", "Completions posted, modulo 65,536.", width=16),
        _whole("cq_head", 0x18, "rw", "Doorbell: completions consumed, modulo 65,536.", width=16),
        _fields(
            "irq",
            0x1C,
            "Interrupt moderation: raise it after count completions, or when the oldest is delay ticks old.",
            F("count", 0, 8, "rw", "Completions; 0 and 1 mean at once."),
            F("delay", 8, 8, "rw", "Milliseconds; 0 means at once."),
        ),
        _fields(
            "status",
            0x20,
            "State of the queues.",
            F("irq", 0, 1, "r", "Interrupt asserted: completions are waiting under the moderation rule."),
            F("bus_error", 1, 1, "r", "A ring access ended with a bus error; the queues stopped until disabled."),
        ),
    ),
    "Submission and completion queue, one block for each host.",
    count=2,
)

BLOCKS = (
    CORE,
    CONSOLE,
    TIMER,
    EVENT,
    RX,
    TX,
    SQ,
    CQ,
    DMA_IN,
    DMA_OUT,
    MESSAGE,
    PROBE,
    LOCK,
    DISPATCH,
    MAC,
    ENGINE,
    HOST_CORE,
    WINDOW,
    QUEUE,
)


def page_blocks(page: str) -> tuple[Block, ...]:
    """The blocks of one page, in address order."""
    return tuple(sorted((block for block in BLOCKS if block.page == page), key=lambda block: block.offset))


def register_offset(block: Block, register: str, *, instance: int = 0, index: int = 0) -> int:
    """Byte offset of a register in its page.

    Raises
    ------
    KeyError
        If the block has no such register, instance or index.
    """
    for candidate in block.registers:
        if candidate.name == register and index < candidate.count and instance < block.count:
            return block.offset + instance * block.size + candidate.offset + 4 * index
    raise KeyError(f"{block.name}[{instance}].{register}[{index}]")
