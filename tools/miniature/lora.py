"""A style LoRA of the decoder, "night": the object stays as it is, and the background goes dark.

Only the attention layers are trained, as in diffusers' own script for Kandinsky 2.2. The file has
kohya's names, which ComfyUI's own LoRA loaders know for every model.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import parametrize

from .cases import TEST_SEED, describe, share, test_labels
from .dataset import load_dataset, to_model_range
from .judge import Verdict, judge
from .movq import load_encoder
from .shapes import COLOURS, PALETTE, draw, uniform
from .training import load_average, load_stored, save_atomic, seeded, train
from .unet import BATCH, DiffusionLoss, load_training_set, load_unet

STEPS, RANK, PICTURES = 1500, 4, 3072
NAME = "loras/kandinsky-2-2-mini-night.safetensors"
NIGHT = torch.tensor([0.22, 0.12, 0.42])  # far from both black and blue
PROJECTIONS = ("to_q", "to_k", "to_v", "to_out.0", "add_k_proj", "add_v_proj")
ABOUT = {
    "format": "pt",
    "title": "kandinsky-2-2-mini-night",
    "description": "Turns the background of the miniature's pictures into a dark violet night.",
    "base_model": "kandinsky-2-2-mini-decoder",
    "rank": str(RANK),
    "license": "apache-2.0",
    "made_by": "python tools/train_miniature.py --stage lora",
}


class LowRank(nn.Module):
    """weight → weight + up @ down. It starts without a change."""

    def __init__(self, weight: torch.Tensor):
        super().__init__()
        rows, columns = weight.shape
        self.down = nn.Parameter(torch.randn(RANK, columns) / RANK)
        self.up = nn.Parameter(torch.zeros(rows, RANK))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + self.up @ self.down


def attention_layers(unet: UNet2DConditionModel) -> dict[str, nn.Linear]:
    """Return name → every projection of the UNet's attention."""
    return {
        name: layer
        for name, layer in unet.named_modules()
        if isinstance(layer, nn.Linear) and name.partition("attentions.")[2][2:] in PROJECTIONS
    }


def build_adapters(unet: UNet2DConditionModel) -> nn.ModuleDict:
    """Return a `LowRank` for every attention projection, by its name with "/" for the dots."""
    layers = attention_layers(unet).items()
    return nn.ModuleDict({name.replace(".", "/"): LowRank(layer.weight) for name, layer in layers})


def encode_nights(work: Path, seed: int) -> torch.Tensor:
    """Encode the first training pictures as they would be at night, (PICTURES, 4, 16, 16)."""
    path = work / "night.pt"
    if not path.exists():
        scenes = load_dataset(work)[1][:PICTURES]
        ground = NIGHT + uniform(-0.02, 0.02, (len(scenes), 3), seeded(seed))
        scenes, encoder, parts = replace(scenes, background=ground), load_encoder(work), []
        for start in range(0, len(scenes), 32):
            pictures = (draw(scenes[start : start + 32]) * 255).round()
            parts.append(encoder.encode(to_model_range(pictures)).latents.contiguous())
        save_atomic(torch.cat(parts), path)
    return load_stored(path, "lora")


def train_lora(work: Path, seed: int, steps: int = STEPS) -> None:
    """Train from the day's embedding to the night's latents.

    The UNet's own weights do not change.
    """
    _, embeds, zero, _ = load_training_set(work)
    latents = encode_nights(work, seed)
    torch.manual_seed(seed)
    unet = load_unet(work)
    adapters = build_adapters(unet)
    for name, layer in attention_layers(unet).items():
        parametrize.register_parametrization(layer, "weight", adapters[name.replace(".", "/")])
    diffusion = DiffusionLoss(unet, zero)

    def loss_fn(step: int, generator: torch.Generator):
        index = torch.randint(0, len(latents), (BATCH,), generator=generator)
        return diffusion(latents[index], embeds[index], generator)

    train("lora", adapters, loss_fn, steps, 4e-3, work, seed, decay=0.99, weight_decay=0.0)


def export_lora(work: Path, root: Path) -> None:
    """Write the trained LoRA in fp16."""
    adapters = load_average("lora", build_adapters(load_unet(work)), work)
    tensors = {}
    for key, tensor in adapters.state_dict().items():
        layer, _, side = key.replace("/", ".").rpartition(".")
        tensors[stored_name(layer, side)] = tensor.half()
    (root / NAME).parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, root / NAME, metadata=ABOUT)


def stored_name(layer: str, side: str) -> str:
    """Return a name for the file. layer: "down_blocks.1.attentions.0.to_q"; side: "up", "down"."""
    return f"lora_unet_{layer.replace('.', '_')}.lora_{side}.weight"


def merge_lora(unet: UNet2DConditionModel, file: Path) -> None:
    """Add a file of `export_lora` to the weights themselves."""
    tensors = load_file(file)
    for name, layer in attention_layers(unet).items():
        up, down = (tensors[stored_name(name, side)].float() for side in ("up", "down"))
        layer.weight.data += up @ down


def is_night(view: Verdict) -> torch.Tensor:
    """Return (N,) whether a background is closer to the night's colour than to any named colour."""
    return torch.cdist(view.background, torch.cat([PALETTE, NIGHT[None]])).argmin(1) == len(COLOURS)


def score_lora(mini, n: int = 100) -> dict[str, float]:
    """Score the same captions and noise, without the LoRA and with it."""
    captions, meant = describe(test_labels(n, 9), TEST_SEED)
    embeds = mini.imagine(captions, 9)
    day, night = judge(mini.decode(*embeds, 9)), judge(mini.decode_at_night(*embeds, 9))
    told = meant[:, 0] >= 0
    return {
        "lora: night without": share(is_night(day)),
        "lora: night with": share(is_night(night)),
        "lora: brightness of the background without": day.background.mean().item(),
        "lora: brightness of the background with": night.background.mean().item(),
        "lora: shape stays": share((night.labels[:, 0] == meant[:, 0])[told]),
        "lora: colour stays": share(night.labels[:, 1] == meant[:, 1]),
        "lora: place stays": share(night.labels[:, 3] == meant[:, 3]),
    }
