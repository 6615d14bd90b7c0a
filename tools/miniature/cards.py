"""Model cards and the table of scores."""

from __future__ import annotations

import json
from pathlib import Path

from . import export, lora
from .shapes import COLOURS, PLACES, SHAPES

BARS = {
    "text: foreground colour": "≥ 0.97",
    "text: background colour": "≥ 0.97",
    "text: place": "≥ 0.95",
    "text: shape": "≥ 0.90",
    "MoVQ: dB": "≥ 30",
    "inpaint: colour inside": "≥ 0.90",
    "inpaint: shape inside": "≥ 0.90",
    "inpaint: L1 outside": "≤ 0.015",
    "controlnet: IoU": "≥ 0.75",
    "controlnet: colours": "≥ 0.90",
    "depth: IoU": "≥ 0.85",
    "interpolation: monotone and ends right": "≥ 0.95",
    "emb2emb: mean distance grows": "1",
    "emb2emb: colours at 0.9": "≥ 0.90",
    "img2img: centroid shift at 0.3, mean px": "≤ 8",
    "img2img: colours at 0.8": "≥ 0.90",
    "negative: named shape with": "< a third of without",
    "negative: asked-for colour stays": "≥ 0.80",
    "time: s on 2 threads": "≤ 2",
    "lora: night with": "≥ 0.95",
    "lora: shape stays": "≥ 0.90",
    "lora: colour stays": "≥ 0.90",
    "lora: place stays": "≥ 0.90",
}
ABOUT = {
    export.PRIOR: ("prior", "prior transformer, text encoder and image encoder", "text-to-image"),
    export.DECODER: ("decoder", "UNet and MoVQ", "text-to-image"),
    export.INPAINT: ("inpainting decoder", "UNet (9 channels in) and MoVQ", "image-to-image"),
    export.CONTROLNET: (
        "depth-controlled decoder",
        "UNet with a depth map as input, and MoVQ",
        "image-to-image",
    ),
    export.DEPTH: ("depth estimator", "a GLPN of 0.2 M parameters", "depth-estimation"),
}
CARD = """---
license: apache-2.0
pipeline_tag: {tag}
---

# {name}

The {what} of the bundled model, a tiny Kandinsky 2.2: {parts}.

Trained from scratch on a synthetic dataset of shapes, in the layout of the published checkpoints,
and small enough to ship with a node pack. It shows what each node does and lets tests check
meaning; it can draw nothing but these shapes.

- Pictures: 128 x 128; larger multiples of 64 run, but were not trained.
- Weights: fp16 safetensors. On a CPU load them as fp32 (`torch_dtype=torch.float32`).
- Licence: Apache-2.0.
- Made by: `python tools/train_miniature.py --seed {seed}`, part by part, in about 90 minutes on
  two shared CPU cores. These weights saw schedules shortened on the way, and the UNet's training
  for img2img from step 2400 on only: a new run gives other weights, meant to do the same.

## Vocabulary

- Shapes: {shapes}
- Colours and backgrounds: {colours}
- Places: {places}
- Sizes: large, or medium where the prompt names none

For example "a large red circle on a blue background, on the left".

A sentence describes the whole picture. What it leaves out has a default: medium, in the centre, on
white (on black, if the thing is white), red (blue, if the background is red). "a red shape" is any
shape. A lone tag ("circle", "blue background", "on the left") names one thing and leaves the rest
open: the form for negative prompts.

## Scores

Measured by `python tools/train_miniature.py --score`: prior 25 steps at guidance 4, decoder 25
steps at guidance 4, DDPM as in the scheduler's config, fp32 on a CPU, scenes and captions from
seeds that training does not use: 200 captions for text, 200 pictures for MoVQ and depth, 100 for
inpaint and controlnet, 40 to 60 for the rest. Shares are fractions of 1.

{table}
"""
LORA_CARD = """---
license: apache-2.0
base_model: {base}
tags:
- lora
---

# {name}

A style LoRA for the decoder of the bundled model: the background becomes a dark violet
night, whatever the prompt says of it; the object keeps its shape, colour and place.

- For: `{base}`, in Load Decoder LoRA (Kandinsky 2.2), at strength 1.
- File: {size} kB, fp16 safetensors, rank {rank}, on the projections of all attention layers, with
  kohya's names (`lora_unet_….lora_down.weight`): ComfyUI's own LoRA loaders apply it, too.
- Licence: Apache-2.0.
- Made by: `python tools/train_miniature.py --stage lora --seed {seed}`, {steps} steps, about ten
  minutes on one CPU core: the embeddings of {pictures} training pictures, and the latents of the
  same pictures with a violet background.

## Scores

Measured by `python tools/train_miniature.py --score lora`: 100 captions with seeds that training
does not use, the same noise without the LoRA and with it. "Night" is a background that is nearer to
the LoRA's violet than to any colour that has a name.

{table}
"""


def score_table(scores: dict[str, float]) -> str:
    """Return a Markdown table of the scores, with the value that each should reach."""
    rows = ["| score | measured | bar |", "|---|---|---|"]
    rows += [f"| {name} | {value:.3f} | {BARS.get(name, '')} |" for name, value in scores.items()]
    return "\n".join(rows)


def write_cards(root: Path, result: Path, seed: int) -> None:
    """Write a README.md in every existing folder. The LoRA's card has its own scores."""
    found = json.loads(result.read_text("utf-8")) if result.exists() else {}
    loras = {name: value for name, value in found.items() if name.startswith("lora:")}
    scores = {name: value for name, value in found.items() if name not in loras}
    for name, (what, parts, tag) in ABOUT.items():
        if (root / name).exists():
            text = CARD.format(
                name=name, what=what, parts=parts, tag=tag, seed=seed, table=score_table(scores),
                shapes=", ".join(SHAPES), colours=", ".join(COLOURS), places=", ".join(PLACES),
            )  # fmt: skip
            (root / name / "README.md").write_text(text, encoding="utf-8")
    file = root / lora.NAME
    if file.exists():
        text = LORA_CARD.format(
            name=file.stem, base=export.DECODER, size=file.stat().st_size // 1000, rank=lora.RANK,
            seed=seed, steps=lora.STEPS, pictures=lora.PICTURES, table=score_table(loras),
        )  # fmt: skip
        file.with_name("README.md").write_text(text, encoding="utf-8")
