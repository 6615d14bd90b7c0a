"""MoVQ as ComfyUI's VAE, for VAE Decode, VAE Encode and their tiled forms."""

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

from ..files import architectures
from ..files.configs import read_config
from ..files.headers import weight_files
from ..files.weights import check_config, fill_module, recognise
from ..kandinsky.sizes import PIXELS_PER_LATENT, pad_to_grid
from .model_folders import decoder_parts
from .movq import MoVQ
from .residents import move_stray_tensors
from .sharing import share_or_load

PREFIX = "first_stage_model."  # before a VAE's tensors in a whole checkpoint of ComfyUI


class MoVQVAE(comfy.sd.VAE):
    """ComfyUI's VAE, which extends a picture to the grid of its latents where ComfyUI crops it.

    ComfyUI crops the centre of a picture to multiples of 8 pixels. A node that pastes the result
    back at (0, 0) is then up to 3 pixels off. Extended to the right and below, as the stages extend
    latents, a picture stays in place.
    """

    def vae_encode_crop_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return an IMAGE (B, H, W, C) on the grid, with the three channels that MoVQ takes.

        Raises:
            ValueError: the picture is smaller than a latent pixel.
        """
        height, width = pixels.shape[1:3]
        if min(height, width) < PIXELS_PER_LATENT:
            raise ValueError(
                f"A picture of {width}×{height} pixels is too small to encode: "
                f"{PIXELS_PER_LATENT} on each side are needed."
            )
        if pixels.shape[-1] == 1:  # grey
            pixels = pixels.expand(-1, -1, -1, 3)
        pixels = pad_to_grid(pixels.movedim(-1, 1), PIXELS_PER_LATENT).movedim(1, -1)
        return super().vae_encode_crop_pixels(pixels.contiguous())

    def spacial_compression_encode(self) -> int:
        """Return 1, so that VAE Encode (for Inpainting) crops nothing.

        This node crops pictures by itself, to multiples of the value.
        """
        return 1


def load_vae(folder: Path) -> comfy.sd.VAE:
    """Load the VAE of a decoder folder."""
    path = folder / "movq" / "config.json"
    config = read_config(path, VQModel)
    check_config(MoVQ.build, VQModel, config, path)
    return make_vae(config, weight_files(path.parent))


def load_vae_file(file: Path) -> comfy.sd.VAE:
    """Load the VAE of a single file: the published MoVQ, or that of any decoder folder on disk.

    Raises:
        ValueError: the file is damaged, or not such a MoVQ. The message says how the nearest
            differs.
    """
    candidates = [("the published MoVQ", architectures.MOVQ)]
    candidates += [(name, config) for name, (_, config) in decoder_parts("movq").items()]
    config = recognise(file, candidates, MoVQ.build, PREFIX)
    return make_vae(config, [file])


def make_vae(config: dict[str, Any], files: list[Path]) -> comfy.sd.VAE:
    """Return ComfyUI's VAE over a MoVQ."""
    # All decoders share one MoVQ in memory if their folders have the same file.
    patcher = share_or_load(files[0], device_and_dtype(), lambda: load_patcher(config, files))
    movq = patcher.model
    with _no_weights_expected():
        vae: Any = MoVQVAE(sd={})
    vae.first_stage_model = movq
    vae.device = patcher.load_device
    vae.vae_dtype = movq.dtype
    vae.output_device = comfy.model_management.intermediate_device()
    vae.memory_used_encode = movq.memory_used_encode
    vae.memory_used_decode = movq.memory_used_decode
    vae.patcher = patcher
    return vae


def device_and_dtype() -> tuple[torch.device, torch.dtype]:
    device = comfy.model_management.vae_device()
    return device, comfy.model_management.vae_dtype(device, [torch.float16, torch.bfloat16])


def load_patcher(config: dict[str, Any], files: list[Path], disable_dynamic: bool = False) -> Any:
    """Return a ModelPatcher that owns a MoVQ."""
    device, dtype = device_and_dtype()
    ops = comfy.ops.disable_weight_init
    movq = fill_module(MoVQ.build, config, files, dtype, ops, PREFIX)
    movq.source = files[0]
    comfy.model_management.archive_model_dtypes(movq)
    patcher_class = comfy.model_patcher.CoreModelPatcher
    if disable_dynamic:
        patcher_class = comfy.model_patcher.ModelPatcher
    patcher = patcher_class(
        movq, load_device=device, offload_device=comfy.model_management.vae_offload_device()
    )
    patcher.add_callback(CallbacksMP.ON_LOAD, move_stray_tensors)
    # ComfyUI makes another one with this, for another device.
    patcher.cached_patcher_init = (load_patcher, (config, files))
    return patcher


class _no_weights_expected:
    """Suppress the one line with which ComfyUI's VAE warns that it was given no weights."""

    def __enter__(self):
        logging.getLogger().addFilter(self)

    def __exit__(self, *_):
        logging.getLogger().removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        return "No VAE weights detected" not in record.getMessage()
