"""The picture that ComfyUI's template browser shows for a workflow: before | after.

The nodes' help pages show a smaller version.
"""

from __future__ import annotations

import functools
import io
from pathlib import Path

from PIL import Image, ImageOps

PICTURES = Path(__file__).resolve().parents[1] / "web" / "pictures"

SIDE = 384
HELP_SIDE = 256  # the help panel is 262 pixels wide
GAP = 6  # between two pictures
GROUND = (24, 24, 24)


def example_pictures(api: dict) -> list[Image.Image]:
    """Return the outputs of a workflow's Example Picture nodes in order, and three of a dataset."""
    nodes = [api[number] for number in sorted(api, key=int)]
    names = [n["inputs"]["picture"] for n in nodes if "ExamplePicture" in n["class_type"]]
    files = [PICTURES / name for name in names]
    for node in nodes:
        if "ExampleDataset" in node["class_type"]:
            files += sorted((PICTURES / node["inputs"]["dataset"]).glob("*.png"))[:3]
    return [Image.open(file) for file in files]


def saved_pictures(name: str, content: bytes) -> list[Image.Image]:
    """Return the picture in a file, or some frames of a video."""
    if not name.endswith(".mp4"):
        return [Image.open(io.BytesIO(content)).convert("RGB")]
    import av  # part of ComfyUI's environment

    with av.open(io.BytesIO(content)) as video:
        frames = [frame.to_image() for frame in video.decode(video=0)]
    return [frames[i * (len(frames) - 1) // 3] for i in range(4)]


def draw_thumbnail(before: list[Image.Image], after: list[Image.Image]) -> bytes:
    """Draw a square JPEG. One picture fills it. Two or three are cut to columns from their middles.

    A picture wider than high and its source are rows. Four pictures are quarters.
    """
    pictures = [*before, *after]
    square = Image.new("RGB", (SIDE, SIDE), GROUND)
    wide = after[-1].width > 1.5 * after[-1].height
    if len(pictures) == 4:
        cells = [(x, y, SIDE // 2, SIDE // 2) for y in (0, SIDE // 2) for x in (0, SIDE // 2)]
    elif wide:
        height = SIDE // len(pictures)
        cells = [(0, i * height, SIDE, height) for i in range(len(pictures))]
    else:
        width = SIDE // len(pictures)
        cells = [(i * width, 0, width, SIDE) for i in range(len(pictures))]
    fitted = functools.partial(ImageOps.pad, color=GROUND) if wide else ImageOps.fit
    gap = GAP if len(pictures) > 1 else 0
    for picture, (x, y, width, height) in zip(pictures, cells, strict=True):
        size = (width - gap, height - gap)
        cell = fitted(on_ground(picture), size, Image.Resampling.LANCZOS)
        square.paste(cell, (x + (width - size[0]) // 2, y + (height - size[1]) // 2))
    return as_jpeg(square)


def shrink(thumbnail: bytes) -> bytes:
    """Return a thumbnail in the size of the help pages."""
    picture = Image.open(io.BytesIO(thumbnail))
    return as_jpeg(picture.resize((HELP_SIDE, HELP_SIDE), Image.Resampling.LANCZOS))


def as_jpeg(picture: Image.Image) -> bytes:
    jpeg = io.BytesIO()
    picture.save(jpeg, "JPEG", quality=88)
    return jpeg.getvalue()


def on_ground(picture: Image.Image) -> Image.Image:
    """Return the picture without transparency. A hole of the mask shows the background."""
    layer = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, (*GROUND, 255)), layer).convert(
        "RGB"
    )
