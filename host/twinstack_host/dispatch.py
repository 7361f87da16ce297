"""How the engine gives received frames to its cores: hash key, tuple, indirection table and rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from twinstack.proto.descriptor import RuleAction
from twinstack.proto.queues import DISPATCH_CONFIG, DISPATCH_RULES, RULE_ENTRY

KEY_BYTES = 40
TABLE_ENTRIES = 128
_COMPARED = {"ethertype": 16, "protocol": 8, "network_port": 4, "source_port": 16, "destination_port": 16}


@dataclass(frozen=True)
class DispatchRule:
    """Applies to a frame that equals it in all that is not None; the first rule that applies decides.

    Parameters
    ----------
    action : RuleAction
        CORE, MANAGER, ALL, HASH, DROP; OFF: no rule.
    core : int
        For CORE.
    ethertype, protocol, network_port, source_port, destination_port : int or None
        What a frame must have; ports are those of TCP and UDP.

    Raises
    ------
    ValueError
        If a value does not fit its field, or ``action`` is none.
    """

    action: RuleAction = RuleAction.OFF
    core: int = 0
    ethertype: int | None = None
    protocol: int | None = None
    network_port: int | None = None
    source_port: int | None = None
    destination_port: int | None = None

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "action", RuleAction(self.action))
        except ValueError:
            names = ", ".join(action.name for action in RuleAction)
            raise ValueError(f"action must be one of {names}, not {self.action!r}") from None
        for name, width in _COMPARED.items():
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1 << width:
                raise ValueError(f"{name} must be 0 to {(1 << width) - 1} or None, not {value!r}")
            if value is not None and self.action is RuleAction.OFF:
                raise ValueError(f"{name} must be None where action is OFF, not {value!r}")
        if not 0 <= self.core < 16:
            raise ValueError(f"core must be 0 to 15, not {self.core!r}")
        if self.core and self.action is not RuleAction.CORE:
            raise ValueError(f"core must be 0 where action is not CORE, not {self.core!r}")

    def pack(self) -> bytes:
        """The rule as ``rule_entry``."""
        values: dict[str, int] = {"action": int(self.action), "core": self.core}
        for name in _COMPARED:
            if (value := getattr(self, name)) is not None:
                values |= {name: value, f"match_{name}": 1}
        return RULE_ENTRY.pack(values)

    @classmethod
    def unpack(cls, data: bytes) -> DispatchRule:
        values = RULE_ENTRY.unpack(data)
        compared = {name: values[name] for name in _COMPARED if values[f"match_{name}"]}
        return cls(RuleAction(values["action"]), values["core"], **compared)


@dataclass(frozen=True)
class DispatchConfig:
    """What DISPATCH_CONFIG sets or reads; parts that are None stay as they are.

    Parameters
    ----------
    key : bytes or None
        Toeplitz key, 40 bytes, not all zero.
    tcp_ports, udp_ports : bool or None
        Hash addresses and ports (otherwise addresses only); both or neither.
    indirection : sequence of int or None
        Core of each of the 128 values that the hash's low bits have.
    rules : sequence of DispatchRule or None
        At most 8; they replace all rules, the firmware's own for DNS and DHCP included.

    Raises
    ------
    ValueError
        If a part has the wrong size or a value that cannot be.
    """

    key: bytes | None = None
    tcp_ports: bool | None = None
    udp_ports: bool | None = None
    indirection: Sequence[int] | None = None
    rules: Sequence[DispatchRule] | None = None

    def __post_init__(self) -> None:
        if self.key is not None and len(self.key) != KEY_BYTES:
            raise ValueError(f"key must have {KEY_BYTES} bytes, not {len(self.key)!r}")
        if self.key is not None and not any(self.key):
            raise ValueError(f"key must not be all zero, not {bytes(self.key)!r}")
        if (self.tcp_ports is None) != (self.udp_ports is None):
            raise ValueError(f"udp_ports must go together with tcp_ports={self.tcp_ports!r}, not {self.udp_ports!r}")
        if self.indirection is not None:
            if len(self.indirection) != TABLE_ENTRIES:
                raise ValueError(f"indirection must have {TABLE_ENTRIES} entries, not {len(self.indirection)!r}")
            for index, core in enumerate(self.indirection):
                if not 0 <= core < 16:
                    raise ValueError(f"indirection[{index}] must be a core, not {core!r}")
        if self.rules is not None and len(self.rules) > DISPATCH_RULES:
            raise ValueError(f"rules must be at most {DISPATCH_RULES}, not {len(self.rules)!r}")

    def check(self, cores: int) -> None:
        """Raise ValueError if a core is named that an engine with ``cores`` has not, or nothing is to be set."""
        if all(part is None for part in (self.key, self.tcp_ports, self.indirection, self.rules)):
            raise ValueError(f"configuration must have a part, not {self!r}")
        for index, core in enumerate(self.indirection or ()):
            if core >= cores:
                raise ValueError(f"indirection[{index}] must be below {cores}, not {core!r}")
        for index, rule in enumerate(self.rules or ()):
            if rule.action is RuleAction.CORE and rule.core >= cores:
                raise ValueError(f"rules[{index}].core must be below {cores}, not {rule.core!r}")

    def pack(self) -> bytes:
        """The block of DISPATCH_CONFIG."""
        values = {
            "has_key": int(self.key is not None),
            "has_hash_types": int(self.tcp_ports is not None),
            "has_indirection": int(self.indirection is not None),
            "has_rules": int(self.rules is not None),
            "key": int.from_bytes(self.key or b"", "little"),
            "tcp_ports": int(bool(self.tcp_ports)),
            "udp_ports": int(bool(self.udp_ports)),
            "indirection": int.from_bytes(bytes(self.indirection or ()), "little"),
            "rules": int.from_bytes(b"".join(rule.pack() for rule in self.rules or ()), "little"),
        }
        return DISPATCH_CONFIG.pack(values)

    @classmethod
    def unpack(cls, data: bytes) -> DispatchConfig:
        values = DISPATCH_CONFIG.unpack(data)
        rules = values["rules"].to_bytes(DISPATCH_RULES * RULE_ENTRY.size_bytes, "little")
        entries = [rules[at : at + RULE_ENTRY.size_bytes] for at in range(0, len(rules), RULE_ENTRY.size_bytes)]
        return cls(
            key=(values["key"].to_bytes(KEY_BYTES, "little") if values["key"] else None) if values["has_key"] else None,
            tcp_ports=bool(values["tcp_ports"]) if values["has_hash_types"] else None,
            udp_ports=bool(values["udp_ports"]) if values["has_hash_types"] else None,
            indirection=tuple(values["indirection"].to_bytes(TABLE_ENTRIES, "little"))
            if values["has_indirection"]
            else None,
            rules=tuple(DispatchRule.unpack(entry) for entry in entries) if values["has_rules"] else None,
        )
