"""The jobs of a run: a workflow, and every set of values for its inputs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from .values import read_cell, read_columns, read_rows, read_setting, read_values
from .workflow import Slot, fill, find_input, id_maker, seeds


class Job(NamedTuple):
    id: str  # depends on what the job computes, and so is the same in every run
    inputs: dict[str, Any]  # by the names that the table or --set have for them


@dataclass(frozen=True)
class Task:
    """A job, ready for a server."""

    id: str
    workflow: dict
    inputs: dict[str, Any] = field(default_factory=dict)
    seed: dict[str, int] = field(default_factory=dict)
    uploads: dict[str, bytes] = field(default_factory=dict)  # files for the server's input folder


class Jobs:
    """Every row of a table with every combination of the settings. The last one changes fastest.

    A setting is "NODE.INPUT=VALUE" or a range of numbers. If a setting is given twice, it has both
    values.

    Raises:
        ValueError: the workflow does not have such a name or value.
    """

    def __init__(self, workflow: dict, settings: list[str], table: Path | None = None):
        self.workflow = workflow
        self.table = table
        self.slots: dict[str, Slot] = {}
        self.settings: dict[str, list] = {}
        for name in read_columns(table) if table else []:
            self.add_slot(name, f"The column {name!r} of {table} matches nothing: ")
        for name, text in map(read_setting, settings):
            if name not in self.settings:
                self.add_slot(name, "--set: ")
            values = read_values(text, self.now(name), name)
            self.settings.setdefault(name, []).extend(values)

    def add_slot(self, name: str, before: str) -> None:
        try:
            slot = find_input(self.workflow, name)
        except ValueError as error:
            raise ValueError(f"{before}{error}") from None
        for other, taken in self.slots.items():
            if taken == slot:
                raise ValueError(f"{other} and {name} are the same input: keep one of them.")
        self.slots[name] = slot

    def now(self, name: str) -> Any:
        node, slot = self.slots[name]
        return self.workflow[node]["inputs"][slot]

    def count(self) -> int:
        """Return how many rows and combinations there are. Some of them may be the same.

        This checks every cell, so that a wrong table is refused before its first job begins.
        """
        rows = sum(1 for _ in self.rows())
        return rows * math.prod(map(len, self.settings.values()))

    def rows(self) -> Iterator[dict[str, Any]]:
        now = {name: self.now(name) for name in self.slots}
        texts = {name for name, value in now.items() if isinstance(value, str)}
        for number, row in enumerate(read_rows(self.table) if self.table else [{}], 1):
            try:
                for name, value in row.items():
                    if type(value) is not str or name not in texts:
                        row[name] = read_cell(value, now[name], name)
                yield row
            except ValueError as error:
                raise ValueError(f"{self.table}, row {number}: {error}") from None

    def __iter__(self) -> Iterator[Job]:
        make_id = id_maker(self.workflow, self.slots)
        for inputs in self.rows():
            for values in itertools.product(*self.settings.values()):
                chosen = inputs | dict(zip(self.settings, values, strict=True))
                yield Job(make_id(chosen), chosen)

    def fill(self, inputs: dict[str, Any]) -> dict:
        return fill(self.workflow, {self.slots[name]: value for name, value in inputs.items()})

    def task(self, job: Job) -> Task:
        workflow = self.fill(job.inputs)
        return Task(job.id, workflow, job.inputs, seeds(workflow))
