"""Read the values of inputs from --set and from tables."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import IO, Any

MOST = 10_000_000  # values of a range
DIGITS = 400  # before the decimal point, more than any node accepts


def read_value(text: str, now: Any, name: str) -> Any:
    """Return a text as a value of the type that the workflow has `now`: bool, number or text.

    If the workflow has a wire there, the text is read as JSON, or else stays a text.
    """
    if isinstance(now, bool):
        if text.lower() not in ("true", "false"):
            raise ValueError(f"{name} is true or false, not {text!r}.")
        return text.lower() == "true"
    if isinstance(now, int | float):
        if len(text) < 20 and text.isascii() and text.isdigit():
            return int(text)  # a faster way, because a table may have a million of them
        try:
            return as_number(Decimal(text))
        except InvalidOperation:
            raise ValueError(f"{name} is a number (now {now}), not {shorten(text)}.") from None
    if isinstance(now, str):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def shorten(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:80]}…")


def read_values(text: str, now: Any, name: str) -> Sequence:
    """Return the value, or for numbers the values of a range, with both ends.

    A range is 1..100, or 0.2..0.8..0.1 with a step.
    """
    if isinstance(now, bool) or not isinstance(now, int | float) or ".." not in text:
        return [read_value(text, now, name)]
    try:
        first, last, *rest = map(Decimal, text.split(".."))
        as_number(first), as_number(last)
        (step,) = rest or [Decimal(1)]
        count = int((last - first) // step) + 1 if step > 0 else 0
    except (InvalidOperation, OverflowError, ValueError):
        raise ValueError(
            f"{name}={text} is not a range: write first..last or first..last..step."
        ) from None
    if count > MOST:
        raise ValueError(f"{name}={text} is {count} values; at most {MOST} are meant.")
    if count < 1:
        raise ValueError(f"{name}={text} has nothing in it: count upwards, by a step above 0.")
    if first == int(first) and step == 1:
        return list(range(int(first), int(first) + count))
    return [as_number(first + i * step) for i in range(count)]


def as_number(number: Decimal) -> int | float:
    if not number.is_finite() or number.adjusted() > DIGITS:
        raise InvalidOperation
    return int(number) if number == number.to_integral_value() else float(number)


def read_cell(value: Any, now: Any, name: str) -> Any:
    """Return a value from a table. JSONL and Parquet have types, and seeds may come as 7.0."""
    if isinstance(value, float | Decimal):
        value = str(value)
    if isinstance(value, str):
        return read_value(value, now, name)
    if isinstance(value, bool | int | list):
        return value
    raise ValueError(f"{name} cannot be {value!r}: no text, number or truth value.")


def read_setting(setting: str) -> tuple[str, str]:
    """Split a setting: "Decoder.seed=1..100" → ("Decoder.seed", "1..100")."""
    name, equals, text = setting.partition("=")
    if not equals or not name:
        raise ValueError(f"--set {setting!r}: write NODE.INPUT=VALUE.")
    return name, text


@contextmanager
def open_text(path: Path) -> Iterator[IO[str]]:
    """Open a text file. Errors while reading it become a ValueError that names the file."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            yield file
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not in UTF-8: save it so ({error}).") from None
    except csv.Error as error:
        raise ValueError(f"{path}: {error}. Is a quotation mark left open?") from None


def read_columns(path: Path) -> list[str]:
    """Return the columns of a table, in order. For JSONL, these are the names of all lines."""
    if path.suffix == ".parquet":
        import pyarrow.parquet

        return pyarrow.parquet.read_schema(path).names
    if path.suffix == ".csv":
        with open_text(path) as file:
            columns = next(csv.reader(file, strict=True), [])
        if twice := [name for name in columns if columns.count(name) > 1]:
            raise ValueError(f"{path} has the column {twice[0]!r} twice.")
        return columns
    return list(dict.fromkeys(name for row in read_rows(path) for name in row))


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield a dict for each row of a CSV, JSONL or Parquet file.

    Empty cells (null, "" in CSV) are left out, so that the workflow's own value stays.
    """
    if path.suffix == ".parquet":
        import pyarrow.parquet

        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(1024):
            yield from (
                {n: v for n, v in row.items() if v is not None} for row in batch.to_pylist()
            )
    elif path.suffix == ".csv":
        with open_text(path) as file:
            rows = csv.reader(file, strict=True)
            columns = next(rows, [])
            for row in filter(None, rows):
                if len(row) != len(columns):
                    raise ValueError(
                        f"{path}, line {rows.line_num}: {len(row)} cells under {len(columns)} "
                        "columns. A text with a comma in it stands in quotes."
                    )
                if all(row):
                    yield dict(zip(columns, row, strict=True))
                else:
                    yield {n: cell for n, cell in zip(columns, row, strict=True) if cell}
    elif path.suffix == ".jsonl":
        with open_text(path) as file:
            for number, line in enumerate(file, 1):
                try:
                    row = json.loads(line) if line.strip() else None
                except (ValueError, RecursionError) as error:
                    raise ValueError(f"{path}, line {number}: {error}") from None
                if isinstance(row, dict):
                    yield {name: value for name, value in row.items() if value is not None}
                elif row is not None:
                    shown = shorten(line.strip())
                    raise ValueError(f"{path}, line {number} is not an object: {shown}")
    else:
        raise ValueError(f"{path}: a table is a .csv, .jsonl or .parquet file.")
