"""A core's own page of registers."""

from __future__ import annotations

from .probe_block import PROBE_REGISTERS
from .register import Block, fields, whole
from .register import RegisterField as F

CORE = Block(
    "core",
    "core",
    0x000,
    0x40,
    (
        whole("magic", 0x00, "r", "MAGIC of twinstack.proto.abi."),
        whole("abi", 0x04, "r", "ABI_VERSION of the hardware."),
        fields(
            "identity",
            0x08,
            "Which core this is, of what engine.",
            F("core", 0, 4, "r", "Number of this core."),
            F("cores", 4, 4, "r", "Cores in the engine."),
            F("ports", 8, 4, "r", "Network ports in the engine."),
            F("manager", 12, 4, "r", "Number of the manager core."),
            F("epoch", 16, 8, "r", "Epoch of this core; grows with each of its resets."),
        ),
        fields(
            "ready",
            0x0C,
            "The firmware reports its ABI here; the core takes part in dispatch once it matches the hardware's.",
            F("firmware_abi", 0, 16, "rw", "ABI_VERSION the firmware was compiled with."),
            F("ready", 31, 1, "rw", "Stack is up; with a matching ABI this makes the core alive."),
        ),
        whole("sync_hz", 0x10, "r", "Frequency of the sync clock in Hz."),
        fields(
            "memory",
            0x14,
            "Sizes of this core's memories in KiB.",
            F("data_kib", 0, 8, "r", "Data RAM."),
            F("rx_kib", 8, 8, "r", "RX bank."),
            F("tx_kib", 16, 8, "r", "TX bank."),
        ),
        fields(
            "rx_buffers",
            0x20,
            "RX buffers of this core by size class; indices of the large ones come first.",
            F("large", 0, 8, "r", "Buffers of 1,536 bytes, from the start of the RX bank."),
            F("small", 8, 8, "r", "Buffers of 256 bytes, right behind them."),
        ),
        whole("load", 0x18, "rw", "Load figure: open sockets; the host dispatcher balances connects by it.", width=16),
        whole("random", 0x1C, "r", "A different pseudo-random number at each read, seeded by the host.", width=32),
    ),
    "Identity, boot handshake, load figure.",
)

CONSOLE = Block(
    "console",
    "core",
    0x040,
    0x10,
    (
        whole("data", 0x00, "w", "Put a byte into the console FIFO; dropped and counted when full.", width=8),
        whole("space", 0x04, "r", "Bytes that fit into the console FIFO now.", width=16),
    ),
    "Firmware log of this core, read by the host.",
)

TIMER = Block(
    "timer",
    "core",
    0x080,
    0x40,
    (
        whole("cycles_low", 0x00, "r", "Low word of the cycle counter; reading it latches the high word."),
        whole("cycles_high", 0x04, "r", "High word of the cycle counter, latched."),
        whole("milliseconds", 0x08, "r", "Ticks of the engine's 1 kHz input since reset."),
        whole("tick", 0x0C, "x", "Tick interrupt pending; writing any value clears it.", width=1),
        whole("idle", 0x10, "rw", "1 while the firmware waits for work; the idle counter runs then.", width=1),
        whole("idle_low", 0x14, "r", "Low word of the idle cycle counter; reading it latches the high word."),
        whole("idle_high", 0x18, "r", "High word of the idle cycle counter, latched."),
    ),
    "Time, and the measure of idleness.",
)

EVENTS = (
    ("rx", "RX descriptors of the flow queue not yet consumed."),
    ("sq", "SQ deliveries not yet consumed."),
    ("tx", "TX commands were returned since the last look."),
    ("dma_in", "A host-in DMA completion is waiting."),
    ("dma_out", "A host-out DMA completion is waiting."),
    ("message", "A message from another core is waiting."),
    ("tick", "A tick is pending."),
    ("rx_other", "RX descriptors of the other queue not yet consumed."),
    ("rx_low", "Fewer large RX buffers are free than rx.watermark."),
)
"""Event bits, in order from bit 0, of ``event.pending`` and ``event.enable``; all level-triggered but tx, which ``tx.consumer`` clears."""

EVENT = Block(
    "event",
    "core",
    0x0C0,
    0x10,
    (
        fields("pending", 0x00, "What waits for this core.", *(F(n, i, 1, "r", d) for i, (n, d) in enumerate(EVENTS))),
        fields(
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
        whole(
            "ring",
            0x00,
            "rw",
            "Byte offset in data RAM of the flow queue's descriptor ring, 64-byte entries.",
            width=20,
        ),
        whole(
            "headers", 0x04, "rw", "Byte offset in data RAM of the header copies, 128 bytes for each buffer.", width=20
        ),
        fields(
            "control",
            0x08,
            "RX queue control.",
            F("ring_log2", 0, 4, "rw", "log2 of the flow ring's entries; it must hold what limits.flow_* permit."),
            F("other_ring_log2", 4, 4, "rw", "log2 of the other ring's entries, likewise."),
            F("enable", 31, 1, "rw", "Accept frames for this core."),
        ),
        whole("producer", 0x0C, "r", "Descriptors written to the flow ring since reset, modulo 65,536.", width=16),
        whole("consumer", 0x10, "rw", "Descriptors consumed from the flow ring, modulo 65,536.", width=16),
        whole(
            "free",
            0x14,
            "w",
            "Give back the buffer of this index; one that is not out is ignored and counted.",
            width=16,
        ),
        fields(
            "buffers",
            0x18,
            "Buffers in the free lists now.",
            F("large", 0, 16, "r", "Of 1,536 bytes."),
            F("small", 16, 16, "r", "Of 256 bytes."),
        ),
        whole("dropped", 0x1C, "r", "Frames for the other queue dropped: no buffer within its limit, or disabled."),
        whole("bad_free", 0x20, "r", "Buffers given back that were not out."),
        whole("cpu_accesses", 0x24, "r", "Accesses of the CPU to its RX bank and TX bank since reset."),
        whole("other_ring", 0x28, "rw", "Byte offset in data RAM of the other queue's descriptor ring.", width=20),
        whole("other_producer", 0x2C, "r", "Descriptors written to the other ring, modulo 65,536.", width=16),
        whole("other_consumer", 0x30, "rw", "Descriptors consumed from the other ring, modulo 65,536.", width=16),
        fields(
            "limits",
            0x34,
            "Buffers that each queue may hold; what one may not hold is reserved for the other.",
            F("flow_large", 0, 8, "rw", "Large buffers of the flow queue.", 255),
            F("flow_small", 8, 8, "rw", "Small buffers of the flow queue.", 255),
            F("other_large", 16, 8, "rw", "Large buffers of the other queue.", 255),
            F("other_small", 24, 8, "rw", "Small buffers of the other queue.", 255),
        ),
        whole(
            "watermark",
            0x38,
            "rw",
            "Below this many free large buffers the rx_low event is pending and ports send pause frames if they may.",
            width=8,
        ),
        whole("flow_dropped", 0x3C, "r", "Frames for the flow queue dropped: no buffer within its limit, or disabled."),
    ),
    "Receive queues of this core: frames that hit the flow table, and all others.",
)

TX = Block(
    "tx",
    "core",
    0x140,
    0x20,
    (
        whole("ring", 0x00, "rw", "Byte offset in data RAM of the TX command ring, 32-byte entries.", width=20),
        fields(
            "control",
            0x04,
            "TX queue control.",
            F("ring_log2", 0, 4, "rw", "log2 of the ring's entries, 1 to 8."),
            F("enable", 31, 1, "rw", "Fetch commands."),
        ),
        whole("producer", 0x08, "rw", "Doorbell: commands placed since reset, modulo 65,536.", width=16),
        whole(
            "consumer",
            0x0C,
            "x",
            "Commands returned since reset, modulo 65,536; writing any value clears the tx event.",
            width=16,
        ),
        whole(
            "next_hops",
            0x10,
            "rw",
            "Byte offset in data RAM of the next-hop table, entries as next_hop says.",
            width=20,
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
        whole("ring", 0x00, "rw", "Byte offset in data RAM of the delivery ring, 80-byte entries.", width=20),
        fields(
            "control",
            0x04,
            "Delivery ring control.",
            F("ring_log2", 0, 4, "rw", "log2 of the ring's entries, 0 to 8."),
            F("enable", 31, 1, "rw", "Deliver entries to this core."),
        ),
        whole("producer", 0x08, "r", "Entries delivered since reset, modulo 65,536.", width=16),
        whole("consumer", 0x0C, "rw", "Entries consumed since reset, modulo 65,536.", width=16),
    ),
    "Submission queue entries for this core.",
)

CQ = Block(
    "cq",
    "core",
    0x1A0,
    0x20,
    (
        whole("user_low", 0x00, "rw", "Low word of the user data."),
        whole("user_high", 0x04, "rw", "High word of the user data."),
        whole("result", 0x08, "rw", "Result, signed."),
        fields(
            "post",
            0x0C,
            "Posts the completion; ignored and counted when there is no space.",
            F("more", 0, 1, "w", "More completions will follow."),
            F("is_joined", 1, 1, "w", "Merge into join slot join_id, which posts one completion for all cores."),
            F("host", 2, 2, "w", "Host to complete to."),
            F("join_id", 4, 4, "w", "Join slot of the delivery."),
        ),
        whole("space", 0x10, "r", "Completions that can be posted now.", width=8),
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
            whole("local", 0x00, "rw", local),
            whole("host_address", 0x04, "rw", "Host bus byte address."),
            fields(
                "go",
                0x08,
                "Queues the transfer; ignored when there is no space.",
                F("length", 0, 16, "w", "Bytes, 1 to 65,535."),
                F("tag", 16, 14, "w", "Comes back with the completion."),
                F("host", 30, 2, "w", "Host whose windows bound the transfer."),
            ),
            whole("space", 0x0C, "r", "Transfers that can be queued now.", width=8),
            fields(
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
        whole("send_word", 0x00, "rw", "The four words of the message to send.", count=4),
        fields(
            "send",
            0x10,
            "Sends the message; with no space the write is ignored and counted.",
            F("to", 0, 4, "w", "Receiving core."),
        ),
        fields(
            "status",
            0x14,
            "State of the FIFOs.",
            F("space", 0, 8, "r", "Bit n: a message to core n can be sent."),
            F("available", 31, 1, "r", "A message has come."),
            F("sender", 8, 4, "r", "Who sent it."),
        ),
        whole("word", 0x20, "r", "The four words of the oldest message.", count=4),
        whole("pop", 0x30, "w", "Removes the oldest message.", width=1),
    ),
    "Message FIFOs to and from the other cores.",
)

PROBE = Block(
    "probe",
    "core",
    0x240,
    0x40,
    (
        *PROBE_REGISTERS,
        fields(
            "flow",
            0x30,
            "Starts an operation on the flow table, or the UDP port table, with the tuple above as a frame to us has it.",
            F("operation", 0, 3, "w", "A FlowOperation."),
            F("is_ipv6", 3, 1, "w", "Addresses are IPv6."),
            F("is_tcp", 4, 1, "w", "TCP, otherwise UDP."),
            F("is_spread", 5, 1, "w", "ADD_PORT: the socket lives on several cores, and the hash chooses among them."),
            F("index", 16, 16, "w", "DELETE: the entry; it must be this core's."),
        ),
        fields(
            "flow_result",
            0x34,
            "Result of the last operation.",
            F("status", 0, 3, "r", "A FlowStatus."),
            F("index", 8, 16, "r", "INSERT, LOOKUP: the entry."),
            F("core", 24, 4, "r", "LOOKUP: its core."),
            F(
                "busy",
                31,
                1,
                "r",
                "Not finished yet; as long as a probe. INSERT into a full table, and what a core asks for while its entries of "
                "before its reset are being freed, waits for that first.",
            ),
        ),
    ),
    "Hash probe and flow table: which core gets a packet, and whose it shall be.",
)

LOCK = Block(
    "lock",
    "core",
    0x280,
    0x80,
    (
        fields(
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
