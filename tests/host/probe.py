"""A pack for a server under test. GET /probe reports what is alive in the server."""

import gc
from collections import Counter

import psutil
import torch
from aiohttp import web
from server import PromptServer

NODE_CLASS_MAPPINGS = {}


@PromptServer.instance.routes.get("/probe")
async def probe(_):
    gc.collect()
    alive = gc.get_objects()
    kinds = Counter(type(each) for each in alive)
    ours = {k.__name__: n for k, n in kinds.items() if "kandinsky22." in str(k.__module__)}
    tensors = sum(each.nbytes for each in alive if issubclass(type(each), torch.Tensor))
    resident = psutil.Process().memory_info().rss
    return web.json_response({"ours": ours, "tensors": tensors, "resident": resident})
