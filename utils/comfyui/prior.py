"""The prior in ComfyUI: three modules whose memory ComfyUI manages, and methods for the nodes."""

from typing import Any

import torch

from ..kandinsky import prior
from ..kandinsky.checks import check_counts, check_numbers, check_texts, check_whole_numbers
from ..kandinsky.image_embeds import ImageEmbeds
from ..kandinsky.images import images_to_model
from ..kandinsky.lean_steps import LeanUnCLIP
from ..kandinsky.noise import draw_noise, item_generators
from ..kandinsky.prior_networks import OnePassPrior
from ..kandinsky.prior_runs import Denoising, OnePass
from ..kandinsky.schedulers import set_strength
from .clip import ImageEncoder, TextEncoder
from .clip_text import ComfyTextEncoder
from .clip_vision import ComfyImageEncoder
from .lazy_image_encoder import LazyImageEncoder
from .progress import part_of, step_reporter
from .residents import (
    ACTIVATIONS,
    ONE_PASS_ACTIVATIONS,
    Owner,
    Resident,
    transformer_memory,
)

AT_ONCE = 64  # items; more do not make a device faster, and 4096 would need 80 GB
ONE_PASS = (
    "This prior makes embeddings from noise in one pass, and {} needs one of many steps. Connect a "
    "published prior."
)


class LoadedPrior(Owner):
    """A loaded prior. Each module loads itself inside the method that needs it."""

    def __init__(
        self,
        transformer: Resident,
        text_encoder: TextEncoder | ComfyTextEncoder,
        images: LazyImageEncoder | ComfyImageEncoder,
        scheduler_config: dict[str, Any],
    ):
        self.transformer = transformer
        self.config: Any = transformer.module.config
        self.text_encoder = text_encoder
        self.images = images
        self.scheduler_config = scheduler_config

    def with_transformer(self, patcher: Any) -> "LoadedPrior":
        """Return this prior with another ModelPatcher of its transformer.

        All modules are shared.
        """
        other = object.__new__(LoadedPrior)
        vars(other).update(vars(self), transformer=self.transformer.with_patcher(patcher))
        return other

    def get_models(self) -> list[Any]:
        """Return the ModelPatchers, without the image encoder as long as nothing has needed it."""
        residents = (self.transformer, self.text_encoder)
        return [resident.patcher for resident in residents] + self.images.get_models()

    @property
    def image_encoder(self) -> ImageEncoder | ComfyImageEncoder:
        """The image encoder, which is built at the first access."""
        return self.images.get("Encode Image")

    def encode_image(self, image: Any) -> ImageEmbeds:
        """Return embeddings (B, D) of an IMAGE (B, H, W, C).

        Raise ValueError if it is not an IMAGE.
        """
        pictures = images_to_model(image)
        return ImageEmbeds(self.image_encoder.encode(pictures))

    def zero_embeds(self, need: str = "Zero Embeds") -> ImageEmbeds:
        """Return the published "no negative prompt", (1, D).

        It is computed once, so that a graph without pictures does not load the image encoder again.
        """
        return self.images.zero_embeds(need)

    def encode_prompts(
        self, prompt: str, negative_prompt: str, batch: int, guided: bool
    ) -> prior.TextFeatures:
        """Return the text rows for `batch` blocks, in the order that `prior.denoise` needs."""
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
        """Return the embeddings of a prompt, (B, D), and those of its negative prompt.

        The second is (B, D) with a negative prompt, and the zero-image embedding (1, D) without.

        Args:
            start: begin with these embeddings, noised, and not with noise (emb2emb). Their batch
                replaces `batch_size`.
            strength: with `start`, the part of the steps to run.

        Raises:
            ValueError: a widget would not allow a value, or `start` has another width.
        """
        check_texts(prompt=prompt, negative_prompt=negative_prompt)
        seed, steps = check_whole_numbers(seed=seed, steps=steps)
        (batch_size,) = check_counts(batch_size=batch_size)
        (cfg,) = check_numbers(cfg=cfg)
        batch = batch_size if start is None else start.batch
        run = self._plan(steps, float(cfg), start, strength)
        zero = None if negative_prompt else self.zero_embeds("An empty negative prompt")
        text = self.encode_prompts(prompt, negative_prompt, 1, run.guided)
        module, at_once = self._load_transformer(len(text.embeds), min(batch, AT_ONCE))
        device, dtype = self.transformer.device, self.transformer.dtype
        parts = [range(batch)[i : i + at_once] for i in range(0, batch, at_once)]
        report, blocks = step_reporter(run.steps * len(parts)), list[torch.Tensor]()
        for i, items in enumerate(parts):
            watch = part_of(report, i, len(parts))
            generators = item_generators(seed, list(items))
            shape = (len(items), 2 if negative_prompt else 1, self.config.embedding_dim)
            noise = draw_noise(shape, generators).to(device)
            rows = text.repeat(len(items), 2 if run.guided else 1).to(device, dtype)
            blocks.append(run(module, noise, rows, items, generators, watch))
        made = torch.cat(blocks)
        return ImageEmbeds(made[:, 0]), zero or ImageEmbeds(made[:, 1])

    @property
    def one_pass(self) -> bool:
        """Whether the transformer makes embeddings in one pass.

        Then steps and cfg have no meaning.
        """
        return isinstance(self.transformer.module, OnePassPrior)

    def _plan(
        self, steps: int, cfg: float, start: ImageEmbeds | None, strength: float
    ) -> Denoising | OnePass:
        """Return the function that turns noise into embeddings."""
        if self.one_pass:
            if start is not None:
                raise ValueError(ONE_PASS.format("Prior Emb2Emb"))
            return OnePass()
        scheduler: Any = LeanUnCLIP.from_config(self.scheduler_config)
        levels = scheduler.config.num_train_timesteps
        if not 2 <= steps <= levels:
            raise ValueError(f"The prior needs at least 2 steps and at most {levels}, not {steps}.")
        scheduler.set_timesteps(steps)
        if start is None:
            return Denoising(scheduler, scheduler.timesteps, cfg)
        start.check_width(self.config.embedding_dim, "this prior")
        timesteps = set_strength(scheduler, steps, strength)
        return Denoising(scheduler, timesteps, cfg, start.tensor)

    def _load_transformer(self, rows: int, items: int) -> tuple[Any, int]:
        """Return the transformer, and how many of `items` with `rows` rows each fit at once."""
        config = self.config
        tokens = config.num_embeddings + config.additional_embeddings
        width = config.num_attention_heads * config.attention_head_dim
        each = ONE_PASS_ACTIVATIONS if self.one_pass else ACTIVATIONS
        memory = transformer_memory(self.transformer.dtype, rows, tokens, width, each=each)
        return self.transformer.load_for(items, memory)
