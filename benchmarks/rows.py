"""scripts/batch.py with a long table, and servers that answer at once.

It measures the seconds to the first job, and how much of that the command itself computes, as it
waits on a busy machine. It also measures the memory, and how many jobs per second follow. It stops
after some jobs.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from scripts.batch_runs.jobs import Jobs
from scripts.comfyui import PACK

from .instant_server import InstantServer, running

SCRIPT = PACK / "scripts" / "batch.py"
WORKFLOW = PACK / "workflows" / "api" / "text_to_image.json"
JOBS = 500  # jobs that are counted after the first
COLUMNS = {
    "rows": "{rows}",
    "of them done": "{done}",
    "seconds to the first job": "{first:.1f}",
    "computing, not waiting": "{cpu:.1f}",
    "most memory, MB": "{memory:.0f}",
    "then jobs a second": "{rate:.0f}",
}


def run(rows: int = 1_000_000, done: int = 0) -> list[dict]:
    with tempfile.TemporaryDirectory() as folder, running(InstantServer(addresses=2)) as server:
        table = write_table(Path(folder, "table.csv"), rows)
        write_manifest(Path(folder, "manifest.jsonl"), table, done)
        command = [sys.executable, SCRIPT, WORKFLOW, "--table", table, "--output", folder]
        start = time.monotonic()
        process = subprocess.Popen(
            [str(part) for part in [*command, "--servers", ",".join(server.urls)]],
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            client, memory, cpu = psutil.Process(process.pid), 0, 0.0
            while server.count < min(JOBS, rows - done) and process.poll() is None:
                memory = max(memory, client.memory_info().rss)
                cpu = cpu if server.first else sum(client.cpu_times()[:2])
                time.sleep(0.02)
            seconds, count = time.monotonic() - (server.first or start), server.count
            process.terminate()  # a process in the background of a shell ignores SIGINT
        finally:
            shown = process.communicate()[1]
        if server.first is None:
            raise RuntimeError(f"No job was begun: {shown}")
    first, rate = server.first - start, count / seconds
    found = {"rows": rows, "done": done, "first": first, "cpu": cpu, "rate": rate}
    return [{**found, "memory": memory / 1e6}]


def write_table(path: Path, rows: int) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(["Prior.prompt", "Decoder.seed"])
        for number in range(rows):
            table.writerow([f"a red fox, number {number // 10}, asleep in the snow", number])
    return path


def write_manifest(path: Path, table: Path, done: int) -> None:
    """Write the manifest of an earlier run, with jobs that failed, so that no files are needed."""
    line = {"seed": {"Decoder.seed": 0}, "server": "http://127.0.0.1:8188", "seconds": 1.5}
    line |= {"finished": "2026-01-01T00:00:00.000+00:00", "files": [], "error": "no"}
    jobs = Jobs(json.loads(WORKFLOW.read_text("utf-8")), [], table)
    with path.open("w", encoding="utf-8", newline="\n") as lines:
        for _, job in zip(range(done), jobs, strict=False):
            lines.write(json.dumps({"job": job.id, "inputs": job.inputs, **line}) + "\n")
