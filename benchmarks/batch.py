"""scripts/batch.py: two servers and one, separate stages and whole graphs, and its overhead.

The job is text-to-image on the miniature. Each server computes with one thread, so that two servers
share two cores. Jobs count from the first finished one to the last. That leaves out what happens
once, such as Ray's start and loading models. There are two overheads. The first is the extra time
of a job compared with jobs that are queued by hand, all at once. The second is its extra time
compared with the server's own clock, which leaves out ComfyUI's work between two jobs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from statistics import mean

from scripts import host
from scripts.batch_runs.jobs import Jobs
from scripts.comfyui import PACK, Server

from .pairs import compare
from .report import RATIO

SCRIPT = PACK / "scripts" / "batch.py"
WORKFLOW = PACK / "workflows" / "api" / "text_to_image.json"
PROMPTS = ("a red circle", "a green square", "a blue triangle", "a white circle")
COLUMNS = {
    "jobs a second": "{what}",
    "": "{ours:.3f}",
    "against": "{against}",
    " ": "{theirs:.3f}",
    "ratio (quartiles)": RATIO,
    "bar": "{bar}",
}


def run_script(servers: Sequence[Server], settings: list[str], *options: str) -> dict[str, float]:
    """Return jobs per second, and the jobs per second by the servers' own clocks."""
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, SCRIPT, WORKFLOW, "--output", output, *options]
        command += ["--servers", ",".join(server.url for server in servers)]
        command += [f"--set={setting}" for setting in settings]
        subprocess.run([str(part) for part in command], check=True, stderr=subprocess.PIPE)
        lines = Path(output, "manifest.jsonl").read_text("utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    times = [datetime.fromisoformat(record["finished"]).timestamp() for record in records]
    own = mean(record["seconds"] for record in records[1:])
    return {"rate": rate(times), "own": len(servers) / own}


def run_by_hand(server: Server, settings: list[str]) -> dict[str, float]:
    """Put all jobs into the server's queue at once."""
    jobs = Jobs(json.loads(WORKFLOW.read_text("utf-8")), settings)
    numbers = [server.queue(jobs.task(job).workflow) for job in jobs]
    while not server.history(numbers[-1]):
        time.sleep(0.2)
    messages = [dict(server.history(number)["status"]["messages"]) for number in numbers]
    return {"rate": rate([m["execution_success"]["timestamp"] / 1000 for m in messages])}


def rate(times: list[float]) -> float:
    return (len(times) - 1) / (times[-1] - times[0])


def run(prompts: int = 2, seeds: int = 8, steps: int = 50, rounds: int = 5) -> list[dict]:
    """Return a row for each comparison. The runs alternate, and the first round does not count."""
    os.environ["OMP_NUM_THREADS"] = "1"
    found: dict[str, list[dict[str, float]]] = {}
    with ExitStack() as stack:
        two = []
        for _ in range(2):
            base = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            two.append(stack.enter_context(Server(host.ensure(), base)))
        runs = {
            "two servers": lambda settings: run_script(two, settings),
            "stages apart": lambda settings: run_script(two, settings, "--stages-apart"),
            "one server": lambda settings: run_script(two[:1], settings),
            "queued by hand": lambda settings: run_by_hand(two[0], settings),
        }
        first = 0
        for turn in range(rounds + 1):
            for name, run_one in runs.items():
                settings = [f"Prior.prompt={prompt}" for prompt in PROMPTS[:prompts]]
                settings += [f"Decoder.steps={steps}", f"Decoder.seed={first}..{first + seeds - 1}"]
                first += seeds  # new seeds, because a server still has its earlier results
                result = run_one(settings)
                if turn:
                    found.setdefault(name, []).append(result)
    rates = {name: [result["rate"] for result in results] for name, results in found.items()}
    rates["its own seconds"] = [result["own"] for result in found["one server"]]
    comparisons = (
        ("two servers", "one server", ""),
        ("stages apart", "two servers", ""),
        ("one server", "queued by hand", "≥ 0.95"),
        ("one server", "its own seconds", "≥ 0.95"),
    )
    return [
        {"what": what, "against": against, "bar": bar, **compare(rates[what], rates[against])}
        for what, against, bar in comparisons
    ]
