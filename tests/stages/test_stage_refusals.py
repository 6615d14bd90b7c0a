"""The decoding stages refuse inputs that do not fit, and the error says which would."""

import re

import pytest
import torch
from helpers.decoding_stages import (
    STAGES,
    box_mask,
    each_stage,
    picture,
    run,
)
from helpers.tiny_models import DEPTH, INPAINT, TEXT_TO_IMAGE
from kandinsky22 import nodes


@each_stage
@pytest.mark.parametrize("wrong", [TEXT_TO_IMAGE, INPAINT, DEPTH])
def test_every_mix_up_of_decoders_is_named(load_decoder, embeds, node, wrong):
    right, widgets = STAGES[node]
    arguments = (node, load_decoder(wrong)[0], embeds(1, 1), embeds(1, 2))
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    if wrong == right:
        assert run(*arguments, latent, **widgets).shape == (1, 4, 8, 8)
        return
    published = re.escape(right.replace("tiny-", "") + " (or")
    with pytest.raises(ValueError, match=f"^In Load Decoder, choose {published}"):
        run(*arguments, latent, **widgets)


def test_nan_is_not_passed_on(load_decoder, embeds):
    model, _ = load_decoder(TEXT_TO_IMAGE)
    latent = {"samples": torch.full((1, 4, 8, 8), float("nan"))}
    with pytest.raises(ValueError, match="came out with NaN"):
        run(nodes.Img2Img, model, embeds(1, 1), embeds(1, 2), latent, denoise=0.5)


@pytest.mark.parametrize(
    "node, change, message",
    [
        (nodes.Inpaint, dict(mask=None), "mask is None, and the inpaint decoder"),
        (nodes.ControlNet, dict(hint=None), "hint is None, and the depth decoder"),
        (nodes.Inpaint, dict(mask="x"), "A MASK is .* not empty: 'x'"),
        (nodes.Inpaint, dict(mask=torch.zeros(1, 0, 24)), r"not empty: \(1, 0, 24\)"),
        (nodes.ControlNet, dict(hint="x"), "An IMAGE is .* not empty: 'x'"),
        (nodes.ControlNet, dict(hint=torch.ones(1, 8, 8, 2)), "has 1, 3 or 4 channels, not 2"),
        (nodes.ControlNet, dict(hint=torch.zeros(1, 0, 64, 3)), r"not empty: \(1, 0, 64, 3\)"),
        (nodes.Img2Img, dict(denoise="x"), "denoise.* is 'x', not a finite number"),
    ],
)
def test_what_only_some_stages_take(load_decoder, embeds, node, change, message):
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    model, _ = load_decoder(STAGES[node][0])
    with pytest.raises(ValueError, match=message):
        run(node, model, embeds(1, 1), embeds(1, 2), latent, **change)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(latent={"samples": torch.zeros(1, 4, 0, 8)}), r"empty: \(1, 4, 0, 8\)"),
        (dict(positive="x"), "'x' came where a KANDINSKY22_EMBEDS belongs"),
        (dict(latent=5), "not 5: this LATENT is for another model"),
        (dict(model="x"), "This MODEL is a str"),
        (dict(latent={"samples": torch.zeros(1, 4, 2, 8, 8)}), r"not \(1, 4, 2, 8, 8\)"),
    ],
)
def test_values_of_another_type_are_named(load_decoder, embeds, change, message):
    values = dict(model=load_decoder(TEXT_TO_IMAGE)[0], positive=embeds(1, 1))
    values |= dict(latent={"samples": torch.zeros(1, 4, 8, 8)}) | change
    with pytest.raises(ValueError, match=message):
        run(nodes.Decoder, values["model"], values["positive"], embeds(1, 2), values["latent"])


def test_batches_that_do_not_pair_are_refused(load_decoder, embeds):
    latent = {"samples": torch.zeros(2, 4, 8, 8)}
    arguments = (nodes.Inpaint, load_decoder(INPAINT)[0], embeds(2, 1), embeds(1, 2), latent)
    with pytest.raises(ValueError, match="image_embeds has 2, latent has 2, mask has 3"):
        run(*arguments, mask=box_mask(3))
    arguments = (nodes.ControlNet, load_decoder(DEPTH)[0], embeds(2, 1), embeds(1, 2), latent)
    with pytest.raises(ValueError, match="image_embeds has 2, latent has 2, hint has 3"):
        run(*arguments, hint=picture(3))
