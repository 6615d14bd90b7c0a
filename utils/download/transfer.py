"""The bytes of a file of the Hugging Face Hub, to the last one.

huggingface_hub's own downloads compare sizes only, throw away what came of a file that was cut off,
and hand on 10 MB at a time, too much to stop within a second; so bytes are read here.
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

PASSING = (408, 429, 500, 502, 503, 504)  # answers of a server that may think better of it
TRIES = 3  # in a row that bring nothing
PAUSE = 1  # seconds between them
BLOCK = 2**22


def fetch(file: HubFile, part: Path, on_bytes: Callable[[int], None], cached: bool = True) -> bool:
    """Append to `part` what it lacks of a file; from the user's cache, if it is there.

    A connection that breaks is opened again where it broke. `on_bytes` gets the size of each
    block, and may raise to stop. Returns whether some of the file was on this computer before.

    Raises:
        ValueError: the server sends more than it announced.
        OSError: it does not send all of the file, or not to us.
    """
    if cached and not length(part):
        copy_from_cache(file, part)
    part.touch()  # of an empty file nothing comes
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
    """What cannot be read there is fetched."""
    with suppress(OSError):
        cached = in_cache(file)
        if cached and length(cached) == file.size:
            shutil.copyfile(cached, part)


def read_on(file: HubFile, part: Path, start: int, on_bytes: Callable[[int], None]) -> None:
    """One connection's worth: from `start` on, or of the whole file what comes after it.

    Raises:
        NetworkError, Refused: it broke off, or did not come about.
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
    """How much of an answer's body comes before the byte `start` of the file; None if that byte is
    not in it, or nobody knows where."""
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
            output.flush()  # so that it counts, however this ends
    if size < file.size:
        raise NetworkError(f"{file} ended after {size} of {file.size} bytes")


def length(path: Path) -> int:
    """The size of a file; 0 if there is none."""
    return os.path.getsize(path) if os.path.isfile(path) else 0  # pathlib's may raise


def check(file: HubFile, part: Path, on_bytes: Callable[[int], None]) -> None:
    """Compare a fetched file with the hub's checksum; one that differs is removed.

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
