"""How many objects a picture has at twice the size that the model was trained for: deep shrink.

The miniature was trained on pictures of 128 pixels with one object. Each caption describes one
object. At 256 pixels, a UNet tends to repeat it. PatchModelAddDownscale makes the deep blocks run
on a smaller picture in the first part of a run. An object is a connected area of pixels that are
nearer to the colour of the caption's object than to that of its background. Two objects that touch
count as one. So the table also has the pictures whose object is a whole circle, square or triangle.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy import ndimage

from tools.miniature.cases import TEST_SEED, describe, test_labels
from tools.miniature.judge import judge
from tools.miniature.shapes import PALETTE

from .checkpoints import PIXELS, checkpoints, load_with_node

SAMPLER = dict(steps=10, cfg=4.0, sampler_name="dpmpp_2m", scheduler="karras")
# Smaller parts of a picture are no objects. The smallest shape has 0.16 of it at 128 pixels.
LEAST = 0.005
WHOLE = 0.85  # least overlap with a circle, square or triangle of the same area and place
BATCH = 5
SALT = 10  # for captions that no other score uses
# block_number, downscale_factor, start_percent, end_percent
SHRINKS = ((1, 2.0, 0.0, 0.35),)
COLUMNS = {
    "pictures": "{pictures} of {pixels} px",
    "PatchModelAddDownscale": "{patch}",
    "one object": "{one}",
    "several": "{several}",
    "none": "{none}",
    "one, and a whole shape": "{whole}",
}


def count_objects(pictures: torch.Tensor, labels: torch.Tensor) -> list[int]:
    """Return how many objects each picture (N, 3, H, W) in [0, 1] has; labels as in `Scenes`."""
    ends = PALETTE[labels[:, 1:3]]  # (N, 2, 3): colours of object and background
    offsets = pictures[:, None] - ends[..., None, None]
    near_object, near_background = offsets.square().sum(2).unbind(1)
    found = []
    for mask in (near_object < near_background).numpy():
        parts, count = ndimage.label(mask)
        areas = ndimage.sum_labels(mask, parts, np.arange(1, count + 1))
        found.append(int((areas >= LEAST * mask.size).sum()))
    return found


def shrink(model: Any, block: int, factor: float, start: float, end: float) -> Any:
    """Return a MODEL with PatchModelAddDownscale."""
    from comfy_extras.nodes_model_downscale import PatchModelAddDownscale

    settings = (block, factor, start, end, True, "bicubic", "bicubic")
    return PatchModelAddDownscale.execute(model, *settings).args[0]


class Artist:
    """Draws captions with the miniature's nodes."""

    def __init__(self, captions: list[str]):
        from kandinsky22.nodes.loaders import LoadDecoder, LoadPrior
        from kandinsky22.utils.kandinsky.image_embeds import ImageEmbeds

        with checkpoints("miniature", "prior", "text_to_image") as folders:
            (prior,) = load_with_node(LoadPrior, folders["prior"], "fp32")
            self.model, self.vae = load_with_node(LoadDecoder, folders["text_to_image"], "fp32")
        pairs = [prior.sample(text, "", seed, 25, 4.0) for seed, text in enumerate(captions)]
        self.pair = [
            ImageEmbeds(torch.cat([embeds.tensor for embeds in each]))
            for each in zip(*pairs, strict=True)
        ]

    def draw(self, pixels: int, model: Any = None) -> torch.Tensor:
        """Return one picture for each caption: (N, 3, H, W) in [0, 1]."""
        from kandinsky22.nodes.decoder import Decoder
        from kandinsky22.utils.kandinsky.image_embeds import ImageEmbeds

        model, side = model or self.model, pixels // 8
        parts = [each.tensor.split(BATCH) for each in self.pair]
        pictures = []
        for number, pair in enumerate(zip(*parts, strict=True)):
            embeds, negative = map(ImageEmbeds, pair)
            canvas = {"samples": torch.zeros(embeds.batch, 4, side, side)}
            seed = number * BATCH  # item i draws its noise from seed + i
            drawn = Decoder.execute(model, embeds, canvas, negative, seed=seed, **SAMPLER)
            pictures.append(self.vae.decode(drawn.args[0]["samples"]).movedim(-1, 1))
        return torch.cat(pictures).clamp(0, 1)


@torch.inference_mode()
def run(prompts: int = 30, shrinks=SHRINKS) -> list[dict]:
    """Return a row at the trained size, one at twice the size, and one for each patch there."""
    labels = test_labels(prompts, SALT)
    artist = Artist(describe(labels, TEST_SEED)[0])
    trained = PIXELS["miniature"]
    rows = []

    def add(pixels: int, patch: str, model: Any = None) -> None:
        pictures = artist.draw(pixels, model)
        counts = torch.tensor(count_objects(pictures, labels))
        whole = (counts == 1) & (judge(pictures).overlap >= WHOLE)
        kinds = {"one": counts == 1, "several": counts > 1, "none": counts == 0, "whole": whole}
        found = {name: int(each.sum()) for name, each in kinds.items()}
        rows.append({"pictures": prompts, "pixels": pixels, "patch": patch, **found})

    add(trained, "–")
    add(2 * trained, "–")
    for block, factor, start, end in shrinks:
        patch = f"block_number {block}, downscale_factor {factor:g}, {start:g} to {end:g}"
        add(2 * trained, patch, shrink(artist.model, block, factor, start, end))
    return rows
