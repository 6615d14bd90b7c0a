"""A real ComfyUI server as a Python object.

    with Server(host, base) as server:
        result = server.run(json.loads(path.read_text()))
        png = server.fetch(result.images[0])

The demo, the tests and the benchmarks drive ComfyUI through this. It talks to the server as the
page does, over HTTP and the websocket, so it needs aiohttp, which ComfyUI itself needs: every
Python that runs a ComfyUI can run this.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from .host import Host

PACK = Path(__file__).resolve().parents[1]

# Runs main.py, and ends it when our end of its standard input closes: however this process ends,
# killed included, no server is left behind.
LAUNCH = """
import os, runpy, sys, threading
threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
del sys.argv[0]
sys.path[0] = os.path.dirname(sys.argv[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""

HAS_GPU = """
import torch
xpu = getattr(torch, "xpu", None)
print(torch.cuda.is_available() or torch.backends.mps.is_available()
      or bool(xpu and xpu.is_available()))
"""

# Not through a proxy that the environment may name: the server is on this machine.
HTTP = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class ServerError(RuntimeError):
    """The server did not start, or went away; the message ends with the end of its log."""


class WorkflowError(RuntimeError):
    """The server refused a workflow, or a node of it failed. The message is the server's own.

    `node_id` and `node_type` name the node, where there is one; `report` is all the server sent:
    the body of a 400 answer, or an execution_error event (with its traceback).
    """

    def __init__(self, message: str, report: dict, node_id: str | None = None, node_type: str = ""):
        super().__init__(message)
        self.report = report
        self.node_id = node_id
        self.node_type = node_type


class WorkflowInterrupted(WorkflowError):
    """Somebody asked the server to stop this workflow, and it did."""


@dataclass(frozen=True)
class Result:
    images: list[dict]  # {"filename", "subfolder", "type"}, for Server.fetch
    outputs: dict[str, dict]  # node id -> what the node gave the page
    executed: list[str]  # ids of the nodes that ran, in order
    cached: list[str]  # ids of the nodes whose outputs the server still had
    seconds: float


class Server:
    """Starts on entry, answers by then, and is stopped on exit.

    base: a folder for its custom_nodes, models, input, output and user files; made if missing. The
    pack is linked into its custom_nodes. cpu: whether to keep to the CPU; by default, if torch
    finds no GPU. output: a folder for saved pictures in place of base/output.
    """

    def __init__(
        self,
        host: Host,
        base: Path,
        extra_args: Sequence[str] = (),
        output: Path | None = None,
        cpu: bool | None = None,
        pack: Path = PACK,
        patience: float = 300,
    ):
        self.host = host
        self.base = Path(base).resolve()
        self.output = Path(output or self.base / "output").resolve()
        self.extra_args = list(extra_args)
        self.cpu = cpu
        self.pack = pack
        self.patience = patience
        self.log = self.base / "server.log"
        self.process: subprocess.Popen | None = None
        self.url = ""

    def __enter__(self) -> Server:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def start(self) -> None:
        for name in ("custom_nodes", "models", "input", "output", "user"):
            (self.base / name).mkdir(parents=True, exist_ok=True)
        self.output.mkdir(parents=True, exist_ok=True)
        link = link_pack(self.pack, self.base / "custom_nodes")
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        cpu = not has_gpu(self.host.python) if self.cpu is None else self.cpu
        # The database in memory: it would be locked for a second server on the same base.
        command = [self.host.python, "-c", LAUNCH, self.host.comfyui / "main.py"]
        command += ["--listen", "127.0.0.1", "--port", port, "--disable-api-nodes"]
        command += ["--base-directory", self.base, "--output-directory", self.output]
        command += ["--database-url", "sqlite:///:memory:", *(["--cpu"] if cpu else [])]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [str(part) for part in [*command, *self.extra_args]],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "NO_COLOR": "1"},
            )
        self._wait_until_it_answers()
        self._check_pack_was_imported(link)

    def stop(self) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin:
            process.stdin.close()

    def wait(self) -> None:
        """Until the server ends of itself, or a KeyboardInterrupt comes."""
        if self.process:
            self.process.wait()

    # --- what one asks a server -------------------------------------------------------------------

    def object_info(self, node: str | None = None) -> dict:
        """The schema of every node, or of one, as the page gets it."""
        return self.get("/object_info" + (f"/{urllib.parse.quote(node)}" if node else ""))

    def run(
        self,
        prompt: dict,
        on_event: Callable[[str, Any], None] | None = None,
        timeout: float | None = 600,
    ) -> Result:
        """Queue a workflow in API form and follow it to its end.

        on_event(name, fields) is called for every websocket event of this workflow ("progress",
        "progress_state", "executing", "executed", ...) and on_event("preview", image_bytes) for
        preview pictures. Raises WorkflowError, WorkflowInterrupted, ServerError, TimeoutError.
        """
        try:
            return asyncio.run(self._run(prompt, on_event or (lambda *_: None), timeout))
        except (urllib.error.URLError, aiohttp.ClientError) as error:
            raise ServerError(f"The server gave no answer: {error}. {self.log_tail()}") from error

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

    def interrupt(self) -> None:
        """Stop whatever runs now."""
        self.post("/interrupt", {})

    def cancel(self, prompt_id: str) -> None:
        """Stop one workflow, or take it out of the queue; no other is touched."""
        self.post("/queue", {"delete": [prompt_id]})
        self.post("/interrupt", {"prompt_id": prompt_id})

    def fetch(self, image: dict) -> bytes:
        fields = {name: image[name] for name in ("filename", "subfolder", "type")}
        with HTTP.open(f"{self.url}/view?{urllib.parse.urlencode(fields)}", timeout=60) as answer:
            return answer.read()

    def upload(self, path: Path) -> str:
        """Put a picture into the server's input folder; returns the name for a LoadImage node."""
        return asyncio.run(self._upload(Path(path)))

    def get(self, path: str) -> Any:
        with HTTP.open(self.url + path, timeout=60) as answer:
            return json.load(answer)

    def post(self, path: str, body: dict) -> Any:
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with HTTP.open(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def log_tail(self, lines: int = 20) -> str:
        text = self.log.read_text("utf-8", errors="replace") if self.log.exists() else ""
        tail = "\n".join(f"    {line}" for line in plain(text).splitlines()[-lines:])
        return f"The end of its log, {self.log}:\n\n{tail}"

    # --- how it is done ---------------------------------------------------------------------------

    async def _run(self, prompt, on_event, timeout: float | None) -> Result:
        start = time.monotonic()
        client_id = uuid.uuid4().hex
        socket_url = f"{self.url}/ws?clientId={client_id}"
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(socket_url, max_msg_size=0) as events,
        ):
            prompt_id = self.queue(prompt, client_id)
            followed = Followed(prompt_id, on_event)
            try:
                await asyncio.wait_for(followed.to_the_end(events), timeout)
            except TimeoutError:
                self.cancel(prompt_id)
                raise TimeoutError(
                    f"The workflow was not done after {timeout:g} s. {self.log_tail()}"
                ) from None
            except ConnectionError:
                raise ServerError(f"The server went away. {self.log_tail()}") from None
        if followed.failure:
            raise followed.failure
        outputs = self.history(prompt_id)["outputs"]
        images = [image for output in outputs.values() for image in output.get("images", [])]
        seconds = time.monotonic() - start
        return Result(images, outputs, followed.executed, followed.cached, seconds)

    async def _upload(self, path: Path) -> str:
        form = aiohttp.FormData({"overwrite": "true"})
        form.add_field("image", path.read_bytes(), filename=path.name)
        async with aiohttp.ClientSession(raise_for_status=True) as session:
            async with session.post(f"{self.url}/upload/image", data=form) as answer:
                return (await answer.json())["name"]

    def _wait_until_it_answers(self) -> None:
        assert self.process
        deadline = time.monotonic() + self.patience
        while True:
            if self.process.poll() is not None:
                raise ServerError(f"ComfyUI stopped while it started. {self.log_tail()}")
            try:
                self.get("/system_stats")
                return
            except OSError:  # nobody listens yet
                if time.monotonic() > deadline:
                    message = f"ComfyUI did not answer within {self.patience:g} s."
                    raise ServerError(f"{message} {self.log_tail()}") from None
                time.sleep(0.1)

    def _check_pack_was_imported(self, link: Path) -> None:
        """ComfyUI starts without a pack that fails; say why it failed instead."""
        excerpt: list[str] = []
        for line in plain(self.log.read_text("utf-8", errors="replace")).splitlines():
            excerpt = [] if "Traceback" in line else excerpt
            excerpt.append(f"    {line}")
            failed = ("Cannot import", "calling comfy_entrypoint", "IMPORT FAILED")
            if any(words in line for words in failed) and str(link) in line:
                reason = "\n".join(excerpt[-15:])
                raise ServerError(f"ComfyUI cannot import the pack. From {self.log}:\n\n{reason}")


class Followed:
    """One workflow, as the websocket tells it."""

    def __init__(self, prompt_id: str, on_event: Callable[[str, Any], None]):
        self.prompt_id = prompt_id
        self.on_event = on_event
        self.executed: list[str] = []
        self.cached: list[str] = []
        self.failure: WorkflowError | None = None

    async def to_the_end(self, events: aiohttp.ClientWebSocketResponse) -> None:
        async for message in events:
            if message.type == aiohttp.WSMsgType.BINARY:
                if message.data[:4] == b"\0\0\0\1":  # a preview; then 4 bytes of format
                    self.on_event("preview", message.data[8:])
                continue
            if message.type != aiohttp.WSMsgType.TEXT:
                break
            event = json.loads(message.data)
            name, fields = event["type"], event["data"]
            if fields.get("prompt_id", self.prompt_id) != self.prompt_id:
                continue
            self.on_event(name, fields)
            if name == "executing" and fields["node"] is None and "prompt_id" in fields:
                return  # the history is written by now, and the next workflow can start
            self._note(name, fields)
        raise ConnectionError

    def _note(self, name: str, fields: dict) -> None:
        if name == "executing" and fields["node"] not in self.executed:
            self.executed.append(fields["node"])
        elif name == "execution_cached":
            self.cached = list(fields["nodes"])
        elif name == "execution_error":
            kind, text = fields["exception_type"], fields["exception_message"].strip()
            where = fields["node_id"], fields["node_type"]
            message = f"Node {where[0]} ({where[1]}) failed: {kind}: {text}"
            self.failure = WorkflowError(message, fields, *where)
        elif name == "execution_interrupted":
            where = fields["node_id"], fields["node_type"]
            message = f"Interrupted at node {where[0]} ({where[1]})."
            self.failure = WorkflowInterrupted(message, fields, *where)


def refusal(answer: dict) -> WorkflowError:
    """The server's answer to a workflow that is not valid, one line for each thing wrong."""
    error = answer.get("error") or {}
    node_errors = answer.get("node_errors") or {}
    lines = [f"The server refused the workflow: {error.get('message', 'a part of it is invalid')}"]
    for node_id, node in node_errors.items():
        for reason in node["errors"]:
            what = f"{reason['message']}: {reason['details']}"
            lines.append(f"  node {node_id} ({node['class_type']}): {what}")
    if not node_errors and error.get("details"):
        lines.append(f"  {error['details']}")
    info = error.get("extra_info") or {}
    node_id = next(iter(node_errors), info.get("node_id"))
    node_type = node_errors[node_id]["class_type"] if node_errors else info.get("class_type") or ""
    return WorkflowError("\n".join(lines), answer, node_id, node_type)


def link_pack(pack: Path, custom_nodes: Path) -> Path:
    """Link the pack into a custom_nodes folder, unless it is there already; returns its place."""
    for entry in custom_nodes.iterdir():
        if entry.resolve() == pack.resolve():
            return entry
    link = custom_nodes / "kandinsky22"
    try:
        if os.path.lexists(link):
            link.unlink()  # a link to another checkout; a folder is not removed, and raises
        if os.name == "nt":  # a junction: a symbolic link needs special rights there
            import _winapi

            _winapi.CreateJunction(str(pack), str(link))  # pyright: ignore
        else:
            link.symlink_to(pack, target_is_directory=True)
    except OSError as error:
        raise ServerError(f"Cannot link the pack to {link}: {error}") from error
    return link


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def has_gpu(python: Path) -> bool:
    done = subprocess.run([python, "-c", HAS_GPU], capture_output=True, text=True)
    return done.stdout.strip() == "True"


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)
