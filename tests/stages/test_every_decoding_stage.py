"""Every decoding stage accepts any size, treats a batch item by item and keeps its input."""

import pytest
import torch
from helpers import oracle
from helpers.decoding_stages import (
    STAGES,
    each_stage,
    run,
)
from kandinsky22.utils.kandinsky.image_embeds import ImageEmbeds


@pytest.fixture
def same_kernels():
    """oneDNN chooses kernels by batch size, and these round differently.

    With torch 2.14, the inpainted latents, which go up to 66 here, differ by 1.2e-4 for that reason
    alone.
    """
    with torch.backends.mkldnn.flags(enabled=False):
        yield


@each_stage
def test_batch_item_alone(load_decoder, embeds, node, same_kernels):
    name, widgets = STAGES[node]
    model, _ = load_decoder(name)
    samples = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    positive, negative = embeds(3, 1), embeds(1, 2)
    hints_and_masks = {
        key: torch.cat([value, value.flip(1), value.flip(2)])
        for key, value in widgets.items()
        if key != "denoise"
    }
    batch = widgets | hints_and_masks
    together = run(node, model, positive, negative, {"samples": samples}, seed=100, **batch)
    for i in range(3):
        item = widgets | {key: value[i : i + 1] for key, value in hints_and_masks.items()}
        one = ImageEmbeds(positive.tensor[i : i + 1])
        latent = {"samples": samples[i : i + 1]}
        alone = run(node, model, one, negative, latent, seed=100 + i, **item)
        assert oracle.max_diff(together[i : i + 1], alone) < 1e-4


@each_stage
@pytest.mark.parametrize("size", [(9, 9), (7, 12)])
def test_sizes_off_the_grid(load_decoder, embeds, node, size):
    name, widgets = STAGES[node]
    samples = run(
        node,
        load_decoder(name)[0],
        embeds(1, 1),
        embeds(1, 2),
        {"samples": torch.randn(1, 4, *size)},
        **widgets,
    )
    assert samples.shape == (1, 4, *size)
    assert torch.isfinite(samples).all()


@each_stage
def test_inputs_are_left_as_they_were(load_decoder, embeds, node):
    name, widgets = STAGES[node]
    latent = {"samples": torch.randn(1, 4, 8, 8)}
    tensors = [latent["samples"], *(v for v in widgets.values() if torch.is_tensor(v))]
    before = [tensor.clone() for tensor in tensors]
    run(node, load_decoder(name)[0], embeds(1, 1), embeds(1, 2), latent, **widgets)
    assert all(torch.equal(a, b) for a, b in zip(before, tensors, strict=True))
