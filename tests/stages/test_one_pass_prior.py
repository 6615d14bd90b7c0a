"""Priors of one pass (ECLIPSE) give the result of their network, and refuse what needs steps."""

import re

import comfy.model_management
import pytest
import torch
from diffusers import PriorTransformer
from diffusers.models.attention import BasicTransformerBlock
from helpers import oracle
from helpers.tiny_models import WIDTH, randomize
from kandinsky22.nodes.file_loaders import LoadPriorTransformer
from kandinsky22.nodes.prior import PriorEmb2Emb, SamplePrior
from kandinsky22.utils.comfyui import prior as priors
from kandinsky22.utils.comfyui.lora import apply_to_prior
from kandinsky22.utils.files.weights import build_empty
from kandinsky22.utils.kandinsky.noise import draw_noise, item_generators
from kandinsky22.utils.kandinsky.prior_networks import OnePassPrior
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.long

NAME = "an-eclipse-prior"
PUBLISHED = dict(
    num_attention_heads=16,
    attention_head_dim=32,
    num_layers=10,
    embedding_dim=1280,
    num_embeddings=77,
    additional_embeddings=3,
)
TINY = PUBLISHED | dict(
    num_attention_heads=2, attention_head_dim=12, num_layers=2, embedding_dim=WIDTH
)


class Described(torch.nn.Module):
    """The network as the paper describes it, a causal transformer.

    Its tokens are the states of the text, the text's embedding, noise, and a learned token, which
    becomes the image embedding.
    """

    def __init__(self, heads: int, head_width: int, layers: int, width: int):
        super().__init__()
        inner = heads * head_width
        self.heads = heads
        self.encoder_hidden_states_proj = torch.nn.Linear(width, inner)
        self.embedding_proj = torch.nn.Linear(width, inner)
        self.proj_in = torch.nn.Linear(width, inner)
        self.prd_embedding = torch.nn.Parameter(torch.zeros(1, 1, inner))
        self.positional_embedding = torch.nn.Parameter(torch.zeros(1, 80, inner))
        self.transformer_blocks = torch.nn.ModuleList(
            BasicTransformerBlock(
                inner, heads, head_width, activation_fn="gelu", attention_bias=True
            )
            for _ in range(layers)
        )
        self.norm_out = torch.nn.LayerNorm(inner)
        self.proj_to_clip_embeddings = torch.nn.Linear(inner, width)
        self.clip_mean = torch.nn.Parameter(torch.zeros(1, width))
        self.clip_std = torch.nn.Parameter(torch.zeros(1, width))

    def forward(self, noise, embeds, states, mask):
        rows = [
            self.encoder_hidden_states_proj(states),
            self.embedding_proj(embeds).unsqueeze(1),
            self.proj_in(noise).unsqueeze(1),
            self.prd_embedding.repeat(len(noise), 1, 1),
        ]
        x = torch.cat(rows, 1) + self.positional_embedding
        seen = torch.cat([mask, torch.ones(len(mask), 3, dtype=torch.bool)], 1)
        hidden = torch.zeros(len(noise), 80, 80)
        hidden += torch.full((80, 80), -10000.0).triu(1)
        hidden += (~seen)[:, None] * -10000.0
        hidden = hidden.repeat_interleave(self.heads, 0)
        for block in self.transformer_blocks:
            x = block(x, attention_mask=hidden)
        return self.proj_to_clip_embeddings(self.norm_out(x)[:, -1])


@pytest.fixture(scope="module")
def described(models):
    """Random weights in a folder as ECLIPSE's training saves it, and the described network."""
    network = Described(2, 12, 2, WIDTH)
    randomize(network, 11)
    PriorTransformer(**TINY).save_config(models / NAME)
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    path = models / NAME / "diffusion_pytorch_model.safetensors"
    save_file(weights, path)
    # The memory layout decides which kernels run, and these decide the last bit.
    network.load_state_dict(load_file(path), assign=True)
    return network


@pytest.fixture(scope="module")
def eclipse(described, prior):
    return LoadPriorTransformer.execute(NAME, "default", prior=prior).args[0]


@pytest.mark.parametrize("negative", ["", "a dog"])
@pytest.mark.parametrize("batch", [1, 3])
def test_equals_the_described_network(described, eclipse, prior, negative, batch):
    ours, without = SamplePrior.execute(eclipse, "a red cat", negative, 7, 25, 4.0, batch).args
    rows = 2 if negative else 1
    noise = draw_noise((batch, rows, WIDTH), item_generators(7, list(range(batch))))
    text = prior.encode_prompts("a red cat", negative, batch, guided=False)
    theirs = described(noise.flatten(0, 1), text.embeds, text.states, text.mask)
    theirs = theirs.view(batch, rows, WIDTH)
    assert oracle.max_diff(ours.tensor, theirs[:, 0]) == 0.0
    if negative:
        assert oracle.max_diff(without.tensor, theirs[:, 1]) == 0.0
    else:
        assert torch.equal(without.tensor, prior.zero_embeds().tensor)


def test_comfyui_is_told_what_it_needs_and_a_large_batch_is_cut(eclipse, monkeypatch):
    told, load = {}, comfy.model_management.load_models_gpu

    def note(models, memory_required=0, **options):
        told[models[0]] = memory_required
        return load(models, memory_required=memory_required, **options)

    whole = SamplePrior.execute(eclipse, "a red cat", "a dog", 7, 25, 4.0, 5).args
    monkeypatch.setattr(comfy.model_management, "load_models_gpu", note)
    monkeypatch.setattr(priors, "AT_ONCE", 2)
    parts = SamplePrior.execute(eclipse, "a red cat", "a dog", 7, 25, 4.0, 5).args
    assert told[eclipse.transformer.patcher] == 2 * 2 * 80 * 24 * 18 * 4
    for one, other in zip(whole, parts, strict=True):
        assert oracle.max_diff(one.tensor, other.tensor) <= 2e-6


def test_steps_and_cfg_mean_nothing(eclipse):
    first = SamplePrior.execute(eclipse, "a red cat", "", 7, 25, 4.0, 1).args[0]
    second = SamplePrior.execute(eclipse, "a red cat", "", 7, 2, 1.0, 1).args[0]
    assert torch.equal(first.tensor, second.tensor)


def test_what_needs_steps_is_refused(eclipse, embeds, tmp_path):
    with pytest.raises(ValueError, match="one pass, and Prior Emb2Emb needs one of many steps"):
        PriorEmb2Emb.execute(eclipse, embeds(1, 1), "a red cat", "", 0.3, 7, 25, 4.0)
    with pytest.raises(ValueError, match="one pass, and Load Prior LoRA needs one of many"):
        apply_to_prior(eclipse, tmp_path / "any.safetensors", 1.0)


def test_a_single_file_does_not_say_its_heads(described, models, prior, tmp_path, monkeypatch):
    import folder_paths

    place = tmp_path / "eclipse.safetensors"
    place.write_bytes((models / NAME / "diffusion_pytorch_model.safetensors").read_bytes())
    known = folder_paths.folder_names_and_paths
    monkeypatch.setitem(known, "diffusion_models", ([str(tmp_path)], {".safetensors"}))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    with pytest.raises(ValueError, match=re.escape(f"{place} is a prior of one pass")):
        LoadPriorTransformer.execute("eclipse.safetensors", "default", prior=prior)


def test_the_published_size():
    empty = build_empty(OnePassPrior.build, PUBLISHED, "the paper")
    assert sum(parameter.numel() for parameter in empty.parameters()) == 34_193_152
    with torch.device("meta"):
        described = Described(16, 32, 10, 1280)
    names = {name: tensor.shape for name, tensor in described.state_dict().items()}
    assert {name: tensor.shape for name, tensor in empty.state_dict().items()} == names
