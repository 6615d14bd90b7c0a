"""LoRA files work in the spellings and by the methods that training programs write."""

import json

import comfy.model_management
import pytest
import torch
from helpers import oracle
from helpers.lora_reference import (
    NODES,
    RANK,
    each_kind,
    flat,
    hadamard,
    load,
    make_pairs,
    merge,
    network_of,
    patcher_of,
    write,
)
from kandinsky22.nodes.lora import LoadDecoderLora
from safetensors.torch import save_file

pytestmark = pytest.mark.long

PROJECTIONS = ("to_q", "to_k", "to_v", "to_out\\.0", "add_k_proj", "add_v_proj")


def patched_weight(value, module) -> torch.Tensor:
    """Return a weight as ComfyUI has it when everything is loaded."""
    comfy.model_management.load_models_gpu([patcher_of(value)])
    return network_of(value).get_submodule(module).weight


@pytest.mark.parametrize(
    "kind, template, endings",
    [
        ("decoder", "unet.{old}", ("down.weight", "up.weight")),
        ("decoder", "{module}", ("lora_A.weight", "lora_B.weight")),  # save_lora_adapter
        ("decoder", "unet.{module}", ("lora.down.weight", "lora.up.weight")),  # diffusers' scripts
        ("decoder", "unet.{module}", ("lora_down.weight", "lora_up.weight")),
        ("decoder", "base_model.model.{module}", ("lora_A.weight", "lora_B.weight")),  # peft
        ("decoder", "{module}", ("lora_A.default.weight", "lora_B.default.weight")),
        ("decoder", "unet.base_model.model.{module}", ("lora_A.weight", "lora_B.weight")),
        ("decoder", "diffusion_model.{module}", ("lora_down.weight", "lora_up.weight")),
        ("decoder", "lycoris_{flat}", ("lora_down.weight", "lora_up.weight")),
        ("decoder", "lora_unet__orig_mod_{flat}", ("lora_down.weight", "lora_up.weight")),
        ("decoder", "unet._orig_mod.{old}", ("down.weight", "up.weight")),
        ("prior", "_fsdp_wrapped_module.{module}", ("lora_down.weight", "lora_up.weight")),
        ("prior", "module.prior.{module}", ("lora_down.weight", "lora_up.weight")),
        ("prior", "prior.{old}", ("down.weight", "up.weight")),
        ("prior", "{module}", ("lora_A.weight", "lora_B.weight")),
        ("prior", "transformer.{module}", ("lora_A.weight", "lora_B.weight")),
        ("prior", "base_model.model.{module}", ("lora_A.weight", "lora_B.weight")),
        ("prior", "lora_prior_{flat}", ("lora_down.weight", "lora_up.weight")),
        ("prior", "lora_transformer_{flat}", ("lora_down.weight", "lora_up.weight")),
    ],
)
def test_further_spellings(models, loras, caplog, kind, template, endings):
    pairs = make_pairs(kind)
    name = write(loras, "spelling", pairs, (template, *endings))
    value = NODES[kind].execute(load(kind), name, 1.0).args[0]
    merged = merge(load(kind), pairs, 1.0)
    for module in pairs:
        assert torch.equal(patched_weight(value, module), patched_weight(merged, module))
    assert "left out" not in caplog.text


@pytest.mark.parametrize(
    "config, scale",
    [
        ({"r": RANK, "lora_alpha": 8}, 8 / RANK),
        ({"r": RANK, "lora_alpha": 8, "use_rslora": True}, 8 / RANK**0.5),
        ({"r": RANK, "lora_alpha": 8, "alpha_pattern": dict.fromkeys(PROJECTIONS, 2)}, 2 / RANK),
        ({"unet.r": RANK, "unet.lora_alpha": 12, "text_encoder.lora_alpha": 1}, 12 / RANK),
    ],
)
@pytest.mark.parametrize("down, up", [("lora_A", "lora_B"), ("lora.down", "lora.up")])
def test_alpha_in_the_metadata(models, loras, config, scale, down, up):
    """diffusers keeps peft's alpha there, as its files have no .alpha tensors."""
    pairs = make_pairs("decoder")
    metadata = {"lora_adapter_metadata": json.dumps(config)}
    spelling = ("unet.{module}", f"{down}.weight", f"{up}.weight")
    name = write(loras, "peft", pairs, spelling, metadata=metadata)
    value = LoadDecoderLora.execute(load("decoder"), name, 1.0).args[0]
    merged = merge(load("decoder"), pairs, scale)
    for module in pairs:
        assert torch.equal(patched_weight(value, module), patched_weight(merged, module))


def kronecker(weight, generator):
    w1, w2 = torch.randn(2, 2, generator=generator), [side // 2 for side in weight.shape[:2]]
    w2 = torch.randn(*w2, *weight.shape[2:], generator=generator)
    return {"lokr_w1": w1, "lokr_w2": w2}, weight + torch.kron(w1, w2)


def decomposed(weight, generator):
    """Return LyCORIS' DoRA on the input axis: every column of the sum has its own length."""
    up = torch.randn(weight.shape[0], RANK, generator=generator)
    down = torch.randn(RANK, weight.shape[1], generator=generator)
    length = torch.rand(1, weight.shape[1], generator=generator) + 0.5
    whole = weight + up @ down
    parts = {"lora_up.weight": up, "lora_down.weight": down, "dora_scale": length}
    norm = whole.T.norm(dim=1, keepdim=True).T + torch.finfo(torch.float32).eps
    return parts, whole * (length / norm)


def difference(weight, generator):
    change = torch.randn(weight.shape, generator=generator)
    return {"diff": change}, weight + change


def orthogonal(weight, generator):
    """Return OFT: rows of 8, each turned by (I + Q)(I - Q)⁻¹."""
    blocks = torch.randn(len(weight) // 8, 8, 8, generator=generator) / 8
    q, identity = blocks - blocks.mT, torch.eye(8)
    turn = (identity + q) @ (identity - q).inverse() - identity
    change = torch.einsum("knm,kn...->km...", turn, weight.view(len(blocks), 8, -1))
    return {"oft_blocks": blocks, "alpha": torch.tensor(100.0)}, weight + change.view(weight.shape)


def glora(weight, generator):
    a1, b1 = (torch.randn(n, RANK, generator=generator) / 4 for n in weight.shape[::-1])
    a2, b2 = (torch.randn(RANK, weight.shape[1], generator=generator) / 4 for _ in range(2))
    parts = {"a1.weight": a1, "a2.weight": a2, "b1.weight": b1, "b2.weight": b2}
    return parts, weight + weight @ a1 @ a2 + b1 @ b2


@pytest.mark.parametrize("make", [orthogonal, glora])
@each_kind
def test_rarer_methods_that_the_host_reads(models, loras, caplog, kind, make):
    module = {"decoder": "mid_block.attentions.0.to_q", "prior": "proj_in"}[kind]
    weight = network_of(load(kind)).get_submodule(module).weight.clone()
    parts, expected = make(weight, torch.Generator().manual_seed(0))
    save_file({f"{module}.{end}": p for end, p in parts.items()}, loras / "rare.safetensors")
    value = NODES[kind].execute(load(kind), "rare.safetensors", 1.0).args[0]
    assert oracle.max_diff(patched_weight(value, module), expected) < 1e-5
    assert oracle.max_diff(expected, weight) > 0.01 and "left out" not in caplog.text


@pytest.mark.parametrize("make", [kronecker, hadamard, decomposed, difference])
@each_kind
def test_other_methods_that_the_host_reads(models, loras, caplog, kind, make):
    module = {"decoder": "mid_block.attentions.0.to_q", "prior": "proj_in"}[kind]
    weight = network_of(load(kind)).get_submodule(module).weight
    parts, expected = make(weight.clone(), torch.Generator().manual_seed(0))
    save_file(
        {f"lora_unet_{flat(module)}.{end}": part for end, part in parts.items()},
        loras / "method.safetensors",
    )
    value = NODES[kind].execute(load(kind), "method.safetensors", 1.0).args[0]
    ours = patched_weight(value, module)
    assert oracle.max_diff(ours, expected) == 0.0
    assert not torch.equal(ours, weight) and "left out" not in caplog.text
