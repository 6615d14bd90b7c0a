"""scripts/client.py with a server that is slow to answer over HTTP while its websocket goes on."""

import asyncio
import threading

import pytest
from aiohttp import web

from scripts.client import Client, WorkflowInterrupted

TIMES = [["execution_start", {"timestamp": 0}], ["execution_success", {"timestamp": 500}]]


class SlowServer:
    """Says of one workflow what ComfyUI says. Asked for its queue it sends an event first, and
    answers when the client has heard it: `heard_meanwhile`, or else after five seconds.
    """

    def __init__(self, history: dict):
        self.running = [[0, "it"]] if history else []
        self.history = history
        self.heard = threading.Event()
        self.heard_meanwhile = False

    def note(self, name: str, fields) -> None:
        if name == "progress":
            self.heard.set()

    async def open_websocket(self, request: web.Request) -> web.WebSocketResponse:
        self.websocket = web.WebSocketResponse()
        await self.websocket.prepare(request)
        async for _ in self.websocket:
            pass
        return self.websocket

    async def send(self, kind: str, **fields) -> None:
        await self.websocket.send_json({"type": kind, "data": fields})

    async def take_prompt(self, request: web.Request) -> web.Response:
        await self.send("status")
        return web.json_response({"prompt_id": "it", "node_errors": {}})

    async def tell_queue(self, request: web.Request) -> web.Response:
        await self.send("progress", prompt_id="it")
        self.heard_meanwhile = await asyncio.to_thread(self.heard.wait, 5)
        if self.running:
            await self.send("executing", prompt_id="it", node=None)
        return web.json_response({"queue_running": self.running, "queue_pending": []})

    async def tell_history(self, request: web.Request) -> web.Response:
        return web.json_response(self.history)

    async def serve(self, started: threading.Event) -> None:
        app = web.Application()
        app.router.add_get("/ws", self.open_websocket)
        app.router.add_post("/prompt", self.take_prompt)
        app.router.add_get("/queue", self.tell_queue)
        app.router.add_get("/history/it", self.tell_history)
        runner = web.AppRunner(app, shutdown_timeout=1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self.loop, self.stopped = asyncio.get_running_loop(), asyncio.Event()
        started.set()
        await self.stopped.wait()
        await runner.cleanup()


@pytest.fixture
def serve():
    """Starts a server with this history: → the server."""
    threads = []

    def start(history: dict) -> SlowServer:
        server, started = SlowServer(history), threading.Event()
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(started)))
        thread.start()
        threads.append((server, thread))
        assert started.wait(10)
        return server

    yield start
    for server, thread in threads:
        server.loop.call_soon_threadsafe(server.stopped.set)
        thread.join()


def test_events_are_heard_while_an_answer_is_awaited(serve):
    server = serve({"it": {"outputs": {}, "status": {"messages": TIMES}}})
    result = Client(server.url).run({}, server.note, timeout=30)
    assert server.heard_meanwhile
    assert result.server_seconds == 0.5


def test_a_workflow_that_the_server_no_longer_has(serve):
    server = serve({})
    with pytest.raises(WorkflowInterrupted, match="out of the server's queue"):
        Client(server.url).run({}, server.note, timeout=30)
    assert server.heard_meanwhile
