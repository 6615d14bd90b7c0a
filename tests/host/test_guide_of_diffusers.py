"""Each code block of the diffusers guide equals its graph on a server, on PIL pictures.

`python scripts/test.py --no-lint tests/host/test_guide_of_diffusers.py -v` prints a line for each.
docs/from_diffusers.md has them as a table. The code runs on the tiny checkpoints with few steps.
"""

import io

import numpy as np
import pytest
import torch
import transformers
from diffusers.models.attention_processor import AttnAddedKVProcessor
from helpers import oracle
from helpers.server_prompts import node
from PIL import Image, ImageOps
from safetensors.torch import load_file

PRIOR, SIZE = "kandinsky-2-2-tiny-prior", dict(height=64, width=64)
SAMPLING = dict(seed=7, steps=6, cfg=4.0, sampler_name="ddpm", scheduler="checkpoint")
TEXT = dict(prompt="a red cat", negative_prompt="", seed=3, steps=5, cfg=4.0)
LATENT = dict(num_inference_steps=6, output_type="latent")


class Guide:
    """Runs one row of the guide twice: with diffusers' pipelines, and as a graph on the server."""

    def __init__(self, server):
        self.server = server
        self.folder = server.base / "models" / "diffusers"
        self.graph = {"prior": node("Kandinsky22LoadPrior", model_name=PRIOR, weight_dtype="fp32")}
        generator = np.random.default_rng(0)
        self.picture = Image.fromarray(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8))
        self.mask = np.zeros((64, 64), dtype=np.float32)
        self.mask[:24, 20:-20] = 1

    def pipeline(self, name: str, folder: str):
        return oracle.pipeline(name, self.folder / folder)

    def generator(self, seed: int = 7) -> torch.Generator:
        return torch.Generator("cpu").manual_seed(seed)

    def embeds(self, negative: str | None = None, **arguments):
        """Return (positive, negative) of the prior's pipeline, with seed 3."""
        prior = self.pipeline("KandinskyV22PriorPipeline", PRIOR)
        arguments = dict(negative_prompt=negative, num_inference_steps=5) | arguments
        return prior("a red cat", generator=self.generator(3), **arguments).to_tuple()

    def upload(self, picture: Image.Image, name: str) -> str:
        content = io.BytesIO()
        picture.save(content, "PNG")
        return self.server.upload(content.getvalue(), name)

    def add(self, name: str, kind: str, **inputs) -> list:
        self.graph[name] = node(kind, **inputs)
        return [name, 0]

    def add_decoder(self, variant: str = "decoder") -> None:
        folder = f"kandinsky-2-2-tiny-{variant}"
        self.add("decoder", "Kandinsky22LoadDecoder", model_name=folder, weight_dtype="fp32")

    def add_prior(self, **widgets) -> dict:
        inputs = dict(prior=["prior", 0], batch_size=1) | TEXT | widgets
        self.add("embeds", "Kandinsky22Prior", **inputs)
        return dict(image_embeds=["embeds", 0], negative_image_embeds=["embeds", 1])

    def add_canvas(self, batch: int = 1) -> list:
        return self.add("canvas", "EmptyLatentImage", width=64, height=64, batch_size=batch)

    def add_picture(self) -> list:
        file = self.upload(self.picture, "guide-picture.png")
        pixels = self.add("picture", "LoadImage", image=file)
        return self.add("encoded", "VAEEncode", pixels=pixels, vae=["decoder", 1])

    def add_mask(self, mask: np.ndarray) -> list:
        image = Image.fromarray((mask * 255).astype(np.uint8)).convert("RGB")
        file = self.upload(image, "guide-mask.png")
        return self.add("mask", "LoadImageMask", image=file, channel="red")

    def add_hint(self) -> list:
        name = "tiny-dpt"
        estimator = self.add("depth", "Kandinsky22LoadDepthEstimator", model_name=name)
        picture = self.upload(self.picture, "guide-picture.png")
        pixels = self.add("depth_picture", "LoadImage", image=picture)
        return self.add("hint", "Kandinsky22DepthHint", depth_estimator=estimator, image=pixels)

    def make_hint(self) -> torch.Tensor:
        """Run the guide's own function, which uses the pipeline of transformers."""
        folder = str(self.server.base / "models" / "depth_estimators" / "tiny-dpt")
        estimator = transformers.pipeline("depth-estimation", model=folder)
        image = np.array(estimator(self.picture)["depth"])[:, :, None]
        image = np.concatenate([image, image, image], axis=2)
        return (torch.from_numpy(image).float() / 255.0).permute(2, 0, 1).unsqueeze(0)

    def latents(self, stage: str, **inputs) -> torch.Tensor:
        """Return the latents of a stage of the graph on the server."""
        inputs = dict(model=["decoder", 0]) | SAMPLING | inputs
        sampled = self.add("stage", f"Kandinsky22{stage}", **inputs)
        self.add("saved", "SaveLatent", samples=sampled, filename_prefix="guide/latent")
        file = self.server.run(self.graph).outputs["saved"]["latents"][0]
        path = self.server.output / file["subfolder"] / file["filename"]
        return load_file(path)["latent_tensor"]

    def as_pixels(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode latents, as the controlnet pipelines give only pictures."""
        folder = "kandinsky-2-2-tiny-controlnet-depth"
        movq = self.pipeline("KandinskyV22ControlnetPipeline", folder).movq
        return movq.decode(latents, force_not_quantize=True).sample


def text_to_image(guide):
    """Run the combined pipeline's two stages, each with its own generator."""
    positive, negative = guide.embeds("low quality", guidance_scale=1.0)
    theirs = guide.pipeline("KandinskyV22Pipeline", "kandinsky-2-2-tiny-decoder")(
        positive, negative, generator=guide.generator(), **SIZE, **LATENT
    ).images
    guide.add_decoder()
    wires = guide.add_prior(negative_prompt="low quality", cfg=1.0)
    return theirs, guide.latents("Decoder", latent=guide.add_canvas(), **wires)


def four_generators(guide):
    positive, negative = guide.embeds()
    theirs = guide.pipeline("KandinskyV22Pipeline", "kandinsky-2-2-tiny-decoder")(
        positive,
        negative,
        num_images_per_prompt=4,
        generator=[guide.generator(7 + i) for i in range(4)],
        **SIZE,
        **LATENT,
    ).images
    guide.add_decoder()
    wires = guide.add_prior()
    return theirs, guide.latents("Decoder", latent=guide.add_canvas(4), **wires)


def image_to_image(guide):
    positive, negative = guide.embeds()
    theirs = guide.pipeline("KandinskyV22Img2ImgPipeline", "kandinsky-2-2-tiny-decoder")(
        positive,
        guide.picture,
        negative,
        strength=0.5,
        generator=guide.generator(),
        **SIZE,
        **LATENT,
    ).images
    guide.add_decoder()
    wires = guide.add_prior()
    return theirs, guide.latents("Img2Img", latent=guide.add_picture(), denoise=0.5, **wires)


def inpaint(guide, mask_for_diffusers, mask: np.ndarray):
    positive, negative = guide.embeds()
    theirs = guide.pipeline("KandinskyV22InpaintPipeline", "kandinsky-2-2-tiny-decoder-inpaint")(
        positive,
        guide.picture,
        mask_for_diffusers,
        negative,
        generator=guide.generator(),
        **SIZE,
        **LATENT,
    ).images
    guide.add_decoder("decoder-inpaint")
    wires = guide.add_prior()
    wires |= dict(latent=guide.add_picture(), mask=guide.add_mask(mask))
    return theirs, guide.latents("Inpaint", **wires)


def hat_with_a_numpy_mask(guide):
    return inpaint(guide, guide.mask, guide.mask)


def old_mask_inverted(guide):
    """Return the card's `ImageOps.invert(mask)` for a mask that is black where it repaints."""
    old = Image.fromarray(((1 - guide.mask) * 255).astype(np.uint8))
    return inpaint(guide, ImageOps.invert(old), guide.mask)


def interpolate(guide):
    prior = guide.pipeline("KandinskyV22PriorPipeline", PRIOR)
    positive, negative = prior.interpolate(
        ["a red cat", guide.picture],
        [0.3, 0.7],
        num_inference_steps=5,
        generator=guide.generator(3),
    ).to_tuple()
    theirs = guide.pipeline("KandinskyV22Pipeline", "kandinsky-2-2-tiny-decoder")(
        positive, negative, generator=guide.generator(), **SIZE, **LATENT
    ).images
    guide.add_decoder()
    wires = guide.add_prior()
    guide.add_picture()
    image = guide.add("image", "Kandinsky22EncodeImage", prior=["prior", 0], image=["picture", 0])
    pairs = {"count.image_embeds_1": wires["image_embeds"], "count.weight_1": 0.3}
    pairs |= {"count.image_embeds_2": image, "count.weight_2": 0.7}
    mixed = guide.add("mix", "Kandinsky22Interpolate", count="2", method="linear", **pairs)
    wires |= dict(image_embeds=mixed, latent=guide.add_canvas())
    return theirs, guide.latents("Decoder", **wires)


def controlnet(guide):
    positive, negative = guide.embeds("blurry")
    name, folder = "KandinskyV22ControlnetPipeline", "kandinsky-2-2-tiny-controlnet-depth"
    theirs = guide.pipeline(name, folder)(
        positive,
        negative,
        guide.make_hint(),
        generator=guide.generator(),
        num_inference_steps=6,
        output_type="pt",
        **SIZE,
    ).images
    guide.add_decoder("controlnet-depth")
    wires = guide.add_prior(negative_prompt="blurry")
    wires |= dict(latent=guide.add_canvas(), hint=guide.add_hint())
    return theirs, guide.as_pixels(guide.latents("ControlNet", **wires))


def emb2emb_and_controlnet_img2img(guide):
    prior = guide.pipeline("KandinskyV22PriorEmb2EmbPipeline", PRIOR)
    steps = dict(image=guide.picture, num_inference_steps=8)
    edited = prior("a robot", strength=0.85, generator=guide.generator(3), **steps)
    unwanted = prior("blurry", strength=1.0, generator=guide.generator(4), **steps)
    name, folder = "KandinskyV22ControlnetImg2ImgPipeline", "kandinsky-2-2-tiny-controlnet-depth"
    theirs = guide.pipeline(name, folder)(
        image_embeds=edited.image_embeds,
        image=guide.picture,
        negative_image_embeds=unwanted.image_embeds,
        hint=guide.make_hint(),
        strength=0.5,
        generator=guide.generator(),
        num_inference_steps=6,
        output_type="pt",
        **SIZE,
    ).images
    guide.add_decoder("controlnet-depth")
    latent, hint = guide.add_picture(), guide.add_hint()
    start = guide.add("start", "Kandinsky22EncodeImage", prior=["prior", 0], image=["picture", 0])
    wires = {}
    for key, prompt, strength, seed in (
        ("image_embeds", "a robot", 0.85, 3),
        ("negative_image_embeds", "blurry", 1.0, 4),
    ):
        text = TEXT | dict(prompt=prompt, strength=strength, seed=seed, steps=8)
        wires[key] = guide.add(
            key, "Kandinsky22PriorEmb2Emb", prior=["prior", 0], image_embeds=start, **text
        )
    stage = guide.latents("ControlNetImg2Img", latent=latent, hint=hint, denoise=0.5, **wires)
    return theirs, (guide.as_pixels(stage) * 0.5 + 0.5).clamp(0, 1)


def plain_attention_processor(guide):
    positive, negative = guide.embeds()
    pipeline = guide.pipeline("KandinskyV22Pipeline", "kandinsky-2-2-tiny-decoder")
    before = pipeline.unet.attn_processors
    pipeline.unet.set_attn_processor(AttnAddedKVProcessor())
    try:
        theirs = pipeline(positive, negative, generator=guide.generator(), **SIZE, **LATENT).images
    finally:
        pipeline.unet.set_attn_processor(before)
    guide.add_decoder()
    wires = guide.add_prior()
    wires["model"] = guide.add(
        "plain",
        "Kandinsky22Optimize",
        model=["decoder", 0],
        attention="plain",
        channels_last=False,
    )
    return theirs, guide.latents("Decoder", latent=guide.add_canvas(), **wires)


ROWS = [
    text_to_image,
    four_generators,
    image_to_image,
    hat_with_a_numpy_mask,
    old_mask_inverted,
    interpolate,
    controlnet,
    emb2emb_and_controlnet_img2img,
    plain_attention_processor,
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.__name__)
def test_a_row_of_the_guide(server, row):
    theirs, ours = row(Guide(server))
    assert oracle.max_diff(ours, theirs) == 0.0


def test_a_saved_png_is_cut_where_pil_rounds(server):
    """Save Image truncates to 8 bits, and diffusers' PIL output rounds.

    They differ by one level at most.
    """
    guide = Guide(server)
    theirs, ours = text_to_image(guide)
    assert torch.equal(theirs, ours)
    pixels = guide.add("pixels", "VAEDecode", samples=["stage", 0], vae=["decoder", 1])
    guide.add("png", "SaveImage", images=pixels, filename_prefix="guide/png")
    file = server.run(guide.graph).outputs["png"]["images"][0]
    png = np.array(Image.open(io.BytesIO(server.fetch(file)))).astype(int)
    pipeline = guide.pipeline("KandinskyV22Pipeline", "kandinsky-2-2-tiny-decoder")
    decoded = pipeline.movq.decode(theirs, force_not_quantize=True).sample
    exact = (decoded[0] * 0.5 + 0.5).clamp(0, 1).movedim(0, -1).numpy() * 255
    assert np.array_equal(png, exact.astype(int))
    assert np.abs(png - exact.round()).max() <= 1
