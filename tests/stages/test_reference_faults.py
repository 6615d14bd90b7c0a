"""Where diffusers is wrong, its bug is still there, and our node is right.

docs/differences.md describes these bugs.
"""

import inspect

import comfy.k_diffusion.sampling
import diffusers
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from helpers import oracle, tiny_models
from helpers.decoding_stages import box_mask, picture, reference, run, tensor_of
from helpers.module_calls import watched
from helpers.tiny_models import DEPTH, INPAINT, TEXT_TO_IMAGE
from kandinsky22 import nodes
from kandinsky22.nodes.loaders import LoadDecoder, LoadPrior
from kandinsky22.utils.comfyui import model_folders
from kandinsky22.utils.comfyui.model_options import wrapped_options
from kandinsky22.utils.comfyui.prediction import prediction
from kandinsky22.utils.kandinsky import decoder
from kandinsky22.utils.kandinsky.schedulers import build_scheduler

pytestmark = pytest.mark.long

CANVAS = {"samples": torch.zeros(1, 4, 8, 8)}
SIZE = dict(height=64, width=64)
LATENT = dict(output_type="latent")


def inpaint_reference(models, embeds, image, mask, batch=1, **size):
    return reference(
        "KandinskyV22InpaintPipeline",
        models / INPAINT,
        embeds(batch, 1),
        embeds(batch, 2),
        image=tensor_of(image),
        mask_image=mask,
        **SIZE | size,
        **LATENT,
    )


def test_inpaint_gives_every_item_the_first_picture(models, load_decoder, embeds):
    model, vae = load_decoder(INPAINT)
    image, mask = torch.cat([picture(seed=0), picture(seed=1)]), box_mask(2)
    encoded = vae.encode(image)
    theirs = inpaint_reference(models, embeds, image, mask.clone(), batch=2)
    latent = {"samples": encoded}
    ours = run(nodes.Inpaint, model, embeds(2, 1), embeds(2, 2), latent, mask=mask)
    corner = (slice(1, 2), slice(None), slice(7, 8), slice(0, 1))  # outside the mask
    assert oracle.max_diff(theirs[corner], encoded[:1][(slice(None), *corner[1:])]) < 1e-4
    assert oracle.max_diff(ours[corner], encoded[corner]) == 0.0


def test_inpaint_changes_the_callers_mask(models, load_decoder, embeds):
    model, vae = load_decoder(INPAINT)
    theirs, ours = box_mask() * 0.7, box_mask() * 0.7
    inpaint_reference(models, embeds, picture(), theirs)
    latent = {"samples": vae.encode(picture())}
    run(nodes.Inpaint, model, embeds(1, 1), embeds(1, 2), latent, mask=ours)
    assert theirs.max() == 1.0 and ours.max() == pytest.approx(0.7)


@pytest.mark.parametrize("size", [72, 88])
def test_sizes_off_the_grid_crash(models, load_decoder, embeds, size):
    with pytest.raises(RuntimeError):
        inpaint_reference(
            models,
            embeds,
            picture(1, size, size),
            box_mask(1, size, size),
            height=size,
            width=size,
        )
    model, vae = load_decoder(INPAINT)
    latent = {"samples": vae.encode(picture(1, size, size))}
    mask = box_mask(1, size, size)
    ours = run(nodes.Inpaint, model, embeds(1, 1), embeds(1, 2), latent, mask=mask)
    assert ours.shape == (1, 4, size // 8, size // 8)


@pytest.mark.parametrize("name", ["KandinskyV22ControlnetPipeline", "…Img2Img"])
def test_controlnet_gives_no_latents(models, load_decoder, embeds, name):
    arguments = dict(hint=picture(seed=5).movedim(-1, 1).contiguous(), **SIZE, **LATENT)
    if "Img2Img" in name:
        name = "KandinskyV22ControlnetImg2ImgPipeline"
        arguments |= dict(image=tensor_of(picture()), strength=0.5)
    with pytest.raises(ValueError, match="output_type=latent"):
        reference(name, models / DEPTH, embeds(1, 1), embeds(1, 2), **arguments)


def test_controlnet_does_not_share_a_hint(models, load_decoder, embeds):
    hint = picture(seed=5)
    arguments = ("KandinskyV22ControlnetPipeline", models / DEPTH)
    with pytest.raises(RuntimeError):
        reference(*arguments, embeds(2, 1), embeds(2, 2), hint=hint.movedim(-1, 1), **SIZE)
    ours = run(
        nodes.ControlNet, load_decoder(DEPTH)[0], embeds(2, 1), embeds(2, 2), CANVAS, hint=hint
    )
    assert ours.shape == (2, 4, 8, 8)


@pytest.mark.parametrize("name", ["KandinskyV22Pipeline", "KandinskyV22ControlnetPipeline"])
def test_several_pictures_without_guidance_crash(models, load_decoder, embeds, name):
    depth = "Controlnet" in name
    more = dict(hint=picture(seed=5).movedim(-1, 1).contiguous()) if depth else {}
    pipeline = oracle.pipeline(name, models / (DEPTH if depth else TEXT_TO_IMAGE))
    with pytest.raises(RuntimeError):
        pipeline(
            image_embeds=embeds(1, 1).tensor,
            negative_image_embeds=embeds(1, 2).tensor,
            num_images_per_prompt=2,
            guidance_scale=1.0,
            num_inference_steps=2,
            **SIZE,
            **more,
        )
    canvas = {"samples": torch.zeros(2, 4, 8, 8)}
    widgets = dict(hint=picture(seed=5)) if depth else {}
    node = nodes.ControlNet if depth else nodes.Decoder
    model, _ = load_decoder(DEPTH if depth else TEXT_TO_IMAGE)
    assert run(node, model, embeds(1, 1), None, canvas, cfg=1.0, **widgets).shape[0] == 2


def test_half_precision_without_guidance_crashes(models, embeds):
    pipeline = diffusers.KandinskyV22Pipeline.from_pretrained(
        models / TEXT_TO_IMAGE, torch_dtype=torch.bfloat16
    )
    with pytest.raises(RuntimeError):
        pipeline(
            image_embeds=embeds(1, 1).tensor,
            negative_image_embeds=embeds(1, 2).tensor,
            guidance_scale=1.0,
            num_inference_steps=2,
            **SIZE,
        )
    model, _ = LoadDecoder.execute(TEXT_TO_IMAGE, "bf16").args
    assert torch.isfinite(run(nodes.Decoder, model, embeds(1, 1), None, CANVAS, cfg=1.0)).all()


# --- samplers ---------------------------------------------------------------------------------


def independent(model, sampler: str, scheduler, embeds, seed: int) -> torch.Tensor:
    """Sample with ComfyUI's k-diffusion sampler on the same noise prediction, sigma for sigma."""
    conditions = torch.cat([embeds(1, 2).tensor, embeds(1, 1).tensor])
    predict = prediction(model, wrapped_options(model))
    sigmas = (
        torch.cat([scheduler.sigmas[:1], scheduler.sigmas[1::2]])
        if sampler == "heun"
        else (scheduler.sigmas)
    )
    steps = scheduler.timesteps[:1].tolist() + scheduler.timesteps[1:].tolist()
    times = dict(zip(scheduler.sigmas.tolist(), steps, strict=False))

    def denoised(x, sigma, **_):
        t = torch.tensor(times[sigma[0].item()])
        scaled = x / (sigma[0] ** 2 + 1) ** 0.5
        noise = decoder.predict_noise(predict, scaled, t, conditions, 4.0, False, None)
        finished = x - sigma[0] * noise
        # diffusers' Heun honours the checkpoint's clip_sample, and its Euler has no such option.
        return finished.clamp(-1, 1) if scheduler.config.get("clip_sample") else finished

    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(seed))
    sample = getattr(comfy.k_diffusion.sampling, f"sample_{sampler}")
    start = noise * scheduler.init_noise_sigma
    return sample(denoised, start, sigmas, extra_args={}, disable=True)


@pytest.mark.parametrize("sampler", ["euler", "heun"])
@pytest.mark.parametrize("spacing", ["checkpoint", "trailing", "karras"])
def test_samplers_against_an_independent_implementation(
    models, load_decoder, embeds, sampler, spacing
):
    model, _ = load_decoder(TEXT_TO_IMAGE)
    widgets = dict(sampler_name=sampler, scheduler=spacing)
    ours = run(nodes.Decoder, model, embeds(1, 1), embeds(1, 2), CANVAS, **widgets)
    scheduler = build_scheduler(model.model.scheduler_config, sampler, spacing)
    scheduler.set_timesteps(6)
    wanted = independent(model, sampler, scheduler, embeds, seed=7)
    assert oracle.max_diff(ours, wanted) < 1e-4 * max(1, wanted.abs().max().item())

    if sampler == "euler" and spacing == "checkpoint":  # diffusers does not scale its input
        config = model.model.scheduler_config
        theirs = reference(
            "KandinskyV22Pipeline",
            models / TEXT_TO_IMAGE,
            embeds(1, 1),
            embeds(1, 2),
            scheduler=build_scheduler(config, sampler, spacing),
            **SIZE,
            **LATENT,
        )
        assert oracle.max_diff(theirs, wanted) > 1


def test_img2img_cannot_count_the_substeps_of_heun(models, load_decoder, embeds):
    model, vae = load_decoder(TEXT_TO_IMAGE)
    pipeline = oracle.pipeline("KandinskyV22Img2ImgPipeline", models / TEXT_TO_IMAGE)
    published = pipeline.scheduler
    pipeline.scheduler = build_scheduler(model.model.scheduler_config, "heun", "checkpoint")
    pipeline.scheduler.set_timesteps(6)
    theirs = pipeline.get_timesteps(6, 0.5, "cpu")[0]
    pipeline.scheduler = published
    assert len(theirs) == 8  # the pipeline passes a generator to Heun, which does not accept one

    latent = {"samples": vae.encode(picture())}
    with watched(model.model.diffusion_model) as calls:
        run(
            nodes.Img2Img,
            model,
            embeds(1, 1),
            embeds(1, 2),
            latent,
            denoise=0.5,
            sampler_name="heun",
        )
    assert len(calls) == 5  # the last 3 of 6 steps: two calls each, and one for the very last


def test_from_config_drops_the_spacing(load_decoder):
    published = diffusers.DDPMScheduler(**tiny_models.DECODER_SCHEDULER)
    theirs = diffusers.EulerDiscreteScheduler.from_config(published.config)
    assert theirs.config.timestep_spacing == "linspace"
    config = load_decoder(TEXT_TO_IMAGE)[0].model.scheduler_config
    assert build_scheduler(config, "euler", "checkpoint").config.timestep_spacing == "leading"


# --- img2img ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["KandinskyV22Img2ImgPipeline", "…Controlnet"])
def test_too_little_strength(models, load_decoder, embeds, name):
    arguments = dict(image=tensor_of(picture()), strength=0.1, **SIZE)
    if "Controlnet" in name:
        hint = picture(seed=5).movedim(-1, 1).contiguous()
        with pytest.raises((RuntimeError, ValueError, IndexError)):
            reference(
                "KandinskyV22ControlnetImg2ImgPipeline",
                models / DEPTH,
                embeds(1, 1),
                embeds(1, 2),
                hint=hint,
                **arguments,
            )
        return
    theirs = reference(
        name, models / TEXT_TO_IMAGE, embeds(1, 1), embeds(1, 2), **arguments, **LATENT
    )
    assert theirs.shape[0] == 0
    with pytest.raises(ValueError, match="leave no step"):
        run(
            nodes.Img2Img,
            load_decoder(TEXT_TO_IMAGE)[0],
            embeds(1, 1),
            embeds(1, 2),
            CANVAS,
            denoise=0.1,
        )


def test_img2img_takes_no_latents(models, load_decoder, embeds):
    with pytest.raises((RuntimeError, ValueError)):
        reference(
            "KandinskyV22Img2ImgPipeline",
            models / TEXT_TO_IMAGE,
            embeds(1, 1),
            embeds(1, 2),
            image=torch.randn(1, 4, 8, 8),
            strength=0.5,
            **SIZE,
            **LATENT,
        )


def test_img2img_swaps_height_and_width(models, load_decoder, embeds):
    model, vae = load_decoder(TEXT_TO_IMAGE)
    image = picture(1, 128, 192)
    theirs = reference(
        "KandinskyV22Img2ImgPipeline",
        models / TEXT_TO_IMAGE,
        embeds(1, 1),
        embeds(1, 2),
        image=VaeImageProcessor.numpy_to_pil(image.numpy())[0],
        strength=0.5,
        height=128,
        width=192,
        **LATENT,
    )
    assert theirs.shape[-2:] == (24, 16)
    latent = {"samples": vae.encode(image)}
    ours = run(nodes.Img2Img, model, embeds(1, 1), embeds(1, 2), latent, denoise=0.5)
    assert ours.shape[-2:] == (16, 24)


# --- the prior --------------------------------------------------------------------------------


def test_emb2emb_interpolate_takes_no_text_and_has_a_random_negative(models):
    name = "KandinskyV22PriorEmb2EmbPipeline"
    pipeline = oracle.pipeline(name, models / "kandinsky-2-2-tiny-prior")
    with pytest.raises(TypeError):
        pipeline.interpolate(["a cat"], [1.0], num_inference_steps=2)
    image = torch.zeros(1, 3, 64, 64)
    first, second = (pipeline.interpolate([image], [1.0]) for _ in range(2))
    assert not torch.equal(first.negative_image_embeds, second.negative_image_embeds)


def test_emb2emb_has_no_callback():
    parameters = inspect.signature(diffusers.KandinskyV22PriorEmb2EmbPipeline.__call__).parameters
    assert not [name for name in parameters if "callback" in name]


def test_combined_progress_bar_turns_on_offloading():
    source = inspect.getsource(diffusers.KandinskyV22CombinedPipeline.progress_bar)
    assert "enable_model_cpu_offload" in source


def test_a_hint_may_be_a_channels_last_view(load_decoder, embeds):
    model, _ = load_decoder(DEPTH)
    hint = picture(seed=5)
    view = hint.movedim(-1, 1).contiguous().movedim(1, -1)
    ours = run(nodes.ControlNet, model, embeds(1, 1), embeds(1, 2), CANVAS, hint=hint)
    same = run(nodes.ControlNet, model, embeds(1, 1), embeds(1, 2), CANVAS, hint=view)
    assert torch.equal(ours, same)


def test_ddim_loses_the_picture_where_it_clips(models):
    """The checkpoints' config says `clip_sample`, and DDIM uses the noise from before clipping."""
    folder = model_folders.BUNDLED / "kandinsky-2-2-mini-decoder"
    prior = LoadPrior.execute("kandinsky-2-2-mini-prior", "default").args[0]
    model, vae = LoadDecoder.execute(folder.name, "default").args
    positive, negative = prior.sample("a red circle on a white background", "", 0, 25, 4.0)
    config = oracle.pipeline("KandinskyV22Pipeline", folder).scheduler.config
    theirs = reference(
        "KandinskyV22Pipeline",
        folder,
        positive,
        negative,
        scheduler=diffusers.DDIMScheduler.from_config(config),
        steps=25,
        **dict(height=128, width=128),
        **LATENT,
    )
    canvas = {"samples": torch.zeros(1, 4, 16, 16)}
    ours = run(nodes.Decoder, model, positive, negative, canvas, sampler_name="ddim", steps=25)
    for latents, corner in ((theirs, False), (ours, True)):
        picture = vae.decode(latents)[0]
        assert (picture[:16, :16].min() > 0.7) == corner  # white
