"""Training CLIP's towers together, with linear read-outs of what a picture shows.

The read-outs are dropped afterwards; they make colours, place, size and shape *linear* in the
image embedding, so that mixing embeddings mixes what is seen.
"""

from __future__ import annotations

import random
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from tqdm import tqdm
from transformers import CLIPVisionModelWithProjection

from .captions import OPEN, write_caption
from .clip import EMBED, build_image_encoder, build_text_encoder, prepare_pixels
from .dataset import load_dataset
from .shapes import UNNAMED, Scenes
from .tokens import build_tokenizer, tokenize
from .training import log, save_atomic, train

STEPS = 1600
CHOICES = (3, 6, 6, 5, 2)  # values of shape, colour, background, place, size


class ClipTrainer(nn.Module):
    """Both towers, the temperature and the read-outs."""

    def __init__(self) -> None:
        super().__init__()
        self.text = build_text_encoder()
        self.vision = build_image_encoder()
        self.temperature = nn.Parameter(torch.tensor(2.3))
        self.read_picture = nn.Linear(EMBED, 9 + 3)  # colours, centre, radius; shape
        self.read_text = nn.Linear(EMBED, sum(CHOICES))


def picture_targets(scenes: Scenes) -> torch.Tensor:
    """Return (N, 9) colour, background, centre and radius, each with a spread of about one."""
    return torch.cat(
        [
            (scenes.colour - 0.5) / 0.35,
            (scenes.background - 0.5) / 0.35,
            (scenes.centre - 64) / 14,
            (scenes.radius[:, None] - 34) / 6,
        ],
        dim=1,
    )


def contrast(image, text, temperature, labels, meant) -> torch.Tensor:
    """Return a contrastive loss in which a caption fits all pictures that it describes."""
    fits = ((meant[None] == OPEN) | (labels[:, None] == meant[None])).all(2).float()  # (B, B)
    similar = (
        F.normalize(image, dim=1) @ F.normalize(text, dim=1).T * temperature.exp().clamp(max=60)
    )
    down = -(fits / fits.sum(0, keepdim=True) * similar.log_softmax(0)).sum(0).mean()
    right = -(fits / fits.sum(1, keepdim=True) * similar.log_softmax(1)).sum(1).mean()
    return (down + right) / 2


def text_loss(logits: torch.Tensor, meant: torch.Tensor) -> torch.Tensor:
    """Return the cross entropy of the attributes that a caption names."""
    parts = logits.split(CHOICES, dim=1)
    return sum(
        F.cross_entropy(part, target, ignore_index=OPEN)
        for part, target in zip(parts, meant.unbind(1), strict=True)
    )


def train_clip(work: Path, seed: int, steps: int = STEPS) -> None:
    """Train both towers, standardise the image embedding, and embed every picture."""
    pictures, scenes = load_dataset(work)
    small = torch.cat([prepare_pixels(p / 255.0) for p in pictures.split(512)])
    targets = picture_targets(scenes)
    named = (scenes.labels[:, 1] != UNNAMED).nonzero()[:, 0]
    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    module = ClipTrainer()

    def loss_fn(step: int, generator: torch.Generator):
        some = named[torch.randint(0, len(named), (96,), generator=generator)]
        other = torch.randint(0, len(small), (32,), generator=generator)
        index = torch.cat([some, other])
        labels = scenes.labels[some]
        draw = random.Random(seed * 1_000_003 + step)
        written = [write_caption(row, draw) for row in labels.tolist()]
        meant = torch.tensor([m for _, m in written])
        tokens = tokenize(tokenizer, [text for text, _ in written]).to(labels.device)
        image = module.vision(small[index]).image_embeds
        text = module.text(tokens.input_ids).text_embeds
        noise = torch.randn(image.shape, generator=generator)
        seen = module.read_picture(image + 0.15 * image.detach().std() * noise)
        regress = F.mse_loss(seen[:, :9], targets[index])
        shape = F.cross_entropy(seen[:, 9:], scenes.labels[index, 0])
        pair = contrast(image[:96], text, module.temperature, labels, meant)
        words = text_loss(module.read_text(text), meant)
        loss = pair + 2 * regress + 1.5 * shape + 0.5 * words
        right = (seen[:, 9:].argmax(1) == scenes.labels[index, 0]).float().mean()
        shown = {"pair": pair, "regress": regress, "shape": shape, "words": words, "right": right}
        return loss, {k: v.detach() for k, v in shown.items()}

    train("clip", module, loss_fn, steps, 1.5e-3, work, seed, decay=0.995, weight_decay=0.02)
    embeds = embed_pixels(module.vision, small)
    standardise(module.vision, embeds)
    embeds = embed_pixels(module.vision, small)
    log.info("clip: embedding mean %.4f deviation %.4f", embeds.mean(0).abs().max(), embeds.std())
    save_atomic({k: getattr(module, k).state_dict() for k in ("text", "vision")}, work / "clip.pt")
    save_atomic(embeds, work / "embeds.pt")


@torch.no_grad()
def embed_pixels(vision: CLIPVisionModelWithProjection, pixels: torch.Tensor) -> torch.Tensor:
    """Return (N, 64) embeddings of prepared pixels."""
    parts = pixels.split(128)
    return torch.cat([vision(p).image_embeds for p in tqdm(parts, desc="embeds", mininterval=10)])


@torch.no_grad()
def standardise(vision: CLIPVisionModelWithProjection, embeds: torch.Tensor) -> None:
    """Give every dimension mean 0 and deviation 1, inside the tower's own weights.

    Then the prior needs no `clip_mean` / `clip_std`, and emb2emb, which adds noise to an embedding
    as it is, starts from the same space that the prior was trained in.
    """
    norm = next(m for n, m in vision.named_modules() if n.endswith("post_layernorm"))
    weight = vision.visual_projection.weight  # (64, 128)
    norm.bias.sub_(torch.linalg.pinv(weight) @ embeds.mean(0))
    weight.div_(embeds.std(0)[:, None])
