"""What has been done: one line a job, and the files that the jobs made."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import IO

from scripts.host import try_lock

from .jobs import Task
from .workers import Outcome

NEEDED = ("name", "bytes")  # of a file, to see whether it is there


class Manifest:
    """A JSONL file beside the files of its jobs, for a `with`.

    path: the file; if it ends in .parquet, the lines are in path.jsonl, and the Parquet file is
    written from them on leaving. A line is written when its files are there, whole; each is flushed
    to the operating system, so that whatever happens to this process, what is written stays.
    again: forget the jobs that failed.
    """

    def __init__(self, path: Path, folder: Path, again: bool = False):
        self.parquet = path if path.suffix == ".parquet" else None
        self.path = Path(f"{path}.jsonl") if self.parquet else path
        self.folder = folder
        self.again = again
        self.done: dict[str, str | None] = {}  # id of a job → what went wrong, if anything did
        self.written = 0  # lines of this run

    def __enter__(self) -> Manifest:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.locked = open(f"{self.path}.lock", "a+b")
        if not try_lock(self.locked):
            self.locked.close()
            raise ValueError(f"Another run writes {self.path} now. Let it end, or stop it.")
        self.recall()
        self.tidy()
        self.lines: IO[str] = self.path.open("a", encoding="utf-8", newline="\n")
        return self

    def __exit__(self, *_) -> None:
        self.lines.close()
        self.tidy()
        if self.parquet:
            write_parquet(self.path, self.parquet)
        self.locked.close()

    def read(self) -> Iterator[dict]:
        """What each line says, but for a last one that was cut off."""
        if not self.path.exists():
            return
        with self.path.open("rb") as lines:
            for line in lines:
                if line.endswith(b"\n"):
                    try:
                        record = json.loads(line)
                        files = [{key: file[key] for key in NEEDED} for file in record["files"]]
                        yield {"job": record["job"], "files": files, "error": record["error"]}
                    except (ValueError, LookupError, TypeError):
                        shown = line.decode("utf-8", "replace").strip()[:80]
                        raise ValueError(f"{self.path} is no manifest: {shown}") from None

    def recall(self) -> None:
        """What is done, and its files are there. The last line of a job counts."""
        for record in self.read():
            failed = self.again and record["error"]
            if not failed and all(self.is_there(file) for file in record["files"]):
                self.done[record["job"]] = record["error"]
            else:
                self.done.pop(record["job"], None)

    def tidy(self) -> None:
        """Keep the last line of each job; also of those that this run is not about."""
        if not self.path.exists():
            return
        last = {record["job"]: number for number, record in enumerate(self.read())}
        keep = set(last.values())
        kept = Path(f"{self.path}.new")
        with self.path.open("rb") as old, kept.open("wb") as new:
            new.writelines(line for number, line in enumerate(old) if number in keep)
            new.flush()
            os.fsync(new.fileno())
        os.replace(kept, self.path)

    def is_there(self, file: dict) -> bool:
        path = self.folder / file["name"]
        return path.is_file() and path.stat().st_size == file["bytes"]

    def write(self, task: Task, outcome: Outcome) -> dict:
        """Keep the files, then the line; returns it."""
        record = {
            "job": task.id,
            "inputs": task.inputs,
            "seed": task.seed,
            "server": outcome.server,
            "seconds": outcome.seconds,
            "finished": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "files": [self.keep(task.id, i, *file) for i, file in enumerate(outcome.files)],
            "error": outcome.error,
        }
        self.lines.write(json.dumps(record) + "\n")
        self.lines.flush()
        self.written += 1
        self.done[task.id] = outcome.error
        return record

    def keep(self, job: str, number: int, node: str, name: str, content: bytes) -> dict:
        path = self.place(job, number, PurePosixPath(name).suffix)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.part")
        unfinished.write_bytes(content)
        os.replace(unfinished, path)
        place = path.relative_to(self.folder).as_posix()
        checksum = hashlib.sha256(content).hexdigest()
        return {"name": place, "node": node, "bytes": len(content), "sha256": checksum}

    def place(self, job: str, number: int, suffix: str) -> Path:
        """Where a file of a job is: 256 folders, for one with a million files is slow to list."""
        return self.folder / job[:2] / f"{job}-{number}{suffix}"


def write_parquet(lines: Path, path: Path) -> None:
    """One schema for every workflow: inputs are JSON in it."""
    import pyarrow as pa
    import pyarrow.parquet

    text, number = pa.string(), pa.int64()
    file = pa.struct({"name": text, "node": text, "bytes": number, "sha256": text})
    schema = pa.schema(
        {
            "job": text,
            "inputs": text,
            "seed": pa.map_(text, pa.uint64()),
            "server": text,
            "seconds": pa.float64(),
            "finished": pa.timestamp("ms", "UTC"),
            "files": pa.list_(file),
            "error": text,
        }
    )
    unfinished = Path(f"{path}.part")
    with lines.open(encoding="utf-8") as source:
        with pyarrow.parquet.ParquetWriter(unfinished, schema) as target:
            while records := [json.loads(line) for line in itertools.islice(source, 10_000)]:
                for record in records:
                    record["inputs"] = json.dumps(record["inputs"])
                    seeds = record["seed"].items()  # the one that no seed can be is in `inputs`
                    record["seed"] = [(n, s if 0 <= s < 2**64 else None) for n, s in seeds]
                    record["error"] = record["error"] and record["error"].encode(
                        "utf-8", "replace"
                    ).decode("utf-8")
                    record["finished"] = datetime.fromisoformat(record["finished"])
                target.write_table(pa.Table.from_pylist(records, schema))
    os.replace(unfinished, path)
