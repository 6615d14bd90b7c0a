"""Finding and loading checkpoints, and what is said of bad ones."""

import json
import re
import shutil

import pytest
import torch
from helpers.decoding_stages import decode
from kandinsky22.nodes.loaders import LoadDecoder, LoadDepthEstimator, LoadPrior, LoadUNet
from kandinsky22.utils.comfyui import model_folders
from safetensors.torch import load_file, save_file

PRIOR, DECODER = "kandinsky-2-2-tiny-prior", "kandinsky-2-2-tiny-decoder"


@pytest.fixture
def broken(models, tmp_path):
    """A copy of a checkpoint to damage: name → its folder; the copy is named `broken`."""

    def copy(name):
        folder = models / "broken"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(models / name, folder)
        return folder

    yield copy
    shutil.rmtree(models / "broken", ignore_errors=True)


def test_lists_only_what_fits(models):
    priors, decoders = model_folders.list_models("prior"), model_folders.list_models("decoder")
    assert PRIOR in priors and DECODER not in priors
    assert DECODER in decoders and PRIOR not in decoders
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
    shutil.copytree(models / DECODER, within)
    try:
        known = set().union(*map(model_folders.all_folders, model_folders.KINDS))
        assert not [name for name in known if name.rpartition("/")[0] in known]
    finally:
        shutil.rmtree(within)


def test_links_that_lead_nowhere_are_passed_over(models):
    known = model_folders.list_models("decoder")
    links = {"circle": "circle", "dangling": "nothing", "a-file": f"{DECODER}/model_index.json"}
    for name, target in links.items():
        (models / name).symlink_to(models / target)
    try:
        assert model_folders.list_models("decoder") == known
    finally:
        for name in links:
            (models / name).unlink()


@pytest.mark.parametrize("weight_dtype", ["fp8", 5, {}])
def test_unknown_types_of_weights(models, weight_dtype):
    for node, name in ((LoadPrior, PRIOR), (LoadDecoder, DECODER)):
        with pytest.raises(ValueError, match="weight_dtype is .*; choose one of default, fp32, fp"):
            node.execute(name, weight_dtype)


@pytest.mark.parametrize(
    "node, name, message",
    [
        (
            LoadPrior,
            "nothing",
            "No model named 'nothing' for Load Prior. Found: .*tiny-prior.*"
            "Looked in: .*Put the folder of kandinsky-community/",
        ),
        (LoadPrior, DECODER, "is a Kandinsky 2.2 decoder: use Load Decoder for it"),
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
    damage(broken(DECODER))
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        LoadDecoder.execute("broken", "default")


def test_another_models_folder_is_named(broken):
    folder = broken(DECODER)
    config = json.loads((folder / "unet" / "config.json").read_text())
    config["encoder_hid_dim_type"] = None
    (folder / "unet" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="is a KandinskyV22Pipeline, not a Kandinsky 2.2 decoder"):
        LoadDecoder.execute("broken", "default")


def test_sharded_files(broken):
    folder = broken(DECODER) / "unet"
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
    path = broken(DECODER) / "movq" / "diffusion_pytorch_model.safetensors"
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
    model, _ = LoadDecoder.execute(DECODER, dtype).args
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


def test_a_changed_file_loads_again(broken):
    folder = broken(DECODER)
    before = LoadDecoder.fingerprint_inputs("broken", "default")
    assert LoadDecoder.fingerprint_inputs("broken", "default") == before
    change_tensors(folder)
    assert LoadDecoder.fingerprint_inputs("broken", "default") != before


@pytest.mark.parametrize("content", ["null", "5", "[[1]]", '"x"', '{"unet": 1, "movq": 1}'])
def test_an_odd_folder_hides_nothing(models, broken, content):
    """Whatever lies in the user's folders, the loaders' lists, and with them the pack, come up."""
    folder = broken(DECODER)
    (folder / "model_index.json").write_text(content)
    (folder / "unet" / "config.json").write_text("[1]")
    assert DECODER in LoadDecoder.define_schema().inputs[0].options
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
    (broken(DECODER) / "scheduler" / "scheduler_config.json").write_text("{}")
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
        (cut_file, "cannot be loaded"),
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


def test_a_depth_estimator_does_not_reach_for_the_network(broken, monkeypatch):
    import socket

    path = broken("tiny-dpt") / "config.json"
    config = json.loads(path.read_text()) | {"use_pretrained_backbone": True}
    path.write_text(json.dumps(config))
    reached = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **_: reached.append(a) or [])
    LoadDepthEstimator.execute("broken")
    assert not reached


def test_stray_tensors_follow_to_the_load_device(models, nothing_shared):
    """To the meta device, which needs no hardware: nothing that has no cast hook stays behind."""
    from kandinsky22.utils.comfyui.residency import move_stray_tensors

    model, vae = LoadDecoder.execute(DECODER, "default").args
    fresh = LoadPrior.execute(PRIOR, "default").args[0]
    for patcher in [model, vae.patcher, *fresh.get_models()]:
        move_stray_tensors(patcher, torch.device("meta"))
        for module in patcher.model.modules():
            if not hasattr(module, "comfy_cast_weights"):
                own = [*module.parameters(recurse=False), *module.buffers(recurse=False)]
                assert all(tensor.is_meta for tensor in own)
