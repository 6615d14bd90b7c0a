"""Values that no step changes are computed once a run, and the UNet does no unnecessary work."""

import inspect

import diffusers
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from helpers.decoding_stages import STAGES, each_stage, run
from helpers.module_calls import watched
from helpers.tiny_models import DEPTH, TEXT_TO_IMAGE
from kandinsky22.nodes.decoder import Decoder
from kandinsky22.utils.comfyui.unet import Kandinsky22UNet
from kandinsky22.utils.kandinsky.prior import TextFeatures

LATENT = {"samples": torch.linspace(-1, 1, 256).view(1, 4, 8, 8)}


@each_stage
def test_embeddings_and_hint_are_read_once(load_decoder, embeds, node):
    name, widgets = STAGES[node]
    model, _ = load_decoder(name)
    unet = model.model.diffusion_model
    parts = [unet.encoder_hid_proj, unet.add_embedding, unet.attention_layers[-1].add_k_proj]
    for part in parts:
        with watched(part) as calls, watched(unet.conv_in) as steps:
            run(node, model, embeds(1, 1), embeds(1, 2), LATENT, **widgets)
        assert len(calls) == 1 < len(steps)


def test_a_wrapper_that_changes_the_embeddings_is_heard(load_decoder, embeds):
    model, _ = load_decoder(TEXT_TO_IMAGE)
    other = model.clone()

    def double(executor, x, timesteps, context, **rest):
        return executor(x, timesteps, 2 * context, **rest)

    other.add_wrapper(WrappersMP.DIFFUSION_MODEL, double)
    twice = [type(value)(2 * value.tensor) for value in (embeds(1, 1), embeds(1, 2))]
    wanted = run(Decoder, model, *twice, LATENT)
    assert torch.equal(run(Decoder, other, embeds(1, 1), embeds(1, 2), LATENT), wanted)


@pytest.mark.parametrize("name", [TEXT_TO_IMAGE, DEPTH])
@pytest.mark.parametrize("read_before", [False, True])
def test_a_call_is_diffusers_own_to_the_bit(load_decoder, models, name, read_before):
    unet = load_decoder(name)[0].model.diffusion_model
    theirs = diffusers.UNet2DConditionModel.from_pretrained(models / name / "unet")
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, 4, 8, 16, generator=draw)
    context = torch.randn(2, 1, unet.embeds_width, generator=draw)
    hint = torch.rand(2, 3, 64, 128, generator=draw) if name == DEPTH else None
    with torch.no_grad():
        given = {"image_embeds": context[:, 0]} | ({} if hint is None else {"hint": hint})
        wanted = theirs(x, torch.tensor(7.0), None, added_cond_kwargs=given).sample
        conditions = unet.condition(context, hint) if read_before else None
        found = unet(x, torch.tensor(7.0), context, hint, conditions=conditions, with_variance=True)
    assert torch.equal(found, wanted)


def test_one_graph_whether_read_before_or_not(load_decoder):
    """torch.compile finds nothing that it does not support."""
    unet: Kandinsky22UNet = load_decoder(TEXT_TO_IMAGE)[0].model.diffusion_model
    x, context = torch.randn(2, 4, 8, 8), torch.randn(2, 1, unet.embeds_width)
    with torch.no_grad():
        compiled = torch.compile(unet, backend="eager", fullgraph=True)
        for conditions in (None, unet.condition(context, None)):
            found = compiled(x, torch.tensor(7.0), context, conditions=conditions)
            wanted = unet(x, torch.tensor(7.0), context)
            assert torch.equal(found, wanted)


def test_no_layer_looks_up_the_arguments_of_its_processor(load_decoder, prior, monkeypatch):
    """diffusers' layers inspect a signature at each call, which costs the CPU 35 µs."""
    unet = load_decoder(TEXT_TO_IMAGE)[0].model.diffusion_model
    transformer = prior.transformer.module
    rows = torch.zeros(1, 24), torch.zeros(1, 77, 24), torch.ones(1, 77).bool()
    monkeypatch.setattr(inspect, "signature", lambda *_: pytest.fail("looked up"))
    with torch.no_grad():
        unet(LATENT["samples"], torch.tensor(7.0), torch.zeros(1, 1, unet.embeds_width))
        transformer(rows[0], torch.tensor(7), transformer.read(TextFeatures(*rows)))
