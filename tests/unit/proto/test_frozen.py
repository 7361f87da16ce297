"""The ABI is frozen: any change of a layout, register or code fails here until ABI_VERSION and abi.txt follow.

``python tests/unit/proto/test_frozen.py`` prints the present ABI in the format of abi.txt.
"""

from collections.abc import Iterator
from pathlib import Path

from twinstack.proto import abi, descriptor, image, memory_map, queues, registers, statistics
from twinstack.proto.layout import Layout

FROZEN = Path(__file__).with_name("abi.txt")


def present() -> Iterator[str]:
    yield f"abi magic={abi.MAGIC:#010x} version={abi.ABI_VERSION}"
    for module in (descriptor, queues, image):
        for value in vars(module).values():
            if isinstance(value, Layout):
                yield f"layout {value.name} words={value.words}"
                yield from (f"  {f.name} word={f.word} lsb={f.lsb} width={f.width}" for f in value)
    for enum in (
        queues.Operation,
        queues.OperationFlag,
        descriptor.TxOpcode,
        descriptor.TxStatus,
        descriptor.FlowOperation,
        descriptor.FlowStatus,
        descriptor.RuleAction,
        statistics.Statistic,
    ):
        yield f"enum {enum.__name__} " + " ".join(f"{member.name}={member.value}" for member in enum)
    for name, value in vars(memory_map).items():
        if isinstance(value, int):
            yield f"memory {name}={value:#x}"
    for block in registers.BLOCKS:
        yield f"block {block.name} page={block.page} offset={block.offset:#x} size={block.size:#x} count={block.count}"
        for register in block.registers:
            yield f"  {register.name} offset={register.offset:#x} count={register.count}"
            yield from (f"    {f.name} {f.lsb}+{f.width} {f.access} reset={f.reset:#x}" for f in register.fields)


def test_abi_is_frozen():
    assert FROZEN.read_text().splitlines() == list(present())


if __name__ == "__main__":
    print("\n".join(present()))
