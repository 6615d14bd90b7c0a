"""What the template Train a LoRA teaches the miniature, in pictures of prompts that it never saw.

The bundled workflow runs on a real server. Then it runs again with other prompts. The server still
has the LoRA, and draws each prompt without it and with it, from the same noise. The judge of the
miniature reads the pictures.
"""

from __future__ import annotations

import io
import json
import tempfile
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from tools.miniature.cases import TEST_SEED, describe, share, test_labels
from tools.miniature.judge import judge
from tools.miniature.lora import is_night

WORKFLOW = Path(__file__).resolve().parents[1] / "workflows" / "api" / "train_a_lora.json"
COLUMNS = {
    "pictures": "{case}",
    "dark violet background": "{night:.2f}",
    "shape as said": "{shape:.2f}",
    "colour as said": "{colour:.2f}",
    "place as said": "{place:.2f}",
    "first run, s": "{seconds:.0f}",
}


def with_and_without(workflow: dict) -> tuple[dict, dict[str, str], str]:
    """Return the workflow with a second Decoder, its nodes that save, and the Prior of both."""
    prompt = deepcopy(workflow)
    numbers = {node["class_type"]: number for number, node in prompt.items()}
    chain = [numbers[kind] for kind in ("Kandinsky22Decoder", "VAEDecode", "SaveImage")]
    for number in chain:
        copy = prompt[f"{number} without"] = deepcopy(prompt[number])
        for name, value in copy["inputs"].items():
            if isinstance(value, list) and value[0] in chain:
                copy["inputs"][name] = [f"{value[0]} without", value[1]]
    decoder = chain[0]
    prompt[f"{decoder} without"]["inputs"]["model"] = [numbers["Kandinsky22LoadDecoder"], 0]
    saved = {"without": f"{chain[-1]} without", "with": chain[-1]}
    return prompt, saved, prompt[decoder]["inputs"]["image_embeds"][0]


def as_tensor(png: bytes) -> torch.Tensor:
    """Return a picture as (3, H, W) in [0, 1]."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(pixels).movedim(-1, 0)


def draw(captions: list[str]) -> tuple[dict[str, torch.Tensor], float]:
    """Return pictures (N, 3, H, W) by "without" and "with", and the seconds of the training run."""
    from scripts.comfyui import Server
    from scripts.host import ensure

    prompt, saved, prior = with_and_without(json.loads(WORKFLOW.read_text("utf-8")))
    pictures: dict[str, list[torch.Tensor]] = {name: [] for name in saved}
    with tempfile.TemporaryDirectory() as base, Server(ensure(), Path(base)) as server:
        seconds = server.run(prompt, timeout=3600).server_seconds
        for seed, caption in enumerate(captions):
            prompt[prior]["inputs"] |= {"prompt": caption, "seed": seed}
            result = server.run(prompt, timeout=600)
            for name, node in saved.items():
                (file,) = result.outputs[node]["images"]
                pictures[name].append(as_tensor(server.fetch(file)))
    return {name: torch.stack(each) for name, each in pictures.items()}, seconds


def run(prompts: int = 40) -> list[dict]:
    """Return a row without the LoRA, and one with it."""
    captions, meant = describe(test_labels(prompts, 9), TEST_SEED)
    told = meant[:, 0] >= 0
    pictures, seconds = draw(captions)
    rows = []
    for name, drawn in pictures.items():
        view = judge(drawn)
        right = view.labels == meant
        rows.append(
            {"case": f"{prompts} prompts, {name} the LoRA", "seconds": seconds}
            | {"night": share(is_night(view)), "shape": share(right[:, 0][told])}
            | {"colour": share(right[:, 1]), "place": share(right[:, 3])}
        )
    return rows
