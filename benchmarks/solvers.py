"""The same picture in fewer calls of the UNet: samplers and 100 steps of the published one.

This uses the miniature, whose weights are trained, and its own CLIP. The distance of a picture is
the mean of 1 - cosine to the reference's pictures of that prompt. The reference's own distance is
that of one of its seeds to the others. A sampler within the quartiles of the reference makes
pictures of the same kind. `inside` is the share of pictures that are no farther off than the
reference's farthest. For more pictures of the reference, it would be seeds / (seeds + 1). `follows`
is the cosine to the requested embedding. Guidance in a limited interval: Kynkäänniemi et al.,
arXiv:2404.07724.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from .checkpoints import PIXELS, checkpoints, load_with_node

PROMPTS = (
    "a large red circle on a blue background",
    "a green triangle on a yellow background, at the top",
    "a white square on a black background, on the left",
    "a yellow circle on a green background, at the bottom",
    "a large blue square on a white background",
    "a black triangle on a red background, on the right",
)
REFERENCE = ("ddpm", "checkpoint", 100)
SOLVERS = (  # sampler, scheduler, steps
    ("ddpm", "checkpoint", 50),
    ("ddpm", "checkpoint", 20),
    ("ddim", "trailing", 20),
    *((sampler, "trailing", 20) for sampler in ("euler", "uni_pc", "dpmpp_2m")),
    *((sampler, "trailing", 10) for sampler in ("euler", "uni_pc", "dpmpp_2m")),
    ("dpmpp_2m", "karras", 20),
    ("dpmpp_2m", "karras", 10),
    ("dpmpp_2m_sde", "trailing", 10),
)
CACHES = (("ddim", 50, 0.2), ("ddim", 50, 0.4))  # EasyCache in KSampler: sampler, steps, threshold
INTERVALS = (  # guidance from one part of the run to another, by CFG Override on the stage
    ("ddpm", "checkpoint", 50, 0.0, 0.6),
    ("ddpm", "checkpoint", 50, 0.2, 0.7),
    ("dpmpp_2m", "karras", 10, 0.0, 0.6),
    ("dpmpp_2m", "karras", 10, 0.1, 0.5),
)
COLUMNS = {
    "sampler": "{sampler}",
    "scheduler": "{scheduler}",
    "steps": "{steps}",
    "calls of the UNet": "{calls:.3g}",
    "distance, median": "{distance:.4f}",
    "the reference's own (quartiles)": "{own[1]:.4f} ({own[0]:.4f}–{own[2]:.4f})",
    "within": "{within}",
    "inside": "{inside:.2f}",
    "follows": "{follows:.3f}",
}


def distances(pictures: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Return the mean of 1 - cosine to the reference's other pictures, (P, S).

    The pictures are (P, S, D), and those of the reference are (P, R, D).
    """
    pairs = 1 - F.normalize(pictures, dim=-1) @ F.normalize(reference, dim=-1).mT
    others = reference.shape[1] - (pictures is reference)  # 0 to itself
    return pairs.sum(-1) / others


class Miniature:
    """Draws with the nodes, reads with CLIP, and counts the pictures that go into the UNet."""

    def __init__(self, folders: dict[str, Any], seeds: int):
        from kandinsky22.nodes.loaders import LoadDecoder, LoadPrior

        (self.prior,) = load_with_node(LoadPrior, folders["prior"], "fp32")
        self.model, self.vae = load_with_node(LoadDecoder, folders["text_to_image"], "fp32")
        side = PIXELS["miniature"] // 8
        self.canvas = torch.zeros(seeds, 4, side, side)
        self.seen = 0
        first_layer = self.model.model.diffusion_model.conv_in  # EasyCache skips it
        first_layer.register_forward_pre_hook(self.count)

    def count(self, _, inputs: tuple[torch.Tensor]) -> None:
        self.seen += len(inputs[0])

    def embed(self, latents: torch.Tensor) -> torch.Tensor:
        """Return CLIP's embeddings of the decoded pictures, (S, D)."""
        return self.prior.encode_image(self.vae.decode(latents)).tensor

    def draw(
        self,
        embeds: Any,
        negative: Any,
        sampler: str,
        scheduler: str,
        steps: int,
        model: Any = None,
    ) -> torch.Tensor:
        """Draw one picture for each seed in the stage node: (S, D)."""
        from kandinsky22.nodes.decoder import Decoder

        model = model or self.model
        sampling = dict(seed=0, steps=steps, cfg=4.0, sampler_name=sampler, scheduler=scheduler)
        result = Decoder.execute(model, embeds, {"samples": self.canvas}, negative, **sampling)
        return self.embed(result.args[0]["samples"])

    def draw_guided(self, embeds: Any, negative: Any, *settings: Any) -> torch.Tensor:
        """Draw the same, guided from one part of the run to another: the last two of `settings`."""
        from comfy_extras.nodes_custom_sampler import CFGOverride  # ComfyUI 0.24 or newer

        *settings, begin, end = settings
        model = self.model
        for span in ((0.0, begin), (end, 1.0)):
            model = CFGOverride.execute(model, 1.0, *span).args[0]
        return self.draw(embeds, negative, *settings, model)

    def draw_with_cache(self, embeds: Any, negative: Any, sampler: str, steps: int, reuse: float):
        """Draw the same in KSampler with EasyCache, which leaves out calls that change little."""
        import comfy.sample
        from comfy_extras.nodes_easycache import EasyCacheNode
        from kandinsky22.nodes.conditioning import Conditioning

        model = EasyCacheNode.execute(self.model, reuse, 0.15, 0.95, False).args[0]
        conditions = [Conditioning.execute(value).args[0] for value in (embeds, negative)]
        noise = comfy.sample.prepare_noise(self.canvas, 0)
        latents = comfy.sample.sample(
            model,
            noise,
            steps,
            4.0,
            sampler,
            "normal",
            *conditions,
            self.canvas,
            disable_pbar=True,
            seed=0,
        )
        return self.embed(latents)


@torch.inference_mode()
def run(
    prompts: int = len(PROMPTS),
    seeds: int = 4,
    solvers=SOLVERS,
    caches=CACHES,
    intervals=INTERVALS,
) -> list[dict]:
    """Return one row for each solver, the reference first."""
    with checkpoints("miniature", "prior", "text_to_image") as folders:
        miniature = Miniature(folders, seeds)
    asked = [miniature.prior.sample(prompt, "", 0, 25, 4.0) for prompt in PROMPTS[:prompts]]
    wanted = torch.stack([embeds.tensor for embeds, _ in asked])  # (P, 1, D)

    def draw_all(draw, *settings) -> tuple[torch.Tensor, float]:
        """Return the pictures' embeddings (P, S, D), and the calls for each.

        Unguided calls are halves.
        """
        miniature.seen = 0
        found = torch.stack([draw(*pair, *settings) for pair in asked])
        return found, miniature.seen / (2 * seeds * len(asked))

    reference, calls = draw_all(miniature.draw, *REFERENCE)
    own = distances(reference, reference)
    quartiles = own.quantile(torch.tensor([0.25, 0.5, 0.75])).tolist()

    def row(found: torch.Tensor, calls: float, sampler: str, scheduler: str, steps: int) -> dict:
        distance = distances(found, reference)
        median = distance.quantile(0.5).item()
        return {
            **{"sampler": sampler, "scheduler": scheduler, "steps": steps, "calls": calls},
            "distance": round(median, 5),
            "own": [round(value, 5) for value in quartiles],
            "within": "yes" if median <= quartiles[2] else "no",
            "inside": round((distance <= own.amax(1, True)).float().mean().item(), 3),
            "follows": round(1 - distances(found, wanted).mean().item(), 4),
        }

    rows = [row(reference, calls, *REFERENCE)]
    rows += [row(*draw_all(miniature.draw, *solver), *solver) for solver in solvers]
    for sampler, steps, reuse in caches:
        found = draw_all(miniature.draw_with_cache, sampler, steps, reuse)
        rows.append(row(*found, f"{sampler} in KSampler, EasyCache {reuse}", "normal", steps))
    for sampler, scheduler, steps, begin, end in intervals:
        found = draw_all(miniature.draw_guided, sampler, scheduler, steps, begin, end)
        rows.append(row(*found, f"{sampler}, guided from {begin} to {end}", scheduler, steps))
    return rows
