"""Stopping in the middle: at once, and with nothing left behind."""

import comfy.model_management
import pytest
import torch
from test_stages import STAGES, each_stage, run


@each_stage
def test_a_stage_stops_within_the_step(load_decoder, embeds, node):
    name, widgets = STAGES[node]
    model, _ = load_decoder(name)
    latent = {"samples": torch.ones(1, 4, 8, 8)}
    arguments = (node, model, embeds(1, 1), embeds(1, 2), latent)
    whole = run(*arguments, **widgets)
    calls = []

    def stop_at_the_second(*_):
        calls.append(1)
        if len(calls) == 2:
            comfy.model_management.interrupt_current_processing(True)

    hook = model.model.diffusion_model.register_forward_pre_hook(stop_at_the_second)
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            run(*arguments, **widgets)
    finally:
        hook.remove()
    assert len(calls) == 2
    assert torch.equal(run(*arguments, **widgets), whole)


@pytest.mark.parametrize("start", [False, True], ids=["prior", "emb2emb"])
def test_the_prior_stops_within_the_step(prior, embeds, start):
    arguments = dict(start=embeds() if start else None, strength=0.9)
    whole = prior.sample("a cat", "", 1, 8, 4.0, **arguments)[0].tensor
    transformer = prior.transformer.patcher.model.module
    calls = []

    def stop_at_the_second(*_):
        calls.append(1)
        if len(calls) == 2:
            comfy.model_management.interrupt_current_processing(True)

    hook = transformer.register_forward_pre_hook(stop_at_the_second)
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            prior.sample("a cat", "", 1, 8, 4.0, **arguments)
    finally:
        hook.remove()
    assert len(calls) == 2
    assert torch.equal(prior.sample("a cat", "", 1, 8, 4.0, **arguments)[0].tensor, whole)
