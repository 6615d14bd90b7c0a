"""A server that answers like ComfyUI, and at once, to measure everything but ComfyUI."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from aiohttp import web

Kind = TypeVar("Kind", bound="InstantServer")

PNG = b"\x89PNG\r\n\x1a\n"  # only the beginning of a PNG
TIMES = [["execution_start", {"timestamp": 0}], ["execution_success", {"timestamp": 500}]]


class InstantServer:
    """A server on which each workflow is done when it arrives, and has saved one small file.

    addresses: on how many addresses it listens, in its own thread; see `running`.
    """

    def __init__(self, addresses: int = 1):
        self.addresses = addresses
        self.urls: list[str] = []
        self.sockets: dict[str, web.WebSocketResponse] = {}
        self.count = 0  # number of workflows that have arrived
        self.first: float | None = None  # when the first arrived, by time.monotonic()

    async def open_websocket(self, request: web.Request) -> web.WebSocketResponse:
        websocket = web.WebSocketResponse()
        await websocket.prepare(request)
        self.sockets[request.query["clientId"]] = websocket
        async for _ in websocket:
            pass
        del self.sockets[request.query["clientId"]]
        return websocket

    async def take_prompt(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.first = self.first or time.monotonic()
        self.count += 1
        answer = {"prompt_id": f"job/{self.count}", "node_errors": {}}
        told = {"prompt_id": answer["prompt_id"], "node": None}
        websocket = self.sockets[body["client_id"]]
        asyncio.get_running_loop().call_soon(
            asyncio.ensure_future, websocket.send_json({"type": "executing", "data": told})
        )
        return web.json_response(answer)

    async def tell_queue(self, request: web.Request) -> web.Response:
        return web.json_response({"queue_running": [], "queue_pending": []})

    async def tell_history(self, request: web.Request) -> web.Response:
        number = request.match_info["number"]
        file = {"filename": "x_00001_.png", "subfolder": "", "type": "output"}
        done = {"outputs": {"1": {"images": [file]}}, "status": {"messages": TIMES}}
        return web.json_response({number: done})

    async def show(self, request: web.Request) -> web.StreamResponse:
        return web.Response(body=PNG)

    async def serve(self, started: threading.Event) -> None:
        app = web.Application()
        app.router.add_get("/ws", self.open_websocket)
        app.router.add_post("/prompt", self.take_prompt)
        app.router.add_get("/queue", self.tell_queue)
        app.router.add_get("/history/{number}", self.tell_history)
        app.router.add_get("/view", self.show)
        app.router.add_get("/object_info/{kind}", self.agree)
        for path in ("/queue", "/interrupt"):
            app.router.add_post(path, self.agree)
        runner = web.AppRunner(app, shutdown_timeout=1)
        await runner.setup()
        for _ in range(self.addresses):
            await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.urls = [f"http://127.0.0.1:{port}" for _, port in runner.addresses]
        self.loop, self.stopped = asyncio.get_running_loop(), asyncio.Event()
        started.set()
        await self.stopped.wait()
        await runner.cleanup()

    async def agree(self, request: web.Request) -> web.Response:
        return web.json_response({"any": {}})


@contextmanager
def running(server: Kind) -> Iterator[Kind]:
    started = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(started)))
    thread.start()
    if not started.wait(30):
        raise TimeoutError("The server did not start.")
    try:
        yield server
    finally:
        server.loop.call_soon_threadsafe(server.stopped.set)
        thread.join()
