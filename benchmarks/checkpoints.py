"""Checkpoints to measure on, in four sizes: the bundled model, and random weights.

Times do not depend on weights, so the published architecture gets random ones. A folder is what
diffusers saves, and both loaders read the same files.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from accelerate import init_empty_weights
from kandinsky22.utils.comfyui.model_folders import BUNDLED
from kandinsky22.utils.files import architectures
from safetensors.torch import save_file

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

# size → how it differs from the published architecture
UNETS: dict[str, dict[str, Any]] = {
    # Every layer of the published UNet, with hardly any arithmetic. Mostly the time of Python and
    # of launching kernels is left.
    "thin": dict(
        block_out_channels=(32, 64, 96, 128),
        attention_head_dim=32,
        cross_attention_dim=32,
        encoder_hid_dim=64,
    ),
    "medium": dict(
        block_out_channels=(96, 192, 320, 448),
        attention_head_dim=32,
        cross_attention_dim=384,
        encoder_hid_dim=768,
    ),
    "full": {},
}
PRIORS: dict[str, dict[str, dict[str, Any]]] = {
    "thin": {
        "prior": dict(num_attention_heads=2, attention_head_dim=32, embedding_dim=64),
        "text_encoder": dict(hidden_size=64, intermediate_size=64, num_attention_heads=2),
        "image_encoder": dict(hidden_size=64, intermediate_size=64, num_attention_heads=2),
    },
    "medium": {
        "prior": dict(num_attention_heads=12, num_layers=12, embedding_dim=768),
        "text_encoder": dict(
            hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
        ),
        "image_encoder": dict(
            hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
        ),
    },
    "full": {"prior": {}, "text_encoder": {}, "image_encoder": {}},
}
MOVQS = {
    "thin": dict(block_out_channels=(32, 32, 32, 32)),
    "medium": dict(block_out_channels=(64, 128, 128, 256)),
    "full": {},
}
SIZES = ("miniature", *UNETS)
# Width and height of a picture, by default.
PIXELS = {"miniature": 128, "thin": 64, "medium": 256, "full": 768}
PARTS = {"text_to_image": "decoder", "inpaint": "decoder-inpaint", "depth": "controlnet-depth"}
PROMPT = "a large red circle on a blue background"


@contextmanager
def checkpoints(
    size: str, *parts: str, dtype: torch.dtype = torch.float32
) -> Iterator[dict[str, Path]]:
    """Yield part ("prior", or a variant of the UNet) → its folder.

    The folders last as long as the context.
    """
    if size == "miniature":
        yield {part: BUNDLED / f"kandinsky-2-2-mini-{PARTS.get(part, part)}" for part in parts}
        return
    with tempfile.TemporaryDirectory() as work:
        folders = {part: Path(work) / f"{size}-{PARTS.get(part, part)}" for part in parts}
        for part, folder in folders.items():
            if part == "prior":
                write_prior(folder, size, dtype)
            else:
                write_decoder(folder, size, part, dtype)
        yield folders


def write_decoder(
    folder: Path,
    size: str,
    variant: str = "text_to_image",
    dtype: torch.dtype = torch.float32,
) -> None:
    published = architectures.DECODERS[variant]
    with init_empty_weights():
        unet = diffusers.UNet2DConditionModel.from_config(published.unet | UNETS[size])
        movq = diffusers.VQModel.from_config(architectures.MOVQ | MOVQS[size])
    scheduler = diffusers.DDPMScheduler.from_config(published.scheduler)
    write(folder, diffusers.KandinskyV22Pipeline(unet=unet, movq=movq, scheduler=scheduler), dtype)


def write_prior(folder: Path, size: str, dtype: torch.dtype = torch.float32) -> None:
    """Write a prior's folder, with the miniature's tokenizer padded to the published length."""
    tokenizer = transformers.CLIPTokenizer.from_pretrained(
        BUNDLED / "kandinsky-2-2-mini-prior" / "tokenizer", model_max_length=77
    )
    config = {
        part: architectures.PRIOR[part] | PRIORS[size].get(part, {}) for part in architectures.PRIOR
    }
    width = config["prior"]["embedding_dim"]
    text = transformers.CLIPTextConfig(
        **config["text_encoder"] | {"projection_dim": width},
        eos_token_id=tokenizer.eos_token_id,
    )
    vision = transformers.CLIPVisionConfig(**config["image_encoder"] | {"projection_dim": width})
    with init_empty_weights():
        pipeline = diffusers.KandinskyV22PriorPipeline(
            prior=diffusers.PriorTransformer.from_config(config["prior"]),
            text_encoder=transformers.CLIPTextModelWithProjection(text),
            image_encoder=transformers.CLIPVisionModelWithProjection(vision),
            tokenizer=tokenizer,
            scheduler=diffusers.UnCLIPScheduler.from_config(config["scheduler"]),
            image_processor=transformers.CLIPImageProcessor(),
        )
    write(folder, pipeline, dtype)


def write(folder: Path, pipeline: Any, dtype: torch.dtype) -> None:
    """Save a pipeline whose modules are on the meta device, with random weights."""
    pipeline.save_config(folder)
    for name, part in pipeline.components.items():
        if isinstance(part, torch.nn.Module):
            write_module(folder / name, part, dtype)
        else:
            part.save_pretrained(folder / name)


def write_module(folder: Path, module: Any, dtype: torch.dtype = torch.float32) -> None:
    """Save config.json and random weights, as the module's own library does."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.empty(tensor.shape, dtype=dtype).normal_(0, 0.02, generator=generator)
        for name, tensor in module.state_dict().items()
    }
    if isinstance(module, diffusers.ModelMixin):
        module.save_config(folder)
        save_file(weights, folder / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    else:
        module.config.save_pretrained(folder)
        save_file(weights, folder / "model.safetensors", {"format": "pt"})


def load_pipeline(name: str, folder: Path, dtype: str, to_device: bool = True) -> Any:
    """Load diffusers' own pipeline, without progress bars."""
    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
    pipeline = getattr(diffusers, name).from_pretrained(
        folder, dtype=DTYPES[dtype], use_safetensors=True
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline.to("cuda") if to_device and torch.cuda.is_available() else pipeline


def load_with_node(node: Any, folder: Path, dtype: str) -> tuple:
    """Load a folder with a loader node.

    MoVQ has no widget for its dtype, so ComfyUI gets an option.
    """
    import comfy.cli_args
    import folder_paths

    for name in DTYPES:
        setattr(comfy.cli_args.args, f"{name}_vae", name == dtype)

    folder_paths.add_model_folder_path("diffusers", str(folder.parent), is_default=True)
    return node.execute(folder.name, dtype).args


def read_config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())
