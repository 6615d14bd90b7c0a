"""Every sampler and spacing finds the known answer of a model with a closed form.

For pictures with mean 0 and deviation S, the best noise prediction has a closed form. So has the
result of a sampler for any start: a multiple of it, or a multiple and noise (Song et al.,
Score-based generative modeling through stochastic differential equations, arXiv:2011.13456).
"""

import comfy.k_diffusion.sampling as k_diffusion
import numpy as np
import pytest
import scipy.stats
import torch
from helpers import tiny_models
from hypothesis import given
from hypothesis import strategies as st
from kandinsky22.utils.kandinsky import decoder
from kandinsky22.utils.kandinsky.noise import item_generators
from kandinsky22.utils.kandinsky.schedulers import (
    SAMPLERS,
    SPACINGS,
    build_scheduler,
    fewest_steps,
    scheduler_settings,
    set_strength,
)

S = 0.5
CONFIG = tiny_models.DECODER_SCHEDULER | {"clip_sample": False, "timestep_spacing": "leading"}
ALPHAS = np.cumprod(1 - np.linspace(0.00085, 0.012, 1000)).tolist()
NOISY = {"ddpm", "euler_ancestral", "dpm_2_ancestral", "dpmpp_2m_sde"}  # in every step
UNSCALED = {"euler", "euler_ancestral", "heun", "dpm_2", "dpm_2_ancestral", "lms"}  # x + σ noise


def alpha_at(timestep: torch.Tensor) -> float:
    position = float(timestep)
    low = int(position)
    high = min(low + 1, 999)
    return ALPHAS[low] ** (1 - position + low) * ALPHAS[high] ** (position - low)


class Model:
    """Predicts the noise of such pictures, and counts its calls."""

    calls = 0

    def __call__(self, x: torch.Tensor, t: torch.Tensor, _) -> torch.Tensor:
        self.calls += 1
        alpha = alpha_at(t)
        noise = x * ((1 - alpha) ** 0.5 / (alpha * S**2 + 1 - alpha))
        return torch.cat([noise, torch.zeros_like(noise)], dim=1)


def begin(sampler: str, spacing: str, steps: int, strength: float, picture: torch.Tensor):
    """Return (scheduler, timesteps, noise, the start of the steps)."""
    scheduler = build_scheduler(CONFIG, sampler, spacing)
    scheduler.set_timesteps(steps)
    timesteps = set_strength(scheduler, steps, strength)
    noise = torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(2))
    start = noise * scheduler.init_noise_sigma
    if strength < 1:
        start = scheduler.add_noise(picture, noise, timesteps[:1])
    return scheduler, timesteps, noise, start


def sample(model: Model, scheduler, timesteps, start, preserve=None) -> torch.Tensor:
    conditions, generators = torch.zeros(1, 1), item_generators(0, [0])
    return decoder.denoise(
        model,
        scheduler,
        timesteps,
        start,
        conditions,
        [1.0] * len(timesteps),
        generators,
        preserve=preserve,
    )


@pytest.fixture
def picture() -> torch.Tensor:
    """It has another deviation than the model's pictures, so it changes if it is not kept."""
    return 2 * S * torch.randn(1, 4, 32, 32, generator=torch.Generator().manual_seed(1))


def pairs() -> list[tuple[str, str]]:
    found = []
    for sampler in SAMPLERS:
        for spacing in SPACINGS:
            try:
                scheduler_settings(CONFIG, sampler, spacing)
            except ValueError:
                continue
            found.append((sampler, spacing))
    return found


def test_the_pairs_that_there_are():
    assert len(pairs()) == 75
    assert ("ddpm", "checkpoint") in pairs() and ("ddpm", "karras") not in pairs()


@pytest.mark.parametrize("strength", [1.0, 0.3])
@pytest.mark.parametrize("sampler, spacing", pairs())
def test_what_is_known_comes_out(sampler, spacing, strength, picture):
    scheduler, timesteps, _, start = begin(sampler, spacing, 100, strength, picture)
    samples = sample(model := Model(), scheduler, timesteps, start)

    order = getattr(scheduler, "order", 1)  # the number of calls of a step, except for the last
    assert model.calls == order * round(100 * strength) - order + 1

    alpha = alpha_at(timesteps[0])
    x = start * (alpha**0.5 if sampler in UNSCALED else 1)
    variance = alpha * S**2 + 1 - alpha
    # The steps are at least of first order, so their error halves from 100 to 200 steps, where it
    # is 4.2 % at most.
    if sampler in NOISY:
        kept, added = alpha**0.5 * S**2 / variance, S**2 * (1 - alpha) / variance
        expected = ((kept * x.std()) ** 2 + added) ** 0.5
        assert samples.std().item() == pytest.approx(expected.item(), rel=0.1)
    else:
        expected = x * S / variance**0.5
        assert (samples - expected).abs().max() < 0.1 * expected.abs().max()


@pytest.mark.parametrize("sampler, spacing", [pair for pair in pairs() if "checkpoint" not in pair])
def test_the_noise_levels_of_a_spacing(sampler, spacing):
    """They are compared with the papers' formulas, or those of SciPy and k-diffusion."""
    scheduler = build_scheduler(CONFIG, sampler, spacing)
    scheduler.set_timesteps(10)
    first, last = scheduler.timesteps[0].item(), scheduler.timesteps[-1].item()
    low, high = (((1 - alpha) / alpha) ** 0.5 for alpha in (ALPHAS[0], ALPHAS[-1]))
    if spacing == "leading":
        assert first == 901 and last in (1, 91)  # 91: from 1000 // 11, and the next would be 0
    elif spacing == "trailing":
        assert first == 999 and last == 99
    elif spacing == "linspace":
        assert first == 999 and last in (0, 100)
    else:
        wanted = {
            "karras": lambda: k_diffusion.get_sigmas_karras(10, low, high)[:-1],
            "exponential": lambda: k_diffusion.get_sigmas_exponential(10, low, high)[:-1],
            "beta": lambda: (
                low + (high - low) * scipy.stats.beta.ppf(np.linspace(1, 0, 10), 0.6, 0.6)
            ),
        }[spacing]()
        levels = list(dict.fromkeys(scheduler.sigmas[scheduler.sigmas > 0].tolist()))
        assert levels == pytest.approx(np.asarray(wanted).tolist(), rel=1e-3)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_what_is_preserved_stays(sampler, picture):
    scheduler, timesteps, noise, start = begin(sampler, "checkpoint", 20, 1.0, picture)
    keep = torch.zeros(1, 1, 32, 32)
    keep[..., :16] = 1
    preserve = decoder.Preserve(picture, noise, keep)
    samples = sample(Model(), scheduler, timesteps, start, preserve)
    assert torch.equal(samples[..., :16], picture[..., :16])
    assert samples[..., 16:].std().item() == pytest.approx(S, rel=0.25)


@pytest.mark.parametrize("steps", [1, 2, 5, pytest.param(500, marks=pytest.mark.long)])
@pytest.mark.parametrize("sampler, spacing", pairs())
def test_any_number_of_steps(sampler, spacing, steps, picture):
    scheduler, timesteps, _, start = begin(sampler, spacing, steps, 1.0, picture)
    assert torch.isfinite(sample(Model(), scheduler, timesteps, start)).all()


@given(st.integers(1, 1000))
def test_the_steps_that_a_strength_needs(thousandth):
    """The number in the message leaves one step to run, and one step fewer leaves none."""
    strength = thousandth / 1000
    steps = fewest_steps(strength)
    assert int(steps * strength) >= 1 and (steps == 1 or int((steps - 1) * strength) < 1)
    if steps > 2:
        scheduler = build_scheduler({}, "ddpm", "checkpoint")
        scheduler.set_timesteps(steps - 1)
        with pytest.raises(ValueError, match=f"Use {steps} steps or more"):
            set_strength(scheduler, steps - 1, strength)
