"""Optimize changes attention and memory layout, and not the pictures."""

import comfy.ldm.modules.attention
import pytest
import torch
from comfy_extras.nodes_torch_compile import TorchCompileModel
from helpers import oracle
from kandinsky22.nodes.conditioning import Conditioning
from kandinsky22.nodes.decoder import Decoder
from kandinsky22.nodes.optimize import Optimize
from kandinsky22.utils.comfyui.load_model import lay_out_weights
from kandinsky22.utils.comfyui.model import forward_memory

import nodes as host

NAME = "kandinsky-2-2-tiny-decoder"
CANVAS = {"samples": torch.zeros(1, 4, 8, 8)}


@pytest.fixture(params=["stage", "KSampler"])
def sample(request, embeds):
    """Return a function MODEL → latents, of a stage node or of KSampler."""
    settings = dict(seed=7, steps=4, cfg=4.0)
    positive, negative = embeds(1, 1), embeds(1, 2)

    def stage(model):
        names = dict(sampler_name="ddpm", scheduler="checkpoint")
        return Decoder.execute(model, positive, CANVAS, negative, **settings, **names).args[0]

    def ksampler(model):
        names = dict(sampler_name="euler", scheduler="normal")
        conditions = dict(
            positive=Conditioning.execute(positive).args[0],
            negative=Conditioning.execute(negative).args[0],
        )
        return host.KSampler().sample(
            model, latent_image=CANVAS, **conditions, **settings, **names
        )[0]

    run = stage if request.param == "stage" else ksampler
    return lambda model: run(model)["samples"]


@pytest.mark.parametrize("attention", ["sdpa", "host", "plain"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_the_pictures_stay_the_same(load_decoder, sample, attention, channels_last):
    plain = load_decoder(NAME)[0]
    expected = sample(plain)
    optimized = Optimize.execute(plain, attention, channels_last).args[0]
    samples = sample(optimized)
    if (attention, channels_last) == ("sdpa", False):
        assert torch.equal(samples, expected)
    torch.testing.assert_close(samples, expected, rtol=1e-4, atol=1e-3)
    assert torch.equal(sample(plain), expected)  # exactly, also after the other layout


def test_channels_last_is_laid_out_on_load(load_decoder, sample):
    plain = load_decoder(NAME)[0]
    weight = "diffusion_model.mid_block.resnets.0.conv1"
    for wanted in (True, False):
        sample(Optimize.execute(plain, "sdpa", True).args[0] if wanted else plain)
        layer = plain.model.get_submodule(weight)
        assert layer.weight.is_contiguous(memory_format=torch.channels_last) is wanted


def test_what_is_kept_elsewhere_is_contiguous(load_decoder, sample):
    """Weights that come back from the device in the other format could not be pinned."""
    model = Optimize.execute(load_decoder(NAME)[0], "sdpa", True).args[0]
    sample(model)
    lay_out_weights(model, torch.device("meta"))  # as if all were kept off that device
    layers = [m for m in model.model.modules() if isinstance(m, torch.nn.Conv2d)]
    assert layers and all(layer.weight.is_contiguous() for layer in layers)


@pytest.mark.long
def test_a_choice_behind_what_is_compiled_already(load_decoder, sample):
    """TorchCompileModel has torch.compile ignore what changes in `transformer_options`."""
    plain = load_decoder(NAME)[0]
    wanted = {}
    for attention in ("sdpa", "plain", "host"):
        model = Optimize.execute(plain, attention, False).args[0]
        wanted[attention] = sample(model)
        compiled = TorchCompileModel.execute(model, "eager").args[0]
        assert torch.equal(sample(compiled), wanted[attention])
    assert not torch.equal(wanted["sdpa"], wanted["plain"])


@pytest.mark.long
def test_what_is_foreign_is_refused_where_all_is_compiled_already(load_decoder, sample):
    compiled = TorchCompileModel.execute(load_decoder(NAME)[0], "eager").args[0]
    sample(compiled)
    compiled.set_model_attn2_replace(None, "middle", 0)
    with pytest.raises(ValueError, match="no place for patches_replace"):
        sample(compiled)


def test_plain_attention_is_expected_to_take_more_memory(load_decoder):
    model = load_decoder(NAME)[0]
    shape = [2, 4, 96, 96]
    assert forward_memory(model, shape) == model.memory_required(shape)
    optimized = Optimize.execute(model, "plain", False).args[0]
    heads, size = 4, 4  # of the tiny UNet's first level with attention; float32
    more = forward_memory(optimized, shape) - model.memory_required(shape)
    assert more == 2 * (96 * 96) ** 2 * heads * size // 4


def test_host_attention_is_the_hosts(load_decoder, sample, monkeypatch):
    """Every attention layer goes through the function that ComfyUI has chosen."""
    from kandinsky22.utils.comfyui import attention as attentions

    plain = load_decoder(NAME)[0]
    for attention in ("attention_basic", "attention_split", "attention_sub_quad"):
        calls = []
        function = getattr(comfy.ldm.modules.attention, attention)

        def counted(*args, function=function, calls=calls, **kwargs):
            calls.append(1)
            return function(*args, **kwargs)

        monkeypatch.setattr(attentions, "optimized_attention", counted)
        expected = sample(plain)
        assert not calls
        samples = sample(Optimize.execute(plain, "host", False).args[0])
        layers = len(plain.model.diffusion_model.attn_processors)
        assert len(calls) == 4 * layers > 0
        torch.testing.assert_close(samples, expected, rtol=1e-4, atol=1e-3)


def test_a_node_that_takes_over_the_hosts_attention_is_honoured(load_decoder, sample):
    model = load_decoder(NAME)[0].clone()
    calls = []

    def override(function, *args, **kwargs):
        calls.append(1)
        return function(*args, **kwargs)

    model.model_options["transformer_options"]["optimized_attention_override"] = override
    samples = sample(model)
    assert len(calls) == 4 * len(model.model.diffusion_model.attn_processors)
    assert oracle.max_diff(samples, sample(load_decoder(NAME)[0])) < 1e-3


def test_one_model_carries_one_choice_and_leaves_the_other_alone(load_decoder):
    plain = load_decoder(NAME)[0]
    one = Optimize.execute(plain, "plain", False).args[0]
    two = Optimize.execute(one, "host", True).args[0]
    options = [model.model_options["transformer_options"] for model in (plain, one, two)]
    chosen = [(o.get("kandinsky22_attention"), o.get("kandinsky22_channels_last")) for o in options]
    assert chosen == [(None, None), ("plain", False), ("host", True)]
    with pytest.raises(ValueError, match="not a Kandinsky 2.2 decoder"):
        Optimize.execute(load_decoder(NAME)[1].patcher, "sdpa", False)
    with pytest.raises(ValueError, match="attention is 'flash'; choose one of sdpa, host, plain"):
        Optimize.execute(plain, "flash", False)
