"""scripts/batch.py on a real server and on a hostile one."""

import json
import subprocess
import sys
import threading
import time

import psutil
import pytest
from helpers.checkout import HOST, PACK, WORKFLOWS
from helpers.hostile_server import DEEDS, LARGE, HostileServer

from benchmarks.instant_server import running
from scripts import host
from scripts.comfyui import Server

SCRIPT = PACK / "scripts" / "batch.py"
JOBS = 40


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    with Server(host.ensure(HOST["version"]), tmp_path_factory.mktemp("comfyui"), cpu=True) as real:
        yield real


def most_memory(process: subprocess.Popen) -> dict[str, int]:
    """Return the most memory of the command and of each process of Ray's workers, until it ends."""
    most: dict[str, int] = {}
    while process.poll() is None:
        try:
            for part in psutil.Process(process.pid).children(recursive=True):
                if "Worker" in part.name() or "python" in part.name():
                    memory = part.memory_info()
                    used = memory.rss - memory.shared
                    most[str(part.pid)] = max(most.get(str(part.pid), 0), used)
            memory = psutil.Process(process.pid).memory_info()
            most["command"] = max(most.get("command", 0), memory.rss - memory.shared)
        except psutil.Error:
            pass
        time.sleep(0.1)
    return most


def test_forty_jobs_beside_a_hostile_server(honest, tmp_path):
    """There are 40 lines. Jobs that the hostile server broke have failed, with reasons.

    No file is outside the run's folder.
    """
    path, output = tmp_path / "w.json", tmp_path / "deep" / "er" / "output"
    path.write_bytes((WORKFLOWS / "api" / "text_to_image.json").read_bytes())
    with running(HostileServer(lambda workflow: workflow["9"]["inputs"]["seed"])) as hostile:
        command = [sys.executable, SCRIPT, path, "--output", output]
        command += ["--set", f"Decoder.seed=1..{JOBS}", "--set", "Decoder.steps=12"]
        command += ["--servers", ",".join([*hostile.urls, honest.url])]
        command += ["--patience", "3", "--job-timeout", "15"]
        process = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True)
        memory: dict[str, int] = {}
        watch = threading.Thread(target=lambda: memory.update(most_memory(process)))
        watch.start()
        shown = process.communicate(timeout=300)[1]
        watch.join()
    lines = (output / "manifest.jsonl").read_text().splitlines()
    records = {record["inputs"]["Decoder.seed"]: record for record in map(json.loads, lines)}
    assert len(lines) == JOBS == len(records), shown
    assert not hostile.left, shown
    for seed, record in records.items():
        at_hostile = record["server"] in hostile.urls
        reason = DEEDS.get(hostile.done.get(seed, "")) if at_hostile else None
        assert (reason in record["error"]) if reason else record["error"] is None, record
        assert len(record["error"] or "") < 11_000
    bad = sum(1 for reason in DEEDS.values() if reason)
    assert process.returncode == 1 and f"{bad} of the {JOBS} failed" in shown
    assert "\x1b[2J" not in shown
    kept = {output / file["name"] for record in records.values() for file in record["files"]}
    others = {path, output / "manifest.jsonl", output / "manifest.jsonl.lock"}
    assert {file for file in tmp_path.rglob("*") if file.is_file()} == kept | others
    large = next(seed for seed, deed in hostile.done.items() if deed == "a large picture")
    assert records[large]["files"][0]["bytes"] > LARGE
    assert max(memory.values()) < LARGE, memory
