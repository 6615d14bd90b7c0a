"""Checks of the inputs of a decoding stage."""

from typing import Any

from ..kandinsky.image_embeds import ImageEmbeds
from .model_options import needs_guider


def is_guided(model: Any, options: dict[str, Any], scheduler: Any) -> bool:
    """Return whether ComfyUI's guider is called at each step, by the MODEL's wrapped options.

    Raises:
        ValueError: it is, and the scheduler needs the variance, which a guider does not give.
    """
    if not needs_guider(model, options):
        return False
    if getattr(scheduler.config, "variance_type", None) in ("learned", "learned_range"):
        raise ValueError(
            "Choose another sampler_name than ddpm: this checkpoint's ddpm takes the variance from "
            "the UNet, and the guidance that a node has put on this MODEL leaves none."
        )
    return True


def embeds_to_run(
    embeds: ImageEmbeds, negative: ImageEmbeds | None, cfg: float, width: int, both: bool
) -> dict[str, ImageEmbeds]:
    """Return the embeddings that a stage runs with, in the UNet's order.

    The negative embeddings are used only with guidance, or if a node on the MODEL needs `both` at
    any cfg.
    """
    if both and negative is None:
        raise ValueError(
            "Connect negative_image_embeds, at any cfg: a node on this MODEL (Self-Attention "
            "Guidance, Normalized Attention Guidance, …) compares the picture with and without "
            "the prompt. Take the second output of Prior, or Zero Embeds."
        )
    if cfg > 1 and negative is None:
        raise ValueError(
            f"With cfg {cfg:g}, which is above 1, connect negative_image_embeds: the second output "
            "of Prior, or Zero Embeds for none. Or set cfg to 1."
        )
    if cfg > 1 and negative is embeds:
        raise ValueError(
            "Connect negative_image_embeds to something else: image_embeds and "
            f"negative_image_embeds are the same embeddings, and at cfg {cfg:g} guidance cancels "
            "itself. A bypassed Prior Emb2Emb passes one input on to both. Take the second output "
            "of Prior, or Zero Embeds; or set cfg to 1."
        )
    used = (
        {} if negative is None or (cfg <= 1 and not both) else {"negative_image_embeds": negative}
    )
    used["image_embeds"] = embeds
    for value in used.values():
        value.check_width(width, "this decoder")
    return used
