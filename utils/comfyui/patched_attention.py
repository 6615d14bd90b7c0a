"""ComfyUI's attention patches on joint attention.

The patches are made for attention among pixels (attn1). Here pixels attend to pixels and image
tokens at once. So a patch gets the keys and values of both, tokens first.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from comfy.ldm.modules.attention import attention_basic, optimized_attention

from .attention import image_key
from .model_options import node_of

Change = Callable[..., Any]


def split_heads(states: torch.Tensor, heads: int) -> torch.Tensor:
    """(B, N, H · C) → (B, H, N, C)."""
    return states.unflatten(2, (heads, -1)).transpose(1, 2)


def join_heads(states: torch.Tensor) -> torch.Tensor:
    """(B, H, N, C) → (B, N, H · C)."""
    return states.transpose(1, 2).flatten(2)


def scaled_dot_product(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int
) -> torch.Tensor:
    q, k, v = (split_heads(part, heads) for part in (q, k, v))
    return join_heads(F.scaled_dot_product_attention(q, k, v))


# ComfyUI's own function is the third choice.
FUNCTIONS = {"sdpa": scaled_dot_product, "plain": attention_basic}


def attend_to_pixels(
    function: Change,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    tokens: int,
    options: dict[str, Any],
) -> torch.Tensor:
    """Have a function attend only to the pixels, and give the tokens their share of attention.

    Self-Attention Guidance keeps the scores, and makes a map of the picture from them.
    """
    heads = options["n_heads"]
    to_pixels = split_heads(function(q, k[:, tokens:], v[:, tokens:], options), heads)
    queries, keys, values = (split_heads(part, heads) for part in (q, k, v))
    scores = queries @ keys.transpose(-1, -2) * queries.shape[-1] ** -0.5
    share = scores.softmax(dim=-1)[..., :tokens]
    rest = 1 - share.sum(dim=-1, keepdim=True)
    return join_heads(to_pixels * rest + share @ values[:, :, :tokens])


def joint_attention(
    attn: Any, hidden: torch.Tensor, tokens: torch.Tensor, attend: Change, before: list[Change]
) -> torch.Tensor:
    """Compute attention as diffusers' AttnAddedKVProcessor2_0 does.

    (B, C, h, w) and tokens (B, N, E) → (B, h · w, C).

    Args:
        attend: (q, k, v, N) → output. The keys and values of the tokens come before those of the
            pixels.
        before: functions that change the inputs of the pixels' queries, keys and values.
    """
    pixels = attn.group_norm(hidden.flatten(2)).transpose(1, 2)
    for_query = for_key = for_value = pixels
    for change in before:
        for_query, for_key, for_value = change(for_query, for_key, for_value)
    key, value = image_key(attn, tokens)
    if not attn.only_cross_attention:
        key = torch.cat([key, attn.to_k(for_key)], dim=1)
        value = torch.cat([value, attn.to_v(for_value)], dim=1)
    output = attend(attn.to_q(for_query), key, value, tokens.shape[1])
    return attn.to_out[0](output)  # to_out[1] is dropout


class PatchedAttention:
    """The attention of one layer of the UNet with its patches.

    `patches` and `replace` are ComfyUI's, as in `model_options.unet_patches`. ComfyUI's patches
    read `options`.
    """

    def __init__(self, patches: dict[str, Any], replace: Change | None, options: dict[str, Any]):
        self.replace, self.options = replace, options
        self.before = patches.get("attn1_patch", [])
        self.after = patches.get("attn1_output_patch", [])

    def __call__(
        self, attn: Any, hidden: torch.Tensor, tokens: torch.Tensor, attention: str
    ) -> torch.Tensor:
        """(B, C, h, w) and tokens (B, N, E) → (B, C, h, w)."""
        rows, count = len(hidden), hidden.shape[-2] * hidden.shape[-1]

        def checked(output: torch.Tensor, change: Change) -> torch.Tensor:
            if output.shape[:2] != (rows, count):
                raise ValueError(
                    f"Take {node_of(change)} out. It makes {tuple(output.shape)} of {rows} × "
                    f"{count} pixels, and Kandinsky 2.2, which attends to pixels and image tokens "
                    "at once, needs all of them."
                )
            return output

        def before(change: Change) -> Change:
            def changed(*parts: torch.Tensor) -> list[torch.Tensor]:
                return [checked(part, change) for part in change(*parts, self.options)]

            return changed

        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, tokens: int) -> torch.Tensor:
            replace = self.replace
            if replace is None and attention == "host":
                return optimized_attention(q, k, v, attn.heads, transformer_options=self.options)
            if replace is None:
                return FUNCTIONS[attention](q, k, v, attn.heads)
            if node_of(replace) == "SelfAttentionGuidance":
                return attend_to_pixels(replace, q, k, v, tokens, self.options)
            # A function that gives a value for each key (PAG) refers to the pixels' own keys.
            output = replace(q, k, v, self.options)
            return checked(output[:, -count:], replace)

        output = joint_attention(
            attn, hidden, tokens.to(hidden.dtype), attend, [before(c) for c in self.before]
        )
        for change in self.after:
            output = checked(change(output, self.options), change)
        return output.transpose(1, 2).reshape(hidden.shape) + hidden
