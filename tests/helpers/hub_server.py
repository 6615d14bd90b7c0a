"""Serve the Hugging Face Hub's API and downloads on 127.0.0.1, with tiny files.

As on the real hub, the API lists files with size and checksum. Small files are served directly, and
the hub redirects to another host for large ones (LFS).
"""

import hashlib
import json
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from kandinsky22.utils.download.hub import PIECE

LARGE = (".safetensors", ".bin")


class Hub:
    """Starts on entry, stops on exit, and serves `repositories`: (id, commit) → path → bytes.

    Faults are set by path. `cut` has the number of bytes after which each next answer breaks off.
    `hold` has the number of bytes after which an answer waits for `release`, and then breaks off.
    `claims` overrides the API's values. `answers` has functions that answer in place of the hub,
    for a file (or for "", the API's listing) and the requested range: → status, body, headers.
    """

    def __init__(self):
        self.repositories: dict[tuple[str, str], dict[str, bytes]] = {}
        self.cut: dict[str, list[int]] = {}
        self.hold: dict[str, int] = {}
        self.holding, self.release = threading.Event(), threading.Event()
        self.claims: dict[str, dict] = {}
        self.answers: dict[str, Callable[[bytes, str | None], tuple[int, bytes, dict]]] = {}
        self.status: int | None = None  # of every answer of the API
        self.portal = False  # the login page of a network
        self.ranges = True
        self.served: Counter[str] = Counter()  # bytes by path
        self.tokens: dict[str, set[str | None]] = {"hub": set(), "files": set()}

    def add(self, repository, folder: Path) -> None:
        files = {
            file.relative_to(folder).as_posix(): file.read_bytes()
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        }
        self.repositories[repository.id, repository.commit] = files

    def __enter__(self) -> "Hub":
        self.servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler(self)) for _ in range(2)]
        for server in self.servers:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        self.url, self.files_url = (f"http://127.0.0.1:{s.server_port}" for s in self.servers)
        return self

    def __exit__(self, *_) -> None:
        self.release.set()
        for server in self.servers:
            server.shutdown()
            server.server_close()

    @property
    def bytes_served(self) -> int:
        return sum(self.served.values())

    def listing(self, repository: str, commit: str) -> dict:
        siblings = []
        for path, content in self.repositories[repository, commit].items():
            entry = {"rfilename": path, "size": len(content)}
            entry["blobId"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            if path.endswith(LARGE):
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
            siblings.append(entry | self.claims.get(path, {}))
        return {"id": repository, "sha": commit, "siblings": siblings, "tags": []}


def half_of(size: int) -> int:
    """Return about half of the bytes, so that the library keeps none of them back."""
    return size // 2 // PIECE * PIECE


def wait_for(file: Path, size: int) -> None:
    """Wait until a file has been downloaded that far."""
    deadline = time.monotonic() + 60
    while not file.exists() or file.stat().st_size < size:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{file} has not come to {size} bytes.")
        time.sleep(0.02)


def handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        counts = True

        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            at_hub = self.server is hub.servers[0]
            path = urllib.parse.urlsplit(self.path).path.strip("/")
            parts = [urllib.parse.unquote(part) for part in path.split("/")]
            if path.startswith("api/") and not path.startswith("api/models/"):
                # The library sends more requests than it was asked for.
                return self.send(404, b"{}")
            hub.tokens["hub" if at_hub else "files"].add(self.headers["Authorization"])
            if not at_hub:
                commit, *rest = parts[2:]
                self.send_file("/".join(parts[:2]), commit, "/".join(rest))
            elif parts[0] == "api":  # api/models/owner/name/revision/commit
                self.send_listing("/".join(parts[2:4]), parts[5])
            else:  # owner/name/resolve/commit/path
                repository, commit, file = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
                if file in hub.answers:
                    self.answer(file, hub.repositories[repository, commit][file])
                elif file.endswith(LARGE):
                    self.redirect(repository, commit, file)
                else:
                    self.send_file(repository, commit, file)

        def send_listing(self, repository: str, commit: str):
            known = {name for name, _ in hub.repositories}
            if hub.status:
                self.send(hub.status, b"{}")
            elif hub.portal:
                self.send(200, b"<html>Welcome to our hotel", {"Content-Type": "text/html"})
            elif repository not in known:
                self.send(
                    404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"}
                )
            elif (repository, commit) not in hub.repositories:
                self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
            else:
                answer = json.dumps(hub.listing(repository, commit)).encode()
                if "" in hub.answers:
                    return self.answer("", answer)
                self.send(200, answer, {"Content-Type": "application/json"})

        def answer(self, path: str, content: bytes):
            self.counts = False  # these bytes are the hub's own
            status, body, headers = hub.answers[path](content, self.headers["Range"])
            self.send(status, body, headers | {"Connection": "close"}, path)

        def redirect(self, repository: str, commit: str, path: str):
            content = hub.repositories[repository, commit][path]
            place = f"{hub.files_url}/{repository}/{commit}/{urllib.parse.quote(path)}"
            headers = {
                "Location": place,
                "X-Repo-Commit": commit,
                "X-Linked-Etag": f'"{hashlib.sha256(content).hexdigest()}"',
                "X-Linked-Size": str(len(content)),
            }
            self.send(302, b"", headers)

        def send_file(self, repository: str, commit: str, path: str):
            content = hub.repositories[repository, commit][path]
            headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
            start = int((self.headers["Range"] or "bytes=0-")[6:].split("-")[0])
            if self.headers["Range"] and hub.ranges:
                end = len(content) - 1
                headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
                self.send(206, content[start:], headers, path)
            else:
                self.send(200, content, headers, path)

        def send(self, status: int, body: bytes, headers: dict | None = None, path: str = ""):
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "HEAD":
                return
            cuts = hub.cut.get(path)
            if cuts:
                body, self.close_connection = body[: cuts.pop(0)], True
            if path in hub.hold:
                body, self.close_connection = body[: hub.hold.pop(path)], True
                self.write(path, body)
                hub.holding.set()
                hub.release.wait()
            else:
                self.write(path, body)

        def write(self, path: str, body: bytes):
            try:
                self.wfile.write(body)
                self.wfile.flush()
                hub.served[path] += len(body) if path and self.counts else 0
            except OSError:  # the client has gone
                self.close_connection = True

    return Handler
