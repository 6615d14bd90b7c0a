"""A decoding stage in the host: LATENT and EMBEDS in, LATENT out.

The stages differ only in what `run_stage` is given: a hint, a mask, a denoising strength.
"""

from dataclasses import dataclass
from typing import Any

import comfy.model_management
import latent_preview
import torch

from . import decoder
from .native_model import Kandinsky22, Kandinsky22UNet, prediction
from .schedulers import build_scheduler, last_steps
from .sizes import PIXELS_PER_LATENT, pad_to_grid
from .tensors import (
    broadcast,
    common_batch,
    draw_noise,
    images_to_model,
    item_generators,
    keep_from_mask,
    keep_from_noise_mask,
    resize,
)
from .values import ImageEmbeds

# variant of the UNet → the published folder that has it
VARIANTS = {
    "text_to_image": "kandinsky-2-2-decoder",
    "inpaint": "kandinsky-2-2-decoder-inpaint",
    "depth": "kandinsky-2-2-controlnet-depth",
}


@dataclass(frozen=True)
class Sampling:
    """The sampling widgets of a stage node."""

    seed: int
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str


def unet_of(model: Any, variant: str) -> Kandinsky22UNet:
    """The UNet of a MODEL, checked to be of the variant a stage needs.

    Raises:
        ValueError: the MODEL is not Kandinsky 2.2, or of another variant; says what to load.
    """
    if not isinstance(model.model, Kandinsky22):
        raise ValueError(
            f"This MODEL is a {type(model.model).__name__}, not a Kandinsky 2.2 decoder. "
            "Connect the MODEL of Load Decoder (Kandinsky 2.2)."
        )
    unet = model.get_model_object("diffusion_model")
    if unet.variant != variant:
        raise ValueError(
            f"This stage needs the {variant} decoder, and got the {unet.variant} one. "
            f"Choose {VARIANTS[variant]} (or one made from it) in Load Decoder."
        )
    return unet


def check_latent(latent: dict[str, Any]) -> torch.Tensor:
    samples = latent["samples"]
    if samples.ndim != 4 or samples.shape[1] != decoder.LATENT_CHANNELS:
        raise ValueError(
            f"Kandinsky 2.2 latents are (batch, 4, height/8, width/8), not {tuple(samples.shape)}: "
            "this LATENT is for another model. Use Empty Latent Image, or VAE Encode with the "
            "VAE of Load Decoder (Kandinsky 2.2)."
        )
    return samples.float()


def check_embeds(
    embeds: ImageEmbeds, negative: ImageEmbeds | None, cfg: float, width: int
) -> dict[str, ImageEmbeds]:
    """The embeddings a stage runs with, in the UNet's order; the negative only under guidance."""
    if cfg > 1 and negative is None:
        raise ValueError(
            f"With cfg {cfg:g}, which is above 1, connect negative_image_embeds: the second output "
            "of Prior, or Zero Embeds for none. Or set cfg to 1."
        )
    used = {"image_embeds": embeds}
    if cfg > 1 and negative is not None:
        used = {"negative_image_embeds": negative, "image_embeds": embeds}
    for value in used.values():
        value.check_width(width, "this decoder")
    return used


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
    picture = check_latent(latent)
    embeds = check_embeds(image_embeds, negative_image_embeds, sampling.cfg, unet.embeds_width)
    if sampling.steps < 1:
        raise ValueError(f"steps is {sampling.steps}; at least 1 is needed.")
    config = model.model.scheduler_config
    scheduler = build_scheduler(config, sampling.sampler_name, sampling.scheduler)
    scheduler.set_timesteps(sampling.steps)
    timesteps = scheduler.timesteps
    if denoise is not None:
        timesteps = last_steps(scheduler, sampling.steps, denoise)

    height, width = picture.shape[-2:]
    keeps: dict[str, torch.Tensor] = {}
    if mask is not None:
        keeps["mask"] = keep_from_mask(mask, height, width)
    if latent.get("noise_mask") is not None:
        keeps["noise_mask"] = keep_from_noise_mask(latent["noise_mask"], height, width)
    sizes = {name: value.batch for name, value in embeds.items()} | {"latent": len(picture)}
    sizes |= {name: len(keep) for name, keep in keeps.items()}
    if hint is not None:
        hint = images_to_model(hint)
        hint = resize(hint, height * PIXELS_PER_LATENT, width * PIXELS_PER_LATENT)
        hint = pad_to_grid(hint, unet.grid * PIXELS_PER_LATENT)
        sizes["hint"] = len(hint)
    batch = common_batch(**sizes)
    # One canvas for many embeddings is the same canvas, with the same noise, for each.
    indices = list(latent.get("batch_index", range(len(picture))))
    generators = item_generators(sampling.seed, indices * (batch // len(picture)))

    def ready(tensor: torch.Tensor) -> torch.Tensor:
        return broadcast(tensor, batch).to(model.load_device)

    picture = ready(pad_to_grid(picture, unet.grid))
    noise = draw_noise(picture.shape, generators).to(model.load_device)
    start = noise * scheduler.init_noise_sigma
    if denoise is not None:
        start = scheduler.add_noise(picture, noise, timesteps[:1].repeat(batch))
    concat = preserve = None
    if keeps:
        keep = torch.stack([ready(pad_to_grid(k, unet.grid)) for k in keeps.values()]).amax(0)
        preserve = decoder.Preserve(picture, noise, keep)
        if mask is not None:
            concat = torch.cat([picture * keep, keep], dim=1)  # (B, 5, h, w)
            concat = torch.cat([concat] * len(embeds))
    if hint is not None:
        hint = torch.cat([ready(hint)] * len(embeds)).to(model.model.get_dtype_inference())

    memory = model.memory_required([len(embeds) * batch, *picture.shape[1:]])
    comfy.model_management.load_models_gpu([model], memory_required=memory)
    report = latent_preview.prepare_callback(model, len(timesteps))

    def on_step(index: int, count: int, latents: torch.Tensor, finished: torch.Tensor) -> None:
        report(index, finished, latents, count)
        comfy.model_management.throw_exception_if_processing_interrupted()

    samples = decoder.denoise(
        prediction(model, hint),
        scheduler,
        timesteps,
        start,
        torch.cat([ready(value.tensor) for value in embeds.values()]),
        sampling.cfg,
        generators,
        concat=concat,
        preserve=preserve,
        on_step=on_step,
    )
    samples = samples[..., :height, :width].contiguous()
    return latent | {"samples": samples.to(comfy.model_management.intermediate_device())}
