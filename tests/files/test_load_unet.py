"""Load UNet makes a decoder from one file, which it recognises by its tensors' names and shapes."""

import shutil

import pytest
import torch
from helpers.ksampler import canvas, ksampler
from helpers.tiny_models import DEPTH, INPAINT, TEXT_TO_IMAGE
from kandinsky22.nodes.file_loaders import LoadUNet


@pytest.fixture
def diffusion_models(tmp_path):
    """A folder that ComfyUI knows as one of its models/diffusion_models."""
    import folder_paths

    folder_paths.add_model_folder_path("diffusion_models", str(tmp_path))
    yield tmp_path
    folder_paths.folder_names_and_paths["diffusion_models"][0].remove(str(tmp_path))


@pytest.mark.parametrize("name", [TEXT_TO_IMAGE, INPAINT, DEPTH])
def test_what_model_save_wrote_loads(load_decoder, diffusion_models, name):
    import comfy.sd

    model = load_decoder(name)[0]
    comfy.sd.save_checkpoint(str(diffusion_models / "saved.safetensors"), model)
    loaded = LoadUNet.execute("saved.safetensors", "default").args[0].model
    assert loaded.scheduler_config == model.model.scheduler_config
    assert loaded.diffusion_model.variant == model.model.diffusion_model.variant
    expected = model.model.diffusion_model.state_dict()
    stored = loaded.diffusion_model.state_dict()
    assert stored.keys() == expected.keys()
    assert all(torch.equal(stored[key], expected[key]) for key in expected)


def test_a_merge_is_saved_merged(load_decoder, diffusion_models, pair):
    import comfy.sd

    model = load_decoder(TEXT_TO_IMAGE)[0].clone()
    weight = model.model.diffusion_model.conv_in.weight
    model.add_patches({"diffusion_model.conv_in.weight": ("diff", (0.1 * weight,))}, 1.0)
    comfy.sd.save_checkpoint(str(diffusion_models / "merge.safetensors"), model)
    loaded = LoadUNet.execute("merge.safetensors", "default").args[0]
    assert torch.equal(ksampler(loaded, *pair, canvas()), ksampler(model, *pair, canvas()))


def test_a_damaged_folder_does_not_stand_in_the_way(models, load_decoder, diffusion_models):
    import comfy.sd

    broken = models / "aaa-broken"
    shutil.copytree(models / TEXT_TO_IMAGE, broken)
    shutil.rmtree(broken / "scheduler")
    try:
        comfy.sd.save_checkpoint(str(diffusion_models / "s.safetensors"), load_decoder(INPAINT)[0])
        loaded = LoadUNet.execute("s.safetensors", "default").args[0].model
        assert loaded.diffusion_model.variant == "inpaint"
    finally:
        shutil.rmtree(broken)


def test_files_of_other_models_are_refused(diffusion_models):
    from safetensors.torch import save_file

    save_file({"model.layers.0.weight": torch.zeros(3)}, diffusion_models / "llama.safetensors")
    (diffusion_models / "old.pt").write_bytes(b"\x80\x02.")
    with pytest.raises(ValueError, match="The 1 tensors of .*llama.* are not what this node takes"):
        LoadUNet.execute("llama.safetensors", "default")
    with pytest.raises(ValueError, match="is a Python pickle.* not opened"):
        LoadUNet.execute("old.pt", "default")
    with pytest.raises(FileNotFoundError, match="No file named 'none.safetensors' among diff"):
        LoadUNet.execute("none.safetensors", "default")
    assert "is a Python pickle" in LoadUNet.validate_inputs("old.pt")
