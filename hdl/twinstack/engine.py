"""The engine: ports, cores, packet memory and host interface, wired together.

One component for simulation and for every board; pins, clocks and the host's bus come in at its edge. What is inside
each block stands in its own file; here is only the wiring, in the order of the data path.
"""

from __future__ import annotations

from collections.abc import Sequence

from amaranth import *
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from .config import EngineConfig
from .control_queue import ControlQueue
from .core_tile import CoreTile
from .csr import CsrPage
from .dispatcher import Dispatcher
from .host_dma import HostDma
from .interfaces import GmiiPins, LinkStatus, MacCounters, MdioPins, ProbePort, RamPort
from .lock_unit import LockUnit
from .mac import Mac
from .mac_rx import TAG_BYTES
from .mdio import MdioController
from .memory import RamArbiter, TrueDualPortRam
from .message_fifo import MessageFifos
from .probe_arbiter import ProbeArbiter
from .probe_registers import connect_probe
from .proto import abi, memory_map
from .rx_dma import RxDma
from .rx_front_end import RxFrontEnd
from .soc import wishbone, wishbone_signature
from .tx_engine import TxEngine

HOST_CSR_ADDRESS_BITS = (memory_map.HOST_CSR_BYTES // 4 - 1).bit_length()
MANAGER_SELECT_BIT = (memory_map.HOST_MANAGER_BASE // 4).bit_length() - 1
MANAGER_ADDRESS_BITS = 12


class Engine(wiring.Component):
    """The whole offload engine.

    Parameters
    ----------
    config : EngineConfig
        What to build.
    code : sequence of int
        Initial words of code memory: the firmware of the bitstream. Empty for simulation, where the host loads it.
    autostart : bool
        Leave reset with the cores running ``code``; otherwise they wait for the host.

    Members
    -------
    port0.. : ``Out(GmiiPins())``
        Network ports; clock domains ``rx0``/``tx0``.. are the parent's.
    mdio0.. : ``Out(MdioPins())``
        Management interface of each port's PHY.
    host_read, host_write : ``Out(wishbone_signature())``
        Initiators on the host bus (``sync`` domain): SQ fetch and SEND data; completions and RECV data.
    host_csr : ``In(wishbone_signature(13))``
        The host's registers: its own page, and the manager's page at ``HOST_MANAGER_BASE``.
    tick : ``In(1)``
        1 kHz pulse of one ``sync`` cycle: the firmware's time.
    irq : ``Out(1)``
        Host interrupt, level.

    Raises
    ------
    TypeError
        If ``config`` is no EngineConfig.
    ValueError
        If ``code`` does not fit into code memory.
    """

    def __init__(self, config: EngineConfig, *, code: Sequence[int] = (), autostart: bool = False):
        if not isinstance(config, EngineConfig):
            raise TypeError(f"config must be an EngineConfig, not {config!r}")
        if len(code) * 4 > config.code_bytes:
            raise ValueError(f"code must have at most {config.code_bytes // 4} words, not {len(code)!r}")
        self.config = config
        self._code = list(code)
        self._autostart = autostart
        super().__init__(
            {f"port{p}": Out(GmiiPins()) for p in range(config.ports)}
            | {f"mdio{p}": Out(MdioPins()) for p in range(config.ports)}
            | {
                "host_read": Out(wishbone_signature()),
                "host_write": Out(wishbone_signature()),
                "host_csr": In(wishbone_signature(HOST_CSR_ADDRESS_BITS)),
                "tick": In(1),
                "irq": Out(1),
            }
        )

    def elaborate(self, platform):
        m = Module()
        config = self.config
        cores, ports = range(config.cores), range(config.ports)

        # Registers: the manager's page is shared by the cores and the host, the host's page is the host's alone.
        m.submodules.manager_page = manager_page = CsrPage("manager", instances={"mac": config.ports})
        m.submodules.host_page = host_page = CsrPage(
            "host", instances={"host_core": config.cores, "queue": config.hosts}
        )

        # Network side: port by port up to whole, good, parsed frames.
        m.submodules.dispatcher = dispatcher = Dispatcher(
            config.ports,
            config.cores,
            flows=config.flows,
            udp_port_entries=config.udp_port_entries,
            rules=config.rules,
        )
        m.submodules.rx_dma = rx_dma = RxDma(config)
        m.submodules.tx_engine = tx_engine = TxEngine(config)
        # Pause frames go out while packet memory of any living core runs low.
        rx_low = Signal()
        m.d.sync += rx_low.eq((Cat(getattr(rx_dma, f"queue{c}").low for c in cores) & dispatcher.alive).any())
        for p in ports:
            m.submodules[f"mac{p}"] = mac = Mac(
                config.max_frame_bytes - TAG_BYTES, rx_domain=f"rx{p}", tx_domain=f"tx{p}"
            )
            m.submodules[f"mdio{p}"] = mdio = MdioController(config.sync_hz)
            m.submodules[f"rx_front_end{p}"] = front_end = RxFrontEnd(config.frame_fifo_words, config.max_frame_bytes)
            connect(m, mac.pins, flipped(getattr(self, f"port{p}")))
            connect(m, mac=mac.rx, front_end=front_end.i)
            connect(m, front_end=front_end.meta, dispatcher=getattr(dispatcher, f"meta{p}"))
            connect(m, front_end=front_end.frames, rx_dma=getattr(rx_dma, f"frames{p}"))
            connect(m, tx_engine=getattr(tx_engine, f"frame{p}"), mac=mac.tx)
            connect(m, mdio.pins, flipped(getattr(self, f"mdio{p}")))
            self._connect_mac(m, manager_page, p, mac, front_end, rx_low)
            self._connect_mdio(m, manager_page, p, mdio)
        connect(m, dispatcher=dispatcher.verdict, rx_dma=rx_dma.verdict)

        # Host side.
        m.submodules.control_queue = queue = ControlQueue(config)
        m.submodules.dma_in = dma_in = HostDma(config, direction="in")
        m.submodules.dma_out = dma_out = HostDma(config, direction="out")
        for name, initiators, bus in (
            ("read", (queue.sq_bus, dma_in.bus), self.host_read),
            ("write", (queue.cq_bus, dma_out.bus), self.host_write),
        ):
            m.submodules[f"host_{name}_arbiter"] = arbiter = wishbone.Arbiter(
                addr_width=30, data_width=32, granularity=8, features={"err", "cti"}
            )
            for initiator in initiators:
                arbiter.add(initiator)
            connect(m, arbiter=arbiter.bus, bus=flipped(bus))

        # Between the cores.
        m.submodules.locks = locks = LockUnit(config.cores, config.lock_count)
        m.submodules.messages = messages = MessageFifos(config.cores, config.message_depth)

        # The cores and their memories.
        m.submodules.shared_ram = shared_ram = TrueDualPortRam(config.shared_bytes)
        m.submodules.shared_arbiter = shared = RamArbiter(shared_ram.a.signature.address_width, config.cores)
        connect(m, shared.ram, shared_ram.a)
        m.submodules.manager_arbiter = manager_arbiter = wishbone.Arbiter(
            addr_width=MANAGER_ADDRESS_BITS, data_width=32, granularity=8, features={"err", "cti"}
        )
        tiles = []
        for c in cores:
            m.submodules[f"core{c}"] = tile = CoreTile(config, c)
            tiles.append(tile)
            connect(m, tile.shared, shared.requesters[c])
            manager_arbiter.add(tile.manager_bus)
            for name, block in (
                ("rx", rx_dma),
                ("tx", tx_engine),
            ):
                connect(m, getattr(tile, name), getattr(block, f"queue{c}"))
            connect(m, tile.sq, getattr(queue, f"sq{c}"))
            connect(m, tile.cq, getattr(queue, f"cq{c}"))
            connect(m, tile.dma_in, getattr(dma_in, f"queue{c}"))
            connect(m, tile.dma_out, getattr(dma_out, f"queue{c}"))
            connect(m, tile.probe, getattr(dispatcher, f"probe{c}"))
            connect(m, tile.flow, getattr(dispatcher, f"flow{c}"))
            connect(m, tile.lock, getattr(locks, f"port{c}"))
            connect(m, tile.message, getattr(messages, f"port{c}"))
            self._connect_memories(m, c, tile, rx_dma, tx_engine, queue, dma_in, dma_out)

        self._connect_manager_page(m, manager_page, dispatcher)
        self._connect_host(m, host_page, manager_page, manager_arbiter, tiles, dispatcher, rx_dma, queue)
        self._connect_boot(m, host_page, tiles)
        self._connect_resets(
            m,
            host_page,
            tiles,
            dispatcher,
            (rx_dma, tx_engine, queue),
            (dma_in, dma_out, locks, messages),
            (dma_in, dma_out),
        )
        self._connect_windows(m, host_page, (dma_in, dma_out))
        host_probe = ProbePort().create()
        connect_probe(m, m, host_page.block("host_probe"), host_probe, Const(0))
        m.submodules.probe_arbiter = probes = ProbeArbiter()
        connect(m, host_probe, probes.requester0)
        connect(m, queue.probe, probes.requester1)
        connect(m, probes.target, dispatcher.host_probe)
        return m

    def _connect_mac(self, m, page, p, mac, front_end, rx_low):
        """MAC and parser of port ``p`` to their registers."""
        regs = page.block("mac", p)
        overflow_before = Signal(name=f"overflow_before{p}")
        m.d.sync += overflow_before.eq(front_end.overflow[0])
        index, low = regs.field("statistic_index"), regs.field("statistic_low")
        m.d.comb += [
            mac.address.eq(Cat(regs.field("address_low").data, regs.field("address_high").data)),
            mac.pause_time.eq(regs.field("pause_time").data),
            mac.pause_receive.eq(regs.field("control", "pause_receive").data),
            mac.pause_request.eq(rx_low & regs.field("control", "pause_send").data),
            mac.multicast.eq(Cat(regs.field("multicast", index=i).data for i in range(2))),
            mac.rx_dropped.eq(front_end.overflow[0] ^ overflow_before),
            mac.statistic_index.eq(index.data),
            mac.statistic_strobe.eq(index.w_stb),
            mac.statistic_next.eq(index.w_data),
            mac.statistic_low_strobe.eq(low.r_stb),
            low.r_data.eq(mac.statistic_low),
            regs.field("statistic_high").r_data.eq(mac.statistic_high),
            regs.field("rx_checksum_errors").r_data.eq(front_end.checksum_errors),
            regs.field("rx_unknown").r_data.eq(front_end.unknown_ethertype),
            # Frames are lost in the clock crossing or in the full-frame store: one figure for the reader.
            regs.field("rx_overflows").r_data.eq(mac.counters.rx_overflows + front_end.overflow),
        ]
        for name in ("enable", "promiscuous", "all_multicast", "speed"):
            m.d.comb += getattr(mac, name).eq(regs.field("control", name).data)
        for name, _ in data.Layout.cast(MacCounters):
            if name != "rx_overflows":
                m.d.comb += regs.field(name).r_data.eq(mac.counters[name])
        for name, _ in data.Layout.cast(LinkStatus):
            m.d.comb += regs.field("status", name).r_data.eq(mac.link[name])

    def _connect_mdio(self, m, page, p, mdio):
        """Management interface of port ``p`` to its registers."""
        regs = page.block("mac", p)
        m.d.comb += [
            mdio.start.eq(regs.field("mdio", "data").w_stb),
            mdio.write_data.eq(regs.field("mdio", "data").w_data),
            mdio.register_address.eq(regs.field("mdio", "register").w_data),
            mdio.phy_address.eq(regs.field("mdio", "phy").w_data),
            mdio.read.eq(regs.field("mdio", "read").w_data),
            regs.field("mdio_result", "data").r_data.eq(mdio.read_data),
            regs.field("mdio_result", "error").r_data.eq(mdio.error),
            regs.field("mdio_result", "busy").r_data.eq(mdio.busy),
        ]

    def _connect_memories(self, m, c, tile, rx_dma, tx_engine, queue, dma_in, dma_out):
        """Packet memory banks of core ``c``, and the hardware's side of its data RAM."""
        config = self.config
        m.submodules[f"rx_bank{c}"] = rx_bank = TrueDualPortRam(config.rx_bank_bytes)
        m.submodules[f"tx_bank{c}"] = tx_bank = TrueDualPortRam(config.tx_bank_bytes)
        connect(m, getattr(rx_dma, f"bank{c}"), rx_bank.a)
        shares = (
            ("rx_bank", rx_bank.b, (tile.rx_bank, getattr(dma_out, f"rx_bank{c}"), getattr(tx_engine, f"rx_bank{c}"))),
            ("tx_bank_in", tx_bank.a, (getattr(dma_in, f"tx_bank{c}"), tile.tx_bank)),
            ("tx_bank_out", tx_bank.b, (getattr(tx_engine, f"tx_bank{c}"), getattr(dma_out, f"tx_bank{c}"))),
            (
                "data",
                tile.data,
                (getattr(rx_dma, f"data{c}"), getattr(tx_engine, f"data{c}"), getattr(queue, f"data{c}")),
            ),
        )
        for name, ram, requesters in shares:
            arbiter = RamArbiter(ram.address.shape().width, len(requesters))
            m.submodules[f"{name}_arbiter{c}"] = arbiter
            for requester, slot in zip(requesters, arbiter.requesters, strict=True):
                connect(m, requester, slot)
            connect(m, arbiter.ram, ram)

    def _connect_manager_page(self, m, page, dispatcher):
        regs = page.block("dispatch")
        m.d.comb += [
            dispatcher.key.eq(Cat(regs.field("key", index=i).data for i in range(10))),
            dispatcher.tcp_ports.eq(regs.field("hash_config", "tcp_ports").data),
            dispatcher.udp_ports.eq(regs.field("hash_config", "udp_ports").data),
            dispatcher.indirection_valid.eq(regs.field("indirection", "index").w_stb),
            dispatcher.indirection_index.eq(regs.field("indirection", "index").w_data),
            dispatcher.indirection_core.eq(regs.field("indirection", "core").w_data),
            regs.field("state", "alive").r_data.eq(dispatcher.alive),
            regs.field("state", "manager").r_data.eq(dispatcher.manager),
            regs.field("bad_config").r_data.eq(dispatcher.bad_config),
            regs.field("dropped").r_data.eq(dispatcher.dropped),
            dispatcher.rule_write.eq(regs.field("rule", "index").w_stb),
            dispatcher.rule_index.eq(regs.field("rule", "index").w_data),
            regs.field("flows", "used").r_data.eq(dispatcher.flows_used),
            regs.field("flows", "capacity").r_data.eq(self.config.flows),
            *(
                regs.field(name).r_data.eq(getattr(dispatcher, name))
                for name in ("by_flow", "by_port", "by_rule", "dropped_by_rule")
            ),
        ]
        for name in ("ethertype", "protocol", "network_port"):
            m.d.comb += dispatcher.rule[name].eq(regs.field("rule_kind", name).data)
        for name in ("source_port", "destination_port"):
            m.d.comb += dispatcher.rule[name].eq(regs.field("rule_ports", name).data)
        for name in ("ethertype", "protocol", "network_port", "source_port", "destination_port"):
            m.d.comb += dispatcher.rule[f"match_{name}"].eq(regs.field("rule", f"match_{name}").w_data)
        for name in ("action", "core"):
            m.d.comb += dispatcher.rule[name].eq(regs.field("rule", name).w_data)
        for c in range(self.config.cores):
            m.d.comb += regs.field("dispatched", index=c).r_data.eq(getattr(dispatcher, f"dispatched{c}"))

    def _connect_host(self, m, host_page, manager_page, manager_arbiter, tiles, dispatcher, rx_dma, queue):
        """The host's CSR target: its own page, or the manager's page among the cores."""
        host_to_manager = wishbone_signature(MANAGER_ADDRESS_BITS).create()
        manager_arbiter.add(host_to_manager)
        connect(m, manager_arbiter.bus, manager_page.bus)
        select_manager = self.host_csr.adr[MANAGER_SELECT_BIT]
        for bus, selected in ((host_page.bus, ~select_manager), (host_to_manager, select_manager)):
            m.d.comb += [
                bus.cyc.eq(self.host_csr.cyc & selected),
                bus.stb.eq(self.host_csr.stb & selected),
                bus.we.eq(self.host_csr.we),
                bus.adr.eq(self.host_csr.adr),
                bus.sel.eq(self.host_csr.sel),
                bus.dat_w.eq(self.host_csr.dat_w),
            ]
        m.d.comb += [
            self.host_csr.ack.eq(Mux(select_manager, host_to_manager.ack, host_page.bus.ack)),
            self.host_csr.dat_r.eq(Mux(select_manager, host_to_manager.dat_r, host_page.bus.dat_r)),
        ]

        regs = host_page.block("queue", 0)
        m.d.comb += [
            queue.enable.eq(regs.field("control", "enable").data),
            queue.irq_enable.eq(regs.field("control", "irq_enable").data),
            queue.sq_base.eq(regs.field("sq_base").data),
            queue.cq_base.eq(regs.field("cq_base").data),
            queue.sq_log2.eq(regs.field("control", "sq_log2").data),
            queue.cq_log2.eq(regs.field("control", "cq_log2").data),
            queue.sq_tail.eq(regs.field("sq_tail").data),
            queue.cq_head.eq(regs.field("cq_head").data),
            queue.irq_count.eq(regs.field("irq", "count").data),
            queue.irq_delay.eq(regs.field("irq", "delay").data),
            regs.field("sq_head").r_data.eq(queue.sq_head),
            regs.field("cq_tail").r_data.eq(queue.cq_tail),
            regs.field("status", "irq").r_data.eq(queue.irq),
            regs.field("status", "bus_error").r_data.eq(queue.bus_error),
            queue.tick.eq(self.tick),
            queue.alive.eq(dispatcher.alive),
            queue.manager.eq(dispatcher.manager),
            self.irq.eq(queue.irq),
        ]
        for c, tile in enumerate(tiles):
            regs = host_page.block("host_core", c)
            console = regs.field("console", "valid")
            m.d.comb += [
                regs.field("status", "firmware_abi").r_data.eq(tile.firmware_abi),
                regs.field("status", "epoch").r_data.eq(tile.epoch),
                regs.field("status", "ready").r_data.eq(tile.ready),
                console.r_data.eq(tile.console.valid),
                regs.field("console", "data").r_data.eq(tile.console.payload),
                tile.console.ready.eq(console.r_stb),
                regs.field("console_lost").r_data.eq(tile.console_lost),
                regs.field("cpu_accesses").r_data.eq(tile.cpu_accesses),
                regs.field("rx_buffers", "large").r_data.eq(getattr(rx_dma, f"queue{c}").buffers_large),
                regs.field("rx_buffers", "small").r_data.eq(getattr(rx_dma, f"queue{c}").buffers_small),
                regs.field("rx_flow_dropped").r_data.eq(getattr(rx_dma, f"queue{c}").flow_dropped),
                regs.field("rx_dropped").r_data.eq(getattr(rx_dma, f"queue{c}").dropped),
            ]

    def _connect_boot(self, m, page, tiles):
        """Code memory: each core fetches through its own port; the host writes while all cores are in reset."""
        config = self.config
        m.submodules.code_ram = code_ram = TrueDualPortRam(config.code_bytes, init=self._code)
        width = code_ram.a.address.shape().width
        regs = page.block("engine")
        address, load = regs.field("code_address"), regs.field("code_data")
        accepted = Signal()
        refused = Signal(16)
        loader = RamPort(width).create()
        m.d.comb += [
            accepted.eq(regs.field("reset_cores").data[: config.cores].all() & (address.data < config.code_bytes // 4)),
            loader.valid.eq(load.w_stb & accepted),
            loader.write.eq(1),
            loader.address.eq(address.data),
            loader.data.eq(load.w_data),
            loader.mask.eq(0xF),
            address.load.eq(load.w_stb),
            address.load_data.eq(address.data + 1),
            regs.field("code_refused").r_data.eq(refused),
        ]
        with m.If(load.w_stb & ~accepted):
            m.d.sync += refused.eq(refused + 1)
        # Ports: even cores share a, odd cores share b; the loader is on a, where nobody fetches while it may write.
        for name, port, sharers in (
            ("a", code_ram.a, [tile.code for tile in tiles[0::2]]),
            ("b", code_ram.b, [tile.code for tile in tiles[1::2]]),
        ):
            if name == "a":
                sharers.append(loader)
            if sharers:
                m.submodules[f"code_arbiter_{name}"] = arbiter = RamArbiter(width, len(sharers))
                for sharer, slot in zip(sharers, arbiter.requesters, strict=True):
                    connect(m, sharer, slot)
                connect(m, arbiter.ram, port)

    def _connect_resets(self, m, page, tiles, dispatcher, with_epochs, without_epochs, dmas):
        """Core resets and epochs, identity, time."""
        config = self.config
        regs = page.block("engine")
        reset_field = regs.field("reset_cores")
        reset_cores = Signal(config.cores, init=(1 << config.cores) - 1)
        starting = Signal(init=self._autostart)
        epochs = Signal(data.ArrayLayout(8, config.cores))
        cycles = Signal(64)
        cycles_latched = Signal(32)
        milliseconds = Signal(32)
        alive = Signal(config.cores)
        # The register comes up holding all cores; a bitstream with firmware lets them go at once.
        m.d.comb += [reset_field.load.eq(starting), reset_field.load_data.eq(0)]
        m.d.sync += starting.eq(0)
        # A core stays in reset until its DMA accesses in flight have ended: no write comes after it.
        for c in range(config.cores):
            busy = Cat(dma.core_busy[c] for dma in dmas).any()
            m.d.sync += reset_cores[c].eq(reset_field.data[c] | (reset_cores[c] & busy))
        m.d.sync += [cycles.eq(cycles + 1), milliseconds.eq(milliseconds + self.tick)]
        with m.If(regs.field("cycles_low").r_stb):
            m.d.sync += cycles_latched.eq(cycles[32:])
        for c, tile in enumerate(tiles):
            previous = Signal(name=f"previous_reset{c}", init=1)
            m.d.sync += previous.eq(reset_cores[c])
            with m.If(reset_cores[c] & ~previous):
                m.d.sync += epochs[c].eq(epochs[c] + 1)
            m.d.comb += [
                tile.reset_core.eq(reset_cores[c]),
                tile.epoch.eq(epochs[c]),
                tile.manager.eq(dispatcher.manager),
                tile.tick.eq(self.tick),
                tile.seed.eq(regs.field("seed").data),
            ]
            # A core whose firmware speaks another ABI never takes part, whatever it says.
            m.d.sync += alive[c].eq(~reset_cores[c] & tile.ready & (tile.firmware_abi == abi.ABI_VERSION))
        for block in (*with_epochs, *without_epochs):
            m.d.comb += block.core_reset.eq(reset_cores)
        for block in with_epochs:
            m.d.comb += block.epochs.eq(epochs)
        m.d.comb += [
            dispatcher.alive.eq(alive),
            dispatcher.core_reset.eq(reset_cores),
            with_epochs[0].timestamp.eq(cycles),
            regs.field("magic").r_data.eq(abi.MAGIC),
            regs.field("abi").r_data.eq(abi.ABI_VERSION),
            regs.field("identity", "cores").r_data.eq(config.cores),
            regs.field("identity", "ports").r_data.eq(config.ports),
            regs.field("identity", "hosts").r_data.eq(config.hosts),
            regs.field("identity", "code_kib").r_data.eq(config.code_bytes // 1024),
            regs.field("sync_hz").r_data.eq(config.sync_hz),
            regs.field("alive").r_data.eq(alive),
            regs.field("milliseconds").r_data.eq(milliseconds),
            regs.field("cycles_low").r_data.eq(cycles),
            regs.field("cycles_high").r_data.eq(cycles_latched),
        ]

    def _connect_windows(self, m, page, engines):
        """The host's windows to both DMA engines."""
        for index in range(len(engines[0].windows)):
            regs = page.block("window", index)
            for engine in engines:
                window = engine.windows[index]
                m.d.comb += [
                    window.base.eq(regs.field("base").data),
                    window.limit.eq(regs.field("limit").data),
                    window.read.eq(regs.field("control", "read").data),
                    window.write.eq(regs.field("control", "write").data),
                ]
