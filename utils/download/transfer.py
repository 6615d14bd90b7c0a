"""Download the bytes of a file from the Hugging Face Hub.

huggingface_hub's own downloads check only sizes, and keep nothing of a file that was cut off. They
hand on 10 MB at a time, too much to stop within a second. So the bytes are read here.
"""

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from .hub import HubFile, NetworkError, Refused, in_cache, open_file, translate_errors

PASSING = (408, 429, 500, 502, 503, 504)  # answers of a server after which another try may succeed
TRIES = 3  # failures in a row without a byte
PAUSE = 1  # seconds between them
BLOCK = 2**22


def fetch(file: HubFile, part: Path, on_bytes: Callable[[int], None], cached: bool = True) -> bool:
    """Append to `part` what it lacks of a file, from the user's cache if the file is there.

    A connection that breaks is opened again at the same byte. `on_bytes` gets the size of each
    block, and may raise to stop. Return whether some of the file was on this computer before.

    Raises:
        ValueError: the server sends more than it announced.
        OSError: it does not send all of the file, or denies access.
    """
    if cached and not length(part):
        copy_from_cache(file, part)
    part.touch()  # an empty file brings no bytes
    begun = length(part)
    on_bytes(begun)
    failures = 0
    with translate_errors(str(file), file.commit):
        while (start := length(part)) < file.size:
            try:
                read_on(file, part, start, on_bytes)
            except (NetworkError, Refused) as error:
                failures = 1 if length(part) > start else failures + 1
                if failures >= TRIES or not is_passing(error):
                    raise
                on_bytes(0)
                time.sleep(PAUSE)
    return begun > 0


def is_passing(error: Exception) -> bool:
    return not isinstance(error, Refused) or error.status < 400 or error.status in PASSING


def copy_from_cache(file: HubFile, part: Path) -> None:
    """Copy a file from the cache. If that fails, it is downloaded."""
    with suppress(OSError):
        cached = in_cache(file)
        if cached and length(cached) == file.size:
            shutil.copyfile(cached, part)


def read_on(file: HubFile, part: Path, start: int, on_bytes: Callable[[int], None]) -> None:
    """Read from one connection, from `start` on.

    If the server sends the whole file, skip its start.

    Raises:
        NetworkError, Refused: it broke off, or could not be opened.
        ValueError: the server sends more than it announced.
    """
    for rest in [{"Range": f"bytes={start}-"}, {}] if start else [{}]:
        with open_file(file, rest) as (answer, blocks):
            known = bytes_before(start, answer)
            if known is not None:
                return append(file, part, known, blocks, on_bytes)
            if rest and (answer.status_code < 400 or answer.status_code == 416):
                continue  # ask for the whole file
            raise Refused("the file", answer.status_code)


def bytes_before(start: int, answer: Any) -> int | None:
    """Return how many bytes of an answer's body come before the byte `start` of the file.

    Return None if that byte is not in it, or if its position is unknown.
    """
    begin = 0
    if answer.status_code == 206:
        place = re.match(r"bytes (\d{1,19})-", answer.headers.get("Content-Range", ""))
        plain = answer.headers.get("Content-Encoding", "identity") == "identity"
        begin = int(place[1]) if place and plain else start + 1
    return start - begin if answer.status_code in (200, 206) and begin <= start else None


def append(
    file: HubFile, part: Path, known: int, blocks: Iterable[bytes], on_bytes: Callable[[int], None]
) -> None:
    """Write what comes after the first `known` bytes, which `part` has already."""
    size = length(part)
    with part.open("ab") as output:
        for block in blocks:
            fresh = block[known:]
            known -= len(block) - len(fresh)
            on_bytes(len(fresh))
            size += len(fresh)
            if size > file.size:
                raise ValueError(
                    f"The hub sends more than its {file.size} bytes of {file}. What fits is kept: "
                    "try again, and check HF_ENDPOINT."
                )
            output.write(fresh)
            output.flush()  # so that the bytes are kept, however this ends
    if size < file.size:
        raise NetworkError(f"{file} ended after {size} of {file.size} bytes")


def length(path: Path) -> int:
    """Return the size of a file, or 0 if there is none."""
    return os.path.getsize(path) if os.path.isfile(path) else 0  # pathlib's may raise


def check(file: HubFile, part: Path, on_bytes: Callable[[int], None]) -> None:
    """Compare a downloaded file with the hub's checksum. A file that differs is removed.

    Raises:
        ValueError: it differs.
    """
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(b"blob %d\0" % file.size)
    with part.open("rb") as content:
        while block := content.read(BLOCK):
            digest.update(block)
            on_bytes(0)
    if digest.hexdigest() != file.checksum:
        on_bytes(-length(part))
        part.unlink()
        raise ValueError(
            f"{file} came broken: its checksum is {digest.hexdigest()}, the hub's {file.checksum}. "
            "It was removed; run this again to fetch it again."
        )
