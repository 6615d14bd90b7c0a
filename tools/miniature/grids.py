"""Sample pictures to look at: one PNG for each thing the miniature does."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from . import export, lora
from .cases import describe, next_object, object_boxes, say_colours, say_everything, two_colours
from .measure import Miniature, seeded, to_images
from .shapes import COLOURS, draw, place_scenes, sample_labels

SEED = 4_242
PROMPTS = (
    "a large red circle on a blue background, on the left",
    "a green triangle on a yellow background, at the top",
    "a white square on a black background, on the right",
    "a large blue triangle on a white background",
    "a black circle on a green background, at the bottom",
    "a yellow square on a red background",
    "a large white triangle on a blue background, on the right",
    "a red square",
)


def tile(rows: list[torch.Tensor], gap: int = 4) -> Image.Image:
    """Return rows of pictures (N, 3, H, W) in [0, 1] as one image."""
    strips = []
    for row in rows:
        padded = torch.nn.functional.pad(row, (gap, gap, gap, gap), value=1.0)
        strips.append(torch.cat(list(padded), dim=2))
    width = max(strip.shape[2] for strip in strips)
    strips = [torch.nn.functional.pad(s, (0, width - s.shape[2]), value=1.0) for s in strips]
    return to_images(torch.cat(strips, dim=1)[None])[0]


def some_scenes(n: int, salt: int):
    """Return n scenes that training has not seen."""
    generator = seeded(SEED + salt)
    return place_scenes(sample_labels(n, generator), generator)


def grid_text(mini: Miniature) -> list[torch.Tensor]:
    """Draw eight prompts with two seeds."""
    return [mini.decode(*mini.imagine(list(PROMPTS), seed), seed) for seed in (1, 2)]


def grid_random(mini: Miniature) -> list[torch.Tensor]:
    """Draw 21 random captions."""
    captions, _ = describe(sample_labels(21, seeded(SEED)), SEED)
    return list(mini.decode(*mini.imagine(captions, 3), 3).split(7))


def grid_movq(mini: Miniature) -> list[torch.Tensor]:
    """Draw pictures above their reconstructions."""
    pictures = draw(some_scenes(8, 1))
    return [pictures, mini.reconstruct(pictures)]


def grid_interpolation(mini: Miniature) -> list[torch.Tensor]:
    """Draw seven steps between the embeddings of two prompts."""
    pairs = ((0, 3), (1, 6), (5, 4))
    embeds, negative = mini.imagine(list(PROMPTS), 1)
    weights = torch.linspace(0, 1, 7)[:, None]
    rows = []
    for a, b in pairs:
        mixed = embeds[a].lerp(embeds[b], weights)
        noise = negative[:1].expand(7, -1)
        rows.append(torch.cat([mini.decode(m[None], noise[:1], 7) for m in mixed]))
    return rows


def grid_inpaint(mini: Miniature) -> list[torch.Tensor]:
    """Draw pictures, the hole, and the object of a prompt in the hole."""
    scenes = some_scenes(8, 2)
    labels = next_object(scenes.labels)
    pictures, masks = draw(scenes), object_boxes(scenes)
    output = mini.repaint(pictures, masks, *mini.imagine(say_everything(labels), 1), seed=1)
    return [pictures, torch.where(masks[:, None], pictures * 0.3 + 0.5, pictures), output]


def grid_controlnet(mini: Miniature) -> list[torch.Tensor]:
    """Draw pictures, their estimated depth, and other colours in the same place."""
    scenes = some_scenes(8, 3)
    pictures = draw(scenes)
    depth = mini.estimate_depth(pictures)
    embeds = mini.imagine(say_colours(two_colours(scenes.labels, 1)), 1)
    return [pictures, depth.expand(-1, 3, -1, -1).clamp(0, 1), mini.follow(depth, *embeds, seed=1)]


def grid_img2img(mini: Miniature) -> list[torch.Tensor]:
    """Draw pictures, and img2img at three strengths towards other colours."""
    scenes = some_scenes(8, 4)
    pictures = draw(scenes)
    embeds = mini.imagine(say_colours(two_colours(scenes.labels, 1)), 1)
    changed = (mini.restyle(pictures, *embeds, strength=s, seed=1) for s in (0.3, 0.6, 0.8))
    return [pictures, *changed]


def grid_negative(mini: Miniature) -> list[torch.Tensor]:
    """Draw "a red shape ...", and then the same with "circle" as the negative prompt."""
    prompts = [f"a {colour} shape on a white background" for colour in COLOURS[:4]] * 2
    free = mini.decode(*mini.imagine(prompts, 1), 1)
    return [free, mini.decode(*mini.imagine(prompts, 1, ["circle"] * 8), 1)]


def grid_lora(mini: Miniature) -> list[torch.Tensor]:
    """Draw eight prompts, without the LoRA and with it."""
    embeds = mini.imagine(list(PROMPTS), 1)
    return [mini.decode(*embeds, 1), mini.decode_at_night(*embeds, 1)]


GRIDS = {
    "text": (grid_text, export.DECODER),
    "random": (grid_random, export.DECODER),
    "movq": (grid_movq, export.DECODER),
    "interpolation": (grid_interpolation, export.DECODER),
    "inpaint": (grid_inpaint, export.INPAINT),
    "controlnet": (grid_controlnet, export.CONTROLNET),
    "img2img": (grid_img2img, export.DECODER),
    "negative": (grid_negative, export.DECODER),
    "lora": (grid_lora, lora.NAME),
}


def draw_grids(root: Path, folder: Path, names: list[str] | None = None) -> None:
    """Draw `miniature-<name>.png` for everything that the folders in `root` can do."""
    folder.mkdir(parents=True, exist_ok=True)
    mini = Miniature(root)
    for name in names or GRIDS:
        make, needs = GRIDS[name]
        if mini.has(needs):
            image = tile(make(mini))
            image.save(folder / f"miniature-{name}.png", optimize=True)
