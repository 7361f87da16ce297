"""Where entries go: the control queue, host and cores, against the model of the host dispatcher; each rule, dead cores, probes."""

import cocotb
import pytest

from support.control_queue_bench import CORES, DATA_BYTES, Bench, handle, user_data_of
from support.rss_vectors import RSS_VECTORS
from twinstack.models.dispatcher import DispatcherModel
from twinstack.models.host_dispatcher import ECONNRESET, ENODEV, HostDispatcherModel, Route
from twinstack.proto.queues import AF_INET, AF_INET6, SOCKET_ADDRESS, SQE, Operation

LIMIT = {"timeout_time": 4000, "timeout_unit": "us"}
HANDLED = (5, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18)
DATAGRAM = (8, 9, 10, 11)
MANAGED = (0, 1, 2, 3, 20, 21, 23, 100, 255)


def connect_fields(source, destination, source_port, local_port, family=AF_INET):
    """Of a TCP_CONNECT to ``source`` from our ``destination``: addresses and ports as a frame to us has them."""
    values = {
        "family": family,
        "port": source_port,
        "address": int.from_bytes(source, "little"),
        "extra": int.from_bytes(destination, "little"),
    }
    inline = int.from_bytes(SOCKET_ADDRESS.pack(values), "little")
    return {"inline": inline, "operation_flags": local_port}


def core_of(source, destination, source_port, destination_port):
    """By the published hash and the default table."""
    return DispatcherModel(CORES).probe(source, destination, (source_port, destination_port))


class Routed(Bench):
    """A bench whose deliveries are compared with the model."""

    def __init__(self, dut, core_of=core_of, **options):
        super().__init__(dut, **options)
        self.model = HostDispatcherModel(CORES)
        self.index = 0
        self.core_of = core_of
        self.answer_probes(core_of)

    async def living(self, alive=None):
        """Some cores live, with some loads; one of them is the manager."""
        rng = self.rng
        alive = alive or rng.choice([15, 15, rng.randrange(1, 16)])
        self.set_alive(alive)
        manager = rng.choice([core for core in range(CORES) if alive >> core & 1])
        self.dut.manager.value = manager
        loads = [rng.randrange(3) for _ in range(CORES)]
        for core, load in enumerate(loads):
            self.sq(core, "load").value = load
        await self.cycles(3)
        return alive, manager, loads

    async def sync(self):
        """The core that comes last in the first round is that of whatever came before this test."""
        await self.living(15)
        entry = self.submit(Operation.TCP_CONNECT)
        while not any(self.delivered(core) for core in range(CORES)):
            await self.cycles()
        self.model.last = next(core for core in range(CORES) if self.delivered(core))
        await self.expect_only([self.model.last], entry, 0)
        self.index = 1

    async def check(self, operation, state, **fields):
        """One entry: to whom it goes, and with what it ends."""
        entry = self.submit(operation, **fields)
        route = self.model.route(entry, *state, self.core_of)
        targets = [core for core in range(CORES) if route.cores >> core & 1]
        taken = await self.expect_only(targets, entry, self.index)
        self.index += 1
        if route.error:
            assert await self.reap() == (user_data_of(entry), route.error, 0)
        for core, delivery in taken.items():
            assert delivery["is_joined"] == route.is_joined
            await self.finish(core, delivery, 5)
        if taken:
            assert await self.reap() == (user_data_of(entry), 5, 0)
        assert self.peek() is None
        return route


@cocotb.test(**LIMIT)
async def every_rule(dut):
    """Each operation and each kind of handle, with all that decides: by the model, whose answers are counted."""
    bench = Routed(dut, bus_wait=0.1, ram_wait=0.1)
    await bench.start()
    await bench.sync()
    cases = [(operation, 0, {}) for operation in MANAGED]
    cases += [(operation, 0, {"handle": handle(core)}) for operation in HANDLED for core in (0, 1, 3, 5, 7)]
    cases += [
        (operation, core << 8 | bench.rng.getrandbits(8) | bench.rng.getrandbits(22) << 10, {"handle": handle(7)})
        for operation in (*DATAGRAM, 12, 5)
        for core in range(4)
    ]
    cases += [(Operation.STATS, number, {}) for number in (0, 2, 3, 4, 1 << 16, 1 << 31)]
    cases += [(Operation.TCP_LISTEN, 0, {}), (Operation.CANCEL, 0, {"handle": handle(1)}), (Operation.CANCEL, 1, {})]
    cases += [(Operation.UDP_OPEN, flags, {"handle": handle(1)}) for flags in (0, 1, 2, 3, 0xFFFF_FFFE)]
    bench.rng.shuffle(cases)
    kinds = set()
    for operation, flags, fields in cases:
        route = await bench.check(operation, await bench.living(), operation_flags=flags, **fields)
        kinds.add((route.cores.bit_count() > 1, route.is_joined, route.error))
    assert kinds >= {(True, True, 0), (False, False, 0), (False, False, -ECONNRESET)}
    assert not bench.probed
    assert int(dut.sq_head.value) == bench.index
    bench.set_alive(0)
    await bench.cycles(3)
    for operation in (Operation.TCP_CONNECT, Operation.UDP_OPEN, Operation.CANCEL, 8, 22, 200):
        entry = bench.submit(operation, handle=handle(7), **connect_fields(bytes(4), b"\1\2\3\4", 1, 1))
        assert await bench.reap() == (user_data_of(entry), -ENODEV, 0)
    assert not bench.probed
    await bench.close()


@cocotb.test(**LIMIT)
async def datagrams_of_a_spread_socket_go_to_one_core(dut):
    bench = Routed(dut)
    await bench.start()
    await bench.sync()
    for operation in DATAGRAM:
        for core in range(CORES):
            route = await bench.check(operation, await bench.living(15), handle=handle(7), operation_flags=core << 8)
            assert route == Route(1 << core)
            state = await bench.living(15 & ~(1 << core))
            route = await bench.check(operation, state, handle=handle(7), operation_flags=core << 8)
            assert route.error == -ECONNRESET
    await bench.close()


@cocotb.test(**LIMIT)
async def connects_with_both_ends_go_by_hash(dut):
    """Published vectors; the remote end is the source. If the hash's core is dead, the load decides."""
    bench = Routed(dut)
    await bench.start()
    await bench.sync()
    vectors = [vector for vector in RSS_VECTORS if not vector.is_ipv6]
    for vector in vectors:
        tuple_ = (vector.source, vector.destination, vector.source_port, vector.destination_port)
        core = (vector.hash_with_ports & 127) % CORES
        fields = connect_fields(*tuple_)
        fields["operation_flags"] |= bench.rng.getrandbits(16) << 16
        assert (await bench.check(Operation.TCP_CONNECT, await bench.living(15), **fields)).cores == 1 << core
        assert bench.probed == [tuple_]
        await bench.check(Operation.TCP_CONNECT, await bench.living(15 & ~(1 << core)), **fields)
        assert bench.probed == [tuple_] * 2
        bench.probed.clear()
        # Without one of the ends, of another family, or for another operation nobody is asked.
        for others in (
            connect_fields(*tuple_[:3], 0),
            connect_fields(tuple_[0], bytes(4), *tuple_[2:]),
            connect_fields(*tuple_, family=AF_INET6),
            connect_fields(*tuple_, family=AF_INET | 1 << 8),
        ):
            await bench.check(Operation.TCP_CONNECT, await bench.living(), **others)
        others = fields | {"operation_flags": fields["operation_flags"] & ~1}
        await bench.check(Operation.UDP_OPEN, await bench.living(), **others)
        assert not bench.probed
    # Each bit of what says that there is a local end.
    for bit in range(16):
        await bench.check(Operation.TCP_CONNECT, await bench.living(15), **connect_fields(*tuple_[:3], 1 << bit))
    for bit in range(32):
        local = (1 << bit).to_bytes(4, "little")
        await bench.check(
            Operation.TCP_CONNECT, await bench.living(15), **connect_fields(tuple_[0], local, *tuple_[2:])
        )
    assert len(bench.probed) == 48
    await bench.close()


@cocotb.test(**LIMIT)
async def random_entries(dut):
    """All fields at random, near what decides; cores come and go between the entries."""
    bench = Routed(dut, bus_wait=0.05, ram_wait=0.05)
    rng = bench.rng
    await bench.start()
    await bench.sync()
    state = await bench.living()
    for _ in range(300):
        if rng.random() < 0.5:
            state = await bench.living()
        operation = rng.choice((6, 6, 7, rng.randrange(24), rng.choice(DATAGRAM), rng.randrange(256)))
        fields = connect_fields(
            rng.randbytes(4),
            rng.choice((bytes(4), rng.randbytes(4))),
            rng.randrange(1 << 16),
            0,
            rng.choice((2, 2, 10)),
        )
        fields["operation_flags"] = rng.choice((0, rng.getrandbits(3), rng.getrandbits(16), rng.getrandbits(32)))
        await bench.check(operation, state, handle=rng.choice((handle(7), rng.getrandbits(31))), **fields)
    assert bench.probed
    await bench.close()


@cocotb.test(**LIMIT)
async def cores_die_while_the_probe_is_under_way(dut):
    """The answer names a core that has died meanwhile: the load decides. It is asked again when its core dies later."""
    bench = Routed(dut, core_of=lambda *_: 2, ring_log2=0)
    bench.probe_delay = (30, 30)
    await bench.start()
    fields = connect_fields(b"\1\2\3\4", b"\5\6\7\10", 80, 1000)
    for number in range(12):
        bench.set_alive(15)
        dut.manager.value = 0
        await bench.cycles(2)
        entry = bench.submit(Operation.TCP_CONNECT, **fields)
        while not int(dut.probe__request__valid.value):
            await bench.cycles()
        await bench.cycles(bench.rng.randrange(30))
        await bench.reset_core(2, cycles=bench.rng.choice([1, 5]))  # and it does not live afterwards
        while not any(bench.delivered(core) for core in (0, 1, 3)):
            await bench.cycles()
        core = next(core for core in (0, 1, 3) if bench.delivered(core))
        taken = await bench.expect_only([core], entry, number)
        await bench.finish(core, taken[core], 1)
        assert await bench.reap() == (user_data_of(entry), 1, 0)
    assert len(bench.probed) == 12
    # The ring of core 2 is full; it dies with the entry waiting for room.
    bench.set_alive(15)
    await bench.cycles(2)
    bench.submit(Operation.TCP_CONNECT, **fields)
    entry = bench.submit(Operation.TCP_CONNECT, **fields)
    await bench.cycles(400)
    assert len(bench.probed) == 14 and bench.delivered(2)
    await bench.reset_core(2)
    while not any(bench.delivered(core) for core in (0, 1, 3)):
        await bench.cycles()
    core = next(core for core in (0, 1, 3) if bench.delivered(core))
    await bench.expect_only([core], entry, 13)
    assert len(bench.probed) == 15
    await bench.close()


@cocotb.test(**LIMIT)
async def disabling_during_a_probe_drops_its_answer(dut):
    """At any moment of it: the request is taken to its end, nothing is delivered, and the next entry gets its own answer."""
    answers = iter(range(1 << 30))
    bench = Routed(dut, core_of=lambda *_: next(answers) % CORES)
    bench.probe_delay = (0, 40)
    await bench.start()
    for _ in range(40):
        entry = bench.submit(Operation.TCP_CONNECT, **connect_fields(b"\1\2\3\4", b"\5\6\7\10", 80, 1000))
        while not int(dut.probe__request__valid.value):
            await bench.cycles()
        await bench.cycles(bench.rng.randrange(20))
        was_asking = int(dut.probe__request__valid.value)
        before = len(bench.probed)
        dut.enable.value = 0
        bench.sq_tail = bench.cq_head = 0
        dut.sq_tail.value = dut.cq_head.value = 0
        await bench.cycles(bench.rng.choice([1, 1, 10, 100]))
        dut.enable.value = 1
        await bench.cycles(100)
        assert not int(dut.probe__request__valid.value)
        if was_asking:
            # The responder does not allow that a request falls: it was taken, once.
            assert len(bench.probed) == before + 1 and not any(bench.delivered(core) for core in range(CORES))
        for core in range(CORES):
            await bench.reset_core(core)
        bench.set_alive(15)
        bench.host[0x8000:] = bytes(0x8000)
        await bench.cycles(3)
        start = len(bench.probed)
        bench.index = 0
        entry = bench.submit(Operation.TCP_CONNECT, **connect_fields(b"\1\2\3\5", b"\5\6\7\10", 81, 1001))
        while not any(bench.delivered(core) for core in range(CORES)):
            await bench.cycles()
        assert bench.probed[start:] == [(b"\1\2\3\5", b"\5\6\7\10", 81, 1001)]
        core = start % CORES
        taken = await bench.expect_only([core], entry, 0)
        await bench.finish(core, taken[core], 9)
        assert await bench.reap() == (user_data_of(entry), 9, 0)
    await bench.close()


@pytest.mark.parametrize("cores", [0, 5])
def test_model_checks_cores(cores):
    with pytest.raises(ValueError, match=f"cores must be 1 to 4, not {cores}"):
        HostDispatcherModel(cores)


@pytest.mark.parametrize("core", [2, 3])
def test_model_sends_to_the_manager_what_names_no_core(core):
    entry = SQE.pack({"operation": Operation.SENDTO, "handle": handle(7), "operation_flags": core << 8})
    assert HostDispatcherModel(2).route(entry, 3, 1, [0, 0], core_of).cores == 2


def test_host_dispatcher():
    from support.rtl import run_cocotb
    from twinstack.config import EngineConfig
    from twinstack.control_queue import ControlQueue

    run_cocotb(ControlQueue(EngineConfig(cores=CORES, data_bytes=DATA_BYTES)), __file__)
