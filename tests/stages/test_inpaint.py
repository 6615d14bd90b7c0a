"""Inpaint equals the pipeline of diffusers, and repaints what its mask says."""

import logging

import pytest
import torch
from helpers import oracle
from helpers.decoding_stages import (
    box_mask,
    picture,
    reference,
    run,
    tensor_of,
)
from helpers.tiny_models import INPAINT
from kandinsky22 import nodes


@pytest.mark.parametrize("cfg", [1.0, 4.0])
@pytest.mark.parametrize("size", [(64, 64), (128, 64)])
def test_inpaint_equals_the_pipeline(models, load_decoder, embeds, cfg, size):
    model, vae = load_decoder(INPAINT)
    image, mask = picture(1, *size), box_mask(1, *size)
    latent = {"samples": vae.encode(image)}
    ours = run(nodes.Inpaint, model, embeds(1, 1), embeds(1, 2), latent, cfg=cfg, mask=mask)
    theirs = reference(
        "KandinskyV22InpaintPipeline",
        models / INPAINT,
        embeds(1, 1),
        embeds(1, 2),
        cfg=cfg,
        image=tensor_of(image),
        mask_image=mask.clone(),
        height=size[0],
        width=size[1],
        output_type="latent",
    )
    assert oracle.max_diff(ours, theirs) == 0.0


def inpaint(load_decoder, embeds, mask, samples=None, **latent):
    model, _ = load_decoder(INPAINT)
    samples = (
        torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3))
        if samples is None
        else samples
    )
    result = run(
        nodes.Inpaint,
        model,
        embeds(1, 1),
        embeds(1, 2),
        {"samples": samples} | latent,
        mask=mask,
    )
    return samples, result


def test_one_is_repainted_and_zero_stays(load_decoder, embeds):
    mask = torch.zeros(1, 64, 64)
    mask[:, :, 40:] = 1
    before, after = inpaint(load_decoder, embeds, mask)
    # 4, because the border of a repainted latent is repainted, too.
    assert torch.equal(before[..., :4], after[..., :4])
    assert (before[..., 5:] - after[..., 5:]).abs().min() > 0


def test_empty_mask_changes_nothing_and_full_mask_everything(load_decoder, embeds):
    before, after = inpaint(load_decoder, embeds, torch.zeros(1, 64, 64))
    assert torch.equal(before, after)
    before, after = inpaint(load_decoder, embeds, torch.ones(1, 64, 64))
    assert (before - after).abs().min() > 0


def test_mask_of_another_size_is_resized(load_decoder, embeds):
    _, same = inpaint(load_decoder, embeds, box_mask())
    large = torch.nn.functional.interpolate(box_mask()[None], (256, 256), mode="nearest")[0]
    _, resized = inpaint(load_decoder, embeds, large)
    assert torch.equal(same, resized)
    _, without_batch = inpaint(load_decoder, embeds, box_mask()[0])
    assert torch.equal(same, without_batch)


def test_thin_mask_warns(load_decoder, embeds, caplog):
    mask = torch.zeros(1, 64, 64)
    mask[:, 3, :] = 1  # between the rows that the nearest resize reads
    with caplog.at_level(logging.WARNING, "kandinsky22"):
        before, after = inpaint(load_decoder, embeds, mask)
    assert "so thin that nothing of it is left at 8×8" in caplog.text
    assert torch.equal(before, after)


def test_prepared_mask_equals_the_pipelines(load_decoder):
    from diffusers.pipelines.kandinsky2_2.pipeline_kandinsky2_2_inpainting import prepare_mask
    from kandinsky22.utils.kandinsky.masks import keep_from_mask

    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        mask = (torch.rand(2, 13, 17, generator=generator) > 0.9).float()
        assert torch.equal(keep_from_mask(mask, 13, 17), prepare_mask(1 - mask[:, None]))
