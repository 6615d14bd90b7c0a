"""Widgets that several nodes share, the check of a name in one, and text below them."""

from collections.abc import Callable
from typing import Any

from comfy_api.latest import io

from ..utils.comfyui.dtypes import WEIGHT_DTYPES
from ..utils.comfyui.model_files import find_file
from ..utils.comfyui.model_folders import find_model

# Other names of this model, for the search.
NAMES_OF_THE_MODEL = ["K22", "Kandinsky 2", "Кандинский"]


def seed_input(batch: str) -> io.Input:
    """Return the widget `seed`. `batch` says how the items of a batch get their noise from it."""
    return io.Int.Input(
        "seed",
        default=0,
        min=0,
        max=2**64 - 1,
        control_after_generate=True,
        tooltip="The noise is drawn from this seed on the CPU, so that it is the same on every "
        f"device. {batch}",
    )


def cfg_input(tooltip: str) -> io.Input:
    return io.Float.Input(
        "cfg", default=4.0, min=0.0, max=100.0, step=0.1, round=0.01, tooltip=tooltip
    )


def weight_dtype_input() -> io.Input:
    return io.Combo.Input(
        "weight_dtype",
        options=list(WEIGHT_DTYPES),
        default="default",
        advanced=True,
        tooltip="The dtype of the weights. default: the one that the device computes well in "
        "(fp32 on a CPU, usually fp16 on a GPU).",
    )


def check_model_name(name: Any, kind: str) -> bool | str:
    """Return True, or the message that ComfyUI shows before it queues a workflow."""
    return check_name(name, lambda: find_model(name, kind))


def check_file_name(name: Any, kind: str) -> bool | str:
    """Return the same for a single file."""
    return check_name(name, lambda: find_file(name, kind))


def check_name(name: Any, find: Callable[[], Any]) -> bool | str:
    if name is None:  # it comes over a wire, and is known when the graph runs
        return True
    try:
        find()
    except (FileNotFoundError, ValueError) as error:
        return str(error)
    return True


def write_on(node_id: str, text: str) -> None:
    """Show a text below a node's widgets."""
    from server import PromptServer  # only a running ComfyUI has this module

    PromptServer.instance.send_progress_text(text, node_id)


NOTED: set[str] = set()  # the nodes that show a note


def show_notes(notes: list[str]) -> None:
    """Show notes below the widgets of the running node. No notes remove those of its last run."""
    if not notes and not NOTED:
        return
    from server import PromptServer  # there is an instance only in a running ComfyUI

    server = getattr(PromptServer, "instance", None)
    node_id = getattr(server, "last_node_id", None)
    if server and node_id and (notes or node_id in NOTED):
        (NOTED.add if notes else NOTED.discard)(node_id)
        # The name of a file may be invalid Unicode.
        text = "\n".join(notes).encode(errors="replace")
        server.send_progress_text(text, node_id)
