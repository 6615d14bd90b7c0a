"""Kandinsky 2.2 for ComfyUI: every stage of the model is a node, every value on a wire is typed."""

__version__ = "0.1.0"
WEB_DIRECTORY = "./web"  # help pages, in docs/


async def comfy_entrypoint():
    """What ComfyUI calls to get the nodes. Importing this package alone imports nothing heavy."""
    from .nodes import Kandinsky22Extension

    return Kandinsky22Extension()
