"""Odd or hostile parts of a model folder are read as intended, or refused by name."""

import json
import logging
import shutil
import time

import folder_paths
import pytest
import torch
from helpers.decoding_stages import decode
from helpers.tiny_models import PRIOR, TEXT_TO_IMAGE, WEIGHTS
from helpers.vae_nodes import decode as vae_decode
from helpers.vae_nodes import random_latents
from kandinsky22.nodes.file_loaders import LoadMoVQ, LoadUNet
from kandinsky22.nodes.loaders import LoadDecoder, LoadDepthEstimator, LoadPrior
from safetensors.torch import load_file, save_file


@pytest.fixture
def set_folder(monkeypatch):
    """Return a function that has ComfyUI look for one kind of file in one folder."""

    def set_one(kind, folder):
        known = folder_paths.folder_names_and_paths
        monkeypatch.setitem(known, kind, ([str(folder)], {".safetensors"}))
        monkeypatch.setattr(folder_paths, "filename_list_cache", {})

    return set_one


def change_json(path, **entries):
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **entries}))


def change_weights(path, change):
    save_file({name: change(name, tensor) for name, tensor in load_file(path).items()}, path)


@pytest.mark.parametrize("length", ["missing", None, 10**9, 10**30, 5, 0, -3])
def test_the_text_encoder_says_how_long_a_prompt_is(broken, prior, length):
    path = broken(PRIOR) / "tokenizer" / "tokenizer_config.json"
    content = json.loads(path.read_text()) | {"model_max_length": length}
    if length == "missing":
        del content["model_max_length"]
    path.write_text(json.dumps(content))
    ours = LoadPrior.execute("broken", "default").args[0].encode_prompts("a red cat", "", 1, False)
    theirs = prior.encode_prompts("a red cat", "", 1, False)
    assert torch.equal(ours.states, theirs.states) and torch.equal(ours.mask, theirs.mask)


def test_an_endless_prompt(prior, caplog):
    """The log says quickly and in a readable line what is cut off."""
    start = time.process_time()
    with caplog.at_level(logging.WARNING):
        features = prior.encode_prompts("a cat " * 2_000_000, "", 1, False)
    assert time.process_time() - start < 5
    same = prior.encode_prompts("a cat " * 50, "", 1, False)
    assert torch.equal(features.states, same.states)
    assert all(len(record.getMessage()) < 300 for record in caplog.records)
    assert "this part is not used: '" in caplog.text


@pytest.mark.parametrize(
    "file, entries, message",
    [
        ("text_encoder/config.json", {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000"),
        ("text_encoder/config.json", {"max_position_embeddings": 10**9}, "max_position_embed"),
        ("prior/config.json", {"num_embeddings": 10**9}, "num_embeddings is 1000000000"),
        (
            "prior/config.json",
            {"num_layers": None},
            r"\(num_layers is None\) cannot be used",
        ),
        (
            "image_encoder/config.json",
            {"image_size": 10**6},
            "image_size is 1000000, and 0 to 4096",
        ),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**9}, "num_train_timesteps"),
        (
            "scheduler/scheduler_config.json",
            {"prediction_type": 5},
            "scheduler_config.json cannot be used: ValueError",
        ),
        ("text_encoder/config.json", {"projection_dim": 16}, "do not fit its config.json"),
        ("prior/config.json", {"num_embeddings": 70}, "do not fit its config.json"),
        (
            "image_processor/preprocessor_config.json",
            {"crop_size": {"height": 32, "width": 32}},
            r"preprocessor_config.json cannot be used: .*\(1, 3, 32, 32\), and the encoder ta",
        ),
    ],
)
def test_configs_of_a_prior(broken, file, entries, message):
    change_json(broken(PRIOR) / file, **entries)
    with pytest.raises(ValueError, match=message) as error:
        LoadPrior.execute("broken", "default")
    assert f"broken/{file.split('/')[0]}" in str(error.value)


def test_parts_of_different_models(broken):
    """An example is a text encoder of another length whose weights fit its own config."""
    folder = broken(PRIOR) / "text_encoder"
    change_json(folder / "config.json", max_position_embeddings=60)
    name = "text_model.embeddings.position_embedding.weight"
    path = folder / "model.safetensors"
    change_weights(path, lambda key, tensor: tensor[:60].clone() if key == name else tensor)
    with pytest.raises(ValueError, match="max_position_embeddings is 60, and the prior wants 77"):
        LoadPrior.execute("broken", "default")


NEST = '{"a":' * 5000 + "1" + "}" * 5000


@pytest.mark.parametrize("file", ["model_index.json", "unet/config.json", "movq/config.json"])
def test_an_odd_neighbour_hurts_nobody(models, broken, tmp_path, set_folder, file):
    """The lists work, and so does the loader of single files, which reads all folders' configs."""
    path = broken(TEXT_TO_IMAGE) / file
    path.write_text(NEST)
    for kind, part, node in (("diffusion_models", "unet", LoadUNet), ("vae", "movq", LoadMoVQ)):
        shutil.copy(models / TEXT_TO_IMAGE / part / WEIGHTS, tmp_path / f"{part}.safetensors")
        set_folder(kind, tmp_path)
        node.execute(f"{part}.safetensors", *(["default"] if part == "unet" else []))
    for node, name in ((LoadDecoder, TEXT_TO_IMAGE), (LoadPrior, PRIOR)):
        assert name in node.define_schema().inputs[0].options
        assert node.validate_inputs(name) is True
    message = LoadDecoder.validate_inputs("broken")
    if message is True:
        with pytest.raises(ValueError, match="is not valid JSON"):
            LoadDecoder.execute("broken", "default")
    else:
        assert "is not valid JSON" in message


@pytest.mark.parametrize(
    "file, entries",
    [
        ("unet/config.json", {"down_block_types": ["Nothing"] * 2}),
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}),
        ("scheduler/scheduler_config.json", {"beta_start": None}),
    ],
)
def test_impossible_neighbours_of_a_single_file(
    models, broken, tmp_path, set_folder, file, entries
):
    """A folder that its own loader refuses is no candidate, and does no harm."""
    change_json(broken(TEXT_TO_IMAGE) / file, **entries)
    shutil.copy(models / TEXT_TO_IMAGE / "unet" / WEIGHTS, tmp_path / "unet.safetensors")
    set_folder("diffusion_models", tmp_path)
    LoadUNet.execute("unet.safetensors", "default")


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool])
def test_weights_that_are_no_floating_point_numbers(broken, dtype):
    path = broken(TEXT_TO_IMAGE) / "unet" / WEIGHTS
    change_weights(path, lambda name, t: t.to(dtype) if name == "conv_in.bias" else t)
    with pytest.raises(ValueError, match="1 no floating-point numbers: conv_in.bias"):
        LoadDecoder.execute("broken", "default")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float64])
def test_weights_in_other_floating_point_types(broken, embeds, dtype):
    path = broken(TEXT_TO_IMAGE) / "unet" / WEIGHTS
    change_weights(path, lambda name, tensor: tensor.to(dtype))
    model = LoadDecoder.execute("broken", "default").args[0]
    assert torch.isfinite(decode(model, embeds(1, 1), embeds(1, 2))).all()


def test_weights_of_movq_with_nan(broken):
    path = broken(TEXT_TO_IMAGE) / "movq" / WEIGHTS
    change_weights(path, lambda name, t: t * float("nan") if name == "decoder.conv_in.bias" else t)
    vae = LoadDecoder.execute("broken", "default").args[1]
    with pytest.raises(ValueError, match=f"MoVQ makes NaN.*broken/movq/{WEIGHTS} are damaged"):
        vae_decode(vae, random_latents())


@pytest.mark.parametrize(
    "node, kind, part, message",
    [
        (LoadUNet, "diffusion_models", "movq", "They are a MoVQ's: choose this file in Load MoVQ"),
        (LoadMoVQ, "vae", "unet", "They are a decoder's UNet: choose this file in Load UNet"),
    ],
)
def test_a_file_for_another_loader(models, tmp_path, set_folder, node, kind, part, message):
    shutil.copy(models / TEXT_TO_IMAGE / part / WEIGHTS, tmp_path / "file.safetensors")
    set_folder(kind, tmp_path)
    with pytest.raises(ValueError, match=message):
        node.execute("file.safetensors", *(["default"] if part == "movq" else []))


@pytest.mark.parametrize(
    "file, entries, message",
    [
        ("config.json", {"model_type": "nothing"}, "config.json cannot be used: KeyError"),
        ("config.json", {"hidden_size": None}, "config.json"),
        ("config.json", {"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000, and 0 to"),
        ("config.json", {"image_size": 10**6}, "image_size is 1000000, and 0 to 4096"),
        ("preprocessor_config.json", {"size": {"height": 10**9, "width": 9}}, "height is 10000"),
    ],
)
def test_configs_of_a_depth_estimator(broken, file, entries, message):
    change_json(broken("tiny-dpt") / file, **entries)
    with pytest.raises(ValueError, match=message):
        LoadDepthEstimator.execute("broken")
