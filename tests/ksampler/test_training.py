"""ComfyUI's Train LoRA on the decoders: what it learns, what it leaves unchanged, its errors."""

import comfy.lora
import comfy.model_management as management
import comfy.sd
import comfy.utils
import folder_paths
import pytest
import torch
from comfy_extras.nodes_train import LoraModelLoader, TrainLoraNode
from diffusers import PriorTransformer, UNet2DConditionModel
from helpers.decoding_stages import decode, picture
from helpers.ksampler import canvas, ksampler
from kandinsky22.nodes.conditioning import Conditioning, DepthConditioning, InpaintConditioning
from kandinsky22.nodes.embeds import EncodeImage
from kandinsky22.nodes.file_loaders import LoadPriorTransformer, LoadUNet
from kandinsky22.nodes.loaders import LoadPrior
from kandinsky22.nodes.lora import LoadDecoderLora
from kandinsky22.utils.comfyui.model_files import list_files
from kandinsky22.utils.comfyui.prior_names import list_transformers
from safetensors.torch import save_file

import nodes as host

FILES = {".safetensors"}
PRIOR = "kandinsky-2-2-tiny-prior"

DECODERS = {
    "text": "kandinsky-2-2-tiny-decoder",
    "inpaint": "kandinsky-2-2-tiny-decoder-inpaint",
    "depth": "kandinsky-2-2-tiny-controlnet-depth",
}
pytestmark = pytest.mark.long


@pytest.fixture
def pictures() -> list[torch.Tensor]:
    return list(picture(3).split(1))  # Rebatch Images with batch size 1 gives this


def conditionings(prior, vae, pictures, kind="text") -> tuple[list, list]:
    """Return latents and CONDITIONING, one for each picture, as lists of ComfyUI."""
    latents = [{"samples": vae.encode(each)} for each in pictures]
    parts = [Conditioning.execute(EncodeImage.execute(prior, p).args[0]).args[0] for p in pictures]
    if kind == "depth":
        parts = [
            DepthConditioning.execute(part, part, hint).args[0]
            for part, hint in zip(parts, pictures, strict=True)
        ]
    if kind == "inpaint":
        mask = torch.zeros(1, 64, 64)
        mask[:, 16:48, 16:48] = 1
        parts = [
            InpaintConditioning.execute(part, part, latent, mask).args[0]
            for part, latent in zip(parts, latents, strict=True)
        ]
    return latents, parts


def train(model, latents, positive, steps=6, dtype="fp32", checkpointing=False, bypass=False):
    """Return (the LoRA's tensors, the loss of each step)."""
    one = {
        "batch_size": 1,
        "steps": steps,
        "grad_accumulation_steps": 1,
        "learning_rate": 0.01,
        "rank": 4,
        "optimizer": "AdamW",
        "loss_function": "MSE",
        "seed": 1,
        "training_dtype": dtype,
        "lora_dtype": "fp32",
        "quantized_backward": False,
        "algorithm": "LoRA",
        "gradient_checkpointing": checkpointing,
        "checkpoint_depth": 1,
        "offloading": False,
        "existing_lora": "[None]",
        "bucket_mode": False,
        "bypass_mode": bypass,
    }
    known = TrainLoraNode.define_schema().inputs
    widgets = {name: [value] for name, value in one.items() if name in {i.id for i in known}}
    lora, losses, _ = TrainLoraNode.execute([model], latents, positive, **widgets).args
    return lora, losses["loss"]


@pytest.mark.parametrize("kind", DECODERS)
@pytest.mark.parametrize("way", ["plain", "checkpointing", "bypass"])
def test_what_it_gives_fits_every_loader(
    prior, load_decoder, pictures, tmp_path, monkeypatch, kind, way
):
    """The effect is that of ComfyUI's own Load LoRA Model, in KSampler's UNet and in the stages."""
    model, vae = load_decoder(DECODERS[kind])
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    latents, positive = conditionings(prior, vae, pictures, kind)
    lora, losses = train(
        model, latents, positive, checkpointing=way == "checkpointing", bypass=way == "bypass"
    )
    assert all(torch.isfinite(torch.tensor(losses))) and len(losses) == 6
    after = model.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())

    folder_paths.add_model_folder_path("loras", str(tmp_path))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    name = f"{kind}-{way}.safetensors"  # ComfyUI still knows the folders of earlier tests
    save_file({key: value.contiguous() for key, value in lora.items()}, tmp_path / name)
    ours = LoadDecoderLora.execute(model, name, 1.0).args[0]
    theirs = LoraModelLoader.execute(model, lora, 1.0).args[0]
    assert set(ours.patches) == set(theirs.patches) and len(ours.patches) > 50
    for key in ours.patches:
        weight = comfy.utils.get_attr(model.model, key)
        left, right = (
            comfy.lora.calculate_weight(each.patches[key], weight.clone(), key)
            for each in (ours, theirs)
        )
        assert torch.equal(left, right)


def test_it_learns(prior, load_decoder, pictures):
    """The loss falls, and a stage draws another picture with the LoRA."""
    model, vae = load_decoder(DECODERS["text"])
    latents, positive = conditionings(prior, vae, pictures)
    lora, losses = train(model, latents, positive, steps=60)
    assert sum(losses[-20:]) < 0.9 * sum(losses[:20])
    trained = LoraModelLoader.execute(model, lora, 1.0).args[0]
    embeds = EncodeImage.execute(prior, pictures[0]).args[0]
    plain, learned = (decode(each, embeds, embeds, steps=3, cfg=1.0) for each in (model, trained))
    assert not torch.equal(plain, learned)


def test_a_batch_of_embeddings_in_one_conditioning_is_refused(prior, load_decoder):
    """ComfyUI would silently use the first of them for every picture."""
    model, vae = load_decoder(DECODERS["text"])
    batch = picture(3)
    latents, _ = conditionings(prior, vae, [batch])
    positive = [Conditioning.execute(EncodeImage.execute(prior, batch).args[0]).args[0]]
    with pytest.raises(
        ValueError, match="Put Rebatch Images with batch size 1 before Encode Image"
    ):
        train(model, latents, positive)
    assert not management.in_training
    lora, _ = train(model, *conditionings(prior, vae, [batch[:1]]), steps=1)  # the next run works
    assert lora


def test_an_interrupt_leaves_the_model_as_it_was(prior, load_decoder, pictures):
    model, vae = load_decoder(DECODERS["text"])
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    latents, positive = conditionings(prior, vae, pictures)
    steps = []

    def interrupt(*_, **__):
        steps.append(1)
        if len(steps) == 3:
            raise management.InterruptProcessingException

    comfy.utils.set_progress_bar_global_hook(interrupt)
    try:
        with pytest.raises(management.InterruptProcessingException):
            train(model, latents, positive)
    finally:
        comfy.utils.set_progress_bar_global_hook(None)
    after = model.model.state_dict()
    assert set(after) == set(before)
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert train(model, latents, positive, steps=1)[1]


def test_the_file_works_everywhere(prior, load_decoder, pictures, pair, tmp_path, monkeypatch):
    """It works in the stages and KSampler, with both loaders, stacked, and after Model Save."""
    model, vae = load_decoder(DECODERS["text"])
    lora, _ = train(model, *conditionings(prior, vae, pictures), steps=20)
    for kind in ("loras", "diffusion_models"):
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(tmp_path)], FILES))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    save_file({k: v.contiguous() for k, v in lora.items()}, tmp_path / "trained.safetensors")

    ours = LoadDecoderLora.execute(model, "trained.safetensors", 1.0).args[0]
    (theirs,) = host.LoraLoaderModelOnly().load_lora_model_only(model, "trained.safetensors", 1.0)
    stacked = LoadDecoderLora.execute(theirs, "trained.safetensors", 0.5).args[0]
    comfy.sd.save_checkpoint(str(tmp_path / "merged.safetensors"), ours)
    merged = LoadUNet.execute("merged.safetensors", "default").args[0]

    embeds = EncodeImage.execute(prior, pictures[0]).args[0]
    sampled = [ksampler(each, *pair, canvas()) for each in (model, ours, theirs, merged, stacked)]
    staged = [
        decode(each, embeds, embeds, steps=3, cfg=1.0)
        for each in (model, ours, theirs, merged, stacked)
    ]
    for plain, first, second, saved, twice in (sampled, staged):
        assert not torch.equal(plain, first) and not torch.equal(twice, first)
        assert torch.equal(first, second)
        # Tensors of a file have another memory layout than patched ones, so kernels may round
        # differently.
        assert (first - saved).abs().max() <= 1e-5


def test_diffusers_refuses_the_file(prior, load_decoder, pictures, models, tmp_path):
    """As docs/training.md says, it has other names, and differences of biases and norms."""
    model, vae = load_decoder(DECODERS["text"])
    lora, _ = train(model, *conditionings(prior, vae, pictures), steps=1)
    assert any(name.endswith((".diff", ".diff_b")) for name in lora)
    save_file({k: v.contiguous() for k, v in lora.items()}, tmp_path / "trained.safetensors")
    unet = UNet2DConditionModel.from_pretrained(models / DECODERS["text"] / "unet")
    with pytest.raises(ValueError, match="correct format"):
        unet.load_attn_procs(tmp_path, weight_name="trained.safetensors")


def test_checkpoints_of_diffusers_training_scripts_load(models, tmp_path, monkeypatch):
    """accelerate's checkpoint-N/ has the network in a folder of its name, beside other files."""
    whole = UNet2DConditionModel.from_pretrained(models / DECODERS["text"] / "unet")
    transformer = PriorTransformer.from_pretrained(models / PRIOR / "prior")
    for kind in ("diffusers", "diffusion_models"):
        paths, types = folder_paths.folder_names_and_paths[kind]
        monkeypatch.setitem(
            folder_paths.folder_names_and_paths, kind, ([*paths, str(tmp_path / kind)], types)
        )
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    for kind, network, name in (
        ("diffusion_models", whole, "unet"),
        ("diffusers", transformer, "prior"),
    ):
        checkpoint = tmp_path / kind / "my-training" / "checkpoint-500"
        network.save_pretrained(checkpoint / name)
        (checkpoint / "optimizer.bin").write_bytes(b"state")
        (checkpoint / "random_states_0.pkl").write_bytes(b"state")
    listed = [name for name in list_files("diffusion_models") if "my-training" in name]
    (unet,) = [name for name in listed if name.endswith(".safetensors")]
    loaded = LoadUNet.execute(unet, "default").args[0].model.diffusion_model
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in whole.state_dict().items())
    (trained,) = [name for name in list_transformers() if "my-training" in name]
    lender = LoadPrior.execute(PRIOR, "default").args[0]
    assert LoadPriorTransformer.execute(trained, "default", prior=lender).args
