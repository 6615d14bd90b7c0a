"""The decoder as the host's MODEL: samplers, conditioning nodes, merges, caches, compilation."""

import comfy.model_patcher
import comfy.samplers
import comfy_extras.nodes_custom_sampler as custom
import diffusers
import pytest
import torch
from helpers import oracle, tiny_models
from helpers.ksampler import SETTINGS, canvas, conditioning, half_mask, ksampler, random, sigmas_of
from helpers.module_calls import watched
from helpers.tiny_models import DEPTH, INPAINT, TEXT_TO_IMAGE
from kandinsky22.nodes.conditioning import DepthConditioning
from kandinsky22.nodes.decoder import Decoder
from kandinsky22.nodes.embeds import Interpolate
from kandinsky22.nodes.loaders import LoadDecoder
from kandinsky22.nodes.optimize import Optimize
from kandinsky22.utils.comfyui.load_model import load_model

import nodes as host

# --- against diffusers ------------------------------------------------------------------------


def diffusers_samples(unet, scheduler, noise, positive, negative, steps, hint=None):
    """Guided sampling at cfg 4 with diffusers' own UNet and scheduler, step by step."""
    scheduler.set_timesteps(steps)
    latents = noise * scheduler.init_noise_sigma
    added = {"image_embeds": torch.cat([negative.tensor, positive.tensor])}
    if hint is not None:
        added["hint"] = torch.cat([hint, hint])
    for t in scheduler.timesteps:
        x = scheduler.scale_model_input(torch.cat([latents, latents]), t)
        without, with_prompt = unet(x, t, None, added_cond_kwargs=added).sample[:, :4].chunk(2)
        epsilon = without + 4.0 * (with_prompt - without)
        latents = scheduler.step(epsilon, t, latents).prev_sample
    return latents


@pytest.mark.parametrize("name", [TEXT_TO_IMAGE, DEPTH])
@pytest.mark.parametrize(
    "sampler, scheduler_class",
    [
        ("euler", diffusers.EulerDiscreteScheduler),
        ("dpmpp_2m", diffusers.DPMSolverMultistepScheduler),
        ("ddim", diffusers.DDIMScheduler),
    ],
)
def test_samplers_equal_diffusers(models, load_decoder, embeds, name, sampler, scheduler_class):
    config = tiny_models.DECODER_SCHEDULER | {"clip_sample": False}
    config.pop("variance_type")
    scheduler = scheduler_class.from_config(config | {"timestep_spacing": "leading"})
    sigmas = sigmas_of(scheduler, 10)
    positive, negative = embeds(1, 1), embeds(1, 2)
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(7))
    hint = random(1, 64, 64, 3)
    conditions = conditioning(positive), conditioning(negative)
    pipeline_name = "KandinskyV22Pipeline"
    hint_for_diffusers = None
    if name == DEPTH:
        pipeline_name = "KandinskyV22ControlnetPipeline"
        hint_for_diffusers = hint.movedim(-1, 1).contiguous()
        conditions = DepthConditioning.execute(*conditions, hint).args
    model = load_decoder(name)[0]
    # The variance-exploding latents of the host's samplers are diffusers' over sqrt(alpha); the
    # start is the same noise in the scale of each.
    starts_scaled = getattr(scheduler, "init_noise_sigma", 1.0) == 1.0
    start = (1 + sigmas[0] ** 2).sqrt() if starts_scaled else scheduler.init_noise_sigma
    ours = comfy.samplers.sample(
        *(model, noise * start / sigmas[0], *conditions, 4.0, model.load_device),
        comfy.samplers.sampler_object(sampler),
        sigmas,
        latent_image=torch.zeros_like(noise),
        seed=7,
    )
    unet = oracle.pipeline(pipeline_name, models / name).unet
    theirs = diffusers_samples(unet, scheduler, noise, positive, negative, 10, hint_for_diffusers)
    assert 10 < theirs.abs().max() < 100
    assert oracle.max_diff(ours, theirs) <= 1e-4


# --- the host's samplers ----------------------------------------------------------------------


@pytest.mark.parametrize("sampler", comfy.samplers.SAMPLER_NAMES)
def test_every_sampler_of_the_host(load_decoder, pair, sampler):
    samples = ksampler(load_decoder(TEXT_TO_IMAGE)[0], *pair, canvas(), sampler_name=sampler)
    assert samples.shape == (1, 4, 8, 8) and samples.isfinite().all() and samples.std() > 0.1


@pytest.mark.parametrize("scheduler", comfy.samplers.SCHEDULER_NAMES)
def test_every_scheduler_of_the_host(load_decoder, pair, scheduler):
    samples = ksampler(load_decoder(TEXT_TO_IMAGE)[0], *pair, canvas(), scheduler=scheduler)
    assert samples.isfinite().all() and samples.std() > 0.1


def test_cfg_1_skips_the_negative(load_decoder, pair):
    model = load_decoder(TEXT_TO_IMAGE)[0]
    with watched(model.model.diffusion_model) as calls:
        ksampler(model, *pair, canvas(), cfg=1.0)
        ksampler(model, *pair, canvas(), cfg=4.0)
    assert calls == [1] * 4 + [2] * 4


def test_ksampler_advanced_in_two_parts_is_the_whole(load_decoder, pair):
    model = load_decoder(TEXT_TO_IMAGE)[0]
    settings = dict(noise_seed=7, positive=pair[0], negative=pair[1], **SETTINGS)

    def part(latent, start, end, noise, leftover):
        return host.KSamplerAdvanced().sample(
            model,
            add_noise=noise,
            latent_image=latent,
            start_at_step=start,
            end_at_step=end,
            return_with_leftover_noise=leftover,
            **settings,
        )[0]

    first = part(canvas(), 0, 2, "enable", "enable")
    second = part(first, 2, 4, "disable", "disable")
    assert oracle.max_diff(second["samples"], ksampler(model, *pair, canvas())) < 1e-5


def test_sampler_custom_advanced_equals_ksampler(load_decoder, pair):
    model = load_decoder(TEXT_TO_IMAGE)[0]
    result = custom.SamplerCustomAdvanced.execute(
        custom.RandomNoise.execute(7).args[0],
        custom.CFGGuider.execute(model, *pair, 4.0).args[0],
        comfy.samplers.sampler_object("euler"),
        custom.BasicScheduler.execute(model, "normal", 4, 1.0).args[0],
        canvas(),
    ).args[0]
    assert torch.equal(result["samples"], ksampler(model, *pair, canvas()))


@pytest.mark.parametrize("size", [(9, 9), (7, 12), (1, 3)])
@pytest.mark.parametrize("name", [TEXT_TO_IMAGE, INPAINT, DEPTH])
def test_sizes_off_the_grid(load_decoder, pair, name, size):
    if name == DEPTH:
        pair = DepthConditioning.execute(*pair, random(1, 50, 70, 3)).args
    samples = ksampler(load_decoder(name)[0], *pair, canvas(1, *size))
    assert samples.shape[-2:] == size and samples.isfinite().all()


def test_a_batch_of_embeddings_pairs_up_with_latents(load_decoder, embeds):
    model = load_decoder(TEXT_TO_IMAGE)[0]
    both, negative = embeds(2, 1), conditioning(embeds(1, 2))
    noisy = {"samples": torch.zeros(2, 4, 8, 8), "batch_index": [0, 0]}
    together = ksampler(model, conditioning(both), negative, noisy)
    for i in range(2):
        alone = conditioning(type(both)(both.tensor[i : i + 1]))
        expected = ksampler(model, alone, negative, canvas())
        torch.testing.assert_close(together[i : i + 1], expected, rtol=1e-4, atol=1e-3)


def test_noise_that_the_latent_brings_is_left_in_it(load_decoder, pair):
    """KSampler (Advanced) without noise of its own: the kept part is not emptied at the start."""
    model = load_decoder(TEXT_TO_IMAGE)[0]
    noisy = {"samples": 25 * random(1, 4, 8, 8), "noise_mask": half_mask(True)[:, ::8, ::8]}
    seen = []
    hook = model.model.diffusion_model.register_forward_pre_hook(
        lambda module, args: seen.append(args[0])
    )
    try:
        host.KSamplerAdvanced().sample(
            *(model, "disable", 7, 2, 4.0, "euler", "normal", *pair, noisy, 0, 2, "disable")
        )
    finally:
        hook.remove()
    assert seen[0][..., 4:].std() > 0.1


@pytest.mark.parametrize("name", [TEXT_TO_IMAGE, DEPTH])
@pytest.mark.parametrize("attention", ["sdpa", "host", "plain"])
@pytest.mark.parametrize("compute", [torch.float16, torch.float32])
def test_weights_of_one_half_type_compute_in_another(
    monkeypatch, load_decoder, pair, name, attention, compute
):
    """As on cards that have no bf16: bf16 weights, fp16 arithmetic."""
    import comfy.model_management

    monkeypatch.setattr(comfy.model_management, "unet_manual_cast", lambda *args, **kwargs: compute)
    model = Optimize.execute(LoadDecoder.execute(name, "bf16").args[0], attention, False).args[0]
    if name == DEPTH:
        pair = DepthConditioning.execute(*pair, random(1, 64, 64, 3)).args
    samples = ksampler(model, *pair, canvas())
    expected = ksampler(load_decoder(name)[0], *pair, canvas())
    assert (samples - expected).norm() < 0.1 * expected.norm()


# --- the host's conditioning nodes ------------------------------------------------------------


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
    """An area of 72 × 40 pixels in 96 × 64, off the UNet's grid, with the hint of that area."""
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


# --- what other nodes put on a MODEL ----------------------------------------------------------


def test_merges_serve_samplers_and_stages(load_decoder, embeds, pair):
    """ModelMergeSimple of two MODELs, against the same weights merged by hand."""
    from comfy_extras.nodes_model_merging import ModelMergeSimple

    one = load_decoder(TEXT_TO_IMAGE)[0]
    two, by_hand = one.clone(), one.clone()
    weights = {f"diffusion_model.{k}": v for k, v in one.model.diffusion_model.state_dict().items()}
    two.add_patches({key: ("set", (1.2 * value,)) for key, value in weights.items()}, 1.0)
    (merged,) = ModelMergeSimple().merge(one, two, 0.25)
    by_hand.add_patches(
        {key: ("set", (0.25 * v + 0.75 * (1.2 * v),)) for key, v in weights.items()}, 1.0
    )
    widgets = dict(seed=7, steps=4, cfg=4.0, sampler_name="ddpm", scheduler="checkpoint")

    def both(model):
        stage = Decoder.execute(model, embeds(1, 1), canvas(), embeds(1, 2), **widgets)
        return ksampler(model, *pair, canvas()), stage.args[0]["samples"]

    before = both(one)
    for a, b, c in zip(before, both(merged), both(by_hand), strict=True):
        assert oracle.max_diff(a, b) > 0.1
        torch.testing.assert_close(b, c, rtol=1e-4, atol=1e-3)
    assert all(torch.equal(a, b) for a, b in zip(before, both(one), strict=True))


def unet_calls(model, pair, steps=12) -> int:
    with watched(model.model.diffusion_model.conv_in) as calls:
        samples = ksampler(model, *pair, canvas(), steps=steps)
    assert samples.isfinite().all()
    return len(calls)


def test_easy_cache_saves_unet_calls(load_decoder, pair):
    from comfy_extras.nodes_easycache import EasyCacheNode

    model = load_decoder(TEXT_TO_IMAGE)[0]
    counts = [unet_calls(model, pair)]
    for threshold in (0.1, 0.5, 3.0):
        cached = EasyCacheNode.execute(model, threshold, 0.0, 1.0, False).args[0]
        counts.append(unet_calls(cached, pair))
    assert counts[0] == 12 and counts == sorted(counts, reverse=True) and counts[3] < counts[1]


def test_torch_compile_serves_samplers_and_stages(load_decoder, embeds, pair):
    """The graph that torch.compile makes runs at every step; what it computes is the same."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    plain = load_decoder(TEXT_TO_IMAGE)[0]
    graphs, runs = [], []

    def backend(graph, inputs):
        graphs.append(graph)

        def run(*arguments):
            runs.append(graph)
            return graph.forward(*arguments)

        return run

    compiled = plain.clone(disable_dynamic=True)
    set_torch_compile_wrapper(model=compiled, backend=backend)
    widgets = dict(seed=7, steps=4, cfg=4.0, sampler_name="ddpm", scheduler="checkpoint")

    def stage(model):
        result = Decoder.execute(model, embeds(1, 1), canvas(), embeds(1, 2), **widgets)
        return result.args[0]["samples"]

    for sample in (stage, lambda model: ksampler(model, *pair, canvas())):
        expected = sample(plain)
        runs.clear()
        torch.testing.assert_close(sample(compiled), expected, rtol=1e-4, atol=1e-3)
        assert graphs and len(runs) >= 4 and len(runs) % 4 == 0


def test_without_dynamic_memory_it_is_the_plain_model_patcher(models):
    """What TorchCompileModel and others ask the host for."""
    model = load_model(models / TEXT_TO_IMAGE, disable_dynamic=True)
    assert type(model) is comfy.model_patcher.ModelPatcher
