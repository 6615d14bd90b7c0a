"""Checkpoints of the published architectures are recognised and loaded, without their weights."""

import json

import accelerate
import pytest
import torch
from diffusers import PriorTransformer, UNet2DConditionModel, VQModel
from kandinsky22.utils.comfyui.load_model import load_unet
from kandinsky22.utils.comfyui.unet import Kandinsky22UNet
from kandinsky22.utils.comfyui.vae import load_vae_file
from kandinsky22.utils.download.repositories import REPOSITORIES
from kandinsky22.utils.files.architectures import (
    DECODERS,
    MOVQ,
    ORGANISATION,
    PRIOR,
    PRIOR_FOLDER,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

pytestmark = pytest.mark.long


def text_encoder(config):
    return CLIPTextModelWithProjection(CLIPTextConfig(**config))


def image_encoder(config):
    return CLIPVisionModelWithProjection(CLIPVisionConfig(**config))


@pytest.mark.parametrize(
    "build, config, millions, gigabytes",
    [
        (Kandinsky22UNet.from_config, DECODERS["text_to_image"].unet, 1253.1, 5.01),
        (Kandinsky22UNet.from_config, DECODERS["inpaint"].unet, 1253.1, 5.01),
        (Kandinsky22UNet.from_config, DECODERS["depth"].unet, 1253.4, 5.01),
        (VQModel.from_config, MOVQ, 67.8, 0.271),
        (PriorTransformer.from_config, PRIOR["prior"], 1026.2, 4.10),
        (text_encoder, PRIOR["text_encoder"], 694.7, 2.78),
        (image_encoder, PRIOR["image_encoder"], 1844.9, 2 * 3.69),  # published in float16
    ],
    ids=["unet", "inpaint", "depth", "movq", "prior", "text", "image"],
)
def test_they_are_as_large_as_the_published_files(build, config, millions, gigabytes):
    with accelerate.init_empty_weights():
        module = build(config)
    numbers = sum(parameter.numel() for parameter in module.parameters())
    assert round(numbers / 1e6, 1) == millions
    assert numbers * 4 / 1e9 == pytest.approx(gigabytes, rel=0.002)


def test_each_unet_is_of_its_kind():
    for variant, published in DECODERS.items():
        with accelerate.init_empty_weights():
            unet = Kandinsky22UNet.from_config(published.unet)
        assert (unet.variant, unet.grid, unet.embeds_width) == (variant, 8, 1280)


def write_hollow(path, module) -> None:
    """Write a safetensors file with a module's names and shapes in float16, and no content.

    Its gigabytes are a hole in the file system.
    """
    header, end = {}, 0
    for name, tensor in module.state_dict().items():
        start, end = end, end + 2 * tensor.numel()
        header[name] = {"dtype": "F16", "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


@pytest.mark.parametrize("variant", list(DECODERS))
def test_a_unet_of_published_size_is_recognised_and_loaded(models, tmp_path, variant):
    with accelerate.init_empty_weights():
        published = UNet2DConditionModel.from_config(DECODERS[variant].unet)
    write_hollow(tmp_path / "unet.safetensors", published)
    loaded = load_unet(tmp_path / "unet.safetensors", "fp16").model
    unet = loaded.diffusion_model
    assert unet.variant == variant and loaded.scheduler_config == DECODERS[variant].scheduler
    shapes = {name: tensor.shape for name, tensor in published.state_dict().items()}
    assert {name: tensor.shape for name, tensor in unet.state_dict().items()} == shapes
    assert {parameter.dtype for parameter in unet.parameters()} == {torch.float16}


def test_a_movq_of_published_size_is_recognised_and_loaded(models, tmp_path):
    with accelerate.init_empty_weights():
        published = VQModel.from_config(MOVQ)
    write_hollow(tmp_path / "movq.safetensors", published)
    movq = load_vae_file(tmp_path / "movq.safetensors").first_stage_model
    shapes = {name: tensor.shape for name, tensor in published.state_dict().items()}
    assert {name: tensor.shape for name, tensor in movq.state_dict().items()} == shapes


def test_what_is_published_can_be_fetched():
    """Get Models and the loaders have the same names, although neither imports the other."""
    folders = [PRIOR_FOLDER, *(decoder.folder for decoder in DECODERS.values())]
    assert [REPOSITORIES[name].id for name in folders] == [
        f"{ORGANISATION}/{name}" for name in folders
    ]
