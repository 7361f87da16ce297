"""``twinstack dispatch``: rules and values as text, and the command against a served engine of a few lines."""

from __future__ import annotations

import json
import random
import threading

import pytest

from support.fake_sockets import FakeSockets
from support.rtl import seed
from twinstack.proto.descriptor import RuleAction
from twinstack.proto.queues import Operation
from twinstack_host import cli
from twinstack_host.device import DEFAULT_KEY, Device
from twinstack_host.dispatch import DispatchConfig, DispatchRule
from twinstack_host.dispatch_cli import format_rule, parse_hash, parse_indirection, parse_key, parse_rule
from twinstack_host.server import LinkServer

RULES = {
    "ipv4 tcp dport=80 -> core 1": DispatchRule(
        RuleAction.CORE, core=1, ethertype=0x0800, protocol=6, destination_port=80
    ),
    "udp sport=53 -> manager": DispatchRule(RuleAction.MANAGER, protocol=17, source_port=53),
    "ipv6 icmpv6 netport=1 -> all": DispatchRule(RuleAction.ALL, ethertype=0x86DD, protocol=58, network_port=1),
    "ethertype=0x88f7 -> drop": DispatchRule(RuleAction.DROP, ethertype=0x88F7),
    "arp -> core 0": DispatchRule(RuleAction.CORE, ethertype=0x0806),
    "protocol=132 -> hash": DispatchRule(RuleAction.HASH, protocol=132),
    "any -> hash": DispatchRule(RuleAction.HASH),
}


@pytest.mark.parametrize("text", RULES)
def test_rules(text):
    assert parse_rule(text) == RULES[text] and format_rule(RULES[text]) == text
    assert parse_rule(f"  {text.replace(' ', '  ').replace('->', ' ->  ')} ") == RULES[text]


def test_any_rule_survives_its_text():
    rng = random.Random(seed())
    widths = {"ethertype": 16, "protocol": 8, "network_port": 4, "source_port": 16, "destination_port": 16}
    for _ in range(500):
        action = rng.choice([one for one in RuleAction if one is not RuleAction.OFF])
        core = rng.randrange(16) if action is RuleAction.CORE else 0
        fields = {name: rng.getrandbits(width) for name, width in widths.items() if rng.random() < 0.5}
        rule = DispatchRule(action, core, **fields)
        assert parse_rule(format_rule(rule)) == rule


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "rule must be MATCHES -> ACTION, not ''"),
        ("tcp core 1", "rule must be MATCHES -> ACTION"),
        ("tcp -> core 1 -> drop", "rule must be MATCHES -> ACTION"),
        ("-> drop", "before the arrow, not '-> drop'"),
        ("tpc -> drop", "not 'tpc' in rule 'tpc -> drop'"),
        ("tcp udp -> drop", "must name protocol once, not again by 'udp'"),
        ("dport=80 dport=81 -> drop", "must name destination_port once, not again by 'dport=81'"),
        ("dport=http -> drop", "dport in rule 'dport=http -> drop' must be a number, not 'http'"),
        ("dport=-1 -> drop", "must be a number, not '-1'"),
        ("dport=65536 -> drop", "destination_port must be 0 to 65535 or None, not 65536"),
        ("tcp any -> drop", "not 'any'"),
        ("tcp -> core", "action must be one of core N, manager, all, hash, drop, not 'core'"),
        ("tcp -> core one", "must be a number, not 'one'"),
        ("tcp -> core 16", "core must be 0 to 15, not 16"),
        ("tcp -> off", "not 'off'"),
        ("tcp ->", "not ''"),
    ],
)
def test_wrong_rules(text, message):
    with pytest.raises(ValueError) as caught:
        parse_rule(text)
    assert message in str(caught.value)


def test_keys():
    assert parse_key(DEFAULT_KEY.hex()) == parse_key(DEFAULT_KEY.hex(":").upper()) == DEFAULT_KEY
    for text, message in (
        ("00" * 40, "key must not be all zero"),
        ("6d", "key must be 80 hexadecimal digits, not 2: '6d'"),
        ("xy" * 40, "key must be 80 hexadecimal digits, not 'xyxy"),
        ("", "not 0"),
    ):
        with pytest.raises(ValueError, match=message):
            parse_key(text)


def test_hash_types():
    assert parse_hash("tcp=ports,udp=addresses") == (True, False)
    assert parse_hash("udp=ports,tcp=addresses") == (False, True)
    for text in ("", "tcp=ports", "tcp=ports,tcp=ports", "tcp=port,udp=ports", "sctp=ports,udp=ports"):
        with pytest.raises(ValueError, match="hash must"):
            parse_hash(text)


def test_indirection_tables():
    assert parse_indirection("0,1") == (0, 1) * 64 and parse_indirection("1") == (1,) * 128
    for text, message in (("0,1,0", "divides 128, not 3"), ("0,x", "must be a number, not 'x'"), ("", "not ''")):
        with pytest.raises(ValueError, match=message):
            parse_indirection(text)


class Configured(FakeSockets):
    """An engine with DISPATCH_CONFIG: it keeps the block, part by part."""

    def __init__(self):
        super().__init__()
        rules = [DispatchRule(RuleAction.MANAGER, protocol=17, source_port=53)]
        self.config = DispatchConfig(DEFAULT_KEY, True, True, (0, 1) * 64, rules)
        self.sets = 0

    def begin(self, entry):
        if entry["operation"] != Operation.DISPATCH_CONFIG:
            return super().begin(entry)
        if entry["operation_flags"]:
            self.write(entry["buffer"], self.config.pack())
        else:
            self.sets += 1
            new = DispatchConfig.unpack(self.read(entry["buffer"], 320))
            given = {name: value for name, value in vars(new).items() if value is not None}
            self.config = DispatchConfig(**(vars(self.config) | given))
        return 320


@pytest.fixture
def served(tmp_path):
    """An engine that a thread serves, and the path."""
    engine = Configured()
    device = Device(engine, shared_bytes=1 << 17)
    device.start(seed=1)
    path, stopped = tmp_path / "engine", threading.Event()
    with LinkServer(device, path, slice_bytes=1 << 17) as server:

        def serve():
            while not stopped.is_set():
                server.step(0.001)
                device.advance(0.0001)

        thread = threading.Thread(target=serve)
        thread.start()
        yield engine, path
        stopped.set()
        thread.join(10)


def test_show(served, capsys):
    engine, path = served
    assert cli.main(["dispatch", "--connect", str(path)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"key          {DEFAULT_KEY.hex()}",
        "hash         tcp=ports,udp=ports",
        "indirection  0,1",
        "rule 0       udp sport=53 -> manager",
    ]
    assert engine.sets == 0


def test_set_and_show_as_json(served, capsys):
    engine, path = served
    key = random.Random(seed()).randbytes(40).hex()
    capsys.readouterr()
    arguments = ["dispatch", "--connect", str(path), "--json", "--key", key, "--hash", "tcp=addresses,udp=ports"]
    arguments += ["--indirection", "1,1,0,1", "--rule", "ipv4 tcp dport=80 -> core 1", "--rule", "any -> hash"]
    assert cli.main(arguments) == 0
    assert json.loads(capsys.readouterr().out) == {
        "key": key,
        "hash": {"tcp": "addresses", "udp": "ports"},
        "indirection": [1, 1, 0, 1] * 32,
        "rules": ["ipv4 tcp dport=80 -> core 1", "any -> hash"],
    }
    assert engine.sets == 1
    assert cli.main(["dispatch", "--connect", str(path), "--no-rules"]) == 0
    out = capsys.readouterr().out
    assert out.endswith("no rules\n") and key in out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--key", "6d5a"], "not 4: '6d5a'"),
        (["--hash", "tcp=x"], "'tcp=x'"),
        (["--indirection", "0,1,2"], "not 3"),
        (["--indirection", "0,7"], "indirection[1] must be below 2, not 7"),
        (["--rule", "tcp -> core 7"], "rules[0].core must be below 2, not 7"),
        (["--rule", "tcp -> fly"], "'fly'"),
        (["--rule", "tcp -> drop", "--no-rules"], "--no-rules must stand without --rule"),
        (["--rule", "tcp -> drop"] * 9, "rules must be at most 8, not 9"),
    ],
)
def test_wrong_values(served, capsys, arguments, message):
    engine, path = served
    assert cli.main(["dispatch", "--connect", str(path), *arguments]) == 2
    assert message in capsys.readouterr().err and engine.sets == 0


def test_no_engine(tmp_path, capsys):
    assert cli.main(["dispatch", "--connect", str(tmp_path / "nothing")]) == 1
    assert "no engine at" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["dispatch"])
    assert "--connect" in capsys.readouterr().err
