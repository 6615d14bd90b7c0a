"""The blueprints of subgraphs/: whole pipelines as one node, with the widgets a person wants.

The three combined pipelines of diffusers (KandinskyV22CombinedPipeline, …Img2Img…, …Inpaint…) and
three more. `make_workflows.py` turns them into files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tools.graph import DECODER, DEPTH, ESTIMATOR, INPAINT, Graph, Node, embeds_of


@dataclass
class Blueprint(Graph):
    about: str = ""
    aliases: list[str] = field(default_factory=list)
    takes: list[tuple[str, list[tuple[Node, str]]]] = field(default_factory=list)
    gives: list[tuple[str, tuple[Node, int]]] = field(default_factory=list)

    def take(self, name: str, *targets: tuple[Node, str]) -> None:
        """An input of the box: what it goes into, inside."""
        self.takes.append((name, list(targets)))

    def give(self, name: str, source: tuple[Node, int]) -> None:
        self.gives.append((name, source))

    def words(self, prior: Node) -> None:
        self.take("prompt", (prior, "prompt"))
        self.take("negative_prompt", (prior, "negative_prompt"))

    def settings(self, prior: Node, stage: Node, loaders: tuple[Node, Node], *more: str) -> None:
        """One seed serves prior and decoder."""
        self.take("seed", (stage, "seed"), (prior, "seed"))
        for name in ("steps", "cfg", *more):
            self.take(name, (stage, name))
        self.take("prior_model", (loaders[0], "model_name"))
        self.take("decoder_model", (loaders[1], "model_name"))


def text_to_image() -> Blueprint:
    b = Blueprint("Text to Image (Kandinsky 2.2)")
    b.about = "A picture from a prompt: prior and decoder in one node."
    b.aliases = ["txt2img", "kandinsky", "unclip", "combined pipeline"]
    prior, model = loaders = b.loaders()
    words = b.add(
        "Kandinsky22Prior", prior=prior[0], prompt="a large red circle on a blue background"
    )
    canvas = b.canvas()
    latent = b.add(
        "Kandinsky22Decoder", model=model[0], **embeds_of(words), latent=canvas[0], seed=1
    )
    image = b.add("VAEDecode", samples=latent[0], vae=model[1])
    b.words(words)
    for name in ("width", "height", "batch_size"):
        b.take(name, (canvas, name))
    b.settings(words, latent, loaders)
    b.give("IMAGE", image[0])
    return b


def image_to_image() -> Blueprint:
    b = Blueprint("Image to Image (Kandinsky 2.2)")
    b.about = "Changes a picture towards a prompt; denoise says how far."
    b.aliases = ["img2img", "kandinsky", "unclip", "strength", "combined pipeline"]
    prior, model = loaders = b.loaders()
    words = b.add("Kandinsky22Prior", prior=prior[0], prompt="a yellow square on a blue background")
    start = b.add("VAEEncode", vae=model[1])
    latent = b.add(
        "Kandinsky22Img2Img",
        model=model[0],
        **embeds_of(words),
        latent=start[0],
        seed=1,
        denoise=0.7,
    )
    image = b.add("VAEDecode", samples=latent[0], vae=model[1])
    b.take("image", (start, "pixels"))
    b.words(words)
    b.settings(words, latent, loaders, "denoise")
    b.give("IMAGE", image[0])
    return b


def repaint(b: Blueprint, prompt: str) -> tuple[Node, Node, Node, Node]:
    """What Inpaint and Outpaint share: encode, repaint, and put back what was not repainted."""
    prior, model = loaders = b.loaders(INPAINT)
    words = b.add("Kandinsky22Prior", prior=prior[0], prompt=prompt)
    whole = b.add("VAEEncode", vae=model[1])
    latent = b.add(
        "Kandinsky22Inpaint", model=model[0], **embeds_of(words), latent=whole[0], seed=1
    )
    image = b.add("VAEDecode", samples=latent[0], vae=model[1])
    back = b.add("ImageCompositeMasked", "Put the rest back", stage="Pixels", source=image[0])
    b.words(words)
    b.settings(words, latent, loaders)
    b.give("IMAGE", back[0])
    return whole, latent, back, words


def inpaint() -> Blueprint:
    b = Blueprint("Inpaint (Kandinsky 2.2)")
    b.about = "Repaints what is white in the mask; the rest of the picture stays, to the bit."
    b.aliases = ["kandinsky", "unclip", "mask", "repaint", "combined pipeline"]
    whole, latent, back, _ = repaint(b, "a yellow circle on a blue background")
    image = ("image", [(whole, "pixels"), (back, "destination")])
    mask = ("mask", [(latent, "mask"), (back, "mask")])
    b.takes[:0] = [image, mask]
    return b


def outpaint() -> Blueprint:
    b = Blueprint("Outpaint (Kandinsky 2.2)")
    b.about = "Makes a picture larger on each side that has a number, and fills what is new."
    b.aliases = ["kandinsky", "unclip", "extend", "pad", "uncrop"]
    whole, latent, back, _ = repaint(b, "a red square on a blue background")
    padded = b.add("ImagePadForOutpaint", left=64, top=0, right=64, bottom=0, feathering=0)
    whole.inputs["pixels"] = back.inputs["destination"] = padded[0]
    latent.inputs["mask"] = back.inputs["mask"] = padded[1]
    sides = [(name, [(padded, name)]) for name in ("left", "top", "right", "bottom")]
    b.takes[:0] = [("image", [(padded, "image")])]
    b.takes[3:3] = sides
    return b


def depth_to_image() -> Blueprint:
    b = Blueprint("Depth to Image (Kandinsky 2.2)")
    b.about = "A new picture along the depth of another one, in its size."
    b.aliases = ["kandinsky", "unclip", "controlnet", "depth map"]
    prior, model = loaders = b.loaders(DEPTH)
    estimator = b.add("Kandinsky22LoadDepthEstimator", model_name=ESTIMATOR)
    words = b.add(
        "Kandinsky22Prior", prior=prior[0], prompt="a yellow square on a black background"
    )
    hint = b.add("Kandinsky22DepthHint", depth_estimator=estimator[0])
    size = b.add("GetImageSize")
    canvas = b.canvas(width=size[0], height=size[1])
    latent = b.add(
        "Kandinsky22ControlNet",
        model=model[0],
        **embeds_of(words),
        latent=canvas[0],
        hint=hint[0],
        seed=1,
    )
    image = b.add("VAEDecode", samples=latent[0], vae=model[1])
    b.take("image", (hint, "image"), (size, "image"))
    b.words(words)
    b.settings(words, latent, loaders)
    b.take("depth_model", (estimator, "model_name"))
    b.give("IMAGE", image[0])
    b.give("hint", hint[0])
    return b


def mix() -> Blueprint:
    b = Blueprint("Mix Images and Prompts (Kandinsky 2.2)")
    b.about = "Two pictures and a prompt become one new picture; the weights say how much of each."
    b.aliases = ["kandinsky", "unclip", "blend", "interpolate", "merge", "image variation"]
    prior, model = loaders = b.loaders(DECODER)
    seen = [b.add("Kandinsky22EncodeImage", prior=prior[0]) for _ in range(2)]
    words = b.add("Kandinsky22Prior", prior=prior[0], prompt="a red circle on a blue background")
    parts = {"count": "3"}
    for i, (part, weight) in enumerate([(seen[0], 0.3), (seen[1], 0.3), (words, 0.4)], 1):
        parts |= {f"count.image_embeds_{i}": part[0], f"count.weight_{i}": weight}
    mixed = b.add("Kandinsky22Interpolate", **parts)
    canvas = b.canvas()
    latent = b.add(
        "Kandinsky22Decoder",
        model=model[0],
        image_embeds=mixed[0],
        negative_image_embeds=words[1],
        latent=canvas[0],
        seed=1,
    )
    image = b.add("VAEDecode", samples=latent[0], vae=model[1])
    for i in (1, 2):
        b.take(f"image_{i}", (seen[i - 1], "image"))
    b.words(words)
    for i, name in enumerate(("image_1_weight", "image_2_weight", "prompt_weight"), 1):
        b.take(name, (mixed, f"count.weight_{i}"))
    for name in ("width", "height", "batch_size"):
        b.take(name, (canvas, name))
    b.settings(words, latent, loaders)
    b.give("IMAGE", image[0])
    return b


BLUEPRINTS: list[Callable[[], Blueprint]] = [
    text_to_image,
    image_to_image,
    inpaint,
    outpaint,
    depth_to_image,
    mix,
]
