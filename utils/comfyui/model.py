"""The decoder as ComfyUI's MODEL: here KSampler, LoRA loaders, merges and the rest meet the UNet.

The stage nodes take the same MODEL and run its UNet through `prediction`.
"""

import math
from collections.abc import Sequence
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_management
import comfy.supported_models_base
import comfy.utils
import torch

from ..files.decoder_configs import DecoderConfigs
from ..kandinsky.images import resize_hint
from ..kandinsky.masks import keep_from_mask
from .conditioning import HINT, KEEP, PICTURE, HintCond, check_conditioning
from .model_options import refuse_foreign_parts, unet_arguments
from .unet import Kandinsky22UNet

# Numbers in memory at the peak of a forward: for each latent pixel and channel of the first level
# (`python tools/measure_memory.py` shows up to 5,968 a pixel with 384 channels); for each pair of
# latent pixels and head, where attention has no fused kernel and writes its scores out; and for the
# same in diffusers' plain attention, which keeps them twice.
ACTIVATIONS, SCORES, PLAIN_SCORES = 16, 1 / 8, 1 / 4


# What a scheduler's config says → ComfyUI's name for it; ComfyUI's "linear" is "scaled_linear".
MODEL_TYPES = {
    "epsilon": comfy.model_base.ModelType.EPS,
    "v_prediction": comfy.model_base.ModelType.V_PREDICTION,
}
BETA_SCHEDULES = {"linear": "sqrt_linear", "scaled_linear": "linear"}


def sampling_of(configs: DecoderConfigs) -> tuple[Any, dict[str, Any]]:
    """ComfyUI's (model type, sampling settings) for a checkpoint's scheduler config.

    Raises:
        ValueError: ComfyUI's samplers have no such noise levels or no such prediction.
    """
    scheduler = configs.scheduler
    prediction = scheduler.get("prediction_type", "epsilon")
    betas = scheduler.get("beta_schedule", "linear")
    for name, value, known in (
        ("prediction_type", prediction, MODEL_TYPES),
        ("beta_schedule", betas, BETA_SCHEDULES),
        ("trained_betas", scheduler.get("trained_betas"), (None,)),
    ):
        if value not in known:
            raise ValueError(
                f"{configs.source} has {name} {value!r:.80}, which ComfyUI's samplers cannot "
                f"follow; they know {', '.join(map(str, known))}. Use another checkpoint."
            )
    return MODEL_TYPES[prediction], {
        "beta_schedule": BETA_SCHEDULES[betas],
        "linear_start": scheduler["beta_start"],
        "linear_end": scheduler["beta_end"],
        "timesteps": scheduler.get("num_train_timesteps", 1000),
        "zsnr": scheduler.get("rescale_betas_zero_snr", False),
    }


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
    """ComfyUI's view of a decoder: its sampling schedule, and its UNet as `diffusion_model`."""

    def __init__(
        self,
        unet: Kandinsky22UNet,
        configs: DecoderConfigs,
        dtypes: tuple[torch.dtype, torch.dtype],
    ):
        weights, compute = dtypes
        config: Any = Kandinsky22Config(Kandinsky22Config.unet_config)
        config.latent_format = MoVQLatents(configs.preview)
        model_type, config.sampling_settings = sampling_of(configs)
        config.set_inference_dtype(weights, None if weights == compute else compute)
        super().__init__(config, model_type)
        self.diffusion_model = unet
        self.scheduler_config = configs.scheduler

    def _apply_model(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        c_concat: torch.Tensor | None = None,
        c_crossattn: torch.Tensor | None = None,
        control: Any = None,
        transformer_options: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """ComfyUI's way to the UNet; raises ValueError for what has no place in it."""
        options = transformer_options or {}
        refuse_foreign_parts(options, control)
        kwargs |= unet_arguments(options)
        return super()._apply_model(x, t, c_concat, c_crossattn, control, options, **kwargs)

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """What CONDITIONING brings to the UNet; raises ValueError where it does not fit."""
        noise, hint = kwargs["noise"], kwargs.get(HINT)
        check_conditioning(self.diffusion_model, noise, kwargs)
        conds = super().extra_conds(**kwargs)
        if hint is not None:
            hint = resize_hint(hint, *noise.shape[-2:])
            conds["hint"] = HintCond(hint.to(noise.device))  # once, and not at every step
        return conds

    def concat_cond(self, **kwargs: Any) -> torch.Tensor | None:
        """What the inpaint UNet sees of the picture, (B, 5, h, w): latents · keep, keep.

        From Inpaint Conditioning; without one, from the LATENT and its noise mask.
        """
        if self.diffusion_model.variant != "inpaint":
            return None
        noise, picture, keep = kwargs["noise"], kwargs.get(PICTURE), kwargs.get(KEEP)
        if keep is None:
            mask, noise_mask = kwargs.get("concat_mask"), kwargs.get("denoise_mask")
            if mask is not None:  # of InpaintModelConditioning
                keep = keep_from_mask(mask, *noise.shape[-2:])
            elif noise_mask is not None:
                picture, keep = kwargs["latent_image"], 1 - noise_mask[:, :1].round()
            else:
                picture, keep = noise, torch.zeros_like(noise[:, :1])  # nothing is kept
        picture, keep = (
            comfy.utils.repeat_to_batch_size(part.to(noise), len(noise)) for part in (picture, keep)
        )
        return torch.cat([picture * keep, keep], dim=1)

    def scale_latent_inpaint(
        self, sigma: torch.Tensor, noise: torch.Tensor, latent_image: torch.Tensor, **kwargs: Any
    ) -> torch.Tensor:
        """What is put back of a kept picture at a noise level; at the first one, only noise.

        So the pipeline begins: it puts the picture back after a step, not before.
        """
        kept = super().scale_latent_inpaint(sigma, noise, latent_image, **kwargs)
        sigma = sigma.reshape(-1, *[1] * (noise.ndim - 1))
        first = sigma >= self.model_sampling.sigma_max.to(sigma) * (1 - 1e-5)
        first = first & noise.any()  # where the latent brings its own noise, there is none here
        return torch.where(first, noise * (1 + sigma**2).sqrt(), kept)

    def memory_required(self, input_shape: Sequence[int], cond_shapes: Any = None) -> int:
        """Bytes of a forward for input (B, C, h, w)."""
        batch, _, *sides = input_shape
        management = comfy.model_management
        channels = self.diffusion_model.config["block_out_channels"][0]
        numbers = batch * math.prod(sides) * ACTIVATIONS * channels
        memory = numbers * management.dtype_size(self.get_dtype_inference())
        if not (management.xformers_enabled() or management.pytorch_attention_flash_attention()):
            memory += self.score_memory(input_shape, SCORES)
        return memory

    def score_memory(self, input_shape: Sequence[int], copies: float) -> int:
        """Bytes of attention scores that are written out, for input (B, C, h, w)."""
        batch, _, *sides = input_shape
        config = self.diffusion_model.config
        heads = config["block_out_channels"][1] // config["attention_head_dim"]
        size = comfy.model_management.dtype_size(self.get_dtype_inference())
        return int(batch * math.prod(sides) ** 2 * heads * copies * size)


def forward_memory(model: Any, input_shape: Sequence[int]) -> int:
    """Bytes of a forward of a MODEL with its choice of attention, which only the stages know of."""
    memory = model.memory_required(input_shape)
    if unet_arguments(model.model_options["transformer_options"])["attention"] == "plain":
        memory += model.model.score_memory(input_shape, PLAIN_SCORES)
    return memory


def kandinsky_of(model: Any) -> Kandinsky22:
    """What a MODEL holds; raises ValueError if it is another model's."""
    base = getattr(model, "model", None)
    if not isinstance(base, Kandinsky22):
        raise ValueError(
            "Connect the MODEL of Load Decoder (Kandinsky 2.2). This MODEL is a "
            f"{type(base or model).__name__}, not a Kandinsky 2.2 decoder."
        )
    return base
