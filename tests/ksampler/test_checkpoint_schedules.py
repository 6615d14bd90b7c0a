"""KSampler follows the scheduler of a checkpoint, as the stages do, or loading refuses it."""

import shutil

import comfy.samplers
import pytest
import torch
from helpers import oracle
from helpers.decoding_stages import decode
from helpers.ksampler import conditioning, sigmas_of
from helpers.tiny_models import make_decoder
from kandinsky22.nodes.loaders import LoadDecoder
from kandinsky22.utils.kandinsky.noise import draw_noise, item_generators
from kandinsky22.utils.kandinsky.schedulers import build_scheduler

NAME = "a-fine-tuned-decoder"


@pytest.fixture
def load(models):
    """Return a function that writes a decoder with other scheduler settings and loads its MODEL."""

    def write_and_load(**scheduler):
        make_decoder(**scheduler).save_pretrained(models / NAME)
        return LoadDecoder.execute(NAME, "default").args[0]

    yield write_and_load
    shutil.rmtree(models / NAME)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"prediction_type": "v_prediction"},
        {"beta_schedule": "scaled_linear"},
        {"num_train_timesteps": 500},
        {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
    ],
    ids=lambda settings: ",".join(settings) or "published",
)
def test_ksampler_equals_the_stage(load, embeds, settings):
    model = load(**settings)
    positive, negative = embeds(1, 1), embeds(1, 2)
    ours = decode(model, positive, negative, steps=10, sampler_name="euler", scheduler="leading")

    scheduler = build_scheduler(model.model.scheduler_config, "euler", "leading")
    sigmas = sigmas_of(scheduler, 10)
    noise = draw_noise((1, 4, 8, 8), item_generators(7, [0]))
    samples = comfy.samplers.sample(
        model,
        noise * scheduler.init_noise_sigma / sigmas[0],
        conditioning(positive),
        conditioning(negative),
        4.0,
        model.load_device,
        comfy.samplers.sampler_object("euler"),
        sigmas,
        latent_image=torch.zeros_like(noise),
        seed=7,
    )
    # With a zero signal the first noise level is 4096, and rounding there is larger by that factor.
    bar = 4e-6 if "rescale_betas_zero_snr" not in settings else 1e-3
    assert oracle.max_diff(ours, samples) <= bar * ours.abs().max()


@pytest.mark.parametrize(
    "settings",
    [
        {"beta_schedule": "scaled_linear"},
        {"num_train_timesteps": 500},
        {"rescale_betas_zero_snr": True},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_the_noise_levels_are_the_checkpoints(load, settings):
    model = load(**settings)
    scheduler = build_scheduler(model.model.scheduler_config, "ddpm", "checkpoint")
    alphas = scheduler.alphas_cumprod.double()
    wanted = ((1 - alphas) / alphas).sqrt()
    found = model.get_model_object("model_sampling").sigmas.double()
    assert len(found) == len(wanted)
    # Both replace the infinite level of a zero signal by a large number, but not by the same one.
    torch.testing.assert_close(found[:-1], wanted[:-1], rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"prediction_type": "sample"}, "prediction_type 'sample', which ComfyUI's samplers"),
        ({"beta_schedule": "squaredcos_cap_v2"}, "beta_schedule 'squaredcos_cap_v2', which"),
        ({"trained_betas": [0.001] * 1000}, r"trained_betas \[0.001, .*, which ComfyUI's"),
    ],
)
def test_what_comfyui_cannot_follow_is_refused(load, settings, message):
    with pytest.raises(ValueError, match=message):
        load(**settings)
