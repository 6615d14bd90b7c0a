"""The decoder's UNet behind the signature that the host calls, with a choice of attention."""

from typing import Any

import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnAddedKVProcessor, AttnAddedKVProcessor2_0

from ..kandinsky.latents import CHANNELS
from ..kandinsky.sizes import PIXELS_PER_LATENT, pad_to_grid

# variant of a UNet → the published folder that has it
VARIANTS = {
    "text_to_image": "kandinsky-2-2-decoder",
    "inpaint": "kandinsky-2-2-decoder-inpaint",
    "depth": "kandinsky-2-2-controlnet-depth",
}
# Under `transformer_options` of a MODEL: what the Optimize node sets.
ATTENTION, CHANNELS_LAST = "kandinsky22_attention", "kandinsky22_channels_last"


class HostAttention:
    """Attention with added keys and values, as diffusers' AttnAddedKVProcessor2_0 has it, through
    the function that the user's ComfyUI has chosen (xformers, sage, flash, split, …)."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        context: torch.Tensor,
        transformer_options: dict[str, Any] | None,
    ) -> torch.Tensor:
        """(B, C, h, w) and tokens (B, N, E) → (B, C, h, w)."""
        batch, channels, height, width = hidden_states.shape
        pixels = attn.group_norm(hidden_states.view(batch, channels, -1)).transpose(1, 2)
        context = attn.norm_encoder_hidden_states(context) if attn.norm_cross else context
        key, value = attn.add_k_proj(context), attn.add_v_proj(context)
        if not attn.only_cross_attention:
            key = torch.cat([key, attn.to_k(pixels)], dim=1)
            value = torch.cat([value, attn.to_v(pixels)], dim=1)
        output = optimized_attention(
            attn.to_q(pixels), key, value, attn.heads, transformer_options=transformer_options
        )
        output = attn.to_out[0](output).transpose(1, 2)  # to_out[1] is dropout
        return output.reshape(batch, channels, height, width) + hidden_states


ATTENTIONS: dict[str, Any] = {
    "sdpa": AttnAddedKVProcessor2_0(),
    "host": HostAttention(),
    "plain": AttnAddedKVProcessor(),
}


class ChosenAttention:
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
        # The image tokens come in the type of the weights, which need not be that of computing.
        encoder_hidden_states = encoder_hidden_states.to(hidden_states.dtype)
        if attention == "host":
            return ATTENTIONS["host"](
                attn, hidden_states, encoder_hidden_states, transformer_options
            )
        return ATTENTIONS[attention](attn, hidden_states, encoder_hidden_states, attention_mask)


def choices(transformer_options: dict[str, Any]) -> dict[str, Any]:
    """What a MODEL chooses of how its UNet runs: arguments of `Kandinsky22UNet.forward`.

    As arguments, because TorchCompileModel has torch.compile take no notice of what changes within
    `transformer_options`.
    """
    attention = transformer_options.get(ATTENTION, "sdpa")
    # What takes the host's attention over is never passed by.
    if "optimized_attention_override" in transformer_options:
        attention = "host"
    channels_last = bool(transformer_options.get(CHANNELS_LAST))
    return {"attention": attention, "channels_last": channels_last}


def refuse_foreign_parts(transformer_options: dict[str, Any], control: Any = None) -> None:
    """Raises ValueError for what is made for other UNets and would do nothing in this one."""
    found = [name for name in ("patches", "patches_replace") if transformer_options.get(name)]
    if found or control is not None:
        raise ValueError(
            f"Kandinsky 2.2 has no place for {found[0] if found else 'a ControlNet'} of other "
            "models (PAG, SAG, HyperTile, GLIGEN, …). Take that node out; for depth use Depth "
            "Conditioning (Kandinsky 2.2)."
        )


class Kandinsky22UNet(UNet2DConditionModel):
    """diffusers' UNet behind the signature that the host calls; state-dict keys stay diffusers'."""

    @classmethod
    def from_config(cls, *args: Any, **kwargs: Any) -> Any:
        unet: Any = super().from_config(*args, **kwargs)
        unet.set_attn_processor(ChosenAttention())
        return unet

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights. The host asks for it at every step, and diffusers' own looks through all
        modules for hooks that are never here."""
        return self.conv_in.weight.dtype

    @property
    def variant(self) -> str:
        if self.config["addition_embed_type"] == "image_hint":
            return "depth"
        return "inpaint" if self.config["in_channels"] == 9 else "text_to_image"

    @property
    def grid(self) -> int:
        """Latents must be multiples of this: the UNet halves them once for each level but one."""
        return 2 ** (len(self.config["block_out_channels"]) - 1)

    @property
    def embeds_width(self) -> int:
        return self.config["encoder_hid_dim"]

    def forward(  # type: ignore[override]
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor,
        context: torch.Tensor,
        hint: torch.Tensor | None = None,
        control: Any = None,
        with_variance: bool = False,
        attention: str = "sdpa",
        channels_last: bool = False,
        transformer_options: dict[str, Any] | None = None,
        **_,
    ) -> torch.Tensor:
        """(B, C, h, w) → epsilon (B, 4, h, w), or (B, 8, h, w) with the variance behind it.

        Args:
            context: image embeddings, (B, 1, D), as they ride in CONDITIONING.
            hint: (B, 3, 8h, 8w) in [0, 1], for the depth variant.
            control: None; what has a ControlNet does not come this far.
            attention, channels_last: see `choices`.

        Raises:
            ValueError: an area of a CONDITIONING has nothing in it.
        """
        options = transformer_options or {}
        height, width = x.shape[-2:]
        if 0 in (height, width):
            raise ValueError(
                f"There are no latents to denoise: {height}×{width}. An area that is set on a "
                "CONDITIONING lies outside of the canvas; move it, or make the canvas larger."
            )
        # Mirrored noise is still noise; a repeated edge is not, but the only way for tiny sizes.
        mode = "reflect" if min(height, width) >= self.grid else "replicate"
        x = pad_to_grid(x, self.grid, mode)
        if hint is not None:
            hint = pad_to_grid(hint, self.grid * PIXELS_PER_LATENT)
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, options)
        output = WrapperExecutor.new_class_executor(self._run, self, wrappers).execute(
            *(x, timesteps, context),
            hint=hint,
            attention=attention,
            channels_last=channels_last,
            transformer_options=transformer_options,
        )[..., :height, :width]
        return output if with_variance else output[:, :CHANNELS]

    def _run(
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor,
        context: torch.Tensor,
        hint: torch.Tensor | None = None,
        attention: str = "sdpa",
        channels_last: bool = False,
        transformer_options: dict[str, Any] | None = None,
        **_: Any,
    ) -> torch.Tensor:
        conditions = {"image_embeds": context[:, 0]}
        if hint is not None:
            conditions["hint"] = hint
        if channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        chosen: dict[str, Any] = {"attention": attention}
        if attention == "host":
            chosen["transformer_options"] = transformer_options or {}
        output = super().forward(
            x,
            timesteps,
            context,
            added_cond_kwargs=conditions,
            cross_attention_kwargs=chosen,
            return_dict=False,
        )
        return output[0]
