"""The published folder layout: five folders, fp16 safetensors, each with a model card."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import (
    KandinskyV22ControlnetPipeline,
    KandinskyV22InpaintPipeline,
    KandinskyV22Pipeline,
    KandinskyV22PriorPipeline,
    VQModel,
)

from .clip import build_image_processor, load_clip
from .depth import build_depth_processor, load_depth
from .lora import export_lora
from .movq import fit_codebook, load_movq
from .prior import build_prior_scheduler, load_prior
from .tokens import build_tokenizer, list_merges
from .training import load_stored, log
from .unet import build_scheduler, load_unet

PRIOR = "kandinsky-2-2-mini-prior"
DECODER = "kandinsky-2-2-mini-decoder"
INPAINT = "kandinsky-2-2-mini-decoder-inpaint"
CONTROLNET = "kandinsky-2-2-mini-controlnet-depth"
DEPTH = "mini-depth-estimator"
FOLDERS = (PRIOR, DECODER, INPAINT, CONTROLNET, DEPTH)


def finish_movq(work: Path, seed: int) -> VQModel:
    """Return MoVQ with its codebook fitted to the training latents."""
    movq = load_movq(work)
    fit_codebook(movq, load_stored(work / "latents.pt", "latents"), seed)
    return movq


def export_prior(work: Path, folder: Path) -> None:
    """Write the prior pipeline's folder."""
    text_encoder, image_encoder = load_clip(work)
    pipeline = KandinskyV22PriorPipeline(
        prior=load_prior(work),
        image_encoder=image_encoder,
        text_encoder=text_encoder,
        tokenizer=build_tokenizer(),
        scheduler=build_prior_scheduler(),
        image_processor=build_image_processor(),
    )
    save_half(pipeline, folder)
    write_vocabulary(folder / "tokenizer")


def write_vocabulary(folder: Path) -> None:
    """Write vocab.json and merges.txt, which transformers 4 and other readers look for."""
    tokenizer = build_tokenizer()
    vocabulary = dict(sorted(tokenizer.get_vocab().items(), key=lambda item: item[1]))
    (folder / "vocab.json").write_text(json.dumps(vocabulary) + "\n", encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in list_merges()[1])]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def save_half(pipeline, folder: Path) -> None:
    """Write a pipeline's folder in fp16 safetensors."""
    pipeline.to(torch.float16)
    pipeline.save_pretrained(folder, safe_serialization=True)


def export_decoders(work: Path, root: Path, seed: int) -> None:
    """Write the decoder's folder, and those of its children that are trained."""
    kinds = {
        "decoder": (DECODER, KandinskyV22Pipeline),
        "inpaint": (INPAINT, KandinskyV22InpaintPipeline),
        "controlnet": (CONTROLNET, KandinskyV22ControlnetPipeline),
    }
    movq = finish_movq(work, seed)
    for kind, (name, pipeline_class) in kinds.items():
        stage = "unet" if kind == "decoder" else kind
        if not (work / "checkpoints" / f"{stage}.pt").exists():
            log.warning("export: no %s yet, left out", kind)
            continue
        unet = load_unet(work, kind)
        save_half(pipeline_class(unet=unet, scheduler=build_scheduler(), movq=movq), root / name)


def export_depth(work: Path, folder: Path) -> None:
    """Write the depth estimator's folder, for `pipeline("depth-estimation", ...)`."""
    model = load_depth(work).to(torch.float16)
    model.save_pretrained(folder, safe_serialization=True)
    build_depth_processor().save_pretrained(folder)


def export_all(work: Path, root: Path, seed: int) -> None:
    """Write every folder that can be written into `root`, and say how large they are."""
    export_prior(work, root / PRIOR)
    export_decoders(work, root, seed)
    if (work / "checkpoints" / "depth.pt").exists():
        export_depth(work, root / DEPTH)
    if (work / "checkpoints" / "lora.pt").exists():
        export_lora(work, root)
    for name in FOLDERS:
        log.info("%s: %.2f MB", name, folder_size(root / name) / 1e6)
    log.info("all: %.2f MB", sum(folder_size(root / name) for name in FOLDERS) / 1e6)


def folder_size(folder: Path) -> int:
    """Return the bytes of all files under a folder."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
