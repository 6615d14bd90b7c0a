"""Run the bundled model through our nodes, for the scores of tools/train_miniature.py."""

import torch
from kandinsky22 import nodes as stages
from kandinsky22.nodes.depth_hint import DepthHint
from kandinsky22.nodes.loaders import LoadDecoder, LoadDepthEstimator, LoadPrior
from kandinsky22.nodes.prior import SamplePrior
from kandinsky22.utils.kandinsky.image_embeds import ImageEmbeds

SAMPLING = dict(steps=25, cfg=4.0, sampler_name="ddpm", scheduler="checkpoint")
SCENES = 12
MARGIN = 1 / SCENES


def join(values: list[ImageEmbeds]) -> ImageEmbeds:
    return ImageEmbeds(torch.cat([value.tensor for value in values]))


def as_image(pictures: torch.Tensor) -> torch.Tensor:
    return pictures.movedim(1, -1)


class NodeMiniature:
    """The methods that the scores use, with our nodes on the bundled checkpoints."""

    def __init__(self):
        self.prior_value = LoadPrior.execute("kandinsky-2-2-mini-prior", "default").args[0]
        self.loaded = {}

    def load(self, variant: str):
        name = f"kandinsky-2-2-mini-{variant}"
        if name not in self.loaded:
            self.loaded[name] = LoadDecoder.execute(name, "default").args
        return self.loaded[name]

    def imagine(self, prompts, seed, negative=None):
        pairs = [
            SamplePrior.execute(self.prior_value, prompt, against, seed + i, 25, 4.0, 1).args
            for i, (prompt, against) in enumerate(
                zip(prompts, negative or [""] * len(prompts), strict=True)
            )
        ]
        positive, unwanted = zip(*pairs, strict=True)
        return join(positive).tensor, join(unwanted).tensor

    def run(self, node, variant, embeds, negative, latent, seed, **widgets):
        model, vae = self.load(variant)
        result = node.execute(
            model,
            ImageEmbeds(embeds),
            latent=latent,
            negative_image_embeds=ImageEmbeds(negative),
            seed=seed,
            **SAMPLING,
            **widgets,
        )
        return vae.decode(result.args[0]["samples"]).movedim(-1, 1)

    def decode(self, embeds, negative, seed):
        canvas = {"samples": torch.zeros(len(embeds), 4, 16, 16)}
        return self.run(stages.Decoder, "decoder", embeds, negative, canvas, seed)

    def encode(self, variant, pictures):
        return {"samples": self.load(variant)[1].encode(as_image(pictures))}

    def reconstruct(self, pictures):
        vae = self.load("decoder")[1]
        return vae.decode(self.encode("decoder", pictures)["samples"]).movedim(-1, 1)

    def restyle(self, pictures, embeds, negative, strength, seed):
        latent = self.encode("decoder", pictures)
        arguments = (stages.Img2Img, "decoder", embeds, negative, latent, seed)
        return self.run(*arguments, denoise=strength)

    def repaint(self, pictures, masks, embeds, negative, seed):
        latent = self.encode("decoder-inpaint", pictures)
        arguments = (stages.Inpaint, "decoder-inpaint", embeds, negative, latent, seed)
        return self.run(*arguments, mask=masks.float())

    def estimate_depth(self, pictures):
        estimator = LoadDepthEstimator.execute("mini-depth-estimator").args[0]
        return DepthHint.execute(estimator, as_image(pictures)).args[0][..., :1].movedim(-1, 1)

    def follow(self, depth, embeds, negative, seed):
        canvas = {"samples": torch.zeros(len(embeds), 4, 16, 16)}
        hint = depth.movedim(1, -1)
        arguments = (stages.ControlNet, "controlnet-depth", embeds, negative, canvas, seed)
        return self.run(*arguments, hint=hint)
