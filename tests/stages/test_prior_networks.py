"""The prior's transformer reads a prompt once, and gives what diffusers' transformer gives."""

import diffusers
import pytest
import torch
from helpers.tiny_models import randomize
from kandinsky22.utils.kandinsky.prior import TextFeatures
from kandinsky22.utils.kandinsky.prior_networks import OnePassPrior, PriorNetwork

TINY = dict(
    num_attention_heads=2,
    attention_head_dim=12,
    num_layers=2,
    embedding_dim=24,
    num_embeddings=77,
    additional_embeddings=4,
)
ODD = {
    "published": {},
    "norm before the blocks": {"norm_in_type": "layer"},
    "norm of the embedding": {"embedding_proj_norm_type": "layer"},
    "states as they are": {"encoder_hid_proj_type": None},
    "no token for the result": {"added_emb_type": None, "additional_embeddings": 3},
    "other widths": {"embedding_proj_dim": 20, "clip_embed_dim": 28},
}


@pytest.fixture
def rows() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return states (3, 77, 24), their mask, and embeddings (3, 24) that are noisy."""
    draw = torch.Generator().manual_seed(0)
    mask = torch.arange(77) < torch.tensor([[5], [77], [30]])
    return torch.randn(3, 77, 24, generator=draw), mask, torch.randn(3, 24, generator=draw)


@pytest.mark.parametrize("name", ODD)
def test_every_config_equals_diffusers(rows, name):
    states, mask, noisy = rows
    config = TINY | ODD[name]
    theirs = randomize(diffusers.PriorTransformer(**config), 4)
    ours = PriorNetwork.build(config).eval()
    ours.load_state_dict(theirs.state_dict())
    embeds = states[:, 0, : config.get("embedding_proj_dim", 24)]
    with torch.no_grad():
        prompts = ours.read(TextFeatures(embeds, states, mask))
        for t in (torch.tensor(999), torch.tensor(0)):
            wanted = theirs(noisy, t, embeds, states, mask).predicted_image_embedding
            found = ours(noisy, t, prompts)
            # diffusers projects that result in another shape, which rounds otherwise.
            limit = 1e-6 if name == "no token for the result" else 0.0
            assert (found - wanted.view(found.shape)).abs().max() <= limit < wanted.abs().max()


def test_positions_for_another_number_of_tokens_are_refused(rows):
    states, mask, noisy = rows
    network = OnePassPrior.build(TINY).eval()
    with pytest.raises(ValueError, match="additional_embeddings is 4, and this prior needs 3"):
        network(noisy, network.read(TextFeatures(states[:, 0], states, mask)))
