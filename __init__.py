"""Kandinsky 2.2 for ComfyUI: every stage of the model is a node, and every wire has a type."""

__version__ = "0.1.0"
WEB_DIRECTORY = "./web"  # help pages, in docs/


async def comfy_entrypoint():
    """Return the nodes to ComfyUI. Importing this package alone loads no large library."""
    from .nodes import Kandinsky22Extension

    return Kandinsky22Extension()
