"""Progress of a loop in ComfyUI: a bar on the node, and the Interrupt button."""

from collections.abc import Callable

import comfy.model_management
import comfy.utils

OnStep = Callable[[int, int], None]


def part_of(report: OnStep, part: int, parts: int) -> OnStep:
    """Return a function that reports the steps of one of `parts` equal runs within the whole."""
    return lambda index, count: report(part * count + index, parts * count)


def step_reporter(steps: int) -> OnStep:
    """Return a function to call after each step with (index, count).

    It shows the progress, and raises ComfyUI's InterruptProcessingException if the user stopped the
    run.
    """
    bar = comfy.utils.ProgressBar(steps)

    def on_step(index: int, count: int) -> None:
        bar.update_absolute(index + 1, count)
        comfy.model_management.throw_exception_if_processing_interrupted()

    return on_step
