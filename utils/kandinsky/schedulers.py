"""Build a diffusers scheduler with the checkpoint's config from ComfyUI's names.

A scheduler of diffusers takes every step. lean_steps has a faster variant of the one for DDPM.
"""

import copy
import json
import math
from typing import Any

import diffusers
import torch

from .checks import check_choice, check_numbers
from .lean_steps import LeanDDPM
from .samplers import SAMPLERS, SPACINGS

# New KDPM2 schedulers, which are copied because their constructor is slow.
BUILT: dict[tuple[str, str], Any] = {}


def build_scheduler(config: dict[str, Any], sampler_name: str, scheduler: str) -> Any:
    """Return a scheduler with the checkpoint's betas, prediction type and clipping.

    Raises:
        ValueError: a name is unknown, or diffusers does not have the pair.
    """
    scheduler_class, settings = scheduler_settings(config, sampler_name, scheduler)
    if scheduler_class is diffusers.DDPMScheduler:
        scheduler_class = LeanDDPM
    if not scheduler_class.__name__.startswith("KDPM2"):
        return scheduler_class.from_config(settings)
    key = scheduler_class.__name__, json.dumps(settings, sort_keys=True, default=str)
    if key not in BUILT:  # its constructor takes half a second
        BUILT[key] = scheduler_class.from_config(settings)
    return copy.deepcopy(BUILT[key])


def scheduler_settings(
    config: dict[str, Any], sampler_name: str, scheduler: str
) -> tuple[Any, dict[str, Any]]:
    """Return the diffusers class of a sampler, and the settings for its `from_config`.

    `ddpm` with `checkpoint` is the published scheduler, step for step. The spacing is always passed
    explicitly. `from_config` drops values that equal the other class's default, so Euler would
    silently use `linspace`.

    Raises:
        ValueError: a name is unknown, or diffusers does not have the pair.
    """
    check_choice("sampler_name", sampler_name, SAMPLERS)
    check_choice("scheduler", scheduler, SPACINGS)

    class_name, algorithm = SAMPLERS[sampler_name]
    scheduler_class: Any = getattr(diffusers, class_name)
    known = scheduler_class._get_init_keys(scheduler_class)
    options = {"timestep_spacing": config.get("timestep_spacing", "leading")}
    options |= SPACINGS[scheduler] | algorithm
    missing = [name for name in options if name not in known]
    if missing:
        raise ValueError(
            f"The sampler {sampler_name} has no {scheduler} spacing in diffusers "
            f"({class_name} lacks {', '.join(missing)}). Choose another pair."
        )
    settings = {name: value for name, value in config.items() if name in known}
    if sampler_name != "ddpm":
        # Only DDPM reads the UNet's variance channels. Other schedulers would take them for noise.
        settings.pop("variance_type", None)
    return scheduler_class, settings | options


def set_strength(scheduler: Any, steps: int, strength: float) -> torch.Tensor:
    """Have a scheduler run only the last `int(steps × strength)` of its steps, and return these.

    This is what strength means in diffusers. A scheduler of a higher order has several timesteps
    for a step, and all of them count. Strength 1 runs every step.

    Raises:
        ValueError: strength is not in (0, 1], or leaves no step.
    """
    (strength,) = check_numbers(**{"strength (denoise)": strength})
    if not 0 < strength <= 1:
        raise ValueError(f"The strength (denoise) is above 0 and at most 1, not {strength:g}.")
    count = int(steps * strength)
    if count < 1:
        raise ValueError(
            f"{steps} steps with a strength (denoise) of {strength:g} leave no step to run. "
            f"Use {fewest_steps(strength)} steps or more, or a greater strength."
        )
    begin = (steps - count) * getattr(scheduler, "order", 1)
    if isinstance(scheduler, diffusers.LMSDiscreteScheduler):
        # LMS takes the position in the list for the number of derivatives that it has seen.
        scheduler.timesteps, scheduler.sigmas = (
            scheduler.timesteps[begin:],
            scheduler.sigmas[begin:],
        )
        begin = 0
    if hasattr(scheduler, "set_begin_index"):
        # A search by value would fail, because timesteps may repeat.
        scheduler.set_begin_index(begin)
    return scheduler.timesteps[begin:]


def fewest_steps(strength: float) -> int:
    """Return the smallest number of steps of which a strength leaves one to run."""
    steps = math.floor(1 / strength)
    return steps if int(steps * strength) >= 1 else steps + 1
