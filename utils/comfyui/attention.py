"""The kinds of attention that the decoder's UNet can compute, and the choice between them."""

from typing import Any

import torch
import torch.nn.functional as F
from comfy.ldm.modules.attention import optimized_attention
from diffusers.models.attention_processor import AttnAddedKVProcessor

from ..kandinsky.lean_layers import attention_layers

KeyValue = tuple[torch.Tensor, torch.Tensor]  # (B, N, C) each


def project(attn: Any, hidden_states: torch.Tensor, image: KeyValue, split: bool) -> list[Any]:
    """Return [query, key, value] of pixels (B, C, h, w), as (B, N, C) or split into heads.

    The keys and values of the image embeddings come before those of the pixels.
    """
    batch, channels, *_ = hidden_states.shape
    pixels = attn.group_norm(hidden_states.view(batch, channels, -1)).transpose(1, 2)
    if pixels.device.type != "cpu":
        # The three layers share this copy, and then add their bias within the product. On a CPU,
        # that would round in another order than diffusers.
        pixels = pixels.contiguous()

    def shape(part: torch.Tensor) -> torch.Tensor:
        return attn.head_to_batch_dim(part, out_dim=4) if split else part

    made = [shape(attn.to_q(pixels))]
    for first, layer in zip(image, (attn.to_k, attn.to_v), strict=True):
        if attn.only_cross_attention:
            made.append(shape(first))
        else:
            made.append(torch.cat([shape(first), shape(layer(pixels))], dim=-2))
    return made


def attend(
    attn: Any, hidden_states: torch.Tensor, image: KeyValue, options: dict[str, Any] | None
) -> torch.Tensor:
    """Compute attention with added keys and values: (B, C, h, w) → (B, C, h, w).

    The result is that of diffusers' AttnAddedKVProcessor2_0, bit for bit on a CPU.

    Args:
        image: the keys and values of the image embeddings.
        options: transformer_options, for the function that the user's ComfyUI has chosen (xformers,
            sage, flash, split, …). None chooses PyTorch's own.
    """
    batch, channels, height, width = hidden_states.shape
    query, key, value = project(attn, hidden_states, image, split=options is None)
    if options is None:
        output = F.scaled_dot_product_attention(query, key, value)
        output = output.transpose(1, 2).reshape(batch, -1, channels)
    else:
        output = optimized_attention(query, key, value, attn.heads, transformer_options=options)
    output = attn.to_out[0](output).transpose(1, 2)  # to_out[1] is dropout
    return output.reshape(batch, channels, height, width) + hidden_states


class SelectableAttention:
    """A processor that runs the attention that a call asks for, so that MODELs can share a UNet."""

    plain = AttnAddedKVProcessor()

    def __init__(self, index: int):
        self.index = index  # the position of the layer

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        image: tuple[KeyValue, ...] = (),
        attention: str = "sdpa",
        transformer_options: dict[str, Any] | None = None,
    ) -> torch.Tensor:
        if attention == "plain":
            return self.plain(attn, hidden_states, encoder_hidden_states, attention_mask)
        own = image[self.index] if image else image_key(attn, encoder_hidden_states)
        return attend(attn, hidden_states, own, transformer_options)


def select_attention(unet: Any) -> list[Any]:
    """Have all attention layers of a UNet run what a call asks for. Return those layers."""
    layers = attention_layers(unet)
    for index, layer in enumerate(layers):
        layer.set_processor(SelectableAttention(index))
    return layers


def image_key(attn: Any, tokens: torch.Tensor) -> KeyValue:
    """Return the key and the value of a layer for the tokens of image embeddings, (B, N, E)."""
    tokens = attn.norm_encoder_hidden_states(tokens) if attn.norm_cross else tokens
    return attn.add_k_proj(tokens), attn.add_v_proj(tokens)
