"""Kandinsky 2.2 for ComfyUI: every stage of the model is a node, and every wire has a type."""

import sys
from importlib.util import find_spec
from pathlib import Path

__version__ = "0.1.0"
WEB_DIRECTORY = "./web"  # help pages, in docs/
NEEDED = ("accelerate", "diffusers", "huggingface_hub", "safetensors", "transformers")


async def comfy_entrypoint():
    """Return the nodes to ComfyUI, which is starting. No large library is imported here.

    Raises:
        ImportError: a package is missing. Without this check, the first run would notice.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        requirements = Path(__file__).with_name("requirements.txt")
        raise ImportError(
            f"{', '.join(missing)} is missing in the Python that runs ComfyUI. Run:\n"
            f'"{sys.executable}" -m pip install -r "{requirements}"'
        )
    from .nodes import Kandinsky22Extension

    return Kandinsky22Extension()
