"""A client for a running ComfyUI server. It uses HTTP and the websocket, as the web interface does.

    client = Client("http://127.0.0.1:8188")
    result = client.run(json.loads(path.read_text()))
    png = client.fetch(result.images[0])

It needs aiohttp, which ComfyUI needs, too. So every Python that runs a ComfyUI can run this.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp

from .followed import (
    Clock,
    Followed,
    Stuck,
    WorkflowError,
    WorkflowInterrupted,
    refusal,
    server_seconds,
)
from .timed_http import read_pieces, timed_opener

__all__ = ["Client", "Result", "ServerError", "WorkflowError", "WorkflowInterrupted"]

GATEWAY = (502, 503, 504)  # the answers of a proxy while its server is not there
HTTP = timed_opener()
MOST_JSON = 2**28  # bytes of an answer that is not a file: a queue of thousands of workflows
MOST_EVENT = 2**26  # bytes of one message of the websocket: a preview, a text that a node shows
SLOWEST = 1024  # bytes a second of a file; a slower server is given up


class ServerError(RuntimeError):
    """The server did not start, gave no answer, or went away."""


@dataclass(frozen=True)
class Result:
    images: list[dict]  # {"filename", "subfolder", "type"}, for Client.fetch
    outputs: dict[str, dict]  # node id -> the outputs that the web interface shows
    executed: list[str]  # ids of the nodes that ran, in order
    cached: list[str]  # ids of the nodes whose outputs the server still had
    seconds: float  # from queueing to the end, by the client's clock
    server_seconds: float | None  # how long the workflow ran, by the server's clock


class Client:
    """A client. patience: how many seconds a server may take for an answer."""

    def __init__(self, url: str, patience: float = 60):
        self.url = url
        self.patience = patience
        self.clock = Clock()

    def object_info(self, node: str | None = None) -> dict:
        """Return the schema of every node, or of one, as the web interface gets it."""
        return self.get("/object_info" + (f"/{urllib.parse.quote(node, '')}" if node else ""))

    def run(
        self,
        prompt: dict,
        on_event: Callable[[str, Any], None] | None = None,
        timeout: float | None = 600,
        stall: float | None = None,
    ) -> Result:
        """Queue a workflow in API form and follow it to its end.

        timeout: how many seconds it may take. stall: how many seconds it may take without progress.
        While it waits in the queue, progress of another workflow of this client counts, too.

        on_event(name, fields) is called for every websocket event of this workflow ("progress",
        "progress_state", "executing", "executed", ...). For preview pictures, on_event("preview",
        image_bytes) is called. The first call is on_event("queued", {"prompt_id": ...}).

        Raises:
            WorkflowError, WorkflowInterrupted, ServerError, TimeoutError: the workflow has no
                result.
        """
        try:
            return asyncio.run(self._run(prompt, on_event or (lambda *_: None), timeout, stall))
        except aiohttp.ClientError as error:
            raise self.silent(error) from error

    def queue(self, prompt: dict, client_id: str = "") -> str:
        """Queue a workflow in API form. Return its prompt id.

        Raise WorkflowError if it is refused.
        """
        body = {"prompt": prompt, **({"client_id": client_id} if client_id else {})}
        try:
            answer = self.post("/prompt", body)
        except urllib.error.HTTPError as error:
            if error.code != 400:
                raise
            raise refusal(json.loads(self.read_whole(error.fp))) from None
        prompt_id = answer.get("prompt_id") if isinstance(answer, dict) else None
        if not isinstance(prompt_id, str):
            raise WorkflowError(f"The answer of /prompt has no prompt_id: {str(answer)[:80]}", {})
        if answer.get("node_errors"):  # the server would run the other outputs and leave these out
            self.cancel(prompt_id)
            raise refusal(answer)
        return prompt_id

    def history(self, prompt_id: str) -> dict:
        """Return the history of a finished workflow, empty while it is not finished."""
        return self.get(f"/history/{urllib.parse.quote(prompt_id, '')}").get(prompt_id, {})

    def place(self, prompt_id: str) -> str:
        """Return "running", "waiting", "finished", or "" if the server does not know it."""
        queue = self.get("/queue")
        for key, place in (("queue_running", "running"), ("queue_pending", "waiting")):
            if any(prompt_id in job for job in queue[key]):
                return place
        return "finished" if self.history(prompt_id) else ""

    def seen_at(self, prompt_id: str) -> str:
        """Return the same, or "unknown" without an answer.

        The open websocket shows a lost server.
        """
        try:
            return self.place(prompt_id)
        except ServerError:
            return "unknown"

    def interrupt(self) -> None:
        """Stop the workflow that runs now."""
        self.post("/interrupt", {})

    def cancel(self, prompt_id: str) -> None:
        """Stop one workflow, or take it out of the queue. Others are not affected."""
        self.post("/queue", {"delete": [prompt_id]})
        self.post("/interrupt", {"prompt_id": prompt_id})

    def fetch(self, file: dict) -> bytes:
        """Return a picture or another file of a node: {"filename", "subfolder", "type"}."""
        return b"".join(self.fetch_pieces(file))

    def fetch_pieces(self, file: dict, timeout: float | None = None) -> Iterator[bytes]:
        """Yield a file in pieces of some megabytes. timeout: how many seconds it may take.

        Raises:
            ServerError: the server is lost.
            WorkflowError: the server sends no such file.
        """
        fields = {name: file[name] for name in ("filename", "subfolder", "type")}
        request = urllib.request.Request(f"{self.url}/view?{urllib.parse.urlencode(fields)}")
        name, received, start = file["filename"], 0, time.monotonic()
        try:
            with self.opened(request) as answer:
                for piece in read_pieces(answer):
                    received += len(piece)
                    seconds = time.monotonic() - start
                    slow = seconds > self.patience and received < SLOWEST * seconds
                    if slow or (timeout and seconds > timeout):
                        shown = f"{received} bytes of {name} in {seconds:.0f} s"
                        raise WorkflowError(f"{self.url} sent {shown}, and was given up.", {})
                    yield piece
        except urllib.error.HTTPError as error:
            raise WorkflowError(f"/view says {error.code} {error.reason} of {name}.", {}) from None

    def upload(self, content: bytes, name: str, subfolder: str = "") -> str:
        """Put a file into the server's input folder. Return its name for Load nodes.

        A file of that name is overwritten.
        """
        return asyncio.run(self._upload(content, name, subfolder))

    def get(self, path: str) -> Any:
        return json.loads(self.ask(urllib.request.Request(self.url + path)))

    def post(self, path: str, body: dict) -> Any:
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        text = self.ask(request)
        return json.loads(text) if text else None

    def ask(self, request: urllib.request.Request) -> bytes:
        """Return the answer to a request.

        Raise ServerError without an answer, HTTPError with a bad one.
        """
        with self.opened(request) as answer:
            return self.read_whole(answer)

    def read_whole(self, answer: http.client.HTTPResponse) -> bytes:
        start, pieces, size = time.monotonic(), [], 0
        for piece in read_pieces(answer):
            pieces.append(piece)
            size += len(piece)
            seconds = time.monotonic() - start
            if size > MOST_JSON or seconds > self.patience:
                raise self.silent(ValueError(f"{size} bytes in {seconds:.0f} s, and no end"))
        return b"".join(pieces)

    @contextlib.contextmanager
    def opened(self, request: urllib.request.Request) -> Iterator[http.client.HTTPResponse]:
        try:
            with HTTP.open(request, timeout=self.patience) as answer:
                yield answer
        except urllib.error.HTTPError as error:
            if error.code in GATEWAY:
                raise self.silent(error) from error
            raise
        except (OSError, http.client.HTTPException) as error:
            raise self.silent(error) from error

    def silent(self, error: Exception) -> ServerError:
        reason = getattr(error, "reason", error)
        if isinstance(reason, TimeoutError):
            reason = f"silent for {self.patience:g} s"
        return ServerError(f"{self.url} gave no answer: {reason}.{self.explain()}")

    def explain(self) -> str:
        """Return more about a failed server, for messages."""
        return ""

    # --- how it is done ---------------------------------------------------------------------------

    def session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self.patience))

    async def _run(self, prompt, on_event, timeout: float | None, stall: float | None) -> Result:
        start = time.monotonic()
        client_id = uuid.uuid4().hex
        socket_url = f"{self.url}/ws?clientId={client_id}"
        async with self.session() as session:
            try:
                # The heartbeat tells a busy server from one that is gone.
                events = await session.ws_connect(
                    socket_url, max_msg_size=MOST_EVENT, heartbeat=self.patience
                )
            except TimeoutError as error:
                raise self.silent(error) from None
            # HTTP requests run in a thread, because the websocket must be read at the same time.
            queuing = asyncio.ensure_future(asyncio.to_thread(self.queue, prompt, client_id))
            try:
                prompt_id = await asyncio.shield(queuing)
            except asyncio.CancelledError:  # the server may take it anyway: report its id
                on_event("queued", {"prompt_id": await queuing})
                raise
            on_event("queued", {"prompt_id": prompt_id})
            followed = Followed(prompt_id, on_event, lambda: self.seen_at(prompt_id), self.clock)
            following = followed.to_the_end(events, self.patience, stall)
            try:
                async with events:
                    await asyncio.wait_for(following, timeout)
            except (TimeoutError, Stuck) as error:
                with contextlib.suppress(ServerError, urllib.error.HTTPError):
                    await asyncio.to_thread(self.cancel, prompt_id)
                late = f"The workflow was not done after {timeout or 0:g} s."
                reason = str(error) if isinstance(error, Stuck) else late
                raise TimeoutError(f"{reason}{self.explain()}") from None
            except ConnectionError:
                raise ServerError(f"{self.url} went away.{self.explain()}") from None
        if followed.failure:
            raise followed.failure
        history = await asyncio.to_thread(self.history, prompt_id)
        if not history:
            raise WorkflowError("Somebody took it out of the server's history.", {})
        outputs = history["outputs"]
        images = [image for output in outputs.values() for image in output.get("images", [])]
        seconds = time.monotonic() - start
        working = server_seconds(history)
        return Result(images, outputs, followed.executed, followed.cached, seconds, working)

    async def _upload(self, content: bytes, name: str, subfolder: str) -> str:
        form = aiohttp.FormData({"overwrite": "true", "subfolder": subfolder})
        form.add_field("image", content, filename=name)
        try:
            async with self.session() as session:
                async with session.post(f"{self.url}/upload/image", data=form) as answer:
                    answer.raise_for_status()
                    saved = await answer.json()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self.silent(error) from error
        return "/".join(part for part in (saved["subfolder"], saved["name"]) if part)
