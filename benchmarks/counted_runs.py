"""The runs that `count` counts: our stages, KSampler and diffusers' pipelines in published size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_patcher
import comfy.ops
import comfy.sample
import diffusers
import torch
import transformers
from accelerate import init_empty_weights
from kandinsky22.nodes.conditioning import Conditioning
from kandinsky22.utils.comfyui import stages
from kandinsky22.utils.comfyui.conditioning import add_hint, add_picture, mask_latent
from kandinsky22.utils.comfyui.model import Kandinsky22
from kandinsky22.utils.comfyui.stage_plan import Sampling, plan_stage
from kandinsky22.utils.comfyui.unet import Kandinsky22UNet
from kandinsky22.utils.files import architectures
from kandinsky22.utils.files.decoder_configs import DecoderConfigs
from kandinsky22.utils.files.layers import swap_layers
from kandinsky22.utils.kandinsky.image_embeds import ImageEmbeds
from kandinsky22.utils.kandinsky.lean_steps import LeanUnCLIP
from kandinsky22.utils.kandinsky.noise import draw_noise, item_generators
from kandinsky22.utils.kandinsky.prior import TextFeatures
from kandinsky22.utils.kandinsky.prior_networks import PriorNetwork
from kandinsky22.utils.kandinsky.prior_runs import Denoising

from .checkpoints import BUNDLED, PROMPT
from .inpaint import box
from .simulated_gpu import GPU, put

Run = Callable[[int], Any]  # of a number of steps


def build(dtype: torch.dtype, variant: str) -> tuple[Any, Any]:
    """Return our MODEL and diffusers' UNet of the published decoder, on the GPU."""
    published = architectures.DECODERS[variant]
    with init_empty_weights():
        ours = Kandinsky22UNet.from_config(published.unet)
        theirs = diffusers.UNet2DConditionModel.from_config(published.unet)
    swap_layers(ours, comfy.ops.disable_weight_init)
    configs = DecoderConfigs(published.unet, published.scheduler)
    base = Kandinsky22(put(ours, dtype), configs, (dtype, dtype))
    model = comfy.model_patcher.ModelPatcher(base, load_device=GPU, offload_device=GPU, size=1)
    return model, put(theirs, dtype)


def decoding(
    variant: str,
    from_picture: bool,
    model: Any,
    pixels: int,
    sampler: tuple[str, str] = ("ddpm", "checkpoint"),
) -> Run:
    """Return a run of a decoding stage on random inputs, with guidance."""
    embeds = tuple(ImageEmbeds(tensor) for tensor in torch.randn(2, 1, 1280))
    latent = {"samples": torch.zeros(1, 4, pixels // 8, pixels // 8)}
    hint = torch.rand(1, pixels, pixels, 3) if variant == "depth" else None
    mask = box(pixels) if variant == "inpaint" else None

    def run(steps: int) -> Any:
        # A stage that begins with a picture runs half of the steps.
        share = 0.5 if from_picture else 1.0
        sampling = Sampling(0, int(steps / share), 4.0, *sampler, share)
        plan = plan_stage(model, variant, embeds, latent, sampling, from_picture, hint, mask)
        return stages.run(model, plan, item_generators(0, plan.noise_indices))

    return run


def ksampler(variant: str, model: Any, pixels: int) -> Run:
    conditions = [Conditioning.execute(ImageEmbeds(t)).args[0] for t in torch.randn(2, 1, 1280)]
    latent: dict[str, Any] = {"samples": torch.zeros(1, 4, pixels // 8, pixels // 8)}
    if variant == "inpaint":
        latent = mask_latent(latent, box(pixels))
        conditions = [add_picture(condition, latent) for condition in conditions]
    if variant == "depth":
        hint = torch.rand(1, pixels, pixels, 3)
        conditions = [add_hint(condition, hint) for condition in conditions]

    def run(steps: int) -> Any:
        noise = comfy.sample.prepare_noise(latent["samples"], 0)
        mask = latent.get("noise_mask")
        settings = dict(noise_mask=mask, disable_pbar=True, seed=0)
        samples = latent["samples"]
        return comfy.sample.sample(
            model, noise, steps, 4.0, "euler", "normal", *conditions, samples, **settings
        )

    return run


def pipeline(variant: str, from_picture: bool, unet: Any, pixels: int) -> Run:
    """Return a run of diffusers' own pipeline on the same inputs.

    Its MoVQ is a thin one, as no step runs it.
    """
    names = {"text_to_image": "", "inpaint": "Inpaint", "depth": "Controlnet"}
    name = f"KandinskyV22{names[variant]}{'Img2Img' * from_picture}Pipeline"
    with init_empty_weights():
        thin = architectures.MOVQ | dict(block_out_channels=(32, 32, 32, 32))
        movq = put(diffusers.VQModel.from_config(thin), unet.dtype)
    scheduler = diffusers.DDPMScheduler.from_config(architectures.DECODERS[variant].scheduler)
    made = getattr(diffusers, name)(unet=unet, scheduler=scheduler, movq=movq)
    made.set_progress_bar_config(disable=True)
    positive, negative = torch.randn(2, 1, 1280)
    inputs: dict[str, Any] = {"image_embeds": positive, "negative_image_embeds": negative}
    picture = torch.rand(1, 3, pixels, pixels) * 2 - 1
    if variant == "depth":
        inputs["hint"] = torch.rand(1, 3, pixels, pixels)
    if variant == "inpaint" or from_picture:
        inputs["image"] = picture
    if variant == "inpaint":
        inputs["mask_image"] = box(pixels)
    share = {"strength": 0.5} if from_picture else {}

    def run(steps: int) -> Any:
        count = steps * 2 if from_picture else steps
        generator = torch.Generator().manual_seed(0)
        sizes = dict(height=pixels, width=pixels, num_inference_steps=count)
        kind = "pt" if variant == "depth" or from_picture else "latent"
        return made(**inputs, **sizes, **share, generator=generator, output_type=kind)

    return run


def prior_runs(dtype: torch.dtype) -> dict[str, Run]:
    """Return runs of our prior's loop and of diffusers' pipeline."""
    configs = architectures.PRIOR
    tokenizer = transformers.CLIPTokenizer.from_pretrained(
        BUNDLED / "kandinsky-2-2-mini-prior" / "tokenizer", model_max_length=77
    )
    with init_empty_weights():
        ours = PriorNetwork.build(configs["prior"])
        theirs = diffusers.PriorTransformer.from_config(configs["prior"])
        text = transformers.CLIPTextModelWithProjection(
            transformers.CLIPTextConfig(**configs["text_encoder"], eos_token_id=2)
        )
        vision = transformers.CLIPVisionModelWithProjection(
            transformers.CLIPVisionConfig(**configs["image_encoder"])
        )
    swap_layers(ours, comfy.ops.disable_weight_init)
    ours = put(ours, dtype)
    made = diffusers.KandinskyV22PriorPipeline(
        prior=put(theirs, dtype),
        text_encoder=put(text, dtype),
        image_encoder=put(vision, dtype),
        tokenizer=tokenizer,
        scheduler=diffusers.UnCLIPScheduler.from_config(configs["scheduler"]),
        image_processor=transformers.CLIPImageProcessor(),
    )
    made.set_progress_bar_config(disable=True)
    features = TextFeatures(
        torch.randn(2, 1280), torch.randn(2, 77, 1280), torch.ones(2, 77, dtype=torch.bool)
    )

    def run(steps: int) -> Any:
        scheduler: Any = LeanUnCLIP.from_config(configs["scheduler"])
        scheduler.set_timesteps(steps)
        generators = item_generators(0, [0])
        noise, text = draw_noise((1, 1, 1280), generators).to(GPU), features.to(GPU, dtype)
        loop = Denoising(scheduler, scheduler.timesteps, 4.0)
        return loop(ours, noise, text, range(1), generators, lambda *_: None)

    def run_theirs(steps: int) -> Any:
        generator = torch.Generator().manual_seed(0)
        return made(PROMPT, num_inference_steps=steps, generator=generator)

    return {"Prior": run, "diffusers": run_theirs}
