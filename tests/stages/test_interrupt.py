"""Every stage stops within the step in which it is interrupted, and leaves nothing in memory."""

import comfy.model_management
import pytest
import torch
from helpers.decoding_stages import STAGES, each_stage, run
from helpers.every_stage import IN_STEPS, each
from helpers.module_calls import interrupt_at_the_second_call, watched

pytestmark = pytest.mark.long


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


@each(IN_STEPS)
def test_interrupted_at_every_step(request, build):
    stage = build(request.getfixturevalue)
    wanted = stage.run()
    with watched(stage.module) as calls:
        stage.run()

    for step in range(1, len(calls) + 1):

        def stop(calls, step=step):
            if len(calls) == step:
                comfy.model_management.interrupt_current_processing(True)

        with watched(stage.module, stop) as stopped:
            with pytest.raises(comfy.model_management.InterruptProcessingException):
                stage.run()
        assert len(stopped) == step
        assert torch.equal(stage.run(), wanted)
