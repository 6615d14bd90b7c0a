"""Guidance that other nodes put on a MODEL has the same effect in a stage as in KSampler."""

import dataclasses

import comfy.samplers
import pytest
import torch
from comfy_extras import nodes_apg, nodes_cfg, nodes_easycache, nodes_eps, nodes_mahiro, nodes_tcfg
from comfy_extras.nodes_custom_sampler import CFGOverride
from comfy_extras.nodes_model_advanced import RescaleCFG
from comfy_extras.nodes_perpneg import PerpNeg
from comfy_extras.nodes_video_model import VideoLinearCFGGuidance, VideoTriangleCFGGuidance
from helpers import oracle
from helpers.decoding_stages import STAGES, each_stage, picture, run
from helpers.ksampler import canvas, conditioning
from helpers.module_calls import watched
from helpers.tiny_models import DEPTH, INPAINT, TEXT_TO_IMAGE
from kandinsky22 import nodes
from kandinsky22.nodes.conditioning import DepthConditioning
from kandinsky22.utils.comfyui.load_model import build_model
from kandinsky22.utils.files.decoder_configs import read_decoder_configs
from kandinsky22.utils.files.headers import weight_files
from kandinsky22.utils.kandinsky.noise import draw_noise, item_generators
from kandinsky22.utils.kandinsky.schedulers import build_scheduler

STEPS = 6
EULER = dict(sampler_name="euler", scheduler="leading", steps=STEPS)
GUIDANCE = {
    "RescaleCFG": lambda model: RescaleCFG().patch(model, 0.7)[0],
    "APG": lambda model: nodes_apg.APG.execute(model, 0.5, 5.0, -0.3).args[0],
    "CFGNorm": lambda model: nodes_cfg.CFGNorm.execute(model, 0.9).args[0],
    "CFGNorm before": lambda model: nodes_cfg.CFGNorm.execute(model, 0.9, True).args[0],
    "CFGZeroStar": lambda model: nodes_cfg.CFGZeroStar.execute(model).args[0],
    "TCFG": lambda model: nodes_tcfg.TCFG.execute(model).args[0],
    "Mahiro": lambda model: nodes_mahiro.Mahiro.execute(model).args[0],
    "Epsilon Scaling": lambda model: nodes_eps.EpsilonScaling.execute(model, 1.02).args[0],
    "TSR": lambda model: nodes_eps.TemporalScoreRescaling.execute(model, 0.8, 1.0).args[0],
    "VideoLinearCFG": lambda model: VideoLinearCFGGuidance().patch(model, 1.0)[0],
    "VideoTriangleCFG": lambda model: VideoTriangleCFGGuidance().patch(model, 1.5)[0],
    "two": lambda model: GUIDANCE["TCFG"](GUIDANCE["RescaleCFG"](model)),
    "easy cache": lambda model: nodes_easycache.EasyCacheNode.execute(
        model, 0.5, 0.0, 1.0, False
    ).args[0],
    "lazy cache": lambda model: nodes_easycache.LazyCacheNode.execute(
        model, 0.5, 0.0, 1.0, False
    ).args[0],
}


def in_ksampler(model, conditions, noise, latent_image=None, cfg=4.0):
    """Run ComfyUI's own Euler, with the noise levels and the noise of the stage."""
    scheduler = build_scheduler(model.model.scheduler_config, "euler", "leading")
    scheduler.set_timesteps(STEPS)
    sigmas = scheduler.sigmas.float()
    start = scheduler.init_noise_sigma / sigmas[0]
    return comfy.samplers.sample(
        model,
        noise * start,
        *conditions,
        cfg,
        model.load_device,
        comfy.samplers.sampler_object("euler"),
        sigmas,
        latent_image=torch.zeros_like(noise) if latent_image is None else latent_image,
        seed=7,
    )


@pytest.fixture
def compared(load_decoder, embeds):
    """Return a function that runs a MODEL in the stage and in ComfyUI's sampler."""

    def both(change, name=TEXT_TO_IMAGE, batch=2, cfg=4.0):
        model = change(load_decoder(name)[0])
        positive, negative = embeds(batch, 1), embeds(batch, 2)
        noise = draw_noise((batch, 4, 8, 8), item_generators(7, [*range(batch)]))
        pair = conditioning(positive), conditioning(negative)
        hint = picture(1, seed=5)
        if name == DEPTH:
            pair = DepthConditioning.execute(*pair, hint).args
            stage = run(
                nodes.ControlNet,
                model,
                positive,
                negative,
                canvas(batch),
                hint=hint,
                cfg=cfg,
                **EULER,
            )
        else:
            stage = run(nodes.Decoder, model, positive, negative, canvas(batch), cfg=cfg, **EULER)
        return stage, in_ksampler(model, pair, noise, cfg=cfg)

    return both


@pytest.mark.parametrize("change", GUIDANCE.values(), ids=GUIDANCE)
@pytest.mark.parametrize("name", [TEXT_TO_IMAGE, DEPTH])
def test_it_is_what_comfyui_computes(compared, change, name):
    batch = 1 if change is GUIDANCE["TSR"] else 2  # ComfyUI's node supports no batches
    stage, theirs = compared(change, name, batch)
    plain, _ = compared(lambda model: model, name, batch)
    assert oracle.max_diff(stage, theirs) <= 1e-4 * theirs.abs().max()
    assert oracle.max_diff(stage, plain) > 1e-3 * theirs.abs().max()


def test_at_cfg_1_too(compared):
    stage, theirs = compared(GUIDANCE["Epsilon Scaling"], cfg=1.0)
    assert oracle.max_diff(stage, theirs) <= 1e-4 * theirs.abs().max()


def nothing(model):
    """Set guidance that calls ComfyUI's guider, and returns its result unchanged."""
    model = model.clone()
    model.set_model_sampler_post_cfg_function(lambda arguments: arguments["denoised"])
    return model


@each_stage
@pytest.mark.parametrize(
    "sampler",
    [
        ("ddpm", "checkpoint"),
        ("euler", "karras"),  # between the noise levels of the checkpoint
        ("heun", "leading"),
        ("dpmpp_2m", "karras"),
        ("uni_pc", "beta"),
    ],
)
@pytest.mark.parametrize("cfg", [4.0, 0.5])
def test_guidance_that_changes_nothing_changes_nothing(load_decoder, embeds, node, sampler, cfg):
    name, widgets = STAGES[node]
    model, vae = load_decoder(name)
    latent = {"samples": vae.encode(picture(2, 64, 72))}  # 9 latents wide: off the UNet's grid
    arguments = embeds(1, 1), embeds(1, 2), latent
    widgets = widgets | dict(cfg=cfg, sampler_name=sampler[0], scheduler=sampler[1])
    plain = run(node, model, *arguments, **widgets)
    guided = run(node, nothing(model), *arguments, **widgets)
    assert not torch.equal(plain, guided)  # the guider was used
    assert oracle.max_diff(plain, guided) <= 1e-4 * plain.abs().max()
    assert torch.equal(run(node, model, *arguments, **widgets), plain)


def test_v_prediction(models, embeds):
    folder = models / TEXT_TO_IMAGE
    configs = read_decoder_configs(folder)
    scheduler = configs.scheduler | {"prediction_type": "v_prediction"}
    configs = dataclasses.replace(configs, scheduler=scheduler)
    model = build_model(configs, weight_files(folder / "unet"), "default", False)
    arguments = embeds(1, 1), embeds(1, 2), canvas()
    plain = run(nodes.Decoder, model, *arguments)
    guided = run(nodes.Decoder, nothing(model), *arguments)
    assert 0 < oracle.max_diff(plain, guided) <= 1e-4 * plain.abs().max()


def test_caches_save_calls_of_the_unet(load_decoder, embeds):
    model = load_decoder(TEXT_TO_IMAGE)[0]
    counts = []
    for change in (lambda model: model, GUIDANCE["easy cache"], GUIDANCE["lazy cache"]):
        with watched(model.model.diffusion_model.conv_in) as calls:
            run(nodes.Decoder, change(model), embeds(1, 1), embeds(1, 2), canvas(), steps=12)
        counts.append(len(calls))
    assert counts[0] == 12 and counts[1] < 12 and counts[2] < 12


def test_cfg_override_counts_in_it(load_decoder, embeds):
    model = CFGOverride.execute(load_decoder(TEXT_TO_IMAGE)[0], 1.0, 0.4, 1.0).args[0]
    arguments = embeds(1, 1), embeds(1, 2), canvas()
    with watched(model.model.diffusion_model.conv_in) as rows:
        guided = run(nodes.Decoder, nothing(model), *arguments)
    plain = run(nodes.Decoder, model, *arguments)
    assert rows == [2] * 2 + [1] * 4
    assert oracle.max_diff(plain, guided) <= 1e-4 * plain.abs().max()


def test_perp_neg_on_depth_needs_its_hint_in_a_stage_too(load_decoder, embeds):
    model, empty = load_decoder(DEPTH)[0], conditioning(embeds(1, 3))
    arguments = embeds(1, 1), embeds(1, 2), canvas()
    hint = picture(seed=5)
    with pytest.raises(ValueError, match="needs a hint.*empty conditioning of Perp-Neg"):
        patched = PerpNeg.execute(model, empty, 1.0).args[0]
        run(nodes.ControlNet, patched, *arguments, hint=hint)
    hinted, _ = DepthConditioning.execute(empty, empty, hint).args
    patched = PerpNeg.execute(model, hinted, 1.0).args[0]
    samples = run(nodes.ControlNet, patched, *arguments, hint=hint)
    assert oracle.max_diff(samples, run(nodes.ControlNet, model, *arguments, hint=hint)) > 0.1


def test_the_model_is_left_as_it_was(load_decoder, embeds):
    model = load_decoder(TEXT_TO_IMAGE)[0]
    patched = nothing(model)

    def breaks(arguments):
        raise RuntimeError("in the middle")

    broken = model.clone()
    broken.set_model_sampler_post_cfg_function(breaks)
    arguments = embeds(1, 1), embeds(1, 2), canvas()
    before = run(nodes.Decoder, model, *arguments), run(nodes.Decoder, patched, *arguments)
    with pytest.raises(RuntimeError, match="in the middle"):
        run(nodes.Decoder, broken, *arguments)
    after = run(nodes.Decoder, model, *arguments), run(nodes.Decoder, patched, *arguments)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_learned_variance_is_refused(load_decoder, embeds, monkeypatch):
    model = load_decoder(TEXT_TO_IMAGE)[0]
    config = model.model.scheduler_config | {"variance_type": "learned_range"}
    monkeypatch.setattr(model.model, "scheduler_config", config)
    arguments = embeds(1, 1), embeds(1, 2), canvas()
    with pytest.raises(ValueError, match="^Choose another sampler_name than ddpm"):
        run(nodes.Decoder, nothing(model), *arguments)
    assert run(nodes.Decoder, nothing(model), *arguments, **EULER).isfinite().all()
    assert run(nodes.Decoder, model, *arguments).isfinite().all()


def test_what_compares_both_needs_the_negative_at_any_cfg(load_decoder, embeds):
    model = load_decoder(TEXT_TO_IMAGE)[0].clone()
    seen = []

    def post(arguments):
        seen.append(arguments["uncond_denoised"].std())
        return arguments["denoised"]

    model.set_model_sampler_post_cfg_function(post, disable_cfg1_optimization=True)
    with pytest.raises(ValueError, match="^Connect negative_image_embeds, at any cfg"):
        run(nodes.Decoder, model, embeds(1, 1), None, canvas(), cfg=1.0)
    run(nodes.Decoder, model, embeds(1, 1), embeds(1, 2), canvas(), cfg=1.0)
    assert len(seen) == STEPS and min(seen) > 0


def test_inpaint_sees_the_picture(load_decoder, embeds):
    """The guider's UNet gets the same as the stage's own, also with a second mask in the LATENT."""
    model, vae = load_decoder(INPAINT)
    latent = {"samples": vae.encode(picture()), "noise_mask": torch.ones(1, 1, 8, 8)}
    latent["noise_mask"][..., :3, :] = 0
    widgets = STAGES[nodes.Inpaint][1]
    arguments = embeds(1, 1), embeds(1, 2), latent
    plain = run(nodes.Inpaint, model, *arguments, **widgets)
    guided = run(nodes.Inpaint, nothing(model), *arguments, **widgets)
    assert oracle.max_diff(plain, guided) <= 1e-4 * plain.abs().max()
