"""A pack for a server under test. GET /probe reports what is alive in the server."""

import gc
import importlib
import pkgutil
import sys
from collections import Counter

import psutil
import torch
from aiohttp import web
from server import PromptServer

NODE_CLASS_MAPPINGS = {}
PACK = "kandinsky22"


def import_all_modules():
    """Import what nodes import when they first run, so that it is alive before the first prompt."""
    (utils,) = (module for name, module in sys.modules.items() if name.endswith(PACK + ".utils"))
    for module in pkgutil.walk_packages(utils.__path__, utils.__name__ + "."):
        importlib.import_module(module.name)


@PromptServer.instance.routes.get("/probe")
async def probe(_):
    import_all_modules()
    gc.collect()
    alive = gc.get_objects()
    kinds = Counter(type(each) for each in alive)
    ours = {k.__name__: n for k, n in kinds.items() if PACK + "." in str(k.__module__)}
    tensors = sum(each.nbytes for each in alive if issubclass(type(each), torch.Tensor))
    resident = psutil.Process().memory_info().rss
    return web.json_response({"ours": ours, "tensors": tensors, "resident": resident})
