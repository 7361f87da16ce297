"""Scenarios of ``test_socket_module.py`` and ``test_asyncio.py``: offloaded sockets, and the kernel's at the other end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import random
import selectors
import socket
import struct
import threading
import time

from scapy.layers.dns import DNS, DNSQR, DNSRR

from system.tap_rig import ENGINE, ENGINE6, LINUX, LINUX6, PATIENCE, Tap, beside, main
from twinstack_host import aio
from twinstack_sim.session import PREFIX_LENGTH

DATA = random.Random(77).randbytes(20_000)
PORT = 7100


def receive_all(sock) -> bytes:
    got = bytearray()
    while part := sock.recv(5000):
        got += part
    return bytes(got)


def scenario_server(tap: Tap) -> None:
    """An offloaded server echoes what a Linux client sends; half close; the addresses are right."""

    def client():
        with socket.create_connection((ENGINE, PORT), PATIENCE) as one:
            with beside(lambda: (one.sendall(DATA), one.shutdown(socket.SHUT_WR))):
                return receive_all(one), one.getsockname()

    with tap.sockets.create_server((ENGINE, PORT)) as server:
        server.settimeout(PATIENCE)
        with beside(client) as results:
            accepted, address = server.accept()
            accepted.settimeout(PATIENCE)
            with accepted:
                assert accepted.getsockname() == (ENGINE, PORT) and accepted.getpeername() == address
                while data := accepted.recv(3000):
                    accepted.sendall(data)
    echoed, name = results[0]
    assert hashlib.sha256(echoed).digest() == hashlib.sha256(DATA).digest() and name == address


def scenario_client(tap: Tap) -> None:
    """An offloaded client talks lines with a Linux server through makefile()."""

    def serve():
        connection, _ = server.accept()
        with connection, connection.makefile("rwb") as file:
            for line in file:
                file.write(line.upper())
                file.flush()

    with socket.create_server((LINUX, PORT)) as server, beside(serve):
        with tap.sockets.create_connection((LINUX, PORT), PATIENCE) as one:
            assert one.getpeername() == (LINUX, PORT) and one.getsockname()[0] == ENGINE
            with one.makefile("rwb") as file:
                for number in range(5):
                    file.write(b"line %d of text\n" % number)
                    file.flush()
                    assert file.readline() == b"LINE %d OF TEXT\n" % number
            one.shutdown(socket.SHUT_WR)
            assert one.recv(1) == b""


def scenario_mixed_selector(tap: Tap) -> None:
    """One selectors loop serves an offloaded and an ordinary listener, and the connections of both."""
    selector = selectors.DefaultSelector()
    servers = [tap.sockets.create_server((ENGINE, PORT + 1)), socket.create_server((LINUX, PORT + 1))]
    clients = [
        lambda: socket.create_connection((ENGINE, PORT + 1), PATIENCE),
        lambda: tap.sockets.create_connection((LINUX, PORT + 1), PATIENCE),
    ]

    def talk(connect):
        with connect() as one:
            one.sendall(DATA[:6000])
            one.shutdown(socket.SHUT_WR)
            return receive_all(one)

    for server in servers:
        server.setblocking(False)
        selector.register(server, selectors.EVENT_READ)
    open_ends, end = 2, time.monotonic() + PATIENCE
    with beside(lambda: talk(clients[0])) as first, beside(lambda: talk(clients[1])) as second:
        while open_ends:
            assert time.monotonic() < end
            for key, mask in selector.select(0.2):
                if key.data is None:
                    accepted = key.fileobj.accept()[0]
                    accepted.setblocking(False)
                    selector.register(accepted, selectors.EVENT_READ, bytearray())
                    continue
                if mask & selectors.EVENT_READ:
                    part = key.fileobj.recv(4000)
                    key.data.extend(part)
                    if not part:
                        selector.modify(key.fileobj, selectors.EVENT_WRITE, key.data)
                elif key.data:
                    del key.data[: key.fileobj.send(key.data)]
                else:
                    selector.unregister(key.fileobj)
                    key.fileobj.close()
                    open_ends -= 1
    assert first == second == [DATA[:6000]]
    for server in servers:
        server.close()


def scenario_refusals(tap: Tap) -> None:
    """Refused, reset, a time-out, an address in use."""
    try:
        tap.sockets.create_connection((LINUX, 9), PATIENCE)
        raise AssertionError("nobody listens there")
    except ConnectionRefusedError:
        pass
    with socket.create_server((LINUX, PORT)) as server:
        with tap.sockets.create_connection((LINUX, PORT), PATIENCE) as one:
            connection, _ = server.accept()
            one.settimeout(0.3)
            try:
                one.recv(1)
                raise AssertionError("nothing was sent")
            except TimeoutError:
                pass
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
            one.settimeout(PATIENCE)
            try:
                one.recv(1)
                raise AssertionError("the peer has reset the connection")
            except ConnectionResetError:
                pass
    with tap.sockets.create_server((ENGINE, PORT)), tap.sockets.socket() as other:
        assert other.connect_ex(("10.9.8.7", 80)) == errno.ENETUNREACH
        try:
            other.bind((ENGINE, PORT))
            raise AssertionError("the port is in use")
        except OSError as error:
            assert error.errno == errno.EADDRINUSE


def scenario_options(tap: Tap) -> None:
    """Options that the engine keeps, on a connection."""
    with socket.create_server((LINUX, PORT)) as server:
        with tap.sockets.create_connection((LINUX, PORT), PATIENCE) as one, server.accept()[0]:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 0)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60)
            one.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 77)
            assert one.getsockopt(socket.IPPROTO_IP, socket.IP_TTL) == 77
            assert one.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) > 0
            assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 0
            assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
            assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) > 0
        with tap.sockets.create_connection((LINUX, PORT), PATIENCE) as one, server.accept()[0]:
            assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1, "the default"


def scenario_datagrams(tap: Tap) -> None:
    """Datagrams both ways: empty ones, truncation, a connected socket whose peer is not there."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as linux,
        tap.sockets.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
    ):
        linux.bind((LINUX, 0))
        linux.settimeout(PATIENCE)
        one.settimeout(PATIENCE)
        one.bind((ENGINE, 0))
        for data in (b"hello", b"", DATA[:1400]):
            one.sendto(data, linux.getsockname())
            got, sender = linux.recvfrom(2000)
            assert got == data and sender == one.getsockname()
            linux.sendto(data, sender)
            assert one.recvfrom(2000) == (data, linux.getsockname())
        linux.sendto(b"too long", one.getsockname())
        assert one.recvmsg(3)[:3:2] == (b"too", socket.MSG_TRUNC)
        one.connect(linux.getsockname())
        one.send(b"to the peer")
        assert linux.recv(100) == b"to the peer"
        linux.close()
        one.send(b"is anybody there?")
        try:
            one.recv(1)
            raise AssertionError("nobody can answer")
        except ConnectionRefusedError:
            pass


def scenario_ipv6(tap: Tap) -> None:
    """A dual-stack listener is reached both ways, a client connects by IPv6, datagrams go by IPv6."""
    tap.device.configure(0, ENGINE6, 64)
    tap.device.wait_for_address(0, PATIENCE, ipv6=True)
    with tap.sockets.create_server(("::", PORT + 5), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        server.settimeout(PATIENCE)
        for address, seen in ((ENGINE6, LINUX6), (ENGINE, f"::ffff:{LINUX}")):
            with socket.create_connection((address, PORT + 5), PATIENCE) as linux:
                one, remote = server.accept()
                with one:
                    assert remote == (seen, linux.getsockname()[1], 0, 0)
                    linux.sendall(b"to the engine")
                    assert one.recv(13, socket.MSG_WAITALL) == b"to the engine"
    with socket.create_server((LINUX6, PORT), family=socket.AF_INET6) as server:
        with tap.sockets.create_connection((LINUX6, PORT), PATIENCE) as one, server.accept()[0] as linux:
            assert one.family == socket.AF_INET6 and one.getsockname() == linux.getpeername()
            linux.sendall(DATA[:5000])
            assert one.recv(5000, socket.MSG_WAITALL) == DATA[:5000]
    with (
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as linux,
        tap.sockets.socket(socket.AF_INET6, socket.SOCK_DGRAM) as one,
    ):
        linux.bind((LINUX6, 0))
        for sock in (linux, one):
            sock.settimeout(PATIENCE)
        one.sendto(b"datagram", linux.getsockname()[:2])
        data, sender = linux.recvfrom(100)
        assert data == b"datagram" and sender[0] == ENGINE6
        linux.sendto(b"back", sender)
        assert one.recvfrom(100) == (b"back", linux.getsockname())


def scenario_names(tap: Tap) -> None:
    """A DNS server at the kernel's end: getaddrinfo(), create_connection() by name, a name that does not exist."""
    tap.device.configure(0, ENGINE, PREFIX_LENGTH, dns=[LINUX])
    stop = threading.Event()

    def answer(query: DNS) -> DNS:
        question = query[DNSQR]
        known = question.qname.lower() == b"linux.example."
        records = {1: LINUX, 28: LINUX6}
        data = records.get(question.qtype) if known else None
        record = DNSRR(rrname=question.qname, type=question.qtype, ttl=60, rdata=data) if data else None
        return DNS(id=query.id, qr=1, rd=1, ra=1, rcode=0 if known else 3, qd=question, an=record)

    def serve() -> None:
        while not stop.is_set():
            with contextlib.suppress(TimeoutError):
                data, client = resolver.recvfrom(1000)
                resolver.sendto(bytes(answer(DNS(data))), client)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver, socket.create_server((LINUX, PORT)) as server:
        resolver.bind((LINUX, 53))
        resolver.settimeout(0.2)
        with beside(serve):
            try:
                found = {one[4][0] for one in tap.sockets.getaddrinfo("linux.example", PORT, type=socket.SOCK_STREAM)}
                assert found == {LINUX, LINUX6}
                assert tap.sockets.gethostbyname("LINUX.example") == LINUX
                with tap.sockets.create_connection(("linux.example", PORT), PATIENCE) as one, server.accept()[0]:
                    assert one.getpeername() == (LINUX, PORT)
                try:
                    tap.sockets.create_connection(("nobody.example", PORT), PATIENCE)
                    raise AssertionError("there is no such name")
                except socket.gaierror as error:
                    assert error.errno == socket.EAI_NONAME
            finally:
                stop.set()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(4000):
        writer.write(data)
        await writer.drain()
    writer.close()


async def exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, size: int = 8000) -> None:
    writer.write(DATA[:size])
    writer.write_eof()
    assert await reader.read(-1) == DATA[:size]
    writer.close()
    await writer.wait_closed()


def scenario_asyncio_streams(tap: Tap) -> None:
    """Servers and clients of both networks in one plain loop, at the same time."""

    async def run():
        ours = await aio.start_server(echo, ENGINE, PORT + 2, sockets=tap.sockets)
        theirs = await asyncio.start_server(echo, LINUX, PORT + 2)
        async with ours, theirs:
            await asyncio.gather(
                exchange(*await asyncio.open_connection(ENGINE, PORT + 2)),
                exchange(*await aio.open_connection(LINUX, PORT + 2, sockets=tap.sockets)),
            )

    asyncio.run(asyncio.wait_for(run(), PATIENCE))


def scenario_asyncio_many(tap: Tap) -> None:
    """Twenty connections at once, half each way: the submission ring fills up, and everybody waits for its turn."""

    async def ordinary():
        await exchange(*await asyncio.open_connection(ENGINE, PORT + 6), 1000)

    async def offloaded():
        await exchange(*await aio.open_connection(LINUX, PORT + 6, sockets=tap.sockets), 1000)

    async def run():
        ours = await aio.start_server(echo, ENGINE, PORT + 6, sockets=tap.sockets)
        theirs = await asyncio.start_server(echo, LINUX, PORT + 6)
        async with ours, theirs:
            await asyncio.gather(*(one() for one in (ordinary, offloaded) for _ in range(10)))

    asyncio.run(asyncio.wait_for(run(), 2 * PATIENCE))


def scenario_asyncio_own_loop(tap: Tap) -> None:
    """asyncio's own functions on a TwinstackEventLoop."""

    def client():
        with socket.create_connection((ENGINE, PORT + 3), PATIENCE) as one:
            one.sendall(b"unmodified")
            one.shutdown(socket.SHUT_WR)
            return receive_all(one)

    async def run():
        async with await asyncio.start_server(echo, ENGINE, PORT + 3):
            assert await asyncio.to_thread(client) == b"unmodified"

    with asyncio.Runner(loop_factory=lambda: aio.TwinstackEventLoop(tap.sockets)) as runner:
        runner.run(asyncio.wait_for(run(), PATIENCE))


def scenario_asyncio_datagrams(tap: Tap) -> None:
    """A datagram endpoint answers a Linux socket."""

    class Answer(asyncio.DatagramProtocol):
        def connection_made(self, transport):
            self.transport = transport

        def datagram_received(self, data, address):
            self.transport.sendto(data.upper(), address)

    async def run():
        transport, _ = await aio.create_datagram_endpoint(Answer, (ENGINE, PORT + 4), sockets=tap.sockets)

        def ask():
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as linux:
                linux.settimeout(PATIENCE)
                linux.sendto(b"quietly", (ENGINE, PORT + 4))
                return linux.recv(100)

        assert await asyncio.to_thread(ask) == b"QUIETLY"
        transport.close()

    asyncio.run(asyncio.wait_for(run(), PATIENCE))


def scenario_nothing_is_left(tap: Tap) -> None:
    """After all that no connection and no listener is left in the engine but what the closes still need."""
    end = time.monotonic() + PATIENCE
    while not tap.idle():
        assert time.monotonic() < end
        time.sleep(0.2)


if __name__ == "__main__":
    main(globals())
