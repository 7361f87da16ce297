"""Start of the engine: what boots, what is refused, and that a core with another ABI never takes part."""

import os
import subprocess
import sys

import pytest

from system.rig import CONFIG, started
from twinstack.proto.abi import ABI_VERSION
from twinstack.proto.image import IMAGE_HEADER, IMAGE_HEADER_BYTES, ImageError, build_image
from twinstack.proto.memory_map import CSR_CORE_BASE
from twinstack.proto.registers import CORE, ENGINE, HOST_CORE, register_offset
from twinstack_host.device import AbiMismatch, Device, EngineError
from twinstack_sim.engine_model import make_simulation
from twinstack_sim.firmware import build_firmware
from twinstack_sim.link import SimulationLink
from twinstack_sim.lwip_source import lwip_dir
from twinstack_sim.simulation import SimulationOptions
from twinstack_sim.toolchain import REPOSITORY

OTHER_ABI = 99


class CountingLink(SimulationLink):
    """Notes what the host writes."""

    def __init__(self, simulation):
        super().__init__(simulation)
        self.writes: list[int] = []

    def csr_write(self, offset, value):
        self.writes.append(offset)
        super().csr_write(offset, value)


@pytest.fixture
def bare():
    """An engine in reset, and its host. Never two engines at a time."""
    with make_simulation(CONFIG, SimulationOptions(seed=1)) as simulation:
        yield Device(CountingLink(simulation))


@pytest.fixture(scope="module")
def image():
    return build_firmware().read_bytes()


def lui_addi(register: int, value: int) -> list[int]:
    """The two RV32I instructions that load ``value``."""
    low = (value & 0xFFF ^ 0x800) - 0x800
    return [
        (value - low & 0xFFFF_F000) | register << 7 | 0x37,
        low << 20 & 0xFFF0_0000 | register << 15 | register << 7 | 0x13,
    ]


def reporting_program(abi: int, ready: bool) -> bytes:
    """A program that writes its ABI into ``core.ready`` and loops."""
    address = CSR_CORE_BASE + register_offset(CORE, "ready")
    store = 6 << 20 | 5 << 15 | 2 << 12 | 0x23  # sw t1, 0(t0)
    words = [*lui_addi(5, address), *lui_addi(6, abi | int(ready) << 31), store, 0x0000006F]  # j .
    return b"".join(word.to_bytes(4, "little") for word in words)


def test_both_cores_come_up(image):
    with started(image=image, tick_cycles=None) as rig:
        device = rig.device
        assert (device.abi, device.cores, device.ports) == (ABI_VERSION, 2, 2)
        for core in range(2):
            assert device.console_text[core] == f"core {core}: twinstack firmware 0.1, ABI {ABI_VERSION}, stack up\n"
            stats = device.stats(core)
            assert stats["core"] == core and stats["instructions"] > 1000 and stats["idle_cycles"] > 0
            assert stats["rx_buffers_free"] == CONFIG.rx_buffers and stats["sockets"] == 0
        status = [device.registers.read_fields(HOST_CORE, "status", instance=core) for core in range(2)]
        assert [(one["ready"], one["firmware_abi"]) for one in status] == [(1, ABI_VERSION)] * 2
        assert rig.host_core("console_lost") == [0, 0]
        # Started anew, everything is as at first: queues, memories, consoles.
        device.load(image)
        device.start(seed=rig.seed)
        assert [device.stats(core)["sockets"] for core in range(2)] == [0, 0]


def test_image_of_another_abi_is_refused_before_anything_is_written(bare, image):
    header = IMAGE_HEADER.unpack(image[:IMAGE_HEADER_BYTES]) | {"abi": OTHER_ABI}
    registers = bare.registers
    before = [registers.read(ENGINE, name) for name in ("alive", "code_refused", "code_address", "reset_cores")]
    bare.link.writes.clear()
    with pytest.raises(ImageError, match=rf"has ABI version {OTHER_ABI}, the engine has ABI version {ABI_VERSION}"):
        bare.load(IMAGE_HEADER.pack(header) + image[IMAGE_HEADER_BYTES:])
    assert bare.link.writes == []
    after = [registers.read(ENGINE, name) for name in ("alive", "code_refused", "code_address", "reset_cores")]
    assert after == before and after[0] == 0


@pytest.mark.parametrize("spoil", ["empty", "header cut", "cut", "longer", "flipped", "magic", "too large"])
def test_damaged_image_is_refused_before_anything_is_written(bare, image, spoil):
    flipped = bytearray(image)
    flipped[len(image) // 2] ^= 0x10
    spoiled, message = {
        "empty": (b"", "must have a header"),
        "header cut": (image[: IMAGE_HEADER_BYTES - 1], "must have a header"),
        "cut": (image[:-4], "must have a body"),
        "longer": (image + bytes(4), "must have a body"),
        "flipped": (bytes(flipped), "must have CRC-32"),
        "magic": (b"\x7fELF" + image[4:], "must start with magic"),
        "too large": (build_image(bytes(CONFIG.code_bytes + 4), 0), "must fit into"),
    }[spoil]
    bare.link.writes.clear()
    with pytest.raises(ImageError, match=message):
        bare.load(spoiled)
    assert bare.link.writes == []


@pytest.mark.parametrize("ready", [False, True])
def test_core_that_reports_another_abi_never_becomes_alive(bare, ready):
    bare.load(build_image(reporting_program(OTHER_ABI, ready), 0))  # the header lies
    with pytest.raises(AbiMismatch, match=rf"firmware has ABI version {OTHER_ABI}, the engine {ABI_VERSION}"):
        bare.start(seed=1)
    bare.link.run(20_000)
    assert bare.registers.read(ENGINE, "alive") == 0


def test_core_that_never_reports_is_a_timeout(bare):
    bare.load(build_image((0x0000006F).to_bytes(4, "little"), 0))
    bare.timeout = 0.001
    with pytest.raises(EngineError, match="did not report their stacks up within"):
        bare.start(seed=1)
    assert bare.registers.read(ENGINE, "alive") == 0


def test_firmware_compiled_for_another_abi_stops_and_says_so(bare, tmp_path):
    """The header is right, the code is not: exported definitions of another version, everything else the same."""
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\n{sys.executable} "$@" || exit 1\n'
        f"header={tmp_path}/generated/twinstack_abi.h\n"
        f"sed -i 's/TS_ABI_VERSION 0x0*{ABI_VERSION:x}u/TS_ABI_VERSION {OTHER_ABI}u/' $header\n"
    )
    python.chmod(0o755)
    target = tmp_path / "sockets" / "firmware.img"
    command = ["make", "-s", "-C", str(REPOSITORY / "firmware"), f"LWIP_DIR={lwip_dir()}", f"BUILD={tmp_path}"]
    done = subprocess.run(
        [*command, f"PYTHON={python}", str(target)], capture_output=True, text=True, timeout=300, env=os.environ.copy()
    )
    assert done.returncode == 0, done.stderr[-2000:]
    bare.load(target.read_bytes())
    with pytest.raises(AbiMismatch, match=rf"firmware has ABI version {OTHER_ABI}, the engine {ABI_VERSION}"):
        bare.start(seed=1)
    bare.link.run(100_000)
    bare.read_console()
    for core in range(2):
        assert f"core {core}: hardware ABI {ABI_VERSION}, firmware ABI {OTHER_ABI}: stopped" in bare.console_text[core]
    assert bare.registers.read(ENGINE, "alive") == 0


def test_code_memory_is_closed_while_a_core_runs(image):
    with started(image=image) as rig:
        rig.add_peer(0)
        registers = rig.device.registers
        refused = registers.read(ENGINE, "code_refused")
        registers.write(ENGINE, "code_address", 0)
        registers.write(ENGINE, "code_data", 0)
        assert registers.read(ENGINE, "code_refused") == refused + 1
        rig.assert_alive()
