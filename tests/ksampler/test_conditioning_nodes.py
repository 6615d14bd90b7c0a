"""ComfyUI's conditioning nodes average, mask and place our CONDITIONING as their names say."""

import pytest
import torch
from helpers import oracle
from helpers.ksampler import canvas, conditioning, half_mask, ksampler, random
from helpers.tiny_models import DEPTH, INPAINT, TEXT_TO_IMAGE
from kandinsky22.nodes.conditioning import DepthConditioning
from kandinsky22.nodes.interpolate import Interpolate

import nodes as host


def test_conditioning_average_is_interpolate(load_decoder, embeds):
    model, negative = load_decoder(TEXT_TO_IMAGE)[0], conditioning(embeds(1, 3))
    one, two = embeds(1, 1), embeds(1, 2)
    (averaged,) = host.ConditioningAverage().addWeighted(conditioning(one), conditioning(two), 0.25)
    mixed = Interpolate.execute(
        count=dict(count="2", image_embeds_1=one, weight_1=0.25, image_embeds_2=two, weight_2=0.75),
        method="linear",
    ).args[0]
    assert torch.equal(averaged[0][0][:, 0], mixed.tensor)
    assert torch.equal(
        ksampler(model, averaged, negative, canvas()),
        ksampler(model, conditioning(mixed), negative, canvas()),
    )


def test_conditioning_set_mask_gives_each_part_its_own(load_decoder, embeds):
    model, negative = load_decoder(TEXT_TO_IMAGE)[0], conditioning(embeds(1, 3))
    left, right = conditioning(embeds(1, 1)), conditioning(embeds(1, 2))
    parts = [
        host.ConditioningSetMask().append(part, half_mask(i == 0), "default", 1.0)[0]
        for i, part in enumerate((left, right))
    ]
    (both,) = host.ConditioningCombine().combine(*parts)
    samples = ksampler(model, both, negative, canvas(), steps=1)
    for part, columns in ((left, slice(0, 4)), (right, slice(4, 8))):
        expected = ksampler(model, part, negative, canvas(), steps=1)
        assert oracle.max_diff(samples[..., columns], expected[..., columns]) < 1e-5
    alone = ksampler(model, left, negative, canvas(), steps=1)
    assert oracle.max_diff(samples[..., 4:], alone[..., 4:]) > 1


@pytest.mark.parametrize("name", [TEXT_TO_IMAGE, INPAINT, DEPTH])
def test_conditioning_set_area_runs_on_its_part_alone(load_decoder, embeds, name):
    """The area is 72 × 40 pixels in 96 × 64, off the UNet's grid, with the hint of that area."""
    model, negative = load_decoder(name)[0], conditioning(embeds(1, 3))
    positive, hint = conditioning(embeds(1, 1)), random(1, 96, 64, 3)
    if name == DEPTH:
        positive, negative = DepthConditioning.execute(positive, negative, hint).args
    (placed,) = host.ConditioningSetArea().append(positive, 40, 72, 16, 8, 1.0)
    (both,) = host.ConditioningCombine().combine(placed, positive)
    seen = []

    def note(module, args, kwargs):
        seen.append((tuple(args[0].shape[-2:]), kwargs.get("hint")))

    hook = model.model.diffusion_model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        samples = ksampler(model, both, negative, canvas(1, 12, 8), steps=1)
    finally:
        hook.remove()
    assert {size for size, _ in seen} == {(12, 8), (9, 5)}
    if name == DEPTH:
        (cut,) = [hint for size, hint in seen if size == (9, 5)]
        expected = hint.movedim(-1, 1)[..., 8:80, 16:56]
        assert all(torch.equal(item, expected[0]) for item in cut)
    assert samples.isfinite().all()
