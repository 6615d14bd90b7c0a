"""Draw the pictures of Example Picture and of Example Dataset into web/pictures/.

    python tools/draw_pictures.py

The bundled model knows the shapes. The mountain lake has the size that the published models
know. Where a picture is transparent, its mask is white, as in Load Image.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # see scripts/__init__.py

from scripts import pack  # noqa: E402

pack.run_with_libraries()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from PIL import Image  # noqa: E402

from tools.miniature.captions import WHERE  # noqa: E402
from tools.miniature.lora import NIGHT  # noqa: E402
from tools.miniature.shapes import COLOURS, PLACES, SHAPES, draw, place_scenes  # noqa: E402

PICTURES = ROOT / "web" / "pictures"
NIGHT_SET = (  # shape, colour and place of each picture; the background that its caption names
    ("circle", "red", "centre", "white"),
    ("square", "blue", "left", "green"),
    ("triangle", "green", "right", "yellow"),
    ("circle", "yellow", "top", "blue"),
    ("square", "green", "centre", "red"),
    ("triangle", "red", "bottom", "black"),
    ("circle", "blue", "bottom", "white"),
    ("square", "yellow", "right", "black"),
)
SIZE = 128
RED, GREEN, BLUE = (217, 33, 33), (33, 161, 51), (33, 69, 217)
YELLOW, WHITE, BLACK = (240, 217, 38), (240, 240, 240), (20, 20, 20)
Box = tuple[int, int, int, int]  # left, top, right, bottom, in pixels


def square(colour: tuple, background: tuple, box: Box = (38, 38, 90, 90)) -> Image.Image:
    picture = Image.new("RGB", (SIZE, SIZE), background)
    picture.paste(colour, box)
    return picture


def circle(colour: tuple, background: tuple, radius: float = 32) -> Image.Image:
    y, x = np.mgrid[:SIZE, :SIZE] + 0.5 - SIZE / 2
    inside = np.clip(radius - np.hypot(x, y) + 0.5, 0, 1)[..., None]  # 1 pixel of antialiasing
    return as_image(inside * colour + (1 - inside) * np.array(background))


def with_mask(picture: Image.Image, box: Box) -> Image.Image:
    """Return the picture, transparent where its mask is white. Its colours stay below that."""
    alpha = Image.new("L", picture.size, 255)
    alpha.paste(0, box)
    picture.putalpha(alpha)
    return picture


def as_image(levels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(levels + 0.5, 0, 255).astype(np.uint8))


def fractal_line(generator: np.random.Generator, width: int, roughness: float) -> np.ndarray:
    """Return (width,) heights in about -1..1: octaves of random values, each half as wide."""
    heights = np.zeros(width)
    for octave in range(1, 8):
        points = generator.uniform(-1, 1, 2**octave + 1)
        places = np.linspace(0, len(points) - 1, width)
        heights += np.interp(places, np.arange(len(points)), points) * roughness**octave
    return heights


def mountain_lake(size: int = 768) -> Image.Image:
    """Draw an evening over a lake: sky, a low sun, three ridges in the haze, and reflections."""
    generator = np.random.default_rng(22)
    shore = round(size * 0.62)
    y, x = np.mgrid[:size, :size] / size
    sky = np.array([68, 104, 168]) * (1 - y[..., None] * 1.4) + np.array([250, 196, 142]) * (
        y[..., None] * 1.4
    )
    glow = np.exp(-(((x - 0.68) ** 2 + (y - 0.40) ** 2) / 0.03))[..., None]
    sun = np.clip((0.045 - np.hypot(x - 0.68, y - 0.40)) * size / 2, 0, 1)[..., None]
    scene = sky + glow * np.array([90, 60, 10])
    scene = scene * (1 - sun) + np.array([255, 244, 214]) * sun
    for base, height, colour in (
        (0.50, 0.30, (120, 124, 160)),
        (0.56, 0.24, (70, 84, 112)),
        (0.63, 0.14, (30, 48, 50)),
    ):
        ridge = base - height * (0.35 + fractal_line(generator, size, 0.52))
        depth = np.clip((y - ridge[None]) * size, 0, 1)[..., None]
        shade = 0.95 + 0.1 * generator.random((size, size, 1)) * depth
        haze = np.clip((y - base + 0.12) * 2.2, 0, 0.5)[..., None]
        rock = np.array(colour) * shade * (1 - haze) + np.array([214, 190, 180]) * haze
        scene = scene * (1 - depth) + rock * depth
    rows = np.arange(size - shore)
    ripple = np.round(generator.normal(0, 1.5, len(rows)) * (0.3 + rows / 60)).astype(int)
    mirrored = np.clip(shore - 1 - rows * shore // (size - shore) + ripple % 3, 0, shore - 1)
    scene[shore:] = scene[mirrored] * 0.72 + np.array([8, 22, 38])
    for row, shift in zip(range(shore, size), ripple, strict=True):
        scene[row] = np.roll(scene[row], shift, axis=0)
    return as_image(scene)


def draw_night_set(folder: Path) -> None:
    """Draw pictures at night, with captions that name the backgrounds of the day."""
    named = SHAPES, COLOURS, COLOURS, PLACES
    rows = [
        [names.index(row[i]) for names, i in zip(named, (0, 1, 3, 2), strict=True)] + [0]
        for row in NIGHT_SET
    ]
    scenes = place_scenes(torch.tensor(rows), torch.Generator().manual_seed(22))
    pictures = draw(replace(scenes, background=NIGHT.expand(len(rows), 3)))
    folder.mkdir(exist_ok=True)
    for i, (shape, colour, place, ground) in enumerate(NIGHT_SET, 1):
        levels = pictures[i - 1].movedim(0, -1).numpy() * 255
        as_image(levels).save(folder / f"{i}.png", optimize=True)
        caption = f"a {colour} {shape} {WHERE[place][0]} on a {ground} background\n"
        (folder / f"{i}.txt").write_text(caption, "utf-8")


def main() -> None:
    pictures = {
        "mountain lake.png": mountain_lake(),
        "red square.png": square(RED, BLUE),
        "red square, masked.png": with_mask(square(RED, BLUE), (24, 24, 104, 104)),
        "yellow circle.png": circle(YELLOW, GREEN),
        "black square, masked above.png": with_mask(
            square(BLACK, GREEN, (40, 40, 96, 96)), (40, 0, 96, 40)
        ),
    }
    PICTURES.mkdir(exist_ok=True)
    for name, picture in pictures.items():
        picture.save(PICTURES / name, optimize=True)
    draw_night_set(PICTURES / "shapes at night")


if __name__ == "__main__":
    main()
