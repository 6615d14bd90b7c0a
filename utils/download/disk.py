"""Check the disk for a download: its free space, an existing model, and other files in the way."""

import os
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path

from .hub import HubFile
from .progress import size_text
from .repositories import RECORD
from .transfer import length


def check_as_published(folder: Path, files: list[HubFile]) -> None:
    """Raise FileExistsError unless an existing folder has the files as published.

    The folder was not made here, or was changed after that.
    """
    if not folder.exists():
        raise FileExistsError(
            f"{folder} is a link that leads to nothing. Nothing was changed. Connect the disk that "
            "it leads to, or remove the link; then run this again."
        )
    for file in files:
        if length(folder / file.path) != file.size:
            raise FileExistsError(
                f"{folder} is there, but not as published: {file.path} is missing or of another "
                "size. Nothing was changed. If it works, use it as it is; if not, move it away and "
                "run this again."
            )


def check_nothing_in_the_way(
    root: Path, lock: Path, partial: Path, files: list[HubFile], left_out: Iterable[str]
) -> None:
    """Raise FileExistsError if something else is in the place of a folder or a file to be made.

    A link would lead to writing outside the folder, so only the root may be a link.
    """
    targets = [partial / file.path for file in files] + [partial / RECORD]
    folders = [root, partial, *{target.parent for target in targets}]
    folders += [partial / part for part in left_out]  # these are removed
    made = {lock, *targets, *map(part_of, targets), *map(half_of, targets)}
    for path, kind, is_kind in [(path, "folder", os.path.isdir) for path in folders] + [
        (path, "file", os.path.isfile) for path in sorted(made)
    ]:
        is_link = os.path.islink(path) and path != root
        if os.path.lexists(path) and (is_link or not is_kind(path)):
            raise FileExistsError(
                f"{path} is in the way: a {kind} is to be there, and it is a link or something "
                "else. Nothing was changed. Move it away, then run this again."
            )


def check_disk_space(
    files: list[HubFile], partial: Path, precision: str, same: Collection[str]
) -> None:
    """Raise OSError if the disk has less free space than the download needs.

    Args:
        same: paths whose content comes from another file on this computer, and needs no room before
            it is stored.
    """
    # The bytes of the files that are complete, and the most that are needed at any time.
    stored = needed = 0
    for file in files:
        target = partial / file.path
        if target.exists():
            continue
        # The image encoder is published in fp16 already, and all others in fp32.
        wide = target.suffix == ".safetensors" and not file.path.startswith("image_encoder/")
        half = precision == "fp16" and wide
        begun = length(part_of(target)) + length(half_of(target))
        whole = file.size * (3 if half and file.path not in same else 2) // 2
        needed = max(needed, stored + whole - begun)
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
