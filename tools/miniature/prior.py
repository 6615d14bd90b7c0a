"""The prior: caption to image embedding, by diffusion in embedding space."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from diffusers import PriorTransformer, UnCLIPScheduler

from .captions import write_caption
from .clip import EMBED, load_clip
from .dataset import load_dataset
from .shapes import UNNAMED
from .tokens import LENGTH, build_tokenizer, tokenize
from .training import load_average, load_stored, seeded, train

STEPS, BATCH = 1200, 96
CAPTIONS = 40_000
CLIP_RANGE = 5.0


def build_prior_scheduler() -> UnCLIPScheduler:
    """Build the published prior's scheduler. Embeddings have unit deviation, so it clips at 5."""
    return UnCLIPScheduler(
        variance_type="fixed_small_log",
        num_train_timesteps=1000,
        clip_sample=True,
        clip_sample_range=CLIP_RANGE,
        prediction_type="sample",
    )


def build_prior() -> PriorTransformer:
    """Build 3 layers, 4 heads of 32. Embeddings are standardised, so mean is 0 and deviation 1."""
    prior = PriorTransformer(
        num_attention_heads=4,
        attention_head_dim=32,
        num_layers=3,
        embedding_dim=EMBED,
        num_embeddings=LENGTH,
        additional_embeddings=4,
    )
    torch.nn.init.zeros_(prior.clip_mean)
    torch.nn.init.ones_(prior.clip_std)
    return prior


@torch.no_grad()
def write_captions(work: Path, seed: int):
    """Write CAPTIONS captions with the index of their picture, and their encoded text.

    Returns index (C,), text_embeds (C, D), hidden states (C, LENGTH, D), mask (C, LENGTH).
    The last row is the empty caption.
    """
    _, scenes = load_dataset(work)
    text_encoder, _ = load_clip(work)
    tokenizer = build_tokenizer()
    generator = seeded(seed)
    named = (scenes.labels[:, 1] != UNNAMED).nonzero()[:, 0]
    index = named[torch.randint(0, len(named), (CAPTIONS,), generator=generator)]
    draw = random.Random(seed)
    texts = [write_caption(row, draw)[0] for row in scenes.labels[index].tolist()] + [""]
    embeds, states, masks = [], [], []
    for start in range(0, len(texts), 512):
        tokens = tokenize(tokenizer, texts[start : start + 512]).to(index.device)
        encoded = text_encoder(tokens.input_ids)
        embeds.append(encoded.text_embeds)
        states.append(encoded.last_hidden_state)
        masks.append(tokens.attention_mask.bool())
    return index, torch.cat(embeds), torch.cat(states), torch.cat(masks)


def train_prior(work: Path, seed: int, steps: int = STEPS) -> None:
    """Predict the clean embedding.

    With less noise, the caption is more often that of another picture. So the prior learns that an
    embedding it can still see counts more than the words (emb2emb).
    """
    index, text, states, masks = write_captions(work, seed)
    images = load_stored(work / "embeds.pt", "clip")
    alphas = build_prior_scheduler().alphas_cumprod.to(images.device)
    torch.manual_seed(seed)
    prior = build_prior()
    prior.clip_mean.requires_grad_(False)
    prior.clip_std.requires_grad_(False)

    def loss_fn(step: int, generator: torch.Generator):
        pick = torch.randint(0, CAPTIONS, (BATCH,), generator=generator)
        times = (torch.rand(BATCH, generator=generator) * 1000).long()
        clean = images[index[pick]]
        noise = torch.randn(clean.shape, generator=generator)
        alpha = alphas[times][:, None]
        noisy = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        chance = torch.rand(BATCH, generator=generator)
        wrong = chance < 0.5 * (1 - times / 700).clamp(min=0)
        other = torch.randint(0, CAPTIONS, (BATCH,), generator=generator)
        said = torch.where(wrong, other, pick)
        empty = torch.rand(BATCH, generator=generator) < 0.12
        said = torch.where(empty, CAPTIONS, said)
        guess = prior(
            noisy,
            timestep=times,
            proj_embedding=text[said],
            encoder_hidden_states=states[said],
            attention_mask=masks[said],
        ).predicted_image_embedding
        loss = (guess - clean).square().mean()
        return loss, {}

    train("prior", prior, loss_fn, steps, 1.2e-3, work, seed, decay=0.998)


def load_prior(work: Path) -> PriorTransformer:
    """Load the finished prior, frozen."""
    return load_average("prior", build_prior(), work)
