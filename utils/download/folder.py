"""A published repository → a model folder: fetched, checked, stored, and only then named."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from . import hub
from .half_precision import store_as_fp16
from .progress import Progress, size_text
from .repositories import Repository

PRECISIONS = ("fp16", "fp32")
RECORD = "download.json"  # in every folder made here: what it is, and the size of each file


def make_folder(repository: Repository, root: Path, precision: str, progress: Progress) -> str:
    name, folder = repository.name, root / repository.name
    next_step = f"Press R in the page, then choose {name} in {repository.loader}."
    if stored := finished(folder):
        return f"Already there. {next_step} It is in {folder}: {stored}."
    files = hub.list_files(repository.id, repository.commit)
    # The marker comes last: until then no one takes the folder for a model. The largest come first:
    # one that is being converted is there one and a half times.
    wanted = sorted(
        (files[path] for path in repository.wanted(files)),
        key=lambda file: (file.path == repository.marker, -file.size),
    )
    if folder.exists():
        check_as_published(folder, wanted)
        return f"Already there. {next_step} It is in {folder}, as published."
    root.mkdir(parents=True, exist_ok=True)
    lock, partial = root / f".{name}.lock", root / f".{name}.partial"
    try:
        progress.doing = "Waiting for another download of it to end"
        # One that was stopped, and waits for the network, ends with that.
        with FileLock(lock, timeout=hub.TIMEOUT + 2):
            progress.advance()
            if stored := finished(folder):  # by the one that was waited for
                return f"Already there. {next_step} It is in {folder}: {stored}."
            record = dict(repository=repository.id, commit=repository.commit, precision=precision)
            begin(partial, record)
            check_disk_space(wanted, partial, precision)
            progress.total = sum(file.size for file in wanted)
            for file in wanted:
                store(file, partial / file.path, precision, progress)
            sizes = {file.path: hub.length(partial / file.path) for file in wanted}
            write_record(partial, {**record, "files": sizes})
            partial.rename(folder)
    except Timeout as error:
        raise OSError(
            f"{name} is being fetched by another process. Wait for it, then run this again."
        ) from error
    lock.unlink(missing_ok=True)
    size = size_text(sum(sizes.values()))
    return f"Ready. {next_step} It is in {folder}: {precision}, {size}."


def read_record(folder: Path) -> dict[str, Any]:
    try:
        record: Any = json.loads((folder / RECORD).read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    known = isinstance(record, dict) and isinstance(record.get("files", {}), dict)
    return record if known and "precision" in record else {}


def write_record(folder: Path, record: dict[str, Any]) -> None:
    (folder / RECORD).write_text(json.dumps(record, indent=1), "utf-8")


def finished(folder: Path) -> str | None:
    """The precision of a folder that was made here and is whole."""
    record = read_record(folder)
    sizes = record.get("files", {})
    whole = sizes and all(hub.length(folder / path) == size for path, size in sizes.items())
    return record["precision"] if whole else None


def check_as_published(folder: Path, files: list[hub.HubFile]) -> None:
    """For a folder that was not made here, or was changed since."""
    for file in files:
        if hub.length(folder / file.path) != file.size:
            raise FileExistsError(
                f"{folder} is there, but not as published: {file.path} is missing or of another "
                "size. Nothing was changed. If it works, use it as it is; if not, move it away and "
                "run this again."
            )


def begin(partial: Path, record: dict[str, Any]) -> None:
    """Make the folder of a download, or keep the one that is there if it is of the same one."""
    old = read_record(partial)
    if partial.exists() and old | record != old:
        shutil.rmtree(partial)
    partial.mkdir(exist_ok=True)
    write_record(partial, record)


def check_disk_space(files: list[hub.HubFile], partial: Path, precision: str) -> None:
    stored = needed = 0  # on the way: by the files that are whole, and at most
    for file in files:
        target = partial / file.path
        if target.exists():
            continue
        half = precision == "fp16" and target.suffix == ".safetensors"  # all that are published
        begun = hub.length(part_of(target)) + hub.length(half_of(target))
        needed = max(needed, stored + file.size * (3 if half else 2) // 2 - begun)
        stored += file.size // (2 if half else 1) - begun
    free = shutil.disk_usage(partial).free
    if needed > free:
        raise OSError(
            f"{size_text(needed)} more is needed on the disk of {partial.parent}, where "
            f"{size_text(free)} is free. Make room there, or choose another models folder "
            "(extra_model_paths.yaml, or --models-dir on the command line)."
        )


def part_of(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def half_of(target: Path) -> Path:
    return target.with_name(target.name + ".half")


def store(file: hub.HubFile, target: Path, precision: str, progress: Progress) -> None:
    """Fetch one file; under its name it is whole, checked, in its precision, and on the disk."""
    part = part_of(target)
    if target.exists():
        part.unlink(missing_ok=True)
        progress.advance(file.size)
        return
    target.parent.mkdir(exist_ok=True)
    progress.doing = f"Fetching {file.path}"
    hub.fetch(file, part, progress.advance)
    progress.doing = f"Checking {file.path}"
    hub.check(file, part, progress.advance)
    whole = part
    if precision == "fp16" and file.path.endswith(".safetensors"):
        progress.doing = f"Storing {file.path} as fp16"
        half = half_of(target)
        whole = half if store_as_fp16(part, half, progress.advance) else part
    with whole.open("rb+") as content:
        os.fsync(content.fileno())
    whole.rename(target)
    part.unlink(missing_ok=True)
