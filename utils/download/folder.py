"""Turn a published repository into a model folder: download, check, store, and name it last."""

import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from . import hub
from .disk import check_as_published, check_nothing_in_the_way, part_of
from .filling import fill
from .progress import Progress, size_text
from .repositories import LEFT_OUT, RECORD, Repository
from .transfer import length

PRECISIONS = ("fp16", "fp32")


def make_folder(
    repository: Repository,
    root: Path,
    precision: str,
    progress: Progress,
    elsewhere: Iterable[Path] = (),
) -> str:
    """Make the folder. Return a message for the user.

    Args:
        elsewhere: folders in which some of the files may be already, under any name.
    """
    name, folder = repository.name, root / repository.name
    next_step = f"Press R in ComfyUI, then choose {name} in {repository.loader}."
    already = f"Already there. {next_step} It is in {folder}"
    if stored := ready(folder, repository):
        return f"{already}: {stored}."
    lacking = lacking_parts(folder, repository)
    wanted = list_wanted(repository, lacking)
    if os.path.lexists(folder) and (
        not lacking or any(os.path.lexists(folder / part) for part in lacking)
    ):
        check_as_published(folder, wanted)
        return f"{already}, as published."
    lock, partial = root / f".{name}.lock", root / f".{name}.partial"
    check_nothing_in_the_way(root, lock, partial, wanted, repository.left_out)
    root.mkdir(parents=True, exist_ok=True)
    try:
        progress.doing = "Waiting for another download of it to end"
        # A stopped download ends when its wait for the network ends.
        with FileLock(lock, timeout=hub.TIMEOUT + 2):
            progress.advance()
            if stored := ready(folder, repository):  # another process has made it
                return f"{already}: {stored}."
            precision = read_record(folder)["precision"] if lacking else precision
            record = dict(repository=repository.id, commit=repository.commit, precision=precision)
            begin(partial, record, {file.path: file.checksum for file in wanted})
            notes = fill(partial, wanted, precision, progress, elsewhere)
            sizes = {file.path: length(partial / file.path) for file in wanted}
            finish(partial, folder, record, sizes, lacking, repository.left_out)
    except Timeout as error:
        raise OSError(
            f"{name} is being fetched by another process. Wait for it, then run this again."
        ) from error
    lock.unlink(missing_ok=True)
    size = size_text(sum(sizes.values()))
    return f"Ready. {next_step} It is in {folder}: {precision}, {size}.{notes}"


def list_wanted(repository: Repository, only: set[str]) -> list[hub.HubFile]:
    """Return the files to download, as the hub lists them.

    Args:
        only: folders that are downloaded alone, or empty.
    """
    entries = hub.list_entries(repository.id, repository.commit)
    files = [
        hub.hub_file(repository.id, repository.commit, entries[path])
        for path in repository.wanted(entries)
        if not only or path.split("/")[0] in only
    ]
    # The marker comes last, so that nothing takes an incomplete folder for a model. The largest
    # files come first, because a file takes one and a half times its size during conversion.
    return sorted(files, key=lambda file: (file.path == repository.marker, -file.size))


def finish(
    partial: Path,
    folder: Path,
    record: dict[str, Any],
    sizes: dict[str, int],
    lacking: set[str],
    left_out: Iterable[str],
) -> None:
    """Move the downloaded files to their place: as the folder, or as missing parts of a folder."""
    if lacking:
        old = read_record(folder)
        for part in lacking:
            (partial / part).rename(folder / part)
        kept = [part for part in old["left_out"] if part not in lacking]
        write_record(folder, old | {"files": old["files"] | sizes, "left_out": kept})
        shutil.rmtree(partial)
        return
    for part in left_out:
        if (partial / part).exists():  # begun by a download of the whole model
            shutil.rmtree(partial / part)
    write_record(partial, record | {"files": sizes, "left_out": [*left_out]})
    partial.rename(folder)


def read_record(folder: Path) -> dict[str, Any]:
    if not os.path.isfile(folder / RECORD):  # a pipe would block the reader
        return {}
    try:
        record: Any = json.loads((folder / RECORD).read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    tables = isinstance(record, dict) and [record.get(key, {}) for key in ("files", "checksums")]
    known = tables and all(isinstance(table, dict) for table in tables)
    known = known and isinstance(record.get("left_out", []), list)
    return record if known and "precision" in record else {}


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write the record in one step, as a folder without its record would be downloaded again."""
    new = part_of(folder / RECORD)
    new.write_text(json.dumps(record, indent=1), "utf-8")
    new.replace(folder / RECORD)


def finished(folder: Path) -> str | None:
    """Return the precision of a folder that was made here and is complete, or None."""
    record = read_record(folder)
    sizes = record.get("files", {})
    whole = sizes and all(length(folder / path) == size for path, size in sizes.items())
    return record["precision"] if whole else None


def lacking_parts(folder: Path, repository: Repository) -> set[str]:
    """Return the folders that were left out when the folder was made, and are wanted now."""
    left_out = read_record(folder).get("left_out", []) if finished(folder) else []
    return {part for part in LEFT_OUT if part in left_out and part not in repository.left_out}


def ready(folder: Path, repository: Repository) -> str | None:
    """Return the precision of a folder that was made here and has all that is wanted, or None."""
    return None if lacking_parts(folder, repository) else finished(folder)


def begin(partial: Path, record: dict[str, Any], checksums: dict[str, str]) -> None:
    """Make the folder of a download, or keep an existing one of the same download.

    A file whose checksum differs from that of the last listing is downloaded again.
    """
    old = read_record(partial)
    if partial.exists() and old | record != old:
        shutil.rmtree(partial)
    partial.mkdir(exist_ok=True)
    for path, checksum in checksums.items():
        if old.get("checksums", {}).get(path, checksum) != checksum:
            (partial / path).unlink(missing_ok=True)
    write_record(partial, record | {"checksums": checksums})
