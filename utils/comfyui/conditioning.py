"""The values in CONDITIONING: image embeddings, and for two of the UNets a hint or a picture.

An embedding travels as (B, 1, D), one token. So ComfyUI's nodes that average, mask, place or
combine CONDITIONING work on it without changes.
"""

from typing import Any

import comfy.conds
import comfy.model_management
import comfy.utils
import node_helpers
import torch

from ..files.architectures import DECODERS
from ..kandinsky.batches import common_batch
from ..kandinsky.image_embeds import ImageEmbeds
from ..kandinsky.images import images_to_model
from ..kandinsky.latents import check_latent
from ..kandinsky.masks import keep_from_mask, keep_from_noise_mask
from ..kandinsky.sizes import PIXELS_PER_LATENT
from .foreign_parts import refuse_foreign_parts
from .unet import Kandinsky22UNet

HINT = "kandinsky22_hint"  # an IMAGE, resized when the size of the noise is known
PICTURE = "concat_latent_image"  # ComfyUI's own name
KEEP = "kandinsky22_keep"  # (B, 1, h, w), 1 = what stays of the picture

# Values that other nodes put into CONDITIONING, and that would have no effect here → what to use.
FOREIGN = {
    "unclip_conditioning": "Embeds From CLIP Vision and Interpolate (Kandinsky 2.2)",
    "reference_latents": "Encode Image and Interpolate (Kandinsky 2.2)",
}

Conditioning = list[list[Any]]


class HintCond(comfy.conds.CONDRegular):
    """A hint (B, 3, 8h, 8w), cut to the area of its conditioning."""

    def process_cond(
        self, batch_size: int, area: tuple[int, ...] | None = None, **_: Any
    ) -> "HintCond":
        hint = self.cond
        if area is not None:
            sides = len(area) // 2
            for axis, (size, start) in enumerate(zip(area[:sides], area[sides:], strict=True), 2):
                hint = hint.narrow(axis, start * PIXELS_PER_LATENT, size * PIXELS_PER_LATENT)
        return self._copy_with(comfy.utils.repeat_to_batch_size(hint, batch_size))


def condition_on_embeds(embeds: ImageEmbeds) -> Conditioning:
    return [[embeds.tensor[:, None], {}]]


def add_hint(conditioning: Conditioning, hint: torch.Tensor) -> Conditioning:
    """Add a hint, an IMAGE (B, H, W, C) of any size. Raise ValueError if it is not an IMAGE."""
    images_to_model(hint)
    return set_values(conditioning, {HINT: hint})


def mask_latent(latent: dict[str, Any], mask: torch.Tensor) -> dict[str, Any]:
    """Return the LATENT with a noise mask.

    It keeps what `mask` (MASK, 1 = repaint) keeps, and what the LATENT's own noise mask keeps.
    """
    samples = check_latent(latent)
    count, _, height, width = samples.shape
    keep = keep_from_mask(mask, height, width)
    if common_batch(latent=count, mask=len(keep)) > count:
        raise ValueError(
            f"There are {len(keep)} masks for one latent. Put Repeat Latent Batch before Inpaint "
            "Conditioning, or use one mask."
        )
    if latent.get("noise_mask") is not None:
        own = keep_from_noise_mask(latent["noise_mask"], height, width)
        own = comfy.utils.repeat_to_batch_size(own, count).to(keep.device)
        keep = torch.maximum(keep, own)  # (B, 1, h, w)
    return latent | {"noise_mask": 1 - keep}


def add_picture(conditioning: Conditioning, latent: dict[str, Any]) -> Conditioning:
    """Add what the inpaint UNet needs to see of a picture, from a LATENT of `mask_latent`."""
    values = {PICTURE: latent["samples"], KEEP: 1 - latent["noise_mask"]}
    return set_values(conditioning, values)


def set_values(conditioning: Any, values: dict[str, Any]) -> Conditioning:
    """Return the CONDITIONING with more values. Raise ValueError if it is not a CONDITIONING."""
    parts = conditioning if isinstance(conditioning, list) else [conditioning]
    if not all(isinstance(part, list | tuple) and len(part) == 2 for part in parts):
        raise ValueError(
            f"{conditioning!r:.80} came where a CONDITIONING belongs. Connect Conditioning "
            "(Kandinsky 2.2) there."
        )
    return node_helpers.conditioning_set_values(conditioning, values)


def check_conditioning(unet: Kandinsky22UNet, noise: torch.Tensor, given: dict[str, Any]) -> None:
    """Raise ValueError where a CONDITIONING does not fit the UNet or the sampler's LATENT."""
    check_latent({"samples": noise})
    check_area(noise, given.get("area"))
    check_cross_attention(unet, given.get("cross_attn"))
    check_companions(unet, given)
    batches = {
        "image embeddings": given["cross_attn"],
        "hints": given.get(HINT),
        "pictures of Inpaint Conditioning": given.get(PICTURE),
        "masks of Inpaint Conditioning": given.get(KEEP),
    }
    for name, tensor in batches.items():
        if tensor is not None and len(tensor) > 1 and comfy.model_management.in_training:
            raise ValueError(
                "Put Rebatch Images with batch size 1 before Encode Image: Train LoRA takes one "
                f"CONDITIONING for each picture, and here are {len(tensor)} {name} in one. Of "
                "these it would use the first for every picture."
            )
        # The batch must be a multiple, because Repeat Latent Batch repeats a whole number of times.
        if tensor is not None and len(noise) % len(tensor):
            raise ValueError(
                f"{len(tensor)} {name} do not pair up with the {len(noise)} latents of the "
                "sampler. Give both the same batch, or one of them for all."
            )
    picture = given.get(PICTURE)
    if picture is not None and picture.shape[-2:] != noise.shape[-2:]:
        raise ValueError(
            f"Inpaint Conditioning was given a latent of {picture.shape[-2]}×{picture.shape[-1]}, "
            f"and the sampler one of {noise.shape[-2]}×{noise.shape[-1]}. Give the sampler the "
            "latent that comes out of Inpaint Conditioning."
        )


def check_area(noise: torch.Tensor, area: tuple[int, ...] | None) -> None:
    """Raise ValueError if an area (h, w, y, x) of a CONDITIONING lies outside the latent."""
    if area is None:
        return
    ends = zip(area, area[len(area) // 2 :], noise.shape[-2:], strict=False)
    sides = [max(0, min(size, whole - start)) for size, start, whole in ends]
    if 0 in sides:
        raise ValueError(
            f"There are no latents to denoise: {sides[0]}×{sides[1]}. An area that is set on a "
            "CONDITIONING lies outside the latent; move it, or make the latent larger."
        )


def check_cross_attention(unet: Kandinsky22UNet, embeds: Any) -> None:
    """Raise ValueError unless a CONDITIONING holds image embeddings that fit the UNet."""
    shape = tuple(getattr(embeds, "shape", ()))
    if len(shape) != 3 or shape[1:] != (1, unet.embeds_width):
        raise ValueError(
            "Connect the CONDITIONING of Conditioning (Kandinsky 2.2), with a prior of the "
            "decoder's own family. This decoder takes CONDITIONING of shape "
            f"(batch, 1, {unet.embeds_width}), not {shape}. A CLIP Text Encode is for other "
            "models, and embeddings are mixed with Interpolate or ConditioningAverage, not joined "
            "with ConditioningConcat."
        )
    if not (embeds != 0).any(dim=-1).all():
        raise ValueError(
            "Connect Zero Embeds and Conditioning (Kandinsky 2.2) for no negative prompt. A "
            "CONDITIONING with nothing but zeros, as ConditioningZeroOut makes it, is for other "
            "models: Kandinsky 2.2 has never seen it, and its pictures come out burnt."
        )


def check_companions(unet: Kandinsky22UNet, given: dict[str, Any]) -> None:
    """Raise ValueError unless the values beside the embeddings are those that the UNet needs."""
    refuse_foreign_parts(unet, {}, given.get("control"))
    for key, instead in FOREIGN.items():
        if given.get(key) is not None:
            raise ValueError(f"{key} does nothing on Kandinsky 2.2. Use {instead} instead.")
    masked = given.get(KEEP) is not None or given.get("concat_mask") is not None
    if given.get(PICTURE) is not None and not masked:
        raise ValueError(
            "A picture without its mask came in CONDITIONING. InstructPixToPixConditioning makes "
            "it so, for models that edit by instructions. To change a picture, connect the LATENT "
            "of VAE Encode and lower denoise; to repaint a part of it, use Inpaint Conditioning "
            "(Kandinsky 2.2), which is for the inpaint decoder."
        )
    has = {"depth": given.get(HINT) is not None, "inpaint": given.get(PICTURE) is not None}
    for variant, present in has.items():
        node = f"{variant.title()} Conditioning"
        if present and unet.variant != variant:
            raise ValueError(
                f"In Load Decoder, choose {DECODERS[variant].folder} (or one made from it). {node} "
                f"is for the {variant} decoder, and this MODEL is the {unet.variant} one."
            )
    if unet.variant == "depth" and not has["depth"]:
        raise ValueError(
            "The depth decoder needs a hint: put Depth Conditioning (Kandinsky 2.2) between "
            "Conditioning and the sampler, on positive and negative, and on the empty conditioning "
            "of Perp-Neg."
        )
