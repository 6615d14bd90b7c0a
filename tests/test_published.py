"""The published architectures, without their weights."""

import accelerate
import pytest
from diffusers import PriorTransformer, VQModel
from kandinsky22.utils.native_unet import Kandinsky22UNet
from kandinsky22.utils.published import MOVQ, PRIOR, UNETS
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)


def text_encoder(config):
    return CLIPTextModelWithProjection(CLIPTextConfig(**config))


def image_encoder(config):
    return CLIPVisionModelWithProjection(CLIPVisionConfig(**config))


@pytest.mark.parametrize(
    "build, config, gigabytes",
    [
        (Kandinsky22UNet.from_config, UNETS["text_to_image"]["unet"], 5.01),
        (Kandinsky22UNet.from_config, UNETS["inpaint"]["unet"], 5.01),
        (Kandinsky22UNet.from_config, UNETS["depth"]["unet"], 5.01),
        (VQModel.from_config, MOVQ, 0.271),
        (PriorTransformer.from_config, PRIOR["prior"], 4.10),
        (text_encoder, PRIOR["text_encoder"], 2.78),
        (image_encoder, PRIOR["image_encoder"], 2 * 3.69),  # published in float16
    ],
    ids=["unet", "inpaint", "depth", "movq", "prior", "text", "image"],
)
def test_they_are_as_large_as_the_published_files(build, config, gigabytes):
    with accelerate.init_empty_weights():
        module = build(config)
    numbers = sum(parameter.numel() for parameter in module.parameters())
    assert numbers * 4 / 1e9 == pytest.approx(gigabytes, rel=0.002)


def test_each_unet_is_of_its_kind():
    for variant, configs in UNETS.items():
        with accelerate.init_empty_weights():
            unet = Kandinsky22UNet.from_config(configs["unet"])
        assert (unet.variant, unet.grid, unet.embeds_width) == (variant, 8, 1280)
