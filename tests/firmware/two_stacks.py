"""Both cores' firmware as PC processes behind the model of the dispatcher, with a peer on the wire.

Run as a program (in a network namespace of its own) it serves the Linux kernel over TAP.
"""

from __future__ import annotations

import collections
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from scapy.layers.l2 import Ether

from firmware.firmware_peer import (
    OUR_IP,
    OUR_MAC,
    Firmware,
    flow_table,
    packed_ip,
    packed_mac,
    socket_address,
    udp_ports,
)
from firmware.ipv6_peer import packed_ip6, socket_address6
from twinstack.models.dispatcher import DispatcherModel, ParsedFrame
from twinstack.proto.queues import NETIF_CONFIG, NETIF_CONFIG6, NETIF_STATUS, Operation

CORES = 2
ECHO_PORT = 7
CONFIGURE, LISTEN, ACCEPT, CONNECT, CLOSE = range(1, 6)
RECEIVE, SEND = 1000, 2000  # plus the slot of the connection
BLOCK = 4096


@dataclass
class HostConnection:
    """The host's end of a connection: echoes, or sends ``data`` and collects what comes back."""

    core: int
    handle: int
    slot: int
    data: bytes = b""
    received: bytes = b""
    sent: int = 0
    ended: bool = False


@dataclass
class Host:
    """Host software of one core, with the core's fake host memory."""

    core: int
    firmware: Firmware
    connections: dict[int, HostConnection] = field(default_factory=dict)
    plans: collections.deque[bytes] = field(default_factory=collections.deque)
    failures: list[int] = field(default_factory=list)

    def address(self, slot: int, half: int) -> int:
        return 2 * BLOCK * slot + BLOCK * half

    def connect(self, ip: str, port: int, data: bytes) -> None:
        self.plans.append(data)
        inline = socket_address6(ip, port) if ":" in ip else socket_address(ip, port)
        self.firmware.sqe(Operation.TCP_CONNECT, CONNECT, inline=inline)

    def _opened(self, handle: int, data: bytes) -> None:
        slot = len(self.connections)
        connection = HostConnection(self.core, handle, slot, data)
        self.connections[slot] = connection
        self._receive(connection)
        self._send_more(connection)

    def _receive(self, connection: HostConnection) -> None:
        self.firmware.sqe(
            Operation.RECV,
            RECEIVE + connection.slot,
            handle=connection.handle,
            buffer=self.address(connection.slot, 0),
            length=BLOCK,
        )

    def _send_more(self, connection: HostConnection) -> None:
        if piece := connection.data[connection.sent : connection.sent + BLOCK]:
            self._send(connection, piece)

    def _send(self, connection: HostConnection, piece: bytes) -> None:
        address = self.address(connection.slot, 1)
        self.firmware.write(address, piece)
        connection.sent += len(piece)
        self.firmware.sqe(
            Operation.SEND, SEND + connection.slot, handle=connection.handle, buffer=address, length=len(piece)
        )

    def step(self) -> bool:
        """Handle completions; true if there were any."""
        completions, self.firmware.completions = self.firmware.completions, []
        for one in completions:
            if one.user_data == ACCEPT and one.more:
                self._opened(one.result, b"")
            elif one.user_data == CONNECT and one.result > 0:
                self._opened(one.result, self.plans.popleft())
            elif one.result < 0 and one.user_data != ACCEPT:
                self.failures.append(one.result)
            elif RECEIVE <= one.user_data < SEND:
                self._received(self.connections[one.user_data - RECEIVE], one.result)
            elif one.user_data >= SEND:
                connection = self.connections[one.user_data - SEND]
                if connection.data:
                    self._send_more(connection)
                else:
                    self._receive(connection)
        return bool(completions)

    def _received(self, connection: HostConnection, length: int) -> None:
        if length == 0:
            connection.ended = True
            self.firmware.sqe(Operation.CLOSE, CLOSE, handle=connection.handle)
            return
        piece = self.firmware.read(self.address(connection.slot, 0), length)
        connection.received += piece
        if connection.data:
            self._receive(connection)
        else:
            self._send(connection, piece)  # echo; the next RECV follows it


class TwoStacks:
    """Two cores, the dispatcher's model, the message FIFOs and a wire to ``peer`` (which may be None)."""

    def __init__(
        self, folder: Path, peer=None, *, extra: tuple[str, ...] = (), drop: Callable[[int], bool] | None = None
    ):
        self.shared = shared = folder / "shared"
        self.cores = [
            Firmware(("--core", str(n), "--cores", str(CORES), "--shared", str(shared), *extra)) for n in range(CORES)
        ]
        self.hosts = [Host(n, core) for n, core in enumerate(self.cores)]
        self.dispatcher = DispatcherModel(CORES)
        self.peer = peer
        self.now_ns = 0
        self.sent: list[tuple[int, Ether]] = []
        self.messages_passed = 0
        self._drop = drop  # of the n-th message: is it lost?

    def dispatch(self, frame: bytes) -> int:
        """Bring a frame from the wire to the core of its flow, or to those that the dispatcher chooses; the mask."""
        frame = frame.ljust(60, b"\0")
        parsed = ParsedFrame.from_bytes(frame)
        self.dispatcher.udp_ports_open.entries = udp_ports(self.shared)
        verdict = self.dispatcher.decide(parsed)
        cores, answer = verdict.cores, verdict.answer
        if parsed.is_tcp and not parsed.is_fragment:
            key = (parsed.source, parsed.destination, parsed.source_port, parsed.destination_port)
            if (owner := flow_table(self.shared).get(key)) is not None:
                cores = answer = 1 << owner
        for number, core in enumerate(self.cores):
            if cores >> number & 1:
                core.frame(frame, answer=bool(answer >> number & 1))
        return cores

    def settle(self) -> None:
        """Pass messages, frames and completions until nothing moves."""
        moved = True
        while moved:
            moved = self._pass_messages()
            for number, core in enumerate(self.cores):
                frames, core.frames = core.frames, []
                moved |= bool(frames)
                for frame in frames:
                    self.sent.append((number, frame))
                    if self.peer is not None:
                        self.peer.frame_from_engine(bytes(frame), self.now_ns)
            if self.peer is not None:
                for frame in self.peer.poll(self.now_ns):
                    self.dispatch(frame)
                    moved = True
            for host in self.hosts:
                moved |= host.step()

    def _pass_messages(self) -> bool:
        moved = False
        for number, core in enumerate(self.cores):
            messages, core.messages = core.messages, []
            for to, *words in messages:
                self.messages_passed += 1
                if self._drop is not None and self._drop(self.messages_passed - 1):
                    continue
                self.cores[to].command(f"message {number} " + " ".join(map(str, words)))
                moved = True
        return moved

    def advance(self, ms: int = 1) -> None:
        for _ in range(ms):
            self.now_ns += 1_000_000
            for core in self.cores:
                core.command("time 1")
            self.settle()

    def run_until(self, condition: Callable[[], bool], what: str, limit_ms: int = 3000) -> None:
        for _ in range(limit_ms):
            if condition():
                return
            self.advance()
        raise AssertionError(f"{what} did not come about")

    def configure(self) -> None:
        """Address for all cores, through the manager; AssertionError unless every core has it then."""
        self.settle()
        block = NETIF_CONFIG.pack(
            {"family": 2, "prefix_length": 24, "address": packed_ip(OUR_IP), "mac": packed_mac(OUR_MAC)}
        )
        manager = self.cores[self.dispatcher.manager]
        manager.sqe(Operation.NETIF_CONFIG, CONFIGURE, inline=block)
        for _ in range(500):
            self._pass_messages()
            if manager.completions:
                break
            for core in self.cores:
                core.command("time 1")
        assert manager.completions, "the configuration did not complete"
        assert manager.completions.pop(0).result == 0, "the configuration failed"
        for number, core in enumerate(self.cores):
            assert core.call(Operation.NETIF_STATUS, CONFIGURE, buffer=0, length=128) == 128
            status = NETIF_STATUS.unpack(core.read(0, 128))
            assert status["address"] == packed_ip(OUR_IP), f"core {number} has no address"
        self.settle()

    def configure6(self, address: str = "::", autoconfigure: int = 0) -> None:
        """IPv6 for all cores, after :meth:`configure`; the addresses are ready then."""
        values = {"prefix_length": 0 if address == "::" else 64, "address": packed_ip6(address)}
        block = NETIF_CONFIG6.pack({"family": 10, "autoconfigure": autoconfigure, **values})
        manager = self.cores[self.dispatcher.manager]
        manager.sqe(Operation.NETIF_CONFIG, CONFIGURE, inline=block)
        while self._pass_messages():
            pass
        assert manager.completions.pop(0).result == 0, "the configuration failed"
        self.advance(2500)

    def listen(self, port: int = ECHO_PORT, address: bytes | None = None) -> None:
        """An echo server on all cores."""
        address = address or socket_address("0.0.0.0", port)
        handles = set()
        for core in self.cores:
            core.sqe(Operation.TCP_LISTEN, LISTEN, joined=True, length=8, inline=address)
            handles.add(core.completion().result)
        (handle,) = handles  # all cores must come to the same
        assert handle > 0
        for core in self.cores:
            core.sqe(Operation.TCP_ACCEPT, ACCEPT, joined=True, handle=handle, operation_flags=1)

    def connections(self) -> Iterator[HostConnection]:
        for host in self.hosts:
            yield from host.connections.values()

    def take_sent(self) -> list[tuple[int, Ether]]:
        """(core, frame) of all that was sent since the last call."""
        sent, self.sent = self.sent, []
        return sent

    def close(self) -> None:
        for core in self.cores:
            if core.process.poll() is None:
                core.close()


def serve_the_kernel(folder: Path, ours: str, theirs: str) -> None:
    """The Linux kernel pings, and echoes over connections in both directions; in a namespace of its own."""
    from twinstack_sim.peer_tap import TapPeer

    six = ":" in ours
    family = socket.AF_INET6 if six else socket.AF_INET
    peer = TapPeer("10.0.0.9/24", address6=f"{theirs}/64" if six else "")
    stacks = TwoStacks(folder, peer)
    data = bytes(i * 13 & 0xFF for i in range(20000))
    try:
        stacks.configure()
        if six:
            stacks.configure6(ours)
        stacks.listen(address=socket_address6("::", ECHO_PORT) if six else None)
        server = socket.create_server((theirs, 80), family=family, backlog=8)
        server.setblocking(False)
        ping = subprocess.Popen(["ping", "-c", "2", "-i", "0.2", "-W", "5", ours], stdout=subprocess.DEVNULL)
        clients = [socket.socket(family) for _ in range(10)]
        for client in clients:
            client.setblocking(False)
            client.connect_ex((ours, ECHO_PORT))
        for host in stacks.hosts:
            for _ in range(2):
                host.connect(theirs, 80, data)
        unsent = {client: data for client in clients}
        received = dict.fromkeys(clients, b"")
        servers: dict[socket.socket, bytes] = {}
        deadline = time.monotonic() + 20
        ticked = time.monotonic()
        while time.monotonic() < deadline:
            owed = int((time.monotonic() - ticked) * 1000)
            ticked += owed / 1000
            stacks.advance(min(owed, 20)) if owed else stacks.settle()
            try:
                one = server.accept()[0]
                one.setblocking(False)
                servers[one] = b""
            except BlockingIOError:
                pass
            for client in clients:
                unsent[client] = unsent[client][_try(lambda c=client: c.send(unsent[c])) or 0 :]
                received[client] += _try(lambda c=client: c.recv(65536)) or b""
            for one in servers:
                servers[one] += _try(lambda c=one: c.recv(65536)) or b""
                servers[one] = servers[one][_try(lambda c=one: c.send(servers[c])) or 0 :]
            outgoing = [connection for connection in stacks.connections() if connection.data]
            done = all(received[client] == data for client in clients) and len(outgoing) == 4
            if done and all(one.received == data for one in outgoing) and ping.poll() is not None:
                break
        assert [len(received[client]) for client in clients] == [len(data)] * 10
        assert all(received[client] == data for client in clients)
        assert [one.received == data for one in stacks.connections() if one.data] == [True] * 4
        assert ping.poll() == 0, "ping"
        assert min(len(host.connections) for host in stacks.hosts) > 2
        assert not any("R" in str(frame["TCP"].flags) for _, frame in stacks.sent if "TCP" in frame)
    finally:
        stacks.close()
    print("kernel: ok")


def _try(call: Callable):
    try:
        return call()
    except (BlockingIOError, BrokenPipeError):
        return None
    except OSError as error:
        if error.errno == 107:  # ENOTCONN: still connecting
            return None
        raise


if __name__ == "__main__":
    serve_the_kernel(Path(sys.argv[1]), *sys.argv[2:4])
