"""scripts/batch.py: two servers against one, stages apart against whole graphs, and its overhead.

Text to image on the miniature; each server computes with one thread, so that two of them share two
cores. Jobs are counted from the first that is done to the last, which leaves out what comes once
(Ray's start, models into memory). Overhead is what a job takes longer than when all are put into
the server's queue at once, by hand; and than the server says that it worked, which leaves out what
ComfyUI does between two jobs, too.
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
    """Jobs a second; and what they would be if the servers' own seconds were all."""
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
    """All jobs in the server's queue at once."""
    jobs = Jobs(json.loads(WORKFLOW.read_text("utf-8")), settings)
    numbers = [server.queue(jobs.task(job).workflow) for job in jobs]
    while not server.history(numbers[-1]):
        time.sleep(0.2)
    messages = [dict(server.history(number)["status"]["messages"]) for number in numbers]
    return {"rate": rate([m["execution_success"]["timestamp"] / 1000 for m in messages])}


def rate(times: list[float]) -> float:
    return (len(times) - 1) / (times[-1] - times[0])


def run(prompts: int = 2, seeds: int = 8, steps: int = 50, rounds: int = 5) -> list[dict]:
    """A row for each comparison, of runs that take turns; the first round does not count."""
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
                first += seeds  # a server still has what it has made
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
