"""The host's page of registers."""

from __future__ import annotations

from .probe_block import PROBE_REGISTERS
from .register import Block, fields, whole
from .register import RegisterField as F

ENGINE = Block(
    "engine",
    "host",
    0x000,
    0x80,
    (
        whole("magic", 0x00, "r", "MAGIC of twinstack.proto.abi."),
        whole("abi", 0x04, "r", "ABI_VERSION of the hardware."),
        fields(
            "identity",
            0x08,
            "What engine this is.",
            F("cores", 0, 4, "r", "Cores."),
            F("ports", 4, 4, "r", "Network ports."),
            F("hosts", 8, 4, "r", "Hosts."),
            F("code_kib", 16, 16, "r", "Code memory in KiB."),
        ),
        whole("sync_hz", 0x0C, "r", "Frequency of the sync clock in Hz."),
        whole("reset_cores", 0x10, "rw", "Bit n holds core n in reset.", width=8, reset=0xFF),
        whole(
            "code_address", 0x14, "rw", "Word address in code memory for code_data; advances with each write.", width=20
        ),
        whole(
            "code_data", 0x18, "w", "Write a word of code memory; ignored and counted unless all cores are in reset."
        ),
        whole("code_refused", 0x1C, "r", "Writes to code memory that were refused.", width=16),
        whole("alive", 0x20, "r", "Bit n: core n has reported a matching ABI and a stack that is up.", width=8),
        whole(
            "seed", 0x24, "rw", "Seed of the cores' random numbers; write it while they are in reset.", reset=0x1234567
        ),
        whole("milliseconds", 0x28, "r", "Ticks of the 1 kHz input since reset."),
        whole("cycles_low", 0x2C, "r", "Low word of the engine's cycle counter; reading it latches the high word."),
        whole("cycles_high", 0x30, "r", "High word of the cycle counter, latched."),
    ),
    "Identity, boot, time.",
)

HOST_CORE = Block(
    "host_core",
    "host",
    0x100,
    0x40,
    (
        fields(
            "status",
            0x00,
            "State of the core.",
            F("firmware_abi", 0, 16, "r", "ABI the firmware reported; 0 before it did."),
            F("epoch", 16, 8, "r", "Epoch."),
            F("ready", 31, 1, "r", "Firmware says its stack is up."),
        ),
        fields(
            "console",
            0x04,
            "Oldest byte of the console; a read that shows valid removes it.",
            F("data", 0, 8, "r", "The byte."),
            F("valid", 31, 1, "r", "There was one."),
        ),
        whole("console_lost", 0x08, "r", "Console bytes dropped."),
        whole("cpu_accesses", 0x0C, "r", "Accesses of the CPU to its packet memory banks."),
        fields(
            "rx_buffers",
            0x10,
            "RX buffers in the free lists now.",
            F("large", 0, 16, "r", "Of 1,536 bytes."),
            F("small", 16, 16, "r", "Of 256 bytes."),
        ),
        whole("rx_dropped", 0x14, "r", "Frames of the other queue dropped for lack of an RX buffer."),
        whole("rx_flow_dropped", 0x18, "r", "Frames of the flow queue dropped for lack of an RX buffer."),
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
        whole("base", 0x00, "rw", "First byte address of the window on the host bus."),
        whole("limit", 0x04, "rw", "Last byte address of the window."),
        fields(
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
        whole("sq_base", 0x00, "rw", "Byte address of the submission ring, 64-byte aligned."),
        whole("cq_base", 0x04, "rw", "Byte address of the completion ring, 16-byte aligned."),
        fields(
            "control",
            0x08,
            "Ring sizes and enable; sizes may change only while disabled. Disabling resets all indices.",
            F("sq_log2", 0, 4, "rw", "log2 of the submission ring's entries, 0 to 15."),
            F("cq_log2", 4, 4, "rw", "log2 of the completion ring's entries, 1 to 15."),
            F("irq_enable", 30, 1, "rw", "Raise the host interrupt."),
            F("enable", 31, 1, "rw", "Fetch and post."),
        ),
        whole("sq_tail", 0x0C, "rw", "Doorbell: entries submitted, modulo 65,536.", width=16),
        whole("sq_head", 0x10, "r", "Entries fetched, modulo 65,536; their slots may be reused.", width=16),
        whole("cq_tail", 0x14, "r", "Completions posted, modulo 65,536.", width=16),
        whole("cq_head", 0x18, "rw", "Doorbell: completions consumed, modulo 65,536.", width=16),
        fields(
            "irq",
            0x1C,
            "Interrupt moderation: raise it after count completions, or when the oldest is delay ticks old.",
            F("count", 0, 8, "rw", "Completions; 0 and 1 mean at once."),
            F("delay", 8, 8, "rw", "Milliseconds; 0 means at once."),
        ),
        fields(
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

HOST_PROBE = Block(
    "host_probe",
    "host",
    0x300,
    0x40,
    PROBE_REGISTERS,
    "Hash probe of the host: which core gets a packet, by the hardware that decides it for packets.",
)
