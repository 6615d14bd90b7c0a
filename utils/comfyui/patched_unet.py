"""The decoder's UNet with patches between its blocks, at ComfyUI's addresses.

diffusers' own forward has no place for patches. This is the same computation, block by block. Input
block 0 is the first layer. Each residual layer with its attention is an input block, and so is each
halving. The residual layers of the up blocks are the output blocks. They take the results of the
input blocks in reverse order.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F

from .patched_attention import PatchedAttention


def layers_of(block: Any) -> Iterator[tuple[Any, Any]]:
    """Return (residual layer, attention or None) of a down or up block, in order."""
    attentions = getattr(block, "attentions", [None] * len(block.resnets))
    return zip(block.resnets, attentions, strict=True)


def attention_addresses(unet: Any) -> list[tuple[str, int]]:
    """Return ComfyUI's addresses of the attention layers, in the order in which they run."""
    found: list[tuple[str, int]] = []
    number = 0
    for block in unet.down_blocks:
        for _, attn in layers_of(block):
            number += 1
            found += [("input", number)] if attn is not None else []
        number += len(block.downsamplers or ())
    found += [("middle", 0)] * len(unet.mid_block.attentions)
    layers = [attn for block in unet.up_blocks for _, attn in layers_of(block)]
    return found + [("output", i) for i, attn in enumerate(layers) if attn is not None]


class PatchedRun:
    """One call of a UNet with patches; see `model_options.unet_patches`."""

    def __init__(
        self,
        emb: torch.Tensor,
        tokens: torch.Tensor,
        chosen: dict[str, Any],
        patches: dict[str, Any],
        options: dict[str, Any],
    ):
        self.emb, self.tokens, self.chosen = emb, tokens, chosen
        self.patches, self.replace = patches["patches"], patches["replace"]
        self.options = options
        self.skips: list[torch.Tensor] = []
        self.attentions = 0  # how many have run

    def keep(self, h: torch.Tensor, number: int) -> torch.Tensor:
        """Finish an input block, and keep its result for an output block."""
        self.options["block"] = ("input", number)
        for patch in self.patches.get("input_block_patch", ()):
            h = patch(h, self.options)
        self.skips.append(h)
        for patch in self.patches.get("input_block_patch_after_skip", ()):
            h = patch(h, self.options)
        return h

    def join(self, h: torch.Tensor, number: int) -> torch.Tensor:
        """Start an output block: join the kept result of an input block to it."""
        self.options["block"] = ("output", number)
        skip = self.skips.pop()
        for patch in self.patches.get("output_block_patch", ()):
            h, skip = patch(h, skip, self.options)
        if h.shape[-2:] != skip.shape[-2:]:  # an odd side was halved, and then doubled
            h = F.interpolate(h, skip.shape[-2:], mode="nearest-exact")
        return torch.cat([h, skip], dim=1)

    def layer(self, h: torch.Tensor, attn: Any, block: tuple[str, int]) -> torch.Tensor:
        """Run an attention layer, which is what ComfyUI calls a "double block" of a transformer."""
        number, self.attentions = self.attentions, self.attentions + 1
        whole = self.replace.get("dit", {}).get(("double_block", number))
        if whole is None:
            return self.attend(h, attn, block)

        def original(given: dict[str, Any], *_: Any) -> dict[str, Any]:
            states = given["img"].transpose(1, 2).reshape(h.shape)
            return given | {"img": self.attend(states, attn, block).flatten(2).transpose(1, 2)}

        given = {"img": h.flatten(2).transpose(1, 2), "txt": self.tokens}
        given |= {"vec": self.emb, "pe": None, "transformer_options": self.options}
        output = whole(given, {"original_block": original})["img"]
        return output.transpose(1, 2).reshape(h.shape)

    def attend(self, h: torch.Tensor, attn: Any, block: tuple[str, int]) -> torch.Tensor:
        replaced = self.replace.get("attn1", {})
        replace = replaced.get((*block, 0), replaced.get(block))
        if replace is None and not self.patches.keys() & {"attn1_patch", "attn1_output_patch"}:
            return attn(h, encoder_hidden_states=self.tokens, **self.chosen)
        heads = {"n_heads": attn.heads, "dim_head": h.shape[1] // attn.heads, "block": block}
        options = self.options | heads | {"attn_precision": None, "block_index": 0}
        patched = PatchedAttention(self.patches, replace, options)
        return patched(attn, h, self.tokens, self.chosen["attention"])


def run_patched(
    unet: Any,
    sample: torch.Tensor,
    timesteps: torch.Tensor,
    conditions: dict[str, Any],
    chosen: dict[str, Any],
    patches: dict[str, Any],
    options: dict[str, Any],
) -> torch.Tensor:
    """Compute `UNet2DConditionModel.forward` with patches; arguments as in `unet._run`."""
    emb = unet.time_embedding(unet.get_time_embed(sample=sample, timestep=timesteps))
    added = unet.get_aug_embed(emb=emb, encoder_hidden_states=None, added_cond_kwargs=conditions)
    options = options | {"original_shape": list(sample.shape), "block_index": 0}
    if isinstance(added, tuple):
        added, hint = added
        sample = torch.cat([sample, hint], dim=1)
    tokens = unet.process_encoder_hidden_states(None, added_cond_kwargs=conditions)
    emb = emb + added
    if unet.time_embed_act is not None:
        emb = unet.time_embed_act(emb)
    run = PatchedRun(emb, tokens, chosen, patches, options | patches["options"])
    number = 0
    h = run.keep(unet.conv_in(sample), number)
    for block in unet.down_blocks:
        for resnet, attn in layers_of(block):
            number += 1
            h = resnet(h, run.emb)
            if attn is not None:
                h = run.layer(h, attn, ("input", number))
            h = run.keep(h, number)
        for halve in block.downsamplers or ():
            number += 1
            h = run.keep(halve(h, run.emb), number)
    first, *resnets = unet.mid_block.resnets
    h = first(h, run.emb)
    for attn, resnet in zip(unet.mid_block.attentions, resnets, strict=True):
        h = resnet(run.layer(h, attn, ("middle", 0)), run.emb)
    number = -1
    for block in unet.up_blocks:
        for resnet, attn in layers_of(block):
            number += 1
            h = resnet(run.join(h, number), run.emb)
            if attn is not None:
                h = run.layer(h, attn, ("output", number))
        for double in block.upsamplers or ():
            h = double(h, run.emb)
    return unet.conv_out(unet.conv_act(unet.conv_norm_out(h)))
