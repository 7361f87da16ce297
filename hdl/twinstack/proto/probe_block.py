"""The registers of a hash probe, the same on a core's page and on the host's."""

from __future__ import annotations

from .register import RegisterField as F
from .register import fields, whole

PROBE_REGISTERS = (
    whole(
        "source",
        0x00,
        "rw",
        "Source address as a frame to us would carry it, 4 words of wire bytes; IPv4 uses the first.",
        count=4,
    ),
    whole("destination", 0x10, "rw", "Destination address, likewise.", count=4),
    fields(
        "ports",
        0x20,
        "Port numbers as integers.",
        F("source", 0, 16, "rw", "Source port of a frame to us."),
        F("destination", 16, 16, "rw", "Destination port of a frame to us."),
    ),
    fields(
        "go",
        0x24,
        "Starts a probe.",
        F("is_ipv6", 0, 1, "w", "Addresses are IPv6."),
        F(
            "has_ports",
            1,
            1,
            "w",
            "The tuple has ports: the flow table is asked, and they are hashed if configured.",
        ),
        F("is_tcp", 2, 1, "w", "With has_ports: TCP, otherwise UDP."),
    ),
    fields(
        "result",
        0x28,
        "Result of the last probe.",
        F("core", 0, 4, "r", "Core to which the dispatcher would send it."),
        F("flow_hit", 4, 1, "r", "The tuple is in the flow table; flow_index is valid."),
        F("flow_index", 8, 16, "r", "Its entry."),
        F(
            "busy",
            31,
            1,
            "r",
            "Not finished yet; at most 5,280 cycles with two cores and 128 flows, for the host twice that: docs/blocks/dispatcher.md.",
        ),
    ),
    whole("hash", 0x2C, "r", "RSS hash of the last probe."),
)
"""Write the tuple, then ``go``; while ``result.busy`` a further ``go`` is ignored."""
