"""scripts/client.py with servers that are slow, broken or hostile."""

import asyncio
import threading
import time
from types import SimpleNamespace

import pytest
from aiohttp import web
from helpers.hostile_server import DEEDS, HostileServer

from benchmarks.instant_server import running
from scripts.batch_runs.jobs import Task
from scripts.batch_runs.workers import StartedWorker, Worker
from scripts.client import Client, ServerError, WorkflowInterrupted

TIMES = [["execution_start", {"timestamp": 0}], ["execution_success", {"timestamp": 500}]]


class SlowServer:
    """A server that reports one workflow as ComfyUI does.

    If it is asked for its queue, it sends an event first. It answers when the client has read the
    event (`heard_meanwhile`), or after five seconds.
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
    """Start a server with this history, and return it."""
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


# --- servers that say what none would: helpers/hostile_server.py ----------------------------------


@pytest.fixture(scope="module")
def hostile():
    with running(HostileServer(lambda workflow: str(workflow))) as server:
        yield server


def ask(hostile, deed: str):
    """Return the outcome of a job to which the server does this `deed`."""
    hostile.left = [deed]
    worker = Worker(hostile.urls[0], [], patience=1, job_timeout=2)
    return worker.run(Task("0" * 16, {"5": {"class_type": "SaveImage", "inputs": {}}}))


@pytest.mark.parametrize("deed", [deed for deed in DEEDS if deed != "a large picture"])
def test_a_hostile_server_ends_nothing(hostile, deed):
    if deed == "a drip of headers":
        with pytest.raises(ServerError, match="silent for 1 s"):
            ask(hostile, deed)
        return
    outcome, reason = ask(hostile, deed), DEEDS[deed]
    assert (reason in outcome.error) if reason else outcome.error is None
    assert bool(outcome.files) == (reason is None)


def test_an_answer_that_drips(hostile):
    """Single bytes now and then do not count as an answer."""
    hostile.deeds["x"] = "a drip"
    start = time.monotonic()
    with pytest.raises(ServerError, match="bytes in 1 s, and no end"):
        Client(hostile.urls[0], patience=1).get("/view?subfolder=x")
    assert time.monotonic() - start < 5


def test_a_started_server_loses_no_file_but_its_own(tmp_path):
    """The client deletes only the server's own files, whatever the history names."""
    worker = StartedWorker([], 1, 1, "0.30.0", "", True)
    worker.server = SimpleNamespace(output=tmp_path / "output")
    (tmp_path / "output" / "sub").mkdir(parents=True)
    (tmp_path / "output" / "link").symlink_to(tmp_path, target_is_directory=True)
    own = {"subfolder": "sub", "filename": "x.png"}
    assert worker.own_file(own) == tmp_path / "output" / "sub" / "x.png"
    for subfolder, name in (
        ("", "../x.png"),
        ("..", "x.png"),
        ("sub/../..", "x.png"),
        (str(tmp_path), "x.png"),
        ("", str(tmp_path / "x.png")),
        ("link", "x.png"),
        ("", ".."),
    ):
        assert worker.own_file({"subfolder": subfolder, "filename": name}) is None, (
            subfolder,
            name,
        )
