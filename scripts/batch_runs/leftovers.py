"""The temporary folders of this run, and those that killed runs have left."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from scripts.host import try_lock


@dataclass
class OwnFolder:
    """A folder that belongs to this process, which holds a lock on a file beside it."""

    path: Path
    lock: IO[bytes]

    def remove(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        self.lock.close()
        lock_of(self.path).unlink(missing_ok=True)


def lock_of(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.lock")


def own_folder(prefix: str, parent: Path) -> OwnFolder:
    """Make a new folder in `parent`. The lock is made first, so that no folder is without one."""
    parent.mkdir(parents=True, exist_ok=True)
    while True:
        path = parent / f"{prefix}{uuid.uuid4().hex[:8]}"
        lock = open(lock_of(path), "xb")  # noqa: SIM115
        if try_lock(lock) and lock_of(path).exists():  # otherwise another run has just removed it
            path.mkdir(mode=0o700)
            return OwnFolder(path, lock)
        lock.close()


def sweep(prefix: str, parent: Path) -> None:
    """Remove the folders of runs that have ended without removing them."""
    for lock in parent.glob(f"{prefix}*.lock"):
        with contextlib.suppress(OSError):  # it belongs to another user, or has just been removed
            if is_ours(lock):
                remove_if_free(lock)


def remove_if_free(lock: Path) -> None:
    with lock.open("r+b") as file:
        if not try_lock(file):
            return
        folder = lock.with_suffix("")
        end_processes(folder)
        if is_ours(folder):
            shutil.rmtree(folder, ignore_errors=True)
    if not folder.exists():
        lock.unlink()


def is_ours(path: Path) -> bool:
    """Return whether a path belongs to this user and is not a link, as others use /tmp, too."""
    return os.path.lexists(path) and not path.is_symlink() and path.lstat().st_uid == user()


def user() -> int:
    return os.getuid() if hasattr(os, "getuid") else 0  # on Windows, st_uid is 0 for every file


def end_processes(folder: Path) -> None:
    """End the Ray processes of a killed run, whose commands contain the folder."""
    import psutil  # comes with Ray

    mine = psutil.Process()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.username() == mine.username() and process.pid != mine.pid:
                if any(f"{folder}{os.sep}" in part for part in process.cmdline()):
                    process.kill()
