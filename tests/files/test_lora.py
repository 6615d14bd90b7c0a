"""A LoRA on the decoder's UNet or the prior's transformer equals weights merged by hand."""

import comfy.model_management
import pytest
import torch
from comfy.patcher_extension import CallbacksMP
from helpers import oracle
from helpers.lora_reference import (
    NODES,
    RANK,
    SPELLINGS,
    call,
    each_kind,
    load,
    make_pairs,
    merge,
    network_of,
    patcher_of,
    run,
    write,
)

import nodes as host_nodes

pytestmark = pytest.mark.long

CPU = torch.device("cpu")
each_spelling = pytest.mark.parametrize("spelling", SPELLINGS)


@pytest.fixture(scope="module")
def written(models, loras):
    """(kind, spelling) → (a file's name, its pairs, scale at strength 1)."""

    def make(kind, spelling):
        alpha = 2.0 if spelling == "kohya" else None
        pairs = make_pairs(kind, only_attention=spelling == "diffusers")
        name = write(loras, f"{kind}-{spelling}", pairs, SPELLINGS[spelling], alpha)
        return name, pairs, alpha / RANK if alpha else 1.0

    return make


def load_all(patcher):
    comfy.model_management.load_models_gpu([patcher])


def load_half(patcher):
    patcher.partially_load(CPU, patcher.model_size() // 2)
    assert patcher.loaded_size() < patcher.model_size()


def unload_half(patcher, *_):
    patcher.partially_unload(CPU, patcher.model_size() // 2)


def load_all_then_unload_half(patcher):
    load_all(patcher)
    unload_half(patcher)


def patched_in_use(value, pairs) -> list[str]:
    """Return the layers whose patches wait for the forward call, as their weights are offloaded."""
    layers = {module: network_of(value).get_submodule(module) for module in pairs}
    return [module for module, layer in layers.items() if layer.weight_function]


@each_kind
@each_spelling
@pytest.mark.parametrize("place", [load_all, load_half, load_all_then_unload_half])
def test_equals_merged_weights(written, kind, spelling, place):
    name, pairs, scale = written(kind, spelling)
    value = NODES[kind].execute(load(kind), name, 0.7).args[0]
    place(patcher_of(value))
    assert bool(patched_in_use(value, pairs)) == (place is not load_all)
    merged = merge(load(kind), pairs, 0.7 * scale)
    load_all(patcher_of(merged))
    assert oracle.max_diff(call(value), call(merged)) == 0.0


@each_kind
@each_spelling
@pytest.mark.parametrize("memory", ["enough", "half"])
def test_a_stage_equals_merged_weights(written, embeds, kind, spelling, memory):
    name, pairs, scale = written(kind, spelling)
    value = NODES[kind].execute(load(kind), name, 0.7).args[0]
    if memory == "half":  # each time the stage has loaded the network
        patcher_of(value).add_callback(CallbacksMP.ON_LOAD, unload_half)
    ours = run(value, embeds)
    assert bool(patched_in_use(value, pairs)) == (memory == "half")
    assert oracle.max_diff(ours, run(merge(load(kind), pairs, 0.7 * scale), embeds)) == 0.0
    assert oracle.max_diff(ours, run(load(kind), embeds)) > 0.01


@each_kind
def test_after_unloading_the_weights_are_the_old_ones(written, kind):
    name, pairs, _ = written(kind, "diffusers")
    plain = load(kind)
    before = {key: weight.clone() for key, weight in network_of(plain).state_dict().items()}
    value = NODES[kind].execute(plain, name, 1.0).args[0]
    patcher = patcher_of(value)
    load_all_then_unload_half(patcher)
    patcher.detach()
    for key, weight in network_of(value).state_dict().items():
        assert torch.equal(weight, before[key])
    load_half(patcher)
    merged = merge(load(kind), pairs, 1.0)
    load_all(patcher_of(merged))
    assert oracle.max_diff(call(value), call(merged)) == 0.0


@each_kind
def test_the_input_stays_as_it_was(written, embeds, kind):
    """This also holds while both are used in turn, although they share their modules."""
    name, *_ = written(kind, "peft")
    plain = load(kind)
    expected = run(load(kind), embeds)
    value = NODES[kind].execute(plain, name, 1.0).args[0]
    changed = run(value, embeds)
    assert network_of(value) is network_of(plain) and not patcher_of(plain).patches
    assert torch.equal(run(plain, embeds), expected)
    assert torch.equal(run(value, embeds), changed) and not torch.equal(changed, expected)


@each_kind
def test_the_output_is_another_value_of_the_same_kind(written, kind):
    name, *_ = written(kind, "peft")
    plain = load(kind)
    value = NODES[kind].execute(plain, name, 1.0).args[0]
    assert type(value) is type(plain) and value is not plain
    if kind == "prior":
        assert value.get_models()[0] is patcher_of(value)
        assert value.get_models()[1:] == plain.get_models()[1:]


@each_kind
def test_values_of_another_type_are_named(written, kind):
    name, *_ = written(kind, "peft")
    with pytest.raises(ValueError, match="strength is 'x', not a finite number"):
        NODES[kind].execute(load(kind), name, "x")
    with pytest.raises(ValueError, match="'x' came where|MODEL is a str"):
        NODES[kind].execute("x", name, 1.0)


@each_kind
def test_strength_0_is_nothing(written, kind):
    name, *_ = written(kind, "peft")
    plain = load(kind)
    assert NODES[kind].execute(plain, name, 0.0).args[0] is plain


@each_kind
def test_two_after_one_another(written, loras, embeds, kind):
    first, pairs, _ = written(kind, "diffusers")
    others = make_pairs(kind, only_attention=False, rank=2, seed=1)
    second = write(loras, f"{kind}-second", others, SPELLINGS["peft"])
    value = NODES[kind].execute(load(kind), first, 0.5).args[0]
    value = NODES[kind].execute(value, second, -1.5).args[0]
    merged = merge(merge(load(kind), pairs, 0.5), others, -1.5)
    assert oracle.max_diff(run(value, embeds), run(merged, embeds)) == 0.0


@each_kind
def test_the_same_file_twice(written, embeds, kind):
    name, pairs, _ = written(kind, "diffusers")
    value = load(kind)
    for _ in range(2):
        value = NODES[kind].execute(value, name, 0.5).args[0]
    merged = merge(merge(load(kind), pairs, 0.5), pairs, 0.5)
    assert oracle.max_diff(run(value, embeds), run(merged, embeds)) == 0.0


@each_kind
def test_half_precision(written, embeds, kind):
    name, pairs, scale = written(kind, "kohya")
    value = NODES[kind].execute(load(kind, "fp16"), name, 0.7).args[0]
    merged = merge(load(kind, "fp16"), pairs, 0.7 * scale)
    assert oracle.max_diff(run(value, embeds), run(merged, embeds)) == 0.0


@each_kind
def test_half_precision_in_too_little_memory(written, kind):
    """Loaded weights are merged in float32 and rounded.

    Offloaded weights are merged in use, in the dtype of the layer's input, which is float32 here.
    """
    name, pairs, scale = written(kind, "kohya")
    value = NODES[kind].execute(load(kind, "fp16"), name, 0.7).args[0]
    patcher_of(value).partially_load(CPU, patcher_of(value).model_size() * 0.95)
    in_use = patched_in_use(value, pairs)
    assert 0 < len(in_use) < len(pairs)
    types = dict.fromkeys(in_use, torch.float32)
    merged = merge(load(kind, "fp16"), pairs, 0.7 * scale, types)
    assert oracle.max_diff(call(value), call(merged)) == 0.0


@pytest.mark.parametrize("template", ["lora_unet_{flat}", "diffusion_model.{module}"])
def test_the_hosts_own_node(models, loras, embeds, template):
    pairs = make_pairs("decoder")
    name = write(loras, "host", pairs, (template, "lora_down.weight", "lora_up.weight"))
    (model,) = host_nodes.LoraLoaderModelOnly().load_lora_model_only(load("decoder"), name, 0.7)
    merged = merge(load("decoder"), pairs, 0.7)
    assert oracle.max_diff(run(model, embeds), run(merged, embeds)) == 0.0
