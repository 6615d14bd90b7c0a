"""The ways in which the decoder's UNet can compute attention, and the choice between them."""

from collections.abc import Callable
from typing import Any

import torch
from comfy.ldm.modules.attention import optimized_attention
from diffusers.models.attention_processor import AttnAddedKVProcessor, AttnAddedKVProcessor2_0

Change = Callable[..., Any]


class ComfyUIAttention:
    """Attention with added keys and values, as in diffusers' AttnAddedKVProcessor2_0, through the
    function that the user's ComfyUI has chosen (xformers, sage, flash, split, …)."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        context: torch.Tensor,
        transformer_options: dict[str, Any] | None,
        attend: Change | None = None,
        before: list[Change] | None = None,
        after: list[Change] | None = None,
    ) -> torch.Tensor:
        """(B, C, h, w) and tokens (B, N, E) → (B, C, h, w).

        Args:
            attend: in place of ComfyUI's function: (q, k, v, number of tokens) → output. The keys
                and values are those of the tokens, followed by those of the pixels.
            before: change what the pixels' queries, keys and values are made of.
            after: change the output.
        """
        batch, channels, height, width = hidden_states.shape
        pixels = attn.group_norm(hidden_states.view(batch, channels, -1)).transpose(1, 2)
        context = attn.norm_encoder_hidden_states(context) if attn.norm_cross else context
        for_query = for_key = for_value = pixels
        for change in before or ():
            for_query, for_key, for_value = change(for_query, for_key, for_value)
        key, value = attn.add_k_proj(context), attn.add_v_proj(context)
        if not attn.only_cross_attention:
            key = torch.cat([key, attn.to_k(for_key)], dim=1)
            value = torch.cat([value, attn.to_v(for_value)], dim=1)
        query = attn.to_q(for_query)
        if attend is None:
            output = optimized_attention(
                query, key, value, attn.heads, transformer_options=transformer_options
            )
        else:
            output = attend(query, key, value, context.shape[1])
        output = attn.to_out[0](output)  # to_out[1] is dropout
        for change in after or ():
            output = change(output)
        return output.transpose(1, 2).reshape(batch, channels, height, width) + hidden_states


ATTENTIONS: dict[str, Any] = {
    "sdpa": AttnAddedKVProcessor2_0(),
    "host": ComfyUIAttention(),
    "plain": AttnAddedKVProcessor(),
}


class SelectableAttention:
    """Runs the attention that the call asks for, so that one UNet serves MODELs that differ."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        attention: str = "sdpa",
        transformer_options: dict[str, Any] | None = None,
    ) -> torch.Tensor:
        # The image tokens come in the dtype of the weights; the layers may compute in another.
        encoder_hidden_states = encoder_hidden_states.to(hidden_states.dtype)
        if attention == "host":
            return ATTENTIONS["host"](
                attn, hidden_states, encoder_hidden_states, transformer_options
            )
        return ATTENTIONS[attention](attn, hidden_states, encoder_hidden_states, attention_mask)
