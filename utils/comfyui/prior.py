"""The prior in the host: three modules under its memory management, and the verbs nodes use."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import PriorTransformer, UnCLIPScheduler
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from ..files.weights import build_module
from ..kandinsky import prior
from ..kandinsky.schedulers import last_steps
from ..kandinsky.tensors import draw_noise, images_to_model, item_generators
from ..kandinsky.values import (
    ImageEmbeds,
    check_counts,
    check_numbers,
    check_texts,
    check_whole_numbers,
)
from . import model_folders
from .residency import Owner, Resident, pick_dtypes, pick_ops, step_reporter


class PriorNetwork(PriorTransformer):
    """diffusers' prior transformer, which asks for its own type at every step."""

    @property
    def dtype(self) -> torch.dtype:
        """Of the layer that gets what is cast to it, the timestep's features. diffusers' own looks
        through all modules for hooks, and none is here."""
        return self.time_embedding.linear_1.weight.dtype


class NativePrior(Owner):
    """A loaded prior. Each module loads itself inside the verb that needs it."""

    def __init__(self, name: str, weight_dtype: str = "default"):
        folder = model_folders.find_model(name, "prior")
        weights, compute = pick_dtypes(weight_dtype)
        ops = pick_ops(weights, compute)

        def resident(component: str, build: Callable[[dict[str, Any]], Any]) -> Resident:
            module = build_module(build, folder / component, weights, ops)
            return Resident(module, compute)

        self.transformer = resident("prior", PriorNetwork.from_config)
        self.text_encoder = resident(
            "text_encoder", lambda c: CLIPTextModelWithProjection(CLIPTextConfig.from_dict(c))
        )
        self.image_encoder = resident(
            "image_encoder", lambda c: CLIPVisionModelWithProjection(CLIPVisionConfig.from_dict(c))
        )
        model_folders.read_json(folder / "tokenizer" / "tokenizer_config.json")
        model_folders.read_json(folder / "image_processor" / "preprocessor_config.json")
        self.tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        self.image_processor = CLIPImageProcessor.from_pretrained(
            folder / "image_processor", local_files_only=True
        )
        scheduler_config = model_folders.read_json(folder / "scheduler" / "scheduler_config.json")
        self.scheduler_config: dict[str, Any] = scheduler_config
        self._zero_embeds: ImageEmbeds | None = None

    def with_transformer(self, patcher: Any) -> "NativePrior":
        """This prior with another ModelPatcher of its transformer; all modules are shared."""
        other = object.__new__(NativePrior)
        vars(other).update(vars(self), transformer=self.transformer.with_patcher(patcher))
        return other

    def get_models(self) -> list[Any]:
        residents = (self.transformer, self.text_encoder, self.image_encoder)
        return [resident.patcher for resident in residents]

    def encode_image(self, image: torch.Tensor) -> ImageEmbeds:
        """IMAGE (B, H, W, C) → embeddings (B, D)."""
        encoder = self.image_encoder
        pictures = images_to_model(image)
        module = encoder.load()
        embeds = prior.encode_images(
            self.image_processor, module, pictures, encoder.device, encoder.dtype
        )
        return ImageEmbeds(embeds)

    def zero_embeds(self) -> ImageEmbeds:
        """CLIP's view of zeros, a picture of its average colour (1, D): computed once, so that a
        graph without pictures does not bring the image encoder into memory again."""
        if self._zero_embeds is None:
            encoder = self.image_encoder
            module = encoder.load()
            self._zero_embeds = ImageEmbeds(
                prior.encode_zero_image(module, encoder.device, encoder.dtype)
            )
        return self._zero_embeds

    def encode_prompts(
        self, prompt: str, negative_prompt: str, batch: int, guided: bool
    ) -> prior.TextFeatures:
        """The text rows for `batch` blocks, in the order that `prior.denoise` wants."""
        module, device = self.text_encoder.load(), self.text_encoder.device
        if negative_prompt:
            both = prior.encode_text(self.tokenizer, module, [prompt, negative_prompt], device)
            conditional, unconditional = both, both.rows(1, 1)
        else:
            conditional = prior.encode_text(self.tokenizer, module, [prompt], device)
            unconditional = None
            if guided:
                unconditional = prior.encode_text(self.tokenizer, module, [""], device)
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
        """Embeddings of a prompt and of its negative, (B, D) each.

        With no negative prompt the second is the zero-image embedding.

        Args:
            start: begin from these embeddings, noised, instead of from noise (emb2emb); their
                batch takes the place of `batch_size`.
            strength: with `start`, the part of the steps to run.
        """
        check_texts(prompt=prompt, negative_prompt=negative_prompt)
        check_whole_numbers(seed=seed, steps=steps)
        check_counts(batch_size=batch_size)
        check_numbers(cfg=cfg)
        scheduler: Any = UnCLIPScheduler.from_config(self.scheduler_config)
        levels = scheduler.config.num_train_timesteps
        if not 2 <= steps <= levels:
            raise ValueError(f"The prior needs at least 2 steps and at most {levels}, not {steps}.")
        batch = batch_size if start is None else start.batch
        scheduler.set_timesteps(steps)
        timesteps = scheduler.timesteps
        if start is not None:
            timesteps = last_steps(scheduler, steps, strength)

        zero = None if negative_prompt else self.zero_embeds()
        text = self.encode_prompts(prompt, negative_prompt, batch, guided=cfg > 1)
        module, device = self.transformer.load(), self.transformer.device
        width = module.config.embedding_dim
        rows = 2 if negative_prompt else 1
        generators = item_generators(seed, list(range(batch)))
        latents = draw_noise((batch, rows, width), generators).to(device)
        if start is not None:
            start.check_width(width, "this prior")
            blocks = start.tensor[:, None].expand(batch, rows, width).to(device)
            latents = scheduler.add_noise(blocks, latents, timesteps[:1].repeat(batch))
        blocks = prior.denoise(
            module,
            scheduler,
            timesteps,
            latents,
            text,
            float(cfg),
            generators,
            on_step=step_reporter(len(timesteps)),
        )
        return ImageEmbeds(blocks[:, 0]), zero or ImageEmbeds(blocks[:, 1])
