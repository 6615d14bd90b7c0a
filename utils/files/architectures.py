"""The published architectures, and the names of the folders that have them.

A config holds only the values that differ from the defaults of its class in diffusers or
transformers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ORGANISATION = "kandinsky-community"  # on the Hugging Face Hub

_DECODER_SCHEDULER = dict(
    num_train_timesteps=1000,
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="linear",
    prediction_type="epsilon",
    steps_offset=1,
    variance_type="fixed_small",
    clip_sample=True,
    clip_sample_range=1.0,
    thresholding=False,
    timestep_spacing="leading",
)
_UNET = dict(
    sample_size=64,
    in_channels=4,
    out_channels=8,
    block_out_channels=(384, 768, 1152, 1536),
    down_block_types=("ResnetDownsampleBlock2D",) + ("SimpleCrossAttnDownBlock2D",) * 3,
    mid_block_type="UNetMidBlock2DSimpleCrossAttn",
    up_block_types=("SimpleCrossAttnUpBlock2D",) * 3 + ("ResnetUpsampleBlock2D",),
    layers_per_block=3,
    attention_head_dim=64,
    cross_attention_dim=768,
    encoder_hid_dim=1280,
    encoder_hid_dim_type="image_proj",
    addition_embed_type="image",
    resnet_time_scale_shift="scale_shift",
)


@dataclass(frozen=True)
class PublishedDecoder:
    """A published decoder: the folder that holds it, and the configs of its UNet and scheduler."""

    folder: str
    unet: dict[str, Any]
    scheduler: dict[str, Any]


# The variant of a UNet → the published decoder that has it.
DECODERS = {
    "text_to_image": PublishedDecoder("kandinsky-2-2-decoder", _UNET, _DECODER_SCHEDULER),
    "inpaint": PublishedDecoder(
        "kandinsky-2-2-decoder-inpaint",
        _UNET | {"in_channels": 9},
        _DECODER_SCHEDULER | {"clip_sample": False},
    ),
    "depth": PublishedDecoder(
        "kandinsky-2-2-controlnet-depth",
        _UNET | {"in_channels": 8, "addition_embed_type": "image_hint"},
        _DECODER_SCHEDULER,
    ),
}


def variant_of(unet: Mapping[str, Any]) -> str:
    """Return the key of DECODERS for the config of a UNet."""
    if unet.get("addition_embed_type") == "image_hint":
        return "depth"
    return "inpaint" if unet.get("in_channels") == 9 else "text_to_image"


MOVQ: dict[str, Any] = dict(
    block_out_channels=(128, 256, 256, 512),
    down_block_types=("DownEncoderBlock2D",) * 3 + ("AttnDownEncoderBlock2D",),
    up_block_types=("AttnUpDecoderBlock2D",) + ("UpDecoderBlock2D",) * 3,
    layers_per_block=2,
    latent_channels=4,
    vq_embed_dim=4,
    num_vq_embeddings=16384,
    norm_type="spatial",
)

PRIOR_FOLDER = "kandinsky-2-2-prior"
PRIOR: dict[str, dict[str, Any]] = {
    "prior": dict(
        num_attention_heads=32,
        attention_head_dim=64,
        num_layers=20,
        embedding_dim=1280,
        num_embeddings=77,
        additional_embeddings=4,
    ),
    "scheduler": dict(
        num_train_timesteps=1000,
        variance_type="fixed_small_log",
        clip_sample=True,
        clip_sample_range=10.0,
        prediction_type="sample",
    ),
    "text_encoder": dict(
        vocab_size=49408,
        hidden_size=1280,
        intermediate_size=5120,
        num_hidden_layers=32,
        num_attention_heads=20,
        max_position_embeddings=77,
        hidden_act="gelu",
        projection_dim=1280,
    ),
    "image_encoder": dict(
        hidden_size=1664,
        intermediate_size=8192,
        num_hidden_layers=48,
        num_attention_heads=16,
        image_size=224,
        patch_size=14,
        hidden_act="gelu",
        projection_dim=1280,
    ),
}
