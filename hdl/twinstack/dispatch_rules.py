"""Dispatch rules: a short list of comparisons, the first that applies decides."""

# No postponed annotations here: data.Struct evaluates its own.

from amaranth import *
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from .proto.descriptor import RuleAction

ETHERTYPES = (0x0800, 0x86DD, 0x0806)
"""IPv4, IPv6, ARP (IEEE 802 numbers): the bits of a subject's ``kind``, in this order."""


class Rule(data.Struct):
    """A rule as registers ``rule_kind``, ``rule_ports`` and ``rule`` have it."""

    ethertype: 16
    protocol: 8
    network_port: 4
    source_port: 16
    destination_port: 16
    match_ethertype: 1
    match_protocol: 1
    match_network_port: 1
    match_source_port: 1
    match_destination_port: 1
    action: 3  # RuleAction
    core: 4


class RuleSubject(data.Struct):
    """What the rules compare of a frame or of a probe's tuple."""

    kind: 3  # bit n: EtherType is ETHERTYPES[n]
    has_protocol: 1
    protocol: 8
    network_port: 4  # bit n: came through port n; none for a probe
    has_ports: 1
    source_port: 16
    destination_port: 16


class _StoredRule(data.Struct):
    """A rule as it lies in memory: sets of kinds and network ports in place of a number each."""

    kinds: 4  # bit n: ETHERTYPES[n] will do; the last: any other will do
    network_ports: 5  # bit n: port n will do; the last: none known will do
    match_protocol: 1
    match_source_port: 1
    match_destination_port: 1
    protocol: 8
    source_port: 16
    destination_port: 16
    action: 3
    core: 2


class DispatchRules(wiring.Component):
    """Programmable rules; two are compared in a cycle.

    Parameters
    ----------
    rules : int, 1..16
        Rules; the lowest that applies decides.
    cores : int, 1..4
        Cores.

    Members
    -------
    run : ``In(1)``
        ``subject`` is to be compared. Stays until ``done``, and falls after it for at least one cycle.
    subject : ``In(RuleSubject)``
        Must not change while ``run``.
    done : ``Out(1)``
        The rest is valid, until ``run`` falls.
    hit : ``Out(1)``, action : ``Out(3)``, core : ``Out(2)``
        Whether a rule applies, and what it says.
    write : ``In(1)``
        Set rule ``index`` to ``rule`` in this cycle. While ``run`` a rule that was not compared yet is compared as it is
        then.
    index : ``In(4)``, rule : ``In(Rule)``
        With ``write``.
    refused : ``Out(1)``
        In the cycle of ``write``: it is ignored, as index, action, or the core of RuleAction.CORE does not exist, or in
        the first 8 cycles after reset, in which all rules become OFF.

    Timing
    ------
    ``done`` comes ``ceil(rules / 2)`` cycles after the first of ``run``.

    Raises
    ------
    TypeError, ValueError
        If a parameter is not an integer in its range.
    """

    def __init__(self, rules: int, cores: int):
        for name, value, limit in (("rules", rules, 16), ("cores", cores, 4)):
            if not isinstance(value, int) or isinstance(value, bool):
                raise TypeError(f"{name} must be an integer, not {value!r}")
            if not 1 <= value <= limit:
                raise ValueError(f"{name} must be 1 to {limit}, not {value!r}")
        self._rules = rules
        self._cores = cores
        super().__init__(
            {
                "run": In(1),
                "subject": In(RuleSubject),
                "done": Out(1),
                "hit": Out(1),
                "action": Out(3),
                "core": Out(2),
                "write": In(1),
                "index": In(4),
                "rule": In(Rule),
                "refused": Out(1),
            }
        )

    def _applies(self, stored) -> Value:
        subject = self.subject
        is_other = ~subject.kind.any()
        is_nowhere = ~subject.network_port.any()
        return (
            (stored.action != RuleAction.OFF)
            & (stored.kinds & Cat(subject.kind, is_other)).any()
            & (stored.network_ports & Cat(subject.network_port, is_nowhere)).any()
            & (~stored.match_protocol | (subject.has_protocol & (stored.protocol == subject.protocol)))
            & (~stored.match_source_port | (subject.has_ports & (stored.source_port == subject.source_port)))
            & (
                ~stored.match_destination_port
                | (subject.has_ports & (stored.destination_port == subject.destination_port))
            )
        )

    def elaborate(self, platform):
        m = Module()
        depth = -(-self._rules // 2)
        rule = self.rule
        new = Signal(_StoredRule)
        for n, ethertype in enumerate(ETHERTYPES):
            m.d.comb += new.kinds[n].eq(~rule.match_ethertype | (rule.ethertype == ethertype))
        for n in range(4):
            m.d.comb += new.network_ports[n].eq(~rule.match_network_port | (rule.network_port == n))
        m.d.comb += [new.kinds[-1].eq(~rule.match_ethertype), new.network_ports[-1].eq(~rule.match_network_port)]
        for name in (
            "match_protocol",
            "match_source_port",
            "match_destination_port",
            "protocol",
            "source_port",
            "destination_port",
            "action",
            "core",
        ):
            m.d.comb += new[name].eq(rule[name])

        clear = Signal(range(9))  # the memories cannot be reset
        is_cleared = clear[-1]
        accept = Signal()
        m.d.comb += [
            accept.eq(
                is_cleared
                & (self.index < self._rules)
                & (rule.action <= max(RuleAction))
                & ((rule.action != RuleAction.CORE) | (rule.core < self._cores))
            ),
            self.refused.eq(self.write & ~accept),
        ]
        with m.If(~is_cleared):
            m.d.sync += clear.eq(clear + 1)

        position = Signal(range(8))
        stored = []
        for bank in range(2):
            m.submodules[f"bank{bank}"] = ram = memory.Memory(shape=_StoredRule, depth=8, init=[])
            writer, reader = ram.write_port(), ram.read_port(domain="comb")
            m.d.comb += [
                writer.addr.eq(Mux(is_cleared, self.index[1:], clear)),
                writer.en.eq(~is_cleared | (self.write & accept & (self.index[0] == bank))),
                reader.addr.eq(position),
            ]
            with m.If(is_cleared):
                m.d.comb += writer.data.eq(new)
            stored.append(reader.data)
        applies = [self._applies(one) for one in stored]
        with m.If(~self.run):
            m.d.sync += [position.eq(0), self.done.eq(0), self.hit.eq(0)]
        with m.Elif(~self.done):
            m.d.sync += [position.eq(position + 1), self.done.eq(position == depth - 1)]
            with m.If(~self.hit):
                m.d.sync += [
                    self.hit.eq(applies[0] | applies[1]),
                    self.action.eq(Mux(applies[0], stored[0].action, stored[1].action)),
                    self.core.eq(Mux(applies[0], stored[0].core, stored[1].core)),
                ]
        return m
