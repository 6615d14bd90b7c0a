"""A GPU with too little memory computes the same, and MoVQ leaves float16 if it must.

These tests have never run so far.
"""

import shutil

import comfy.cli_args
import comfy.model_management
import pytest
import torch
from kandinsky22 import nodes as stages
from kandinsky22.nodes.loaders import LoadDecoder
from kandinsky22.utils.comfyui.vae import load_vae
from kandinsky22.utils.kandinsky.image_embeds import ImageEmbeds
from safetensors.torch import load_file, save_file

from benchmarks.checkpoints import write_decoder

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("nothing_shared")]

NAME = "kandinsky-2-2-tiny-decoder"
SAMPLING = dict(seed=7, steps=4, cfg=4.0, sampler_name="ddpm", scheduler="checkpoint")


def sample(model, embeds) -> torch.Tensor:
    canvas = {"samples": torch.zeros(1, 4, 8, 8)}
    result = stages.Decoder.execute(
        model, embeds(1, 1), canvas, negative_image_embeds=embeds(1, 2), **SAMPLING
    )
    return result.args[0]["samples"]


@pytest.fixture
def alone():
    """No other models are on the GPU, before and after."""
    comfy.model_management.unload_all_models()
    yield
    comfy.model_management.unload_all_models()
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7])
def test_weights_in_main_memory(models, embeds, alone, share):
    """Layers in main memory are copied at each call, and nothing else changes."""
    wanted = sample(LoadDecoder.execute(NAME, "fp32").args[0], embeds)
    comfy.model_management.unload_all_models()
    model = LoadDecoder.execute(NAME, "fp32").args[0].clone(disable_dynamic=True)
    budget = max(int(share * model.model_size()), 1)
    model.load(model.load_device, lowvram_model_memory=budget)
    devices = {parameter.device.type for parameter in model.model.parameters()}
    assert devices == ({"cpu", "cuda"} if share else {"cpu"})
    unet = model.model.diffusion_model
    x, t = torch.zeros(2, 4, 8, 8, device="cuda"), torch.full((2,), 5.0, device="cuda")
    context = torch.cat([embeds(1, 1).tensor, embeds(1, 2).tensor])[:, None].cuda()
    in_part = unet(x, t, context)
    model.unpatch_model(model.offload_device)
    model.load(model.load_device, full_load=True)
    torch.testing.assert_close(unet(x, t, context), in_part, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(sample(model, embeds), wanted, rtol=1e-3, atol=1e-3)


def test_under_a_cap(tmp_path, alone, monkeypatch):
    """Torch may use less than the size of the weights, and ComfyUI is told so.

    The latents are the same.
    """
    import folder_paths

    write_decoder(tmp_path / "medium", "medium")
    folder_paths.add_model_folder_path("diffusers", str(tmp_path))
    model = LoadDecoder.execute("medium", "fp32").args[0]
    assert model.model_size() > 400e6
    width = model.model.diffusion_model.embeds_width
    generator = torch.Generator().manual_seed(0)
    pair = [ImageEmbeds(torch.randn(1, width, generator=generator)) for _ in range(2)]
    wanted = sample(model, lambda _, index: pair[index - 1])
    comfy.model_management.unload_all_models()
    torch.cuda.empty_cache()
    total, cap = torch.cuda.mem_get_info()[1], 300e6
    torch.cuda.set_per_process_memory_fraction(cap / total)
    monkeypatch.setattr(comfy.model_management, "EXTRA_RESERVED_VRAM", total - cap)
    samples = sample(model, lambda _, index: pair[index - 1])
    torch.testing.assert_close(samples, wanted, rtol=1e-2, atol=1e-2)


def test_movq_goes_on_in_float32(models, alone, monkeypatch, tmp_path, caplog):
    """Where float16 overflows, the decode runs again, and equals one in float32."""
    folder = shutil.copytree(models / NAME, tmp_path / "loud")
    file = folder / "movq" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    loud = weights["decoder.conv_in.weight"] * 60_000
    save_file(weights | {"decoder.conv_in.weight": loud.clamp(-65_000, 65_000)}, file)
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    pictures = []
    for option in ("fp16_vae", "fp32_vae"):
        monkeypatch.setattr(comfy.cli_args.args, option, True)
        pictures.append(load_vae(folder).decode(latents))
        monkeypatch.setattr(comfy.cli_args.args, option, False)
    assert caplog.text.count("leaves the range of float16") == 1
    torch.testing.assert_close(*pictures, rtol=1e-2, atol=1e-2)
