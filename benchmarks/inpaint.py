"""Inpaint: its mask, and the whole stage, compared with diffusers' `KandinskyV22InpaintPipeline`.

The mask is that of a 768² picture, given at the picture's size and needed for 96² latents. For
diffusers, the time begins after the resize. The stage goes from picture and mask to latents, and
includes MoVQ's encoding.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from .checkpoints import PIXELS, checkpoints, load_pipeline, load_with_node
from .pairs import compare, in_turns
from .report import RATIO

MASK_PIXELS = 768
COLUMNS = {
    "what": "{case}",
    "s, ours": "{ours:.5f}",
    "s, diffusers": "{theirs:.5f}",
    "ratio (quartiles)": RATIO.replace(".2f", ".4f"),
    "bar": "≤ {bar}",
    "difference": "{difference:.1g}",
}


def box(pixels: int) -> torch.Tensor:
    """Return a MASK (1, pixels, pixels) in which the middle is repainted."""
    mask = torch.zeros(1, pixels, pixels)
    mask[:, pixels // 4 : -pixels // 4, pixels // 4 : -pixels // 4] = 1
    return mask


def masks() -> dict[str, Callable]:
    """Return name → a function that gives what is kept, (1, 1, 96, 96)."""
    from diffusers.pipelines.kandinsky2_2.pipeline_kandinsky2_2_inpainting import prepare_mask
    from kandinsky22.utils.kandinsky.masks import keep_from_mask

    mask, side = box(MASK_PIXELS), MASK_PIXELS // 8
    small = F.interpolate(1 - mask[None], (side, side))
    return {
        "ours": lambda: keep_from_mask(mask, side, side),
        "diffusers": lambda: prepare_mask(small.clone()),
    }


def stages(folder: Path, dtype: str, pixels: int, steps: int) -> dict[str, Callable]:
    """Return name → a function that gives latents."""
    from kandinsky22.nodes.inpaint import Inpaint
    from kandinsky22.nodes.loaders import LoadDecoder
    from kandinsky22.utils.kandinsky.image_embeds import ImageEmbeds

    model, vae = load_with_node(LoadDecoder, folder, dtype)
    pipeline = load_pipeline("KandinskyV22InpaintPipeline", folder, dtype)
    generator = torch.Generator().manual_seed(0)
    positive, negative = torch.randn(
        2, 1, pipeline.unet.config["encoder_hid_dim"], generator=generator
    )
    # Both are channels last, as an IMAGE is, and as the pipeline makes it from a PIL picture.
    image, mask = torch.rand(1, pixels, pixels, 3, generator=generator), box(pixels)

    @torch.inference_mode()
    def ours():
        return Inpaint.execute(
            model,
            ImageEmbeds(positive),
            {"samples": vae.encode(image)},
            mask,
            ImageEmbeds(negative),
            seed=0,
            steps=steps,
            cfg=4.0,
            sampler_name="ddpm",
            scheduler="checkpoint",
        ).args[0]["samples"]

    def theirs():
        return pipeline(
            positive,
            image.movedim(-1, 1) * 2 - 1,
            mask.clone(),
            negative,
            pixels,
            pixels,
            steps,
            generator=torch.Generator().manual_seed(0),
            output_type="latent",
        ).images

    return {"ours": ours, "diffusers": theirs}


def run(
    size: str = "miniature", dtype: str = "fp32", pixels: int = 0, steps: int = 50, rounds: int = 5
) -> list[dict]:
    """Return two rows: the mask, the stage."""
    pixels = pixels or PIXELS[size]
    cases = {f"mask, {MASK_PIXELS} px": (masks(), 0.01)}
    with checkpoints(size, "inpaint") as folders:
        case = f"stage, {size}, {steps} steps, {pixels} px, {dtype}"
        cases[case] = (stages(folders["inpaint"], dtype, pixels, steps), 1.0)
        rows = []
        for case, (runs, bar) in cases.items():
            results = [run().float().cpu() for run in runs.values()]
            times = in_turns(runs, 4 * rounds if case.startswith("mask") else rounds)
            difference = (results[0] - results[1]).abs().max().item()
            row = {"case": case, **compare(times["ours"], times["diffusers"]), "bar": bar}
            rows.append(row | {"difference": difference})
    return rows
