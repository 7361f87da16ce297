"""DISPATCH_CONFIG of the socket service: set, read back, refused with a reason; the rules outlive one core's reset."""

from __future__ import annotations

import os
import random

import pytest

from firmware.firmware_peer import BUILD, Firmware, build
from twinstack.config import EngineConfig
from twinstack.proto.descriptor import RuleAction
from twinstack.proto.queues import DISPATCH_CONFIG, DISPATCH_RULES, RULE_ENTRY, DispatchFlag, Operation
from twinstack_host.dispatch import TABLE_ENTRIES, DispatchConfig, DispatchRule

CORES = 2
BYTES = DISPATCH_CONFIG.size_bytes
NOBODY = "0x100"  # no bit of a core
EINVAL, EFAULT = 22, 14
OWN_RULES = {
    (RuleAction.MANAGER, 17, 53, None),
    (RuleAction.MANAGER, 17, 67, 68),
}


@pytest.fixture(scope="module", autouse=True)
def built():
    build("host")
    assert (BUILD / "host" / "firmware").exists()


@pytest.fixture
def firmware():
    process = Firmware(("--cores", str(CORES)))
    first = process.state()
    yield process
    last = process.state()
    process.close()
    assert not process.log
    for name in ("ops", "tx_free", "scratch"):
        assert first[name] == last[name], name


def read(firmware: Firmware) -> DispatchConfig:
    firmware.write(0x400, b"\xa5" * BYTES)
    result = firmware.call(Operation.DISPATCH_CONFIG, buffer=0x400, length=BYTES, operation_flags=DispatchFlag.READ)
    assert result == BYTES
    return DispatchConfig.unpack(firmware.read(0x400, BYTES))


def set_block(firmware: Firmware, block: bytes) -> int:
    firmware.write(0x800, block)
    return firmware.call(Operation.DISPATCH_CONFIG, buffer=0x800, length=BYTES)


def refused_at(firmware: Firmware) -> int:
    return DISPATCH_CONFIG.unpack(firmware.read(0x800, BYTES))["refused_at"]


def own_rules(config: DispatchConfig) -> set:
    return {
        (rule.action, rule.protocol, rule.source_port, rule.destination_port)
        for rule in config.rules
        if rule.action is not RuleAction.OFF
    }


def some_config(seed: int) -> DispatchConfig:
    chosen = random.Random(seed)
    rules = tuple(
        DispatchRule(
            action,
            chosen.randrange(CORES) if action is RuleAction.CORE else 0,
            ethertype=chosen.choice((None, 0x0800, 0x86DD)),
            protocol=chosen.choice((None, chosen.randrange(256))),
            network_port=chosen.choice((None, 0, 1)),
            source_port=chosen.choice((None, chosen.randrange(65536))),
            destination_port=chosen.choice((None, chosen.randrange(65536))),
        )
        for action in (RuleAction.CORE, RuleAction.MANAGER, RuleAction.ALL, RuleAction.HASH, RuleAction.DROP)
    )
    return DispatchConfig(
        key=chosen.randbytes(40),
        tcp_ports=chosen.choice((False, True)),
        udp_ports=chosen.choice((False, True)),
        indirection=tuple(chosen.randrange(CORES) for _ in range(TABLE_ENTRIES)),
        rules=rules + (DispatchRule(),) * (DISPATCH_RULES - len(rules)),
    )


def test_after_the_start_the_firmwares_own_rules_are_set(firmware):
    config = read(firmware)
    assert own_rules(config) == OWN_RULES
    assert config.indirection == tuple(i % CORES for i in range(TABLE_ENTRIES))
    assert (config.tcp_ports, config.udp_ports) == (True, True)
    assert config.key is None, "zeros after power-up"


def test_everything_is_read_back_and_reaches_the_registers(firmware):
    seed = int(os.environ.get("TWINSTACK_SEED", "1"))
    for number in range(5):
        config = some_config(seed + number)
        firmware.rules.clear()
        firmware.indirection.clear()
        assert set_block(firmware, config.pack()) == BYTES
        assert read(firmware) == config
        assert [firmware.indirection[i] for i in range(TABLE_ENTRIES)] == list(config.indirection)
        for (kind, ports, match), rule in zip(firmware.rules, config.rules, strict=True):
            entry = RULE_ENTRY.unpack(rule.pack())
            assert kind == entry["ethertype"] | entry["protocol"] << 16 | entry["network_port"] << 24
            assert ports == entry["source_port"] | entry["destination_port"] << 16
            names = ("ethertype", "protocol", "network_port", "source_port", "destination_port")
            assert match >> 4 & 31 == sum(entry[f"match_{name}"] << bit for bit, name in enumerate(names))
            assert (match >> 12 & 7, match >> 16 & 15) == (rule.action, rule.core)
        assert [match & 15 for _, _, match in firmware.rules] == list(range(EngineConfig().rules))


def test_parts_that_are_not_named_stay(firmware):
    config = some_config(3)
    assert set_block(firmware, config.pack()) == BYTES
    for part in (
        DispatchConfig(key=bytes(range(40))),
        DispatchConfig(tcp_ports=not config.tcp_ports, udp_ports=config.udp_ports),
        DispatchConfig(indirection=[1] * TABLE_ENTRIES),
        DispatchConfig(rules=[]),
    ):
        before = read(firmware)
        assert set_block(firmware, part.pack()) == BYTES
        after = read(firmware)
        for name in ("key", "tcp_ports", "udp_ports", "indirection", "rules"):
            given = getattr(part, name)
            if name == "rules" and given is not None:
                assert all(rule == DispatchRule() for rule in after.rules)
            elif given is not None:
                assert tuple(getattr(after, name)) == tuple(given) if name == "indirection" else given is not None
            else:
                assert getattr(after, name) == getattr(before, name), name
    assert read(firmware).key == bytes(range(40))


def changed(offset: int, value: int, base: bytes) -> bytes:
    return base[:offset] + bytes([value]) + base[offset + 1 :]


KEY, TYPES, TABLE, RULES = 8, 48, 64, 192
FULL = some_config(7).pack()
ONLY_KEY = DispatchConfig(key=b"\x01" * 40).pack()
ONE_RULE = DispatchConfig(rules=[DispatchRule(RuleAction.CORE, 1, protocol=6)]).pack()


@pytest.mark.parametrize(
    ("block", "offset"),
    [
        (bytes(BYTES), 0),
        (changed(0, 0x1F, FULL), 0),
        (changed(4, 1, FULL), 4),
        (ONLY_KEY[:KEY] + bytes(40) + ONLY_KEY[KEY + 40 :], KEY),
        (changed(0, 2, ONLY_KEY), KEY),
        (changed(TYPES, 4, FULL), TYPES),
        (changed(TYPES, 1, ONLY_KEY), TYPES),
        (changed(56, 1, FULL), 56),
        (changed(TABLE + 5, CORES, FULL), TABLE + 5),
        (changed(TABLE + 127, 1, ONLY_KEY), TABLE + 127),
        (changed(RULES, 1, ONLY_KEY), RULES),
        (changed(RULES + 8 + 2, CORES, ONE_RULE), RULES + 8),  # no such core
        (changed(RULES + 8 + 1, 6, ONE_RULE), RULES + 8),  # no such action
        (changed(RULES + 8 + 1, 0, ONE_RULE), RULES + 8),  # OFF, but compares
        (changed(RULES + 8 + 1, 2, ONE_RULE), RULES + 8),  # MANAGER with a core
        (changed(RULES + 8, 0x22, ONE_RULE), RULES + 8),  # reserved bit
        (changed(RULES, 8, ONE_RULE), RULES),  # EtherType that is not compared
        (changed(RULES + 4, 8, ONE_RULE), RULES + 4),
        (changed(RULES + 12, 8, ONE_RULE), RULES + 12),
        (changed(RULES + 16 * 7 + 3, 1, ONE_RULE), RULES + 16 * 7),
    ],
)
def test_a_wrong_block_changes_nothing_and_says_where(firmware, block, offset):
    before = read(firmware)
    assert set_block(firmware, block) == -EINVAL
    assert refused_at(firmware) == offset
    assert read(firmware) == before


def test_wrong_arguments(firmware):
    assert firmware.call(Operation.DISPATCH_CONFIG, buffer=0x800, length=BYTES - 1) == -EINVAL
    assert firmware.call(Operation.DISPATCH_CONFIG, buffer=0x800, length=BYTES, operation_flags=2) == -EINVAL
    assert firmware.call(Operation.DISPATCH_CONFIG, buffer=0x800, length=BYTES, handle=1) == -EINVAL
    for flags in (0, DispatchFlag.READ):
        result = firmware.call(Operation.DISPATCH_CONFIG, buffer=0xFFFFF, length=BYTES, operation_flags=flags)
        assert result == -EFAULT


def test_one_core_may_have_a_key_of_zeros():
    one = Firmware()
    assert set_block(one, ONLY_KEY[:KEY] + bytes(40) + ONLY_KEY[KEY + 40 :]) == BYTES
    one.close()


def test_rules_last_until_all_cores_were_reset(tmp_path):
    shared = ("--cores", "2", "--shared", str(tmp_path / "shared"))
    first = Firmware((*shared, "--core", "0", "--alive", NOBODY))
    assert set_block(first, DispatchConfig(rules=[DispatchRule(RuleAction.DROP, protocol=99)]).pack()) == BYTES
    first.close()
    # Core 1 lives on and becomes the manager: the host's rules stay, and are still known.
    second = Firmware((*shared, "--core", "1", "--manager", "1", "--alive", "2"))
    second.close()
    # It started while nobody lived: the firmware's own rules are back.
    again = Firmware((*shared, "--core", "0", "--alive", NOBODY))
    assert own_rules(read(again)) == OWN_RULES
    again.close()


def test_a_restarted_core_keeps_the_hosts_rules(tmp_path):
    shared = ("--cores", "2", "--shared", str(tmp_path / "shared"))
    manager = Firmware((*shared, "--core", "0", "--alive", "1"))
    other = Firmware((*shared, "--core", "1", "--alive", "3"))
    rules = [DispatchRule(RuleAction.DROP, protocol=99)]
    table = [1] * 64 + [0] * 64
    assert set_block(manager, DispatchConfig(rules=rules, indirection=table).pack()) == BYTES
    manager.close()
    restarted = Firmware((*shared, "--core", "0", "--alive", "2", "--manager", "1"))
    restarted.close()
    as_manager = Firmware((*shared, "--core", "0", "--alive", "2"))
    config = read(as_manager)
    assert config.rules[0] == rules[0] and config.indirection == tuple(table)
    assert not as_manager.rules, "the hardware has them"
    as_manager.close()
    other.close()
    # All reset: own rules again; the table outlives resets.
    fresh = Firmware((*shared, "--core", "0", "--alive", NOBODY))
    config = read(fresh)
    assert own_rules(config) == OWN_RULES and config.indirection == tuple(table)
    fresh.close()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"key": b"x"}, "key must have 40 bytes, not 1"),
        ({"key": bytes(40)}, "key must not be all zero"),
        ({"tcp_ports": True}, "udp_ports must go together"),
        ({"indirection": [0]}, "indirection must have 128 entries, not 1"),
        ({"indirection": [0] * 127 + [16]}, r"indirection\[127\] must be a core, not 16"),
        ({"rules": [DispatchRule()] * 9}, "rules must be at most 8, not 9"),
    ],
)
def test_the_host_library_names_the_wrong_value(fields, message):
    with pytest.raises(ValueError, match=message):
        DispatchConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"action": 6}, "action must be one of OFF, .* not 6"),
        ({"action": RuleAction.DROP, "protocol": 256}, "protocol must be 0 to 255 or None, not 256"),
        ({"source_port": 1}, "source_port must be None where action is OFF, not 1"),
        ({"action": RuleAction.ALL, "core": 1}, "core must be 0 where action is not CORE, not 1"),
        ({"action": RuleAction.CORE, "core": 16}, "core must be 0 to 15, not 16"),
    ],
)
def test_the_host_library_names_the_wrong_value_of_a_rule(fields, message):
    with pytest.raises(ValueError, match=message):
        DispatchRule(**fields)


def test_the_host_library_knows_the_engines_cores():
    with pytest.raises(ValueError, match=r"indirection\[3\] must be below 2, not 2"):
        DispatchConfig(indirection=[0, 0, 0, 2] + [0] * 124).check(2)
    with pytest.raises(ValueError, match=r"rules\[0\]\.core must be below 2, not 3"):
        DispatchConfig(rules=[DispatchRule(RuleAction.CORE, 3)]).check(2)
    with pytest.raises(ValueError, match="must have a part"):
        DispatchConfig().check(2)
    DispatchConfig(tcp_ports=True, udp_ports=False).check(2)
