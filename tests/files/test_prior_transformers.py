"""Load Prior Transformer: one network, with the encoders of a prior, or with ComfyUI's own."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import comfy.cli_args
import comfy.clip_vision
import comfy.model_management
import comfy.sd
import comfy.utils
import folder_paths
import pytest
import torch
from comfy import sd1_clip, sdxl_clip
from helpers.tiny_models import PRIOR, TEXT_TO_IMAGE, WEIGHTS, WIDTH, make_prior, randomize
from kandinsky22.nodes.embeds import EncodeImage, ZeroEmbeds
from kandinsky22.nodes.file_loaders import LoadPriorTransformer, LoadUNet
from kandinsky22.nodes.loaders import LoadPrior
from kandinsky22.nodes.prior import SamplePrior
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, CLIPTokenizer

pytestmark = pytest.mark.long

LAYERS = 32  # ComfyUI recognises bigG by these; CLIP-L has 12
TEXT = dict(hidden_size=WIDTH, num_attention_heads=4, intermediate_size=37, hidden_act="gelu")
SMALLER = dict(hidden_size=16, num_attention_heads=2, intermediate_size=20)


@pytest.fixture(autouse=True)
def fp32(monkeypatch):
    """Otherwise ComfyUI keeps CLIP in fp16, even on a CPU."""
    monkeypatch.setattr(comfy.cli_args.args, "fp32_text_enc", True)


def text_model(layers, seed, **numbers):
    config = CLIPTextConfig(
        num_hidden_layers=layers,
        projection_dim=numbers["hidden_size"],
        eos_token_id=49407,
        bos_token_id=49406,
        **numbers,
    )
    return randomize(CLIPTextModelWithProjection(config), seed)


@pytest.fixture(scope="module")
def whole(models):
    """A prior's folder with the tokenizer of ComfyUI's CLIP, and a text encoder as deep as bigG."""
    parts = make_prior()
    tokenizer = Path(sd1_clip.__file__).with_name("sd1_tokenizer")
    parts.register_modules(
        tokenizer=CLIPTokenizer.from_pretrained(tokenizer),
        text_encoder=text_model(LAYERS, 5, **TEXT),
    )
    parts.save_pretrained(models / "whole")
    yield models / "whole"
    shutil.rmtree(models / "whole")


@pytest.fixture(scope="module")
def files(whole, tmp_path_factory):
    """CLIP's files as ComfyUI has them, and the transformer's file in its folder of models."""
    folder = tmp_path_factory.mktemp("files")
    shutil.copy(whole / "text_encoder" / "model.safetensors", folder / "clip_g.safetensors")
    smaller = text_model(12, 8, **SMALLER)
    save_file(smaller.state_dict(), folder / "clip_l.safetensors")
    shutil.copy(whole / "prior" / WEIGHTS, folder / "mine.safetensors")
    folder_paths.add_model_folder_path("diffusion_models", str(folder))
    return folder


def load_clip(files, *names):
    """Load ComfyUI's own CLIP and tokenizer from its files, as its `load_clip` does.

    That function accepts only the published widths.
    """
    options = {
        "clip_g_model_config": {**TEXT, "num_hidden_layers": LAYERS},
        "clip_l_model_config": {**SMALLER, "num_hidden_layers": 12},
    }
    tensors = [comfy.utils.load_torch_file(str(files / name), safe_load=True) for name in names]
    model = {
        ("clip_g.safetensors",): sdxl_clip.SDXLRefinerClipModel,
        ("clip_l.safetensors", "clip_g.safetensors"): sdxl_clip.SDXLClipModel,
        ("clip_l.safetensors",): sd1_clip.SD1ClipModel,
    }[names]
    tokenizer = sd1_clip.SD1Tokenizer if len(names) == 1 and "l." in names[0] else None
    target = SimpleNamespace(params={}, clip=model, tokenizer=tokenizer or sdxl_clip.SDXLTokenizer)
    return comfy.sd.CLIP(target, state_dict=tensors, model_options=options)


def load_clip_vision(whole):
    config = json.loads((whole / "image_encoder" / "config.json").read_text())
    vision = comfy.clip_vision.ClipVisionModel(config)
    missing, unexpected = vision.load_sd(load_file(whole / "image_encoder" / "model.safetensors"))
    assert not missing and not unexpected
    return vision


def load(name, prior=None, clip=None, clip_vision=None, dtype="default"):
    return LoadPriorTransformer.execute(name, dtype, prior, clip, clip_vision).args[0]


def sample(prior, prompt="a red cat, 4k photo", negative="blurry (a dog:1.3)", steps=25):
    return [
        value.tensor
        for value in SamplePrior.execute(prior, prompt, negative, 7, steps, 4.0, 1).args
    ]


@pytest.mark.parametrize("names", [("clip_g",), ("clip_l", "clip_g")])
def test_with_comfyuis_clip_it_is_the_folders_prior(whole, files, names):
    clip = load_clip(files, *(f"{name}.safetensors" for name in names))
    ours = load("mine.safetensors", clip=clip)
    wanted = LoadPrior.execute("whole", "default").args[0]
    for prompt in ("a red cat, 4k photo", "(a (red:1.4) cat:1.3) embedding:x", "", "cat " * 90):
        for mine, theirs in zip(sample(ours, prompt), sample(wanted, prompt), strict=True):
            assert (mine - theirs).abs().max() <= 1e-5
    assert ours.get_models() == [ours.transformer.patcher, clip.patcher]


def test_comfyui_is_told_what_its_clip_needs(whole, files, monkeypatch):
    """This holds for CLIP and CLIP Vision. ComfyUI's own encode_image does not say it."""
    clip, vision = load_clip(files, "clip_g.safetensors"), load_clip_vision(whole)
    ours = load("mine.safetensors", clip=clip, clip_vision=vision)
    told = {}
    load_models = comfy.model_management.load_models_gpu

    def note(models, memory_required=0, **options):
        told[models[0]] = max(memory_required, told.get(models[0], 0))
        return load_models(models, memory_required=memory_required, **options)

    monkeypatch.setattr(comfy.model_management, "load_models_gpu", note)
    sample(ours, negative="", steps=2)
    assert told[clip.patcher] == 15 * 4 * 77 * WIDTH
    assert told[vision.patcher] == 15 * 4 * 17 * 32
    EncodeImage.execute(ours, torch.rand(20, 70, 70, 3))
    assert told[vision.patcher] == 8 * 15 * 4 * 17 * 32  # eight pictures at once


def test_the_users_clip_stays_as_it_was(whole, files, monkeypatch):
    clip = load_clip(files, "clip_g.safetensors")
    clip.clip_layer(-3)
    before = clip.encode_from_tokens(clip.tokenize("a cat"), return_pooled=True)
    encoder = clip.cond_stage_model.clip_g
    options = ("layer", "layer_idx", "return_projected_pooled", "execution_device")
    state = [getattr(encoder, name) for name in options]
    ours = load("mine.safetensors", clip=clip)
    right = sample(ours)
    assert [getattr(encoder, name) for name in options] == state and clip.layer_idx == -3
    monkeypatch.setattr(encoder, "encode", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sample(ours)
    monkeypatch.undo()
    assert [getattr(encoder, name) for name in options] == state
    after = clip.encode_from_tokens(clip.tokenize("a cat"), return_pooled=True)
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
    assert torch.equal(sample(ours)[0], right[0])


def test_with_comfyuis_clip_vision(whole, files):
    wanted = LoadPrior.execute("whole", "default").args[0]
    vision = load_clip_vision(whole)
    ours = load("mine.safetensors", clip=load_clip(files, "clip_g.safetensors"), clip_vision=vision)
    zero, theirs = ZeroEmbeds.execute(ours).args[0], ZeroEmbeds.execute(wanted).args[0]
    assert (zero.tensor - theirs.tensor).abs().max() <= 1e-5
    assert ZeroEmbeds.execute(ours).args[0] is zero
    for mine, other in zip(sample(ours, negative=""), sample(wanted, negative=""), strict=True):
        assert (mine - other).abs().max() <= 1e-5
    image = torch.rand(2, 64, 64, 3)
    mine, other = (EncodeImage.execute(prior, image).args[0].tensor for prior in (ours, wanted))
    assert (mine - other).abs().max() < 0.05  # ComfyUI rounds pictures in another way
    own = vision.encode_image(image)["image_embeds"]
    assert torch.equal(mine, own) and vision.patcher in ours.get_models()


@pytest.mark.parametrize("name", ["mine.safetensors", "whole", "bare"])
def test_with_the_encoders_of_a_prior(models, whole, files, name):
    """The source is a single file, a folder that contains one, or a folder of a training run."""
    shutil.copytree(whole / "prior", models / "bare")
    try:
        lender = LoadPrior.execute("whole", "default").args[0]
        assert name in LoadPriorTransformer.define_schema().inputs[0].options
        assert LoadPriorTransformer.validate_inputs(name) is True
        assert LoadPriorTransformer.fingerprint_inputs(name, weight_dtype="default")
        ours = load(name, lender)
        assert ours.images is lender.images and ours.text_encoder is lender.text_encoder
        for mine, theirs in zip(
            sample(ours, negative=""), sample(lender, negative=""), strict=True
        ):
            assert torch.equal(mine, theirs)
    finally:
        shutil.rmtree(models / "bare")


def test_only_transformers_of_priors_are_listed(models, whole, files):
    shutil.copy(models / TEXT_TO_IMAGE / "unet" / WEIGHTS, files / "unet.safetensors")
    (files / "damaged.safetensors").write_bytes(b"nothing")
    options = LoadPriorTransformer.define_schema().inputs[0].options
    assert {"mine.safetensors", "whole", PRIOR} <= set(options)
    assert not {"unet.safetensors", "damaged.safetensors", TEXT_TO_IMAGE, "tiny-glpn"} & set(
        options
    )


def test_what_is_refused(models, whole, files):
    lender = LoadPrior.execute("whole", "default").args[0]
    small, large = (load_clip(files, f"clip_{which}.safetensors") for which in "lg")
    vision = load_clip_vision(whole)
    shutil.copy(models / TEXT_TO_IMAGE / "unet" / WEIGHTS, files / "unet.safetensors")
    parts = make_prior(32)
    parts.prior.save_pretrained(models / "narrow")
    parts.save_pretrained(models / "narrow-whole")
    try:
        for message, call in {
            "Connect a prior, or a CLIP with bigG": lambda: load("mine.safetensors"),
            "has no CLIP ViT-bigG/14": lambda: load("mine.safetensors", clip=small),
            r"\(str\) has no CLIP ViT-bigG": lambda: load("mine.safetensors", clip="x"),
            "24 wide with 77 tokens, and narrow is 32 wide": lambda: load("narrow", lender),
            "CLIP that is connected is 24 wide and takes 77": lambda: load("narrow", clip=large),
            "makes embeddings 24 wide, and the prior's are 32": lambda: load(
                "narrow", LoadPrior.execute("narrow-whole", "default").args[0], None, vision
            ),
            "makes no embeddings": lambda: load("mine.safetensors", clip=large, clip_vision="x"),
            "'x' came where a KANDINSKY22_PRIOR": lambda: load("mine.safetensors", "x"),
            "They are a decoder's UNet: choose this file in Load UNet": lambda: load(
                "unet.safetensors", lender
            ),
            "use Load Decoder": lambda: load(TEXT_TO_IMAGE, lender),
            "They are the transformer of a prior: choose this file in Load Prior Tra": (
                lambda: LoadUNet.execute("mine.safetensors", "default")
            ),
        }.items():
            with pytest.raises(ValueError, match=message):
                call()
        with pytest.raises(FileNotFoundError, match="'nothing' for Load Prior Transformer"):
            load("nothing", lender)
        assert "'nothing'" in LoadPriorTransformer.validate_inputs("nothing")
        ours = load("mine.safetensors", clip=large)
        for need, call in {
            "An empty negative prompt": lambda: sample(ours, negative=""),
            "Encode Image": lambda: EncodeImage.execute(ours, torch.rand(1, 64, 64, 3)),
            "Zero Embeds": lambda: ZeroEmbeds.execute(ours),
        }.items():
            with pytest.raises(ValueError, match=f"^{need} needs .* to its clip_vision"):
                call()
    finally:
        shutil.rmtree(models / "narrow")
        shutil.rmtree(models / "narrow-whole")
