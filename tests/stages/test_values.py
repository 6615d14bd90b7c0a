"""Over wires, numpy's and torch's scalars count as numbers, and True and False do not."""

import math

import numpy as np
import pytest
import torch
from helpers.decoding_stages import run
from helpers.tiny_models import TEXT_TO_IMAGE
from kandinsky22 import nodes
from kandinsky22.utils.kandinsky import checks
from kandinsky22.utils.kandinsky.latents import check_latent

WHOLE = [
    3,
    np.int64(3),
    np.uint8(3),
    np.array(3),
    torch.tensor(3),
    torch.tensor(3, dtype=torch.int8),
]
REAL = [0.5, np.float64(0.5), np.float32(0.5), np.float16(0.5), np.array(0.5), torch.tensor(0.5)]
NO_NUMBERS = [
    *(True, False, np.True_, torch.tensor(True), None, "3", b"3", [3], {}, 1j, np.complex64(1)),
    *(np.array([3]), np.array([3, 4]), torch.tensor([3]), torch.tensor([3, 4]), np.array("3")),
    *(torch.tensor(3.0, device="meta"), np.datetime64("2026-01-01")),
    *(math.nan, math.inf, -math.inf, np.float32("nan"), np.float64("inf"), torch.tensor(math.nan)),
    *(10**40, 10**400, torch.tensor(1e300, dtype=torch.float64)),
]
named = dict(ids=lambda value: f"{type(value).__name__}-{value!r:.30}")


@pytest.mark.parametrize("value", WHOLE, **named)
@pytest.mark.parametrize(
    "check", [checks.check_numbers, checks.check_whole_numbers, checks.check_counts]
)
def test_whole_numbers(check, value):
    (number,) = check(it=value)
    assert number == 3 and type(number) is int


@pytest.mark.parametrize("value", REAL, **named)
def test_numbers(value):
    (number,) = checks.check_numbers(it=value)
    assert number == 0.5 and type(number) in (float, np.float64)
    for check in (checks.check_whole_numbers, checks.check_counts):
        with pytest.raises(ValueError, match="^it is 0.5, and has to be a whole number"):
            check(it=value)


@pytest.mark.parametrize("value", NO_NUMBERS, **named)
@pytest.mark.parametrize(
    "check", [checks.check_numbers, checks.check_whole_numbers, checks.check_counts]
)
def test_no_numbers(check, value):
    with pytest.raises(ValueError, match="^it is .*not a finite number. Connect one"):
        check(it=value)


@pytest.mark.parametrize("value", [*NO_NUMBERS[2:], *WHOLE, *REAL], **named)
def test_no_choices_and_no_switches(value):
    with pytest.raises(ValueError, match="^it is .*; choose one of a, b"):
        checks.check_choice("it", value, ("a", "b"))
    if checks.plain(value) is not True:
        with pytest.raises(ValueError, match="^it is .*; it is either True or False"):
            checks.check_switch("it", value)


@pytest.mark.parametrize("value", [True, np.True_, torch.tensor(True), 1, np.int64(1)], **named)
def test_switches(value):
    assert checks.check_switch("it", value) is True


def numpys(value):
    return np.int64(value) if isinstance(value, int) else np.float32(value)


@pytest.mark.parametrize("kind", [numpys, torch.tensor])
def test_every_number_of_a_stage(load_decoder, embeds, kind):
    """This begins with the seed, which must not overflow."""
    model, _ = load_decoder(TEXT_TO_IMAGE)
    numbers = dict(seed=2**63 - 1, steps=4, cfg=1.5, denoise=0.5)
    latent = {"samples": torch.zeros(2, 4, 8, 8), "batch_index": [0, 5]}
    arguments = (nodes.Img2Img, model, embeds(1, 1), embeds(1, 2))
    expected = run(*arguments, latent, **numbers)
    found = run(*arguments, latent, **{name: kind(value) for name, value in numbers.items()})
    assert torch.equal(found, expected)


@pytest.mark.parametrize("kind", [numpys, torch.tensor])
def test_every_number_of_the_other_nodes(prior, embeds, kind):
    def give(kind):
        sampled = nodes.SamplePrior.execute(prior, "a", "", *map(kind, (2**63 - 1, 3, 1.5, 2)))
        mixed = nodes.Interpolate.execute(
            "linear",
            count=dict(
                image_embeds_1=embeds(),
                weight_1=kind(0.5),
                image_embeds_2=embeds(1, 1),
                weight_2=kind(2),
            ),
        )
        morph = nodes.InterpolateSequence.execute(embeds(), embeds(1, 1), kind(3), "slerp")
        parts = (torch.zeros(1, 16, 16, 3), torch.ones(1, 16, 16, 3), torch.ones(1, 16, 16))
        pasted = nodes.PasteBack.execute(*parts, kind(3))
        return [*(v.args[0].tensor for v in (sampled, mixed, morph)), pasted.args[0]]

    assert all(map(torch.equal, give(kind), give(lambda value: value)))


@pytest.mark.parametrize("frames", [True, np.True_, 3.0])
def test_frames_are_counted(embeds, frames):
    with pytest.raises(ValueError, match="frames is .*(not a finite|has to be a whole) number"):
        nodes.InterpolateSequence.execute(embeds(), embeds(1, 1), frames, "slerp")


@pytest.mark.parametrize(
    "given, message",
    [
        (None, None),
        ([3, 4], None),
        (np.array([3, 4]), None),
        (torch.tensor([3, 4]), None),
        ((0, 2**64 - 1), None),
        ([3], "2 items and a batch_index of 1"),
        (5, "2 items and a batch_index of 1"),
        (torch.tensor(5), "2 items and a batch_index of 1"),
        ([0.5, 1], "batch_index of the LATENT is 0.5, and has to be a whole number"),
        ([None, 1], "batch_index of the LATENT is None, not a finite number"),
        ("ab", "batch_index of the LATENT is 'a', not a finite number"),
    ],
)
def test_batch_index(load_decoder, embeds, given, message):
    latent = {"samples": torch.zeros(2, 4, 8, 8), "batch_index": given}
    if message:
        with pytest.raises(ValueError, match=message):
            check_latent(latent)
    else:
        arguments = (nodes.Decoder, load_decoder(TEXT_TO_IMAGE)[0], embeds(1, 1), embeds(1, 2))
        run(*arguments, latent, seed=2**64 - 1)
