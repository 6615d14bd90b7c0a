"""Run the decoding stages on the tiny checkpoints: our nodes, and diffusers' pipelines."""

import pytest
import torch
from helpers import oracle
from helpers.tiny_models import DEPTH, INPAINT, TEXT_TO_IMAGE
from kandinsky22 import nodes

# Guidance and batch sizes.
CONDITIONS = (pytest.param(1.0, 1, id="cfg 1"), pytest.param(4.0, 1), pytest.param(4.0, 2))


def picture(batch=1, height=64, width=64, seed=0) -> torch.Tensor:
    """Return an IMAGE (B, H, W, 3)."""
    return torch.rand(batch, height, width, 3, generator=torch.Generator().manual_seed(seed))


def box_mask(batch=1, height=64, width=64) -> torch.Tensor:
    mask = torch.zeros(batch, height, width)
    mask[:, 10:34, 20:50] = 1
    return mask


def tensor_of(image: torch.Tensor) -> torch.Tensor:
    """Return an IMAGE as pipelines have a PIL picture: (B, 3, H, W) in [-1, 1], channels last."""
    return image.movedim(-1, 1) * 2 - 1


def run(node, model, positive, negative, latent, **widgets) -> torch.Tensor:
    settings = dict(seed=7, steps=6, cfg=4.0, sampler_name="ddpm", scheduler="checkpoint")
    result = node.execute(
        model, positive, latent=latent, negative_image_embeds=negative, **settings | widgets
    )
    return result.args[0]["samples"]


def reference(
    name, folder, positive, negative, scheduler=None, seed=7, cfg=4.0, steps=6, **arguments
):
    """Return the latents of a pipeline. The controlnet ones give pixels, decoded from latents."""
    pipeline = oracle.pipeline(name, folder)
    published = pipeline.scheduler
    pipeline.scheduler = scheduler or published
    try:
        return pipeline(
            image_embeds=positive.tensor,
            negative_image_embeds=negative.tensor,
            num_inference_steps=steps,
            guidance_scale=cfg,
            generator=oracle.generators(seed, positive.batch),
            **arguments,
        ).images
    finally:
        pipeline.scheduler = published


def as_pixels(samples: torch.Tensor, folder) -> torch.Tensor:
    movq = oracle.pipeline("KandinskyV22ControlnetPipeline", folder).movq
    return movq.decode(samples, force_not_quantize=True).sample


def decode(model, positive, negative, latent=None, *, batch=1, size=(64, 64), **sampling):
    settings = dict(seed=7, steps=4, cfg=4.0, sampler_name="ddpm", scheduler="checkpoint")
    canvas = {"samples": torch.zeros(batch, 4, size[0] // 8, size[1] // 8)}
    settings |= sampling
    result = nodes.Decoder.execute(model, positive, latent or canvas, negative, **settings)
    return result.args[0]["samples"]


# Node → its decoder, and the widgets that only it has.
STAGES = {
    nodes.Decoder: (TEXT_TO_IMAGE, {}),
    nodes.Img2Img: (TEXT_TO_IMAGE, dict(denoise=0.5)),
    nodes.Inpaint: (INPAINT, dict(mask=box_mask())),
    nodes.ControlNet: (DEPTH, dict(hint=picture(seed=5))),
    nodes.ControlNetImg2Img: (DEPTH, dict(hint=picture(seed=5), denoise=0.5)),
}
each_stage = pytest.mark.parametrize("node", STAGES, ids=lambda node: node.__name__)
