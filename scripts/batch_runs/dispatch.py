"""Send tasks to servers, and yield their outcomes."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from .jobs import Task
from .workers import IN_FLIGHT, Outcome

MOST_LOSSES = 3  # how often a server may be lost over a task before the task counts as failed
IN_A_ROW = 2 * IN_FLIGHT  # how often a server may be lost in a row, without a finished task between


class NoServer(RuntimeError):
    """There are tasks, and no server is left."""


def dispatch(
    tasks: Iterator[Task],
    workers: list[ActorHandle],
    say: Callable[[str], None],
    tick: Callable[[], None] = lambda: None,
) -> Iterator[tuple[Task, Outcome]]:
    """Run the tasks. Yield each task with its outcome, once, in the order in which they end.

    A server has IN_FLIGHT places. A place first waits for the server's start, and waits again
    when the server is lost. The task then goes to the next free place. A server that does not start
    is given up. So is one that is lost again and again, if there are others. Ray places the
    workers, restarts those whose machine fails, carries tasks and outcomes, and waits for them.
    tick() is called twice a second or more.

    Raises:
        NoServer: there are tasks, and no server is left.
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
                        Outcome("", error=f"It lost its server {MOST_LOSSES} times: {reason}"),
                    )
            else:
                idle.append(number)
                if task:
                    failing[number] = 0
                    yield task, outcome


def start(worker: ActorHandle) -> ray.ObjectRef:
    """Start a server. This also waits until Ray has restarted the worker itself.

    A task would go to another server in that time.
    """
    return worker.start.options(max_task_retries=-1).remote()
