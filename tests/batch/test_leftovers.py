"""The next run removes the folders and processes of a killed run, and nothing else."""

import os
import signal
import subprocess
import sys

import psutil
import pytest
from helpers.checkout import PACK

from scripts.batch_runs.leftovers import lock_of, own_folder, sweep

# Makes a folder, starts a process that names it, prints both, and waits.
RUN = """
import subprocess, sys, time
from pathlib import Path
sys.path.append(sys.argv[1])
from scripts.batch_runs.leftovers import own_folder
ours = own_folder("batch-", Path(sys.argv[2]))
folder = ours.path
(folder / "sub").mkdir()
(folder / "sub" / "file").write_text("x")
code = "import time; time.sleep(600)"
other = subprocess.Popen([sys.executable, "-c", code, str(folder / "sub")], close_fds=True)
print(folder, other.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def run(tmp_path):
    """Start another run in tmp_path.

    Return its process, its folder, and a process that it has started.
    """
    command = [sys.executable, "-c", RUN, PACK, tmp_path]
    with subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True) as process:
        folder, pid = process.stdout.readline().split()
        yield process, type(tmp_path)(folder), psutil.Process(int(pid))
        for left in (process, psutil.Process(int(pid)) if psutil.pid_exists(int(pid)) else None):
            if left:
                left.kill()


def test_what_a_run_that_is_at_work_has_stays(run, tmp_path):
    process, folder, other = run
    sweep("batch-", tmp_path)
    assert (folder / "sub" / "file").exists() and lock_of(folder).exists() and other.is_running()


def test_what_a_run_that_was_killed_has_left_goes(run, tmp_path):
    process, folder, other = run
    process.send_signal(signal.SIGKILL if os.name == "posix" else signal.SIGTERM)
    process.wait()
    sweep("other-", tmp_path)
    assert folder.exists()
    sweep("batch-", tmp_path)
    assert not list(tmp_path.iterdir())
    other.wait(10)


def test_folders_that_no_run_has_locked_stay(tmp_path):
    """A user may have a folder with such a name."""
    (tmp_path / "batch-of-mine").mkdir()
    sweep("batch-", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["batch-of-mine"]


@pytest.mark.skipif(os.name == "nt", reason="a link needs special rights there")
def test_a_link_leads_nowhere(tmp_path):
    """In /tmp, any user may put a link in the place of an old folder."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "file").write_text("x")
    (tmp_path / "ray-1").symlink_to(tmp_path / "home", target_is_directory=True)
    (tmp_path / "ray-1.lock").write_bytes(b"")
    (tmp_path / "ray-2.lock").symlink_to(tmp_path / "home" / "file")
    sweep("ray-", tmp_path)
    assert (tmp_path / "home" / "file").read_text() == "x"


def test_a_run_that_ends_leaves_nothing(tmp_path):
    folder = own_folder("batch-", tmp_path)
    (folder.path / "file").write_text("x")
    folder.remove()
    assert not list(tmp_path.iterdir())
