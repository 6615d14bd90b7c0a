"""A MODEL that other nodes merge, cache or compile works in samplers and stages."""

import comfy.model_management
import comfy.model_patcher
import comfy.samplers
import pytest
import torch
from helpers import oracle
from helpers.ksampler import canvas, ksampler
from helpers.module_calls import watched
from helpers.tiny_models import TEXT_TO_IMAGE
from kandinsky22.nodes.decoder import Decoder
from kandinsky22.utils.comfyui.load_model import load_model


def test_merges_serve_samplers_and_stages(load_decoder, embeds, pair):
    """ModelMergeSimple of two MODELs is compared with the same weights merged by hand."""
    from comfy_extras.nodes_model_merging import ModelMergeSimple

    one = load_decoder(TEXT_TO_IMAGE)[0]
    comfy.model_management.load_models_gpu([one])  # without patches of an earlier test
    two, by_hand = one.clone(), one.clone()
    weights = {f"diffusion_model.{k}": v for k, v in one.model.diffusion_model.state_dict().items()}
    two.add_patches({key: ("set", (1.2 * value,)) for key, value in weights.items()}, 1.0)
    (merged,) = ModelMergeSimple().merge(one, two, 0.25)
    by_hand.add_patches(
        {key: ("set", (0.25 * v + 0.75 * (1.2 * v),)) for key, v in weights.items()}, 1.0
    )
    widgets = dict(seed=7, steps=4, cfg=4.0, sampler_name="ddpm", scheduler="checkpoint")

    def both(model):
        stage = Decoder.execute(model, embeds(1, 1), canvas(), embeds(1, 2), **widgets)
        return ksampler(model, *pair, canvas()), stage.args[0]["samples"]

    before = both(one)
    for a, b, c in zip(before, both(merged), both(by_hand), strict=True):
        assert oracle.max_diff(a, b) > 0.1
        torch.testing.assert_close(b, c, rtol=1e-4, atol=1e-3)
    assert all(torch.equal(a, b) for a, b in zip(before, both(one), strict=True))


def unet_calls(model, pair, steps=12) -> int:
    with watched(model.model.diffusion_model.conv_in) as calls:
        samples = ksampler(model, *pair, canvas(), steps=steps)
    assert samples.isfinite().all()
    return len(calls)


def test_easy_cache_saves_unet_calls(load_decoder, pair):
    from comfy_extras.nodes_easycache import EasyCacheNode

    model = load_decoder(TEXT_TO_IMAGE)[0]
    counts = [unet_calls(model, pair)]
    for threshold in (0.1, 0.5, 3.0):
        cached = EasyCacheNode.execute(model, threshold, 0.0, 1.0, False).args[0]
        counts.append(unet_calls(cached, pair))
    assert counts[0] == 12 and counts == sorted(counts, reverse=True) and counts[3] < counts[1]


@pytest.mark.long
def test_torch_compile_serves_samplers_and_stages(load_decoder, embeds, pair):
    """The graph of torch.compile runs at every step, and the result is the same."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    plain = load_decoder(TEXT_TO_IMAGE)[0]
    graphs, runs = [], []

    def backend(graph, inputs):
        graphs.append(graph)

        def run(*arguments):
            runs.append(graph)
            return graph.forward(*arguments)

        return run

    compiled = plain.clone(disable_dynamic=True)
    set_torch_compile_wrapper(model=compiled, backend=backend)
    widgets = dict(seed=7, steps=4, cfg=4.0, sampler_name="ddpm", scheduler="checkpoint")

    def stage(model):
        result = Decoder.execute(model, embeds(1, 1), canvas(), embeds(1, 2), **widgets)
        return result.args[0]["samples"]

    for sample in (stage, lambda model: ksampler(model, *pair, canvas())):
        expected = sample(plain)
        runs.clear()
        torch.testing.assert_close(sample(compiled), expected, rtol=1e-4, atol=1e-3)
        assert graphs and len(runs) >= 4 and len(runs) % 4 == 0


def test_without_dynamic_memory_it_is_the_plain_model_patcher(models):
    """TorchCompileModel and other nodes ask ComfyUI for such a MODEL."""
    model = load_model(models / TEXT_TO_IMAGE, disable_dynamic=True)
    assert type(model) is comfy.model_patcher.ModelPatcher
