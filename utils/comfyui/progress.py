"""Progress of a loop in ComfyUI: a bar on the node, and the Interrupt button."""

from collections.abc import Callable

import comfy.model_management
import comfy.utils


def step_reporter(steps: int) -> Callable[[int, int], None]:
    """A function to call after each step with (index, count).

    It shows the progress, and raises ComfyUI's InterruptProcessingException if the user stopped
    the run.
    """
    bar = comfy.utils.ProgressBar(steps)

    def on_step(index: int, count: int) -> None:
        bar.update_absolute(index + 1, count)
        comfy.model_management.throw_exception_if_processing_interrupted()

    return on_step
