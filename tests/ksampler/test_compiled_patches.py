"""A compiled MODEL with a node's patch gives the latents that it gives without torch.compile.

TorchCompileModel has torch.compile ignore what changes within `transformer_options`. So a compiled
MODEL could keep the patches, or the state of a cache, of the call that was traced.
"""

import pytest
import torch
from comfy_extras import (
    nodes_easycache,
    nodes_freelunch,
    nodes_nag,
    nodes_pag,
    nodes_sag,
    nodes_slg,
)
from comfy_extras.nodes_model_downscale import PatchModelAddDownscale
from comfy_extras.nodes_torch_compile import TorchCompileModel
from helpers import oracle
from helpers.patch_setting import Setting, agree
from helpers.tiny_models import TEXT_TO_IMAGE
from kandinsky22.nodes.optimize import Optimize
from torch._dynamo.utils import counters

pytestmark = pytest.mark.long
MOST = 1e-4  # difference of latents, in fp32 on a CPU


def put(node, *values):
    """Return a function that puts a node with these values on a MODEL."""
    return lambda model: node.execute(model, *values).args[0]


def same(model):
    return model


FREEU = (1.3, 1.4, 0.9, 0.2)
SHRINK = (2, 2.0, 0.0, 0.35, True, "bicubic", "bicubic")
CACHED = (0.0, 1.0, False)
# Node → what is put on the MODEL, one after the other.
PATCHES = {
    "PerturbedAttentionGuidance": [put(nodes_pag.PerturbedAttentionGuidance, 3.0)],
    "SelfAttentionGuidance": [put(nodes_sag.SelfAttentionGuidance, 0.5, 2.0)],
    "NAGuidance": [put(nodes_nag.NAGuidance, scale, 0.5, 1.5) for scale in (5.0, 8.0)],
    "FreeU": [put(nodes_freelunch.FreeU, *FREEU)],
    "FreeU_V2": [put(nodes_freelunch.FreeU_V2, *FREEU)],
    "SkipLayerGuidanceDiT": [put(nodes_slg.SkipLayerGuidanceDiT, 2.0, 0.0, 1.0, "1", "")],
    "SkipLayerGuidanceDiTSimple": [put(nodes_slg.SkipLayerGuidanceDiTSimple, 0.0, 1.0, "1", "")],
    "PatchModelAddDownscale": [put(PatchModelAddDownscale, *SHRINK)],
    "EasyCache": [put(nodes_easycache.EasyCacheNode, least, *CACHED) for least in (0.3, 3.0)],
    "LazyCache": [put(nodes_easycache.LazyCacheNode, least, *CACHED) for least in (0.3, 3.0)],
}
# One of each kind: attention, blocks, sizes, a cache. All of them take ten minutes.
OFTEN = {
    ("PerturbedAttentionGuidance", "stage"),
    ("FreeU", "ksampler"),
    ("PatchModelAddDownscale", "stage"),
    ("EasyCache", "ksampler"),
}


@pytest.fixture(autouse=True)
def nothing_compiled():
    """Begin anew, because torch.compile compiles only 8 versions of one function."""
    torch._dynamo.reset()
    counters.clear()


@pytest.fixture
def setting(models, load_decoder, embeds):
    # Self-Attention Guidance needs 16 latents on a side.
    return Setting(models, load_decoder, embeds, TEXT_TO_IMAGE, side=16)


def differences(setting, path, patches, backend="eager"):
    """Return what was run → how far the latents are from those without torch.compile."""
    sample = getattr(setting, path)
    plain, *expected = [sample(change(setting.model)) for change in (same, *patches)]
    assert not agree(expected[0], plain), "The patch changes nothing, so this test shows nothing."
    (compiled,) = TorchCompileModel.execute(setting.model, backend).args
    found = {"without the patch": oracle.max_diff(sample(compiled), plain)}
    for number, (patch, wanted) in enumerate(zip(patches, expected, strict=True), 1):
        after = sample(patch(compiled))
        found[f"patch {number} after TorchCompileModel"] = oracle.max_diff(after, wanted)
    found["without the patch again"] = oracle.max_diff(sample(compiled), plain)
    (before,) = TorchCompileModel.execute(patches[0](setting.model), backend).args
    found["patch 1 before TorchCompileModel"] = oracle.max_diff(sample(before), expected[0])
    assert counters["frames"]["ok"], "Nothing was compiled."
    return found


def refuse_differences(found, most, what):
    lines = [f"{run}: {value:.3g}" for run, value in found.items()]
    wrong = [line for line, value in zip(lines, found.values(), strict=True) if value > most]
    assert not wrong, f"{what}: latents differ by more than {most:.3g}.\n" + "\n".join(lines)


@pytest.mark.parametrize(
    "node, path",
    [
        pytest.param(node, path, marks=() if (node, path) in OFTEN else pytest.mark.slow)
        for node in PATCHES
        for path in ("ksampler", "stage")
    ],
)
def test_compiled_is_not_compiled(setting, node, path):
    found = differences(setting, path, PATCHES[node])
    refuse_differences(found, MOST, f"{node} in {path}")


@pytest.mark.slow
@pytest.mark.parametrize("path", ["ksampler", "stage"])
def test_inductor(models, load_decoder, embeds, path):
    """Inductor's sums have another order, so the difference is relative to the largest latent."""
    setting = Setting(models, load_decoder, embeds, TEXT_TO_IMAGE)
    patches = PATCHES["NAGuidance"][:1]
    largest = getattr(setting, path)(setting.model).abs().max().item()
    found = differences(setting, path, patches, "inductor")
    refuse_differences(found, MOST * largest, f"NAGuidance in {path}, by inductor")


def test_easy_cache_keeps_the_unet_compiled(setting):
    """The wrappers run outside torch.compile, and the UNet within them is one graph."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper

    sizes = []

    def backend(graph, inputs):
        def run(*arguments):
            sizes.append(len(graph.graph.nodes))
            return graph.forward(*arguments)

        return run

    compiled = setting.model.clone(disable_dynamic=True)
    set_torch_compile_wrapper(model=compiled, backend=backend)
    setting.ksampler(compiled)
    plain, steps = max(sizes), len(sizes)
    sizes.clear()
    setting.ksampler(PATCHES["EasyCache"][0](compiled))
    whole = [size for size in sizes if size > plain / 2]
    assert whole and set(whole) <= {plain - 1, plain, plain + 1} and len(whole) < steps


def test_another_attention(setting):
    """A function of other nodes that computes attention is not that of an earlier call."""

    def weaker(factor):
        def override(attention, *arguments, **options):
            return attention(*arguments, **options) * factor

        def change(model):
            model = model.clone()
            model.model_options["transformer_options"]["optimized_attention_override"] = override
            return model

        return change

    setting.model = Optimize.execute(setting.model, "host", False).args[0]
    found = differences(setting, "ksampler", [weaker(0.5), weaker(0.2)])
    refuse_differences(found, MOST, "another attention")
