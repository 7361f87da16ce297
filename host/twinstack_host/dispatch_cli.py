"""``twinstack dispatch``: show and set how a running engine gives received frames to its cores."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from twinstack.proto.descriptor import RuleAction

from .connection import add_connection, open_device
from .dispatch import KEY_BYTES, TABLE_ENTRIES, DispatchConfig, DispatchRule

DESCRIPTION = """\
Show how an engine gives received frames to its cores, or set it: one that another program serves (--connect), or the
one on a board (--uart). What is not named stays as it is. Connections that are open stay on their cores.

The flow table of connections and the table of UDP ports come first, then the rules in their order, then the hash of
addresses and ports, whose low seven bits choose an entry of the indirection table.

A rule is what a frame must have, an arrow, and what happens to it:

  ipv4 tcp dport=80 -> core 1        udp sport=53 -> manager
  ipv6 icmpv6 netport=0 -> all       any -> hash          ethertype=0x88f7 -> drop

Rules replace all there were, the firmware's own for DNS and DHCP included.
"""

ETHERTYPES = {"ipv4": 0x0800, "ipv6": 0x86DD, "arp": 0x0806}
PROTOCOLS = {"tcp": 6, "udp": 17, "icmp": 1, "icmpv6": 58}
NUMBERS = {
    "ethertype": "ethertype",
    "protocol": "protocol",
    "netport": "network_port",
    "sport": "source_port",
    "dport": "destination_port",
}
ACTIONS = {
    "manager": RuleAction.MANAGER,
    "all": RuleAction.ALL,
    "hash": RuleAction.HASH,
    "drop": RuleAction.DROP,
}
HASHED = {"ports": True, "addresses": False}


def parse_rule(text: str) -> DispatchRule:
    """A rule from its text.

    Raises
    ------
    ValueError
        Naming the word that cannot be.
    """
    matches, arrow, action = text.partition("->")
    if not arrow or "->" in action:
        raise ValueError(f"rule must be MATCHES -> ACTION, not {text!r}")
    fields: dict[str, Any] = {}
    words = matches.split()
    if words != ["any"]:
        for word in words:
            name, value = _parse_match(word, text)
            if name in fields:
                raise ValueError(f"rule must name {name} once, not again by {word!r} in {text!r}")
            fields[name] = value
        if not words:
            raise ValueError(f"rule must name what a frame has, or any, before the arrow, not {text!r}")
    try:
        return DispatchRule(*_parse_action(action.split(), text), **fields)
    except ValueError as error:
        raise ValueError(f"{error} in rule {text!r}") from None


def _parse_match(word: str, text: str) -> tuple[str, int]:
    name, equals, value = word.partition("=")
    if not equals:
        if word in ETHERTYPES:
            return "ethertype", ETHERTYPES[word]
        if word in PROTOCOLS:
            return "protocol", PROTOCOLS[word]
    elif name in NUMBERS:
        return NUMBERS[name], _parse_number(value, f"{name} in rule {text!r}")
    known = ", ".join([*ETHERTYPES, *PROTOCOLS, *(f"{number}=N" for number in NUMBERS)])
    raise ValueError(f"match must be any or some of {known}, not {word!r} in rule {text!r}")


def _parse_action(words: list[str], text: str) -> tuple[RuleAction, int]:
    if len(words) == 2 and words[0] == "core":
        return RuleAction.CORE, _parse_number(words[1], f"core in rule {text!r}")
    if len(words) == 1 and words[0] in ACTIONS:
        return ACTIONS[words[0]], 0
    known = ", ".join(["core N", *ACTIONS])
    raise ValueError(f"action must be one of {known}, not {' '.join(words)!r} in rule {text!r}")


def _parse_number(text: str, what: str) -> int:
    try:
        number = int(text, 0)
    except ValueError:
        number = -1
    if number < 0:
        raise ValueError(f"{what} must be a number, not {text!r}")
    return number


def format_rule(rule: DispatchRule) -> str:
    """The text from which :func:`parse_rule` makes ``rule``."""
    words = []
    for names, prefix, value in ((ETHERTYPES, "ethertype", rule.ethertype), (PROTOCOLS, "protocol", rule.protocol)):
        if value is not None:
            named = [name for name, number in names.items() if number == value]
            words.append(
                named[0] if named else f"{prefix}={value:#x}" if prefix == "ethertype" else f"{prefix}={value}"
            )
    for prefix in ("netport", "sport", "dport"):
        value = getattr(rule, NUMBERS[prefix])
        if value is not None:
            words.append(f"{prefix}={value}")
    action = f"core {rule.core}" if rule.action is RuleAction.CORE else rule.action.name.lower()
    return f"{' '.join(words) or 'any'} -> {action}"


def parse_key(text: str) -> bytes:
    """A Toeplitz key from hexadecimal digits; spaces and colons may part them."""
    try:
        key = bytes.fromhex(text.replace(":", " "))
    except ValueError:
        raise ValueError(f"key must be {2 * KEY_BYTES} hexadecimal digits, not {text!r}") from None
    if len(key) != KEY_BYTES:
        raise ValueError(f"key must be {2 * KEY_BYTES} hexadecimal digits, not {2 * len(key)}: {text!r}")
    if not any(key):
        raise ValueError(f"key must not be all zero, not {text!r}")
    return key


def parse_hash(text: str) -> tuple[bool, bool]:
    """Whether ports are hashed for TCP and for UDP, from ``tcp=ports,udp=addresses``."""
    chosen: dict[str, bool] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name not in ("tcp", "udp") or value not in HASHED or name in chosen:
            raise ValueError(f"hash must be tcp=ports|addresses,udp=ports|addresses, not {part!r} in {text!r}")
        chosen[name] = HASHED[value]
    if len(chosen) != 2:
        raise ValueError(f"hash must name tcp and udp, not {text!r}")
    return chosen["tcp"], chosen["udp"]


def parse_indirection(text: str) -> tuple[int, ...]:
    """The indirection table from cores; fewer than 128 are repeated."""
    cores = tuple(_parse_number(part.strip(), f"indirection {text!r}: a core") for part in text.split(","))
    if len(cores) > TABLE_ENTRIES or TABLE_ENTRIES % len(cores):
        raise ValueError(f"indirection must have a number of cores that divides {TABLE_ENTRIES}, not {len(cores)}")
    return cores * (TABLE_ENTRIES // len(cores))


def add_commands(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the sub-command ``dispatch`` to the program's parser."""
    parser = subparsers.add_parser(
        "dispatch",
        help="show and set how a running engine gives frames to its cores",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_connection(parser)
    parser.add_argument("--key", metavar="HEX", help=f"Toeplitz key, {2 * KEY_BYTES} hexadecimal digits")
    parser.add_argument("--hash", metavar="TYPES", help="what is hashed: tcp=ports|addresses,udp=ports|addresses")
    parser.add_argument("--indirection", metavar="CORES", help="cores of the 128 entries; fewer are repeated: 0,1")
    parser.add_argument("--rule", action="append", default=[], metavar="RULE", help="a rule, once for each")
    parser.add_argument("--no-rules", action="store_true", help="remove all rules")
    parser.add_argument("--json", action="store_true", help="print the configuration as JSON")
    parser.set_defaults(run=run)


def wanted(arguments: argparse.Namespace) -> DispatchConfig | None:
    """What is to be set, None for nothing; raises ValueError for values that cannot be."""
    rules: Sequence[DispatchRule] | None = [parse_rule(text) for text in arguments.rule]
    if arguments.no_rules and rules:
        raise ValueError(f"--no-rules must stand without --rule, not with {arguments.rule[0]!r}")
    if not rules and not arguments.no_rules:
        rules = None
    tcp_ports, udp_ports = parse_hash(arguments.hash) if arguments.hash is not None else (None, None)
    config = DispatchConfig(
        key=parse_key(arguments.key) if arguments.key is not None else None,
        tcp_ports=tcp_ports,
        udp_ports=udp_ports,
        indirection=parse_indirection(arguments.indirection) if arguments.indirection is not None else None,
        rules=rules,
    )
    return None if config == DispatchConfig() else config


def run(arguments: argparse.Namespace) -> int:
    """Do what ``twinstack dispatch`` was asked for; 2 for wrong values, 1 if the engine does not do it."""
    try:
        config = wanted(arguments)
        with open_device(arguments) as device:
            if config is not None:
                device.set_dispatch(config)
            print(describe(device.dispatch_config(), arguments.json))
    except ValueError as error:
        print(f"twinstack dispatch: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"twinstack dispatch: {error.strerror or error}", file=sys.stderr)
        return 1
    return 0


def describe(config: DispatchConfig, as_json: bool) -> str:
    """The configuration for people, or as JSON."""
    rules = [format_rule(rule) for rule in config.rules or () if rule.action is not RuleAction.OFF]
    names = {value: name for name, value in HASHED.items()}
    hashed = {"tcp": names[bool(config.tcp_ports)], "udp": names[bool(config.udp_ports)]}
    key = (config.key or bytes(KEY_BYTES)).hex()
    table = list(config.indirection or ())
    if as_json:
        return json.dumps({"key": key, "hash": hashed, "indirection": table, "rules": rules}, indent=2)
    lines = [f"key          {key}", f"hash         tcp={hashed['tcp']},udp={hashed['udp']}"]
    lines.append(f"indirection  {','.join(str(core) for core in _shortest(table))}")
    lines += [f"rule {number}       {rule}" for number, rule in enumerate(rules)] or ["no rules"]
    return "\n".join(lines)


def _shortest(table: list[int]) -> list[int]:
    """The shortest beginning of the table that makes it when repeated."""
    for length in range(1, len(table)):
        if len(table) % length == 0 and table[:length] * (len(table) // length) == table:
            return table[:length]
    return table
