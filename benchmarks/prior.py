"""The prior: the node and diffusers' `KandinskyV22PriorPipeline`, prompt to embeddings.

The pipeline runs the image encoder for "no negative prompt" at every call, and the node runs it
once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path

import torch

from . import roofline
from .checkpoints import DTYPES, PROMPT, checkpoints, load_pipeline, load_with_node, read_config
from .pairs import clear_device, compare, in_turns
from .report import TIMES

BAR = 1.0
COLUMNS = TIMES | {
    "ours / least possible": "{over_least:.1f}",
    "difference": "{difference:.1g}",
}


def contestants(folder: Path, dtype: str, batch: int, steps: int) -> dict[str, Callable]:
    """Return name → a function that gives the positive embeddings, (batch, D)."""
    from kandinsky22.nodes.loaders import LoadPrior
    from kandinsky22.nodes.prior import SamplePrior

    (prior,) = load_with_node(LoadPrior, folder, dtype)
    pipeline = load_pipeline("KandinskyV22PriorPipeline", folder, dtype)

    @torch.inference_mode()
    def ours():
        return SamplePrior.execute(prior, PROMPT, "", 0, steps, 4.0, batch).args[0].tensor

    def theirs():
        return pipeline(
            PROMPT,
            num_images_per_prompt=batch,
            num_inference_steps=steps,
            generator=torch.Generator().manual_seed(0),
        ).image_embeds

    return {"ours": ours, "diffusers": theirs}


def run(
    size: str = "miniature",
    dtype: Sequence[str] = ("fp32",),
    batch: Sequence[int] = (1,),
    steps: int = 25,
    rounds: int = 5,
) -> list[dict]:
    """Return one row for each dtype and batch."""
    rows = []
    with checkpoints(size, "prior") as folders:
        config = read_config(folders["prior"] / "prior")
        for kind, count in product(dtype, batch):
            # The models of the last case are freed before the next are loaded.
            runs: dict[str, Callable] = {}
            clear_device()
            runs = contestants(folders["prior"], kind, count, steps)
            # Only the first item, because a batch has other noise.
            first = [run()[:1].float().cpu() for run in runs.values()]
            times = in_turns(runs, rounds)
            row = {"case": f"{size}, {steps} steps, batch {count}, {kind}"}
            row |= compare(times["ours"], times["diffusers"])
            row |= {"bar": BAR, "difference": (first[0] - first[1]).abs().max().item()}
            work = roofline.prior_work(config, 2 * count, DTYPES[kind])
            least = roofline.least_seconds(work, roofline.measure_device(DTYPES[kind]))
            rows.append(row | {"over_least": round(row["ours"] / steps / least, 2)})
    return rows
