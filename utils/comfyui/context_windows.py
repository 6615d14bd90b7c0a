"""ComfyUI's context windows on pictures: a latent is denoised in parts along one of its sides."""

from typing import Any

from ..kandinsky.sizes import PIXELS_PER_LATENT


def check_windows(model: Any) -> None:
    """Raise ValueError if a MODEL has context windows along a side that a picture does not have."""
    handler = getattr(model, "model_options", {}).get("context_handler")
    dim = getattr(handler, "dim", 0)
    if dim not in (0, 2, 3):
        raise ValueError(
            f"Set dim of Context Windows to 3 for windows along the width, to 2 along the height, "
            f"or to 0 along the batch. It is {dim}, and the latents of a picture have no such side."
        )


def hint_of_window(hint: Any, window: Any) -> Any:
    """Return the part of a hint (B, 3, 8h, 8w) that belongs to a window of the latents.

    ComfyUI may put the latent before the window in front of it (causal_window_fix).
    """
    anchor = getattr(window, "causal_anchor_index", None)
    latents = [*([] if anchor is None else [anchor]), *window.index_list]
    pixels = [
        latent * PIXELS_PER_LATENT + pixel
        for latent in latents
        for pixel in range(PIXELS_PER_LATENT)
    ]
    return hint._copy_with(hint.cond[(slice(None),) * window.dim + (pixels,)])
