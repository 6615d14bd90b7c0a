"""The decoder's UNet, with the signature that ComfyUI calls."""

from typing import Any

import torch
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from diffusers import UNet2DConditionModel

from ..files.architectures import variant_of
from ..kandinsky.latents import CHANNELS
from ..kandinsky.sizes import PIXELS_PER_LATENT, pad_to_grid
from .attention import SelectableAttention
from .patched_unet import run_patched


class Kandinsky22UNet(UNet2DConditionModel):
    """diffusers' UNet with the signature that ComfyUI calls; state-dict keys stay diffusers'."""

    @classmethod
    def from_config(cls, *args: Any, **kwargs: Any) -> Any:
        unet: Any = super().from_config(*args, **kwargs)
        unet.set_attn_processor(SelectableAttention())
        return unet

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights. ComfyUI asks for it at every step, and diffusers' own property
        looks through all modules for hooks, and none is here."""
        return self.conv_in.weight.dtype

    @property
    def variant(self) -> str:
        return variant_of(self.config)

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
        patches: dict[str, Any] | None = None,
        transformer_options: dict[str, Any] | None = None,
        **_,
    ) -> torch.Tensor:
        """(B, C, h, w) → epsilon (B, 4, h, w), or (B, 8, h, w) with the variance after it.

        Args:
            context: image embeddings, (B, 1, D), as they ride in CONDITIONING.
            hint: (B, 3, 8h, 8w) in [0, 1], for the depth variant.
            control: None; what has a ControlNet does not come this far.
            attention, channels_last, patches: see `unet_arguments`.
        """
        options = transformer_options or {}
        height, width = x.shape[-2:]
        # Mirrored noise is still noise; a repeated edge is not, but the only way for tiny sizes.
        mode = "reflect" if min(height, width) >= self.grid else "replicate"
        x = pad_to_grid(x, self.grid, mode)
        if hint is not None:
            hint = pad_to_grid(hint, self.grid * PIXELS_PER_LATENT)
        chosen = {} if patches is None else {"patches": patches}
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, options)
        output = WrapperExecutor.new_class_executor(self._run, self, wrappers).execute(
            x,
            timesteps,
            context,
            hint=hint,
            attention=attention,
            channels_last=channels_last,
            transformer_options=transformer_options,
            **chosen,
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
        patches: dict[str, Any] | None = None,
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
        if patches is not None:
            options = transformer_options or {}
            return run_patched(self, x, timesteps, conditions, chosen, patches, options)
        output = super().forward(
            x,
            timesteps,
            context,
            added_cond_kwargs=conditions,
            cross_attention_kwargs=chosen,
            return_dict=False,
        )
        return output[0]
