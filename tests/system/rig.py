"""What the system tests share: a running engine on a configured network, its far ends, and clocks that run fast."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path

from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from support.rtl import seed
from twinstack.config import EngineConfig
from twinstack.models.toeplitz import rss_hash
from twinstack.proto.queues import Operation
from twinstack.proto.registers import DISPATCH, HOST_CORE, MAC
from twinstack_host.device import Device, ipv4_bytes
from twinstack_host.sockets import Listener, Socket
from twinstack_sim.engine_model import make_simulation
from twinstack_sim.firmware import build_firmware
from twinstack_sim.link import SLICE_CYCLES, SimulationLink
from twinstack_sim.peer import Peer
from twinstack_sim.peer_lwip import LwipConnection, LwipListener, LwipPeer, PeerOptions
from twinstack_sim.simulation import SentFrame, Simulation, SimulationOptions
from twinstack_sim.streams import HostStream
from twinstack_sim.transfer import EchoTransfer, run_transfers
from twinstack_sim.wire import WireModel

ENGINES = ("192.168.77.1", "192.168.78.1")
PEERS = ("192.168.77.2", "192.168.78.2")
ENGINES6 = ("2001:db8:1::1", "2001:db8:2::1")
PEERS6 = ("2001:db8:1::2", "2001:db8:2::2")
MACS = ("02:54:53:00:00:01", "02:54:53:00:01:01")
PEER_MACS = ("02:54:53:00:00:02", "02:54:53:00:01:02")
STRANGER_MAC = "02:aa:aa:aa:aa:01"
CONFIG = EngineConfig()
MS_CYCLES = CONFIG.sync_hz // 1000
STEP_CYCLES = 15_000
"""Longest time between two looks at a condition."""
FAST_TICK = MS_CYCLES // 100
"""Firmware's clock runs a hundred times faster: a delayed acknowledgement takes 75,000 cycles and not 7.5 million."""
OPERATIONS = 96
"""Operation records of a core: OPERATIONS in the firmware's sizes.h."""
QUIET_SECONDS = 4
"""Until duplicate detection and the reports of the addresses' groups are over: nothing is sent unasked then."""
LIMIT_CYCLES = 1_500_000
"""Bound of one wait, unless a test says otherwise."""

FAST_OPTIONS = PeerOptions(tcp_timer_ms=1, tcp_rto_ms=8, tcp_msl_ms=160)
"""A peer whose time-outs suit firmware whose clock runs a hundred times faster."""

MAC_COUNTERS = tuple(
    register.name
    for register in MAC.registers
    if register.name.startswith(("rx_", "tx_")) and not register.name.endswith("_bytes")
)


class FastLink(SimulationLink):
    """A link that makes the engine's ticks itself, one every ``tick_cycles``: minutes of firmware time are affordable.

    The host's clock follows the ticks.
    """

    def __init__(self, simulation: Simulation, tick_cycles: int):
        super().__init__(simulation)
        self._real_time = False
        self.tick_cycles = tick_cycles
        self._next = simulation.cycles + tick_cycles

    @property
    def work_slice(self) -> float | None:
        return SLICE_CYCLES / (1000 * self.tick_cycles)

    def _run_until_irq(self, cycles: int) -> None:
        simulation = self.simulation
        end = simulation.cycles + cycles
        while not simulation.irq and simulation.cycles < end:
            self._catch_up()
            stop = min(end, self._next)
            simulation.run_until(
                lambda stop=stop: simulation.irq or simulation.cycles >= stop, cycles + self.tick_cycles
            )

    def run(self, cycles: int) -> None:
        end = self.simulation.cycles + cycles
        while self.simulation.cycles < end:
            self._catch_up()
            self.simulation.run(min(end, self._next) - self.simulation.cycles)

    def wait_interrupt(self, timeout: float) -> bool:
        self._catch_up()
        # The caller counts in firmware time.
        self.simulation.run(16)
        self._run_until_irq(max(1, int(timeout * 1000 * self.tick_cycles)))
        return self.simulation.irq

    def clock(self) -> float:
        return self.simulation.cycles / (1000 * self.tick_cycles)

    def skip(self, seconds: float, tick_cycles: int = 400) -> None:
        """Let ``seconds`` of firmware time pass quickly; much quicker, and the firmware would do nothing but count them."""
        usual, self.tick_cycles = self.tick_cycles, tick_cycles
        self._next = self.simulation.cycles + tick_cycles
        self.run(int(seconds * 1000 * tick_cycles))
        self.tick_cycles = usual
        self._next = self.simulation.cycles + usual

    def _catch_up(self) -> None:
        while self.simulation.cycles >= self._next:
            self.simulation.tick()
            self._next += self.tick_cycles


class Rig:
    """A started engine and what a test does with it."""

    def __init__(
        self, simulation: Simulation, link: SimulationLink, device: Device, value: int, config: EngineConfig = CONFIG
    ):
        self.simulation, self.link, self.device, self.config = simulation, link, device, config
        self.second_cycles = 1000 * link.tick_cycles if isinstance(link, FastLink) else CONFIG.sync_hz
        self.seed = value
        self.random = random.Random(value)
        self.peers: dict[int, LwipPeer] = {}
        self.sent: list[SentFrame] = []
        self.keep_frames = False
        self._ping_number = 0
        self._port = 7000
        simulation.on_frame(self._note)
        self.program_key()

    def _note(self, frame: SentFrame) -> None:
        if self.keep_frames:
            self.sent.append(frame)

    # ---- network ----

    def add_peer(
        self,
        port: int = 0,
        *,
        wire: WireModel | None = None,
        options: PeerOptions | None = None,
        behind: Callable[[LwipPeer], Peer] | None = None,
        ipv6: bool = False,
    ) -> LwipPeer:
        """Attach an lwIP station to ``port``, ``behind`` what that makes of it, and configure the engine's addresses there."""
        address6 = PEERS6[port] if ipv6 else ""
        peer = LwipPeer(PEERS[port], address6=address6, mac=PEER_MACS[port], seed=self.seed + port, options=options)
        self.simulation.attach(port, behind(peer) if behind else peer, wire)
        self.peers[port] = peer
        self.device.configure(port, ENGINES[port], 24, mac=MACS[port])
        if ipv6:
            self.device.configure(port, ENGINES6[port])
        if isinstance(self.link, FastLink):
            self.link.skip(QUIET_SECONDS)
        return peer

    @property
    def peer(self) -> LwipPeer:
        return self.peers[0]

    def program_key(self) -> None:
        """Give the dispatcher a random Toeplitz key."""
        self.key = self.random.randbytes(40)
        for index in range(10):
            word = int.from_bytes(self.key[4 * index : 4 * index + 4], "little")
            self.device.registers.write(DISPATCH, "key", word, index=index)

    def core_of(self, port: int, source: str, ports: tuple[int, int] | None = None) -> int:
        """The core that a frame from ``source`` to the engine belongs to, by the published hash."""
        arguments = (self.key, ipv4_bytes(source), ipv4_bytes(ENGINES[port]))
        hashed = rss_hash(*arguments, ports) if ports else rss_hash(*arguments)
        return (hashed & 127) % self.device.cores

    def local_port_for(self, core: int, engine_port: int, port: int = 0) -> int:
        """A port of the peer whose connections to ``engine_port`` go to ``core``."""
        while True:  # half of all ports fit
            self._port += 1
            if self.core_of(port, PEERS[port], (self._port, engine_port)) == core:
                return self._port

    # ---- time ----

    def wait(self, condition: Callable[[], bool], what: str, cycles: int = LIMIT_CYCLES) -> None:
        """Let everything work until ``condition()``; fails after ``cycles``."""
        end = self.simulation.cycles + cycles
        while not condition():
            assert self.simulation.cycles < end, f"{what} did not come about in {cycles} cycles (seed {self.seed})"
            self.device.advance(STEP_CYCLES / self.second_cycles)

    def run(self, cycles: int) -> None:
        """Let time pass."""
        self.link.run(cycles)
        self.device.poll()

    # ---- counters ----

    def mac_counters(self, port: int = 0) -> dict[str, int]:
        """Frame counters of a MAC."""
        return {name: self.device.registers.read(MAC, name, instance=port) for name in MAC_COUNTERS}

    def dispatched(self) -> list[int]:
        """Frames given to each core."""
        return [self.device.registers.read(DISPATCH, "dispatched", index=core) for core in range(self.device.cores)]

    def host_core(self, name: str) -> list[int]:
        """A HOST_CORE register of each core; of the free RX buffers the sum of both classes."""
        values = [self.device.registers.read(HOST_CORE, name, instance=core) for core in range(self.device.cores)]
        return [(value & 0xFFFF) + (value >> 16) for value in values] if name == "rx_buffers" else values

    # ---- traffic ----

    def ping_core(self, core: int, port: int = 0) -> None:
        """A ping from a station whose frames go to ``core`` is answered, payload included; fails otherwise."""
        network = PEERS[port].rpartition(".")[0]
        source = next(f"{network}.{last}" for last in range(10, 250) if self.core_of(port, f"{network}.{last}") == core)
        ethernet = Ether(src=STRANGER_MAC, dst=MACS[port])
        # Unasked, but for us: a station must take it (RFC 826).
        self.simulation.send_frame(
            port,
            bytes(ethernet / ARP(op=2, hwsrc=STRANGER_MAC, psrc=source, hwdst=MACS[port], pdst=ENGINES[port])),
        )
        self.run(8000)
        self._ping_number += 1
        payload = self.random.randbytes(48)
        answers: list[bytes] = []

        def is_answer(frame: bytes) -> bool:
            packet = Ether(frame)
            return (
                packet.dst == STRANGER_MAC
                and ICMP in packet
                and packet[ICMP].type == 0
                and packet[ICMP].seq == self._ping_number
                and bytes(packet[ICMP].payload)[: len(payload)] == payload
            )

        before = self.dispatched()
        self.keep_frames, start = True, len(self.sent)
        echo = ethernet / IP(src=source, dst=ENGINES[port]) / ICMP(id=77, seq=self._ping_number) / Raw(payload)
        self.simulation.send_frame(port, bytes(echo))

        def answered() -> bool:
            answers.extend(one.data for one in self.sent[start:] if is_answer(one.data))
            return bool(answers)

        try:
            self.wait(answered, f"the answer of core {core} to a ping", 200_000)
        finally:
            self.keep_frames = False
            self.sent.clear()
        assert self.dispatched()[core] > before[core]

    def accept_on(
        self, listener: Listener, core: int, engine_port: int, port: int = 0
    ) -> tuple[Socket, LwipConnection]:
        """Connect the peer of ``port`` so that ``core`` serves it."""
        local = self.local_port_for(core, engine_port, port)
        connection = self.peers[port].connect(ENGINES[port], engine_port, local)
        accepted: list[Socket] = []

        def arrived() -> bool:
            assert not connection.closed, connection.error
            one = listener.accept_step()
            if one is not None:
                accepted.append(one)
            return connection.connected and bool(accepted)

        self.wait(arrived, "a connection")
        assert accepted[0].core == core
        assert accepted[0].getpeername() == (PEERS[port], local)
        return accepted[0], connection

    def connect(self, listener: LwipListener, engine_connects_to: int, port: int = 0) -> tuple[Socket, LwipConnection]:
        """Connect from the host to the listening peer of ``port``."""
        pending = Socket.connect_begin(self.device, (PEERS[port], engine_connects_to))
        self.wait(lambda: pending.done, "the host's connection")
        assert pending.result > 0, pending.result
        socket = Socket(self.device, pending.result)
        arrived: list[LwipConnection] = []

        def accepted() -> bool:
            one = listener.accept()
            if one is not None:
                arrived.append(one)
            return bool(arrived)

        self.wait(accepted, "the peer's accept")
        assert arrived[0].remote == socket.getsockname()
        return socket, arrived[0]

    def echo(self, pairs: list[tuple[object, object]], size: int, cycles: int = LIMIT_CYCLES) -> None:
        """Echo ``size`` random bytes over (initiator, responder) pairs at the same time; every byte is compared."""
        transfers = [
            EchoTransfer(f"transfer {number}", left, right, self.random.randbytes(size))  # type: ignore[arg-type]
            for number, (left, right) in enumerate(pairs)
        ]
        end = self.simulation.cycles + cycles
        run_transfers(
            transfers,
            lambda: self.device.advance(STEP_CYCLES / self.second_cycles),
            lambda: self.simulation.cycles > end,
        )
        assert all(transfer.verified == 2 * size for transfer in transfers)

    def close_all(self, *things: object) -> None:
        """Close host sockets and peer connections, and let the handshakes pass."""
        for thing in things:
            thing.close()  # type: ignore[attr-defined]
        self.run(40_000)

    def echo_once(self, core: int, engine_port: int, size: int = 2000) -> None:
        """One connection to ``core``, an echo, an orderly end: the engine works."""
        with Listener(self.device, engine_port, backlog=4) as listener:
            socket, connection = self.accept_on(listener, core, engine_port)
            self.echo([(connection, HostStream(socket))], size)
            self.close_all(connection, socket)

    def assert_alive(self, port: int = 0) -> None:
        """Both cores answer a ping, and the host's operations complete."""
        for core in range(self.device.cores):
            self.ping_core(core, port)
            assert self.device.stats(core)["core"] == core

    def assert_records_back(self, listener: Listener, engine_port: int) -> None:
        """Every operation record of each core is free: RECVs take all but that of the listener's accept and one for the end."""
        for core in range(self.device.cores):
            socket, connection = self.accept_on(listener, core, engine_port)
            buffer = self.device.pool.take()
            pendings = [
                self.device.submit(Operation.RECV, handle=socket.handle, buffer=buffer, length=16)
                for _ in range(OPERATIONS - 2)
            ]
            self.run(100_000)
            assert not any(pending.done for pending in pendings), {pending.result for pending in pendings}
            socket.abort()
            self.wait(lambda pendings=pendings: all(pending.done for pending in pendings), "the end of all RECVs")
            self.device.pool.give(buffer)
            self.close_all(connection)

    def assert_buffers_back(self, forget_seconds: int = 0) -> None:
        """Every RX buffer is in its pool and every TX buffer free, at the latest when ``forget_seconds`` have passed."""
        rx, tx = self.config.rx_buffers, self.config.tx_buffers - 1  # the last TX buffer holds small results
        state: list[tuple[int, int]] = []

        def full() -> bool:
            state[:] = [
                (self.device.stats(core)["rx_buffers_free"], self.device.stats(core)["tx_buffers_free"])
                for core in range(self.device.cores)
            ]
            return state == [(rx, tx)] * self.device.cores

        for _ in range(forget_seconds):
            if full():
                return
            self.link.skip(1)  # type: ignore[attr-defined]
        try:
            self.wait(full, "the return of all buffers", 300_000)
        except AssertionError as error:
            raise AssertionError(f"{error}: (RX, TX) free are {state}, not {(rx, tx)}") from None


@contextlib.contextmanager
def started(
    *,
    tick_cycles: int | None = FAST_TICK,
    pcap: Path | None = None,
    image: bytes | None = None,
    shared_bytes: int = 0,
    config: EngineConfig = CONFIG,
    **options: object,
) -> Iterator[Rig]:
    """A running engine with the socket firmware (or ``image``); at the end all packet buffers must be back.

    Parameters
    ----------
    tick_cycles : int
        Cycles of a firmware millisecond; ``None``: as many as a millisecond has.
    shared_bytes : int
        Host memory that the rig's Device leaves to others.
    config : EngineConfig
        What is simulated, with the firmware for it; ``sync`` is the default's.
    options
        Fields of SimulationOptions.
    """
    value = seed()
    chosen = SimulationOptions(seed=value, external_tick=tick_cycles is not None, **options)  # type: ignore[arg-type]
    body = image or build_firmware(config=config).read_bytes()
    with make_simulation(config, chosen, pcap=pcap) as simulation:
        link = SimulationLink(simulation) if tick_cycles is None else FastLink(simulation, tick_cycles)
        device = Device(link, shared_bytes=shared_bytes)
        device.load(body)
        device.start(seed=value)
        rig = Rig(simulation, link, device, value, config)
        yield rig
        if image is None:
            rig.assert_buffers_back()
