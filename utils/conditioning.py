"""What rides in CONDITIONING: image embeddings, and for two of the UNets a hint or a picture.

An embedding travels as (B, 1, D), one token, so that the host's nodes that average, mask, place or
combine CONDITIONING work on it as they are.
"""

from typing import Any

import comfy.conds
import comfy.utils
import node_helpers
import torch

from .native_unet import Kandinsky22UNet
from .sizes import PIXELS_PER_LATENT
from .tensors import common_batch, keep_from_mask
from .values import ImageEmbeds

HINT = "kandinsky22_hint"  # an IMAGE, resized when its noise is known
PICTURE, MASK = "concat_latent_image", "concat_mask"  # the host's own names

Conditioning = list[list[Any]]


class HintCond(comfy.conds.CONDRegular):
    """A hint (B, 3, 8h, 8w), cut to the area that its conditioning is for."""

    def process_cond(self, batch_size, area=None, **_):
        hint = self.cond
        if area is not None:
            sides = len(area) // 2
            for axis, (size, start) in enumerate(zip(area[:sides], area[sides:], strict=True), 2):
                hint = hint.narrow(axis, start * PIXELS_PER_LATENT, size * PIXELS_PER_LATENT)
        return self._copy_with(comfy.utils.repeat_to_batch_size(hint, batch_size))


def condition_on_embeds(embeds: ImageEmbeds) -> Conditioning:
    return [[embeds.tensor[:, None], {}]]


def add_hint(conditioning: Conditioning, hint: torch.Tensor) -> Conditioning:
    """`hint`: IMAGE (B, H, W, C) of any size."""
    return node_helpers.conditioning_set_values(conditioning, {HINT: hint})


def add_picture(
    conditioning: Conditioning, latent: dict[str, Any], mask: torch.Tensor
) -> Conditioning:
    """Show the inpaint UNet what stays of a picture; `mask`: MASK (B, H, W), 1 = repaint."""
    values = {PICTURE: latent["samples"], MASK: mask}
    return node_helpers.conditioning_set_values(conditioning, values)


def mask_latent(latent: dict[str, Any], mask: torch.Tensor) -> dict[str, Any]:
    """The LATENT with a noise mask that makes the host's samplers keep what the UNet is shown."""
    samples = latent["samples"]
    keep = keep_from_mask(mask, *samples.shape[-2:])
    common_batch(latent=len(samples), mask=len(keep))
    return latent | {"noise_mask": 1 - keep}


def check_conditioning(unet: Kandinsky22UNet, noise: torch.Tensor, given: dict[str, Any]) -> None:
    """Raises ValueError where a CONDITIONING does not fit the UNet or the LATENT."""
    embeds = given.get("cross_attn")
    shape = tuple(getattr(embeds, "shape", ()))
    if len(shape) != 3 or shape[1:] != (1, unet.embeds_width):
        raise ValueError(
            f"This decoder takes CONDITIONING of shape (batch, 1, {unet.embeds_width}), not "
            f"{shape}. Make it with Conditioning (Kandinsky 2.2); a CLIP Text Encode is for other "
            "models, and embeddings are mixed with Interpolate or ConditioningAverage, not joined "
            "with ConditioningConcat."
        )
    if shape[0] not in (1, len(noise)):
        raise ValueError(
            f"{shape[0]} image embeddings meet {len(noise)} latents in a sampler. Give the latent "
            f"a batch size of {shape[0]}, or one embedding for all."
        )
    for variant, key, node, folder in (
        ("depth", HINT, "Depth Conditioning", "controlnet-depth"),
        ("inpaint", MASK, "Inpaint Conditioning", "decoder-inpaint"),
    ):
        if given.get(key) is not None and unet.variant != variant:
            raise ValueError(
                f"{node} is for the {variant} decoder, and this MODEL is the {unet.variant} one. "
                f"Choose kandinsky-2-2-{folder} in Load Decoder."
            )
    size = tuple(given[PICTURE].shape[-2:]) if given.get(MASK) is not None else noise.shape[-2:]
    if size != tuple(noise.shape[-2:]):
        raise ValueError(
            f"Inpaint Conditioning was given a latent of {size[0]}×{size[1]}, and the sampler one "
            f"of {noise.shape[-2]}×{noise.shape[-1]}. Give the sampler the latent that comes out "
            "of Inpaint Conditioning."
        )
    if unet.variant == "depth" and given.get(HINT) is None:
        raise ValueError(
            "The depth decoder needs a hint: put Depth Conditioning (Kandinsky 2.2) between "
            "Conditioning and the sampler, on positive and negative."
        )
