"""The prior: text (and pictures) → CLIP image embeddings.

It computes what diffusers' `KandinskyV22PriorPipeline` computes: the unCLIP prior of Ramesh et al.,
https://arxiv.org/abs/2204.06125, a transformer that denoises an image embedding.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .images import CHUNK, to_pictures

log = logging.getLogger("kandinsky22")

LONGEST_PROMPT = 100_000  # characters that are tokenized, as CLIP reads only 77 tokens
LOGGED = 200  # characters of the text cut off that the log shows

# Called after each step with (index of the step, number of steps).
OnPriorStep = Callable[[int, int], None]


@dataclass(frozen=True, eq=False)
class TextFeatures:
    """What the prior reads of N prompts: `embeds` (N, D), `states` (N, T, W), `mask` (N, T)."""

    embeds: torch.Tensor
    states: torch.Tensor
    mask: torch.Tensor

    def rows(self, *indices: int) -> "TextFeatures":
        index = list(indices)
        return TextFeatures(self.embeds[index], self.states[index], self.mask[index])

    def repeat(self, count: int, halves: int) -> "TextFeatures":
        """Repeat the rows of one item for `count` items, half by half; see `denoise`."""
        rows = len(self.embeds) // halves
        starts = [half * rows for half in range(halves) for _ in range(count)]
        return self.rows(*[start + row for start in starts for row in range(rows)])

    def to(self, device: torch.device, dtype: torch.dtype) -> "TextFeatures":
        return TextFeatures(
            self.embeds.to(device, dtype), self.states.to(device, dtype), self.mask.to(device)
        )

    @staticmethod
    def stack(parts: list["TextFeatures"]) -> "TextFeatures":
        return TextFeatures(
            torch.cat([part.embeds for part in parts]),
            torch.cat([part.states for part in parts]),
            torch.cat([part.mask for part in parts]),
        )


def tokenize(tokenizer: Any, prompts: list[str], length: int) -> Any:
    """Return `input_ids` and `attention_mask`, (N, length) each, cut off or padded."""
    return tokenizer(
        prompts, padding="max_length", max_length=length, truncation=True, return_tensors="pt"
    )


def tokenize_prompts(tokenizer: Any, prompts: list[str], length: int) -> Any:
    """Do the same as `tokenize`, and log a warning with any text that is cut off."""
    prompts = [prompt[:LONGEST_PROMPT] for prompt in prompts]
    for prompt in prompts:
        ids = tokenizer(prompt).input_ids
        if len(ids) > length:
            lost = tokenizer.decode(ids[length - 1 : length - 1 + LOGGED])[:LOGGED]
            log.warning("The prompt is over %d tokens; this part is not used: %r", length, lost)
    return tokenize(tokenizer, prompts, length)


def encode_text(
    tokenizer: Any, text_encoder: Any, prompts: list[str], device: torch.device
) -> TextFeatures:
    """Encode prompts, padded to the encoder's length.

    The encoder's config gives that length, as the tokenizer's own `model_max_length` is often
    missing.
    """
    length = text_encoder.config.max_position_embeddings
    tokens = tokenize_prompts(tokenizer, prompts, length)
    output = text_encoder(tokens.input_ids.to(device))
    mask = tokens.attention_mask.bool().to(device)
    return TextFeatures(output.text_embeds, output.last_hidden_state, mask)


def encode_images(
    image_processor: Any,
    image_encoder: Any,
    images: torch.Tensor,
    device: torch.device,
    dtype: torch.dtype,
) -> torch.Tensor:
    """Return image embeddings (B, D) of pictures (B, 3, H, W) in [0, 1].

    The pictures become 8-bit ones first, as in diffusers: its resize and crop are defined for
    those.
    """
    embeds = []
    for part in images.split(CHUNK):
        values = image_processor(to_pictures(part), return_tensors="pt").pixel_values
        embeds.append(image_encoder(values.to(device, dtype)).image_embeds)
    return torch.cat(embeds)


def encode_zero_image(image_encoder: Any, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Return the published "no negative prompt", (1, D): CLIP's embedding of a zero picture."""
    size = image_encoder.config.image_size
    zeros = torch.zeros(1, 3, size, size, device=device, dtype=dtype)
    return image_encoder(zeros).image_embeds


def denoise(
    transformer: Any,
    scheduler: Any,
    timesteps: torch.Tensor,
    latents: torch.Tensor,
    text: TextFeatures,
    cfg: float,
    generators: list[torch.Generator],
    *,
    on_step: OnPriorStep | None = None,
) -> torch.Tensor:
    """Denoise the embeddings of B items, each a block (R, D): (B, R, D) → (B, R, D).

    A block has one row for the prompt and, with a negative prompt, a second row for that. The noise
    of an item is one (R, D) draw from its generator, as in diffusers.

    Args:
        timesteps: on the CPU, in descending order.
        text: B·R rows, or 2·B·R with the unconditional ones first, which turns guidance on.
    """
    rows = latents.shape[0] * latents.shape[1]
    guided = text.embeds.shape[0] == 2 * rows
    prompts = transformer.read(text)
    there = timesteps.to(latents.device)  # one copy for all steps, so that no step waits
    for i, t in enumerate(timesteps):
        x = latents.flatten(0, 1).to(text.embeds.dtype)  # (B·R, D)
        predicted = transformer(torch.cat([x, x]) if guided else x, there[i], prompts)
        if guided:
            unconditional, conditional = predicted.chunk(2)
            predicted = unconditional + cfg * (conditional - unconditional)
        latents = scheduler.step(
            predicted.view(latents.shape).to(latents.dtype),
            timestep=t,
            sample=latents,
            generator=generators,
            prev_timestep=timesteps[i + 1] if i + 1 < len(timesteps) else None,
        ).prev_sample
        if on_step is not None:
            on_step(i, len(timesteps))
    return transformer.post_process_latents(latents)
