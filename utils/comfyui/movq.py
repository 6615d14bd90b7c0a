"""MoVQ with the methods that ComfyUI's VAE calls."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from diffusers import VQModel

from ..kandinsky.latents import check_samples
from ..kandinsky.sizes import PIXELS_PER_LATENT

log = logging.getLogger("kandinsky22")

# Numbers in memory at the peak. ENCODE and DECODE are for each latent pixel. SCORES is for each
# pair of latent pixels, if attention has no fused kernel and writes its scores to memory. `python
# tools/measure_memory.py movq` measures them.
DECODE, ENCODE, SCORES = 82_200, 41_200, 2


class MoVQ(VQModel):
    """diffusers' VQModel with the two methods that ComfyUI calls, without quantisation.

    State-dict keys stay diffusers', so a file that ComfyUI saves is a plain MoVQ.
    """

    device: Any = None  # type: ignore[assignment]  # ComfyUI sets it; diffusers' is read-only
    wide: bool = False  # whether float16 has proved too narrow for these weights
    source: Any = "its file"  # the file of the weights, for messages

    @classmethod
    def build(cls, config: dict[str, Any]) -> Any:
        # Its latents are the embeddings themselves, never their places in a codebook.
        return cls.from_config(config, lookup_from_codebook=False)

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Return latents (B, 4, H/8, W/8) of pixels (B, 3, H, W) in [-1, 1]."""
        encode: Any = super().encode
        # An IMAGE comes as a channels-last view, like a PIL picture in diffusers, and is encoded as
        # one. So the bits are those of the pipelines. The result is contiguous, or later steps
        # would differ.
        return self._in_range(lambda x: encode(x).latents.contiguous(), pixels)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        """Return pixels (B, 3, 8h, 8w) in [-1, 1] of latents (B, 4, h, w)."""
        decode: Any = super().decode
        check_samples(latents)
        return self._in_range(lambda x: decode(x, force_not_quantize=True).sample, latents)

    def _in_range(
        self, run: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor
    ) -> torch.Tensor:
        """Return run(x).

        If float16 is too narrow for it, compute in float32 now and from then on.
        """
        if not self.wide:
            result = run(x)
            if torch.isfinite(result).all() or not torch.isfinite(x).all():
                return result
            if x.dtype != torch.float16:
                raise self._damaged(x)
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
            # Each layer casts its weights to the dtype of its input.
            layer.comfy_cast_weights = True
        try:
            result = run(x.float())
        finally:
            for layer, casts in zip(layers, before, strict=True):
                layer.comfy_cast_weights = casts
        if torch.isfinite(x).all() and not torch.isfinite(result).all():
            raise self._damaged(x)
        return result

    def _damaged(self, x: torch.Tensor) -> ValueError:
        return ValueError(
            f"MoVQ makes NaN or infinity of numbers up to {x.abs().max():.3g}. Either the weights "
            f"in {self.source} are damaged: download the file again. Or these are not the latents "
            "of a picture."
        )

    def memory_used_encode(self, shape: tuple[int, ...], dtype: torch.dtype) -> int:
        """Return the bytes for one item of (B, 3, H, W)."""
        return self._bytes(ENCODE, shape[2] * shape[3] // PIXELS_PER_LATENT**2, dtype)

    def memory_used_decode(self, shape: tuple[int, ...], dtype: torch.dtype) -> int:
        """Return the bytes for one item of (B, 4, h, w)."""
        return self._bytes(DECODE, shape[2] * shape[3], dtype)

    def _bytes(self, numbers: int, latent_pixels: int, dtype: torch.dtype) -> int:
        size = torch.float32.itemsize if self.wide else dtype.itemsize
        # Attention is where the feature maps are smallest, so the two peaks do not add up.
        return max(numbers, SCORES * latent_pixels) * latent_pixels * size
