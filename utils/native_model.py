"""The decoder as the host's MODEL: what KSampler, LoRA loaders, merges and the rest work on.

The stage nodes take the same MODEL and run its UNet through `prediction`.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.supported_models_base
import comfy.utils
import torch
from comfy.patcher_extension import CallbacksMP

from .checkpoints import find_model, list_models, read_json
from .conditioning import HINT, HintCond, check_conditioning
from .native_unet import Kandinsky22UNet
from .optimizations import lay_out_weights
from .preview import FILE as PREVIEW_FILE
from .published import UNETS
from .residency import move_stray_tensors, pick_dtypes
from .sizes import PIXELS_PER_LATENT
from .tensors import images_to_model, keep_from_mask, resize
from .weights import fill_module, recognise, weight_files

# Numbers in memory at the peak of a forward, for each latent pixel and channel of the first level,
# `python scripts/measure_memory.py text_to_image inpaint depth` shows 15.6; and for each pair of
# latent pixels and head, where attention has no fused kernel and writes its scores out.
ACTIVATIONS, SCORES = 16, 1 / 8

SAVED_PREFIX = "model.diffusion_model."  # what ModelSave writes before every name


@dataclass(frozen=True)
class Settings:
    """What is known of a decoder beside its weights: three configs, see `read_settings`."""

    unet: dict[str, Any]
    scheduler: dict[str, Any]
    preview: dict[str, Any] = field(default_factory=dict)


class MoVQLatents(comfy.latent_formats.LatentFormat):
    """Unscaled MoVQ latents: the scaling_factor in the published config is not used."""

    def __init__(self, preview: dict[str, Any] | None = None):
        for name in ("latent_rgb_factors", "latent_rgb_factors_bias"):
            setattr(self, name, (preview or {}).get(name))


class Kandinsky22Config(comfy.supported_models_base.BASE):
    unet_config = {"disable_unet_model_creation": True}
    unet_extra_config = {}
    latent_format = MoVQLatents


class Kandinsky22(comfy.model_base.BaseModel):
    """The host's view of a decoder: its sampling schedule, and its UNet as `diffusion_model`."""

    def __init__(self, unet: Kandinsky22UNet, settings: Settings, dtypes):
        weights, compute = dtypes
        config: Any = Kandinsky22Config(Kandinsky22Config.unet_config)
        config.latent_format = MoVQLatents(settings.preview)
        # The host's word for diffusers' "linear" betas; its own "linear" is "scaled_linear".
        config.sampling_settings = {
            "beta_schedule": "sqrt_linear",
            "linear_start": settings.scheduler["beta_start"],
            "linear_end": settings.scheduler["beta_end"],
        }
        config.set_inference_dtype(weights, None if weights == compute else compute)
        super().__init__(config)
        self.diffusion_model = unet
        self.scheduler_config = settings.scheduler

    def extra_conds(self, **kwargs):
        """What CONDITIONING brings to the UNet; raises ValueError where it does not fit."""
        noise, hint = kwargs["noise"], kwargs.get(HINT)
        check_conditioning(self.diffusion_model, noise, kwargs)
        conds = super().extra_conds(**kwargs)
        if hint is not None:
            height, width = (side * PIXELS_PER_LATENT for side in noise.shape[-2:])
            conds["hint"] = HintCond(resize(images_to_model(hint), height, width))
        return conds

    def concat_cond(self, **kwargs):
        """What the inpaint UNet sees of the picture, (B, 5, h, w): latents · keep, keep.

        From Inpaint Conditioning; without one, from the LATENT and its noise mask.
        """
        if self.diffusion_model.variant != "inpaint":
            return None
        noise, mask = kwargs["noise"], kwargs.get("concat_mask")
        if mask is not None:
            picture = kwargs["concat_latent_image"]
            keep = keep_from_mask(mask, *noise.shape[-2:])
        elif kwargs.get("denoise_mask") is not None:
            picture = kwargs["latent_image"]
            keep = 1 - kwargs["denoise_mask"][:, :1].round()
        else:
            picture, keep = noise, torch.zeros_like(noise[:, :1])  # nothing is kept
        picture, keep = (
            comfy.utils.repeat_to_batch_size(part.to(noise), len(noise)) for part in (picture, keep)
        )
        return torch.cat([picture * keep, keep], dim=1)

    def scale_latent_inpaint(self, sigma, noise, latent_image, **kwargs):
        """What is put back of a kept picture at a noise level; at the first one, only noise.

        So the pipeline begins: it puts the picture back after a step, not before.
        """
        kept = super().scale_latent_inpaint(sigma, noise, latent_image, **kwargs)
        sigma = sigma.reshape(-1, *[1] * (noise.ndim - 1))
        first = sigma >= self.model_sampling.sigma_max.to(sigma) * (1 - 1e-5)
        return torch.where(first, noise * (1 + sigma**2).sqrt(), kept)

    def memory_required(self, input_shape, cond_shapes=None) -> int:
        """Bytes of a forward for input (B, C, h, w)."""
        batch, _, *sides = input_shape
        pixels, config = math.prod(sides), self.diffusion_model.config
        numbers = ACTIVATIONS * config["block_out_channels"][0]
        management = comfy.model_management
        if not (management.xformers_enabled() or management.pytorch_attention_flash_attention()):
            heads = config["block_out_channels"][1] // config["attention_head_dim"]
            numbers += SCORES * heads * pixels
        return int(batch * pixels * numbers * management.dtype_size(self.get_dtype_inference()))


def read_settings(folder: Path) -> Settings:
    path = folder / "scheduler" / "scheduler_config.json"
    scheduler = read_json(path)
    if not {"beta_start", "beta_end"} <= set(scheduler):
        raise ValueError(f"{path} has no beta_start and beta_end. Download the folder again.")
    colours = folder / PREVIEW_FILE
    return Settings(
        unet=read_json(folder / "unet" / "config.json"),
        scheduler=scheduler,
        preview=read_json(colours) if colours.is_file() else {},
    )


def load_model(folder: Path, weight_dtype: str = "default", disable_dynamic: bool = False):
    """The MODEL of a decoder folder: a ModelPatcher that owns a `Kandinsky22`."""
    settings = read_settings(folder)
    model = build_model(settings, weight_files(folder / "unet"), weight_dtype, disable_dynamic)
    # How the host makes the model again where it needs one without dynamic memory.
    model.cached_patcher_init = (load_model, (folder, weight_dtype))
    return model


def load_unet(file: Path, weight_dtype: str = "default", disable_dynamic: bool = False):
    """The MODEL of one file: a published UNet's shapes, or those of a decoder folder on disk."""
    known = [(f"the published {name}", Settings(**parts)) for name, parts in UNETS.items()]
    known += [(name, read_settings(find_model(name, "decoder"))) for name in list_models("decoder")]
    candidates = [(title, settings.unet) for title, settings in known]
    config = recognise(file, candidates, Kandinsky22UNet.from_config, SAVED_PREFIX)
    settings = next(settings for _, settings in known if settings.unet is config)
    model = build_model(settings, [file], weight_dtype, disable_dynamic)
    model.cached_patcher_init = (load_unet, (file, weight_dtype))
    return model


def build_model(settings: Settings, files: list[Path], weight_dtype: str, disable_dynamic: bool):
    weights, compute = dtypes = pick_dtypes(weight_dtype)
    unet = fill_module(
        *(Kandinsky22UNet.from_config, settings.unet, files, weights),
        comfy.ops.pick_operations(weights, compute),
        SAVED_PREFIX,
    )
    comfy.model_management.archive_model_dtypes(unet)
    patcher_class = comfy.model_patcher.CoreModelPatcher
    if disable_dynamic:
        patcher_class = comfy.model_patcher.ModelPatcher
    patcher = patcher_class(
        Kandinsky22(unet, settings, dtypes),
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
    patcher.add_callback(CallbacksMP.ON_LOAD, move_stray_tensors)
    patcher.add_callback(CallbacksMP.ON_LOAD, lay_out_weights)
    return patcher
