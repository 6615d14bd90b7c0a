"""Odd files that diffusers and transformers load are not refused here."""

import json
import logging
import os
import shutil
import socket

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, DPMSolverSinglestepScheduler
from helpers import lora_reference
from helpers.decoding_stages import decode
from helpers.tiny_models import PRIOR, TEXT_TO_IMAGE, WEIGHTS
from kandinsky22.nodes.depth_hint import DepthHint
from kandinsky22.nodes.loaders import LoadDecoder, LoadDepthEstimator, LoadPrior
from kandinsky22.utils.comfyui.lora import apply_to_decoder
from kandinsky22.utils.files.headers import weight_files
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.long


def change_json(path, entries):
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


def test_a_dpt_as_published(broken):
    """dpt-large's file lacks a layer that no forward uses."""
    path = broken("tiny-dpt") / "model.safetensors"
    unused = "fusion_stage.layers.0.residual_layer1."
    tensors = load_file(path)
    kept = {name: tensor for name, tensor in tensors.items() if unused not in name}
    assert len(kept) < len(tensors)
    save_file(kept, path, metadata={"format": "pt"})
    picture = torch.rand(1, 64, 64, 3)
    ours = DepthHint.execute(LoadDepthEstimator.execute("broken").args[0], picture)
    whole = DepthHint.execute(LoadDepthEstimator.execute("tiny-dpt").args[0], picture)
    assert torch.equal(ours.args[0], whole.args[0])


@pytest.mark.parametrize("scheduler", [DPMSolverMultistepScheduler, DPMSolverSinglestepScheduler])
@pytest.mark.parametrize("fresh", [True, False])
def test_a_decoder_saved_with_another_scheduler(broken, embeds, scheduler, fresh):
    """diffusers itself writes -Infinity into their configs."""
    folder = broken(TEXT_TO_IMAGE) / "scheduler"
    config = json.loads((folder / "scheduler_config.json").read_text())
    betas = {name: config[name] for name in ("beta_start", "beta_end")}
    (scheduler(**betas) if fresh else scheduler.from_config(config)).save_pretrained(folder)
    assert "-Infinity" in (folder / "scheduler_config.json").read_text()
    model = LoadDecoder.execute("broken", "default").args[0]
    assert torch.isfinite(decode(model, embeds(1, 1), embeds(1, 2), sampler_name="ddim")).all()


@pytest.mark.parametrize(
    "file, entries",
    [
        ("scheduler/scheduler_config.json", {"variance_type": None}),
        ("scheduler/scheduler_config.json", {"clip_sample": None}),
        ("scheduler/scheduler_config.json", {"thresholding": None}),
        ("unet/config.json", {"upcast_attention": None, "use_linear_projection": None}),
        ("unet/config.json", {"mid_block_scale_factor": 1, "freq_shift": 0.0}),
        ("unet/config.json", {"center_input_sample": 0, "sample_size": 64.0}),
        ("unet/config.json", {"optimization_step": 2_000_000, "inv_gamma": float("inf")}),
        ("movq/config.json", {"force_upcast": None, "sample_size": [32, 32]}),
        ("movq/config.json", {"scaling_factor": None, "lookup_from_codebook": None}),
    ],
)
def test_harmless_oddities_of_a_decoder(broken, embeds, load_decoder, file, entries):
    change_json(broken(TEXT_TO_IMAGE) / file, entries)
    model, vae = LoadDecoder.execute("broken", "default").args
    samples = decode(model, embeds(1, 1), embeds(1, 2))
    if "clip_sample" not in entries:
        assert torch.equal(samples, decode(load_decoder()[0], embeds(1, 1), embeds(1, 2)))
    assert torch.isfinite(vae.decode(samples)).all()


@pytest.mark.parametrize(
    "file, entries",
    [
        ("text_encoder/config.json", {"text_config": {"num_hidden_layers": 10**9}}),
        ("text_encoder/config.json", {"torch_dtype": "float16", "dropout": 0.0}),
    ],
)
def test_harmless_oddities_of_a_prior(broken, prior, file, entries):
    change_json(broken(PRIOR) / file, entries)
    ours = LoadPrior.execute("broken", "default").args[0].sample("a red cat", "", 7, 2, 4.0)[0]
    assert torch.equal(ours.tensor, prior.sample("a red cat", "", 7, 2, 4.0)[0].tensor)


def test_a_config_from_notepad(broken):
    path = broken(TEXT_TO_IMAGE) / "unet" / "config.json"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    LoadDecoder.execute("broken", "default")


@pytest.mark.parametrize("rest", ["shards that are not there", "a pointer"])
def test_half_precision_beside_what_was_not_fetched(broken, rest):
    folder = broken(TEXT_TO_IMAGE) / "unet"
    half = folder / "diffusion_pytorch_model.fp16.safetensors"
    (folder / WEIGHTS).rename(half)
    if rest == "a pointer":
        (folder / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\noid x\n")
    else:
        index = {"weight_map": {"conv_in.weight": "gone-00001-of-00002.safetensors"}}
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    assert weight_files(folder) == [half]
    LoadDecoder.execute("broken", "default")


def test_a_part_that_is_a_link_counts(broken, tmp_path):
    folder = broken(TEXT_TO_IMAGE)
    shutil.move(folder / "movq", tmp_path / "movq")
    (folder / "movq").symlink_to(tmp_path / "movq")
    before = LoadDecoder.fingerprint_inputs("broken", "default")
    os.utime(tmp_path / "movq" / WEIGHTS, (1, 1))
    assert LoadDecoder.fingerprint_inputs("broken", "default") != before


@pytest.fixture
def looked_up(monkeypatch):
    found = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **_: found.append(a) or [])
    return found


def test_an_image_processor_of_another_task(broken, looked_up):
    """Some of them download a repository that their settings name."""
    entries = {
        "image_processor_type": "OneFormerImageProcessor",
        "class_info_file": "x.json",
        "repo_path": "somebody/files",
        "num_text": 1,
    }
    change_json(broken("tiny-dpt") / "preprocessor_config.json", entries)
    with pytest.raises(ValueError, match="'OneFormerImageProcessor' as its image_processor_type"):
        LoadDepthEstimator.execute("broken")
    assert not looked_up


def test_a_backbone_of_the_hub(broken, looked_up):
    path = broken("tiny-depth-anything") / "config.json"
    change_json(path, {"backbone": "somebody/backbone", "backbone_config": None})
    with pytest.raises(ValueError, match="broken"):
        LoadDepthEstimator.execute("broken")
    assert not looked_up


def test_a_model_that_its_file_does_not_hold(broken):
    """transformers would fill gigabytes with missing tensors."""
    entries = {"hidden_size": 4096, "intermediate_size": 16384}
    change_json(broken("tiny-dpt") / "config.json", entries)
    with pytest.raises(ValueError, match="its file lacks most of them"):
        LoadDepthEstimator.execute("broken")


def test_blocks_within_blocks(broken):
    path = broken(TEXT_TO_IMAGE) / "unet" / "config.json"
    change_json(path, {"layers_per_block": 60, "transformer_layers_per_block": 60})
    with pytest.raises(ValueError, match="it asks for 7200 blocks, and 500 is the most"):
        LoadDecoder.execute("broken", "default")


@pytest.fixture
def style(tmp_path):
    """A LoRA file of peft and its folder."""
    pairs = lora_reference.make_pairs("decoder")
    lora_reference.write(tmp_path, "style", pairs, lora_reference.SPELLINGS["peft"])
    return tmp_path / "style.safetensors"


def weights_of(model) -> torch.Tensor:
    key = "diffusion_model.mid_block.attentions.0.to_q.weight"
    return model.patch_weight_to_device(key, return_weight=True)


@pytest.mark.parametrize("content", ["[1, 2]", "null", "{", '{"r": 4, "alpha": 0.5}', ""])
def test_something_else_beside_a_lora(load_decoder, style, content):
    """A description or a workflow beside it does not give its strength, and does no harm."""
    model = load_decoder()[0]
    alone, _ = apply_to_decoder(model, style, 1.0)
    style.with_suffix(".json").write_text(content)
    beside, _ = apply_to_decoder(model, style, 1.0)
    assert torch.equal(weights_of(beside), weights_of(alone))


def test_the_settings_of_a_neighbour(load_decoder, style, caplog):
    """adapter_config.json without a name belongs to one adapter, and not to all in a folder."""
    model = load_decoder()[0]
    alone, _ = apply_to_decoder(model, style, 1.0)
    rank = next(len(t) for name, t in load_file(style).items() if "lora_A" in name)
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": 16 * rank}
    (style.parent / "adapter_config.json").write_text(json.dumps(settings))
    shutil.copy(style, style.with_name("other.safetensors"))
    with caplog.at_level(logging.WARNING):
        beside, _ = apply_to_decoder(model, style, 1.0)
    assert torch.equal(weights_of(beside), weights_of(alone))
    assert "alpha = rank is assumed" in caplog.text
