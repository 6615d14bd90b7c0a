"""What is still to be done of the jobs, done."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator

from ray.actor import ActorHandle

from . import stages
from .bars import Bars
from .dispatch import dispatch
from .jobs import Job, Jobs, Task
from .manifest import Manifest
from .workers import UPLOADS, Outcome
from .workflow import content_id, seeds

Say = Callable[[str], None]


def node_types(workflow: dict, apart: bool) -> list[str]:
    """What every server must have."""
    kinds = {node["class_type"] for node in workflow.values()}
    return sorted(kinds | ({stages.SAVE, stages.LOAD} if apart else set()))


def run(
    tasks: Iterator[Task],
    total: int,
    manifest: Manifest,
    workers: list[ActorHandle],
    say: Say,
    title: str = "jobs",
) -> None:
    """Every task on some server, every outcome in the manifest."""
    if not total:
        return
    with Bars(total, workers, title) as bars:
        for task, outcome in dispatch(tasks, workers, say, bars.tick):
            record(manifest, task, outcome, say)
            bars.update()


def record(manifest: Manifest, task: Task, outcome: Outcome, say: Say) -> None:
    manifest.write(task, outcome)
    if outcome.error:
        what = ", ".join(f"{name}={value}" for name, value in task.inputs.items())
        say(f"Job {task.id} failed ({what}): {outcome.error}")


def run_apart(
    jobs: Jobs,
    todo: list[Job],
    manifest: Manifest,
    embeds: Manifest,
    workers: list[ActorHandle],
    say: Say,
) -> None:
    """First the embeddings of all jobs, each that is the same once; then the pictures."""
    priors = {prior_task(jobs, job).id: job for job in todo}
    missing = [job for number, job in priors.items() if number not in embeds.done]
    tasks = (prior_task(jobs, job) for job in missing)
    run(tasks, len(missing), embeds, workers, say, "embeddings")
    ready = []
    for job in todo:
        if error := embeds.done[prior_task(jobs, job).id]:
            outcome = Outcome("", error=f"Its embeddings failed. {error}")
            record(manifest, jobs.task(job), outcome, say)
        else:
            ready.append(job)
    tasks = (decode_task(jobs.task(job), embeds) for job in ready)
    run(tasks, len(ready), manifest, workers, say)


def prior_task(jobs: Jobs, job: Job) -> Task:
    """The first part of a job, as a job of its own."""
    prior = stages.split(jobs.fill(job.inputs)).prior
    inputs = {n: value for n, value in job.inputs.items() if jobs.slots[n][0] in prior}
    return Task(content_id(prior), prior, inputs, seeds(prior))


def decode_task(task: Task, embeds: Manifest) -> Task:
    """The second part of a task, with the embeddings that it takes."""
    halves = stages.split(task.workflow)
    number = content_id(halves.prior)
    files, uploads = {}, {}
    for i, saver in enumerate(sorted(halves.wires)):  # the order of an outcome's files
        content = embeds.place(number, i, ".safetensors").read_bytes()
        name = f"{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
        files[saver] = f"{UPLOADS}/{name}"
        uploads[name] = content
    return Task(task.id, halves.decode_from(files), task.inputs, task.seed, uploads)
