"""Mix image embeddings: weighted sums, means on the sphere, and sequences between two."""

from typing import Any

import torch

from .batches import broadcast, common_batch
from .checks import check_choice, check_counts, check_numbers
from .image_embeds import ImageEmbeds

METHODS = ("linear", "slerp")


def from_clip_vision(output: Any) -> ImageEmbeds:
    """Return the embeddings of ComfyUI's CLIP_VISION_OUTPUT. Raise ValueError if it has none."""
    return ImageEmbeds(getattr(output, "image_embeds", output))


def mix(embeds: list[ImageEmbeds], weights: list[float], method: str) -> ImageEmbeds:
    """Mix embeddings. Batches pair up, and a batch of 1 is used for every item.

    linear: the weighted sum, as in `KandinskyV22PriorPipeline.interpolate`. The weights are used as
    they are. slerp: see `spherical_mean`. Only the ratios of the weights count.

    Raises:
        ValueError: widths or batches differ, or (slerp) the weights or directions have no mean.
    """
    check_choice("method", method, METHODS)
    weights = check_numbers(**{f"weight_{i + 1}": weight for i, weight in enumerate(weights)})
    for value in embeds[1:]:
        value.check_width(embeds[0].width, "the first input of this mix")
    batch = common_batch(**{f"image_embeds_{i + 1}": e.batch for i, e in enumerate(embeds)})
    stacked = torch.stack([broadcast(value.tensor, batch) for value in embeds])  # (N, B, D)
    if method == "slerp":
        return ImageEmbeds(spherical_mean(stacked, weights))
    scale = torch.tensor(weights, dtype=stacked.dtype)[:, None, None]
    return ImageEmbeds((stacked * scale).sum(dim=0))


def spherical_mean(vectors: torch.Tensor, weights: list[float]) -> torch.Tensor:
    """Return the weighted mean (…, D) of (N, …, D) on the sphere. Direction and norm are separate.

    The direction is the point whose weighted geodesic distances balance. For two vectors it lies on
    their great circle (Shoemake's slerp). The norm is the weighted mean of the norms. Buss &
    Fillmore, Spherical Averages, ACM Transactions on Graphics 20(2), 2001, algorithm A1.
    """
    total = sum(weights)
    if min(weights) < 0 or total <= 0:
        raise ValueError(
            f"slerp needs weights that are not negative and not all 0, not {weights}. "
            "Use method linear for others."
        )
    share = torch.tensor(weights, dtype=torch.float64).view(-1, *[1] * (vectors.ndim - 1)) / total
    vectors = vectors.double()
    norms = vectors.norm(dim=-1, keepdim=True)
    directions = vectors / norms.clamp_min(1e-12)
    mean = (share * directions).sum(0)
    used = directions[[weight > 0 for weight in weights]]
    if (used.unsqueeze(0) * used.unsqueeze(1)).sum(-1).min() < 1e-9 - 1 or mean.norm(
        dim=-1
    ).min() < 1e-6:
        raise ValueError(
            "slerp has no way between these embeddings: they point in opposite directions, or "
            "are zero. Change the weights, or use method linear."
        )
    for _ in range(64):
        mean = mean / mean.norm(dim=-1, keepdim=True)
        cosine = (directions * mean).sum(-1, keepdim=True).clamp(-1, 1)
        tangent = directions - cosine * mean  # towards each vector, of length sin(angle)
        angle = torch.atan2(tangent.norm(dim=-1, keepdim=True), cosine)
        step = (share * tangent / torch.sinc(angle / torch.pi)).sum(0)
        length = step.norm(dim=-1, keepdim=True)
        mean = length.cos() * mean + torch.sinc(length / torch.pi) * step
        if length.max() < 1e-12:
            break
    return (mean * (share * norms).sum(0)).float()


def interpolate_sequence(
    start: ImageEmbeds, end: ImageEmbeds, frames: int, method: str
) -> ImageEmbeds:
    """Return a batch of `frames` embeddings from one to another, both ends included."""
    (frames,) = check_counts(frames=frames)
    if start.batch != 1 or end.batch != 1:
        raise ValueError(
            f"A sequence goes from one embedding to one other; start_embeds has {start.batch} and "
            f"end_embeds has {end.batch}."
        )
    shares = torch.linspace(0, 1, frames).tolist()
    mixed = [mix([start, end], [1 - share, share], method) for share in shares]
    return ImageEmbeds(torch.cat([value.tensor for value in mixed]))
