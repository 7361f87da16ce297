"""Proofs of the host DMA engine; they also run on engines that are wrong on purpose, and must fail there.

For any transfers of two cores, any answers of host bus and banks at any time, any resets, and any host windows that do not
change, in both directions:

- no access of the host bus to a byte that no window of the transfer's host permits for this direction;
- no access of a bank outside its size, no write to a bank from "out", no access from "in" to an RX bank (there is no port);
- every access belongs to a transfer of the core that it is for, and is of its bytes: a core that was in reset until
  ``core_busy`` was low has no access, on the bus or at its banks, before it queues a transfer again;
- from the second cycle of its reset on, a core begins no access; only one in flight goes on;
- an access does not change until it is answered, and the bus never waits longer than ``TIMEOUT_CYCLES``; requests to banks
  stay until they are accepted.

By induction with the invariants in ``_invariants``, so for ever; sizes of turn, burst and timeout are small, widths are the
real ones. One window is free and the others permit nothing; ``WindowProof`` shows, also by induction, that the check is
exact for four free windows. The wrong engines run a bounded check of ``WRONG_DEPTH`` cycles.
"""

import pytest
from amaranth import *
from amaranth.hdl import Assert, Assume, Cover

from support.formal import run_formal
from twinstack.config import EngineConfig
from twinstack.host_dma import HostDma, Phase
from twinstack.interfaces import HostWindow
from twinstack.proto.memory_map import RX_BANK_BASE, TX_BANK_BASE
from twinstack.windows import WindowCheck

CORES = 2
CONFIG = EngineConfig(cores=CORES, rx_bank_bytes=3072, tx_bank_bytes=3072, rx_small_buffers=0)
FREE_WINDOWS = 1
WINDOW_BITS = Shape.cast(HostWindow).width
INDUCTION_DEPTH = 2
WRONG_DEPTH = 28
COVER_DEPTH = 28


class Observed(HostDma):
    """The real thing, with small sizes and a view of the saved commands."""

    BURST_WORDS = 2
    TURN_BYTES = 16
    TIMEOUT_CYCLES = 4

    def __init__(self, direction):
        super().__init__(CONFIG, direction)
        self.seen = [Signal.like(self._inside.command, name=f"seen{n}") for n in range(CORES)]

    def _saved(self, m):
        saved = super()._saved(m)
        for number, seen in enumerate(self.seen):
            window = saved.read_port(domain="comb")
            m.d.comb += [window.addr.eq(number), seen.eq(window.data)]
        return saved


class Proof(Elaboratable):
    def __init__(self, dma, *, inside, few=False):
        self.dma = dma
        self.inside = inside
        self.few = few
        self.free_windows = [Signal(WINDOW_BITS, name=f"window{n}") for n in range(FREE_WINDOWS)]
        self.ports = [dma.core_reset, dma.bus.ack, dma.bus.err, dma.bus.dat_r]
        self.rams = []
        for core in range(CORES):
            queue = getattr(dma, f"queue{core}")
            self.rams.append((core, CONFIG.tx_bank_bytes, getattr(dma, f"tx_bank{core}")))
            if dma._is_out:
                self.rams.append((core, CONFIG.rx_bank_bytes, getattr(dma, f"rx_bank{core}")))
            if not few:
                self.ports += [
                    getattr(queue, name)
                    for name in ("go", "local", "host_address", "length", "tag", "host", "completion_pop")
                ]
        if few:
            self.ports.append(dma.queue1.go)
        else:
            self.ports += self.free_windows
        for _, _, ram in self.rams:
            self.ports += [ram.ready, ram.read_data]

    def _permitted(self, first, last):
        """The bytes from ``first`` to ``last``, which have 33 bits, lie in one window that permits this direction."""
        return Cat(
            (first >= window.base) & (last <= window.limit) & (window.write if self.dma._is_out else window.read)
            for window in self.dma.windows
        ).any()

    def elaborate(self, platform):
        m = Module()
        m.submodules.dma = dma = self.dma
        bus, inside = dma.bus, dma._inside
        started = Signal()
        m.d.sync += started.eq(1)

        def past(value, name):
            signal = Signal.like(value, name=f"past_{name}")
            m.d.sync += signal.eq(value)
            return signal

        if self.few:  # covers are found faster with one transfer
            window = self.free_windows[0]
            queue = dma.queue1
            m.d.comb += [
                window.eq(Const(0xFFFF << 32 | 3 << 64, WINDOW_BITS)),
                queue.host_address.eq(0x109),
                queue.local.eq(TX_BANK_BASE + 2),
                queue.length.eq(20),
                Assume(~queue.go | ~started),
                *(Assume(ram.ready) for _, _, ram in self.rams),
            ]
        windows = Cat(self.free_windows)
        before = past(windows, "windows")
        m.d.comb += [dma.windows.as_value().eq(windows), Assume(~started | (before == windows))]

        # --- The bus: within a window ---
        low, high = Signal(2), Signal(2)
        with m.Switch(bus.sel):
            for sel in range(1, 16):
                with m.Case(sel):
                    lanes = [lane for lane in range(4) if sel >> lane & 1]
                    m.d.comb += [low.eq(lanes[0]), high.eq(lanes[-1])]
        first, last = Signal(33), Signal(33)
        m.d.comb += [first.eq(Cat(low, bus.adr)), last.eq(Cat(high, bus.adr))]
        with m.If(bus.stb):
            m.d.comb += [
                Assert(bus.cyc),
                Assert(bus.sel != 0),
                Assert(bus.we == int(dma._is_out)),
                Assert(inside.command.host < CONFIG.hosts),
                Assert(self._permitted(first, last)),
            ]

        # --- The bus: manners, and a bounded wait ---
        answered = bus.ack | bus.err
        waits = past(bus.stb & ~answered, "waits")
        request = Cat(bus.adr, bus.sel, bus.we, bus.cti, *([bus.dat_w] if dma._is_out else []))
        same_request = request == past(request, "request")
        waited = Signal(range(dma.TIMEOUT_CYCLES + 2))
        m.d.sync += waited.eq(Mux(bus.stb & ~answered, waited + 1, 0))
        m.d.comb += Assert(waited <= dma.TIMEOUT_CYCLES)
        gave_up = waits & ~bus.stb
        with m.If(gave_up):
            m.d.comb += [Assert(waited == dma.TIMEOUT_CYCLES), Assert(~bus.cyc)]
        with m.If(waits & bus.stb):
            m.d.comb += Assert(same_request)

        # --- The banks ---
        for number, (core, size, ram) in enumerate(self.rams):
            held = past(ram.valid & ~ram.ready, f"held{number}")
            wanted = Cat(ram.write, ram.address, *([] if dma._is_out else [ram.mask, ram.data]))
            same = wanted == past(wanted, f"wanted{number}")
            with m.If(ram.valid):
                m.d.comb += [
                    Assert(ram.address < size // 4),
                    Assert(ram.write == int(not dma._is_out)),
                    Assert(inside.core == core),
                ]
            with m.If(held):
                m.d.comb += [Assert(ram.valid), Assert(same)]

        # --- Resets ---
        self.resets = []
        for core in range(CORES):
            reset = dma.core_reset[core]
            queue = getattr(dma, f"queue{core}")
            idle = Signal(init=1, name=f"idle{core}")  # nothing queued since a reset that was waited for
            with m.If(queue.go & ~reset):
                m.d.sync += idle.eq(0)
            with m.Elif(reset & ~dma.core_busy[core]):
                m.d.sync += idle.eq(1)
            mine = [ram for of, _, ram in self.rams if of == core]
            accesses = Cat(*(ram.valid for ram in mine), bus.stb & (inside.core == core))
            with m.If(idle):
                m.d.comb += [Assert(~accesses.any()), Assert(~dma.core_busy[core])]
            self.resets.append(past(reset, f"any_reset{core}"))
            # While in reset: what is there was there before.
            was_reset = past(reset & past(reset, f"reset{core}"), f"second{core}")
            with m.If(was_reset & bus.stb & (inside.core == core)):
                m.d.comb += Assert(waits)
            for number, ram in enumerate(mine):
                held = past(ram.valid & ~ram.ready, f"waits{core}_{number}")
                with m.If(was_reset & ram.valid):
                    m.d.comb += Assert(held)
        m.d.comb += [
            Cover(self.resets[1] & bus.stb & inside.dropped & (inside.core == 1)),
            Cover((inside.phase == Phase.MOVE) & (inside.core == 1) & inside.partial[1]),
        ]
        accesses = Signal(4)
        with m.If(bus.stb & bus.ack):
            m.d.sync += accesses.eq(accesses + 1)
        m.d.comb += [
            Cover(gave_up),
            Cover(bus.stb & (accesses == 1)),
            Cover(bus.stb & (bus.sel == 0b1110) & bus.ack),
            Cover(inside.failed & bus.err),
            Cover((inside.phase == Phase.MOVE) & (inside.rest != 0) & inside.dropped),
        ]
        if self.inside:
            self._invariants(m, waited, low, high)
        return m

    def _good(self, command):
        """What the checks let pass."""
        dma = self.dma
        offset, region = command.local[:24], command.local[24:31]
        regions = [(TX_BANK_BASE, CONFIG.tx_bank_bytes)]
        if dma._is_out:
            regions.append((RX_BANK_BASE, CONFIG.rx_bank_bytes))
        in_bank = Cat((region == base >> 24) & (offset + command.length <= size) for base, size in regions).any()
        last = (command.host_address + command.length - 1)[:33]
        return (
            (command.length != 0)
            & in_bank
            & (command.host < CONFIG.hosts)
            & self._permitted(command.host_address, last)
        )

    def _invariants(self, m, waited, low, high):
        """What makes it inductive: how a transfer goes through the engine. No part of the claim."""
        dma = self.dma
        inside, bus = dma._inside, dma.bus
        command, phase, turn = inside.command, inside.phase, inside.turn
        offset = command.local[:24]
        check = inside.check._inside
        is_tx = command.local[24:31] == TX_BANK_BASE >> 24

        def implies(condition, *claims):
            with m.If(condition):
                m.d.comb += [Assert(claim) for claim in claims]

        def during(*phases):
            return Cat(phase == one for one in phases).any()

        m.d.comb += Assert(phase.as_value() <= Phase.COMPLETE.value)
        implies(during(Phase.MEASURE, Phase.BEGIN, Phase.MOVE, Phase.FLUSH), self._good(command))
        for core in range(CORES):
            implies(inside.partial[core], self._good(dma.seen[core]))

        # The window check, which looks at one window after the other.
        running, done, stage = check.running, inside.check.done, check.stage
        within = self._permitted(check.first, check.last)
        found = check.above & check.below & check.permitted
        implies(
            phase == Phase.CHECK,
            running ^ done,
            check.first == command.host_address,
            check.length == command.length,
            check.write == int(dma._is_out),
            inside.end == offset + command.length,
        )
        implies(phase != Phase.CHECK, ~running, ~done)
        implies(running, stage <= 6)
        implies((running & (stage >= 1)) | done, check.last == (check.first + check.length - 1)[:33])
        implies(
            running & (stage >= 2) & (stage <= 5),
            Cat(check.window.as_value() == window.as_value() for window in dma.windows).any(),
        )
        implies(running & (stage >= 3) & found, within)
        implies(running & (stage >= 1) & check.hit, within)
        implies(done & inside.check.ok, within, check.length != 0)
        late = phase == Phase.CHECK
        implies(
            late & (done | (stage >= 1)),
            inside.in_tx == (is_tx & (offset + command.length <= CONFIG.tx_bank_bytes)),
            inside.in_rx
            == ((command.local[24:31] == RX_BANK_BASE >> 24) & (offset + command.length <= CONFIG.rx_bank_bytes)),
        )
        implies(
            late & (done | (stage >= 2)),
            inside.in_bank == ((inside.in_tx | (inside.in_rx if dma._is_out else 0)) & (command.length != 0)),
        )

        # A turn, and where each side of it is.
        to_boundary = dma.TURN_BYTES - command.host_address[: dma.TURN_BYTES.bit_length() - 1]
        implies(
            during(Phase.BEGIN, Phase.MOVE, Phase.FLUSH),
            turn == Mux(command.length > to_boundary, to_boundary, command.length),
        )
        implies(during(Phase.MOVE, Phase.FLUSH), inside.rest == command.length - turn, inside.is_tx == is_tx)
        for walk, begin in ((inside.bus, command.host_address), (inside.bank, offset)):
            place = Cat(walk.lane, walk.word)
            implies(
                (phase == Phase.MOVE) & (walk.remaining != 0),
                place >= begin,
                place + walk.remaining == begin + turn,
            )
            implies((phase != Phase.MOVE) & (phase != Phase.FLUSH), walk.remaining == 0)
        implies(
            bus.stb,
            phase == Phase.MOVE,
            Cat(low, bus.adr) >= command.host_address,
            Cat(high, bus.adr) < command.host_address + turn,
        )
        for _, _, ram in self.rams:
            implies(ram.valid, phase == Phase.MOVE)
        implies(bus.stb, waited < dma.TIMEOUT_CYCLES, inside.waited == waited)
        m.d.comb += [
            Assert(waited <= dma.TIMEOUT_CYCLES),
            Assert(inside.expired == (waited == dma.TIMEOUT_CYCLES - 1)),
        ]
        for core, before in enumerate(self.resets):
            implies(before & (inside.core == core) & (phase == Phase.MOVE), inside.dropped)


TIME_LIMIT = 400  # seconds; far more than it takes on a machine with nothing else to do


def check(dma, direction, mode, depth, name):
    # What holds at the ports is enough to find a fault; a proof for ever needs the invariants.
    proof = Proof(dma(direction), inside=mode == "prove", few=mode == "cover")
    name = f"host_dma_{name}_{direction}"
    return run_formal(proof, proof.ports, mode=mode, depth=depth, name=name, timeout=TIME_LIMIT)


@pytest.mark.parametrize("direction", ["in", "out"])
def test_no_access_outside_the_bounds_for_ever(direction):
    assert check(Observed, direction, "prove", INDUCTION_DEPTH, "bounds") == "PASS"


@pytest.mark.parametrize("direction", ["in", "out"])
def test_interesting_situations_are_reachable(direction):
    assert check(Observed, direction, "cover", COVER_DEPTH, "cover") == "PASS"


class LongWindows(WindowCheck):
    def _ends_within(self, last, limit):
        return last <= limit + 1


class TwoWayWindows(WindowCheck):
    def _permits(self, window, write):
        return window.read | window.write


class LimitOffByOne(Observed):
    def _window_check(self):
        return LongWindows()


class DirectionIgnored(Observed):
    def _window_check(self):
        return TwoWayWindows()


class HostIgnored(Observed):
    def _host_exists(self, host):
        return Const(1)


class BankOffByOne(Observed):
    def _fits(self, end, size):
        return end <= size + 1


class ResetIgnored(Observed):
    def _stops(self, reset, ended, failed):
        return ended | failed


@pytest.mark.parametrize("direction", ["in", "out"])
@pytest.mark.parametrize("wrong", [LimitOffByOne, DirectionIgnored, HostIgnored, BankOffByOne, ResetIgnored])
def test_wrong_engine_fails(wrong, direction):
    assert check(wrong, direction, "bmc", WRONG_DEPTH, f"wrong_{wrong.__name__}") == "FAIL"


class WindowProof(Elaboratable):
    """A finished check says yes only if one of the windows permits all the bytes, whatever the windows do in other cycles."""

    def __init__(self, check):
        self.check = check
        self.windows = Signal(WINDOW_BITS * len(check.windows), name="window_bits")
        self.ports = [check.start, check.address, check.length, check.write, self.windows]

    def elaborate(self, platform):
        m = Module()
        m.submodules.check = check = self.check
        inside = check._inside
        started, taken = Signal(), Signal()
        before = Signal.like(self.windows)
        address, length, write = Signal(32), Signal(16), Signal()
        m.d.sync += [started.eq(1), before.eq(self.windows)]
        m.d.comb += [check.windows.as_value().eq(self.windows), Assume(~started | (before == self.windows))]
        with m.If(check.start):
            m.d.sync += [address.eq(check.address), length.eq(check.length), write.eq(check.write), taken.eq(1)]
        last = Signal(33)
        m.d.comb += last.eq(address + length - 1)
        permitted = Cat(
            (address >= window.base) & (last <= window.limit) & Mux(write, window.write, window.read)
            for window in check.windows
        )
        with m.If(check.done):
            m.d.comb += Assert(check.ok == ((length != 0) & permitted.any()))
        m.d.comb += [
            Cover(check.done & check.ok & (permitted == 0b1000)),
            Cover(check.done & ~check.ok & (length != 0)),
            *(Cover(check.done & check.ok & (permitted == 1 << n)) for n in range(4)),
        ]

        # What makes it inductive.
        stage, running = inside.stage, inside.running
        m.d.comb += Assert(~(running & check.done))
        with m.If(running):
            m.d.comb += [Assert(stage <= 6), Assert(taken)]
        with m.If(running | check.done):
            m.d.comb += [
                Assert(inside.first == address),
                Assert(inside.length == length),
                Assert(inside.write == write),
            ]
        with m.If(running & (stage >= 1)):
            m.d.comb += Assert(inside.last == last)
        for step in range(2, 7):
            with m.If(running & (stage == step)):
                if step <= 5:
                    m.d.comb += Assert(inside.window.as_value() == check.windows[step - 2].as_value())
                if step >= 3:
                    m.d.comb += Assert((inside.above & inside.below & inside.permitted) == permitted[step - 3])
                m.d.comb += Assert(inside.hit == permitted[: max(0, step - 3)].any())
        with m.If(running & (stage == 1)):
            m.d.comb += Assert(~inside.hit)
        return m


def check_windows(check, mode, depth, name):
    proof = WindowProof(check())
    return run_formal(proof, proof.ports, mode=mode, depth=depth, name=f"window_check_{name}")


def test_window_check_is_exact_for_ever():
    assert check_windows(WindowCheck, "prove", 2, "exact") == "PASS"


def test_every_window_can_permit():
    assert check_windows(WindowCheck, "cover", 12, "cover") == "PASS"


@pytest.mark.parametrize("wrong", [LongWindows, TwoWayWindows])
def test_wrong_window_check_fails(wrong):
    assert check_windows(wrong, "bmc", 10, f"wrong_{wrong.__name__}") == "FAIL"
