"""Depth hints, pictures and masks work in ComfyUI's samplers as in our stages."""

import comfy.samplers
import diffusers
import pytest
import torch
from helpers import oracle
from helpers.ksampler import canvas, conditioning, half_mask, ksampler, random, sigmas_of
from helpers.tiny_models import DEPTH, INPAINT
from kandinsky22.nodes.conditioning import DepthConditioning, InpaintConditioning
from kandinsky22.nodes.inpaint import Inpaint
from kandinsky22.nodes.loaders import LoadPrior
from kandinsky22.utils.kandinsky.masks import keep_from_mask

import nodes as host


def test_depth_follows_its_hint_and_needs_one(load_decoder, pair):
    model = load_decoder(DEPTH)[0]
    near, far = (
        ksampler(model, *DepthConditioning.execute(*pair, hint).args, canvas())
        for hint in (torch.ones(1, 64, 64, 3), torch.zeros(1, 32, 32, 3))
    )
    assert oracle.max_diff(near, far) > 1e-3
    with pytest.raises(ValueError, match="needs a hint: put Depth Conditioning"):
        ksampler(model, *pair, canvas())


def stage_and_native(model, embeds, picture, mask, start):
    """Return the latents of the Inpaint stage, and of ComfyUI's sampler from the LATENT `start`.

    The stage runs DDIM, which equals ComfyUI's Euler, over the same noise levels from the highest
    on.
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
        *conditions,
        4.0,
        model.load_device,
        comfy.samplers.sampler_object("euler"),
        sigmas_of(diffusers.DDIMScheduler.from_config(config), 10),
        latent_image=latent["samples"],
        denoise_mask=latent["noise_mask"],
        seed=7,
    )
    return stage, native


def test_native_inpaint_equals_the_stage(load_decoder, embeds):
    """They are equal up to rounding if the repainted part is empty: see the next test."""
    picture, mask = 3 * random(1, 4, 8, 8) - 1.5, half_mask(True)
    start = picture * keep_from_mask(mask, 8, 8)
    stage, native = stage_and_native(load_decoder(INPAINT)[0], embeds, picture, mask, start)
    assert oracle.max_diff(stage, native) <= 1e-5 * stage.abs().max()
    assert oracle.max_diff(native[..., 5:], picture[..., 5:]) < 1e-5


def test_native_inpaint_starts_from_a_trace_of_the_picture(load_decoder):
    """ComfyUI adds the picture to its starting noise, which is 25 times as strong, everywhere.

    On the trained miniature, no pixel differs by more than 0.05 because of that.
    """
    model, vae = load_decoder("kandinsky-2-2-mini-decoder-inpaint")
    prior = LoadPrior.execute("kandinsky-2-2-mini-prior", "default").args[0]
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
                model, lambda _, i: (positive, prior.zero_embeds())[i - 1], picture, mask, start
            )[1]
        )
        for start in (picture, kept)
    ]
    assert 0 < oracle.max_diff(*pixels) < 0.05


def test_inpaint_with_a_noise_mask_alone(load_decoder, pair):
    """With SetLatentNoiseMask and no Inpaint Conditioning, the UNet sees what stays."""
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
    assert not seen[4][:, 4:].any()  # nothing of an empty latent is kept


def test_every_item_of_a_batch_has_its_own_mask(load_decoder, pair):
    model, picture = load_decoder(INPAINT)[0], 3 * random(2, 4, 8, 8) - 1.5
    masks = torch.cat([half_mask(True), half_mask(False)])
    *conditions, latent = InpaintConditioning.execute(*pair, {"samples": picture}, masks).args
    samples = ksampler(model, *conditions, latent)
    assert torch.equal(samples[0, ..., 5:], picture[0, ..., 5:])
    assert torch.equal(samples[1, ..., :3], picture[1, ..., :3])
    with pytest.raises(ValueError, match="latent has 2, mask has 3"):
        InpaintConditioning.execute(*pair, {"samples": picture}, half_mask(True).repeat(3, 1, 1))


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


def test_the_hosts_own_inpaint_conditioning(load_decoder, pair):
    """Its picture is grey in the hole. The UNet sees the other side of the mask of that picture."""
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
