"""UartLink over a pseudo-terminal against a bridge in Python: words, bursts, what goes wrong on a line."""

import builtins
import errno
import os
import random
import threading
import time

import pytest

from support.pty_bridge import PtyBridge
from twinstack.proto import bridge_map as bridge
from twinstack.proto.registers import QUEUE
from twinstack_host.link import HostLink, LinkError
from twinstack_host.registers import Registers
from twinstack_host.uart_link import UartLink

STATUS = Registers.address(QUEUE, "status")


class Words(HostLink):
    """Registers and memory that keep what is written."""

    memory_base = 0
    memory_size = 8192

    def __init__(self):
        self.memory = bytearray(random.Random(1).randbytes(self.memory_size))
        self.registers = {STATUS: 0}
        self.log = []

    def csr_read(self, offset):
        self.log.append(offset)
        return self.registers.get(offset, offset)

    def csr_write(self, offset, value):
        self.log.append((offset, value))
        self.registers[offset] = value

    def read(self, address, length):
        return bytes(self.memory[address : address + length])

    def write(self, address, data):
        self.memory[address : address + len(data)] = data

    def wait_interrupt(self, timeout):
        return False

    def clock(self):
        return 0.0


@pytest.fixture
def words():
    return Words()


@pytest.fixture
def served(words):
    with PtyBridge(words) as made:
        yield made


@pytest.fixture
def link(served):
    with UartLink(served.path, timeout=0.4) as made:
        yield made


def test_the_bridge_tells_its_memory(link):
    assert (link.memory_base, link.memory_size, link.tears, link.work_slice) == (0, 8192, True, None)
    assert link.loader is None, "its page reads as nothing"
    assert link.page["sync_hz"] == 75_000_000 and link.page["identity"] == bridge.IDENTITY


def test_memory_at_any_address_and_length(link, words):
    rng = random.Random(int(os.environ["TWINSTACK_SEED"]))
    model = bytearray(words.memory)
    for _ in range(60):
        address, length = rng.randrange(7000), rng.choice([0, 1, 2, 3, 4, 5, 17, 64, 1021])
        if rng.random() < 0.5:
            data = rng.randbytes(length)
            link.write(address, data)
            model[address : address + length] = data
        assert link.read(address, length) == model[address : address + length]
    assert words.memory == model


def test_long_reads_and_writes_are_bursts(link, words, served):
    data = random.Random(2).randbytes(8192)
    link.write(0, data)
    assert link.read(0, 8192) == data and words.memory == data
    bursts = [(code, count) for code, count, _ in served.commands[2:]]
    assert bursts == [(1, 256)] * 8 + [(2, 256)] * 8


def test_registers_one_by_one_and_again_and_again(link, words):
    link.csr_write(0x40, 7)
    assert link.csr_read(0x40) == 7
    link.csr_write_all(0x44, range(600))
    assert link.csr_read_all(0x48, 300) == [0x48] * 300
    assert words.log == [(0x40, 7), 0x40, *((0x44, value) for value in range(600)), *[0x48] * 300]


def test_interrupt(link, words):
    began = time.monotonic()
    assert not link.wait_interrupt(0.05)
    assert 0.05 <= time.monotonic() - began < 2
    timer = threading.Timer(0.05, words.registers.__setitem__, (STATUS, 1))
    timer.start()
    assert link.wait_interrupt(5)
    assert link.wait_interrupt(0)
    timer.join()


def test_threads_share_it(link):
    def use(register):
        for value in range(50):
            link.csr_write(register, value)
            assert link.csr_read(register) == value
        done.append(register)

    done = []
    threads = [threading.Thread(target=use, args=(0x100 + 4 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 4


def test_no_answer_is_an_error_and_the_next_access_works(link, served):
    served.mute = True
    began = time.monotonic()
    with pytest.raises(LinkError, match=r"4 bytes must come within 0\.4 s, not 0"):
        link.csr_read(0x10)
    assert time.monotonic() - began < 3
    served.mute = False
    assert link.csr_read(0x10) == 0x10


def test_bytes_lost_on_the_way_to_the_engine(link, served):
    """A read that lost a byte times out; a write is found out by the bridge's counters, while one waits."""
    served.drop = 1
    with pytest.raises(LinkError, match="must come"):
        link.csr_read(0x10)
    assert link.csr_read(0x10) == 0x10
    served.drop = 1
    link.csr_write(0x10, 5)
    time.sleep(0.3)
    with pytest.raises(LinkError, match=r"bytes to the engine were lost: \d+ stalled commands"):
        link.wait_interrupt(2)
    link.check_line()  # told once


def test_garbage_before_it_was_opened(words):
    with PtyBridge(words) as served:
        port = os.open(served.path, os.O_RDWR | os.O_NOCTTY)
        os.write(port, b"AT\r\n\x02\x10")  # the beginning of a command at its end
        time.sleep(0.02)
        with UartLink(served.path, timeout=0.3) as link:
            assert link.csr_read(0x20) == 0x20
            link.wait_interrupt(0.6)  # what was lost before is no matter
        os.close(port)


def test_no_bridge(words):
    for arguments, text in (
        ({"identity": 0x12345678}, "reads 0x12345678 where a Twinstack bridge has 0x42555354"),
        ({"version": 9}, "the bridge has version 9, this library 1"),
    ):
        with PtyBridge(words, **arguments) as served, pytest.raises(LinkError, match=text):
            UartLink(served.path, timeout=0.2)
    with PtyBridge(words) as served:
        served.mute = True
        with pytest.raises(LinkError, match=f"no bridge at {served.path} with 1000000 baud: .*must come within"):
            UartLink(served.path, timeout=0.1)
    with pytest.raises(LinkError, match="/dev/nowhere"):
        UartLink("/dev/nowhere")


def test_port_that_goes_away(words):
    served = PtyBridge(words)
    with UartLink(served.path, timeout=0.2) as link:
        served.close()
        with pytest.raises(LinkError, match=served.path):
            link.csr_read(0)


def test_pyserial_is_missing(monkeypatch):
    real = builtins.__import__

    def absent(name, *arguments, **named):
        if name == "serial":
            raise ModuleNotFoundError("No module named 'serial'")
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(LinkError, match=r"pip install 'twinstack\[uart\]'") as raised:
        UartLink("/dev/ttyUSB0")
    assert raised.value.errno == errno.ENOPKG
