"""The table of scores. Each score is a function of the exported folders and nothing else.

Scenes and captions here come from seeds that training never uses. A share is a fraction of 1.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch

from . import export
from .cases import (
    TEST_SEED,
    colours_right,
    describe,
    next_object,
    object_boxes,
    say_colours,
    say_everything,
    share,
    test_labels,
    two_colours,
)
from .judge import MISSING, judge, overlap
from .lora import NAME, score_lora
from .measure import Miniature, seeded, to_images
from .shapes import PALETTE, SHAPES, Scenes, cover, draw, draw_depth, place_scenes, sample_scenes

STRENGTHS = (0.1, 0.3, 0.5, 0.7, 0.9)
Scores = dict[str, float]


def score_text(mini: Miniature, n: int = 200) -> Scores:
    """Score text to picture for each attribute (a caption's open shape does not count)."""
    captions, meant = describe(test_labels(n, 0), TEST_SEED)
    seen = judge(mini.decode(*mini.imagine(captions, 0), 0)).labels
    right, told = seen == meant, meant >= 0
    names = ("shape", "foreground colour", "background colour", "place", "size")
    scores = {f"text: {k}": share(right[told[:, i], i]) for i, k in enumerate(names)}
    return scores | {"text: everything": share((right | ~told).all(1))}


def score_movq(mini: Miniature, n: int = 200) -> Scores:
    """Return the mean decibels of the reconstruction of new pictures."""
    pictures = draw(sample_scenes(n, seeded(TEST_SEED + 1)))
    again = torch.cat([mini.reconstruct(part) for part in pictures.split(20)])
    error = (again - pictures).square().mean((1, 2, 3))
    return {"MoVQ: dB": (-10 * error.log10()).mean().item()}


def score_inpaint(mini: Miniature, n: int = 100) -> Scores:
    """Score another object in the place of one: right inside the mask, unchanged outside."""
    labels = test_labels(n, 2)
    scenes = place_scenes(labels, seeded(TEST_SEED + 2))
    wanted = next_object(labels)
    masks = object_boxes(scenes)
    pictures = draw(scenes)
    output = mini.repaint(pictures, masks, *mini.imagine(say_everything(wanted), 2), seed=2)
    seen = judge(output).labels
    before = torch.cat([mini.reconstruct(part) for part in pictures.split(20)])
    change = (output - before).abs().mean(1)[~masks].mean().item()
    return {
        "inpaint: colour inside": share(seen[:, 1] == wanted[:, 1]),
        "inpaint: shape inside": share(seen[:, 0] == wanted[:, 0]),
        "inpaint: L1 outside": change,
    }


def score_controlnet(mini: Miniature, n: int = 100) -> Scores:
    """Score a picture's depth with other colours: the object stays where the hint has it."""
    labels = test_labels(n, 3)
    scenes = place_scenes(labels, seeded(TEST_SEED + 3))
    wanted = two_colours(labels, 1)
    depth = mini.estimate_depth(draw(scenes))
    pictures = mini.follow(depth, *mini.imagine(say_colours(wanted), 3), seed=3)
    truth = cover(labels[:, 0], scenes.centre, scenes.radius) > 0.5
    return {
        "controlnet: IoU": overlap(judge(pictures).mask, truth).mean().item(),
        "controlnet: colours": share(colours_right(pictures, wanted)),
    }


def score_depth(mini: Miniature, n: int = 200) -> Scores:
    """Return the IoU of the pixels that are nearer than any floor."""
    scenes: Scenes = sample_scenes(n, seeded(TEST_SEED + 4))
    guess = mini.estimate_depth(draw(scenes))
    near = overlap(guess[:, 0] > 0.4, draw_depth(scenes)[:, 0] > 0.4)
    return {"depth: IoU": near.mean().item()}


def score_interpolation(mini: Miniature, n: int = 40) -> Scores:
    """Score mixes of two prompts with different colours: the colour moves one way and arrives."""
    labels = test_labels(n, 5)
    target = next_object(labels)
    target[:, 0] = labels[:, 0]
    start, negative = mini.imagine(say_colours(labels), 5)
    end, _ = mini.imagine(say_colours(target), 5)
    seen = [judge(mini.decode(start.lerp(end, w / 4), negative, 5)) for w in range(5)]
    axis = PALETTE[target[:, 1]] - PALETTE[labels[:, 1]]
    along = torch.stack([(view.colour * axis).sum(1) for view in seen]) / axis.square().sum(1)
    monotone = (along.diff(dim=0) > -0.05).all(0)
    ends = (seen[0].labels[:, 1] == labels[:, 1]) & (seen[4].labels[:, 1] == target[:, 1])
    middle = (along[2] - along[0]) / (along[4] - along[0])
    return {
        "interpolation: monotone and ends right": share(monotone & ends),
        "interpolation: monotone": share(monotone),
        "interpolation: ends right": share(ends),
        "interpolation: half-way between 0.15 and 0.85": share((middle > 0.15) & (middle < 0.85)),
    }


def score_emb2emb(mini: Miniature, n: int = 50) -> Scores:
    """Score emb2emb from a picture's embedding towards a prompt with other colours."""
    labels = test_labels(n, 6)
    wanted = two_colours(labels, 2)
    pictures = draw(place_scenes(labels, seeded(TEST_SEED + 6)))
    pixels = mini.prior.image_processor(to_images(pictures), return_tensors="pt").pixel_values
    with torch.no_grad():
        start = mini.prior.image_encoder(pixels).image_embeds
    distances = []
    for strength in STRENGTHS:
        output = mini.emb2emb(say_colours(wanted), start, strength, generator=seeded(6))
        distances.append((output.image_embeds - start).norm(dim=1))
    negative = mini.prior.get_zero_embed(n)
    final = mini.decode(output.image_embeds, negative, 6)
    grows = torch.stack(distances)
    scores = {
        f"emb2emb: distance at {strength}": distance.mean().item()
        for strength, distance in zip(STRENGTHS, grows, strict=True)
    }
    scores["emb2emb: mean distance grows"] = float((grows.mean(1).diff() > 0).all())
    scores["emb2emb: pairs whose distance grows"] = share((grows.diff(dim=0) > -0.1).all(0))
    return scores | {"emb2emb: colours at 0.9": share(colours_right(final, wanted))}


def score_img2img(mini: Miniature, n: int = 50) -> Scores:
    """Score img2img with a prompt of other colours that does not name the place."""
    labels = test_labels(n, 7)
    scenes = place_scenes(labels, seeded(TEST_SEED + 7))
    wanted = two_colours(labels, 1)
    pictures = draw(scenes)
    embeds = mini.imagine(say_colours(wanted), 7)
    kept = judge(mini.restyle(pictures, *embeds, strength=0.3, seed=7))
    shift = (kept.centre - scenes.centre).norm(dim=1)
    changed = mini.restyle(pictures, *embeds, strength=0.8, seed=7)
    return {
        "img2img: centroid shift at 0.3, mean px": shift.mean().item(),
        "img2img: shift of 8 px or less at 0.3": share(shift <= 8),
        "img2img: colours at 0.8": share(colours_right(changed, wanted)),
    }


def score_negative(mini: Miniature, n: int = 60) -> Scores:
    """Score "a red shape ...", with a negative prompt that names one of the shapes."""
    labels = test_labels(n, 8)
    named = torch.arange(n) % 3
    prompts = [text.replace(SHAPES[s], "shape") for text, s in
               zip(say_colours(labels), labels[:, 0].tolist(), strict=True)]  # fmt: skip
    free = judge(mini.decode(*mini.imagine(prompts, 8), 8)).labels
    against = [SHAPES[i] for i in named]
    held = judge(mini.decode(*mini.imagine(prompts, 8, against), 8)).labels
    return {
        "negative: named shape without": share(free[:, 0] == named),
        "negative: named shape with": share(held[:, 0] == named),
        "negative: asked-for colour stays": share(held[:, 1] == labels[:, 1]),
        "negative: object found": share(held[:, 0] != MISSING),
    }


def score_time(mini: Miniature) -> Scores:
    """Return the seconds for one picture with torch's number of threads."""
    return {f"time: s on {torch.get_num_threads()} threads": mini.time_one()}


PARTS: dict[str, tuple[Callable[[Miniature], Scores], str]] = {
    "text": (score_text, export.DECODER),
    "movq": (score_movq, export.DECODER),
    "inpaint": (score_inpaint, export.INPAINT),
    "controlnet": (score_controlnet, export.CONTROLNET),
    "depth": (score_depth, export.DEPTH),
    "interpolation": (score_interpolation, export.DECODER),
    "emb2emb": (score_emb2emb, export.DECODER),
    "img2img": (score_img2img, export.DECODER),
    "negative": (score_negative, export.DECODER),
    "lora": (score_lora, NAME),
    "time": (score_time, export.DECODER),
}


def score_all(root: Path, result: Path, parts: list[str] | None = None) -> Scores:
    """Run the scores whose folders exist. `result` (JSON) keeps the scores of earlier runs."""
    mini = Miniature(root)
    for name in parts or PARTS:
        measure, folder = PARTS[name]
        if mini.has(folder):
            found = measure(mini)
            scores = read_scores(result) | found  # read late, because another run may have written
            result.write_text(json.dumps(scores, indent=1) + "\n", "utf-8")
    return read_scores(result)


def read_scores(result: Path) -> Scores:
    """Return the content of the JSON file, or nothing."""
    return json.loads(result.read_text("utf-8")) if result.exists() else {}
