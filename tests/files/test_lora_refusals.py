"""A LoRA file that does not fit is refused. If it fits in part, the log names the rest."""

import json
import logging
import re

import pytest
import torch
from helpers.lora_reference import (
    NODES,
    RANK,
    SPELLINGS,
    each_kind,
    hadamard,
    load,
    make_pairs,
    network_of,
    patcher_of,
    write,
)
from kandinsky22.nodes.lora import LoadDecoderLora, LoadPriorLora
from kandinsky22.utils.comfyui.model_files import list_files
from safetensors.torch import save_file

BUNDLED = "kandinsky-2-2-mini-night.safetensors"


STABLE_DIFFUSION = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q.alpha"


@pytest.mark.parametrize(
    "kind, keys, message",
    [
        (
            "prior",
            ["down_blocks.1.attentions.0.processor.to_q_lora.down.weight"],
            "has nothing for the prior's transformer. It names down_blocks.*known here are "
            r"transformer_blocks.0.attn1.*, … Use Load Decoder LoRA for it\.",
        ),
        (
            "decoder",
            ["prior.transformer_blocks.0.attn1.to_q.lora_A.weight"],
            "has nothing for the decoder's UNet.*Use Load Prior LoRA for it",
        ),
        (
            "decoder",
            [STABLE_DIFFUSION, "b", "c", "d"],
            r"It names b, c, d, …; known here are down_.*, … Choose one for Kandinsky 2\.2",
        ),
        ("prior", [STABLE_DIFFUSION], "Choose one for Kandinsky 2\\.2"),
    ],
)
def test_a_file_for_another_model(models, loras, kind, keys, message):
    save_file({key: torch.ones(1) for key in keys}, loras / "other.safetensors")
    plain = load(kind)
    with pytest.raises(ValueError, match=message):
        NODES[kind].execute(plain, "other.safetensors", 1.0)
    assert not patcher_of(plain).patches


@each_kind
def test_a_file_that_fits_in_part(models, loras, caplog, kind):
    pairs = make_pairs(kind)
    strange = {f"block.{i}": (torch.ones(1, 1), torch.ones(1, 1)) for i in range(4)}
    metadata = {"lora_adapter_metadata": json.dumps({"lora_alpha": 2})}
    name = write(loras, "part", pairs | strange, SPELLINGS["peft"], metadata=metadata)
    with caplog.at_level(logging.WARNING, "kandinsky22"):
        value = NODES[kind].execute(load(kind), name, 1.0).args[0]
    assert len(patcher_of(value).patches) == len(pairs)
    (record,) = [r for r in caplog.records if r.name == "kandinsky22"]
    assert re.fullmatch(
        "part.safetensors: 8 tensors are not for the (prior's|decoder's) .* and are left out: "
        r"block.0.lora_A.weight, block.0.lora_B.weight, block.1.lora_A.weight",
        record.getMessage(),
    )


def narrow_lora(shape):
    up, down = torch.ones(shape[0] // 2, RANK), torch.ones(RANK, shape[1] // 2)
    return {"lora_up.weight": up, "lora_down.weight": down}


def narrow_hadamard(shape):
    return hadamard(torch.ones(shape[0] // 2, shape[1]), torch.Generator())[0]


def unequal_hadamard(shape):
    return narrow_hadamard(shape) | {"hada_w1_b": torch.ones(RANK + 1, shape[1])}


def unequal_ranks(shape):
    return {"lora_up.weight": torch.ones(shape[0], 3), "lora_down.weight": torch.ones(2, shape[1])}


def narrow_difference(shape):
    return {"diff": torch.ones(shape[0] // 2, shape[1])}


@pytest.mark.parametrize(
    "make", [narrow_lora, narrow_hadamard, unequal_hadamard, unequal_ranks, narrow_difference]
)
@each_kind
def test_other_widths(models, loras, kind, make):
    module = {"decoder": "mid_block.attentions.0.to_q", "prior": "transformer_blocks.0.attn1.to_q"}
    shape = network_of(load(kind)).get_submodule(module[kind]).weight.shape
    tensors = {f"{module[kind]}.{end}": part for end, part in make(shape).items()}
    save_file(tensors, loras / "narrow.safetensors")
    message = (
        rf"narrow.safetensors is for a model of other widths: for {re.escape(module[kind])}.weight "
        rf"it has \[\d+, \d+\].*, and this model has {re.escape(str(list(shape)))}"
    )
    with pytest.raises(ValueError, match=message):
        NODES[kind].execute(load(kind), "narrow.safetensors", 1.0)


def test_half_of_a_pair(models, loras):
    key = "mid_block.attentions.0.to_q.lora_up.weight"
    save_file({key: torch.ones(64, RANK)}, loras / "half.safetensors")
    with pytest.raises(ValueError, match="lacks 'mid_block.*lora_down.weight': it is damaged"):
        LoadDecoderLora.execute(load("decoder"), "half.safetensors", 1.0)


@pytest.mark.parametrize("ending", ["pt", "bin", "ckpt", "PKL"])
def test_pickles_are_not_opened(models, loras, ending):
    class Opened:
        def __reduce__(self):
            return pytest.fail, ("the pickle was opened",)

    torch.save({"a": Opened()}, loras / f"evil.{ending}")
    message = r"evil\.\w+ is a Python pickle.*is not opened.*save_file"
    if f"evil.{ending}" in list_files("loras"):  # ComfyUI lists files by lower-case endings
        assert re.search(message, LoadDecoderLora.validate_inputs(f"evil.{ending}"))
        with pytest.raises(ValueError, match=message):
            LoadDecoderLora.execute(load("decoder"), f"evil.{ending}", 1.0)
    (loras / f"evil.{ending}").rename(loras / "evil.safetensors")
    with pytest.raises(ValueError, match="damaged or not a safetensors file"):
        LoadPriorLora.execute(load("prior"), "evil.safetensors", 1.0)


@pytest.mark.parametrize(
    "config", ["[]", '{"lora_alpha": "x"}', '{"lora_alpha": 1, "alpha_pattern": {"(": []}}']
)
def test_odd_metadata_names_its_file(models, loras, config):
    pair = {"lora_A.weight": torch.ones(RANK, 64), "lora_B.weight": torch.ones(64, RANK)}
    weights = {f"unet.mid_block.attentions.0.to_q.{name}": value for name, value in pair.items()}
    save_file(weights, loras / "odd.safetensors", {"lora_adapter_metadata": config})
    with pytest.raises(ValueError, match="odd.safetensors is damaged"):
        LoadDecoderLora.execute(load("decoder"), "odd.safetensors", 1.0)


def test_another_model():
    class Sdxl:
        model = torch.nn.Linear(1, 1)

    with pytest.raises(ValueError, match=r"is a Linear, not a Kandinsky 2\.2 decoder"):
        LoadDecoderLora.execute(Sdxl(), BUNDLED, 1.0)
