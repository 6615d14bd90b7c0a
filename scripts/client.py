"""A ComfyUI server that runs, spoken to as its page does: over HTTP and the websocket.

    client = Client("http://127.0.0.1:8188")
    result = client.run(json.loads(path.read_text()))
    png = client.fetch(result.images[0])

Needs aiohttp, which ComfyUI itself needs: every Python that runs a ComfyUI can run this.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import aiohttp

from .followed import Followed, WorkflowError, WorkflowInterrupted, refusal, server_seconds

__all__ = ["Client", "Result", "ServerError", "WorkflowError", "WorkflowInterrupted"]

GATEWAY = (502, 503, 504)  # what a proxy says while the server behind it is not there
# Not through a proxy that the environment may name: servers are on this machine, or near it.
HTTP = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ServerError(RuntimeError):
    """The server did not start, gave no answer, or went away."""


@dataclass(frozen=True)
class Result:
    images: list[dict]  # {"filename", "subfolder", "type"}, for Client.fetch
    outputs: dict[str, dict]  # node id -> what the node gave the page
    executed: list[str]  # ids of the nodes that ran, in order
    cached: list[str]  # ids of the nodes whose outputs the server still had
    seconds: float  # from queueing to the end, as seen from here
    server_seconds: float  # of that, what the server says that it worked


class Client:
    """patience: for how many seconds a server may be silent when it is asked something."""

    def __init__(self, url: str, patience: float = 60):
        self.url = url
        self.patience = patience

    def object_info(self, node: str | None = None) -> dict:
        """The schema of every node, or of one, as the page gets it."""
        return self.get("/object_info" + (f"/{urllib.parse.quote(node, '')}" if node else ""))

    def run(
        self,
        prompt: dict,
        on_event: Callable[[str, Any], None] | None = None,
        timeout: float | None = 600,
    ) -> Result:
        """Queue a workflow in API form and follow it to its end.

        on_event(name, fields) is called for every websocket event of this workflow ("progress",
        "progress_state", "executing", "executed", ...), on_event("preview", image_bytes) for
        preview pictures, and first of all on_event("queued", {"prompt_id": ...}). Raises
        WorkflowError, WorkflowInterrupted, ServerError, TimeoutError.
        """
        try:
            return asyncio.run(self._run(prompt, on_event or (lambda *_: None), timeout))
        except aiohttp.ClientError as error:
            raise self.silent(error) from error

    def queue(self, prompt: dict, client_id: str = "") -> str:
        """Queue a workflow in API form; returns its prompt id. Raises WorkflowError."""
        body = {"prompt": prompt, **({"client_id": client_id} if client_id else {})}
        try:
            answer = self.post("/prompt", body)
        except urllib.error.HTTPError as error:
            if error.code != 400:
                raise
            raise refusal(json.load(error)) from None
        if answer["node_errors"]:  # it would run the other outputs and leave these out
            self.cancel(answer["prompt_id"])
            raise refusal(answer)
        return answer["prompt_id"]

    def history(self, prompt_id: str) -> dict:
        """What the server remembers of a finished workflow; empty while it is not finished."""
        return self.get(f"/history/{prompt_id}").get(prompt_id, {})

    def knows(self, prompt_id: str) -> bool:
        """Whether a workflow waits, runs, or is in the history."""
        places = self.get("/queue").values()
        return any(prompt_id in job for jobs in places for job in jobs) or bool(
            self.history(prompt_id)
        )

    def interrupt(self) -> None:
        """Stop whatever runs now."""
        self.post("/interrupt", {})

    def cancel(self, prompt_id: str) -> None:
        """Stop one workflow, or take it out of the queue; no other is touched."""
        self.post("/queue", {"delete": [prompt_id]})
        self.post("/interrupt", {"prompt_id": prompt_id})

    def fetch(self, file: dict) -> bytes:
        """A picture, or another file that a node wrote: {"filename", "subfolder", "type"}."""
        fields = {name: file[name] for name in ("filename", "subfolder", "type")}
        return self.ask(urllib.request.Request(f"{self.url}/view?{urllib.parse.urlencode(fields)}"))

    def upload(self, content: bytes, name: str, subfolder: str = "") -> str:
        """Put a file into the server's input folder; returns the name that Load nodes know it by.

        One of that name is overwritten.
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
        """Raises ServerError where there is no answer, HTTPError where it is not a good one."""
        try:
            with HTTP.open(request, timeout=self.patience) as answer:
                return answer.read()
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
        """What more there is to say of a server that fails."""
        return ""

    # --- how it is done ---------------------------------------------------------------------------

    def session(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self.patience))

    async def _run(self, prompt, on_event, timeout: float | None) -> Result:
        start = time.monotonic()
        client_id = uuid.uuid4().hex
        socket_url = f"{self.url}/ws?clientId={client_id}"
        async with self.session() as session:
            try:
                # The heartbeat tells a server that is busy from one that is gone.
                events = await session.ws_connect(
                    socket_url, max_msg_size=0, heartbeat=self.patience
                )
            except TimeoutError as error:
                raise self.silent(error) from None
            # What is asked over HTTP is asked in a thread: the websocket must be heard meanwhile.
            queuing = asyncio.ensure_future(asyncio.to_thread(self.queue, prompt, client_id))
            try:
                prompt_id = await asyncio.shield(queuing)
            except asyncio.CancelledError:  # the server may take it all the same: say its id
                on_event("queued", {"prompt_id": await queuing})
                raise
            on_event("queued", {"prompt_id": prompt_id})
            followed = Followed(prompt_id, on_event, lambda: self.knows(prompt_id))
            try:
                async with events:
                    await asyncio.wait_for(followed.to_the_end(events), timeout)
            except TimeoutError:
                await asyncio.to_thread(self.cancel, prompt_id)
                raise TimeoutError(
                    f"The workflow was not done after {timeout:g} s.{self.explain()}"
                ) from None
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
