"""ComfyUI's samplers run our MODEL. Those that diffusers has, too, give the same result."""

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
from kandinsky22.nodes.loaders import LoadDecoder
from kandinsky22.nodes.optimize import Optimize

import nodes as host

pytestmark = pytest.mark.long


def diffusers_samples(unet, scheduler, noise, positive, negative, steps, hint=None):
    """Sample with guidance at cfg 4 with diffusers' own UNet and scheduler, step by step."""
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
    # The variance-exploding latents of ComfyUI's samplers are diffusers' latents divided by
    # sqrt(alpha). The start is the same noise in each scale.
    starts_scaled = getattr(scheduler, "init_noise_sigma", 1.0) == 1.0
    start = (1 + sigmas[0] ** 2).sqrt() if starts_scaled else scheduler.init_noise_sigma
    ours = comfy.samplers.sample(
        model,
        noise * start / sigmas[0],
        *conditions,
        4.0,
        model.load_device,
        comfy.samplers.sampler_object(sampler),
        sigmas,
        latent_image=torch.zeros_like(noise),
        seed=7,
    )
    unet = oracle.pipeline(pipeline_name, models / name).unet
    theirs = diffusers_samples(unet, scheduler, noise, positive, negative, 10, hint_for_diffusers)
    largest = theirs.abs().max()
    assert 10 < largest < 100
    # Two ways to compute the same in float32 differ by its rounding, which is relative to the size
    # of the numbers. It depends on the processor: 1.14e-4 was seen with numbers up to 50.
    assert oracle.max_diff(ours, theirs) <= 4e-6 * largest


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
    """KSampler (Advanced) adds no noise of its own, and the kept part stays full at the start."""
    model = load_decoder(TEXT_TO_IMAGE)[0]
    noisy = {"samples": 25 * random(1, 4, 8, 8), "noise_mask": half_mask(True)[:, ::8, ::8]}
    seen = []
    hook = model.model.diffusion_model.register_forward_pre_hook(
        lambda module, args: seen.append(args[0])
    )
    try:
        host.KSamplerAdvanced().sample(
            model, "disable", 7, 2, 4.0, "euler", "normal", *pair, noisy, 0, 2, "disable"
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
    """Cards without bf16 arithmetic have bf16 weights and compute in fp16."""
    import comfy.model_management

    monkeypatch.setattr(comfy.model_management, "unet_manual_cast", lambda *args, **kwargs: compute)
    model = Optimize.execute(LoadDecoder.execute(name, "bf16").args[0], attention, False).args[0]
    if name == DEPTH:
        pair = DepthConditioning.execute(*pair, random(1, 64, 64, 3)).args
    samples = ksampler(model, *pair, canvas())
    expected = ksampler(load_decoder(name)[0], *pair, canvas())
    assert (samples - expected).norm() < 0.1 * expected.norm()
