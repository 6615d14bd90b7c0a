"""The ControlNet stages equal the pipelines of diffusers, and resize their hint."""

import pytest
import torch
from helpers import oracle
from helpers.decoding_stages import (
    CONDITIONS,
    as_pixels,
    picture,
    reference,
    run,
    tensor_of,
)
from helpers.tiny_models import DEPTH
from kandinsky22 import nodes


@pytest.mark.parametrize("cfg, batch", CONDITIONS)
def test_controlnet_equals_the_pipeline(models, load_decoder, embeds, cfg, batch):
    model, _ = load_decoder(DEPTH)
    hint = picture(batch, seed=5)
    positive, negative = embeds(batch, 1), embeds(batch, 2)
    latent = {"samples": torch.zeros(batch, 4, 8, 8)}
    ours = run(nodes.ControlNet, model, positive, negative, latent, cfg=cfg, hint=hint)
    theirs = reference(
        "KandinskyV22ControlnetPipeline",
        models / DEPTH,
        positive,
        negative,
        cfg=cfg,
        hint=hint.movedim(-1, 1).contiguous(),
        height=64,
        width=64,
        output_type="pt",
    )
    assert oracle.max_diff(as_pixels(ours, models / DEPTH), theirs) == 0.0


@pytest.mark.parametrize("cfg, batch", CONDITIONS)
@pytest.mark.parametrize("denoise", [0.34, 0.5])
def test_controlnet_img2img_equals_the_pipeline(models, load_decoder, embeds, cfg, batch, denoise):
    model, vae = load_decoder(DEPTH)
    image, hint = picture(batch), picture(batch, seed=5)
    positive, negative = embeds(batch, 1), embeds(batch, 2)
    latent = {"samples": vae.encode(image)}
    ours = run(
        nodes.ControlNetImg2Img,
        model,
        positive,
        negative,
        latent,
        cfg=cfg,
        hint=hint,
        denoise=denoise,
    )
    theirs = reference(
        "KandinskyV22ControlnetImg2ImgPipeline",
        models / DEPTH,
        positive,
        negative,
        cfg=cfg,
        image=tensor_of(image),
        hint=hint.movedim(-1, 1).contiguous(),
        strength=denoise,
        height=64,
        width=64,
        output_type="pt",
    )
    pixels = (as_pixels(ours, models / DEPTH) * 0.5 + 0.5).clamp(0, 1)
    assert oracle.max_diff(pixels, theirs) == 0.0


def test_hint_of_another_size_is_resized(load_decoder, embeds):
    model, _ = load_decoder(DEPTH)
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    small = torch.zeros(1, 64, 64, 3)
    small[:, :32] = 1  # white above black, so that a flipped or cut hint would differ
    large = small.repeat_interleave(4, 1).repeat_interleave(2, 2)
    arguments = (nodes.ControlNet, model, embeds(1, 1), embeds(1, 2), latent)
    same, turned = run(*arguments, hint=small), run(*arguments, hint=small.movedim(1, 2))
    assert oracle.max_diff(run(*arguments, hint=large), same) < 0.05
    assert oracle.max_diff(turned, same) > 0.1
