"""MoVQ as the host's VAE: VAE Decode, VAE Encode and their tiled forms work on it as they are."""

import logging
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import torch
from comfy.patcher_extension import CallbacksMP
from diffusers import VQModel

from .residency import move_stray_tensors
from .weights import build_module


class MoVQ(torch.nn.Module):
    """diffusers' VQModel with the two verbs that the host calls; without quantisation."""

    def __init__(self, movq: Any):
        super().__init__()
        self.movq = movq
        self.device = None

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [-1, 1] → latents (B, 4, H/8, W/8)."""
        # Contiguous on the way in and out: channels-last views give other bits than the pipelines'.
        return self.movq.encode(pixels.contiguous()).latents.contiguous()

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """(B, 4, h, w) → pixels (B, 3, 8h, 8w) in [-1, 1]."""
        return self.movq.decode(latents, force_not_quantize=True).sample


def load_vae(folder: Path) -> comfy.sd.VAE:
    """The VAE of a decoder folder."""
    device = comfy.model_management.vae_device()
    dtype = comfy.model_management.vae_dtype(device, [torch.float16, torch.bfloat16])
    movq = build_module(VQModel.from_config, folder / "movq", dtype, comfy.ops.disable_weight_init)
    with _no_weights_expected():
        vae: Any = comfy.sd.VAE(sd={})
    vae.first_stage_model = MoVQ(movq)
    vae.device = device
    vae.vae_dtype = dtype
    vae.output_device = comfy.model_management.intermediate_device()
    comfy.model_management.archive_model_dtypes(vae.first_stage_model)
    vae.patcher = comfy.model_patcher.CoreModelPatcher(
        vae.first_stage_model,
        load_device=device,
        offload_device=comfy.model_management.vae_offload_device(),
    )
    vae.patcher.add_callback(CallbacksMP.ON_LOAD, move_stray_tensors)
    return vae


class _no_weights_expected:
    """Holds back the one line with which the host's VAE warns that it was given no weights."""

    def __enter__(self):
        logging.getLogger().addFilter(self)

    def __exit__(self, *_):
        logging.getLogger().removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        return "No VAE weights detected" not in record.getMessage()
