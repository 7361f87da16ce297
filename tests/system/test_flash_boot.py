"""The standalone engine gets its firmware through its UART pins, and from the flash at its pins after a power cycle."""

import contextlib

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from support.line_link import LineLink
from system.rig import CONFIG, ENGINES, MACS, PEERS, STRANGER_MAC
from system.test_boot import OTHER_ABI, reporting_program
from twinstack.proto.abi import ABI_VERSION
from twinstack.proto.flash_map import FlashLayout, SlotResult, Source
from twinstack.proto.image import build_image
from twinstack_host.device import Device
from twinstack_host.firmware_load import LoadError, handshake, load_firmware
from twinstack_host.flash import confirm, list_slots, write_slot
from twinstack_host.loader import Loader
from twinstack_sim.engine_model import StandaloneConfig, make_standalone_simulation
from twinstack_sim.firmware import build_firmware
from twinstack_sim.simulation import SimulationOptions

FLASH_BYTES = 4 << 20
PORT = 0


@contextlib.contextmanager
def board(flash: bytearray):
    """Power up; the end of the block is the end of the power."""
    with make_standalone_simulation(StandaloneConfig(CONFIG), SimulationOptions(seed=1), flash=flash) as simulation:
        link = LineLink(simulation)
        yield Device(link, sq_entries=16, cq_entries=32), Loader(link)


@pytest.fixture
def flash():
    return bytearray(b"\xff" * FLASH_BYTES)


def program(abi: int = ABI_VERSION, version: int = 0x010000) -> bytes:
    """An image of a page and more that reports ``abi``, and does nothing else."""
    body = reporting_program(abi, ready=True) + bytes(range(256)) + version.to_bytes(4, "little")
    return build_image(body, version, code_bytes=CONFIG.code_bytes, data_bytes=CONFIG.data_bytes)


def test_firmware_loaded_over_the_serial_line_answers_a_ping(flash):
    with board(flash) as (device, loader):
        status = loader.wait()
        assert (status["source"], status["held"]) == (Source.NONE, 1)
        steps = []
        done = load_firmware(device, build_firmware().read_bytes(), seed=1, progress=lambda *step: steps.append(step))
        assert done.abi == ABI_VERSION and loader.read("crc") == done.crc32 and steps[-1][1] == steps[-1][2]
        assert loader.status()["source"] == Source.HOST
        device.configure(PORT, ENGINES[PORT], 24, mac=MACS[PORT])
        simulation = device.link.simulation
        answers = []
        simulation.on_frame(lambda frame: answers.append(Ether(frame.data)))
        ethernet = Ether(src=STRANGER_MAC, dst=MACS[PORT])
        arp = ARP(op=2, hwsrc=STRANGER_MAC, psrc=PEERS[PORT], hwdst=MACS[PORT], pdst=ENGINES[PORT])
        simulation.send_frame(PORT, bytes(ethernet / arp))
        simulation.run(20_000)
        echo = ethernet / IP(src=PEERS[PORT], dst=ENGINES[PORT]) / ICMP(id=7, seq=9) / Raw(b"over the serial line")
        simulation.send_frame(PORT, bytes(echo))
        simulation.run_until(
            lambda: any(
                ICMP in one and one[ICMP].type == 0 and b"over the serial line" in bytes(one) for one in answers
            ),
            500_000,
        )


def test_slots_boot_after_power_cycles(flash):
    layout = FlashLayout()
    with board(flash) as (device, loader):
        assert write_slot(loader, program(version=0x010000), engine_abi=ABI_VERSION).name == "A"
    with board(flash) as (device, loader):
        assert handshake(device, 0.1) == ABI_VERSION
        assert loader.describe() == "slot A, version 1.0.0, not confirmed, attempt 1 of 3"
        assert confirm(device, loader).confirmed
        assert write_slot(loader, program(version=0x020000), engine_abi=ABI_VERSION).name == "B"
    with board(flash) as (device, loader):
        assert loader.describe() == "slot B, version 2.0.0, not confirmed, attempt 1 of 3"
        confirm(device, loader)
    # One byte of the newer slot goes bad: the older one boots.
    flash[layout.slot(1) + 0x1000 + 40] ^= 4
    with board(flash) as (device, loader):
        assert loader.describe() == "slot A, version 1.0.0"
        assert handshake(device, 0.1) == ABI_VERSION
        slots = list_slots(loader, engine_abi=ABI_VERSION)
        assert [one.result for one in slots] == [SlotResult.GOOD, SlotResult.BODY_CRC]
        # An image whose header lies is undone: the slot boots again, without a power cycle.
        with pytest.raises(
            LoadError, match=f"firmware has ABI version {OTHER_ABI}.*booted again: slot A, version 1.0.0"
        ):
            liar = build_image(
                reporting_program(OTHER_ABI, ready=True), 9, code_bytes=CONFIG.code_bytes, data_bytes=CONFIG.data_bytes
            )
            load_firmware(device, liar, seed=1)
        assert handshake(device, 0.1) == ABI_VERSION
    assert flash[: layout.base] == b"\xff" * layout.base
