"""Check the files that a server says it has saved, and receive their content."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

import ray

Content = bytes | tuple[ray.ObjectRef, ...]  # of a file; a large one is in Ray's store, in pieces

PIECE = 2**23  # bytes of a file that one process holds at once
LONGEST_NAME = 255  # characters in the name of a file; no usual file system has longer names
SUFFIX = re.compile(r"(\.[A-Za-z0-9_-]{1,16})?")  # the suffixes that every file system accepts
MOST_TEXT = 10_000  # characters of a message that are kept

# The first bytes of each kind of file: (position, bytes). A file needs only one of them.
MP4, EBML, RIFF = (4, b"ftyp"), (0, b"\x1a\x45\xdf\xa3"), (0, b"RIFF")
TIFF = [(0, b"II"), (0, b"MM")]
BEGINNINGS = {
    ".png": [(0, b"\x89PNG\r\n\x1a\n")],
    ".apng": [(0, b"\x89PNG\r\n\x1a\n")],
    ".jpg": [(0, b"\xff\xd8\xff")],
    ".jpeg": [(0, b"\xff\xd8\xff")],
    ".webp": [(8, b"WEBP")],
    ".gif": [(0, b"GIF8")],
    ".bmp": [(0, b"BM")],
    ".tif": TIFF,
    ".tiff": TIFF,
    ".avif": [MP4],
    ".mp4": [MP4],
    ".m4a": [MP4],
    ".webm": [EBML],
    ".mkv": [EBML],
    ".avi": [RIFF],
    ".wav": [RIFF],
    ".flac": [(0, b"fLaC"), (0, b"ID3")],
    ".mp3": [(0, b"ID3"), (0, b"\xff")],
    ".ogg": [(0, b"OggS")],
    ".opus": [(0, b"OggS")],
    ".glb": [(0, b"glTF")],
    ".safetensors": [(8, b"{")],
    ".latent": [(8, b"{")],
}
PAGES = (".html", ".htm", ".xml", ".svg", ".txt", ".md")  # these may begin like a web page


class BadAnswer(RuntimeError):
    """A server names a file that cannot exist, or sends another kind of file."""


def files_of(outputs: dict, kind: str) -> list[tuple[str, dict]]:
    """Return the files that the nodes wrote into the server's folder "output" or "temp" (previews).

    outputs: of a history, with whatever a server may send.

    Raises:
        BadAnswer: a server names a file that cannot exist.
    """
    items = [
        (node, item)
        for node, output in sorted(outputs.items())
        for listed in output.values()
        if isinstance(listed, list)
        for item in listed
        if isinstance(item, dict) and item.get("type") == kind and "filename" in item
    ]
    return [(node, checked(item, node)) for node, item in items]


def checked(item: dict, node: str) -> dict:
    name, folder = item["filename"], item.get("subfolder", "")
    texts = isinstance(name, str) and isinstance(folder, str)
    if not texts or not name or len(name) > LONGEST_NAME or not f"{name}{folder}".isprintable():
        shown = ascii(name) if len(str(name)) < 60 else f"{ascii(name)[:60]}…"
        raise BadAnswer(f"Node {node} names a file that cannot be: {shown}.")
    suffix_of(name)
    return {"filename": name, "subfolder": folder, "type": item["type"]}


def suffix_of(name: str) -> str:
    """Return the suffix of a name: "x_00001_.png" → ".png".

    Raises:
        BadAnswer: not every file system accepts the suffix.
    """
    suffix = PurePosixPath(name).suffix
    if not SUFFIX.fullmatch(suffix):
        raise BadAnswer(f"A file ends with {suffix[:60]!r}, which is no kind of file.")
    return suffix


def check_kind(name: str, head: bytes) -> None:
    """Raise BadAnswer if a file does not begin as its name says.

    A server, or a proxy before it, may send an error page in place of a picture.
    """
    suffix = suffix_of(name).lower()
    if not head:
        raise BadAnswer(f"/view sent nothing as {name}.")
    wanted = BEGINNINGS.get(suffix, [])
    if wanted and not any(head[at : at + len(begin)] == begin for at, begin in wanted):
        raise BadAnswer(f"/view sent no {suffix} file as {name}. It begins with {head[:40]!r}.")
    begin = head[:100].lstrip().lower()
    if suffix not in PAGES and begin.startswith((b"<!doctype html", b"<html")):
        raise BadAnswer(f"/view sent a web page as {name}: {head[:40]!r}.")


def receive(name: str, pieces: Iterable[bytes]) -> Content:
    """Return the content of a file. Each piece of a large file goes to Ray's store.

    The store writes to disk what it cannot hold.
    """
    kept: list[ray.ObjectRef] = []
    last = b""
    for number, piece in enumerate(regrouped(pieces)):
        if number == 0:
            check_kind(name, piece)
        if last:
            kept.append(ray.put(last))
        last = piece
    return (*kept, ray.put(last)) if kept else last


def regrouped(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Yield the same bytes in pieces of one size. An empty input gives one empty piece."""
    waiting = bytearray()
    for piece in pieces:
        waiting += piece
        while len(waiting) >= PIECE:
            yield bytes(waiting[:PIECE])
            del waiting[:PIECE]
    yield bytes(waiting)


def content_pieces(content: Content) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
    else:
        yield from map(ray.get, content)


def safe_text(text: str) -> str:
    """Return a server's text without control characters, and cut to a length for a manifest."""
    kept = text[:MOST_TEXT] + (" …" if len(text) > MOST_TEXT else "")
    return "".join(c if c in "\n\t" or c.isprintable() else "?" for c in kept)
