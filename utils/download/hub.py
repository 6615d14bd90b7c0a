"""Files of the Hugging Face Hub: what a repository holds, and its bytes, to the last one.

huggingface_hub knows the endpoint, the token and offline mode. Its own downloads compare sizes
only, throw away what came of a file that was cut off, and hand on 10 MB at a time, too much to stop
within a second; so bytes are read here.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, __version__, constants, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

HTTPX = int(__version__.split(".")[0]) >= 1  # what huggingface_hub speaks through
if HTTPX:
    from huggingface_hub.errors import HTTPError as NetworkError
else:
    from requests import RequestException as NetworkError

PASSING = (408, 429, 500, 502, 503, 504)  # answers of a server that may think better of it
TRIES = 3  # in a row that bring nothing
BLOCK = 2**22
PIECE = 2**14  # what requests waits for before it hands on what has come
TIMEOUT = constants.HF_HUB_DOWNLOAD_TIMEOUT  # seconds that a network may say nothing


@dataclass(frozen=True)
class HubFile:
    repository: str
    commit: str
    path: str
    size: int
    sha256: str | None  # of a large file (LFS)
    blob: str  # git's own checksum, of a small one


def list_files(repository: str, commit: str) -> dict[str, HubFile]:
    """path → file."""
    info = HfApi().model_info(
        repository, revision=commit, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
    )
    return {
        file.rfilename: HubFile(
            repository,
            commit,
            file.rfilename,
            file.size or 0,
            sha256=file.lfs.sha256 if file.lfs else None,
            blob=file.blob_id or "",
        )
        for file in info.siblings or []
    }


def fetch(file: HubFile, part: Path, on_bytes: Callable[[int], None]) -> None:
    """Append to `part` what it lacks of a file; from the user's cache, if it is there.

    A connection that breaks is opened again where it broke. `on_bytes` gets the size of each
    block, negative where a server starts over, and may raise to stop.
    """
    cached = try_to_load_from_cache(file.repository, file.path, revision=file.commit)
    if isinstance(cached, str) and not length(part):
        shutil.copyfile(cached, part)
    part.touch()  # of an empty file nothing comes
    on_bytes(length(part))
    failures = 0
    while (start := length(part)) < file.size:
        try:
            read_on(file, part, start, on_bytes)
        except NetworkError as error:
            passing = not isinstance(error, HfHubHTTPError) or error.response.status_code in PASSING
            failures = 1 if length(part) > start else failures + 1
            if failures >= TRIES or not passing:
                raise
            on_bytes(0)
            time.sleep(1)


def read_on(file: HubFile, part: Path, start: int, on_bytes: Callable[[int], None]) -> None:
    """One connection's worth.

    Raises:
        NetworkError: it broke off.
        ValueError: the server sends more than it announced.
    """
    url = hf_hub_url(file.repository, file.path, revision=file.commit)
    # A body that the server compresses could not be gone on with.
    headers = build_hf_headers() | {"Accept-Encoding": "identity", "Range": f"bytes={start}-"}
    with open_stream(url, headers) as (answer, blocks):
        hf_raise_for_status(answer)
        if answer.status_code != 206:  # the whole file, whatever was asked for
            on_bytes(-start)
            start = 0
        with part.open("ab" if start else "wb") as output:
            for block in blocks:
                on_bytes(len(block))
                start += len(block)
                if start > file.size:
                    raise ValueError(f"{url} sends more than its {file.size} bytes. Try again.")
                output.write(block)
                output.flush()  # so that it counts, however this ends
    if start < file.size:
        raise NetworkError(f"{url} ended after {start} of {file.size} bytes")


@contextmanager
def open_stream(url: str, headers: dict[str, str]) -> Generator[tuple[Any, Iterable[bytes]]]:
    """(answer, its body as it comes)."""
    session: Any = get_session()
    if HTTPX:
        with session.stream("GET", url, headers=headers, timeout=TIMEOUT) as answer:
            yield answer, answer.iter_bytes()
    else:
        with session.get(url, headers=headers, timeout=TIMEOUT, stream=True) as answer:
            yield answer, answer.iter_content(PIECE)


def length(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def check(file: HubFile, part: Path, on_bytes: Callable[[int], None]) -> None:
    """Compare a fetched file with the hub's checksum; one that differs is removed.

    Raises:
        ValueError: it differs.
    """
    wanted = file.sha256 or file.blob
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(b"blob %d\0" % file.size)
    with part.open("rb") as content:
        while block := content.read(BLOCK):
            digest.update(block)
            on_bytes(0)
    if digest.hexdigest() != wanted:
        part.unlink()
        raise ValueError(
            f"{file.path} of {file.repository} came broken: its checksum is {digest.hexdigest()}, "
            f"the hub's {wanted}. It was removed; run this again to fetch it again."
        )


@contextmanager
def translate_errors(repository: str, commit: str) -> Generator[None]:
    """What huggingface_hub raises → what happened, what was seen, what to do, as an OSError."""
    endpoint = constants.ENDPOINT
    again = "What was fetched is kept: run this again to go on."
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise ConnectionError(
            f"HF_HUB_OFFLINE is set: {repository} can be neither fetched nor compared. Unset it, "
            "and start this program again."
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise PermissionError(
                f"{endpoint} does not give out {repository} (status {status}): it is not there, or "
                "not for everyone. Check HF_ENDPOINT; log in with `hf auth login` or set HF_TOKEN."
            ) from error
        if status == 404:
            raise FileNotFoundError(
                f"{endpoint} does not have {repository} with commit {commit}. Check HF_ENDPOINT."
            ) from error
        raise ConnectionError(f"{endpoint} answered {status} for {repository}. {again}") from error
    except json.JSONDecodeError as error:
        raise ConnectionError(
            f"{endpoint} did not answer as a hub does ({error}). Check HF_ENDPOINT, and whether "
            "the network wants a login first."
        ) from error
    except NetworkError as error:
        raise ConnectionError(
            f"{endpoint} cannot be reached, or broke off: {error}. Check the network, the proxy "
            f"and HF_ENDPOINT. {again}"
        ) from error
