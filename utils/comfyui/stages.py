"""A decoding stage in ComfyUI: LATENT and embeddings in, LATENT out.

The stages differ only in the arguments of `run_stage`: a hint, a mask, and whether a stage starts
from a picture.
"""

from collections.abc import Sequence
from typing import Any

import comfy.model_management
import latent_preview
import torch

from ..kandinsky import decoder
from ..kandinsky.batches import broadcast
from ..kandinsky.image_embeds import ImageEmbeds
from ..kandinsky.noise import add_noise, draw_noise, item_generators
from .guidance import Loop, run_guided
from .model import forward_memory
from .prediction import kept_memory, prediction
from .stage_plan import Sampling, StagePlan, plan_stage


def run_stage(
    model: Any,
    variant: str,
    embeds: tuple[ImageEmbeds, ImageEmbeds | None],
    latent: dict[str, Any],
    sampling: Sampling,
    *,
    from_picture: bool = False,
    hint: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
) -> dict[str, Any]:
    """Run one decoding stage on the MODEL's device, with ComfyUI's progress and interrupt.

    Args:
        variant: the UNet that the stage needs.
        embeds: the positive and the negative image embeddings. The second is needed above cfg 1.
        latent: an empty latent of the wanted size, or, with `from_picture` or `mask`, a picture.
            Sizes that are not multiples of the UNet's grid are extended for the run and cut back.
        from_picture: start from the picture, noised, and not from noise alone.
        hint: IMAGE (B, H, W, C), resized to the picture.
        mask: MASK (B, H, W), 1 = repaint. The rest of the picture stays.

    Raises:
        ValueError: an input is wrong. Nothing has been changed.
    """
    plan = plan_stage(model, variant, embeds, latent, sampling, from_picture, hint, mask)
    samples = run(model, plan, item_generators(sampling.seed, plan.noise_indices))
    return latent_of(samples, latent, plan)


def run(model: Any, plan: StagePlan, generators: list[torch.Generator]) -> torch.Tensor:
    """Run a plan. Return latents (B, 4, h, w) of the size that was given."""
    device = model.load_device

    def on_device(tensor: torch.Tensor) -> torch.Tensor:
        return broadcast(tensor, plan.batch).to(device)

    picture = on_device(plan.picture)
    noise = draw_noise(picture.shape, generators).to(device)
    keep = torch.stack([on_device(keep) for keep in plan.kept]).amax(0) if plan.kept else None

    def loop(
        noise: torch.Tensor,
        predict: decoder.Predict,
        embeds: torch.Tensor,
        cfg: Sequence[float],
        concat: torch.Tensor | None,
    ) -> torch.Tensor:
        start = noise * plan.scheduler.init_noise_sigma
        if plan.from_picture:
            start = add_noise(plan.scheduler, picture, noise, plan.timesteps[:1])
        return decoder.denoise(
            predict,
            plan.scheduler,
            plan.timesteps,
            start,
            embeds,
            cfg,
            generators,
            concat=concat,
            preserve=None if keep is None else decoder.Preserve(picture, noise, keep),
            on_step=preview_reporter(model, len(plan.timesteps)),
        )

    samples = (
        run_guided(model, plan, noise, picture, keep, loop)
        if plan.guided
        else run_plain(model, plan, noise, picture, keep, loop)
    )
    height, width = plan.size
    return samples[..., :height, :width].contiguous()


def run_plain(
    model: Any, plan: StagePlan, noise: torch.Tensor, picture: torch.Tensor, keep: Any, loop: Loop
) -> torch.Tensor:
    """Return the latents of a stage's loop, with only the MODEL's UNet in it."""

    def rows(tensor: torch.Tensor) -> torch.Tensor:  # 2 for each item if any step is guided
        return torch.cat([broadcast(tensor, plan.batch).to(noise.device)] * len(plan.embeds))

    concat = hint = None
    if keep is not None and plan.mask_shown:
        concat = rows(torch.cat([picture * keep, keep], dim=1))  # (B, 5, h, w)
    count = len(plan.embeds) * plan.batch
    memory = forward_memory(model, [count, *picture.shape[1:]]) + kept_memory(model, count)
    comfy.model_management.load_models_gpu([model], memory_required=memory)
    if plan.hint is not None:  # in the dtype that the loaded MODEL computes in
        hint = rows(plan.hint).to(model.model.get_dtype_inference())
    embeds = [broadcast(embeds, plan.batch).to(noise.device) for embeds in plan.embeds]
    predict = prediction(model, plan.options, hint)
    return loop(noise, predict, torch.cat(embeds), plan.cfg, concat)


def preview_reporter(model: Any, steps: int) -> decoder.OnDecoderStep:
    """Return a function that shows progress and a preview after each step.

    It stops the run if the user asked for that.
    """
    report = latent_preview.prepare_callback(model, steps)

    def on_step(index: int, total: int, latents: torch.Tensor, finished: torch.Tensor) -> None:
        report(index, finished, latents, total)
        comfy.model_management.throw_exception_if_processing_interrupted()

    return on_step


def latent_of(samples: torch.Tensor, latent: dict[str, Any], plan: StagePlan) -> dict[str, Any]:
    """Return the LATENT of a stage: the given one, with other samples.

    Raises:
        ValueError: the samples hold NaN or infinity.
    """
    samples = samples.to(comfy.model_management.intermediate_device())
    if not torch.isfinite(samples).all():
        raise ValueError(
            "The latents came out with NaN or infinity. If latent, hint or mask is sound, load "
            "the decoder with weight_dtype fp32, or bf16 where the card computes in it."
        )
    result = latent | {"samples": samples}
    result.pop("downscale_ratio_spacial", None)  # Empty Latent Image tells a sampler its scale
    if "batch_index" in latent or plan.batch > len(plan.picture):
        result["batch_index"] = plan.noise_indices  # the next stage draws the same noise again
    return result
