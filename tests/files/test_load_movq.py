"""Load MoVQ makes a VAE from one file, which it recognises by its tensors' names and shapes."""

import json
import shutil

import folder_paths
import pytest
import torch
from comfy_extras.nodes_model_merging import VAESave
from diffusers import VQModel
from helpers import oracle
from helpers.checkout import PACK
from helpers.tiny_models import TEXT_TO_IMAGE, WEIGHTS
from helpers.vae_nodes import decode, random_latents
from kandinsky22.nodes.file_loaders import LoadMoVQ
from kandinsky22.utils.comfyui.movq import MoVQ
from kandinsky22.utils.files import architectures
from kandinsky22.utils.files.weights import recognise
from safetensors.torch import load_file, save_file


@pytest.fixture
def folder(models, tmp_path, monkeypatch):
    """ComfyUI's models/vae, empty. VAESave writes there, too."""
    extensions = folder_paths.folder_names_and_paths["vae"][1]
    folders = {**folder_paths.folder_names_and_paths, "vae": ([str(tmp_path)], extensions)}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", folders)
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    return tmp_path


def load(name="movq.safetensors"):
    assert LoadMoVQ.validate_inputs(name) is True
    return LoadMoVQ.execute(name).args[0]


def test_what_the_host_saves_loads_again(folder, models, vae):
    VAESave().save(vae, "saved")
    (name,) = LoadMoVQ.define_schema().inputs[0].options
    theirs = VQModel.from_pretrained(models / TEXT_TO_IMAGE / "movq")
    assert set(load_file(folder / name)) == set(theirs.state_dict())
    latents = random_latents()
    assert oracle.max_diff(decode(load(name), latents), decode(vae, latents)) == 0.0


def test_the_bundled_one_is_found_by_its_shapes(folder, load_decoder):
    decoder = PACK / "models" / "kandinsky-2-2-mini-decoder"
    shutil.copy(decoder / "movq" / WEIGHTS, folder / "movq.safetensors")
    latents = random_latents()
    wanted = decode(load_decoder("kandinsky-2-2-mini-decoder")[1], latents)
    assert oracle.max_diff(decode(load(), latents), wanted) == 0.0


def test_the_published_one_is_found_by_its_shapes(tmp_path):
    """The file has the published names and shapes, and a hole in place of the weights."""
    with torch.device("meta"):
        movq = MoVQ.from_config(architectures.MOVQ)
    header, end = {}, 0
    for name, tensor in movq.state_dict().items():
        begin, end = end, end + tensor.nbytes
        header[name] = dict(dtype="F32", shape=list(tensor.shape), data_offsets=[begin, end])
    text = json.dumps(header).encode()
    with (tmp_path / "movq.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    candidates = [
        ("another", architectures.MOVQ | {"layers_per_block": 1}),
        ("it", architectures.MOVQ),
    ]
    config = recognise(tmp_path / "movq.safetensors", candidates, MoVQ.from_config)
    assert config is architectures.MOVQ


def old_names(tensors):
    old = {"to_q": "query", "to_k": "key", "to_v": "value"}
    rename = {f".{new}.": f".{before}." for new, before in old.items()}
    rename |= {".to_out.0.": ".proj_attn."}
    for new, before in rename.items():
        tensors = {name.replace(new, before): tensor for name, tensor in tensors.items()}
    return tensors


def whole_checkpoint(tensors):
    prefixed = {f"first_stage_model.{name}": tensor for name, tensor in tensors.items()}
    return prefixed | {"model.diffusion_model.conv_in.bias": torch.zeros(3)}


@pytest.mark.parametrize("change", [old_names, whole_checkpoint])
def test_other_names_of_the_same_tensors(folder, models, vae, change):
    tensors = load_file(models / TEXT_TO_IMAGE / "movq" / WEIGHTS)
    save_file(change(tensors), folder / "movq.safetensors")
    latents = random_latents()
    assert oracle.max_diff(decode(load(), latents), decode(vae, latents)) == 0.0


def test_a_changed_file_loads_again(folder, models):
    tensors = load_file(models / TEXT_TO_IMAGE / "movq" / WEIGHTS)
    save_file(tensors, folder / "movq.safetensors")
    before = LoadMoVQ.fingerprint_inputs("movq.safetensors")
    assert LoadMoVQ.fingerprint_inputs("movq.safetensors") == before
    save_file(tensors | {"more": torch.zeros(1)}, folder / "movq.safetensors")
    assert LoadMoVQ.fingerprint_inputs("movq.safetensors") != before


def lack_a_tensor(path):
    tensors = load_file(path)
    del tensors["decoder.conv_in.weight"]
    save_file(tensors, path)


@pytest.mark.parametrize(
    "part, damage, message",
    [
        ("unet", lambda path: None, r"The \d+ tensors of .*movq.safetensors \(.*Nearest is "),
        ("movq", lack_a_tensor, "Nearest is .*: 1 missing: decoder.conv_in.weight. Ch"),
        ("movq", lambda path: path.write_bytes(path.read_bytes()[:-9]), "is damaged or not a safe"),
    ],
)
def test_other_files_are_refused(folder, models, part, damage, message):
    shutil.copy(models / TEXT_TO_IMAGE / part / WEIGHTS, folder / "movq.safetensors")
    damage(folder / "movq.safetensors")
    with pytest.raises(ValueError, match=message):
        LoadMoVQ.execute("movq.safetensors")


@pytest.mark.parametrize(
    "name, message", [("movq.pt", "is a Python pickle"), ("none", "No file named 'none'")]
)
def test_names_that_do_not_do(folder, name, message):
    (folder / "movq.pt").write_bytes(b"\x80\x02}q\x00.")
    assert message in LoadMoVQ.validate_inputs(name)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        LoadMoVQ.execute(name)


def test_a_damaged_folder_does_not_hide_the_others(folder, models, vae):
    broken = shutil.copytree(models / TEXT_TO_IMAGE, models / "a-broken-decoder")
    try:
        (broken / "movq" / "config.json").write_text("{")
        VAESave().save(vae, "saved")
        load(LoadMoVQ.define_schema().inputs[0].options[0])
    finally:
        shutil.rmtree(broken)
