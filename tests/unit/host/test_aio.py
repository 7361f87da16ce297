"""asyncio over offloaded sockets: on a plain selector loop, and on a loop that opens nothing else."""

from __future__ import annotations

import asyncio
import errno
import functools
import io
import random
import socket

import pytest

from support.offloaded import offloaded
from twinstack.proto.queues import Operation
from twinstack_host import aio
from twinstack_host.socket_object import Socket

HOST = "127.0.0.1"


async def bounded(coroutine) -> None:
    """Run it, and let the other ends close."""
    await asyncio.wait_for(coroutine, 20)
    async with asyncio.timeout(5):
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0.01)
    await asyncio.sleep(0.05)


@pytest.fixture
def sockets():
    with offloaded() as (engine, _, found):
        found.engine = engine
        yield found


@pytest.fixture(params=["plain loop", "own loop"])
def run(request, sockets):
    """Run a coroutine function on each kind of loop, bounded."""

    def runner(function):
        factory = asyncio.SelectorEventLoop
        if request.param == "own loop":
            factory = functools.partial(aio.TwinstackEventLoop, sockets)
        with asyncio.Runner(loop_factory=factory) as one:
            return one.run(bounded(function()))

    return runner


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(5000):
        writer.write(data)
        await writer.drain()
    writer.close()


def address_of(server) -> tuple[str, int]:
    return server.sockets[0].getsockname()


def test_streams(run, sockets):
    async def main():
        server = await aio.start_server(echo, HOST, 0, sockets=sockets)
        async with server:

            async def talk(number):
                reader, writer = await aio.open_connection(*address_of(server), sockets=sockets)
                data = random.Random(number).randbytes(20_000 * number + 1)
                assert writer.get_extra_info("peername") == address_of(server)
                assert writer.get_extra_info("sockname")[0] == HOST
                assert writer.get_extra_info("socket").type == socket.SOCK_STREAM
                sending = asyncio.ensure_future(send_all(writer, data))
                got = await reader.read(-1)
                await sending
                writer.close()
                await writer.wait_closed()
                return got == data

            assert await asyncio.gather(*(talk(number) for number in range(6))) == [True] * 6

    async def send_all(writer, data):
        writer.write(data)
        await writer.drain()
        writer.write_eof()

    run(main)


def test_refused_and_taken(run, sockets):
    async def main():
        with pytest.raises(ConnectionRefusedError):
            await aio.open_connection(HOST, 9, sockets=sockets)
        server = await aio.start_server(echo, HOST, 0, sockets=sockets)
        async with server:
            with pytest.raises(OSError, match="error while attempting to bind") as caught:
                await aio.start_server(echo, *address_of(server), sockets=sockets)
            assert caught.value.errno == errno.EADDRINUSE
        with pytest.raises(ValueError, match="reuse_port"):
            await aio.start_server(echo, HOST, 0, reuse_port=True, sockets=sockets)

    run(main)


def test_connect_can_be_cancelled(run, sockets):
    async def main():
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await aio.open_connection("192.168.77.99", 80, sockets=sockets)
        await asyncio.sleep(0.05)

    run(main)
    assert any(entry["operation"] == Operation.CANCEL for entry in sockets.engine.taken)


def test_flow_control(run, sockets):
    """A reader that pauses stops the writer; pause_writing and resume_writing say so."""

    class Writer(asyncio.Protocol):
        paused = resumed = 0

        def pause_writing(self):
            self.paused += 1

        def resume_writing(self):
            self.resumed += 1

    class Reader(asyncio.Protocol):
        def __init__(self):
            self.got, self.ended = bytearray(), asyncio.get_running_loop().create_future()

        def connection_made(self, transport):
            self.transport = transport
            transport.pause_reading()
            made.set_result(self)

        def data_received(self, data):
            self.got += data

        def eof_received(self):
            self.ended.set_result(None)

    async def main():
        nonlocal made
        made = asyncio.get_running_loop().create_future()
        server = await aio.create_server(Reader, HOST, 0, sockets=sockets)
        transport, writer = await aio.create_connection(Writer, *address_of(server), sockets=sockets)
        reader = await made
        data = random.Random(5).randbytes(1_000_000)
        transport.write(data)
        await asyncio.sleep(0.1)
        assert writer.paused == 1 and writer.resumed == 0 and not reader.got
        assert 0 < transport.get_write_buffer_size() < len(data)
        reader.transport.resume_reading()
        transport.write_eof()
        await reader.ended
        assert writer.resumed == 1 and reader.got == data
        transport.close()
        server.close()
        await server.wait_closed()

    made = None
    run(main)


def test_abort_is_a_reset(run, sockets):
    async def main():
        lost = asyncio.get_running_loop().create_future()

        class Server(asyncio.Protocol):
            def connection_lost(self, error):
                lost.set_result(error)

        server = await aio.create_server(Server, HOST, 0, sockets=sockets)
        transport, _ = await aio.create_connection(asyncio.Protocol, *address_of(server), sockets=sockets)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        transport.abort()
        assert isinstance(await lost, ConnectionResetError)
        server.close()

    run(main)


def test_sendfile_does_not_write_to_the_descriptor(run, sockets, tmp_path):
    data = random.Random(6).randbytes(100_000)
    path = tmp_path / "data"
    path.write_bytes(data)

    async def main():
        server = await aio.start_server(echo, HOST, 0, sockets=sockets)
        reader, writer = await aio.open_connection(*address_of(server), sockets=sockets)
        with path.open("rb") as file:
            reading = asyncio.ensure_future(reader.readexactly(len(data) - 7))
            assert await asyncio.get_running_loop().sendfile(writer.transport, file, 7) == len(data) - 7
            assert await reading == data[7:]
            with pytest.raises(asyncio.SendfileNotAvailableError):
                await asyncio.get_running_loop().sendfile(writer.transport, io.BytesIO(b"x"), fallback=False)
        writer.close()
        server.close()

    run(main)


class Datagrams(asyncio.DatagramProtocol):
    def __init__(self):
        self.queue: asyncio.Queue = asyncio.Queue()

    def datagram_received(self, data, address):
        self.queue.put_nowait((data, address))


def test_datagrams(run, sockets):
    async def main():
        one, first = await aio.create_datagram_endpoint(Datagrams, (HOST, 0), sockets=sockets)
        there = one.get_extra_info("sockname")
        two, second = await aio.create_datagram_endpoint(Datagrams, remote_addr=there, sockets=sockets)
        assert two.get_extra_info("peername") == there
        two.sendto(b"hello")
        data, sender = await first.queue.get()
        assert data == b"hello"
        one.sendto(b"back", sender)
        assert (await second.queue.get())[0] == b"back"
        for transport in (one, two):
            transport.close()
        await asyncio.sleep(0)

    run(main)


def test_sock_methods(run, sockets):
    async def main():
        loop = asyncio.get_running_loop()
        with sockets.create_server((HOST, 0)) as server, sockets.socket() as one:
            server.setblocking(False)
            one.setblocking(False)
            accepting = asyncio.ensure_future(loop.sock_accept(server))
            await loop.sock_connect(one, server.getsockname())
            two, _ = await accepting
            sending = asyncio.ensure_future(loop.sock_sendall(one, b"z" * 200_000))
            got, buffer = 0, bytearray(3000)
            while got < 200_000:
                got += await loop.sock_recv_into(two, buffer)
            await sending
            two.close()
            assert await loop.sock_recv(one, 1) == b""

    run(main)


def test_offloaded_and_ordinary_sockets_in_one_loop(run, sockets):
    """A relay between the operating system's network and the engine's."""

    async def relay(reader, writer):
        there, back = await aio.open_connection(*inner, sockets=sockets)
        back.write(await reader.readexactly(5))
        writer.write(await there.readexactly(5))
        for one in (back, writer):
            one.close()

    async def main():
        nonlocal inner
        offloaded_server = await aio.start_server(echo, HOST, 0, sockets=sockets)
        inner = address_of(offloaded_server)
        with socket.create_server((HOST, 0)) as ordinary:
            outer = await asyncio.start_server(relay, sock=ordinary)
            client = socket.socket()
            client.setblocking(False)
            await asyncio.get_running_loop().sock_connect(client, ordinary.getsockname())
            reader, writer = await asyncio.open_connection(sock=client)
            writer.write(b"12345")
            assert await reader.readexactly(5) == b"12345"
            writer.close()
            outer.close()
        offloaded_server.close()

    inner = ("", 0)
    run(main)


# --- Programs that know nothing of this library ----------------------------------------------------------------------


def own_loop(sockets, coroutine):
    with asyncio.Runner(loop_factory=lambda: aio.TwinstackEventLoop(sockets)) as runner:
        return runner.run(bounded(coroutine))


def test_asyncio_itself_opens_offloaded_sockets(sockets):
    async def main():
        server = await asyncio.start_server(echo, HOST, 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            assert isinstance(writer.get_extra_info("socket")._sock, Socket)
            writer.write(b"unmodified")
            assert await reader.readexactly(10) == b"unmodified"
            writer.close()
            await writer.wait_closed()

    own_loop(sockets, main())
    assert any(entry["operation"] == Operation.TCP_CONNECT for entry in sockets.engine.taken)


def test_several_hosts(sockets):
    async def main():
        server = await asyncio.start_server(echo, [HOST, "::1"], 50777)
        assert {one.getsockname()[0] for one in server.sockets} == {HOST, "::1"} and server.is_serving()
        for host in (HOST, "::1"):
            _, writer = await asyncio.open_connection(host, 50777)
            writer.close()
        server.close()
        await server.wait_closed()

    own_loop(sockets, main())


def test_loop_policy(sockets):
    asyncio.set_event_loop_policy(aio.TwinstackEventLoopPolicy(sockets))
    try:

        async def main():
            assert isinstance(asyncio.get_running_loop(), aio.TwinstackEventLoop)
            with pytest.raises(socket.gaierror):
                await asyncio.open_connection("nobody.example", 80)

        asyncio.run(main())
    finally:
        asyncio.set_event_loop_policy(None)


def test_other_loops_are_refused(sockets, monkeypatch):
    monkeypatch.setattr(asyncio, "SelectorEventLoop", aio.TwinstackEventLoop)

    async def main():
        with pytest.raises(RuntimeError, match="the loop must be an asyncio.SelectorEventLoop"):
            await aio.open_connection(HOST, 9, sockets=sockets)

    with asyncio.Runner(loop_factory=asyncio.DefaultEventLoopPolicy().new_event_loop) as runner:
        runner.run(main())
