"""The workflow text_to_image on a real server, compared with diffusers' two pipelines here.

A run goes from the prompt to a PNG file, with everything loaded. ComfyUI's share is the time
outside our nodes' own code and MoVQ, from the request to the written history. This is validation,
the queue, caches, events, ComfyUI's own nodes and the PNG. In a second run with another seed in the
decoder, the prior does not run. Its time outside the UNet and MoVQ is everything that is not the
model.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import torch

from .checkpoints import BUNDLED, PIXELS, PROMPT, checkpoints, load_pipeline
from .pairs import compare, in_turns, spread
from .report import RATIO

WORKFLOW = BUNDLED.parent / "workflows" / "api" / "text_to_image.json"
CLOCK = Path(__file__).with_name("clock.py")
COLUMNS = {
    "case": "{case}",
    "s, ours": "{ours:.3f}",
    "s, diffusers": "{theirs:.3f}",
    "ratio (quartiles)": RATIO,
    "measured": "{measured}",
    "value (quartiles)": "{value[1]:.4f} ({value[0]:.4f}–{value[2]:.4f})",
    "bar": "≤ {bar}",
}


def workflow(folders: dict[str, Path], dtype: str, pixels: int, steps: int) -> dict:
    """Return text_to_image in API form, for these checkpoints.

    Its nodes are named by their classes.
    """
    nodes = json.loads(WORKFLOW.read_text("utf-8"))
    names = {name: node["class_type"] for name, node in nodes.items()}
    prompt = {}
    for name, node in nodes.items():
        inputs = {
            key: [names[value[0]], value[1]] if isinstance(value, list) else value
            for key, value in node["inputs"].items()
        }
        prompt[names[name]] = {"class_type": node["class_type"], "inputs": inputs}
    for loader, part in (("Prior", "prior"), ("Decoder", "text_to_image")):
        inputs = prompt[f"Kandinsky22Load{loader}"]["inputs"]
        inputs |= {"model_name": folders[part].name, "weight_dtype": dtype}
    prompt["EmptyLatentImage"]["inputs"] |= {"width": pixels, "height": pixels}
    sampling = {"steps": steps, "sampler_name": "ddpm", "scheduler": "checkpoint"}  # as diffusers'
    prompt["Kandinsky22Decoder"]["inputs"] |= sampling
    prompt["Kandinsky22Prior"]["inputs"]["prompt"] = PROMPT
    return prompt


def shares(spans: list[tuple[str, float, float]]) -> dict[str, float]:
    """Return two numbers of a run.

    They are the seconds outside our nodes and MoVQ, and the share outside the UNet and MoVQ.
    """
    seconds = max(end for *_, end in spans) - min(start for _, start, _ in spans)
    total = {"ours": 0.0, "UNet": 0.0, "MoVQ": 0.0}
    for name, start, end in spans:
        name = "ours" if name.startswith("Kandinsky22") else name
        total[name] = total.get(name, 0.0) + end - start
    return {
        "host": seconds - total["ours"] - total["MoVQ"],
        "rest": 1 - (total["UNet"] + total["MoVQ"]) / seconds,
    }


@contextmanager
def measured_server(folders: dict[str, Path], dtype: str):
    """Yield a ComfyUI with the pack, the clock, these checkpoints, and MoVQ in this dtype."""
    from scripts.comfyui import Server
    from scripts.host import ensure

    with tempfile.TemporaryDirectory() as work:
        base = Path(work)
        (base / "custom_nodes").mkdir()
        shutil.copy(CLOCK, base / "custom_nodes")
        (base / "models").mkdir()
        if folders["prior"].parent != BUNDLED:
            (base / "models" / "diffusers").symlink_to(folders["prior"].parent)
        with Server(ensure(), base, [f"--{dtype}-vae"]) as server:
            yield server


def diffusers_run(folders, dtype: str, pixels: int, steps: int, file: Path) -> Callable:
    """Run diffusers from the prompt to a PNG file."""
    prior = load_pipeline("KandinskyV22PriorPipeline", folders["prior"], dtype)
    decoder = load_pipeline("KandinskyV22Pipeline", folders["text_to_image"], dtype)
    seeds = count()

    def run():
        generator = torch.Generator().manual_seed(next(seeds))
        embeds = prior(PROMPT, generator=generator).to_tuple()
        decoder(*embeds, pixels, pixels, steps, generator=generator).images[0].save(file)

    return run


def run(
    size: str = "miniature",
    dtype: str = "fp32",
    pixels: int = 0,
    steps: int = 50,
    rounds: int = 5,
) -> list[dict]:
    """Return three rows: the whole graph, ComfyUI's share, and the rest's share in a second run."""
    pixels = pixels or PIXELS[size]
    case = f"{size}, 25 + {steps} steps, {pixels} px, {dtype}"
    with (
        checkpoints(size, "prior", "text_to_image") as folders,
        measured_server(folders, dtype) as server,
    ):
        prompt = workflow(folders, dtype, pixels, steps)
        seeds, found = count(1), {"host": [], "rest": []}

        def queue(*nodes: str) -> dict[str, float]:
            for node in nodes:
                prompt[node]["inputs"]["seed"] = next(seeds)
            server.run(prompt)
            return shares(server.get("/benchmark/spans"))

        def ours():
            found["host"].append(queue("Kandinsky22Prior", "Kandinsky22Decoder")["host"])

        file = server.base / "diffusers.png"
        theirs = diffusers_run(folders, dtype, pixels, steps, file)
        queue()  # this loads the models
        times = in_turns({"ours": ours, "diffusers": theirs}, rounds)
        for _ in range(rounds):
            found["rest"].append(queue("Kandinsky22Decoder")["rest"])
    return [
        {"case": case, **compare(times["ours"], times["diffusers"]), "bar": 1.0},
        {
            "case": case,
            "measured": "s, the host's",
            "value": spread(found["host"][1:]),
            "bar": 0.15,
        },
        {
            "case": f"{case}, queued again with another decoder seed",
            "measured": "share outside UNet and MoVQ",
            "value": spread(found["rest"]),
            "bar": 0.05,
        },
    ]
