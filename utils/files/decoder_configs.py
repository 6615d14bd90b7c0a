"""The files of a decoder folder that describe its decoder, beside the weights."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel

from ..kandinsky.schedulers import build_scheduler
from .configs import naming, read_config
from .previews import read_preview


@dataclass(frozen=True)
class DecoderConfigs:
    """The configs of a decoder's UNet and scheduler, and its map for previews."""

    unet: dict[str, Any]
    scheduler: dict[str, Any]
    preview: dict[str, Any] = field(default_factory=dict)
    source: str = "The published scheduler"  # the origin of the scheduler's config, for messages


def read_decoder_configs(folder: Path) -> DecoderConfigs:
    """Read the configs of a folder.

    Raises:
        FileNotFoundError, ValueError: the message names the file and what to do.
    """
    path = folder / "scheduler" / "scheduler_config.json"
    scheduler = read_config(path, DDPMScheduler)
    if not {"beta_start", "beta_end"} <= set(scheduler):
        raise ValueError(f"{path} has no beta_start and beta_end. Download the folder again.")
    with naming(path):
        made = build_scheduler(scheduler, "ddpm", "checkpoint")
        made.set_timesteps(2)
        learned = str(made.config.variance_type).startswith("learned")
        predicted = torch.zeros(1, 8 if learned else 4, 1, 1)
        noise = torch.Generator()  # its own generator, so that no other random numbers change
        made.step(predicted, made.timesteps[0], torch.zeros(1, 4, 1, 1), generator=noise)
    unet = read_config(folder / "unet" / "config.json", UNet2DConditionModel)
    return DecoderConfigs(unet, scheduler, read_preview(folder), str(path))
