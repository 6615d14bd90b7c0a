"""Write tiny random Kandinsky 2.2 checkpoints in the published folder layout, in seconds.

They are real classes of diffusers and transformers, saved by their own `save_pretrained`. Only the
widths and the weights differ from the published ones. `python tests/helpers/tiny_models.py DIR`
writes all of them.
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from diffusers import (
    DDPMScheduler,
    KandinskyV22ControlnetPipeline,
    KandinskyV22InpaintPipeline,
    KandinskyV22Pipeline,
    KandinskyV22PriorPipeline,
    PriorTransformer,
    UnCLIPScheduler,
    UNet2DConditionModel,
    VQModel,
)
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    DepthAnythingConfig,
    DepthAnythingForDepthEstimation,
    Dinov2Config,
    DPTConfig,
    DPTForDepthEstimation,
    DPTImageProcessor,
    GLPNConfig,
    GLPNForDepthEstimation,
    GLPNImageProcessor,
)

# The folders that `write_all` writes.
PRIOR = "kandinsky-2-2-tiny-prior"
TEXT_TO_IMAGE = "kandinsky-2-2-tiny-decoder"
INPAINT = "kandinsky-2-2-tiny-decoder-inpaint"
DEPTH = "kandinsky-2-2-tiny-controlnet-depth"
WEIGHTS = "diffusion_pytorch_model.safetensors"  # in each of their folders
WIDTH = 24  # of an image embedding; not a multiple of 16, see docs/design.md on the prior's noise

# The published scheduler configurations.
DECODER_SCHEDULER = dict(
    beta_start=0.00085,
    beta_end=0.012,
    beta_schedule="linear",
    prediction_type="epsilon",
    steps_offset=1,
    variance_type="fixed_small",
    clip_sample=True,
)
PRIOR_SCHEDULER = dict(
    variance_type="fixed_small_log", prediction_type="sample", clip_sample_range=10.0
)


def randomize(module: torch.nn.Module, seed: int) -> torch.nn.Module:
    """Set fixed random weights, so that every run and machine has the same checkpoint."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in sorted(module.named_parameters()):
        fan_in = parameter[0].numel() if parameter.ndim > 1 else 4
        values = torch.randn(parameter.shape, generator=generator) / fan_in**0.5
        is_norm_scale = "norm" in name and name.endswith("weight") and parameter.ndim == 1
        parameter.data = 1 + 0.1 * values if is_norm_scale else values
    return module.eval()


def make_unet(variant: str = "text_to_image", seed: int = 0) -> UNet2DConditionModel:
    """Make a UNet of a kind: text_to_image, inpaint (9 channels in), or depth (with a hint)."""
    unet = UNet2DConditionModel(
        in_channels={"text_to_image": 4, "inpaint": 9, "depth": 8}[variant],
        out_channels=8,
        addition_embed_type="image_hint" if variant == "depth" else "image",
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        block_out_channels=(32, 64),
        layers_per_block=1,
        encoder_hid_dim=WIDTH,
        encoder_hid_dim_type="image_proj",
        cross_attention_dim=16,
        attention_head_dim=16,
        resnet_time_scale_shift="scale_shift",
        class_embed_type=None,
    )
    return randomize(unet, seed)  # type: ignore[return-value]


def make_movq() -> VQModel:
    movq = VQModel(
        block_out_channels=(32, 32, 32, 64),
        down_block_types=("DownEncoderBlock2D",) * 3 + ("AttnDownEncoderBlock2D",),
        up_block_types=("AttnUpDecoderBlock2D",) + ("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=4,
        vq_embed_dim=4,
        num_vq_embeddings=64,
        norm_type="spatial",
        norm_num_groups=8,
    )
    return randomize(movq, 3)  # type: ignore[return-value]


def make_tokenizer(length: int = 77) -> CLIPTokenizer:
    """Make CLIP's byte-pair tokenizer with a vocabulary of single letters."""
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,'-"
    tokens = [*letters, *(letter + "</w>" for letter in letters)]
    vocabulary = {token: i for i, token in enumerate([*tokens, "<|startoftext|>", "<|endoftext|>"])}
    with tempfile.TemporaryDirectory() as folder:  # every version of transformers reads these files
        (Path(folder) / "vocab.json").write_text(json.dumps(vocabulary))
        (Path(folder) / "merges.txt").write_text("#version: 0.2\n")
        return CLIPTokenizer.from_pretrained(folder, model_max_length=length)


def make_prior(width: int = WIDTH) -> KandinskyV22PriorPipeline:
    tokenizer = make_tokenizer()
    vocabulary = len(tokenizer)
    text = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        projection_dim=width,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    vision = CLIPVisionConfig(
        hidden_size=32,
        projection_dim=width,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        image_size=64,
        patch_size=16,
    )
    transformer = PriorTransformer(
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=1,
        embedding_dim=width,
        num_embeddings=77,
        additional_embeddings=4,
    )
    return KandinskyV22PriorPipeline(
        prior=randomize(transformer, 4),
        text_encoder=randomize(CLIPTextModelWithProjection(text), 5),
        image_encoder=randomize(CLIPVisionModelWithProjection(vision), 6),
        tokenizer=tokenizer,
        scheduler=UnCLIPScheduler(**PRIOR_SCHEDULER),
        image_processor=CLIPImageProcessor(
            size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64}
        ),
    )


def make_decoder(variant: str = "text_to_image", **scheduler) -> KandinskyV22Pipeline:
    pipeline_class = {
        "text_to_image": KandinskyV22Pipeline,
        "inpaint": KandinskyV22InpaintPipeline,
        "depth": KandinskyV22ControlnetPipeline,
    }[variant]
    return pipeline_class(
        unet=make_unet(variant),
        movq=make_movq(),
        scheduler=DDPMScheduler(**(DECODER_SCHEDULER | scheduler)),
    )


def make_depth_estimators() -> dict[str, tuple]:
    """Return name → (model, image processor), one of each family that users are likely to have."""
    glpn = GLPNConfig(
        hidden_sizes=[8, 8, 16, 16],
        depths=[1] * 4,
        num_attention_heads=[1, 1, 2, 2],
        decoder_hidden_size=16,
    )
    vit = dict(hidden_size=24, num_hidden_layers=4, num_attention_heads=2)
    neck = dict(neck_hidden_sizes=[8, 8, 16, 16], fusion_hidden_size=16)
    dpt = DPTConfig(
        **vit,
        **neck,
        intermediate_size=32,
        image_size=32,
        patch_size=8,
        backbone_out_indices=[0, 1, 2, 3],
        use_batch_norm_in_fusion_residual=True,
    )
    backbone = Dinov2Config(
        **vit, image_size=28, patch_size=7, out_indices=[1, 2, 3, 4], reshape_hidden_states=False
    )
    depth_anything = DepthAnythingConfig(
        **neck,
        backbone_config=backbone,
        patch_size=7,
        reassemble_hidden_size=24,
        head_hidden_size=8,
    )
    small = DPTImageProcessor(size={"height": 32, "width": 32})
    smaller = DPTImageProcessor(size={"height": 28, "width": 28}, ensure_multiple_of=7)
    return {
        "tiny-glpn": (randomize(GLPNForDepthEstimation(glpn), 7), GLPNImageProcessor()),
        "tiny-dpt": (randomize(DPTForDepthEstimation(dpt), 8), small),
        "tiny-depth-anything": (
            randomize(DepthAnythingForDepthEstimation(depth_anything), 9),
            smaller,
        ),
    }


def write_depth_estimators(folder: Path) -> None:
    for name, parts in make_depth_estimators().items():
        for part in parts:
            part.save_pretrained(folder / name)


def write_all(folder: Path, prefix: str = "kandinsky-2-2-tiny") -> None:
    """Write the prior, the decoder, the inpainting and the depth decoder under `folder`."""
    make_prior().save_pretrained(folder / f"{prefix}-prior")
    make_decoder().save_pretrained(folder / f"{prefix}-decoder")
    make_decoder("inpaint", clip_sample=False).save_pretrained(folder / f"{prefix}-decoder-inpaint")
    make_decoder("depth").save_pretrained(folder / f"{prefix}-controlnet-depth")


if __name__ == "__main__":
    write_all(Path(sys.argv[1]), *sys.argv[2:])
