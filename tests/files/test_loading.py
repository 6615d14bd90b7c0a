"""The loaders find the checkpoints that fit and load them, or say where they looked."""

import json
import re
import shutil

import pytest
import torch
from helpers.decoding_stages import decode
from helpers.tiny_models import PRIOR, TEXT_TO_IMAGE
from kandinsky22.nodes.file_loaders import LoadUNet
from kandinsky22.nodes.loaders import LoadDecoder, LoadDepthEstimator, LoadPrior
from kandinsky22.utils.comfyui import model_folders
from safetensors.torch import load_file, save_file


def test_lists_only_what_fits(models):
    priors, decoders = model_folders.list_models("prior"), model_folders.list_models("decoder")
    assert PRIOR in priors and TEXT_TO_IMAGE not in priors
    assert TEXT_TO_IMAGE in decoders and PRIOR not in decoders
    assert "tiny-glpn" in model_folders.list_models("depth")
    assert not [name for name in priors + decoders if name.startswith(("/", "."))]


def test_finds_owner_and_name(models):
    shutil.copytree(models / PRIOR, models / "somebody" / "a-prior")
    try:
        assert "somebody/a-prior" in model_folders.list_models("prior")
        assert LoadPrior.validate_inputs("somebody/a-prior") is True
    finally:
        shutil.rmtree(models / "somebody")


def test_nothing_is_looked_for_within_a_model(models):
    within = models / PRIOR / "nested"
    shutil.copytree(models / TEXT_TO_IMAGE, within)
    try:
        known = set().union(*map(model_folders.all_folders, model_folders.KINDS))
        assert not [name for name in known if name.rpartition("/")[0] in known]
    finally:
        shutil.rmtree(within)


def test_links_that_lead_nowhere_are_passed_over(models):
    known = model_folders.list_models("decoder")
    file = f"{TEXT_TO_IMAGE}/model_index.json"
    links = {"circle": "circle", "dangling": "nothing", "a-file": file}
    for name, target in links.items():
        (models / name).symlink_to(models / target)
    try:
        assert model_folders.list_models("decoder") == known
    finally:
        for name in links:
            (models / name).unlink()


@pytest.mark.parametrize("count", [1, 4])
def test_folders_are_walked_once_for_all_models(models, monkeypatch, count):
    """The number of decoders does not matter, as models may lie across a network."""
    for i in range(count):
        shutil.copytree(models / TEXT_TO_IMAGE, models / f"copy-{i}")
    walked: list[str] = []
    walk = model_folders.subfolders
    monkeypatch.setattr(
        model_folders, "subfolders", lambda folder: walked.append(folder) or walk(folder)
    )
    try:
        assert f"copy-{count - 1}" in model_folders.decoder_parts("unet")
        assert len(walked) == len(set(walked))
    finally:
        for i in range(count):
            shutil.rmtree(models / f"copy-{i}")


@pytest.mark.parametrize("weight_dtype", ["fp8", 5, {}])
def test_unknown_types_of_weights(models, weight_dtype):
    for node, name in ((LoadPrior, PRIOR), (LoadDecoder, TEXT_TO_IMAGE)):
        with pytest.raises(ValueError, match="weight_dtype is .*; choose one of default, fp32, fp"):
            node.execute(name, weight_dtype)


@pytest.mark.parametrize(
    "node, name, message",
    [
        (
            LoadPrior,
            "nothing",
            "^In Load Prior, choose .*prior; or let Get Models .*fetch what is missing. "
            "No model named 'nothing' for Load Prior. Found: .*tiny-prior.*"
            "Looked in: .*Put the folder of kandinsky-community/",
        ),
        (LoadPrior, TEXT_TO_IMAGE, "is a Kandinsky 2.2 decoder: use Load Decoder for it"),
        (LoadDecoder, PRIOR, "is a Kandinsky 2.2 prior: use Load Prior for it"),
        (LoadDecoder, "../../etc", "No model named '../../etc'"),
        (LoadPrior, {"a": 1}, "No model named {'a': 1} for Load Prior"),
        (LoadDecoder, ["a"], "No model named .'a'. for Load Decoder"),
        (LoadUNet, {"a": 1}, "No file named {'a': 1} among diffusion_models"),
    ],
)
def test_wrong_names(models, node, name, message):
    assert re.search(message, node.validate_inputs(name))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        node.execute(name, "default")


def test_sharded_files(broken):
    folder = broken(TEXT_TO_IMAGE) / "unet"
    weights = folder / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    weights.unlink()
    names = sorted(tensors)
    for i, part in enumerate((names[::2], names[1::2]), 1):
        shard = {name: tensors[name] for name in part}
        save_file(shard, folder / f"diffusion_pytorch_model-0000{i}-of-00002.safetensors")
    model, _ = LoadDecoder.execute("broken", "default").args
    loaded = model.model.diffusion_model.state_dict()
    assert set(loaded) == set(tensors)
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_old_attention_names_are_read(broken):
    path = broken(TEXT_TO_IMAGE) / "movq" / "diffusion_pytorch_model.safetensors"
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    tensors = {}
    for name, tensor in load_file(path).items():
        for new, before in old.items():
            name = name.replace(f".{new}.", f".{before}.")
        tensors[name] = tensor
    assert any(".query." in name for name in tensors)
    save_file(tensors, path)
    LoadDecoder.execute("broken", "default")


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_weight_dtype(models, embeds, dtype):
    model, _ = LoadDecoder.execute(TEXT_TO_IMAGE, dtype).args
    unet = model.model.diffusion_model
    wanted = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[dtype]
    assert {parameter.dtype for parameter in unet.parameters()} == {wanted}
    samples = decode(model, embeds(1, 1), embeds(1, 2))
    assert samples.dtype == torch.float32 and torch.isfinite(samples).all()


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_prior_in_half_precision(models, prior, dtype):
    half = LoadPrior.execute(PRIOR, dtype).args[0]
    ours = half.sample("a red cat", "", 7, 5, 4.0)[0].tensor
    assert (ours - prior.sample("a red cat", "", 7, 5, 4.0)[0].tensor).abs().max() < 0.1


def test_a_depth_estimator_does_not_reach_for_the_network(broken, monkeypatch):
    import socket

    path = broken("tiny-dpt") / "config.json"
    config = json.loads(path.read_text()) | {"use_pretrained_backbone": True}
    path.write_text(json.dumps(config))
    reached = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **_: reached.append(a) or [])
    LoadDepthEstimator.execute("broken")
    assert not reached
