"""Find files on this computer that equal files to be downloaded, byte for byte.

Users of IP-Adapter have CLIP ViT-bigG/14, the prior's image encoder.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from .half_precision import has_wide_numbers
from .hub import HubFile
from .progress import Progress
from .transfer import BLOCK, length


def find_same(files: list[HubFile], folders: Iterable[Path], progress: Progress) -> dict[str, Path]:
    """Return path in the repository → a file anywhere in `folders` with the same bytes.

    Only files of the same size are read. Unreadable files are skipped.
    """
    wanted = [file for file in files if file.sha256 and file.size]
    sizes = {file.size for file in wanted}
    likely = [(path, size) for path, size in files_in(folders) if size in sizes]
    progress.total = sum(size for _, size in likely)
    same: dict[str, Path] = {}
    for path, size in likely:
        missing = {f.sha256: f.path for f in wanted if f.size == size and f.path not in same}
        progress.doing = f"Comparing {path} with what is published"
        if missing and (published := missing.get(checksum(path, progress))):
            same[published] = path
    progress.done = progress.total = 0
    return same


def files_in(folders: Iterable[Path]) -> Iterator[tuple[Path, int]]:
    """Yield (path, size) of all files below. Links are followed, and each place is visited once."""
    seen: set[str] = set()
    for folder in folders:
        for place, below, names in os.walk(folder, followlinks=True):
            if (real := os.path.realpath(place)) in seen:
                below.clear()
                continue
            seen.add(real)
            files = {os.path.realpath(os.path.join(place, name)) for name in names} - seen
            seen |= files
            yield from ((Path(file), length(Path(file))) for file in sorted(files))


def checksum(path: Path, progress: Progress) -> str:
    """Return the SHA-256 of a file, or an empty text if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as content:
            while block := content.read(BLOCK):
                digest.update(block)
                progress.advance(len(block))
    except OSError:
        return ""
    return digest.hexdigest()


def link_same(same: dict[str, Path], partial: Path, precision: str) -> set[str]:
    """Link files that are stored without conversion, if both are on one disk. A link takes no room.

    A `.part` file is never a link, because it is written to. Return the paths that were linked.
    """
    linked: set[str] = set()
    for path, source in same.items():
        if precision == "fp16" and path.endswith(".safetensors") and has_wide_numbers(source):
            continue  # it is converted
        (partial / path).parent.mkdir(exist_ok=True)
        with suppress(OSError):  # another disk, or one without links: it is copied later
            os.link(source, partial / path)
            linked.add(path)
    return linked


def copy(source: Path, target: Path, progress: Progress) -> None:
    progress.doing = f"Copying {source}"
    with source.open("rb") as old, target.open("wb") as new:
        while block := old.read(BLOCK):
            new.write(block)
            progress.advance()


def describe(same: dict[str, Path], linked: set[str]) -> str:
    """Return a note for the user, with a sentence for each file."""
    sentences: list[str] = []
    for path, source in same.items():
        how = "is a link to" if path in linked else "was made from"
        sentences.append(
            f" Not downloaded: {path}. It {how} {source}, which is the published file."
        )
    return "".join(sentences)
