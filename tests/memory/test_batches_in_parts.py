"""A batch that does not fit on the device is cut into parts that fit, and nothing else changes.

The card is simulated. It is the CPU's memory under another name, which ComfyUI's own code fills and
frees. Its free memory is its size without the weights of the models loaded there.
"""

from types import SimpleNamespace

import comfy.model_management as management
import pytest
import torch
from helpers.module_calls import interrupt_at_the_second_call, watched
from helpers.tiny_models import PRIOR
from kandinsky22.nodes.loaders import LoadDepthEstimator, LoadPrior
from kandinsky22.utils.comfyui import prior as priors
from kandinsky22.utils.comfyui import residents
from kandinsky22.utils.comfyui.depth_estimator import memory_needed
from kandinsky22.utils.comfyui.residents import Resident, transformer_memory

from tools import measure_memory

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("nothing_shared")]
CARD = torch.device("cpu", 0)  # ComfyUI makes no room on a device called just "cpu"
GIB = 2**30
FAMILIES = ["tiny-dpt", "tiny-depth-anything", "tiny-glpn"]


class Card:
    def __init__(self):
        self.size = 2**40

    def free(self, device=None, torch_free_too=False):
        loaded = [each.model for each in management.current_loaded_models if each.device == CARD]
        free = self.size - sum(model.loaded_size() for model in loaded if model is not None)
        return (free, 0) if torch_free_too else free

    def put(self, resident: Resident) -> Resident:
        management.unload_all_models()  # from the device called just "cpu"
        resident.patcher.load_device = CARD
        return resident


@pytest.fixture
def card(monkeypatch) -> Card:
    management.unload_all_models()
    card = Card()
    monkeypatch.setattr(management, "get_free_memory", card.free)
    # Its 0.8 GB are larger than the card.
    monkeypatch.setattr(management, "minimum_inference_memory", lambda: 0)
    yield card
    management.unload_all_models()


@pytest.fixture(params=FAMILIES)
def estimator(models, request):
    return LoadDepthEstimator.execute(request.param).args[0]


@pytest.fixture
def frames() -> torch.Tensor:
    """Eight pictures, as of a film."""
    return torch.rand(8, 52, 92, 3, generator=torch.Generator().manual_seed(0))


def weights_of(resident: Resident) -> int:
    return resident.patcher.model_size()


def need_of(estimator, frames) -> int:
    """Return the bytes for one frame that the estimator reports."""
    told = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            Resident, "load_for", lambda self, items, memory: told.append(memory) or (0, 1)
        )
        estimator.estimate(frames[:1])
    return told[0]


def test_other_models_make_room_for_all_frames(card, estimator, frames):
    wanted, need = estimator.estimate(frames), need_of(estimator, frames)
    card.put(estimator.model)
    other = card.put(Resident(torch.nn.Linear(1000, 1000), torch.float32))
    card.size = 8 * need + 2 * weights_of(estimator.model) + weights_of(other)
    other.load()
    card.size = card.size - weights_of(other) + 1000  # there is no room for both models
    assert card.free() < 8 * need
    with watched(estimator.model.module) as batches:
        found = estimator.estimate(frames)
    assert torch.equal(found, wanted)
    assert batches == [8]
    assert other.patcher.loaded_size() == 0


def test_frames_are_cut_to_what_is_free(card, estimator, frames):
    """On a CPU, parts of three and two give the bits of eight.

    A picture alone uses other kernels, and may differ by one level of 255.
    """
    wanted, need = estimator.estimate(frames), need_of(estimator, frames)
    card.put(estimator.model)
    for room, parts in ((8, [8]), (3.5, [3, 3, 2]), (1, [1] * 8), (0.1, [1] * 8)):
        card.size = weights_of(estimator.model) + int(room * need)
        with watched(estimator.model.module) as batches:
            found = estimator.estimate(frames)
        assert batches == parts
        assert (found - wanted).abs().max() <= (0 if max(parts) > 1 else 1.01 / 255)


@pytest.mark.parametrize("negative", ["", "a dog"])
@pytest.mark.parametrize("cfg", [1.0, 4.0])
def test_items_of_a_prior_are_cut_to_what_is_free(card, models, negative, cfg):
    prior = LoadPrior.execute(PRIOR, "default").args[0]
    sample = lambda: prior.sample("a cat", negative, 7, 3, cfg, batch_size=8)  # noqa: E731
    wanted, rows = sample(), (2 if negative else 1) * (2 if cfg > 1 else 1)
    resident = card.put(prior.transformer)
    for room, parts in ((8, [8]), (3.5, [3, 3, 2]), (0.1, [1] * 8)):
        need = transformer_memory(torch.float32, rows, 81, 24)
        card.size = weights_of(resident) + int(room * need)
        with watched(resident.module) as batches:
            found = sample()
        assert batches == [rows * part for part in parts for _ in range(3)]
        for mine, theirs in zip(found, wanted, strict=True):
            assert (mine.tensor - theirs.tensor).abs().max() <= 2e-6


def test_a_large_batch_is_cut_whatever_is_free(prior, monkeypatch):
    """Each item has the noise that it would have alone. Emb2emb begins with its own embeddings."""
    count = 2 * priors.AT_ONCE + 1
    told = []
    load = management.load_models_gpu

    def note(models, memory_required=0, **options):
        told.append(memory_required)
        return load(models, memory_required=memory_required, **options)

    monkeypatch.setattr(management, "load_models_gpu", note)
    with watched(prior.transformer.module) as batches:
        found, _ = prior.sample("a cat", "a dog", 7, 3, 4.0, batch_size=count)
    assert batches == [4 * 64] * 6 + [4] * 3
    assert max(told) == transformer_memory(torch.float32, 64 * 4, 81, 24)
    for item in (0, 63, 64, 128):
        alone, _ = prior.sample("a cat", "a dog", 7 + item, 3, 4.0)
        assert (found.tensor[item] - alone.tensor[0]).abs().max() <= 2e-6
    noised, _ = prior.sample("a cat", "a dog", 7, 4, 4.0, start=found, strength=0.5)
    part = type(found)(found.tensor[64:65])
    alone, _ = prior.sample("a cat", "a dog", 7 + 64, 4, 4.0, start=part, strength=0.5)
    assert (noised.tensor[64] - alone.tensor[0]).abs().max() <= 2e-6


def test_progress_and_interrupt_of_a_batch_in_parts(prior, monkeypatch):
    shown = []
    monkeypatch.setattr(priors, "AT_ONCE", 2)
    monkeypatch.setattr(
        priors, "step_reporter", lambda steps: lambda i, n: shown.append((steps, i + 1, n))
    )
    prior.sample("a cat", "a dog", 7, 3, 4.0, batch_size=5)
    assert shown == [(9, step, 9) for step in range(1, 10)]
    monkeypatch.undo()
    monkeypatch.setattr(priors, "AT_ONCE", 2)
    interrupt_at_the_second_call(
        prior.transformer.module,
        lambda: prior.sample("a cat", "a dog", 7, 2, 4.0, batch_size=4),
    )


@pytest.mark.parametrize("name", measure_memory.DEPTH)
def test_the_estimate_for_depth_is_what_was_measured(name, monkeypatch):
    """The estimate equals the peak of a traced forward at published size, without weights.

    There are eight frames of 518×924 in a card of 6 GB, where scores of attention are written to
    memory.
    """
    config, pixels = measure_memory.DEPTH[name]
    for kernel in ("fused", "math"):
        monkeypatch.setattr(
            management, "pytorch_attention_flash_attention", lambda fused=kernel == "fused": fused
        )
        peak, weights = measure_memory.measure_depth(name, 1, torch.float32, kernel)
        need = memory_needed(config, torch.empty(8, 3, *pixels, device="meta"), torch.float32)
        assert 1.0 <= need / peak <= (1.15 if kernel == "fused" else 1.45)
        at_once = min(8, int((6 * GIB - weights) // need))
        assert at_once >= 3 and weights + at_once * peak <= 6 * GIB
        half, weights = peak // 2, weights // 2
        assert weights + 8 * half <= 12 * GIB


@pytest.mark.parametrize("name", ["dpt-large", "depth-anything-large", "glpn"])
def test_eight_frames_on_a_full_card_of_12_gb(name, monkeypatch):
    """The work on the card is traced at published size, for 518×924.

    It fits beside the weights once ComfyUI has freed what it was asked for.
    """
    config, pixels = measure_memory.DEPTH[name]
    frames = torch.empty(8, 3, *pixels, device="meta")
    _, weights = measure_memory.measure_depth(name, 1, torch.float32, "fused")
    monkeypatch.setattr(management, "pytorch_attention_flash_attention", lambda: True)
    free, patcher = [0], object()  # other models have all of it

    def make_room(models, memory_required=0, **_):
        free[0] = max(free[0], min(memory_required + weights, 12 * GIB))

    monkeypatch.setattr(management, "load_models_gpu", make_room)
    monkeypatch.setattr(residents, "free_memory", lambda _: free[0] - weights)
    resident = object.__new__(Resident)
    vars(resident).update(patcher=SimpleNamespace(model=SimpleNamespace(module=patcher)))
    _, at_once = resident.load_for(8, memory_needed(config, frames, torch.float32))
    peak, _ = measure_memory.measure_depth(name, at_once, torch.float32, "fused")
    assert 1 <= at_once <= 8 and weights + peak <= free[0] <= 12 * GIB
