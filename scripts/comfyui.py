"""A real ComfyUI server as a Python object.

    with Server(host, base) as server:
        result = server.run(json.loads(path.read_text()))
        png = server.fetch(result.images[0])

The demo, the tests and the benchmarks use ComfyUI through this.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from .client import Client, ServerError, WorkflowError, WorkflowInterrupted
from .host import Host

__all__ = ["Server", "ServerError", "WorkflowError", "WorkflowInterrupted"]

PACK = Path(__file__).resolve().parents[1]

# Runs main.py, and ends it when this process closes the server's standard input. So no server is
# left, even if this process is killed.
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
PORTS = 3  # how many are tried
TAKEN = "is already in use"  # ComfyUI says so of a port


class Server(Client):
    """A server that starts on entry, waits until it answers, and stops on exit.

    base: a folder for its custom_nodes, models, input, output and user files. It is made if it is
    missing, and the pack is linked into its custom_nodes.
    cpu: whether to use only the CPU. By default, that is so if torch finds no GPU.
    output: a folder for saved pictures in place of base/output.
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
        super().__init__(url="")
        self.host = host
        self.base = Path(base).resolve()
        self.output = Path(output or self.base / "output").resolve()
        self.extra_args = list(extra_args)
        self.cpu = cpu
        self.pack = pack
        self.patience_at_start = patience
        self.log = self.base / "server.log"
        self.process: subprocess.Popen | None = None

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
        for left in reversed(range(PORTS)):
            self._launch(free_port())
            try:
                self._wait_until_it_answers()
                break
            except ServerError:
                # Another program may take the free port before ComfyUI does.
                if not left or TAKEN not in self.log_tail():
                    raise
                self.stop()
        self._check_pack_was_imported(link)

    def _launch(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        cpu = not has_gpu(self.host.python) if self.cpu is None else self.cpu
        # The database is in memory, because it would be locked for a second server on the same
        # base.
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
        """Wait until the server ends by itself, or a KeyboardInterrupt comes."""
        if self.process:
            self.process.wait()

    def explain(self) -> str:
        return f" {self.log_tail()}"

    def log_tail(self, lines: int = 20) -> str:
        text = self.log.read_text("utf-8", errors="replace") if self.log.exists() else ""
        tail = "\n".join(f"    {line}" for line in plain(text).splitlines()[-lines:])
        return f"The end of its log, {self.log}:\n\n{tail}"

    def _wait_until_it_answers(self) -> None:
        assert self.process
        deadline = time.monotonic() + self.patience_at_start
        while True:
            if self.process.poll() is not None:
                raise ServerError(f"ComfyUI stopped while it started. {self.log_tail()}")
            try:
                self.get("/system_stats")
                return
            except ServerError:  # no server listens yet
                if time.monotonic() > deadline:
                    message = f"ComfyUI did not answer within {self.patience_at_start:g} s."
                    raise ServerError(f"{message} {self.log_tail()}") from None
                time.sleep(0.1)

    def _check_pack_was_imported(self, link: Path) -> None:
        """Raise ServerError with the reason if the pack failed.

        ComfyUI itself would start without it.
        """
        excerpt: list[str] = []
        for line in plain(self.log.read_text("utf-8", errors="replace")).splitlines():
            excerpt = [] if "Traceback" in line else excerpt
            excerpt.append(f"    {line}")
            failed = ("Cannot import", "calling comfy_entrypoint", "IMPORT FAILED")
            if any(words in line for words in failed) and str(link) in line:
                reason = "\n".join(excerpt[-15:])
                raise ServerError(f"ComfyUI cannot import the pack. From {self.log}:\n\n{reason}")


def link_pack(pack: Path, custom_nodes: Path) -> Path:
    """Link the pack into a custom_nodes folder, unless it is there already. Return its path."""
    for entry in custom_nodes.iterdir():
        if entry.resolve() == pack.resolve():
            return entry
    link = custom_nodes / "kandinsky22"
    try:
        if os.path.lexists(link):
            link.unlink()  # a link to another checkout; this raises for a folder
        if os.name == "nt":  # a junction, because a symbolic link needs special rights on Windows
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
