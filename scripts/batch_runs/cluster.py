"""Start Ray or connect to a cluster, and start the workers in it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import gettempdir

import ray
from ray.actor import ActorHandle

from .leftovers import own_folder, sweep
from .workers import IN_FLIGHT, StartedWorker, Worker

ROOT = Path(__file__).resolve().parents[2]

# The files that Ray copies to machines without this checkout. These are the modules of the workers,
# and the pack for servers that they start.
SCRIPTS = ("scripts",)
PACK = ("scripts", "models", "nodes", "utils", "__init__.py")
PACK += ("requirements.txt", "requirements-batch.txt")
OBJECT_STORE = 200_000_000  # bytes, for outcomes on their way; beyond that, Ray uses the disk


@contextmanager
def connect(address: str | None, carried: tuple[str, ...], cpus: int | None) -> Iterator[None]:
    """Connect to the Ray cluster at `address`, or start a local Ray and remove it at the end.

    cpus: how many CPUs a local Ray may use; all by default.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    allowed = [f"!/{name}{end}" for name in carried for end in ("", "/**")]
    ours = {"working_dir": str(ROOT), "excludes": ["*", "!.", *allowed]}
    quiet = {"runtime_env": ours, "logging_level": "error", "log_to_driver": False}
    with ExitStack() as stack:
        if address:
            check_address(address)
            ray.init(address, **quiet)
        else:
            # The names of sockets must be short, so this does not follow TMPDIR.
            place = Path("/tmp" if os.path.isdir("/tmp") else gettempdir())
            sweep("ray-", place)
            logs = own_folder("ray-", place)
            stack.callback(logs.remove)
            ray.init(
                "local",
                num_cpus=cpus,
                object_store_memory=OBJECT_STORE,
                include_dashboard=False,
                _temp_dir=str(logs.path),
                **quiet,
            )
        stack.callback(ray.shutdown)
        yield


def check_address(address: str) -> None:
    """Raise ConnectionError if nothing listens at the address, as Ray would try for ten minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise ConnectionError(f"There is no Ray at {address}: {error}") from None


@contextmanager
def reach_servers(
    urls: list[str], needed: list[str], patience: float, job_timeout: float
) -> Iterator[list[ActorHandle]]:
    """Yield a worker for each running server."""
    actor = as_actor(Worker, num_cpus=0)
    with stopping([actor.remote(url, needed, patience, job_timeout) for url in urls], 5) as workers:
        yield workers


@contextmanager
def start_servers(
    needed: list[str],
    patience: float,
    job_timeout: float,
    version: str,
    models: str,
    cpus: int | None,
) -> Iterator[list[ActorHandle]]:
    """Yield workers with their own servers: one for each GPU, or one for every `cpus` CPUs.

    By default, `cpus` is the number of CPUs of the smallest machine.
    """
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cpu = True if cpus else None
    gpus = sum(int(machine.get("GPU", 0)) for machine in machines)
    if gpus and not cpus:
        count, each, cpu = gpus, {"num_gpus": 1}, False
    else:
        there = [int(machine["CPU"]) for machine in machines if machine.get("CPU")]
        cpus = cpus or min(there)
        count, each = sum(n // cpus for n in there), {"num_cpus": cpus}
        if not count:
            raise ValueError(f"No machine has {cpus} CPUs for a server; they have {there}.")
    actor = as_actor(StartedWorker, **each)
    arguments = needed, patience, job_timeout, version, models, cpu
    with stopping([actor.remote(*arguments) for _ in range(count)], 20) as workers:
        yield workers


def as_actor(worker: type, **resources: int):
    """Return a worker class as an actor. Ray restarts it if its process or machine fails."""
    return ray.remote(worker).options(
        max_restarts=-1,
        max_concurrency=IN_FLIGHT + 2,  # two more for progress() and stop()
        **resources,
    )


@contextmanager
def stopping(workers: list[ActorHandle], seconds: float) -> Iterator[list[ActorHandle]]:
    """Give the workers some seconds at the end to remove what they have left."""
    try:
        yield workers
    finally:
        ray.wait([w.stop.remote() for w in workers], num_returns=len(workers), timeout=seconds)
