"""A damaged model folder is refused by name and hides no other one. A changed one is read again."""

import json
import shutil

import pytest
from helpers.tiny_models import PRIOR, TEXT_TO_IMAGE
from kandinsky22.nodes.loaders import LoadDecoder, LoadDepthEstimator, LoadPrior
from kandinsky22.utils.comfyui import model_folders
from safetensors.torch import load_file, save_file


def drop_config(folder):
    (folder / "unet" / "config.json").unlink()


def spoil_config(folder):
    (folder / "unet" / "config.json").write_text("{")


def drop_weights(folder):
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()


def only_pickle(folder):
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))


def truncate(folder):
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def not_safetensors(folder):
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"\x80\x02}q\x00." * 9)


def change_tensors(folder):
    path = folder / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["conv_in.weight"] = tensors["conv_in.weight"][:3]
    tensors["conv_on.bias"] = tensors.pop("conv_in.bias")
    save_file(tensors, path)


@pytest.mark.parametrize(
    "damage, message",
    [
        (drop_config, r"unet.config.json is missing.*Download it again"),
        (spoil_config, r"unet.config.json is not valid JSON.*Download it again"),
        (drop_weights, r"unet has no .safetensors weights"),
        (only_pickle, r"only as .bin \(a Python pickle.*safe_serialization=True"),
        (truncate, r"model.safetensors is damaged or not a safetensors file"),
        (not_safetensors, r"model.safetensors is damaged or not a safetensors file"),
        (
            change_tensors,
            r"do not fit its config.json. 1 missing: conv_in.bias; 1 unexpected: conv_on.bias; "
            r"1 of another shape: conv_in.weight \[3, 4, 3, 3\] instead of \[32, 4, 3, 3\]",
        ),
    ],
)
def test_damaged_folders(broken, damage, message):
    damage(broken(TEXT_TO_IMAGE))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        LoadDecoder.execute("broken", "default")


def test_another_models_folder_is_named(broken):
    folder = broken(TEXT_TO_IMAGE)
    config = json.loads((folder / "unet" / "config.json").read_text())
    config["encoder_hid_dim_type"] = None
    (folder / "unet" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="is a KandinskyV22Pipeline, not a Kandinsky 2.2 decoder"):
        LoadDecoder.execute("broken", "default")


def test_a_changed_file_loads_again(broken):
    folder = broken(TEXT_TO_IMAGE)
    before = LoadDecoder.fingerprint_inputs("broken", "default")
    assert LoadDecoder.fingerprint_inputs("broken", "default") == before
    change_tensors(folder)
    assert LoadDecoder.fingerprint_inputs("broken", "default") != before


@pytest.mark.parametrize("content", ["null", "5", "[[1]]", '"x"', '{"unet": 1, "movq": 1}'])
def test_an_odd_folder_hides_nothing(models, broken, content):
    """With any content in the user's folders, the loaders' lists and the pack still work."""
    folder = broken(TEXT_TO_IMAGE)
    (folder / "model_index.json").write_text(content)
    (folder / "unet" / "config.json").write_text("[1]")
    assert TEXT_TO_IMAGE in LoadDecoder.define_schema().inputs[0].options
    with pytest.raises(ValueError):
        LoadDecoder.execute("broken", "default")


@pytest.mark.parametrize("content", ['{"architectures": 5}', '{"architectures": {"a": 1}}', "7"])
def test_an_odd_depth_folder_hides_nothing(models, broken, content):
    (broken("tiny-glpn") / "config.json").write_text(content)
    assert "tiny-glpn" in model_folders.list_models("depth")


@pytest.mark.parametrize(
    "damage, message",
    [
        (
            lambda f: (f / "tokenizer" / "tokenizer_config.json").unlink(),
            "tokenizer_config.json is",
        ),
        (lambda f: shutil.rmtree(f / "image_processor"), "preprocessor_config.json is missing"),
    ],
)
def test_a_prior_without_its_small_files(broken, damage, message):
    damage(broken(PRIOR))
    with pytest.raises(FileNotFoundError, match=message):
        LoadPrior.execute("broken", "default")


def test_an_empty_scheduler_config(broken):
    (broken(TEXT_TO_IMAGE) / "scheduler" / "scheduler_config.json").write_text("{}")
    with pytest.raises(ValueError, match="has no beta_start"):
        LoadDecoder.execute("broken", "default")


def cut_head(folder):
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("head")}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def cut_file(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-500])


@pytest.mark.parametrize(
    "damage, message",
    [
        (cut_head, "lacks [0-9]+ weights, head"),
        (cut_file, "model.safetensors is damaged or not a safetensors file"),
        (
            lambda f: (f / "preprocessor_config.json").unlink(),
            "preprocessor_config.json is missing",
        ),
    ],
)
def test_damaged_depth_estimators(broken, damage, message):
    damage(broken("tiny-depth-anything"))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        LoadDepthEstimator.execute("broken")
