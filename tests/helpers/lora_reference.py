"""Write LoRA files in every spelling, load their models, and merge them by hand."""

import re

import pytest
import torch
from helpers.decoding_stages import decode
from helpers.tiny_models import PRIOR, TEXT_TO_IMAGE
from kandinsky22.nodes.loaders import LoadDecoder, LoadPrior
from kandinsky22.nodes.lora import LoadDecoderLora, LoadPriorLora
from kandinsky22.utils.kandinsky.prior import TextFeatures
from safetensors.torch import save_file

RANK = 4
NODES = {"decoder": LoadDecoderLora, "prior": LoadPriorLora}
each_kind = pytest.mark.parametrize("kind", NODES)
# the program that wrote a file → a template for `spell`, and the endings of down and up
SPELLINGS = {
    "diffusers": ("{old}", "down.weight", "up.weight"),
    "peft": ("{module}", "lora_A.weight", "lora_B.weight"),
    "kohya": ("lora_unet_{flat}", "lora_down.weight", "lora_up.weight"),
}
ATTENTION = re.compile(r"\.(to_[qkv]|to_out\.0|add_[kv]_proj)$")


def load(kind, dtype="fp32"):
    """Load a MODEL or a PRIOR that shares no module."""
    loader, name = {"decoder": (LoadDecoder, TEXT_TO_IMAGE), "prior": (LoadPrior, PRIOR)}[kind]
    return loader.execute(name, dtype).args[0]


def patcher_of(value):
    return value.transformer.patcher if hasattr(value, "transformer") else value


def network_of(value) -> torch.nn.Module:
    shell = patcher_of(value).model
    return shell.module if hasattr(shell, "module") else shell.diffusion_model


def call(value) -> torch.Tensor:
    """Call the network once, with its weights wherever they are."""
    generator = torch.Generator().manual_seed(3)

    def noise(*shape):
        return torch.randn(shape, generator=generator)

    if hasattr(value, "transformer"):
        noisy, embeds, states = noise(2, 24), noise(2, 24), noise(2, 77, 24)
        text = TextFeatures(embeds, states, torch.ones(2, 77, dtype=torch.bool))
        network = network_of(value)
        return network(noisy, torch.tensor(500), network.read(text))
    return network_of(value)(noise(2, 4, 8, 8), torch.tensor([500, 20]), context=noise(2, 1, 24))


def run(value, embeds) -> torch.Tensor:
    """Run a whole stage: Prior, or Decoder."""
    if hasattr(value, "transformer"):
        return value.sample("a red cat", "", 7, 5, 4.0)[0].tensor
    return decode(value, embeds(1, 1), embeds(1, 2))


def make_pairs(kind, only_attention=True, rank=RANK, seed=0):
    """Return module → (up, down), for every attention projection and some other layers."""
    generator, pairs = torch.Generator().manual_seed(seed), {}
    others = ("down_blocks.0.resnets.0.conv1", "transformer_blocks.0.ff.net.0.proj", "proj_in")
    for key, weight in network_of(load(kind)).state_dict().items():
        module = key.removesuffix(".weight")
        is_other = module in others and not only_attention
        if key.endswith(".weight") and (is_other or ATTENTION.search(module)):
            down = torch.randn(rank, *weight.shape[1:], generator=generator) / 4
            up = torch.randn(weight.shape[0], rank, *[1] * (weight.ndim - 2), generator=generator)
            pairs[module] = up / 4, down
    assert len(pairs) >= 4
    return pairs


def flat(module):
    return module.replace(".", "_")


def spell(template, module):
    """Spell a name.

    `{old}` is that of diffusers' attention processors, where to_out.0 is to_out.
    """
    block, _, projection = module.removesuffix(".0").rpartition(".")
    old = f"{block}.processor.{projection}_lora"
    return template.format(module=module, flat=flat(module), old=old)


def write(folder, name, pairs, spelling, alpha=None, metadata=None):
    """Write a LoRA file. Return the name for the nodes.

    Args:
        spelling: a template for `spell`, then the endings of down and up.
    """
    template, down_ending, up_ending = spelling
    tensors = {}
    for module, (up, down) in pairs.items():
        start = spell(template, module)
        tensors |= {f"{start}.{down_ending}": down, f"{start}.{up_ending}": up}
        if alpha is not None:
            tensors[f"{start}.alpha"] = torch.tensor(alpha)
    save_file(tensors, folder / f"{name}.safetensors", metadata=metadata)
    return f"{name}.safetensors"


def merge(value, pairs, scale, types=None):
    """Set weights to weight + scale · up @ down, in float32 and back in the weight's dtype.

    The modules in `types` use that dtype, and stay in it.
    """
    for module, pair in pairs.items():
        layer = network_of(value).get_submodule(module)
        dtype, end = (types or {}).get(module), layer.weight.dtype
        up, down = (part.to(dtype or torch.float32).flatten(1) for part in pair)
        merged = layer.weight.to(up.dtype) + scale * (up @ down).reshape(layer.weight.shape)
        layer.weight = torch.nn.Parameter(merged.to(dtype or end), requires_grad=False)
    return value


def hadamard(weight, generator):
    rows, columns = weight.shape
    a, c = (torch.randn(rows, RANK, generator=generator) for _ in range(2))
    b, d = (torch.randn(RANK, columns, generator=generator) for _ in range(2))
    parts = {"hada_w1_a": a, "hada_w1_b": b, "hada_w2_a": c, "hada_w2_b": d}
    return parts | {"alpha": torch.tensor(2.0)}, weight + 2.0 / RANK * ((a @ b) * (c @ d))
