"""A custom node file for the measured server that records when which code runs.

It has no nodes. Before a workflow runs, it wraps the methods of the workflow's nodes and the two
networks of diffusers in a clock. GET /benchmark/spans returns [name, start, end] of all calls since
the last GET, in seconds. "request" is when the workflow came in, and "done" is when its history was
written.
"""

from __future__ import annotations

import functools
import time

import server
import torch
from aiohttp import web
from diffusers import UNet2DConditionModel, VQModel
from execution import PromptQueue

import nodes

NODE_CLASS_MAPPINGS: dict[str, type] = {}
VERBS = {
    "UNet": (UNet2DConditionModel, "forward"),
    "MoVQ": (VQModel, "decode"),
    "done": (PromptQueue, "task_done"),
}
spans: list[tuple[str, float, float]] = []
clocked: set[str] = set()


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.monotonic()


def put_clock(owner: type, verb: str, name: str) -> None:
    plain = getattr(owner, verb)
    plain = getattr(plain, "__func__", plain)

    @functools.wraps(plain)
    def run(*args, **kwargs):
        start = now()
        try:
            return plain(*args, **kwargs)
        finally:
            spans.append((name, start, now()))

    # A node of the new kind has a class method `execute`. Others name a method.
    is_class_method = isinstance(vars(owner).get(verb), classmethod)
    setattr(owner, verb, classmethod(run) if is_class_method else run)


def put_clocks(request: dict) -> dict:
    spans.append(("request", now(), now()))
    for node in request.get("prompt", {}).values():
        name = node["class_type"]
        owner = nodes.NODE_CLASS_MAPPINGS.get(name)
        if owner is not None and name not in clocked:
            clocked.add(name)
            put_clock(owner, "execute" if hasattr(owner, "execute") else owner.FUNCTION, name)
    return request


async def give_spans(_request) -> web.Response:
    given = spans.copy()
    spans.clear()
    return web.json_response(given)


for name, (owner, verb) in VERBS.items():
    put_clock(owner, verb, name)
server.PromptServer.instance.add_on_prompt_handler(put_clocks)
server.PromptServer.instance.routes.get("/benchmark/spans")(give_spans)
