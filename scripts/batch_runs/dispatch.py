"""Tasks to servers, outcomes back."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from .jobs import Task
from .workers import IN_FLIGHT, Outcome

MOST_LOSSES = 3  # times that a server may be lost over a task, before the task counts as failed
IN_A_ROW = 2 * IN_FLIGHT  # tasks that a server may be lost over, with none done between them


class NoServer(RuntimeError):
    """There are tasks, and no server is left."""


def dispatch(
    tasks: Iterator[Task],
    workers: list[ActorHandle],
    say: Callable[[str], None],
    tick: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Task, Outcome]]:
    """Run the tasks; yields each with its outcome, once, as they come. Raises NoServer.

    A server has IN_FLIGHT places. A place begins with the server's start, and comes back to that
    when the server is lost; the task goes to the next that is free. A server that does not start
    is given up, and so is one that starts and is lost again and again, if there are others. To
    place the workers, to restart those whose machine fails, to carry tasks and outcomes and to
    wait for them is Ray's. tick() is called twice a second or more.
    """
    again: deque[Task] = deque()
    losses: Counter[str] = Counter()
    failing: Counter[int] = Counter()  # number of a worker → its losses in a row
    load: Counter[int] = Counter()  # number of a worker → its tasks
    idle: list[int] = []
    at_work: dict[ray.ObjectRef, tuple[int, Task | None]] = {
        start(worker): (number, None)
        for number, worker in enumerate(workers)
        for _ in range(IN_FLIGHT)
    }
    while True:
        while idle and (task := again.popleft() if again else next(tasks, None)):
            number = min(idle, key=lambda number: load[number])
            idle.remove(number)
            load[number] += 1
            at_work[workers[number].run.remote(task)] = number, task
        if idle and not load.total():
            return
        if not at_work:
            raise NoServer("No server is left. Run this again, with servers, to go on from here.")
        tick()
        for done in ray.wait(list(at_work), timeout=0.5)[0]:
            number, task = at_work.pop(done)
            load[number] -= task is not None
            try:
                outcome = ray.get(done)
            except RayError as error:
                reason = getattr(error, "cause", error)
                if task is None:
                    if number not in (other for other, _ in at_work.values()):
                        say(f"A server is given up: {reason}")
                    continue
                others = {other for other, _ in at_work.values()} | set(idle)
                failing[number] += 1
                if failing[number] < IN_A_ROW or others <= {number}:
                    at_work[start(workers[number])] = number, None
                elif number not in others:
                    say(f"A server is given up: {reason}")
                losses[task.id] += 1
                if losses[task.id] < MOST_LOSSES:
                    first_sentence = str(reason).partition(". ")[0].rstrip(".")
                    say(f"Job {task.id} goes to the next free server: {first_sentence}.")
                    again.append(task)
                else:
                    yield (
                        task,
                        Outcome("", error=f"Lost a server over it {MOST_LOSSES} times: {reason}"),
                    )
            else:
                idle.append(number)
                if task:
                    failing[number] = 0
                    yield task, outcome


def start(worker: ActorHandle) -> ray.ObjectRef:
    """Also waits until Ray has the worker itself up again; a task would rather be elsewhere."""
    return worker.start.options(max_task_retries=-1).remote()
