"""Register blocks and pages, built from the declarations in :mod:`twinstack.proto.registers` with amaranth-soc.

A bus access is always one whole 32-bit register. A write with some byte enables off changes nothing and is
acknowledged: half a register with undefined lanes would be worse. A read ignores the byte enables. An address without
a register reads as zero and ignores writes; both are acknowledged, so that no address can stall a bus.
"""

from __future__ import annotations

from collections.abc import Mapping

from amaranth import *
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import ceil_log2

from .proto import registers as registers_module
from .proto.registers import Block, Register
from .soc import csr, wishbone_signature

WORD_BYTES = 4


class ReadField(csr.FieldAction):
    """Field with access ``r``: hardware drives ``r_data``; ``r_stb`` is high in the cycle in which it is read."""

    def __init__(self, width: int):
        super().__init__(unsigned(width), access="r", members={"r_data": In(width), "r_stb": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += [self.port.r_data.eq(self.r_data), self.r_stb.eq(self.port.r_stb)]
        return m


class WriteField(csr.FieldAction):
    """Field with access ``w``: ``w_data`` is valid in the cycle of ``w_stb``."""

    def __init__(self, width: int):
        super().__init__(unsigned(width), access="w", members={"w_data": Out(width), "w_stb": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += [self.w_data.eq(self.port.w_data), self.w_stb.eq(self.port.w_stb)]
        return m


class ExchangeField(csr.FieldAction):
    """Field with access ``x``: read side as in ``r``, write side as in ``w``, no storage between them."""

    def __init__(self, width: int):
        members = {"r_data": In(width), "r_stb": Out(1), "w_data": Out(width), "w_stb": Out(1)}
        super().__init__(unsigned(width), access="rw", members=members)

    def elaborate(self, platform):
        m = Module()
        m.d.comb += [
            self.port.r_data.eq(self.r_data),
            self.r_stb.eq(self.port.r_stb),
            self.w_data.eq(self.port.w_data),
            self.w_stb.eq(self.port.w_stb),
        ]
        return m


class StorageField(csr.FieldAction):
    """Field with access ``rw``: storage that the bus writes and reads back.

    Members
    -------
    data : Out(width)
        The storage; new from the cycle after ``w_stb``.
    w_data, w_stb : Out
        The write that is about to change it.
    load, load_data : In
        Hardware may overwrite the storage; a bus write in the same cycle wins. Leave unconnected otherwise.
    """

    def __init__(self, width: int, init: int = 0):
        members = {
            "data": Out(width, init=init),
            "w_data": Out(width),
            "w_stb": Out(1),
            "load": In(1),
            "load_data": In(width),
        }
        super().__init__(unsigned(width), access="rw", members=members)

    def elaborate(self, platform):
        m = Module()
        m.d.comb += [
            self.port.r_data.eq(self.data),
            self.w_data.eq(self.port.w_data),
            self.w_stb.eq(self.port.w_stb),
        ]
        with m.If(self.port.w_stb):
            m.d.sync += self.data.eq(self.port.w_data)
        with m.Elif(self.load):
            m.d.sync += self.data.eq(self.load_data)
        return m


class ReservedField(csr.FieldAction):
    """Bits without a name: read as zero, ignore writes."""

    def __init__(self, width: int):
        super().__init__(unsigned(width), access="nc")

    def elaborate(self, platform):
        return Module()


def _build_register(declaration: Register) -> csr.Register:
    """The register of ``declaration``, its fields by name, with reserved fields in the gaps."""
    fields: dict[str, csr.Field] = {}
    bit = 0
    for field in sorted(declaration.fields, key=lambda field: field.lsb):
        if field.lsb > bit:
            fields[f"reserved_{bit}"] = csr.Field(ReservedField, field.lsb - bit)
        if field.access == "rw":
            fields[field.name] = csr.Field(StorageField, field.width, field.reset)
        else:
            action = {"r": ReadField, "w": WriteField, "x": ExchangeField}[field.access]
            fields[field.name] = csr.Field(action, field.width)
        bit = field.lsb + field.width
    accesses = "".join(field.access for field in declaration.fields).replace("x", "rw")
    access = ("r" if "r" in accesses else "") + ("w" if "w" in accesses else "")
    return csr.Register(fields, access=access)


class RegisterBlock(wiring.Component):
    """The registers of one instance of a block on a CSR bus.

    Parameters
    ----------
    block : twinstack.proto.registers.Block
        Declaration; its address in the page plays no part here.

    Members
    -------
    bus : ``In(csr.Signature)``
        32 bits of data, word addresses from the block's base.

    Timing
    ------
    ``r_stb`` comes in the cycle of the bus's ``r_stb``, combinationally, and ``r_data`` is sampled at its end. ``w_stb``
    comes one cycle after the bus's ``w_stb``.

    Raises
    ------
    TypeError
        If ``block`` is not a Block.
    """

    def __init__(self, block: Block):
        if not isinstance(block, Block):
            raise TypeError(f"block must be a twinstack.proto.registers.Block, not {block!r}")
        self.block = block
        self._registers: dict[tuple[str, int], csr.Register] = {}
        words = block.size // WORD_BYTES
        builder = csr.Builder(addr_width=max(1, ceil_log2(words)), data_width=32)
        for declaration in block.registers:
            for index in range(declaration.count):
                register = _build_register(declaration)
                self._registers[declaration.name, index] = register
                name = declaration.name if declaration.count == 1 else f"{declaration.name}_{index}"
                builder.add(name, register, offset=declaration.offset + WORD_BYTES * index)
        self._bridge = csr.Bridge(builder.as_memory_map())
        super().__init__({"bus": In(csr.Signature(addr_width=builder.addr_width, data_width=32))})
        self.bus.memory_map = self._bridge.bus.memory_map

    def field(self, register: str, name: str = "value", *, index: int = 0):
        """The hardware side of a field.

        Depending on its access an object with ``data`` (rw, and what :class:`StorageField` has besides), ``r_data``
        and ``r_stb`` (r), ``w_data`` and ``w_stb`` (w), or all four of these (x).

        Raises
        ------
        KeyError
            If there is no such field.
        """
        if (register, index) not in self._registers:
            raise KeyError(f"{self.block.name}.{register}[{index}]")
        fields = self._registers[register, index].f
        if name not in fields or name.startswith("reserved_"):
            raise KeyError(f"{self.block.name}.{register}[{index}].{name}")
        return fields[name]

    def elaborate(self, platform):
        m = Module()
        m.submodules.bridge = self._bridge
        wiring.connect(m, wiring.flipped(self.bus), self._bridge.bus)
        return m


class CsrPage(wiring.Component):
    """All register blocks of one page, at their declared offsets, behind a Wishbone target.

    Parameters
    ----------
    page : str
        ``core``, ``manager`` or ``host``.
    instances : dict of str to int
        Instances of a block to build, 0 to the declared count; default: the declared count. Where there is no
        instance, reads give zero.
    addr_width : int
        Bits of the word address; 12 by default, which holds any page. Higher addresses than the last block's read zero.

    Members
    -------
    bus : ``In(wishbone_signature(addr_width))``
        ``err`` is never asserted; ``cti`` is ignored: a burst is acknowledged as single accesses.

    Timing
    ------
    ``ack`` comes one cycle after ``stb``: two cycles for each access, where amaranth-soc's own bridge takes three and
    mistakes the access after a withdrawn one for the rest of it. Here an ``ack`` always follows within one cycle, so an
    access withdrawn without waiting for it needs one idle cycle after it; if it was a write, it has happened.

    Raises
    ------
    ValueError
        If the page, or a name or number in ``instances``, does not exist.
    """

    def __init__(self, page: str, instances: Mapping[str, int] | None = None, *, addr_width: int = 12):
        if page not in registers_module.PAGES:
            raise ValueError(f"page must be one of {registers_module.PAGES}, not {page!r}")
        blocks = registers_module.page_blocks(page)
        counts = {block.name: block.count for block in blocks}
        for name, count in (instances or {}).items():
            if name not in counts:
                raise ValueError(f"instances must name blocks of page {page}, not {name!r}")
            if not 0 <= count <= counts[name]:
                raise ValueError(f"instances of {name} must be 0 to {counts[name]}, not {count!r}")
            counts[name] = count
        self._blocks: dict[tuple[str, int], RegisterBlock] = {}
        self._decoder = csr.Decoder(addr_width=addr_width, data_width=32)
        for block in blocks:
            for instance in range(counts[block.name]):
                registers = self._blocks[block.name, instance] = RegisterBlock(block)
                name = block.name if block.count == 1 else f"{block.name}_{instance}"
                offset = block.offset + instance * block.size
                self._decoder.add(registers.bus, name=name, addr=offset // WORD_BYTES)
        super().__init__({"bus": In(wishbone_signature(addr_width))})

    def block(self, name: str, instance: int = 0) -> RegisterBlock:
        """One instance of a block; KeyError if it was not built."""
        return self._blocks[name, instance]

    def field(self, block: str, register: str, name: str = "value", *, instance: int = 0, index: int = 0):
        """Shorthand for ``block(block, instance).field(register, name, index=index)``."""
        return self.block(block, instance).field(register, name, index=index)

    def elaborate(self, platform):
        m = Module()
        m.submodules.decoder = self._decoder
        for (name, instance), registers in self._blocks.items():
            m.submodules[f"{name}_{instance}"] = registers
        target = self._decoder.bus
        strobe = Signal()
        m.d.comb += [
            strobe.eq(self.bus.cyc & self.bus.stb & ~self.bus.ack),
            target.addr.eq(self.bus.adr),
            target.r_stb.eq(strobe & ~self.bus.we),
            target.w_data.eq(self.bus.dat_w),
            target.w_stb.eq(strobe & self.bus.we & self.bus.sel.all()),
            self.bus.dat_r.eq(target.r_data),
        ]
        m.d.sync += self.bus.ack.eq(strobe)
        return m
