"""Draw what a mix of embeddings consists of, as there is no picture of it before it is decoded."""

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from .image_embeds import ImageEmbeds

WIDTH, ROW, EDGE = 384, 40, 12
GROUND, BAR, TRACK, INK = (24, 24, 27), (167, 139, 250), (52, 52, 60), (228, 228, 231)


def similarities(mixed: ImageEmbeds, parts: list[ImageEmbeds]) -> list[float]:
    """Return the cosine between a mix and each of its parts, averaged over the batch."""
    return [torch.cosine_similarity(mixed.tensor, e.tensor).mean().item() for e in parts]


def draw_mix(mixed: ImageEmbeds, parts: list[ImageEmbeds]) -> torch.Tensor:
    """Return an IMAGE (1, H, 384, 3) with a labelled bar for the likeness of the mix to each part.

    H depends on the number of parts. The labels say "likeness", because the node also has weights.
    """
    picture = Image.new("RGB", (WIDTH, ROW * len(parts) + EDGE), GROUND)
    draw = ImageDraw.Draw(picture)
    font = ImageFont.load_default(20)
    labels = [f"likeness to {number}" for number in range(1, len(parts) + 1)]
    left = 2 * EDGE + max(draw.textlength(label, font) for label in labels)
    right = WIDTH - EDGE - 60
    for row, similarity in enumerate(similarities(mixed, parts)):
        top, bottom = row * ROW + EDGE, (row + 1) * ROW
        middle = (top + bottom) / 2
        draw.text((EDGE, middle), labels[row], INK, font, anchor="lm")
        draw.rectangle((left, top, right, bottom), TRACK)
        end = left + max(similarity, 0.0) * (right - left)
        draw.rectangle((left, top, end, bottom), BAR)
        draw.text((WIDTH - EDGE, middle), f"{similarity:.2f}", INK, font, anchor="rm")
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)[None]
