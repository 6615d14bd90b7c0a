"""An adapter saved by peft has the effect here that it has in peft."""

import json
import shutil

import comfy.model_management
import peft
import pytest
import torch
from diffusers import PriorTransformer, UNet2DConditionModel
from helpers import oracle
from helpers.lora_reference import NODES, call, each_kind, load, network_of, patcher_of
from helpers.tiny_models import PRIOR, TEXT_TO_IMAGE
from safetensors import safe_open
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.long

CLOSE = 1e-5
CLASSES = {
    "decoder": (UNet2DConditionModel, TEXT_TO_IMAGE, "unet"),
    "prior": (PriorTransformer, PRIOR, "prior"),
}
TARGETS = {
    "decoder": ["to_q", "to_k", "to_out.0", "add_k_proj", "conv1", "conv_shortcut", "conv_in"],
    "prior": ["to_q", "to_v", "to_out.0", "net.0.proj", "proj_in"],
}
# The end of a name that also ends with to_q.
LONGER = {"decoder": "attentions.0.to_q", "prior": "attn1.to_q"}


def train(models, kind, config):
    """Return peft's own model with an adapter of random weights."""
    cls, name, part = CLASSES[kind]
    model = peft.get_peft_model(cls.from_pretrained(models / name / part), config)
    generator = torch.Generator().manual_seed(1)
    for key, weight in model.named_parameters():
        if "lora_magnitude_vector" in key:
            weight.data *= 0.5 + torch.rand(weight.shape, generator=generator)
        elif any(part in key for part in ("lora_", "hada_", "lokr_")):
            weight.data = torch.randn(weight.shape, generator=generator) / 3
    return model.eval()


def save(model, loras, name="adapter"):
    """Save as peft does. Return the name for the nodes."""
    shutil.rmtree(loras / name, ignore_errors=True)
    model.save_pretrained(loras / name, save_embedding_layers=False)
    return f"{name}/adapter_model.safetensors"


def our_weights(kind, name, strength=1.0):
    value = NODES[kind].execute(load(kind), name, strength).args[0]
    comfy.model_management.load_models_gpu([patcher_of(value)])
    return value, network_of(value).state_dict()


def check(model, kind, name, caplog):
    """Check that our outputs and weights are peft's, and not those without the adapter."""
    value, ours = our_weights(kind, name)
    other = load(kind)
    plain, before = call(other), network_of(other).state_dict()
    theirs = model.merge_and_unload().state_dict()
    changed = [key for key in theirs if not torch.equal(theirs[key], before[key])]
    assert len(changed) >= 5
    for key, weight in theirs.items():
        assert oracle.max_diff(ours[key], weight) < CLOSE, key
    network_of(other).load_state_dict(theirs)
    expected = call(other)
    assert oracle.max_diff(call(value), expected) < CLOSE * max(1.0, float(expected.abs().max()))
    assert oracle.max_diff(expected, plain) > 0.01
    patcher_of(value).partially_unload(torch.device("cpu"), patcher_of(value).model_size() // 2)
    assert oracle.max_diff(call(value), expected) < CLOSE * max(1.0, float(expected.abs().max()))
    assert "kandinsky22" not in {record.name for record in caplog.records}


def lora(kind, **settings):
    return peft.LoraConfig(target_modules=TARGETS[kind], **settings)


@pytest.mark.parametrize(
    "settings",
    [
        dict(r=4, lora_alpha=16),
        dict(r=16),  # peft's default alpha is 8
        dict(r=4, lora_alpha=4, use_rslora=True),
        dict(r=4, lora_alpha=16, lora_bias=True),
        dict(r=4, lora_alpha=8, use_dora=True),
        dict(r=4, lora_alpha=8, use_dora=True, use_rslora=True),
    ],
    ids=str,
)
@each_kind
def test_lora(models, loras, caplog, kind, settings):
    if settings.get("lora_bias"):
        settings = settings | {"exclude_modules": ["to_k"]}
    model = train(models, kind, lora(kind, **settings))
    check(model, kind, save(model, loras), caplog)


@each_kind
@pytest.mark.parametrize("rslora", [False, True])
def test_patterns(models, loras, caplog, kind, rslora):
    """The first pattern that fits a module counts. The file has them sorted."""
    first = {"decoder": "^conv_in$", "prior": "^proj_in"}[kind]
    patterns = dict(
        rank_pattern={LONGER[kind]: 8, "to_out.0": 2, "to_q": 6},
        alpha_pattern={first: 9, LONGER[kind]: 7, "to_out\\.0": 3, "to_q": 5},
    )
    model = train(models, kind, lora(kind, r=4, lora_alpha=16, use_rslora=rslora, **patterns))
    check(model, kind, save(model, loras), caplog)


@pytest.mark.parametrize(
    "cls, settings",
    [
        (peft.LoHaConfig, dict(r=4, alpha=8)),
        (peft.LoHaConfig, dict(r=4, alpha=8, use_effective_conv2d=True)),
        (peft.LoHaConfig, dict(r=4, alpha=8, alpha_pattern={"to_q": 2}, rank_pattern={"to_q": 3})),
        (peft.LoKrConfig, dict(r=4, alpha=8)),
        (peft.LoKrConfig, dict(r=2, alpha=8, decompose_both=True, decompose_factor=2)),
        (peft.LoKrConfig, dict(r=2, alpha=8, use_effective_conv2d=True, decompose_factor=2)),
        (peft.LoKrConfig, dict(r=64, alpha=8, rank_pattern={"to_q": 96})),  # whole matrices
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
@each_kind
def test_other_methods(models, loras, caplog, kind, cls, settings):
    model = train(models, kind, cls(target_modules=TARGETS[kind], init_weights=False, **settings))
    check(model, kind, save(model, loras), caplog)


@pytest.mark.parametrize(
    "settings", [dict(lora_alpha=16), dict(lora_alpha=8, use_dora=True)], ids=str
)
@each_kind
def test_what_diffusers_saves(models, loras, caplog, kind, settings):
    """`save_lora_adapter` keeps the settings in the file's metadata."""
    cls, name, part = CLASSES[kind]
    model = train(models, kind, lora(kind, r=4, **settings))
    network = cls.from_pretrained(models / name / part)
    if not hasattr(network, "save_lora_adapter"):
        pytest.fail("diffusers has no save_lora_adapter here")
    network.add_adapter(model.peft_config["default"])
    weights = {k.removeprefix("base_model.model."): v for k, v in model.state_dict().items()}
    network.load_state_dict(weights)
    network.save_lora_adapter(loras / "diffusers", upcast_before_saving=False)
    check(model, kind, "diffusers/pytorch_lora_weights.safetensors", caplog)


@pytest.mark.parametrize("name", ["adapter_config.json", "it.json", "it_adapter_config.json"])
def test_where_the_settings_may_lie(models, loras, caplog, name):
    model = train(models, "decoder", lora("decoder", r=4, lora_alpha=16))
    folder = (loras / save(model, loras, "moved")).parent
    (folder / "adapter_model.safetensors").rename(folder / "it.safetensors")
    (folder / "adapter_config.json").rename(folder / name)
    check(model, "decoder", "moved/it.safetensors", caplog)


def rename(path, change):
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    save_file({change(key): value for key, value in load_file(path).items()}, path, metadata)


@pytest.mark.parametrize(
    "change",
    [
        lambda key: key.replace("base_model.model.", "base_model.model._orig_mod."),
        lambda key: "_orig_mod." + key,
        lambda key: "module." + key,
        lambda key: key.replace("base_model.model.", "base_model.model.module._orig_mod."),
        lambda key: key.replace("base_model.model.", "base_model.model.unet."),
        lambda key: key.replace("_A.", "_A.mine.").replace("_B.", "_B.mine."),
        lambda key: key.replace("magnitude_vector", "magnitude_vector.default"),
        lambda key: key.replace("magnitude_vector", "magnitude_vector.weight"),
        lambda key: key.replace("magnitude_vector", "magnitude_vector.default.weight"),
    ],
)
@each_kind
def test_wrapped_names(models, loras, caplog, kind, change):
    model = train(models, kind, lora(kind, r=4, lora_alpha=8, use_dora=True))
    name = save(model, loras)
    rename(loras / name, change)
    check(model, kind, name, caplog)


def test_half_the_strength_of_dora_is_half_its_way(models, loras):
    model = train(models, "prior", lora("prior", r=4, lora_alpha=8, use_dora=True))
    name = save(model, loras)
    before = network_of(load("prior")).state_dict()
    after = model.merge_and_unload().state_dict()
    _, ours = our_weights("prior", name, 0.5)
    for key, weight in after.items():
        assert oracle.max_diff(ours[key], (weight + before[key]) / 2) < CLOSE


def test_weights_beside_the_adapter_are_named(models, loras, caplog):
    """peft saves these weights as a whole. They are neither read nor checked."""
    model = train(
        models,
        "prior",
        lora("prior", r=4, lora_alpha=16, modules_to_save=["proj_to_clip_embeddings"]),
    )
    name = save(model, loras)
    our_weights("prior", name)
    assert "2 tensors are not for the prior's transformer and are left out" in caplog.text
    assert "base_model.model.proj_to_clip_embeddings.weight" in caplog.text


def test_changed_settings_are_read_again(models, loras):
    model = train(models, "prior", lora("prior", r=4, lora_alpha=16))
    name = save(model, loras)
    node, file = NODES["prior"], (loras / name).with_name("adapter_config.json")
    first = node.fingerprint_inputs(lora_name=name, strength=1.0)
    assert first == node.fingerprint_inputs(lora_name=name, strength=1.0)
    file.write_text(json.dumps(json.loads(file.read_text()) | {"lora_alpha": 1600}))
    second = node.fingerprint_inputs(lora_name=name, strength=1.0)
    file.unlink()
    assert len({json.dumps(each) for each in (first, second, node.fingerprint_inputs(name))}) == 3
