"""LiteX's own ``litex_server`` and ``RemoteClient``, through a pseudo-terminal into the pins of the bridge."""

import os
import pty
import subprocess
import sys
import textwrap
import tty

import cocotb

from twinstack.proto import bridge_map as bridge

MEMORY_BYTES = 4096
SYNC_HZ = 100_000_000
DIVISOR = 4

PROGRAM = textwrap.dedent(
    """
    import random, socket, subprocess, sys, time
    from litex.tools.litex_client import RemoteClient

    path, seed = sys.argv[1], int(sys.argv[2])
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen([sys.executable, "-m", "litex.tools.litex_server", "--uart", "--uart-port", path,
        "--uart-baudrate", "1e6", "--bind-port", str(port)])
    try:
        client = RemoteClient(port=port)
        deadline = time.monotonic() + 60
        while not client.binded:
            try:
                client.open()
            except OSError:
                assert time.monotonic() < deadline and server.poll() is None
                time.sleep(0.1)
        client.socket.settimeout(60)
        rng = random.Random(seed)
        assert client.read(0x8001_0000) == 0x42555354
        page = client.read(0x8001_0000, 7)
        assert page[1:6] == [1, 0, 4096, 100_000_000, 4], page
        for _ in range(5):  # registers, one by one
            register, value = 0x8000_0000 + 4 * rng.randrange(8192), rng.getrandbits(32)
            client.write(register, value)
            assert client.read(register) == value
        words = [rng.getrandbits(32) for _ in range(250)]  # the server makes writes of 8 words, reads as long as they come
        client.write(0x100, words)
        assert client.read(0x100, 250) == words
        assert client.read(0x104, 3) == words[1:4]
        assert client.read(0x108, 4, burst="fixed") == [words[2]] * 4
        assert client.read(0x7000_0000) == 0xFFFF_FFFF
        assert client.read(0x8001_0024) == 1, "one bus error"
        assert client.read(0x8001_001C, 3) == [0, 0, 1]
        client.close()
    finally:
        server.terminate()
        server.wait()
    print("litex is content")
    """
)


@cocotb.test(timeout_time=4000, timeout_unit="ms")
async def litex_server_reads_and_writes(dut):
    from test_uart_bridge import Bench

    bench = await Bench(dut).start()
    master, slave = pty.openpty()
    tty.setraw(slave)
    os.set_blocking(master, False)
    command = [sys.executable, "-c", PROGRAM, os.ttyname(slave), os.environ["TWINSTACK_SEED"]]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("COCOTB", "PYGPI"))}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        while process.poll() is None:
            try:
                await bench.send(os.read(master, 64))
            except BlockingIOError:
                await bench.cycles(100)
            if bench.received:
                os.write(master, bytes(bench.received))
                bench.received.clear()
        output = process.stdout.read().decode()
    finally:
        process.kill()
        os.close(master)
        os.close(slave)
    assert process.returncode == 0 and "litex is content" in output, output
    assert len(bench.targets["memory"].words) == 250 and len(bench.targets["csr"].words) in (4, 5)


def test_litex():
    from support.rtl import run_cocotb
    from twinstack.uart_bridge import UartBridge

    # The simulated clock runs while litex_server thinks, so the time-out is long in cycles.
    dut = UartBridge(SYNC_HZ, SYNC_HZ // DIVISOR, memory_bytes=MEMORY_BYTES, stall_cycles=1 << 28)
    run_cocotb(dut, __file__, name="uart_bridge_litex", environment={"DIVISOR": str(DIVISOR)})


def test_addresses_are_those_of_the_map():
    assert (bridge.PAGE_BASE, bridge.CSR_BASE) == (0x8001_0000, 0x8000_0000)
    assert bridge.PAGE_BASE + bridge.PAGE_BUS_ERRORS == 0x8001_0024
    assert f"{bridge.IDENTITY:#x}" in PROGRAM
