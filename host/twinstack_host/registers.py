"""Registers by name over a HostLink."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager

from twinstack.proto import memory_map
from twinstack.proto.registers import Block, register_offset

from .link import HostLink


class Registers:
    """Reads and writes registers of the host's and the manager's page by block and name.

    With ``lock``, each access holds it: for links whose calls must not overlap.
    """

    def __init__(self, link: HostLink, lock: AbstractContextManager[object] | None = None):
        self._link = link
        self._lock = lock or contextlib.nullcontext()

    @staticmethod
    def address(block: Block, name: str, *, instance: int = 0, index: int = 0) -> int:
        """Byte offset on the host's CSR target.

        Raises
        ------
        ValueError
            If the block is on a page that the host does not reach.
        """
        bases = {"host": memory_map.HOST_PAGE_BASE, "manager": memory_map.HOST_MANAGER_BASE}
        if block.page not in bases:
            raise ValueError(f"block must be on the host's or the manager's page, not {block.name!r} on {block.page!r}")
        return bases[block.page] + register_offset(block, name, instance=instance, index=index)

    def read(self, block: Block, name: str, *, instance: int = 0, index: int = 0) -> int:
        with self._lock:
            return self._link.csr_read(self.address(block, name, instance=instance, index=index))

    def write(self, block: Block, name: str, value: int, *, instance: int = 0, index: int = 0) -> None:
        with self._lock:
            self._link.csr_write(self.address(block, name, instance=instance, index=index), value)

    def read_all(self, block: Block, name: str, count: int, *, instance: int = 0) -> list[int]:
        """``count`` reads of one register, one after another."""
        with self._lock:
            return self._link.csr_read_all(self.address(block, name, instance=instance), count)

    def write_all(self, block: Block, name: str, values: Sequence[int]) -> None:
        """Write ``values`` to one register, one after another."""
        with self._lock:
            self._link.csr_write_all(self.address(block, name), values)

    def read_fields(self, block: Block, name: str, *, instance: int = 0, index: int = 0) -> dict[str, int]:
        """The fields of a register by name."""
        value = self.read(block, name, instance=instance, index=index)
        return {field.name: value >> field.lsb & ((1 << field.width) - 1) for field in _fields(block, name)}

    def write_fields(self, block: Block, name: str, *, instance: int = 0, index: int = 0, **values: int) -> None:
        """Write a register from its fields; those not named are zero.

        Raises
        ------
        ValueError
            If there is no such field or the value does not fit.
        """
        word = 0
        known = {field.name: field for field in _fields(block, name)}
        for key, value in values.items():
            if key not in known or not 0 <= value < 1 << known[key].width:
                raise ValueError(f"{block.name}.{name} must have fields {sorted(known)} in range, not {key}={value!r}")
            word |= value << known[key].lsb
        self.write(block, name, word, instance=instance, index=index)


def _fields(block: Block, name: str):  # type: ignore[no-untyped-def]
    return next(register.fields for register in block.registers if register.name == name)
