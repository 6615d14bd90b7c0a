"""Our steps of DDPM and unCLIP equal those of diffusers' schedulers, bit for bit."""

import diffusers
import pytest
import torch
from helpers import tiny_models
from helpers.oracle import generators
from kandinsky22.utils.files import architectures
from kandinsky22.utils.kandinsky.lean_steps import LeanDDPM, LeanUnCLIP
from kandinsky22.utils.kandinsky.noise import add_noise
from kandinsky22.utils.kandinsky.samplers import SAMPLERS
from kandinsky22.utils.kandinsky.schedulers import build_scheduler, set_strength

DECODER = tiny_models.DECODER_SCHEDULER
CONFIGS = {
    "tiny": DECODER,
    "published": architectures.DECODERS["text_to_image"].scheduler,
    "no clipping": DECODER | {"clip_sample": False},
    "logarithm": DECODER | {"variance_type": "fixed_small_log"},
    "large": DECODER | {"variance_type": "fixed_large"},
    "learned": DECODER | {"variance_type": "learned_range"},
    "thresholds": DECODER | {"thresholding": True},
    "v": DECODER | {"prediction_type": "v_prediction"},
    "sample": DECODER | {"prediction_type": "sample"},
}


def run(scheduler, steps: int, channels: int, **options) -> list[torch.Tensor]:
    """Return the samples of a scheduler for the same predictions, step by step, for two runs."""
    found = []
    for _ in range(2):
        scheduler.set_timesteps(steps)
        noise = torch.Generator().manual_seed(0)
        sample = torch.randn(2, 4, 6, 6, generator=noise)
        draws = generators(1, 2)
        for i, t in enumerate(scheduler.timesteps):
            predicted = torch.randn(2, channels, 6, 6, generator=noise)
            given = {name: value(scheduler, i) for name, value in options.items()}
            step = scheduler.step(predicted, t, sample, generator=draws, **given)
            sample = step.prev_sample
            found += [sample, step.pred_original_sample]
    return found


@pytest.mark.parametrize("steps", [1, 2, 7, 50])
@pytest.mark.parametrize("config", CONFIGS)
def test_ddpm(config, steps):
    channels = 8 if config == "learned" else 4
    ours, theirs = (
        run(kind.from_config(CONFIGS[config]), steps, channels)
        for kind in (LeanDDPM, diffusers.DDPMScheduler)
    )
    assert all(map(torch.equal, ours, theirs)) and len(ours) == len(theirs) == 4 * steps


@pytest.mark.parametrize("steps", [2, 7, 25, 1000])
@pytest.mark.parametrize("prediction", ["sample", "epsilon"])
def test_unclip(prediction, steps):
    config = architectures.PRIOR["scheduler"] | {"prediction_type": prediction}

    def previous(scheduler, i):
        return scheduler.timesteps[i + 1] if i + 1 < len(scheduler.timesteps) else None

    ours, theirs = (
        run(kind.from_config(config), steps, 4, prev_timestep=previous)
        for kind in (LeanUnCLIP, diffusers.UnCLIPScheduler)
    )
    assert all(map(torch.equal, ours, theirs)) and len(ours) == 4 * steps


KARRAS = ("euler", "heun", "dpmpp_2m", "dpmpp_2m_sde", "uni_pc", "deis", "lms")


@pytest.mark.parametrize(
    ("name", "spacing"),
    [*((name, "checkpoint") for name in SAMPLERS), *((name, "karras") for name in KARRAS)],
)
def test_added_noise(name, spacing):
    """The first level and those after a step, as image to image and inpainting ask for them."""
    picture, noise = torch.randn(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(0))
    ours, theirs = (build_scheduler(CONFIGS["published"], name, spacing) for _ in range(2))
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(8)
        timesteps = set_strength(scheduler, 8, 0.5)
    order = getattr(ours, "order", 1)
    for i in range(4):
        level = timesteps[i * order][None]
        wanted = theirs.add_noise(picture, noise, level)
        assert torch.equal(add_noise(ours, picture, noise, level), wanted)
        for t in timesteps[i * order : (i + 1) * order]:
            for scheduler in (ours, theirs):
                scheduler.step(noise, t, picture)


def test_added_noise_of_the_prior():
    start, noise = torch.randn(2, 3, 2, 5, generator=torch.Generator().manual_seed(0))
    plain = diffusers.UnCLIPScheduler.from_config(architectures.PRIOR["scheduler"])
    for t in (torch.tensor([500]), torch.tensor([0])):
        assert torch.equal(add_noise(plain, start, noise, t), plain.add_noise(start, noise, t))
