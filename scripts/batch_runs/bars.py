"""Progress bars in a terminal: one for the jobs, and one for each server."""

from __future__ import annotations

import contextlib
import os
import sys
import time

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError
from tqdm import tqdm

from .workers import Step

EVERY = 0.5  # seconds between two requests to the servers


class Bars:
    """The progress bars. There are as many bars for servers as the terminal has lines for.

    Without a terminal there are none.
    """

    def __init__(self, total: int | None, workers: list[ActorHandle], title: str = "jobs"):
        self.jobs = tqdm(total=total, desc=title, unit="job", disable=None, smoothing=0.05)
        lines = 0 if self.jobs.disable else os.get_terminal_size(sys.stderr.fileno()).lines - 3
        shown = workers[: max(lines, 0)]
        form = "  {desc} {bar:30} {n_fmt}/{total_fmt}"
        self.steps = {
            worker: tqdm(position=i, bar_format=form, leave=False)
            for i, worker in enumerate(shown, 1)
        }
        self.asked: dict[ray.ObjectRef, ActorHandle] = {w.progress.remote(): w for w in shown}
        self.next = 0.0

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_) -> None:
        for bar in [*self.steps.values(), self.jobs]:
            bar.close()

    def update(self, count: int) -> None:
        self.jobs.update(count - self.jobs.n)

    def tick(self) -> None:
        """Show the answers that have arrived, and ask again. This never waits."""
        if not self.asked or time.monotonic() < self.next:
            return
        self.next = time.monotonic() + EVERY
        for done in ray.wait(list(self.asked), num_returns=len(self.asked), timeout=0)[0]:
            worker = self.asked.pop(done)
            with contextlib.suppress(RayError):  # of a worker that is not there now
                self.show(self.steps[worker], ray.get(done))
            self.asked[worker.progress.remote()] = worker

    def show(self, bar: tqdm, step: Step) -> None:
        bar.total, bar.n = step.most, step.value
        bar.set_description_str(f"{step.server} {step.node:20}")
