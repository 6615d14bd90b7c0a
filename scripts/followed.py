"""A workflow on its way through a ComfyUI server, as the server's websocket tells it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import aiohttp


class WorkflowError(RuntimeError):
    """The server refused a workflow, or a node of it failed. The message is the server's own.

    `node_id` and `node_type` name the node, where there is one; `report` is all the server sent:
    the body of a 400 answer, or an execution_error event (with its traceback).
    """

    def __init__(self, message: str, report: dict, node_id: str | None = None, node_type: str = ""):
        super().__init__(message)
        self.report = report
        self.node_id = node_id
        self.node_type = node_type


class WorkflowInterrupted(WorkflowError):
    """Somebody asked the server to stop this workflow, and it did."""


class Followed:
    """One workflow, as the websocket tells it.

    is_known() asks the server whether it still has the workflow; it is called in a thread.
    """

    def __init__(
        self, prompt_id: str, on_event: Callable[[str, Any], None], is_known: Callable[[], bool]
    ):
        self.prompt_id = prompt_id
        self.on_event = on_event
        self.is_known = is_known
        self.has_started = False
        self.queue_changed = asyncio.Event()
        self.executed: list[str] = []
        self.cached: list[str] = []
        self.failure: WorkflowError | None = None

    async def to_the_end(self, events: aiohttp.ClientWebSocketResponse) -> None:
        """Raises WorkflowInterrupted, ConnectionError, and what is_known raises."""
        reading = asyncio.create_task(self._read(events))
        looking = asyncio.create_task(self._look_for_it())
        try:
            await asyncio.wait({reading, looking}, return_when=asyncio.FIRST_COMPLETED)
            await (reading if reading.done() else looking)
        finally:
            reading.cancel()
            looking.cancel()
            await asyncio.gather(reading, looking, return_exceptions=True)

    async def _look_for_it(self) -> None:
        """Of a workflow that is cleared, no event tells; one that runs cannot be."""
        while await self.queue_changed.wait():
            self.queue_changed.clear()
            if not self.has_started and not await asyncio.to_thread(self.is_known):
                raise WorkflowInterrupted("Somebody took it out of the server's queue.", {})

    async def _read(self, events: aiohttp.ClientWebSocketResponse) -> None:
        async for message in events:
            if message.type == aiohttp.WSMsgType.BINARY:
                if message.data[:4] == b"\0\0\0\1":  # a preview; then 4 bytes of format
                    self.on_event("preview", message.data[8:])
                continue
            if message.type != aiohttp.WSMsgType.TEXT:
                break
            event = json.loads(message.data)
            name, fields = event["type"], event["data"]
            if fields.get("prompt_id", self.prompt_id) != self.prompt_id:
                continue
            self.on_event(name, fields)
            if name == "executing" and fields["node"] is None and "prompt_id" in fields:
                return  # the history is written by now, and the next workflow can start
            self._note(name, fields)
        raise ConnectionError

    def _note(self, name: str, fields: dict) -> None:
        if name == "status":
            self.queue_changed.set()
        elif name == "execution_start":
            self.has_started = True
        elif name == "executing" and fields["node"] not in self.executed:
            self.executed.append(fields["node"])
        elif name == "execution_cached":
            self.cached = list(fields["nodes"])
        elif name == "execution_error":
            kind, text = fields["exception_type"], fields["exception_message"].strip()
            where = fields["node_id"], fields["node_type"]
            message = f"Node {where[0]} ({where[1]}) failed: {kind}: {text}"
            self.failure = WorkflowError(message, fields, *where)
        elif name == "execution_interrupted":
            where = fields["node_id"], fields["node_type"]
            message = f"Interrupted at node {where[0]} ({where[1]})."
            self.failure = WorkflowInterrupted(message, fields, *where)


def server_seconds(history: dict) -> float:
    """How long a finished workflow ran, by the server's own clock."""
    times = {name: fields.get("timestamp") for name, fields in history["status"]["messages"]}
    return (times["execution_success"] - times["execution_start"]) / 1000


def refusal(answer: dict) -> WorkflowError:
    """The server's answer to a workflow that is not valid, one line for each thing wrong."""
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
