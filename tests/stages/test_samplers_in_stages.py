"""Every sampler runs every decoding stage, and DDIM equals the pipeline of diffusers."""

import diffusers
import pytest
import torch
from helpers import oracle
from helpers.decoding_stages import (
    STAGES,
    each_stage,
    picture,
    reference,
    run,
    tensor_of,
)
from helpers.tiny_models import TEXT_TO_IMAGE
from kandinsky22 import nodes

pytestmark = pytest.mark.long


class ConsistentDDIM(diffusers.DDIMScheduler):
    """DDIM whose noise leads to the clipped x0; see test_reference_faults.py."""

    def step(self, *args, **kwargs):
        return super().step(*args, **kwargs, use_clipped_model_output=True)


def test_ddim_equals_the_pipeline(models, load_decoder, embeds):
    model, vae = load_decoder(TEXT_TO_IMAGE)
    latent = {"samples": vae.encode(picture())}
    ours = run(
        nodes.Img2Img,
        model,
        embeds(1, 1),
        embeds(1, 2),
        latent,
        denoise=0.5,
        sampler_name="ddim",
    )
    pipeline = oracle.pipeline("KandinskyV22Img2ImgPipeline", models / TEXT_TO_IMAGE)
    theirs = reference(
        "KandinskyV22Img2ImgPipeline",
        models / TEXT_TO_IMAGE,
        embeds(1, 1),
        embeds(1, 2),
        scheduler=ConsistentDDIM.from_config(pipeline.scheduler.config),
        image=tensor_of(picture()),
        strength=0.5,
        height=64,
        width=64,
        output_type="latent",
    )
    assert oracle.max_diff(ours, theirs) == 0.0


@each_stage
@pytest.mark.parametrize(
    "sampler",
    [
        "euler",
        "euler_ancestral",
        "heun",
        "dpm_2",
        "dpm_2_ancestral",
        "lms",
        "dpmpp_2m",
        "dpmpp_2m_sde",
        "uni_pc",
        "deis",
        "ddim",
    ],
)
def test_every_sampler_runs_every_stage(load_decoder, embeds, node, sampler):
    name, widgets = STAGES[node]
    latent = {"samples": torch.randn(1, 4, 8, 8)}
    samples = run(
        node,
        load_decoder(name)[0],
        embeds(1, 1),
        embeds(1, 2),
        latent,
        sampler_name=sampler,
        **widgets,
    )
    assert torch.isfinite(samples).all() and samples.std() > 0
