"""The analytic dataset: one antialiased shape on a plain background, with its depth map.

Pixels are exact functions of a scene's parameters, so a scene can be drawn at any size, and the
judge in `judge.py` can read the parameters back. Lengths are in pixels of a 128 x 128 picture.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch

SIZE = 128
SHAPES = ("circle", "square", "triangle")
COLOURS = ("red", "green", "blue", "yellow", "white", "black")
PLACES = ("left", "right", "top", "bottom", "centre")
SIZES = ("medium", "large")

PALETTE = torch.tensor(
    [
        [0.85, 0.13, 0.13],
        [0.13, 0.63, 0.20],
        [0.13, 0.27, 0.85],
        [0.94, 0.85, 0.15],
        [0.94, 0.94, 0.94],
        [0.08, 0.08, 0.08],
    ]
)
DIRECTIONS = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, -1.0], [0.0, 1.0], [0.0, 0.0]])
RADIUS = torch.tensor([29.0, 40.0])  # of a medium and of a large shape
OFFSET = torch.tensor([25.0, 15.0])  # how far "left" is from the middle, by size
SQUARE_HALF = 0.9  # half a side, in radii
TRIANGLE_HALF = 1.08  # half a side of the equilateral triangle, in radii
AREA = torch.tensor([torch.pi, 4 * SQUARE_HALF**2, 3**0.5 * TRIANGLE_HALF**2])  # in radii squared
UNNAMED = -1  # the attribute of a scene that no word describes (a colour between two others)


@dataclass(frozen=True)
class Scenes:
    """N scenes. `labels` holds (shape, colour, background, place, size) as indices."""

    labels: torch.Tensor  # (N, 5) long
    colour: torch.Tensor  # (N, 3) in [0, 1]
    background: torch.Tensor  # (N, 3) in [0, 1]
    centre: torch.Tensor  # (N, 2) x, y of the bounding box's middle
    radius: torch.Tensor  # (N,)
    shading: torch.Tensor  # (N, 2) strength of the object's light, of the background's ramp

    def __len__(self) -> int:
        return self.labels.shape[0]

    def __getitem__(self, index: torch.Tensor | slice) -> Scenes:
        return Scenes(*(getattr(self, field.name)[index] for field in fields(self)))


def uniform(low: float, high: float, shape: tuple[int, ...], generator: torch.Generator):
    """Return a float32 tensor drawn evenly from [low, high)."""
    return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device)


def choose(weights: list[float], n: int, generator: torch.Generator) -> torch.Tensor:
    """Return (n,) indices drawn with the given weights."""
    chances = torch.tensor(weights, device=generator.device)
    return torch.multinomial(chances, n, replacement=True, generator=generator)


def sample_labels(n: int, generator: torch.Generator) -> torch.Tensor:
    """Return (n, 5) labels.

    Those that a caption may leave out (white, centre, medium) are more frequent.
    """
    colour = choose([1.0] * 6, n, generator)
    background = choose([1, 1, 1, 1, 1.8, 1.2], n, generator)
    clash = colour == background
    background = torch.where(clash, (colour + 1 + choose([1.0] * 5, n, generator)) % 6, background)
    shape = choose([1.0] * 3, n, generator)
    place = choose([1, 1, 1, 1, 1.8], n, generator)
    size = choose([1.4, 1], n, generator)
    return torch.stack([shape, colour, background, place, size], 1)


def place_scenes(labels: torch.Tensor, generator: torch.Generator) -> Scenes:
    """Return scenes that show `labels` (N, 5), with some variation in colour, place and size."""
    n = len(labels)
    _, colour, background, place, size = labels.unbind(1)
    palette, directions, offsets, radii = (
        table.to(labels.device) for table in (PALETTE, DIRECTIONS, OFFSET, RADIUS)
    )
    centre = SIZE / 2 + directions[place] * offsets[size, None]
    return Scenes(
        labels=labels,
        colour=palette[colour] + uniform(-0.02, 0.02, (n, 3), generator),
        background=palette[background] + uniform(-0.02, 0.02, (n, 3), generator),
        centre=centre + uniform(-2, 2, (n, 2), generator),
        radius=radii[size] + uniform(-2, 2, (n,), generator),
        shading=uniform(0.04, 0.10, (n, 2), generator),
    )


def sample_scenes(n: int, generator: torch.Generator, between: float = 0.0) -> Scenes:
    """Return `n` random scenes, of which a share `between` lies between the named values.

    Their colours, place and size have no names, so they have no caption. They teach the decoder
    what lies between the named values.
    """
    scenes = place_scenes(sample_labels(n, generator), generator)
    free = torch.rand(n, generator=generator) < between
    palette = PALETTE.to(generator.device)
    ends = palette[torch.randint(0, 6, (2, n), generator=generator)]
    other = palette[torch.randint(0, 6, (2, n), generator=generator)]
    mixed = torch.lerp(ends[0], ends[1], torch.rand(n, 1, generator=generator))
    ground = torch.lerp(other[0], other[1], torch.rand(n, 1, generator=generator))
    free &= (mixed - ground).norm(dim=1) > 0.3
    radius = uniform(27, 42, (n,), generator)
    room = (SIZE / 2 - TRIANGLE_HALF * radius - 2)[:, None]
    centre = SIZE / 2 + room * uniform(-1, 1, (n, 2), generator)
    labels = torch.full_like(scenes.labels, UNNAMED)
    labels[:, 0] = scenes.labels[:, 0]
    pick = free[:, None]
    return Scenes(
        labels=torch.where(pick, labels, scenes.labels),
        colour=torch.where(pick, mixed, scenes.colour),
        background=torch.where(pick, ground, scenes.background),
        centre=torch.where(pick, centre, scenes.centre),
        radius=torch.where(free, radius, scenes.radius),
        shading=scenes.shading,
    )


def grid(size: int = SIZE) -> tuple[torch.Tensor, torch.Tensor]:
    """Return x (1, 1, size) and y (1, size, 1) of the pixels of a picture, in 128 units."""
    line = (torch.arange(size) + 0.5) * (SIZE / size)
    return line.view(1, 1, -1), line.view(1, -1, 1)


def cover(shape: torch.Tensor, centre: torch.Tensor, radius: torch.Tensor, size: int = SIZE):
    """Return (N, size, size) share of each pixel inside the shape, from signed distances."""
    x, y = grid(size)
    x = x - centre[:, 0].view(-1, 1, 1)
    y = y - centre[:, 1].view(-1, 1, 1)
    r = radius.view(-1, 1, 1)
    circle = (x.square() + y.square()).sqrt() - r
    square = torch.maximum(x.abs(), y.abs()) - SQUARE_HALF * r
    half_height = TRIANGLE_HALF * 3**0.5 / 2 * r
    sides = 3**0.5 / 2 * x.abs() - (y + half_height) / 2
    triangle = torch.maximum(sides, y - half_height)
    which = shape.view(-1, 1, 1)
    distance = torch.where(which == 0, circle, torch.where(which == 1, square, triangle))
    return (0.5 - distance * (size / SIZE)).clamp(0, 1)


def draw(scenes: Scenes, size: int = SIZE) -> torch.Tensor:
    """Draw (N, 3, size, size) pictures in [0, 1], lit from the top left."""
    x, y = grid(size)
    alpha = cover(scenes.labels[:, 0], scenes.centre, scenes.radius, size)[:, None]
    dx = x - scenes.centre[:, 0].view(-1, 1, 1)
    dy = y - scenes.centre[:, 1].view(-1, 1, 1)
    light = 1 - scenes.shading[:, 0].view(-1, 1, 1) * (dx + dy) / (2 * scenes.radius.view(-1, 1, 1))
    ramp = 1 - scenes.shading[:, 1].view(-1, 1, 1) * (y / SIZE - 0.5).expand(1, size, size)
    front = scenes.colour[:, :, None, None] * light[:, None]
    back = scenes.background[:, :, None, None] * ramp[:, None]
    return (alpha * front + (1 - alpha) * back).clamp(0, 1)


def draw_depth(scenes: Scenes, size: int = SIZE) -> torch.Tensor:
    """Draw (N, 1, size, size) nearness in [0, 1]: a floor of 0.05 to 0.25, objects from 0.5 up."""
    _, y = grid(size)
    alpha = cover(scenes.labels[:, 0], scenes.centre, scenes.radius, size)
    floor = (0.05 + 0.2 * y / SIZE).expand(1, size, size)
    near = (0.6 + 0.4 * (scenes.radius - 27) / 15).clamp(0.5, 1).view(-1, 1, 1)
    return (alpha * near + (1 - alpha) * floor)[:, None]
