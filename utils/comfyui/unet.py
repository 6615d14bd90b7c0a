"""The decoder's UNet, with the signature that ComfyUI calls."""

from typing import Any, NamedTuple

import torch
from diffusers import UNet2DConditionModel

from ..files.architectures import variant_of
from ..kandinsky.latents import CHANNELS
from ..kandinsky.lean_layers import make_lean
from ..kandinsky.sizes import PIXELS_PER_LATENT, pad_to_grid
from .attention import KeyValue, image_key, select_attention
from .model_options import OVERRIDE
from .patched_unet import run_patched
from .wrapped_unet import Wrapped, run_wrapped


class Conditions(NamedTuple):
    """Embeddings, and a hint, as the UNet reads them. They are the same in every step of a run."""

    context: torch.Tensor  # (B, 1, D), the source of these values
    hint: torch.Tensor | None  # (B, 3, 8h, 8w)
    embedding: torch.Tensor  # (B, E), added to the embedding of the timestep
    tokens: torch.Tensor  # (B, N, C)
    image: tuple[KeyValue, ...]  # keys and values of the tokens for each layer, if they are kept
    features: torch.Tensor | None  # (B, 4, h, w), of the hint


class Kandinsky22UNet(UNet2DConditionModel):
    """diffusers' UNet with the signature that ComfyUI calls. State-dict keys stay diffusers'."""

    @classmethod
    def from_config(cls, *args: Any, **kwargs: Any) -> Any:
        unet: Any = super().from_config(*args, **kwargs)
        unet.attention_layers = select_attention(unet)
        make_lean(unet)
        return unet

    @property
    def dtype(self) -> torch.dtype:
        """Return the dtype of the weights, which ComfyUI reads at every step.

        diffusers' own property looks through all modules for hooks, and there are none.
        """
        return self.conv_in.weight.dtype

    @property
    def variant(self) -> str:
        return variant_of(self.config)

    @property
    def grid(self) -> int:
        """Latents must be multiples of this. The UNet halves them for each level but one."""
        return 2 ** (len(self.config["block_out_channels"]) - 1)

    @property
    def embeds_width(self) -> int:
        return self.config["encoder_hid_dim"]

    @property
    def kept_numbers(self) -> int:
        """How many numbers `condition` keeps for each row."""
        widths = sum(2 * layer.add_k_proj.out_features for layer in self.attention_layers)
        project: Any = self.encoder_hid_proj
        return widths * project.num_image_text_embeds

    def condition(
        self, context: torch.Tensor, hint: torch.Tensor | None, keep: bool = True
    ) -> Conditions:
        """Read embeddings (B, 1, D) and a hint (B, 3, 8h, 8w), in the dtype that x will have.

        Args:
            keep: compute the keys and values of all layers for several calls. Otherwise each layer
                computes them when it runs.
        """
        embeds, features = context[:, 0], None
        if hint is None:
            embedding = self.add_embedding(embeds)
        else:
            embedding, features = self.add_embedding(embeds, hint)
        project: Any = self.encoder_hid_proj
        # The tokens have the dtype of the weights, and the layers may compute in another dtype.
        tokens = project(embeds).to(context.dtype)
        layers = self.attention_layers if keep else ()
        keys = tuple(image_key(layer, tokens) for layer in layers)
        return Conditions(context, hint, embedding, tokens, keys, features)

    def get_aug_embed(self, emb: Any, encoder_hidden_states: Any, added_cond_kwargs: Any) -> Any:
        """Return what diffusers' forward adds to the timestep's embedding, and the hint."""
        conditions: Conditions = added_cond_kwargs["conditions"]
        if conditions.features is None:
            return conditions.embedding
        return conditions.embedding, conditions.features

    def process_encoder_hidden_states(
        self, encoder_hidden_states: Any, added_cond_kwargs: Any
    ) -> torch.Tensor:
        """Return the tokens that diffusers' forward gives to the attention layers."""
        return added_cond_kwargs["conditions"].tokens

    def forward(  # type: ignore[override]
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor,
        context: torch.Tensor,
        hint: torch.Tensor | None = None,
        control: Any = None,
        conditions: Conditions | None = None,
        with_variance: bool = False,
        attention: str = "sdpa",
        channels_last: bool = False,
        patches: dict[str, Any] | None = None,
        override: Any = None,
        wrapped: Wrapped | None = None,
        transformer_options: dict[str, Any] | None = None,
        **_,
    ) -> torch.Tensor:
        """Return epsilon (B, 4, h, w) for (B, C, h, w), or (B, 8, h, w) with the variance after it.

        Args:
            context: image embeddings, (B, 1, D), as in CONDITIONING.
            hint: (B, 3, 8h, 8w) in [0, 1], for the depth variant.
            control: None. A call with a ControlNet is refused before this.
            conditions: of the same context and hint, if they were read before.
            attention, channels_last, patches, override, wrapped: see `unet_arguments`.
        """
        given: dict[str, Any] = {"hint": hint, "conditions": conditions, "attention": attention}
        given |= {"channels_last": channels_last, "transformer_options": transformer_options}
        # Values that most calls do not have. A wrapper of other nodes does not see them, either.
        given |= {} if patches is None else {"patches": patches}
        given |= {} if override is None else {"override": override}
        if wrapped is not None:
            output = run_wrapped(wrapped, x, timesteps, context, **given)
            return output if with_variance else output[:, :CHANNELS]
        height, width = x.shape[-2:]
        # Mirrored noise is still noise. A repeated edge is not, but tiny sizes allow nothing else.
        mode = "reflect" if min(height, width) >= self.grid else "replicate"
        x = pad_to_grid(x, self.grid, mode)
        if hint is not None:
            given["hint"] = pad_to_grid(hint, self.grid * PIXELS_PER_LATENT)
        output = self._run(x, timesteps, context, **given)[..., :height, :width]
        return output if with_variance else output[:, :CHANNELS]

    def _run(
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor,
        context: torch.Tensor,
        hint: torch.Tensor | None = None,
        conditions: Conditions | None = None,
        attention: str = "sdpa",
        channels_last: bool = False,
        patches: dict[str, Any] | None = None,
        override: Any = None,
        transformer_options: dict[str, Any] | None = None,
    ) -> torch.Tensor:
        # A wrapper may have replaced these tensors.
        if conditions is None or conditions.context is not context or conditions.hint is not hint:
            conditions = self.condition(context, hint, keep=False)
        if channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        chosen: dict[str, Any] = {"attention": attention, "image": conditions.image}
        options = transformer_options or {}
        if override is not None:
            options = options | {OVERRIDE: override}
        if attention == "host":
            chosen["transformer_options"] = options
        given: Any = {"conditions": conditions}
        if patches is not None:
            return run_patched(self, x, timesteps, given, chosen, patches, options)
        output = super().forward(
            x,
            timesteps,
            context,
            added_cond_kwargs=given,
            cross_attention_kwargs=chosen,
            return_dict=False,
        )
        return output[0]
