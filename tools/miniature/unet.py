"""The decoder's UNet: image embedding to latents."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel

from .clip import EMBED, load_clip, zero_embedding
from .dataset import choose_partners, find_partners, load_dataset
from .hint import load_hint_block
from .shapes import Scenes
from .training import load_average, load_stored, train

STEPS, BATCH = 4200, 32
GRID = 16  # latent cells along a side of a 128 px picture
LATENT_RANGE = 3.2  # latents have unit deviation; predictions are clipped here, which steadies cfg


def build_scheduler() -> DDPMScheduler:
    """Build the published decoder's DDPM, with a clip range that fits these latents."""
    return DDPMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="linear",
        prediction_type="epsilon",
        steps_offset=1,
        clip_sample=True,
        clip_sample_range=LATENT_RANGE,
        thresholding=False,
        variance_type="fixed_small",
        timestep_spacing="leading",
    )


def build_unet(kind: str = "decoder") -> UNet2DConditionModel:
    """Build a UNet of the published kind. All give 8 channels, noise and an unused variance.

    `kind` is decoder (4 channels in), inpaint (9: latents, kept picture, kept cells) or controlnet
    (8: latents, hint).
    """
    return UNet2DConditionModel(
        sample_size=GRID,
        in_channels={"decoder": 4, "inpaint": 9, "controlnet": 8}[kind],
        out_channels=8,
        down_block_types=["ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"],
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=["SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"],
        block_out_channels=[64, 96],
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=32,
        cross_attention_dim=32,
        encoder_hid_dim=EMBED,
        encoder_hid_dim_type="image_proj",
        addition_embed_type="image_hint" if kind == "controlnet" else "image",
        resnet_time_scale_shift="scale_shift",
        act_fn="silu",
        time_embedding_dim=128,
    )


def silence_variance(unet: UNet2DConditionModel) -> None:
    """Set zero weights and bias -1 for the four variance channels, which the schedulers ignore."""
    with torch.no_grad():
        unet.conv_out.weight[4:] = 0
        unet.conv_out.bias[4:] = -1


class DiffusionLoss:
    """The noise-prediction loss with min-SNR weights (arXiv:2303.09556, gamma 5)."""

    def __init__(self, unet: UNet2DConditionModel, zero: torch.Tensor):
        self.unet, self.zero = unet, zero
        self.alpha = build_scheduler().alphas_cumprod.to(zero.device)

    def __call__(
        self, latents, embeds, generator, extra=None, hint=None, cousins=None, drop: float = 0.1
    ):
        """Return the loss for latents (B, 4, h, w), embeddings (B, D) and `extra` channels.

        `cousins` are embeddings of other pictures in the same colours. With little noise, they
        often replace the right embeddings. With even less noise, any other picture's embedding
        does. So the layout, and then the colours, are read from the latents, and img2img keeps
        them.
        """
        n = len(latents)
        steps = (torch.rand(n, generator=generator) * 1000).long()
        alpha = self.alpha[steps].view(-1, 1, 1, 1)
        noise = torch.randn(latents.shape, generator=generator)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        if cousins is not None:
            chance = 0.6 * ((600 - steps) / 300).clamp(0, 1)
            swap = torch.rand(n, generator=generator) < chance
            strange = torch.rand(n, generator=generator) < 0.5 * ((500 - steps) / 200).clamp(0, 1)
            embeds = torch.where(swap[:, None], cousins, embeds)
            embeds = torch.where(strange[:, None], embeds.roll(1, 0), embeds)
        blur = 0.3 * torch.rand(n, 1, generator=generator)
        embeds = embeds + blur * torch.randn(embeds.shape, generator=generator)
        dropped = torch.rand(n, 1, generator=generator) < drop
        embeds = torch.where(dropped, self.zero, embeds)
        inputs = noisy if extra is None else torch.cat([noisy, extra], 1)
        added = {"image_embeds": embeds} | ({} if hint is None else {"hint": hint})
        with torch.autocast(latents.device.type, torch.bfloat16):
            output = self.unet(inputs, steps, None, added_cond_kwargs=added).sample[:, :4].float()
        snr = (alpha / (1 - alpha)).flatten()
        error = (output - noise).square().mean((1, 2, 3))
        return (error * snr.clamp(max=5) / snr).mean(), {"eps": error.mean().detach()}


def load_training_set(work: Path) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, Scenes]:
    """Load latents (N, 4, 16, 16), embeddings (N, D), zero embedding (1, D), scenes."""
    latents = load_stored(work / "latents.pt", "latents")
    embeds = load_stored(work / "embeds.pt", "clip")
    _, scenes = load_dataset(work)
    return latents, embeds, zero_embedding(load_clip(work)[1]), scenes


def train_unet(work: Path, seed: int, steps: int = STEPS) -> None:
    """Train from embeddings to latents, from noise."""
    latents, embeds, zero, scenes = load_training_set(work)
    torch.manual_seed(seed)
    unet = build_unet()
    silence_variance(unet)
    partners = find_partners(scenes, seed)
    diffusion = DiffusionLoss(unet, zero)

    def loss_fn(step: int, generator: torch.Generator):
        index = torch.randint(0, len(latents), (BATCH,), generator=generator)
        cousins = embeds[choose_partners(partners, index, generator)]
        return diffusion(latents[index], embeds[index], generator, cousins=cousins)

    train("unet", unet, loss_fn, steps, 1.4e-3, work, seed, decay=0.998, weight_decay=0.01)


def load_unet(work: Path, kind: str = "decoder") -> UNet2DConditionModel:
    """Load a finished UNet, frozen."""
    unet = build_unet(kind)
    if kind != "controlnet":
        return load_average({"decoder": "unet"}.get(kind, kind), unet, work)
    block = load_hint_block(unet, work)
    unet.add_embedding.input_hint_block = torch.nn.Identity()
    load_average(kind, unet, work)
    unet.add_embedding.input_hint_block = block
    return unet
