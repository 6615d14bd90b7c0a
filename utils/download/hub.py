"""Ask the Hugging Face Hub which files a repository holds, and open them.

huggingface_hub knows the endpoint, the token and offline mode. Its own listings and downloads do
not check the answers of the hub. `transfer` reads the bytes.
"""

import json
import re
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import __version__, constants, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import OfflineModeIsEnabled
from huggingface_hub.utils import build_hf_headers, get_session

HTTPX = int(__version__.split(".")[0]) >= 1  # the library that huggingface_hub uses
if HTTPX:
    from huggingface_hub.errors import HTTPError as NetworkError
else:
    from requests import RequestException as NetworkError

PIECE = 2**14  # the bytes for which requests waits before it hands them on
TIMEOUT = constants.HF_HUB_DOWNLOAD_TIMEOUT  # how many seconds a network may send nothing
MOST_LISTED = 2**24  # bytes of a listing; those of the published repositories have some 10 kB
MOST_BYTES = 2**63  # of a file: no disk has room for more


class Refused(Exception):
    """An answer without the requested content.

    huggingface_hub's own errors would read and decode its body, of any size and kind.
    """

    def __init__(self, what: str, status: int):
        super().__init__(f"it answered status {status} without {what}")
        self.status = status


@dataclass(frozen=True)
class HubFile:
    repository: str
    commit: str
    path: str
    size: int
    sha256: str | None  # of a large file (LFS)
    blob: str  # git's own checksum, of a small file

    def __str__(self):
        return f"{self.path} of {self.repository}"

    @property
    def checksum(self) -> str:
        return self.sha256 or self.blob


def list_entries(repository: str, commit: str) -> dict[str, dict[str, Any]]:
    """Return path → the hub's entry for that file; see `hub_file`.

    Raises:
        ValueError: the answer is not a listing.
        NetworkError, Refused: there is no answer, or no access; see `translate_errors`.
    """
    url = f"{constants.ENDPOINT}/api/models/{repository}/revision/{commit}?blobs=true"
    content = bytearray()
    with open_stream(url, {}, constants.HF_HUB_ETAG_TIMEOUT) as (answer, blocks):
        if answer.status_code != 200:
            raise Refused("a listing", answer.status_code)
        for block in blocks:
            content += block
            if len(content) > MOST_LISTED:
                raise odd(repository, f"the listing has more than {MOST_LISTED} bytes")
    try:
        listing: Any = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ConnectionError(
            f"{constants.ENDPOINT} did not answer as a hub does for {repository} ({error}). Check "
            "HF_ENDPOINT, and whether the network wants a login first."
        ) from error
    entries: Any = listing.get("siblings") if isinstance(listing, dict) else None
    if not isinstance(entries, list):
        raise odd(repository, f"it has no list of files (siblings), but is {listing!r:.80}")
    for entry in entries:
        if not isinstance(entry, dict) or not isinstance(entry.get("rfilename"), str):
            raise odd(repository, f"a file has no name (rfilename), but is {entry!r:.80}")
    return {entry["rfilename"]: entry for entry in entries}


def hub_file(repository: str, commit: str, entry: dict[str, Any]) -> HubFile:
    """Return the file of a listing's entry. Raise ValueError without a valid size and checksum."""
    path, size, lfs, blob = (entry.get(key) for key in ("rfilename", "size", "lfs", "blobId"))
    if type(size) is not int or not 0 <= size < MOST_BYTES:
        raise odd(repository, f"the size of {path!r:.80} is {size!r:.80}")
    sha256 = lfs.get("sha256") if isinstance(lfs, dict) else lfs
    wanted, digits = (sha256, 64) if lfs else (blob, 40)
    if not isinstance(wanted, str) or not re.fullmatch(rf"[0-9a-fA-F]{{{digits}}}", wanted):
        raise odd(repository, f"the checksum of {path!r:.80} is {wanted!r:.80}")
    wanted = wanted.lower()
    sha256, blob = (wanted, "") if lfs else (None, wanted)
    return HubFile(repository, commit, str(path), size, sha256, blob)


def odd(repository: str, what: str) -> ValueError:
    return ValueError(
        f"{constants.ENDPOINT} lists the files of {repository} in an odd way: {what}. Nothing of "
        "it was taken. Check HF_ENDPOINT, or try again later."
    )


@contextmanager
def open_stream(
    url: str, headers: dict[str, str], timeout: float = TIMEOUT
) -> Generator[tuple[Any, Iterable[bytes]]]:
    """Yield an answer, and its body in blocks as they come."""
    headers = build_hf_headers() | headers
    with ExitStack() as stack:
        try:
            session: Any = get_session()
            open_it: Callable[..., Any] = session.stream if HTTPX else session.request
            more = {} if HTTPX else {"stream": True}
            answer: Any = stack.enter_context(
                open_it("GET", url, headers=headers, timeout=timeout, **more)
            )
        except (NetworkError, OfflineModeIsEnabled):
            raise
        except Exception as error:  # such as a redirect to an invalid address
            raise NetworkError(f"{url} cannot be opened: {error}") from error
        yield answer, answer.iter_bytes() if HTTPX else answer.iter_content(PIECE)


def open_file(
    file: HubFile, headers: dict[str, str]
) -> AbstractContextManager[tuple[Any, Iterable[bytes]]]:
    """Open a file in the same way. A download of a compressed body could not be resumed."""
    url = hf_hub_url(file.repository, file.path, revision=file.commit)
    return open_stream(url, {"Accept-Encoding": "identity"} | headers)


def in_cache(file: HubFile) -> Path | None:
    """Return the path of a file that huggingface_hub has fetched for another program, or None."""
    found = try_to_load_from_cache(file.repository, file.path, revision=file.commit)
    return Path(found) if isinstance(found, str) else None


@contextmanager
def translate_errors(what: str, commit: str) -> Generator[None]:
    """Turn an error of huggingface_hub into an OSError that says what happened and what to do.

    Args:
        what: a repository, or a file of one.
    """
    endpoint = constants.ENDPOINT
    again = "What was fetched is kept: run this again to go on."
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise ConnectionError(
            f"HF_HUB_OFFLINE is set: {what} can be neither fetched nor compared. Unset it, "
            "and start this program again."
        ) from error
    except (NetworkError, Refused) as error:
        status = error.status if isinstance(error, Refused) else 0
        if status in (401, 403):
            raise PermissionError(
                f"{endpoint} does not give out {what} (status {status}): it is not there, or "
                "not for everyone. Check HF_ENDPOINT; log in with `hf auth login` or set HF_TOKEN."
            ) from error
        if status == 404:
            raise FileNotFoundError(
                f"{endpoint} does not have {what} with commit {commit}. Check HF_ENDPOINT."
            ) from error
        if status >= 400:
            raise ConnectionError(f"{endpoint} answered {status} for {what}. {again}") from error
        raise ConnectionError(
            f"{endpoint} cannot be reached, or broke off, for {what}: {error}. Check the network, "
            f"the proxy and HF_ENDPOINT. {again}"
        ) from error
