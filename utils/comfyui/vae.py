"""MoVQ as the host's VAE: VAE Decode, VAE Encode and their tiled forms work on it as they are."""

import logging
from collections.abc import Callable
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
from ..files.headers import weight_files
from ..files.weights import fill_module, recognise
from ..kandinsky.latents import check_samples
from ..kandinsky.sizes import PIXELS_PER_LATENT
from . import model_folders
from .residency import move_stray_tensors
from .sharing import share_or_load

log = logging.getLogger("kandinsky22")

# Numbers in memory at the peak, for each latent pixel, and for each pair of them where attention
# has no fused kernel and writes its scores out: `python scripts/measure_memory.py movq`.
DECODE, ENCODE, SCORES = 82_200, 41_200, 2

PREFIX = "first_stage_model."  # of a VAE's tensors in a whole checkpoint of the host


class MoVQ(VQModel):
    """diffusers' VQModel with its two verbs as the host calls them, without quantisation.

    State-dict keys stay diffusers', so what the host saves is a plain MoVQ.
    """

    device: Any = None  # type: ignore[assignment]  # the host sets it; diffusers' is read-only
    wide: bool = False  # whether float16 has proved too narrow for these weights

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """(B, 3, H, W) in [-1, 1] → latents (B, 4, H/8, W/8)."""
        encode: Any = super().encode
        if min(pixels.shape[-2:]) < PIXELS_PER_LATENT:
            raise ValueError(
                f"A picture of {pixels.shape[-1]}×{pixels.shape[-2]} pixels is too small to "
                f"encode: {PIXELS_PER_LATENT} on each side are needed."
            )
        if pixels.shape[1] == 1:  # grey
            pixels = pixels.expand(-1, 3, -1, -1)
        # Contiguous on the way in and out: channels-last views give other bits than the pipelines'.
        return self._in_range(lambda x: encode(x).latents.contiguous(), pixels.contiguous())

    def decode(self, latents: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """(B, 4, h, w) → pixels (B, 3, 8h, 8w) in [-1, 1]."""
        decode: Any = super().decode
        check_samples(latents)
        return self._in_range(lambda x: decode(x, force_not_quantize=True).sample, latents)

    def _in_range(
        self, run: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor
    ) -> torch.Tensor:
        """run(x), and where that is too much for float16, in float32, now and from then on."""
        if not self.wide:
            result = run(x)
            overflows = x.dtype == torch.float16 and not torch.isfinite(result).all()
            if not overflows or not torch.isfinite(x).all():
                return result
            self.wide = True
            log.warning(
                "MoVQ leaves the range of float16 here, so it computes in float32 from now on: "
                "slower, with twice the memory. --bf16-vae or --fp32-vae spares the first try."
            )
        layers: list[Any] = [
            layer for layer in self.modules() if hasattr(layer, "comfy_cast_weights")
        ]
        before = [layer.comfy_cast_weights for layer in layers]
        for layer in layers:
            layer.comfy_cast_weights = True  # each casts its weights to what comes in
        try:
            return run(x.float())
        finally:
            for layer, casts in zip(layers, before, strict=True):
                layer.comfy_cast_weights = casts

    def memory_used_encode(self, shape: tuple[int, ...], dtype: torch.dtype) -> int:
        """Bytes for one item of (B, 3, H, W)."""
        return self._bytes(ENCODE, shape[2] * shape[3] // PIXELS_PER_LATENT**2, dtype)

    def memory_used_decode(self, shape: tuple[int, ...], dtype: torch.dtype) -> int:
        """Bytes for one item of (B, 4, h, w)."""
        return self._bytes(DECODE, shape[2] * shape[3], dtype)

    def _bytes(self, numbers: int, latent_pixels: int, dtype: torch.dtype) -> int:
        size = torch.float32.itemsize if self.wide else dtype.itemsize
        # The scores live where maps are smallest, so the two peaks do not add up.
        return max(numbers, SCORES * latent_pixels) * latent_pixels * size


def load_vae(folder: Path) -> comfy.sd.VAE:
    """The VAE of a decoder folder."""
    movq = folder / "movq"
    return make_vae(model_folders.read_json(movq / "config.json"), weight_files(movq))


def load_vae_file(file: Path) -> comfy.sd.VAE:
    """The VAE of a single file: the published MoVQ, or that of any decoder folder on disk.

    Raises:
        ValueError: the file is damaged, or no such MoVQ; says how the nearest differs.
    """
    candidates = [
        ("the published MoVQ", architectures.MOVQ),
        *model_folders.component_configs("movq"),
    ]
    config = recognise(file, candidates, MoVQ.from_config, PREFIX)
    return make_vae(config, [file])


def make_vae(config: dict[str, Any], files: list[Path]) -> comfy.sd.VAE:
    # One in memory for all decoders, whose folders bring the same.
    patcher = share_or_load(files[0], device_and_type(), lambda: load_patcher(config, files))
    movq = patcher.model
    with _no_weights_expected():
        vae: Any = comfy.sd.VAE(sd={})
    vae.first_stage_model = movq
    vae.device = patcher.load_device
    vae.vae_dtype = movq.dtype
    vae.output_device = comfy.model_management.intermediate_device()
    vae.memory_used_encode = movq.memory_used_encode
    vae.memory_used_decode = movq.memory_used_decode
    vae.patcher = patcher
    return vae


def device_and_type() -> tuple[torch.device, torch.dtype]:
    device = comfy.model_management.vae_device()
    return device, comfy.model_management.vae_dtype(device, [torch.float16, torch.bfloat16])


def load_patcher(config: dict[str, Any], files: list[Path], disable_dynamic: bool = False):
    """A ModelPatcher that owns a MoVQ."""
    device, dtype = device_and_type()
    ops = comfy.ops.disable_weight_init
    movq = fill_module(MoVQ.from_config, config, files, dtype, ops, PREFIX)
    comfy.model_management.archive_model_dtypes(movq)
    patcher_class = comfy.model_patcher.CoreModelPatcher
    if disable_dynamic:
        patcher_class = comfy.model_patcher.ModelPatcher
    patcher = patcher_class(
        movq, load_device=device, offload_device=comfy.model_management.vae_offload_device()
    )
    patcher.add_callback(CallbacksMP.ON_LOAD, move_stray_tensors)
    # How the host makes another one, for another device.
    patcher.cached_patcher_init = (load_patcher, (config, files))
    return patcher


class _no_weights_expected:
    """Holds back the one line with which the host's VAE warns that it was given no weights."""

    def __enter__(self):
        logging.getLogger().addFilter(self)

    def __exit__(self, *_):
        logging.getLogger().removeFilter(self)

    def filter(self, record: logging.LogRecord) -> bool:
        return "No VAE weights detected" not in record.getMessage()
