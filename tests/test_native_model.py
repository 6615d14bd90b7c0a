"""The decoder as the host's MODEL: samplers, conditioning nodes, merges, caches, compilation."""

import shutil

import comfy.model_patcher
import comfy.ops
import comfy.samplers
import comfy_extras.nodes_custom_sampler as custom
import diffusers
import oracle
import pytest
import tiny_models
import torch
from calls import watched
from comfy_extras.nodes_ip2p import InstructPixToPixConditioning
from kandinsky22.nodes.conditioning import Conditioning, DepthConditioning, InpaintConditioning
from kandinsky22.nodes.decoder import Decoder, Inpaint
from kandinsky22.nodes.embeds import Interpolate
from kandinsky22.nodes.loaders import LoadDecoder, LoadUNet
from kandinsky22.nodes.optimize import Optimize
from kandinsky22.utils.native_loading import load_model
from kandinsky22.utils.native_prior import NativePrior
from kandinsky22.utils.tensors import keep_from_mask

import nodes as host

TEXT_TO_IMAGE = "kandinsky-2-2-tiny-decoder"
INPAINT = "kandinsky-2-2-tiny-decoder-inpaint"
DEPTH = "kandinsky-2-2-tiny-controlnet-depth"
SETTINGS = dict(steps=4, cfg=4.0, sampler_name="euler", scheduler="normal")


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def canvas(batch: int = 1, height: int = 8, width: int = 8) -> dict:
    return {"samples": torch.zeros(batch, 4, height, width)}


def conditioning(embeds):
    return Conditioning.execute(embeds).args[0]


def ksampler(model, positive, negative, latent, seed=7, denoise=1.0, **settings) -> torch.Tensor:
    result = host.KSampler().sample(
        model,
        seed=seed,
        positive=positive,
        negative=negative,
        latent_image=latent,
        denoise=denoise,
        **SETTINGS | settings,
    )
    return result[0]["samples"]


@pytest.fixture
def pair(embeds):
    """(positive, negative) CONDITIONING of one random embedding each."""
    return conditioning(embeds(1, 1)), conditioning(embeds(1, 2))


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


def sigmas_of(scheduler, steps: int) -> torch.Tensor:
    """The noise levels that a diffusers scheduler goes through, down to 0."""
    scheduler.set_timesteps(steps)
    if hasattr(scheduler, "sigmas"):
        return scheduler.sigmas.float()
    alphas = scheduler.alphas_cumprod[scheduler.timesteps]
    return torch.cat([((1 - alphas) / alphas).sqrt(), torch.zeros(1)])


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


# --- the host's conditioning nodes ------------------------------------------------------------


@pytest.mark.parametrize("wrong", [None, "x", 5, [1], [["x"]]])
def test_what_is_no_conditioning_is_named(embeds, wrong):
    good = conditioning(embeds(1, 1))
    for pair in ((wrong, good), (good, wrong)):
        with pytest.raises(ValueError, match="came where a CONDITIONING belongs. Connect Condit"):
            DepthConditioning.execute(*pair, random(1, 64, 64, 3))
        with pytest.raises(ValueError, match="came where a CONDITIONING belongs. Connect Condit"):
            InpaintConditioning.execute(*pair, canvas(), half_mask(True))
    with pytest.raises(ValueError, match="An IMAGE is .* not empty: 'x'"):
        DepthConditioning.execute(good, good, "x")
    with pytest.raises(ValueError, match="5 came where a KANDINSKY22_EMBEDS belongs"):
        Conditioning.execute(5)


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


def half_mask(left: bool) -> torch.Tensor:
    mask = torch.zeros(1, 64, 64)
    mask[:, :, :32] = 1
    return mask if left else 1 - mask


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


def test_an_area_outside_of_the_canvas_is_named(load_decoder, embeds):
    model, negative = load_decoder(TEXT_TO_IMAGE)[0], conditioning(embeds(1, 3))
    (area,) = host.ConditioningSetArea().append(conditioning(embeds(1, 1)), 64, 64, 0, 64, 1.0)
    with pytest.raises(
        ValueError, match="no latents to denoise: 0×8. An area that is set on a CON"
    ):
        ksampler(model, area, negative, canvas())


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


# --- depth and inpaint ------------------------------------------------------------------------


def test_depth_follows_its_hint_and_needs_one(load_decoder, pair):
    model = load_decoder(DEPTH)[0]
    near, far = (
        ksampler(model, *DepthConditioning.execute(*pair, hint).args, canvas())
        for hint in (torch.ones(1, 64, 64, 3), torch.zeros(1, 32, 32, 3))
    )
    assert oracle.max_diff(near, far) > 1e-3
    with pytest.raises(ValueError, match="needs a hint: put Depth Conditioning"):
        ksampler(model, *pair, canvas())


@pytest.mark.parametrize(
    "name, wanted", [(TEXT_TO_IMAGE, DEPTH), (INPAINT, DEPTH), (TEXT_TO_IMAGE, INPAINT)]
)
def test_conditioning_of_another_decoder_is_named(load_decoder, pair, name, wanted):
    latent = canvas()
    if wanted == DEPTH:
        pair = DepthConditioning.execute(*pair, torch.ones(1, 64, 64, 3)).args
    else:
        *pair, latent = InpaintConditioning.execute(*pair, latent, half_mask(True)).args
    published = wanted.replace("tiny-", "")
    with pytest.raises(ValueError, match=f"this MODEL is the .*Choose {published} in"):
        ksampler(load_decoder(name)[0], *pair, latent)


def stage_and_native(model, embeds, picture, mask, start):
    """Latents of the Inpaint stage, and of the host's sampler that begins with the LATENT `start`.

    The stage runs DDIM, which is the host's Euler, over the same noise levels from the highest on.
    """
    positive, negative = embeds(1, 1), embeds(1, 2)
    widgets = dict(seed=7, steps=10, cfg=4.0, sampler_name="ddim", scheduler="trailing")
    stage = Inpaint.execute(
        model, positive, {"samples": picture}, mask, negative_image_embeds=negative, **widgets
    ).args[0]["samples"]
    *conditions, latent = InpaintConditioning.execute(
        conditioning(positive), conditioning(negative), {"samples": start}, mask
    ).args
    config = {**model.model.scheduler_config, "timestep_spacing": "trailing"}
    native = comfy.samplers.sample(
        model,
        torch.randn(picture.shape, generator=torch.Generator().manual_seed(7)),
        *(*conditions, 4.0, model.load_device, comfy.samplers.sampler_object("euler")),
        sigmas_of(diffusers.DDIMScheduler.from_config(config), 10),
        latent_image=latent["samples"],
        denoise_mask=latent["noise_mask"],
        seed=7,
    )
    return stage, native


def test_native_inpaint_equals_the_stage(load_decoder, embeds):
    """To rounding, where nothing is in the part that is repainted: see the next test."""
    picture, mask = 3 * random(1, 4, 8, 8) - 1.5, half_mask(True)
    start = picture * keep_from_mask(mask, 8, 8)
    stage, native = stage_and_native(load_decoder(INPAINT)[0], embeds, picture, mask, start)
    assert oracle.max_diff(stage, native) <= 1e-5 * stage.abs().max()
    assert oracle.max_diff(native[..., 5:], picture[..., 5:]) < 1e-5


def test_native_inpaint_starts_from_a_trace_of_the_picture(load_decoder):
    """The host adds the picture to its starting noise, 25 times as strong, where it is repainted,
    too. On the trained miniature no pixel differs by more than 0.05 for it."""
    model, vae = load_decoder("kandinsky-2-2-mini-decoder-inpaint")
    prior = NativePrior("kandinsky-2-2-mini-prior")
    positive, _ = prior.sample("a red circle", "", 0, 25, 4.0)
    image = torch.full((1, 128, 128, 3), 0.2)
    image[:, 32:96, 32:96] = torch.tensor([0.1, 0.2, 0.9])
    mask = torch.zeros(1, 128, 128)
    mask[:, 16:112, 16:112] = 1
    picture = vae.encode(image)
    kept = picture * keep_from_mask(mask, 16, 16)
    pixels = [
        vae.decode(
            stage_and_native(
                *(model, lambda _, i: (positive, prior.zero_embeds())[i - 1], picture, mask, start)
            )[1]
        )
        for start in (picture, kept)
    ]
    assert 0 < oracle.max_diff(*pixels) < 0.05


def test_inpaint_with_a_noise_mask_alone(load_decoder, pair):
    """SetLatentNoiseMask without Inpaint Conditioning: what stays is what the UNet is shown."""
    model, picture = load_decoder(INPAINT)[0], 3 * random(1, 4, 8, 8) - 1.5
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., :4] = 1
    seen = []
    hook = model.model.diffusion_model.register_forward_pre_hook(
        lambda module, args: seen.append(args[0])
    )
    try:
        latent = {"samples": picture, "noise_mask": mask}
        samples = ksampler(model, *pair, latent)
        ksampler(model, *pair, canvas())
    finally:
        hook.remove()
    assert torch.equal(samples[..., 4:], picture[..., 4:])
    assert torch.equal(seen[0][:1, 4:8], picture * (1 - mask))
    assert torch.equal(seen[0][:1, 8:], 1 - mask)
    assert not seen[4][:, 4:].any()  # nothing is kept of an empty latent


def test_every_item_of_a_batch_has_its_own_mask(load_decoder, pair):
    model, picture = load_decoder(INPAINT)[0], 3 * random(2, 4, 8, 8) - 1.5
    masks = torch.cat([half_mask(True), half_mask(False)])
    *conditions, latent = InpaintConditioning.execute(*pair, {"samples": picture}, masks).args
    samples = ksampler(model, *conditions, latent)
    assert torch.equal(samples[0, ..., 5:], picture[0, ..., 5:])
    assert torch.equal(samples[1, ..., :3], picture[1, ..., :3])
    with pytest.raises(ValueError, match="latent has 2, mask has 3"):
        InpaintConditioning.execute(*pair, {"samples": picture}, half_mask(True).repeat(3, 1, 1))


def test_inpaint_conditioning_with_another_latent_is_named(load_decoder, pair):
    model = load_decoder(INPAINT)[0]
    *conditions, _ = InpaintConditioning.execute(*pair, canvas(), half_mask(True)).args
    with pytest.raises(ValueError, match="was given a latent of 8×8, and the sampler one of 16×8"):
        ksampler(model, *conditions, canvas(1, 16, 8))


# --- bad CONDITIONING, and what has no place --------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 77, 768), (1, 2, 24), (1, 1, 25), (1, 24)])
def test_conditioning_for_other_models_is_refused(load_decoder, pair, shape):
    with pytest.raises(ValueError, match=r"takes CONDITIONING of shape \(batch, 1, 24\), not"):
        ksampler(load_decoder(TEXT_TO_IMAGE)[0], [[torch.zeros(shape), {}]], pair[1], canvas())


def test_batches_that_do_not_pair_are_refused(load_decoder, embeds, pair):
    with pytest.raises(ValueError, match="3 image embeddings do not pair up with the 2 latents"):
        ksampler(load_decoder(TEXT_TO_IMAGE)[0], conditioning(embeds(3)), pair[1], canvas(2))
    hinted = DepthConditioning.execute(*pair, random(3, 64, 64, 3)).args
    with pytest.raises(ValueError, match="3 hints do not pair up with the 2 latents"):
        ksampler(load_decoder(DEPTH)[0], *hinted, canvas(2))
    masks = torch.cat([half_mask(True), half_mask(False)])
    *both, latent = InpaintConditioning.execute(*pair, canvas(2), masks).args
    (second,) = host.LatentFromBatch().frombatch(latent, 1, 1)
    with pytest.raises(ValueError, match="2 pictures of Inpaint Conditioning do not pair up"):
        ksampler(load_decoder(INPAINT)[0], *both, second)
    with pytest.raises(ValueError, match="2 masks for one latent. Put Repeat Latent Batch before"):
        InpaintConditioning.execute(*pair, canvas(1), masks)


@pytest.mark.parametrize("channels", [3, 16])
def test_latents_of_other_models_are_refused(load_decoder, pair, channels):
    latent = {"samples": torch.ones(1, channels, 8, 8)}
    with pytest.raises(ValueError, match="this LATENT is for another model"):
        ksampler(load_decoder(TEXT_TO_IMAGE)[0], *pair, latent)
    with pytest.raises(ValueError, match="this LATENT is for another model"):
        InpaintConditioning.execute(*pair, latent, half_mask(True))


@pytest.mark.parametrize(
    "extra, message",
    [
        ({"unclip_conditioning": [{}]}, "Use Embeds From CLIP Vision and Interpolate"),
        ({"reference_latents": [torch.zeros(1, 4, 8, 8)]}, "Use Encode Image and Interpolate"),
        ({"concat_latent_image": torch.zeros(1, 4, 8, 8)}, "for the inpaint decoder"),
    ],
)
def test_what_would_do_nothing_is_refused(load_decoder, pair, extra, message):
    positive = [[pair[0][0][0], extra]]
    with pytest.raises(ValueError, match=message):
        ksampler(load_decoder(TEXT_TO_IMAGE)[0], positive, pair[1], canvas())


def test_a_controlnet_of_other_models_is_refused(load_decoder, pair):
    from comfy.cldm.cldm import ControlNet
    from comfy.controlnet import ControlNet as Control

    small = ControlNet(
        image_size=8,
        in_channels=4,
        model_channels=32,
        hint_channels=3,
        num_res_blocks=[1],
        channel_mult=[1],
        transformer_depth=[1],
        transformer_depth_middle=1,
        context_dim=24,
        num_heads=1,
        use_spatial_transformer=True,
        operations=comfy.ops.disable_weight_init,
    )
    applied = host.ControlNetApplyAdvanced().apply_controlnet(
        *(*pair, Control(small), random(1, 64, 64, 3), 1.0, 0.0, 1.0)
    )
    with pytest.raises(ValueError, match="no place for a ControlNet of other models"):
        ksampler(load_decoder(TEXT_TO_IMAGE)[0], *applied, canvas())


def test_inpaint_keeps_what_the_latents_own_mask_keeps(load_decoder, embeds, pair):
    model, picture = load_decoder(INPAINT)[0], 3 * random(1, 4, 8, 8) - 1.5
    own = torch.zeros(1, 1, 8, 8)
    own[..., :2] = 1
    latent = {"samples": picture, "noise_mask": own}
    *both, masked = InpaintConditioning.execute(*pair, latent, half_mask(True)).args
    changed = (ksampler(model, *both, masked) - picture).abs().amax((0, 1, 2))
    assert (changed[:2] > 0.1).all() and (changed[2:] < 1e-5).all()
    widgets = dict(seed=7, steps=4, cfg=4.0, sampler_name="euler", scheduler="checkpoint")
    stage = Inpaint.execute(
        model, embeds(1, 1), latent, half_mask(True), negative_image_embeds=embeds(1, 2), **widgets
    ).args[0]["samples"]
    assert ((stage - picture).abs().amax((0, 1, 2))[2:] < 1e-5).all()


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


@pytest.mark.parametrize(
    "patch",
    [
        lambda model: model.set_model_attn1_patch(lambda q, k, v, options: (q, k, v)),
        lambda model: model.set_model_attn1_replace(lambda q, k, v, options: q, "middle", 0),
        lambda model: model.set_model_output_block_patch(lambda h, skip, options: (h, skip)),
    ],
)
def test_patches_for_other_models_are_refused(load_decoder, pair, patch):
    model = load_decoder(TEXT_TO_IMAGE)[0].clone()
    patch(model)
    with pytest.raises(ValueError, match="no place for patches.* of other models"):
        ksampler(model, *pair, canvas())


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


# --- one file ---------------------------------------------------------------------------------


@pytest.fixture
def diffusion_models(tmp_path):
    """A folder that the host knows as one of its models/diffusion_models."""
    import folder_paths

    folder_paths.add_model_folder_path("diffusion_models", str(tmp_path))
    yield tmp_path
    folder_paths.folder_names_and_paths["diffusion_models"][0].remove(str(tmp_path))


@pytest.mark.parametrize("name", [TEXT_TO_IMAGE, INPAINT, DEPTH])
def test_what_model_save_wrote_loads(load_decoder, diffusion_models, name):
    import comfy.sd

    model = load_decoder(name)[0]
    comfy.sd.save_checkpoint(str(diffusion_models / "saved.safetensors"), model)
    loaded = LoadUNet.execute("saved.safetensors", "default").args[0].model
    assert loaded.scheduler_config == model.model.scheduler_config
    assert loaded.diffusion_model.variant == model.model.diffusion_model.variant
    expected = model.model.diffusion_model.state_dict()
    stored = loaded.diffusion_model.state_dict()
    assert stored.keys() == expected.keys()
    assert all(torch.equal(stored[key], expected[key]) for key in expected)


def test_a_merge_is_saved_merged(load_decoder, diffusion_models, pair):
    import comfy.sd

    model = load_decoder(TEXT_TO_IMAGE)[0].clone()
    weight = model.model.diffusion_model.conv_in.weight
    model.add_patches({"diffusion_model.conv_in.weight": ("diff", (0.1 * weight,))}, 1.0)
    comfy.sd.save_checkpoint(str(diffusion_models / "merge.safetensors"), model)
    loaded = LoadUNet.execute("merge.safetensors", "default").args[0]
    assert torch.equal(ksampler(loaded, *pair, canvas()), ksampler(model, *pair, canvas()))


def test_a_damaged_folder_does_not_stand_in_the_way(models, load_decoder, diffusion_models):
    import comfy.sd

    broken = models / "aaa-broken"
    shutil.copytree(models / TEXT_TO_IMAGE, broken)
    shutil.rmtree(broken / "scheduler")
    try:
        comfy.sd.save_checkpoint(str(diffusion_models / "s.safetensors"), load_decoder(INPAINT)[0])
        loaded = LoadUNet.execute("s.safetensors", "default").args[0].model
        assert loaded.diffusion_model.variant == "inpaint"
    finally:
        shutil.rmtree(broken)


def test_files_of_other_models_are_refused(diffusion_models):
    from safetensors.torch import save_file

    save_file({"model.layers.0.weight": torch.zeros(3)}, diffusion_models / "llama.safetensors")
    (diffusion_models / "old.pt").write_bytes(b"\x80\x02.")
    with pytest.raises(ValueError, match="The 1 tensors of .*llama.* are not what this node takes"):
        LoadUNet.execute("llama.safetensors", "default")
    with pytest.raises(ValueError, match="is a Python pickle.* not opened"):
        LoadUNet.execute("old.pt", "default")
    with pytest.raises(FileNotFoundError, match="No file named 'none.safetensors' among diff"):
        LoadUNet.execute("none.safetensors", "default")
    assert "is a Python pickle" in LoadUNet.validate_inputs("old.pt")


# --- memory -----------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", ["text_to_image", "depth"])
@pytest.mark.parametrize("attention, size", [("fused", 512), ("math", 1024)])
def test_the_memory_estimate_is_what_was_measured(monkeypatch, variant, attention, size):
    """At published size, without its weights: the peak of a traced forward."""
    import comfy.model_management
    from accelerate import init_empty_weights
    from kandinsky22.scripts import measure_memory
    from kandinsky22.utils import published
    from kandinsky22.utils.native_model import Kandinsky22, Settings
    from kandinsky22.utils.native_unet import Kandinsky22UNet

    if attention == "fused":
        monkeypatch.setattr(
            comfy.model_management, "pytorch_attention_flash_attention", lambda: True
        )
    settings = Settings(**published.UNETS[variant])
    with init_empty_weights():
        unet = Kandinsky22UNet.from_config(settings.unet)
    model = Kandinsky22(unet, settings, (torch.float32, torch.float32))
    side = size // 8
    estimate = model.memory_required([2, 4, side, side]) / (2 * side**2 * torch.float32.itemsize)
    found = measure_memory.measure(variant, size, 2, torch.float32, attention)
    assert 1.0 <= estimate / found <= 1.15


def test_the_hosts_own_inpaint_conditioning(load_decoder, pair):
    """Its picture has grey in the hole; what the UNet is shown is the mask's other side of it."""
    model, vae = load_decoder(INPAINT)
    mask = torch.zeros(1, 64, 64)
    mask[:, :32] = 1
    *conditions, latent = host.InpaintModelConditioning().encode(
        *pair, random(1, 64, 64, 3), vae, mask, noise_mask=False
    )
    shown = []
    hook = model.model.diffusion_model.conv_in.register_forward_pre_hook(
        lambda _, inputs: shown.append(inputs[0][:, 4:])
    )
    samples = ksampler(model, *conditions, latent)
    hook.remove()
    assert shown and torch.isfinite(samples).all()
    keep = keep_from_mask(mask, 8, 8)
    picture = conditions[0][0][1]["concat_latent_image"]
    for part in shown:
        assert torch.equal(part[:1], torch.cat([picture * keep, keep], dim=1))


def test_a_picture_without_its_mask(load_decoder, pair):
    model, vae = load_decoder(INPAINT)
    image = random(1, 64, 64, 3)
    positive, negative, latent = InstructPixToPixConditioning.execute(*pair, image, vae).args
    with pytest.raises(ValueError, match="A picture without its mask .*Inpaint Conditioning"):
        ksampler(model, positive, negative, latent)


def test_without_dynamic_memory_it_is_the_plain_model_patcher(models):
    """What TorchCompileModel and others ask the host for."""
    model = load_model(models / TEXT_TO_IMAGE, disable_dynamic=True)
    assert type(model) is comfy.model_patcher.ModelPatcher
