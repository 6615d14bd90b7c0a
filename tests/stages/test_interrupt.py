"""Stopping in the middle: at once, and with nothing left behind."""

import pytest
import torch
from helpers.decoding_stages import STAGES, each_stage, run
from helpers.module_calls import interrupt_at_the_second_call


@each_stage
def test_a_stage_stops_within_the_step(load_decoder, embeds, node):
    name, widgets = STAGES[node]
    model, _ = load_decoder(name)
    latent = {"samples": torch.ones(1, 4, 8, 8)}

    def samples():
        return run(node, model, embeds(1, 1), embeds(1, 2), latent, **widgets)

    whole = samples()
    interrupt_at_the_second_call(model.model.diffusion_model, samples)
    assert torch.equal(samples(), whole)


@pytest.mark.parametrize("start", [False, True], ids=["prior", "emb2emb"])
def test_the_prior_stops_within_the_step(prior, embeds, start):
    def sample():
        begin = embeds() if start else None
        return prior.sample("a cat", "", 1, 8, 4.0, start=begin, strength=0.9)[0].tensor

    whole = sample()
    interrupt_at_the_second_call(prior.transformer.patcher.model.module, sample)
    assert torch.equal(sample(), whole)
