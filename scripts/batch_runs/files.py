"""Files that a server says it has saved: whether they can be that, and their content on its way."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath

import ray

Content = bytes | tuple[ray.ObjectRef, ...]  # of a file; a large one is in Ray's store, in pieces

PIECE = 2**23  # bytes of a file that one process holds at once
LONGEST_NAME = 255  # of a file, in letters: no usual file system has longer ones
SUFFIX = re.compile(r"(\.[A-Za-z0-9_-]{1,16})?")  # what any file system takes
MOST_TEXT = 10_000  # letters of a message that are kept

# How files of a kind begin: at which byte, with which bytes. Any one of them is enough.
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
PAGES = (".html", ".htm", ".xml", ".svg", ".txt", ".md")  # that may begin as a web page does


class BadAnswer(RuntimeError):
    """A server says of its files what cannot be."""


def files_of(outputs: dict, kind: str) -> list[tuple[str, dict]]:
    """What the nodes wrote into the server's folder "output", or as previews into "temp", by node.

    outputs: those of a history, whatever a server may have put there. Raises BadAnswer.
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
    """ "x_00001_.png" → ".png"; raises BadAnswer for one that not every file system takes."""
    suffix = PurePosixPath(name).suffix
    if not SUFFIX.fullmatch(suffix):
        raise BadAnswer(f"A file ends with {suffix[:60]!r}, which is no kind of file.")
    return suffix


def check_kind(name: str, head: bytes) -> None:
    """A server, or a proxy before it, may send a page that says what went wrong as if it were a
    picture. Raises BadAnswer."""
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
    """A file as it comes. Of a large one each piece goes to Ray's store, which puts on the disk
    what it has no room for."""
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
    """The same bytes in pieces of one size; of nothing, one that is empty."""
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
    """A server's words for a terminal and a manifest: no controls of a terminal, no megabytes."""
    kept = text[:MOST_TEXT] + (" …" if len(text) > MOST_TEXT else "")
    return "".join(c if c in "\n\t" or c.isprintable() else "?" for c in kept)
