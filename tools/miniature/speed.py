"""Faster CPU versions of some operations, only for training.

The weights and results stay the same.
"""

from __future__ import annotations

import torch
from diffusers.models.attention_processor import SpatialNorm
from diffusers.models.upsampling import Upsample2D
from torch import nn


class Normalise(torch.autograd.Function):
    """Group normalisation without weights, as torch's own backward is its slowest CPU kernel."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, groups: int, eps: float) -> torch.Tensor:
        b, c, h, w = x.shape
        output, _, rstd = torch.native_group_norm(x, None, None, b, c, h * w, groups, eps)
        ctx.save_for_backward(output, rstd)
        return output

    @staticmethod
    def backward(ctx, gradient: torch.Tensor):
        output, rstd = ctx.saved_tensors
        shape = output.shape
        flat = gradient.reshape(*rstd.shape, -1)  # (B, groups, C / groups * H * W)
        hat = output.reshape(*rstd.shape, -1)
        n = flat.shape[-1]
        pairs = (flat.flatten(0, 1)[:, None] @ hat.flatten(0, 1)[:, :, None]).view(
            *rstd.shape, 1
        ) / n
        scaled = torch.addcmul(flat - flat.mean(-1, keepdim=True), hat, pairs, value=-1)
        return (scaled * rstd[..., None].to(scaled.dtype)).view(shape), None, None


def widen(x: torch.Tensor, size: torch.Size) -> torch.Tensor:
    """Upsample by a whole factor with the nearest pixel. Its backward is a plain sum."""
    b, c, h, w = x.shape
    fy, fx = size[0] // h, size[1] // w
    return x[:, :, :, None, :, None].expand(b, c, h, fy, w, fx).reshape(b, c, h * fy, w * fx)


class QuickGroupNorm(nn.GroupNorm):
    """nn.GroupNorm computed by `Normalise`."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.dim() != 4:
            return super().forward(x)
        hat = Normalise.apply(x, self.num_groups, self.eps)
        weight, bias = (p.view(1, -1, 1, 1).to(hat.dtype) for p in (self.weight, self.bias))
        return torch.addcmul(bias, hat, weight)


class QuickSpatialNorm(SpatialNorm):
    """SpatialNorm whose 1 x 1 convolutions run before the upsampling, which gives the same."""

    def forward(self, f: torch.Tensor, zq: torch.Tensor) -> torch.Tensor:
        norm = self.norm_layer
        scale, shift = self.conv_y(zq), self.conv_b(zq)
        weight, bias = (p.view(1, -1, 1, 1) for p in (norm.weight, norm.bias))
        shift = (shift + scale * bias).to(f.dtype)
        scale = (scale * weight).to(f.dtype)
        hat = Normalise.apply(f, norm.num_groups, norm.eps)
        return torch.addcmul(widen(shift, f.shape[-2:]), hat, widen(scale, f.shape[-2:]))


class QuickUpsample(Upsample2D):
    """Upsample2D computed by `widen`."""

    def forward(self, hidden_states: torch.Tensor, output_size=None, *args, **kwargs):
        h, w = hidden_states.shape[-2:]
        x = widen(hidden_states, torch.Size((2 * h, 2 * w)))
        return self.conv(x) if self.use_conv else x


def quicken(module: nn.Module) -> nn.Module:
    """Replace the classes of slow submodules, in place. Parameters and their names stay."""
    for child in module.modules():
        if type(child) is SpatialNorm:
            child.__class__ = QuickSpatialNorm
        elif type(child) is nn.GroupNorm:
            child.__class__ = QuickGroupNorm
        elif type(child) is Upsample2D:
            child.__class__ = QuickUpsample
    return module
