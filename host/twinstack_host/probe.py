"""Which core gets a packet: asks the engine's dispatcher itself."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from twinstack.proto.registers import HOST_PROBE

from .registers import Registers

POLLS = 16384
"""Of three cycles or more each; no probe takes 40,000 (docs/blocks/dispatcher.md)."""


@dataclass(frozen=True)
class ProbeAnswer:
    """What the dispatcher would do with a packet *to the engine*.

    ``hash`` is its RSS hash, ``core`` the core that gets it, ``flow_index`` its entry in the flow table; None: it has none.
    """

    hash: int
    core: int
    flow_index: int | None


def ask(
    registers: Registers,
    source: str | IPv4Address | IPv6Address,
    destination: str | IPv4Address | IPv6Address,
    source_port: int | None = None,
    destination_port: int | None = None,
    *,
    tcp: bool = True,
) -> ProbeAnswer:
    """Probe with the tuple of a packet to the engine: ``destination`` and its port are the engine's own.

    Without ports the answer is that for a packet of neither TCP nor UDP. The caller keeps others away meanwhile.

    Raises
    ------
    ValueError
        If the addresses are none, or of different families, or a port is missing or out of range.
    TimeoutError
        If the engine does not answer.
    """
    addresses = {"source": ip_address(source), "destination": ip_address(destination)}
    if addresses["source"].version != addresses["destination"].version:
        raise ValueError(f"source and destination must be of one family, not {source!r} and {destination!r}")
    ports = {"source": source_port, "destination": destination_port}
    if (source_port is None) != (destination_port is None):
        raise ValueError(f"source_port and destination_port must be given both or not at all, not {ports!r}")
    has_ports = source_port is not None
    for name, port in ports.items():
        if port is not None and not 0 <= port < 1 << 16:
            raise ValueError(f"{name}_port must be 0 to 65535, not {port!r}")
    _wait(registers)
    for name, address in addresses.items():
        packed = address.packed.ljust(16, b"\0")
        for index in range(4):
            word = int.from_bytes(packed[4 * index : 4 * index + 4], "little")
            registers.write(HOST_PROBE, name, word, index=index)
    registers.write_fields(HOST_PROBE, "ports", **{name: port or 0 for name, port in ports.items()})
    registers.write_fields(
        HOST_PROBE, "go", is_ipv6=addresses["source"].version == 6, has_ports=has_ports, is_tcp=has_ports and tcp
    )
    result = _wait(registers)
    return ProbeAnswer(
        hash=registers.read(HOST_PROBE, "hash"),
        core=result["core"],
        flow_index=result["flow_index"] if result["flow_hit"] else None,
    )


def _wait(registers: Registers) -> dict[str, int]:
    """The result, once no probe is busy."""
    for _ in range(POLLS):
        result = registers.read_fields(HOST_PROBE, "result")
        if not result["busy"]:
            return result
    raise TimeoutError(errno.ETIMEDOUT, "the engine does not answer a hash probe")
