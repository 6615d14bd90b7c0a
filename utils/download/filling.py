"""Fill a model folder with files from this computer or from the hub, checked and converted."""

import os
from collections.abc import Iterable
from pathlib import Path

from .disk import check_disk_space, half_of, part_of
from .half_precision import store_as_fp16
from .hub import HubFile
from .progress import Progress
from .same_files import copy, describe, find_same, link_same
from .transfer import check, fetch


def fill(
    partial: Path,
    wanted: list[HubFile],
    precision: str,
    progress: Progress,
    elsewhere: Iterable[Path],
) -> str:
    """Put all files there. Return notes for the user about those that were not downloaded."""
    missing = [file for file in wanted if not (partial / file.path).exists()]
    same = find_same(missing, elsewhere, progress)
    linked = link_same(same, partial, precision)
    check_disk_space(wanted, partial, precision, same)
    progress.total = sum(file.size for file in wanted)
    for file in wanted:
        store(file, partial / file.path, precision, progress, same.get(file.path))
    return describe(same, linked)


def store(
    file: HubFile, target: Path, precision: str, progress: Progress, same: Path | None
) -> None:
    """Store one file. Under its final name it is complete, checked, in its precision, and on disk.

    Args:
        same: a file on this computer that is read in place of the hub's.
    """
    part = part_of(target)
    if target.exists():
        part.unlink(missing_ok=True)
        progress.advance(file.size)
        return
    target.parent.mkdir(exist_ok=True)
    if same:
        progress.advance(file.size)
    else:
        bring(file, part, progress)
    source = whole = same or part
    if precision == "fp16" and file.path.endswith(".safetensors"):
        progress.doing = f"Storing {file.path} as fp16"
        half = half_of(target)
        whole = half if store_as_fp16(source, half, progress.advance) else source
    if same and whole == same:
        copy(same, part, progress)
        whole = part
    with whole.open("rb+") as content:
        os.fsync(content.fileno())
    whole.rename(target)
    part.unlink(missing_ok=True)


def bring(file: HubFile, part: Path, progress: Progress) -> None:
    """Download a file and check it. An existing part of it may come from another hub."""
    for cached in (True, False):
        progress.doing = f"Fetching {file.path}"
        begun = fetch(file, part, progress.advance, cached)
        progress.doing = f"Checking {file.path}"
        try:
            return check(file, part, progress.advance)
        except ValueError:
            if not begun:
                raise
