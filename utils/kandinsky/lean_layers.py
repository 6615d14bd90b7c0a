"""diffusers' residual block and attention layer, without work that does not change a bit."""

from typing import Any

import torch
from diffusers.models.activations import get_activation
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D


class LeanResnetBlock(ResnetBlock2D):
    """A block that skips the division by 1, and whose timestep embedding is activated already."""

    def forward(self, input_tensor: torch.Tensor, temb: Any, *_: Any, **__: Any) -> torch.Tensor:
        # Each tensor has its own statement, so that Python frees the one before it.
        hidden = self.norm1(input_tensor)
        hidden = self.nonlinearity(hidden)
        resample: Any = self.upsample if self.upsample is not None else self.downsample
        if resample is not None:
            # As in diffusers: PyTorch's upsampling fails in channels last here.
            if hidden.shape[0] >= 64:
                input_tensor, hidden = input_tensor.contiguous(), hidden.contiguous()
            input_tensor = resample(input_tensor)
            hidden = resample(hidden)
        hidden = self.conv1(hidden)
        embedding: Any = self.time_emb_proj
        scale, shift = embedding(temb)[:, :, None, None].chunk(2, dim=1)
        hidden = self.norm2(hidden)
        hidden = hidden * (1 + scale) + shift
        hidden = self.nonlinearity(hidden)
        hidden = self.conv2(self.dropout(hidden))
        if self.conv_shortcut is not None:
            input_tensor = self.conv_shortcut(input_tensor)
        return input_tensor + hidden


class DirectAttention(Attention):
    """A layer that calls its processor directly.

    diffusers' own layer looks up the arguments of its processor at each call. On the CPU that
    launches the work, this takes as long as launching several kernels.
    """

    def forward(self, *args: Any, **options: Any) -> torch.Tensor:
        return self.processor(self, *args, **options)


def attention_layers(network: torch.nn.Module) -> list[Any]:
    """Return the attention layers of a network, and have them call their processors directly."""
    layers: list[Any] = [layer for layer in network.modules() if isinstance(layer, Attention)]
    for layer in layers:
        layer.__class__ = DirectAttention
    return layers


def make_lean(unet: Any) -> None:
    """Have a UNet compute the common activation of its residual blocks once, and never divide by 1.

    A UNet whose config needs other blocks stays as it is. The bits are the same.
    """
    config = unet.config
    blocks = [block for block in unet.modules() if type(block) is ResnetBlock2D]
    plain = all(block.output_scale_factor == 1 and not block.skip_time_act for block in blocks)
    if not plain or unet.time_embed_act is not None:
        return
    if config["resnet_time_scale_shift"] != "scale_shift":
        return
    unet.time_embed_act = get_activation(config["act_fn"])
    for block in blocks:
        block.__class__ = LeanResnetBlock
