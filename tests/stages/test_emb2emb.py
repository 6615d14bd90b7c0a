"""Prior Emb2Emb equals the pipeline of diffusers."""

import pytest
import torch
from helpers import oracle
from kandinsky22.nodes.prior import PriorEmb2Emb
from kandinsky22.utils.kandinsky.image_embeds import ImageEmbeds


def edit(prior, start, negative="", strength=0.85, seed=7, steps=8, cfg=4.0):
    widgets = ("a red cat", negative, strength, seed, steps, cfg)
    return PriorEmb2Emb.execute(prior, start, *widgets).args


def reference(models, start, negative="", strength=0.85, seed=7, steps=8, cfg=4.0):
    name = "KandinskyV22PriorEmb2EmbPipeline"
    return oracle.pipeline(name, models / "kandinsky-2-2-tiny-prior")(
        "a red cat",
        image=start.tensor,
        strength=strength,
        negative_prompt=negative or None,
        num_inference_steps=steps,
        guidance_scale=cfg,
        generator=torch.Generator().manual_seed(seed),
    ).to_tuple()


@pytest.mark.parametrize("negative", ["", "blurry, a dog"])
@pytest.mark.parametrize("cfg", [1.0, 4.0])
@pytest.mark.parametrize("strength", [0.3, 0.85, 1.0])
def test_equals_the_pipeline(models, prior, embeds, negative, cfg, strength):
    ours = edit(prior, embeds(), negative, strength, cfg=cfg)
    theirs = reference(models, embeds(), negative, strength, cfg=cfg)
    for mine, wanted in zip(ours, theirs, strict=True):
        assert oracle.max_diff(mine.tensor, wanted) == 0.0


def test_batch_item_alone(models, prior, embeds):
    start = embeds(3)
    together = edit(prior, start, seed=40)[0].tensor
    for i in range(3):
        alone = reference(models, ImageEmbeds(start.tensor[i : i + 1]), seed=40 + i)[0]
        assert oracle.max_diff(together[i : i + 1], alone) < 1e-4


def test_input_is_left_as_it_was(prior, embeds):
    start = embeds()
    before = start.tensor.clone()
    edit(prior, start)
    assert torch.equal(start.tensor, before)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(strength=0.1), "8 steps .* of 0.1 leave no step"),
        (dict(strength=0.0), "above 0 and at most 1, not 0"),
        (dict(strength=1.5), "above 0 and at most 1, not 1.5"),
        (dict(strength=None), "strength .denoise. is None, not a finite number"),
        (dict(strength="x"), "strength .denoise. is 'x', not a finite number"),
        (dict(width=16), "16 wide, and this prior takes 24"),
    ],
)
def test_bad_input(prior, embeds, change, message):
    change = dict(change)
    start = embeds(width=change.pop("width", 24))
    with pytest.raises(ValueError, match=message):
        edit(prior, start, **change)


def test_only_embeddings_are_changed(prior):
    with pytest.raises(ValueError, match="'x' came where a KANDINSKY22_EMBEDS belongs"):
        PriorEmb2Emb.execute(prior, "x", "a cat", "", 0.5, 0, 8, 4.0)
