"""The next run removes what a killed run of scripts/batch.py has left."""

import json
import subprocess
import sys
import time
from pathlib import Path

import psutil
from helpers.checkout import HOST, PACK

from scripts import host

SCRIPT = PACK / "scripts" / "batch.py"
WORKFLOW = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 0},
    },
    "5": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "x"}},
}


def folders() -> set[Path]:
    places = (host.cache_folder(), "batch-*"), (Path("/tmp"), "ray-*")
    return {path for place, name in places for path in place.glob(name)}


def processes_of(paths: set[Path]) -> list[str]:
    found = []
    for process in psutil.process_iter():
        try:
            command = " ".join(process.cmdline())
        except psutil.Error:
            continue
        found += [command for path in paths if f"{path}/" in command]
    return found


def test_after_a_run_that_was_killed(tmp_path):
    """Its ComfyUI, its Ray and their folders are there until the next run, and not after it."""
    (tmp_path / "w.json").write_text(json.dumps(WORKFLOW))
    command = [sys.executable, SCRIPT, tmp_path / "w.json", "--host", HOST["version"]]
    command = [str(part) for part in [*command, "--output", tmp_path]]
    before = folders()
    first = subprocess.Popen([*command, "--set", "1.color=1..5000"], stderr=subprocess.DEVNULL)
    manifest = tmp_path / "manifest.jsonl"
    while not manifest.exists() or manifest.stat().st_size < 1000:
        assert first.poll() is None
        time.sleep(0.1)
    first.kill()
    first.wait()
    left = {path for path in folders() - before if path.is_dir()}
    assert {path.name.split("-")[0] for path in left} == {"batch", "ray"}
    done = subprocess.run([*command, "--set", "1.color=5001"], capture_output=True, text=True)
    assert "1 jobs were run; 0 of the 1 failed" in done.stderr, done.stderr
    assert not left & folders() and not folders() - before
    assert not processes_of(left)
