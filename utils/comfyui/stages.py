"""A decoding stage in the host: LATENT and EMBEDS in, LATENT out.

The stages differ only in what `run_stage` is given: a hint, a mask, a denoising strength.
"""

from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.utils
import latent_preview
import torch

from ..kandinsky import decoder
from ..kandinsky.latents import check_latent
from ..kandinsky.schedulers import build_scheduler, last_steps
from ..kandinsky.sizes import PIXELS_PER_LATENT, pad_to_grid
from ..kandinsky.tensors import (
    broadcast,
    common_batch,
    draw_noise,
    images_to_model,
    item_generators,
    keep_from_mask,
    keep_from_noise_mask,
    resize,
)
from ..kandinsky.values import ImageEmbeds, check_numbers, check_whole_numbers
from .model import forward_memory, kandinsky_of
from .prediction import cfg_of_steps, prediction, refuse_what_only_samplers_honour
from .unet import VARIANTS, Kandinsky22UNet


@dataclass(frozen=True)
class Sampling:
    """The sampling widgets of a stage node."""

    seed: int
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str

    def __post_init__(self):
        check_whole_numbers(seed=self.seed, steps=self.steps)
        check_numbers(cfg=self.cfg)


def unet_of(model: Any, variant: str) -> Kandinsky22UNet:
    """The UNet of a MODEL, checked to be of the variant a stage needs.

    Raises:
        ValueError: the MODEL is not Kandinsky 2.2, or of another variant; says what to load.
    """
    base = kandinsky_of(model)
    unet: Any = base.diffusion_model
    if unet.variant != variant:
        raise ValueError(
            f"This stage needs the {variant} decoder, and got the {unet.variant} one. "
            f"Choose {VARIANTS[variant]} (or one made from it) in Load Decoder."
        )
    return unet


def check_embeds(
    embeds: ImageEmbeds, negative: ImageEmbeds | None, cfg: float, width: int
) -> dict[str, ImageEmbeds]:
    """The embeddings a stage runs with, in the UNet's order; the negative only under guidance."""
    if cfg > 1 and negative is None:
        raise ValueError(
            f"With cfg {cfg:g}, which is above 1, connect negative_image_embeds: the second output "
            "of Prior, or Zero Embeds for none. Or set cfg to 1."
        )
    used: dict[str, Any] = {"negative_image_embeds": negative} if cfg > 1 else {}
    used["image_embeds"] = embeds
    for name, value in used.items():
        if not isinstance(value, ImageEmbeds):
            raise ValueError(f"{name} is {value!r}, not image embeddings: connect it to a Prior.")
        value.check_width(width, "this decoder")
    return used


def plan_steps(config: dict[str, Any], sampling: Sampling, strength: float):
    """(scheduler, the timesteps to run)."""
    if sampling.steps < 1:
        raise ValueError(f"steps is {sampling.steps}; at least 1 is needed.")
    scheduler = build_scheduler(config, sampling.sampler_name, sampling.scheduler)
    levels = scheduler.config.num_train_timesteps
    if sampling.steps <= levels:
        scheduler.set_timesteps(sampling.steps)
    if sampling.steps > levels or scheduler.timesteps.max() >= levels:
        raise ValueError(
            f"{sampling.steps} steps are too many for {sampling.sampler_name} with "
            f"{sampling.scheduler}: the model knows {levels} noise levels. Use 500 or fewer."
        )
    return scheduler, last_steps(scheduler, sampling.steps, strength)


def kept_parts(
    latent: dict[str, Any], mask: torch.Tensor | None, count: int, height: int, width: int
) -> dict[str, torch.Tensor]:
    """What stays of a picture of `count` items: source → (B, 1, height, width), 1 = keep."""
    kept = {}
    if mask is not None:
        kept["mask"] = keep_from_mask(mask, height, width)
    if latent.get("noise_mask") is not None:
        noise_mask = keep_from_noise_mask(latent["noise_mask"], height, width)
        # As the host's samplers do: one mask for all, or repeated and cut to the batch.
        kept["noise_mask"] = comfy.utils.repeat_to_batch_size(noise_mask, count)
    return kept


def run_stage(
    model: Any,
    variant: str,
    image_embeds: ImageEmbeds,
    negative_image_embeds: ImageEmbeds | None,
    latent: dict[str, Any],
    sampling: Sampling,
    *,
    denoise: float | None = None,
    hint: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> dict[str, Any]:
    """Run one decoding stage on the MODEL's device, with the host's progress and interrupt.

    Args:
        variant: the UNet that the stage needs.
        latent: a canvas whose size counts, or, with `denoise` or `mask`, a picture. Sizes that
            are not multiples of the UNet's grid are extended for the run and cut back.
        denoise: start from the picture, noised, and run only this part of the steps.
        hint: IMAGE (B, H, W, C), resized to the picture.
        mask: MASK (B, H, W), 1 = repaint; the rest of the picture stays.

    Raises:
        ValueError: see the messages; nothing has been changed.
    """
    unet = unet_of(model, variant)
    needed = {"inpaint": {"mask": mask}, "depth": {"hint": hint}}.get(variant, {})
    for name in [name for name, value in needed.items() if value is None]:
        raise ValueError(f"{name} is None, and the {variant} decoder needs one. Connect it.")
    refuse_what_only_samplers_honour(model)
    picture = check_latent(latent)
    strength = 1.0 if denoise is None else denoise
    scheduler, timesteps = plan_steps(model.model.scheduler_config, sampling, strength)
    cfg = cfg_of_steps(model, sampling.cfg, timesteps)
    embeds = check_embeds(image_embeds, negative_image_embeds, max(cfg), unet.embeds_width)

    count, _, height, width = picture.shape
    kept = kept_parts(latent, mask, count, height, width)
    batches = {name: value.batch for name, value in embeds.items()} | {"latent": count}
    batches |= {name: len(keep) for name, keep in kept.items()}
    if hint is not None:
        hint = images_to_model(hint)
        hint = resize(hint, height * PIXELS_PER_LATENT, width * PIXELS_PER_LATENT)
        hint = pad_to_grid(hint, unet.grid * PIXELS_PER_LATENT)
        batches["hint"] = len(hint)
    batch = common_batch(**batches)
    # One canvas for many embeddings is the same canvas, with the same noise, for each.
    indices = list(latent.get("batch_index", range(count))) * (batch // count)
    generators = item_generators(sampling.seed, indices)

    def ready(tensor: torch.Tensor) -> torch.Tensor:
        return broadcast(tensor, batch).to(model.load_device)

    picture = ready(pad_to_grid(picture, unet.grid))
    noise = draw_noise(picture.shape, generators).to(model.load_device)
    start = noise * scheduler.init_noise_sigma
    if denoise is not None:
        start = scheduler.add_noise(picture, noise, timesteps[:1].repeat(batch))
    concat = preserve = None
    if kept:
        keep = torch.stack([ready(pad_to_grid(k, unet.grid)) for k in kept.values()]).amax(0)
        preserve = decoder.Preserve(picture, noise, keep)
        if mask is not None:
            concat = torch.cat([picture * keep, keep], dim=1)  # (B, 5, h, w)
            concat = torch.cat([concat] * len(embeds))
    if hint is not None:
        hint = torch.cat([ready(hint)] * len(embeds)).to(model.model.get_dtype_inference())

    memory = forward_memory(model, [len(embeds) * batch, *picture.shape[1:]])
    comfy.model_management.load_models_gpu([model], memory_required=memory)
    report = latent_preview.prepare_callback(model, len(timesteps))

    def on_step(index: int, total: int, latents: torch.Tensor, finished: torch.Tensor) -> None:
        report(index, finished, latents, total)
        comfy.model_management.throw_exception_if_processing_interrupted()

    samples = decoder.denoise(
        prediction(model, hint),
        scheduler,
        timesteps,
        start,
        torch.cat([ready(value.tensor) for value in embeds.values()]),
        cfg,
        generators,
        concat=concat,
        preserve=preserve,
        on_step=on_step,
    )
    samples = samples[..., :height, :width].contiguous()
    samples = samples.to(comfy.model_management.intermediate_device())
    if not torch.isfinite(samples).all():
        raise ValueError(
            "The latents came out with NaN or infinity. If latent, hint or mask is sound, load "
            "the decoder with weight_dtype fp32, or bf16 where the card computes in it."
        )
    result = latent | {"samples": samples}
    result.pop("downscale_ratio_spacial", None)  # Empty Latent Image's word to a sampler
    if "batch_index" in latent or batch > count:
        result["batch_index"] = indices  # so that the next stage draws the same noise again
    return result
