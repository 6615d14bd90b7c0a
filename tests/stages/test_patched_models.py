"""The decoding stages honour what other nodes put on a MODEL, or refuse it by its name."""

import comfy.hooks
import pytest
import torch
from helpers import oracle
from helpers.decoding_stages import STAGES, run
from helpers.tiny_models import TEXT_TO_IMAGE
from kandinsky22 import nodes


def function_wrapper(model):
    model.set_model_unet_function_wrapper(lambda apply, arguments: None)


def attention_patch(model):
    model.set_model_attn2_patch(lambda q, k, v, options: (q, k, v))


def sampling_patch(model):
    model.add_object_patch("model_sampling", model.model.model_sampling)


def unknown_wrapper(model):
    from comfy.patcher_extension import WrappersMP

    model.add_wrapper(WrappersMP.OUTER_SAMPLE, lambda executor, *args: executor(*args))


def hook(model):
    weight = "diffusion_model.conv_in.weight"
    patch = {weight: (torch.ones_like(model.model.state_dict()[weight]),)}
    model.add_hook_patches(comfy.hooks.WeightHook(), patch)


@pytest.mark.parametrize(
    "change, named",
    [
        (function_wrapper, "model_function_wrapper"),
        (sampling_patch, "another model_sampling"),
        (unknown_wrapper, "outer_sample wrapper"),
        (hook, "hooks"),
    ],
)
def test_what_only_samplers_honour_is_refused(load_decoder, embeds, change, named):
    model = load_decoder(TEXT_TO_IMAGE)[0].clone()
    change(model)
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    with pytest.raises(ValueError, match=f"Only ComfyUI's own samplers.*: .*{named}.*Use KSampler"):
        run(nodes.Decoder, model, embeds(1, 1), embeds(1, 2), latent)


def test_a_refusal_names_the_node(load_decoder, embeds):
    from comfy_extras.nodes_differential_diffusion import DifferentialDiffusion
    from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete

    model = load_decoder(TEXT_TO_IMAGE)[0]
    for patched, named in (
        (DifferentialDiffusion.execute(model).args[0], r"DifferentialDiffusion \(denoise_mask_f"),
        (ModelSamplingDiscrete().patch(model, "eps", False)[0], "ModelSamplingDiscrete .another"),
    ):
        with pytest.raises(ValueError, match=f"this change to the MODEL: {named}"):
            run(
                nodes.Decoder,
                patched,
                embeds(1, 1),
                embeds(1, 2),
                {"samples": torch.zeros(1, 4, 8, 8)},
            )


def test_attention_patches_are_refused_everywhere(load_decoder, embeds):
    model = load_decoder(TEXT_TO_IMAGE)[0].clone()
    attention_patch(model)
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    with pytest.raises(ValueError, match="no place for patches of other models.*Take that node"):
        run(nodes.Decoder, model, embeds(1, 1), embeds(1, 2), latent)


@pytest.mark.parametrize("kind", ["APPLY_MODEL", "DIFFUSION_MODEL"])
def test_model_wrappers_are_honoured(load_decoder, embeds, kind):
    from comfy.patcher_extension import WrappersMP

    model = load_decoder(TEXT_TO_IMAGE)[0].clone()
    calls = []

    def wrapper(executor, *args, **kwargs):
        calls.append(1)
        return executor(*args, **kwargs)

    model.add_wrapper(getattr(WrappersMP, kind), wrapper)
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    ours = run(nodes.Decoder, model, embeds(1, 1), embeds(1, 2), latent)
    assert len(calls) == 6
    plain = load_decoder(TEXT_TO_IMAGE)[0]
    assert torch.equal(ours, run(nodes.Decoder, plain, embeds(1, 1), embeds(1, 2), latent))


def test_weight_patches_are_honoured_and_taken_back(load_decoder, embeds):
    plain = load_decoder(TEXT_TO_IMAGE)[0]
    model = plain.clone()
    key = "diffusion_model.conv_in.weight"
    shape = plain.model.diffusion_model.conv_in.weight.shape
    model.add_patches({key: ("diff", (torch.full(shape, 0.1),))}, 1.0)
    latent = {"samples": torch.zeros(1, 4, 8, 8)}
    before = run(nodes.Decoder, plain, embeds(1, 1), embeds(1, 2), latent)
    patched = run(nodes.Decoder, model, embeds(1, 1), embeds(1, 2), latent)
    assert oracle.max_diff(before, patched) > 0.01
    assert torch.equal(run(nodes.Decoder, plain, embeds(1, 1), embeds(1, 2), latent), before)


@pytest.mark.parametrize("node", [nodes.Decoder, nodes.ControlNet])
def test_model_compute_dtype_is_honoured(load_decoder, embeds, node):
    from comfy_extras.nodes_model_advanced import ModelComputeDtype

    name, widgets = STAGES[node]
    plain, latent = load_decoder(name)[0], {"samples": torch.zeros(1, 4, 8, 8)}
    samples = {
        dtype: run(node, model, embeds(1, 1), embeds(1, 2), latent, **widgets)
        for dtype, model in {
            "": plain,
            **{kind: ModelComputeDtype().patch(plain, kind)[0] for kind in ("default", "bf16")},
        }.items()
    }
    assert torch.equal(samples[""], samples["default"])
    difference = (samples["bf16"] - samples[""]).norm()
    assert 0 < difference < 0.2 * samples[""].norm()
    assert torch.equal(run(node, plain, embeds(1, 1), embeds(1, 2), latent, **widgets), samples[""])
