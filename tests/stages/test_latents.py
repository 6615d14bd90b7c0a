"""The decoding stages follow the noise_mask and the batch_index of a LATENT."""

import pytest
import torch
from helpers.decoding_stages import (
    STAGES,
    run,
)
from helpers.tiny_models import TEXT_TO_IMAGE
from kandinsky22 import nodes


@pytest.mark.parametrize("node", [nodes.Decoder, nodes.Img2Img], ids=lambda node: node.__name__)
def test_noise_mask_keeps_the_rest(load_decoder, embeds, node):
    name, widgets = STAGES[node]
    samples = torch.randn(1, 4, 8, 8)
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 32:] = 1
    latent = {"samples": samples, "noise_mask": mask}
    result = run(node, load_decoder(name)[0], embeds(1, 1), embeds(1, 2), latent, **widgets)
    assert torch.equal(result[..., :4], samples[..., :4])
    assert (result[..., 4:] - samples[..., 4:]).abs().min() > 0


def test_a_noise_mask_is_repeated_or_cut_to_the_batch(load_decoder, embeds):
    model, _ = load_decoder(TEXT_TO_IMAGE)
    masks = torch.stack([torch.zeros(64, 64), torch.ones(64, 64)])
    latent = {"samples": torch.randn(3, 4, 8, 8), "noise_mask": masks}
    result = run(nodes.Img2Img, model, embeds(1, 1), embeds(1, 2), latent, denoise=0.5)
    kept = [torch.equal(result[i], latent["samples"][i]) for i in range(3)]
    assert kept == [True, False, True]


def test_the_output_says_which_noise_it_had(load_decoder, embeds):
    model, _ = load_decoder(TEXT_TO_IMAGE)
    settings = dict(seed=7, steps=4, cfg=1.0, sampler_name="ddpm", scheduler="checkpoint")

    def indices(latent, batch):
        result = nodes.Decoder.execute(model, embeds(batch), latent, **settings).args[0]
        return result.get("batch_index")

    canvas = torch.zeros(1, 4, 8, 8)
    assert indices({"samples": canvas}, 1) is None
    assert indices({"samples": canvas}, 3) == [0, 0, 0]
    assert indices({"samples": canvas, "batch_index": [4]}, 3) == [4, 4, 4]
    assert indices({"samples": canvas.repeat(2, 1, 1, 1), "batch_index": [4, 9]}, 2) == [4, 9]
    with pytest.raises(ValueError, match="2 items and a batch_index of 1"):
        indices({"samples": canvas.repeat(2, 1, 1, 1), "batch_index": [4]}, 2)
