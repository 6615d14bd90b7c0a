"""Prior and Encode Image equal the pipelines of diffusers."""

import logging

import numpy as np
import pytest
import torch
from helpers import oracle
from kandinsky22.nodes.embeds import EncodeImage, ZeroEmbeds
from kandinsky22.nodes.prior import SamplePrior
from PIL import Image


def sample(prior, prompt="a red cat", negative="", seed=7, steps=5, cfg=4.0, batch=1):
    return SamplePrior.execute(prior, prompt, negative, seed, steps, cfg, batch).args


def reference(models, prompt="a red cat", negative="", seed=7, steps=5, cfg=4.0):
    pipeline = oracle.pipeline("KandinskyV22PriorPipeline", models / "kandinsky-2-2-tiny-prior")
    return pipeline(
        prompt,
        negative_prompt=negative or None,
        num_inference_steps=steps,
        guidance_scale=cfg,
        generator=torch.Generator().manual_seed(seed),
    ).to_tuple()


@pytest.mark.parametrize("negative", ["", "blurry, a dog"])
@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_equals_the_pipeline(models, prior, negative, cfg):
    ours = sample(prior, negative=negative, cfg=cfg)
    theirs = reference(models, negative=negative, cfg=cfg)
    for mine, wanted in zip(ours, theirs, strict=True):
        assert oracle.max_diff(mine.tensor, wanted) == 0.0


@pytest.mark.parametrize("negative", ["", "blurry"])
def test_batch_item_is_its_own_run(models, prior, negative):
    ours, negatives = sample(prior, negative=negative, seed=40, batch=3)
    for i in range(3):
        theirs, their_negative = reference(models, negative=negative, seed=40 + i)
        assert oracle.max_diff(ours.tensor[i : i + 1], theirs) < 1e-4
        if negative:
            assert oracle.max_diff(negatives.tensor[i : i + 1], their_negative) < 1e-4


def test_seed_and_prompt_matter(prior):
    one = sample(prior)[0].tensor
    assert not torch.equal(one, sample(prior, seed=8)[0].tensor)
    assert not torch.equal(one, sample(prior, prompt="a blue dog")[0].tensor)
    assert torch.equal(one, sample(prior)[0].tensor)


def test_largest_seed_wraps_around(prior):
    last = sample(prior, seed=2**64 - 1, batch=2)[0].tensor
    first = sample(prior, seed=0)[0].tensor
    assert oracle.max_diff(last[1:], first) < 1e-4


def test_empty_prompt_works(models, prior):
    assert oracle.max_diff(sample(prior, prompt="")[0].tensor, reference(models, prompt="")[0]) == 0


def test_long_prompt_warns_with_the_lost_text(models, prior, caplog):
    prompt = "x" * 80 + " and a zebra"
    with caplog.at_level(logging.WARNING, "kandinsky22"):
        ours = sample(prior, prompt=prompt)[0].tensor
    assert "zebra" in caplog.text.replace(" ", "")
    assert oracle.max_diff(ours, reference(models, prompt=prompt)[0]) == 0.0


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(steps=1), "at least 2 steps and at most 1000, not 1"),
        (dict(steps=1001), "at least 2 steps and at most 1000, not 1001"),
        (dict(steps="x"), "steps is 'x', not a finite number"),
        (dict(seed=1.5), "seed is 1.5, and has to be a whole number"),
        (dict(cfg=float("inf")), "cfg is inf, not a finite number"),
        (dict(cfg=None), "cfg is None, not a finite number"),
        (dict(batch_size=0), "batch_size is 0; it goes from 1 to 4096"),
        (dict(batch_size=2**64), "batch_size is 18446744073709551616"),
        (dict(prompt=5), "prompt is 5, not a text"),
        (dict(negative_prompt=None), "negative_prompt is None, not a text"),
        (dict(prompt="a \ud83d cat"), "prompt has half a character .* at place 3"),
        (dict(prior="x"), "'x' came where a KANDINSKY22_PRIOR belongs. Connect Load Prior"),
    ],
)
def test_bad_input(prior, change, message):
    """ComfyUI accepts these, over wires and in place of wires."""
    inputs = dict(prior=prior, prompt="a cat", negative_prompt="", seed=0, steps=2, cfg=4.0)
    with pytest.raises(ValueError, match=message):
        SamplePrior.execute(**inputs | dict(batch_size=1) | change)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(64, 64), (50, 90)])
def test_encode_image_equals_the_pipelines(models, prior, channels, size):
    pixels = np.random.default_rng(0).integers(0, 256, (2, *size, channels), dtype=np.uint8)
    image = torch.from_numpy(pixels.astype(np.float32) / 255)
    before = image.clone()
    ours = EncodeImage.execute(prior, image).args[0].tensor

    rgb = np.repeat(pixels, 3, -1) if channels == 1 else pixels[..., :3]
    pipeline = oracle.pipeline(
        "KandinskyV22PriorEmb2EmbPipeline", models / "kandinsky-2-2-tiny-prior"
    )
    theirs = pipeline._encode_image([Image.fromarray(picture) for picture in rgb], "cpu", 1)
    assert oracle.max_diff(ours, theirs) == 0.0
    assert torch.equal(image, before)


def test_zero_embeds_equal_the_pipelines_and_are_computed_once(models, prior):
    ours = ZeroEmbeds.execute(prior).args[0]
    assert ZeroEmbeds.execute(prior).args[0] is ours
    assert sample(prior)[1] is ours
    assert oracle.max_diff(ours.tensor, reference(models)[1]) == 0.0
