"""The decoder: the node and KSampler, compared with diffusers' `KandinskyV22Pipeline`; and MoVQ.

The runs go from image embeddings to latents. A step is one call of the UNet with both halves of the
guidance. KSampler runs Euler, which makes as many calls. For MoVQ, VAE Decode is compared with the
pipeline's own decoding, from latents to pictures on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from . import roofline
from .checkpoints import DTYPES, PIXELS, checkpoints, load_pipeline, load_with_node, read_config
from .pairs import clear_device, compare, in_turns
from .report import RATIO

# run → the run that it is compared with
AGAINST = {
    "Decoder": "diffusers",
    "Decoder, channels last": "diffusers",
    "KSampler": "diffusers",
    "Decoder, compiled": "diffusers, compiled",
    "VAE Decode": "MoVQ of diffusers",
}
COLUMNS = {
    "case": "{case}",
    "run": "{run}",
    "s": "{ours:.4f}",
    "against": "{against}",
    "s ": "{theirs:.4f}",
    "ratio (quartiles)": RATIO,
    "bar": "≤ {bar}",
    "ms a step": "{step:.2f}",
    "over least possible": "{over_least:.1f}",
    "difference": "{difference:.1g}",
}


def draw_inputs(width: int, batch: int, pixels: int) -> tuple[torch.Tensor, ...]:
    """Return embeddings and latents.

    The positive and the negative embeddings are (batch, width), and the latents are (batch, 4,
    pixels/8, pixels/8).
    """
    generator = torch.Generator().manual_seed(0)
    embeds = torch.randn(2, batch, width, generator=generator)
    return *embeds, torch.randn(batch, 4, pixels // 8, pixels // 8, generator=generator)


def load_nodes(folder: Path, dtype: str) -> tuple[Any, Any]:
    """Return (MODEL, VAE)."""
    from kandinsky22.nodes.loaders import LoadDecoder

    return load_with_node(LoadDecoder, folder, dtype)


@torch.inference_mode()
def run_node(model: Any, inputs: tuple[torch.Tensor, ...], steps: int) -> torch.Tensor:
    from kandinsky22.nodes.decoder import Decoder
    from kandinsky22.utils.kandinsky.image_embeds import ImageEmbeds

    positive, negative, latents = inputs
    sampling = dict(seed=0, steps=steps, cfg=4.0, sampler_name="ddpm", scheduler="checkpoint")
    canvas = {"samples": torch.zeros_like(latents)}
    result = Decoder.execute(
        model, ImageEmbeds(positive), canvas, ImageEmbeds(negative), **sampling
    )
    return result.args[0]["samples"]


@torch.inference_mode()
def run_ksampler(model: Any, inputs: tuple[torch.Tensor, ...], steps: int) -> torch.Tensor:
    """Run KSampler's own function with the same number of calls of the UNet."""
    import comfy.sample
    from kandinsky22.nodes.conditioning import Conditioning
    from kandinsky22.utils.kandinsky.image_embeds import ImageEmbeds

    *embeds, latents = inputs
    conditions = [Conditioning.execute(ImageEmbeds(value)).args[0] for value in embeds]
    noise = comfy.sample.prepare_noise(latents, 0)
    return comfy.sample.sample(
        model,
        noise,
        steps,
        4.0,
        "euler",
        "normal",
        *conditions,
        torch.zeros_like(latents),
        disable_pbar=True,
        seed=0,
    )


def run_pipeline(pipeline: Any, inputs: tuple[torch.Tensor, ...], steps: int) -> torch.Tensor:
    positive, negative, latents = inputs
    height, width = (side * 8 for side in latents.shape[-2:])
    return pipeline(
        positive,
        negative,
        height,
        width,
        steps,
        generator=[torch.Generator().manual_seed(i) for i in range(len(latents))],
        output_type="latent",
    ).images


@torch.inference_mode()
def decode_with_node(vae: Any, latents: torch.Tensor) -> torch.Tensor:
    """Return pictures (B, 8h, 8w, 3) in [0, 1], on the CPU, of latents (B, 4, h, w)."""
    return vae.decode(latents).cpu()


@torch.no_grad()
def decode_with_diffusers(movq: Any, latents: torch.Tensor) -> torch.Tensor:
    latents = latents.to(movq.device, movq.dtype)
    pictures = movq.decode(latents, force_not_quantize=True).sample * 0.5 + 0.5
    return pictures.clamp(0, 1).cpu().permute(0, 2, 3, 1).float()


def contestants(
    folder: Path,
    dtype: str,
    pixels: int,
    batch: int,
    steps: int,
    channels_last: bool = False,
    compile: str = "",
) -> dict[str, Callable]:
    """Return name → a function that gives latents (batch, 4, pixels/8, pixels/8).

    For MoVQ, it gives pictures.
    """
    model, vae = load_nodes(folder, dtype)
    pipeline = load_pipeline("KandinskyV22Pipeline", folder, dtype)
    inputs = draw_inputs(pipeline.unet.config["encoder_hid_dim"], batch, pixels)
    runs: dict[str, Callable] = {"Decoder": partial(run_node, model, inputs, steps)}
    if channels_last:
        from kandinsky22.utils.comfyui.optimize import optimize

        # A second UNet, because a shared one would change its memory format in every round.
        other, _ = load_nodes(folder, dtype)
        laid_out = optimize(other, "sdpa", channels_last=True)
        runs["Decoder, channels last"] = partial(run_node, laid_out, inputs, steps)
    runs["KSampler"] = partial(run_ksampler, model, inputs, steps)
    runs["diffusers"] = partial(run_pipeline, pipeline, inputs, steps)
    if compile:
        from comfy_extras.nodes_torch_compile import TorchCompileModel

        compiled = TorchCompileModel.execute(model, compile).args[0]
        runs["Decoder, compiled"] = partial(run_node, compiled, inputs, steps)
        theirs = type(pipeline)(**pipeline.components)
        theirs.set_progress_bar_config(disable=True)
        theirs.unet = torch.compile(pipeline.unet, backend=compile)
        runs["diffusers, compiled"] = partial(run_pipeline, theirs, inputs, steps)
    runs["VAE Decode"] = partial(decode_with_node, vae, inputs[2])
    return runs | {"MoVQ of diffusers": partial(decode_with_diffusers, pipeline.movq, inputs[2])}


def run(
    size: str = "miniature",
    dtype: Sequence[str] = ("fp32",),
    pixels: Sequence[int] = (),
    batch: Sequence[int] = (1,),
    steps: int = 50,
    rounds: int = 5,
    channels_last: bool = False,
    compile: str = "",
) -> list[dict]:
    """Return a row for each run, of each dtype, size and batch."""
    cases = product(dtype, pixels or (PIXELS[size],), batch)
    with checkpoints(size, "text_to_image") as folders:
        folder = folders["text_to_image"]
        return [
            row | {"case": f"{size}, {row['case']}"}
            for case in cases
            for row in measure(folder, *case, steps, rounds, channels_last, compile)
        ]


def measure(
    folder: Path,
    dtype: str,
    pixels: int,
    batch: int,
    steps: int,
    rounds: int,
    channels_last: bool = False,
    compile: str = "",
) -> list[dict]:
    """Return a row for each run of one dtype, size and batch."""
    clear_device()
    runs = contestants(folder, dtype, pixels, batch, steps, channels_last, compile)
    results = {name: run().float().cpu() for name, run in runs.items()}
    times = in_turns(runs, rounds)
    work = roofline.unet_work(read_config(folder / "unet"), pixels, 2 * batch, DTYPES[dtype])
    least = roofline.least_seconds(work, roofline.measure_device(DTYPES[dtype]))
    rows = []
    for name, against in AGAINST.items():
        if name not in runs:
            continue
        row: dict[str, Any] = {"case": f"{steps} steps, {pixels} px, batch {batch}, {dtype}"}
        row |= {"run": name, "against": against, **compare(times[name], times[against])}
        if name != "VAE Decode":
            step = row["ours"] / steps
            row |= {"step": round(step * 1000, 3), "over_least": round(step / least, 2)}
        if name != "KSampler":  # another sampler, other latents
            row["difference"] = (results[name] - results[against]).abs().max().item()
        rows.append(row | {"bar": 1.0})
    return rows
