"""Run the jobs that are still to be done."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator

from ray.actor import ActorHandle
from ray.exceptions import RayError

from . import stages
from .bars import Bars
from .dispatch import dispatch
from .jobs import Job, Jobs, Task
from .manifest import Manifest
from .workers import UPLOADS, Outcome
from .workflow import content_id, seeds

Say = Callable[[str], None]
COUNTED = 100_000  # up to this number of jobs, all ids are made first, to say how many are done


def node_types(workflow: dict, apart: bool) -> list[str]:
    """Return the node types that every server must have."""
    kinds = {node["class_type"] for node in workflow.values()}
    return sorted(kinds | ({stages.SAVE, stages.LOAD} if apart else set()))


class Todo:
    """The jobs that are still to be done, each of them once.

    Ids are made when they are needed.
    """

    def __init__(self, jobs: Iterable[Job], manifest: Manifest):
        self.jobs = jobs
        self.manifest = manifest
        self.ids: set[str] = set()  # of all jobs so far, done or not
        self.passed = 0  # jobs that were done before, and rows that equal earlier ones

    def __iter__(self) -> Iterator[Job]:
        self.ids, self.passed = set(), 0
        for job in self.jobs:
            if job.id in self.ids or job.id in self.manifest.done:
                self.passed += 1
                self.ids.add(job.id)
            else:
                self.ids.add(job.id)
                yield job

    def count_passed(self) -> int:
        return self.passed

    def failed(self) -> int:
        return sum(1 for job in self.ids if self.manifest.done.get(job))


def announce(jobs: Jobs, total: int, manifest: Manifest, say: Say) -> None:
    done = manifest.done.keys()
    if total <= COUNTED:
        ids = {job.id for job in jobs}
        say(f"{len(ids)} jobs, {len(ids & done)} of them in {manifest.path}.")
    else:
        say(f"{total} jobs, if no two are the same; {len(done)} are in {manifest.path}.")


def run(
    tasks: Iterator[Task],
    total: int | None,
    manifest: Manifest,
    workers: list[ActorHandle],
    say: Say,
    title: str = "jobs",
    passed: Callable[[], int] = lambda: 0,
) -> None:
    """Run every task on a server, and write every outcome into the manifest.

    passed: returns how many of the total did not have to run so far.
    """
    with Bars(total, workers, title) as bars:
        for number, (task, outcome) in enumerate(dispatch(tasks, workers, say, bars.tick), 1):
            record(manifest, task, outcome, say)
            bars.update(number + passed())


def record(manifest: Manifest, task: Task, outcome: Outcome, say: Say) -> None:
    try:
        manifest.write(task, outcome)
    except RayError as error:  # large files are fetched while they are written
        outcome = Outcome(outcome.server, error=f"Its files were lost on their way: {error}")
        manifest.write(task, outcome)
    if outcome.error:
        what = ", ".join(f"{name}={value}" for name, value in task.inputs.items())
        say(f"Job {task.id} failed ({what}): {outcome.error}")


def run_apart(
    jobs: Jobs,
    todo: Todo,
    total: int,
    manifest: Manifest,
    embeds: Manifest,
    workers: list[ActorHandle],
    say: Say,
) -> None:
    """Make the embeddings of all jobs first, each of them once, and then the pictures."""
    priors = Todo((prior_task(jobs, job) for job in todo), embeds)
    run(iter(priors), None, embeds, workers, say, "embeddings")

    def decodings() -> Iterator[Task]:
        for job in todo:
            if error := embeds.done[prior_task(jobs, job).id]:
                outcome = Outcome("", error=f"Its embeddings failed. {error}")
                record(manifest, jobs.task(job), outcome, say)
                todo.passed += 1
            else:
                yield decode_task(jobs.task(job), embeds)

    run(decodings(), total, manifest, workers, say, passed=todo.count_passed)


def prior_task(jobs: Jobs, job: Job) -> Task:
    """Return the first part of a job as a task."""
    prior = stages.split(jobs.fill(job.inputs)).prior
    inputs = {n: value for n, value in job.inputs.items() if jobs.slots[n][0] in prior}
    return Task(content_id(prior), prior, inputs, seeds(prior))


def decode_task(task: Task, embeds: Manifest) -> Task:
    """Return the second part of a task, with the embeddings that it needs."""
    halves = stages.split(task.workflow)
    number = content_id(halves.prior)
    files, uploads = {}, {}
    for i, saver in enumerate(sorted(halves.wires)):  # the order of the files in an outcome
        content = embeds.place(number, i, ".safetensors").read_bytes()
        name = f"{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
        files[saver] = f"{UPLOADS}/{name}"
        uploads[name] = content
    return Task(task.id, halves.decode_from(files), task.inputs, task.seed, uploads)
