"""Follow a workflow through a ComfyUI server by the events of the websocket."""

from __future__ import annotations

import asyncio
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp


class WorkflowError(RuntimeError):
    """The server refused a workflow, or a node of it failed. The message is the server's own.

    `node_id` and `node_type` name the node, if there is one. `report` is the server's whole answer:
    the body of a 400 answer, or an execution_error event (with its traceback).
    """

    def __init__(self, message: str, report: dict, node_id: str | None = None, node_type: str = ""):
        super().__init__(message)
        self.report = report
        self.node_id = node_id
        self.node_type = node_type


class WorkflowInterrupted(WorkflowError):
    """A user asked the server to stop this workflow, and it did."""


class Stuck(RuntimeError):
    """A workflow has made no progress for too long."""


@dataclass
class Clock:
    """When a workflow of one client last made progress on one server."""

    moved: float = field(default_factory=time.monotonic)


MOST_STEPS = 100_000  # of one workflow; a server that only counts is stopped at some time, too


class Followed:
    """One workflow, as the websocket reports it.

    place() asks the server where the workflow is, as Client.place does. It runs in a thread.
    clock: shared by all workflows of this client.
    """

    def __init__(
        self,
        prompt_id: str,
        on_event: Callable[[str, Any], None],
        place: Callable[[], str],
        clock: Clock,
    ):
        self.prompt_id = prompt_id
        self.on_event = on_event
        self.place = place
        self.clock = clock
        self.has_started = False
        self.queue_changed = asyncio.Event()
        self.moved = time.monotonic()
        self.steps: set[int] = set()  # a repeated step is not progress
        self.executed: list[str] = []
        self.cached: list[str] = []
        self.failure: WorkflowError | None = None

    async def to_the_end(
        self,
        events: aiohttp.ClientWebSocketResponse,
        patience: float = 60,
        stall: float | None = None,
    ) -> None:
        """Follow the workflow to its end.

        patience: after how many seconds without progress to ask the server.
        stall: after how many seconds without progress to give up.

        Raises:
            WorkflowInterrupted, Stuck, ConnectionError, and the errors of place().
        """
        tasks = [self._read(events), self._look_for_it()]
        tasks += [] if stall is None else [self._watch(patience, stall)]
        running = [asyncio.create_task(task) for task in tasks]
        try:
            done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            await next(task for task in running if task in done)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _look_for_it(self) -> None:
        """Look for the workflow when the queue changes, because no event tells that it was removed.

        A workflow that runs cannot be removed.
        """
        while await self.queue_changed.wait():
            self.queue_changed.clear()
            if not self.has_started and not await asyncio.to_thread(self.place):
                raise WorkflowInterrupted("Somebody took it out of the server's queue.", {})

    async def _watch(self, patience: float, stall: float) -> None:
        """Raise Stuck without progress. A server may answer, and its workflow may never end."""
        waits = False
        while True:
            still = time.monotonic() - (max(self.moved, self.clock.moved) if waits else self.moved)
            if still > stall:
                raise Stuck(
                    f"It has not got further for {still:.0f} s, and was given up. "
                    "A longer --job-timeout waits longer."
                )
            if still < min(patience, stall):
                await asyncio.sleep(min(patience, stall) - still)
                continue
            place = await asyncio.to_thread(self.place)
            if place == "finished":  # the event for this was lost
                return
            if not place:
                raise WorkflowInterrupted("The server has lost it: it is not in its queue.", {})
            waits = place == "waiting"
            await asyncio.sleep(min(patience, max(stall - still, 0) + 0.1))

    async def _read(self, events: aiohttp.ClientWebSocketResponse) -> None:
        async for message in events:
            if message.type == aiohttp.WSMsgType.BINARY:
                if message.data[:4] == b"\0\0\0\1":  # a preview; then 4 bytes of format
                    self.on_event("preview", message.data[8:])
                continue
            if message.type != aiohttp.WSMsgType.TEXT:
                break
            try:
                event = json.loads(message.data)
                name, fields = str(event["type"]), event["data"]
                if fields.get("prompt_id", self.prompt_id) != self.prompt_id:
                    continue
                self.on_event(name, fields)
                if name == "executing" and fields["node"] is None and "prompt_id" in fields:
                    return  # the history is written by now, and the next workflow can start
                self._note(name, fields)
            except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
                continue  # other packs send events of any form
        raise ConnectionError

    def _note(self, name: str, fields: dict) -> None:
        if name == "status":
            self.queue_changed.set()
        elif name == "execution_start":
            self.has_started = True
            self._step(name)
        elif name == "progress":
            self._step(name, fields["node"], fields["value"], fields["max"])
        elif name in ("executing", "executed"):
            self._step(name, fields["node"])
            if name == "executing" and fields["node"] not in self.executed:
                self.executed.append(fields["node"])
        elif name == "execution_cached":
            self.cached = list(fields["nodes"])
        elif name == "execution_error":
            where = fields.get("node_id"), str(fields.get("node_type"))
            text = str(fields.get("exception_message", "")).strip()
            kind = fields.get("exception_type", "no reason given")
            message = f"Node {where[0]} ({where[1]}) failed: {kind}: {text}"
            self.failure = WorkflowError(message, fields, *where)
        elif name == "execution_interrupted":
            where = fields.get("node_id"), str(fields.get("node_type"))
            message = f"Interrupted at node {where[0]} ({where[1]})."
            self.failure = WorkflowInterrupted(message, fields, *where)

    def _step(self, *what: Any) -> None:
        if (step := hash(what)) not in self.steps and len(self.steps) < MOST_STEPS:
            self.steps.add(step)
            self.moved = self.clock.moved = time.monotonic()


def server_seconds(history: dict) -> float | None:
    """Return how long a finished workflow ran by the server's clock, or None if that is unknown."""
    try:
        times = {name: fields.get("timestamp") for name, fields in history["status"]["messages"]}
        seconds = (times["execution_success"] - times["execution_start"]) / 1000
        return seconds if math.isfinite(seconds) else None
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError):
        return None


def refusal(answer: dict) -> WorkflowError:
    """Return the server's answer to an invalid workflow, one line for each error."""
    error = answer.get("error") or {}
    node_errors = answer.get("node_errors") or {}
    lines = [f"The server refused the workflow: {error.get('message', 'a part of it is invalid')}"]
    for node_id, node in node_errors.items():
        for reason in node["errors"]:
            what = f"{reason['message']}: {reason['details']}"
            lines.append(f"  node {node_id} ({node['class_type']}): {what}")
    if not node_errors and error.get("details"):
        lines.append(f"  {error['details']}")
    info = error.get("extra_info") or {}
    node_id = next(iter(node_errors), info.get("node_id"))
    node_type = node_errors[node_id]["class_type"] if node_errors else info.get("class_type") or ""
    return WorkflowError("\n".join(lines), answer, node_id, node_type)
