"""Model folders as users have them: the hub's cache, combined pipelines, git clones, odd files."""

import json
import os
import shutil

import folder_paths
import pytest
import torch
from diffusers import KandinskyV22CombinedPipeline, KandinskyV22Pipeline, KandinskyV22PriorPipeline
from helpers.tiny_models import DEPTH, INPAINT, PRIOR, TEXT_TO_IMAGE, WEIGHTS
from huggingface_hub import constants
from kandinsky22.nodes.loaders import LoadDecoder, LoadDepthEstimator, LoadPrior
from kandinsky22.utils.comfyui import model_folders
from kandinsky22.utils.comfyui.lora import apply_to_decoder
from kandinsky22.utils.comfyui.model_files import list_files
from kandinsky22.utils.files import model_kinds
from kandinsky22.utils.files.configs import read_json
from kandinsky22.utils.files.headers import weight_files
from safetensors.torch import load_file, save_file

COMMITS = ("0123456789" * 4, "f" * 40)


def put_into_cache(cache, repository, source, commit, ref=None):
    """Lay out a repository as the hub's own downloads do: blobs, and links to them by name."""
    home = cache / f"models--{repository.replace('/', '--')}"
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        blob = home / "blobs" / f"{len(list((home / 'blobs').glob('*'))):064}"
        blob.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, blob)
        link = home / "snapshots" / commit / file.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    if ref:
        (home / "refs").mkdir(exist_ok=True)
        (home / "refs" / ref).write_text(commit)
    return home


@pytest.fixture
def cache(models, tmp_path, monkeypatch):
    """An empty cache of the hub in HF_HOME."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def sample(prior):
    return prior.sample("a red cat", "", 7, 3, 4.0)[0].tensor


@pytest.mark.parametrize("place", ["HF_HOME", "models/diffusers"])
def test_a_cache_of_the_hub(models, cache, prior, place):
    root = cache if place == "HF_HOME" else models
    home = put_into_cache(root, "somebody/a-prior", models / PRIOR, COMMITS[0], ref="main")
    before = sorted(str(path) for path in home.rglob("*"))
    try:
        assert "somebody/a-prior" in model_folders.list_models("prior")
        assert LoadPrior.validate_inputs("somebody/a-prior") is True
        loaded = LoadPrior.execute("somebody/a-prior", "default").args[0]
        assert torch.equal(sample(loaded), sample(prior))
        LoadPrior.fingerprint_inputs("somebody/a-prior", "default")
        assert sorted(str(path) for path in home.rglob("*")) == before  # nothing is written there
    finally:
        shutil.rmtree(home)


def test_two_commits_in_a_cache(models, cache):
    """The main branch has the plain name. Another revision has its commit after the name."""
    put_into_cache(cache, "somebody/a-decoder", models / TEXT_TO_IMAGE, COMMITS[0])
    put_into_cache(cache, "somebody/a-decoder", models / TEXT_TO_IMAGE, COMMITS[1], ref="main")
    found = model_folders.models_of("decoder")
    assert found["somebody/a-decoder"].name == COMMITS[1]
    assert found["somebody/a-decoder@01234567"].name == COMMITS[0]


BUNDLED = "kandinsky-2-2-mini-"


def test_a_new_loader_has_what_most_people_need(models, cache, monkeypatch):
    """The order is the kind of decoder, then the user's models before others, then the alphabet."""
    names = {"a-depth": DEPTH, "b-inpaint": INPAINT, "z-decoder": TEXT_TO_IMAGE}
    own = cache.parent / "diffusers"
    for name, source in names.items():
        shutil.copytree(models / source, own / name)
        put_into_cache(cache, f"a/{name}", models / source, COMMITS[0], ref="main")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "diffusers", ([str(own)], set()))
    assert LoadDecoder.define_schema().inputs[0].options == [
        *("z-decoder", "a/z-decoder", f"{BUNDLED}decoder"),
        *("b-inpaint", "a/b-inpaint", f"{BUNDLED}decoder-inpaint"),
        *("a-depth", "a/a-depth", f"{BUNDLED}controlnet-depth"),
    ]


def test_a_list_reads_each_config_once(models, monkeypatch):
    read = []
    monkeypatch.setattr(model_kinds, "read_json", lambda path: read.append(path) or read_json(path))
    model_folders.list_models("decoder")
    assert len(read) == len(set(read)) > 3


def test_files_that_are_named_for_this_model_come_first(tmp_path, monkeypatch):
    """ComfyUI's folders hold other models' files, too. No file is opened for a list."""
    own = ["a-flux.safetensors", "my-K22-cats.safetensors", "Kandinsky_2.2/night.safetensors"]
    for name in own:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    folder = ([str(tmp_path)], {".safetensors"})
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "loras", folder)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    bundled = "kandinsky-2-2-mini-night.safetensors"
    *ours, other, last = list_files("loras")
    assert (sorted(ours), other, last) == (sorted(own[1:]), own[0], bundled)


def test_what_comfyui_lists_is_listed(models, cache):
    """All folders of ComfyUI's own DiffusersLoader are listed, as deep as a cache of the hub."""
    from nodes import DiffusersLoader

    shutil.copytree(models / TEXT_TO_IMAGE, models / "one" / "two" / "three")
    home = put_into_cache(models, "somebody/a-decoder", models / TEXT_TO_IMAGE, COMMITS[0])
    try:
        theirs = DiffusersLoader.INPUT_TYPES()["required"]["model_path"][0]
        places = {(models / name).resolve() for name in theirs}
        decoders = {path.resolve() for path in model_folders.models_of("decoder").values()}
        for place in (models / "one/two/three", home / "snapshots" / COMMITS[0]):
            assert place in places and place in decoders
    finally:
        shutil.rmtree(models / "one")
        shutil.rmtree(home)


def test_an_odd_cache_hurts_nobody(models, cache):
    known = model_folders.list_models("decoder")
    (cache / "models--a--b" / "snapshots").mkdir(parents=True)
    (cache / "models--c").mkdir()
    (cache / "models--c" / "refs").write_bytes(b"\xff")
    (cache / "models--d" / "snapshots").mkdir(parents=True)
    (cache / "models--d" / "snapshots" / "x").symlink_to(cache / "nothing")
    (cache / "a-file").write_text("")
    assert model_folders.list_models("decoder") == known


def test_a_combined_pipeline(models, prior, cache):
    """The result of AutoPipelineForText2Image(…).save_pretrained is a prior and a decoder."""
    parts = KandinskyV22PriorPipeline.from_pretrained(models / PRIOR).components
    combined = KandinskyV22CombinedPipeline(
        **KandinskyV22Pipeline.from_pretrained(models / TEXT_TO_IMAGE).components,
        **{f"prior_{name}": part for name, part in parts.items()},
    )
    combined.save_pretrained(models / "combined")
    try:
        assert "combined" in model_folders.list_models("prior")
        assert "combined" in model_folders.list_models("decoder")
        assert torch.equal(sample(LoadPrior.execute("combined", "default").args[0]), sample(prior))
        ours = LoadDecoder.execute("combined", "default").args[0].model.diffusion_model
        theirs = LoadDecoder.execute(TEXT_TO_IMAGE, "default").args[0].model.diffusion_model
        for name, tensor in theirs.state_dict().items():
            assert torch.equal(tensor, ours.state_dict()[name])
    finally:
        shutil.rmtree(models / "combined")


@pytest.mark.parametrize("name, kind", [(TEXT_TO_IMAGE, "decoder"), (PRIOR, "prior")])
def test_a_folder_without_an_index(broken, name, kind):
    (broken(name) / "model_index.json").unlink()
    assert "broken" in model_folders.list_models(kind)


def test_an_index_that_lacks_a_part(broken):
    folder = broken(PRIOR)
    index = json.loads((folder / "model_index.json").read_text())
    del index["tokenizer"], index["image_processor"]
    (folder / "model_index.json").write_text(json.dumps(index))
    LoadPrior.execute("broken", "default")


def test_depth_estimators_under_diffusers_and_loose(models, cache, tmp_path, monkeypatch):
    roots = {"diffusers": tmp_path / "diffusers", "depth_estimators": tmp_path / "my-depth"}
    shutil.copytree(models / "tiny-dpt", roots["diffusers"] / "dpt")
    shutil.copytree(models / "tiny-glpn", roots["depth_estimators"])
    for name, root in roots.items():
        monkeypatch.setitem(folder_paths.folder_names_and_paths, name, ([str(root)], set()))
    assert {"dpt", "my-depth"} <= set(model_folders.list_models("depth"))
    for name in ("dpt", "my-depth"):
        LoadDepthEstimator.execute(name)


def test_a_missing_model_says_what_lies_there(models, broken):
    folder = broken("tiny-glpn")
    config = json.loads((folder / "config.json").read_text()) | {"architectures": ["OddModel"]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(FileNotFoundError, match=r"Not usable: broken \(a OddModel\)"):
        LoadDepthEstimator.execute("nothing")


@pytest.mark.parametrize(
    "others",
    [
        ("diffusion_pytorch_model_ema.safetensors",),
        ("ema.safetensors",),
        ("a_diffusion_pytorch_model_old.safetensors", "zz.safetensors"),
        ("diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.non_ema.safetensors"),
        ("._diffusion_pytorch_model.safetensors",),
    ],
)
def test_the_canonical_weights_win(broken, others):
    folder = broken(TEXT_TO_IMAGE) / "unet"
    wrong = {name: tensor * 2 for name, tensor in load_file(folder / WEIGHTS).items()}
    for other in others:
        if other.startswith("._"):
            (folder / other).write_bytes(b"\x00\x05\x16\x07")
        else:
            save_file(wrong, folder / other)
    assert weight_files(folder) == [folder / WEIGHTS]
    unet = LoadDecoder.execute("broken", "default").args[0].model.diffusion_model
    assert torch.equal(unet.conv_in.weight, load_file(folder / WEIGHTS)["conv_in.weight"])


def test_two_copies_and_none_is_canonical(broken):
    folder = broken(TEXT_TO_IMAGE) / "unet"
    shutil.copy(folder / WEIGHTS, folder / "old.safetensors")
    (folder / WEIGHTS).rename(folder / "new.safetensors")
    with pytest.raises(ValueError, match=r"is in .*old.safetensors .* and in .*new.safetensors"):
        LoadDecoder.execute("broken", "default")


def write_shards(folder, variant=""):
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    names = sorted(tensors)
    stem = "diffusion_pytorch_model"
    places = {}
    for i, part in enumerate((names[::2], names[1::2]), 1):
        file = f"{stem}{variant}-0000{i}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        places |= dict.fromkeys(part, file)
    index = folder / f"{stem}.safetensors.index{variant}.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index


@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_an_index_says_which_shards(broken, variant):
    folder = broken(TEXT_TO_IMAGE) / "unet"
    shutil.copy(folder / WEIGHTS, folder / "old.safetensors")
    write_shards(folder, variant)
    assert len(weight_files(folder)) == 2
    LoadDecoder.execute("broken", "default")


@pytest.mark.parametrize(
    "content, message",
    [
        ({"weight_map": {"a": "../../../etc/x.safetensors"}}, r"names '../../../etc/x.safeten"),
        ({"weight_map": {"a": "gone.safetensors"}}, "names 'gone.safetensors', which is not th"),
        ({"weight_map": {"a": None}}, "names 'None', which is not there"),
        ({"weight_map": []}, "has no weight_map"),
        ({}, "has no weight_map"),
    ],
)
def test_odd_indexes(broken, content, message):
    folder = broken(TEXT_TO_IMAGE) / "unet"
    write_shards(folder).write_text(json.dumps(content))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        LoadDecoder.execute("broken", "default")


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 12345\n"


@pytest.mark.parametrize("file", [f"unet/{WEIGHTS}", f"movq/{WEIGHTS}", "unet/config.json"])
def test_git_lfs_pointers(broken, file):
    (broken(TEXT_TO_IMAGE) / file).write_text(POINTER)
    with pytest.raises(ValueError, match=f"{file} is a Git LFS pointer.*git lfs pull.*Get Models"):
        LoadDecoder.execute("broken", "default")


def test_a_lora_that_is_a_pointer(load_decoder, tmp_path):
    (tmp_path / "style.safetensors").write_text(POINTER)
    with pytest.raises(ValueError, match="style.safetensors is a Git LFS pointer"):
        apply_to_decoder(load_decoder()[0], tmp_path / "style.safetensors", 1.0)


def test_a_pipe_is_no_weights(broken):
    folder = broken(TEXT_TO_IMAGE) / "unet"
    (folder / WEIGHTS).unlink()
    os.mkfifo(folder / WEIGHTS)
    with pytest.raises(FileNotFoundError, match="has no .safetensors weights"):
        LoadDecoder.execute("broken", "default")
