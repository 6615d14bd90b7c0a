"""diffusers' residual block, without what gives the same bits for nothing."""

from typing import Any

import torch
from diffusers.models.activations import get_activation
from diffusers.models.resnet import ResnetBlock2D


class LeanResnetBlock(ResnetBlock2D):
    """Divides by no scale of 1, and takes the embedding of the timestep with its activation."""

    def forward(self, input_tensor: torch.Tensor, temb: Any, *_: Any, **__: Any) -> torch.Tensor:
        # A statement for each tensor, so that the one before it is freed.
        hidden = self.norm1(input_tensor)
        hidden = self.nonlinearity(hidden)
        resample: Any = self.upsample if self.upsample is not None else self.downsample
        if resample is not None:
            if hidden.shape[0] >= 64:  # as in diffusers: PyTorch's own fails in channels last
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


def make_lean(unet: Any) -> None:
    """Have a UNet compute the activation that all of its residual blocks begin with once, and no
    division by 1, where its config has no other wishes. The bits stay the same."""
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
