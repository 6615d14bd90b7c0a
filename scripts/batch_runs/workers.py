"""A ComfyUI server as a Ray actor."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import urllib.error
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from ray.exceptions import RayError

from scripts import host
from scripts.client import Client, ServerError, WorkflowError
from scripts.comfyui import Server

from .files import BadAnswer, Content, files_of, receive, safe_text
from .jobs import Task
from .leftovers import own_folder, sweep
from .workflow import label

IN_FLIGHT = 2  # jobs at one server: the next one is in its queue while it works on the first
UPLOADS = "batch"  # a folder in the servers' input folder


@dataclass(frozen=True)
class Outcome:
    """The outcome of a task. files: (id of the node, name on the server, content), by node."""

    server: str
    seconds: float | None = None  # by the server's own clock
    files: tuple[tuple[str, str, Content], ...] = ()
    error: str | None = None


@dataclass(frozen=True)
class Step:
    server: str
    node: str
    value: int
    most: int


class Worker:
    """A worker for the server at `url`.

    needed: the node types that the server must have.
    patience: how many seconds it may be silent.
    job_timeout: how many seconds a job may take without progress, and its files to arrive.
    """

    def __init__(self, url: str, needed: list[str], patience: float, job_timeout: float):
        self.name = url
        self.client = Client(url, patience)
        self.needed = needed
        self.patience = patience
        self.job_timeout = job_timeout
        self.step = Step(url, "", 0, 1)
        self.uploaded: set[str] = set()
        self.queued: set[str] = set()  # prompt ids

    def start(self) -> str:
        """Wait until the server answers and has its nodes. Return its name.

        Raises:
            ServerError: it does not answer, or lacks nodes.
        """
        self.uploaded.clear()  # the server may be a new one at the same address
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
        """Run a task. Raise ServerError if the server is lost. Every other error is an outcome."""
        try:
            return self.made(task)
        except ServerError:
            raise
        except (WorkflowError, BadAnswer, TimeoutError) as error:
            return self.failed(str(error))
        except RayError as error:
            return self.failed(f"Ray cannot take its files: {error}")
        except Exception as error:  # an error of one job, which the next job may not have
            what = f"{type(error).__name__}: {error}"
            return self.failed(f"{self.name} does not answer as ComfyUI does: {what}")

    def failed(self, message: str) -> Outcome:
        return Outcome(self.name, error=safe_text(message))

    def made(self, task: Task) -> Outcome:
        for name, content in task.uploads.items():
            if name not in self.uploaded:
                self.client.upload(content, name, UPLOADS)
                self.uploaded.add(name)

        def follow(name: str, fields) -> None:
            self.follow(task, name, fields)

        result = self.client.run(task.workflow, follow, timeout=None, stall=self.job_timeout)
        files = self.take_all(files_of(result.outputs, "output"))
        if not files and files_of(result.outputs, "temp"):
            return self.failed("It only shows previews, which are not kept: save it.")
        return Outcome(self.name, result.server_seconds, files)

    def follow(self, task: Task, name: str, fields) -> None:
        """Note what the server reports about a workflow, for stop() and progress()."""
        if name == "queued":
            self.queued.add(fields["prompt_id"])
        elif name == "executing" and fields["node"] is None:
            self.queued.discard(fields.get("prompt_id"))
        elif name == "progress" and fields["node"] in task.workflow:  # no node made by a node
            value, most = int(fields["value"]), int(fields["max"])
            if 0 <= value <= most < 2**31:
                self.step = Step(self.name, label(task.workflow, fields["node"]), value, most)

    def take_all(self, files: list[tuple[str, dict]]) -> tuple[tuple[str, str, Content], ...]:
        deadline = time.monotonic() + self.job_timeout
        return tuple((node, file["filename"], self.take(file, deadline)) for node, file in files)

    def take(self, file: dict, deadline: float) -> Content:
        left = max(deadline - time.monotonic(), 1)
        return receive(file["filename"], self.client.fetch_pieces(file, left))

    def progress(self) -> Step:
        return self.step

    def stop(self) -> None:
        """Remove what is still queued."""
        for prompt_id in list(self.queued):
            self.client.cancel(prompt_id)


class StartedWorker(Worker):
    """A worker with its own server, on the machine and the devices that Ray assigns.

    version: of ComfyUI.
    models: a ComfyUI's models folder, in addition to the pack's miniature.
    cpu: whether to use only the CPU. None lets the server decide.
    """

    def __init__(
        self,
        needed: list[str],
        patience: float,
        job_timeout: float,
        version: str,
        models: str,
        cpu: bool | None,
    ):
        super().__init__("", needed, patience, job_timeout)
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
        os.environ.pop("PYTHONPATH", None)  # set by Ray; the pack's `utils` would hide ComfyUI's
        found = host.ensure(self.version)
        sweep("batch-", host.cache_folder())
        self.folder = own_folder("batch-", host.cache_folder())
        base, arguments = self.folder.path, []
        if self.models:
            folders = [folder.name for folder in Path(self.models).iterdir() if folder.is_dir()]
            paths = {"base_path": self.models, **{name: name for name in folders}}
            (base / "models.yaml").write_text(json.dumps({"batch": paths}), "utf-8")
            arguments = ["--extra-model-paths-config", str(base / "models.yaml")]
        return Server(found, base, arguments, cpu=self.cpu)

    def run(self, task: Task) -> Outcome:
        if not self.server:  # Ray has restarted this actor, after its process or machine failed
            self.start()
        return super().run(task)

    def take_all(self, files: list[tuple[str, dict]]) -> tuple[tuple[str, str, Content], ...]:
        """Take the files of a job, and delete those of older jobs, or a machine would fill up.

        They are not deleted at once. If nothing has changed for a node that saves, ComfyUI names
        the file that it saved for the job before.
        """
        contents = super().take_all(files)
        with self.tidying:
            self.taken.append({path for _, file in files if (path := self.own_file(file))})
            if len(self.taken) > 2 * IN_FLIGHT:
                for path in self.taken.popleft().difference(*self.taken):
                    with contextlib.suppress(OSError):
                        path.unlink()
        return contents

    def own_file(self, file: dict) -> Path | None:
        """Return the path of a file on this machine, or None if it is outside the output folder."""
        folder = self.server.output.resolve()
        path = (folder / file["subfolder"]).resolve() / file["filename"]
        inside = path.parent.is_relative_to(folder) and path.name == file["filename"]
        return path if inside and path.name != ".." else None

    def stop(self) -> None:
        if self.server:
            self.server.stop()
            self.folder.remove()
