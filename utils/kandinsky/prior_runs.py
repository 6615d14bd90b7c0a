"""How a prior turns noise into embeddings, in many steps or in one pass, for a part of a batch."""

from dataclasses import dataclass
from typing import Any

import torch

from .noise import add_noise
from .prior import OnPriorStep, TextFeatures, denoise


@dataclass(frozen=True, eq=False)
class Denoising:
    """Noise → embeddings, in the steps of a scheduler, for a part of a batch at a time.

    `start` replaces the noise as the beginning. It is (B, D), for the whole batch.
    """

    scheduler: Any
    timesteps: torch.Tensor
    cfg: float
    start: torch.Tensor | None = None

    @property
    def steps(self) -> int:
        return len(self.timesteps)

    @property
    def guided(self) -> bool:
        return self.cfg > 1

    def __call__(
        self,
        transformer: Any,
        noise: torch.Tensor,
        text: TextFeatures,
        items: range,
        generators: list[torch.Generator],
        on_step: OnPriorStep,
    ) -> torch.Tensor:
        """Denoise the noise (B, R, D) of the given `items` of the batch; see `prior.denoise`."""
        if self.start is not None:
            blocks = self.start[list(items), None].expand(noise.shape).to(noise.device)
            noise = add_noise(self.scheduler, blocks, noise, self.timesteps[:1])
        plan = (self.scheduler, self.timesteps, noise, text, self.cfg, generators)
        return denoise(transformer, *plan, on_step=on_step)


@dataclass(frozen=True)
class OnePass:
    """Noise → embeddings in one pass, in place of `Denoising`."""

    steps: int = 1
    guided: bool = False

    def __call__(
        self,
        transformer: Any,
        noise: torch.Tensor,
        text: TextFeatures,
        items: range,
        generators: list[torch.Generator],
        on_step: OnPriorStep,
    ) -> torch.Tensor:
        """Run the network once.

        As in ECLIPSE's pipeline, a negative prompt is one more row with its own noise.
        """
        rows = noise.flatten(0, 1).to(text.embeds.dtype)
        predicted = transformer(rows, transformer.read(text))
        on_step(0, 1)
        return predicted.float().view(noise.shape)
