"""A published repository → a model folder: fetched, checked, stored, and only then named."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from . import hub
from .disk import (
    check_as_published,
    check_disk_space,
    check_nothing_in_the_way,
    half_of,
    part_of,
)
from .half_precision import store_as_fp16
from .progress import Progress, size_text
from .repositories import RECORD, Repository
from .transfer import check, fetch, length

PRECISIONS = ("fp16", "fp32")


def make_folder(repository: Repository, root: Path, precision: str, progress: Progress) -> str:
    name, folder = repository.name, root / repository.name
    next_step = f"Press R in the page, then choose {name} in {repository.loader}."
    if stored := finished(folder):
        return f"Already there. {next_step} It is in {folder}: {stored}."
    entries = hub.list_entries(repository.id, repository.commit)
    files = [
        hub.hub_file(repository.id, repository.commit, entries[path])
        for path in repository.wanted(entries)
    ]
    # The marker comes last: until then no one takes the folder for a model. The largest come first:
    # one that is being converted is there one and a half times.
    wanted = sorted(files, key=lambda file: (file.path == repository.marker, -file.size))
    if os.path.lexists(folder):
        check_as_published(folder, wanted)
        return f"Already there. {next_step} It is in {folder}, as published."
    lock, partial = root / f".{name}.lock", root / f".{name}.partial"
    check_nothing_in_the_way(root, lock, partial, wanted)
    root.mkdir(parents=True, exist_ok=True)
    try:
        progress.doing = "Waiting for another download of it to end"
        # One that was stopped, and waits for the network, ends with that.
        with FileLock(lock, timeout=hub.TIMEOUT + 2):
            progress.advance()
            if stored := finished(folder):  # by the one that was waited for
                return f"Already there. {next_step} It is in {folder}: {stored}."
            record = dict(repository=repository.id, commit=repository.commit, precision=precision)
            begin(partial, record, {file.path: file.checksum for file in wanted})
            check_disk_space(wanted, partial, precision)
            progress.total = sum(file.size for file in wanted)
            for file in wanted:
                store(file, partial / file.path, precision, progress)
            sizes = {file.path: length(partial / file.path) for file in wanted}
            write_record(partial, record | {"files": sizes})
            partial.rename(folder)
    except Timeout as error:
        raise OSError(
            f"{name} is being fetched by another process. Wait for it, then run this again."
        ) from error
    lock.unlink(missing_ok=True)
    size = size_text(sum(sizes.values()))
    return f"Ready. {next_step} It is in {folder}: {precision}, {size}."


def read_record(folder: Path) -> dict[str, Any]:
    if not os.path.isfile(folder / RECORD):  # nor a pipe, which would be waited for
        return {}
    try:
        record: Any = json.loads((folder / RECORD).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    tables = isinstance(record, dict) and [record.get(key, {}) for key in ("files", "checksums")]
    known = tables and all(isinstance(table, dict) for table in tables)
    return record if known and "precision" in record else {}


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """In one go: without its record a folder would be fetched again."""
    new = part_of(folder / RECORD)
    new.write_text(json.dumps(record, indent=1), "utf-8")
    new.replace(folder / RECORD)


def finished(folder: Path) -> str | None:
    """The precision of a folder that was made here and is whole."""
    record = read_record(folder)
    sizes = record.get("files", {})
    whole = sizes and all(length(folder / path) == size for path, size in sizes.items())
    return record["precision"] if whole else None


def begin(partial: Path, record: dict[str, Any], checksums: dict[str, str]) -> None:
    """Make the folder of a download, or keep the one that is there if it is of the same one.

    A file that another listing was right about, and this one is not, is fetched again.
    """
    old = read_record(partial)
    if partial.exists() and old | record != old:
        shutil.rmtree(partial)
    partial.mkdir(exist_ok=True)
    for path, checksum in checksums.items():
        if old.get("checksums", {}).get(path, checksum) != checksum:
            (partial / path).unlink(missing_ok=True)
    write_record(partial, record | {"checksums": checksums})


def store(file: hub.HubFile, target: Path, precision: str, progress: Progress) -> None:
    """Fetch one file; under its name it is whole, checked, in its precision, and on the disk."""
    part = part_of(target)
    if target.exists():
        part.unlink(missing_ok=True)
        progress.advance(file.size)
        return
    target.parent.mkdir(exist_ok=True)
    bring(file, part, progress)
    whole = part
    if precision == "fp16" and file.path.endswith(".safetensors"):
        progress.doing = f"Storing {file.path} as fp16"
        half = half_of(target)
        whole = half if store_as_fp16(part, half, progress.advance) else part
    with whole.open("rb+") as content:
        os.fsync(content.fileno())
    whole.rename(target)
    part.unlink(missing_ok=True)


def bring(file: hub.HubFile, part: Path, progress: Progress) -> None:
    """Fetch a file, and check it: whatever was there of it before may be of another hub."""
    for cached in (True, False):
        progress.doing = f"Fetching {file.path}"
        begun = fetch(file, part, progress.advance, cached)
        progress.doing = f"Checking {file.path}"
        try:
            return check(file, part, progress.advance)
        except ValueError:
            if not begun:
                raise
