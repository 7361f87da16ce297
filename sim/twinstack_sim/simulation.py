"""The compiled engine as a Python object: frames, host memory, host CSRs, interrupt, peers, captures.

The engine runs in steps of many clock cycles; between steps, frames go to the attached peers and back. A step ends
early when the engine has sent a frame, so peers answer without delay.
"""

from __future__ import annotations

import ctypes
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from . import native_model as native
from .pcap import PcapWriter
from .peer import Peer
from .wire import WireModel

MIN_FRAME_BYTES = 60  # IEEE 802.3 clause 4.2.3.3, without FCS
OVERHEAD_BYTES = 24  # preamble, SFD, FCS, inter-frame gap
CAPTURE_BYTES = 16384


class SimulationError(RuntimeError):
    """The simulation cannot go on: the engine broke a bus protocol, a register did not answer, it ran out of time."""


@dataclass(frozen=True)
class SimulationOptions:
    """How the engine's surroundings behave.

    Parameters
    ----------
    sync_hz, phy_hz : int
        Nominal clock frequencies.
    idle_ports_hz : int
        Clock frequency of a port before it first gets a peer or a frame, where that is below ``phy_hz``. The default
        is what RGMII runs at without a fast link (RGMII 2.0 clause 5.0); such a port costs next to no time.
    max_ppm : float, 0..1000
        The clocks of the PHYs differ from nominal by up to this, each by another amount.
    memory_bytes : int, multiple of 4
        Host memory; accesses beyond it get a bus error.
    max_wait_cycles : int
        Wait cycles of a host memory access, random from 0 to this.
    seed : int or None
        Of clock phases, clock offsets and wait cycles; ``None`` draws one. It is printed to standard error.
    external_tick : bool
        Ticks come from :meth:`Simulation.tick` (wall-clock time) and not from simulated time.
    csr_timeout_cycles : int
        Bound of a host CSR access.
    step_cycles : int
        Longest time between two looks at the peers.
    strict_frames : bool
        A transmitted frame that breaks IEEE 802.3 (bad FCS, short gap...) raises.

    Raises
    ------
    ValueError
        If a value is out of range, naming it.
    """

    sync_hz: int = 75_000_000
    phy_hz: int = 125_000_000
    idle_ports_hz: int = 2_500_000
    max_ppm: float = 100.0
    memory_bytes: int = 1 << 20
    max_wait_cycles: int = 3
    seed: int | None = None
    external_tick: bool = False
    csr_timeout_cycles: int = 1000
    step_cycles: int = 2000
    strict_frames: bool = True

    def __post_init__(self) -> None:
        for name, low, high in (
            ("sync_hz", 1_000_000, 1_000_000_000),
            ("phy_hz", 1_000_000, 1_000_000_000),
            ("idle_ports_hz", 1_000_000, 1_000_000_000),
            ("max_ppm", 0, 1000),
            ("memory_bytes", 4, 1 << 30),
            ("max_wait_cycles", 0, 100_000),
            ("csr_timeout_cycles", 1, 1 << 32),
            ("step_cycles", 1, 1 << 32),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} must be {low} to {high}, not {value!r}")
        if self.memory_bytes % 4:
            raise ValueError(f"memory_bytes must be a multiple of 4, not {self.memory_bytes!r}")


@dataclass(frozen=True)
class SentFrame:
    """A frame that the engine sent, without FCS; ``faults`` names what is wrong with it."""

    port: int
    data: bytes
    time_ns: int
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class BusCounts:
    """Accesses of one host bus initiator so far."""

    reads: int
    writes: int
    errors: int


@dataclass
class _Attachment:
    port: int
    peer: Peer
    wire: WireModel | None


class Simulation:
    """One running engine. Use it as a context manager, or call :meth:`start` and :meth:`close`.

    Parameters
    ----------
    library : Path
        Compiled model, from :func:`twinstack_sim.build.build_model`.
    options : SimulationOptions
        The surroundings.
    pcap : Path or None
        Where to write a capture of each port: with one port this file, otherwise ``<stem>-port<n><suffix>``.
    """

    def __init__(self, library: Path, options: SimulationOptions | None = None, *, pcap: Path | None = None) -> None:
        self.options = options or SimulationOptions()
        self.seed = random.SystemRandom().randrange(1 << 31) if self.options.seed is None else self.options.seed
        self._library = native.load_model(library)
        self.ports: int = self._library.ts_ports()
        self._memory = bytearray(self.options.memory_bytes)
        self._model: int | None = None
        self._pcap_path = pcap
        self._captures: list[PcapWriter] = []
        self._attachments: list[_Attachment] = []
        self._callbacks: list[Callable[[SentFrame], None]] = []
        self._awake: set[int] = set()
        self._link_free_ns = [0] * self.ports
        self._exchanging = False
        self._frame = ctypes.create_string_buffer(CAPTURE_BYTES)

    # ---- life ----

    def start(self) -> None:
        """Create the model and take it through reset; starting twice is an error.

        Raises
        ------
        SimulationError
            If it is running already, or cannot be created.
        """
        if self._model is not None:
            raise SimulationError("the simulation is running already")
        options = self.options
        dice = random.Random(f"{self.seed} clocks")
        offsets = [dice.uniform(-options.max_ppm, options.max_ppm) for _ in range(2 * native.MAX_PORTS)]
        config = native.ModelConfig(
            sync_hz=options.sync_hz,
            phy_hz=options.phy_hz,
            sync_ppm=0.0,
            rx_ppm=(ctypes.c_double * native.MAX_PORTS)(*offsets[: native.MAX_PORTS]),
            tx_ppm=(ctypes.c_double * native.MAX_PORTS)(*offsets[native.MAX_PORTS :]),
            seed=self.seed & 0xFFFFFFFFFFFFFFFF,
            memory=ctypes.addressof((ctypes.c_uint8 * len(self._memory)).from_buffer(self._memory)),
            memory_bytes=len(self._memory),
            max_wait=options.max_wait_cycles,
            external_tick=options.external_tick,
        )
        # A bytearray with an exported buffer cannot move; this view keeps it so until close().
        self._pinned = memoryview(self._memory)
        self._model = self._library.ts_create(ctypes.byref(config))
        if self._model is None:
            raise SimulationError("the model could not be created")
        if options.idle_ports_hz < options.phy_hz:
            for port in set(range(self.ports)) - self._awake:
                self._library.ts_port_hz(self._model, port, options.idle_ports_hz)
        self._check_faults()
        if self._pcap_path is not None:
            path = self._pcap_path
            paths = [path.with_stem(f"{path.stem}-port{n}") for n in range(self.ports)] if self.ports > 1 else [path]
            self._captures = [PcapWriter(one) for one in paths]
        print(f"twinstack: simulation seed {self.seed}", file=sys.stderr)

    def close(self) -> None:
        """Destroy the model, close captures and attached peers; closing twice is allowed."""
        if self._model is not None:
            self._library.ts_destroy(self._model)
            self._model = None
            self._pinned.release()
        for capture in self._captures:
            capture.close()
        for attachment in self._attachments:
            attachment.peer.close()
        self._captures, self._attachments = [], []

    def __enter__(self) -> Simulation:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def _handle(self) -> int:
        if self._model is None:
            raise SimulationError("the simulation is not running")
        return self._model

    # ---- time ----

    @property
    def cycles(self) -> int:
        """Cycles of ``sync`` since reset."""
        return int(self._library.ts_cycles(self._handle))

    @property
    def time_ns(self) -> int:
        """Simulated time."""
        return int(self._library.ts_time_ns(self._handle))

    def run(self, cycles: int) -> None:
        """Run ``cycles`` cycles of ``sync``, serving the peers."""
        end = self.cycles + cycles
        while self.cycles < end:
            self._step(end - self.cycles, native.STOP_FRAME)

    def run_until(self, predicate: Callable[[], bool], timeout_cycles: int) -> None:
        """Run until ``predicate()`` is true; it is asked before the first step and after each.

        Raises
        ------
        SimulationError
            If it is still false after ``timeout_cycles`` cycles.
        """
        end = self.cycles + timeout_cycles
        while not predicate():
            left = end - self.cycles
            if left <= 0:
                raise SimulationError(f"the condition did not come true in {timeout_cycles} cycles")
            self._step(left, native.STOP_FRAME | native.STOP_IRQ)

    def tick(self) -> None:
        """Make one pulse on the engine's 1 kHz tick input (``external_tick`` only)."""
        if not self.options.external_tick:
            raise SimulationError("ticks follow simulated time; set external_tick to make them yourself")
        self._library.ts_tick(self._handle)

    def _step(self, cycles: int, stops: int) -> None:
        cycles = max(1, min(cycles, self.options.step_cycles, self._cycles_to_event()))
        reason = self._library.ts_run(self._handle, cycles, stops)
        self._check_faults()
        if reason == native.REASON_FINISH:
            raise SimulationError("the model finished by itself")
        self._exchange()

    def _cycles_to_event(self) -> int:
        """Cycles until a peer or a wire has something to do, rounded up."""
        times = []
        for attachment in self._attachments:
            times.append(attachment.peer.next_event_ns())
            times.append(attachment.wire.next_arrival_ns() if attachment.wire else None)
        soonest = min((time for time in times if time is not None), default=None)
        if soonest is None:
            return self.options.step_cycles
        return (soonest - self.time_ns) * self.options.sync_hz // 1_000_000_000 + 1

    def _check_faults(self) -> None:
        text = ctypes.create_string_buffer(200)
        count = self._library.ts_faults(self._handle, text, len(text))
        if count:
            raise SimulationError(f"host bus protocol: {text.value.decode()} ({count} in all)")

    # ---- network ----

    def send_frame(
        self, port: int, frame: bytes, *, pad: bool = True, bad_fcs: bool = False, rx_er: bool = False
    ) -> None:
        """Queue ``frame`` (no FCS) for the receive pins of ``port``, with preamble, SFD, FCS and gap added.

        Parameters
        ----------
        port : int
            Network port.
        frame : bytes
            From the destination address on.
        pad : bool
            Pad to the minimum frame size.
        bad_fcs, rx_er : bool
            Spoil the FCS; assert RX_ER within the frame.
        """
        data = frame.ljust(MIN_FRAME_BYTES, b"\0") if pad else frame
        flags = (native.PUSH_BAD_FCS if bad_fcs else 0) | (native.PUSH_RX_ER if rx_er else 0)
        self._push(port, data, flags)
        self._capture(port, data, self._occupy(port, len(data) + OVERHEAD_BYTES))

    def send_raw(self, port: int, octets: bytes) -> None:
        """Queue ``octets`` for the receive pins of ``port`` as they are, RX_DV high, and a gap."""
        self._push(port, octets, native.PUSH_RAW)
        self._occupy(port, len(octets) + 12)

    def rx_backlog_bytes(self, port: int) -> int:
        """Bytes queued for the receive pins of ``port``."""
        return int(self._library.ts_frame_backlog(self._handle, port))

    def on_frame(self, callback: Callable[[SentFrame], None]) -> None:
        """Call ``callback`` with each frame that the engine sends, on any port."""
        self._callbacks.append(callback)

    def attach(self, port: int, peer: Peer, wire: WireModel | None = None) -> None:
        """Put ``peer`` at the other end of ``port``'s cable; ``wire`` spoils the frames on it. :meth:`close` closes it.

        Raises
        ------
        ValueError
            If there is no such port, or it has a peer.
        """
        if port not in range(self.ports):
            raise ValueError(f"port must be 0 to {self.ports - 1}, not {port!r}")
        if any(attachment.port == port for attachment in self._attachments):
            raise ValueError(f"port {port} has a peer already")
        self._attachments.append(_Attachment(port, peer, wire))
        self._wake(port)

    def _wake(self, port: int) -> None:
        """Let the clocks of ``port`` run at full speed from now on."""
        if port not in self._awake:
            self._awake.add(port)
            if self._model is not None and self.options.idle_ports_hz < self.options.phy_hz:
                self._library.ts_port_hz(self._model, port, self.options.phy_hz)

    def _push(self, port: int, octets: bytes, flags: int) -> None:
        if port not in range(self.ports):
            raise ValueError(f"port must be 0 to {self.ports - 1}, not {port!r}")
        if not octets:
            raise ValueError("a frame must have bytes, not b''")
        self._wake(port)
        self._library.ts_frame_push(self._handle, port, octets, len(octets), flags)

    def _occupy(self, port: int, octets: int) -> int:
        """Reserve the line for ``octets`` bytes and return when they start."""
        start = max(self.time_ns, self._link_free_ns[port])
        self._link_free_ns[port] = start + octets * 1_000_000_000 // self.options.phy_hz
        return start

    def _capture(self, port: int, data: bytes, time_ns: int) -> None:
        if self._captures:
            self._captures[port].write(data, time_ns)

    def _pop_sent(self) -> SentFrame | None:
        port, flags, time_ns = ctypes.c_int(), ctypes.c_uint32(), ctypes.c_uint64()
        length = self._library.ts_frame_pop(
            self._handle,
            ctypes.addressof(self._frame),
            CAPTURE_BYTES,
            ctypes.byref(port),
            ctypes.byref(flags),
            ctypes.byref(time_ns),
        )
        if length < 0:
            return None
        faults = tuple(text for bit, text in native.FRAME_FLAG_NAMES.items() if flags.value & bit)
        return SentFrame(port.value, ctypes.string_at(self._frame, length), time_ns.value, faults)

    def _exchange(self) -> None:
        """Carry frames between the engine and the peers; not again from within a callback."""
        if self._exchanging:
            return
        self._exchanging = True
        try:
            self._carry_frames()
        finally:
            self._exchanging = False

    def _carry_frames(self) -> None:
        by_port = {attachment.port: attachment for attachment in self._attachments}
        while (sent := self._pop_sent()) is not None:
            self._capture(sent.port, sent.data, sent.time_ns)
            if sent.faults and self.options.strict_frames:
                raise SimulationError(f"port {sent.port} sent a bad frame at {sent.time_ns} ns: {sent.faults}")
            for callback in self._callbacks:
                callback(sent)
            attachment = by_port.get(sent.port)
            if attachment is None or sent.faults:
                continue
            if attachment.wire is None:
                attachment.peer.frame_from_engine(sent.data, sent.time_ns)
            else:
                attachment.wire.push("to_peer", sent.data, sent.time_ns)
        now = self.time_ns
        for attachment in self._attachments:
            port, peer, wire = attachment.port, attachment.peer, attachment.wire
            if wire is not None:
                for carried in wire.pop("to_peer", now):
                    if not carried.bad_fcs:  # a network card drops the others
                        peer.frame_from_engine(carried.data, now)
            for frame in peer.poll(now):
                if wire is None:
                    self.send_frame(port, frame)
                else:
                    # Padded before the wire can flip a bit: the pad is on the wire too.
                    wire.push("to_engine", frame.ljust(MIN_FRAME_BYTES, b"\0"), now)
            if wire is not None:
                for carried in wire.pop("to_engine", now):
                    self.send_frame(port, carried.data, bad_fcs=carried.bad_fcs)

    # ---- host ----

    @property
    def host_memory(self) -> memoryview:
        """Host memory, base address 0; the engine sees changes at once, in both directions."""
        return memoryview(self._memory)

    @property
    def irq(self) -> bool:
        """Level of the interrupt line."""
        return bool(self._library.ts_irq(self._handle))

    def csr_read(self, offset: int) -> int:
        """Read the 32-bit register at byte ``offset`` of the host's CSR target; simulated time passes.

        Raises
        ------
        SimulationError
            On a bus error, or no answer in ``csr_timeout_cycles``.
        """
        return self._csr(offset, None, 0xF)

    def csr_write(self, offset: int, value: int, *, byte_enables: int = 0xF) -> None:
        """Write the 32-bit register at byte ``offset`` of the host's CSR target; simulated time passes.

        Raises
        ------
        SimulationError
            On a bus error, or no answer in ``csr_timeout_cycles``.
        """
        self._csr(offset, value, byte_enables)

    def _csr(self, offset: int, value: int | None, byte_enables: int) -> int:
        if offset % 4 or not 0 <= offset < 1 << 15:
            raise ValueError(f"offset must be a multiple of 4 below 0x8000, not {offset!r}")
        if value is not None and not 0 <= value < 1 << 32:
            raise ValueError(f"value must fit 32 bits, not {value!r}")
        data = ctypes.c_uint32()
        result = self._library.ts_csr(
            self._handle,
            value is not None,
            offset,
            byte_enables,
            value or 0,
            self.options.csr_timeout_cycles,
            ctypes.byref(data),
        )
        self._check_faults()
        self._exchange()  # a host that only polls registers must not stop the network
        what = "read" if value is None else "write"
        if result == native.CSR_TIMEOUT:
            raise SimulationError(f"CSR {what} at {offset:#x}: no answer in {self.options.csr_timeout_cycles} cycles")
        if result == native.CSR_ERR:
            raise SimulationError(f"CSR {what} at {offset:#x}: bus error")
        return data.value

    def bus_counts(self, name: str) -> BusCounts:
        """Accesses so far of the initiator ``"host_read"`` or ``"host_write"``."""
        if name not in ("host_read", "host_write"):
            raise ValueError(f"name must be 'host_read' or 'host_write', not {name!r}")
        reads, writes, errors = ctypes.c_uint64(), ctypes.c_uint64(), ctypes.c_uint64()
        self._library.ts_bus_counts(
            self._handle, int(name == "host_write"), ctypes.byref(reads), ctypes.byref(writes), ctypes.byref(errors)
        )
        return BusCounts(reads.value, writes.value, errors.value)
