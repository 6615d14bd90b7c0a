"""Draw pictures for README and for some help pages, in ComfyUI's web interface.

    python tools/picture_page.py

docs/pictures/blueprints.png shows the blueprints. A node that is in no template gets a picture of
itself with its wires in web/docs/pictures/. (A test makes docs/pictures/run.gif.)
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    ROOT = Path(__file__).resolve().parents[1]
    sys.path[0] = str(ROOT)  # see scripts/__init__.py

    from scripts import host

if TYPE_CHECKING:
    from PIL import Image
    from playwright.sync_api import Page

PACK = Path(__file__).resolve().parents[1]
PICTURES = PACK / "docs" / "pictures"
HELP_PICTURES = PACK / "web" / "docs" / "pictures"

# Node → its wires: (from node, its output, to node, its input). "*" is the only output.
WIRED = {
    "Kandinsky22LoadUNet": [("Kandinsky22LoadUNet", "model", "Kandinsky22Decoder", "model")],
    "Kandinsky22LoadMoVQ": [("Kandinsky22LoadMoVQ", "vae", "VAEDecode", "vae")],
    "Kandinsky22LoadPriorTransformer": [
        ("Kandinsky22LoadPrior", "prior", "Kandinsky22LoadPriorTransformer", "prior"),
        ("Kandinsky22LoadPriorTransformer", "prior", "Kandinsky22Prior", "prior"),
    ],
    "Kandinsky22LoadPriorLora": [
        ("Kandinsky22LoadPrior", "prior", "Kandinsky22LoadPriorLora", "prior"),
        ("Kandinsky22LoadPriorLora", "prior", "Kandinsky22Prior", "prior"),
    ],
    "Kandinsky22Optimize": [
        ("Kandinsky22LoadDecoder", "model", "Kandinsky22Optimize", "model"),
        ("Kandinsky22Optimize", "model", "Kandinsky22Decoder", "model"),
    ],
    "Kandinsky22ZeroEmbeds": [
        ("Kandinsky22LoadPrior", "prior", "Kandinsky22ZeroEmbeds", "prior"),
        ("Kandinsky22ZeroEmbeds", "*", "Kandinsky22Decoder", "negative_image_embeds"),
    ],
    "Kandinsky22EmbedsToClipVision": [
        ("Kandinsky22Prior", "image_embeds", "Kandinsky22EmbedsToClipVision", "image_embeds"),
        ("Kandinsky22EmbedsToClipVision", "*", "unCLIPConditioning", "clip_vision_output"),
    ],
    "Kandinsky22EmbedsFromClipVision": [
        ("CLIPVisionEncode", "*", "Kandinsky22EmbedsFromClipVision", "clip_vision_output"),
        ("Kandinsky22EmbedsFromClipVision", "*", "Kandinsky22Decoder", "image_embeds"),
    ],
}
# Puts the nodes into a row, with the wired one in the middle of the view. Returns its place.
DRAW = """([type, wires, files]) => {
  app.graph.clear()
  const made = {}
  const names = [...new Set(wires.flatMap(([from, , to]) => [from, to]))]
  for (const name of names) app.graph.add((made[name] = LiteGraph.createNode(name)))
  const middle = names.indexOf(type)
  const gap = 60
  for (const [i, name] of names.entries())
    made[name].pos = [i < middle ? -made[name].size[0] - gap : i && made[type].size[0] + gap, 0]
  made[type].pos = [0, 0]
  for (const [from, output, to, input] of wires) {
    const o = Math.max(0, made[from].outputs.findIndex(slot => slot.name == output))
    const i = made[to].inputs.findIndex(slot => slot.name == input)
    if (!made[from].connect(o, made[to], i)) throw new Error(`${from} ${output} ${to} ${input}`)
  }
  for (const widget of made[type].widgets ?? [])
    if (files[widget.name]) widget.value = files[widget.name]
  app.canvas.deselectAll?.()
  app.canvas.ds.scale = 1
  app.canvas.ds.offset = [500, 200]
  app.canvas.setDirty(true, true)
  return made[type].size
}"""
FILES = {  # file names for the lists, as on a user's computer
    "unet_name": "my_merge.safetensors",
    "vae_name": "my_movq.safetensors",
    "lora_name": "my_prior_lora.safetensors",
}


def wired_picture(node_id: str) -> str:
    """Return the path of the picture of a node that is in no template."""
    words = re.sub("(?<=[a-z])(?=[A-Z])", "_", node_id.removeprefix("Kandinsky22"))
    return f"{words.lower()}_wired.jpg"


def draw_blueprints(page: Page) -> None:
    """Draw each blueprint as the node in the node library, in two rows of three."""
    from PIL import Image

    pictures = []
    for path in sorted((PACK / "subgraphs").glob("*.json")):
        page.evaluate("saved => kandinsky22.open(saved)", json.loads(path.read_text("utf-8")))
        size = page.evaluate(
            """() => { const [node] = app.graph._nodes
              node.pos = [0, 0]
              app.canvas.deselectAll?.()
              app.canvas.ds.scale = 1
              app.canvas.ds.offset = [500, 200]
              app.canvas.setDirty(true, true)
              return node.size }"""
        )
        pictures.append(screenshot_of_node(page, *size, margin=10))
    width = max(picture.width for picture in pictures)
    rows = [pictures[:3], pictures[3:]]
    heights = [max(picture.height for picture in row) for row in rows]
    sheet = Image.new("RGB", (3 * width, sum(heights)), pictures[0].getpixel((1, 1)))
    for y, row in zip((0, heights[0]), rows, strict=True):
        for column, picture in enumerate(row):
            sheet.paste(picture, (column * width, y))
    sheet.save(PICTURES / "blueprints.png", optimize=True)


def screenshot_of_node(page: Page, width: float, height: float, margin: float) -> Image.Image:
    """Take a picture of the node in the middle of the view, with its title and a margin."""
    from PIL import Image

    page.wait_for_timeout(500)
    view = page.locator("#graph-canvas").bounding_box()
    assert view
    clip = {"x": view["x"] + 500 - margin, "y": view["y"] + 150}
    clip |= {"width": width + 2 * margin, "height": height + 70}
    return Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")


def draw_help(page: Page) -> None:
    """Draw a node at full size, with the ends of its wires."""
    for node, wires in WIRED.items():
        size = page.evaluate(DRAW, [node, wires, FILES])
        picture = screenshot_of_node(page, *size, margin=40)
        picture.save(HELP_PICTURES / wired_picture(node), quality=90)


def main() -> None:
    python = host.ensure().python
    if Path(sys.prefix) != python.parents[1]:
        sys.exit(subprocess.call([python, *sys.argv]))
    from scripts.comfyui import Server
    from tools.page import open_page

    hidden = {"Comfy_Minimap_Visible": False, "Comfy_Graph_CanvasInfo": False}
    with tempfile.TemporaryDirectory() as base:
        with Server(host.ensure(), Path(base), cpu=True) as server:
            with open_page(server.url, 1366, 900, **hidden) as page:
                draw_help(page)
                draw_blueprints(page)


if __name__ == "__main__":
    main()
