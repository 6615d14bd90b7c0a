"""The record of finished jobs: one line for each job, and the files that it made."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from scripts.host import try_lock

from .files import Content, content_pieces, suffix_of
from .jobs import Task
from .workers import Outcome

FULL = (errno.ENOSPC, errno.EDQUOT)


class Manifest:
    """A JSONL file beside the files of its jobs, used in a `with` statement.

    path: the file. If it ends in .parquet, the lines are in path.jsonl, and the Parquet file is
    written from them at the end. A line is written when its files are complete. Each line is
    flushed to the operating system, so it stays even if this process is killed.
    again: forget the jobs that failed.
    """

    def __init__(self, path: Path, folder: Path, again: bool = False):
        self.parquet = path if path.suffix == ".parquet" else None
        self.path = Path(f"{path}.jsonl") if self.parquet else path
        self.folder = folder
        self.again = again
        self.done: dict[str, str | None] = {}  # id of a job → its error, if it failed
        self.forgotten: set[str] = set()  # jobs that have a line and are not done
        self.odd: list[int] = []  # lines that no run writes; they are left out
        self.untidy = False  # whether some job has two lines, or one was cut off
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

    def __exit__(self, kind, *_) -> None:
        try:
            self.lines.close()
            self.tidy()
            if self.parquet:
                write_parquet(self.path, self.parquet)
        except OSError:  # write() has raised for a full disk, and the next run tidies
            if kind is None:
                raise
        finally:
            self.locked.close()

    def read(self) -> Iterator[tuple[int, dict | None]]:
        """Yield each line's number and record. The record is None if the line is odd.

        A last line that was cut off is skipped.
        """
        if not self.path.exists():
            return
        with self.path.open("rb") as lines:
            for number, line in enumerate(lines):
                if line.endswith(b"\n"):
                    yield number, self.record_of(line)
                else:
                    self.untidy = True

    def record_of(self, line: bytes) -> dict | None:
        try:
            record = json.loads(line)
            return record if is_record(record) else None
        except (ValueError, LookupError, TypeError, RecursionError):
            shown = line.decode("utf-8", "replace").strip()[:80]
            raise ValueError(f"{self.path} is no manifest: {shown}") from None

    def recall(self) -> None:
        """Find the jobs that are done and whose files exist. The last line of a job counts."""
        for number, record in self.read():
            if record is None:
                self.odd.append(number)
                continue
            job, error = record["job"], record["error"]
            self.untidy |= job in self.done or job in self.forgotten
            self.forgotten.discard(job)
            self.done.pop(job, None)
            if (self.again and error) or not all(map(self.is_there, record["files"])):
                self.forgotten.add(job)
            else:
                self.done[job] = error

    def tidy(self) -> None:
        """Keep only the last line of each job, also of jobs that are not part of this run."""
        if not self.untidy and not self.odd:
            return
        last = {record["job"]: number for number, record in self.read() if record}
        keep = set(last.values())
        kept = Path(f"{self.path}.new")
        try:
            with self.path.open("rb") as old, kept.open("wb") as new:
                new.writelines(line for number, line in enumerate(old) if number in keep)
                new.flush()
                os.fsync(new.fileno())
            os.replace(kept, self.path)
        finally:
            kept.unlink(missing_ok=True)
        self.untidy = False

    def is_there(self, file: dict) -> bool:
        path = self.folder / file["name"]
        return path.is_file() and path.stat().st_size == file["bytes"]

    def write(self, task: Task, outcome: Outcome) -> dict:
        """Keep the files, then write the line, and return its record.

        Raises:
            OSError: a file cannot be written. The message says so if the disk is full.
            RayError: a large file was lost on its way.
        """
        try:
            files = [self.keep(task.id, i, *file) for i, file in enumerate(outcome.files)]
            record = {
                "job": task.id,
                "inputs": task.inputs,
                "seed": task.seed,
                "server": outcome.server,
                "seconds": outcome.seconds,
                "finished": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "files": files,
                "error": outcome.error,
            }
            self.lines.write(json.dumps(record) + "\n")
            self.lines.flush()
        except OSError as error:
            if error.errno not in FULL:
                raise
            raise OSError(error.errno, self.when_full()) from None
        self.untidy |= task.id in self.done or task.id in self.forgotten
        self.written += 1
        self.done[task.id] = outcome.error
        return record

    def when_full(self) -> str:
        free = shutil.disk_usage(self.folder).free / 1e6
        return (
            f"The disk of {self.folder} is full: {free:.0f} MB are free. {len(self.done)} jobs are "
            f"kept, with their files, in {self.path}. Make room, or give another --output, and run "
            "the same command again: it goes on from here."
        )

    def keep(self, job: str, number: int, node: str, name: str, content: Content) -> dict:
        path = self.place(job, number, suffix_of(name))
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.part")
        checksum, size = hashlib.sha256(), 0
        try:
            with unfinished.open("wb") as file:
                for piece in content_pieces(content):
                    file.write(piece)
                    checksum.update(piece)
                    size += len(piece)
            os.replace(unfinished, path)
        finally:
            unfinished.unlink(missing_ok=True)
        place = path.relative_to(self.folder).as_posix()
        return {"name": place, "node": node, "bytes": size, "sha256": checksum.hexdigest()}

    def place(self, job: str, number: int, suffix: str) -> Path:
        """Return the path of a job's file.

        There are 256 folders, as large folders are slow to list.
        """
        return self.folder / job[:2] / f"{job}-{number}{suffix}"


def is_record(record: dict) -> bool:
    """Return whether a line has the fields that write() writes, with the right types.

    Raises:
        LookupError, TypeError: no run has written such a line.
    """
    job, error, files = record["job"], record["error"], record["files"]
    number = record.get("seconds")
    return (
        isinstance(job, str)
        and isinstance(error, str | None)
        and isinstance(record.get("inputs"), dict)
        and isinstance(record.get("server"), str)
        and isinstance(number, float | int | None)
        and isinstance(record.get("seed"), dict)
        and all(type(seed) is int for seed in record["seed"].values())
        and isinstance(files, list)
        and all(map(is_file_record, files))
        and is_time(record.get("finished"))
    )


def is_file_record(file) -> bool:
    texts = ("name", "node", "sha256")
    return (
        isinstance(file, dict)
        and all(isinstance(file.get(key), str) for key in texts)
        and type(file.get("bytes")) is int
        and "\0" not in file["name"]
    )


def is_time(text) -> bool:
    try:
        return datetime.fromisoformat(text).tzinfo is not None
    except (TypeError, ValueError):
        return False


def write_parquet(lines: Path, path: Path) -> None:
    """Write the lines as Parquet. Inputs are stored as JSON, so every workflow has one schema."""
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
                    seeds = record["seed"].items()  # an invalid seed is still in `inputs`
                    record["seed"] = [(n, s if 0 <= s < 2**64 else None) for n, s in seeds]
                    record["error"] = record["error"] and record["error"].encode(
                        "utf-8", "replace"
                    ).decode("utf-8")
                    record["finished"] = datetime.fromisoformat(record["finished"])
                target.write_table(pa.Table.from_pylist(records, schema))
    os.replace(unfinished, path)
