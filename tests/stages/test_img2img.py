"""Img2Img equals the pipeline of diffusers, and refuses a denoise that leaves no step."""

import pytest
import torch
from helpers import oracle
from helpers.decoding_stages import (
    CONDITIONS,
    picture,
    reference,
    run,
    tensor_of,
)
from helpers.tiny_models import TEXT_TO_IMAGE
from kandinsky22 import nodes


@pytest.mark.parametrize("cfg, batch", CONDITIONS)
@pytest.mark.parametrize("denoise", [0.3, 0.5, 1.0])
def test_img2img_equals_the_pipeline(models, load_decoder, embeds, cfg, batch, denoise):
    model, vae = load_decoder(TEXT_TO_IMAGE)
    image = picture(batch)
    positive, negative = embeds(batch, 1), embeds(batch, 2)
    latent = {"samples": vae.encode(image)}
    ours = run(nodes.Img2Img, model, positive, negative, latent, cfg=cfg, denoise=denoise)
    theirs = reference(
        "KandinskyV22Img2ImgPipeline",
        models / TEXT_TO_IMAGE,
        positive,
        negative,
        cfg=cfg,
        image=tensor_of(image),
        strength=denoise,
        height=64,
        width=64,
        output_type="latent",
    )
    assert oracle.max_diff(ours, theirs) == 0.0


def test_no_denoise_is_not_text_to_image(load_decoder, embeds):
    model, _ = load_decoder(TEXT_TO_IMAGE)
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    with pytest.raises(ValueError, match="denoise. is None, not a finite number"):
        run(nodes.Img2Img, model, embeds(1, 1), embeds(1, 2), latent, denoise=None)


@pytest.mark.parametrize("denoise", [0.1, 0.16])
def test_too_little_denoise_is_refused(load_decoder, embeds, denoise):
    model, _ = load_decoder(TEXT_TO_IMAGE)
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    with pytest.raises(ValueError, match=f"6 steps .* of {denoise:g} leave no step"):
        run(nodes.Img2Img, model, embeds(1, 1), embeds(1, 2), latent, denoise=denoise)
