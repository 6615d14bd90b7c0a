"""The decoder as ComfyUI's MODEL, for KSampler, LoRA loaders, merges and other nodes of ComfyUI.

The stage nodes take the same MODEL and run its UNet through `prediction`.
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
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
from .context_windows import check_windows, hint_of_window
from .foreign_parts import naming_failures, refuse_foreign_parts
from .model_options import TIMESTEP, refuse_mixed_kinds, unet_arguments
from .sampling import sampling_of
from .unet import Kandinsky22UNet

# Numbers in memory at the peak of a forward. ACTIVATIONS is for each latent pixel and channel of
# the first level (`python tools/measure_memory.py` shows up to 5,968 a pixel with 384 channels).
# SCORES is for each pair of latent pixels and head, if attention has no fused kernel and writes its
# scores to memory. PLAIN_SCORES is the same for diffusers' plain attention, which keeps the scores
# twice.
ACTIVATIONS, SCORES, PLAIN_SCORES = 16, 1 / 8, 1 / 4


class MoVQLatents(comfy.latent_formats.LatentFormat):
    """Unscaled MoVQ latents: the scaling_factor in the published config is not used."""

    def __init__(self, preview: dict[str, Any] | None = None):
        for name in ("latent_rgb_factors", "latent_rgb_factors_bias"):
            setattr(self, name, (preview or {}).get(name))


class Kandinsky22Config(comfy.supported_models_base.BASE):
    unet_config: dict[str, Any] = {"disable_unet_model_creation": True}
    unet_extra_config = {}
    latent_format = MoVQLatents


class Kandinsky22(comfy.model_base.BaseModel):
    """A decoder as ComfyUI's BaseModel: its noise levels, and its UNet as `diffusion_model`."""

    def __init__(
        self,
        unet: Kandinsky22UNet,
        configs: DecoderConfigs,
        dtypes: tuple[torch.dtype, torch.dtype],
    ):
        weights, compute = dtypes
        config: Any = Kandinsky22Config(Kandinsky22Config.unet_config)
        config.latent_format = MoVQLatents(configs.preview)
        # FreeU changes blocks of four times and twice this width: the deepest and the second.
        widths = unet.config["block_out_channels"]
        config.unet_config = config.unet_config | {"model_channels": widths[-1] // 4}
        model_type, config.sampling_settings = sampling_of(configs)
        config.set_inference_dtype(weights, None if weights == compute else compute)
        super().__init__(config, model_type)
        self.diffusion_model = unet
        self.scheduler_config = configs.scheduler
        self.exact_timestep: float | None = None  # of the call that is running

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
        """Call the UNet for ComfyUI. Raise ValueError for parts that do not fit it."""
        options = transformer_options or {}
        refuse_foreign_parts(self.diffusion_model, options, control)
        kwargs |= unet_arguments(options, self.diffusion_model)
        self.exact_timestep = options.get(TIMESTEP)
        apply = super()._apply_model
        with naming_failures(options, x) if "patches" in kwargs else nullcontext():
            return apply(x, t, c_concat, c_crossattn, control, options, **kwargs)

    def process_timestep(self, timestep: torch.Tensor, **_: Any) -> torch.Tensor:
        """Return ComfyUI's timestep, a whole number, or the exact timestep of a stage."""
        exact = self.exact_timestep
        return timestep if exact is None else torch.full_like(timestep, exact)

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """Return what the UNet takes from CONDITIONING. Raise ValueError where it does not fit."""
        noise, hint = kwargs["noise"], kwargs.get(HINT)
        refuse_mixed_kinds(self.current_patcher)
        check_windows(self.current_patcher)
        check_conditioning(self.diffusion_model, noise, kwargs)
        conds = super().extra_conds(**kwargs)
        if hint is not None:
            hint = resize_hint(hint, *noise.shape[-2:])
            conds["hint"] = HintCond(hint.to(noise.device))  # once, and not at every step
        return conds

    def resize_cond_for_context_window(
        self,
        cond_key: str,
        cond_value: Any,
        window: Any,
        x_in: torch.Tensor,
        device: Any,
        retain_index_list: Sequence[int] = (),
    ) -> Any:
        """Return the values for a part of a picture (ComfyUI's context windows).

        None: ComfyUI cuts it.
        """
        if window.dim == 0:
            return None
        if cond_key == "c_crossattn":  # its width may happen to be that of the picture
            return cond_value
        return hint_of_window(cond_value, window) if cond_key == "hint" else None

    def concat_cond(self, **kwargs: Any) -> torch.Tensor | None:
        """Return what the inpaint UNet sees of the picture, (B, 5, h, w): latents · keep, keep.

        It comes from Inpaint Conditioning, or else from the LATENT and its noise mask.
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
        """Return what replaces a kept picture at a noise level: at the first level, only noise.

        The pipeline begins in the same way, as it puts the picture back after a step and not
        before.
        """
        kept = super().scale_latent_inpaint(sigma, noise, latent_image, **kwargs)
        sigma = sigma.reshape(-1, *[1] * (noise.ndim - 1))
        first = sigma >= self.model_sampling.sigma_max.to(sigma) * (1 - 1e-5)
        first = first & noise.any()  # the latent brings its own noise, so there is none here
        return torch.where(first, noise * (1 + sigma**2).sqrt(), kept)

    def memory_required(self, input_shape: Sequence[int], cond_shapes: Any = None) -> int:
        """Return the bytes of a forward for input (B, C, h, w)."""
        batch, _, *sides = input_shape
        management = comfy.model_management
        channels = self.diffusion_model.config["block_out_channels"][0]
        numbers = batch * math.prod(sides) * ACTIVATIONS * channels
        memory = numbers * management.dtype_size(self.get_dtype_inference())
        if not (management.xformers_enabled() or management.pytorch_attention_flash_attention()):
            memory += self.score_memory(input_shape, SCORES)
        return memory

    def score_memory(self, input_shape: Sequence[int], copies: float) -> int:
        """Return the bytes of attention scores in memory, for input (B, C, h, w)."""
        batch, _, *sides = input_shape
        config = self.diffusion_model.config
        heads = config["block_out_channels"][1] // config["attention_head_dim"]
        size = comfy.model_management.dtype_size(self.get_dtype_inference())
        return int(batch * math.prod(sides) ** 2 * heads * copies * size)


def forward_memory(model: Any, input_shape: Sequence[int]) -> int:
    """Return the bytes of a forward of a MODEL with its attention, which only the stages know."""
    memory = model.memory_required(input_shape)
    if unet_arguments(model.model_options["transformer_options"])["attention"] == "plain":
        memory += model.model.score_memory(input_shape, PLAIN_SCORES)
    return memory


def kandinsky_of(model: Any) -> Kandinsky22:
    """Return the model of a MODEL. Raise ValueError if it is not a Kandinsky 2.2 decoder."""
    base = getattr(model, "model", None)
    if not isinstance(base, Kandinsky22):
        raise ValueError(
            "Connect the MODEL of Load Decoder (Kandinsky 2.2). This MODEL is a "
            f"{type(base or model).__name__}, not a Kandinsky 2.2 decoder."
        )
    return base
