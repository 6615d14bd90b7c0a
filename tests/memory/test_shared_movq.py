"""Decoders whose MoVQ is the same on disk share one in memory."""

import gc
import shutil
import weakref

import pytest
import torch
from kandinsky22.nodes.loaders import LoadDecoder
from safetensors.torch import load_file, save_file

NAME = "kandinsky-2-2-tiny-decoder"
INPAINT = "kandinsky-2-2-tiny-decoder-inpaint"
FILE = "movq/diffusion_pytorch_model.safetensors"
LATENTS = torch.ones(1, 4, 4, 4)


@pytest.fixture
def copy(models):
    """Return a function that copies a decoder folder: (name, its MoVQ's file)."""
    shutil.copytree(models / NAME, models / "copied")
    yield "copied", models / "copied" / FILE
    shutil.rmtree(models / "copied")


def vae_of(name):
    return LoadDecoder.execute(name, "default").args[1]


def test_two_decoders_share_one(models, nothing_shared):
    one, two = vae_of(NAME), vae_of(INPAINT)
    assert one.first_stage_model is two.first_stage_model
    assert one.patcher is not two.patcher and one.patcher.is_clone(two.patcher)
    assert torch.equal(one.decode(LATENTS), two.decode(LATENTS))
    module = weakref.ref(one.first_stage_model)
    del one
    gc.collect()
    assert vae_of(NAME).first_stage_model is two.first_stage_model
    del two
    gc.collect()
    assert module() is None  # sharing keeps nothing alive


def test_another_content_is_another_one(copy):
    name, file = copy
    weights = load_file(file)
    weights["decoder.conv_out.bias"] += 1
    save_file(weights, file, {"format": "pt"})
    one, two = vae_of(NAME), vae_of(name)
    assert one.first_stage_model is not two.first_stage_model
    assert not torch.equal(one.decode(LATENTS), two.decode(LATENTS))


def test_a_file_that_was_written_again_is_read_again(copy):
    """This also holds if the new content is that of another decoder."""
    name, file = copy
    changed = load_file(file)
    changed["decoder.conv_out.bias"] += 1
    save_file(changed, file, {"format": "pt"})
    old = vae_of(name)
    shutil.copyfile(file.parents[2] / NAME / FILE, file)
    new, other = vae_of(name), vae_of(NAME)
    assert new.first_stage_model is not old.first_stage_model
    assert new.first_stage_model is other.first_stage_model
