"""Scenarios of ``test_third_party.py``: programs that know nothing of this library, over offloaded sockets."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import http.server
import random
import socketserver
import subprocess
import tempfile
import threading
import time
import wsgiref.simple_server
from collections.abc import Iterator
from pathlib import Path

import aiohappyeyeballs.impl
import aiohttp
import aiohttp.web
import urllib3
import urllib3.util.connection

from system.tap_rig import ENGINE, LINUX, PATIENCE, Tap, beside, main
from twinstack_host import aio

PORT, NGINX_PORT = 8080, 8081
PAGE = random.Random(78).randbytes(15_000)
BODY = random.Random(79).randbytes(6_000)


def curl(path: str, *arguments: str) -> bytes:
    command = [
        "curl",
        "--silent",
        "--show-error",
        "--fail",
        "--noproxy",
        "*",
        "--max-time",
        str(int(PATIENCE)),
        *arguments,
    ]
    done = subprocess.run([*command, f"http://{ENGINE}:{PORT}{path}"], capture_output=True, timeout=2 * PATIENCE)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@contextlib.contextmanager
def nginx() -> Iterator[str]:
    """nginx at the kernel's end serves PAGE; gives its address."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "page").write_bytes(PAGE)
        (root / "nginx.conf").write_text(
            f"daemon off; master_process off; user root root; pid {root}/pid; error_log {root}/errors; events {{ worker_connections 64; }}\n"
            f"http {{ access_log off; client_body_temp_path {root}/body; proxy_temp_path {root}/p;"
            f" fastcgi_temp_path {root}/f; uwsgi_temp_path {root}/u; scgi_temp_path {root}/s;\n"
            f"server {{ listen {LINUX}:{NGINX_PORT}; root {root}; }} }}\n"
        )
        process = subprocess.Popen(["/usr/sbin/nginx", "-e", f"{root}/errors", "-c", f"{root}/nginx.conf"])
        try:
            end = time.monotonic() + PATIENCE
            while not (root / "pid").exists():
                assert process.poll() is None and time.monotonic() < end, "nginx does not start"
                time.sleep(0.05)
            time.sleep(0.1)
            yield f"http://{LINUX}:{NGINX_PORT}/page"
        finally:
            process.terminate()
            process.wait(PATIENCE)


def scenario_wsgiref_and_curl(tap: Tap) -> None:
    """wsgiref.simple_server in its own thread; curl gets a page and posts a body."""

    def application(environment, start_response):
        body = PAGE
        if environment["REQUEST_METHOD"] == "POST":
            body = environment["wsgi.input"].read(int(environment["CONTENT_LENGTH"]))[::-1]
        start_response("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", str(len(body)))])
        return [body]

    with tap.sockets.replace_in(socketserver, http.server):
        server = wsgiref.simple_server.make_server(ENGINE, PORT, application)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        assert curl("/") == PAGE
        assert post() == BODY[::-1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def post() -> bytes:
    with tempfile.NamedTemporaryFile() as file:
        file.write(BODY)
        file.flush()
        return curl("/echo", "--header", "Expect:", "--data-binary", f"@{file.name}")


def scenario_threading_http_server_and_curl(tap: Tap) -> None:
    """http.server with a thread for each connection; two requests on one connection."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(self.path)))
            self.end_headers()
            self.wfile.write(self.path.encode())

    with tap.sockets.replace_in(socketserver, http.server):
        server = http.server.ThreadingHTTPServer((ENGINE, PORT), Handler)
    with beside(lambda: server.serve_forever(0.05)):
        try:
            assert curl("/first", f"http://{ENGINE}:{PORT}/second") == b"/second/first"
        finally:
            server.shutdown()
    server.server_close()


def scenario_urllib3_and_nginx(tap: Tap) -> None:
    """urllib3's pool keeps its connection for a second request."""
    with nginx() as url, tap.sockets.replace_in(urllib3.util.connection):
        with urllib3.PoolManager(timeout=PATIENCE, retries=False) as pool:
            for _ in range(2):
                answer = pool.request("GET", url)
                assert answer.status == 200 and answer.headers["Server"].startswith("nginx")
                assert hashlib.sha256(answer.data).digest() == hashlib.sha256(PAGE).digest()
            assert pool.request("GET", url + "/missing").status == 404
            assert pool.connection_from_url(url).num_connections == 1


def own_loop(tap: Tap, coroutine) -> None:
    with asyncio.Runner(loop_factory=lambda: aio.TwinstackEventLoop(tap.sockets)) as runner:
        runner.run(asyncio.wait_for(coroutine, 2 * PATIENCE))


def scenario_aiohttp_server_and_curl(tap: Tap) -> None:
    """An aiohttp server in a TwinstackEventLoop: a page, a file, a posted body, two requests at once."""

    async def run():
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "file"
            file.write_bytes(PAGE)

            async def page(request):
                return aiohttp.web.Response(body=PAGE)

            async def served(request):
                return aiohttp.web.FileResponse(file)

            async def reverse(request):
                return aiohttp.web.Response(body=(await request.read())[::-1])

            application = aiohttp.web.Application()
            application.add_routes(
                [
                    aiohttp.web.get("/", page),
                    aiohttp.web.get("/file", served),
                    aiohttp.web.post("/echo", reverse),
                ]
            )
            runner = aiohttp.web.AppRunner(application, access_log=None)
            await runner.setup()
            await aiohttp.web.TCPSite(runner, ENGINE, PORT).start()
            try:
                assert await asyncio.gather(
                    asyncio.to_thread(curl, "/"), asyncio.to_thread(curl, "/file"), asyncio.to_thread(post)
                ) == [PAGE, PAGE, BODY[::-1]]
            finally:
                await runner.cleanup()

    own_loop(tap, run())


def scenario_aiohttp_client_and_nginx(tap: Tap) -> None:
    """An aiohttp client; its happy-eyeballs package makes its sockets itself."""

    async def run(url):
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as session:
            for _ in range(2):
                async with session.get(url) as answer:
                    assert answer.status == 200 and await answer.read() == PAGE
        await asyncio.sleep(0.1)

    with nginx() as url, tap.sockets.replace_in(aiohappyeyeballs.impl):
        own_loop(tap, run(url))


def scenario_aiohttp_client_with_a_factory(tap: Tap) -> None:
    """The same by aiohttp's own parameter for sockets, in a plain loop."""

    async def run(url):
        connector = aiohttp.TCPConnector(socket_factory=lambda info: tap.sockets.socket(*info[:3]))
        async with aiohttp.ClientSession(connector=connector) as session, session.get(url) as answer:
            assert answer.status == 200 and await answer.read() == PAGE
        await asyncio.sleep(0.1)

    with nginx() as url:
        asyncio.run(asyncio.wait_for(run(url), PATIENCE))


if __name__ == "__main__":
    main(globals())
