"""The plan of a decoding stage: its inputs, checked and fitted to each other."""

from dataclasses import dataclass
from typing import Any

import comfy.utils
import torch

from ..files.architectures import DECODERS
from ..kandinsky.batches import common_batch
from ..kandinsky.checks import check_numbers, check_whole_numbers
from ..kandinsky.image_embeds import ImageEmbeds
from ..kandinsky.images import resize_hint
from ..kandinsky.latents import check_latent, noise_indices
from ..kandinsky.masks import keep_from_mask, keep_from_noise_mask
from ..kandinsky.schedulers import build_scheduler, set_strength
from ..kandinsky.sizes import PIXELS_PER_LATENT, pad_to_grid
from .model import kandinsky_of
from .model_options import needs_both, wrapped_options
from .prediction import cfg_of_steps, refuse_what_only_samplers_honour
from .stage_checks import embeds_to_run, is_guided
from .unet import Kandinsky22UNet


@dataclass(frozen=True)
class Sampling:
    """The sampling widgets of a stage node."""

    seed: int
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    denoise: float = 1.0  # diffusers' strength: the part of the steps to run

    def __post_init__(self):
        numbers = check_whole_numbers(seed=self.seed, steps=self.steps)
        numbers += check_numbers(cfg=self.cfg)
        for name, value in zip(("seed", "steps", "cfg"), numbers, strict=True):
            object.__setattr__(self, name, value)


@dataclass(frozen=True, eq=False)
class StagePlan:
    """The values for one run of a stage. A plan runs once, as its scheduler remembers its steps.

    All tensors are on the UNet's grid (h, w), have a batch of 1 or of `batch`, and are on the
    device on which the node got them.
    """

    options: dict[str, Any]  # the MODEL's transformer_options, with all of its wrappers
    sampling: Sampling
    guided: bool  # whether ComfyUI's guider is called at each step: see `guidance`
    scheduler: Any
    timesteps: torch.Tensor
    cfg: list[float]  # of each timestep
    embeds: list[torch.Tensor]  # (B, D): the negative, if any step is guided, then the positive
    picture: torch.Tensor  # (B, 4, h, w)
    from_picture: bool  # whether the run starts from the picture, or from noise alone
    kept: list[torch.Tensor]  # (B, 1, h, w), 1 = stays; a pixel stays if any of these keeps it
    mask_shown: bool  # whether the UNet sees the picture and its mask
    hint: torch.Tensor | None  # (B, 3, 8h, 8w)
    batch: int
    noise_indices: list[int]  # which noise each item gets
    size: tuple[int, int]  # of the given latent, to which the result is cut


def plan_stage(
    model: Any,
    variant: str,
    embeds: tuple[ImageEmbeds, ImageEmbeds | None],
    latent: dict[str, Any],
    sampling: Sampling,
    from_picture: bool,
    hint: torch.Tensor | None,
    mask: torch.Tensor | None,
) -> StagePlan:
    """Return the plan of a stage; see `stages.run_stage` for the arguments.

    Raises:
        ValueError: an input does not fit the stage, or two inputs do not fit each other.
    """
    unet = unet_of(model, variant)
    require_condition(variant, hint, mask)
    options = wrapped_options(model)
    refuse_what_only_samplers_honour(model, options)
    picture = check_latent(latent)
    scheduler, timesteps = plan_steps(model.model.scheduler_config, sampling)
    cfg = cfg_of_steps(model, options, sampling.cfg, timesteps)
    used = embeds_to_run(*embeds, max(cfg), unet.embeds_width, needs_both(model))
    count, _, height, width = picture.shape
    kept = kept_parts(latent, mask, count, height, width)
    batches = {name: value.batch for name, value in used.items()} | {"latent": count}
    batches |= {name: len(keep) for name, keep in kept.items()}
    if hint is not None:
        hint = resize_hint(hint, height, width)
        batches["hint"] = len(hint)
    batch = common_batch(**batches)
    return StagePlan(
        options=options,
        sampling=sampling,
        guided=is_guided(model, options, scheduler),
        scheduler=scheduler,
        timesteps=timesteps,
        cfg=cfg,
        embeds=[value.tensor for value in used.values()],
        picture=pad_to_grid(picture, unet.grid),
        from_picture=from_picture,
        kept=[pad_to_grid(keep, unet.grid) for keep in kept.values()],
        mask_shown=mask is not None,
        hint=None if hint is None else pad_to_grid(hint, unet.grid * PIXELS_PER_LATENT),
        batch=batch,
        # One latent for many embeddings gives each of them the same latent with the same noise.
        noise_indices=noise_indices(latent, count) * (batch // count),
        size=(height, width),
    )


def unet_of(model: Any, variant: str) -> Kandinsky22UNet:
    """Return the UNet of a MODEL, checked to be of the variant that a stage needs.

    Raises:
        ValueError: the MODEL is not Kandinsky 2.2, or of another variant. The message says what to
            load.
    """
    unet: Any = kandinsky_of(model).diffusion_model
    if unet.variant != variant:
        raise ValueError(
            f"In Load Decoder, choose {DECODERS[variant].folder} (or one made from it). This node "
            f"needs the {variant} decoder, and got the {unet.variant} one."
        )
    return unet


def require_condition(variant: str, hint: Any, mask: Any) -> None:
    """Raise ValueError if the mask or the hint that a variant needs is None."""
    needed = {"inpaint": {"mask": mask}, "depth": {"hint": hint}}.get(variant, {})
    for name in [name for name, value in needed.items() if value is None]:
        raise ValueError(f"{name} is None, and the {variant} decoder needs one. Connect it.")


def plan_steps(config: dict[str, Any], sampling: Sampling) -> tuple[Any, torch.Tensor]:
    """Return a scheduler and the timesteps to run."""
    if sampling.steps < 1:
        raise ValueError(f"steps is {sampling.steps}; at least 1 is needed.")
    scheduler: Any = build_scheduler(config, sampling.sampler_name, sampling.scheduler)
    levels = scheduler.config.num_train_timesteps
    if sampling.steps <= levels:
        scheduler.set_timesteps(sampling.steps)
    if sampling.steps > levels or scheduler.timesteps.max() >= levels:
        raise ValueError(
            f"{sampling.steps} steps are too many for {sampling.sampler_name} with "
            f"{sampling.scheduler}: the model knows {levels} noise levels. Use 500 or fewer."
        )
    return scheduler, set_strength(scheduler, sampling.steps, sampling.denoise)


def kept_parts(
    latent: dict[str, Any], mask: torch.Tensor | None, count: int, height: int, width: int
) -> dict[str, torch.Tensor]:
    """Return source → what stays of a picture of `count` items, (B, 1, height, width), 1 = keep."""
    kept = {}
    if mask is not None:
        kept["mask"] = keep_from_mask(mask, height, width)
    if latent.get("noise_mask") is not None:
        noise_mask = keep_from_noise_mask(latent["noise_mask"], height, width)
        # ComfyUI's samplers do this, too: one mask for all, or masks repeated and cut to the batch.
        kept["noise_mask"] = comfy.utils.repeat_to_batch_size(noise_mask, count)
    return kept
