"""A ComfyUI server as a Ray actor."""

from __future__ import annotations

import json
import os
import shutil
import socket
import tempfile
import threading
import time
import urllib.error
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from scripts import host
from scripts.client import Client, ServerError, WorkflowError
from scripts.comfyui import Server

from .jobs import Task
from .workflow import label

IN_FLIGHT = 2  # jobs at one server: while it works on one, the next is already in its queue
UPLOADS = "batch"  # a folder in the servers' input folder


@dataclass(frozen=True)
class Outcome:
    """What came of a task. files: (id of the node, name on the server, content), by node."""

    server: str
    seconds: float | None = None  # by the server's own clock
    files: tuple[tuple[str, str, bytes], ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class Step:
    server: str
    node: str
    value: int
    most: int


class Worker:
    """The server at `url`.

    needed: the node types that it must have. patience: seconds that it may be silent.
    """

    def __init__(self, url: str, needed: list[str], patience: float):
        self.name = url
        self.client = Client(url, patience)
        self.needed = needed
        self.patience = patience
        self.step = Step(url, "", 0, 1)
        self.uploaded: set[str] = set()
        self.queued: set[str] = set()  # prompt ids

    def start(self) -> str:
        """Wait until the server is there, with its nodes; returns its name. Raises ServerError."""
        self.uploaded.clear()  # it may be another, at the same address
        deadline = time.monotonic() + self.patience
        while True:
            try:
                missing = [kind for kind in self.needed if not self.client.object_info(kind)]
                break
            except ServerError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
            except (urllib.error.HTTPError, ValueError) as error:
                raise ServerError(f"{self.name} does not answer as ComfyUI: {error}") from None
        if missing:
            ours = any(kind.startswith("Kandinsky22") for kind in missing)
            what = "this pack there (README, Install)" if ours else "the packs they come from there"
            raise ServerError(f"{self.name} has no {', '.join(missing)}: install {what}.")
        return self.name

    def run(self, task: Task) -> Outcome:
        """Raises ServerError if the server is lost; all else that goes wrong is an outcome."""

        def follow(name: str, fields) -> None:
            if name == "queued":
                self.queued.add(fields["prompt_id"])
            elif name == "executing" and fields["node"] is None:
                self.queued.discard(fields.get("prompt_id"))
            elif (
                name == "progress" and fields["node"] in task.workflow
            ):  # not of one made on the way
                node = label(task.workflow, fields["node"])
                self.step = Step(self.name, node, fields["value"], fields["max"])

        try:
            for name, content in task.uploads.items():
                if name not in self.uploaded:
                    self.client.upload(content, name, UPLOADS)
                    self.uploaded.add(name)
            result = self.client.run(task.workflow, follow, timeout=None)
            files = self.take_all(
                (node, file)
                for node, output in sorted(result.outputs.items())
                for file in files_of(output, "output")
            )
        except ServerError:
            raise
        except WorkflowError as error:
            return Outcome(self.name, error=str(error))
        except Exception as error:  # a fault that one job meets, and the next may not
            return Outcome(self.name, error=f"{type(error).__name__}: {error}")
        if not files and any(files_of(output, "temp") for output in result.outputs.values()):
            return Outcome(self.name, error="It only shows previews, which are not kept: save it.")
        return Outcome(self.name, result.server_seconds, files)

    def take_all(self, files: Iterable[tuple[str, dict]]) -> tuple[tuple[str, str, bytes], ...]:
        return tuple((node, file["filename"], self.client.fetch(file)) for node, file in files)

    def progress(self) -> Step:
        return self.step

    def stop(self) -> None:
        """Take back what is still queued."""
        for prompt_id in list(self.queued):
            self.client.cancel(prompt_id)


class StartedWorker(Worker):
    """A server of its own, on the machine and with the devices that Ray gives it.

    version: of ComfyUI. models: a ComfyUI's models folder, beside the pack's miniature.
    cpu: whether to keep to it; None is for the server to find out.
    """

    def __init__(
        self, needed: list[str], patience: float, version: str, models: str, cpu: bool | None
    ):
        super().__init__("", needed, patience)
        self.version = version
        self.models = models
        self.cpu = cpu
        self.starting, self.tidying = threading.Lock(), threading.Lock()
        self.taken: deque[set[Path]] = deque()  # files of the last jobs
        self.server: Server | None = None

    def start(self) -> str:
        with self.starting:
            if not self.server:
                self.server = self.client = self.make_server()
                self.server.patience = self.patience
            if not self.server.process or self.server.process.poll() is not None:
                self.server.start()
                self.name = f"{socket.gethostname()}:{self.server.url.split(':')[-1]}"
        return super().start()

    def make_server(self) -> Server:
        os.environ.pop("PYTHONPATH", None)  # Ray's: the pack's `utils` would hide ComfyUI's
        found = host.ensure(self.version)
        base = Path(tempfile.mkdtemp(prefix="batch-", dir=host.cache_folder()))
        arguments = []
        if self.models:
            folders = [folder.name for folder in Path(self.models).iterdir() if folder.is_dir()]
            paths = {"base_path": self.models, **{name: name for name in folders}}
            (base / "models.yaml").write_text(json.dumps({"batch": paths}))
            arguments = ["--extra-model-paths-config", str(base / "models.yaml")]
        return Server(found, base, arguments, cpu=self.cpu)

    def run(self, task: Task) -> Outcome:
        if not self.server:  # Ray has begun this actor anew, after its process or machine failed
            self.start()
        return super().run(task)

    def take_all(self, files: Iterable[tuple[str, dict]]) -> tuple[tuple[str, str, bytes], ...]:
        """Files go when they are taken, or a machine would fill up; but not at once: where nothing
        has changed for a node that saves, ComfyUI names the file that it saved for the job before.
        """
        files = list(files)
        contents = super().take_all(files)
        output = self.server.output
        with self.tidying:
            self.taken.append({output / f["subfolder"] / f["filename"] for _, f in files})
            if len(self.taken) > 2 * IN_FLIGHT:
                for path in self.taken.popleft().difference(*self.taken):
                    path.unlink(missing_ok=True)
        return contents

    def stop(self) -> None:
        if self.server:
            self.server.stop()
            shutil.rmtree(self.server.base, ignore_errors=True)


def files_of(output: dict, kind: str) -> list[dict]:
    """What a node wrote into the server's folder "output", or as a preview into "temp"."""
    return [
        item
        for items in output.values()
        if isinstance(items, list)
        for item in items
        if isinstance(item, dict) and item.get("type") == kind and "filename" in item
    ]
