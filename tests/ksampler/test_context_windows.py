"""ComfyUI's context windows: a picture with a depth map, denoised in parts."""

import comfy.samplers
import pytest
import torch
from comfy_extras import nodes_context_windows
from helpers import oracle
from helpers.decoding_stages import picture, run
from helpers.ksampler import canvas, conditioning, ksampler, sigmas_of
from helpers.tiny_models import DEPTH, TEXT_TO_IMAGE
from kandinsky22 import nodes
from kandinsky22.nodes.conditioning import DepthConditioning
from kandinsky22.utils.kandinsky.noise import draw_noise, item_generators
from kandinsky22.utils.kandinsky.schedulers import build_scheduler

STEPS = 4


def windows(model, dim=3, length=8, overlap=0, schedule="batched", causal=False):
    return nodes_context_windows.ContextWindowsManualNode.execute(
        model, length, overlap, schedule, 1, False, "flat", dim, False, causal_window_fix=causal
    ).args[0]


@pytest.mark.parametrize("dim", [2, 3])
def test_each_window_is_a_picture_along_its_own_part_of_the_hint(load_decoder, embeds, dim):
    """The windows do not overlap, and are compared with one run for each of them."""
    model = load_decoder(DEPTH)[0]
    sides = [8, 8]
    sides[dim - 2] = 16
    hint = picture(1, *(8 * side for side in sides), seed=3)
    noise = draw_noise((1, 4, *sides), item_generators(7, [0]))
    pair = conditioning(embeds(1, 1)), conditioning(embeds(1, 2))
    scheduler = build_scheduler(model.model.scheduler_config, "euler", "leading")
    sigmas = sigmas_of(scheduler, STEPS)

    def sample(model, noise, hint):
        return comfy.samplers.sample(
            model,
            noise * scheduler.init_noise_sigma / sigmas[0],
            *DepthConditioning.execute(*pair, hint).args,
            4.0,
            model.load_device,
            comfy.samplers.sampler_object("euler"),
            sigmas,
            latent_image=torch.zeros_like(noise),
            seed=7,
        )

    parts = zip(noise.chunk(2, dim), hint.chunk(2, dim - 1), strict=True)
    expected = torch.cat([sample(model, *part) for part in parts], dim)
    ours = sample(windows(model, dim), noise, hint)
    assert oracle.max_diff(ours, expected) <= 1e-4 * expected.abs().max()
    stage = run(
        nodes.ControlNet,
        windows(model, dim),
        embeds(1, 1),
        embeds(1, 2),
        canvas(1, *sides),
        hint=hint,
        steps=STEPS,
        sampler_name="euler",
        scheduler="leading",
    )
    assert oracle.max_diff(stage, expected) <= 1e-4 * expected.abs().max()
    assert oracle.max_diff(ours, sample(model, noise, hint)) > 0.1


@pytest.mark.parametrize("schedule", ["standard_static", "standard_uniform", "looped_uniform"])
def test_windows_that_overlap(load_decoder, pair, schedule):
    hinted = DepthConditioning.execute(*pair, picture(1, 64, 192)).args
    model = windows(load_decoder(DEPTH)[0], 3, 10, 4, schedule, causal=True)
    samples = ksampler(model, *hinted, canvas(1, 8, 24))
    assert samples.shape[-2:] == (8, 24) and samples.isfinite().all()


def test_embeddings_as_wide_as_the_canvas_are_not_cut(load_decoder, pair):
    """The embeddings have 24 numbers, and the side of the windows has 24 latents."""
    model = load_decoder(TEXT_TO_IMAGE)[0]
    samples = ksampler(windows(model, 2), *pair, canvas(1, 24, 8))
    assert samples.shape[-2:] == (24, 8) and samples.isfinite().all()


@pytest.mark.parametrize("dim", [1, 5])
def test_what_a_picture_does_not_have_is_named(load_decoder, pair, dim):
    with pytest.raises(ValueError, match=f"^Set dim of Context Windows to 3 .*It is {dim}"):
        ksampler(windows(load_decoder(TEXT_TO_IMAGE)[0], dim), *pair, canvas())
