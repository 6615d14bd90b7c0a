"""The prior in ComfyUI: three modules whose memory it manages, and the verbs that nodes call."""

from pathlib import Path
from typing import Any

import torch
from diffusers import PriorTransformer, UnCLIPScheduler

from ..files.configs import naming, read_config
from ..files.model_kinds import prior_part
from ..files.weights import build_module
from ..kandinsky import prior
from ..kandinsky.checks import check_counts, check_numbers, check_texts, check_whole_numbers
from ..kandinsky.image_embeds import ImageEmbeds
from ..kandinsky.images import images_to_model
from ..kandinsky.noise import draw_noise, item_generators
from ..kandinsky.schedulers import set_strength
from .clip import ImageEncoder, TextEncoder
from .dtypes import pick_dtypes, pick_ops
from .progress import step_reporter
from .residents import Owner, Resident


class PriorNetwork(PriorTransformer):
    """diffusers' prior transformer, which asks for its own dtype at every step."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the layer that gets what is cast to it, the features of the timestep.
        diffusers' own property looks through all modules for hooks, and none is here."""
        return self.time_embedding.linear_1.weight.dtype


def add_noise(
    scheduler: Any, start: ImageEmbeds, noise: torch.Tensor, timestep: torch.Tensor
) -> torch.Tensor:
    """Embeddings (B, D) at the noise level of a timestep, in the shape (B, R, D) of `noise`."""
    blocks = start.tensor[:, None].expand(noise.shape).to(noise.device)
    return scheduler.add_noise(blocks, noise, timestep.repeat(len(noise)))


def read_scheduler_config(folder: Path) -> dict[str, Any]:
    """A prior's scheduler config, of which a scheduler was made, and stepped, to see that it works.

    Raises:
        FileNotFoundError, ValueError: it is missing, damaged, or no UnCLIPScheduler's.
    """
    path = folder / "scheduler_config.json"
    config = read_config(path, UnCLIPScheduler)
    with naming(path):
        scheduler: Any = UnCLIPScheduler.from_config(config)
        scheduler.set_timesteps(2)
        scheduler.step(torch.zeros(1, 2), scheduler.timesteps[0], torch.zeros(1, 2))
    return config


class LoadedPrior(Owner):
    """A loaded prior. Each module loads itself inside the verb that needs it."""

    def __init__(self, folder: Path, weight_dtype: str = "default"):
        """
        Raises:
            FileNotFoundError, ValueError: a part of `folder` is missing, damaged, or does not fit
                its config.
        """
        weights, compute = pick_dtypes(weight_dtype)
        ops = pick_ops(weights, compute)
        part = prior_part(folder, "prior")
        network = build_module(PriorNetwork.from_config, PriorTransformer, part, weights, ops)
        self.transformer = Resident(network, compute)
        self.config: Any = network.config
        self.text_encoder = TextEncoder(folder, weight_dtype)
        self.image_encoder = ImageEncoder(folder, weight_dtype)
        self.scheduler_config = read_scheduler_config(prior_part(folder, "scheduler"))
        self._zero_embeds: ImageEmbeds | None = None
        self._check_parts_fit(folder)

    def _check_parts_fit(self, folder: Path) -> None:
        """Raises ValueError where the parts of a folder come from different models."""
        text, image = self.text_encoder.config, self.image_encoder.config
        width, tokens = self.config.embedding_dim, self.config.num_embeddings
        for what, found, wanted in (
            ("text_encoder's projection_dim", text.projection_dim, width),
            ("text_encoder's hidden_size", text.hidden_size, width),
            ("text_encoder's max_position_embeddings", text.max_position_embeddings, tokens),
            ("image_encoder's projection_dim", image.projection_dim, width),
        ):
            if found != wanted:
                raise ValueError(
                    f"The parts in {folder} are of different models: the {what} is {found}, and "
                    f"the prior wants {wanted}. Download the folder again."
                )

    def with_transformer(self, patcher: Any) -> "LoadedPrior":
        """This prior with another ModelPatcher of its transformer; all modules are shared."""
        other = object.__new__(LoadedPrior)
        vars(other).update(vars(self), transformer=self.transformer.with_patcher(patcher))
        return other

    def get_models(self) -> list[Any]:
        residents = (self.transformer, self.text_encoder, self.image_encoder)
        return [resident.patcher for resident in residents]

    def encode_image(self, image: Any) -> ImageEmbeds:
        """IMAGE (B, H, W, C) → embeddings (B, D). Raises ValueError if it is no IMAGE."""
        return ImageEmbeds(self.image_encoder.encode(images_to_model(image)))

    def zero_embeds(self) -> ImageEmbeds:
        """The published "no negative prompt", (1, D): computed once, so that a graph without
        pictures does not bring the image encoder into memory again."""
        if self._zero_embeds is None:
            self._zero_embeds = ImageEmbeds(self.image_encoder.encode_zero_image())
        return self._zero_embeds

    def encode_prompts(
        self, prompt: str, negative_prompt: str, batch: int, guided: bool
    ) -> prior.TextFeatures:
        """The text rows for `batch` blocks, in the order that `prior.denoise` wants."""
        encode = self.text_encoder.encode
        if negative_prompt:
            conditional = encode([prompt, negative_prompt])
            unconditional = conditional.rows(1, 1)
        else:
            conditional = encode([prompt])
            unconditional = encode([""]) if guided else None
        parts = [unconditional] * batch if guided and unconditional else []
        return prior.TextFeatures.stack(parts + [conditional] * batch)

    def sample(
        self,
        prompt: str,
        negative_prompt: str,
        seed: int,
        steps: int,
        cfg: float,
        *,
        batch_size: int = 1,
        start: ImageEmbeds | None = None,
        strength: float = 1.0,
    ) -> tuple[ImageEmbeds, ImageEmbeds]:
        """The embeddings of a prompt, (B, D), and those of its negative.

        The negative is (B, D) with a negative prompt, and the zero-image embedding (1, D) without.

        Args:
            start: begin from these embeddings, noised, instead of from noise (emb2emb); their
                batch takes the place of `batch_size`.
            strength: with `start`, the part of the steps to run.

        Raises:
            ValueError: a value is not one that its widget allows, or `start` has another width.
        """
        check_texts(prompt=prompt, negative_prompt=negative_prompt)
        seed, steps = check_whole_numbers(seed=seed, steps=steps)
        (batch_size,) = check_counts(batch_size=batch_size)
        (cfg,) = check_numbers(cfg=cfg)
        batch = batch_size if start is None else start.batch
        width: int = self.config.embedding_dim
        scheduler, timesteps = self._plan_steps(steps)
        if start is not None:
            start.check_width(width, "this prior")
            timesteps = set_strength(scheduler, steps, strength)
        zero = None if negative_prompt else self.zero_embeds()
        text = self.encode_prompts(prompt, negative_prompt, batch, guided=cfg > 1)
        module, device = self._load_transformer(len(text.embeds)), self.transformer.device

        generators = item_generators(seed, list(range(batch)))
        shape = (batch, 2 if negative_prompt else 1, width)
        latents = draw_noise(shape, generators).to(device)
        if start is not None:
            latents = add_noise(scheduler, start, latents, timesteps[0])
        text = text.to(device, self.transformer.dtype)
        watch = step_reporter(len(timesteps))
        blocks = prior.denoise(
            module, scheduler, timesteps, latents, text, float(cfg), generators, on_step=watch
        )
        return ImageEmbeds(blocks[:, 0]), zero or ImageEmbeds(blocks[:, 1])

    def _plan_steps(self, steps: int) -> tuple[Any, torch.Tensor]:
        """(a scheduler, its timesteps)."""
        scheduler: Any = UnCLIPScheduler.from_config(self.scheduler_config)
        levels = scheduler.config.num_train_timesteps
        if not 2 <= steps <= levels:
            raise ValueError(f"The prior needs at least 2 steps and at most {levels}, not {steps}.")
        scheduler.set_timesteps(steps)
        return scheduler, scheduler.timesteps

    def _load_transformer(self, rows: int) -> Any:
        config = self.config
        tokens = config.num_embeddings + config.additional_embeddings
        width = config.num_attention_heads * config.attention_head_dim
        return self.transformer.load(rows, tokens, width)
