"""One picture for tests of ComfyUI's patches: in a stage, in ComfyUI's sampler, and by hand."""

import comfy.samplers
import torch
from helpers import oracle
from helpers.decoding_stages import picture, run
from helpers.ksampler import canvas, conditioning, sigmas_of
from helpers.tiny_models import DEPTH, TEXT_TO_IMAGE
from kandinsky22 import nodes
from kandinsky22.nodes.conditioning import DepthConditioning
from kandinsky22.utils.kandinsky.noise import draw_noise, item_generators
from kandinsky22.utils.kandinsky.schedulers import build_scheduler

STEPS, CFG, BATCH = 5, 4.0, 2
PIPELINES = {
    TEXT_TO_IMAGE: "KandinskyV22Pipeline",
    DEPTH: "KandinskyV22ControlnetPipeline",
}


class Setting:
    """One latent, two embeddings and one noise, for our nodes, ComfyUI's sampler, and by hand."""

    def __init__(self, models, load_decoder, embeds, name, side=8):
        self.name, self.model = name, load_decoder(name)[0]
        self.unet = oracle.pipeline(PIPELINES[name], models / name).unet
        self.positive, self.negative = embeds(BATCH, 1), embeds(BATCH, 2)
        self.hint = picture(BATCH, 8 * side, 8 * side, seed=5)
        self.latent = canvas(BATCH, side, side)
        self.noise = draw_noise((BATCH, 4, side, side), item_generators(7, [*range(BATCH)]))
        self.scheduler = build_scheduler(self.model.model.scheduler_config, "euler", "leading")

    def stage(self, model):
        euler = dict(sampler_name="euler", scheduler="leading", steps=STEPS, cfg=CFG)
        if self.name == DEPTH:
            euler["hint"] = self.hint
        node = nodes.ControlNet if self.name == DEPTH else nodes.Decoder
        return run(node, model, self.positive, self.negative, self.latent, **euler)

    def ksampler(self, model):
        pair = conditioning(self.positive), conditioning(self.negative)
        if self.name == DEPTH:
            pair = DepthConditioning.execute(*pair, self.hint).args
        sigmas = sigmas_of(self.scheduler, STEPS)
        return comfy.samplers.sample(
            model,
            self.noise * self.scheduler.init_noise_sigma / sigmas[0],
            *pair,
            CFG,
            model.load_device,
            comfy.samplers.sampler_object("euler"),
            sigmas,
            latent_image=torch.zeros_like(self.noise),
            seed=7,
        )

    def by_hand(self, guidance):
        """Sample by hand. `guidance`: (predict, x, sigma) → noise; predict(x, which) → noise."""
        self.scheduler.set_timesteps(STEPS)
        latents = self.noise * self.scheduler.init_noise_sigma
        hint = self.hint.movedim(-1, 1).contiguous()
        for t, sigma in zip(self.scheduler.timesteps, self.scheduler.sigmas, strict=False):
            scaled = self.scheduler.scale_model_input(latents, t)

            def predict(which, x=scaled, t=t):
                added = {"image_embeds": which.tensor}
                if self.name == DEPTH:
                    added["hint"] = hint
                return self.unet(x, t, None, added_cond_kwargs=added).sample[:, :4]

            noise = guidance(predict, latents, sigma)
            latents = self.scheduler.step(noise, t, latents).prev_sample
        return latents

    def guide(self, predict, *_):
        without = predict(self.negative)
        return without + CFG * (predict(self.positive) - without)


def agree(ours, theirs):
    return oracle.max_diff(ours, theirs) <= 1e-4 * theirs.abs().max()
